"""`corral exec` on a real daemon: in the isolation of a worker, bounded, recorded, and never longer than its worker."""

import asyncio
import base64
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral import AgentRuntime, Runtime
from corral.supervisor.machine.linux import landlock
from corral.worker.client.sync import Client
from corral.worker.contract.errors import (
    Conflict,
    InvalidParams,
    NotFound,
    PermissionDenied,
    ResourceLimitExceeded,
    SpawnFailed,
)
from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess

CONFIG = f"""
[agents.plain]
command = ["sleep", "1000000"]
protocol = "none"
environment = {{ COLOUR = "green" }}
resources.max_file_descriptors = 77
process.stop_signal = "SIGTERM"
[agents.bare]
command = ["sleep", "1000000"]
protocol = "none"
process.isolation = "none"
[agents.narrow]
command = ["sleep", "1000000"]
protocol = "none"
process.read_paths = ["/proc"]
process.write_paths = []
[agents.crew]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
[agents.idle]
command = ["sleep", "1000000"]
protocol = "none"
autostart = false
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("exec"), CONFIG) as process:
        process.call("agent.start", names=["plain", "bare", "narrow", "crew"])
        yield process


class Running:
    """One command over one connection."""

    def __init__(self, client: Client, name: str, *argv: str, **params: object) -> None:
        self.client = client
        asked: dict[str, object] = {"name": name, "argv": list(argv), **params}
        started: Any = client.call("agent.exec", asked, timeout_s=BOUND_S)
        self.started = started
        self.pid: int = started["pid"]
        self.notes = client.notifications(BOUND_S)
        self.output = {"stdout": bytearray(), "stderr": bytearray()}

    def send(self, data: bytes = b"", **params: object) -> None:
        """Sends input."""
        asked = {"exec": self.started["exec"], "data": base64.b64encode(data).decode(), **params}
        self.client.call("agent.exec_input", asked, timeout_s=BOUND_S)

    def until(self, text: bytes) -> None:
        """Reads until the output has a text."""
        while text not in self.output["stdout"]:
            self._take(next(self.notes))

    def end(self) -> Any:  # the notification, whose shape the test knows
        """Reads until the end of the command, and returns its notification."""
        for note in self.notes:
            if note.method == "exec.end":
                return note.params
            self._take(note)
        raise AssertionError("the stream has no end")

    def _take(self, note: Any) -> None:  # a notification
        self.output[note.params["stream"]] += base64.b64decode(note.params["data"])


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def await_dead(*pids: int) -> None:
    """Waits until processes have ended."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            assert poller.poll(BOUND_S * 1000), f"process {pid} lives"
        finally:
            os.close(fd)


def test_a_command_has_what_its_worker_has(daemon: DaemonProcess) -> None:
    worker = daemon.worker("plain-0")["pid"]
    script = "id -u; ulimit -n; pwd; echo $COLOUR; cat /proc/self/cgroup; grep NoNewPrivs /proc/self/status"
    with daemon.client() as client:
        run = Running(client, "plain", "sh", "-c", script)
        end = run.end()
    assert (end["code"], end["signal"], end["reason"]) == (0, None, "")
    uid, files, folder, colour, *rest = run.output["stdout"].decode().splitlines()
    assert uid == str(os.stat(f"/proc/{worker}").st_uid)
    assert (files, colour) == ("77", "green")
    assert folder == os.readlink(f"/proc/{worker}/cwd")
    assert "\n".join(rest[:-1]) == Path(f"/proc/{worker}/cgroup").read_text().strip()
    assert rest[-1].split() == ["NoNewPrivs:", "1"]
    assert run.started["worker"] == "plain-0"


def test_the_temporary_folder_is_that_of_the_worker(daemon: DaemonProcess) -> None:
    worker = daemon.worker("plain-0")["pid"]
    environ = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    for name in ("plain", "crew"):  # one of a fork is not in /proc
        with daemon.client() as client:
            run = Running(client, name, "sh", "-c", 'echo TMPDIR=$TMPDIR; ls -d "$TMPDIR"')
            assert run.end()["code"] == 0, name
        if name == "plain":
            assert run.output["stdout"].splitlines()[0] in environ


