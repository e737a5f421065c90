"""Moves the wall clock of single programs while they run, by a library that they preload, and gives others boot clocks of their own.

The clock of the machine stays as it is. A program in Go, such as nats-server, asks the kernel by itself: its clock cannot be moved so.
"""

import os
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


def why_not() -> str:
    """Returns why there can be no such clocks here, "" where there can."""
    return "" if shutil.which("cc") else "cc is not installed"


def why_no_boot_clock() -> str:
    """Returns why a program can have no boot clock of its own here, "" where it can."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return "only root can make time namespaces"
    tried = subprocess.run([*boot_clock(1), "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else ""


def boot_clock(ahead_s: int) -> tuple[str, ...]:
    """Returns the words in front of a command whose monotonic and boot clocks are ahead of those of the machine."""
    return ("unshare", f"--monotonic={ahead_s}", f"--boottime={ahead_s}", "--")


class WallClock:
    """Holds the wall clock of the programs that have `environ`."""

    def __init__(self, folder: Path, name: str) -> None:
        library = folder / "clock.so"
        if not library.exists():
            subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
        self._path = folder / f"{name}.clock"
        self._path.write_bytes(bytes(8))
        self.environ = {"LD_PRELOAD": str(library), "TEST_CLOCK": str(self._path)}
        self.moved_s = 0.0

    def move(self, seconds: float) -> None:
        """Sets it ahead, or back, by so much more."""
        self.moved_s += seconds
        with self._path.open("r+b") as file:
            file.write(struct.pack("=q", int(self.moved_s * 1e9)))
