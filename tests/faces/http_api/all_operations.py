"""Calls every operation of the OpenAPI document with schemathesis, against a real daemon with a crew.

    python tests/faces/http_api/all_operations.py [-n EXAMPLES] [--seed N] [--only REGEX]

Each answer has to be one that the document describes: its status, its type, its headers, its shape. `make long openapi` is the long run;
a test has a short one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

sys.path += [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[2] / "support"),
]  # `python -P` leaves out where `daemon_process` is
from daemon_process import AGENTS, BIN, DaemonProcess

CREW = f"""
[daemon]
http = "127.0.0.1:0"




[agents.greeter]
entrypoint = "talking_agent:agent"
process.working_directory = "{AGENTS}"
instances = 2

[agents.sleeper]
command = ["sleep", "inf"]
protocol = "none"

[mcp.servers.odd]
command = ["{sys.executable}", "-I", "{AGENTS / "mcp_odd.py"}"]

[teams.readers]
mode = "broadcast"
members = ["greeter"]
"""

EXCLUDED: Mapping[str, str] = {
    "stop_daemon": "the daemon would end, and with it the run",
    "emergency_stop": "every agent would be down, and most answers the same refusal",
    "reload": "it would restore the crew over and over, and restart what the run has changed",
    "refresh_runtime": "it is a reload",
    "upgrade": "it closes the connection over which it came",
    "set_log_level": "a log at level debug makes the run three times as long",
}
"""Operations that are not called, each with the reason."""

SETTINGS = """
[warnings]
enabled = false

[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", "502", "503", "504"]
"""
"""502, 503 and 504 are answers about an agent, a server or a wait; 500 is a defect of ours."""

UNCHECKED = "positive_data_acceptance,negative_data_rejection,use_after_free,ensure_resource_availability,unsupported_method,allow_header_conformance"
"""Checks that guess at the meaning: a name is a text for the document, and unknown for the daemon. `Allow` of
/agents/batch has GET, since an agent may have that name."""

REQUEST_S = 20


def run(examples: int, seed: int, only: str | None = None, phases: str = "examples,coverage,fuzzing") -> int:
    """The exit status of schemathesis."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "schemathesis.toml").write_text(SETTINGS)
        with DaemonProcess(folder, CREW) as daemon:
            address = f"http://{daemon.call('daemon.status')['daemon']['http']}"
            token = (daemon.state_dir / "http.token").read_text().strip()
            command = [
                *(str(BIN / "st"), "--config-file", str(folder / "schemathesis.toml"), "run"),
                *(f"{address}/openapi.json", "--header", f"Authorization: Bearer {token}"),
                *("--max-examples", str(examples), "--seed", str(seed), "--phases", phases),
                *("--exclude-checks", UNCHECKED, "--request-timeout", str(REQUEST_S)),
                *("--suppress-health-check", "all", "--continue-on-failure"),
            ]
            for operation in EXCLUDED:
                command += ["--exclude-operation-id", operation]
            if only is not None:
                command += ["--include-operation-id-regex", only]
            environ = {**os.environ, "NO_COLOR": "1", "HOME": name}
            return subprocess.run(command, cwd=folder, env=environ, check=False).returncode


def main() -> int:
    """The long run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=100, help="examples of each operation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="a regular expression of operation ids")
    parser.add_argument("--phases", default="examples,coverage,fuzzing")
    given = parser.parse_args()
    return run(given.n, given.seed, given.only, given.phases)


if __name__ == "__main__":
    sys.exit(main())
