"""Serves `terminal/*`: commands that the agent has run for it, as children of this process.

Each has a process group of its own, in the session, the limits and the isolation of the worker. Its output is kept up to
the limit that the agent asks for, the latest bytes of it. All are killed with their session.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping

from ..contract.codec import as_array, as_object
from ..contract.errors import InvalidParams, NotFound, ResourceLimitExceeded, SpawnFailed

TERMINALS_MOST = 32
"""Number of terminals that are not released."""

OUTPUT_BYTES = 1024 * 1024
"""Bytes of output that are kept of a terminal, at most, and where the agent names no limit."""

READ_BYTES = 64 * 1024


class Terminal:
    """Represents a command that runs, or has run, with both its streams in one pipe."""

    def __init__(self, child: subprocess.Popen[bytes], read_fd: int, limit_bytes: int) -> None:
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._child = child
        self._limit_bytes = limit_bytes
        self._output = bytearray()
        self._is_cut = False
        self._read_fd = read_fd
        self._code, self._signal = 0, 0
        self._is_released = False
        self._pidfd = os.pidfd_open(child.pid)
        os.set_blocking(read_fd, False)
        self._loop.add_reader(read_fd, self._read)
        self._loop.add_reader(self._pidfd, self._exited)

    def output(self) -> dict[str, object]:
        """Returns what it has printed until now, and how it ended if it has."""
        self._read()
        found: dict[str, object] = {"output": bytes(self._output).decode("utf-8", "ignore"), "truncated": self._is_cut}
        if self.ended.is_set():
            found["exitStatus"] = self.exit_status()
        return found

    def exit_status(self) -> dict[str, object]:
        """Returns how it ended."""
        if self._signal:
            return {"exitCode": None, "signal": signal.Signals(self._signal).name}
        return {"exitCode": self._code, "signal": None}

    def kill(self) -> None:
        """Kills the process group; a process that has left it is killed with the worker."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def release(self) -> None:
        """Kills it, and keeps nothing; it is reaped when it has ended."""
        self.kill()
        self._close_output()
        self._is_released = True
        if self.ended.is_set():
            self._child.wait()

    def _read(self) -> None:
        while self._read_fd >= 0:
            try:
                data = os.read(self._read_fd, READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close_output()
                return
            self._output += data
            if (over := len(self._output) - self._limit_bytes) > 0:
                del self._output[:over]
                self._is_cut = True
            if len(data) < READ_BYTES:
                return

    def _close_output(self) -> None:
        if self._read_fd >= 0:
            self._loop.remove_reader(self._read_fd)
            os.close(self._read_fd)
            self._read_fd = -1

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._read()
        # Reaped with the release alone: until then its process group cannot be another one's, and can be killed.
        end = os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
        assert end is not None, "its pidfd is readable once it has ended"
        if end.si_code == os.CLD_EXITED:
            self._code = end.si_status
        else:
            self._signal = end.si_status
        self.ended.set()
        if self._is_released:
            self._child.wait()


class Terminals:
    """Holds the terminals of one session."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._open: dict[str, Terminal] = {}
        self._last = 0

    async def create(self, params: Mapping[str, object]) -> dict[str, object]:
        """Starts a command."""
        command, args = params.get("command"), as_array(params.get("args")) or []
        if not isinstance(command, str) or not all(isinstance(each, str) for each in args):
            raise InvalidParams("cannot run a command: it is no text", key="command")
        if len(self._open) >= TERMINALS_MOST:
            text = f"cannot run a command: {TERMINALS_MOST} terminals are not released"
            raise ResourceLimitExceeded(text, limit="terminals", value=TERMINALS_MOST)
        folder = params.get("cwd")
        env = dict(os.environ)
        for each in as_array(params.get("env")) or []:
            fields = as_object(each) or {}
            env[str(fields.get("name"))] = str(fields.get("value"))
        asked = params.get("outputByteLimit")
        limit = min(asked, OUTPUT_BYTES) if type(asked) is int and asked >= 0 else OUTPUT_BYTES
        read_fd, write_fd = os.pipe()
        try:
            child = subprocess.Popen(
                [command, *map(str, args)],
                stdin=subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                env=env,
                cwd=folder if isinstance(folder, str) else self._folder,
                process_group=0,
            )
        except (OSError, ValueError) as error:
            os.close(read_fd)
            reason = getattr(error, "strerror", None) or str(error)
            raise SpawnFailed(f'cannot run "{command}": {reason}', result="exec-failed", reason=reason) from None
        finally:
            os.close(write_fd)
        self._last += 1
        name = f"terminal-{self._last}"
        self._open[name] = Terminal(child, read_fd, limit)
        return {"terminalId": name}

    def output(self, params: Mapping[str, object]) -> dict[str, object]:
        """Returns the output of a terminal until now."""
        return self._of(params).output()

    async def wait_for_exit(self, params: Mapping[str, object]) -> dict[str, object]:
        """Returns how a command ended, when it has."""
        terminal = self._of(params)
        await terminal.ended.wait()
        return terminal.exit_status()

    def kill(self, params: Mapping[str, object]) -> dict[str, object]:
        """Kills a command; its output can still be read."""
        self._of(params).kill()
        return {}

    def release(self, params: Mapping[str, object]) -> dict[str, object]:
        """Kills a command, and forgets it."""
        self._of(params).release()
        del self._open[str(params["terminalId"])]
        return {}

    def close(self) -> None:
        """Releases all."""
        for terminal in self._open.values():
            terminal.release()
        self._open.clear()

    def _of(self, params: Mapping[str, object]) -> Terminal:
        name = params.get("terminalId")
        found = self._open.get(name) if isinstance(name, str) else None
        if found is None:
            raise NotFound(f"cannot find terminal {name!r:.100}", terminal=name)
        return found
