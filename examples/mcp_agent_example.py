"""An agent that works with the tools of real MCP servers: git, and corral's own memory. It works without a network.

pip install mcp-server-git
python examples/mcp_agent_example.py [REPOSITORY]
"""

import asyncio
import sys
from pathlib import Path

from corral import AgentRuntime
from corral.worker import Agent, Task

librarian = Agent("librarian")


@librarian.task
async def keep(task: Task) -> str:
    """Stores the last commit of a repository in the memory, and returns what is found there."""
    log = await task.tool("git__git_log", repo_path=task.input, max_count=1)
    await task.tool("cortex__cortex_store", content=log.text, key="last-commit")
    found = await task.tool("cortex__cortex_retrieve", key="last-commit")
    return found.text


async def main(repository: str) -> None:
    """Starts the server and the agent, and has the agent work."""
    git = Path(sys.executable).with_name("mcp-server-git")  # beside this Python
    if not git.exists():
        sys.exit(f"cannot start {git}: pip install mcp-server-git")
    config = {"mcp": {"servers": {"git": {"command": [git]}}}}
    async with AgentRuntime.start(config) as runtime:
        tools = ["git__*", "cortex__*"]
        await runtime.spawn_agent(librarian, tools=tools)
        print("tools:", sorted(tool.name for tool in (await runtime.list_tools("git")).tools)[:3])
        print(await runtime.run_agent("librarian", input=repository))
        status = await runtime.call_tool("git__git_status", {"repo_path": repository})
        print("asked without an agent:", str(status)[:60])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if sys.argv[1:] else str(Path(__file__).parents[1])))
