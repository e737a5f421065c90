"""Who did what: a real daemon, killed and starved, and its audit read from outside."""

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.records.audit.hash_chain import AppendRecords, encode
from corral.worker.contract.errors import CorralError, InvalidParams, NotFound, Overloaded
from corral.worker.methods.table import METHODS
from daemon_process import AGENTS, BOUND_S, DaemonProcess, until

CONFIG = f"""
[agents.plain]
command = ["sleep", "600"]
protocol = "none"
autostart = false

[agents.crew]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
tools = ["odd__echo"]
autostart = false

[mcp.servers.odd]
command = ["{sys.executable}", "-I", "{AGENTS}/mcp_odd.py"]
autostart = false
"""

SLEEPS = {"command": ["sleep", "600"], "protocol": "none"}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path, CONFIG) as process:
        yield process


def records(daemon: DaemonProcess, **params: object) -> list[Any]:
    found: list[Any] = daemon.call("audit.list", **params)["records"]
    return found


def stored(daemon: DaemonProcess) -> list[Any]:
    """The records as they are on disk, which no daemon has to be asked for."""
    with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as connection:
        rows = connection.execute("SELECT record FROM audit ORDER BY id").fetchall()
    return [json.loads(record) for (record,) in rows]


# -- what is recorded


def test_each_change_is_recorded_with_who_asked_for_what_and_what_came_of_it(daemon: DaemonProcess) -> None:
    with daemon.client() as client:

        def call(method: str, **params: object) -> None:
            client.call(method, params, timeout_s=BOUND_S)

        call("agent.start", names=["plain"])
        call("agent.pause", names=["plain"])
        call("agent.resume", all=True)
        call("agent.signal", name="plain-0", signal="USR1")
        call("agent.restart", names=["plain"], wait=False)
        call("agent.scale", name="plain", instances=2, wait=False)
        call("agent.stop", names=["plain"])
        call("agent.reset", names=["plain"])
        call("agent.add", name="x", spec=SLEEPS, start=False)
        call("agent.add_all", agents=[{"name": "y", "spec": SLEEPS}], start=False)
        call("agent.rm", name="x", names=["y"])
        call("daemon.log_level", level="info")
        call("daemon.reload")
        call("daemon.reload", dry_run=True)
        call("daemon.status")
        call("daemon.emergency_stop")
    found = records(daemon, since=0)
    assert [(r["action"], r.get("names")) for r in found] == [
        ("daemon.start", ["plain", "crew", "odd", "cortex"]),
        ("agent.start", ["plain"]),
        ("agent.pause", ["plain"]),
        ("agent.resume", ["*"]),
        ("agent.signal", ["plain-0"]),
        ("agent.restart", ["plain"]),
        ("agent.scale", ["plain"]),
        ("agent.stop", ["plain"]),
        ("agent.reset", ["plain"]),
        ("agent.add", ["x"]),
        ("agent.add_all", ["y"]),
        ("agent.rm", ["x", "y"]),
        ("daemon.log_level", []),
        ("daemon.reload", []),
        ("daemon.emergency_stop", []),
    ]
    assert {r["result"] for r in found} == {"ok"}
    assert all(r["who"] == {"uid": os.getuid(), "pid": os.getpid()} for r in found[1:])
    assert [r["id"] for r in found] == list(range(1, 16))
    assert found[6]["params"] == {"name": "plain", "instances": 2, "wait": False}
    assert sorted(found[11]["told"]["removed"]) == ["x", "y"]


def test_every_method_that_may_do_something_says_whether_it_is_recorded() -> None:
    silent = {
        name
        for name, entry in METHODS.items()
        if entry.access.permission != "read" and entry.access.recorded == "never"
    }
    assert silent == {
        "agent.exec_input",  # its agent.exec is recorded, and what is typed may be a secret,
        "audit.list",
        "audit.verify",
        "backup.read",  # its making is recorded,
        "checkpoint.save",  # what runs goes on as it was,
        "event.publish",  # an event is a record of its own,
        "mcp.read",  # looking changes nothing,
        "memory.cleanup",  # what has expired is gone already,
        "memory.clear",  # and what is remembered is no part of the running set: its events tell
        "memory.delete",
        "memory.expire",
        "memory.put",
        "schedule.run",  # a task is a record of its own, too
        "secret.list",  # it has no value
        "token.list",
        "task.cancel",
        "task.discard",
        "task.retry",
        "task.run",
        "task.submit",
    }


