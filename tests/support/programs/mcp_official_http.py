"""The server of mcp_official.py over HTTP; its port is the only line on stdout."""

import asyncio
import socket

import uvicorn

from programs.mcp_official import server


async def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(server.streamable_http_app(), log_level="warning")
    print(listening.getsockname()[1], flush=True)
    await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    asyncio.run(main())
