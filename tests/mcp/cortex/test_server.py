"""The memory server as its clients see it: the official SDK in both eras, raw bytes, and many at once."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # has no stubs
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from corral.mcp.cortex.server import default_path
from corral.mcp.cortex.tools import TOOLS
from corral.worker.contract.mcp_info import LEGACY_VERSIONS, MODERN_VERSIONS
from mcp import StdioServerParameters

pytestmark = pytest.mark.contract

Json = dict[str, Any]  # whatever the server answers

BOUND_S = 60.0
COMMAND = [sys.executable, "-P", "-m", "corral.mcp.cortex", "mcp", "stdio"]
MODERN = "2026-07-28"
ENVELOPE: dict[str, object] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
MAX_LINE_BYTES = 16 * 1024 * 1024


class Cortex:
    """One server process, spoken to in lines."""

    def __init__(self, db: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--db", str(db), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._last_id = 0

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def read(self) -> Json:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.endswith(b"\n"), "the server closed its end"
        answer: Json = json.loads(line)
        assert answer["jsonrpc"] == "2.0"
        return answer

    def ask(self, method: str, params: Json | None = None) -> Json:
        self._last_id += 1
        message: Json = {"jsonrpc": "2.0", "id": self._last_id, "method": method}
        if params is not None:
            message["params"] = params
        self.write(json.dumps(message).encode() + b"\n")
        answer = self.read()
        assert answer["id"] == self._last_id
        return answer

    def modern(self, method: str, params: Json | None = None) -> Json:
        return self.ask(method, {**(params or {}), "_meta": ENVELOPE})

    def call(self, name: str, **arguments: object) -> Json:
        result: Json = self.modern("tools/call", {"name": name, "arguments": arguments})["result"]
        return result

    def bytes_read(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/io").read_text().split()[1])

    def state(self) -> str:
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(BOUND_S)


@contextmanager
def cortex(db: Path, *options: str) -> Generator[Cortex, None, None]:
    server = Cortex(db, *options)
    with server.process:
        watch = threading.Timer(BOUND_S, server.process.kill)  # nothing here waits for ever
        watch.start()
        try:
            yield server
        finally:
            watch.cancel()
            server.process.kill()


def fits(schema: Json, value: object) -> bool:
    validator: Any = Draft202012Validator(schema)  # Any: jsonschema has no complete types
    answer: bool = validator.is_valid(value)
    return answer


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "cortex.db"


@pytest.fixture
def server(db: Path) -> Iterator[Cortex]:
    with cortex(db) as server:
        yield server


# -- the official client


def official(db: Path, mode: str) -> Client:
    parameters = StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], "--db", str(db)])
    return Client(parameters, mode=mode)


@pytest.mark.parametrize("mode", ["legacy", "auto", MODERN])
def test_the_official_client_lists_and_calls_all_tools(db: Path, mode: str) -> None:
    async def session() -> None:
        async with official(db, mode) as client:
            assert client.protocol_version == (LEGACY_VERSIONS[-1] if mode == "legacy" else MODERN)
            listed = (await client.list_tools()).tools
            assert [tool.name for tool in listed] == list(TOOLS)
            stored = await client.call_tool(
                "cortex_store", {"content": "the otter sleeps", "key": "otter", "tags": ["river"]}
            )
            assert stored.structured_content is not None
            item_id = stored.structured_content["id"]
            search = await client.call_tool("cortex_search", {"query": "OTTER", "tags": ["river"]})
            assert search.structured_content is not None
            assert [item["id"] for item in search.structured_content["items"]] == [item_id]
            item = await client.call_tool("cortex_retrieve", {"key": "otter"})
            assert item.structured_content is not None
            assert item.structured_content["content"] == "the otter sleeps"
            tidy = await client.call_tool("cortex_consolidate", {})
            assert tidy.structured_content == {"archived": [], "kept": [], "dry_run": True}
            missing = await client.call_tool("cortex_retrieve", {"id": "nowhere"})
            assert missing.is_error
            with pytest.raises(MCPError) as caught:
                await client.call_tool("cortex_forget", {})
            assert caught.value.code == -32602

    asyncio.run(asyncio.wait_for(session(), BOUND_S))


def test_hints_show_clients_what_is_safe(db: Path) -> None:
    async def session() -> None:
        async with official(db, "auto") as client:
            hints = {tool.name: tool.annotations for tool in (await client.list_tools()).tools}
            assert {name for name, hint in hints.items() if hint and hint.read_only_hint} == {
                "cortex_search",
                "cortex_retrieve",
            }
            for hint in hints.values():
                assert hint is not None
                assert hint.destructive_hint is False
                assert hint.open_world_hint is False
                assert hint.idempotent_hint is True

    asyncio.run(asyncio.wait_for(session(), BOUND_S))


def test_the_schemas_are_schemas_and_the_answers_fit_them(server: Cortex) -> None:
    listed = server.modern("tools/list")["result"]["tools"]
    calls: list[tuple[str, Json]] = [
        ("cortex_store", {"content": "a b c", "metadata": {"x": {}}, "ttl_s": 0.5e3}),
        ("cortex_search", {"query": "b", "limit": 1.0}),
        ("cortex_consolidate", {"dry_run": False}),
    ]
    outputs = {tool["name"]: tool["outputSchema"] for tool in listed}
    for tool in listed:
        Draft202012Validator.check_schema(tool["inputSchema"])
        Draft202012Validator.check_schema(tool["outputSchema"])
    for name, arguments in calls:
        result = server.call(name, **arguments)
        assert result["isError"] is False
        assert fits(outputs[name], result["structuredContent"])
        assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
    item_id = server.call("cortex_search", query="b")["structuredContent"]["items"][0]["id"]
    item = server.call("cortex_retrieve", id=item_id)["structuredContent"]
    assert fits(outputs["cortex_retrieve"], item)


# -- the eras


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_a_legacy_version_that_is_known_is_spoken(server: Cortex, version: str) -> None:
    result = server.ask("initialize", {"protocolVersion": version, "capabilities": {}})["result"]
    assert result["protocolVersion"] == version
    server.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
    assert server.ask("ping")["result"] == {}
    listed = server.ask("tools/list")["result"]
    assert set(listed) == {"tools"}


@pytest.mark.parametrize("version", ["1999-01-01", MODERN, ""])
def test_another_version_is_answered_with_the_newest_legacy_one(server: Cortex, version: str) -> None:
    result = server.ask("initialize", {"protocolVersion": version})["result"]
    assert result["protocolVersion"] == LEGACY_VERSIONS[-1]


def test_discover_reports_what_a_modern_client_needs(server: Cortex) -> None:
    result = server.modern("server/discover")["result"]
    assert result["supportedVersions"] == list(MODERN_VERSIONS)
    assert result["capabilities"] == {"tools": {}}
    assert result["resultType"] == "complete"
    assert result["cacheScope"] == "public"
    assert result["ttlMs"] > 0
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "corral-cortex"


def test_modern_results_say_that_they_are_complete(server: Cortex) -> None:
    listed = server.modern("tools/list")["result"]
    assert (listed["resultType"], listed["cacheScope"]) == ("complete", "public")
    failed = server.call("cortex_retrieve", id="nowhere")
    assert failed["resultType"] == "complete"
    assert failed["isError"] is True
    assert set(failed["_meta"]) == {"corral/error", "io.modelcontextprotocol/serverInfo"}


@pytest.mark.parametrize("missing", list(ENVELOPE))
@pytest.mark.parametrize("method", ["server/discover", "tools/list", "tools/call", "what/ever"])
def test_a_modern_request_without_its_envelope_is_refused(server: Cortex, method: str, missing: str) -> None:
    meta = {key: value for key, value in ENVELOPE.items() if key != missing}
    incomplete: list[Json] = [{}, {"_meta": {}}, {"_meta": meta}]
    for params in incomplete:
        error = server.ask(method, params)["error"]
        assert error["code"] == -32602
        assert missing in error["data"]["missing"]


@pytest.mark.parametrize(("key", "value"), [(next(iter(ENVELOPE)), 20260728), (list(ENVELOPE)[1], "none")])
def test_an_envelope_of_the_wrong_shape_is_refused_by_key(server: Cortex, key: str, value: object) -> None:
    error = server.ask("tools/list", {"_meta": {**ENVELOPE, key: value}})["error"]
    assert (error["code"], error["data"]["field"]) == (-32602, key)


def test_a_version_that_is_not_served_is_refused_with_those_that_are(server: Cortex) -> None:
    version, capabilities = ENVELOPE
    meta: dict[str, object] = {version: "2027-01-01", capabilities: {}}
    error = server.ask("tools/list", {"_meta": meta})["error"]
    assert error["code"] == -32022
    assert error["data"] == {"supported": list(MODERN_VERSIONS), "requested": "2027-01-01"}


def test_one_process_serves_both_eras_request_by_request(server: Cortex) -> None:
    assert "resultType" in server.modern("tools/list")["result"]
    assert "error" in server.ask("tools/list")
    server.ask("initialize", {"protocolVersion": LEGACY_VERSIONS[0]})
    assert "resultType" not in server.ask("tools/list")["result"]
    assert "resultType" in server.modern("tools/list")["result"]


@pytest.mark.parametrize("method", ["resources/list", "prompts/list", "logging/setLevel", "x"])
def test_a_method_that_is_not_offered_is_refused_in_both_eras(server: Cortex, method: str) -> None:
    assert server.modern(method)["error"]["code"] == -32601
    server.ask("initialize", {"protocolVersion": LEGACY_VERSIONS[-1]})
    assert server.ask(method)["error"]["code"] == -32601


def test_the_modern_era_has_no_ping(server: Cortex) -> None:
    assert server.modern("ping")["error"]["code"] == -32601


def test_a_cursor_that_was_never_given_is_refused(server: Cortex) -> None:
    assert server.modern("tools/list", {"cursor": ""})["error"]["code"] == -32602


def test_initialize_without_a_version_is_refused(server: Cortex) -> None:
    assert server.ask("initialize", {})["error"]["code"] == -32602


# -- arguments


@pytest.mark.parametrize(
    ("tool", "arguments", "field", "rule"),
    [
        ("cortex_store", {}, "content", "required"),
        ("cortex_store", {"content": ""}, "content", "minLength"),
        ("cortex_store", {"content": 7}, "content", "type"),
        ("cortex_store", {"content": None}, "content", "type"),
        ("cortex_store", {"content": "x", "key": "a\nb"}, "key", "pattern"),
        ("cortex_store", {"content": "x", "namespace": "n" * 257}, "namespace", "maxLength"),
        ("cortex_store", {"content": "x", "tags": "t"}, "tags", "type"),
        ("cortex_store", {"content": "x", "tags": ["a", 1]}, "tags[1]", "type"),
        ("cortex_store", {"content": "x", "tags": ["t"] * 65}, "tags", "maxItems"),
        ("cortex_store", {"content": "x", "metadata": []}, "metadata", "type"),
        ("cortex_store", {"content": "x", "ttl_s": 0}, "ttl_s", "exclusiveMinimum"),
        ("cortex_store", {"content": "x", "ttl_s": True}, "ttl_s", "type"),
        ("cortex_store", {"content": "x", "ttl_s": 1e300}, "ttl_s", "maximum"),
        ("cortex_store", {"content": "x", "ttl": 5}, "ttl", "additionalProperties"),
        ("cortex_search", {}, "query", "required"),
        ("cortex_search", {"query": "x" * 10_001}, "query", "maxLength"),
        ("cortex_search", {"query": "x", "limit": 0}, "limit", "minimum"),
        ("cortex_search", {"query": "x", "limit": 101}, "limit", "maximum"),
        ("cortex_search", {"query": "x", "limit": 1.5}, "limit", "type"),
        ("cortex_retrieve", {}, "id", None),
        ("cortex_retrieve", {"id": "a", "key": "b"}, "id", None),
        ("cortex_consolidate", {"dry_run": 0}, "dry_run", "type"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(
    server: Cortex, tool: str, arguments: Json, field: str, rule: str | None
) -> None:
    result = server.call(tool, **arguments)
    assert result["isError"] is True
    assert "structuredContent" not in result
    assert field in result["content"][0]["text"]
    error = result["_meta"]["corral/error"]
    assert (error["name"], error["data"]["field"]) == ("InvalidParams", field)
    assert error["data"].get("rule") == rule
    assert rule is None or not fits(TOOLS[tool].input_schema, arguments)


def test_a_missing_item_is_a_failed_call_with_a_reason(server: Cortex) -> None:
    for arguments in ({"id": "nowhere"}, {"key": "k", "namespace": "n"}):
        error = server.call("cortex_retrieve", **arguments)["_meta"]["corral/error"]
        assert (error["code"], error["data"]) == (-33001, arguments)


def test_namespaces_default_as_the_schemas_say(server: Cortex) -> None:
    server.call("cortex_store", content="here", key="k")
    elsewhere = server.call("cortex_store", content="here too", key="k", namespace="n")
    elsewhere_id = elsewhere["structuredContent"]["id"]
    assert server.call("cortex_retrieve", key="k")["structuredContent"]["content"] == "here"
    by_id = server.call("cortex_retrieve", id=elsewhere_id)["structuredContent"]
    assert by_id["namespace"] == "n"
    assert len(server.call("cortex_search", query="here")["structuredContent"]["items"]) == 2
    only = server.call("cortex_search", query="here", namespace="default")["structuredContent"]
    assert [item["content"] for item in only["items"]] == ["here"]


@pytest.mark.parametrize("params", [{}, {"name": 1}, {"name": "x"}, {"name": "cortex_store", "arguments": []}])
def test_a_call_of_no_tool_is_a_protocol_error(server: Cortex, params: Json) -> None:
    assert server.modern("tools/call", params)["error"]["code"] == -32602


# -- the bytes


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"no json at all", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"\xff\xfe"}', -32700),
        (b"\x80\x81\x82", -32700),
        (b"[" * 100_000, -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"\\ud800","params":{}}', -32700),
        (b"[]", -32600),
        (b'"text"', -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b'{"id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32602),
    ],
)
def test_a_line_that_is_no_request_is_answered_and_the_next_one_served(server: Cortex, line: bytes, code: int) -> None:
    server.write(line + b"\n")
    assert server.read()["error"]["code"] == code
    assert server.ask("ping")["result"] == {}


def test_what_needs_no_answer_gets_none(server: Cortex) -> None:
    for line in (
        b"",
        b"   ",
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}',
        b'{"jsonrpc":"2.0","method":"what/ever","params":{}}',
        b'{"jsonrpc":"2.0","id":99,"result":{}}',
    ):
        server.write(line + b"\n")
    assert server.ask("ping")["result"] == {}


def test_a_line_that_is_too_long_is_refused_by_its_id_and_the_next_one_served(server: Cortex) -> None:
    server.write(b'{"jsonrpc":"2.0","id":"long","method":"x","params":{"a":"')
    for _ in range(17):
        server.write(b"a" * 1024 * 1024)
    server.write(b'"}}\n')
    answer = server.read()
    assert answer["id"] == "long"
    assert answer["error"]["code"] == -33005
    assert answer["error"]["data"]["value"] == MAX_LINE_BYTES
    assert server.ask("ping")["result"] == {}


def test_requests_may_come_in_pieces_and_in_heaps(server: Cortex) -> None:
    line = b'{"jsonrpc":"2.0","id":"s","method":"ping"}\n'
    for index in range(len(line)):
        server.write(line[index : index + 1])
    assert server.read()["id"] == "s"
    server.write(b"".join(line.replace(b'"s"', b"%d" % number) for number in range(500)))
    assert [server.read()["id"] for _ in range(500)] == list(range(500))


def test_the_largest_item_fits_into_an_answer(server: Cortex) -> None:
    content = '"\\' * (4 * 1024 * 1024 // 4 - 50)  # each character is escaped, and escaped again
    stored = server.call("cortex_store", content=content)
    assert stored["isError"] is False
    item_id = stored["structuredContent"]["id"]
    item = server.call("cortex_retrieve", id=item_id)
    assert item["structuredContent"]["content"] == content
    refused = server.call("cortex_store", content=content + "x" * 200)
    assert refused["_meta"]["corral/error"]["name"] == "ResourceLimitExceeded"


# -- the process


def test_the_end_of_input_ends_it_with_zero(server: Cortex) -> None:
    server.ask("ping")
    assert server.end() == 0


def test_a_last_request_without_a_newline_is_answered(server: Cortex) -> None:
    server.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.read()["result"] == {}
    assert server.process.wait(BOUND_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_zero_and_no_log_is_left_behind(server: Cortex, db: Path, number: signal.Signals) -> None:
    server.call("cortex_store", content="before the end")
    server.process.send_signal(number)
    assert server.process.wait(BOUND_S) == 0
    assert sorted(path.name for path in db.parent.iterdir()) == ["cortex.db"]


def test_sigterm_is_handled_while_another_process_holds_the_lock(server: Cortex, db: Path) -> None:
    server.ask("ping")
    other = sqlite3.connect(db, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        request = {"name": "cortex_store", "arguments": {"content": "x"}, "_meta": ENVELOPE}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": request}
        line = json.dumps(message).encode() + b"\n"
        has_read = server.bytes_read() + len(line)
        server.write(line)
        deadline = time.monotonic() + BOUND_S
        while server.bytes_read() < has_read or server.state() != "S":
            assert time.monotonic() < deadline
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0  # the lock is waited for twice as long
    finally:
        other.close()


def test_a_client_that_goes_away_unanswered_ends_it_quietly(db: Path) -> None:
    with cortex(db) as server:
        server.ask("ping")
        assert server.process.stdout is not None
        server.process.stdout.close()
        server.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        assert server.process.wait(BOUND_S) == 0


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND[:4], *arguments],
        input=b"",
        capture_output=True,
        timeout=BOUND_S,
        check=False,
        env={**os.environ, **environ},
    )


def test_a_database_that_cannot_be_used_ends_it_with_one_and_one_line(db: Path) -> None:
    db.write_bytes(b"not a database" * 100)
    done = run("mcp", "stdio", "--db", str(db))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1
    assert str(db).encode() in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["mcp"],
        ["mcp", "stdio", "x"],
        ["mcp", "stdio", "--db"],
        ["mcp", "stdio", "--db", ""],
        ["mcp", "stdio", "--db", "a", "--db", "b"],
        ["mcp", "stdio", "--max-items", "0"],
        ["mcp", "stdio", "--max-bytes", "1 MB"],
        ["mcp", "stdio", "--max-days", "1"],
    ],
)
def test_wrong_usage_ends_it_with_two(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1


def test_the_environment_says_where_the_file_is(tmp_path: Path) -> None:
    named, state = tmp_path / "named.db", tmp_path / "state"
    assert run("mcp", "stdio", CORTEX_DB=str(named), XDG_STATE_HOME=str(state)).returncode == 0
    assert named.exists()
    assert not state.exists()
    assert run("mcp", "stdio", CORTEX_DB="", XDG_STATE_HOME=str(state)).returncode == 0
    assert (state / "corral" / "cortex.db").exists()


def test_without_a_state_folder_the_file_is_in_the_home() -> None:
    home = Path.home() / ".local" / "state" / "corral" / "cortex.db"
    assert default_path({}) == home
    assert default_path({"XDG_STATE_HOME": "relative"}) == home


# -- quotas, pages, idempotency and damage


def test_a_search_goes_on_with_its_cursor_and_the_answers_fit_the_schema(server: Cortex) -> None:
    schema: Any = TOOLS["cortex_search"].output_schema
    for number in range(3):
        server.call("cortex_store", content=f"row {number}", metadata={"n": number})
    first = server.call("cortex_search", query="row", limit=2)["structuredContent"]
    assert fits(schema, first)
    cursor = first["next_cursor"]
    last = server.call("cortex_search", query="row", limit=2, cursor=cursor)["structuredContent"]
    assert (len(last["items"]), "next_cursor" in last) == (1, False)
    one = server.call("cortex_search", query="row", metadata={"n": 1})["structuredContent"]
    assert [item["content"] for item in one["items"]] == ["row 1"]
    late = server.call("cortex_search", query="row", since="2999-01-01T00:00:00Z")
    assert late["structuredContent"]["items"] == []
    for wrong in ({"since": "soon"}, {"until": "9" * 20}, {"cursor": "x"}):
        failed = server.call("cortex_search", query="row", **wrong)
        assert failed["_meta"]["corral/error"]["data"]["field"] == next(iter(wrong))


def test_the_same_store_with_its_idempotency_key_is_answered_as_before(server: Cortex) -> None:
    asked = {"content": "once", "idempotency_key": "i-1"}
    first = server.call("cortex_store", **asked)["structuredContent"]
    assert first["created"]
    assert server.call("cortex_store", **asked)["structuredContent"] == first
    other = server.call("cortex_store", content="twice", idempotency_key="i-1")
    assert other["_meta"]["corral/error"]["name"] == "Conflict"


def test_a_quota_is_an_option_and_its_refusal_is_typed(db: Path) -> None:
    with cortex(db, "--max-items", "2", "--max-bytes", "1KiB") as server:
        for content in ("one", "two"):
            assert server.call("cortex_store", content=content)["isError"] is False
        refused = server.call("cortex_store", content="three")["_meta"]["corral/error"]
        assert (refused["name"], refused["data"]["limit"]) == ("ResourceLimitExceeded", "items")
        large = server.call("cortex_store", content="x" * 2000, namespace="other")
        assert large["_meta"]["corral/error"]["data"]["limit"] == "bytes"


def test_a_flipped_byte_is_an_error_that_names_the_item_and_the_server_lives(db: Path) -> None:
    with cortex(db) as server:
        kept = server.call("cortex_store", content="kept " + "k" * 50)["structuredContent"]["id"]
        item = server.call("cortex_store", content="flip " + "q" * 50)["structuredContent"]["id"]
        assert server.end() == 0
    data = bytearray(db.read_bytes())
    data[data.index(b"qqqq")] ^= 1
    db.write_bytes(data)
    with cortex(db) as server:
        failed = server.call("cortex_retrieve", id=item)["_meta"]["corral/error"]
        assert (failed["name"], failed["data"]["id"]) == ("Conflict", item)
        found = server.call("cortex_search", query="kept flip")["structuredContent"]
        assert found["damaged"] == [item]
        assert [each["id"] for each in found["items"]] == [kept]
        assert fits(TOOLS["cortex_search"].output_schema, found)


# -- many at once


def test_a_file_may_be_created_by_many_at_once(db: Path) -> None:
    processes = [subprocess.Popen([*COMMAND, "--db", str(db)], stdin=subprocess.DEVNULL) for _ in range(8)]
    assert [process.wait(BOUND_S) for process in processes] == [0] * 8


def test_every_store_that_was_acknowledged_survives_kill_9_of_four_writers(db: Path) -> None:
    enough = threading.Event()
    acknowledged: list[list[tuple[str, str]]] = [[], [], [], []]

    def store_until_killed(server: Cortex, number: int) -> None:
        try:
            while True:
                content = f"writer {number} store {len(acknowledged[number])} " + "x" * 5000
                stored = server.call("cortex_store", content=content)["structuredContent"]
                acknowledged[number].append((stored["id"], content))
                if len(acknowledged[number]) >= 25:
                    enough.set()
        except (AssertionError, BrokenPipeError):
            return  # killed

    with cortex(db) as a, cortex(db) as b, cortex(db) as c, cortex(db) as d:
        servers = [a, b, c, d]
        threads = [
            threading.Thread(target=store_until_killed, args=(server, number)) for number, server in enumerate(servers)
        ]
        for thread in threads:
            thread.start()
        assert enough.wait(BOUND_S)
        for server in servers:
            server.process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join(BOUND_S)
        assert [server.process.wait(BOUND_S) for server in servers] == [-signal.SIGKILL] * 4

    with cortex(db) as after:
        for item_id, content in (pair for each in acknowledged for pair in each):
            item = after.call("cortex_retrieve", id=item_id)["structuredContent"]
            assert item["content"] == content
        assert len(after.call("cortex_search", query="writer")["structuredContent"]["items"]) == 10
        assert after.end() == 0
    check = sqlite3.connect(db)
    try:
        assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        check.close()


def test_what_one_process_stores_another_finds(db: Path) -> None:
    with cortex(db) as one, cortex(db) as other:
        stored = one.call("cortex_store", content="shared", key="k")["structuredContent"]
        same = other.call("cortex_store", content="shared", key="k")["structuredContent"]
        assert same == {"id": stored["id"], "created": False}
        assert other.call("cortex_search", query="shared")["structuredContent"]["items"]
