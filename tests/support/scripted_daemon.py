"""A daemon of a few lines for the tests of clients: a real unix socket, and answers that the test wrote."""

import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from corral.worker.contract.errors import CorralError, MethodNotFound
from corral.worker.contract.jsonrpc import Notification, Peer, Request, Withdrawn

BOUND_S = 60.0
"""How long any test waits for anything before it is a failure."""


class Caller:
    """One connection of a client, as the script of a method sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.peer = Peer(answer_foreign=True)

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification now."""
        self.peer.notify(method, params)
        self.flush()

    def send_raw(self, data: bytes) -> None:
        """Sends bytes that are no message, or half of one."""
        self.connection.sendall(data)

    def hang_up(self) -> None:
        """Closes the connection; what the client sent after the request goes unread."""
        self.connection.shutdown(socket.SHUT_RDWR)

    def flush(self) -> None:
        """Sends what the peer has queued."""
        if data := self.peer.take():
            self.connection.sendall(data)


class Silence:
    """The result of a script that does not answer."""


SILENCE = Silence()

Script = Callable[[Caller, dict[str, object]], object]


class ScriptedDaemon:
    """Listens on `path`; each method is a function of the caller and the params, or a fixed answer.

    A script runs in its connection's thread: it may notify, raise a CorralError, return SILENCE, or
    hang up. `calls` keeps what was asked and told, `withdrawn` the ids of requests that were given up.
    """

    def __init__(self, path: Path, scripts: Mapping[str, object]) -> None:
        self.path = path
        self.scripts = dict(scripts)
        self.calls: list[tuple[str, dict[str, object]]] = []
        self.withdrawn: list[object] = []
        self.heard = threading.Condition()
        self._callers: list[Caller] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "ScriptedDaemon":
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(self.path))
        self._listener.listen(64)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()

    def die(self) -> None:
        """Ends as by SIGKILL: every connection closes, the socket's file stays and is stale."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has died already
        self._await(self._threads[0])  # it takes connections that had come before
        for caller in self._callers:
            with suppress(OSError):
                caller.hang_up()
        for thread in self._threads:
            self._await(thread)
        self._listener.close()

    def _await(self, thread: threading.Thread) -> None:
        if thread is not threading.current_thread():
            thread.join(BOUND_S)
            assert not thread.is_alive()

    @property
    def dropped(self) -> int:
        """How many answers came that were asked for by nobody."""
        return sum(caller.peer.dropped for caller in self._callers)

    def asked(self, method: str) -> list[dict[str, object]]:
        """The params of every call of `method` so far."""
        with self.heard:
            return [params for name, params in self.calls if name == method]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits until something that was heard makes the condition true."""
        with self.heard:
            assert self.heard.wait_for(condition, BOUND_S)

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            caller = Caller(connection)
            self._callers.append(caller)
            self._start(lambda caller=caller: self._serve(caller))  # type: ignore[misc]  # bound now

    def _serve(self, caller: Caller) -> None:
        with caller.connection:
            try:
                while data := caller.connection.recv(65_536):
                    for event in caller.peer.receive(data):
                        if isinstance(event, Request):
                            self._answer(caller, event)
                        elif isinstance(event, Notification):
                            with self.heard:
                                self.calls.append((event.method, event.params))
                                self.heard.notify_all()
                        elif isinstance(event, Withdrawn):
                            with self.heard:
                                self.withdrawn.append(event.id)
                                self.heard.notify_all()
                    caller.flush()
            except OSError:
                return

    def _answer(self, caller: Caller, request: Request) -> None:
        with self.heard:
            self.calls.append((request.method, request.params))
            self.heard.notify_all()
        script = self.scripts.get(request.method)
        try:
            if script is None:
                raise MethodNotFound(f'cannot call "{request.method}"', method=request.method)
            result = script(caller, request.params) if callable(script) else script
        except CorralError as error:
            caller.peer.fail(request.id, error)
        else:
            if not isinstance(result, Silence):
                caller.peer.respond(request.id, result)
        caller.flush()
