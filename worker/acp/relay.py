"""Connects stdin and stdout of an MCP server, which an ACP agent starts, with the tool server of its bridge.

It is run by path, with the standard library alone: an agent may start one for each of its sessions. The address and the
token are in the environment variables CORRAL_TOOLS_ADDRESS and CORRAL_TOOLS_TOKEN.
"""

import json
import os
import select
import socket
import sys

READ_BYTES = 65536


def main() -> int:
    """Copies both directions until one ends; returns 1 if the bridge cannot be reached."""
    address = os.environ.get("CORRAL_TOOLS_ADDRESS", "")
    token = os.environ.get("CORRAL_TOOLS_TOKEN", "")
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.connect(f"\0{address}")
        hello = {"jsonrpc": "2.0", "method": "corral/hello", "params": {"token": token}}
        peer.sendall(json.dumps(hello).encode() + b"\n")
        while True:
            for ready in select.select([0, peer.fileno()], [], [])[0]:
                if ready == 0:
                    data = os.read(0, READ_BYTES)
                    peer.sendall(data)
                else:
                    data = peer.recv(READ_BYTES)
                    _write(data)
                if not data:
                    return 0
    except OSError as error:
        print(f"corral: cannot reach the tools of corral: {error}", file=sys.stderr)
        return 1
    finally:
        peer.close()


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit(main())
