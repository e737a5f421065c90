"""Serves the built-in memory as an MCP server on stdio: four tools over `memory`, a process of its own.

It serves both eras of MCP, request by request: one with the modern `_meta` is stateless (2026-07-28), all others after
an `initialize` are legacy (2024-11-05 to 2025-11-25). It is one blocking loop in one thread; an acknowledged store is
on the disk. It must not know the daemon, agents or asyncio: any MCP client may start it.
"""

import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from corral import __version__
from corral.worker.contract.codec import as_object, encode
from corral.worker.contract.errors import CorralError, InternalError, InvalidParams, MethodNotFound
from corral.worker.contract.jsonrpc import Peer, Request
from corral.worker.contract.mcp_info import LEGACY_VERSIONS, META, MODERN_VERSIONS

from .database import MAX_FILE_BYTES, Store
from .memory import Memory, Quota
from .tools import TOOLS, check

_META_VERSION = META + "protocolVersion"
_META_CAPABILITIES = META + "clientCapabilities"
_META_SERVER = META + "serverInfo"
_META_ERROR = "corral/error"
"""Key of the error record in the `_meta` of a failed tool call, whose content is for models and people."""

LIST_TTL_MS = 300_000
"""Milliseconds that clients may cache the list of tools; it changes only with the version of corral."""

READ_BYTES = 65_536
STDIN_FD, STDOUT_FD = 0, 1

USAGE = "usage: corral-cortex mcp stdio [--db FILE] [--max-items N] [--max-bytes SIZE] [--max-file-bytes SIZE]"

_SERVER_INFO = {"name": "corral-cortex", "title": "corral memory", "version": __version__}
_CAPABILITIES: dict[str, object] = {"tools": {}}
_INSTRUCTIONS = (
    "A memory that outlives this conversation. Store what should be known later, with a key when it "
    "will be updated; search by words; retrieve by key or id."
)


class UnsupportedVersion(InvalidParams):
    """Raised for a modern request whose revision is not supported; `data` lists those that are."""

    code = -32022


# -- the loop


class Server:
    """Answers MCP requests from a memory; the only state of a client is whether it is legacy."""

    def __init__(self, memory: Memory):
        self._memory = memory
        self._is_legacy = False

    def answer(self, method: str, params: Mapping[str, object]) -> dict[str, object]:
        """Returns the result of one request."""
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
            raise InvalidParams("cannot initialize: protocolVersion must be a string", field="protocolVersion")
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
            raise InvalidParams(f'cannot call tool "{name}": arguments must be an object', field="arguments")
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
    """Checks the keys that 2026-07-28 requires in each request of a client without `initialize`."""
    missing = [key for key in (_META_VERSION, _META_CAPABILITIES) if key not in meta]
    if missing:
        text = f'cannot call "{method}": params._meta lacks {" and ".join(missing)}, and no initialize came before'
        raise InvalidParams(text, field="_meta", missing=missing)
    version = meta[_META_VERSION]
    if not isinstance(version, str):
        raise InvalidParams(f'cannot call "{method}": {_META_VERSION} must be a string', field=_META_VERSION)
    if as_object(meta[_META_CAPABILITIES]) is None:
        raise InvalidParams(f'cannot call "{method}": {_META_CAPABILITIES} must be an object', field=_META_CAPABILITIES)
    if version not in MODERN_VERSIONS:
        text = f'cannot speak MCP "{version}": a request with _meta can have {", ".join(MODERN_VERSIONS)}'
        raise UnsupportedVersion(text, supported=list(MODERN_VERSIONS), requested=version)


def serve(memory: Memory, read_fd: int, write_fd: int) -> None:
    """Answers requests until the client closes its end; invalid lines get an error response."""
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
    except Exception as defect:  # a defect: the client gets an error, and its next request is served
        sys.excepthook(type(defect), defect, defect.__traceback__)
        peer.fail(request.id, InternalError(f'cannot answer "{request.method}": {type(defect).__name__}, see the log'))


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


# -- the command


def default_path(environ: Mapping[str, str]) -> Path:
    """Returns the path of the memory without a `--db` option."""
    named = environ.get("CORTEX_DB")
    if named:
        return Path(named)
    state = environ.get("XDG_STATE_HOME")
    # XDG Base Directory Specification: a relative path is ignored.
    folder = Path(state) if state and state.startswith("/") else Path.home() / ".local/state"
    return folder / "corral" / "cortex.db"


class Options(NamedTuple):
    """Represents the parsed command line."""

    path: Path
    quota: Quota
    max_file_bytes: int


_SIZE = re.compile(r"([1-9][0-9]{0,15})(|KiB|MiB|GiB|TiB)")


def _options(arguments: Sequence[str]) -> Options | None:
    if list(arguments[:2]) != ["mcp", "stdio"] or len(arguments) % 2:
        return None
    given = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    named = given.pop("--db", None)
    usual = Quota()
    numbers = {"--max-items": usual.items, "--max-bytes": usual.bytes, "--max-file-bytes": MAX_FILE_BYTES}
    for option, text in given.items():
        size = _SIZE.fullmatch(text)
        if option not in numbers or size is None:
            return None
        numbers[option] = int(size[1]) << 10 * ("", "KiB", "MiB", "GiB", "TiB").index(size[2])
    if named == "" or len(given) + (named is not None) < (len(arguments) - 2) // 2:  # an option was repeated
        return None
    path = default_path(os.environ) if named is None else Path(named)
    return Options(path, Quota(numbers["--max-items"], numbers["--max-bytes"]), numbers["--max-file-bytes"])


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
        pass  # the client has closed its end before the response
    finally:
        store.close()
    return 0


def _leave(number: int, _frame: object) -> NoReturn:
    # An open transaction is rolled back on exit: it has not been acknowledged.
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)
