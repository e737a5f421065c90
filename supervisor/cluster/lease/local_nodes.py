"""Starts daemons on this machine as nodes of one cluster, for a first try: each with a folder, a socket and a store of its own.

They end with this process, whatever ends it: each holds the read end of a pipe. Standard library alone.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from corral.worker.contract.errors import SpawnFailed

READY_S = 60.0
"""Seconds until a daemon has to be ready."""

LOOK_S = 0.2
"""Seconds between two looks whether a daemon that is not ready has ended."""

STOP_S = 20.0
"""Seconds between the request to end and the kill."""


class LocalNodes:
    """Starts and stops the nodes."""

    def __init__(self, engine: str, url: str, count: int, folder: Path, include: Path | None = None) -> None:
        self._include = include
        self._engine = engine
        self._url = url
        self.folders = {f"node-{number}": folder / f"node-{number}" for number in range(1, count + 1)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._pipes: dict[str, int] = {}

    @property
    def sockets(self) -> dict[str, str]:
        """Returns the control socket of each node, by name."""
        return {name: str(folder / "corral.sock") for name, folder in self.folders.items()}

    def __enter__(self) -> "LocalNodes":
        """Starts all, and waits until each is ready."""
        try:
            for name in self.folders:
                self.start(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stops all."""
        self.stop()

    def start(self, name: str) -> None:
        """Starts a node that does not run, and waits until it is ready."""
        folder = self.folders[name]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = folder / "corral.toml"
        if not config.exists():
            lines = ("[cluster]", f'engine = "{self._engine}"', f'node = "{name}"', f'url = "{self._url}"')
            more = () if self._include is None else (f'include = ["{self._include}"]', "")
            config.write_text("\n".join((*more, *lines)) + "\n")
        (folder / "ready").unlink(missing_ok=True)
        theirs, ours = os.pipe()
        if name in self._pipes:
            os.close(self._pipes[name])  # of its earlier life
        self._pipes[name] = ours
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, (folder / "corrald.log").open("ab") as log:
            ready.bind(str(folder / "ready"))
            ready.settimeout(LOOK_S)
            command = [sys.executable, "-P", "-m", "corral.supervisor", f"--config={config}"]
            command += [f"--socket={folder / 'corral.sock'}", f"--state-dir={folder / 'state'}"]
            try:
                self.processes[name] = subprocess.Popen(
                    [*command, f"--lifeline={theirs}"],
                    env={**os.environ, "NOTIFY_SOCKET": str(folder / "ready")},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs,),
                    start_new_session=True,
                    preexec_fn=_unblock_signals,
                )
            finally:
                os.close(theirs)
            self._await_ready(name, ready, folder / "corrald.log")

    def _await_ready(self, name: str, ready: socket.socket, log: Path) -> None:
        end = time.monotonic() + READY_S
        while True:
            try:
                if ready.recv(256) == b"READY=1":
                    return
            except TimeoutError:
                status = self.processes[name].poll()
                if status is None and time.monotonic() < end:
                    continue
                what = "is not ready" if status is None else f"ended with {status}"
                raise SpawnFailed(
                    f"cannot start {name}: it {what}; see {log}",
                    result="timeout" if status is None else "exit",
                    log=str(log),
                ) from None

    def stop(self) -> None:
        """Requests the end of all, and kills those that do not end; returns when none is left."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        for pipe in self._pipes.values():
            os.close(pipe)
        self._pipes.clear()


def _unblock_signals() -> None:
    """Unblocks what this process waits for; called between fork and exec: a daemon could not be asked to end otherwise."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
