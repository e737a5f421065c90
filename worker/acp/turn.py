"""Represents one prompt turn: the updates of the agent become parts of output, progress and log of its task.

The log keeps the conversation for readers who come later. Its records have fields that tell them from other lines:
`message` ("agent" or "thought"), `tool_call` with `status` and `kind`, `plan` (a list of `{content, status}`), and `path`
with `diff`, a unified diff. Updates come faster than the daemon may read: text is joined while it waits, and of other reports
a bounded number.
"""

import asyncio
import difflib
from collections import Counter, deque
from collections.abc import Mapping
from typing import Literal, NamedTuple

from ..contract.codec import as_array, as_object, encode
from ..contract.errors import ResourceLimitExceeded
from ..contract.parts import ESCAPE_BYTES, MAX_PART_BYTES
from ..sdk.results import Json
from ..sdk.task import Task
from .policy import Action, key_of

PART_CHARS = MAX_PART_BYTES // ESCAPE_BYTES - 2
"""Characters of text in one part."""

JOINED_CHARS = 4_000
"""Characters of text from which on the next text is one of its own."""

REPORTS_MOST = 1_000
"""Number of reports other than text that wait to be sent; more are dropped."""

RECORD_CHARS = 4_000
"""Characters of a message or of thoughts in one record of the log."""

DIFF_CHARS = 20_000
"""Characters of a diff in the log; the rest is left out."""

DIFF_LINES = 5_000
"""Lines of a file beyond which its changes are told without a diff, which would take seconds to make."""

PLAN_MOST = 50
"""Entries of a plan in the log."""

TITLE_CHARS = 500

OTHERS_MOST = 100
"""Number of content blocks of an output that are no text."""


class _Report(NamedTuple):
    """Represents something that the daemon is to be told."""

    kind: Literal["part", "progress", "log", "debug"]
    text: str
    fields: Mapping[str, Json] = {}
    done: float = 0.0
    total: float = 0.0


