"""Where the documents of a server can lead the authorization: never to services that the server could not reach itself."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from corral.mcp.oauth import metadata
from corral.mcp.oauth.http import Http
from corral.worker.contract.addresses import Reach, zone_of
from corral.worker.contract.errors import ToolFailed

FAR = "https://192.0.2.7/mcp"
"""A server on a public network (TEST-NET-1); nothing is sent to it."""


@asynccontextmanager
async def service() -> AsyncGenerator[tuple[str, list[str]]]:
    """A service of this machine, and the requests that have reached it."""
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(f"{request.method} {request.path}")
        return web.json_response({})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:6379/", "http://localhost:2375/containers/create", "http://10.0.0.1/"]
)
def test_a_far_server_names_no_plain_address_of_this_machine(url: str) -> None:
    with pytest.raises(ToolFailed) as refused:
        metadata.checked_address(url, "an address", FAR)
    assert refused.value.data["reason"] == "insecure-address"
    near = "http://127.0.0.1:8000/mcp"
    assert url.startswith("http://10.") or metadata.checked_address(url, "an address", near) == url


def test_no_connection_of_a_far_servers_documents_ends_at_this_machine() -> None:
    async def scene() -> None:
        async with service() as (place, seen), Http(FAR) as http:
            for url in (f"http://{place}/", f"http://localhost:{place.rpartition(':')[2]}/"):
                with pytest.raises(ToolFailed) as refused:
                    await http.post_json(url, {"redirect_uris": []})
                assert refused.value.data["reason"] == "unreachable"
                assert "this machine" in refused.value.message
            assert seen == []

    asyncio.run(scene())


@pytest.mark.parametrize("named", [("http://127.0.0.1:1/mcp",), (FAR, "http://127.0.0.1:1")])
def test_what_the_configuration_itself_has_on_this_machine_is_reached(named: tuple[str, ...]) -> None:
    async def scene() -> None:
        async with service() as (place, seen), Http(*named) as http:
            await http.post_form(f"http://{place}/token", {"a": "b"})
            assert seen == ["POST /token"]

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("address", "zone"),
    [
        *(
            (each, "local")
            for each in ("127.0.0.1", "::1", "169.254.169.254", "fe80::1%eth0", "0.0.0.0", "::ffff:127.0.0.1")
        ),
        *((each, "local") for each in ("100.100.100.200", "fd00:ec2::254", "224.0.0.1", "no address")),
        *(
            (each, "private")
            for each in ("10.0.0.1", "172.16.3.4", "192.168.1.1", "fd00::1", "100.64.0.1", "::ffff:10.0.0.1")
        ),
        *((each, "public") for each in ("1.1.1.1", "2606:4700:4700::1111")),
    ],
)
def test_an_address_leads_where_it_leads_however_it_is_written(address: str, zone: str) -> None:
    assert zone_of(address) == zone


def test_a_name_that_is_made_to_lead_to_this_machine_later_is_not_followed() -> None:
    near = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80))

    async def scene() -> None:
        far = Reach(["https://192.0.2.7:*/hooks"])
        await far.resolve()
        with pytest.raises(OSError, match="this machine"):
            far.socket(near)
        for configured in ("http://localhost:*/hooks", "http://127.0.0.1:1/"):
            own = Reach([configured])
            await own.resolve()
            own.socket(near).close()

    asyncio.run(scene())
