"""isolation = "container" with real engines: the program, its end, its limits, and that nothing of it is left."""

import base64
import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from container_images import python_rootfs, rootfs, skip_without, why_not
from corral.supervisor.machine.linux import kernel
from corral.supervisor.workers.process.containment import state_number
from corral.worker.contract.errors import CorralError, SpawnFailed
from daemon_process import AGENTS, BOUND_S, DaemonProcess
from strict_agent import until

ENGINES = ("runc", "podman")

pytestmark = pytest.mark.skipif(all(map(why_not, ENGINES)), reason="; ".join(filter(None, map(why_not, ENGINES))))


def agent(name: str, engine: str, image: Path, command: str, *more: str) -> str:
    """The table of an agent in a container."""
    lines = [
        f"[agents.{name}]",
        f"command = {command}",
        'protocol = "none"',
        'process.isolation = "container"',
        f'process.image = "{image}"',
        f'process.runtime = "{engine}"',
        *more,
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture(params=["runc", pytest.param("podman", marks=pytest.mark.long)], scope="module")
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine that runs here."""
    skip_without(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def fastest() -> str:
    """The first engine that runs here, for tests of corral's own part."""
    return next(name for name in ENGINES if not why_not(name))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system."""
    return rootfs(tmp_path_factory.mktemp("image"))


def containers(folder: Path) -> str:
    """The containers of the daemon of a folder that podman knows; others have theirs at the same time."""
    if shutil.which("podman") is None:
        return ""
    own = f"label=corral.state={state_number(folder / 'state'):08x}"
    words = ["podman", "ps", "--all", "--filter", own, "--format", "{{.Names}}"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def processes(mark: str) -> list[int]:
    """The processes whose command line has a mark."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in words and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def await_gone(mark: str) -> None:
    """Waits until no process has a mark."""
    until = time.monotonic() + BOUND_S
    while pids := processes(mark):
        assert time.monotonic() < until, pids
        for pid in pids:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            poller.poll(1000)
            os.close(fd)


def logged(daemon: DaemonProcess, name: str, last: str) -> list[str]:
    """The lines that an agent printed to stdout, once one of them is `last`: those of stderr come in no order with them."""
    with daemon.client() as client:
        asked = {"names": [name], "n": 1000, "stream": "stdout"}
        client.call("log.follow", asked, timeout_s=BOUND_S)
        lines: list[str] = []
        for note in client.notifications(BOUND_S):
            records: Any = note.params.get("records", [])
            lines += [record["text"] for record in records]
            if last in lines:
                return lines
    raise AssertionError(lines)


def ended(daemon: DaemonProcess, name: str) -> Any:  # the last exit
    """The last exit of the first worker of an agent, once it has ended."""
    done = daemon.await_worker(f"{name}-0", lambda worker: worker["last_exit"] is not None)
    return done["last_exit"]


def test_a_program_runs_in_its_image_alone(tmp_path: Path, engine: str, image: Path) -> None:
    seen = tmp_path / "seen"
    own = tmp_path / "own"
    seen.mkdir()
    own.mkdir(mode=0o777)
    own.chmod(0o777)
    script = (
        "id -u; ls /; grep -c . /proc/self/mounts > /dev/null; echo $COLOUR $TMPDIR $HOME; echo x > /tmp/mine && echo tmp;"
        f" echo x > {own}/a && echo own; touch {seen}/a || echo read-only; touch /a || echo no-root;"
        " grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status; ls /proc | grep -c ^[0-9]; echo err >&2; echo end;"
        " sleep 100000"
    )
    config = agent(
        "web", engine, image, f'["sh", "-c", "{script}"]',
        'environment = { COLOUR = "green" }',
        f'process.read_paths = ["{seen}"]',
        f'process.write_paths = ["{own}"]',
        'process.user = "65534"', 'process.group = "65534"',
        'process.network = "none"',
    )  # fmt: skip
    folder = tmp_path / "daemon"
    folder.mkdir()
    tmp_path.chmod(0o755)
    with DaemonProcess(folder, config) as daemon:
        daemon.call("agent.start", names=["web"])
        lines = logged(daemon, "web", "end")
        assert ("corral-" in containers(folder)) == (engine == "podman")
        assert lines[0] == "65534"
        assert "bin" in lines
        assert "home" not in lines
        assert "green /tmp /tmp" in lines
        for word in ("tmp", "own", "read-only", "no-root"):
            assert word in lines, word
        assert (own / "a").read_text() == "x\n"
        assert not (image / "a").exists()
        (capabilities,) = [line for line in lines if line.startswith("CapEff")]
        assert int(capabilities.split()[1], 16) == 0
        assert [line.split()[1] for line in lines if line.startswith("NoNewPrivs")] == ["1"]
        assert daemon.worker("web-0")["state"] == "Ready"
    assert list((folder / "state" / "containers").iterdir()) == []
    assert "corral-" not in containers(folder)


def test_a_stop_signal_reaches_the_program(tmp_path: Path, engine: str, image: Path) -> None:
    kind = "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.1; done"
    config = agent("kind", engine, image, f'["sh", "-c", "{kind}"]')
    config += agent("plain", engine, image, '["sleep", "100000"]')
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["kind", "plain"])
        logged(daemon, "kind", "up")
        begun = time.monotonic()
        daemon.call("agent.stop", names=["kind", "plain"])
        assert time.monotonic() - begun < 8  # before the kill
        assert "got" in logged(daemon, "kind", "got")
        exits = daemon.call("agent.show", name="kind")["exits"]
        assert (exits[0]["code"], exits[0]["forced"]) == (7, False)
        exits = daemon.call("agent.show", name="plain")["exits"]
        assert (exits[0]["signal"], exits[0]["forced"]) == ("SIGTERM", False)