def test_landlock_holds_a_command_too(daemon: DaemonProcess, tmp_path: Path) -> None:
    if landlock.abi() < 1:
        pytest.skip("this kernel has no Landlock")
    target = tmp_path / "written"
    target.touch(mode=0o666)
    tmp_path.chmod(0o777)
    for name, code in (("narrow", 2), ("bare", 0)):
        with daemon.client() as client:
            end = Running(client, name, "sh", "-c", f"echo a > {target}").end()
        assert (end["code"] != 0) == (code != 0), name
    with daemon.client() as client:
        run = Running(client, "narrow", "sh", "-c", "echo a > $TMPDIR/own && cat $TMPDIR/own")
        assert run.end()["code"] == 0
        assert run.output["stdout"] == b"a\n"


def test_streams_are_apart_and_a_signal_is_reported(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        run = Running(client, "plain", "sh", "-c", "echo out; echo err >&2; kill -USR1 $$")
        end = run.end()
    assert run.output == {"stdout": b"out\n", "stderr": b"err\n"}
    assert (end["code"], end["signal"]) == (None, "SIGUSR1")


def test_input_is_answered_when_the_command_has_taken_it(daemon: DaemonProcess) -> None:
    piece = b"x" * 40_000
    with daemon.client() as client:
        run = Running(client, "plain", "sh", "-c", "echo ready; sleep 1000", stdin=True)
        run.until(b"ready")
        run.send(piece)  # a pipe takes as much
        asked = {"exec": run.started["exec"], "data": base64.b64encode(piece).decode()}
        waiting = client.ask("agent.exec_input", asked)
        client.ask("agent.exec_input", {"exec": run.started["exec"], "signal": "KILL"})
        answers = client.kept()
        while not any(getattr(each, "id", None) == waiting for each in answers):
            answers += client.arrived()
        (answer,) = [each for each in answers if getattr(each, "id", None) == waiting]
        assert isinstance(getattr(answer, "error", None), Conflict)


def test_output_waits_for_a_reader(daemon: DaemonProcess) -> None:
    size = 16 * 1024 * 1024
    with daemon.client() as client:
        run = Running(client, "plain", "head", "-c", str(size), "/dev/zero")
        while b") S " not in Path(f"/proc/{run.pid}/stat").read_bytes():
            assert is_alive(run.pid)  # it cannot end: pipes and buffers hold a small part of its output
        for _ in range(3):
            daemon.call("daemon.status")
        assert is_alive(run.pid)
        assert run.end()["code"] == 0
    assert len(run.output["stdout"]) == size


def test_a_command_without_input_reads_its_end_at_once(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        run = Running(client, "plain", "cat")
        assert run.end()["code"] == 0
        with pytest.raises(NotFound):
            run.send(b"a")


def test_a_terminal_has_a_size_and_a_controlling_session(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        run = Running(
            client, "plain", "sh", "-c", "trap 'stty size' WINCH; stty size; tty; while :; do sleep 0.1; done",
            tty=True, rows=33, columns=101,
        )  # fmt: skip
        run.until(b"/dev/pts/")
        assert b"33 101" in run.output["stdout"]
        run.send(rows=20, columns=70)
        run.until(b"20 70")
        run.send(b"\x03")  # Ctrl-C reaches the foreground of its terminal
        assert run.end()["signal"] == "SIGINT"


def test_a_command_ends_with_its_connection_and_all_that_it_started(daemon: DaemonProcess) -> None:
    client = daemon.client()
    run = Running(client, "plain", "sh", "-c", "setsid sleep 1000 & echo $!; setsid sleep 1000")
    run.until(b"\n")
    escaped = int(run.output["stdout"])
    assert is_alive(run.pid)
    client.close()
    await_dead(run.pid, escaped)
    assert daemon.worker("plain-0")["state"] in ("Ready", "Idle", "Busy", "Running")


def test_what_a_command_leaves_behind_ends_with_it(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        run = Running(client, "plain", "sh", "-c", "setsid sleep 1000 > /dev/null 2>&1 & echo $!")
        assert run.end()["code"] == 0
        assert not is_alive(int(run.output["stdout"]))


def test_a_command_never_outlives_its_worker(daemon: DaemonProcess) -> None:
    for name in ("plain", "crew"):
        with daemon.client() as client:
            run = Running(client, name, "sleep", "1000")
            os.kill(daemon.worker(f"{name}-0")["pid"], signal.SIGKILL)
            end = run.end()
            assert end["signal"] == "SIGKILL", name
            assert f"{name}-0" in end["reason"]
            assert not is_alive(run.pid)
        daemon.await_worker(f"{name}-0", lambda worker: worker["pid"] is not None)


def test_a_command_ends_with_a_stop_of_its_worker(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        run = Running(client, "bare", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
        run.until(b"up")
        daemon.call("agent.stop", names=["bare"])
        assert not is_alive(run.pid)
        assert run.end()["signal"] == "SIGKILL"
    daemon.call("agent.start", names=["bare"])


def test_a_kill_of_the_daemon_leaves_no_command(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as process:
        process.call("agent.start", names=["plain"])
        client = process.client()
        run = Running(client, "plain", "sh", "-c", "setsid sleep 1000 & echo $!; sleep 1000")
        run.until(b"\n")
        assert process.process is not None, "it was started"
        process.process.kill()
        process.process.wait(BOUND_S)
        await_dead(run.pid, int(run.output["stdout"]))
        client.close()
        process.start()


def test_its_memory_counts_to_the_worker(tmp_path: Path) -> None:
    config = CONFIG.replace("[agents.bare]", 'resources.max_memory_bytes = "60MiB"\n[agents.bare]')
    eat = "x = bytearray(150 * 1024 * 1024); input()"
    with DaemonProcess(tmp_path, config) as process:
        process.call("agent.start", names=["plain"])
        with process.client() as client:
            run = Running(client, "plain", sys.executable, "-I", "-c", eat, stdin=True)
            end = run.end()
            assert end["signal"] == "SIGKILL"
        worker = process.await_worker("plain-0", lambda each: each["last_exit"] is not None)
        assert "memory" in worker["last_exit"]["message"]


def test_their_number_is_bounded(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        runs = [Running(client, "plain", "cat", stdin=True) for _ in range(8)]
        with pytest.raises(ResourceLimitExceeded) as refused:
            Running(client, "plain", "true")
        assert refused.value.data["value"] == 8
        for run in runs:
            run.send(end=True)
        for _ in runs:
            runs[0].end()
        Running(client, "plain", "true").end()


def test_input_belongs_to_the_connection_that_began(daemon: DaemonProcess) -> None:
    with daemon.client() as client, daemon.client() as other:
        run = Running(client, "plain", "cat", stdin=True)
        asked = {"exec": run.started["exec"], "data": "", "end": True}
        with pytest.raises(NotFound):
            other.call("agent.exec_input", asked, timeout_s=BOUND_S)
        for bad in ({"data": "?"}, {"signal": "NONE"}):
            with pytest.raises(InvalidParams):
                client.call("agent.exec_input", {**asked, **bad}, timeout_s=BOUND_S)
        run.send(b"mine", end=True)
        assert run.end()["code"] == 0
        assert run.output["stdout"] == b"mine"


def test_a_worker_without_a_process_and_a_program_that_is_not_there_are_refused(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        with pytest.raises(Conflict) as refused:
            Running(client, "idle", "true")
        assert refused.value.data["reason"] == "not-running"
        with pytest.raises(NotFound):
            Running(client, "nobody", "true")
        with pytest.raises(SpawnFailed) as failed:
            Running(client, "plain", "no-such-program")
        assert failed.value.data["stage"] == "exec"
        daemon.call("agent.pause", names=["plain"])
        with pytest.raises(Conflict) as refused:
            Running(client, "plain", "true")
        assert refused.value.data["reason"] == "frozen"
        daemon.call("agent.resume", names=["plain"])
        Running(client, "plain", "true").end()


def test_it_needs_the_right_admin_and_is_recorded(daemon: DaemonProcess) -> None:
    token = daemon.call("token.add", name="op", rights="operate")["token"]
    with daemon.client() as client:
        client.call("auth.login", {"token": token}, timeout_s=BOUND_S)
        with pytest.raises(PermissionDenied):
            Running(client, "plain", "true")
    with daemon.client() as client:
        run = Running(client, "plain", "sh", "-c", "exit 3")
        assert run.end()["code"] == 3
        records: Any = client.call("audit.list", {"n": 20}, timeout_s=BOUND_S)
        about: list[Any] = [r for r in records["records"] if run.started["exec"] in str(r)]
    assert [each["action"] for each in about] == ["agent.exec", "agent.exec.end"]
    assert about[0]["params"]["argv"] == ["sh", "-c", "exit 3"]
    assert about[1]["result"] == "exited with status 3"


def test_a_command_has_no_rights_but_those_of_its_agent(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        run = Running(client, "plain", str(BIN / "corral"), "status")
        assert run.end()["code"] == 4
        assert b'"control" of agent "plain" grants none' in run.output["stderr"]


# -- the command


def test_the_command_passes_on_code_and_streams(daemon: DaemonProcess) -> None:
    script = "cat; echo err >&2; exit 7"
    done = daemon.corral("exec", "-i", "plain", "--", "sh", "-c", script, stdin="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in\n", "err\n")
    assert daemon.corral("exec", "plain", "sh", "-c", "kill -9 $$").returncode == 137
    assert daemon.corral("exec", "plain", "nowhere").returncode == 127
    assert daemon.corral("exec", "plain", "/etc/passwd").returncode == 126
    assert daemon.corral("exec", "plain").returncode == 2
    assert daemon.corral("exec", "-t", "plain", "true").returncode == 2
    assert daemon.corral("exec", "idle", "true").returncode == 4
    done = daemon.corral("exec", "-e", "A=b", "-w", "/", "plain", "sh", "-c", "echo $A; pwd")
    assert done.stdout == "b\n/\n"


def test_a_signal_to_the_command_line_reaches_the_command(daemon: DaemonProcess) -> None:
    script = "trap 'echo got; exit 9' TERM; echo up; while :; do sleep 0.1; done"
    argv = [str(BIN / "corral"), f"--socket={daemon.socket}", "exec", "plain", "sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None, "it is piped"
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.stdout.read() == b"got\n"
        assert process.wait(BOUND_S) == 9


def test_the_command_line_gives_a_terminal_and_restores_its_own(daemon: DaemonProcess) -> None:
    pid, master = pty.fork()
    if pid == 0:
        corral = str(BIN / "corral")
        os.execv(corral, [corral, f"--socket={daemon.socket}", "exec", "-it", "plain", "sh"])
    seen = b""
    os.write(master, b"echo $((40+2)); tty; exit 5\n")
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(master)
    assert b"42\r\n" in seen
    assert b"/dev/pts/" in seen


# -- Python


def test_python_runs_a_command(daemon: DaemonProcess) -> None:
    async def use() -> tuple[bytes, int | None]:
        seen = b""
        async with (
            await AgentRuntime.connect(str(daemon.socket)) as runtime,
            runtime.exec_command("plain", ["cat"], stdin=True) as run,
        ):
            writing = asyncio.create_task(run.write(b"abc" * 40_000))
            async for piece in run:
                seen += piece.data
                if len(seen) == 120_000:
                    await writing
                    await run.end_input()
        return seen, run.code

    assert asyncio.run(use()) == (b"abc" * 40_000, 0)
    with Runtime.connect(str(daemon.socket)) as runtime:
        with runtime.exec_command("plain", ["sh", "-c", "read a; echo $a >&2; exit 4"], stdin=True) as run:
            run.write(b"line\n")
            pieces = list(run)
        assert [(each.stream, each.data) for each in pieces] == [("stderr", b"line\n")]
        assert run.stream.code == 4


def test_a_program_with_a_token_runs_no_command_beyond_its_rights(daemon: DaemonProcess) -> None:
    token = daemon.call("token.add", name="operator", rights="operate")["token"]
    with Runtime.connect(str(daemon.socket), token=token) as runtime, pytest.raises(PermissionDenied):
        runtime.exec_command("plain", ["true"])


# -- attach


def test_attach_prints_what_the_worker_prints_and_ends_as_it_does(tmp_path: Path) -> None:
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    ends = "case $a in *last) exit 6; esac"  # writes may be read together
    script = f"while :; do a=$(cat {fifo}); echo out; echo err >&2; {ends}; done"
    config = f"""
[agents.web]
command = ["sh", "-c", "{script}"]
protocol = "none"
recovery.restart = "never"
"""
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["web"])
        argv = [str(BIN / "corral"), f"--socket={daemon.socket}", "attach", "web"]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
            assert process.stdout is not None, "it is piped"
            assert process.stderr is not None, "likewise"
            fifo.write_text("go\n")
            while not select.select([process.stdout], [], [], 0.2)[0]:  # until it follows
                assert process.poll() is None, process.stderr.read()
                fifo.write_text("go\n")
            assert process.stdout.readline() == b"out\n"
            assert process.stderr.readline() == b"err\n"
            fifo.write_text("last\n")
            assert set(process.stdout.read().splitlines()) == {b"out"}
            assert process.wait(BOUND_S) == 6
