"""The matrix of rights over HTTP: every route of the table with no token, a wrong, a removed, and those of each right.

The expected status of a cell is derived from the table alone.
"""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from corral.worker.control.access import RIGHTS
from corral.worker.methods.faces import Route
from corral.worker.methods.table import METHODS
from daemon_process import BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

CONFIG = """
[daemon]
http = "127.0.0.1:0"
[agents.secretary]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
"""

NO_TOKEN = ("none", "wrong", "removed")

ROUTES = [(entry, route) for _, entry in sorted(METHODS.items()) for route in entry.faces.routes]

API = {route for _, route in ROUTES}

OTHERS = [
    *map(Route.parse, ("POST /mcp", "GET /metrics", "GET /a2a/no-such-name", "POST /a2a/no-such-name")),
    *map(Route.parse, ("GET /runtime/no-such-path", "POST /runtime/agents", "GET /openapi.json", "GET /docs")),
]
"""Routes beside the table."""

TENANTS: tuple[tuple[str | None, str, int], ...] = (
    ("", "", 400),
    (None, "?%74enant=", 400),
    (None, "?tenan%74=x", 404),
)
"""Ways to name none, and one that is not there: header, query, and the status."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("http-matrix"), CONFIG) as process:
        yield process


@pytest.fixture(scope="module")
def tokens(daemon: DaemonProcess) -> dict[str, str | None]:
    """A token of each kind."""
    found: dict[str, str | None] = {"none": None, "wrong": "corral_" + "x" * 43}
    for rights in RIGHTS:
        found[rights] = daemon.call("token.add", name=rights, rights=rights)["token"]
    foreign = daemon.call("token.add", name="foreign", rights="admin", agents=["other*"])
    found["foreign"] = foreign["token"]
    found["removed"] = daemon.call("token.add", name="removed", rights="admin")["token"]
    daemon.call("token.rm", name="removed")
    return found


def status(
    address: str,
    route: Route,
    token: str | None,
    *,
    streams: bool,
    value: str = "no-such-name",
    source: str = "127.0.0.1",
    tenant: str | None = None,
    query: str = "",
) -> int:
    """The status of a request that does nothing: its body has an unknown key, its path an unknown name."""
    words = [
        ("1" if key.removesuffix("s") in ("checkpoint", "approval") else value) if is_key else key
        for key, is_key in route.segments
    ]
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    headers["Accept"] = "text/event-stream" if streams else "application/json"
    headers |= {} if tenant is None else {"Corral-Tenant": tenant}
    body = None
    if route.verb not in ("GET", "DELETE"):
        headers["Content-Type"] = "application/json"
        body = json.dumps({"no such key": 1})
    host, _, port = address.rpartition(":")
    with closing(
        http.client.HTTPConnection(host, int(port), timeout=BOUND_S, source_address=(source, 0))
    ) as connection:
        base = "/api/v1" if route in API else ""
        connection.request(route.verb, f"{base}/{'/'.join(words)}{query}", body, headers)
        return connection.getresponse().status


def test_a_route_needs_the_right_of_its_method(
    daemon: DaemonProcess, tokens: dict[str, str | None], subtests: pytest.Subtests
) -> None:
    address = daemon.call("daemon.status", names=[])["daemon"]["http"]
    for number, (entry, route) in enumerate(ROUTES, start=1):
        streams = entry.faces.only_streams
        source = f"127.0.1.{number}"  # an address of its own: many wrong tokens from one are answered late
        with subtests.test(entry.name, verb=route.verb, path=route.path):
            for kind in NO_TOKEN:
                assert status(address, route, tokens[kind], streams=streams, source=source) == 401, kind
            for rights in RIGHTS:
                found = status(address, route, tokens[rights], streams=streams)
                if RIGHTS.index(rights) < RIGHTS.index(entry.access.permission):
                    assert found == 403, rights
                else:
                    assert found not in (401, 403), rights
                    assert found < 500, rights


def test_a_route_is_restricted_to_the_agents_of_a_token(
    daemon: DaemonProcess, tokens: dict[str, str | None], subtests: pytest.Subtests
) -> None:
    address = daemon.call("daemon.status", names=[])["daemon"]["http"]
    for entry, route in ROUTES:
        if route.verb not in ("GET", "DELETE"):
            continue  # its body is not valid here: test_rights has it
        streams = entry.faces.only_streams
        with subtests.test(entry.name, verb=route.verb, path=route.path):
            of_one = status(address, route, tokens["foreign"], streams=streams, value="secretary")
            of_none = status(address, route, tokens["foreign"], streams=streams, value="nowhere")
            assert of_one == of_none, "it must not know that the name is there"
            if entry.access.scope is None:
                assert of_one in (403, 422)
            elif route.keys and entry.name != "daemon.schema":
                assert of_one == 404


def test_a_tenant_that_is_empty_or_not_there_is_refused_by_each_route_however_it_is_named(
    daemon: DaemonProcess, tokens: dict[str, str | None], subtests: pytest.Subtests
) -> None:
    address = daemon.call("daemon.status", names=[])["daemon"]["http"]
    streaming = {route for entry, route in ROUTES if entry.faces.only_streams}
    for route in (*sorted(API, key=lambda each: (each.path, each.verb)), *OTHERS):
        with subtests.test(verb=route.verb, path=route.path):
            found = [
                status(address, route, tokens["admin"], streams=route in streaming, tenant=tenant, query=query)
                for tenant, query, _ in TENANTS
            ]
            assert found == [expected for *_, expected in TENANTS]
