"""Health checks of a whole daemon: programs that turn bad, servers that fall silent, what follows, who is told."""

import json
import os
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from corral.worker.client.sync import Client
from corral.worker.contract.errors import SpawnFailed, Timeout
from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess, until
from free_ports import free_port

SERVER = AGENTS / "health_server.py"
SILENT = AGENTS / "mcp_silent.py"
OFFICIAL = AGENTS / "mcp_official.py"
ECHO = AGENTS / "mcp_odd.py"
Event = dict[str, Any]  # read freely


class Watch:
    """All events of a daemon from its beginning, as far as they have been looked at."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.client: Client = daemon.client()
        self.client.call("event.follow", {"n": 10_000}, timeout_s=BOUND_S)
        self.seen: list[Event] = []
        self._batches = self.client.notifications()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def until(self, kind: str, *, more: int = 1, **fields: object) -> Event:
        """The first event from now on, or with `more` the so-manieth, that has these fields."""
        return self._find(len(self.seen), kind, fields, more)

    def ever(self, kind: str, **fields: object) -> Event:
        """The first such event of all, passed or to come."""
        return self._find(0, kind, fields, 1)

    def count(self, kind: str, **fields: object) -> int:
        return sum(e["type"] == kind and fields.items() <= e.items() for e in self.seen)

    def _find(self, at: int, kind: str, fields: Mapping[str, object], more: int) -> Event:
        while True:
            while at < len(self.seen):
                event = self.seen[at]
                at += 1
                if event["type"] == kind and fields.items() <= event.items():
                    more -= 1
                    if not more:
                        return event
            batch: Any = next(self._batches).params["events"]  # a list of events
            self.seen += batch


def program(folder: Path, port: int, more: str) -> str:
    command = json.dumps([sys.executable, "-I", str(SERVER), str(folder), str(port)])
    return f'[agents.web]\ncommand = {command}\nprotocol = "none"\n{more}\n'


def shell(name: str, script: str, more: str) -> str:
    return f'[agents.{name}]\ncommand = {json.dumps(["sh", "-c", script])}\nprotocol = "none"\n{more}\n'


def entry(daemon: DaemonProcess, name: str) -> Any:  # the status of an agent or server
    status = daemon.call("daemon.status", names=[name])
    return [*status["agents"], *status["mcp_servers"]][0]


def health(daemon: DaemonProcess, worker: str) -> Any:  # the record of its only check
    (record,) = daemon.worker(worker)["health"]
    return record


def silent_for(time_s: float) -> None:
    """A time passes in which nothing may happen: nobody is there who could say anything."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(time_s)
        with pytest.raises(TimeoutError):
            ours.recv(1)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


# -- what is asked


@pytest.mark.parametrize(
    ("check", "bad"),
    [
        ('http = "http://127.0.0.1:PORT/health"', "bad"),
        ('http = "http://127.0.0.1:PORT/health", timeout = "200ms"', "hang"),
        ('tcp = "127.0.0.1:PORT"', "closed"),
    ],
)
def test_a_program_that_turns_bad_degrades_its_agent_until_it_is_well(tmp_path: Path, check: str, bad: str) -> None:
    port = free_port()
    check = check.replace("PORT", str(port))
    more = f'health = {{ {check}, interval = "50ms" }}\nready = {{ log = "listening on" }}'
    with DaemonProcess(tmp_path, program(tmp_path, port, more)) as daemon, Watch(daemon) as watch:
        watch.ever("worker.state", worker="web-0", to="Ready")
        (tmp_path / "mode").write_text(bad)
        failed = watch.ever("health.failed", failures=1)
        assert (failed["worker"], failed["check"]) == ("web-0", check.split(" ")[0])
        degraded = watch.ever("health.degraded")
        assert degraded["failures"] == 3
        assert degraded["message"]
        web = entry(daemon, "web")
        assert (web["degraded"], web["state"]) == (True, "Ready")
        record = web["workers"][0]["health"][0]
        assert (record["healthy"], record["degraded"]) == (False, True)
        assert record["message"]
        assert "degraded" in daemon.corral("status").stdout
        (tmp_path / "mode").write_text("well")
        watch.until("health.recovered", check=record["name"])
        assert not entry(daemon, "web")["degraded"]
        assert health(daemon, "web-0")["healthy"] is True
        assert daemon.worker("web-0")["incarnation"] == 1, "it goes on while it is degraded"
        assert (watch.count("health.degraded"), watch.count("health.recovered")) == (1, 1)


