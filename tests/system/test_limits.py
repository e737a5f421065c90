"""Limits that real programs hit: what happens to them, and that nobody else notices."""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from corral.worker.client.sync import Client
from daemon_process import AGENTS, BOUND_S, DaemonProcess, marked, until

HOG = AGENTS / "hog.py"

MIB = 1024 * 1024

SYSTEM_PYTHON = "/usr/bin/python3"
"""For workers of another user, who may not enter our home."""

needs_other_user = pytest.mark.skipif(
    os.getuid() == 0 and not os.access(SYSTEM_PYTHON, os.X_OK),
    reason="the kernel does not count root's processes, and another user needs an interpreter",
)


both_tiers = pytest.mark.parametrize(
    "tier", [f'[daemon]\ncontainment = "{word}"\n' for word in ("launcher", "auto")], ids=["launcher", "auto"]
)
"""Without control groups, and with what there is of them here."""


def program(name: str, *arguments: str, python: str = sys.executable, **limits: object) -> str:
    """An agent that runs hog.py with these arguments and `[resources]`."""
    command = json.dumps([python, str(HOG), *arguments])
    resources = "".join(f"resources.{key} = {json.dumps(limits[key])}\n" for key in limits)
    return (
        f"[agents.{name}]\nprotocol = \"none\"\ncommand = {command}\nautostart = false\n"
        f'recovery.restart = "never"\n{resources}'
    )  # fmt: skip


