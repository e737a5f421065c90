"""`corral daemon upgrade`: another program takes the place of the daemon's own, and nothing of it ends."""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from socket import AF_INET, AF_UNIX, socket
from typing import Any

import pytest

from chaos.upgrades import Ordeal
from corral.worker.contract.errors import Conflict
from daemon_process import AGENTS, BOUND_S, DaemonProcess, marked, until
from free_ports import free_port
from upgrading import asking, check_unchanged, lives, other_python, upgrade_twice

COUNT = "i=0; while :; do i=$((i+1)); printf 'line '; sleep 0.01; echo $i; done"
"""Prints numbered lines, each in two halves."""

CONFIG = f"""
[agents.counts]
command = ["sh", "-c", "{COUNT}"]
protocol = "none"
[agents.sleeps]
command = ["sleep", "1000"]
protocol = "none"
instances = 3
[agents.resting]
command = ["sleep", "1000"]
protocol = "none"
[agents.fails]
command = ["false"]
protocol = "none"
recovery.restart_backoff_base = "1h"
recovery.restart_backoff_max = "1h"
"""


SLEEPS = "[agents.sleeps]\ncommand = ['sleep', '1000']\nprotocol = 'none'\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("upgrade")
    with DaemonProcess(folder, CONFIG) as process:
        process.await_worker("sleeps-2", lambda w: w["state"] == "Ready")
        process.call("agent.stop", names=["resting"])
        process.await_worker("fails-0", lambda w: w["next_start_in_s"] is not None)
        yield process
        assert process.stop() == 0
    assert marked(folder) == []


def numbers(daemon: DaemonProcess, name: str = "counts") -> list[int]:
    """The numbers of the lines in a log, which have no other lines."""
    records = daemon.call("log.read", names=[name], n=100_000)["records"]
    return [int(record["text"].removeprefix("line ")) for record in records]


@contextmanager
def executing(daemon: DaemonProcess) -> Generator[None]:
    """A command is executed beside a worker, which no other program can go on with."""
    daemon.await_worker("sleeps-0", lambda w: w["state"] == "Ready")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(
            daemon.corral,
            "exec",
            "sleeps-0",
            "--",
            "sh",
            "-c",
            "echo $$ > begun; while [ -e begun ]; do sleep 0.1; done",
        )
        begun = until(lambda: list(daemon.folder.rglob("begun")))[0]
        try:
            yield
        finally:
            begun.unlink()


def test_an_upgrade_ends_nothing_and_loses_no_line(daemon: DaemonProcess) -> None:
    before, upgrades = lives(daemon), daemon.call("daemon.status")["daemon"]["upgrades"]
    last = until(lambda: numbers(daemon))[-1]
    for number in range(1, 4):
        upgraded = daemon.call("daemon.upgrade")
        assert (upgraded["pid"], upgraded["upgrades"]) == (daemon.pid, upgrades + number)
        check_unchanged(daemon, before, upgrades + number)
    until(lambda: numbers(daemon)[-1] > last + 100)
    found = numbers(daemon)
    assert found == list(range(1, len(found) + 1))
    assert before["resting-0"][2] == "Terminated", "it was stopped, and stays so"
    assert before["fails-0"][2] == "Initial", "it waits for its next start, and goes on to"


def test_a_connection_and_a_call_that_reads_go_on_over_an_upgrade(daemon: DaemonProcess) -> None:
    with daemon.client() as idle:
        idle.call("daemon.ping", {}, timeout_s=BOUND_S)
        assert json.loads(daemon.corral("daemon", "upgrade", "--json").stdout)["pid"] == daemon.pid
        idle.call("daemon.ping", {}, timeout_s=BOUND_S)


def test_the_next_program_ends_workers_and_restarts_those_that_die(daemon: DaemonProcess) -> None:
    daemon.call("daemon.upgrade")
    pid = daemon.worker("sleeps-1")["pid"]
    os.kill(pid, signal.SIGKILL)
    again = daemon.await_worker("sleeps-1", lambda w: w["state"] == "Ready" and w["pid"] != pid)
    assert (again["incarnation"], again["restarts"]) == (2, 1)
    daemon.call("agent.stop", names=["sleeps-2"])
    assert daemon.worker("sleeps-2")["state"] == "Terminated"
    daemon.call("agent.start", names=["sleeps-2"])