def test_a_command_decides_by_its_exit_status_and_knows_whom_it_asks(tmp_path: Path) -> None:
    script = f"echo $CORRAL_CHECK_PID $CORRAL_CHECK_WORKER > {tmp_path}/asked; if test -e {tmp_path}/ill; then echo too ill; exit 3; fi"
    check = f'health = {{ name = "script", exec = {json.dumps(["sh", "-c", script])}, interval = "50ms" }}'
    config = shell("web", "sleep 1000", check)
    with DaemonProcess(tmp_path, config) as daemon, Watch(daemon) as watch:
        pid = daemon.await_worker("web-0", lambda worker: worker["state"] == "Ready")["pid"]
        (tmp_path / "ill").touch()
        degraded = watch.ever("health.degraded", check="script")
        assert "too ill" in degraded["message"], "a person is told its last words"
        assert (tmp_path / "asked").read_text().split() == [str(pid), "web-0"]


def test_a_check_that_hangs_costs_others_nothing(tmp_path: Path) -> None:
    """More hanging questions than there are slots, and meanwhile calls and status are answered."""
    port = free_port()
    (tmp_path / "mode").write_text("hang")
    urls = [f'{{ name = "c{n}", http = "http://127.0.0.1:{port}/{n}", interval = "10ms", timeout = "1h" }}' for n in range(20)]  # fmt: skip
    checks = f"health = [{', '.join(urls)}]\nready = {{ log = 'listening' }}"
    config = program(tmp_path, port, checks).replace("[agents.web]", "[agents.web]\ninstances = 1")
    other = config.replace("agents.web", "agents.web2").replace(str(port), str(free_port()))
    server = f"[mcp.servers.odd]\ncommand = {json.dumps([sys.executable, '-I', str(ECHO)])}\n"
    with DaemonProcess(tmp_path, config + other + server) as daemon, Watch(daemon) as watch:
        watch.ever("worker.state", worker="web-0", to="Ready")
        watch.ever("worker.state", worker="web2-0", to="Ready")
        for n in range(200):
            said = daemon.call("mcp.call", name="odd__echo", arguments={"text": str(n)})
            assert said["content"][0]["text"] == str(n)
        daemon.call("daemon.status")
        assert lines(tmp_path / "asked") > 0, "questions hang meanwhile"
        assert watch.count("health.failed") == 0


# -- what is done


def test_a_recovery_is_run_once_for_each_failure_and_then_it_is_asked_again(tmp_path: Path) -> None:
    kick = ["sh", "-c", f"echo $CORRAL_CHECK_NAME >> {tmp_path}/kicks"]
    check = f'health = {{ exec = ["test", "!", "-e", "{tmp_path}/ill"], interval = "50ms", threshold = 2, recovery = "kick" }}'
    config = shell("web", "sleep 1000", check)
    config += f"[agents.web.recovery.actions]\nkick = {json.dumps(kick)}\n"
    with DaemonProcess(tmp_path, config) as daemon, Watch(daemon) as watch:
        watch.ever("worker.state", worker="web-0", to="Ready")
        (tmp_path / "ill").touch()
        watch.ever("health.recovery", recovery="kick")
        watch.until("health.recovery", more=4, recovery="kick", result="done", code=0)
        (tmp_path / "ill").unlink()
        watch.until("health.recovered")
        kicks = (tmp_path / "kicks").read_text().split()
        assert set(kicks) == {"exec"}
        story = [e["type"] for e in watch.seen if e["type"] in ("health.failed", "health.recovery")]
        assert story == ["health.failed", "health.recovery"] * len(kicks)
        assert daemon.worker("web-0")["incarnation"] == 1


def test_a_recovery_that_mends_is_run_once(tmp_path: Path) -> None:
    ill = tmp_path / "ill"
    mend = json.dumps(["sh", "-c", f"echo x >> {tmp_path}/kicks; rm {ill}"])
    check = f'health = {{ exec = ["test", "!", "-e", "{ill}"], interval = "50ms", recovery = "mend" }}'
    config = f"[recovery.actions]\nmend = {mend}\n" + shell("web", "sleep 1000", check)
    ill.touch()
    with DaemonProcess(tmp_path, config) as daemon, Watch(daemon) as watch:
        watch.ever("health.passed", check="exec")
        assert lines(tmp_path / "kicks") == 1
        assert not entry(daemon, "web")["degraded"]


