"""The daemon's own log: what it looks like, that it can be made to tell everything while it runs, and that it never
costs the daemon anything: not a reader who does not read, not a stderr that is closed."""

import contextlib
import json
import logging
import os
import re
import resource
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.records.logs.daemon_log import QUEUE_BYTES, DaemonLog, Handler
from corral.worker.contract.errors import InvalidParams, NotFound, from_wire
from daemon_process import BIN, BOUND_S, DaemonProcess
from records.logs.test_journald import Journald

TEXT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info|warning|error|critical) +\S")

logger = logging.getLogger("corral.tests.daemon_log")


class Pipe:
    """A pipe that somebody may read."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def read(self) -> str:
        """What is in it."""
        os.set_blocking(self.reading, False)
        read = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.reading, 65536):
                read += chunk
        return read.decode()

    def name(self) -> str:
        """As JOURNAL_STREAM names it."""
        status = os.fstat(self.writing)
        return f"{status.st_dev}:{status.st_ino}"


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for fd in (made.reading, made.writing):
        with contextlib.suppress(OSError):
            os.close(fd)


@contextlib.contextmanager
def kept(daemon_log: DaemonLog) -> Generator[DaemonLog, None, None]:
    """The only log of this process meanwhile."""
    root = logging.getLogger()
    others = [handler for handler in root.handlers if not isinstance(handler, Handler)]
    for handler in others:
        root.removeHandler(handler)
    try:
        yield daemon_log
    finally:
        daemon_log.close()
        root.setLevel(logging.WARNING)
        for handler in others:
            root.addHandler(handler)


# -- what it looks like


def test_a_line_has_time_level_text_and_facts(pipe: Pipe) -> None:
    with kept(DaemonLog(fd=pipe.writing)):
        facts = {"agent": "a", "count": 3, "why": 'a "b"', "none": None, "empty": "", "list": [1]}
        logger.warning("odd %s", "thing", extra={"fields": facts})
        logger.debug("not at this level")
    line = pipe.read()
    assert TEXT.match(line)
    shown = ' odd thing agent=a count=3 why="a \\"b\\"" none=null empty="" list=[1]\n'
    assert line.partition("warning")[2] == shown


def test_an_error_brings_its_data(pipe: Pipe) -> None:
    with kept(DaemonLog(fd=pipe.writing, form="json")):
        logger.error("%s", NotFound('cannot find agent "x"', name="x"))
        try:
            raise NotFound("cannot find it", name="y")
        except NotFound:
            logger.exception("cannot go on")
    first, second = (json.loads(line) for line in pipe.read().splitlines())
    assert first["fields"] == {"name": "x", "error": "NotFound", "code": -33001}
    assert (second["level"], second["fields"]["name"]) == ("error", "y")
    assert "NotFound" in second["traceback"]


def test_no_text_can_pass_for_another_entry(pipe: Pipe) -> None:
    forged = "x\n2026-01-01T00:00:00.000Z info    forged\r\x1b[2J\x85"
    with kept(DaemonLog(fd=pipe.writing)):
        logger.info("%s", forged, extra={"fields": {"reason": forged}})
        try:
            raise ValueError(forged)
        except ValueError:
            logger.exception("failed")
    lines = pipe.read().splitlines()
    assert len([line for line in lines if TEXT.match(line)]) == 2
    assert len([line for line in lines if not line.startswith("  ")]) == 2
    assert not any(character in "".join(lines) for character in "\r\x1b\x85")


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_error_that_somebody_else_has_answered_brings_a_bounded_number_of_harmless_facts(
    form: Any, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    names = ["a\n2026-01-01T00:00:00.000Z info    forged", "", "b\x1b[2J", "c" * 100_000]
    data: dict[str, object] = dict.fromkeys([*names, *(f"k{n}" for n in range(2_000))], "v" * 4_000)
    error = from_wire({"code": -32603, "message": "cannot", "data": data})
    with open(path, "wb") as file, kept(DaemonLog(fd=file.fileno(), form=form)):
        logger.warning("the server: %s", error)
        try:
            raise ValueError("x" * 1_000_000)
        except ValueError:
            logger.exception("failed")
    told = path.read_text()
    assert len(told) < 300_000
    assert "\x1b" not in told
    if form == "json":
        first, _ = (json.loads(line) for line in told.splitlines())
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) for name in first["fields"])
        assert first["fields"]["error"] == error.name
    else:
        assert len([line for line in told.splitlines() if TEXT.match(line)]) == 2


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_entry_is_bounded_whatever_is_in_it(form: Any, pipe: Pipe) -> None:
    with kept(DaemonLog(fd=pipe.writing, form=form)) as daemon_log:
        reader = threading.Thread(target=_read_all, args=(pipe.reading, read := bytearray()))
        reader.start()
        facts: dict[str, object] = {"data": "x" * 1_000_000, "more": [{"deep": "\udcff" * 100_000}]}
        logger.info("y" * 1_000_000, extra={"fields": facts})
        logger.info("%d", "no number")
        logger.info("after")
        daemon_log.close()
        os.close(pipe.writing)
        reader.join(BOUND_S)
    lines = read.decode().splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) < 50_000
    assert "after" in lines[2]


def _read_all(fd: int, into: bytearray) -> None:
    while chunk := os.read(fd, 65536):
        into += chunk


# -- where it goes


def test_where_stderr_is_the_journal_it_speaks_the_native_protocol(pipe: Pipe, tmp_path: Path) -> None:
    with contextlib.closing(Journald(tmp_path / "journal")) as journald:
        daemon_log = DaemonLog(fd=pipe.writing, journal_stream=pipe.name(), journal_path=str(journald.path))
        with kept(daemon_log):
            facts = {"agent": "a", "worker": None, "retry-after s": 1.5}
            logger.warning("odd", extra={"fields": facts})
            try:
                raise NotFound("cannot find it", name="y")
            except NotFound:
                logger.exception("failed")
        first, second = journald.entries()
    assert pipe.read() == ""
    assert first["MESSAGE"].startswith(b"odd ")
    assert (first["PRIORITY"], first["SYSLOG_IDENTIFIER"]) == (b"4", b"corrald")
    assert first["CORRAL_AGENT"] == b"a"
    assert "CORRAL_WORKER" not in first
    assert first["CORRAL_RETRY_AFTER_S"] == b"1.5"
    assert first["CODE_FILE"].endswith(b"test_daemon_log.py")
    assert first["CODE_FUNC"] == b"test_where_stderr_is_the_journal_it_speaks_the_native_protocol"
    assert int(first["CODE_LINE"]) > 0
    assert (second["PRIORITY"], second["CORRAL_NAME"]) == (b"3", b"y")
    assert second["MESSAGE"].count(b"\n") > 2


def test_where_the_journal_does_not_answer_stderr_gets_it_with_the_priority_before_each_line(
    pipe: Pipe, tmp_path: Path
) -> None:
    path = str(tmp_path / "nobody")
    with kept(DaemonLog(fd=pipe.writing, journal_stream=pipe.name(), journal_path=path)):
        try:
            raise ValueError("x")
        except ValueError:
            logger.exception("failed")
    lines = pipe.read().splitlines()
    assert len(lines) > 2
    assert all(line.startswith("<3>") for line in lines)


def test_a_stderr_that_is_not_the_journal_is_taken_at_its_word(pipe: Pipe, tmp_path: Path) -> None:
    with contextlib.closing(Journald(tmp_path / "journal")) as journald:
        path = str(journald.path)
        with kept(DaemonLog(fd=pipe.writing, journal_stream="1:2", journal_path=path)):
            logger.info("here")
        assert journald.entries() == []
    assert "here" in pipe.read()


# -- nobody reads


def test_a_journald_that_does_not_read_gets_everything_later_and_in_order(pipe: Pipe, tmp_path: Path) -> None:
    with contextlib.closing(Journald(tmp_path / "journal")) as journald:
        daemon_log = DaemonLog(fd=pipe.writing, journal_stream=pipe.name(), journal_path=str(journald.path))
        with kept(daemon_log):
            for number in range(2_000):
                logger.info("%d", number)
            told: list[bytes] = []
            while len(told) < 2_000:
                told += [entry["MESSAGE"] for entry in journald.entries()]
                daemon_log.flush()
            assert told == [str(number).encode() for number in range(2_000)]
            assert daemon_log.lost == 0


def test_a_reader_that_does_not_read_costs_no_time_and_learns_what_it_missed(pipe: Pipe) -> None:
    count = 3 * QUEUE_BYTES // 1000
    with kept(DaemonLog(fd=pipe.writing)) as daemon_log:
        for number in range(count):
            logger.info("%d %s", number, "x" * 1000)  # a wait would have no end
        lost = daemon_log.lost
        assert count // 2 < lost < count
        told = ""
        while f"{lost} entries" not in told:
            told += pipe.read()
            daemon_log.flush()
        logger.info("after")
        told += pipe.read()
    lines = told.splitlines()
    assert all(TEXT.match(line) for line in lines)
    assert len(lines) == count - lost + 2
    assert (" warning " in lines[-2], lines[-1].endswith(" after")) == (True, True)
    assert os.get_blocking(pipe.writing)  # it is not ours alone


def test_a_reader_that_has_gone_costs_the_entries_alone(pipe: Pipe) -> None:
    with kept(DaemonLog(fd=pipe.writing)) as daemon_log:
        os.close(pipe.reading)
        for _ in range(3):
            logger.info("lost")
        assert daemon_log.lost == 3


def test_a_descriptor_that_was_closed_costs_the_entries_alone(pipe: Pipe) -> None:
    os.close(pipe.writing)
    with kept(DaemonLog(fd=pipe.writing)) as daemon_log:
        logger.info("lost")
        assert daemon_log.lost == 1


def test_a_full_disk_costs_whole_entries_and_is_reported_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open(path, "ab", buffering=0) as file, kept(DaemonLog(fd=file.fileno())) as daemon_log:
        logger.info("first")
        with no_room_beyond(path.stat().st_size + 20):
            logger.info("cut")
            logger.info("lost")
            assert daemon_log.lost == 2
        daemon_log.flush()
        logger.info("last")
    first, cut, told, last = path.read_text().splitlines()
    assert len(cut) == 20
    assert all(TEXT.match(line) for line in (first, told, last))
    assert "2 entries" in told
    assert (first.endswith(" first"), last.endswith(" last")) == (True, True)


@contextlib.contextmanager
def no_room_beyond(size: int) -> Generator[None, None, None]:
    """A limit for files, which ends a write as a full disk does: a part, then an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- the daemon's


