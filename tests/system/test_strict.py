"""What isolation = "strict" promises, looked at by the worker itself, and by what the daemon sees of it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from daemon_process import DaemonProcess
from strict_agent import NEVER, WRITE, needs_strict, reported, strict, until

pytestmark = needs_strict

WAIT = "\nimport signal; signal.pause()"


def seen(folder: Path, expression: str, more: str = "", before: str = "") -> Any:  # JSON
    """The value of an expression inside."""
    code = before + "\n" + WRITE.replace("{expression}", expression) + WAIT
    with DaemonProcess(folder, strict(folder, code, more)):
        return reported(folder)


def below(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def exit_of(daemon: DaemonProcess, name: str = "kept-0") -> Any:  # JSON
    return daemon.await_worker(name, lambda w: w["last_exit"] is not None)["last_exit"]


ATTEMPT = """
import ctypes, errno, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    libc.syscall(number, *arguments)
    return errno.errorcode.get(ctypes.get_errno(), "OK")
def opened(path):
    try:
        open(path).close()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "OK"
def connected(*arguments, to):
    try:
        with socket.socket(*arguments) as sock:
            sock.settimeout(5)
            sock.connect(to)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "OK"
"""


def test_a_worker_sees_nothing_but_the_system_and_what_is_listed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("x")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "file").write_text("x")
    (tmp_path / "listed").write_text("x")
    listed = f'process.read_paths = ["{tmp_path}/listed"]'
    paths = {
        "system": "/usr/bin/env",
        "file": "file",
        "listed": f"{tmp_path}/listed",
        "secret": f"{tmp_path}/secret/key",
        "state": f"{tmp_path}/state/corral.db",
        "shadow": "/etc/shadow",
        "host": f"/proc/{os.getpid()}/cmdline",
    }
    expression = f"{{name: opened(path) for name, path in {paths!r}.items()}} | {{'pids': sorted(int(n) for n in os.listdir('/proc') if n.isdigit()), 'root': os.listdir('/'), 'pid': os.getpid(), 'init': open('/proc/1/environ').read(), 'tmp': os.environ['TMPDIR'], 'socket': os.environ.get('CORRAL_SOCKET')}}"
    found = seen(tmp_path / "work", expression, listed, ATTEMPT)
    assert {name: found[name] for name in ("system", "file", "listed")} == dict.fromkeys(
        ("system", "file", "listed"), "OK"
    )
    for name in ("secret", "state", "shadow", "host"):
        assert found[name] == "ENOENT", name
    assert found["init"] == "CORRAL_WORKER=kept-0#1\0"
    assert found["pids"] == [1, 2]
    assert found["pid"] == 2
    assert found["tmp"] == "/tmp"
    assert found["socket"] is None
    assert "home" not in found["root"]


def test_no_descriptor_of_the_sandboxs_reports_is_within_reach(tmp_path: Path) -> None:
    """The first process inside is of the same user, and bubblewrap reports the end of the program to the launcher."""
    before = """
import os
def files(pid):
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[fd] = os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0]
        except OSError:
            pass
    return found
"""
    found = seen(tmp_path, "[files(1), files('self')]", "", before)
    for of_one in found:
        piped = {fd for fd, what in of_one.items() if what == "pipe"}
        assert piped <= {"1", "2"}, found


def test_only_write_paths_and_tmp_can_be_written(tmp_path: Path) -> None:
    places = ["/", "/usr", "/etc", "/dev", str(tmp_path), f"{tmp_path}/out", "/tmp", "/dev/shm"]
    before = """
import errno, os
def written(folder):
    try:
        with open(folder + "/new", "w") as file:
            file.write("x")
    except OSError as error:
        return errno.errorcode[error.errno]
    return "OK"