def test_sigusr2_asks_for_an_upgrade(daemon: DaemonProcess) -> None:
    before, upgrades = lives(daemon), daemon.call("daemon.status")["daemon"]["upgrades"]
    os.kill(daemon.pid, signal.SIGUSR2)
    until(lambda: daemon.call("daemon.status")["daemon"]["upgrades"] == upgrades + 1)
    check_unchanged(daemon, before, upgrades + 1)


def test_a_check_changes_nothing(daemon: DaemonProcess) -> None:
    before, upgrades = lives(daemon), daemon.call("daemon.status")["daemon"]["upgrades"]
    assert daemon.corral("daemon", "upgrade", "--check").returncode == 0
    check_unchanged(daemon, before, upgrades)


@pytest.mark.parametrize("python", ["/no/such/python", "refuses", "/bin/true"])
def test_a_program_that_does_not_prove_itself_never_gets_the_process(
    daemon: DaemonProcess, tmp_path: Path, python: str
) -> None:
    before, upgrades = lives(daemon), daemon.call("daemon.status")["daemon"]["upgrades"]
    path = python if python.startswith("/") else other_python(tmp_path, python)
    with pytest.raises(Conflict) as refusal:
        daemon.call("daemon.upgrade", python=path)
    assert refusal.value.data["reason"] == "unproved"
    check_unchanged(daemon, before, upgrades)


@pytest.mark.parametrize("fault", ["fails", "hangs"])
def test_a_program_that_cannot_go_on_gives_the_process_back(daemon: DaemonProcess, tmp_path: Path, fault: str) -> None:
    before, upgrades = lives(daemon), daemon.call("daemon.status")["daemon"]["upgrades"]
    with pytest.raises(Conflict) as refusal:
        daemon.call("daemon.upgrade", python=other_python(tmp_path, fault))
    assert refusal.value.data["reason"] == "returned"
    check_unchanged(daemon, before, upgrades)
    last = numbers(daemon)[-1]
    until(lambda: numbers(daemon)[-1] > last)
    found = numbers(daemon)
    assert found == list(range(1, len(found) + 1))


def test_a_changed_configuration_is_named(daemon: DaemonProcess) -> None:
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("instances = 3", "instances = 4"))
    try:
        with pytest.raises(Conflict) as refusal:
            daemon.call("daemon.upgrade")
        assert refusal.value.data["reason"] == "config"
    finally:
        daemon.config.write_text(text)


def test_what_cannot_be_taken_along_is_waited_for_and_then_named(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, SLEEPS) as daemon, executing(daemon):
        before = lives(daemon)
        begun = time.monotonic()
        with pytest.raises(Conflict) as refusal:
            daemon.call("daemon.upgrade", timeout_s=1.0)
        assert time.monotonic() - begun >= 1.0
        assert (refusal.value.data["reason"], "sleeps" in refusal.value.message) == ("busy", True)
        check_unchanged(daemon, before, 0)


def test_tasks_in_flight_end_once_and_their_callers_are_answered(tmp_path: Path) -> None:
    command = f'["{sys.executable}", "-P", "{AGENTS / "upgraded_agent.py"}"]'
    config = f"[agents.slow]\ncommand = {command}\ninstances = 2\nresources.max_concurrent_requests = 4\n"
    with DaemonProcess(tmp_path, config) as daemon, ThreadPoolExecutor(20) as pool:
        for number in (0, 1):
            daemon.await_worker(f"slow-{number}", lambda w: w["state"] in ("Ready", "Idle"))
        before = {worker: life[:2] for worker, life in lives(daemon).items()}
        seconds = [0.3 * number for number in range(1, 13)]
        runs = [
            pool.submit(
                daemon.call,
                "task.run",
                agent="slow",
                objective="work",
                input={"seconds": each},
                durable=number % 2 == 0,
            )
            for number, each in enumerate(seconds[:8])
        ]
        until(lambda: daemon.call("daemon.status")["tasks"]["running"] == 8)
        runs += [
            pool.submit(daemon.call, "task.run", agent="slow", objective="work", input={"seconds": each})
            for each in seconds[8:]
        ]
        until(lambda: daemon.call("daemon.status")["tasks"]["queued"] >= 4)
        for number in range(1, 3):
            assert daemon.call("daemon.upgrade")["upgrades"] == number
        daemon.call("event.publish", type="upgrade.test", data="a word")
        ended = [run.result(BOUND_S) for run in runs]
        assert [each["output"] for each in ended] == [{"given": 1, "delivery": 1}] * 12
        assert {(each["state"], each["attempt"], each["delivery"]) for each in ended} == {("succeeded", 1, 1)}
        assert {worker: life[:2] for worker, life in lives(daemon).items()} == before
        records = daemon.call("log.read", names=["slow"], n=1000)["records"]
        lines = ["heard a word"] * 2 + [f"done {each['id']}" for each in ended]
        assert sorted(record["text"] for record in records) == sorted(lines)


