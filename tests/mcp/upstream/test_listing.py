"""What a session reads and follows of a server's lists and resources, in both eras."""

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest
import uvloop

from corral.mcp.protocol.catalog import Catalogue
from corral.mcp.upstream.listing import METHODS, Listed, read_list
from corral.mcp.upstream.subscription import RELISTEN_S
from corral.worker.contract.errors import CorralError, NotFound, Timeout, ToolFailed
from programs.mcp_odd import OFFERS
from programs.mcp_process import BOUND_S, ODD, Life, life

pytestmark = pytest.mark.contract

ERAS = ("legacy", "modern")
ALL = ("--declares=tools", "--declares=prompts", "--declares=resources")
SHORT_S = 0.2
"""A timeout that is meant to run out."""


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test

    uvloop.run(bounded())  # the daemon's loop


async def heard(server: Life, method: str) -> list[Any]:
    """The params of all requests of one method that the server has got so far."""
    messages: list[Any] = json.loads(await server.text("methods"))
    return [each.get("params") for each in messages if each.get("method") == method]


async def call(server: Life, tool: str, **arguments: object) -> None:
    await server.session.request("tools/call", {"name": tool, "arguments": arguments})


async def refusal(call: Awaitable[object]) -> CorralError:
    with pytest.raises(CorralError) as caught:
        await call
    return caught.value


# -- lists


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("cursor", ["plain", "empty", "ignored"])
def test_everything_that_is_declared_is_listed_by_all_its_pages_and_as_it_came(era: str, cursor: str) -> None:
    async def test() -> None:
        command = (*ODD, f"--era={era}", *ALL, "--pages=2", f"--cursor={cursor}")
        async with life(command) as server:
            catalogue = server.session.catalogue
            assert list(catalogue.prompts) == OFFERS["prompts"]
            assert list(catalogue.resources) == OFFERS["resources"]
            assert list(catalogue.templates) == OFFERS["resourceTemplates"]
            assert catalogue.tools[0].fields["annotations"] == {"readOnlyHint": True}
            assert (catalogue.era, catalogue.version) == (era, server.session.version)
            assert catalogue.listed_at > 0

    run(test())


def test_what_is_not_declared_is_not_asked_for() -> None:
    async def test() -> None:
        async with life((*ODD, "--declares=tools", "--declares=logging")) as server:
            messages = json.loads(await server.text("methods"))
            asked = [each["method"] for each in messages if each["method"].endswith("/list")]
            assert asked == ["tools/list"]
            assert server.session.catalogue.prompts == ()

    run(test())


def test_a_server_that_declares_nothing_is_asked_for_tools() -> None:
    async def test() -> None:
        async with life((*ODD, "--declares=nothing")) as server:
            assert server.session.capabilities == {}
            assert await server.text("echo", text="hi") == "hi"
            assert "echo" in {tool.name for tool in server.session.catalogue.tools}

    run(test())


def test_a_server_of_prompts_alone_is_not_asked_for_tools() -> None:
    async def test() -> None:
        async with life((*ODD, "--declares=prompts", "--broken=tools/list")) as server:
            assert server.session.catalogue.tools == ()
            assert len(server.session.catalogue.prompts) == 1

    run(test())


@pytest.mark.parametrize("kind", ["prompts", "resources", "resourceTemplates"])
def test_a_server_that_fails_to_list_the_rest_is_of_use_for_its_tools(kind: Any) -> None:
    async def test() -> None:
        async with life((*ODD, *ALL, f"--broken={METHODS[kind]}")) as server:
            catalogue = server.session.catalogue
            assert await server.text("echo", text="hi") == "hi"
            assert bool(catalogue.prompts) == (kind != "prompts")
            assert bool(catalogue.resources) == (kind != "resources")
            assert bool(catalogue.templates) == (kind != "resourceTemplates")

    run(test())


def test_a_server_that_fails_to_list_its_tools_is_refused() -> None:
    async def test() -> None:
        async def attempt() -> None:
            async with life((*ODD, "--broken=tools/list")):
                pass

        error = await refusal(attempt())
        assert (type(error), error.data["server"]) == (ToolFailed, "odd")

    run(test())


def test_what_lists_say_of_their_age_is_kept() -> None:
    async def test() -> None:
        pages: dict[object, object] = {
            None: {"tools": [{"name": "a"}], "ttlMs": 60_000, "nextCursor": "2"},
            "2": {"tools": [{"name": "b"}, 3, {"name": ""}, {"name": "a", "title": "again"}],
                  "ttlMs": 500},
        }  # fmt: skip

        async def ask(_method: str, params: Any) -> object:
            return pages[params.get("cursor")]

        assert await read_list("tools", ask) == Listed(({"name": "a"}, {"name": "b"}), 0.5)

    run(test())


