"""A worker that forges the mark of another: a grandchild in a session of its own says that it is another's."""

import os
import sys
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        mark = {"CORRAL_WORKER": sys.argv[1]}
        os.execve("/bin/sh", ["sh", "-c", "echo forged $$; while :; do sleep 1000; done"], mark)
    os._exit(0)
os.wait()
time.sleep(1000)
