"""Makes changes of a folder durable: fsync(2) of a file alone does not keep its name."""

import os


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Returns when the names in a folder are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
