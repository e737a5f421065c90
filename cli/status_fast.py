"""Answers a plain `corral status` without click and without the client: people and scripts call it all the time.

Half of the time of such a command goes into imports. So the plainest of its command lines are read here, and the
daemon is called over a bare socket. Every other command line, and every error, is left to the complete command, which
starts over: reading the status twice does no harm.
"""

import json
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence

from .console import ANSWER_S, Session
from .status_table import print_status

CONNECT_S = 10
"""Seconds to wait for a place in a full queue of connections."""

MAX_ANSWER_BYTES = 16 * 1024 * 1024 + 1024
RECEIVE_BYTES = 1024 * 1024

ANSWER = b'{"jsonrpc":"2.0","id":1,"result":'
"""Beginning of the answer of a daemon; anything else is left to the complete command."""


def answered(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Answers a plain `status` on stdout; returns False if the command line is another or an error occurred."""
    session = Session(environ)
    names = None if session.login or session.node else _read(arguments, session)
    path = None if names is None else _socket(session, environ)
    if names is None or path is None:
        return False
    try:
        answer = _ask(path, names)
    except (OSError, ValueError):
        return False
    if answer is None:
        return False
    if session.json and not session.is_terminal and answer.isascii():
        session.print(answer.decode("ascii"))
        return True
    found = json.loads(answer)
    if session.json:
        session.print_json(found)
    else:
        print_status(session, found, all_of_it=not names)
    return True


def _read(arguments: Sequence[str], session: Session) -> list[str] | None:
    """Returns the names after `status`; None if the command line is another, or not as plain."""
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word in ("--json", "--no-color"):
            session.set_option(word[2:].replace("-", "_"), True)
        elif word == "--socket" and (path := next(rest, "")):
            session.set_option("socket", path)
        elif word.startswith("--socket=") and len(word) > len("--socket="):
            session.set_option("socket", word.removeprefix("--socket="))
        elif word and not word.startswith("-"):
            words.append(word)
        else:
            return None
    return words[1:] if words[:1] == ["status"] else None


def _socket(session: Session, environ: Mapping[str, str]) -> str | None:
    """Returns the socket of the daemon, like `worker.client`; None if its folder has to be checked first."""
    path = session.given_socket or environ.get("CORRAL_SOCKET")
    if not path:
        runtime = environ.get("XDG_RUNTIME_DIR", "")
        if os.getuid() == 0:
            path = "/run/corral/corral.sock"
        elif runtime.startswith("/"):
            path = f"{runtime}/corral/corral.sock"
        else:
            return None
    # Any user could listen in a folder of /tmp: its owner has to be checked.
    return None if os.path.dirname(path) == f"/tmp/corral-{os.getuid()}" else path


def _ask(path: str, names: list[str]) -> bytes | None:
    """Returns the result in JSON; None if the answer is no result."""
    params = {"names": names} if names else {}
    request = {"jsonrpc": "2.0", "id": 1, "method": "daemon.status", "params": params}
    give_up_at = time.monotonic() + ANSWER_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        # One that does not block gets EAGAIN at once from a full queue; one that blocks waits in it.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", CONNECT_S, 0))
        connection.connect(path)
        connection.settimeout(ANSWER_S)
        connection.sendall(json.dumps(request).encode("ascii", "strict") + b"\n")
        pieces: list[bytes] = []
        size_bytes = 0
        while not pieces or not pieces[-1].endswith(b"\n"):
            connection.settimeout(max(0.001, give_up_at - time.monotonic()))
            piece = connection.recv(RECEIVE_BYTES)
            size_bytes += len(piece)
            if not piece or size_bytes > MAX_ANSWER_BYTES:
                return None
            pieces.append(piece)
    answer = b"".join(pieces)
    is_one = answer.startswith(ANSWER) and answer.endswith(b"}\n") and answer.count(b"\n") == 1
    return answer[len(ANSWER) : -2] if is_one else None
