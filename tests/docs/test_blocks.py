"""Runs the commands and programs of README, docs/, generated pages and the examples' pages, page by page, as a new user would type them.

A page has a folder, a home and a daemon of its own. Its blocks are taken in order: a `console` block is typed line by line
into one shell, and its output compared; `python` is run, `toml` is checked by `corrald --check`, `json` is parsed. A comment
directly above a block says more: `<!-- file: NAME -->` saves it under that name in place of running it (`<!-- add to: NAME -->`
appends it), `<!-- exit: N -->` is the status of its last command, `<!-- folder: PATH -->` begins with a copy of that folder of the repository, and
`<!-- not run: REASON -->` leaves it out. In an expected output `…` is any text, on a line of its own any lines, and
every number stands for any number, unless the comment is `<!-- exact -->`; 4711 in a command is the pid of the page's daemon, and 86399 a number of this run alone.
A `make` is only asked what it would do.
"""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import pytest

from corral.worker.client.sync import await_daemon
from corral.worker.contract.errors import CorralError
from documents import ROOT, pages

BIN = Path(sys.executable).parent

BOUND_S = 60.0
"""Seconds that one command may take, and that a daemon may take to answer."""

FOLLOWED_S = 1.5
"""Seconds after which a command that follows (`-f`) gets the Ctrl-C of its reader."""

PAGES = pages()

BLOCK = re.compile(
    r"(?:^[ ]*<!-- (?P<key>not run|file|add to|exit|folder|exact)(?:: (?P<value>[^\n]*?))? -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)\n(?P<text>.*?)^[ ]*```$",
    re.MULTILINE | re.DOTALL,
)

RUNNABLE = ("console", "python", "toml", "json", "yaml", "sh", "bash", "javascript")

FOLLOWING = re.compile(r"corral (logs|events)\b.* -f\b")


@dataclass(frozen=True)
class Block:
    """A fenced block, its line in the page, and the comment above it."""

    line: int
    language: str
    text: str
    key: str
    value: str


def blocks_of(page: str) -> list[Block]:
    """Returns the blocks of a page in their order."""
    text = PAGES[page]
    found: list[Block] = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        indent = match["indent"]
        body = "".join(each.removeprefix(indent) for each in match["text"].splitlines(keepends=True))
        key, value = match["key"] or "", match["value"] or ""
        found.append(Block(line, match["language"], body, key, value))
    return found


@dataclass
class Command:
    """One command of a `console` block with the output that the page shows for it."""

    text: str
    shown: list[str] = field(default_factory=list[str])


def commands_of(block: Block) -> Iterator[Command]:
    """Splits a `console` block: a line after `$ ` is a command, the others are its output or its here-document."""
    command: Command | None = None
    here: str | None = None
    for line in block.text.splitlines():
        if here is not None and command is not None:
            command.text += f"\n{line}"
            here = None if line == here else here
        elif command is not None and command.text.endswith("\\"):
            command.text += f"\n{line.removeprefix('> ')}"
        elif line == "$" or line.startswith("$ "):
            if command is not None:
                yield command
            command = Command(line[2:])
            opened = re.search(r"<<-?\s*'?(\w+)'?", line)
            here = opened[1] if opened is not None else None
        else:
            assert command is not None, f"a block of commands begins with '$ ', not {line!r}"
            command.shown.append(line)
    if command is not None:
        yield command


def pattern_of(line: str, *, is_exact: bool = False) -> str:
    """Returns the regular expression for one shown line: any text for `…`, and any number for a number unless exact."""
    parts: list[str] = []
    for part in re.split(r"(…|\s+|\d+(?:\.\d+)?(?:(?:ms|[smhdKMG])\b)?)", line.strip()):
        if part == "…":
            parts.append(".*")
        elif part.isspace():
            parts.append(r"\s+")
        elif re.match(r"\d", part) and not is_exact:
            parts.append(r"(?:\d+(?:\.\d+)?(?:ms|[smhdKMG])?\s?)+")
        else:
            parts.append(re.escape(part))
    return "".join(parts)


