"""Scenarios of real life that no other file holds under a whole daemon; tests/README.md has the list of all."""

import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from corral.worker.contract import codec
from daemon_process import AGENTS, BOUND_S, DaemonProcess

ODD = AGENTS / "odd_worker.py"

MANY = 150

IDLE = """
[agents.idle]
command = ["sleep", "1000000"]
protocol = "none"
autostart = false
"""


def odd(name: str, *arguments: str, more: str = "") -> str:
    words = ", ".join(f'"{word}"' for word in (sys.executable, str(ODD), *arguments))
    return f"[agents.{name}]\ncommand = [{words}]\n{more}\n"


def test_status_answers_while_hundreds_are_started_at_once(tmp_path: Path) -> None:
    config = f"""
        [process]
        max_concurrent_processes = {MANY}
        start_concurrency = 8
        [agents.many]
        command = ["sleep", "1000000"]
        protocol = "none"
        instances = {MANY}
        autostart = false
        """
    with DaemonProcess(tmp_path, config) as daemon, daemon.client() as client:
        daemon.call("agent.start", names=["many"], wait=False)
        seen: list[int] = []
        while not seen or seen[-1] < MANY:
            status: Any = client.call("daemon.status", {"names": ["many"]}, timeout_s=BOUND_S)
            pids = [worker["pid"] for worker in status["agents"][0]["workers"]]
            seen.append(sum(pid is not None for pid in pids))
        assert len(set(seen)) > 2, "it was asked in between"
        daemon.call("agent.start", names=["many"])
        pids = [daemon.worker(f"many-{number}")["pid"] for number in range(MANY)]
        assert len(set(pids)) == MANY


def test_a_slow_start_within_its_time_is_left_alone(tmp_path: Path) -> None:
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    fifo.chmod(0o644)
    with DaemonProcess(tmp_path, odd("slow", "late", str(fifo)) + IDLE) as daemon:
        with fifo.open("w"):  # as soon as it reads there; when it is closed, it speaks
            daemon.call("agent.start", names=["idle"])  # Ready when it has lived a second
            starting = daemon.worker("slow-0")
            assert starting["state"] == "Starting"
        ready = daemon.await_worker("slow-0", lambda worker: worker["state"] == "Ready")
        assert (ready["pid"], ready["incarnation"]) == (starting["pid"], 1)


def test_a_flood_of_heartbeats_is_bounded_and_helps_nobody_else(tmp_path: Path) -> None:
    silent = '\nmonitoring.heartbeat_timeout = "1s"\nmonitoring.heartbeat_interval = "200ms"'
    config = odd("flood", "flood", more='process.spawn_timeout = "5s"') + odd("calm", "blocks", more=silent)
    with DaemonProcess(tmp_path, config) as daemon:
        # Forged beats do not save a worker that is silent itself, and who floods stays or is ended by name.
        calm = daemon.await_worker("calm-0", lambda worker: worker["incarnation"] >= 2)
        assert calm["last_exit"]["result"] == "hung"
        flood = daemon.await_worker(
            "flood-0", lambda worker: worker["state"] in ("Ready", "Idle") or worker["last_exit"]
        )
        assert flood["last_exit"] is None or flood["last_exit"]["message"]


def test_a_blocked_loop_beside_a_living_thread_is_hung(tmp_path: Path) -> None:
    silent = 'monitoring.heartbeat_timeout = "500ms"\nmonitoring.heartbeat_interval = "100ms"'
    with DaemonProcess(tmp_path, odd("blocks", "blocks", more=silent)) as daemon:
        worker = daemon.await_worker("blocks-0", lambda worker: worker["incarnation"] >= 2)
        assert worker["last_exit"]["result"] == "hung"


