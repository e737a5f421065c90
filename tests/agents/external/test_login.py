"""Logins to a remote server: the official SDK's server and its authorization server, a real daemon, and the command."""

import contextlib
import json
import os
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import zstandard

from corral.worker.contract.errors import CorralError
from daemon_process import BIN, BOUND_S, DaemonProcess

pytestmark = pytest.mark.long

PROGRAMS = Path(__file__).parents[2] / "support"


class Guarded:
    """The server with its authorization server."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._before = self._counts()

    def did(self) -> dict[str, int]:
        """What has happened since this was made."""
        before = self._before
        counts = {key: n - before.get(key, 0) for key, n in self._counts().items()}
        return {key: n for key, n in counts.items() if n}

    def _counts(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.base}/did", timeout=BOUND_S) as answer:
            return dict(json.load(answer))

    def end_tokens(self, *, wholly: bool = False) -> None:
        request = urllib.request.Request(f"{self.base}/end{'?all=1' if wholly else ''}", method="POST")
        with urllib.request.urlopen(request, timeout=BOUND_S):
            pass


@contextlib.contextmanager
def guarded(*flags: str) -> Generator[Guarded, None, None]:
    command = [sys.executable, "-P", "-m", "programs.mcp_oauth", *flags]
    environ = {**os.environ, "PYTHONPATH": str(PROGRAMS)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process:
        try:
            assert process.stdout is not None
            yield Guarded(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


@pytest.fixture(scope="module")
def common() -> Generator[str, None, None]:
    """The address of the server that tests without wishes of their own share."""
    with guarded() as server:
        yield server.base


@pytest.fixture
def server(common: str) -> Guarded:
    return Guarded(common)


CONFIG = """
[recovery]
restart_backoff_base = "10ms"
[mcp.servers.far]
url = "{base}/{path}"
instances = {instances}
{more}
"""


def config(server: Guarded, path: str = "mcp", instances: int = 1, more: str = "") -> str:
    return CONFIG.format(base=server.base, path=path, instances=instances, more=more)


def browse(url: str) -> str:
    """What a browser does that has agreed: the address to which it is sent back."""

    class Stop(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_args: Any, **_named: Any) -> None:  # Any: its own signature
            return None

    try:
        urllib.request.build_opener(Stop()).open(url, timeout=BOUND_S)
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.headers["Location"]
    raise AssertionError("it was not sent back")


def log_in(daemon: DaemonProcess, name: str = "far") -> Any:  # a result
    started = daemon.call("mcp.login", name=name)
    return daemon.call("mcp.finish_login", name=name, login=started["login"], redirect=browse(started["url"]))


def added(daemon: DaemonProcess, a: int, b: int) -> str:
    result = daemon.call("mcp.call", name="far__add", arguments={"a": a, "b": b})
    return str(result["content"][0]["text"])


def has_rested(worker: Any) -> bool:  # Any: a worker's status
    last = worker["last_exit"]
    return worker["state"] == "Terminated" and last is not None and last["result"] == "needs-login"


def refused(call: Callable[[], object]) -> CorralError:
    with pytest.raises(CorralError) as caught:
        call()
    return caught.value


def test_a_server_without_a_token_says_how_to_log_in(server: Guarded, tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, config(server)) as daemon:
        assert refused(lambda: added(daemon, 1, 2)).data["result"] == "needs-login"
        worker = daemon.await_worker("far-0", lambda w: w["state"] == "Terminated")
        assert worker["last_exit"]["result"] == "needs-login"
        assert "corral mcp login far" in worker["last_exit"]["message"]
        assert daemon.call("mcp.logins")["logins"][0]["state"] == "none"


def test_after_a_login_the_server_is_ready_and_its_token_is_nowhere_in_clear(server: Guarded, tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, config(server)) as daemon:
        refused(lambda: added(daemon, 1, 2))
        found = log_in(daemon)
        assert (found["state"], found["scopes"], found["renews"]) == ("logged-in", ["read"], True)
        daemon.await_worker("far-0", lambda w: w["state"] == "Ready")
        assert added(daemon, 1, 2) == "3"
        shown = [str(daemon.call("daemon.status")), str(daemon.call("agent.show", name="far"))]
        shown += [str(daemon.call("mcp.logins")), str(daemon.call("daemon.export"))]
        shown += [str(daemon.call("audit.list")), str(daemon.call("event.list"))]
        shown += [daemon.log.read_text(), str(daemon.call("log.read", names=["far"]))]
        pid = daemon.worker("far-0")["pid"]
        shown.append(Path(f"/proc/{pid}/cmdline").read_text())
        files = [each for each in daemon.state_dir.rglob("*") if each.is_file()]
        kept = [each.read_bytes() for each in files]
        assert not any("at-" in each or "rt-" in each for each in shown)
        assert not any(b'"access_token"' in each or b"rt-" in each for each in kept)
        modes = {p.name: p.stat().st_mode & 0o777 for p in files if "tokens" in str(p)}
        assert set(modes.values()) == {0o600}


def test_a_token_is_renewed_before_its_end_and_once_for_all_processes(tmp_path: Path) -> None:
    with guarded("--life", "4") as server, DaemonProcess(tmp_path, config(server, instances=3)) as daemon:
        log_in(daemon)
        ends_at = time.monotonic() + BOUND_S
        while server.did().get("refreshed", 0) < 2:
            assert time.monotonic() < ends_at
            with ThreadPoolExecutor(3) as pool:
                sums = list(pool.map(partial(added, daemon, b=1), range(3)))
            assert sums == ["1", "2", "3"]
        did = server.did()
        assert "reused" not in did  # a rotated token was sent twice
        assert did["exchanged"] == 1


def test_a_token_that_the_server_has_ended_is_renewed_within_the_call(server: Guarded, tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, config(server)) as daemon:
        log_in(daemon)
        assert added(daemon, 1, 1) == "2"
        server.end_tokens()
        assert added(daemon, 1, 2) == "3"
        assert daemon.worker("far-0")["incarnation"] == 1


def test_a_login_that_the_server_has_ended_is_asked_for_again(server: Guarded, tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, config(server)) as daemon:
        log_in(daemon)
        assert added(daemon, 1, 1) == "2"
        server.end_tokens(wholly=True)
        assert refused(lambda: added(daemon, 1, 1)).data["reason"] == "needs-login"
        daemon.await_worker("far-0", has_rested)
        log_in(daemon)
        assert added(daemon, 1, 3) == "4"


def test_a_login_keeps_to_the_ports_of_its_server(server: Guarded, tmp_path: Path) -> None:
    only = "[mcp.servers.far.process]\nconnect_ports = []"
    with DaemonProcess(tmp_path, config(server, more=only)) as daemon:
        log_in(daemon)
        assert added(daemon, 1, 2) == "3"


def test_a_removed_server_leaves_no_token_and_a_backup_has_none(server: Guarded, tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, "") as daemon:
        spec = {"url": f"{server.base}/mcp"}
        refused(lambda: daemon.call("agent.add", name="far", kind="mcp", spec=spec))
        log_in(daemon)
        assert [each.name for each in (daemon.state_dir / "tokens.d").iterdir()] == ["far"]
        saved = tmp_path / "saved.tar.zst"
        command = [str(BIN / "corral"), "--socket", str(daemon.socket), "backup", str(saved)]
        subprocess.run(command, check=True, timeout=BOUND_S)
        plain = zstandard.ZstdDecompressor().stream_reader(saved.read_bytes())
        with tarfile.open(fileobj=plain, mode="r|") as archive:
            names = archive.getnames()
        assert "state/corral.db" in names
        assert not [each for each in names if "tokens" in each]
        daemon.call("agent.rm", names=["far"])
        assert not list((daemon.state_dir / "tokens.d").iterdir())


def test_a_logout_revokes_the_token_and_leaves_nothing(server: Guarded, tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, config(server)) as daemon:
        log_in(daemon)
        assert daemon.call("mcp.logout", name="far")["forgotten"]
        assert server.did()["revoked"] >= 1
        assert not list((daemon.state_dir / "tokens.d").iterdir())
        assert not daemon.call("mcp.logout", name="far")["forgotten"]


@pytest.mark.parametrize("more", ['type = "sse"', ""])
def test_a_server_over_http_with_sse_is_logged_in_to(more: str, tmp_path: Path) -> None:
    with guarded("--transport", "sse") as server, DaemonProcess(tmp_path, config(server, "sse", more=more)) as daemon:
        assert refused(lambda: added(daemon, 1, 2)).data["result"] == "needs-login"
        log_in(daemon)
        assert added(daemon, 1, 2) == "3"


MACHINE = """
[mcp.servers.far.oauth]
grant = "client_credentials"
client_id = "robot"
client_secret = "${secret:ROBOT}"
"""


def test_a_server_that_knows_corral_itself_needs_no_person(tmp_path: Path) -> None:
    with guarded("--machine", "--life", "4") as server, DaemonProcess(tmp_path, config(server, more=MACHINE)) as daemon:
        daemon.call("secret.set", name="ROBOT", secret="wrong")
        assert "invalid_client" in refused(lambda: added(daemon, 1, 2)).message
        daemon.call("secret.rotate", name="ROBOT", secret="s3cret")
        deadline = time.monotonic() + BOUND_S
        while daemon.call("mcp.logins")["logins"][0]["state"] == "none":
            assert time.monotonic() < deadline
            with contextlib.suppress(CorralError):
                assert added(daemon, 1, 2) == "3"
        asked = server.did()["asked"]
        while server.did()["asked"] == asked:
            assert time.monotonic() < deadline + BOUND_S
            assert added(daemon, 2, 2) == "4"
        assert refused(lambda: log_in(daemon)).data["reason"] == "needs-no-person"


DEVICE = """
[mcp.servers.far.oauth]
client_id = "robot"
client_secret = "${secret:ROBOT}"
"""


def test_a_person_at_another_device_types_a_code(tmp_path: Path) -> None:
    with guarded("--machine") as server, DaemonProcess(tmp_path, config(server, more=DEVICE)) as daemon:
        daemon.call("secret.set", name="ROBOT", secret="s3cret")
        command = [str(BIN / "corral"), "--socket", str(daemon.socket), "mcp", "login", "far"]
        done = subprocess.run([*command, "--device"], capture_output=True, text=True, timeout=BOUND_S)
        assert done.returncode == 0, done.stderr
        assert f"{server.base}/code" in done.stderr
        assert "WXYZ-1" in done.stderr
        assert server.did()["polled"] == 2
        assert added(daemon, 5, 6) == "11"


def test_an_answer_for_another_login_is_refused(server: Guarded, tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, config(server)) as daemon:
        mine, other = (daemon.call("mcp.login", name="far") for _ in range(2))

        def finish(redirect: str) -> object:
            return daemon.call("mcp.finish_login", name="far", login=mine["login"], redirect=redirect)

        assert refused(lambda: finish(browse(other["url"]))).data["reason"] == "state-mismatch"
        assert refused(lambda: finish("http://127.0.0.1/?code=x")).data["reason"] == "no-redirect"
        said_no = f"{mine['redirect_uri']}?error=access_denied&state={state_of(mine['url'])}"
        assert refused(lambda: finish(said_no)).data["reason"] == "access-denied"
        assert server.did().get("exchanged") is None
        assert finish(browse(mine["url"]))


def state_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["state"][0]


@pytest.mark.parametrize("way", ["browser", "paste"])
def test_the_command_logs_in(way: str, server: Guarded, tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, config(server)) as daemon:
        option = "--paste" if way == "paste" else "--no-browser"
        command = [str(BIN / "corral"), "--socket", str(daemon.socket), "mcp", "login", "far"]
        with subprocess.Popen(
            [*command, option], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            back = browse(process.stderr.readline().split()[1])
            if way == "browser":
                with urllib.request.urlopen(back, timeout=BOUND_S) as page:
                    assert page.status == 200
            said, _ = process.communicate(f"{back}\n", timeout=BOUND_S)
        assert process.returncode == 0
        assert said.startswith("logged in to far at ")
        assert added(daemon, 3, 4) == "7"


def test_a_login_outlives_the_daemon(server: Guarded, tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, config(server)) as daemon:
        log_in(daemon)
        assert daemon.stop() == 0
        daemon.start()
        assert added(daemon, 2, 2) == "4"
        assert server.did()["exchanged"] == 1