def is_shown(shown: list[str], said: str, *, is_exact: bool = False) -> bool:
    """Decides whether an output is the one that the page shows; a page may show none."""
    lines = [line for line in shown if line.strip()]
    if not lines:
        return True
    pattern = ""
    for line in lines:
        pattern += r"(?:.*\n)*?" if line.strip() == "…" else rf"\s*{pattern_of(line, is_exact=is_exact)}\s*\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in said.splitlines() if line)) is not None


class Reader:
    """Follows one page in a folder of its own: a shell, and the daemon that the page starts."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="corral-page-"))
        self.work = self.folder / "work"
        for name in ("work", "home", "run"):
            (self.folder / name).mkdir(mode=0o700)
        self.socket = self.folder / "corral.sock"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORRAL_", "XDG_"))}
        self.environ = {
            **kept,
            "PATH": f"{BIN}:{BIN.parent / 'node' / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "CORRAL_SOCKET": str(self.socket),
            "CORRAL_STATE_DIR": str(self.folder / "state"),
            "CORTEX_DB": str(self.folder / "cortex.db"),
            "NO_COLOR": "1",
        }
        self.daemon: subprocess.Popen[bytes] | None = None
        self.log: IO[bytes] = (self.folder / "daemon.log").open("ab")
        self.shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=self.work,
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        assert self.shell.stdin is not None, "it has pipes"
        assert self.shell.stdout is not None, "it has pipes"
        self.shell.stdin.close()
        self.shell.wait(BOUND_S)
        self.shell.stdout.close()
        self.stop()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """Ends the daemon, where there is one."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(BOUND_S)

    def begin(self, command: str) -> None:
        """Starts a daemon as in a second terminal, and waits until it answers."""
        self.stop()
        self.daemon = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.work,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        deadline = time.monotonic() + BOUND_S
        while True:
            try:
                with await_daemon(str(self.socket), patience_s=1.0) as client:
                    client.call("daemon.status", {}, timeout_s=BOUND_S)
            except CorralError as error:
                if self.daemon.poll() is None and time.monotonic() < deadline:
                    continue
                said = (self.folder / "daemon.log").read_text()
                raise AssertionError(f"no answer of `{command}`: {error}\n{said}") from error
            return

    def type(self, command: str) -> tuple[int, str, str]:
        """Types a command into the shell; returns its status, its output and its messages."""
        if command.startswith("corrald ") and "--check" not in command:
            # In the foreground: the page's end has to end it, too.
            self.begin(command.removesuffix("&").replace(" --detach", ""))
            return 0, "", ""
        if re.match(r"corral (?!-)", command) and self.daemon is None:
            here = (self.work / "corral.toml").exists()
            self.begin(f"corrald --config {'corral.toml' if here else '/dev/null'}")
        if self.daemon is not None:
            command = command.replace("4711", str(self.daemon.pid))
        command = command.replace("86399", str(10**6 + os.getpid()))
        if command.startswith("make "):
            command = f"make -n {command.removeprefix('make ')}".replace("-n ", f"-n -C {ROOT} ", 1)
        if FOLLOWING.search(command):
            bare = re.sub(r"\s+#.*$", "", command)
            command = f"timeout --preserve-status -s INT {FOLLOWED_S} {bare}"
        (self.folder / "typed.sh").write_text(f"{command}\n")
        assert self.shell.stdin is not None, "it has pipes"
        assert self.shell.stdout is not None, "it has pipes"
        errors = self.folder / "errors"
        mark = "end-of-what-was-typed"
        typed = f"source {self.folder}/typed.sh </dev/null 2>{errors}; printf '\\n%s %s\\n' {mark} $?\n"
        self.shell.stdin.write(typed)
        self.shell.stdin.flush()
        said: list[str] = []
        for line in self.shell.stdout:
            if line.startswith(mark):
                return int(line.split()[1]), "".join(said), errors.read_text()
            said.append(line)
        raise AssertionError(f"the shell has ended: {''.join(said)}")

    def follow(self, block: Block) -> None:
        """Does with a block what its language and its comment ask for."""
        if block.key == "folder":
            shutil.copytree(ROOT / block.value, self.work, dirs_exist_ok=True)
        if block.key in ("file", "add to"):
            self.save(block)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "toml":
            checked = self.work / "checked.toml"
            checked.write_text(block.text)
            self.check(checked)
        elif block.language == "python":
            program = self.work / "program.py"
            program.write_text(block.text)
            status, _, errors = self.type(f"{sys.executable} program.py")
            assert status == 0, errors
        elif block.language == "console":
            self.enter(block)
        else:
            raise AssertionError(f"a block in {block.language} is neither a file nor marked as not run")

    def save(self, block: Block) -> None:
        """Saves a block as a file, and looks whether it can be read as what it is."""
        path = self.work / block.value
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if block.key == "add to" else ""
        path.write_text(before + block.text)
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "toml" and path.name == "corral.toml":
            self.check(path)
        elif block.language == "json":
            json.loads(block.text)

    def check(self, path: Path) -> None:
        """Has `corrald --check` read a configuration."""
        done = subprocess.run(
            [str(BIN / "corrald"), f"--config={path}", "--check"],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def enter(self, block: Block) -> None:
        """Types the commands of a block, and compares what they say with what the page shows."""
        commands = list(commands_of(block))
        for command in commands:
            status, said, errors = self.type(command.text)
            wanted = int(block.value) if block.key == "exit" and command is commands[-1] else 0
            if FOLLOWING.search(command.text):
                assert status in (0, 128 + signal.SIGINT), (command.text, said, errors)
            else:
                assert status == wanted, (command.text, status, said, errors)
            is_so = any(is_shown(command.shown, each, is_exact=block.key == "exact") for each in (said, errors + said))
            assert is_so, (command.text, command.shown, said, errors)

    def read(self, page: str) -> None:
        """Does what a page says, block by block."""
        for block in blocks_of(page):
            if block.language in RUNNABLE and block.key != "not run":
                try:
                    self.follow(block)
                except AssertionError as error:
                    log = (self.folder / "daemon.log").read_text()
                    raise AssertionError(f"{page}, line {block.line}: {error}\n{log}") from error


def has_work(page: str) -> bool:
    """Decides whether a page has a block to run."""
    return any(b.language in RUNNABLE and b.key != "not run" for b in blocks_of(page))


def marks_of(page: str) -> list[pytest.MarkDecorator]:
    """Returns `long` for the pages that `make long` tries; what a newcomer reads first is tried each time."""
    is_first = "/" not in page or page.startswith(("docs/tutorial", "examples"))
    return [] if is_first else [pytest.mark.long]


@pytest.mark.parametrize("page", [pytest.param(page, marks=marks_of(page)) for page in PAGES if has_work(page)])
def test_the_blocks_of_a_page_do_what_the_page_says(page: str) -> None:
    with Reader() as reader:
        reader.read(page)


def test_the_tutorial_after_the_readme_shows_what_it_says() -> None:
    with Reader() as reader:
        reader.read("README.md")
        reader.stop()
        reader.type(f"mkdir {reader.folder}/next && cd {reader.folder}/next")
        reader.work = reader.folder / "next"
        reader.read("docs/tutorial/first-agents.md")


def test_a_block_that_is_not_run_says_why() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            assert block.key != "not run" or block.value, (page, block.line)


def test_few_blocks_are_not_run() -> None:
    every = [b for page in PAGES for b in blocks_of(page) if b.language in RUNNABLE]
    assert sum(block.key == "not run" for block in every) * 4 <= len(every)


@pytest.mark.parametrize(
    ("shown", "said", "expected"),
    [
        (["hello, world"], "hello, world\n", True),
        (["hello, world"], "hello, all\n", False),
        (["up 2.5s, 3 of 4"], "up 968ms, 17 of 4\n", True),
        (["a  b …"], "a b c d\n", True),
        (["a", "…", "z"], "a\nb\nc\nz\n", True),
        (["a", "z"], "a\nb\nz\n", False),
        ([], "anything\n", True),
    ],
)
def test_a_shown_output_is_compared_up_to_numbers_and_what_is_left_out(
    shown: list[str], said: str, expected: bool
) -> None:
    assert is_shown(shown, said) is expected


def test_an_exact_output_is_compared_with_its_numbers() -> None:
    assert is_shown(['"words": 79', '"at": "…"'], '"words": 79\n"at": "12"\n', is_exact=True)
    assert not is_shown(['"words": 79'], '"words": 80\n', is_exact=True)
