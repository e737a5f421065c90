"""The units under a real systemd: started, reloaded, killed, watched, stopped, booted; and what agents may do in them.

One box for all (see `systemd_box`), with corral installed by the documented commands. `CORRAL_KILLS=50` repeats
the kills that often (`make long systemd`).
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import systemd_box
from systemd_box import BOUND_S, PREFIX, ROOT, Box

KILLS = int(os.environ.get("CORRAL_KILLS", "3"))
ROUNDS = [min(10, KILLS - done) for done in range(0, KILLS, 10)]
"""Ten at a time: a test has its bound."""
UNIT = "system.slice/corrald.service"
SOCKET = "/run/corral/corral.sock"
AGENTS = "/srv/agents"
BASE = """
[daemon]
group = "corral"
"""
BREEDERS = "".join(
    f"""
[agents.{name}]
command = ["/usr/bin/env", "python3", "{AGENTS}/breeder.py"]
protocol = "none"
process.shutdown_grace_period = "2s"
recovery.max_restart_attempts = 1000
"""
    for name in ("one", "two")
)

pytestmark = pytest.mark.skipif(bool(systemd_box.missing()), reason=systemd_box.missing())


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with systemd_box.booted(tmp_path_factory.mktemp("box")) as box:
        for name in ("unit_probe.py", "breeder.py"):
            box.write(f"{AGENTS}/{name}", (ROOT / "tests" / "support" / "programs" / name).read_text())
        accounts = "u member - -\nu stranger - -\nm member corral\n"
        box.write("/etc/sysusers.d/tests.conf", accounts)
        box.run("systemd-sysusers", "/etc/sysusers.d/tests.conf")
        dropin = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=10ms\n"
        box.write("/etc/systemd/system.mine/corrald.service.d/fast.conf", dropin)
        box.write("/etc/systemd/system/corrald.service.d/fast.conf", dropin)
        box.run("systemctl", "daemon-reload")
        yield box


@pytest.fixture
def box(machine: Box) -> Iterator[Box]:
    """The box with nothing running and nothing remembered."""
    yield machine
    stop(machine)
    shutil.rmtree(machine.files / "var/lib/corral", ignore_errors=True)


def start(box: Box, config: str = "") -> None:
    box.write("/etc/corral/corral.toml", BASE + config, 0o600)
    box.run("systemctl", "start", "corrald")


def stop(box: Box) -> None:
    box.run("systemctl", "stop", "corrald.socket", "corrald.service", status=None)
    box.run("systemctl", "reset-failed", status=None)


def shown(box: Box, *properties: str) -> dict[str, str]:
    told = box.run("systemctl", "show", "corrald", f"--property={','.join(properties)}").stdout
    return dict(line.split("=", 1) for line in told.splitlines())


def answer(box: Box, *arguments: str) -> Any:  # a JSON document
    return json.loads(box.run("corral", "--json", *arguments).stdout)


def daemon_pid(box: Box) -> int:
    """The pid of the daemon as the box has it; whoever asks waits until one answers."""
    pid = answer(box, "status")["daemon"]["pid"]
    assert isinstance(pid, int)
    return pid


def await_another(box: Box, before: int) -> None:
    """Waits until another daemon answers: each who asks waits for one, but a dying one may still answer or hang up."""
    while True:
        done = box.run("corral", "--json", "status", status=None)
        if done.returncode == 0 and json.loads(done.stdout)["daemon"]["pid"] != before:
            return


def kill(box: Box, signal_name: str) -> None:
    box.run("systemctl", "kill", "--kill-whom=main", f"--signal={signal_name}", "corrald")


def bred(box: Box) -> None:
    """Waits until both breeders of this life of the daemon are up with their grandchildren."""
    for name in ("one", "two"):
        for text in followed(box, name):
            if text.startswith("bred by "):
                (agent,) = answer(box, "status", name)["agents"]
                if text == f"bred by {agent['workers'][0]['pid']}":
                    break


def followed(box: Box, name: str) -> Iterator[str]:
    """What an agent has printed and prints."""
    command = box.command("corral", "--json", "logs", "-f", "-n", "20", name)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None, "it is a pipe"
        try:
            for line in following.stdout:
                yield json.loads(line)["text"]
        finally:
            following.kill()
    raise AssertionError("the daemon has gone")


# -- started


def test_started_means_that_it_answers(box: Box) -> None:
    start(box)
    now = shown(box, "ActiveState", "MainPID", "NotifyAccess", "WatchdogUSec", "KillMode")
    assert now["ActiveState"] == "active"
    assert daemon_pid(box) == int(now["MainPID"])
    assert (now["NotifyAccess"], now["KillMode"]) == ("main", "mixed")


def test_a_wrong_configuration_fails_once_and_stays_failed(box: Box) -> None:
    box.write("/etc/corral/corral.toml", "[agents.a]\n", 0o600)
    box.run("systemctl", "start", "corrald", status=1)
    now = shown(box, "ActiveState", "ExecMainStatus", "NRestarts")
    assert now == {"ActiveState": "failed", "ExecMainStatus": "2", "NRestarts": "0"}
    start(box)  # mended: nothing has to be reset first
    assert daemon_pid(box) > 0


def test_reload_applies_what_changed_and_a_broken_file_fails_it_and_changes_nothing(box: Box) -> None:
    sleeper = '[agents.{}]\ncommand = ["sleep", "1000"]\nprotocol = "none"\n'
    start(box, sleeper.format("first"))
    before = daemon_pid(box)
    box.write("/etc/corral/corral.toml", BASE + sleeper.format("first") + sleeper.format("second"), 0o600)
    box.run("systemctl", "reload", "corrald")
    names = {agent["name"] for agent in answer(box, "status")["agents"]}
    assert names == {"first", "second"}
    box.write("/etc/corral/corral.toml", BASE + "[agents.third]\n", 0o600)
    box.run("systemctl", "reload", "corrald", status=1)
    assert {agent["name"] for agent in answer(box, "status")["agents"]} == names
    assert shown(box, "ActiveState") == {"ActiveState": "active"}
    assert daemon_pid(box) == before


# -- killed


@pytest.mark.long
def test_a_daemon_that_stands_still_is_killed_by_the_watchdog_and_nothing_of_its_life_is_left(box: Box) -> None:
    impatient = "/run/systemd/system/corrald.service.d/watchdog.conf"
    box.write(impatient, "[Service]\nWatchdogSec=3s\n")
    box.run("systemctl", "daemon-reload")
    start(box, BREEDERS)
    box.run("rm", impatient)
    bred(box)
    before = daemon_pid(box)
    old = box.processes(UNIT)
    kill(box, "SIGSTOP")
    box.run("systemctl", "daemon-reload")  # the next one has its 30 s again
    await_another(box, before)
    bred(box)
    assert not old & box.processes(UNIT)
    assert shown(box, "ActiveState") == {"ActiveState": "active"}
    told = box.run("journalctl", "--unit=corrald", "--output=cat", "--no-pager").stdout
    assert "Watchdog timeout" in told  # it was this that ended it


@pytest.mark.parametrize("times", ROUNDS)
def test_a_killed_daemon_comes_back_and_nothing_of_its_life_is_left(box: Box, times: int) -> None:
    start(box, BREEDERS)
    for _ in range(times):
        bred(box)
        before = daemon_pid(box)
        old = box.processes(UNIT)
        assert len(old) > 2 * 4
        kill(box, "SIGKILL")
        await_another(box, before)
        assert not old & box.processes(UNIT)
    assert shown(box, "NRestarts") == {"NRestarts": str(times)}


@pytest.mark.long
@pytest.mark.parametrize("times", ROUNDS)
def test_daemon_and_launcher_killed_at_one_instant_leave_nothing(box: Box, times: int) -> None:
    start(box, BREEDERS)
    for _ in range(times):
        bred(box)
        daemon = answer(box, "status")["daemon"]
        old = box.processes(UNIT)
        box.run("kill", "-STOP", str(daemon["launcher_pid"]))  # it is not to act between the two
        # The one that is named second may be gone already: that quick is the first one's death.
        box.run("kill", "-9", str(daemon["pid"]), str(daemon["launcher_pid"]), status=None)
        await_another(box, daemon["pid"])
        assert not old & box.processes(UNIT)


def test_a_stop_leaves_nothing(box: Box) -> None:
    start(box, BREEDERS)
    bred(box)
    old = box.processes(UNIT)
    stop(box)
    assert shown(box, "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    assert box.processes(UNIT) == set()
    assert not any(systemd_box.start_time(pid) == started for pid, started in old)
    assert not (box.files / SOCKET[1:]).exists()


# -- the socket


def test_who_connects_starts_the_service(box: Box) -> None:
    start(box)
    box.run("systemctl", "stop", "corrald.service")
    assert shown(box, "ActiveState") == {"ActiveState": "inactive"}
    assert daemon_pid(box) == int(shown(box, "MainPID")["MainPID"])


def test_who_connects_while_it_restarts_waits(box: Box) -> None:
    start(box)
    before = daemon_pid(box)
    restarting = subprocess.Popen(box.command("systemctl", "restart", "corrald"))
    with restarting:
        asked = 0
        while restarting.poll() is None or asked < 3:
            done = box.run("corral", "--json", "status", status=None)
            # A call that the old daemon had taken when it ended is lost, and said to be; a connection never is.
            assert done.returncode == 0 or json.loads(done.stdout)["error"]["name"] in ("ShuttingDown", "Unreachable")
            assert "missing" not in done.stdout
            assert "stale" not in done.stdout
            asked += 1
    assert daemon_pid(box) != before


def test_the_socket_is_the_group_s_and_it_stays_the_unit_s(box: Box) -> None:
    start(box)
    status = (box.files / SOCKET[1:]).stat()
    group = box.run("getent", "group", "corral").stdout.split(":")[2]
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, int(group), 0o660)
    inode = status.st_ino
    box.run("systemctl", "restart", "corrald")
    assert (box.files / SOCKET[1:]).stat().st_ino == inode


@pytest.mark.long
def test_a_member_of_the_group_operates_and_a_stranger_does_not_get_in(box: Box) -> None:
    start(box, '[agents.plain]\ncommand = ["sleep", "1000"]\nprotocol = "none"\n')

    def code(user: str, *arguments: str) -> int:
        return box.run("corral", "--socket", SOCKET, *arguments, user=user, status=None).returncode

    assert code("member", "status") == 0
    assert code("member", "restart", "plain") == 0
    assert code("member", "add", "mine", "--protocol", "none", "--", "sleep", "1") == 4
    assert code("member", "reload") == 4
    assert code("stranger", "status") == 6


# -- the journal


def entries(box: Box, *arguments: str) -> list[Any]:
    """What the journal has of all that was sent to it until now."""
    box.run("journalctl", "--sync")
    told = box.run("journalctl", "--output=json", "--all", "--no-pager", *arguments).stdout
    return [json.loads(line) for line in told.splitlines()]


def test_workers_lines_are_in_the_journal_whole_and_more_than_its_own_limit(box: Box) -> None:
    count = 5_000
    box.write("/etc/systemd/journald.conf.d/tests.conf", "[Journal]\nRateLimitBurst=100\n")
    box.run("systemctl", "restart", "systemd-journald")
    printer = f"""
