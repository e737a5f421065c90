"""Agents over A2A 1.0, with the official SDK as the client."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from daemon_process import DaemonProcess
from http_api_client import Api

a2a_client = pytest.importorskip("a2a.client", reason="a2a-sdk is not installed")
a2a_types = pytest.importorskip("a2a.types", reason="a2a-sdk is not installed")
json_format = pytest.importorskip("google.protobuf.json_format")
httpx = pytest.importorskip("httpx")

pytestmark = pytest.mark.contract

T = TypeVar("T")

AGENT = """
import asyncio


async def answer(task, objective, input):
    if objective == "wait":
        await asyncio.Event().wait()  # until it is cancelled
    if objective == "words":
        for word in ("the ", "sea"):
            await task.stream(word)
        return "the sea"
    if objective == "ask":
        return await task.ask("Which colour?", ["red", "blue"])
    if objective == "fail":
        raise ValueError("it fails")
    if objective == "remember":
        task.memory.add("user", str(input))
        return len(task.memory.history)
    return input if input is not None else objective.upper()
"""

CONFIG = """
[daemon]
http = "127.0.0.1:0"

[agents.talker]
entrypoint = "talking:answer"
description = "Talks."
capabilities = ["talk"]
resources.max_concurrent_requests = 4

[agents.other]
entrypoint = "talking:answer"

[tenants.acme]
[agents."acme/talker"]
entrypoint = "talking:answer"
process.working_directory = "FOLDER"
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("a2a")
    (folder / "talking.py").write_text(AGENT)
    with DaemonProcess(folder, CONFIG.replace("FOLDER", str(folder))) as daemon:
        for name in ("talker-0", "other-0"):
            daemon.await_worker(name, lambda found: found["state"] == "Ready")
        yield Api(daemon)


def url(api: Api, agent: str = "talker") -> str:
    return f"http://{api.address}/a2a/{agent}"


BINDINGS = ("JSONRPC", "HTTP+JSON")


