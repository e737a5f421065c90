"""Measures how far a reader has to travel: the shape of the source tree, and the modules that three paths cross.

`make layout` prints one table; `--tree PATH` measures another checkout with the interpreter of its own `.venv`, so that two
versions are compared by the same means.  A *stay* is one uninterrupted run of Python calls in one module of corral, seen by
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
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cli", "mcp", "supervisor", "worker")
BOUND_S = 30.0
ROUNDS = 7

TRACER = r"""
import os, signal, sys, json
where = os.environ["CORRAL_TRACE"]
roots = tuple(os.path.join(p, name) + os.sep for p in json.loads(os.environ["CORRAL_TRACE_ROOTS"]) for name in ("cli", "mcp", "supervisor", "worker"))
names = {}
stays = []
def module(code):
    found = names.get(code)
    if found is None:
        path = os.path.realpath(code.co_filename)
        found = next((path[len(os.path.dirname(root.rstrip(os.sep))) + 1:-3] for root in roots if path.startswith(root)), "")
        names[code] = found
    return found
def is_spawn(frame):
    if frame.f_code.co_name != "send" or not module(frame.f_code).endswith(("supervisor/link", "process/launcher_link")):
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
signal.signal(signal.SIGUSR1, begin)
signal.signal(signal.SIGUSR2, end)
from corral.supervisor.__main__ import main
sys.argv = ["corrald", *sys.argv[1:]]
sys.exit(main())
"""
"""The daemon, with a tracer that SIGUSR1 starts and SIGUSR2 stops."""

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


def imports_of(module: str, modules: dict[str, Path]) -> Iterator[str]:
    """Yields the modules of corral that a module imports."""
    folder = module.split(".")[:-1]
    for node in ast.walk(ast.parse(modules[module].read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = node.module.split(".") if node.module else []
        if node.level:
            parts = folder[: max(0, len(folder) - node.level + 1)] + parts
        elif parts[:1] == ["corral"]:
            parts = parts[1:]
        else:
            continue
        for alias in node.names:
            for name in (".".join([*parts, alias.name]), ".".join(parts)):
                if name in modules:
                    yield name
                    break


def code_lines(path: Path) -> int:
    """Counts the lines that hold code: no blank line, no comment, no docstring."""
    text = path.read_text("utf-8")
    held: set[int] = set()
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped and token.type != tokenize.ENDMARKER:
            held |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            held -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(held)


def set_from_outside(path: Path) -> int:
    """Counts the attributes that a module sets on objects other than `self` or appends to lists of theirs."""
    found = 0
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Attribute) and (
                not isinstance(target.value, ast.Name) or target.value.id not in ("self", "options")
            ):
                found += 1
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            holder = node.func.value
            if node.func.attr in ("append", "extend") and isinstance(holder, ast.Attribute):
                inner = holder.value
                found += not (isinstance(inner, ast.Name) and inner.id == "self")
    return found


def longest_chain(arrows: dict[str, set[str]]) -> int:
    """Returns the number of nodes on the longest path of a graph without circles."""
    depth: dict[str, int] = {}

    def visit(node: str, path: tuple[str, ...]) -> int:
        if node in path:
            return 0
        if node not in depth:
            below = [visit(each, (*path, node)) for each in arrows.get(node, ())]
            depth[node] = 1 + max(below, default=0)
        return depth[node]

    return max(visit(node, ()) for node in arrows)


def methods_by_inheritance(modules: dict[str, Path], imports: dict[str, list[str]]) -> tuple[int, str]:
    """Returns the largest number of methods of one object whose classes lie in several files, and its class.

    `imports` holds, by module, the modules of corral that it imports.
    """
    classes: dict[tuple[str, str], tuple[list[str], int]] = {}
    for module, path in modules.items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                own = sum(isinstance(e, ast.FunctionDef | ast.AsyncFunctionDef) for e in node.body)
                classes[module, node.name] = (bases, own)

    def total(module: str, name: str) -> tuple[int, set[str]]:
        bases, own = classes[module, name]
        files = {module}
        for base in bases:
            for where in (module, *imports[module]):
                if (where, base) in classes:
                    more, others = total(where, base)
                    own, files = own + more, files | others
                    break
        return own, files

    found = [(*total(*each), each[1]) for each in classes]
    return max(((own, name) for own, files, name in found if len(files) > 1), default=(0, "none"))


def shape(tree: Path) -> dict[str, str]:
    """Returns the rows of the table that need no running daemon."""
    modules = modules_of(tree)
    room = {module: module.rpartition(".")[0] for module in modules}
    imports = {module: list(imports_of(module, modules)) for module in modules}
    arrows = {module: set(names) for module, names in imports.items()}
    between: dict[str, set[str]] = {name: set() for name in room.values()}
    importers: Counter[str] = Counter()
    for module, names in arrows.items():
        importers.update(names)
        between[room[module]] |= {room[name] for name in names} - {room[module]}
    sizes = Counter(room[module] for module in modules if not module.endswith("__init__"))
    largest, count = sizes.most_common(1)[0]
    supervised = [m for m in modules if m.startswith("supervisor.") and "__" not in m]
    once = sum(importers[module] == 1 for module in supervised)
    lines = {m: len(path.read_text("utf-8").splitlines()) for m, path in modules.items()}
    longest = max(lines, key=lambda module: lines[module])
    methods, name = methods_by_inheritance(modules, imports)
    code = sum(code_lines(path) for path in modules.values())
    return {
        "modules; largest folder": f"{sum(sizes.values())}; {largest} {count}",
        "rooms": str(len(sizes)),
        "arrows between rooms": str(sum(len(each) for each in between.values())),
        "arrows between modules": str(sum(len(each) for each in arrows.values())),
        "longest chain of imports: modules; rooms": f"{longest_chain(arrows)}; {longest_chain(between)}",
        "modules of supervisor with one importer": f"{once} of {len(supervised)}",
        "largest object by inheritance over files": f"{name}, {methods} methods",
        "attributes set from outside in daemon.py": str(set_from_outside(tree / "supervisor" / "daemon.py")),
        "longest module": f"{longest}, {lines[longest]} lines",
        "modules over 600 lines": str(sum(count > 600 for count in lines.values())),
        "lines; lines of code": f"{sum(lines.values())}; {code}",
    }


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
        self._bin = tree / ".venv" / "bin"
        environ = {key: value for key, value in os.environ.items() if not key.startswith("CORRAL_")}
        self._environ = environ | {
            "CORRAL_SOCKET": str(self._socket),
            "CORRAL_STATE_DIR": str(folder / "state"),
            "CORRAL_TRACE": str(self._file),
            "CORRAL_TRACE_ROOTS": json.dumps([str(tree)]),
        }
        self.process = subprocess.Popen(
            [*(str(self._bin / "python"), "-P", str(folder / "traced.py")), *("--config", str(folder / "corral.toml"))],
            env=self._environ,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + BOUND_S
        while not self._socket.exists():
            assert time.monotonic() < deadline, "the daemon does not listen"
            time.sleep(0.05)
        self.corral("start", "echo", "line")
        self._fifo = (folder / "fifo").open("w")

    def corral(self, *words: str) -> str:
        """Runs a command on the daemon and returns its output."""
        done = subprocess.run(
            [str(self._bin / "corral"), *words],
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
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(0.05)

    def end(self) -> list[str]:
        """Stops the tracer and returns the stays in order."""
        self.process.send_signal(signal.SIGUSR2)
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
    parser.add_argument("--tree", type=Path, action="append", help="a checkout with a .venv (this one)")
    parser.add_argument("--no-trace", action="store_true", help="count the source only")
    options = parser.parse_args()
    trees: list[Path] = options.tree or [ROOT]
    tables = [shape(tree.resolve()) | ({} if options.no_trace else paths(tree.resolve())) for tree in trees]
    for row in tables[0]:
        print(f"| {row} | " + " | ".join(table[row] for table in tables) + " |")


if __name__ == "__main__":
    sys.exit(main())