SLEEPER = """
[agents.sleeper]
command = ["sleep", "1000"]
protocol = "none"
environment = {TOKEN = "never-shown-1"}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    config = '[daemon]\nlog_format = "json"\n' + SLEEPER
    with DaemonProcess(tmp_path_factory.mktemp("log"), config) as process:
        yield process


def entries(daemon: DaemonProcess) -> list[Any]:
    """The whole log so far; each line is a JSON document."""
    return [json.loads(line) for line in daemon.log.read_text().splitlines()]


def told_during(daemon: DaemonProcess, act: Callable[[], object]) -> list[Any]:
    before = len(entries(daemon))
    act()
    return entries(daemon)[before:]


def test_the_level_is_set_while_it_runs_and_a_reload_puts_the_file_s_in_force(daemon: DaemonProcess) -> None:
    assert daemon.corral("log-level").stdout == "info\n"
    assert told_during(daemon, lambda: daemon.call("daemon.ping")) == []
    assert daemon.corral("log-level", "debug").returncode == 0
    assert json.loads(daemon.corral("--json", "log-level").stdout) == {"level": "debug"}
    (entry,) = told_during(daemon, lambda: daemon.call("daemon.ping"))
    assert entry["level"] == "debug"
    assert daemon.corral("reload").returncode == 0
    assert daemon.corral("log-level").stdout == "info\n"
    assert told_during(daemon, lambda: daemon.call("daemon.ping")) == []
    assert daemon.corral("log-level", "loud").returncode == 2
    config = daemon.config.read_text()
    daemon.config.write_text(config.replace("[daemon]", '[daemon]\nlog_level = "warning"'))
    assert daemon.call("daemon.reload")["live"] == ["daemon.log_level"]
    assert daemon.call("daemon.status", names=[])["daemon"]["log_level"] == "warning"
    daemon.config.write_text(config)
    daemon.call("daemon.reload")


def test_a_reload_turns_the_copies_of_workers_lines_on_and_off(daemon: DaemonProcess) -> None:
    config = daemon.config.read_text()
    for value in (True, False):
        text = config.replace("[daemon]", f"[daemon]\njournal = {str(value).lower()}")
        daemon.config.write_text(text)
        assert daemon.call("daemon.reload")["live"] == (["daemon.journal"])
        status = daemon.call("daemon.status", names=[])["daemon"]
        assert (status["journal"], status["journal_lost"]) == (value, 0)
        topics = {each["topic"]: each for each in daemon.call("daemon.doctor")["findings"]}
        assert ("journal" in topics["log"]["found"]) == value
    daemon.config.write_text(config)
    daemon.call("daemon.reload")


def test_at_debug_each_operation_shows_and_nothing_of_an_environment(daemon: DaemonProcess) -> None:
    daemon.call("daemon.log_level", level="debug")
    try:
        told = told_during(daemon, lambda: operate(daemon))
    finally:
        daemon.call("daemon.log_level", level="info")
    fields = [entry["fields"] for entry in told]
    calls = {each["method"]: each for each in fields if "method" in each}
    assert {"agent.add", "agent.restart", "agent.rm", "agent.show"} <= set(calls)
    assert calls["agent.add"]["result"] == "ok"
    assert calls["agent.add"]["ms"] > 0
    assert calls["agent.show"]["result"] == "NotFound"
    assert f"pid {os.getpid()}" in calls["agent.add"]["caller"]
    operations = [each["op"] for each in fields if each.get("unit", "").startswith("new-0#")]
    assert operations.count("spawn") == operations.count("exited") == 2
    assert "signal" in operations
    states = [
        (each["from"], each["to"])
        for each in fields
        if (each.get("type"), each.get("worker")) == ("worker.state", "new-0")
    ]
    assert ("Initial", "Starting") in states
    assert ("ShuttingDown", "Terminated") in states
    assert any(each.get("type") == "mcp.call" for each in fields)
    assert sum(each.get("statements", 0) for each in fields) > 5
    log = daemon.log.read_text()
    assert "never-shown" not in log
    assert "TOKEN" in log


@pytest.mark.parametrize("key", ["environment", "env"])
@pytest.mark.parametrize("value", [["TOKEN=never-shown"], "TOKEN=never-shown", {"TOKEN": ["never-shown"]}])
def test_what_is_refused_as_an_environment_is_not_shown_at_debug_either(
    key: str, value: object, daemon: DaemonProcess
) -> None:
    daemon.call("daemon.log_level", level="debug")
    for place in ({key: value}, {"process": {key: value}}):
        with pytest.raises(InvalidParams):
            daemon.call("agent.add", name="new", spec={"command": ["true"], **place})
    daemon.call("daemon.log_level", level="info")
    assert "never-shown" not in daemon.log.read_text()


def operate(daemon: DaemonProcess) -> None:
    """One of each kind of operation."""
    spec = {"command": ["sleep", "1000"], "protocol": "none", "environment": {"TOKEN": "never-shown-2"}}
    daemon.call("agent.add", name="new", spec=spec)
    daemon.call("agent.restart", names=["new"])
    daemon.call("mcp.call", name="cortex__cortex_store", arguments={"content": "x"})
    with pytest.raises(NotFound):
        daemon.call("agent.show", name="nobody")
    daemon.call("agent.rm", name="new")


class Elsewhere(DaemonProcess):
    """A daemon whose stderr is not a file."""

    def __init__(self, folder: Path, stderr: int | None) -> None:
        """`stderr` None: it is closed."""
        self._stderr = stderr
        super().__init__(folder, '[daemon]\nlog_level = "debug"\n' + SLEEPER)

    def start(self) -> None:
        address = self.folder / "notify.sock"
        paths = [f"--config={self.config}", f"--socket={self.socket}", f"--state-dir={self.state_dir}"]
        closing = "2>&-" if self._stderr is None else ""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(address))
            notified.settimeout(BOUND_S)
            self.process = subprocess.Popen(
                ["sh", "-c", f'exec "$@" {closing}', "sh", str(BIN / "corrald"), *paths],
                env={**os.environ, "NOTIFY_SOCKET": str(address)},
                stdin=subprocess.DEVNULL,
                stderr=self._stderr,
            )
            assert notified.recv(256) == b"READY=1"


def test_a_closed_stderr_costs_nothing_and_its_number_is_given_to_no_other_file(tmp_path: Path) -> None:
    with Elsewhere(tmp_path, None) as daemon:
        assert daemon.corral("restart", "sleeper").returncode == 0
        assert os.readlink(f"/proc/{daemon.pid}/fd/2") == "/dev/null"
        assert daemon.stop() == 0


def test_a_stderr_that_nobody_reads_holds_up_nothing_and_what_it_cost_is_reported(tmp_path: Path, pipe: Pipe) -> None:
    with Elsewhere(tmp_path, pipe.writing) as daemon:
        with daemon.client() as client:
            lost = 0
            while not lost:
                with pytest.raises(NotFound):
                    client.call("agent.show", {"name": "x" * 4_000}, timeout_s=BOUND_S)
                status: Any = client.call("daemon.status", {"names": []}, timeout_s=BOUND_S)
                lost = status["daemon"]["log_lost"]
        assert daemon.corral("restart", "sleeper").returncode == 0
        told = ""
        while "were lost" not in told:  # it goes on by itself
            select.select([pipe.reading], [], [], BOUND_S)
            told += pipe.read()
        assert daemon.stop() == 0
    lines = (told + pipe.read()).splitlines()
    assert all(TEXT.match(line) for line in lines)
    assert lines[-1].partition("debug")[2].startswith("   commit ")