"""
    found = seen(tmp_path, f"{{place: written(place) for place in {places!r}}}", "", before)
    assert {place: found[place] for place in places[5:]} == dict.fromkeys(places[5:], "OK")
    assert {found[place] for place in places[:5]} <= {"EROFS", "EACCES"}
    assert (tmp_path / "out" / "new").read_text() == "x"
    assert not (tmp_path / "new").exists()


def test_system_calls_that_lead_out_are_refused(tmp_path: Path) -> None:
    numbers = {"ptrace": 101, "mount": 165, "unshare": 272, "keyctl": 250, "bpf": 321,
               "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "kexec_load": 246,
               "init_module": 175, "clone3": 435, "setns": 308}  # fmt: skip
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are those of x86_64")
    expression = (
        f"{{name: call(number, 0x10000000, 0, 0, 0, 0) for name, number in {numbers!r}.items()}}"
        " | {'clone': call(56, 0x10000011, 0, 0, 0, 0), 'vsock': connected(40, 1, to=(2, 1)),"
        " 'caps': [l for l in open('/proc/self/status') if l.startswith('CapEff')][0].split()[1]}"
    )
    found = seen(tmp_path, expression, "", ATTEMPT)
    missing = {"io_uring_setup", "clone3"}
    for name in numbers:
        assert found[name] == ("ENOSYS" if name in missing else "EPERM"), name
    assert found["clone"] == "EPERM"
    assert found["vsock"] == "EAFNOSUPPORT"
    assert int(found["caps"], 16) == 0


@pytest.mark.parametrize("network", ["host", "none"])
def test_a_network_of_its_own_has_a_loopback_alone(tmp_path: Path, network: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0corral-{os.getpid()}")
        abstract.listen()
        expression = (
            f"{{'tcp': connected(to={server.getsockname()!r}),"
            f" 'abstract': connected(socket.AF_UNIX, to='\\0corral-{os.getpid()}'),"
            " 'own': (lambda own: connected(to=own.getsockname()))(socket.create_server(('127.0.0.1', 0)))}"
        )
        found = seen(tmp_path, expression, f'process.network = "{network}"', ATTEMPT)
    assert found["own"] == "OK"
    assert found["tcp"] == ("OK" if network == "host" else "ECONNREFUSED")
    assert found["abstract"] == ("EPERM" if network == "host" else "ECONNREFUSED")


def test_the_stop_signal_reaches_the_worker_and_its_exit_code_comes_back(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open('out/asked', 'w').close(), sys.exit(7)))\n"
        f"{WRITE.replace('{expression}', 'os.getpid()')}\nsignal.pause()"
    )
    with DaemonProcess(tmp_path, strict(tmp_path, code, NEVER)) as daemon:
        assert reported(tmp_path) == 2
        daemon.call("agent.stop", names=["kept"])
        assert exit_of(daemon)["code"] == 7
    assert (tmp_path / "out" / "asked").exists()


def test_an_exit_code_above_128_is_no_signal(tmp_path: Path) -> None:
    if os.uname().release.split(".")[:2] < ["6", "15"]:
        pytest.skip("the kernel does not tell the status of a grandchild")
    with DaemonProcess(tmp_path, strict(tmp_path, "raise SystemExit(137)", NEVER)) as daemon:
        found = exit_of(daemon)
    assert (found["code"], found["signal"]) == (137, None)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_signal_that_ends_the_worker_is_the_reason(tmp_path: Path, name: str) -> None:
    code = f"import os, signal; os.kill(os.getpid(), signal.{name})\nsignal.pause()"
    with DaemonProcess(tmp_path, strict(tmp_path, code, NEVER)) as daemon:
        found = exit_of(daemon)
    assert (found["code"], found["signal"]) == (None, name)


def test_status_shows_the_program_itself_and_counts_what_is_inside(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "held = bytearray(os.urandom(1)) * (64 << 20)\n"
        f"child = subprocess.Popen(['sleep', '1000'])\n{WRITE.replace('{expression}', 'child.pid')}{WAIT}"
    )
    with DaemonProcess(tmp_path, strict(tmp_path, code)) as daemon:
        reported(tmp_path)
        worker = daemon.await_worker("kept-0", lambda w: w["rss_bytes"] > 64 << 20)
        argv = Path(f"/proc/{worker['pid']}/cmdline").read_bytes().split(b"\0")
        assert argv[0] == sys.executable.encode()
        assert [Path(f"/proc/{pid}/comm").read_text() for pid in below(worker["pid"])] == ["sleep\n"]


@pytest.mark.parametrize("who", ["daemon", "launcher", "leader"])
def test_kill_9_leaves_nothing(tmp_path: Path, who: str) -> None:
    code = (
        "import os, subprocess\n"
        "child = subprocess.Popen(['setsid', 'sleep', '1000'], start_new_session=True)\n"
        f"{WRITE.replace('{expression}', 'child.pid')}{WAIT}"
    )
    with DaemonProcess(tmp_path, strict(tmp_path, code, NEVER)) as daemon:
        reported(tmp_path)
        pid = daemon.await_worker("kept-0", lambda w: w["pid"] is not None)["pid"]
        child = below(pid)[0]
        stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        init = int(stat[1])
        leader = int(Path(f"/proc/{init}/stat").read_text().rsplit(")", 1)[1].split()[1])
        pids = [pid, child, init, leader]
        if who == "daemon":
            daemon.kill()
        else:
            launcher = daemon.call("daemon.status")["daemon"]["launcher_pid"]
            os.kill(launcher if who == "launcher" else leader, signal.SIGKILL)
        until(lambda: not any(is_running(each) for each in pids))
        if who == "daemon":
            daemon.start()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_pause_stops_what_is_inside_and_a_resume_lets_it_go_on(tmp_path: Path) -> None:
    code = (
        "import os, itertools, time\n"
        f"{WRITE.replace('{expression}', 'os.getpid()')}\n"
        "for number in itertools.count():\n"
        "    with open('out/count', 'w') as file: file.write(str(number))\n"
        "    time.sleep(0.01)"
    )
    with DaemonProcess(tmp_path, strict(tmp_path, code)) as daemon:
        reported(tmp_path)
        count = tmp_path / "out" / "count"
        until(count.exists)
        pid = daemon.await_worker("kept-0", lambda w: w["pid"] is not None)["pid"]
        daemon.call("agent.pause", names=["kept"])

        def ticks() -> str:
            return Path(f"/proc/{pid}/schedstat").read_text()

        def stands() -> bool:
            before = ticks()
            os.sched_yield()
            time.sleep(0.05)
            return ticks() == before

        until(stands)
        daemon.call("agent.resume", names=["kept"])
        before = count.read_text()
        until(lambda: count.read_text() not in ("", before))


def test_a_program_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    config = '[agents.kept]\nprotocol = "none"\ncommand = ["/no/such"]\nprocess.isolation = "strict"\n'
    with DaemonProcess(tmp_path, config) as daemon:
        worker = daemon.await_worker("kept-0", lambda w: w["state"] == "Terminated")
        assert worker["last_exit"]["result"] == "exec-failed"
        assert "/no/such" in worker["last_exit"]["message"]


def test_a_listed_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    more = f'process.read_paths = ["{tmp_path}/absent"]'
    with DaemonProcess(tmp_path, strict(tmp_path, "", more)) as daemon:
        worker = daemon.await_worker("kept-0", lambda w: w["state"] == "Terminated")
        assert f"{tmp_path}/absent" in worker["last_exit"]["message"]
        assert worker["restarts"] == 0


def test_variables_do_not_load_code_into_the_program_that_makes_the_sandbox(tmp_path: Path) -> None:
    """LD_PRELOAD of a spec would otherwise run outside, with the rights of the user."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no compiler")
    source = tmp_path / "loaded.c"
    source.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void loaded(void) {\n"
        f'  FILE *f = fopen("{tmp_path}/escaped", "w"); if (f) fclose(f); }}\n'
    )
    library = tmp_path / "loaded.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    more = f'environment.LD_PRELOAD = "{library}"'
    assert seen(tmp_path, "os.environ['LD_PRELOAD']", more) == str(library)
    assert not (tmp_path / "escaped").exists()


