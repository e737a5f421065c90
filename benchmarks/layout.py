"""Measures how far a reader has to travel: the shape of the source tree, and the modules that three paths cross.

`make layout` prints one table; `--tree PATH`, which may be repeated, measures another checkout by the same means, with this
interpreter: `--tree . --tree ../before` compares two versions.  A *method* that forwards only calls a method of one of its
object's parts with its own parameters.  A *stay* is one uninterrupted run of Python calls in one module of corral, seen by
sys.setprofile on the daemon's main thread.  Three paths are traced: one echo task from its submission until its answer, one
start of a worker until its packet is sent to the launcher, one log line from the pipe until it is in the file.  Each is
traced several times, and the smallest count is kept, since whatever else the daemon does meanwhile only adds to it.
"""

import argparse
import ast
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cli", "mcp", "supervisor", "worker")
BOUND_S = 30.0
ROUNDS = 7
PARAMETERS_MAX = 7

TRACER = r"""
import os, signal, sys, json
where = os.environ["CORRAL_TRACE"]
tree = os.environ["CORRAL_TRACE_TREE"] + os.sep
folders = tuple(tree + name + os.sep for name in ("cli", "mcp", "supervisor", "worker"))
names = {}
stays = []
def module(code):
    found = names.get(code)
    if found is None:
        path = os.path.realpath(code.co_filename)
        found = names[code] = path[len(tree):-3] if path.startswith(folders) else ""
    return found
def is_spawn(frame):
    if frame.f_code.co_name != "send":
        return False
    message = frame.f_locals.get("message")
    return isinstance(message, dict) and message.get("op") == "spawn"
def profile(frame, event, argument):
    if event == "call":
        name = module(frame.f_code)
        if name and (not stays or stays[-1] != name):
            stays.append(name)
        if name and is_spawn(frame):
            stays.append("PACKET")
def begin(*_):
    stays.clear()
    sys.setprofile(profile)
def end(*_):
    sys.setprofile(None)
    with open(where + ".new", "w") as file:
        json.dump(stays, file)
    os.rename(where + ".new", where)
signal.signal(signal.SIGRTMIN, begin)
signal.signal(signal.SIGRTMAX, end)
from corral.supervisor.__main__ import main
sys.argv = ["corrald", *sys.argv[1:]]
sys.exit(main())
"""
"""The daemon, with a tracer that SIGRTMIN starts and SIGRTMAX stops."""

ECHO = """
from corral.worker import Agent
agent = Agent("echo")
@agent.task
async def run(task):
    return task.input
"""

CONFIG = """
[agents.echo]
entrypoint = "echo:agent"
[agents.plain]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
[agents.line]
command = ["sh", "-c", "while read line; do echo $line; done < fifo"]
protocol = "none"
[monitoring]
health_check_interval = "1h"
heartbeat_interval = "1h"
heartbeat_timeout = "2h"
metrics_interval = "1h"
"""


# --- the tree ---------------------------------------------------------------------------------------


def modules_of(tree: Path) -> dict[str, Path]:
    """Returns the modules of a tree by dotted name below `corral`; a package is PACKAGE.__init__."""
    return {
        ".".join(path.relative_to(tree).with_suffix("").parts): path
        for folder in FOLDERS
        for path in sorted((tree / folder).rglob("*.py"))
    }


def rooms_of(modules: dict[str, Path]) -> Counter[str]:
    """Counts the modules of each folder; `__init__.py` is none."""
    return Counter(name.rpartition(".")[0] for name in modules if not name.endswith("__init__"))


def kinds_of(text: str, tree: ast.Module) -> Counter[str]:
    """Counts the lines of a module by kind; each line has one."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in skipped:
            code |= set(range(token.start[0], token.end[0] + 1))
    docstrings: set[int] = set()
    imports: set[int] = set()
    signatures: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings |= _lines(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports |= _lines(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            signatures |= set(range(node.lineno, max(node.body[0].lineno, node.lineno + 1)))
    code -= docstrings
    imports &= code
    signatures = (signatures & code) - imports
    lines = text.splitlines()
    return Counter(
        total=len(lines),
        blank=sum(not line.strip() for number, line in enumerate(lines, 1) if number not in docstrings),
        comment=len(comments - code),
        docstring=len(docstrings),
        signature=len(signatures),
        imports=len(imports),
        statement=len(code - imports - signatures),
    )


def _lines(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Returns the names of the parameters, without `self`."""
    given = function.args
    return [
        each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs) if each.arg not in ("self", "cls")
    ]