class Turn:
    """Collects the updates of one turn, and sends them on while `run` is awaited."""

    def __init__(self, task: Task, limit_bytes: int) -> None:
        self.task = task
        self.is_cancelled = False
        self._limit_bytes = limit_bytes
        self._segments: list[list[str]] = [[]]
        self._others: list[Json] = []
        self._is_after_tool = False
        self._size = 0
        self._is_too_long = False
        self._reports: deque[_Report] = deque()
        self._dropped = 0
        self._has_more = asyncio.Event()
        self._is_over = False
        self._tools: dict[str, tuple[str, str]] = {}
        self._edits: dict[tuple[str, str], object] = {}
        self._asked: Counter[str] = Counter()
        self._forms = 0
        self.questions: set[asyncio.Task[object]] = set()

    # -- the agent's side

    def update(self, update: Mapping[str, object]) -> None:
        """Takes the params of `session/update` of this turn."""
        kind = update.get("sessionUpdate")
        if kind == "agent_message_chunk":
            self._take_message(as_object(update.get("content")) or {})
        elif kind == "agent_thought_chunk":
            content = as_object(update.get("content")) or {}
            if isinstance(text := content.get("text"), str):
                self._report(_Report("debug", text))
        elif kind == "plan":
            self._planned(as_array(update.get("entries")) or [])
        elif kind in ("tool_call", "tool_call_update"):
            if kind == "tool_call":
                self._end_message()
                self._is_after_tool = True
            self._tool(update)

    def key_of(self, action: Action) -> str:
        """Returns the key of the next question about an action."""
        key = key_of(action, 0)
        self._asked[key] += 1
        return key_of(action, self._asked[key])

    def next_form(self) -> int:
        """Returns the number of the next form of the turn, which is the same in another attempt."""
        self._forms += 1
        return self._forms

    def _take_message(self, content: Mapping[str, object]) -> None:
        text = content.get("text")
        if content.get("type") == "text" and not isinstance(text, str):
            return
        if self._is_after_tool:
            self._is_after_tool = False
            self._segments.append([])
            self._others.clear()
        words = text if isinstance(text, str) and content.get("type") == "text" else None
        self._size += len(encode(content) if words is None else words.encode("utf-8", "replace"))
        if self._size > self._limit_bytes or len(self._others) >= OTHERS_MOST:
            self._is_too_long = True
            return
        if words is not None:
            self._segments[-1].append(words)
            self._report(_Report("part", words))
        else:
            self._others.append(dict(content))

    def _end_message(self) -> None:
        """Puts the message that was streamed into the log, unless it is there."""
        text = "" if self._is_after_tool else "".join(self._segments[-1])
        if text.strip():
            for at in range(0, len(text), RECORD_CHARS):
                self._report(_Report("log", text[at : at + RECORD_CHARS], {"message": "agent"}))

    def _planned(self, entries: list[object]) -> None:
        found = [fields for each in entries if (fields := as_object(each))]
        if not found:
            return
        done = sum(each.get("status") == "completed" for each in found)
        now = next((each for each in found if each.get("status") == "in_progress"), found[-1])
        title = str(now.get("content") or "")[:TITLE_CHARS]
        self._report(_Report("progress", title, done=done, total=len(found)))
        plan: list[Json] = [
            {"content": str(each.get("content") or "")[:TITLE_CHARS], "status": str(each.get("status") or "pending")}
            for each in found[:PLAN_MOST]
        ]
        self._report(_Report("log", f"plan: {done} of {len(found)} done, {title}", {"plan": plan}))

    def _tool(self, update: Mapping[str, object]) -> None:
        call = str(update.get("toolCallId"))
        title, before = self._tools.get(call, ("", ""))
        title = str(update.get("title") or title)[:TITLE_CHARS]
        status = str(update.get("status") or before or "pending")
        if len(self._tools) < REPORTS_MOST or call in self._tools:
            self._tools[call] = (title, status)
        self._edited(call, update)
        if status == before or (status == "in_progress" and before):
            return
        fields: dict[str, Json] = {"tool_call": call[:TITLE_CHARS], "status": status}
        if isinstance(kind := update.get("kind"), str):
            fields["kind"] = kind
        self._report(_Report("log", title or "a tool call", fields))

    def _edited(self, call: str, update: Mapping[str, object]) -> None:
        """Reports the files that a tool call changes, each change once."""
        for content in map(as_object, as_array(update.get("content")) or []):
            if content is None or content.get("type") != "diff" or len(self._edits) >= REPORTS_MOST:
                continue
            path = str(content.get("path"))[:TITLE_CHARS]
            texts = (str(content.get("oldText") or ""), str(content.get("newText") or ""))
            if self._edits.get((call, path)) != hash(texts):
                self._edits[call, path] = hash(texts)
                fields: dict[str, Json] = {"tool_call": call[:TITLE_CHARS], "path": path, "diff": diff_of(*texts)}
                self._report(_Report("log", f"changes {path}", fields))

    def _report(self, report: _Report) -> None:
        last = self._reports[-1] if self._reports else None
        is_text = report.kind in ("part", "debug")
        if last is not None and is_text and last.kind == report.kind and len(last.text) < JOINED_CHARS:
            self._reports[-1] = last._replace(text=last.text + report.text)
        elif report.kind == "part" or len(self._reports) < REPORTS_MOST:
            self._reports.append(report)
        else:
            self._dropped += 1
        self._has_more.set()

    # -- the task's side

    async def run(self) -> None:
        """Sends what comes, until `finish` and all is sent."""
        while True:
            await self._has_more.wait()
            self._has_more.clear()
            while self._reports:
                await self._send(self._reports.popleft())
            if self._is_over:
                return

    def finish(self) -> None:
        """Ends `run` once all is sent."""
        self._end_message()
        self._is_over = True
        if self._dropped:
            self._reports.append(_Report("log", f"{self._dropped} reports of the agent came too fast"))
        self._has_more.set()

    async def _send(self, report: _Report) -> None:
        task = self.task
        if report.kind == "part":
            for at in range(0, len(report.text), PART_CHARS):
                await task.stream(report.text[at : at + PART_CHARS])
        elif report.kind == "progress":
            await task.progress(report.done, report.text, total=report.total)
        elif report.kind == "debug":
            task.log(f"thinks: {report.text[:RECORD_CHARS]}", "debug", message="thought")
            task.beat()
        else:
            task.log(report.text, **report.fields)
            task.beat()

    @property
    def last_message(self) -> str:
        """Returns the text of the agent after its last tool call that has any."""
        texts = ("".join(segment) for segment in reversed(self._segments))
        return next((text for text in texts if text.strip()), "")

    @property
    def others(self) -> list[Json]:
        """Returns the content of the last message that is no text."""
        if self._is_too_long:
            text = f'cannot keep the output of task "{self.task.id}": it has more than {self._limit_bytes} bytes'
            raise ResourceLimitExceeded(text, limit="max_output_size_bytes", value=self._limit_bytes)
        return self._others


def diff_of(old: str, new: str) -> str:
    """Returns the changes between two texts as the hunks of a unified diff, without its header; "" for texts that are too long."""
    before, after = old.splitlines(), new.splitlines()
    if max(len(before), len(after)) > DIFF_LINES:
        return ""
    lines = list(difflib.unified_diff(before, after, lineterm=""))[2:]
    return "\n".join(lines)[:DIFF_CHARS]
