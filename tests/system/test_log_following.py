"""Logs through the whole: what workers print is in the files and in `corral logs`, once, in order and whole."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from corral.worker.client.sync import Client
from corral.worker.contract.jsonrpc import Notification
from daemon_process import BIN, BOUND_S, DaemonProcess

pytestmark = pytest.mark.long

# Numbered lines of 100 bytes, as fast as they are read, or with pauses.
COUNTER = """
import os, sys, time
name, count, pause_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
for number in range(count):
    os.write(1, b"%s %d %s\\n" % (name.encode(), number, b"x" * 80))
    if pause_s:
        time.sleep(pause_s)
"""

MCP = """
import json, sys
def say(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("method") == "initialize":
        version = asked["params"]["protocolVersion"]
        info = {"name": "noisy", "version": "1"}
        say(id=asked["id"], result={"protocolVersion": version, "capabilities": {}, "serverInfo": info})
        for level, data in (("debug", "quiet"), ("error", "disk full"), ("notice", {"free": 0})):
            params = {"level": level, "logger": "storage", "data": data}
            say(method="notifications/message", params=params)
    elif "id" in asked:
        say(id=asked["id"], error={"code": -32601, "message": "no"})
"""


def agent(name: str, *command: str, **more: str) -> str:
    """A table of a program that speaks no protocol; `more` has TOML values."""
    lines = [f"[agents.{name}]", f"command = {json.dumps(command)}", 'protocol = "none"']
    return "\n".join([*lines, *(f"{key.replace('__', '.')} = {v}" for key, v in more.items()), ""])


def python(program: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program, *arguments)


def records(client: Client, is_enough: Callable[[list[dict[str, Any]]], bool]) -> list[Any]:
    """What a connection that follows is sent until it is enough."""
    found: list[dict[str, Any]] = []
    for notification in client.notifications():
        if notification.method == "log":
            found += _records(notification)
        if is_enough(found):
            break
    return found


def _records(notification: Notification) -> list[dict[str, Any]]:
    batch: Any = notification.params["records"]
    return list(batch)


def has_begun(life: int, worker: Any) -> bool:
    return bool(worker["incarnation"] == life and worker["pid"])


def numbers(found: list[dict[str, Any]], worker: str) -> list[int]:
    return [
        int(record["text"].split()[1])
        for record in found
        if record["worker"] == worker and record["stream"] == "stdout"
    ]


def test_a_follower_sees_every_line_once_over_rotations_and_kills_of_the_worker(tmp_path: Path) -> None:
    config = agent(
        "count",
        *python(COUNTER, "count", "1000000", "0.0001"),
        monitoring__max_log_file_bytes='"64KiB"',
        monitoring__max_log_files="1000",
        autostart="false",
        recovery='{ restart = "always", restart_backoff_base = "10ms", max_restart_attempts = 100 }',
    )
    with DaemonProcess(tmp_path, config) as daemon, daemon.client() as client:
        client.call("log.follow", {"names": ["count"], "n": 0}, timeout_s=BOUND_S)
        daemon.call("agent.start", names=["count"])
        found: list[Any] = []
        for lives in range(1, 4):
            found += records(client, lambda new: 1_000 in numbers(new[-300:], "count-0"))
            os.kill(daemon.worker("count-0")["pid"], signal.SIGKILL)
            daemon.await_worker("count-0", partial(has_begun, lives + 1))
        daemon.call("agent.stop", names=["count"])
        marker = daemon.call("log.read", names=["count"], n=1)["records"][-1]
        found += records(client, lambda new: marker in new)
        got = numbers(found, "count-0")
        # Each incarnation counts from 0 on, without a hole, until it is killed.
        starts = [index for index, number in enumerate(got) if number == 0]
        assert len(starts) in (3, 4)  # the last life may have been too short
        for start, end in zip(starts, [*starts[1:], len(got)], strict=True):
            assert got[start:end] == list(range(end - start))
        assert all(record["stream"] == "stdout" for record in found)


def test_the_last_words_of_a_crash_are_those_of_the_previous_incarnation(tmp_path: Path) -> None:
    program = """
import os, sys, time
if os.path.exists("second"):
    print("second life", flush=True); time.sleep(1000)
open("second", "w").close()
sys.stdout.write("x" * 60_000 + "\\nlast words")
sys.stdout.flush()
os._exit(3)
"""
    recovery = '{ restart = "always", restart_backoff_base = "10ms" }'
    with (
        DaemonProcess(tmp_path, agent("crash", *python(program), recovery=recovery)) as daemon,
        daemon.client() as client,
    ):
        client.call("log.follow", {"names": ["crash"], "n": 100}, timeout_s=BOUND_S)
        records(client, lambda new: any(r["text"] == "second life" for r in new))
        shown = daemon.corral("logs", "--previous", "--json", "crash").stdout.splitlines()
        assert [json.loads(line)["text"][:10] for line in shown] == ["x" * 10, "last words"]
        daemon.call("agent.stop", names=["crash"])
        shown = daemon.corral("logs", "-p", "--json", "crash-0").stdout.splitlines()
        assert [json.loads(line)["text"] for line in shown] == ["second life"]


def test_an_exit_is_reported_at_once_although_a_grandchild_holds_the_pipe(tmp_path: Path) -> None:
    program = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    time.sleep(1000)
print("the leader goes", flush=True)
time.sleep(1.5)
os._exit(7)
"""
    config = agent("leader", *python(program), recovery='{ restart = "never" }')
    with DaemonProcess(tmp_path, config) as daemon:
        ended = daemon.await_worker("leader-0", lambda w: w["last_exit"] is not None)
        assert ended["last_exit"]["code"] == 7
        (record,) = daemon.call("log.read", names=["leader"])["records"]
        assert record["text"] == "the leader goes"


def test_a_worker_that_closes_its_pipes_lives_and_costs_nothing(tmp_path: Path) -> None:
    program = "import os, time; os.write(2, b'closing'); os.close(1); os.close(2); time.sleep(1000)"
    with DaemonProcess(tmp_path, agent("closer", *python(program))) as daemon:
        daemon.await_worker("closer-0", lambda w: w["state"] == "Ready")
        before = cpu_ticks(daemon.pid)
        for _ in range(3):
            assert daemon.worker("closer-0")["state"] == "Ready"
            time.sleep(0.2)  # a loop that spins would use as much
        assert cpu_ticks(daemon.pid) - before < 0.3 * os.sysconf("SC_CLK_TCK")
        (record,) = daemon.call("log.read", names=["closer"])["records"]
        assert (record["stream"], record["text"]) == ("stderr", "closing")


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize("victim", ["launcher", "daemon"])
def test_after_a_kill_what_was_shown_is_there_and_a_possible_gap_is_reported(tmp_path: Path, victim: str) -> None:
    config = agent(
        "count",
        *python(COUNTER, "count", "10000000", "0.0001"),
        monitoring__max_log_file_bytes='"100KiB"',
        monitoring__max_log_files="1000",
        recovery='{ restart = "always", restart_backoff_base = "10ms" }',
    )
    with DaemonProcess(tmp_path, config) as daemon:
        with daemon.client() as client:
            client.call("log.follow", {"names": ["count"], "n": 100_000}, timeout_s=BOUND_S)
            shown = records(client, lambda new: len(new) > 3_000)
        if victim == "launcher":
            launcher = daemon.call("daemon.status")["daemon"]["launcher_pid"]
            os.kill(launcher, signal.SIGKILL)
        else:
            daemon.kill()
            daemon.start()
        daemon.await_worker("count-0", lambda w: w["state"] == "Ready")
        with daemon.client() as client:
            params = {"names": ["count"], "n": 1_000_000}
            client.call("log.follow", params, timeout_s=BOUND_S)
            found = records(client, lambda new: numbers(new, "count-0").count(0) == 2 and len(new) > 100)
        assert found[: len(shown)] == shown
        got = numbers(found, "count-0")
        second = got.index(0, 1)
        assert got == [*range(second), *range(len(got) - second)]
        notes = [record for record in found if record["stream"] == "corral"]
        # Of a killed launcher's workers nothing is missing: the daemon holds the pipes.
        assert len(notes) == (victim == "daemon")
        if notes:
            index = found.index(notes[0])
            assert numbers(found[:index], "count-0") == list(range(second))


def test_what_json_prints_can_be_turned_back_into_the_bytes(tmp_path: Path) -> None:
    lines = [
        b"plain",
        b"",
        b"\xff\xfe\x80 not UTF-8",
        b"\x00 NUL \x1b[31m ANSI \r CR \x7f",
        "é \u2028 \U0001f600".encode(),
        b"\xed\xa0\x80 a surrogate",
        b'{"level": "error", "text": "no message"}',
        b"long " * 10_000,
        b"\xc3" * 20_000,
        "é".encode() * 20_000,
        b"end without a newline \xc3",
    ]
    (tmp_path / "printed").write_bytes(b"\n".join(lines))
    with DaemonProcess(tmp_path, agent("odd", "cat", "printed", autostart="false")) as daemon:
        daemon.corral("start", "odd")
        daemon.await_worker("odd-0", lambda w: w["last_exit"] is not None)
        done = daemon.corral("logs", "--json", "odd")
        assert done.returncode == 0
        found = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
        got = [base64.b64decode(record["bytes"]) if "bytes" in record else record["text"].encode() for record in found]
        count = len(got) // len(lines)  # it is started again
        assert count >= 1
        assert got == lines * count


def test_a_log_that_is_too_long_for_one_answer_is_shown_whole(tmp_path: Path) -> None:
    config = agent(
        "count",
        *python(COUNTER, "count", "85000", "0"),
        recovery='{ restart = "never" }',
        monitoring__max_log_file_bytes='"1MiB"',
        monitoring__max_log_files="100",
    )
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("count-0", lambda w: w["last_exit"] is not None)
        done = daemon.corral("logs", "--json", "-n", "1000000", "count")
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert numbers(found, "count-0") == list(range(85_000))
        done = daemon.corral("logs", "--json", "-n", "1000000", "--grep", " 677.. ", "count")
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert numbers(found, "count-0") == list(range(67_700, 67_800))
        assert daemon.corral("logs", "--grep", "(x+x+)+y", "count").returncode == 7
        assert daemon.corral("logs", "--grep", "(", "count").returncode == 2
        assert daemon.corral("logs", "-f", "--grep", "(x+x+)+y", "count").returncode == 7
        assert daemon.corral("logs", "-f", "--previous", "count").returncode == 2


def test_a_follower_that_never_reads_is_skipped_ahead_and_nobody_else_notices(tmp_path: Path) -> None:
    config = agent(
        "count",
        *python(COUNTER, "count", "150000", "0"),
        autostart="false",
        recovery='{ restart = "never" }',
        monitoring__max_log_file_bytes='"1MiB"',
        monitoring__max_log_files="4",
    )
    with DaemonProcess(tmp_path, config) as daemon, Client(str(daemon.socket)) as sleeper:
        sleeper.call("log.follow", {"names": ["count"], "n": 0}, timeout_s=BOUND_S)
        before = rss_bytes(daemon.pid)
        daemon.call("agent.start", names=["count"], wait=False)
        daemon.await_worker("count-0", lambda w: w["last_exit"] is not None)
        assert rss_bytes(daemon.pid) - before < 16 * 1024 * 1024
        assert daemon.worker("count-0")["log_lost_lines"] == 0
        found = records(sleeper, lambda new: 149_999 in numbers(new[-300:], "count-0"))
        got = numbers(found, "count-0")
        skipped = sum(r["skipped_lines"] for r in found if r["stream"] == "corral")
        assert skipped > 0
        assert len(got) + skipped == 150_000
        assert got == sorted(set(got))


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    path = tmp_path / "state" / "logs"
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "corral-test", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_while_the_disk_is_full_or_read_only_the_daemon_lives_counts_and_says_so(
    tmp_path: Path, small_disk: Path
) -> None:
    config = agent(
        "count",
        *python(COUNTER, "count", "10000000", "0.0005"),
        monitoring__max_log_file_bytes='"300KiB"',
        monitoring__max_log_files="2",
    )
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("count-0", lambda w: w["state"] == "Ready")
        ballast = small_disk / "ballast"
        troubles: list[tuple[Callable[[], None], Callable[[], None]]] = [
            (partial(fill, ballast), ballast.unlink),
            (partial(cover, small_disk), partial(uncover, small_disk)),
        ]
        for spoil, mend in troubles:
            until(daemon, lambda: daemon.worker("count-0")["log_trouble"] is None)
            spoil()
            until(daemon, lambda: daemon.worker("count-0")["log_trouble"] is not None)
            worker = daemon.worker("count-0")
            assert worker["state"] == "Ready"
            assert worker["log_trouble"]
            assert "logs" in daemon.call("daemon.status")["daemon"]["degraded"]
            mend()
            until(daemon, lambda: daemon.worker("count-0")["log_trouble"] is None)
            assert "logs" not in daemon.call("daemon.status")["daemon"]["degraded"]
        worker = daemon.worker("count-0")
        assert worker["restarts"] == 0
        daemon.call("agent.stop", names=["count"])
        found = daemon.call("log.read", names=["count"], n=100_000)["records"]
        expected: int | None = None
        for record in found:
            if record["stream"] == "corral":
                assert expected is not None
                expected += record["lost_lines"]
            else:
                number = int(record["text"].split()[1])
                assert number == (number if expected is None else expected)
                expected = number + 1


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def cover(path: Path) -> None:
    """Makes the folder read-only, in a way that open files do not prevent."""
    command = ["mount", "-t", "tmpfs", "-o", "ro,mode=700", "corral-test", str(path)]
    subprocess.run(command, check=True)


def uncover(path: Path) -> None:
    subprocess.run(["umount", str(path)], check=True)


def until(daemon: DaemonProcess, is_so: Callable[[], bool]) -> None:
    """Counters have no event: they are looked at."""
    deadline = time.monotonic() + BOUND_S
    while not is_so():
        assert time.monotonic() < deadline
        daemon.call("daemon.ping")


def test_logs_of_a_removed_agent_can_be_read_by_its_names(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, agent("brief", "echo", "hello", autostart="false")) as daemon:
        daemon.corral("add", "gone", "--protocol", "none", "--", "echo", "farewell")
        until(daemon, lambda: bool(daemon.call("log.read", names=["gone"])["records"]))
        assert daemon.corral("rm", "gone").returncode == 0
        links: list[str] = []
        for fd in Path(f"/proc/{daemon.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the daemon closed it since
                links.append(os.readlink(fd))
        assert not [link for link in links if "logs/gone" in link]
        for name in ("gone", "gone-0"):
            done = daemon.corral("logs", name)
            assert done.returncode == 0
            assert "farewell" in done.stdout
        assert "farewell" in daemon.corral("logs", "--since", "1h", "gone").stdout
        assert daemon.corral("logs", "--until", "1h", "gone").stdout == ""
        assert daemon.corral("logs", "-f", "--until", "1h", "gone").returncode == 2
        assert daemon.corral("logs", "nobody-0").returncode == 3


def test_what_an_mcp_server_logs_keeps_its_level(tmp_path: Path) -> None:
    config = f"[mcp.servers.noisy]\ncommand = {json.dumps(python(MCP))}\nautostart = true\n"
    with DaemonProcess(tmp_path, config) as daemon, daemon.client() as client:
        client.call("log.follow", {"names": ["noisy"], "n": 100}, timeout_s=BOUND_S)
        found = records(client, lambda new: sum(r["stream"] == "log" for r in new) >= 2)
        logged = [record for record in found if record["stream"] == "log"]
        assert [(r["level"], r["text"]) for r in logged] == [("error", "disk full"), ("notice", '{"free":0}')]
        assert logged[0]["fields"] == {"logger": "storage"}
        shown = daemon.corral("logs", "--level", "error", "--json", "noisy").stdout.splitlines()
        assert [json.loads(line)["text"] for line in shown] == ["disk full"]


def test_without_aggregation_only_the_tail_is_kept_in_memory(tmp_path: Path) -> None:
    config = agent(
        "quiet",
        "sh",
        "-c",
        "echo printed; echo words >&2; exit 3",
        recovery='{ restart = "never" }',
        monitoring__enable_log_aggregation="false",
    )
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("quiet-0", lambda w: w["last_exit"] is not None)
        assert daemon.call("agent.show", name="quiet")["stderr"]
        assert not list((tmp_path / "state" / "logs").glob("*/*"))


def test_a_hang_up_in_the_middle_of_a_flood_is_nothing_to_the_daemon(tmp_path: Path) -> None:
    config = agent("count", *python(COUNTER, "count", "10000000", "0"))
    with DaemonProcess(tmp_path, config) as daemon:
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.settimeout(BOUND_S)
                raw.connect(str(daemon.socket))
                raw.sendall(b'{"jsonrpc":"2.0","id":1,"method":"log.follow","params":{}}\n')
                raw.recv(1000)
        assert daemon.call("daemon.ping") is not None
        assert b"Traceback" not in daemon.log.read_bytes()


def test_a_command_that_follows_ends_with_its_pipe(tmp_path: Path) -> None:
    config = agent("count", *python(COUNTER, "count", "10000000", "0.001"))
    with DaemonProcess(tmp_path, config) as daemon:
        command = [str(BIN / "corral"), "--socket", str(daemon.socket), "logs", "-f"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert b"count-0" in process.stdout.readline()
            process.stdout.close()
            assert process.wait(BOUND_S) in (-signal.SIGPIPE, 141)


def test_while_a_line_of_64_mib_is_printed_and_read_by_many_the_daemon_hardly_grows() -> None:
    program = Path(__file__).parents[2] / "benchmarks" / "long_line.py"
    command = [sys.executable, "-P", str(program), "both"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * BOUND_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


PROMPTS = """
import os, sys
os.write(1, b"Password for vault: ")
os.write(2, b"enter the code: ")
os.read(os.open(sys.argv[1], os.O_RDONLY), 1)
os.write(1, b"taken\\n")
os.read(os.open(sys.argv[1], os.O_RDONLY), 1)
"""


def read_until(process: subprocess.Popen[bytes], wanted: bytes) -> bytes:
    assert process.stdout is not None, "it is piped"
    found = b""
    while wanted not in found:
        more = os.read(process.stdout.fileno(), 65536)
        assert more, (found, wanted)
        found += more
    return found


def test_a_prompt_is_seen_by_who_follows_and_survives_a_kill_of_the_daemon(tmp_path: Path) -> None:
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    with DaemonProcess(tmp_path, agent("ask", *python(PROMPTS, str(fifo)))) as daemon:
        corral = [str(BIN / "corral"), f"--socket={daemon.socket}"]
        with contextlib.ExitStack() as stack:
            logs, attach = (
                stack.enter_context(
                    subprocess.Popen([*corral, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                )
                for words in (["logs", "-f", "ask"], ["attach", "ask"])
            )
            for follower in (logs, attach):
                stack.callback(follower.kill)
            follows = stack.enter_context(daemon.client())
            follows.call("log.follow", {"names": ["ask"]}, timeout_s=BOUND_S)
            begun = records(follows, lambda new: len(new) == 2)
            assert sorted((r["text"], r["partial"]) for r in begun) == [
                ("Password for vault: ", True),
                ("enter the code: ", True),
            ]
            read_until(logs, b"Password for vault: ")
            read_until(attach, b"Password for vault: ")
            fifo.write_text("x")
            assert read_until(attach, b"taken\n").count(b"Password") == 0, "it goes on where the prompt ended"
            read_until(logs, b"taken\n")
            (rest,) = records(follows, lambda new: len(new) == 1)
            assert (rest["text"], rest.get("partial")) == ("taken", None)
        found = daemon.call("log.read", names=["ask"])["records"]
        assert sorted(record["text"] for record in found) == ["Password for vault: taken", "enter the code: "]
        daemon.kill()
        daemon.start()
        assert "! enter the code: \n" in daemon.corral("logs", "ask").stdout
