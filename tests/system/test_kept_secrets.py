"""`corral secret` under a whole daemon: who gets a secret, how it is rotated, and that nothing shows it."""

import json
import os
import pty
from collections.abc import Iterator
from hashlib import sha256

import pytest

from corral.worker.contract.errors import InvalidParams, SpawnFailed
from daemon_process import BIN, DaemonProcess

pytestmark = pytest.mark.shell

OLD, NEW, TYPED, WRONG = ("hunter2-old", "hunter2-new", "hunter2-typed", "hunter2-wrong")

AGENT = """\
import hashlib, os
from corral.worker import Agent, Task
agent = Agent("app")
@agent.task
async def run(task: Task) -> str:
    return hashlib.sha256(os.environ["KEY"].encode()).hexdigest()
"""

CONFIG = """
[daemon]
log_level = "debug"
[agents.app]
entrypoint = "secretive:agent"
instances = 2
autostart = false
environment = { KEY = "${secret:KEY}" }
[agents.stranger]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
environment = { KEY = "${secret:KEY}" }
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("kept")
    (folder / "secretive.py").write_text(AGENT)
    with DaemonProcess(folder, CONFIG) as process:
        yield process


def has(daemon: DaemonProcess, value: str) -> bool:
    found = daemon.call("task.run", agent="app", objective="look")
    return bool(found["output"] == sha256(value.encode()).hexdigest())


def pids(daemon: DaemonProcess) -> set[int]:
    (app,) = daemon.call("daemon.status", names=["app"])["agents"]
    return {each["pid"] for each in app["workers"]}


def test_a_secret_is_set_used_by_its_agents_rotated_and_removed(daemon: DaemonProcess) -> None:
    done = daemon.corral("secret", "set", "KEY", "-", "--agent", "app", stdin=f"{OLD}\n")
    assert (done.returncode, done.stdout) == (0, "set KEY\n"), done.stderr
    assert daemon.corral("secret", "set", "KEY", "-", stdin="x").returncode == 4
    daemon.call("agent.start", names=["app"])
    assert has(daemon, OLD)
    with pytest.raises(SpawnFailed) as caught:
        daemon.call("agent.start", names=["stranger"])
    assert {'"stranger":', '"KEY"'} <= set(caught.value.message.split())

    before = pids(daemon)
    file = daemon.folder / "new"
    file.write_text(NEW)
    done = daemon.corral("--json", "secret", "rotate", "KEY", "--file", str(file), "--restart")
    file.unlink()
    assert json.loads(done.stdout) == {"name": "KEY", "used_by": ["app", "stranger"], "restarted": ["app-0", "app-1"]}
    assert before & pids(daemon) == set()
    assert has(daemon, NEW)
    assert daemon.corral("secret", "rotate", "NONE", "-", stdin="x").returncode == 3

    (listed,) = json.loads(daemon.corral("--json", "secret", "list").stdout)
    assert (listed["name"], listed["source"], listed["agents"], listed["used_by"]) == (
        *("KEY", "kept", ["app"]),
        ["app", "stranger"],
    )
    assert "app stranger" in daemon.corral("secret", "list").stdout
    assert daemon.corral("secret", "rm", "KEY").returncode == 4, "agents name it"
    assert daemon.corral("secret", "rm", "KEY", "--force").returncode == 0
    (lost,) = daemon.call("secret.list")["secrets"]
    assert (lost["name"], lost["source"]) == ("KEY", None)


def test_a_value_is_asked_for_without_an_echo(daemon: DaemonProcess) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(BIN / "corral", ["corral", "--socket", str(daemon.socket), "secret", "set", "ASKED"])
    shown = b""
    while b"value of ASKED: " not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, f"{TYPED}\n".encode())
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:
        pass  # the command has ended
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    assert TYPED.encode() not in shown
    no_terminal = daemon.corral("secret", "set", "OTHER")
    assert (no_terminal.returncode, "--file" in no_terminal.stderr) == (2, True)


def test_nothing_shows_a_value(daemon: DaemonProcess) -> None:
    daemon.call("secret.set", name="SHOWN", secret=OLD)
    daemon.call("secret.rotate", name="SHOWN", secret=NEW)
    with pytest.raises(InvalidParams) as caught:
        daemon.call("secret.set", name="A", value=WRONG)  # a mistyped key
    assert WRONG not in caught.value.message
    with pytest.raises(InvalidParams):
        daemon.call("secret.set", name="A", secret=[WRONG])
    shown = [
        daemon.corral(*words).stdout
        for words in (
            ("--json", "status"),
            ("--json", "show", "app"),
            ("--json", "secret", "list"),
            ("--json", "doctor"),
            ("--json", "events", "-n", "1000"),
            ("--json", "audit", "-n", "1000"),
        )
    ]
    assert '"secret.rotate"' in shown[-1]
    kept = daemon.state_dir / "secrets.d"
    files = [path for path in daemon.state_dir.rglob("*") if path.is_file() and kept not in path.parents]
    shown += [path.read_bytes().decode("utf-8", "replace") for path in [*files, daemon.log]]
    values = (OLD, NEW, TYPED, WRONG)
    assert [(each, text) for each in values for text in shown if each in text] == []


def test_a_secret_is_there_after_a_kill_of_the_daemon(daemon: DaemonProcess) -> None:
    daemon.call("secret.set", name="LAST", secret=OLD)
    daemon.kill()
    daemon.start()
    assert "LAST" in {each["name"] for each in daemon.call("secret.list")["secrets"]}
