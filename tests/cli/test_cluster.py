"""`corral cluster`: real servers, which end with the command however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.cluster.engine.local_servers import program_of
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.shell

CORRAL = [sys.executable, "-P", "-m", "corral.cli"]
BOUND_S = 60.0

TIMEOUT = 5
"""The exit code of a command that was not answered in time."""


def needs(kind: str) -> None:
    try:
        program_of(kind)
        __import__(kind)
    except (InvalidParams, ImportError) as error:
        pytest.skip(str(error))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pids: list[int]) -> None:
    end = time.monotonic() + BOUND_S
    while any(map(is_alive, pids)):
        assert time.monotonic() < end, "a server is left"
        time.sleep(0.01)


@contextmanager
def dev(*options: str) -> Generator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    process = subprocess.Popen(
        [*CORRAL, "--json", "cluster", "dev", *(() if "--nodes" in options else ("--nodes", "0")), *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, "it ended"
            text += line
        yield process, json.loads(text)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("engine", "servers"), [("nats", 1), ("nats", 3), ("redis", 1)])
def test_an_engine_runs_until_it_is_asked_to_end_and_leaves_nothing(engine: str, servers: int) -> None:
    needs(engine)
    with dev("--engine", engine, "--servers", str(servers)) as (process, found):
        assert len(found["pids"]) == servers
        assert all(map(is_alive, found["pids"]))
        end = time.monotonic() + BOUND_S
        argv = [*CORRAL, "--json", "cluster", "check", found["url"]]
        done = subprocess.run(argv, capture_output=True, text=True)
        while done.returncode == TIMEOUT and time.monotonic() < end:  # three servers elect
            done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout, done.stderr)
        report = json.loads(done.stdout)
        assert set(report["operations_ms"]) == {"put", "get", "append", "take and settle"}
        assert report["weaknesses"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 0
        wait_for_end(found["pids"])
        assert not os.path.exists(found["folder"])


def test_a_killed_command_leaves_no_server(tmp_path: Path) -> None:
    needs("nats")
    with dev("--servers", "3", "--folder", str(tmp_path / "kept")) as (process, found):
        process.kill()
        process.wait(BOUND_S)
        wait_for_end(found["pids"])
        assert (tmp_path / "kept" / "nats-0" / "store").is_dir()


@pytest.mark.long
def test_what_ends_by_itself_starts_again_and_what_ends_again_and_again_ends_the_command(tmp_path: Path) -> None:
    needs("nats")
    with dev("--nodes", "1", "--folder", str(tmp_path)) as (process, found):
        argv = [*CORRAL, "--socket", found["nodes"]["node-1"], "--json", "status"]
        lives: list[int] = []
        end = time.monotonic() + BOUND_S
        while len(lives) < 3:
            done = subprocess.run(argv, capture_output=True, text=True)
            pid = json.loads(done.stdout)["daemon"]["pid"] if done.returncode == 0 else 0
            if pid and pid not in lives:
                lives.append(pid)
                os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < end, lives
        assert process.wait(BOUND_S) == 1
        wait_for_end(found["pids"])


def test_nodes_run_with_the_engine_and_end_with_the_command(tmp_path: Path) -> None:
    needs("nats")
    crew = tmp_path / "crew.toml"
    crew.write_text('[agents.single]\ncommand = ["sleep", "1000"]\nprotocol = "none"\nplacement = {}\n')
    folder = tmp_path / "kept"
    options = ("--nodes", "2", "--folder", str(folder), "--config", str(crew))
    with dev(*options) as (process, found):
        assert list(found["nodes"]) == ["node-1", "node-2"]
        argv = [*CORRAL, "--socket", found["nodes"]["node-1"], "--json"]
        end = time.monotonic() + BOUND_S
        loads: list[int] = []
        while sum(loads) != 1 or len(loads) != 2:
            assert time.monotonic() < end, loads
            done = subprocess.run([*argv, "nodes"], capture_output=True, text=True)
            loads = [each["load"] for each in json.loads(done.stdout or "[]") if "load" in each]
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 0
        wait_for_end(found["pids"])
        assert not (folder / "node-1" / "corral.sock").exists()


def test_three_redis_servers_are_refused() -> None:
    done = subprocess.run([*CORRAL, "cluster", "dev", "--engine", "redis", "--servers", "3"], capture_output=True)
    assert done.returncode == 2


@pytest.mark.long
def test_an_engine_that_is_not_there_is_unanswered() -> None:
    needs("nats")
    done = subprocess.run([*CORRAL, "cluster", "check", "nats://127.0.0.1:1"], capture_output=True)
    assert done.returncode == 5
