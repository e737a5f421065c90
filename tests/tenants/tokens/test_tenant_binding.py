"""How a caller comes to be bound to a tenant: by its token, by the tenant that it asks for, over the socket and over HTTP."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from corral.worker.client.sync import Client
from corral.worker.contract.errors import Conflict, NotFound, PermissionDenied
from daemon_process import BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

CONFIG = """
[daemon]
http = "127.0.0.1:0"
[tenants.acme]
[tenants.globex]
"""

AGENT = """
[agents."{name}"]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
labels = {{ team = "red" }}
"""

NAMES = ("own", "web", "acme/web", "acme/api", "globex/web", "globex/db")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    config = CONFIG + "".join(AGENT.format(name=name) for name in NAMES)
    with DaemonProcess(tmp_path_factory.mktemp("bound"), config) as process:
        yield process


def logged_in(daemon: DaemonProcess, **params: object) -> Client:
    client = daemon.client()
    try:
        client.call("auth.login", params, timeout_s=BOUND_S)
    except BaseException:
        client.close()
        raise
    return client


def names_of(client: Client, **params: object) -> list[str]:
    status: Any = client.call("daemon.status", params, timeout_s=BOUND_S)
    return [each["name"] for each in status["agents"]]


def over_http(daemon: DaemonProcess, path: str, token: str, **headers: str) -> tuple[int, Any]:  # an answer
    host, _, port = daemon.call("daemon.status", names=[])["daemon"]["http"].rpartition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=BOUND_S)) as connection:
        every = {"Authorization": f"Bearer {token}", **headers}
        connection.request("GET", f"/api/v1{path}", headers=every)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_a_caller_of_a_tenant_says_short_names_and_reads_full_ones(daemon: DaemonProcess) -> None:
    with logged_in(daemon, tenant="acme") as client:
        found: Any = client.call("auth.whoami", timeout_s=BOUND_S)
        assert (found["tenant"], found["agents"]) == ("acme", ["acme/*"])
        assert names_of(client) == ["acme/web", "acme/api"]
        for names in (["web"], ["acme/web"], ["w*"], ["web-0"], ["acme/w*"]):
            assert names_of(client, names=names) == ["acme/web"], names
        assert names_of(client, names=["*"]) == ["acme/web", "acme/api"]
        assert names_of(client, selector="team=red") == ["acme/web", "acme/api"]
        for names in (["own"], ["globex/web"], ["globex/*"], ["nowhere/web"], ["*/db"]):
            with pytest.raises(NotFound):
                names_of(client, names=names)
    with daemon.client() as client:
        assert names_of(client) == list(NAMES)


def test_a_token_of_a_tenant_binds_whoever_brings_it(daemon: DaemonProcess) -> None:
    made = daemon.call("token.add", name="ci", rights="operate", tenant="acme")
    assert (made["name"], made["tenant"], made["agents"]) == ("acme/ci", "acme", None)
    some = daemon.call("token.add", name="acme/some", rights="read", agents=["w*"])
    assert some["agents"] == ["acme/w*"]
    with logged_in(daemon, token=made["token"]) as client:
        assert names_of(client) == ["acme/web", "acme/api"]
        stopped: Any = client.call("agent.stop", {"names": ["web"]}, timeout_s=BOUND_S)
        assert stopped["names"] == ["acme/web"]
        with pytest.raises(Conflict):
            client.call("auth.login", {"tenant": "acme"}, timeout_s=BOUND_S)
    with logged_in(daemon, token=some["token"], tenant="acme") as client:
        assert names_of(client) == ["acme/web"]
    with pytest.raises(NotFound):
        logged_in(daemon, token=made["token"], tenant="globex")
    status, found = over_http(daemon, "/status", made["token"])
    assert (status, [each["name"] for each in found["agents"]]) == (200, ["acme/web", "acme/api"])
    for wanted in ("globex", "nowhere"):
        status, found = over_http(daemon, "/status", made["token"], **{"Corral-Tenant": wanted})
        assert (status, found["error"]["data"]) == (404, {"name": wanted, "known": []})


def test_an_owner_narrows_a_request_to_a_tenant(daemon: DaemonProcess) -> None:
    token = (daemon.state_dir / "http.token").read_text().strip()
    for path, headers in (
        ("/status?tenant=acme", {}),
        ("/status?names=w*&tenant=acme", {}),
        ("/status?%74enant=acme", {}),
        ("/status?tenant=acme&tenan%74=acme", {"Corral-Tenant": "acme"}),
        ("/status", {"Corral-Tenant": "acme"}),
    ):
        status, found = over_http(daemon, path, token, **headers)
        assert status == 200
        assert {each["name"].partition("/")[0] for each in found["agents"]} == {"acme"}
    status, found = over_http(daemon, "/agents/web?tenant=globex", token)
    assert (status, found["agent"]["name"]) == (200, "globex/web")
    status, found = over_http(daemon, "/agents/globex%2Fweb", token)
    assert (status, found["agent"]["name"]) == (200, "globex/web")
    assert over_http(daemon, "/status?tenant=nowhere", token)[0] == 404
    for path, headers in (
        ("/status", {"Corral-Tenant": ""}),
        ("/status?tenant=", {}),
        ("/status?tenant=acme&%74enant=globex", {}),
        ("/status?tenant=acme", {"Corral-Tenant": "globex"}),
    ):
        assert over_http(daemon, path, token, **headers)[0] == 400, "it is refused, and never served unbound"
    with pytest.raises(NotFound):
        logged_in(daemon, tenant="nowhere")


def test_the_command_takes_a_tenant(daemon: DaemonProcess) -> None:
    shown = daemon.corral("--tenant", "acme", "status", "--json")
    assert [each["name"] for each in json.loads(shown.stdout)["agents"]] == ["acme/web", "acme/api"]
    made = daemon.corral("--tenant", "acme", "token", "add", "shell", "--rights", "read")
    text = made.stdout.strip()
    assert daemon.corral("--token", text, "whoami").stdout.startswith("acme/shell: read")
    assert daemon.corral("--token", text, "--tenant", "globex", "status").returncode == 3
    assert daemon.corral("status", "--tenant", "acme", "globex/web").returncode == 3


def test_tokens_of_a_tenant_are_known_to_it_alone(daemon: DaemonProcess) -> None:
    for tenant in ("acme", "globex"):
        daemon.call("token.add", name="lead", rights="admin", tenant=tenant)
    with logged_in(daemon, tenant="acme") as client:
        listed: Any = client.call("token.list", timeout_s=BOUND_S)
        assert {each["tenant"] for each in listed["tokens"]} == {"acme"}
        made: Any = client.call("token.add", {"name": "x", "rights": "read"}, timeout_s=BOUND_S)
        assert made["name"] == "acme/x"
        for method, params in (
            ("token.rm", {"name": "globex/lead"}),
            ("token.rotate", {"name": "globex/lead"}),
            ("token.add", {"name": "globex/new", "rights": "read"}),
            ("token.add", {"name": "new", "rights": "read", "tenant": "globex"}),
        ):
            with pytest.raises(NotFound):
                client.call(method, params, timeout_s=BOUND_S)
        client.call("token.rm", {"name": "x"}, timeout_s=BOUND_S)
    names = [each["name"] for each in daemon.call("token.list")["tokens"]]
    assert {"acme/lead", "globex/lead"} <= {*names}
    assert "acme/x" not in names


def test_a_method_without_a_rule_is_refused_to_a_tenant(daemon: DaemonProcess) -> None:
    with logged_in(daemon, tenant="acme") as client:
        for method in ("daemon.stop", "daemon.reload", "audit.verify", "backup.make"):
            with pytest.raises(PermissionDenied) as refused:
                client.call(method, {}, timeout_s=BOUND_S)
            assert refused.value.data["reason"] == "tenant"


def test_wrong_tokens_are_recorded_once_and_counted(daemon: DaemonProcess) -> None:
    for number in range(4):
        assert over_http(daemon, "/status", f"guess-{number}")[0] == 401
    found: Any = daemon.call("audit.list", actions=["auth.login"])["records"]
    assert [(each["who"], each["result"]) for each in found] == [({"http": "127.0.0.1"}, "PermissionDenied")]
