"""`agent.run_command`: a command in a worker over HTTP and in Python, to its end, bounded in time and output."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral import Runtime
from corral.worker.contract.errors import NotFound, SpawnFailed
from daemon_process import DaemonProcess
from http_api_client import Api, serving
from system.test_exec import await_dead

CONFIG = """
[daemon]
http = "127.0.0.1:{port}"
[agents.plain]
command = ["sleep", "1000000"]
protocol = "none"
environment = { COLOUR = "green" }
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("command"), CONFIG) as found:
        found.daemon.call("agent.start", names=["plain"])
        yield found


def run(api: Api, *argv: str, **params: object) -> Any:  # JSON
    answer = api.ask("POST", "/agents/plain/exec", {"argv": list(argv), **params})
    assert answer.status == 200, answer.text
    return answer.json


def test_a_command_over_http_is_answered_with_its_end_and_its_output(api: Api) -> None:
    script = "cat; echo $COLOUR $A >&2; pwd; exit 7"
    more: dict[str, Any] = {"environment": {"A": "b"}, "working_directory": "/"}
    found = run(api, "sh", "-c", script, stdin="ä\n", **more)
    assert (found["code"], found["signal"], found["reason"]) == (7, None, "")
    assert (found["stdout"], found["stderr"]) == ("ä\n/\n", "green b\n")
    assert (found["stdout_bytes"], found["stderr_bytes"]) == (5, 8)
    assert found["worker"] == "plain-0"
    assert run(api, "sh", "-c", "kill -9 $$")["signal"] == "SIGKILL"


def test_its_output_is_bounded_and_the_rest_is_counted(api: Api) -> None:
    script = "head -c 3000000 /dev/zero | tr '\\0' x; printf 'ää' >&2"
    found = run(api, "sh", "-c", script, max_output_bytes=3)
    assert (found["stdout"], found["stdout_bytes"]) == ("xxx", 3_000_000)
    assert (found["stderr"], found["stderr_bytes"]) == ("ä", 4)
    assert run(api, "printf", "a\\377")["stdout"] == "a\ufffd"


def test_one_that_does_not_end_is_killed_and_so_is_what_it_started(api: Api) -> None:
    script = "setsid sleep 1000000 >&- 2>&- & echo $!; wait"
    found = run(api, "sh", "-c", script, timeout_s=0.5)
    assert (found["code"], found["signal"]) == (None, "SIGKILL")
    assert "0.5 s" in found["reason"]
    await_dead(int(found["stdout"]))


def test_input_that_is_not_read_is_no_error(api: Api) -> None:
    assert run(api, "true", stdin="x" * 1_000_000)["code"] == 0


def test_one_whose_client_hangs_up_ends(api: Api, tmp_path: Path) -> None:
    fifo = tmp_path / "up"
    os.mkfifo(fifo)
    connection = api.connection()
    body = '{"argv": ["sh", "-c", "echo $$ > \'' + str(fifo) + "'; exec sleep 1000000\"]}"
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}
    connection.request("POST", "/api/v1/agents/plain/exec", body, headers)
    pid = int(fifo.read_text())
    connection.close()
    await_dead(pid)


def test_what_cannot_run_is_refused_by_name(api: Api) -> None:
    assert api.ask("POST", "/agents/nobody/exec", {"argv": ["true"]}).status == 404
    assert api.ask("POST", "/agents/plain/exec", {"argv": []}).status == 422
    assert api.ask("POST", "/agents/plain/exec", {"argv": ["x"], "timeout_s": 0}).status == 422
    assert api.ask("POST", "/agents/plain/exec", {"argv": ["no-such"]}).status == 502


def test_it_needs_the_right_admin_and_is_recorded(api: Api) -> None:
    operating = api.daemon.call("token.add", name="op", rights="operate")["token"]
    bearer = f"Bearer {operating}"
    answer = api.ask("POST", "/agents/plain/exec", {"argv": ["true"]}, Authorization=bearer)
    assert answer.status == 403
    unit = run(api, "sh", "-c", "exit 3")["exec"]
    records = api.daemon.call("audit.list", n=20)["records"]
    about = [record for record in records if unit in str(record)]
    assert [record["action"] for record in about] == ["agent.exec.end", "agent.run_command"]


def test_python_has_it_too(api: Api) -> None:
    with Runtime.connect(api.daemon.socket) as runtime:
        found = runtime.run_command("plain", ["sort"], stdin="b\na\n")
        assert (found.code, found.stdout) == (0, "a\nb\n")
        with pytest.raises(NotFound):
            runtime.run_command("nobody", ["true"])
        with pytest.raises(SpawnFailed):
            runtime.run_command("plain", ["no-such"])


def test_the_socket_has_it_too(api: Api) -> None:
    daemon: DaemonProcess = api.daemon
    done = daemon.corral("call", "agent.run_command", "name=plain", 'argv=["echo", "up"]')
    assert "up" in done.stdout, done
