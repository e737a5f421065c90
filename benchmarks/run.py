"""How fast is corral? All benchmarks, one after the other, and beside what was aimed at.

Each is a program of its own: `run.py NAME` runs one, with its own options behind the name, and `run.py --list` lists them. Peers are put into one temporary folder, or `--peers FOLDER`, and left out with
a reason where they cannot be had; with --quick only those that are in that folder take part. `--read` takes the figures of
an earlier run (its JSON, or that of one benchmark) in place of a new one, and `--write` puts the figures of all that was measured
into the tables of a document, between its markers.
"""

import argparse
import ast
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import aims
import bench

HERE = Path(__file__).parent

PART_S = 3600.0
"""A benchmark that takes longer is ended."""


@dataclass(frozen=True)
class Part:
    """A benchmark: its file is NAME.py."""

    name: str
    has_peers: bool = False


PARTS = [
    Part("start"),
    Part("workers"),
    Part("supervisors", has_peers=True),
    Part("idle"),
    Part("warm"),
    Part("frameworks"),
    Part("isolation"),
    Part("tenants"),
    Part("rpc"),
    Part("tasks", has_peers=True),
    Part("steps", has_peers=True),
    Part("million"),
    Part("backup"),
    Part("upgrade"),
    Part("growth"),
    Part("logs", has_peers=True),
    Part("memory"),
    Part("mcp", has_peers=True),
    Part("sessions"),
    Part("deploy"),
    Part("http_api"),
    Part("dashboard"),
    Part("sampler"),
    Part("metrics"),
    Part("streaming"),
    Part("models"),
    Part("telemetry"),
    Part("flood"),
    Part("engines"),
    Part("cluster_simulation"),
    Part("cluster"),
]

Record = dict[str, Any]  # Any: JSON


@dataclass
class Found:
    """What is known of each part: its report, or why there is none."""

    reports: dict[str, Record] = field(default_factory=dict[str, Record])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    passed_s: dict[str, float] = field(default_factory=dict[str, float])

    def take(self, path: Path) -> None:
        """Reads the JSON of one benchmark, or of a run of many."""
        content = json.loads(path.read_text())
        if "parts" not in content:
            self.reports[content["benchmark"]] = content
            return
        self.reports |= content["parts"]
        self.missing |= content["missing"]
        for name in self.reports:
            self.missing.pop(name, None)

    def record(self, options: argparse.Namespace) -> Record:
        """All of it as JSON."""
        return {
            "benchmark": "all",
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": shlex.join(["benchmarks/run.py", *sys.argv[1:]]),
            "quick": options.quick,
            "parts": self.reports,
            "missing": self.missing,
            "passed_s": self.passed_s,
            "aims": [aim.judged(self.reports, self.missing) for aim in aims.AIMS],
        }


