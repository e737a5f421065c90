"""Reads YAML as version 1.2 has it: `no` and `on` are words, `12:30` is a word."""

import re

import yaml

from ...worker.contract.errors import InvalidParams

NODES_MAX = 100_000
"""Number of nodes of a document: aliases can make a small file huge."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # it has no types
    """Reads plain data only; an alias may stand for what it names, but not without end."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in found
        if not tag.endswith((":bool", ":int", ":timestamp"))
    ]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^(?:[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+)$"),
    list("-+0123456789"),
)


def document(text: str, source: str) -> object:
    """Returns the first document.

    Raises:
        InvalidParams: the text is not YAML.
    """
    try:
        found: object = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        reason = str(getattr(error, "problem", "") or "it is nested too deeply")
        words = f'cannot read "{source}"{line}: {reason}'
        raise InvalidParams(words, file=source, reason=reason) from error
    _count(found)
    return found


def _count(found: object) -> None:
    left, seen = [found], 0
    while left:
        each = left.pop()
        seen += 1
        if seen > NODES_MAX:
            words = f"cannot read the document: it has more than {NODES_MAX} values"
            raise InvalidParams(words, reason="too many values")
        if isinstance(each, dict):
            left += each.values()
        elif isinstance(each, list):
            left += each