def test_an_agent_of_the_sdk_works_and_starts_cold(tmp_path: Path) -> None:
    (tmp_path / "inside.py").write_text(
        "import os\nfrom corral.worker import Agent\nagent = Agent('kept')\n\n\n"
        "@agent.task\nasync def run(task):\n    return {'pid': os.getpid()}\n"
    )
    config = (
        '[agents.kept]\nentrypoint = "inside:agent"\nprocess.isolation = "strict"\n'
        f'process.network = "none"\nprocess.working_directory = "{tmp_path}"\n'
    )
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("kept-0", lambda w: w["state"] in ("Ready", "Terminated"))
        ran = daemon.corral("run", "kept", "x", "--json")
        assert json.loads(ran.stdout)["output"] == {"pid": 2}, ran.stdout + ran.stderr
        (agent,) = daemon.call("daemon.status")["agents"]
        assert "isolation" in json.dumps(agent["warm"])


def test_a_machine_without_bubblewrap_is_an_error_at_start_and_reported_by_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with DaemonProcess(tmp_path, strict(tmp_path, "")) as daemon:
        worker = daemon.await_worker("kept-0", lambda w: w["state"] == "Terminated")
        assert worker["last_exit"]["result"] == "exec-failed"
        assert "install bubblewrap" in worker["last_exit"]["message"]
        findings = daemon.call("daemon.doctor")["findings"]
        (found,) = [each for each in findings if each["topic"] == "isolation.strict"]
        assert (found["verdict"], "install bubblewrap" in found["remedy"]) == ("warning", True)