def slow(instances: int = 2) -> str:
    """The configuration of `upgraded_agent`."""
    command = f'["{sys.executable}", "-P", "{AGENTS / "upgraded_agent.py"}"]'
    return f"[agents.slow]\ncommand = {command}\ninstances = {instances}\nresources.max_concurrent_requests = 8\n"


def run_slow(daemon: DaemonProcess, pool: ThreadPoolExecutor, given: object, **more: object) -> Future[Any]:
    """Has a task of `upgraded_agent` run: its record."""
    return pool.submit(daemon.call, "task.run", agent="slow", objective="work", input=given, **more)


def states(daemon: DaemonProcess) -> Counter[str]:
    """The number of tasks by state."""
    return Counter(task["state"] for task in daemon.call("task.list", limit=500)["tasks"])


def test_questions_and_delegated_tasks_go_on(tmp_path: Path) -> None:
    once = {"given": 1, "delivery": 1}
    with DaemonProcess(tmp_path, slow()) as daemon, ThreadPoolExecutor(20) as pool:
        asks = [run_slow(daemon, pool, {"ask": f"{kept}?"}, durable=kept) for kept in (True, False)]
        delegates = [
            run_slow(daemon, pool, {"delegate": {}}),
            run_slow(daemon, pool, {"delegate": {"ask": "child?"}}, durable=False),
        ]
        every = run_slow(daemon, pool, {"all": [{"seconds": 0}, {}, {}, {"seconds": 0}]})
        until(lambda: len(daemon.call("approval.list")["approvals"]) == 3)
        until(lambda: states(daemon) == {"running": 9, "succeeded": 1})
        for number in (1, 2):
            assert daemon.call("daemon.upgrade")["upgrades"] == number
        assert states(daemon) == {"running": 9, "succeeded": 1}
        for each in daemon.call("approval.list")["approvals"]:
            daemon.call("approval.answer", approval=each["id"], answer=each["question"])
        daemon.call("event.publish", type="upgrade.go")
        assert [each.result(BOUND_S)["output"] for each in asks] == [
            {"answer": "True?", **once},
            {"answer": "False?", **once},
        ]
        first, second = (each.result(BOUND_S)["output"] for each in delegates)
        assert (first, second) == ({"child": once, **once}, {"child": {"answer": "child?", **once}, **once})
        assert every.result(BOUND_S)["output"] == {"all": [once] * 4, **once}
        assert states(daemon) == {"succeeded": 11}


