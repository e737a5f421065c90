"""Makes changes of a folder durable: fsync(2) of a file alone does not keep its name."""

import os
import tempfile
from pathlib import Path

TEMPORARY = ".new-"
"""Beginning of the name of a file that is being written."""


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file of mode 0600 as a whole: it is the old or the new one whatever happens, and the new one on return.

    What an earlier write left that was killed is removed: only one process writes to the folder, one file at a time.
    """
    for each in os.listdir(path.parent):
        if each.startswith(TEMPORARY):
            os.unlink(path.parent / each)
    fd, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)  # 0600
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_folder(path.parent)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Returns when the names in a folder are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
