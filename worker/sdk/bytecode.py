"""Detects saved bytecode that may be stale, so that an agent always runs its source as written.

Python accepts a .pyc file if it records the source's size and modification time in whole seconds: a source that is
written twice in one second, with the same length, would run as the first version for ever. Needs little of the
standard library, because each worker that starts cold imports it.
"""

import contextlib
import os
from collections.abc import Callable, Generator
from importlib.machinery import SourceFileLoader
from typing import Any

SETTLED_NS = 1_000_000_000
"""Nanoseconds between the last change of a source and the saving of its bytecode, below which it is not trusted."""


def _ignore(_path: str, _text: bytes) -> None:
    return


@contextlib.contextmanager
def imports_as_written(note: Callable[[str, bytes], None] = _ignore) -> Generator[None, None, None]:
    """Imports modules inside the block from their sources where their bytecode may be stale.

    `note` is called with the path and the text of each source that is compiled.
    """
    # Patches the loader of all sources, because an own finder would stay in the agent's process.
    loader: type[SourceFileLoader] = SourceFileLoader
    read, compiled = loader.get_data, loader.source_to_code

    def get_data(self: SourceFileLoader, path: str) -> bytes:
        if path != self.path and not is_installed(self.path) and _may_be_earlier(path, self.path):
            raise FileNotFoundError(path)  # makes Python compile the source and save it anew
        return read(self, path)

    def source_to_code(self: SourceFileLoader, data: bytes, *more: Any, **options: Any) -> object:
        note(self.path, data)  # Any: other versions of Python pass more arguments
        return compiled(self, data, *more, **options)

    ours = {"get_data": get_data, "source_to_code": source_to_code}
    for name, function in ours.items():
        setattr(loader, name, function)
    try:
        yield
    finally:
        for name, function in ours.items():
            if vars(loader).get(name) is function:  # else a library has wrapped it
                delattr(loader, name)


def is_installed(path: str) -> bool:
    """Returns True for files of the interpreter or of an installed package, which are not edited in place."""
    parts = path.split(os.sep)
    library = os.path.dirname(os.__file__) + os.sep
    return path.startswith(library) or "site-packages" in parts or "dist-packages" in parts


def _may_be_earlier(path: str, source: str) -> bool:
    """Returns True if `path` is bytecode that may not match the present source."""
    if not path.endswith(".pyc"):
        return False
    try:
        saved_ns, changed_ns = os.stat(path).st_mtime_ns, os.stat(source).st_ctime_ns
    except OSError:
        return False  # the import reports the missing file
    return saved_ns < changed_ns + SETTLED_NS
