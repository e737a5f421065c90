"""Reads KEY=VALUE words, by which tables are changed."""

import json

from corral.worker.contract.errors import InvalidParams


def assigned(name: str, text: str) -> tuple[str, str]:
    """Splits KEY=VALUE, a change of the table of `name`."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        reason = f"{text!r} is not KEY=VALUE"
        raise InvalidParams(f"cannot set {name}: {reason}", key=text, reason=reason)
    return key, value


def toml_value(text: str) -> object:
    """Returns a value in TOML, or the text itself."""
    import tomllib  # noqa: PLC0415 - start-up time: few commands read TOML

    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError):  # a date or an infinite number, which are texts here
        return text
    return found["value"] if len(found) == 1 else text
