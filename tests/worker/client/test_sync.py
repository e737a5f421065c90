"""The blocking client of the control socket, against a real socket: answers, streams, and a daemon that goes away."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from corral.worker import client, errors
from corral.worker.client.sync import Client, await_daemon, default_socket, shared_folder
from corral.worker.contract import errors as contract_errors
from corral.worker.contract.errors import (
    CLASSES,
    CorralError,
    InternalError,
    ResourceLimitExceeded,
    Timeout,
    Unreachable,
)
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES, Notification
from scripted_daemon import BOUND_S, SILENCE, Caller, ScriptedDaemon

pytestmark = pytest.mark.shell


def reason_of(path: Path | str) -> object:
    with pytest.raises(Unreachable) as caught:
        Client(str(path)).close()
    assert caught.value.exit_status == 6
    return caught.value.data["reason"]


# --- where the socket is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "uid", "path"),
    [
        ({}, 0, "/run/corral/corral.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/corral/corral.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/run/user/7/corral/corral.sock"),
        ({"XDG_RUNTIME_DIR": ""}, 7, "/tmp/corral-7/corral.sock"),
        ({"XDG_RUNTIME_DIR": "here"}, 7, "/tmp/corral-7/corral.sock"),
        ({}, 7, "/tmp/corral-7/corral.sock"),
        ({"CORRAL_SOCKET": "x.sock", "XDG_RUNTIME_DIR": "/run/user/7"}, 7, "x.sock"),
        ({"CORRAL_SOCKET": "/a/b"}, 0, "/a/b"),
        ({"CORRAL_SOCKET": ""}, 0, "/run/corral/corral.sock"),
    ],
)
def test_the_socket_is_looked_for_in_the_usual_places(environ: dict[str, str], uid: int, path: str) -> None:
    assert default_socket(environ, uid) == path


def test_without_its_variable_the_socket_of_a_login_is_found_all_the_same(tmp_path: Path) -> None:
    logins = str(tmp_path)
    there = tmp_path / "7" / "corral" / "corral.sock"
    there.parent.mkdir(parents=True)
    assert default_socket({}, 7, logins) == "/tmp/corral-7/corral.sock"
    with ScriptedDaemon(there, {}):
        assert default_socket({}, 7, logins) == str(there)
        assert default_socket({}, 8, logins) == "/tmp/corral-8/corral.sock"
        assert default_socket({"XDG_RUNTIME_DIR": "/x"}, 7, logins) == "/x/corral/corral.sock"


# --- not reaching it ------------------------------------------------------------------------------


def test_a_socket_that_does_not_exist_is_missing(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "none.sock") == "missing"
    assert reason_of(tmp_path / "no" / "folder.sock") == "missing"


def test_a_socket_whose_daemon_was_killed_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with ScriptedDaemon(path, {}):
        pass
    assert path.is_socket()
    assert reason_of(path) == "stale"


def test_a_path_that_no_socket_can_have_says_so(tmp_path: Path) -> None:
    assert reason_of(f"/tmp/{'x' * 200}") == "too-long"
    longest = tmp_path / ("x" * (107 - len(os.fsencode(tmp_path)) - 1))
    with ScriptedDaemon(longest, {"daemon.ping": {}}), Client(str(longest)) as client:
        assert client.call("daemon.ping") == {}
    assert reason_of(f"{longest}x") == "too-long"


def test_a_datagram_socket_is_no_daemon(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "s"))
        assert reason_of(tmp_path / "s") == "no-socket"


@pytest.mark.skipif(os.getuid() == 0, reason="root may connect to any socket")
def test_a_socket_of_somebody_else_is_forbidden(tmp_path: Path) -> None:
    with ScriptedDaemon(tmp_path / "s", {}):
        (tmp_path / "s").chmod(0)
        assert reason_of(tmp_path / "s") == "forbidden"


def test_a_shared_folder_that_others_can_write_to_is_not_trusted() -> None:
    folder = Path(shared_folder(os.getuid()))
    if folder.exists():
        pytest.skip(f"{folder} is in use on this machine")
    folder.mkdir()
    try:
        folder.chmod(0o777)
        assert reason_of(folder / "corral.sock") == "not-ours"
        folder.chmod(0o700)
        assert reason_of(folder / "corral.sock") == "missing"
    finally:
        folder.rmdir()


def test_a_daemon_that_comes_back_is_found(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with ScriptedDaemon(path, {}):
        pass
    found: list[object] = []

    def wait() -> None:
        with await_daemon(str(path), patience_s=BOUND_S) as client:
            found.append(client.call("daemon.ping", timeout_s=BOUND_S))

    waiting = threading.Thread(target=wait)
    waiting.start()
    with ScriptedDaemon(path, {"daemon.ping": {"back": True}}):
        waiting.join(BOUND_S)
    assert found == [{"back": True}]


def test_waiting_ends_when_patience_does_and_at_once_where_it_cannot_help(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        await_daemon(str(tmp_path / "none"), patience_s=0.1)
    with pytest.raises(Unreachable):
        await_daemon(f"/{'x' * 200}", patience_s=1e9)


# --- answers --------------------------------------------------------------------------------------


def test_a_result_is_what_the_daemon_said(tmp_path: Path) -> None:
    def echo(_: Caller, params: dict[str, object]) -> object:
        return params

    with ScriptedDaemon(tmp_path / "s", {"echo": echo}), Client(str(tmp_path / "s")) as client:
        for value in ({}, {"a": [1, 2.5, None, "ü\n"]}, {"long": "x" * 1_000_000}):
            assert client.call("echo", value) == value


@pytest.mark.parametrize("code", sorted(set(CLASSES) - {Unreachable.code}))
def test_an_error_arrives_as_its_class(tmp_path: Path, code: int) -> None:
    def fail(_: Caller, params: dict[str, object]) -> object:
        raise CLASSES[code]("cannot", worker="w-0", n=1)

    with ScriptedDaemon(tmp_path / "s", {"fail": fail}), Client(str(tmp_path / "s")) as client:
        with pytest.raises(CorralError) as caught:
            client.call("fail")
        assert type(caught.value) is CLASSES[code]
        assert caught.value.data == {"worker": "w-0", "n": 1}


def raw(*pieces: bytes, hang_up: bool = True) -> object:
    """A script that answers with these bytes, one send each."""

    def script(caller: Caller, params: dict[str, object]) -> object:
        for piece in pieces:
            caller.send_raw(piece)
        if hang_up:
            caller.hang_up()
        return SILENCE

    return script


ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{"x":[1,"\xc3\xbc"]}}'


def test_an_answer_may_arrive_in_pieces_of_one_byte(tmp_path: Path) -> None:
    script = raw(*(bytes([byte]) for byte in ANSWER + b"\n"), hang_up=False)
    with ScriptedDaemon(tmp_path / "s", {"m": script}), Client(str(tmp_path / "s")) as client:
        assert client.call("m") == {"x": [1, "ü"]}


def test_a_last_answer_without_its_newline_counts(tmp_path: Path) -> None:
    with ScriptedDaemon(tmp_path / "s", {"m": raw(ANSWER)}), Client(str(tmp_path / "s")) as client:
        assert client.call("m") == {"x": [1, "ü"]}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "closed"),
        (ANSWER[:20], "closed"),
        (b"HTTP/1.1 400 Bad Request\r\n", "foreign"),
        (b"\xff\xfe\n", "foreign"),
        (b"[]\n", "foreign"),
        (b'{"jsonrpc":"2.0","id":99,"result":1}\n', "closed"),
    ],
)
def test_what_is_no_answer_makes_the_daemon_unreachable(tmp_path: Path, sent: bytes, reason: str) -> None:
    with (
        ScriptedDaemon(tmp_path / "s", {"m": raw(sent)}),
        Client(str(tmp_path / "s")) as client,
        pytest.raises(Unreachable) as caught,
    ):
        client.call("m", timeout_s=BOUND_S)
    assert caught.value.data["reason"] == reason


def test_an_unknown_error_code_is_kept(tmp_path: Path) -> None:
    line = b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"odd"}}\n'
    with (
        ScriptedDaemon(tmp_path / "s", {"m": raw(line)}),
        Client(str(tmp_path / "s")) as client,
        pytest.raises(InternalError) as caught,
    ):
        client.call("m")
    assert caught.value.data == {"code": -1}


def test_an_answer_that_is_too_long_costs_itself_only(tmp_path: Path) -> None:
    long = b'{"jsonrpc":"2.0","id":1,"result":"' + b"x" * MAX_MESSAGE_BYTES + b'"}\n'
    scripts: dict[str, object] = {"long": raw(long, hang_up=False), "daemon.ping": {}}
    with ScriptedDaemon(tmp_path / "s", scripts), Client(str(tmp_path / "s")) as client:
        with pytest.raises(ResourceLimitExceeded):
            client.call("long", timeout_s=BOUND_S)
        assert client.call("daemon.ping", timeout_s=BOUND_S) == {}


def test_a_call_that_took_too_long_is_withdrawn_and_the_connection_lives_on(tmp_path: Path) -> None:
    def silent(caller: Caller, params: dict[str, object]) -> object:
        return SILENCE

    scripts: dict[str, object] = {"silent": silent, "daemon.ping": {}}
    with ScriptedDaemon(tmp_path / "s", scripts) as daemon, Client(str(tmp_path / "s")) as client:
        with pytest.raises(Timeout):
            client.call("silent", timeout_s=0.05)
        assert client.call("daemon.ping", timeout_s=BOUND_S) == {}
        daemon.wait_until(lambda: len(daemon.withdrawn) == 1)


def test_a_caller_who_is_interrupted_withdraws_his_call(tmp_path: Path) -> None:
    def nudge(caller: Caller, params: dict[str, object]) -> object:
        caller.notify("nudge", {})
        return SILENCE

    def interrupt(_: Notification) -> None:
        raise KeyboardInterrupt

    scripts: dict[str, object] = {"nudge": nudge, "daemon.ping": {}}
    with ScriptedDaemon(tmp_path / "s", scripts) as daemon, Client(str(tmp_path / "s")) as client:
        with pytest.raises(KeyboardInterrupt):
            client.call("nudge", on_notification=interrupt)
        assert client.call("daemon.ping", timeout_s=BOUND_S) == {}
        daemon.wait_until(lambda: len(daemon.withdrawn) == 1)


# --- notifications --------------------------------------------------------------------------------


def notifying(caller: Caller, params: dict[str, object]) -> object:
    for number in range(3):
        caller.notify("log", {"n": number})
    return {}


def test_notifications_before_the_answer_go_to_whoever_wants_them(tmp_path: Path) -> None:
    seen: list[object] = []
    with ScriptedDaemon(tmp_path / "s", {"m": notifying}), Client(str(tmp_path / "s")) as client:
        client.call("m", on_notification=lambda each: seen.append(each.params["n"]))
        assert seen == [0, 1, 2]


def test_a_stream_starts_with_what_came_before_the_answer(tmp_path: Path) -> None:
    def stream(caller: Caller, params: dict[str, object]) -> object:
        notifying(caller, params)
        caller.peer.respond(1, {})
        caller.notify("log", {"n": 3})
        caller.hang_up()
        return SILENCE

    seen: list[object] = []
    with ScriptedDaemon(tmp_path / "s", {"m": stream}), Client(str(tmp_path / "s")) as client:
        client.call("m")
        with pytest.raises(Unreachable) as caught:
            seen.extend(each.params["n"] for each in client.notifications())
    assert seen == [0, 1, 2, 3]
    assert caught.value.data["reason"] == "closed"


def test_a_wait_for_a_notification_has_a_limit_after_which_the_connection_is_usable(tmp_path: Path) -> None:
    with ScriptedDaemon(tmp_path / "s", {"m": notifying}), Client(str(tmp_path / "s")) as client:
        client.call("m", on_notification=lambda _: None)
        with pytest.raises(Timeout):
            next(client.notifications(0.01))
        client.call("m")
        assert next(client.notifications(BOUND_S)).params["n"] == 0


def test_a_request_of_the_daemon_is_refused_and_disturbs_nothing(tmp_path: Path) -> None:
    scripts = {"m": raw(b'{"jsonrpc":"2.0","id":"d","method":"x"}\n' + ANSWER + b"\n", hang_up=False)}
    with ScriptedDaemon(tmp_path / "s", scripts), Client(str(tmp_path / "s")) as client:
        assert client.call("m", timeout_s=BOUND_S) == {"x": [1, "ü"]}


def test_the_client_does_not_import_what_starts_slowly() -> None:
    code = "import sys, corral.worker.client.sync; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert {"asyncio", "sqlite3", "click", "psutil", "uvloop"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "slow"),
    [
        ("import corral", {"asyncio", "msgspec", "typing"}),
        ("from corral.worker import Agent", {"asyncio", "json", "msgspec"}),
        ("from corral.worker.client import Client, await_daemon", {"asyncio", "uvloop"}),
        ("from corral.worker.client import SOCKET_PATH_BYTES_MAX", {"asyncio", "uvloop"}),
        ("from corral.worker.errors import CorralError, Unreachable", {"asyncio", "msgspec"}),
    ],
)
def test_a_documented_import_works_and_loads_little(statement: str, slow: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; {statement}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert slow.isdisjoint(done.stdout.split())


def test_the_names_of_the_package_are_those_of_its_modules() -> None:
    assert (client.Client, client.await_daemon) == (Client, await_daemon)
    assert errors.from_wire is contract_errors.from_wire
    with pytest.raises(AttributeError):
        _ = client.nothing  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]  there is none