def test_a_signal_reaches_the_program(tmp_path: Path) -> None:
    port = free_port()
    check = f'health = {{ http = "http://127.0.0.1:{port}/", interval = "50ms", recovery = "signal:SIGHUP" }}\nready = {{ tcp = "127.0.0.1:{port}" }}'
    with DaemonProcess(tmp_path, program(tmp_path, port, check)) as daemon, Watch(daemon) as watch:
        watch.ever("worker.state", worker="web-0", to="Ready")
        (tmp_path / "mode").write_text("bad")
        for _ in range(3):
            watch.until("health.recovery", recovery="signal:SIGHUP")
        assert lines(tmp_path / "hups") >= 2
        assert daemon.worker("web-0")["incarnation"] == 1


def test_a_restart_as_recovery_is_a_new_incarnation_and_counts_as_no_failure(tmp_path: Path) -> None:
    mark = tmp_path / "ill"
    check = f'health = {{ exec = ["test", "!", "-e", "{mark}"], interval = "50ms", recovery = "restart" }}'
    config = shell("web", f"rm -f {mark}; exec sleep 1000", check)
    with DaemonProcess(tmp_path, config) as daemon, Watch(daemon) as watch:
        watch.ever("worker.state", worker="web-0", to="Ready")
        mark.touch()
        watch.ever("health.passed")
        worker = daemon.worker("web-0")
        assert (worker["incarnation"], worker["last_exit"]["result"]) == (2, "stopped")
        assert (worker["health"][0]["healthy"], worker["health"][0]["failures"]) == (True, 0)


def test_without_graceful_degradation_the_worker_is_replaced_as_hung(tmp_path: Path) -> None:
    mark = tmp_path / "ill"
    check = f'health = {{ exec = ["test", "!", "-e", "{mark}"], interval = "50ms" }}'
    config = "[recovery]\nenable_graceful_degradation = false\nfailure_threshold = 2\n"
    config += shell("web", f"rm -f {mark}; exec sleep 1000", check)
    with DaemonProcess(tmp_path, config) as daemon, Watch(daemon) as watch:
        watch.ever("worker.state", worker="web-0", to="Ready")
        mark.touch()
        watch.until("worker.state", worker="web-0", to="Ready")
        worker = daemon.worker("web-0")
        assert (worker["incarnation"], worker["last_exit"]["result"]) == (2, "hung")
        assert watch.count("health.degraded") == 0


def test_a_paused_program_is_not_asked(tmp_path: Path) -> None:
    port = free_port()
    check = f'health = {{ http = "http://127.0.0.1:{port}/", interval = "30ms", timeout = "100ms" }}\nready = {{ log = "listening" }}'
    with DaemonProcess(tmp_path, program(tmp_path, port, check)) as daemon, Watch(daemon) as watch:
        watch.ever("worker.state", worker="web-0", to="Ready")
        daemon.call("agent.pause", names=["web"])
        with socket.create_connection(("127.0.0.1", port)) as connection:  # the kernel accepts
            connection.settimeout(0.5)
            with pytest.raises(TimeoutError):
                connection.recv(1)  # so long nobody answers
        daemon.call("agent.resume", names=["web"])
        (tmp_path / "mode").write_text("bad")
        assert watch.ever("health.failed")["failures"] == 1
        assert watch.ever("health.failed")["seq"] > watch.ever("agent.resumed")["seq"]


# -- when it is ready


def test_a_line_of_the_log_makes_a_program_ready(tmp_path: Path) -> None:
    script = f"printf 'now lis'; while test ! -e {tmp_path}/go; do sleep 0.02; done; echo 'tening on 80' >&2; echo tening on 80; sleep 1000"
    config = shell("web", script, 'ready = { log = "^now listening on \\\\d+$" }')
    with DaemonProcess(tmp_path, config) as daemon:
        until(lambda: daemon.worker("web-0")["pid"] is not None)
        assert daemon.worker("web-0")["state"] == "Starting"
        (tmp_path / "go").touch()
        daemon.await_worker("web-0", lambda w: w["state"] == "Ready")
        text = [r["text"] for r in daemon.call("log.read", names=["web"])["records"]]
        assert "now listening on 80" in text, "what is looked at is logged as well"