def is_protocol(node: ast.ClassDef) -> bool:
    """Says whether a class is a `Protocol`, with type parameters or without."""
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in bases)


def is_dataclass(node: ast.ClassDef) -> bool:
    """Says whether a class is decorated as a dataclass."""
    decorators = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
    return any(isinstance(each, ast.Name) and each.id == "dataclass" for each in decorators)


def is_forwarding(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Says whether all that a method does is to call a method of a part of its object with its own parameters."""
    body = [each for each in function.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
    if len(body) != 1 or not isinstance(body[0], ast.Return | ast.Expr) or function.decorator_list:
        return False
    call = body[0].value
    call = call.value if isinstance(call, ast.Await) else call
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    part = call.func.value
    if not (isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "self"):
        return False
    passed = [each.id for each in call.args if isinstance(each, ast.Name)]
    passed += [each.value.id for each in call.keywords if isinstance(each.value, ast.Name)]
    return len(passed) == len(call.args) + len(call.keywords) and passed == parameters(function)


def words_of_docs(tree: Path) -> tuple[int, int]:
    """Counts the words of all pages that people write, and of those that a program writes."""
    written = made = 0
    for path in [*tree.glob("*.md"), *(tree / "docs").rglob("*.md"), *(tree / "examples").rglob("*.md")]:
        text = path.read_text("utf-8")
        if text.startswith("<!-- written by"):
            made += len(text.split())
        else:
            written += len(text.split())
    return written, made


def shape(tree: Path) -> dict[str, str]:
    """Returns the rows of the table that need no running daemon."""
    modules = modules_of(tree)
    rooms = rooms_of(modules)
    supervised_modules = {name for name in modules if name.startswith("supervisor.")}
    supervised = [name for name in rooms if name.startswith("supervisor.")]
    kinds: Counter[str] = Counter()
    longest = (0, "")
    constructor = fields = (0, "")
    protocols = forwarding = 0
    long: list[str] = []
    bound: list[str] = []
    for name, path in modules.items():
        text = path.read_text("utf-8")
        syntax = ast.parse(text)
        counted = kinds_of(text, syntax)
        kinds += counted
        longest = max(longest, (counted["total"], name))
        for node in ast.walk(syntax):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                forwarding += is_forwarding(node)
            elif isinstance(node, ast.ClassDef):
                protocols += is_protocol(node)
                if is_dataclass(node):
                    size = sum(isinstance(each, ast.AnnAssign) for each in node.body)
                    fields = max(fields, (size, f"{name}.{node.name}"))
                for each in node.body:
                    if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                        count = len(parameters(each))
                        constructor = max(constructor, (count, f"{name}.{node.name}"))
                        if count > PARAMETERS_MAX and name in supervised_modules:
                            long.append(f"{name}.{node.name} ({count})")
                    if isinstance(each, ast.FunctionDef) and each.name == "bind" and name in supervised_modules:
                        bound.append(f"{name}.{node.name}")
    tests = [path.read_text("utf-8") for path in sorted((tree / "tests").rglob("*.py"))]
    written, made = words_of_docs(tree)
    return {
        "groups of supervisor": str(len({name.split(".")[1] for name in supervised})),
        "rooms of supervisor; of all": f"{len(supervised)}; {len(rooms)}",
        "files": str(len(modules)),
        "largest room": "{}, {} modules".format(*rooms.most_common(1)[0]),
        "lines": f"{kinds['total']:,}",
        "blank": f"{kinds['blank']:,}",
        "comment": f"{kinds['comment']:,}",
        "docstring": f"{kinds['docstring']:,}",
        "signature": f"{kinds['signature']:,}",
        "import": f"{kinds['imports']:,}",
        "statement": f"{kinds['statement']:,}",
        "longest module": f"{longest[1]}, {longest[0]} lines",
        "largest constructor": f"{constructor[1]}, {constructor[0]} parameters",
        f"constructors of supervisor over {PARAMETERS_MAX} parameters": _counted(long),
        "methods of supervisor named bind": _counted(bound),
        "largest dataclass": f"{fields[1]}, {fields[0]} fields",
        "protocols": str(protocols),
        "forwarding methods": str(forwarding),
        "tests: files; lines": f"{len(tests)}; {sum(text.count(chr(10)) for text in tests):,}",
        "words of docs, written by hand": f"{written:,}",
        "words of docs, written by a program and committed": f"{made:,}",
    }


def _counted(names: list[str]) -> str:
    return ": ".join([str(len(names)), *([", ".join(names)] if names else [])])


# --- the paths --------------------------------------------------------------------------------------


class Traced:
    """A daemon of a tree that counts stays between two signals."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self._file = folder / "stays.json"
        self._socket = folder / "corral.sock"
        (folder / "echo.py").write_text(ECHO)
        (folder / "corral.toml").write_text(CONFIG)
        os.mkfifo(folder / "fifo")
        (folder / "traced.py").write_text(TRACER)
        self._python = [sys.executable, "-P"]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("CORRAL_")}
        self._environ = environ | {
            "CORRAL_SOCKET": str(self._socket),
            "CORRAL_STATE_DIR": str(folder / "state"),
            "CORRAL_TRACE": str(self._file),
            "CORRAL_TRACE_TREE": str(tree),
            "PYTHONPATH": str(tree / "src"),
        }
        self.process = subprocess.Popen(
            [*self._python, str(folder / "traced.py"), "--config", str(folder / "corral.toml")],
            env=self._environ,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + BOUND_S
        while not self._socket.exists():
            assert self.process.poll() is None, "the daemon has ended"
            assert time.monotonic() < deadline, "the daemon does not listen"
            time.sleep(0.05)
        self.corral("start", "echo", "line")
        self._fifo = (folder / "fifo").open("w")

    def corral(self, *words: str) -> str:
        """Runs a command on the daemon and returns its output."""
        done = subprocess.run(
            [*self._python, "-m", "corral.cli", *words],
            env=self._environ,
            check=True,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
        )
        return done.stdout

    def print_line(self, text: str) -> None:
        """Has the agent `line` print a line, and waits until it can be read back."""
        self._fifo.write(f"{text}\n")
        self._fifo.flush()
        deadline = time.monotonic() + BOUND_S
        log = self._socket.parent / "state" / "logs"
        while not any(text.encode() in path.read_bytes() for path in log.rglob("*") if path.is_file()):
            assert time.monotonic() < deadline, "the line is not in the log"
            time.sleep(0.02)

    def begin(self) -> None:
        """Starts the tracer, and waits until it runs."""
        self._file.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGRTMIN)
        time.sleep(0.05)

    def end(self) -> list[str]:
        """Stops the tracer and returns the stays in order."""
        self.process.send_signal(signal.SIGRTMAX)
        deadline = time.monotonic() + BOUND_S
        while not self._file.exists():
            assert time.monotonic() < deadline, "the tracer does not answer"
            time.sleep(0.01)
        return [str(name) for name in json.loads(self._file.read_text())]

    def close(self) -> None:
        """Stops the daemon."""
        self._fifo.close()
        self.process.terminate()
        self.process.wait(BOUND_S)