def test_the_reason_of_an_end_is_that_of_the_program(tmp_path: Path, engine: str, image: Path) -> None:
    ends: dict[str, tuple[str, dict[str, object]]] = {
        "five": ('["sh", "-c", "exit 5"]', {"code": 5, "signal": None}),
        "own127": ('["sh", "-c", "exit 127"]', {"code": 127, "signal": None}),
        "killed": ('["sh", "-c", "exit 137"]', {"code": None, "signal": "SIGKILL"}),
    }
    more = ('recovery.restart = "never"', "autostart = false")
    config = "".join(agent(name, engine, image, command, *more) for name, (command, _) in ends.items())
    config += agent("missing", engine, image, '["/bin/nowhere"]', *more)
    with DaemonProcess(tmp_path, config) as daemon:
        for name, (_, wanted) in ends.items():
            with contextlib.suppress(CorralError):  # it may have ended before it was ready
                daemon.call("agent.start", names=[name])
            found = ended(daemon, name)
            assert {key: found[key] for key in wanted} == wanted, (name, found)
            assert "has not started" not in found["message"], name
        with contextlib.suppress(CorralError):  # the engine may take a second to say so
            daemon.call("agent.start", names=["missing"])
        message = ended(daemon, "missing")["message"]
        assert "has not started" in message or "failed to exec" in message  # an init says the latter


def test_a_kill_of_any_of_them_leaves_nothing(tmp_path: Path, engine: str, image: Path) -> None:
    mark = f"7{os.getpid()}"  # seconds: an argument that no other process has
    command = f'["sh", "-c", "sleep {mark}1 & sleep {mark}2"]'
    with DaemonProcess(tmp_path, agent("web", engine, image, command)) as daemon:
        daemon.call("agent.start", names=["web"])
        first = daemon.worker("web-0")["pid"]
        os.kill(first, signal.SIGKILL)  # the monitor
        worker = daemon.await_worker("web-0", lambda worker: worker["incarnation"] == 2 and worker["state"] == "Ready")
        assert worker["pid"] != first
        assert len(processes(f"{mark}1\0")) <= 2  # of one container: the shell's, and its child
        (launcher,) = [int(pid) for pid in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()]
        os.kill(launcher, signal.SIGKILL)
        daemon.await_worker("web-0", lambda worker: worker["incarnation"] == 3 and worker["state"] == "Ready")
        assert daemon.process is not None, "it was started"
        (launcher,) = [int(pid) for pid in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()]
        os.kill(launcher, signal.SIGSTOP)  # so that it cannot act when the daemon is gone
        daemon.process.kill()
        os.kill(launcher, signal.SIGKILL)
        daemon.process.wait(BOUND_S)
        await_gone(f"{mark}2\0")
        await_gone(f"{mark}1\0")
        daemon.start()
        daemon.call("agent.start", names=["web"])
        daemon.call("agent.stop", names=["web"])
    assert processes(mark) == []
    assert "corral-" not in containers(tmp_path)
    assert list((tmp_path / "state" / "containers").iterdir()) == []


