"""What isolation promises every worker, looked at by the worker itself, and by one that tries to leave."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.config.spec.loader import decode
from corral.supervisor.machine.linux import landlock
from corral.worker.contract.errors import CorralError, InvalidParams
from daemon_process import AGENTS, DaemonProcess

ROOT = os.geteuid() == 0
SYSTEM_PYTHON = "/usr/bin/python3"

needs_landlock = pytest.mark.skipif(landlock.abi() < 6, reason=f"this kernel has version {landlock.abi()} of Landlock")


def reporter(folder: Path, name: str, more: str = "") -> str:
    """An agent that reports into the fifo of its name."""
    os.mkfifo(folder / name)
    words = json.dumps([sys.executable, str(AGENTS / "isolation_report.py"), str(folder / name)])
    return f'[agents.{name}]\nprotocol = "none"\ncommand = {words}\n{more}\n'


def report(folder: Path, name: str) -> Any:  # JSON
    """What the worker writes when it has started."""
    with open(folder / name, encoding="utf-8") as fifo:
        return json.loads(fifo.read())


def test_an_isolated_worker_has_all_that_was_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "1")
    leak = os.open("/dev/null", os.O_RDONLY)
    with DaemonProcess(tmp_path, reporter(tmp_path, "usual")) as daemon:
        born = report(tmp_path, "usual")
        assert born["session"] == born["pid"]
        assert born["no_new_privs"] == "1"
        assert born["umask"] == "0077"
        assert born["core"] == [0, 0]
        assert born["fds"] == [0, 1, 2]
        allowed = {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG", "TMPDIR"}
        own = {f"CORRAL_{name}" for name in ("WORKER", "SOCKET", "AGENT", "INSTANCE")}
        extra = set(born["environment"]) - allowed - own
        assert extra <= {"LC_CTYPE", "PYTHONUNBUFFERED"}
        assert born["mode"] == 0o700
        assert born["owner"] == born["uid"]
        assert os.path.dirname(born["file"]) == born["temporary"]
        score = int(Path(f"/proc/{daemon.pid}/oom_score_adj").read_text())
        assert born["oom_score_adj"] == min(score + 200, 1000)
        assert born["may_signal_parent"] is (landlock.abi() < 6)
    os.close(leak)


def test_a_worker_without_isolation_is_left_as_it_is(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, reporter(tmp_path, "bare", 'process.isolation = "none"')):
        born = report(tmp_path, "bare")
        assert born["temporary"] is None
        assert born["no_new_privs"] == "0"
        assert born["may_signal_parent"]


def test_a_temporary_folder_that_the_spec_names_is_nobodys_to_remove(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    own = f'environment.TMPDIR = "{tmp_path}/own"'
    with DaemonProcess(tmp_path, reporter(tmp_path, "named", own)) as daemon:
        assert report(tmp_path, "named")["temporary"] == str(tmp_path / "own")
        assert list((daemon.state_dir / "tmp").iterdir()) == []
    assert list((tmp_path / "own").iterdir()) != []


def gone(path: str, root: Path) -> bool:
    """Removal begins with the last process of the tree, and nobody waits for it but the daemon's end."""
    return not os.path.exists(path) and list(root.iterdir()) == []


def test_the_temporary_folder_goes_with_each_life_of_the_worker(tmp_path: Path) -> None:
    always = 'recovery.restart = "always"\nrecovery.restart_backoff_base = "10ms"'
    with DaemonProcess(tmp_path, reporter(tmp_path, "mortal", always)) as daemon:
        first = report(tmp_path, "mortal")
        os.kill(first["pid"], signal.SIGKILL)
        second = report(tmp_path, "mortal")
        assert second["temporary"] != first["temporary"]
        assert os.path.exists(second["file"])
        daemon.kill()
        assert os.path.exists(second["file"])
        daemon.start()
        third = report(tmp_path, "mortal")
        assert os.path.exists(third["file"])
        os.mkdir(os.path.join(third["temporary"], "closed"), 0)
    assert gone(third["temporary"], daemon.state_dir / "tmp")


def test_a_start_that_fails_leaves_no_temporary_folder(tmp_path: Path) -> None:
    config = '[agents.absent]\nprotocol = "none"\ncommand = ["/no/such/program"]\n'
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("absent-0", lambda w: w["state"] == "Terminated")
    assert list((daemon.state_dir / "tmp").iterdir()) == []


# --- paths, ports and signals ---------------------------------------------------------------------

