"""Decides whether a command line needs a shell, and returns the list of words that runs it."""

import re
import shlex

BUILTIN = frozenset(
    ("cd", "export", "source", ".", "set", "unset", "ulimit", "umask", "eval", "trap", "exec", "wait")
) | {"if", "for", "while", "until", "case", "{", "(", "!", ":", "alias", "local", "return", "function"}
"""First words that only a shell can run."""

OPERATORS = frozenset("();<>|&")
_EXPANDED = re.compile(r"[$`*?\[~#\n]|\{[^}]*,")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


def argv(line: str) -> list[str]:
    """Returns the words of a plain command, or a shell that runs the line.

    The shell becomes the program itself (`exec`) where the line is one command, so that signals reach it.
    """
    line = line.strip()
    words = _words(line)
    is_one = words is not None and not any(OPERATORS.issuperset(word) for word in words)
    is_plain = is_one and words and words[0] not in BUILTIN and not _ASSIGNMENT.match(words[0])
    if is_plain and not _EXPANDED.search(_outside_single_quotes(line)):
        return shlex.split(line)
    return ["sh", "-c", _replaced(line, words)]


def _words(line: str) -> list[str] | None:
    """Returns the words and operators; None where the quotes do not match."""
    try:
        lexer = shlex.shlex(line, posix=False, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        return list(lexer)
    except ValueError:
        return None


def _outside_single_quotes(line: str) -> str:
    return re.sub(r"'[^']*'", "", line)


def _replaced(line: str, words: list[str] | None) -> str:
    """Returns the line with `exec` before its last command, where the shell has nothing to do afterwards."""
    if words is None or not words or "\n" in line:
        return line
    operators = {word for word in words if OPERATORS.issuperset(word)}
    redirections = {word for word in operators if set(word) <= set("<>&") and word not in ("&", "&&")}
    if operators - redirections - {"&&"}:
        return line
    first = len(words) - words[::-1].index("&&") if "&&" in words else 0
    rest = words[first:]
    start = next((word for word in rest if not _ASSIGNMENT.match(word)), "")
    if not rest or start in BUILTIN or start.startswith("("):
        return line
    before, last = ("", line) if first == 0 else _halves(line)
    assigned = re.match(r"\s*(?:[A-Za-z_][A-Za-z0-9_]*=(?:'[^']*'|\"[^\"]*\"|[^\s'\"])*\s+)*", last)
    end = assigned.end() if assigned else 0
    return f"{before}{last[:end]}exec {last[end:].lstrip()}"


def _halves(line: str) -> tuple[str, str]:
    """Splits after the last `&&`; one in quotes is left alone by giving up on such a line."""
    at = line.rindex("&&") + 2
    if line[at:].count('"') % 2 or line[at:].count("'") % 2:
        return line, ""
    return line[:at] + " ", line[at:].lstrip()
