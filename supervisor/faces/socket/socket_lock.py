"""Locks the path of the control socket, so that one daemon has it, and the next one when that is dead.

The socket file is 0600 (0660 with a group, with an access list for two). A socket that the service manager bound there is taken as it is.
"""

import contextlib
import fcntl
import grp
import os
import socket
import struct
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import TypeAlias

from corral.worker.contract.errors import Conflict, InvalidParams, PermissionDenied

MAX_PATH_BYTES = 107
"""Bytes of a socket's path: `sun_path` holds 108 with the final NUL (unix(7))."""

BACKLOG = 1024
"""Number of connections that may wait to be accepted; the kernel cuts it to net.core.somaxconn."""

FIRST_INHERITED_FD = 3
"""Number of the first descriptor from the service manager; see sd_listen_fds(3)."""


def inherited_socket(environ: MutableMapping[str, str], pid: int) -> socket.socket | None:
    """Returns the listening socket that the service manager has passed, if any; see sd_listen_fds(3).

    The variables about it are removed: they are meant for this process, and not for its children.
    """
    meant_for, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if meant_for != str(pid) or not count.isdecimal() or count == "0":
        return None
    fds = range(FIRST_INHERITED_FD, FIRST_INHERITED_FD + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fds[0])
    is_ours = (
        len(fds) == 1
        and (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        and str(sock.getsockname()).startswith("/")
    )
    if not is_ours:
        sock.detach()  # not ours to close
        raise InvalidParams(
            f"cannot listen on what the service manager has passed: {count} descriptors, where one listening"
            " unix stream socket with a path is expected",
            key="LISTEN_FDS",
            value=count,
            reason="no socket for control",
        )
    sock.setblocking(False)
    return sock


ACL = "system.posix_acl_access"
ACL_VERSION = 2
USER_OBJ, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x04, 0x08, 0x10, 0x20
READ_WRITE = 6
NO_ID = 0xFFFFFFFF


HeldLock: TypeAlias = tuple[int, socket.socket]
"""The descriptor of the lock's file, and the socket that listens at its path."""


class SocketLock:
    """Holds the right to listen at a path, which one daemon has at a time.

    With `inherited`, a socket that the service manager bound there, the file is the manager's: it is
    neither replaced nor removed, and its owner, group and mode are what the manager gave it.
    """

    def __init__(self, path: Path, inherited: socket.socket | None = None, held: "HeldLock | None" = None) -> None:
        """Takes the lock, unless an earlier program of this process `held` it and listens already."""
        self.inherited = inherited
        self._listening: socket.socket | None = None
        size = len(os.fsencode(path))
        if size > MAX_PATH_BYTES:
            raise InvalidParams(
                f'cannot listen on "{path}": the path has {size} bytes, and a socket\'s has {MAX_PATH_BYTES} at most',
                key="socket",
                value=str(path),
                reason="too long",
            )
        self.path = path
        self._file = Path(f"{path}.lock")
        if held is not None:
            self.fd, self._listening = held
            return
        try:
            make_private_folder(path.parent)
            self.fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PermissionDenied(
                f'cannot listen on "{path}": {error.strerror}: {error.filename}', path=str(path)
            ) from error
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self.fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self.fd)
            raise Conflict(
                f'cannot listen on "{path}": a daemon with pid {pid} does already',
                pid=int(pid) if pid.isdigit() else None,
                path=str(path),
            ) from None
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)
        if inherited is None:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()  # no process listens there: we have the lock

    def listen(self, group: str | None, readers: str | None = None) -> socket.socket:
        """Returns a listening socket at the path, of the mode that the groups ask for; or the inherited one as it is.

        Both groups may connect: one has the file, two are in its access list (acl(5)). The peer's credentials decide its rights.
        """
        if self.inherited is not None:
            return self.inherited
        if self._listening is not None:
            return self._listening
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(str(self.path))
            os.chmod(self.path, 0o600)
            gids = [
                group_id(each, f"daemon.{key}")
                for key, each in (("group", group), ("readers", readers))
                if each is not None
            ]
            if len(set(gids)) == 1:
                os.chown(self.path, -1, gids[0])
                os.chmod(self.path, 0o660)
            elif gids:
                os.setxattr(self.path, ACL, access_list(gids))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise PermissionDenied(f'cannot listen on "{self.path}": {error.strerror}', path=str(self.path)) from error
        except BaseException:
            sock.close()
            raise
        return sock

    def release(self) -> None:
        """Gives the path up. The lock file stays: removing it would race with the next daemon."""
        if self.inherited is None:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        else:
            self.inherited.close()  # the manager has it open, too: new connections wait
        os.close(self.fd)


def make_private_folder(folder: Path) -> None:
    """Makes a folder for the socket, 0700; one in /tmp has to be ours, since any user can make it first."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.parent == Path("/tmp") and folder.name.startswith("corral-"):
        owner = folder.lstat().st_uid
        if owner != os.getuid() or folder.is_symlink():
            raise PermissionDenied(f'cannot use folder "{folder}": it belongs to uid {owner}', path=str(folder))


def access_list(gids: Sequence[int]) -> bytes:
    """Returns the access list, as the kernel has it, of a file for its owner and the members of groups: acl(5)."""
    entries = [(USER_OBJ, NO_ID), (GROUP_OBJ, NO_ID), *((GROUP, gid) for gid in sorted(set(gids)))]
    permissions = {USER_OBJ: READ_WRITE, GROUP: READ_WRITE, MASK: READ_WRITE}
    return struct.pack("<I", ACL_VERSION) + b"".join(
        struct.pack("<HHI", tag, permissions.get(tag, 0), number)
        for tag, number in [*entries, (MASK, NO_ID), (OTHER, NO_ID)]
    )


def group_id(name: str, key: str = "daemon.group") -> int:
    """Returns the id of a group whose members may connect; `key` is the one that names it."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise InvalidParams(
            f'cannot give the socket to group "{name}": there is none', key=key, value=name, reason="unknown group"
        ) from None
