"""Programs that take more than they may: `hog.py HOW ARGUMENT…`. Standard library alone, whatever runs it."""

import contextlib
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Callable

MIB = 1024 * 1024


def rest() -> None:
    time.sleep(600)


def take(mib: str) -> None:
    """Touches memory at once."""
    taken = bytearray(b"x") * (int(mib) * MIB)
    print("has", len(taken), flush=True)
    rest()


def child(mib: str) -> None:
    """A child takes it; the leader waits for it."""
    if os.fork():
        os.wait()
        rest()
    take(mib)


def escapee(mib: str) -> None:
    """A process that has left the tree by a double fork, and the session too, takes it."""
    if os.fork() == 0:
        parent = os.getpid()
        os.setsid()
        if os.fork():
            os._exit(0)
        while os.getppid() == parent:
            time.sleep(0.001)
        print(os.getpid(), flush=True)
        take(mib)
    os.wait()
    rest()


def shared(mib: str, processes: str) -> None:
    """Children that share all of their memory with the leader."""
    taken = bytearray(b"x") * (int(mib) * MIB)
    for _ in range(int(processes)):
        if os.fork() == 0:
            break
    print("has", len(taken), flush=True)
    rest()


def mapped(path: str, processes: str) -> None:
    """Processes that each read the whole of one file through a mapping of it."""
    for _ in range(int(processes)):
        if os.fork() == 0:
            break
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        print("read", sum(pages[:: mmap.PAGESIZE]), flush=True)
        rest()


def spin(threads: str = "1") -> None:
    """Uses the processors; says each time when it has run for 0.1 s."""
    for _ in range(int(threads) - 1):
        if os.fork() == 0:
            break
    said = 0.0
    while True:
        used = time.process_time()
        if used - said >= 0.1:
            said = used
            os.write(1, f"{used}\n".encode())  # as a whole: others of the tree print too


def burst() -> None:
    """Uses a processor until SIGUSR1, and then rests."""
    is_over = False

    def end(_number: int, _frame: object) -> None:
        nonlocal is_over
        is_over = True

    signal.signal(signal.SIGUSR1, end)
    print("begins", flush=True)
    while not is_over:
        pass
    rest()


def spin_in_children(seconds: str) -> None:
    """Uses the processors in short-lived children, none of which comes near a limit of its own."""
    while True:
        if os.fork() == 0:
            while time.process_time() < float(seconds):
                pass
            os._exit(0)
        os.wait()


def stubborn() -> None:
    """Uses a processor, and ignores SIGXCPU."""
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    spin()


def open_files(count: str) -> None:
    """Opens files until it can open no more."""
    held: list[int] = []
    try:
        for _ in range(int(count)):
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        print(error.errno, flush=True)
    rest()


def bomb(doublings: str) -> None:
    """Starts children that start children, as fast as they can: 2 to the power of so many processes."""
    for _ in range(int(doublings)):
        with contextlib.suppress(BlockingIOError):
            os.fork()
    rest()


def fork_until_refused(count: str) -> None:
    """Starts children until fork says EAGAIN."""
    try:
        for _ in range(int(count)):
            if os.fork() == 0:
                rest()
    except OSError as error:
        print(error.errno, flush=True)
    rest()


def flare(count: str) -> None:
    """Rests for a second, starts children until fork says EAGAIN, and ends them at once."""
    print("begins", flush=True)
    time.sleep(1.0)
    children: list[int] = []
    try:
        for _ in range(int(count)):
            if (pid := os.fork()) == 0:
                rest()
            children.append(pid)
    except OSError as error:
        print(error.errno, flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    while True:
        time.sleep(0.01)
        sum(range(1000))


def write(path: str, mib: str) -> None:
    """Writes a file that is too large; Python ignores SIGXFSZ, other programs do not."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with open(path, "wb", buffering=0) as file:
        for _ in range(int(mib)):
            file.write(bytes(MIB))
    rest()


def reserve(mib: str) -> None:
    """Asks for address space, and says what came of it."""
    try:
        block = mmap.mmap(-1, int(mib) * MIB)
    except OSError as error:
        print(error.errno, flush=True)
    else:
        print("has", len(block), flush=True)
    rest()


def limits() -> None:
    """Prints the limits that it was started with."""
    names = ("CPU", "FSIZE", "NOFILE", "NPROC", "AS", "CORE")
    print(*(f"{n}={resource.getrlimit(getattr(resource, f'RLIMIT_{n}'))[0]}" for n in names))
    sys.stdout.flush()
    rest()


HOW: dict[str, Callable[..., None]] = {
    "take": take,
    "child": child,
    "escapee": escapee,
    "shared": shared,
    "mapped": mapped,
    "spin": spin,
    "burst": burst,
    "spin-in-children": spin_in_children,
    "stubborn": stubborn,
    "open-files": open_files,
    "bomb": bomb,
    "fork-until-refused": fork_until_refused,
    "flare": flare,
    "write": write,
    "reserve": reserve,
    "limits": limits,
}


def main() -> None:
    HOW[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
