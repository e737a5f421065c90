"""Has openapi-python-client generate a client from our document, and uses that client against a real daemon.

    python tests/faces/http_api/generated_client.py FOLDER

FOLDER is an environment that has openapi-python-client: it needs an older typer than the tests. `make long openapi-client` makes it.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

sys.path += [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[2] / "support"),
]  # `python -P` leaves out where `daemon_process` is
from corral.supervisor.faces.http_api.openapi import openapi
from corral.worker.methods.table import METHODS
from daemon_process import AGENTS, DaemonProcess

PROGRAM = """
import os
import sys

from corral_client import AuthenticatedClient
from corral_client.api.agent import add_agent, remove_agent
from corral_client.api.daemon import status
from corral_client.api.task import execute_task, list_tasks
from corral_client.models import AddParams, AddParamsSpec, TaskParamsWithoutAgent

client = AuthenticatedClient(base_url=sys.argv[1], token=os.environ["CORRAL_TOKEN"])
spec = AddParamsSpec.from_dict(
    {"entrypoint": "scaled_agent:agent", "process": {"working_directory": sys.argv[2]}}
)
added = add_agent.sync_detailed(client=client, body=AddParams(name="generated", spec=spec))
assert added.status_code == 201, added
taken = add_agent.sync(client=client, body=AddParams(name="generated", spec=spec))
assert taken.error.name == "Conflict", taken
found = status.sync(client=client, names=["generated"])
assert [agent.name for agent in found.agents] == ["generated"], found
work = TaskParamsWithoutAgent(objective="once")
task = execute_task.sync("generated", client=client, body=work)
assert (task.state, task.output) == ("succeeded", "once"), task
tasks = list_tasks.sync(client=client, agent="generated")
assert [each.id for each in tasks.tasks] == [task.id], tasks
assert remove_agent.sync_detailed("generated", client=client).status_code == 200
print("ok")
"""


def main(environment: Path) -> int:
    """The exit status of the program that uses the client."""
    program = environment / "bin" / "openapi-python-client"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "openapi.json").write_bytes(msgspec.json.encode(openapi(METHODS)))
        (folder / "program.py").write_text(PROGRAM)
        generated = ("generate", "--path", "openapi.json", "--meta", "none")
        done = subprocess.run(
            [str(program), *generated, "--output-path", "corral_client"],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        assert "parsing" not in done.stdout.lower(), done.stdout
        with DaemonProcess(folder, 'daemon.http = "127.0.0.1:0"') as daemon:
            address = f"http://{daemon.call('daemon.status')['daemon']['http']}"
            token = (daemon.state_dir / "http.token").read_text().strip()
            return subprocess.run(
                [str(environment / "bin" / "python"), "program.py", address, str(AGENTS)],
                cwd=folder,
                env={**os.environ, "CORRAL_TOKEN": token},
                check=False,
            ).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