def with_client(api: Api, act: Callable[[Any], Awaitable[T]], *, streaming: bool = True, binding: str = "JSONRPC") -> T:
    async def run() -> T:
        headers = {"Authorization": f"Bearer {api.token}"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as connection:
            resolver = a2a_client.A2ACardResolver(connection, url(api))
            card = await resolver.get_agent_card()
            config = a2a_client.ClientConfig(
                httpx_client=connection, streaming=streaming, supported_protocol_bindings=[binding]
            )
            return await act(a2a_client.ClientFactory(config).create(card))

    return asyncio.run(run())


def message(text: str = "", data: object = None, context: str = "", task: str = "") -> Any:
    parts: list[Any] = [{"text": text}] if text else []
    parts += [] if data is None else [{"data": data}]
    said = {"messageId": "1", "role": "ROLE_USER", "parts": parts}
    said |= {"contextId": context} if context else {}
    said |= {"taskId": task} if task else {}
    return json_format.ParseDict({"message": said}, a2a_types.SendMessageRequest())


def plain(found: Any) -> Any:
    return json_format.MessageToDict(found)


def sent(api: Api, request: Any, *, streaming: bool = False, binding: str = "JSONRPC") -> list[Any]:
    async def act(client: Any) -> list[Any]:
        return [plain(each) async for each in client.send_message(request)]

    return with_client(api, act, streaming=streaming, binding=binding)


def call(api: Api, method: str, params: Any, version: str = "1.0", agent: str = "talker", token: str = "") -> Any:
    headers = {"A2A-Version": version, "Authorization": f"Bearer {token or api.token}"}
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    answer = httpx.post(url(api, agent), json=body, headers=headers, timeout=60)
    assert answer.status_code == 200
    return answer.json()


def test_the_card_of_an_agent_names_its_address_and_its_capabilities(api: Api) -> None:
    headers = {"Authorization": f"Bearer {api.token}"}
    card = httpx.get(f"{url(api)}/.well-known/agent-card.json", headers=headers).json()
    json_format.ParseDict(card, a2a_types.AgentCard())
    assert (card["name"], card["description"]) == ("talker", "Talks.")
    assert [skill["id"] for skill in card["skills"]] == ["talk"]
    assert card["supportedInterfaces"][0]["url"] == url(api)
    first = httpx.get(f"{url(api)}/.well-known/agent-card.json", headers=headers)
    assert "max-age=" in first.headers["cache-control"]
    again = {**headers, "If-None-Match": first.headers["etag"]}
    assert httpx.get(f"{url(api)}/.well-known/agent-card.json", headers=again).status_code == 304
    for path, given, status in (
        ("/.well-known/agent-card.json", {}, 401),
        ("/../nobody/.well-known/agent-card.json", headers, 404),
        ("", headers, 405),
    ):
        assert httpx.get(f"{url(api)}{path}", headers=given).status_code == status


def test_a_message_is_a_task_and_its_output_an_artifact(api: Api) -> None:
    (found,) = sent(api, message("hello"))
    task = found["task"]
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert task["artifacts"][0]["parts"][0]["text"] == "HELLO"
    assert task["history"][0]["parts"][0]["text"] == "hello"
    record = api.daemon.call("task.show", task=task["id"])
    assert (record["objective"], record["session"]) == ("hello", task["contextId"])
    assert record["context"] == {"a2a": {"messageId": "1"}}
    file = {"url": "https://example.com/o.txt", "filename": "o.txt", "mediaType": "text/plain"}
    (found,) = sent(api, message("give it back", file))
    assert found["task"]["artifacts"][0]["parts"] == [file]
    (found,) = sent(api, message("give it back", {"a": [1]}))
    assert found["task"]["artifacts"][0]["parts"][0]["data"] == {"a": [1]}


def test_messages_of_one_context_are_turns_of_one_session(api: Api) -> None:
    (first,) = sent(api, message("remember", "x", context="ada"))
    (second,) = sent(api, message("remember", "y", context="ada"))
    turns = [each["task"]["artifacts"][0]["parts"][0]["data"] for each in (first, second)]
    assert turns == [1, 2]
    found = call(api, "ListTasks", {"contextId": "ada", "pageSize": 1})["result"]
    assert [task["id"] for task in found["tasks"]] == [second["task"]["id"]]
    rest = call(api, "ListTasks", {"contextId": "ada", "pageToken": found["nextPageToken"]})
    assert [task["id"] for task in rest["result"]["tasks"]] == [first["task"]["id"]]


@pytest.mark.parametrize("binding", BINDINGS)
def test_a_stream_has_the_task_its_parts_the_output_and_the_end(api: Api, binding: str) -> None:
    events = sent(api, message("words"), streaming=True, binding=binding)
    assert events[0]["task"]["status"]["state"] in ("TASK_STATE_SUBMITTED", "TASK_STATE_WORKING")
    updates = [each["artifactUpdate"] for each in events if "artifactUpdate" in each]
    *parts, whole = [each["artifact"]["parts"][0]["text"] for each in updates]
    assert "".join(parts) == whole == "the sea"
    assert updates[-1]["lastChunk"]
    assert events[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


@pytest.mark.parametrize("binding", BINDINGS)
def test_a_follower_of_a_task_sees_its_question_and_its_end(api: Api, binding: str) -> None:
    async def act(client: Any) -> list[str]:
        request = message("ask", context=f"followed-{binding}")
        request.configuration.return_immediately = True
        (begun,) = [plain(each) async for each in client.send_message(request)]
        client._config.streaming = True  # for the next call
        states: list[str] = []
        async for each in client.subscribe(a2a_types.SubscribeToTaskRequest(id=begun["task"]["id"])):
            found = plain(each)
            status = found.get("task", found.get("statusUpdate", {})).get("status", {})
            states.append(status.get("state", ""))
            if states.count("TASK_STATE_INPUT_REQUIRED") == 1 and status.get("message"):
                (open_one,) = api.daemon.call("approval.list", task=begun["task"]["id"])["approvals"]
                api.daemon.call("approval.answer", approval=open_one["id"], answer="red")
        return states

    states = with_client(api, act, streaming=False, binding=binding)
    assert "TASK_STATE_INPUT_REQUIRED" in states
    assert states[-1] == "TASK_STATE_COMPLETED"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_question_of_a_task_requires_input_which_a_message_to_it_gives(api: Api, streaming: bool) -> None:
    asked = sent(api, message("ask", context=f"asked-{streaming}"), streaming=streaming)
    status = asked[-1].get("task", asked[-1].get("statusUpdate"))
    assert status["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    words, options = status["status"]["message"]["parts"]
    assert (words["text"], options["data"]) == ("Which colour?", {"options": ["red", "blue"]})
    task = asked[0]["task"]["id"]
    shown = call(api, "GetTask", {"id": task})["result"]
    assert shown["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    wrong = {"messageId": "2", "role": "ROLE_USER", "taskId": task, "parts": [{"text": "green"}]}
    assert call(api, "SendMessage", {"message": wrong})["error"]["code"] == -32602
    other = {**wrong, "contextId": "another", "parts": [{"text": "red"}]}
    assert call(api, "SendMessage", {"message": other})["error"]["code"] == -32602
    done = sent(api, message("blue", task=task), streaming=streaming)
    last = done[-1].get("task", done[-1].get("statusUpdate"))
    assert last["status"]["state"] == "TASK_STATE_COMPLETED"
    assert api.daemon.call("task.show", task=task)["output"] == "blue"
    history = call(api, "GetTask", {"id": task})["result"]["history"]
    said = [(each["role"], each["parts"][0]["text"]) for each in history]
    agent = ("ROLE_AGENT", "Which colour?")
    assert said == [("ROLE_USER", "ask"), agent, ("ROLE_USER", "blue")]
    for key in ("historyLength", "history_length"):  # names of the JSON form, or of the buffers
        last = call(api, "GetTask", {"id": task, key: 1})["result"]["history"]
        assert last == history[-1:]
    assert call(api, "SendMessage", {"message": wrong})["error"]["code"] == -32004


def test_a_failure_says_why(api: Api) -> None:
    (found,) = sent(api, message("fail"))
    status = found["task"]["status"]
    assert status["state"] == "TASK_STATE_FAILED"
    assert "it fails" in status["message"]["parts"][0]["text"]


@pytest.mark.parametrize("binding", BINDINGS)
def test_a_running_task_is_shown_followed_and_cancelled(api: Api, binding: str) -> None:
    async def act(client: Any) -> tuple[Any, Any, list[Any]]:
        request = message("wait")
        request.configuration.return_immediately = True
        (sent,) = [plain(each) async for each in client.send_message(request)]
        begun = sent["task"]
        shown = await client.get_task(a2a_types.GetTaskRequest(id=begun["id"], history_length=0))
        followed: list[Any] = []
        client._config.streaming = True  # for the next call
        follow = a2a_types.SubscribeToTaskRequest(id=begun["id"])
        async for each in client.subscribe(follow):
            if not followed:
                await client.cancel_task(a2a_types.CancelTaskRequest(id=begun["id"]))
            followed.append(plain(each))
        return begun, plain(shown), followed

    begun, shown, followed = with_client(api, act, streaming=False, binding=binding)
    assert begun["status"]["state"] in ("TASK_STATE_SUBMITTED", "TASK_STATE_WORKING")
    assert shown["id"] == begun["id"]
    assert "history" not in shown
    assert followed[0]["task"]["id"] == begun["id"]
    assert followed[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_CANCELED"
    for method, code in (("CancelTask", -32002), ("SubscribeToTask", -32004)):
        assert call(api, method, {"id": begun["id"]})["error"]["code"] == code


def test_tasks_are_listed_by_either_binding(api: Api) -> None:
    sent(api, message("hello", context="listed"))

    async def act(client: Any) -> Any:
        request = a2a_types.ListTasksRequest(context_id="listed", page_size=1, history_length=0, include_artifacts=True)
        return plain(await client.list_tasks(request))

    one, other = (with_client(api, act, binding=binding) for binding in BINDINGS)
    assert one == other
    (task,) = one["tasks"]
    assert task["artifacts"][0]["parts"][0]["text"] == "HELLO"


@pytest.mark.parametrize(
    ("verb", "path", "body", "status", "reason"),
    [
        ("GET", "tasks/none", None, 404, "TASK_NOT_FOUND"),
        ("GET", "tasks?pageSize=many", None, 400, ""),
        ("POST", "message:send", {}, 400, ""),
        ("POST", "message:send", [], 400, ""),
        ("POST", "tasks/none:cancel", None, 404, "TASK_NOT_FOUND"),
        ("POST", "tasks/x/pushNotificationConfigs", {}, 400, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
        ("GET", "extendedAgentCard", None, 400, "EXTENDED_AGENT_CARD_NOT_CONFIGURED"),
        ("GET", "nonsense", None, 404, ""),
    ],
)
def test_a_wrong_request_over_http_has_a_status_and_a_reason(
    api: Api, verb: str, path: str, body: Any, status: int, reason: str
) -> None:
    headers = {"A2A-Version": "1.0", "Authorization": f"Bearer {api.token}"}
    answer = httpx.request(verb, f"{url(api)}/{path}", json=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, status)
    assert [each["reason"] for each in error["details"]] == ([reason] if reason else [])
    assert error["message"].startswith("cannot ")


def test_http_refuses_other_verbs_types_versions_and_rights(api: Api) -> None:
    token = api.daemon.call("token.add", name="reader", rights="read")["token"]
    good = {"A2A-Version": "1.0", "Authorization": f"Bearer {api.token}"}
    said = {"message": {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}
    send = f"{url(api)}/message:send"
    assert httpx.get(send, headers=good).status_code == 405
    text = {**good, "Content-Type": "text/plain"}
    assert httpx.post(send, content=json.dumps(said), headers=text).status_code == 415
    for version in ("0.3", "99.0"):
        old = {**good, "A2A-Version": version}
        assert httpx.post(send, json=said, headers=old).status_code == 400
    reader = {**good, "Authorization": f"Bearer {token}"}
    refused = httpx.post(send, json=said, headers=reader)
    assert (refused.status_code, refused.json()["error"]["status"]) == (403, "PERMISSION_DENIED")
    assert httpx.get(f"{url(api)}/tasks", headers=reader).status_code == 200


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("GetTask", {"id": "nothing"}, -32001),
        ("GetTask", {}, -32602),
        ("GetTask", {"id": "x", "historyLength": -1}, -32602),
        ("SendMessage", {}, -32602),
        ("SendMessage", {"message": {"messageId": "1", "role": "ROLE_USER", "parts": []}}, -32602),
        ("SendMessage", {"message": {"messageId": "1", "role": "ROLE_USER", "parts": [{"raw": "aGk="}]}}, -32005),
        ("CreateTaskPushNotificationConfig", {}, -32003),
        ("GetExtendedAgentCard", {}, -32007),
        ("Nonsense", {}, -32601),
    ],
)
def test_a_wrong_call_is_refused_with_the_code_of_the_protocol(api: Api, method: str, params: Any, code: int) -> None:
    error = call(api, method, params)["error"]
    assert error["code"] == code
    assert error["message"].startswith("cannot ")


def test_another_version_and_what_is_no_call_are_refused(api: Api) -> None:
    assert call(api, "GetTask", {"id": "x"}, version="0.3")["error"]["code"] == -32009
    headers = {"Authorization": f"Bearer {api.token}", "A2A-Version": "1.0"}
    for body, code in (("{", -32700), ("[]", -32600), (json.dumps({"jsonrpc": "2.0"}), -32600)):
        headers["Content-Type"] = "application/json"
        answer = httpx.post(url(api), content=body, headers=headers)
        assert answer.json()["error"]["code"] == code


def test_a_tenant_lists_follows_and_finds_its_own_tasks_alone(api: Api) -> None:
    added = api.daemon.call("token.add", name="acme", rights="operate", tenant="acme")
    foreign = api.daemon.call("task.run", agent="talker", objective="foreign")

    def ask(method: str, params: Any, agent: str = "acme/talker") -> Any:
        return call(api, method, params, agent=agent, token=added["token"])

    said = {"message": {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}}
    task = ask("SendMessage", said)["result"]["task"]
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert ask("GetTask", {"id": task["id"]})["result"]["id"] == task["id"]
    listed = ask("ListTasks", {})["result"]["tasks"]
    assert [each["id"] for each in listed] == [task["id"]]
    assert ask("GetTask", {"id": foreign["id"]})["error"]["code"] == -32001
    assert ask("CancelTask", {"id": foreign["id"]})["error"]["code"] == -32001
    listed = ask("ListTasks", {}, agent="talker")["result"]["tasks"]  # the short name of its own
    assert [each["id"] for each in listed] == [task["id"]]
    with pytest.raises(AssertionError):  # 404: the tenant has no such agent
        ask("ListTasks", {}, agent="other")


def test_a_task_of_another_agent_is_not_found(api: Api) -> None:
    task = api.daemon.call("task.run", agent="other", objective="hello")
    assert call(api, "GetTask", {"id": task["id"]})["error"]["code"] == -32001
