"""Adds, changes and removes agents, teams and workflows of a daemon while it runs.

python examples/dynamic_runtime_management.py
"""

import asyncio

from corral import AgentRuntime, Conflict
from corral.worker import Agent, SyncTask

poet = Agent("poet")


@poet.task
def write(task: SyncTask) -> str:
    """Writes a line on the input, or on the objective."""
    return f"{task.input or task.objective}: grey wings over the pond"


counter = Agent("counter")


@counter.task
def count(task: SyncTask) -> int:
    """Counts the words of the input."""
    return len(str(task.input).split())


async def names(runtime: AgentRuntime) -> str:
    """Returns what the daemon has now, in one line."""
    status = await runtime.status()
    agents = [each.name for each in status.agents]
    teams = [each.name for each in status.teams]
    workflows = [each.name for each in status.workflows]
    return f"agents: {agents}; teams: {teams}; workflows: {workflows}"


async def main() -> None:
    async with AgentRuntime.start() as runtime:
        await runtime.spawn_agent(poet)
        await runtime.spawn_agent("second", agent=poet, labels={"tier": "spare"})
        await runtime.spawn_agent(counter)
        await runtime.add_team("both", {"mode": "broadcast", "members": ["poet", "second"]})
        steps = [
            {"name": "write", "agent": "poet", "input": "${input}"},
            {"name": "count", "agent": "counter", "input": "${steps.write.output}", "after": ["write"]},
        ]
        await runtime.add_workflow("counted", {"steps": steps})
        print(await names(runtime))

        print("team:", await runtime.run_team("both", "herons"))
        print("workflow:", await runtime.run_workflow("counted", input="herons"))

        scaled = await runtime.scale_agent("poet", 3)
        print("poet has", len(scaled.workers), "workers")
        try:
            await runtime.remove_agent("poet")
        except Conflict as error:
            print("refused:", error.message)
        print("removed:", await runtime.remove_agent("poet", cascade=True))
        print("removed:", (await runtime.remove_agents(selector="tier=spare")).removed)
        print(await names(runtime))


if __name__ == "__main__":
    asyncio.run(main())
