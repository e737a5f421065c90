"""Starts a `corrald` for one program, which never outlives that program.

Its socket, its configuration and, unless a state folder is named, its state are in a temporary folder, which is
removed when it ends. It ends on SIGTERM, when the pipe that the program holds (its lifeline) is closed, and when the
program dies in any other way, `kill -9` included. It has its own session, so that Ctrl-C in a terminal signals only
the program. This module must not know any method of the daemon.
"""

import asyncio
import json
import os
import shutil
import signal
import socket as sockets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

from ..contract.codec import as_array, as_object
from ..contract.errors import InvalidParams, SpawnFailed, Timeout
from ..contract.toml_text import literal
from .sync import SOCKET_PATH_BYTES_MAX

START_S = 30.0
"""Seconds that a daemon may take to become ready."""

STOP_S = 60.0
"""Seconds between SIGTERM and SIGKILL; the grace periods of the workers are part of them."""

LOG_TAIL_BYTES = 4_096
"""Bytes of the log of a daemon that did not start; the last line goes into the error."""

FOREIGN_VARIABLES = ("CORRAL_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")
"""Prefixes of environment variables about another daemon, or about the program as a service."""

Config = str | os.PathLike[str] | Mapping[str, object]


class Embedded:
    """Holds the process of a daemon that was started for this program."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process, lifeline: int, log: BinaryIO) -> None:
        self._folder = folder
        self._process = process
        self._lifeline = lifeline
        self._log = log

    @property
    def socket(self) -> str:
        """Returns the path of its control socket."""
        return str(_socket_in(self._folder))

    @property
    def pid(self) -> int:
        """Returns its process id."""
        return self._process.pid

    @classmethod
    async def start(
        cls, config: Config | None, state_dir: str | os.PathLike[str] | None, timeout_s: float
    ) -> "Embedded":
        """Starts a daemon and returns when it is ready.

        Raises:
            InvalidParams: the configuration is wrong.
            SpawnFailed: it ended; the message has the last line of its log.
            Timeout: it was not ready in time.
        """
        folder = _make_folder()
        try:
            state = folder / "state" if state_dir is None else Path(state_dir).absolute()
            return await cls._spawn(folder, _config_file(folder, config), state, timeout_s)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    @classmethod
    async def _spawn(cls, folder: Path, file: Path, state: Path, timeout_s: float) -> "Embedded":
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as ready:
            ready.bind(str(folder / "ready"))
            ready.setblocking(False)
            theirs, ours = os.pipe()
            own = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN_VARIABLES)}
            log = (folder / "corrald.log").open("w+b")
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "corral.supervisor"),
                    *(f"--config={file}", f"--socket={_socket_in(folder)}"),
                    *(f"--state-dir={state}", f"--lifeline={theirs}", f"--scratch={folder}"),
                    env={**own, "NOTIFY_SOCKET": str(folder / "ready")},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs,),
                    start_new_session=True,
                )
            except BaseException as error:
                os.close(ours)
                log.close()
                if isinstance(error, OSError):
                    raise SpawnFailed(f"cannot start a daemon: {error}") from error
                raise
            finally:
                os.close(theirs)
            this = cls(folder, process, ours, log)
            try:
                await this._until_ready(ready, timeout_s)
            except BaseException:
                await asyncio.shield(asyncio.ensure_future(this.stop(at_once=True)))
                raise
            return this

    async def _until_ready(self, ready: sockets.socket, timeout_s: float) -> None:
        notified = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(ready, 256))
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({notified, ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if notified.done():
                return
            reason = self._last_log_line()
            if not ended.done():
                raise Timeout(f"cannot start a daemon within {timeout_s:g} s: {reason}")
            is_config = ended.result() == InvalidParams.exit_status
            kind = InvalidParams if is_config else SpawnFailed
            raise kind(f"cannot start a daemon: {reason}", code=ended.result())
        finally:
            for each in (notified, ended):
                each.cancel()
            await asyncio.gather(notified, ended, return_exceptions=True)

    def _last_log_line(self) -> str:
        self._log.seek(-min(LOG_TAIL_BYTES, self._log.seek(0, os.SEEK_END)), os.SEEK_END)
        tail = self._log.read()  # readable also after the daemon has removed its folder
        lines = tail.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].removeprefix("corrald: ") if lines else "its log is empty"

    async def stop(self, *, at_once: bool = False) -> None:
        """Terminates it, after STOP_S by SIGKILL, and returns when nothing of it is left."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        if at_once:
            self._close_lifeline()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        finally:
            self._close_lifeline()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _close_lifeline(self) -> None:
        """Closes the lifeline: the daemon kills its workers and ends at once."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._log.close()
            self._lifeline = -1


def _make_folder() -> Path:
    """Makes the temporary folder: below /tmp where the path of the socket would be too long elsewhere."""
    folder = Path(tempfile.mkdtemp(prefix="corral-"))
    if os.getuid() == 0:
        folder.chmod(0o711)  # agents of other users pass through it to their own files
    if len(os.fsencode(_socket_in(folder))) > SOCKET_PATH_BYTES_MAX:
        os.rmdir(folder)
        folder = Path(tempfile.mkdtemp(prefix="corral-", dir="/tmp"))
    return folder


def _socket_in(folder: Path) -> Path:
    return folder / "corral.sock"


def _config_file(folder: Path, config: Config | None) -> Path:
    """Returns the configuration file: the given one, or a new one that contains the given tables."""
    if isinstance(config, str | os.PathLike):
        return Path(config).absolute()
    tables = {} if config is None else dict(config)
    process = as_object(tables.get("process", {}))
    if process is not None and "working_directory" not in process:
        tables["process"] = {**process, "working_directory": os.getcwd()}
    file = folder / "corral.toml"
    file.touch(mode=0o600)
    file.write_text("".join([f"{_key(key)} = {_toml(value, key)}\n" for key, value in tables.items()]), "utf-8")
    return file


def _key(key: str) -> str:
    return _toml(key, key)


def _toml(value: object, path: str) -> str:
    """Formats a value as TOML on one line, with inline tables.

    Raises:
        InvalidParams: TOML cannot express the value.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        text = os.fspath(cast("str | os.PathLike[str]", value))
        if not path.startswith("workflows."):  # whose expressions are theirs
            text = literal(text)
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    table = as_object(value)
    if table is None and isinstance(value, Mapping):
        table = dict(cast("Mapping[str, object]", value))
    if table is not None:
        pairs = [f"{_key(key)} = {_toml(each, f'{path}.{key}')}" for key, each in table.items()]
        return "{" + ", ".join(pairs) + "}"
    array = as_array(list(cast("tuple[object, ...]", value)) if isinstance(value, tuple) else value)
    if array is not None:
        return "[" + ", ".join(_toml(each, path) for each in array) + "]"
    reason = f"{type(value).__name__} is not TOML"
    raise InvalidParams(f"cannot write {path} = {value!r}: {reason}", key=path, reason=reason)
