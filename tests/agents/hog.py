"""A program that takes memory: `hog.py self MIB`, `hog.py child MIB`, or `hog.py shared MIB PROCESSES`."""

import os
import sys
import time

MIB = 1024 * 1024


def main() -> None:
    how, size = sys.argv[1], int(sys.argv[2]) * MIB
    if how == "child" and os.fork():
        os.wait()
    taken = bytearray(b"x") * size
    if how == "shared":
        for _ in range(int(sys.argv[3])):
            if os.fork() == 0:
                break
    print("has", len(taken), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