def test_an_mcp_server_may_be_strict(tmp_path: Path) -> None:
    program = Path(__file__).parents[1] / "support" / "programs" / "mcp_state.py"
    words = json.dumps([sys.executable, "-I", str(program)])
    config = f'[mcp.servers.state]\ncommand = {words}\nprocess.isolation = "strict"\n'
    config += 'process.network = "none"\n'
    with DaemonProcess(tmp_path, config) as daemon:
        listed = daemon.corral("mcp", "tools", "--json")
        assert listed.returncode == 0, listed.stderr
        assert "state__" in listed.stdout, listed.stdout
        pid = daemon.worker("state-0")["pid"]
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its user")
def test_a_user_of_its_own_is_held_inside() -> None:
    folder = Path("/var/tmp") / f"corral-strict-{os.getpid()}"
    folder.mkdir(0o755)
    try:
        (folder / "out").mkdir()
        shutil.chown(folder / "out", 65534, 65534)
        code = "import json, os\njson.dump([os.getuid(), os.getgid()], open('out/report', 'w'))\nimport signal; signal.pause()"
        words = json.dumps(["/usr/bin/python3", "-c", code])
        config = (
            f'[agents.kept]\nprotocol = "none"\ncommand = {words}\nprocess.isolation = "strict"\n'
            f'process.user = "65534"\nprocess.group = "65534"\nprocess.working_directory = "{folder}"\n'
            f'process.write_paths = ["{folder}/out"]\nprocess.network = "proxy"\n'
        )
        with DaemonProcess(folder, config) as daemon:
            worker = daemon.await_worker("kept-0", lambda w: w["state"] in ("Ready", "Terminated"))
            assert worker["pid"], worker["last_exit"]["message"]
            until((folder / "out" / "report").exists)
            uids = [
                line.split()[1]
                for line in Path(f"/proc/{worker['pid']}/status").read_text().splitlines()
                if line.startswith("Uid")
            ]
            assert uids == ["65534"]
    finally:
        shutil.rmtree(folder)


def test_strict_workers_run_below_a_pid_namespace_of_the_daemon(tmp_path: Path) -> None:
    code = f"{WRITE.replace('{expression}', 'os.getpid()')}{WAIT}"
    config = '[daemon]\ncontainment = "pidns"\n' + strict(tmp_path, code, NEVER)
    with DaemonProcess(tmp_path, config) as daemon:
        assert reported(tmp_path) == 2
        worker = daemon.await_worker("kept-0", lambda w: w["pid"] is not None)
        argv = Path(f"/proc/{worker['pid']}/cmdline").read_bytes().split(b"\0")
        assert argv[0] == sys.executable.encode()
        daemon.call("agent.stop", names=["kept"])
        assert exit_of(daemon)["signal"] == "SIGTERM"