import sys, time
sys.stdout.write("".join(f"{{number}}\\n" for number in range({count})) + "x" * 1_000_000 + "\\n")
sys.stdout.flush()
sys.stdout.buffer.write(b"\\xff\\n\\n")
sys.stdout.flush()
sys.stderr.write("the end")
sys.stderr.flush()
time.sleep(1000)
"""
    box.write(f"{AGENTS}/printer.py", printer)
    agent = f'[agents.printer]\ncommand = ["/usr/bin/env", "python3", "{AGENTS}/printer.py"]\nprotocol = "none"\n'
    box.write("/etc/corral/corral.toml", BASE + "journal = true\n" + agent, 0o600)
    box.run("systemctl", "start", "corrald")
    assert answer(box, "status")["daemon"]["journal"] is True
    next(text for text in followed(box, "printer") if text == "")
    stop(box)  # a stop sends what is left
    found = entries(box, "CORRAL_AGENT=printer", "CORRAL_STREAM=stdout")
    messages = [entry["MESSAGE"] for entry in found]
    assert messages[:count] == [str(number) for number in range(count)]
    assert messages[count] == "x" * 1_000_000
    assert messages[count + 1 :] == [[255], ""]
    (last,) = entries(box, "CORRAL_AGENT=printer", "CORRAL_STREAM=stderr")
    expected = {"MESSAGE": "the end", "PRIORITY": "6", "SYSLOG_IDENTIFIER": "printer-0"}
    expected |= {"CORRAL_WORKER": "printer-0", "_SYSTEMD_UNIT": "corrald.service"}
    assert {key: last[key] for key in expected} == expected


def test_the_daemon_s_own_log_is_in_the_journal_with_levels_and_facts(box: Box) -> None:
    start(box, '[agents.plain]\ncommand = ["sleep", "1000"]\nprotocol = "none"\n')
    begun = shown(box, "InvocationID")["InvocationID"]
    box.run("corral", "log-level", "debug")
    box.run("systemctl", "restart", "systemd-journald")  # what is said meanwhile waits
    box.run("corral", "restart", "plain")
    stop(box)
    own = ("--unit=corrald", "--identifier=corrald", f"_SYSTEMD_INVOCATION_ID={begun}")
    told = entries(box, *own)
    (ready,) = [entry for entry in told if entry["MESSAGE"].startswith("ready ")]
    assert (ready["PRIORITY"], ready["CORRAL_SOCKET"]) == ("6", SOCKET)
    assert ready["CODE_FUNC"] == "serve"
    calls = [entry["CORRAL_METHOD"] for entry in told if "CORRAL_METHOD" in entry]
    assert "agent.restart" in calls
    states = [
        (entry["CORRAL_FROM"], entry["CORRAL_TO"])
        for entry in entries(box, *own, "CORRAL_WORKER=plain-0", "CORRAL_TYPE=worker.state")
    ]
    assert ("ShuttingDown", "Terminated") in states
    assert states[-2:] == [("Ready", "ShuttingDown"), ("ShuttingDown", "Terminated")]
    plain = entries(box, *own, "--priority=info")
    assert 0 < len(plain) < len(told)


def test_why_it_does_not_start_is_an_error_in_the_journal(box: Box) -> None:
    box.write("/etc/corral/corral.toml", "[agents.broken]\n", 0o600)
    box.run("systemctl", "start", "corrald", status=1)
    told = entries(box, "--unit=corrald", "--identifier=corrald", "--priority=err")
    assert [entry["MESSAGE"] for entry in told if "agents.broken" in entry["MESSAGE"]]


# -- what agents can do in it


def test_agents_can_do_in_the_unit_what_agents_do_and_no_more(box: Box) -> None:
    probe = f'[agents.{{}}]\ncommand = ["/usr/bin/env", "python3", "{AGENTS}/unit_probe.py"]\nprotocol = "none"\nprocess.user = "{{}}"\n'
    start(box, probe.format("agent", "corral-agent") + probe.format("ruler", "root"))
    needs = {"jit", "sandbox", "landlock", "terminal", "shared memory", "interfaces", "tmp"}
    agent, ruler = probed(box, "agent"), probed(box, "ruler")
    assert {name for name in agent if agent[name]} == needs | {"home"}
    # An agent that is run as root may do to the daemon what it likes; not to the rest of the machine. (Its sandbox
    # would need CAP_SETFCAP: without that, nobody maps the root of a namespace to the real one.)
    assert needs - {"sandbox"} <= {name for name in ruler if ruler[name]}
    assert not {
        name
        for name in ("etc", "usr", "sysctl", "debug", "shared folder", "raw socket", "kernel crypto", "other cgroup")
        if ruler[name]
    }
    assert ruler["own cgroup"]


def probed(box: Box, name: str) -> dict[str, bool]:
    """What the probe has printed."""
    printed = next(text for text in followed(box, name) if text.startswith("{"))
    found: dict[str, bool] = json.loads(printed)
    return found


def test_the_groups_of_agents_are_seen_by_the_tools_of_systemd(box: Box) -> None:
    start(box, '[agents.plain]\ncommand = ["sleep", "1000"]\nprotocol = "none"\n')
    tier = answer(box, "status")["daemon"]["containment"]
    if tier == "launcher":
        pytest.skip("control groups are not used yet")
    assert tier in ("cgroup", "cgroup-kill")  # which of them, the machine's controllers decide
    answer(box, "start", "plain")
    assert "plain" in box.run("systemd-cgls", "--no-pager", f"/{UNIT}").stdout


# -- booted


def test_it_is_up_after_a_boot_that_never_gets_a_network(machine: Box) -> None:
    box = machine
    start(box, '[agents.plain]\ncommand = ["sleep", "1000"]\nprotocol = "none"\n')
    box.run("corral", "add", "late", "--protocol", "none", "--cwd", "/", "--", "sleep", "1000")
    never = (
        "[Unit]\nBefore=network-online.target\nDefaultDependencies=no\n[Service]\nType=oneshot\n"
        "ExecStart=/bin/sleep infinity\nTimeoutStartSec=1s\n"
    )
    mine = "/etc/systemd/system.mine"
    box.write(f"{mine}/never-online.service", never)
    box.run("mkdir", "-p", f"{mine}/network-online.target.wants")
    box.run("ln", "-s", "../never-online.service", f"{mine}/network-online.target.wants/")
    box.run("systemctl", "enable", "corrald")
    assert {path.name for path in (box.files / "etc/systemd/system").glob("*.wants/corrald.*")} == {
        "corrald.service",
        "corrald.socket",
    }
    box.run("sh", "-c", f"cp -a /etc/systemd/system/*.wants {mine}/")
    box.lose_power()
    box.boot()
    try:
        assert shown(box, "ActiveState") == {"ActiveState": "active"}  # at the end of the boot
        states = {agent["name"]: agent["state"] for agent in answer(box, "status")["agents"]}
        assert set(states) == {"plain", "late"}  # what was acknowledged before the power was lost
        failed = box.run("systemctl", "list-units", "--failed", "--plain", "--no-legend").stdout
        units = {line.split()[0] for line in failed.splitlines()}  # this machine's own may be among them
        assert "never-online.service" in units
        assert not [unit for unit in units if "corral" in unit]
        order = _stamps(box, "never-online.service", "InactiveEnterTimestampMonotonic")
        assert order <= _stamps(box, "corrald.service", "ExecMainStartTimestampMonotonic")
    finally:
        box.run("rm", "-r", f"{mine}/network-online.target.wants", "/etc/systemd/system/network-online.target.wants")
        stop(box)


def _stamps(box: Box, unit: str, name: str) -> int:
    return int(box.run("systemctl", "show", unit, f"--property={name}", "--value").stdout)


def test_install_service_enables_and_starts_it_and_uninstall_removes_it(box: Box) -> None:
    config = "/etc/corral/corral.toml"
    box.write(config, BASE, 0o600)
    done = box.run(f"{PREFIX}/bin/corral", "install-service", "--now")
    assert f"kept {config}" in done.stdout
    assert shown(box, "ActiveState", "UnitFileState") == {**{"ActiveState": "active", "UnitFileState": "enabled"}}
    assert answer(box, "status")["daemon"]["socket"] == SOCKET
    assert box.run("test", "-s", "/usr/local/share/man/man5/corral.toml.5", status=None).returncode == 0
    try:
        box.run("corral", "uninstall-service")
        assert box.run("systemctl", "cat", "corrald", status=None).returncode != 0
        assert (box.files / config[1:]).read_text() == BASE
        again = box.run(f"{PREFIX}/bin/corral", "uninstall-service")
        assert "there is no service to remove" in again.stdout
    finally:
        box.run("make", "--silent", "-C", "/srv/checkout/systemd", "install", f"PREFIX={PREFIX}")


# -- one user's service


def test_the_service_of_one_user_runs_under_the_user_s_manager(box: Box) -> None:
    box.run("install", "-d", "-o", "member", "-g", "member", "-m", "700", "/run/user/member", "/home/member")
    environ = {"XDG_RUNTIME_DIR": "/run/user/member", "HOME": "/home/member", "USER": "member"}
    folder = "/home/member/.config/systemd/user"
    make = ("make", "--silent", "-C", "/srv/checkout/systemd", "install-user", "DESTDIR=/", "HOME=/home/member")
    box.run(*make, f"USER_UNITS={folder}", f"CORRALD={PREFIX}/bin/corrald", user="member", environ=environ)
    systemd = "/lib/systemd/systemd" if os.path.exists("/lib/systemd/systemd") else "/usr/lib/systemd/systemd"
    manager = ("--property=User=member", "--property=Delegate=yes", "--property=Type=notify")
    passed = [f"--setenv={name}={value}" for name, value in environ.items()]
    box.run("systemd-run", "--quiet", "--unit=manager", *manager, *passed, systemd, "--user")
    try:
        box.run("systemctl", "--user", "enable", "--now", "corrald", user="member", environ=environ)
        status = json.loads(box.run("corral", "--json", "status", user="member", environ=environ).stdout)
        assert status["daemon"]["socket"] == "/run/user/member/corral/corral.sock"
        box.run("systemctl", "--user", "reload", "corrald", user="member", environ=environ)
        box.run("systemctl", "--user", "stop", "corrald", user="member", environ=environ)
        assert box.run("corral", "status", user="member", status=None, environ=environ).returncode == 6
    finally:
        box.run("systemctl", "stop", "manager", status=None)


INSIDE = f"""
[agents.inside]
command = ["/bin/sh", "-c", "exec 2>&1; readlink /proc/self/ns/pid; ls /proc | grep -c ^[0-9]; ls /root {AGENTS} /var/lib/corral; echo done; exec sleep 1000"]
protocol = "none"
process.working_directory = "/var/empty"
process.isolation = "strict"
process.network = "none"
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_strict_agent_runs_under_the_unit_with_its_own_processes_and_files(box: Box) -> None:
    box.write("/var/empty/none", "")
    start(box, INSIDE)
    lines: list[str] = []
    for text in followed(box, "inside"):
        lines.append(text)
        if text == "done":
            break
    outside = box.run("readlink", "/proc/self/ns/pid").stdout.strip()
    assert lines[0].startswith("pid:[")
    assert lines[0] != outside
    assert int(lines[1]) <= 4  # the keeper of its namespace, the shell, ls and grep
    assert "No such file or directory" in "\n".join(lines[2:])
    (agent,) = answer(box, "status", "inside")["agents"]
    assert agent["workers"][0]["state"] in ("Starting", "Ready")
    script = "readlink /proc/self/ns/pid; grep -c CapBnd:.*0000000000000000 /proc/self/status"
    words = box.run("corral", "exec", "inside", "--", "sh", "-c", script).stdout.split()
    assert words == [lines[0], "1"]


