"""Reads YAML as version 1.2 has it: `no` and `on` are words, `12:30` is a word."""

import json
import re
from functools import lru_cache
from typing import Any

from corral.worker.contract.errors import InvalidParams

OTHERS = (":bool", ":int", ":timestamp")
"""Endings of the kinds of plain words that YAML 1.1 and 1.2 read differently."""

NODES_MAX = 100_000
"""Number of nodes of a document: aliases can make a small file huge."""


_BOOLEAN = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INTEGER = re.compile(r"^(?:[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+)$")


@lru_cache
def _loader() -> Any:  # Any: PyYAML has no types
    """Returns a loader of plain data, with the words of YAML 1.2."""
    import yaml  # noqa: PLC0415 - only files in YAML need it

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # it has no types
        pass

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith(OTHERS)]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOLEAN, list("tTfF"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
    return Loader


def document(text: str, source: str) -> object:
    """Returns the first document; one of JSON as JSON says, whose escapes have two halves of a character."""
    import yaml  # noqa: PLC0415 - only files in YAML need it

    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    try:
        found = yaml.load(text, _loader()) if found is None else found
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        reason = str(getattr(error, "problem", "") or "it is nested too deeply")
        raise InvalidParams(f'cannot read "{source}"{line}: {reason}', file=source, reason=reason) from error
    check(found)
    return found


def check(found: object) -> None:
    """Refuses a document that is too large, or has texts that no program can be given."""
    left, seen = [found], 0
    while left:
        each = left.pop()
        seen += 1
        if seen > NODES_MAX:
            words = f"cannot read the document: it has more than {NODES_MAX} values"
            raise InvalidParams(words, reason="too many values")
        if isinstance(each, str) and re.search("[\0\ud800-\udfff]", each):
            reason = "it has a NUL, or half a character"
            raise InvalidParams(f"cannot read the document: {reason}", reason=reason)
        if isinstance(each, dict):
            left += each.values()
        elif isinstance(each, list):
            left += each
