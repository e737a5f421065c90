"""An MCP server with one tool, `echo`, that does as little as possible: what is measured is the way to it."""

import os

import msgspec


class Message(msgspec.Struct):
    """What is read of a request."""

    id: int | str | None = None
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"{}")


class Arguments(msgspec.Struct):
    """Of the tool."""

    text: str


class Call(msgspec.Struct):
    """The params of `tools/call`."""

    arguments: Arguments


class Hello(msgspec.Struct):
    """The params of `initialize`."""

    protocolVersion: str


TOOL = {
    "name": "echo",
    "description": "Says what it was told.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "annotations": {"readOnlyHint": True},
}

REFUSAL = {"code": -32601, "message": "there is no such method"}

read_call = msgspec.json.Decoder(Call).decode


def answer(message: Message) -> dict[str, object]:
    """The answer to a request, without what all answers have."""
    if message.method == "tools/call":
        text = read_call(message.params).arguments.text
        return {"result": {"content": [{"type": "text", "text": text}]}}
    if message.method == "tools/list":
        return {"result": {"tools": [TOOL]}}
    if message.method == "ping":
        return {"result": {}}
    if message.method == "initialize":
        version = msgspec.json.decode(message.params, type=Hello).protocolVersion
        about = {"name": "echo", "version": "1"}
        result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
        return {"result": result}
    return {"error": REFUSAL}


def main() -> None:
    """Serves until its input ends."""
    decode, encode = msgspec.json.Decoder(Message).decode, msgspec.json.Encoder().encode
    rest = b""
    while data := os.read(0, 65536):
        *lines, rest = (rest + data).split(b"\n")
        answers: list[bytes] = []
        for line in lines:
            message = decode(line)
            if message.id is not None:
                said = {"jsonrpc": "2.0", "id": message.id, **answer(message)}
                answers += (encode(said), b"\n")
        left = memoryview(b"".join(answers))
        while left:
            left = left[os.write(1, left) :]


if __name__ == "__main__":
    main()