@pytest.mark.parametrize(
    "ready",
    [
        'http = "http://127.0.0.1:PORT/"',
        'tcp = "127.0.0.1:PORT", interval = "20ms"',
        'exec = ["test", "!", "-e", "FOLDER/late"]',
    ],
)
def test_a_program_is_ready_when_a_question_is_answered_well(tmp_path: Path, ready: str) -> None:
    port = free_port()
    (tmp_path / "late").touch()
    ready = ready.replace("PORT", str(port)).replace("FOLDER", str(tmp_path))
    config = program(tmp_path, port, f"ready = {{ {ready} }}\nautostart = false")
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["web"], wait=False)
        until(lambda: daemon.worker("web-0")["pid"] is not None)
        assert daemon.worker("web-0")["state"] == "Starting"
        (tmp_path / "late").unlink()
        daemon.await_worker("web-0", lambda w: w["state"] == "Ready")


@pytest.mark.parametrize("ready", ['log = "never"', 'tcp = "127.0.0.1:1"', 'exec = ["false"]'])
def test_a_program_that_is_never_ready_is_a_start_timeout(tmp_path: Path, ready: str) -> None:
    more = f'ready = {{ {ready} }}\nautostart = false\nprocess.spawn_timeout = "1500ms"\nrecovery.restart = "never"'
    config = shell("web", "echo almost; exec sleep 1000", more)
    with DaemonProcess(tmp_path, config) as daemon:
        with pytest.raises(Timeout):
            daemon.call("agent.start", names=["web"])
        worker = daemon.await_worker("web-0", lambda w: w["pid"] is None)
        assert worker["last_exit"]["result"] == "start-timeout"


def test_a_program_that_dies_before_it_is_ready_has_exited(tmp_path: Path) -> None:
    ask = json.dumps(["sh", "-c", f"echo x >> {tmp_path}/asked; exit 1"])
    more = f'ready = {{ exec = {ask}, interval = "10ms" }}\nautostart = false\nrecovery.restart = "never"'
    script = f"while test ! -e {tmp_path}/asked; do sleep 0.02; done; exit 4"
    with DaemonProcess(tmp_path, shell("web", script, more)) as daemon:
        with pytest.raises(SpawnFailed) as failed:
            daemon.call("agent.start", names=["web"])
        assert (failed.value.data["result"], failed.value.data["code"]) == ("exited", 4)
        silent_for(0.5)  # the last question may be under way
        asked = lines(tmp_path / "asked")
        silent_for(0.5)
        assert lines(tmp_path / "asked") == asked, "the dead are not asked"


# -- MCP servers

IMPATIENT = '[monitoring]\nhealth_check_interval = "50ms"\nheartbeat_interval = "100ms"\nheartbeat_timeout = "1s"\n'


def silent(folder: Path, *flags: str, more: str = "") -> str:
    command = json.dumps([sys.executable, "-I", str(SILENT), str(folder), *flags])
    return f"{IMPATIENT}[mcp.servers.s]\ncommand = {command}\n{more}\n"


def test_a_server_that_falls_silent_when_idle_is_aborted_and_replaced(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, silent(tmp_path)) as daemon, Watch(daemon) as watch:
        daemon.call("mcp.call", name="s__echo")
        watch.ever("worker.state", worker="s-0", to="Idle")
        (tmp_path / "mute").touch()
        watch.ever("worker.state", worker="s-0", to="Terminated")
        (tmp_path / "mute").unlink()
        assert daemon.call("mcp.call", name="s__echo")["isError"] is False
        worker = daemon.worker("s-0")
        assert (worker["incarnation"], worker["last_exit"]["result"]) == (2, "hung")
        assert lines(tmp_path / "aborts") == 1
        assert watch.count("health.failed", check="mcp") == 1


def test_a_server_that_is_busy_for_long_is_not_hung(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, silent(tmp_path)) as daemon:
        said = daemon.call("mcp.call", name="s__slow", arguments={"seconds": 3})
        assert said["isError"] is False
        worker = daemon.worker("s-0")
        assert (worker["incarnation"], worker["last_exit"]) == (1, None)
        assert lines(tmp_path / "disturbed") == 0, "it is not asked while it works"