def test_a_line_of_64_megabytes_is_bounded_and_the_next_is_whole(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, odd("long", "long")) as daemon:
        daemon.await_worker("long-0", lambda worker: worker["state"] == "Ready")
        until = time.monotonic() + BOUND_S
        while True:
            said = daemon.corral("--json", "logs", "long", "-n", "1", "--stream", "stderr")
            last = said.stdout.strip().rpartition("\n")[2]
            if last and codec.decode(last.encode())["text"] == "the next line":  # type: ignore[index]  # an object
                break
            assert time.monotonic() < until
        kept = sum(path.stat().st_size for path in (tmp_path / "state" / "logs").rglob("*.log*"))
        assert kept < 2 * 5 * 10 * 1024 * 1024, "max_log_files of max_log_file_bytes, and what is open"
        peak = Path(f"/proc/{daemon.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
        assert int(peak) * 1024 < 200 * 1024 * 1024


def test_a_worker_that_closes_its_outputs_lives_and_nothing_spins(tmp_path: Path) -> None:
    config = odd("mute", "closes", more='protocol = "none"') + IDLE
    with DaemonProcess(tmp_path, config) as daemon:
        worker = daemon.await_worker("mute-0", lambda worker: worker["state"] == "Ready")
        clock = (~daemon.pid << 3) | 2  # clock_getcpuclockid(3)
        before_s, began_s = time.clock_gettime(clock), time.monotonic()
        daemon.call("agent.start", names=["idle"])  # Ready when it has lived a second
        busy_s, passed_s = time.clock_gettime(clock) - before_s, time.monotonic() - began_s
        assert busy_s < 0.25 * passed_s, "a loop that spins takes all of a processor"
        assert daemon.worker("mute-0")["pid"] == worker["pid"]


def test_an_environment_arrives_byte_for_byte_and_is_shown_to_nobody(tmp_path: Path) -> None:
    values = {
        "PERCENT": "100 %s %(x)s %%",
        "QUOTES": "a \"b\" 'c' `d`",
        "LINES": "one\ntwo\r\n\tthree",
        "HASH": "# no comment",
        "UNICODE": "Ωμέγα \U0001f40e \u200b",
        "DOLLAR": "$HOME ${HOME} $(id)",
        "EMPTY": "",
        "TOKEN": "open sesame 4711",
    }
    written = {name: value.replace("$", "$$") for name, value in values.items()}
    table = "\n".join(f"{name} = {codec.encode(text).decode()}" for name, text in written.items())
    config = odd("env", "serve", more=f"[agents.env.environment]\n{table}\n")
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("env-0", lambda worker: worker["state"] == "Ready")
        task = daemon.call("task.run", agent="env", objective="tell")
        got = task["output"]
        assert {name: got[name] for name in values} == values
        shown = daemon.corral("--json", "show", "env").stdout
        assert values["TOKEN"] not in shown
        assert "TOKEN" in shown
        assert values["TOKEN"] not in daemon.corral("--json", "events", "-n", "100").stdout
        assert values["TOKEN"].encode() not in daemon.log.read_bytes()
        launcher = daemon.call("daemon.status")["daemon"]["launcher_pid"]
        for pid in (daemon.pid, launcher, daemon.worker("env-0")["pid"]):
            assert values["TOKEN"].encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_task_of_a_caller_who_hangs_up_goes_on_and_can_be_asked_for(tmp_path: Path) -> None:
    config = f"""
        [agents.crew]
        entrypoint = "crew_agent:agent"
        process.working_directory = "{AGENTS}"
        """
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("crew-0", lambda worker: worker["state"] == "Ready")
        with daemon.client() as watching:
            watching.call("event.follow", {"types": ["task.started"]}, timeout_s=BOUND_S)
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as caller:
                caller.connect(str(daemon.socket))
                params = {"agent": "crew", "objective": "wait"}
                request = {"jsonrpc": "2.0", "id": 1, "method": "task.run", "params": params}
                caller.sendall(codec.encode(request) + b"\n")
                told: Any = next(watching.notifications()).params
        task = told["events"][0]["task"]
        assert daemon.call("task.show", task=task)["state"] == "running"
        daemon.call("task.cancel", task=task)
        assert daemon.call("task.wait", task=task, timeout_s=BOUND_S)["state"] == "cancelled"
