"""The gateway as a process, with the daemon's end of its pair held by the test."""

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral.supervisor.machine.launcher import protocol
from corral.supervisor.models.gateway.call_journal import Account, contents
from corral.supervisor.models.gateway.shapes import Endpoint
from corral.supervisor.models.gateway.usage import Usage
from model_provider import KEY, Provider

PROGRAM = "corral.supervisor.models.gateway.program"
WAIT_S = 30.0


@pytest.fixture
def provider() -> Iterator[Provider]:
    process = Provider()
    yield process
    process.close()


class Gateway:
    """The process, and the daemon's end."""

    def __init__(self, journal: Path, endpoint: Endpoint) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen([sys.executable, "-P", "-m", PROGRAM], stdin=theirs.fileno())
        theirs.close()
        assert self.receive()["op"] == "ready"
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.send([os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)], op="journal", name="1.1")
        self.send([], op="models", models=[msgspec.to_builtins(endpoint)])
        self.send([listener.detach()], op="listen", unit="")

    def send(self, fds: list[int], **message: object) -> None:
        data, memfd = protocol.encode(message)
        assert memfd is None
        socket.send_fds(self.sock, [data], fds)
        for fd in fds:
            os.close(fd)

    def receive(self) -> Any:  # JSON
        assert select.select([self.sock], [], [], WAIT_S)[0]
        return protocol.receive(self.sock)[0]

    def post(self, model: str) -> threading.Thread:
        """Begins a call whose answer nobody reads."""
        body = msgspec.json.encode({"model": model})
        headers = {"Authorization": "Bearer worker", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/main/v1/chat/completions", body, headers)

        def run() -> None:
            with contextlib.suppress(OSError):  # the gateway ends
                urllib.request.urlopen(request, timeout=WAIT_S).close()

        thread = threading.Thread(target=run)
        thread.start()
        return thread


def test_calls_under_way_when_the_daemon_dies_have_no_end_in_the_journal(tmp_path: Path, provider: Provider) -> None:
    journal = tmp_path / "1.1"
    endpoint = Endpoint(name="main", kind="openai", base=f"{provider.url}/v1", key=KEY, retries=0)
    gateway = Gateway(journal, endpoint)
    try:
        calling = gateway.post("hang")
        asked = gateway.receive()
        assert asked["op"] == "ask", asked
        account = msgspec.to_builtins(Account(agent="a"))
        gateway.send([], op="go", call=asked["call"], unit="a-0", models=["main"], account=account)
        while provider.get("/counts").get("requests", 0) < 1:
            assert calling.is_alive(), "the call was refused"
        gateway.sock.close()
        assert gateway.process.wait(WAIT_S) == 0
        calling.join(WAIT_S)
    finally:
        gateway.process.kill()
        gateway.process.wait()
    (noted,) = contents(journal.read_bytes()).calls
    assert noted.end == 0
    assert noted.last.is_estimated
    assert noted.last.usage == Usage(input=len('{"model":"hang"}') // 4)