@pytest.mark.long
def test_a_call_in_flight_excuses_a_question_that_was_not_answered_before_it(tmp_path: Path) -> None:
    config = silent(tmp_path, more='monitoring.heartbeat_timeout = "4s"')
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["s"])
        until(lambda: lines(tmp_path / "pings") >= 2)
        (tmp_path / "mute").touch()
        silent_for(0.5)  # it has been asked ten times an interval ago
        late = threading.Timer(6.0, (tmp_path / "mute").unlink)
        late.start()
        assert daemon.call("mcp.call", name="s__echo")["isError"] is False
        late.join(BOUND_S)
        worker = daemon.worker("s-0")
        assert (worker["incarnation"], worker["last_exit"]) == (1, None)


def test_a_server_that_died_inside_is_found_after_the_timeout_of_its_call(tmp_path: Path) -> None:
    config = silent(tmp_path, more='mcp.request_timeout = "500ms"')
    with DaemonProcess(tmp_path, config) as daemon, Watch(daemon) as watch:
        with pytest.raises(Timeout):
            daemon.call("mcp.call", name="s__die")
        watch.ever("worker.state", worker="s-0", to="Terminated")
        assert daemon.call("mcp.call", name="s__echo")["isError"] is False
        assert daemon.worker("s-0")["last_exit"]["result"] == "hung"


def test_a_server_that_died_inside_is_found_while_it_is_called_again_and_again(tmp_path: Path) -> None:
    config = silent(tmp_path, more='mcp.request_timeout = "400ms"')
    with DaemonProcess(tmp_path, config) as daemon, Watch(daemon) as watch:
        stop = threading.Event()

        def call() -> None:
            while not stop.is_set():
                try:
                    daemon.call("mcp.call", name="s__echo" if pressed.is_set() else "s__die")
                except Exception:  # every one of them may fail
                    pressed.set()

        pressed = threading.Event()
        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        try:
            watch.ever("worker.state", worker="s-0", to="Terminated")
        finally:
            stop.set()
            for caller in callers:
                caller.join(BOUND_S)
        assert daemon.worker("s-0")["last_exit"]["result"] == "hung"


def test_a_server_that_knows_no_ping_lives(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, silent(tmp_path, "--refuse-ping")) as daemon:
        daemon.call("agent.start", names=["s"])
        while lines(tmp_path / "pings") < 30:  # longer than its silence would be borne
            assert health(daemon, "s-0")["failures"] == 0
        worker = daemon.worker("s-0")
        assert (worker["incarnation"], worker["health"][0]["healthy"]) == (1, True)


def test_questions_keep_no_server_awake_and_wake_none(tmp_path: Path) -> None:
    config = silent(tmp_path, more='idle_timeout = "1s"')
    with DaemonProcess(tmp_path, config) as daemon, Watch(daemon) as watch:
        daemon.call("mcp.call", name="s__echo")
        watch.ever("worker.state", worker="s-0", to="Terminated")
        assert lines(tmp_path / "pings") > 0
        worker = daemon.worker("s-0")
        assert (worker["incarnation"], worker["last_exit"]["result"]) == (1, "stopped")
        before = lines(tmp_path / "pings")
        daemon.call("agent.start", names=["s"])
        assert lines(tmp_path / "pings") <= before + 1
        assert entry(daemon, "s")["degraded"] is False


@pytest.mark.long
@pytest.mark.parametrize("version", ["auto", "2026-07-28"])
def test_a_server_of_the_official_sdk_is_healthy_in_both_eras(tmp_path: Path, version: str) -> None:
    pytest.importorskip("mcp")
    command = json.dumps([sys.executable, str(OFFICIAL)])
    config = f'{IMPATIENT}[mcp.servers.s]\ncommand = {command}\nmcp.protocol_version = "{version}"\n'
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.call("agent.start", names=["s"])
        stamps: set[str] = set()
        while len(stamps) < 20:
            record = health(daemon, "s-0")
            assert record["failures"] == 0
            if record["healthy"]:
                stamps.add(record["at"])
        assert daemon.worker("s-0")["incarnation"] == 1
        said = daemon.call("mcp.call", name="s__add", arguments={"a": 1, "b": 2})
        assert said["isError"] is False