WAYS = {
    "open": "EACCES",
    "dots": "EACCES",
    "link": "EACCES",
    "hard link": "EXDEV",
    "rename": "EACCES",
    "root of another": "EACCES",
    "child": "EACCES",
    "copied program": "EACCES",
    "list": "EACCES",
    "write": "EACCES",
    "write by child": "EACCES",
    "truncate": "EACCES",
    "remove": "EACCES",
    "connect": "EACCES",
    "connect by child": "EACCES",
    "connect by mptcp": "EPROTONOSUPPORT",
    "shoot": "EPERM",
    "shoot parent": "EPERM",
}


class Yard:
    """A daemon with an agent that is kept in, one that is not, and what is beside the fence."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self.user = user
        self.inside, self.outside = folder / "inside", folder / "outside"
        for name in ("inside", "outside"):
            (folder / name).mkdir()
            (folder / name / "file").write_text(name)
            if user is not None:
                shutil.chown(folder / name, user)
                shutil.chown(folder / name / "file", user)
        self.allowed, self.other = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        python = sys.executable if user is None else SYSTEM_PYTHON
        agent = f'entrypoint = "escapee:agent"\npython = "{python}"\nprocess.working_directory = "{AGENTS}"\n' + (
            f'process.user = "{user}"\n' if user is not None else ""
        )
        fence = (
            f'process.read_paths = ["{self.inside}", "{AGENTS}"]\n'
            f'process.write_paths = ["{self.inside}"]\n'
            f"process.connect_ports = [{self.port(self.allowed)}]\n"
        )
        config = f"[agents.kept]\n{agent}{fence}[agents.free]\n{agent}process.isolation = 'none'\n"
        self.daemon = DaemonProcess(folder, config)

    @staticmethod
    def port(server: socket.socket) -> int:
        number: int = server.getsockname()[1]
        return number

    def run(self, agent: str, way: str, where: object) -> object:
        """What the agent says that came of it."""
        return self.daemon.call("task.run", agent=agent, objective=way, input=where)["output"]

    def beyond(self, way: str) -> object:
        """Where the way leads that has to be closed."""
        if "connect" in way:
            return self.port(self.other)
        return self.daemon.pid if "shoot" in way else str(self.outside / "file")


@pytest.fixture(scope="module", params=["the daemon's user", "another user"])
def yard(request: pytest.FixtureRequest) -> Iterator[Yard]:
    user: str | None = None
    if request.param == "another user":
        if not ROOT:
            pytest.skip("only root may change the user")
        newer = "import sys; sys.exit(sys.version_info < (3, 11))"
        if not os.path.exists(SYSTEM_PYTHON) or subprocess.call([SYSTEM_PYTHON, "-c", newer]):
            pytest.skip("no Python that every user may run")
        user = "nobody"
        if subprocess.call(["ls", AGENTS], user=user, stdout=subprocess.DEVNULL):
            pytest.skip("another user may not read these tests")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yard = Yard(Path(folder), user)
        with yard.daemon, yard.allowed, yard.other:
            yield yard


@needs_landlock
@pytest.mark.parametrize("way", list(WAYS))
def test_an_agent_does_not_get_out_of_what_its_spec_names(yard: Yard, way: str) -> None:
    assert yard.run("kept", way, yard.beyond(way)) == WAYS[way]
    assert (yard.outside / "file").read_text() == "outside"
    assert yard.daemon.worker("kept-0")["incarnation"] == 1


@needs_landlock
def test_an_agent_does_what_its_spec_allows(yard: Yard) -> None:
    file = str(yard.inside / "file")
    assert yard.run("kept", "write", file) == "written"
    assert yard.run("kept", "open", file) == "overwritten"
    assert yard.run("kept", "child", file) == "overwritten"
    assert yard.run("kept", "link", file) == "overwritten"
    assert yard.run("kept", "write by child", str(yard.inside / "new")) == "written"
    assert yard.run("kept", "connect", yard.port(yard.allowed)) == "connected"
    assert yard.run("kept", "connect by child", yard.port(yard.allowed)) == "connected"


@pytest.mark.parametrize("way", ["open", "child", "root of another", "connect", "list"])
def test_an_agent_that_is_not_kept_in_goes_each_way(yard: Yard, way: str) -> None:
    if way == "root of another" and yard.user is not None:
        pytest.skip("it may not look into a process of root")
    assert yard.run("free", way, yard.beyond(way)) not in set(WAYS.values())


@needs_landlock
def test_what_is_kept_in_is_still_the_daemons_to_end(yard: Yard) -> None:
    os.kill(yard.daemon.worker("kept-0")["pid"], signal.SIGABRT)
    ended = yard.daemon.await_worker("kept-0", lambda w: w["incarnation"] > 1)
    assert ended["last_exit"]["signal"] == "SIGABRT"
    read = yard.daemon.call("log.read", names=["kept"], stream="stderr")
    assert read["records"], "faulthandler says where it was"
    yard.daemon.call("agent.restart", names=["kept"])
    assert yard.run("kept", "open", str(yard.outside / "file")) == "EACCES"


@needs_landlock
@pytest.mark.parametrize("key", ["read_paths", "write_paths"])
def test_a_path_that_is_not_there_is_a_start_that_failed(tmp_path: Path, key: str) -> None:
    config = f'[agents.misled]\nprotocol = "none"\ncommand = ["true"]\nautostart = false\nprocess.{key} = ["missing"]\n'
    with DaemonProcess(tmp_path, config) as daemon:
        with pytest.raises(CorralError):
            daemon.call("agent.start", names=["misled"])
        worker = daemon.worker("misled-0")
        assert worker["state"] == "Terminated"
        assert worker["last_exit"]["result"] == "exec-failed"


PROGRAMS = {
    "sh": ["sh", "-c", "cat /etc/hosts > /dev/null && ls /usr > /dev/null"],
    "bash": ["bash", "-c", "cat <(echo x) > /dev/stderr"],
    "python": ["python3", "-c", "import ssl, socket; ssl.create_default_context()"],
    "node": ["node", "-e", "require('tls').createSecureContext(); console.log(os.cpus().length)"],
    "venv": [sys.executable, "-c", "import msgspec"],
}


@needs_landlock
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_an_ordinary_program_runs_without_any_path_of_its_own(tmp_path: Path, name: str) -> None:
    if shutil.which(PROGRAMS[name][0]) is None:
        pytest.skip(f"{name} is not here")
    config = (
        f'[agents.plain]\nprotocol = "none"\ncommand = {json.dumps(PROGRAMS[name])}\n'
        'recovery.restart = "never"\nprocess.working_directory = "/"\n'
        "process.read_paths = []\nprocess.write_paths = []\nprocess.connect_ports = []\n"
    )
    with DaemonProcess(tmp_path, config) as daemon:
        worker = daemon.await_worker("plain-0", lambda w: w["state"] == "Terminated")
        assert (worker["last_exit"]["result"], worker["last_exit"]["code"]) == ("exited", 0)


@pytest.mark.parametrize("key", ["read_paths", "write_paths", "connect_ports"])
@pytest.mark.parametrize("off", ['isolation = "none"', "enable_isolation = false"])
def test_paths_and_ports_without_isolation_contradict_it(key: str, off: str) -> None:
    both = f"[agents.a]\ncommand = ['x']\n[agents.a.process]\n{off}\n{key} = []\n"
    inherited = f"[process]\n{key} = []\n[agents.a]\ncommand = ['x']\n[agents.a.process]\n{off}\n"
    for text in (both, inherited):
        with pytest.raises(InvalidParams) as refused:
            decode(text, source="corral.toml", directory="/")
        assert str(refused.value.data["key"]).startswith("agents.a.process.")


def test_the_example_of_the_manual_is_a_configuration() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "configuration.md").read_text("utf-8")
    section = text.partition("#### `read_paths`, `write_paths`, `connect_ports`")[2]
    example = textwrap.dedent(
        "".join(
            line
            for line in section.partition("\n### ")[0].splitlines(keepends=True)
            if line.startswith("    ") or line == "\n"
        )
    )
    process = decode(example, source="manual", directory="/").agents["librarian"].process
    assert process.read_paths == ("/srv/librarian", "/srv/books")
    assert (process.write_paths, process.connect_ports) == (("/srv/books/index",), (443,))


@needs_landlock
def test_the_built_in_server_runs_where_every_process_is_kept_in(tmp_path: Path) -> None:
    config = "[process]\nread_paths = []\nwrite_paths = []\nconnect_ports = []\n"
    with DaemonProcess(tmp_path, config) as daemon:
        given = {"content": "the horse is brown"}
        stored = daemon.call("mcp.call", name="cortex__cortex_store", arguments=given)
        assert not stored.get("isError")