def test_no_value_of_an_environment_and_no_secret_is_in_the_store(daemon: DaemonProcess) -> None:
    spec = {
        **SLEEPS,
        "environment": {"NAME": "hunter2-a"},
        "process": {"environment": {"NAME": "hunter2-b"}},
        "config": {"api_key": "hunter2-c", "deep": [{"Password": "hunter2-d"}]},
    }
    with suppress(CorralError):
        daemon.call("agent.add", name="x", spec=spec, start=False)
    with suppress(CorralError):
        daemon.call("agent.add", name="y", spec={**spec, "protocol": "hunter2-e"}, start=False)
    said = json.dumps([r for r in stored(daemon) if r["action"] == "agent.add"])
    assert "NAME" in said
    assert "api_key" in said
    assert "hunter2-a" not in said
    assert [letter for letter in "abcd" if f"hunter2-{letter}" in said] == []


@pytest.mark.parametrize("depth", [30, 300, 700], ids=str)
def test_params_of_any_depth_are_refused_and_recorded_like_others(daemon: DaemonProcess, depth: int) -> None:
    nested: object = "x"
    for _ in range(depth):
        nested = [nested]
    with pytest.raises(InvalidParams):
        daemon.call("agent.stop", names=["plain"], nested=nested)
    (found,) = records(daemon, actions=["agent.stop"])
    assert (found["result"], found["names"]) == ("InvalidParams", ["plain"])


@pytest.mark.parametrize(
    "spec",
    [
        {"env": {"DATABASE_URL": "hunter2"}},
        {"environment": ["DATABASE_URL=hunter2"]},
        {"environment": "hunter2"},
        {"process.environment": {"A": "hunter2"}},
        {"headers": {"X-Auth": ["hunter2"]}},
        {"config": {"private_key": "hunter2", "AccessKey": "hunter2"}},
    ],
    ids=["env", "a list", "a string", "dotted", "headers", "keys"],
)
def test_a_secret_that_stands_where_others_write_it_is_not_recorded(
    daemon: DaemonProcess, spec: dict[str, object]
) -> None:
    with suppress(CorralError):
        daemon.call("agent.add", name="x", spec={**SLEEPS, **spec}, start=False)
    (found,) = [r for r in stored(daemon) if r["action"] == "agent.add"]
    assert next(iter(spec)) in found["params"]["spec"]
    assert "hunter2" not in json.dumps(found)


def test_long_params_are_kept_as_their_digest(daemon: DaemonProcess) -> None:
    spec = {**SLEEPS, "command": ["sleep", "600", *["x" * 100] * 100]}
    params = {"name": "x", "spec": spec, "start": False}
    daemon.call("agent.add", **params)
    (found,) = records(daemon, actions=["agent.add"])
    text = json.dumps(params, sort_keys=True, separators=(",", ":")).encode()
    assert found["params"] == {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}
    assert found["names"] == ["x"]


def test_what_is_refused_is_recorded_once_and_then_counted(daemon: DaemonProcess) -> None:
    for _ in range(20):
        with pytest.raises(NotFound):
            daemon.call("agent.stop", names=["nobody"])
    (found,) = records(daemon, actions=["agent.stop"])
    assert (found["result"], found["code"]) == ("NotFound", NotFound.code)
    assert daemon.stop() == 0
    first, repeated = [r for r in stored(daemon) if r["action"] == "agent.stop"]
    assert "repeated" not in first
    assert repeated["repeated"] == 19
    assert stored(daemon)[-1]["action"] in ("agent.stop", "daemon.stop")