def test_a_stall_of_the_daemon_counts_against_no_server(tmp_path: Path) -> None:
    """Both stand still for longer than a silence is borne; the server is the last to go on."""
    with DaemonProcess(tmp_path, silent(tmp_path)) as daemon:
        daemon.call("agent.start", names=["s"])
        pid = daemon.worker("s-0")["pid"]
        until(lambda: lines(tmp_path / "pings") >= 2)
        os.kill(daemon.pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGSTOP)
        silent_for(4.0)
        os.kill(daemon.pid, signal.SIGCONT)
        daemon.call("daemon.status")
        os.kill(pid, signal.SIGCONT)
        seen = lines(tmp_path / "pings")
        while lines(tmp_path / "pings") < seen + 5:
            assert daemon.worker("s-0")["incarnation"] == 1
        assert daemon.worker("s-0")["last_exit"] is None


# -- who is told


def test_an_agent_that_gave_up_is_degraded_until_it_is_up(tmp_path: Path) -> None:
    alerts = tmp_path / "alerts"
    hook = json.dumps(["sh", "-c", f"cat >> {alerts}; echo $CORRAL_ALERT_TYPE >> {alerts}.types"])
    config = f"[monitoring]\nalert = {hook}\n" + shell(
        "web", f"test -e {tmp_path}/mended || exit 1; exec sleep 1000", "recovery.max_restart_attempts = 0"
    )  # fmt: skip
    with DaemonProcess(tmp_path, config) as daemon, Watch(daemon) as watch:
        told = watch.ever("health.degraded", worker="web-0", check=None)
        assert told["message"]
        web = entry(daemon, "web")
        assert (web["degraded"], web["state"]) == (True, "Terminated")
        assert web["workers"][0]["last_exit"]["result"] == "restart-limit"
        (tmp_path / "mended").touch()
        daemon.call("agent.reset", names=["web"])
        watch.until("health.recovered", worker="web-0", check=None)
        assert not entry(daemon, "web")["degraded"]
        daemon.call("agent.stop", names=["web"])
        until(lambda: lines(Path(f"{alerts}.types")) == 2)
        records = [json.loads(line) for line in alerts.read_text().splitlines()]
        assert sorted(r["type"] for r in records) == ["health.degraded", "health.recovered"]
        assert all((r["agent"], r["worker"]) == ("web", "web-0") for r in records)


class Hook(BaseHTTPRequestHandler):
    """Keeps what is posted, and refuses the first."""

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Posted)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.bodies.append(json.loads(body))
        self.send_response(500 if len(server.bodies) == 1 else 200)
        self.end_headers()
        server.changed.release()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - so it is named there
        pass


class Posted(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.bodies: list[Event] = []
        self.changed = threading.Semaphore(0)


@pytest.fixture
def hook() -> Iterator[Posted]:
    with Posted() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join(BOUND_S)


def test_an_alert_command_starts_at_the_folder_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "tell").write_text("#!/bin/sh\nexec cat > told\n")
    (tmp_path / "tell").chmod(0o755)
    config = '[monitoring]\nalert = ["./tell"]\n' + shell(
        "ill", "exit 1", "autostart = false\nrecovery.max_restart_attempts = 0"
    )
    with DaemonProcess(tmp_path, config) as daemon:
        with pytest.raises(SpawnFailed):
            daemon.call("agent.start", names=["ill"])
        until(lambda: daemon.call("daemon.status")["daemon"]["alerts"]["sent"] == 1)
        told = json.loads((daemon.config.parent / "told").read_text())
        assert (told["type"], told["agent"]) == ("health.degraded", "ill")


def test_an_alert_is_posted_once_and_one_that_is_refused_is_counted(tmp_path: Path, hook: Posted) -> None:
    url = f"http://127.0.0.1:{hook.server_address[1]}/alert"
    check = f'health = {{ exec = ["test", "!", "-e", "{tmp_path}/ill"], interval = "50ms" }}\nmonitoring.alert_url = "{url}"'
    config = shell("web", "exec sleep 1000", check)
    with DaemonProcess(tmp_path, config) as daemon, Watch(daemon) as watch:
        (tmp_path / "ill").touch()
        degraded = watch.ever("health.degraded")
        failed = watch.until("daemon.alert_failed")
        assert (failed["about"], failed["key"]) == (degraded["seq"], "alert_url")
        (tmp_path / "ill").unlink()
        recovered = watch.until("health.recovered")
        for _ in range(2):
            assert hook.changed.acquire(timeout=BOUND_S)
        assert [body["seq"] for body in hook.bodies] == [degraded["seq"], recovered["seq"]]
        assert hook.bodies[0]["message"] == degraded["message"]
        counts = daemon.call("daemon.status")["daemon"]["alerts"]
        assert (counts["failed"], counts["suppressed"]) == (1, 0)


