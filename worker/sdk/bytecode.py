"""Bytecode that Python has saved beside a source, and when that may be of an earlier text of it.

Python takes it for what the source holds while both agree on the source's size and, in whole seconds, on when it
was written: what is written twice in one second, and as long, would run as the first of the two for ever.
Standard library alone, and of that little: each worker that starts cold has to import it.
"""

import contextlib
import os
from collections.abc import Callable, Generator
from importlib.machinery import SourceFileLoader
from typing import Any

SETTLED_NS = 1_000_000_000
"""A source that had not changed for so long when its bytecode was saved had not been read before that, either."""


def _ignore(_path: str, _text: bytes) -> None:
    return


@contextlib.contextmanager
def imports_as_written(
    note: Callable[[str, bytes], None] = _ignore,
) -> Generator[None, None, None]:
    """What is imported meanwhile is what its source holds, where somebody edits that.

    `note` is called with the path and the text of each source that is compiled.
    """
    # The class that every source is imported by: a finder of our own would stay in the agent's process for good.
    loader: type[SourceFileLoader] = SourceFileLoader
    read, compiled = loader.get_data, loader.source_to_code

    def get_data(self: SourceFileLoader, path: str) -> bytes:
        if path != self.path and not is_installed(self.path) and _may_be_earlier(path, self.path):
            raise FileNotFoundError(path)  # which has the source compiled, and this saved anew
        return read(self, path)

    def source_to_code(self: SourceFileLoader, data: bytes, *more: Any, **options: Any) -> object:
        note(self.path, data)  # Any: what other versions of Python give along
        return compiled(self, data, *more, **options)

    ours = {"get_data": get_data, "source_to_code": source_to_code}
    for name, function in ours.items():
        setattr(loader, name, function)
    try:
        yield
    finally:
        for name, function in ours.items():
            if vars(loader).get(name) is function:  # else a library has put its own around it
                delattr(loader, name)


def is_installed(path: str) -> bool:
    """It is the interpreter's, or was put there by an installer: nobody edits it in place."""
    parts = path.split(os.sep)
    library = os.path.dirname(os.__file__) + os.sep
    return path.startswith(library) or "site-packages" in parts or "dist-packages" in parts


def _may_be_earlier(path: str, source: str) -> bool:
    """Whether `path` is bytecode that may be of another text than the source holds now."""
    if not path.endswith(".pyc"):
        return False
    try:
        saved_ns, changed_ns = os.stat(path).st_mtime_ns, os.stat(source).st_ctime_ns
    except OSError:
        return False  # the import says what is missing
    return saved_ns < changed_ns + SETTLED_NS
