"""How fast is corral? All benchmarks, one after the other, and beside what was aimed at.

Each is a program of its own: `run.py NAME` runs one, with its own options behind the name, and `run.py --list` lists them. Peers are put into one temporary folder, or `--peers FOLDER`, and left out with
a reason where they cannot be had; with --quick only those that are in that folder take part. `--read` takes the figures of
an earlier run (its JSON, or that of one benchmark) in place of a new one, and `--write` puts the tables into a document, between
its markers.
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
    """A benchmark: its file is NAME.py, and its table in the document is between the markers of that name."""

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
    Part("million"),
    Part("backup"),
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

AIMS_MARK = "aims"

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
    parser.add_argument(
        "--write", metavar="FILE", type=Path, help="put the tables into a document, between its markers"
    )
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


def aims_table(lines: list[Record]) -> str:
    """The aims for people; in the document, too."""
    header = ["what", "benchmark", "aim", "measured", "met"]
    rows = [header, ["---"] * len(header)]
    for line in lines:
        if line["met"] is None:
            measured, met = "", f"not measured: {line['reason']}"
        else:
            unit = line["unit"]
            measured = f"{bench.number(line['measured'])} {unit}".strip()
            met = "yes" if line["met"] else "**no**"
        rows.append([line["what"], line["part"], _limit_words(line), measured, met])
    return bench.aligned(rows)


def _limit_words(line: Record) -> str:
    """The limit, with what it came to in the run."""
    words: str = line["aim"]
    if line["met"] is None or line["unit"] == "times":
        return words
    if " times " in words:
        return f"{words} = {bench.number(line['limit'])} {line['unit']}"
    return f"{words} {line['unit']}"


# --- the document ---------------------------------------------------------------------------------


def written(text: str, record: Mapping[str, Any]) -> str:  # Any: JSON
    """The document with new tables between the markers of all parts that were measured; all else stays as it is.

    Raises:
        SystemExit: a marker is not there.
    """
    for name, report in record["parts"].items():
        shown = f"`{report['command']}`\n\n{bench.table(report)}"
        text = _between(text, name, shown)
    return _between(text, AIMS_MARK, _aims_text(record))


def _aims_text(record: Mapping[str, Any]) -> str:  # Any: JSON
    days = sorted({report["at"][:10] for report in record["parts"].values()})
    met, missed, unknown = (sum(line["met"] is wanted for line in record["aims"]) for wanted in (True, False, None))
    when = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "never"
    told = f"Measured {when}: {met} met, {missed} missed, {unknown} not measured."
    return f"{aims_table(record['aims'])}\n\n{told}"


def _between(text: str, name: str, shown: str) -> str:
    begin, end = (re.escape(f"<!-- {word} {name} -->") for word in ("figures:", "end of"))
    marked = re.compile(f"({begin}\n).*?(\n{end})", re.DOTALL)
    if len(marked.findall(text)) != 1:
        raise SystemExit(f'cannot write the table of "{name}": its two markers are not there once')
    return marked.sub(lambda match: f"{match[1]}\n{shown}\n{match[2]}", text)


if __name__ == "__main__":
    sys.exit(main())
