"""The built-in memory as an MCP server on stdio: four tools over `cortex_memory`, a process of its own.

It answers both eras of MCP, request by request: one that carries the modern `_meta` is stateless
(2026-07-28), everything after an `initialize` is legacy (2024-11-05 to 2025-11-25). It is one blocking
loop in one thread; an answered store is on the disk. It must not know the daemon, agents or asyncio:
any MCP client may start it.
"""

import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, NoReturn

from ... import __version__
from ...worker.contract.codec import as_array, as_object, encode
from ...worker.contract.errors import CorralError, InternalError, InvalidParams, MethodNotFound
from ...worker.contract.jsonrpc import Peer, Request
from ...worker.contract.mcp_info import LEGACY_VERSIONS, META, MODERN_VERSIONS
from .database import MAX_FILE_BYTES, Store
from .item import Item
from .memory import Memory, Quota

_META_VERSION = META + "protocolVersion"
_META_CAPABILITIES = META + "clientCapabilities"
_META_SERVER = META + "serverInfo"
_META_ERROR = "corral/error"
"""Where a failed tool call has our error record: the text of its content is for models and people."""

LIST_TTL_MS = 300_000
"""How long clients may keep the list of tools; it changes with the version of corral only."""

READ_BYTES = 65_536
STDIN_FD, STDOUT_FD = 0, 1

USAGE = (
    "usage: corral-cortex mcp stdio [--db FILE] [--max-items N] [--max-bytes SIZE] "
    "[--max-file-bytes SIZE]"
)

_SERVER_INFO = {"name": "corral-cortex", "title": "corral memory", "version": __version__}
_CAPABILITIES: dict[str, object] = {"tools": {}}
_INSTRUCTIONS = (
    "A memory that outlives this conversation. Store what should be known later, with a key when it "
    "will be updated; search by words; retrieve by key or id."
)


class UnsupportedVersion(InvalidParams):
    """The modern request names a revision that is not served; `data` has those that are."""

    code = -32022


