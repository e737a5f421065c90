"""What the conformance suite starts as the client under test: corral's own session, over its process for remote servers.

The suite appends the server's address, and names the scenario and the revision in the environment. Nothing here mends
what the client does: it calls what the scenario has to see called.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from corral.mcp.protocol.caller import Caller
from corral.mcp.upstream.http_bridge import HEADERS_VARIABLE, URL_VARIABLE
from corral.mcp.upstream.session import Session
from corral.worker.contract.errors import CorralError

BOUND_S = 20.0

Json = dict[str, Any]  # MCP's objects, read freely


async def ask(method: str, params: Mapping[str, object]) -> object:
    """The answer of a person who accepts every form as it is."""
    if method != "elicitation/create":
        return {"roots": []}
    schema: Json = dict(params)["requestedSchema"]  # type: ignore[assignment]  # MCP's object
    properties: Json = schema["properties"]
    content = {name: one["default"] for name, one in properties.items() if "default" in one}
    return {"action": "accept", "content": content}


PERSON = Caller(name="conformance", capabilities={"elicitation": {}, "roots": {}}, ask=ask)


@contextlib.asynccontextmanager
async def session(url: str, version: str) -> AsyncGenerator[Session, None]:
    """A session with the server; its process is gone afterwards."""
    read_fd, its_stdout = os.pipe()
    its_stdin, write_fd = os.pipe()
    process = subprocess.Popen(
        (sys.executable, "-P", "-m", "corral.mcp.upstream.http_bridge"),
        stdin=its_stdin,
        stdout=its_stdout,
        env={**os.environ, URL_VARIABLE: url, HEADERS_VARIABLE: "{}"},
    )
    os.close(its_stdin)
    os.close(its_stdout)
    opened = Session(
        "conformance",
        request_timeout_s=BOUND_S,
        client_version="0",
        protocol_version=version,
        relays=("elicitation", "roots"),
    )
    try:
        await opened.open(read_fd, write_fd, timeout_s=BOUND_S)
        yield opened
    finally:
        opened.close_input()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(opened.wait_closed(), BOUND_S)
        opened.close()
        process.kill()
        process.wait()


async def call(client: Session, name: str, arguments: Json) -> Json:
    """One call, with what the server wants to know from a person brought along in the next try."""
    params: Json = {"name": name, "arguments": arguments}
    while True:
        result = await client.request("tools/call", params, caller=PERSON)
        if result.get("resultType") != "input_required":
            return result
        requests: Json = result.get("inputRequests") or {}  # type: ignore[assignment]  # MCP's object
        responses = {key: await ask(one["method"], one["params"]) for key, one in requests.items()}
        params = {"name": name, "arguments": arguments, "inputResponses": responses}
        if "requestState" in result:
            params["requestState"] = result["requestState"]


async def use_everything(client: Session) -> None:
    for tool in client.tools:
        await call(client, tool.name, {})
    for resource in client.catalogue.resources:
        await client.request("resources/read", {"uri": resource["uri"]})
    for prompt in client.catalogue.prompts:
        await client.request("prompts/get", {"name": prompt["name"]})


async def echo_schema(client: Session) -> None:
    schemas = {tool.name: tool.input_schema for tool in client.tools}
    await call(client, "json_schema_echo", {"schema": schemas["json_schema_2020_12_tool"]})


async def play(client: Session, scenario: str, context: Json) -> None:
    match scenario:
        case "initialize" | "request-metadata" | "json-schema-ref-no-deref":
            pass  # opening lists the tools
        case "tools_call":
            await call(client, client.tools[0].name, {"a": 2, "b": 3})
        case "http-custom-headers":
            for one in context["toolCalls"]:
                await call(client, one["name"], one["arguments"])
        case "http-invalid-tool-headers":
            for tool in client.tools:
                await call(client, tool.name, dict.fromkeys(tool.input_schema["properties"], "x"))  # type: ignore[call-overload]  # MCP's object
        case "json-schema-2020-12-preservation":
            await echo_schema(client)
        case _:
            await use_everything(client)


async def main(url: str) -> None:
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    version = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
    context: Json = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    try:
        async with session(url, version) as client:
            await play(client, scenario, context)
    except CorralError as error:
        if error.data.get("code") != -32022:
            raise
        # A start that failed is tried again, as the daemon does.
        async with session(url, version) as client:
            await play(client, scenario, context)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1]))