def test_a_kill_of_the_daemon_leaves_no_container(tmp_path: Path, engine: str, image: Path) -> None:
    mark = f"6{os.getpid()}"
    command = f'["sh", "-c", "sleep {mark}1 & sleep {mark}2"]'
    with DaemonProcess(tmp_path, agent("web", engine, image, command)) as daemon:
        daemon.call("agent.start", names=["web"])
        assert daemon.process is not None, "it was started"
        daemon.process.kill()
        daemon.process.wait(BOUND_S)
        await_gone(f"{mark}2\0")
        await_gone(f"{mark}1\0")
        deadline = time.monotonic() + BOUND_S
        while "corral-" in containers(tmp_path):  # without a next daemon
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_memory_of_a_container_is_held(tmp_path: Path, engine: str, image: Path) -> None:
    command = '["dd", "if=/dev/zero", "of=/dev/null", "bs=150000000", "count=100000000"]'
    config = agent(
        "web", engine, image, command,
        'resources.max_memory_bytes = "90MiB"', 'recovery.restart = "never"', "autostart = false",
    )  # fmt: skip
    with DaemonProcess(tmp_path, config) as daemon:
        with contextlib.suppress(CorralError):
            daemon.call("agent.start", names=["web"])
        found = ended(daemon, "web")
        assert "memory" in found["result"] or "memory" in found["message"], found


def inside(daemon: DaemonProcess, name: str) -> kernel.Process | None:
    """The program in a container: a shell somewhere below the monitor; None before it has begun."""
    for process in kernel.walk(daemon.worker(f"{name}-0")["pid"]):
        with contextlib.suppress(OSError):  # what begins the container comes and goes
            if Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"sh\0"):
                return process
    return None


def test_a_pause_and_a_limit_of_processor_time_reach_into_a_container(tmp_path: Path, engine: str, image: Path) -> None:
    """An engine's container is in a control group of its own, beside that of its worker."""
    busy = '["sh", "-c", "while :; do :; done"]'
    config = agent("free", engine, image, busy)
    config += agent("held", engine, image, busy, "resources.cpu_limit_percent = 2")
    with DaemonProcess(tmp_path, config) as daemon:

        def is_in(name: str, states: bytes) -> bool:
            process = inside(daemon, name)
            return process is not None and process.state in states

        daemon.call("agent.start", names=["free", "held"])
        for states in (b"RS", b"T", b"RS", b"T"):
            until(partial(is_in, "held", states))
        daemon.call("agent.pause", names=["free"])
        until(lambda: is_in("free", b"T"))
        daemon.call("agent.resume", names=["free"])
        until(lambda: is_in("free", b"RS"))
        daemon.call("agent.pause", names=["free", "held"])
        until(lambda: is_in("held", b"T"))
    assert not processes(str(tmp_path))