def first(notifications: Iterator[Any], key: str, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first of the records or events that is it."""
    return next(each for note in notifications for each in note.params[key] if is_it(each))


def await_event(daemon: DaemonProcess, kind: str, **fields: object) -> dict[str, Any]:
    """The first event of a type with these fields, of the past or to come."""
    with daemon.client() as client:
        client.call("event.follow", {"types": [kind], "since": 0}, timeout_s=BOUND_S)
        return first(client.notifications(), "events", lambda e: fields.items() <= e.items())


def lines(client: Client, name: str) -> Iterator[str]:
    """The lines that an agent prints."""
    client.call("log.follow", {"names": [name], "n": 100}, timeout_s=BOUND_S)
    for notification in client.notifications():
        records: Any = notification.params["records"]
        yield from (record["text"] for record in records)


def first_line(daemon: DaemonProcess, name: str) -> str:
    """The first line that an agent prints."""
    with daemon.client() as client:
        return next(lines(client, name))


def start(daemon: DaemonProcess, *names: str, wait: bool = False) -> None:
    daemon.call("agent.start", names=list(names), wait=wait)


def ended(daemon: DaemonProcess, worker: str) -> Any:  # a worker's status
    """The worker as soon as it has ended."""
    return daemon.await_worker(worker, lambda w: w["state"] == "Terminated")


# -- memory


@both_tiers
@pytest.mark.parametrize("where", ["take", "child", "escapee"])
def test_a_tree_that_takes_more_memory_than_it_may_is_killed_as_oom(tmp_path: Path, where: str, tier: str) -> None:
    config = tier + program("hog", where, "300", max_memory_bytes="100MiB")
    config += program("neighbour", "take", "10", max_memory_bytes="100MiB")
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "neighbour", wait=True)
        before = daemon.worker("neighbour-0")
        start(daemon, "hog")
        assert ended(daemon, "hog-0")["last_exit"]["result"] == "oom"
        event = await_event(daemon, "limit.memory", worker="hog-0")
        assert (event["key"], event["limit"]) == ("max_memory_bytes", 100 * MIB)
        assert event["used"] > 90 * MIB
        after = daemon.worker("neighbour-0")
        assert (after["pid"], after["state"]) == (before["pid"], "Ready")


def test_a_hog_is_ended_while_it_is_asked_to_stop_too(tmp_path: Path) -> None:
    script = "import signal,sys; signal.signal(signal.SIGTERM, lambda *_: hog.take('300'));"
    command = [sys.executable, "-c", f"import hog; {script} print('up', flush=True); hog.rest()"]
    config = (
        f'[agents.hog]\nprotocol = "none"\ncommand = {json.dumps(command)}\nautostart = false\n'
        f'environment = {{ PYTHONPATH = "{AGENTS}" }}\nprocess.shutdown_grace_period = "10m"\n'
        'resources.max_memory_bytes = "100MiB"\n'
    )
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "hog")
        assert first_line(daemon, "hog") == "up"
        daemon.call("agent.stop", names=["hog"])
        assert daemon.worker("hog-0")["last_exit"]["signal"] == "SIGKILL"
        await_event(daemon, "limit.memory", worker="hog-0")


@pytest.mark.parametrize("how", ["shared", "mapped"])
def test_workers_that_share_their_pages_are_not_taken_for_hogs(tmp_path: Path, how: str) -> None:
    what = "60"
    if how == "mapped":
        what = str(tmp_path / "file")
        Path(what).write_bytes(bytes(60 * MIB))
    config = program("family", how, what, "5", max_memory_bytes="100MiB")
    config += program("hog", "take", "300", max_memory_bytes="100MiB")
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "family")
        with daemon.client() as client:
            said = lines(client, "family")
            assert len([next(said) for _ in range(5)]) == 5
        until(lambda: daemon.worker("family-0")["rss_bytes"] >= 5 * 60 * MIB)
        start(daemon, "hog")
        # By the time that a later hog has been found, the family was looked at again.
        ended(daemon, "hog-0")
        assert daemon.worker("family-0")["state"] in ("Starting", "Ready")


def test_memory_is_held_where_nothing_is_tracked(tmp_path: Path) -> None:
    config = program("hog", "take", "300", max_memory_bytes="100MiB", enable_resource_tracking=False)
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "hog")
        assert ended(daemon, "hog-0")["last_exit"]["result"] == "oom"


# -- the processors


@pytest.mark.parametrize("how", [["spin"], ["stubborn"], ["spin-in-children", "0.2"]])
def test_a_tree_that_has_used_its_processor_time_ends_as_cpu_time(tmp_path: Path, how: list[str]) -> None:
    with DaemonProcess(tmp_path, program("hog", *how, max_cpu_seconds=1)) as daemon:
        start(daemon, "hog")
        last = ended(daemon, "hog-0")["last_exit"]
        assert last["result"] == "cpu-time"
        assert last["signal"] == ("SIGXCPU" if how == ["spin"] else "SIGKILL")
        event = await_event(daemon, "limit.cpu_seconds", worker="hog-0")
        assert event["limit"] == 1
        assert event["used"] >= 0.5  # the kernel counts its ticks, more or less


@both_tiers
def test_a_tree_that_uses_too_much_of_the_processors_is_held_back_and_goes_on(tmp_path: Path, tier: str) -> None:
    config = tier + program("hog", "spin", "2", cpu_limit_percent=10) + program("free", "spin")
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "hog", "free")
        began = await_event(daemon, "limit.cpu", throttled=True)
        assert (began["worker"], began["limit"]) == ("hog-0", 10)
        with daemon.client() as client:
            for line in lines(client, "hog"):
                if float(line) > 0.15:
                    break  # it goes on after having been held back
        until(lambda: daemon.worker("hog-0")["throttled_s"] > 1.0)
        held, free = daemon.worker("hog-0"), daemon.worker("free-0")
        assert held["throttled"] is True
        assert held["state"] == "Ready"
        assert (free["throttled"], free["throttled_s"]) == (False, 0.0)
        assert len(daemon.call("event.list", types=["limit.cpu"])["events"]) == 1
        daemon.call("agent.stop", names=["hog"])
        assert daemon.worker("hog-0")["last_exit"]["forced"] is False


def test_the_end_of_being_held_back_is_reported_once(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, program("hog", "burst", cpu_limit_percent=10)) as daemon:
        start(daemon, "hog")
        assert first_line(daemon, "hog") == "begins"
        await_event(daemon, "limit.cpu", throttled=True)
        daemon.call("agent.signal", names=["hog"], signal="SIGUSR1")
        events = until(  # it may be held back more than once before it takes the signal
            lambda: daemon.call("event.list", types=["limit.cpu"])["events"],
            lambda events: not events[-1]["throttled"] and not daemon.worker("hog-0")["throttled"],
        )
        assert [event["throttled"] for event in events] == [True, False] * (len(events) // 2)
        assert events[-1]["throttled_s"] > 0.0


BEATER = """
import json, os, sys, time
def say(message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for child in range(3):
    if os.fork() == 0:
        sys.stdin.close()
        while True: pass
request = json.loads(sys.stdin.readline())
say({"id": request["id"], "result": {"protocolVersion": "1", "name": "beater"}})
while True:
    say({"method": "heartbeat", "params": {}})
    print("beat", file=sys.stderr, flush=True)
    time.sleep(0.2)
"""


@pytest.mark.long
def test_a_worker_that_is_held_back_is_not_hung_for_that(tmp_path: Path) -> None:
    command = json.dumps([sys.executable, "-I", "-S", "-c", BEATER])
    config = (
        f"[agents.slow]\ncommand = {command}\nautostart = false\n"
        "resources.cpu_limit_percent = 1\n"
        'monitoring.heartbeat_interval = "200ms"\nmonitoring.heartbeat_timeout = "3s"\n'
    )
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "slow")
        slow = daemon.worker("slow-0")
        with daemon.client() as client:
            for _ in islice(lines(client, "slow"), 200):
                slow = daemon.worker("slow-0")
                if slow["throttled_s"] > 3.0:  # longer than its timeout
                    break
        assert slow["throttled_s"] > 3.0
        assert (slow["incarnation"], slow["restarts"], slow["last_exit"]) == (1, 0, None)


# -- what the kernel holds by itself


def test_limits_are_there_before_the_first_instruction(tmp_path: Path) -> None:
    config = program(
        "asks",
        "limits",
        max_cpu_seconds=7,
        max_file_size_bytes="3MiB",
        max_file_descriptors=99,
        max_address_space_bytes="1GiB",
        max_core_dump_bytes="8MiB",
    )
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "asks")
        found = dict(word.split("=") for word in first_line(daemon, "asks").split())
        del found["NPROC"]
        told = {"CPU": 7, "FSIZE": 3 * MIB, "NOFILE": 99, "AS": 1024 * MIB, "CORE": 8 * MIB}
        assert {name: int(value) for name, value in found.items()} == told


def test_a_file_that_becomes_too_large_ends_its_writer_as_file_size(tmp_path: Path) -> None:
    path = tmp_path / "written"
    config = program("hog", "write", str(path), "8", max_file_size_bytes="3MiB")
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "hog")
        last = ended(daemon, "hog-0")["last_exit"]
        assert (last["result"], last["signal"]) == ("file-size", "SIGXFSZ")
        assert await_event(daemon, "limit.file_size", worker="hog-0")["limit"] == 3 * MIB
        assert path.stat().st_size == 3 * MIB


def test_a_program_that_can_open_no_more_files_gets_an_error_and_is_reported(tmp_path: Path) -> None:
    config = program("hog", "open-files", "100", max_file_descriptors=64)
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "hog")
        assert first_line(daemon, "hog") == str(errno.EMFILE)
        event = await_event(daemon, "limit.file_descriptors", worker="hog-0")
        assert (event["used"], event["limit"]) == (64, 64)
        assert daemon.worker("hog-0")["open_files"] == 64


def test_a_program_at_its_limit_of_address_space_gets_an_error(tmp_path: Path) -> None:
    config = program("hog", "reserve", "4096", max_address_space_bytes="1GiB")
    config += program("free", "reserve", "4096")
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "hog", "free")
        assert first_line(daemon, "hog") == str(errno.ENOMEM)
        assert first_line(daemon, "free") == f"has {4096 * MIB}"


def counted() -> tuple[str, int, str]:
    """An interpreter, how many processes and threads its user has now, and how the spec names the user."""
    if os.getuid() == 0:
        return (SYSTEM_PYTHON, threads_of(65534), 'process.user = "nobody"\nprocess.working_directory = "/"\n')
    return sys.executable, threads_of(os.getuid()), ""


def threads_of(uid: int) -> int:
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == uid:
                    found += len(list((entry / "task").iterdir()))
            except OSError:
                continue
    return found


@needs_other_user
def test_a_program_that_can_start_no_more_processes_gets_an_error_and_is_reported(tmp_path: Path) -> None:
    python, others, process = counted()
    limit = others + 30
    config = program("hog", "fork-until-refused", "300", python=python, max_processes=limit)
    config += process
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "hog")
        assert first_line(daemon, "hog") == str(errno.EAGAIN)
        if others == 0:  # else it is refused before its own tree is at the limit
            event = await_event(daemon, "limit.worker_processes", worker="hog-0")
            assert (event["used"], event["limit"]) == (limit, limit)


@pytest.mark.skipif(os.getuid() != 0, reason="root's processes alone are not counted")
def test_a_limit_that_cannot_be_held_is_an_error_at_the_start(tmp_path: Path) -> None:
    config = '[daemon]\ncontainment = "launcher"\n' + program("hog", "spin", max_processes=30)
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "hog")
        assert ended(daemon, "hog-0")["last_exit"]["result"] == "exec-failed"
        said = daemon.corral("start", "hog").stderr
        assert (said.count("cannot start"), said.count("max_processes")) == (1, 1)


def test_while_a_fork_bomb_goes_off_the_daemon_answers_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, program("bomb", "bomb", "8")) as daemon:
        start(daemon, "bomb")
        while len(marked(tmp_path)) < 256:
            daemon.call("daemon.ping")
        daemon.call("agent.stop", names=["bomb"])
        assert [pid for pid in marked(tmp_path) if is_hog(pid)] == []


def is_hog(pid: int) -> bool:
    try:
        return str(HOG).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


# -- what status shows


def test_status_reports_what_a_worker_uses_soon_after_its_start(tmp_path: Path) -> None:
    config = '[monitoring]\nmetrics_interval = "10m"\n'
    config += program("worker", "spin", "2", max_memory_bytes=0)
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "worker", wait=True)
        seen = daemon.worker("worker-0")
        assert seen["rss_bytes"] > MIB
        assert seen["open_files"] >= 3
        assert 0.0 < seen["cpu_percent"] <= 100.0 * (os.cpu_count() or 1) + 10.0


# -- tokens

SPENDER = """
from corral.worker import Agent
agent = Agent("spender")
@agent.task
async def run(task):
    task.usage(tokens=int(task.objective))
"""


def test_an_agent_that_has_used_up_its_tokens_takes_no_more_tasks_for_now(tmp_path: Path) -> None:
    (tmp_path / "spender.py").write_text(SPENDER)
    config = (
        '[agents.thrifty]\nentrypoint = "spender:agent"\nresources.max_tokens_per_minute = 100\n'
        '[agents.other]\nentrypoint = "spender:agent"\n'
    )
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "thrifty", "other", wait=True)
        for tokens in ("60", "60"):
            done = daemon.call("task.run", agent="thrifty", objective=tokens)
            assert done["state"] == "succeeded"
        event = await_event(daemon, "limit.tokens", agent="thrifty")
        assert (event["used"], event["limit"]) == (120, 100)
        waits = daemon.call("task.submit", agent="thrifty", objective="1")
        assert daemon.call("task.run", agent="other", objective="9")["state"] == "succeeded"
        waits = daemon.call("task.show", task=waits["id"])
        assert (waits["state"], waits["worker"]) == ("queued", None)
        assert waits["reason"]


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_reports_beyond_the_limit_of_tokens_cost_no_memory(tmp_path: Path) -> None:
    reports = 60_000
    config = (
        f'[agents.flood]\ncommand = ["{sys.executable}", "{AGENTS}/raw_worker.py", "spends", "{reports}"]\n'
        "resources.max_tokens_per_minute = 10\n"
    )
    with DaemonProcess(tmp_path, config) as daemon:
        start(daemon, "flood", wait=True)
        before = resident_kib(daemon.pid)
        done = daemon.call("task.run", agent="flood", objective="spend")
        assert (done["state"], done["tokens_used"]) == ("succeeded", reports)
        assert resident_kib(daemon.pid) - before < 16 * 1024
