"""Fills a file system, and gives its room back."""

import os
import subprocess
from pathlib import Path

FILLER = "filler"
BLOCK = bytes(64 * 1024)


def mount(folder: Path, size: str) -> None:
    """Makes a folder a file system in memory of its own, such as "32m"; see `unmount`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "corral-test", str(folder)], check=True)


def unmount(folder: Path) -> None:
    """Takes the file system away, whatever is open in it."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Writes until nothing has room."""
    with (folder / FILLER).open("ab", buffering=0) as file:
        for size in (len(BLOCK), 1):
            try:
                while True:
                    file.write(BLOCK[:size])
            except OSError:
                continue
        os.fsync(file.fileno())


def free(folder: Path) -> None:
    """Gives the room back."""
    (folder / FILLER).unlink()
