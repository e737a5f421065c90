"""A worker of the owner with something of each kind that another may want; prints where it is, and how often it was reached.

Standard library alone. Arguments: the key of its shared memory, the name of its abstract socket, a file of its own.
"""

import ctypes
import json
import os
import socket
import sys
from pathlib import Path

IPC_CREAT = 0o1000
LIBC = ctypes.CDLL(None, use_errno=True)
KEY, NAME, FILE = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

os.umask(0o077)
FILE.write_text("the owner's secret\n")
Path(f"/dev/shm/{NAME}").write_text("the owner's secret\n")
if LIBC.shmget(KEY, 4096, IPC_CREAT | 0o600) < 0:
    sys.exit(f"no shared memory: {os.strerror(ctypes.get_errno())}")
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(f"\0{NAME}")
    listener.listen()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    while True:
        listener.accept()[0].close()
