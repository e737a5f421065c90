"""`corral.AgentService`: an agent as an HTTP service from a Python program, which leaves nothing behind."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from corral import AgentService, Conflict, InvalidParams, NotInitialized
from daemon_process import BOUND_S, children

EXAMPLE = Path(__file__).parents[2] / "examples" / "service"

SHOUT = f"{EXAMPLE / 'shout.py'}:agent"


def shouted(url: str, token: str) -> object:
    """The output of a run."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = Request(f"{url}/run", json.dumps({"input": "hello"}).encode(), headers)
    with urlopen(request, timeout=BOUND_S) as answer:
        return json.load(answer)["output"]


def test_a_with_serves_the_agent_and_leaves_no_process() -> None:
    before = children(os.getpid())
    service = AgentService(SHOUT)
    with service:
        assert shouted(service.url, service.token) == "HELLO"
        url = service.url
    assert children(os.getpid()) == before
    with pytest.raises(OSError, match="refused"):
        urlopen(f"{url}/health", timeout=BOUND_S)
    with pytest.raises(NotInitialized):
        assert service.url


def test_an_async_with_serves_on_the_loop_of_the_program() -> None:
    async def serve() -> object:
        async with AgentService(SHOUT, auth="none") as service:
            assert service.token == ""
            return await asyncio.to_thread(shouted, service.url, "")

    assert asyncio.run(serve()) == "HELLO"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_start_serves_until_a_signal_and_exits_with_0(number: signal.Signals) -> None:
    program = subprocess.Popen([sys.executable, str(EXAMPLE / "service.py"), "0"], stderr=subprocess.PIPE, text=True)
    assert program.stderr is not None
    try:
        line = program.stderr.readline()
        assert line.startswith('serving "shout" at http://127.0.0.1:'), line
        with urlopen(line.split()[-1] + "/health", timeout=BOUND_S) as answer:
            assert answer.status == 200
        (daemon,) = children(program.pid)
        program.send_signal(number)
        assert program.wait(BOUND_S) == 0
        assert program.stderr.read() == ""
        assert not Path(f"/proc/{daemon}").exists()
    finally:
        program.kill()
        program.wait()
        program.stderr.close()


def test_a_taken_port_and_a_wrong_agent_are_typed_errors() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        with pytest.raises(Conflict), AgentService(SHOUT, port=port):
            pass
    with pytest.raises(InvalidParams):
        AgentService("nowhere.py:agent")

    async def start_inside() -> None:
        AgentService(SHOUT).start()

    with pytest.raises(Conflict):
        asyncio.run(start_inside())