def counted(stays: list[str]) -> tuple[int, int]:
    """Returns the number of stays and of modules."""
    return len(stays), len(set(stays))


def paths(tree: Path) -> dict[str, str]:
    """Returns the rows of the table that are traced."""
    found: dict[str, list[list[str]]] = {"task": [], "start": [], "line": []}
    with tempfile.TemporaryDirectory() as name:
        traced = Traced(tree, Path(name))
        try:
            for number in range(ROUNDS):
                traced.corral("run", "echo", "hello")
                traced.begin()
                traced.corral("run", "echo", "hello", "--input", "1")
                found["task"].append(traced.end())
                traced.begin()
                traced.corral("start", "plain")
                stays = traced.end()
                found["start"].append(stays[: stays.index("PACKET")])
                traced.corral("stop", "plain")
                traced.print_line(f"before {number}.")
                traced.begin()
                traced.print_line(f"line {number}.")
                found["line"].append([stay for stay in traced.end() if stay.startswith("supervisor/")])
        finally:
            traced.close()
    rows = {
        "task": "one echo task, submit to answer",
        "start": "one start, until its packet is sent to the launcher",
        "line": "one log line, pipe to disk",
    }
    return {
        what: "{} modules, {} stays".format(
            *min((counted(each)[::-1] for each in found[key]), key=lambda pair: pair[1])
        )
        for key, what in rows.items()
    }


def main() -> None:
    """Prints the table of one tree or of several, side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, action="append", help="a checkout (this one)")
    parser.add_argument("--no-trace", action="store_true", help="count the source only")
    options = parser.parse_args()
    trees: list[Path] = options.tree or [ROOT]
    tables = [shape(tree.resolve()) | ({} if options.no_trace else paths(tree.resolve())) for tree in trees]
    print("| | " + " | ".join(tree.resolve().name for tree in trees) + " |")
    print("|---" * (len(trees) + 1) + "|")
    for row in tables[0]:
        print(f"| {row} | " + " | ".join(table[row] for table in tables) + " |")


if __name__ == "__main__":
    sys.exit(main())