# -- changes


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        ("tools", {"name": "sprout"}),
        ("prompts", {"name": "sprout"}),
        ("resources", {"uri": "odd://sprout"}),
        ("resourceTemplates", {"uriTemplate": "odd://sprout/{x}"}),
    ],
)
def test_a_changed_list_is_read_again_and_handed_over(era: str, kind: str, entry: Any) -> None:
    async def test() -> None:
        changed: asyncio.Queue[Catalogue] = asyncio.Queue()
        command = (*ODD, f"--era={era}", *ALL)
        async with life(command, on_catalogue=changed.put_nowait) as server:
            before = server.session.catalogue
            await call(server, "grow", kind=kind, name="sprout", entry=entry)
            after = await changed.get()
            assert server.session.catalogue == after
            field = "templates" if kind == "resourceTemplates" else kind
            for each in ("tools", "prompts", "resources", "templates"):
                grown = len(getattr(after, each)) - len(getattr(before, each))
                assert grown == (each == field)

    run(test())


def test_what_is_known_stays_listed_when_a_server_no_longer_lists_it() -> None:
    async def test() -> None:
        changed: asyncio.Queue[Catalogue] = asyncio.Queue()
        async with life((*ODD, *ALL), on_catalogue=changed.put_nowait) as server:
            before = server.session.catalogue
            await call(server, "break", method="prompts/list")
            await call(server, "grow", kind="prompts", name="", entry={"name": "unseen"})
            await call(server, "grow", name="seen")
            after = await changed.get()
            assert after.prompts == before.prompts
            assert after.tools[-1].name == "seen"

    run(test())


def test_a_refresh_reads_lists_again_of_which_the_server_says_nothing() -> None:
    async def test() -> None:
        changed: asyncio.Queue[Catalogue] = asyncio.Queue()
        command = (*ODD, "--era=modern", "--listen=refuse")
        async with life(command, on_catalogue=changed.put_nowait) as server:
            await call(server, "grow", name="sprout")
            assert len(await heard(server, "tools/list")) == 1
            server.session.refresh()
            assert (await changed.get()).tools[-1].name == "sprout"

    run(test())


@pytest.mark.parametrize("how", ["result", "cancelled"])
def test_a_subscription_that_the_server_ends_is_made_again_and_what_was_missed_is_read(how: str) -> None:
    async def test() -> None:
        changed: asyncio.Queue[Catalogue] = asyncio.Queue()
        updated: asyncio.Queue[str] = asyncio.Queue()
        assert RELISTEN_S < BOUND_S / 2
        options: dict[str, Any] = {"on_catalogue": changed.put_nowait, "on_updated": updated.put_nowait}
        async with life((*ODD, "--era=modern", *ALL), **options) as server:
            await server.session.request("resources/subscribe", {"uri": "odd://a"})
            await call(server, "unlisten", how=how)
            await call(server, "grow", name="unheard")
            assert (await changed.get()).tools[-1].name == "unheard"
            assert await updated.get() == "odd://a"
            await call(server, "grow", name="heard")
            assert (await changed.get()).tools[-1].name == "heard"
            listened = await heard(server, "subscriptions/listen")
            assert [each["notifications"] for each in listened[2:]] == [each["notifications"] for each in listened[:2]]

    run(test())


# -- resources


@pytest.mark.parametrize("era", ERAS)
def test_a_subscription_to_a_resource_gets_its_changes_until_it_is_ended(era: str) -> None:
    async def test() -> None:
        updated: asyncio.Queue[str] = asyncio.Queue()
        command = (*ODD, f"--era={era}", *ALL)
        async with life(command, on_updated=updated.put_nowait) as server:
            request = server.session.request
            for uri in ("odd://a", "odd://b", "odd://a"):
                assert await request("resources/subscribe", {"uri": uri}) == {}
            await call(server, "touch", uri="odd://b")
            assert await updated.get() == "odd://b"
            assert await request("resources/unsubscribe", {"uri": "odd://b"}) == {}
            method = "resources/unsubscribe" if era == "legacy" else "notifications/cancelled"
            assert len(await heard(server, method)) == 1
            if era == "modern":
                assert len(await heard(server, "subscriptions/listen")) == 3
                await call(server, "touch", uri="odd://b")
            await call(server, "touch", uri="odd://a")
            assert await updated.get() == "odd://a"

    run(test())


def test_a_modern_server_that_does_not_report_resources_refuses_the_subscription() -> None:
    async def test() -> None:
        for listen in ("refuse", "nothing"):
            async with life((*ODD, "--era=modern", f"--listen={listen}")) as server:
                error = await refusal(server.session.request("resources/subscribe", {"uri": "odd://a"}))
                assert (type(error), error.data["code"]) == (ToolFailed, -32601)
                assert error.data["uri"] == "odd://a"
        async with life((*ODD, "--era=modern", "--listen=silent")) as server:
            params = {"uri": "odd://a"}
            error = await refusal(server.session.request("resources/subscribe", params, timeout_s=SHORT_S))
            assert type(error) is Timeout
            assert await heard(server, "notifications/cancelled") != []

    run(test())


@pytest.mark.parametrize("era", ERAS)
def test_a_resource_that_is_not_there_is_not_found(era: str) -> None:
    async def test() -> None:
        async with life((*ODD, f"--era={era}", *ALL)) as server:
            error = await refusal(server.session.request("resources/read", {"uri": "odd://gone"}))
            assert type(error) is NotFound
            assert error.data == {"server": "odd", "uri": "odd://gone"}

    run(test())