def test_an_operator_runs_a_command_in_the_container(tmp_path: Path, engine: str, image: Path) -> None:
    config = agent("web", engine, image, '["sleep", "100000"]', 'environment = { COLOUR = "red" }')
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["web"])
        daemon.await_worker("web-0", lambda worker: worker["state"] == "Ready")
        done = daemon.corral(
            "exec", "-i", "-e", "A=b", "web", "sh", "-c", "cat; echo $COLOUR $A; ls /; exit 4", stdin="in\n"
        )  # fmt: skip
        assert done.returncode == 4, done.stderr
        assert done.stdout.startswith("in\nred b\n")
        assert "home" not in done.stdout.split()
        with daemon.client() as client:
            asked = {
                "name": "web",
                "argv": ["sh", "-c", 'until [ "$(stty size 2>/dev/null)" = "31 80" ]; do :; done; stty size; tty'],
                "tty": True,
                "rows": 31,
            }
            client.call("agent.exec", asked, timeout_s=BOUND_S)
            seen = b""
            for note in client.notifications(BOUND_S):
                if note.method == "exec.end":
                    assert note.params["code"] == 0, seen
                    break
                seen += base64.b64decode(str(note.params["data"]))
        assert b"31 80" in seen
        mark = f"8{os.getpid()}"
        client = daemon.client()
        client.call("agent.exec", {"name": "web", "argv": ["sleep", mark]}, timeout_s=BOUND_S)
        client.close()
        await_gone(f"sleep\0{mark}\0")
        assert daemon.worker("web-0")["state"] == "Ready"


def test_an_agent_of_the_sdk_runs_in_an_image_with_python(tmp_path: Path, fastest: str) -> None:
    image = python_rootfs(tmp_path)
    config = f"""
[agents.crew]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
process.isolation = "container"
process.image = "{image}"
process.runtime = "{fastest}"
"""
    folder = tmp_path / "daemon"
    folder.mkdir()
    tmp_path.chmod(0o755)
    with DaemonProcess(folder, config) as daemon:
        daemon.call("agent.start", names=["crew"])
        task = daemon.call("task.run", agent="crew", objective="echo", input="hello")
        assert task["state"] == "succeeded", task
        first = daemon.worker("crew-0")["incarnation"]
        daemon.call("agent.restart", names=["crew"])
        assert daemon.worker("crew-0")["incarnation"] > first


def test_an_image_that_no_engine_runs_is_refused_with_the_reason(tmp_path: Path) -> None:
    config = "".join(
        agent(name, runtime, Path(image), '["true"]', "autostart = false")
        for name, runtime, image in (("named", "runc", "/nowhere-at-all"), ("wrong", "docker", "/nowhere-at-all"))
    )
    with DaemonProcess(tmp_path, config) as daemon:
        with pytest.raises(SpawnFailed) as refused:
            daemon.call("agent.start", names=["wrong"])
        assert "docker does not run" in refused.value.message
        with pytest.raises(CorralError):
            daemon.call("agent.start", names=["named"])


def test_a_file_with_half_a_container_is_refused(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, "") as daemon:
        for table, key in (
            ({"isolation": "container"}, "isolation"),
            ({"image": "x"}, "image"),
            ({"isolation": "container", "image": "-bad"}, "image"),
        ):
            spec = {"command": ["true"], "process": table}
            with pytest.raises(CorralError) as refused:
                daemon.call("agent.add", name="web", spec=spec)
            assert key in refused.value.message, refused.value.message


def test_a_user_who_is_not_there_is_no_root(tmp_path: Path, fastest: str, image: Path) -> None:
    more = ('process.user = "no-such-user"', "autostart = false")
    with DaemonProcess(tmp_path, agent("web", fastest, image, '["id"]', *more)) as daemon:
        with pytest.raises(SpawnFailed) as refused:
            daemon.call("agent.start", names=["web"])
        assert "no-such-user" in refused.value.message


def test_a_health_check_runs_in_a_container_that_goes_with_it(tmp_path: Path, engine: str, image: Path) -> None:
    config = agent(
        "web", engine, image, '["sleep", "100000"]',
        'health = [{ name = "files", exec = ["sh", "-c", "test ! -e /home && exit 3"], interval = "1s" }]',
    )  # fmt: skip
    with DaemonProcess(tmp_path, config) as daemon:
        with daemon.client() as client:
            client.call("event.follow", {"types": ["health.*"], "since": 0}, timeout_s=BOUND_S)
            daemon.call("agent.start", names=["web"])
            for note in client.notifications(BOUND_S):
                if "status 3" in str(note.params):
                    break
        daemon.call("agent.stop", names=["web"])
    assert list((tmp_path / "state" / "containers").iterdir()) == []
