"""`corral exec` in a strict worker: inside its sandbox, with no more rights than it has, and never longer than it."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.supervisor.machine.linux import kernel
from corral.worker.contract.errors import SpawnFailed
from daemon_process import DaemonProcess
from strict_agent import needs_strict, until
from system.test_exec import Running, await_dead, is_alive

pytestmark = needs_strict

WORKER = """
import os, signal, socket, sys
open("/tmp/made", "w").write("by the worker")
if sys.argv[1:]:
    listener = socket.create_server(("127.0.0.1", 4711))
if os.fork() == 0:
    os.execvp("sleep", ["sleep", "1000000"])
open("/tmp/ready", "w").close()
signal.pause()
"""
PYTHON = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
"""One that every user can run."""
LOOK = """
import json, os, socket
def can(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return 0
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "made": open("/tmp/made").read(),
    "programs": sorted(open(f"/proc/{pid}/comm").read().strip() for pid in os.listdir("/proc") if pid.isdigit()),
    "signal": can(lambda: os.kill(2, 0)),
    "connect": can(lambda: socket.create_connection(("127.0.0.1", 4711), 10)),
    "capabilities": [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privs": int(status["NoNewPrivs"]),
    "filters": int(status["Seccomp"]),
    "files": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
    "own": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
    "uid": os.getuid(),
    "limit": __import__("resource").getrlimit(__import__("resource").RLIMIT_NOFILE)[1],
    "environ": sorted(os.environ),
    "folder": os.getcwd(),
    "write": can(lambda: open("/usr/new", "w")),
    "secret": can(lambda: open("/etc/shadow")),
    "mount": can(lambda: os.chroot("/")),
}))
"""


def agent(name: str, network: str, more: str = "") -> str:
    words = json.dumps([PYTHON, "-c", WORKER, *(["net"] if network != "host" else [])])
    hosts = 'process.allowed_hosts = ["example.org"]' if network == "proxy" else ""
    return (
        f'[agents.{name}]\ncommand = {words}\nprotocol = "none"\nprocess.isolation = "strict"\n'
        f'process.network = "{network}"\nresources.max_file_descriptors = 77\n{hosts}\n{more}\n'
    )


CONFIG = "".join(agent(name, name) for name in ("host", "none", "proxy"))
OTHER_USER = "".join(
    agent(f"{name}-of-another", name, 'process.user = "nobody"\nprocess.working_directory = "/"')
    for name in ("none", "proxy")
)
NAMES = ["host", "none", "proxy"]
OF_ANOTHER = ["none-of-another", "proxy-of-another"]


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    is_root = os.getuid() == 0
    with (
        tempfile.TemporaryDirectory() as name,  # other users reach it, in contrast to a folder of pytest's
        DaemonProcess(Path(name), CONFIG + (OTHER_USER if is_root else "")) as process,
    ):
        Path(name).chmod(0o711)
        process.call("agent.start", names=NAMES + (OF_ANOTHER if is_root else []))
        yield process


def entered(daemon: DaemonProcess, name: str) -> dict[str, object]:
    """What a command sees in a worker that has made its files."""
    done = daemon.corral(*("exec", name, "--", "sh", "-c", "until test -e /tmp/ready; do sleep 0.01; done"))
    assert done.returncode == 0, done
    done = daemon.corral("exec", name, "--", PYTHON, "-c", LOOK)
    assert done.returncode == 0, done
    found: dict[str, object] = json.loads(done.stdout)
    return found


def check(daemon: DaemonProcess, name: str) -> None:
    found = entered(daemon, name)
    pid = daemon.worker(f"{name}-0")["pid"]
    inside = {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in os.listdir(f"/proc/{pid}/ns")}
    assert found["own"] == inside
    assert found["made"] == "by the worker"
    assert str(found["programs"]).count("sleep") == 1
    assert (found["signal"], found["capabilities"]) == (0, [0, 0, 0, 0, 0])
    assert (found["no_new_privs"], found["filters"]) == (1, 2)
    assert found["files"] == [0, 1, 2]
    assert found["uid"] == os.stat(f"/proc/{pid}").st_uid
    assert found["limit"] == 77
    assert 0 not in (found["write"], found["secret"], found["mount"])
    if not name.startswith("host"):
        assert found["connect"] == 0
    environ = Path(f"/proc/{pid}/environ").read_bytes().decode().rstrip("\0").split("\0")
    theirs = {entry.partition("=")[0] for entry in environ} - {"PWD"}
    assert set(found["environ"]) - {"PWD", "LC_CTYPE"} == theirs  # type: ignore[call-overload]  # of JSON
    assert found["folder"] == os.readlink(f"/proc/{pid}/cwd")


@pytest.mark.parametrize("name", NAMES)
def test_a_command_is_inside_the_sandbox_of_its_worker_with_no_more_rights(daemon: DaemonProcess, name: str) -> None:
    check(daemon, name)


@pytest.mark.skipif(os.getuid() != 0, reason="only root starts agents of another user")
@pytest.mark.parametrize("name", OF_ANOTHER)
def test_so_is_that_of_another_user(daemon: DaemonProcess, name: str) -> None:
    check(daemon, name)


def test_so_it_is_below_a_pid_namespace_of_the_daemon(tmp_path: Path) -> None:
    config = '[daemon]\ncontainment = "pidns"\n' + agent("none", "none")
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["none"])
        check(daemon, "none")


def test_an_exit_code_a_signal_and_a_program_that_is_not_there_are_reported(daemon: DaemonProcess) -> None:
    for script, code in (("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)):
        assert daemon.corral("exec", "none", "sh", "-c", script).returncode == code
    assert daemon.corral("exec", "none", "nowhere").returncode == 127
    assert daemon.corral("exec", "none", "/usr").returncode == 126
    with daemon.client() as client, pytest.raises(SpawnFailed) as failed:
        Running(client, "none", "true", working_directory="/nowhere")
    assert failed.value.data["stage"] == "chdir"


def test_a_signal_reaches_the_command_and_a_terminal_is_its_own(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        script = "trap 'exit 9' USR1; echo up; while :; do sleep 0.1; done"
        run = Running(client, "none", "sh", "-c", script)
        run.until(b"up")
        run.send(signal="USR1")
        assert run.end()["code"] == 9
        run = Running(
            client, "none", "sh", "-c", "stty size; tty >/dev/tty && echo shown", tty=True, rows=7, columns=31
        )
        assert run.end()["code"] in (0, 1)
        assert b"7 31" in run.output["stdout"]


ESCAPE = "setsid sh -c 'sleep 1000000 & exec sleep 1000001' > /dev/null 2>&1 & echo $!"


def below(daemon: DaemonProcess, worker: str) -> set[int]:
    """The first process of a worker's sandbox, and all below it."""
    program = kernel.look_up(daemon.worker(worker)["pid"])
    assert program is not None, "it runs"
    return {process.pid for process in kernel.walk(program.parent)}


