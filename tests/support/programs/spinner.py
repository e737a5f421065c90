"""A tree of processes that do nothing but use the processor: children, and one that left by a double fork."""

import os
import sys


def spin() -> None:
    while True:
        pass


def main() -> None:
    for _ in range(int(sys.argv[1])):
        if os.fork() == 0:
            spin()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            spin()
        os._exit(0)
    os.wait()
    spin()


if __name__ == "__main__":
    main()