def test_turns_of_sessions_and_runs_of_jobs_go_on(tmp_path: Path) -> None:
    waits = "while [ ! -e go ]; do sleep 0.05; done"
    config = f"""{slow(1)}
[agents.waits]
type = "oneshot"
autostart = false
command = ["sh", "-c", "{waits}"]
[agents.fails]
type = "oneshot"
autostart = false
command = ["sh", "-c", "{waits}; exit 3"]
recovery.restart = "never"
"""
    with DaemonProcess(tmp_path, config) as daemon, ThreadPoolExecutor(20) as pool:
        turns = [run_slow(daemon, pool, {"turn": turn}, session="s", durable=turn < 3) for turn in range(4)]
        until(lambda: states(daemon) == {"running": 1, "queued": 3})
        jobs = [
            pool.submit(daemon.call, "task.run", agent=name, objective="run") for name in ("waits", "waits", "fails")
        ]
        until(lambda: states(daemon) == {"running": 3, "queued": 4})
        before = until(lambda: lives(daemon), lambda found: all(pid for pid, *_ in found.values()))
        for number in (1, 2):
            assert daemon.call("daemon.upgrade")["upgrades"] == number
        assert lives(daemon) == before
        assert states(daemon) == {"running": 3, "queued": 4}
        daemon.call("event.publish", type="upgrade.go")
        outputs = [turn.result(BOUND_S)["output"] for turn in turns]
        assert outputs[-1] is not None
        longest = max((each["turns"] for each in outputs), key=len)
        assert sorted(longest) == [0, 1, 2, 3]
        assert {(each["given"], each["delivery"]) for each in outputs} == {(1, 1)}
        (tmp_path / "go").touch()
        first, second, failed = (job.result(BOUND_S) for job in jobs)
        assert [each["delivery"] for each in (first, second, failed)] == [1, 1, 1]
        numbers = sorted(each["output"]["incarnation"] for each in (first, second))
        assert (numbers, failed["state"], failed["error"]["data"]["code"]) == ([1, 2], "failed", 3)


def test_nothing_begins_between_the_handover_and_the_next_program(tmp_path: Path) -> None:
    """The program before takes a second each for what it does last: to write what is in memory, and to close its store."""
    task = {"agent": "slow", "objective": "work", "input": {"seconds": 0}}
    with DaemonProcess(tmp_path, slow()) as daemon:
        for number in (0, 1):
            daemon.await_worker(f"slow-{number}", lambda w: w["state"] in ("Ready", "Idle"))
        before = [life[:2] for life in lives(daemon).values()]
        daemon.call("daemon.upgrade", python=other_python(tmp_path, "lingers"))
        now = time.time()
        for number in range(50):
            daemon.call("task.submit", **task, at=now + 0.1 * number)
        for number in range(10):
            start = now + 0.1 * number
            daemon.call("schedule.add", name=f"s{number}", task=task, every_s=1, start_at=start, overlap="queue")
        daemon.call("daemon.upgrade", python=sys.executable)
        until(lambda: states(daemon)["succeeded"] >= 80)
        found = [each for each in daemon.call("task.list", limit=500)["tasks"] if each["state"] == "succeeded"]
        assert {(each["attempt"], each["delivery"], each["output"]["given"]) for each in found} == {(1, 1, 1)}
        assert [life[:2] for life in lives(daemon).values()] == before


def test_mcp_servers_stay_up_and_no_call_fails(tmp_path: Path) -> None:
    """A call is waited for or waits itself; the server keeps what it has in its process."""
    config = f'''
[mcp.servers.state]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_state.py"]
[mcp.servers.modern]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_odd.py", "--era=modern"]
'''
    with DaemonProcess(tmp_path, config) as daemon:

        def text(tool: str, **arguments: object) -> str:
            return str(daemon.call("mcp.call", name=f"state__{tool}", arguments=arguments)["content"][0]["text"])

        text("put", value="kept")
        pid = text("pid")
        daemon.call("agent.start", names=["modern"])
        modern = daemon.worker("modern-0")["pid"]

        def call() -> None:
            assert (text("get"), text("pid")) == ("kept", pid)

        with asking(call) as answers:
            upgrade_twice(daemon, answers)
        assert daemon.worker("state-0")["incarnation"] == 1
        found = daemon.worker("modern-0")
        assert (found["pid"], found["incarnation"], found["state"]) == (modern, 1, "Ready")
        assert {each["name"] for each in daemon.call("mcp.tools")["tools"]} >= {"state__put", "state__get"}


