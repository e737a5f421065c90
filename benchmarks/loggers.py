"""Others that keep what programs print, each given the same flood: cat, the least in C, s6-log, supervisord.

What they keep is read back like corral's: a line that is missing, or that a rotation has cut in two, is counted.
"""

import contextlib
import gzip
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import BOUND_S

FILE_BYTES = 10_000_000
"""When a file rotates."""

FILES = 1000
"""How many are kept: nothing is to be rotated away, since all is read back."""

STAMP_BYTES = 26
"""What s6-log puts before a line: TAI64N and a space."""

PAUSE_S = 0.05
"""Between two looks at supervisord: to answer costs it more than it costs corrald."""


@dataclass(frozen=True)
class Flood:
    """Programs that print numbered lines: the command of one, how many run at once, and how much."""

    command: list[str]
    workers: int
    lines: int
    """Of each of them."""
    width: int

    @property
    def size_bytes(self) -> int:
        """What all of them print."""
        return self.lines * self.width * self.workers


@dataclass(frozen=True)
class Kept:
    """What became of a flood."""

    passed_s: float
    cpu_s: float
    """Of whoever keeps the lines, not of the programs that print them."""
    lost: int
    cut: int
    rss_mb: tuple[float, float] | None = None
    """Of a daemon, before and after."""
    answers_ms: list[float] = field(default_factory=list[float])
    """How long a daemon took to answer meanwhile."""


def read_back(logs: Iterable[list[Path]], flood: Flood, prefix_bytes: int) -> tuple[int, int]:
    """How many lines are not in the files, and how many of these end inside a line.

    For each program its files, oldest first. What a rotation has cut in two is put together again, so it is not lost.
    """
    found = [_missing(files, flood, prefix_bytes) for files in logs]
    lost, cut = (sum(each) for each in zip(*found, strict=True))
    return lost, cut


def _missing(files: list[Path], flood: Flood, prefix_bytes: int) -> tuple[int, int]:
    number, lost, cut = 0, 0, 0
    rest = b""
    width = flood.width - 1
    for path in files:
        *lines, last = _content(path).split(b"\n")
        if lines:
            lines[0] = rest + lines[0]
            rest = b""
        rest += last
        cut += bool(last)
        for line in lines:
            text = line[prefix_bytes:]
            if text == b"%0*d" % (width, number):
                number += 1
            elif text.isdigit() and len(text) == width and int(text) > number:
                lost += int(text) - number
                number = int(text) + 1
            else:
                cut += 1
    return lost + flood.lines - number, cut


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def by_cat(flood: Flood, folder: Path) -> Kept:
    """`PROGRAM | cat > FILE`, for each."""
    return _piped(flood, folder, ["cat"], 0, lambda place: [place / "kept"])


def by_s6_log(flood: Flood, folder: Path, *, program: str, environment: Mapping[str, str], stamped: bool) -> Kept:
    """`PROGRAM | s6-log`, for each, with or without times."""
    script = [*(["t"] if stamped else []), f"n{FILES}", f"s{FILE_BYTES}", "."]
    prefix_bytes = STAMP_BYTES if stamped else 0
    return _piped(
        flood,
        folder,
        [program, *script],
        prefix_bytes,
        lambda place: [*sorted(place.glob("@*")), place / "current"],
        environment,
    )


def _piped(
    flood: Flood,
    folder: Path,
    supervisor: list[str],
    prefix_bytes: int,
    files: Callable[[Path], list[Path]],
    environment: Mapping[str, str] = bench.ENVIRON,
) -> Kept:
    """`files` says which a supervisor has left in its folder, oldest first."""
    places = [folder / str(number) for number in range(flood.workers)]
    for place in places:
        place.mkdir(parents=True)
    supervisors: list[subprocess.Popen[bytes]] = []
    printers: list[subprocess.Popen[bytes]] = []
    began = time.perf_counter()
    for place in places:
        printer = subprocess.Popen(flood.command, stdout=subprocess.PIPE)
        assert printer.stdout is not None, "it is a pipe"
        with printer.stdout as pipe, (place / "kept").open("wb") as kept:
            supervisors.append(subprocess.Popen(supervisor, cwd=place, env=environment, stdin=pipe, stdout=kept))
        printers.append(printer)
    cpu_s = sum(map(_reap, supervisors))
    passed_s = time.perf_counter() - began
    for printer in printers:
        assert printer.wait(BOUND_S) == 0, "it has printed all"
    return _judged(flood, folder, passed_s, cpu_s, prefix_bytes, map(files, places))