def test_what_a_command_leaves_behind_ends_with_it(daemon: DaemonProcess) -> None:
    before = below(daemon, "none-0")
    with daemon.client() as client:
        run = Running(client, "none", "sh", "-c", f"{ESCAPE}; sleep 0.2")
        assert run.end()["code"] == 0
        assert run.output["stdout"].strip().isdigit()
    until(lambda: below(daemon, "none-0") == before)
    assert daemon.worker("none-0")["state"] == "Ready"


def test_it_ends_with_its_connection_and_with_its_worker(daemon: DaemonProcess) -> None:
    client = daemon.client()
    run = Running(client, "proxy", "sh", "-c", f"{ESCAPE}; exec sleep 1000")
    run.until(b"\n")
    program = kernel.look_up(run.pid)
    assert program is not None, "it runs"
    client.close()
    await_dead(run.pid, program.parent)
    with daemon.client() as client:
        run = Running(client, "proxy", "sleep", "1000")
        pid = daemon.worker("proxy-0")["pid"]
        daemon.call("agent.restart", names=["proxy"])
        assert not is_alive(pid)
        end = run.end()
        assert end["signal"] == "SIGKILL"
        await_dead(run.pid)
    assert entered(daemon, "proxy")["made"] == "by the worker"


def test_it_counts_to_its_worker_while_it_runs(daemon: DaemonProcess) -> None:
    def memory() -> int:
        status = daemon.worker("none-0")
        found: int = status["rss_bytes"]
        return found

    before = memory()
    with daemon.client() as client:
        eat = "x = bytearray(80 * 1024 * 1024); print('full', flush=True); input()"
        run = Running(client, "none", PYTHON, "-I", "-c", eat, stdin=True)
        run.until(b"full")
        until(lambda: memory() > before + 60 * 1024 * 1024)
        run.send(end=True)
        run.end()


def test_what_runs_when_the_daemon_dies_dies_too(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, agent("none", "none")) as daemon:
        daemon.call("agent.start", names=["none"])
        client = daemon.client()
        run = Running(client, "none", "sh", "-c", f"{ESCAPE}; exec sleep 1000")
        run.until(b"\n")
        left = below(daemon, "none-0") | {run.pid}
        daemon.kill()
        client.close()
        await_dead(*left)
        daemon.start()
