"""Runs a program of Python, which writes on SIGUSR2 what it has: `counted.py FILE PROGRAM ARGUMENTS…`.

FILE gets one object of JSON: the tasks of asyncio, the blocks of the allocator, and how many objects of each type are tracked.
"""

import asyncio
import gc
import json
import os
import runpy
import signal
import sys
from collections import Counter


def write(*_: object) -> None:
    objects = gc.get_objects()
    counts = {
        "tasks": sum(isinstance(each, asyncio.Task) for each in objects),
        "blocks": sys.getallocatedblocks(),
        "objects": dict(Counter(type(each).__qualname__ for each in objects).most_common(60)),
    }
    with open(f"{path}.new", "w") as file:
        json.dump(counts, file)
    os.replace(f"{path}.new", path)


path = sys.argv[1]
sys.argv = sys.argv[2:]
signal.signal(signal.SIGUSR2, write)
runpy.run_path(sys.argv[0], run_name="__main__")
