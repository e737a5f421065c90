"""An editor's side of `corral mcp serve`: the process, and lines to and from it."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BOUND_S = 60.0
"""How long anything is waited for before it is a failure."""

CORRAL = str(Path(sys.executable).parent / "corral")

MIB = 1024 * 1024

META = "io.modelcontextprotocol/"

LISTS_CHANGED = {
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
}

Message = Any  # of JSON-RPC, read freely

MODERN: Message = {META + "protocolVersion": "2026-07-28", META + "clientCapabilities": {}}


class Editor:
    """The client's side: lines to and from the process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._received = bytearray()
        self.heard: list[Message] = []
        """Notifications and requests that came while an answer was waited for."""

    def send(self, message: Mapping[str, object]) -> None:
        """Sends one message."""
        self.send_raw(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def send_raw(self, data: bytes) -> None:
        """Sends bytes."""
        self._stdin.write(data)
        self._stdin.flush()

    def line(self) -> bytes:
        """The next line, whole."""
        deadline = time.monotonic() + BOUND_S
        while (end := self._received.find(b"\n")) < 0:
            ready, _, _ = select.select([self._stdout], [], [], deadline - time.monotonic())
            data = os.read(self._stdout.fileno(), MIB) if ready else b""
            assert data, "nothing more comes"
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def next(self) -> Message:
        """The next message."""
        return json.loads(self.line())

    def answer(self, request_id: object) -> Message:
        """The answer to a request; what comes before it is kept in `heard`."""
        while True:
            message = self.next()
            if "method" not in message and message["id"] == request_id:
                return message
            assert "method" in message, message
            self.heard.append(message)

    def ask(self, request_id: object, method: str, **params: object) -> Message:
        """The answer to a new request."""
        self.send({"id": request_id, "method": method, "params": params})
        return self.answer(request_id)

    def await_told(self, methods: set[str]) -> list[Message]:
        """Messages until each of these notifications has come."""
        found = self.heard
        self.heard = []
        while methods - {message.get("method") for message in found}:
            found.append(self.next())
        return found

    def initialize(self) -> Message:
        """Opens a legacy session; the result."""
        params: Message = {
            "protocolVersion": "2025-06-18",
            "capabilities": {"roots": {}},
            "clientInfo": {"name": "editor", "version": "1"},
        }
        answer = self.ask("first", "initialize", **params)
        self.send({"method": "notifications/initialized"})
        return answer["result"]

    def leave(self) -> int:
        """EOF on its stdin, and its exit status."""
        self._stdin.close()
        return self.process.wait(BOUND_S)

    def memory_bytes(self, key: str) -> int:
        """What /proc says of its memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{key}:")[2].split()[0]) * 1024


@contextmanager
def serving(path: Path, *options: str) -> Generator[Editor]:
    process = subprocess.Popen(
        [CORRAL, "--socket", str(path), "mcp", "serve", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield Editor(process)
        finally:
            process.kill()