def _judged(
    flood: Flood,
    folder: Path,
    passed_s: float,
    cpu_s: float,
    prefix_bytes: int,
    files: Iterable[list[Path]],
    rss_mb: tuple[float, float] | None = None,
) -> Kept:
    lost, cut = read_back(files, flood, prefix_bytes)
    shutil.rmtree(folder)
    return Kept(passed_s, cpu_s, lost, cut, rss_mb)


def _reap(process: subprocess.Popen[bytes]) -> float:
    """Waits for its end; returns the processor time that it used."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.args
    return used.ru_utime + used.ru_stime


def by_copier(flood: Flood, folder: Path, copier: Path) -> Kept:
    """The least in C: one process that copies all pipes to files, and never rotates."""
    folder.mkdir()
    began = time.perf_counter()
    process = subprocess.Popen([str(copier), str(folder), str(flood.workers), *flood.command])
    used_s = _reap(process)  # with that of its children, the printers
    passed_s = time.perf_counter() - began
    files = ([folder / str(number)] for number in range(flood.workers))
    cpu_s = max(used_s - _printing_s(flood), 0.001)
    return _judged(flood, folder, passed_s, cpu_s, 0, files)


def _printing_s(flood: Flood) -> float:
    """What the printers use by themselves."""
    with open(os.devnull, "wb") as nowhere:
        return sum(_reap(subprocess.Popen(flood.command, stdout=nowhere)) for _ in range(flood.workers))


SUPERVISORD = """
[supervisord]
nodaemon = true
logfile = /dev/null
logfile_maxbytes = 0
pidfile = {folder}/pid
[unix_http_server]
file = {folder}/sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[program:flood]
command = {command}
process_name = %(process_num)d
numprocs = {workers}
autostart = false
autorestart = false
startsecs = 0
stdout_logfile = {folder}/%(process_num)d.log
stdout_logfile_maxbytes = {file_bytes}
stdout_logfile_backups = {files}
"""


def by_supervisord(flood: Flood, folder: Path, *, program: str) -> Kept:
    """Its stdout_logfile, without times, since it writes none."""
    folder.mkdir()
    text = SUPERVISORD.format(
        folder=folder, command=" ".join(flood.command), workers=flood.workers, file_bytes=FILE_BYTES, files=FILES
    )
    (folder / "supervisord.conf").write_text(text)
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen([program, "-c", str(folder / "supervisord.conf")], stdout=said, stderr=said)
    try:
        asked = _Asked(str(folder / "sock"))
        asked.await_answer()
        before_mb, used_before_s = bench.memory_mb(process.pid)[0], bench.cpu_s(process.pid)
        began = time.perf_counter()
        asked.call("supervisor.startAllProcesses", False)
        while any(each["statename"] != "EXITED" for each in asked.call("supervisor.getAllProcessInfo")):
            assert time.perf_counter() < began + BOUND_S, "it does not end"
            time.sleep(PAUSE_S)
        passed_s = time.perf_counter() - began
        cpu_s = bench.cpu_s(process.pid) - used_before_s
        after_mb = bench.memory_mb(process.pid)[0]
    finally:
        process.terminate()
        process.wait(BOUND_S)
    files = (numbered(folder, f"{number}.log") for number in range(flood.workers))
    return _judged(flood, folder, passed_s, cpu_s, 0, files, (before_mb, after_mb))


def numbered(folder: Path, name: str) -> list[Path]:
    """NAME.2.gz, NAME.1, NAME: the oldest first."""
    found = [
        (int(match[1] or 0), path)
        for path in folder.iterdir()
        if (match := re.fullmatch(rf"{re.escape(name)}(?:\.(\d+)(?:\.gz)?)?", path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


class _Asked:
    """supervisord's XML-RPC over its socket."""

    def __init__(self, address: str) -> None:
        self._address = address

    def call(self, method: str, *parameters: Any) -> Any:
        """The result of one call on a connection of its own."""
        with contextlib.closing(_Connection(self._address)) as connection:
            body = xmlrpc.client.dumps(parameters, method)
            connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
            (found,), _ = xmlrpc.client.loads(connection.getresponse().read())
        return found

    def await_answer(self) -> None:
        """Until it answers at all."""
        deadline = time.monotonic() + BOUND_S
        while True:
            try:
                self.call("supervisor.getState")
            except OSError:
                assert time.monotonic() < deadline, "supervisord does not answer"
                time.sleep(PAUSE_S)
            else:
                return


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: str) -> None:
        super().__init__("localhost", timeout=BOUND_S)
        self._address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._address)
