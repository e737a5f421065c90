"""Questions of tasks reach the person at an MCP client by elicitation: the official SDK, in both eras, on stdio and HTTP."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from daemon_process import AGENTS, BOUND_S, DaemonProcess
from mcp_editor import CORRAL

pytestmark = pytest.mark.contract

CONFIG = f"""
[daemon]
http = "127.0.0.1:0"
[process]
working_directory = "{AGENTS}"
[agents.questions]
entrypoint = "questions_agent:agent"
instances = 3
expose = true
"""

ERAS = ("legacy", "2026-07-28")

Said = Mapping[str, object]
Answer = Callable[[Any], Awaitable[Said]]
"""What the person at a client says to the params of an elicitation."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("elicitation"), CONFIG) as running:
        running.call("agent.start", names=["questions"])
        yield running


async def connect(
    stack: AsyncExitStack, daemon: DaemonProcess, era: str, answer: Answer | None, *, http: bool
) -> Any:  # an SDK client
    from mcp.client.client import Client  # noqa: PLC0415  it takes a second
    from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: PLC0415  as above
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415  as above
    from mcp_types import ElicitResult  # noqa: PLC0415  as above

    async def called(_context: Any, params: Any) -> Any:
        assert answer is not None
        return ElicitResult.model_validate(await answer(params))

    transport: Any
    if http:
        import httpx2 as httpx  # noqa: PLC0415  as above

        address = daemon.call("daemon.status")["daemon"]["http"]
        token = (daemon.state_dir / "http.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        calling = await stack.enter_async_context(httpx.AsyncClient(headers=headers, timeout=60))
        transport = streamable_http_client(f"http://{address}/mcp", http_client=calling)
    else:
        args = ["--socket", str(daemon.socket), "mcp", "serve"]
        transport = stdio_client(StdioServerParameters(command=CORRAL, args=args))
    callback: Any = None if answer is None else called
    client = Client(transport, mode=era, elicitation_callback=callback)
    return await stack.enter_async_context(client)


def run(
    daemon: DaemonProcess, era: str, answer: Answer | None, question: str, tool: str = "corral__run", **more: Any
) -> Any:
    """The result of a call by which a task asks a question."""

    async def call() -> Any:
        async with asyncio.timeout(BOUND_S), AsyncExitStack() as stack:
            client = await connect(stack, daemon, era, answer, http=False)
            arguments = {"objective": question, "input": more}
            if tool == "corral__run":
                arguments["agent"] = "questions"
            return await client.call_tool(tool, arguments)

    return asyncio.run(call())


def saying(**said: object) -> tuple[list[Any], Answer]:
    heard: list[Any] = []

    async def answer(params: Any) -> Said:
        heard.append(params)
        return said

    return heard, answer


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("tool", ["corral__run", "agent__questions"])
def test_the_person_at_the_client_of_a_task_is_asked_and_its_answer_counts(
    daemon: DaemonProcess, era: str, tool: str
) -> None:
    heard, answer = saying(action="accept", content={"answer": "Yes"})
    result = run(daemon, era, answer, f"Deploy by {tool} {era}?", tool, options=["Yes", "no"])
    assert not result.is_error, result
    assert result.content[0].text == "Yes"
    (params,) = heard
    assert params.message == f"questions: Deploy by {tool} {era}?"
    assert params.requested_schema["properties"]["answer"]["enum"] == ["Yes", "no"]
    ended = daemon.call("approval.list", ended=True, agent="questions")["approvals"][0]
    assert (ended["state"], ended["answer"]) == ("answered", "Yes")
    record = daemon.call("audit.list", actions=["approval.answer"])["records"][-1]
    assert record["told"]["answer"] == "Yes"


@pytest.mark.parametrize("era", ERAS)
def test_to_decline_is_to_refuse_where_there_is_an_option_for_it(daemon: DaemonProcess, era: str) -> None:
    _, answer = saying(action="decline")
    result = run(daemon, era, answer, f"Delete {era}?", options=["yes", "no"])
    assert result.content[0].text == "no"


@pytest.mark.long
@pytest.mark.parametrize("era", ERAS)
def test_a_cancelled_form_leaves_the_question_open_until_its_time_limit(daemon: DaemonProcess, era: str) -> None:
    heard, answer = saying(action="cancel")
    result = run(daemon, era, answer, f"Perhaps {era}?", timeout_s=1, default="later")
    assert result.content[0].text == "later"
    assert len(heard) == 1


@pytest.mark.long
@pytest.mark.parametrize("era", ERAS)
def test_a_client_without_elicitation_waits_for_others(daemon: DaemonProcess, era: str) -> None:
    result = run(daemon, era, None, f"Anybody {era}?", timeout_s=0.5, default="nobody")
    assert result.content[0].text == "nobody"


def test_a_form_is_withdrawn_when_another_client_has_answered_first(daemon: DaemonProcess) -> None:
    async def scene() -> tuple[Any, Any, bool]:
        shown, withdrawn = asyncio.Event(), asyncio.Event()

        async def slow(_params: Any) -> Said:
            shown.set()
            try:
                await asyncio.Event().wait()
            finally:
                withdrawn.set()
            raise AssertionError("it waits for ever")

        async def quick(_params: Any) -> Said:
            return {"action": "accept", "content": {"answer": "two"}}

        async with asyncio.timeout(BOUND_S), AsyncExitStack() as stack:
            first = await connect(stack, daemon, "legacy", slow, http=False)
            second = await connect(stack, daemon, "legacy", quick, http=True)
            order: Any = {"agent": "questions", "objective": "Which?", "input": {}}
            running = asyncio.create_task(first.call_tool("corral__run", order))
            await shown.wait()
            listed = await second.call_tool("corral__approvals", {"agent": "questions"})
            result = await running
            await withdrawn.wait()
            return listed, result, withdrawn.is_set()

    listed, result, was_withdrawn = asyncio.run(scene())
    assert listed.structured_content["approvals"] == []
    assert result.content[0].text == "two"
    assert was_withdrawn


@pytest.mark.parametrize("http", [False, True])
def test_a_modern_client_is_asked_all_open_questions(daemon: DaemonProcess, http: bool) -> None:
    tasks = [
        daemon.call("task.submit", agent="questions", objective=f"{number} {http}?", input={})["id"]
        for number in (1, 2)
    ]
    with daemon.client() as client:
        client.call("event.follow", {"types": ["approval.asked"]}, timeout_s=BOUND_S)
        asks = client.notifications()
        while len(daemon.call("approval.list", agent="questions")["approvals"]) < 2:
            next(asks)

    async def answer(params: Any) -> Said:
        return {"action": "accept", "content": {"answer": params.message}}

    async def call() -> Any:
        async with asyncio.timeout(BOUND_S), AsyncExitStack() as stack:
            client = await connect(stack, daemon, "2026-07-28", answer, http=http)
            return await client.call_tool("corral__approvals", {})

    assert asyncio.run(call()).structured_content["approvals"] == []
    outputs = [daemon.call("task.wait", task=task)["output"] for task in tasks]
    assert outputs == [f"questions: {number} {http}?" for number in (1, 2)]


def test_a_call_goes_on_with_the_task_that_it_has_begun_alone(daemon: DaemonProcess) -> None:
    other = daemon.call("task.run", agent="questions", objective="x?", input={"timeout_s": 0.1})

    async def call() -> Any:
        async with asyncio.timeout(BOUND_S), AsyncExitStack() as stack:
            _, answer = saying(action="cancel")
            client = await connect(stack, daemon, "2026-07-28", answer, http=False)
            order: Any = {"agent": "questions", "objective": "y?", "input": {}}
            state = f'{{"task": "{other["id"]}", "asked": []}}'
            return await client.session.call_tool("corral__run", order, request_state=state)

    result = asyncio.run(call())
    assert result.is_error
    assert result.meta["corral/error"]["data"]["key"] == "requestState"
