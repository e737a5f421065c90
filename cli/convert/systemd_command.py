"""Splits the command lines of units as systemd does, and makes of several commands, or of variables, a line of shell.

See "COMMAND LINES" in systemd.service(5): quotes may be anywhere, escapes are those of C, a word `;` ends a command,
`${NAME}` in a word is the variable, `$NAME` as a word of its own the words in it, and `$$` a dollar. No shell is there:
all else of a word is quoted in a line of shell that needs one.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .draft import Unfit

_WORD = re.compile(r"""((?:\\.|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s"'\\])+)(?:\s+|\Z)""", re.DOTALL)
_PIECE = re.compile(r"""\\(x[0-9a-fA-F]{2}|[0-7]{3}|.)|(["'])""", re.DOTALL)
_VARIABLE = re.compile(r"(\$\$)|\$\{([A-Za-z_]\w*)\}")
_SPLIT = re.compile(r"\$[A-Za-z_]\w*")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "s": " ", "t": "\t", "v": "\v"}


class Command(NamedTuple):
    """Represents one command of ExecStart=: the signs before it, and its words with their variables."""

    signs: str
    words: list[str]


def words(line: str) -> list[str]:
    """Returns the words of a line, without their quotes."""
    return [_unquoted(word) for word in _split(line)]


def _split(line: str) -> list[str]:
    found, end = list[str](), 0
    while end < len(line):
        match = _WORD.match(line, end)
        if match is None:
            raise Unfit("its quotes do not match")
        found.append(match[1])
        end = match.end()
    return found


def _unquoted(word: str) -> str:
    quote = ""

    def piece(match: re.Match[str]) -> str:
        nonlocal quote
        if match[2]:
            if quote not in ("", match[2]):
                return match[2]
            quote = "" if quote else match[2]
            return ""
        code = match[1]
        if len(code) == 3:
            return chr(int(code[1:], 16) if code[0] == "x" else int(code, 8)).replace("\0", match[0])
        return _ESCAPES.get(code, code if code in "\\\"'; " else match[0])

    return _PIECE.sub(piece, word)


def commands(line: str) -> list[Command]:
    """Returns the commands of a line."""
    found: list[Command] = []
    rest = _split(line.strip())
    while rest:
        end = rest.index(";") if ";" in rest else len(rest)
        command, rest = [_unquoted(word) for word in rest[:end]], rest[end + 1 :]
        signs = re.match(r"[@:+!|-]*", command[0] if command else "")
        if command and signs:
            own = [command[0][signs.end() :], *command[1:]]
            is_literal = ":" in signs[0]  # it has no variables
            found.append(Command(signs[0], [word.replace("$", "$$") for word in own] if is_literal else own))
    return found


def argv(run: Sequence[Command], say: Callable[[str], str]) -> list[str]:
    """Returns the words that run commands one after the other, each if the one before has not failed.

    The failure of one with the sign `-` does not count. `say` replaces specifiers in the words.
    """
    if len(run) == 1 and not any(_SPLIT.fullmatch(w) or any(m[2] for m in _VARIABLE.finditer(w)) for w in run[0].words):
        return [say(word.replace("$$", "$")) for word in run[0].words]
    lines = [" ".join(w if _SPLIT.fullmatch(w) else _quoted(w, say) for w in each.words) for each in run]
    lines[-1] = lines[-1] if "-" in run[-1].signs else f"exec {lines[-1]}"
    groups = [f"{{ {line} || :; }}" if "-" in each.signs else line for line, each in zip(lines, run, strict=True)]
    splits = any(_SPLIT.fullmatch(word) for each in run for word in each.words)
    return ["/bin/sh", "-c", ("set -f; " if splits else "") + " && ".join(groups)]


def _quoted(word: str, say: Callable[[str], str]) -> str:
    """Returns a word for a shell, in which only `${NAME}` is a variable."""
    pieces, end = list[str](), 0
    for found in _VARIABLE.finditer(word):
        plain = word[end : found.start()] + ("$" if found[1] else "")
        pieces += [shlex.quote(say(plain)) if plain else "", f'"${{{found[2]}}}"' if found[2] else ""]
        end = found.end()
    rest = word[end:]
    return "".join([*pieces, shlex.quote(say(rest)) if rest or not pieces else ""])
