"""What an agent streams reaches those who wait for its task: on the socket, by the command, in Python and over HTTP."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral import AgentRuntime, InvalidParams, Part, Runtime
from corral.worker.contract.jsonrpc import Notification
from corral.worker.contract.parts import MAX_PART_BYTES
from daemon_process import AGENTS, BOUND_S, DaemonProcess
from http_api_client import Api, events_of
from mcp_editor import serving

CREW = f"""
[daemon]
http = "127.0.0.1:0"

[agents.streams]
entrypoint = "streaming_agent:agent"
instances = 2
process.working_directory = "{AGENTS}"

[agents.texts]
entrypoint = "streaming_agent:texts"
http = "127.0.0.1:0"
process.working_directory = "{AGENTS}"

[agents.others]
entrypoint = "streaming_agent:others"
process.working_directory = "{AGENTS}"

[agents.steps]
entrypoint = "streaming_agent:steps"
process.working_directory = "{AGENTS}"
"""

Message = dict[str, Any]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("streaming"), CREW) as process:
        process.call("agent.start", names=["*"])
        yield process


def streamed(daemon: DaemonProcess, agent: str, objective: str, **params: object) -> tuple[list[Message], Any]:
    """The messages about parts, and the record of the task."""
    found: list[Message] = []

    def hear(notification: Notification) -> None:
        if notification.method == "task.part":
            found.append(notification.params)

    asked = {"agent": agent, "objective": objective, "stream": True, **params}
    with daemon.client() as client:
        record = client.call("task.run", asked, timeout_s=BOUND_S, on_notification=hear)
    return found, record


def parts_of(messages: list[Message]) -> list[object]:
    return [each["part"] for each in messages]


def test_parts_come_in_order_and_before_the_result(daemon: DaemonProcess) -> None:
    messages, record = streamed(daemon, "streams", "values 500")
    assert parts_of(messages) == [{"number": number} for number in range(500)]
    assert [each["number"] for each in messages] == [*range(1, 501)]
    assert {(each["task"], each["attempt"], each["lost"]) for each in messages} == {(record["id"], 1, 0)}
    assert record["output"] == 500


def test_a_generator_streams_and_its_output_is_the_whole(daemon: DaemonProcess) -> None:
    messages, record = streamed(daemon, "texts", "one two three")
    assert "".join(map(str, parts_of(messages))) == record["output"] == "one two three "
    messages, record = streamed(daemon, "steps", "nothing")
    assert parts_of(messages) == record["output"] == [{"step": 0}, {"step": 1}, {"step": 2}]
    messages, record = streamed(daemon, "steps", "it")
    assert (len(messages), record["output"]) == (3, "it is done")


def test_a_caller_that_does_not_ask_gets_no_parts(daemon: DaemonProcess) -> None:
    messages, record = streamed(daemon, "streams", "words a b", stream=False)
    assert (messages, record["output"]) == ([], "the end")


def test_every_reader_gets_all_parts_whenever_it_comes(daemon: DaemonProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task = daemon.call("task.submit", agent="streams", objective="gate", input=str(gate))["id"]
    for _ in range(2):
        with daemon.client() as client:
            request = {"task": task, "stream": True}
            found: list[Message] = []

            def hear(notification: Notification, found: list[Message] = found) -> None:
                if notification.method == "task.part":
                    found.append(notification.params)
                    gate.touch()

            client.call("task.wait", request, timeout_s=BOUND_S, on_notification=hear)
            assert "".join(map(str, parts_of(found))) == "beforeafter"  # also after its end


def test_a_second_attempt_reports_that_it_begins_anew(daemon: DaemonProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    found: list[Message] = []

    def hear(notification: Notification) -> None:
        if notification.method == "task.part":
            found.append(notification.params)
            gate.touch()

    with daemon.client() as client:
        params = {"agent": "streams", "objective": "die", "input": str(gate), "stream": True}
        record: Any = client.call("task.run", params, timeout_s=BOUND_S, on_notification=hear)
    assert record["attempt"] == 2
    assert [(each["attempt"], each["number"], each["part"]) for each in found] == [
        (1, 1, "attempt 1"),
        (2, 0, ""),
        (2, 1, "attempt 2"),
    ]


def test_a_part_that_is_too_large_or_no_json_is_refused_in_the_worker(daemon: DaemonProcess) -> None:
    messages, record = streamed(daemon, "streams", f"large {MAX_PART_BYTES}")
    assert (messages, record["error"]["name"]) == ([], "ResourceLimitExceeded")
    assert record["error"]["data"]["limit"] == "part"
    messages, record = streamed(daemon, "streams", f"large {MAX_PART_BYTES - 2}")
    assert [len(str(each)) for each in parts_of(messages)] == [MAX_PART_BYTES - 2]
    messages, record = streamed(daemon, "streams", "odd")
    assert (messages, record["error"]["name"]) == ([], "InvalidParams")


def test_the_daemon_refuses_what_another_worker_streams_beyond_the_limit(daemon: DaemonProcess) -> None:
    messages, record = streamed(daemon, "streams", f"unchecked {MAX_PART_BYTES}")
    assert (parts_of(messages), record["state"]) == (["good"], "succeeded")


def test_a_reader_that_does_not_read_holds_up_nobody_and_learns_what_it_lost(daemon: DaemonProcess) -> None:
    objective = "flood 2000"  # 20 MB: more than the buffers of a socket
    with daemon.client() as idle:
        task = daemon.call("task.submit", agent="streams", objective=objective)["id"]
        asked = idle._peer.request("task.wait", {"task": task, "stream": True}, deadline=None)  # pyright: ignore[reportPrivateUsage]  a client that sends, and does not read
        idle._send()  # pyright: ignore[reportPrivateUsage]
        record = daemon.call("task.wait", task=task)
        assert record["output"] == "flooded"
        found: list[Message] = []
        answer = idle._wait(asked, lambda each: found.append(each.params))  # pyright: ignore[reportPrivateUsage]
        parts = [each for each in found if "part" in each]
        assert answer.result is not None
    assert parts[-1]["number"] == 2000
    lost = sum(each["lost"] for each in parts)
    assert lost > 0
    assert sum(len(each["part"]) for each in parts) // 10_000 + lost == 2000


# -- delegation


def test_a_lead_reads_what_its_delegate_streams(daemon: DaemonProcess) -> None:
    messages, record = streamed(daemon, "streams", "relay one two")
    assert "".join(map(str, parts_of(messages))) == record["output"] == "one two "
    assert streamed(daemon, "steps", "relay one two")[1]["output"] == ["one two "] * 2
    failed = streamed(daemon, "streams", "relay ")[1]  # texts refuses an empty objective
    assert (failed["state"], failed["error"]["name"]) == ("failed", "InvalidParams")


def test_a_lead_that_stops_reading_cancels_its_delegate(daemon: DaemonProcess, tmp_path: Path) -> None:
    never = str(tmp_path / "never")
    _, record = streamed(daemon, "streams", "leave", input=never)
    assert record["output"] == "before"
    (child,) = record["children"]
    ended = daemon.call("task.wait", task=child)
    assert ended["state"] == "cancelled"
    assert "no longer waits" in ended["error"]["data"]["reason"]  # not since its parent has ended


# -- the command


def test_run_prints_text_as_it_comes_and_the_result_only_if_it_is_another(daemon: DaemonProcess) -> None:
    done = daemon.corral("run", "texts", "one two")
    assert (done.returncode, done.stdout) == (0, "one two \n")
    done = daemon.corral("run", "streams", "words a b")
    assert (done.returncode, done.stdout) == (0, "ab\nthe end\n")
    done = daemon.corral("run", "steps", "it")
    assert done.stdout == "it is done\n"
    values = [line for line in done.stderr.splitlines() if line.startswith("{")]
    assert values == ['{"step":0}', '{"step":1}', '{"step":2}']
    done = daemon.corral("run", "streams", "words a b", "--stream", "off")
    assert done.stdout == "the end\n"


def test_run_prints_json_lines_or_one_document(daemon: DaemonProcess) -> None:
    done = daemon.corral("run", "streams", "words a b", "--stream", "json")
    *parts, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert "".join(each["part"] for each in parts) == "ab"
    assert last["output"] == "the end"
    done = daemon.corral("run", "streams", "words a b", "--json")
    assert json.loads(done.stdout)["output"] == "the end"


# -- Python


def test_a_program_reads_parts_and_then_the_output(daemon: DaemonProcess) -> None:
    async def main() -> None:
        runtime = await AgentRuntime.connect(str(daemon.socket))
        stream = runtime.run_agent_stream("texts", "one two")
        assert "".join([str(part) async for part in stream]) == stream.output == "one two "
        again = runtime.run_agent_stream("streams", "values 3")
        assert [part.value async for part in again] == [{"number": each} for each in range(3)]
        with pytest.raises(InvalidParams):
            [part async for part in runtime.run_agent_stream("streams", "odd")]
        await runtime.shutdown()

    asyncio.run(main())


def test_to_leave_a_stream_early_cancels_its_task(daemon: DaemonProcess, tmp_path: Path) -> None:
    async def main() -> str:
        runtime = await AgentRuntime.connect(str(daemon.socket))
        never = str(tmp_path / "never")
        task = ""
        async with runtime.run_agent_stream("streams", "gate", input=never) as stream:
            async for part in stream:
                task = part.task
                break
        await runtime.shutdown()
        return task

    task = asyncio.run(main())
    assert daemon.call("task.wait", task=task)["state"] == "cancelled"


def test_a_blocking_program_reads_parts(daemon: DaemonProcess, tmp_path: Path) -> None:
    with Runtime.connect(str(daemon.socket)) as runtime:
        with runtime.run_agent_stream("texts", "one two") as parts:
            found = list(parts)
        assert all(isinstance(part, Part) for part in found)
        assert "".join(map(str, found)) == parts.stream.output == "one two "
        gate = tmp_path / "gate"
        task = runtime.submit_task("streams", "gate", input=str(gate))
        seen: list[str] = []
        for part in runtime.stream_task(task.id):
            seen.append(str(part))
            gate.touch()
        assert "".join(seen) == "beforeafter"


# -- HTTP


def test_a_request_for_events_gets_parts(daemon: DaemonProcess) -> None:
    api = Api(daemon)
    with api.stream("POST", "/agents/texts/run", {"objective": "one two"}) as events:
        found = list(events)
    parts = [each.data for each in found if each.name == "task.part"]
    assert "".join(each["part"] for each in parts) == "one two "
    assert (found[-1].name, found[-1].data["output"]) == ("result", "one two ")
    body = {"objective": "words a b", "stream": False}
    with api.stream("POST", "/agents/streams/run", body) as events:
        assert "task.part" not in {each.name for each in events}


def test_a_service_sends_part_events(daemon: DaemonProcess) -> None:
    api = Api(daemon)
    api.address = daemon.call("daemon.status", names=["texts"])["agents"][0]["service"]["url"]
    api.address = api.address.removeprefix("http://")
    with closing(api.connection()) as connection:
        head = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}
        body = json.dumps({"objective": "one two", "stream": True})
        connection.request("POST", "/run", body, head)
        found = list(events_of(connection.getresponse()))
    parts = [each.data["part"] for each in found if each.name == "part"]
    assert "".join(parts) == "one two "
    assert found[-1].data["output"] == "one two "


def test_an_mcp_client_with_a_token_gets_parts_as_progress(daemon: DaemonProcess) -> None:
    with serving(daemon.socket) as editor:
        editor.initialize()
        arguments = {"agent": "texts", "objective": "one two"}
        name, token = "corral__run", {"progressToken": "t"}
        answer = editor.ask(1, "tools/call", name=name, arguments=arguments, _meta=token)
        assert answer["result"]["structuredContent"]["output"] == "one two "
        told = [each["params"] for each in editor.heard if "progress" in each["method"]]
        assert {each["progressToken"] for each in told} == {"t"}
        steps = [each["progress"] for each in told]
        assert steps == sorted(set(steps))
        assert "one two " in "".join(str(each.get("message")) for each in told)
        editor.heard.clear()
        editor.ask(2, "tools/call", name=name, arguments=arguments)
        assert not [each for each in editor.heard if "progress" in each["method"]]