class Tool(NamedTuple):
    """One tool: what `tools/list` says of it, and the function that does it."""

    name: str
    title: str
    description: str
    input_schema: dict[str, object]
    output_schema: dict[str, object]
    annotations: dict[str, object]
    call: Callable[[Memory, Mapping[str, object]], dict[str, object]]

    def to_wire(self) -> dict[str, object]:
        """The tool object of MCP; keys that a revision does not know are ignored there."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self.input_schema,
            "outputSchema": self.output_schema,
            "annotations": {"title": self.title, **self.annotations, "openWorldHint": False},
        }


# -- the loop


class Server:
    """Answers MCP requests from a memory; knows the one thing that legacy clients make it remember."""

    def __init__(self, memory: Memory):
        self._memory = memory
        self._is_legacy = False

    def answer(self, method: str, params: Mapping[str, object]) -> dict[str, object]:
        """The result of one request.

        Raises:
            CorralError: the error to answer with.
        """
        meta = as_object(params.get("_meta")) or {}
        if method == "initialize":
            return self._initialize(params)
        if method == "ping" and _META_VERSION not in meta:
            return {}
        if self._is_legacy and _META_VERSION not in meta:
            return self._call(method, params)
        _check_envelope(method, meta)
        if method == "server/discover":
            result: dict[str, object] = {
                "supportedVersions": list(MODERN_VERSIONS),
                "capabilities": _CAPABILITIES,
                "instructions": _INSTRUCTIONS,
            }
        else:
            result = self._call(method, params)
        if method != "tools/call":
            result |= {"ttlMs": LIST_TTL_MS, "cacheScope": "public"}
        result["resultType"] = "complete"
        result["_meta"] = {**(as_object(result.get("_meta")) or {}), _META_SERVER: _SERVER_INFO}
        return result

    def _initialize(self, params: Mapping[str, object]) -> dict[str, object]:
        asked = params.get("protocolVersion")
        if not isinstance(asked, str):
            text = "cannot initialize: protocolVersion must be a string"
            raise InvalidParams(text, field="protocolVersion")
        self._is_legacy = True
        return {
            "protocolVersion": asked if asked in LEGACY_VERSIONS else LEGACY_VERSIONS[-1],
            "capabilities": _CAPABILITIES,
            "serverInfo": _SERVER_INFO,
            "instructions": _INSTRUCTIONS,
        }

    def _call(self, method: str, params: Mapping[str, object]) -> dict[str, object]:
        if method == "tools/list":
            if params.get("cursor") is not None:
                text = "cannot list tools: there is one page, and no cursor leads to another"
                raise InvalidParams(text, field="cursor")
            return {"tools": [tool.to_wire() for tool in TOOLS.values()]}
        if method == "tools/call":
            return self._call_tool(params)
        raise MethodNotFound(f'cannot call "{method}": no such method', method=method)

    def _call_tool(self, params: Mapping[str, object]) -> dict[str, object]:
        name = params.get("name")
        tool = TOOLS.get(name) if isinstance(name, str) else None
        if tool is None:
            text = f"cannot call tool {encode(name).decode()}: the tools are {', '.join(TOOLS)}"
            raise InvalidParams(text, field="name", tools=list(TOOLS))
        raw = params.get("arguments")
        arguments: dict[str, object] | None = {} if raw is None else as_object(raw)
        if arguments is None:
            text = f'cannot call tool "{name}": arguments must be an object'
            raise InvalidParams(text, field="arguments")
        try:
            check(tool.input_schema, arguments)
            structured = tool.call(self._memory, arguments)
        except CorralError as error:
            return {
                "content": [{"type": "text", "text": error.message}],
                "isError": True,
                "_meta": {_META_ERROR: error.to_record()},
            }
        return {
            "content": [{"type": "text", "text": encode(structured).decode()}],
            "structuredContent": structured,
            "isError": False,
        }


def _check_envelope(method: str, meta: Mapping[str, object]) -> None:
    """Requires what 2026-07-28 demands of each request, or a connection that has said `initialize`."""
    missing = [key for key in (_META_VERSION, _META_CAPABILITIES) if key not in meta]
    if missing:
        text = f'cannot call "{method}": params._meta lacks {" and ".join(missing)}, and no initialize came before'
        raise InvalidParams(text, field="_meta", missing=missing)
    version = meta[_META_VERSION]
    if not isinstance(version, str):
        text = f'cannot call "{method}": {_META_VERSION} must be a string'
        raise InvalidParams(text, field=_META_VERSION)
    if as_object(meta[_META_CAPABILITIES]) is None:
        text = f'cannot call "{method}": {_META_CAPABILITIES} must be an object'
        raise InvalidParams(text, field=_META_CAPABILITIES)
    if version not in MODERN_VERSIONS:
        text = f'cannot speak MCP "{version}": a request with _meta can have {", ".join(MODERN_VERSIONS)}'
        raise UnsupportedVersion(text, supported=list(MODERN_VERSIONS), requested=version)


def serve(memory: Memory, read_fd: int, write_fd: int) -> None:
    """Answers requests until the client closes its end; what is no request gets its error and is over."""
    server = Server(memory)
    peer = Peer(answer_foreign=True)
    while True:
        data = os.read(read_fd, READ_BYTES)
        for event in peer.receive(data) if data else peer.finish():
            if isinstance(event, Request):
                _answer(server, peer, event)
                _write_all(write_fd, peer.take())
        _write_all(write_fd, peer.take())
        if not data:
            return


def _answer(server: Server, peer: Peer, request: Request) -> None:
    try:
        peer.respond(request.id, server.answer(request.method, request.params))
    except CorralError as error:
        peer.fail(request.id, error)
    except Exception as defect:  # ours: this client hears of it, its next request is served
        sys.excepthook(type(defect), defect, defect.__traceback__)
        text = f'cannot answer "{request.method}": {type(defect).__name__}, see the log'
        peer.fail(request.id, InternalError(text))


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


# -- the tools


def _text(longest: int, what: str) -> dict[str, object]:
    return {"type": "string", "minLength": 1, "maxLength": longest, "description": what}


def _name(longest: int, what: str) -> dict[str, object]:
    return {**_text(longest, what), "pattern": r"^[^\u0000-\u001f]+$"}


def _object_of(
    properties: Mapping[str, object], required: Sequence[str], *, closed: bool = True
) -> dict[str, object]:
    schema: dict[str, object] = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


_NAMESPACE = _name(256, "The part of the memory; the parts know nothing of each other.")
_KEY = _name(512, "A name for the item: storing under it again replaces its content.")
_ID = _name(64, "The id that storing or searching gave.")
_TAGS: dict[str, object] = {"type": "array", "maxItems": 64, "items": _name(128, "A label.")}
_METADATA: dict[str, object] = {
    "type": "object",
    "description": "Facts for programs; not searched.",
}
_TIME: dict[str, object] = {"type": "string", "description": "UTC, RFC 3339."}
_TIME_OR_NULL: dict[str, object] = {"type": ["string", "null"], "description": "UTC, RFC 3339."}
_IDS: dict[str, object] = {"type": "array", "items": {"type": "string"}}

_ITEM_SHAPE: dict[str, object] = {
    "id": {"type": "string"},
    "key": {"type": ["string", "null"]},
    "namespace": {"type": "string"},
    "content": {"type": "string"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "metadata": {"type": "object"},
    "created_at": _TIME,
    "expires_at": _TIME_OR_NULL,
    "archived_at": _TIME_OR_NULL,
}


def _store(memory: Memory, arguments: Mapping[str, object]) -> dict[str, object]:
    ttl_s = arguments.get("ttl_s")
    stored = memory.store(
        str(arguments["content"]),
        key=_string(arguments, "key"),
        namespace=_string(arguments, "namespace") or "default",
        tags=_strings(arguments, "tags"),
        metadata=as_object(arguments.get("metadata")),
        ttl_s=float(ttl_s) if isinstance(ttl_s, int | float) else None,
        idempotency_key=_string(arguments, "idempotency_key"),
    )
    return {"id": stored.id, "created": stored.created}


def _search(memory: Memory, arguments: Mapping[str, object]) -> dict[str, object]:
    limit = arguments.get("limit", 10)
    found = memory.search(
        str(arguments["query"]),
        namespace=_string(arguments, "namespace"),
        tags=_strings(arguments, "tags"),
        metadata=as_object(arguments.get("metadata")),
        since=_moment(arguments, "since"),
        until=_moment(arguments, "until"),
        limit=int(limit) if isinstance(limit, int | float) else 10,
        cursor=_string(arguments, "cursor"),
    )
    items = [{**_shape(item), "score": score} for item, score in found.items]
    answer: dict[str, object] = {"items": items, "truncated": found.truncated}
    if found.cursor is not None:
        answer["next_cursor"] = found.cursor
    if found.damaged:
        answer["damaged"] = list(found.damaged)
    return answer


def _retrieve(memory: Memory, arguments: Mapping[str, object]) -> dict[str, object]:
    item_id, key = _string(arguments, "id"), _string(arguments, "key")
    if (item_id is None) == (key is None):
        text = "cannot call cortex_retrieve: give either id or key"
        raise InvalidParams(text, field="id", fields=["id", "key"])
    namespace = _string(arguments, "namespace")
    if item_id is None:
        namespace = namespace or "default"
    return _shape(memory.retrieve(item_id=item_id, key=key, namespace=namespace))


def _consolidate(memory: Memory, arguments: Mapping[str, object]) -> dict[str, object]:
    dry_run = arguments.get("dry_run", True) is not False
    namespace = _string(arguments, "namespace")
    done = memory.consolidate(namespace=namespace, dry_run=dry_run)
    return {"archived": done.archived, "kept": done.kept, "dry_run": dry_run}


def _shape(item: Item) -> dict[str, object]:
    return item._asdict()


def _string(arguments: Mapping[str, object], name: str) -> str | None:
    value = arguments.get(name)
    return value if isinstance(value, str) else None


def _moment(arguments: Mapping[str, object], name: str) -> float | None:
    text = _string(arguments, name)
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        words = "must be a time such as 2026-01-31T12:00:00Z"
        raise _misfit(name, "format", words) from error


def _strings(arguments: Mapping[str, object], name: str) -> list[str]:
    return [each for each in as_array(arguments.get(name)) or () if isinstance(each, str)]


_TOOLS = (
    Tool(
        "cortex_store",
        "Remember",
        "Store a text for later. With a key, storing again replaces the text. Without one, the same "
        "text is kept once in a namespace, and its id comes back with created = false.",
        _object_of(
            {
                "content": {"type": "string", "minLength": 1, "description": "The text."},
                "key": _KEY,
                "namespace": {**_NAMESPACE, "default": "default"},
                "tags": {**_TAGS, "description": "Labels that a search can require."},
                "metadata": _METADATA,
                "ttl_s": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": 3_153_600_000,
                    "description": "Forget it after that many seconds; without it, never.",
                },
                "idempotency_key": _name(
                    256, "Of this one store: the same again with it, within a week, does nothing."
                ),
            },
            ["content"],
        ),
        _object_of(
            {"id": {"type": "string"}, "created": {"type": "boolean"}},
            ["id", "created"],
            closed=False,
        ),
        {"readOnlyHint": False, "destructiveHint": False, "idempotentHint": True},
        _store,
    ),
    Tool(
        "cortex_search",
        "Search the memory",
        "Find texts by words: those with all words of the query, or else with any of them, the best "
        "and newest first. Any text is a valid query.",
        _object_of(
            {
                "query": {"type": "string", "maxLength": 10_000, "description": "Words."},
                "namespace": {**_NAMESPACE, "description": "Search here only; else everywhere."},
                "tags": {**_TAGS, "description": "Find only what has all of these labels."},
                "metadata": {
                    "type": "object",
                    "description": "Find only what has these members with these values.",
                },
                "since": {**_TIME, "maxLength": 64},
                "until": {**_TIME, "maxLength": 64},
                "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
                "cursor": {
                    "type": "string",
                    "maxLength": 128,
                    "description": "The next_cursor of the same search: go on behind it.",
                },
            },
            ["query"],
        ),
        _object_of(
            {
                "items": {
                    "type": "array",
                    "items": _object_of(
                        {
                            **_ITEM_SHAPE,
                            "score": {"type": "number", "description": "Higher is better."},
                        },
                        [*_ITEM_SHAPE, "score"],
                        closed=False,
                    ),
                },
                "truncated": {
                    "type": "boolean",
                    "description": "True when more was found than fits into one answer.",
                },
                "next_cursor": {
                    "type": "string",
                    "description": "Where to go on; absent when that was all.",
                },
                "damaged": {
                    **_IDS,
                    "description": "Items that were found, but are not what was stored.",
                },
            },
            ["items", "truncated"],
            closed=False,
        ),
        {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True},
        _search,
    ),
    Tool(
        "cortex_retrieve",
        "Recall one item",
        "Get one item by its id, or by its key in a namespace.",
        _object_of(
            {
                "id": _ID,
                "key": _KEY,
                "namespace": {**_NAMESPACE, "description": 'Of a key "default", of an id any.'},
            },
            [],
        ),
        _object_of(_ITEM_SHAPE, list(_ITEM_SHAPE), closed=False),
        {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True},
        _retrieve,
    ),
    Tool(
        "cortex_consolidate",
        "Tidy the memory",
        "Archive what has expired, and all but the newest of texts that differ in case, spacing or "
        "Unicode form only. Nothing is deleted. Without dry_run = false it only says what it would do.",
        _object_of(
            {
                "namespace": {**_NAMESPACE, "description": "Tidy this part only; else all."},
                "dry_run": {"type": "boolean", "default": True},
            },
            [],
        ),
        _object_of(
            {"archived": _IDS, "kept": _IDS, "dry_run": {"type": "boolean"}},
            ["archived", "kept", "dry_run"],
            closed=False,
        ),
        {"readOnlyHint": False, "destructiveHint": False, "idempotentHint": True},
        _consolidate,
    ),
)
TOOLS = {tool.name: tool for tool in _TOOLS}


# -- arguments: as much JSON Schema as the tools above use, so that the schema and the check agree

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}


def check(schema: Mapping[str, object], value: object, field: str = "arguments") -> None:
    """Checks a value against the schema of a tool here.

    Raises:
        InvalidParams: it does not fit; `data` has the field, and the rule that it breaks.
    """
    kind = str(schema["type"])
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of number
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        raise _misfit(field, "type", f"must be of type {kind}")
    if isinstance(value, str):
        _check_text(schema, value, field)
    elif isinstance(value, int | float):
        _check_bounds(schema, value, field, "minimum", "maximum")
        least = schema.get("exclusiveMinimum")
        if isinstance(least, int) and not value > least:
            raise _misfit(field, "exclusiveMinimum", f"must be more than {least}")
    elif (array := as_array(value)) is not None:
        _check_bounds(schema, len(array), field, "minItems", "maxItems")
        items = as_object(schema["items"]) or {}
        for index, each in enumerate(array):
            check(items, each, f"{field}[{index}]")
    elif (members := as_object(value)) is not None and "properties" in schema:
        _check_members(schema, members)


def _check_text(schema: Mapping[str, object], value: str, field: str) -> None:
    _check_bounds(schema, len(value), field, "minLength", "maxLength")
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and re.fullmatch(pattern, value) is None:
        raise _misfit(field, "pattern", "must not contain control characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _misfit(field, "unicode", f"has half of a surrogate pair at {error.start}") from error


def _check_bounds(
    schema: Mapping[str, object], size: float, field: str, least_rule: str, most_rule: str
) -> None:
    least, most = schema.get(least_rule), schema.get(most_rule)
    unit = {"maxLength": " characters", "maxItems": " items"}.get(most_rule, "")
    if isinstance(least, int) and size < least:
        raise _misfit(field, least_rule, f"must be at least {least}{unit}")
    if isinstance(most, int) and size > most:
        raise _misfit(field, most_rule, f"must be at most {most}{unit}")


def _check_members(schema: Mapping[str, object], members: Mapping[str, object]) -> None:
    properties = as_object(schema["properties"]) or {}
    for name in as_array(schema.get("required")) or ():
        if name not in members:
            raise _misfit(str(name), "required", "is missing")
    for name, value in members.items():
        member = as_object(properties.get(name))
        if member is None:
            raise _misfit(name, "additionalProperties", f"is not one of {', '.join(properties)}")
        check(member, value, name)


def _misfit(field: str, rule: str, words: str) -> InvalidParams:
    return InvalidParams(f'cannot take the arguments: "{field}" {words}', field=field, rule=rule)


# -- the command


def default_path(environ: Mapping[str, str]) -> Path:
    """Where the memory is when the command line does not say it."""
    named = environ.get("CORTEX_DB")
    if named:
        return Path(named)
    state = environ.get("XDG_STATE_HOME")
    # The base directory specification: a relative path is to be ignored.
    folder = Path(state) if state and state.startswith("/") else Path.home() / ".local/state"
    return folder / "corral" / "cortex.db"


class Options(NamedTuple):
    """What the command line says."""

    path: Path
    quota: Quota
    max_file_bytes: int


_SIZE = re.compile(r"([1-9][0-9]{0,15})(|KiB|MiB|GiB|TiB)")


def _options(arguments: Sequence[str]) -> Options | None:
    """What the command line says; None where it says nothing that can be understood."""
    if list(arguments[:2]) != ["mcp", "stdio"] or len(arguments) % 2:
        return None
    given = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    named = given.pop("--db", None)
    usual = Quota()
    numbers = {
        "--max-items": usual.items,
        "--max-bytes": usual.bytes,
        "--max-file-bytes": MAX_FILE_BYTES,
    }
    for option, text in given.items():
        size = _SIZE.fullmatch(text)
        if option not in numbers or size is None:
            return None
        numbers[option] = int(size[1]) << 10 * ("", "KiB", "MiB", "GiB", "TiB").index(size[2])
    if named == "" or len(given) + (named is not None) < (len(arguments) - 2) // 2:  # one twice
        return None
    path = default_path(os.environ) if named is None else Path(named)
    quota = Quota(numbers["--max-items"], numbers["--max-bytes"])
    return Options(path, quota, numbers["--max-file-bytes"])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `corral-cortex`; returns the exit status: 0, 1 when the file is unusable, 2 for usage."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--help"], ["-h"], ["--version"]):
        print(f"corral-cortex {__version__}" if arguments == ["--version"] else USAGE)
        return 0
    options = _options(arguments)
    if options is None:
        print(f"corral-cortex: cannot understand {arguments}; {USAGE}", file=sys.stderr)
        return 2
    try:
        store = Store(options.path, max_file_bytes=options.max_file_bytes)
    except CorralError as error:
        print(f"corral-cortex: {error.message}", file=sys.stderr)
        return 1
    try:
        serve(Memory(store, quota=options.quota), STDIN_FD, STDOUT_FD)
    except BrokenPipeError:
        pass  # the client went away without waiting for its answer
    finally:
        store.close()
    return 0


def _leave(number: int, _frame: object) -> NoReturn:
    # An open transaction is rolled back on the way out: nobody was told that it is stored.
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
