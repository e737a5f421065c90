"""Writes files for people: never over another one, and readable by their owner alone."""

import os

from corral.worker.contract.errors import Conflict, InvalidParams


def write_new(path: str, text: str, mode: int = 0o600) -> None:
    """Writes a new file."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise Conflict(f'cannot write "{path}": it is there already', file=path) from error
    except OSError as error:
        raise InvalidParams(f'cannot write "{path}": {(error.strerror or "").lower()}', file=path) from error
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def read_text(path: str, most_bytes: int) -> str:
    """Returns the text of a file."""
    try:
        with open(path, "rb") as file:
            data = file.read(most_bytes + 1)
        if len(data) > most_bytes:
            raise ValueError(f"it has more than {most_bytes} bytes")
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        if isinstance(error, UnicodeError):
            reason = "it is not UTF-8"
        raise InvalidParams(f'cannot read "{path}": {reason}', file=path, reason=reason) from error
