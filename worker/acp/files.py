"""Serves `fs/read_text_file` and `fs/write_text_file`: text files within the working directory, by this process.

This process is isolated as the agent is, so that the kernel refuses what the agent itself may not read or write.
"""

import errno
import itertools
import os
import secrets
import stat
from collections.abc import Mapping
from typing import BinaryIO

from ..contract.errors import InvalidParams, NotFound, PermissionDenied, ResourceLimitExceeded, TaskFailed

READ_BYTES = 8 * 1024 * 1024
"""Bytes of a file that one request reads; a message has 16 MiB, and JSON may double a text."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FileNotThere(NotFound):
    """Represents a file that does not exist, under the code that ACP has for it."""

    def to_wire(self) -> dict[str, object]:
        """Returns the error object with ACP's code."""
        return {"code": -32002, "message": self.message, "data": self.data}


def read_text(params: Mapping[str, object], folder: str) -> dict[str, object]:
    """Returns the content of a file, or `limit` lines of it from `line` (1 is the first)."""
    path = _path(params, folder, "read")
    line, limit = _number(params, "line"), _number(params, "limit")
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidParams(f'cannot read "{path}": it is no file', key="path", value=path)
            if line is None and limit is None:
                data = file.read(READ_BYTES + 1)
            else:
                data = _lines(file, max(line or 1, 1), limit)
    except OSError as error:
        raise _failed("read", path, error) from None
    if len(data) > READ_BYTES:
        text = f'cannot read "{path}": it has more than {READ_BYTES} bytes'
        raise ResourceLimitExceeded(text, limit="file", value=READ_BYTES)
    return {"content": data.decode("utf-8", "replace")}


def write_text(params: Mapping[str, object], folder: str) -> dict[str, object]:
    """Writes a file as a whole: a reader sees the old text or the new one. Folders above it are made."""
    path = _path(params, folder, "write")
    content = params.get("content")
    if not isinstance(content, str):
        raise InvalidParams(f'cannot write "{path}": its content is no text', key="content")
    beside = os.path.join(os.path.dirname(path), f".{secrets.token_hex(16)}")
    try:
        data = content.encode()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        mode = _mode_of(path)
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                if mode is not None:
                    os.fchmod(fd, mode)
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    except UnicodeError as error:
        raise InvalidParams(f'cannot write "{path}": {error}', key="content") from None
    except OSError as error:
        raise _failed("write", path, error) from None
    return {}


def _mode_of(path: str) -> int | None:
    """Returns the permissions of the file that is there; None if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise InvalidParams(f'cannot write "{path}": it is no file', key="path", value=path)
    return stat.S_IMODE(found.st_mode)


def _lines(file: BinaryIO, line: int, limit: int | None) -> bytes:
    """Returns lines of a file, up to one that makes them too long."""
    found = bytearray()
    for number in itertools.count(1):
        each = file.readline(READ_BYTES + 1)
        if not each or (limit is not None and number >= line + limit):
            break
        if number < line:
            continue
        found += each
        if len(found) > READ_BYTES:
            break
    return bytes(found)


def _path(params: Mapping[str, object], folder: str, verb: str) -> str:
    """Returns the real path of a request, which is within the working directory."""
    path = params.get("path")
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise InvalidParams(f"cannot {verb} a file: its path {path!r:.200} is not absolute", key="path", value=path)
    real, root = os.path.realpath(path), os.path.realpath(folder)
    if os.path.commonpath([real, root]) != root:
        text = f'cannot {verb} "{path}": it is outside of the working directory "{folder}"'
        raise PermissionDenied(text, path=path, working_directory=folder)
    return real


def _number(params: Mapping[str, object], key: str) -> int | None:
    value = params.get(key)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise InvalidParams(f"cannot read a file: {key} is no number: {value!r:.100}", key=key)
    return value


def _failed(verb: str, path: str, error: OSError) -> Exception:
    text = f'cannot {verb} "{path}": {error.strerror}'
    if isinstance(error, FileNotFoundError):
        return FileNotThere(text, path=path)
    if isinstance(error, IsADirectoryError):
        return InvalidParams(f'cannot {verb} "{path}": it is no file', key="path", value=path)
    if isinstance(error, PermissionError):
        return PermissionDenied(text, path=path)
    if error.errno in _FULL:
        return ResourceLimitExceeded(text, limit="disk", value=path)
    return TaskFailed(text, path=path, errno=error.errno)