PROXIED = """
[agents.proxied]
command = ["sleep", "1000000"]
protocol = "none"
process.working_directory = "/var/empty"
process.isolation = "strict"
process.network = "proxy"
process.allowed_hosts = ["example.org"]
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_strict_agent_behind_the_proxy_runs_under_the_unit_too(box: Box) -> None:
    box.write("/var/empty/none", "")
    start(box, PROXIED)
    box.run("corral", "start", "proxied")
    script = "readlink /proc/self/ns/net; tail -n +3 /proc/net/dev | wc -l"
    network, count = box.run("corral", "exec", "proxied", "--", "sh", "-c", script).stdout.split()
    assert network != box.run("readlink", "/proc/self/ns/net").stdout.strip()
    assert count == "1"


TENANT = f"""
[tenants.acme]
[agents."acme/own"]
command = ["/bin/sh", "-c", "exec 2>&1; id -u; pwd; echo x > mine; ls /var/lib/corral/corral.db {AGENTS}; cat /etc/corral/corral.toml; echo done; exec sleep 1000"]
protocol = "none"
"""


def test_a_tenants_agent_runs_under_the_unit_as_its_own_user_in_its_own_folder(box: Box) -> None:
    uids = BASE.replace("[daemon]", '[daemon]\ntenant_uids = "1900000000-1900000009"')
    box.write("/etc/corral/corral.toml", uids + TENANT, 0o600)
    box.run("systemctl", "start", "corrald")
    lines: list[str] = []
    for text in followed(box, "acme/own"):
        lines.append(text)
        if text == "done":
            break
    assert lines[:2] == ["1900000000", "/var/lib/corral/tenants/acme"]
    assert sum("ermission denied" in line for line in lines) == 2
    assert (box.files / "var/lib/corral/tenants/acme/mine").stat().st_uid == 1900000000


# -- on paper


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("units")
    text = (ROOT / "systemd" / "corrald.service").read_text()
    (folder / "corrald.service").write_text(text.replace("@PREFIX@", "/usr"))
    shutil.copy(ROOT / "systemd" / "corrald.socket", folder)
    return folder


def test_the_exposure_of_the_unit_is_below_four(units: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=39", str(units / "corrald.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze is older than --offline (systemd 250)")
    assert done.returncode == 0, done.stdout[-400:]
