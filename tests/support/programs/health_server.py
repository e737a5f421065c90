"""A program without a protocol that is as well as a file says, for tests of health checks.

`health_server.py FOLDER PORT`: answers HTTP on loopback by the word in FOLDER/mode, which is looked at for each
connection: "bad" is status 500, "hang" no answer, "closed" no listener, anything else 200. With FOLDER/late it opens
its port only when that is gone. On SIGHUP it writes a line to FOLDER/hups; each question adds one to FOLDER/asked.
"""

import contextlib
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

folder, port = Path(sys.argv[1]), int(sys.argv[2])


def mode() -> str:
    try:
        return (folder / "mode").read_text()
    except OSError:
        return ""


def hear(_signal: int, _frame: FrameType | None) -> None:
    with (folder / "hups").open("a") as hups:
        hups.write("hup\n")


def listen() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port))
    listener.settimeout(0.02)
    return listener


def main() -> None:
    signal.signal(signal.SIGHUP, hear)
    print("starting", flush=True)
    while (folder / "late").exists():
        time.sleep(0.02)
    listener: socket.socket | None = listen()
    print("listening on", port, flush=True)
    kept: list[socket.socket] = []
    while True:
        if mode() == "closed":
            if listener is not None:
                listener.close()
                listener = None
            time.sleep(0.02)
            continue
        listener = listener or listen()
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with (folder / "asked").open("a") as asked:
            asked.write("asked\n")
        if mode() == "hang":
            kept.append(connection)
            continue
        status = b"500 No" if mode() == "bad" else b"200 OK"
        with contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        connection.close()


if __name__ == "__main__":
    main()
