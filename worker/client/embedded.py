"""A daemon of one's own: a `corrald` that a program starts for itself, and that never outlives it.

It has a socket, a configuration and, unless a state folder is named, a state of its own in a temporary folder, which
it removes when it ends. It ends when it is asked to, when the pipe that the program holds (its lifeline) is closed,
and when the program is gone in any other way, `kill -9` included. It has a session of its own: Ctrl-C in a terminal
is the program's to act upon.
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
from .sync import SOCKET_PATH_BYTES_MAX

START_S = 30.0
"""How long a daemon may take until it is ready."""

STOP_S = 60.0
"""How long one that was asked to end may take before it is killed; its workers have their grace periods in it."""

WORDS_BYTES = 4_096
"""Of what a daemon that did not start has said."""

NOT_ITS_OWN = ("CORRAL_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")
"""Beginnings of variables that are about another daemon, or about the program as a service."""

Config = str | os.PathLike[str] | Mapping[str, object]


class Embedded:
    """A daemon that was started for this program."""

    def __init__(
        self,
        folder: Path,
        process: asyncio.subprocess.Process,
        lifeline: int,
        log: BinaryIO,
    ) -> None:
        self._folder = folder
        self._process = process
        self._lifeline = lifeline
        self._log = log

    @property
    def socket(self) -> str:
        """The path of its control socket."""
        return str(_socket_in(self._folder))

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @classmethod
    async def start(
        cls, config: Config | None, state_dir: str | os.PathLike[str] | None, timeout_s: float
    ) -> "Embedded":
        """A daemon that is ready.

        Raises:
            InvalidParams: the configuration is wrong.
            SpawnFailed: it ended; the message has its last words.
            Timeout: it was not ready in time.
        """
        folder = Path(tempfile.mkdtemp(prefix="corral-"))
        if os.getuid() == 0:
            folder.chmod(0o711)  # agents of other users pass through it to what is theirs
        if len(os.fsencode(_socket_in(folder))) > SOCKET_PATH_BYTES_MAX:
            os.rmdir(folder)
            folder = Path(tempfile.mkdtemp(prefix="corral-", dir="/tmp"))
        try:
            return await cls._start_in(folder, config, state_dir, timeout_s)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    @classmethod
    async def _start_in(
        cls,
        folder: Path,
        config: Config | None,
        state_dir: str | os.PathLike[str] | None,
        timeout_s: float,
    ) -> "Embedded":
        file = _config_file(folder, config)
        state = folder / "state" if state_dir is None else Path(state_dir).absolute()
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as ready:
            ready.bind(str(folder / "ready"))
            ready.setblocking(False)
            theirs, ours = os.pipe()
            log = (folder / "corrald.log").open("w+b")
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "corral.supervisor"),
                    *(f"--config={file}", f"--socket={_socket_in(folder)}"),
                    *(f"--state-dir={state}", f"--lifeline={theirs}", f"--scratch={folder}"),
                    env={**_environ(), "NOTIFY_SOCKET": str(folder / "ready")},
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
        loop = asyncio.get_running_loop()
        told = asyncio.ensure_future(loop.sock_recv(ready, 256))
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait(
                {told, ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if told.done():
                return
            words = self._last_words()
            if not ended.done():
                raise Timeout(f"cannot start a daemon within {timeout_s:g} s: {words}")
            is_config = ended.result() == InvalidParams.exit_status
            kind = InvalidParams if is_config else SpawnFailed
            raise kind(f"cannot start a daemon: {words}", code=ended.result())
        finally:
            for each in (told, ended):
                each.cancel()
            await asyncio.gather(told, ended, return_exceptions=True)

    def _last_words(self) -> str:
        self._log.seek(-min(WORDS_BYTES, self._log.seek(0, os.SEEK_END)), os.SEEK_END)
        said = self._log.read()  # also when it has removed its folder
        lines = said.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].removeprefix("corrald: ") if lines else "it said nothing"

    async def stop(self, *, at_once: bool = False) -> None:
        """Asks it to end, and returns when nothing of it is left; one that takes more than STOP_S is killed."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        if at_once:
            self._let_go()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        finally:
            self._let_go()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _let_go(self) -> None:
        """Closes the lifeline: the daemon ends at once, with all that it keeps."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._log.close()
            self._lifeline = -1


def _socket_in(folder: Path) -> Path:
    return folder / "corral.sock"


def _environ() -> dict[str, str]:
    """Our environment without what is about another daemon."""
    return {key: value for key, value in os.environ.items() if not key.startswith(NOT_ITS_OWN)}


def _config_file(folder: Path, config: Config | None) -> Path:
    """The file that the daemon reads: the one that is there, or one that has the tables that were given."""
    if isinstance(config, str | os.PathLike):
        return Path(config).absolute()
    tables = {} if config is None else dict(config)
    process = as_object(tables.get("process", {}))
    if process is not None and "working_directory" not in process:
        tables["process"] = {**process, "working_directory": os.getcwd()}
    file = folder / "corral.toml"
    file.touch(mode=0o600)
    lines = [f"{_key(key)} = {_toml(value, key)}\n" for key, value in tables.items()]
    file.write_text("".join(lines), "utf-8")
    return file


def _key(key: str) -> str:
    return _toml(key, key)


def _toml(value: object, path: str) -> str:
    """A value as TOML has it on one line; tables are inline.

    Raises:
        InvalidParams: TOML has no such value.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        text = os.fspath(cast("str | os.PathLike[str]", value))
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
