"""An agent with the official MCP SDK: a server and a client of its own, joined in memory."""

import os
import random

from mcp.server import MCPServer

from corral.worker import Agent, Task
from mcp import Client

agent = Agent("mcp")
server = MCPServer("cities")


@server.tool()
def population(city: str) -> int:
    """How many people live in a city."""
    return 1000 * len(city)


@agent.task
async def run(task: Task) -> dict[str, object]:
    async with Client(server) as client:
        listed = await client.list_tools()
        called = await client.call_tool("population", {"city": "Vienna"})
    return {
        "answer": str(called.structured_content),
        "steps": [each.name for each in listed.tools],
        "pid": os.getpid(),
        "random": random.getrandbits(64),
    }
