"""A program with grandchildren that have left it: three sessions of their own, deaf to SIGTERM, without its mark."""

import os
import signal
import time

for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.execve("/bin/sh", ["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"], {})
        os._exit(0)
    os.wait()
print("bred by", os.getpid(), flush=True)
time.sleep(100_000)