def main() -> int:
    names = [part.name for part in PARTS]
    if sys.argv[1:2] and sys.argv[1].replace("-", "_") in names:
        program = HERE / f"{sys.argv[1].replace('-', '_')}.py"
        return subprocess.call([sys.executable, "-P", str(program), *sys.argv[2:]])
    options = _options()
    if options.list or options.name == "list":
        for name in names:
            document = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text("utf-8"))) or ""
            print(f"{name:20} {document.partition(chr(10))[0]}")
        return 0
    found = Found()
    for path in options.read or ():
        found.take(path)
    chosen = options.only or ([] if options.read else [part.name for part in PARTS])
    with bench.folder() as folder:
        for part in PARTS:
            if part.name in chosen:
                _run(part, options, folder, found)
    record = found.record(options)
    print(f"# aims\n\n{aims_table(record['aims'])}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.write is not None:
        options.write.write_text(written(options.write.read_text(), record))
    failed = [name for name in chosen if name in found.missing]
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", choices=["list", *names], metavar="NAME", help="run this one alone")
    parser.add_argument("--list", action="store_true", help="list the benchmarks")
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it works")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    parser.add_argument("--peers", metavar="FOLDER", type=Path, help="where the peers are, or are put and kept")
    parser.add_argument(
        "--only", metavar="NAME", action="append", choices=names, help=f"one of {', '.join(names)}; may be repeated"
    )
    parser.add_argument(
        "--read", metavar="FILE", type=Path, action="append", help="figures of an earlier run; may be repeated"
    )
    parser.add_argument("--write", metavar="FILE", type=Path, help="put the figures into the tables of a document")
    return parser.parse_args()


def _run(part: Part, options: argparse.Namespace, folder: Path, found: Found) -> None:
    """Runs one benchmark; its table goes where ours goes."""
    program = HERE / f"{part.name}.py"
    if not program.exists():
        found.missing[part.name] = "is not there"
        return
    written_to = folder / f"{part.name}.json"
    command = [sys.executable, "-P", str(program), f"--json={written_to}"]
    if options.quick:
        command.append("--quick")
    if part.has_peers and (options.peers is not None or not options.quick):
        command.append(f"--peers={(options.peers or folder / 'peers').absolute()}")
    print(f"# {part.name}\n", flush=True)
    began = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            status = process.wait(PART_S)
        except BaseException:
            process.terminate()
            raise
    found.passed_s[part.name] = time.monotonic() - began
    print(f"\n{part.name} took {found.passed_s[part.name]:.0f} s\n", flush=True)
    if status == 0:
        found.take(written_to)
        found.missing.pop(part.name, None)
    else:
        found.missing[part.name] = f"ended with status {status}"


AIMS_HEADER = ["what", "benchmark", "aim", "measured", "met"]
FIGURES_HEADER = ["what", "benchmark", "measured", "ratio"]
RUNS_HEADER = ["benchmark", "day", "commit", "used by others"]

MET, MISSED, UNKNOWN = "yes", "**no**", "not measured"


def aims_table(lines: list[Record]) -> str:
    """The aims for people."""
    return _table(AIMS_HEADER, [_aim_row(line) for line in lines])


def _aim_row(line: Record) -> list[str]:
    if line["met"] is None:
        measured, met = "", f"{UNKNOWN}: {line['reason']}"
    else:
        measured = f"{bench.number(line['measured'])} {line['unit']}".strip()
        met = MET if line["met"] else MISSED
    return [line["what"], line["part"], _limit_words(line), measured, met]


def _limit_words(line: Record) -> str:
    """The limit, with what it came to in the run."""
    words: str = line["aim"]
    if line["met"] is None or line["unit"] == "times":
        return words
    if " times " in words:
        return f"{words} = {bench.number(line['limit'])} {line['unit']}"
    return f"{words} {line['unit']}"


def _figure_row(figure: aims.Figure, parts: Mapping[str, Record]) -> list[str]:
    row = figure.found(parts.get(figure.part))
    if row is None:
        return [figure.what, figure.part, UNKNOWN, ""]
    ratio = row["ratio"]
    if ratio is None:
        times = ""
    else:
        times = f"{bench.number(ratio['median'])} ({bench.number(ratio['min'])}..{bench.number(ratio['max'])})"
    return [figure.what, figure.part, f"{bench.number(row['median'])} {row['unit']}", times]


def _run_row(name: str, report: Record | None) -> list[str]:
    if report is None:
        return [name, "never", "", ""]
    machine = report["machine"]
    return [name, report["at"][:10], machine["commit"] or "unknown", f"{machine['others_cpu_percent']:.0f} %"]


def _table(header: list[str], rows: list[list[str]]) -> str:
    return bench.aligned([header, ["---"] * len(header), *rows])


# --- the document ---------------------------------------------------------------------------------


def written(text: str, record: Mapping[str, Any]) -> str:  # Any: JSON
    """The document with new rows for the parts that were measured; those of other parts stay as they are.

    Raises:
        SystemExit: a marker is not there.
    """
    parts: Mapping[str, Record] = record["parts"]
    rows = [_aim_row(line) for line in record["aims"]]
    rows = _kept(text, "aims", rows, [row[1] in parts for row in rows])
    met, missed = (sum(row[-1] == word for row in rows) for word in (MET, MISSED))
    counts = f"{met} met, {missed} missed, {len(rows) - met - missed} not measured."
    text = _between(text, "aims", f"{_table(AIMS_HEADER, rows)}\n\n{counts}")
    rows = [_figure_row(figure, parts) for figure in aims.FIGURES]
    rows = _kept(text, "figures", rows, [row[1] in parts for row in rows])
    text = _between(text, "figures", _table(FIGURES_HEADER, rows))
    rows = [_run_row(part.name, parts.get(part.name)) for part in PARTS]
    rows = _kept(text, "runs", rows, [row[0] in parts for row in rows])
    return _between(text, "runs", _table(RUNS_HEADER, rows))


def _kept(text: str, name: str, rows: list[list[str]], measured: list[bool]) -> list[list[str]]:
    """The rows, each that was not measured as it stands in the document; a row is known by its first cell."""
    marked = _marked(name).search(text)
    if marked is None:
        raise SystemExit(f'cannot write the table "{name}": its two markers are not there')
    lines = [line for line in marked[2].splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    old = {row[0]: row for row in cells}
    return [row if fresh else old.get(row[0], row) for row, fresh in zip(rows, measured, strict=True)]


def _between(text: str, name: str, shown: str) -> str:
    return _marked(name).sub(lambda match: f"{match[1]}\n{shown}\n{match[3]}", text)


def _marked(name: str) -> re.Pattern[str]:
    begin, end = (re.escape(f"<!-- {word} {name} -->") for word in ("figures:", "end of"))
    return re.compile(f"({begin}\n)(.*?)(\n{end})", re.DOTALL)


if __name__ == "__main__":
    sys.exit(main())