def test_http_goes_on_over_new_and_over_kept_connections(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, '[daemon]\nhttp = "127.0.0.1:0"\n') as daemon:
        address = daemon.call("daemon.status")["daemon"]["http"]
        token = (daemon.state_dir / "http.token").read_text().strip()

        def ping(connection: HTTPConnection) -> None:
            connection.request("GET", "/api/v1/ping", headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            assert (response.status, response.read() != b"") == (200, True)

        def ping_anew() -> None:
            with closing(HTTPConnection(address, timeout=BOUND_S)) as connection:
                ping(connection)

        with (
            closing(HTTPConnection(address, timeout=BOUND_S)) as kept,
            asking(lambda: ping(kept), 1) as over_kept,
            asking(ping_anew, 1) as over_new,
        ):
            upgrade_twice(daemon, over_kept, over_new)
        assert daemon.call("daemon.status")["daemon"]["http"] == address


def test_agents_that_listen_refuse_no_connection(tmp_path: Path) -> None:
    """Over TCP, a unix socket, and one whose first connection starts the agent."""
    command = f'command = ["{sys.executable}", "{AGENTS / "socket_server.py"}"]\nprotocol = "none"\n'
    path, idle, port = tmp_path / "l.sock", tmp_path / "idle.sock", free_port()
    config = f'[agents.serves]\n{command}listen = ["unix:{path}", "127.0.0.1:{port}"]\nready = {{ log = "serving" }}\n'
    config += f'[agents.idle]\n{command}listen = ["unix:{idle}"]\nautostart = false\n'

    def connect(place: str | tuple[str, int]) -> str:
        with socket(AF_UNIX if isinstance(place, str) else AF_INET) as client:
            client.settimeout(BOUND_S)
            client.connect(place)
            client.sendall(b"0\n")
            return client.makefile().readline()

    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("serves-0", lambda w: w["state"] == "Ready")
        before = lives(daemon)
        inode = path.stat().st_ino
        with asking(lambda: connect(str(path)) and connect(("127.0.0.1", port))) as answers:
            upgrade_twice(daemon, answers)
        check_unchanged(daemon, before, 2)
        daemon.call("agent.restart", names=["serves"])
        assert connect(str(path))
        assert path.stat().st_ino == inode
        assert connect(str(idle)), "the first connection starts it"
        daemon.call("agent.stop", names=["serves"])
        assert not path.exists(), "it is ours, and removed"


def test_services_refuse_no_request(tmp_path: Path) -> None:
    port = free_port()
    config = f"""
[process]
working_directory = "{AGENTS}"
[agents.calc]
entrypoint = "service_agent:agent"
warm = false
http = "127.0.0.1:{port}"
http_auth = "none"
"""

    def health() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=BOUND_S)
        connection.request("GET", "/health")
        response = connection.getresponse()
        assert response.status == 200, response.read()
        connection.close()

    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("calc-0", lambda w: w["state"] in ("Ready", "Idle"))
        with asking(health) as answers:
            upgrade_twice(daemon, answers)
        opened = daemon.call("event.list", types=["agent.http_opened"])["events"]
        assert len(opened) == 1
        daemon.call("agent.expose", name="calc", address=None)
        with pytest.raises(ConnectionRefusedError):
            health()


def test_a_second_upgrade_during_the_first_is_refused(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, SLEEPS) as daemon, executing(daemon), ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(daemon.call, "daemon.upgrade", timeout_s=2.0) for _ in range(2)]
        errors: list[Any] = [call.exception() for call in calls]
        reasons: list[str] = [error.data["reason"] for error in errors]
        assert sorted(reasons) == ["busy", "in-progress"]


def test_the_process_is_killed_right_after_an_upgrade_and_nothing_is_left(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        daemon.await_worker("sleeps-2", lambda w: w["state"] == "Ready")
        daemon.call("daemon.upgrade")
        daemon.kill()
        until(lambda: marked(tmp_path) == [])
        daemon.start()
        daemon.await_worker("sleeps-2", lambda w: w["state"] == "Ready")


def test_upgrades_under_load_with_and_without_kills(tmp_path: Path) -> None:
    """The short form of tests/chaos/upgrades.py."""
    for name, kills in (("whole", 0.0), ("hurt", 1.0)):
        (tmp_path / name).mkdir()
        ordeal = Ordeal(tmp_path / name, seed=1, kill_ratio=kills)
        ordeal.run(seconds=4.0, every_s=0.1)
        assert min(ordeal.counts["tasks"], ordeal.counts["tool calls"]) > 0, ordeal.counts
        assert kills or ordeal.counts["upgrades"], ordeal.counts
