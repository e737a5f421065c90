"""`Agent.test` runs a handler in the test itself, without a daemon, and returns what a caller would get."""

import asyncio

import pytest

from corral.worker import Agent, SyncTask, Task
from corral.worker.errors import InvalidParams, NotFound

pytestmark = pytest.mark.shell


def agent_of(*, is_async: bool) -> Agent:
    """An agent with a handler of one kind, that does what its objective says."""
    agent = Agent("tested")
    opened: list[str] = []

    @agent.on_start
    def begin(start: object) -> None:
        opened.append("open")

    @agent.on_shutdown
    def end() -> None:
        opened.clear()

    if is_async:

        @agent.task
        async def run(task: Task) -> object:
            assert opened == ["open"]
            if task.objective == "tool":
                result = await task.tool("git__git_log", repo=task.input)
                return [result.text, result.structured]
            if task.objective == "delegate":
                return (await task.delegate("reader", "count", input=task.input)).output
            if task.objective == "remember":
                await task.remember("key", task.input)
                return await task.recall("key")
            if task.objective == "fail":
                raise KeyError("x")
            await task.progress(0.5, "half")
            return {"given": task.input, "context": task.context, "config": task.config}
    else:

        @agent.task
        def run_sync(task: SyncTask) -> object:
            if task.objective == "tool":
                result = task.tool("git__git_log", repo=task.input)
                return [result.text, result.structured]
            if task.objective == "delegate":
                return task.delegate("reader", "count", input=task.input).output
            if task.objective == "remember":
                task.remember("key", task.input)
                return task.recall("key")
            if task.objective == "fail":
                raise KeyError("x")
            task.progress(0.5, "half")
            return {"given": task.input, "context": task.context, "config": task.config}

    return agent


@pytest.mark.parametrize("is_async", [True, False])
def test_a_handler_runs_without_a_daemon(is_async: bool) -> None:
    agent = agent_of(is_async=is_async)
    found = agent.test("say", (1, 2), context="c", config={"k": 1})
    assert found == {"given": [1, 2], "context": "c", "config": {"k": 1}}
    assert agent.test("remember", {"a": 1}) == {"a": 1}

    def log(arguments: dict[str, object]) -> object:
        return {"log": arguments["repo"]}

    def count(task: dict[str, int]) -> object:
        return task["input"] + 1

    tools = {"git__git_log": log}
    assert agent.test("tool", "here", tools=tools) == ['{"log":"here"}', {"log": "here"}]
    assert agent.test("delegate", 3, agents={"reader": count}) == 4
    with pytest.raises(KeyError):
        agent.test("fail")
    with pytest.raises(NotFound):
        agent.test("tool", "here")


def test_it_may_be_called_on_a_loop() -> None:
    async def inside() -> object:
        return agent_of(is_async=True).test("say", 5)

    assert asyncio.run(inside()) == {"given": 5, "context": None, "config": {}}


def test_an_agent_without_a_handler_cannot_be_tested() -> None:
    with pytest.raises(InvalidParams):
        Agent("bare").test("say")
