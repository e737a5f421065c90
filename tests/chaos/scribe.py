"""A worker that prints numbered lines and keeps account of them: `scribe.py FOLDER COUNT HOLD SEED`.

It prints the lines 0 to COUNT - 1, each 100 bytes, in writes of any size up to 64 KiB; one that follows a life that was killed
goes on where that was. Whoever judges need not believe corral: FOLDER/account/WORKER has a record for each life, which
says the first line, then up to where a write had begun, and up to where it was done. So of a killed life all is known
but how much of its last write reached the pipe; the next life leaves those lines out.

Before line HOLD (0 is none) it waits until somebody opens the FIFO FOLDER/go. When all is printed it waits for its end.
"""

import os
import random
import signal
import string
import struct
import sys

WIDTH = 100

RECORD = struct.Struct("<3q")
"""The first line of a life; up to where it has begun to write; up to where that was done."""

LONGEST_WRITE = 655
"""Lines: one write fills the pipe."""

_FILLS = [((string.ascii_lowercase[first:] + string.ascii_lowercase) * 4)[: WIDTH - 14].encode() for first in range(26)]


def line(number: int) -> bytes:
    """A line of its own, newline included: a piece of another one is no part of it."""
    return b"%012d %b\n" % (number, _FILLS[number % 26])


def main() -> None:
    folder, count, hold, seed = sys.argv[1], *map(int, sys.argv[2:])
    worker = os.environ["CORRAL_WORKER"].partition("#")[0]
    account = os.open(f"{folder}/account/{worker}", os.O_RDWR | os.O_CREAT, 0o600)
    size = os.fstat(account).st_size
    begun = 0
    if size:
        _, begun, _ = RECORD.unpack(os.pread(account, RECORD.size, size - RECORD.size))
    first = done = begun
    os.pwrite(account, RECORD.pack(first, begun, done), size)
    chance = random.Random(f"{seed} {worker} {first}")
    while begun < count:
        if begun == hold and hold:
            os.close(os.open(f"{folder}/go", os.O_RDONLY))
        end = hold if begun < hold else count
        begun = min(begun + chance.randint(1, LONGEST_WRITE), end)
        text = memoryview(b"".join(map(line, range(done, begun))))
        os.pwrite(account, RECORD.pack(first, begun, done), size)
        while text:
            text = text[os.write(1, text) :]
        done = begun
        os.pwrite(account, RECORD.pack(first, begun, done), size)
    signal.pause()  # an end would count as a failure, of one that was not Ready yet


if __name__ == "__main__":
    main()