def test_a_reload_changes_checks_without_a_restart(tmp_path: Path) -> None:
    config = shell("web", "exec sleep 1000", 'health = { exec = ["false"], interval = "50ms" }')
    with DaemonProcess(tmp_path, config) as daemon, Watch(daemon) as watch:
        watch.ever("health.degraded")
        daemon.config.write_text(shell("web", "exec sleep 1000", 'health = { exec = ["true"], interval = "50ms" }'))  # fmt: skip
        daemon.call("daemon.reload")
        watch.until("health.recovered", check="exec")
        until(lambda: health(daemon, "web-0")["healthy"] is True)
        assert (daemon.worker("web-0")["incarnation"], entry(daemon, "web")["degraded"]) == (1, False)
        daemon.config.write_text(shell("web", "exec sleep 1000", ""))
        daemon.call("daemon.reload")
        assert daemon.worker("web-0")["health"] == []


def test_a_stop_ends_the_question_under_way(tmp_path: Path) -> None:
    ask = json.dumps(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000"])
    check = f'health = {{ exec = {ask}, interval = "20ms", timeout = "1h" }}'
    with DaemonProcess(tmp_path, shell("web", "exec sleep 1000", check)) as daemon:
        until(lambda: lines(tmp_path / "pid") == 1)
        pid = (tmp_path / "pid").read_text().strip()
        daemon.call("agent.stop", names=["web"])
        until(lambda: not Path(f"/proc/{pid}").exists())
        assert health(daemon, "web-0")["failures"] == 0, "a question that was taken back is no failure"


def test_what_is_asked_ends_with_the_daemon(tmp_path: Path) -> None:
    check = 'health = { exec = ["sleep", "1000"], interval = "20ms", timeout = "1h" }'
    config = shell("web", "exec sleep 1000", check)
    with DaemonProcess(tmp_path, config) as daemon:
        daemon.await_worker("web-0", lambda worker: worker["state"] == "Ready")
        asked: list[int] = []
        while not asked:
            asked = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _asks(p, tmp_path)]  # fmt: skip
        assert daemon.stop() == 0
    assert not any(_asks(Path(f"/proc/{pid}"), tmp_path) for pid in asked)


def _asks(process: Path, folder: Path) -> bool:
    try:
        environ = (process / "environ").read_bytes()
        return b"CORRAL_CHECK_NAME=exec" in environ and Path(os.readlink(process / "cwd")) == folder
    except OSError:
        return False


# -- what its commands may do


@pytest.mark.parametrize("control", ["none", "operate"])
def test_a_recovery_has_the_rights_of_its_agent(tmp_path: Path, control: str) -> None:
    corral = [str(BIN / "corral"), "--socket", str(tmp_path / "corral.sock"), "restart", "other"]
    check = f'control = "{control}"\nhealth = {{ exec = ["test", "!", "-e", "{tmp_path}/ill"], interval = "50ms", recovery = "help" }}'
    config = shell("web", "exec sleep 1000", check)
    config += f"[agents.web.recovery.actions]\nhelp = {json.dumps(corral)}\n"
    config += shell("other", "exec sleep 1000", "")
    (tmp_path / "ill").touch()
    with DaemonProcess(tmp_path, config) as daemon, Watch(daemon) as watch:
        watch.ever("worker.state", worker="other-0", to="Ready")
        result = "failed" if control == "none" else "done"
        assert watch.until("health.recovery")["result"] == result
        assert (daemon.worker("other-0")["incarnation"] > 1) is (control == "operate")


def test_an_emergency_stop_ends_what_is_being_mended(tmp_path: Path) -> None:
    mend = json.dumps(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000"])
    check = 'health = { exec = ["false"], interval = "50ms", recovery = "mend" }'
    config = f"[recovery.actions]\nmend = {mend}\n" + shell("web", "exec sleep 1000", check)
    with DaemonProcess(tmp_path, config) as daemon:
        until(lambda: lines(tmp_path / "pid") == 1)
        pid = (tmp_path / "pid").read_text().strip()
        daemon.call("daemon.emergency_stop")
        until(lambda: not Path(f"/proc/{pid}").exists())
        assert daemon.worker("web-0")["pid"] is None
