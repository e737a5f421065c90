"""A program with agents of its own: it starts a daemon for itself, has three agents work at once, and leaves nothing.

python examples/embedded/summary.py TEXT...
"""

import asyncio
import sys
from pathlib import Path

from corral import AgentRuntime, CorralError, Task

HERE = Path(__file__).parent


async def summarise(texts: list[str]) -> list[str]:
    """One line for each text, in order."""
    async with AgentRuntime.start({"tasks": {"max_attempts": 2}}) as runtime:
        await runtime.spawn_agent(
            "counter",
            entrypoint="counter:agent",
            instances=3,
            process={"working_directory": str(HERE)},
            resources={"max_memory_bytes": "256MiB"},
        )
        results = await runtime.execute_tasks_parallel(
            [{"agent": "counter", "objective": "count", "input": text} for text in texts], max_parallel=3
        )
        figures = await runtime.get_statistics()
        lines = [told(result) for result in results]
        return [*lines, f"{figures.executor.ok} of {figures.executor.total} tasks succeeded"]


def told(result: Task | CorralError) -> str:
    """What became of one text."""
    if isinstance(result, CorralError):
        return f"not done: {result.message}"
    if result.error is not None:
        return f"failed: {result.error.message}"
    return str(result.output)


if __name__ == "__main__":
    print("\n".join(asyncio.run(summarise(sys.argv[1:] or ["a crew of agents", "", "one"]))))