INSIDE = """
import json, socket, sys, time
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
for method in sys.argv[2:]:
    params = {"names": ["plain"]} if method != "mcp.call" else {"name": "odd__echo", "arguments": {"a": "hunter2"}}
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "dry_run": True}}
    if method == "agent.reset":
        del request["params"]["dry_run"]
    sock.sendall(json.dumps(request).encode() + b"\\n")
    sock.recv(65536)
print("done", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("control", "result"), [("none", "PermissionDenied"), ("operate", "ok")], ids=["none", "operate"]
)
def test_what_a_process_of_an_agent_asks_for_is_recorded_as_its_agents(
    daemon: DaemonProcess, control: str, result: str
) -> None:
    command = [sys.executable, "-c", INSIDE, str(daemon.socket), *["agent.reset"] * 3]
    daemon.call("agent.add", name="inside", spec={"command": command, "protocol": "none", "control": control})
    with daemon.client() as client:
        client.call("log.follow", {"names": ["inside"], "n": 10}, timeout_s=BOUND_S)
        next(client.notifications())
    pid = daemon.worker("inside-0")["pid"]
    found = records(daemon, actions=["agent.reset"])
    assert {r["result"] for r in found} == {result}
    assert len(found) == (1 if control == "none" else 3), "refusals are counted"
    assert found[0]["who"] == {"uid": os.getuid(), "pid": pid, "agent": "inside"}
    assert {r["action"] for r in records(daemon, name="inside")} == {"agent.add", "agent.reset"}


@pytest.mark.parametrize("method", ["mcp.call", "agent.stop"])
def test_what_a_worker_without_rights_is_refused_is_recorded_whatever_it_adds_to_the_call(
    daemon: DaemonProcess, method: str
) -> None:
    command = [sys.executable, "-c", INSIDE, str(daemon.socket), method]
    spec = {"command": command, "protocol": "none", "control": "read"}
    daemon.call("agent.add", name="inside", spec=spec)
    with daemon.client() as client:
        client.call("log.follow", {"names": ["inside"], "n": 10}, timeout_s=BOUND_S)
        next(client.notifications())
    (found,) = records(daemon, actions=[method])
    assert (found["result"], found["who"]["agent"]) == ("PermissionDenied", "inside")
    assert found.get("tool") == (None if method == "agent.stop" else "odd__echo")
    assert "hunter2" not in json.dumps(found)


def test_a_tool_call_is_recorded_with_the_digest_of_its_arguments_and_without_them(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["crew"])
    arguments = {"text": "hunter2"}
    daemon.call("mcp.call", name="odd__echo", arguments=arguments)
    run = daemon.call("task.run", agent="crew", objective="tool odd__echo", input=arguments)
    assert run["state"] == "succeeded"
    refused = daemon.call("task.run", agent="crew", objective="tool odd__methods", input={})
    assert refused["error"]["name"] == "PermissionDenied"
    outside, inside, denied = records(daemon, actions=["mcp.call"])
    text = json.dumps(arguments, separators=(",", ":")).encode()
    digest = {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}
    for each in (outside, inside):
        assert (each["tool"], each["server"], each["result"]) == ("odd__echo", "odd", "ok")
        assert each["arguments"] == digest
        assert each["duration_s"] > 0
    assert (outside["who"], outside["task"]) == ({"uid": os.getuid(), "pid": os.getpid()}, None)
    pid = daemon.worker("crew-0")["pid"]
    worker = {"uid": os.getuid(), "pid": pid, "agent": "crew", "worker": "crew-0"}
    assert (inside["who"], inside["task"]) == (worker, run["id"])
    assert (denied["result"], denied["who"]) == ("PermissionDenied", worker)
    assert "hunter2" not in json.dumps(stored(daemon))


def test_each_call_that_a_server_has_seen_is_a_record_also_where_it_says_no(daemon: DaemonProcess) -> None:
    for number in range(3):
        arguments = {"error": {"code": InvalidParams.code, "message": "no"}, "number": number}
        with pytest.raises(InvalidParams):
            daemon.call("mcp.call", name="odd__error", arguments=arguments)
    found = records(daemon, actions=["mcp.call"])
    assert [each["result"] for each in found] == ["InvalidParams"] * 3
    assert len({each["arguments"]["sha256"] for each in found}) == 3


def test_a_reload_by_signal_is_recorded_as_that(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.call("event.follow", {"types": ["config.reloaded"]}, timeout_s=BOUND_S)
        daemon.config.write_text(f"{CONFIG}\n[agents.more]\ncommand = ['true']\nautostart = false\n")
        os.kill(daemon.pid, 1)
        next(client.notifications())
    (found,) = records(daemon, actions=["daemon.reload"])
    assert found["who"] == {"signal": "SIGHUP"}
    assert found["told"]["added"] == ["more"]
    assert records(daemon, name="more") == [found]


# -- what a record survives


def test_the_record_of_an_answered_change_is_there_after_a_kill(daemon: DaemonProcess) -> None:
    rounds = int(os.environ.get("CORRAL_AUDIT_KILLS", "4"))
    for number in range(rounds):
        with daemon.client() as client:
            client.call("agent.add", {"name": f"x{number}", "spec": SLEEPS, "start": False}, timeout_s=BOUND_S)
            daemon.kill()
        found = [r["names"] for r in stored(daemon) if r["action"] == "agent.add"]
        assert found == [[f"x{n}"] for n in range(number + 1)]
        daemon.start()
        assert daemon.call("audit.verify")["ok"] is True
    starts = records(daemon, actions=["daemon.start"])
    assert [r["unclean"] for r in starts] == [False] + [True] * rounds


def test_a_tool_call_is_on_disk_soon_and_without_anybody_asking(daemon: DaemonProcess) -> None:
    daemon.call("mcp.call", name="odd__echo", arguments={"text": "a"})
    until(lambda: [r for r in stored(daemon) if r["action"] == "mcp.call"])
    daemon.kill()
    assert [r["action"] for r in stored(daemon)].count("mcp.call") == 1
    daemon.start()


def test_changes_of_many_clients_at_once_are_one_chain(daemon: DaemonProcess) -> None:
    def client(name: int) -> None:
        with daemon.client() as connection:
            for n in range(7):
                params = {"name": f"a{name}x{n}", "spec": SLEEPS, "start": False}
                connection.call("agent.add", params, timeout_s=BOUND_S)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client, range(8)))
    found = records(daemon, actions=["agent.add"])
    assert len({r["names"][0] for r in found}) == len(found) == 56
    for name in range(8):
        own = [r["names"][0] for r in found if r["names"][0].startswith(f"a{name}x")]
        assert own == [f"a{name}x{n}" for n in range(7)]
    checked = daemon.call("audit.verify")
    assert (checked["ok"], checked["records"]) == (True, 57)


def test_without_a_store_a_stop_is_done_and_answered_and_recorded_later_but_nothing_is_started(
    daemon: DaemonProcess,
) -> None:
    daemon.call("agent.start", names=["plain"], wait=False)
    with closing(sqlite3.connect(daemon.state_dir / "corral.db", isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")
        daemon.call("agent.stop", names=["plain"])
        assert daemon.worker("plain-0")["state"] == "Terminated"
        until(lambda: "audit" in daemon.call("daemon.status")["daemon"]["degraded"])
        with pytest.raises(Overloaded) as refused:
            daemon.call("agent.start", names=["plain"])
        assert refused.value.data["reason"] in ("audit", "stalled", "locked")
        assert daemon.worker("plain-0")["state"] == "Terminated"
        held.execute("ROLLBACK")
    until(lambda: not daemon.call("daemon.status")["daemon"]["degraded"])
    found = records(daemon, name="plain", actions=["agent.*"])
    assert [(r["action"], r["result"]) for r in found] == [
        ("agent.start", "ok"),
        ("agent.stop", "ok"),
        ("agent.start", "Overloaded"),
    ]
    assert daemon.call("audit.verify")["ok"] is True


# -- the command


@pytest.mark.long
def test_the_command_lists_verifies_and_says_by_its_status_whether_all_is_as_it_was(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["plain"], wait=False)
    daemon.call("agent.stop", names=["plain"])
    for arguments in (["audit"], ["audit", "list"], ["audit", "-n", "2"]):
        done = daemon.corral(*arguments)
        assert done.returncode == 0
        assert "agent.stop" in done.stdout
        assert str(os.getpid()) in done.stdout
    for arguments in (["audit", "--json", "--since", "1"], ["--json", "audit", "list", "--since", "5m"]):
        lines = [json.loads(line) for line in daemon.corral(*arguments).stdout.splitlines()]
        assert [r["action"] for r in lines][-2:] == ["agent.start", "agent.stop"]
    only = daemon.corral("audit", "--json", "--action", "*.stop", "--name", "plain").stdout
    assert [json.loads(line)["action"] for line in only.splitlines()] == ["agent.stop"]
    assert daemon.corral("audit", "--until", "1h").stdout == ""
    checked = daemon.corral("audit", "--json", "verify")
    assert checked.returncode == 0
    head = json.loads(checked.stdout)["head"]
    assert daemon.corral("audit", "verify", "--head", head).returncode == 0
    assert head in daemon.corral("audit", "verify").stdout
    other = f"{head.partition(':')[0]}:{'0' * 64}"
    assert daemon.corral("audit", "verify", "--head", other).returncode == 1
    assert daemon.corral("audit", "verify", "--head", "nonsense").returncode == 2


@pytest.mark.parametrize("since", ["1", "1h"])
def test_a_count_means_the_last_ones_whatever_since_says(daemon: DaemonProcess, since: str) -> None:
    for _ in range(3):
        daemon.call("agent.reset", names=["plain"])
    every = daemon.corral("audit", "--json", "--since", since).stdout.splitlines()
    assert len(every) >= 3
    last = daemon.corral("audit", "--json", "--since", since, "-n", "2").stdout.splitlines()
    assert last == every[-2:]
    newest = json.loads(every[-1])["id"]
    assert daemon.corral("audit", "--since", str(newest), "-n", "2").stdout == ""


@pytest.mark.long
def test_the_command_lists_as_many_as_requested(daemon: DaemonProcess) -> None:
    assert daemon.stop() == 0
    with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as file, file:
        records = [encode({"action": "test.done", "number": number}) for number in range(10_100)]
        assert AppendRecords(records).run(file) == len(records)
    daemon.start()
    done = daemon.corral("audit", "--json", "-n", "10050", "--action", "test.*")
    numbers = [json.loads(line)["number"] for line in done.stdout.splitlines()]
    assert numbers == list(range(50, 10_100))


def test_a_change_of_the_file_while_the_daemon_was_down_is_found(daemon: DaemonProcess) -> None:
    daemon.call("agent.start", names=["plain"], wait=False)
    daemon.call("agent.stop", names=["plain"])
    (stop,) = records(daemon, actions=["agent.stop"])
    assert daemon.stop() == 0
    with closing(sqlite3.connect(daemon.state_dir / "corral.db", isolation_level=None)) as file:
        file.execute(
            "UPDATE audit SET record = CAST(replace(CAST(record AS TEXT), 'agent.stop', 'agent.show') AS BLOB)"
        )
    daemon.start()
    done = daemon.corral("--json", "audit", "verify")
    assert done.returncode == 1
    assert json.loads(done.stdout)["wrong"]["id"] == stop["id"]


def test_who_may_only_look_does_not_see_what_others_did(daemon: DaemonProcess) -> None:
    assert METHODS["audit.list"].access.permission == METHODS["audit.verify"].access.permission == "operate"


def test_the_program_of_the_manual_verifies_the_file_by_the_head_that_the_daemon_noted_in_its_log(
    daemon: DaemonProcess,
) -> None:
    daemon.call("agent.start", names=["plain"], wait=False)
    assert daemon.stop() == 0
    *_, head = re.findall(r"audit_head=(\S+)", daemon.log.read_text("utf-8"))
    assert len(stored(daemon)) == int(head.partition(":")[0])
    manual = (Path(__file__).parents[2] / "docs" / "reference" / "audit.md").read_text("utf-8")
    program = manual.partition("```python\n")[2].partition("```")[0]

    def verdict() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-", str(daemon.state_dir / "corral.db"), head],
            input=program,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )

    assert verdict().returncode == 0, verdict().stderr
    with closing(sqlite3.connect(daemon.state_dir / "corral.db", isolation_level=None)) as file:
        file.execute("UPDATE audit_chain SET (head_id, head_hash) = (SELECT id, hash FROM audit WHERE id = 2)")
        file.execute("DELETE FROM audit WHERE id > 2")
        assert verdict().returncode == 1, "its end is gone"
        file.execute("UPDATE audit SET record = x'00' WHERE id = 2")
    assert verdict().returncode == 1
    daemon.start()
