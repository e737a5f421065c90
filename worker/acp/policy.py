"""Decides whether an action that an ACP agent asks permission for is permitted, refused, or a question to a person.

Values in, values out. The title of an action is written by a model, so that a rule permits by it only where it is the
name of a tool; a rule that refuses or asks looks at the whole of it.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, cast

from ..contract.approvals import OPTION_CHARS, OPTIONS_MOST, QUESTION_CHARS
from ..contract.codec import as_array, as_object, decode, encode

Decision = Literal["allow", "ask", "deny"]

STRICTEST_FIRST: tuple[Decision, ...] = ("deny", "ask", "allow")

DETAIL_BYTES = 48 * 1024
"""Bytes of JSON of the action in a question."""

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")

_OURS = re.compile(r"mcp_corral_(?=[^_])")
"""Beginning of a tool of the pool as Gemini CLI names it; others write `mcp__corral__`."""

_WORDS = {"allow_once": "allow", "allow_always": "allow always", "reject_once": "deny", "reject_always": "deny always"}
"""Answer to a question by the kind of the option that it stands for."""


class Policy(NamedTuple):
    """Holds what the spec of an agent says about permissions: globs of actions in `rules`, and what holds for all others."""

    default: Decision = "ask"
    rules: Mapping[str, Decision] = {}
    timeout_s: float | None = None


class Option(NamedTuple):
    """Represents an option that the agent offers with an action."""

    id: str
    kind: str
    name: str


class Action(NamedTuple):
    """Represents what an agent wants to do: the kind of ACP, the name of its tool if it gives one, and its words."""

    kind: str
    tool: str
    title: str
    fields: Mapping[str, object]

    @property
    def names(self) -> list[str]:
        """Returns the words that are no text of a model."""
        title = self.title if _NAME.fullmatch(self.title) else ""
        alias = _OURS.sub("mcp__corral__", self.tool, 1) if _OURS.match(self.tool) else ""
        return [name for name in (self.kind, self.tool, alias, title) if name]

    @property
    def words(self) -> list[str]:
        """Returns the texts that describe the action: its title, and the command that it would run."""
        command = (as_object(self.fields.get("rawInput")) or {}).get("command")
        parts = as_array(command)
        line = " ".join(map(str, parts)) if parts is not None else command
        return [self.title, line] if isinstance(line, str) else [self.title]


def policy_of(text: str) -> Policy:
    """Decodes the policy that the daemon passes as JSON."""
    found = as_object(decode(text.encode()))
    if found is None:
        raise ValueError("the policy is no object")
    rules = as_object(found.get("rules")) or {}
    given = {found.get("default"), *rules.values()}
    timeout_s = found.get("timeout_s")
    if not given <= set(STRICTEST_FIRST) or not isinstance(timeout_s, int | float | None):
        raise ValueError("the policy has an unknown word")
    return Policy(cast("Decision", found["default"]), cast("Mapping[str, Decision]", rules), timeout_s)


def action_of(call: Mapping[str, object]) -> Action:
    """Reads the tool call of a request for permission."""
    meta = as_object(call.get("_meta")) or {}
    tool = ""
    for value in (meta, *map(as_object, meta.values())):
        name = value.get("toolName") if value is not None else None
        if isinstance(name, str):
            tool = name
            break
    kind, title = call.get("kind"), call.get("title")
    return Action(
        kind if isinstance(kind, str) else "other",
        tool or _tool_in(call.get("toolCallId")),
        title if isinstance(title, str) else "",
        call,
    )


def _tool_in(call_id: object) -> str:
    """Returns the name of the tool before the last `__` of a call's id, where Gemini CLI alone has it; else "".

    Its title is a command line, the words of a model, or `now (corral MCP Server)`, and it sends no input.
    """
    name = call_id.rpartition("__")[0] if isinstance(call_id, str) else ""
    return name if _NAME.fullmatch(name) else ""


def decision(policy: Policy, action: Action) -> Decision:
    """Returns the strictest decision of the rules that name the action; without one that of the policy."""
    found: set[Decision] = set()
    for glob, word in policy.rules.items():
        names = action.names if word == "allow" else [*action.names, *action.words]
        if any(fnmatchcase(name.lower(), glob.lower()) for name in names):
            found.add(word)
    return next((word for word in STRICTEST_FIRST if word in found), policy.default)


def options_of(params: Mapping[str, object]) -> list[Option]:
    """Reads the options of a request for permission; those of another shape are left out."""
    found: list[Option] = []
    for each in as_array(params.get("options")) or []:
        fields = as_object(each) or {}
        option = fields.get("optionId")
        if isinstance(option, str):
            kind, name = str(fields.get("kind") or ""), str(fields.get("name") or option)
            found.append(Option(option, kind, name))
    return found


def option_for(word: Literal["allow", "deny"], options: Iterable[Option]) -> str | None:
    """Returns the id of the option that stands for a decision, for this once if possible; None if none does."""
    kinds = ("allow_once", "allow_always") if word == "allow" else ("reject_once", "reject_always")
    by_kind: dict[str, str] = {}
    for option in options:
        by_kind.setdefault(option.kind, option.id)
    return next((by_kind[kind] for kind in kinds if kind in by_kind), None)


def answers(options: Sequence[Option]) -> dict[str, str]:
    """Returns the answers that a person may give, each with the id of its option.

    The first option of a kind has the word of the kind: allow, allow always, deny, deny always.
    """
    found: dict[str, str] = {}
    lowered: set[str] = set()
    for option in options:
        word = _WORDS.get(option.kind, option.name)
        if word.lower() in lowered:
            word = f"{word}: {option.name}"
        word = word[:OPTION_CHARS] or option.id[:OPTION_CHARS]
        if word.lower() in lowered or not word or len(found) == OPTIONS_MOST:
            continue
        lowered.add(word.lower())
        found[word] = option.id
    return found


def question_of(action: Action) -> str:
    """Returns the question about an action, in words."""
    words = action.title or action.tool or "an action without a title"
    text = f"Permit {action.kind}: {words}"
    return text if len(text) < QUESTION_CHARS else f"{text[: QUESTION_CHARS - 2]}…"


def detail_of(action: Action, options: Iterable[Option]) -> dict[str, object]:
    """Returns what a question is about, as JSON of a bounded size: the text of what is too long is cut."""
    found: dict[str, object] = {
        "kind": action.kind,
        "tool": action.tool,
        "title": action.title[:QUESTION_CHARS],
        "options": [{"name": each.name[:OPTION_CHARS], "kind": each.kind} for each in options][:OPTIONS_MOST],
    }
    left = DETAIL_BYTES
    for key, name in (("rawInput", "input"), ("locations", "locations"), ("content", "content")):
        value = action.fields.get(key)
        if value is None:
            continue
        text = encode(value)
        if len(text) > left:
            value = f"{text[:left].decode('utf-8', 'ignore')}…"
        found[name] = value
        left = max(left - len(text), 0)
    return found


def key_of(action: Action, number: int) -> str:
    """Returns the key by which a task that is begun again knows its question; `number` counts equal ones of a turn."""
    words = encode([action.kind, action.tool, action.title, action.fields.get("rawInput")])
    return f"permission-{hashlib.sha256(words).hexdigest()[:32]}-{number}"
