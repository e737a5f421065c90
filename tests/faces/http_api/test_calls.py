"""The method table over HTTP: params of path, query and body, statuses and headers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_process import BOUND_S
from http_api_client import Api, serving

pytestmark = pytest.mark.shell


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("http")) as found:
        yield found


def test_a_get_answers_as_the_socket_does(api: Api) -> None:
    answered = api.ask("GET", "/agents/echo")
    assert answered.status == 200
    assert answered.headers["Content-Type"].startswith("application/json")
    assert answered.json["spec"] == api.daemon.call("agent.show", name="echo")["spec"]


def test_a_key_of_the_path_is_decoded_after_the_path_was_split(api: Api) -> None:
    api.daemon.call("memory.put", agent="echo", key="a/b c", value=[1])
    assert api.ask("GET", "/memory/echo/a%2Fb%20c").json == {"value": [1]}
    assert api.ask("GET", "/memory/echo/a/b%20c").status == 404
    assert api.ask("GET", "/memory/echo/%FF").status == 400


def test_a_query_becomes_the_types_of_the_params(api: Api) -> None:
    tasks = [api.ask("POST", "/run", {"agent": "echo", "objective": f"o{n}"}).json for n in (1, 2)]
    answered = api.ask("GET", "/tasks", query={"limit": 1, "agents": ["echo", "no,one"]})
    assert [each["id"] for each in answered.json["tasks"]] == [tasks[1]["id"]]
    assert api.ask("GET", f"/tasks/{tasks[0]['id']}", query={"calls": "true"}).json["calls"] == []
    assert api.ask("GET", "/logs", query={"names": "echo", "n": "3"}).status == 200


@pytest.mark.parametrize(
    ("query", "key"), [({"limmit": 1}, "limmit"), ({"limit": 0}, "limit"), ({"agent": ["a", "b"]}, "agent")]
)
def test_a_query_that_is_no_params_is_refused_by_the_name_of_its_key(
    api: Api, query: dict[str, object], key: str
) -> None:
    answered = api.ask("GET", "/tasks", query=query)
    assert (answered.status, answered.json["error"]["data"]["key"]) == (422, key)


def test_path_and_body_have_to_agree(api: Api) -> None:
    ran = {"agent": "echo", "objective": "x", "input": 1}
    assert api.ask("POST", "/agents/echo/run", ran).json["output"] == 1
    answered = api.ask("POST", "/agents/other/run", ran)
    assert (answered.status, answered.json["error"]["data"]["key"]) == (422, "agent")


def test_a_key_of_the_path_that_takes_a_list_has_one(api: Api) -> None:
    assert api.ask("POST", "/agents/echo/stop").json["names"] == ["echo"]
    assert api.ask("POST", "/agents/start", {"names": ["echo"]}).json["names"] == ["echo"]


@pytest.mark.parametrize(
    ("raw", "kind", "status", "name"),
    [
        (b"{", "application/json", 400, "ParseError"),
        (b"[]", "application/json", 400, "InvalidRequest"),
        (b"{}", "text/plain", 415, "InvalidRequest"),
        (b"objective=x", "application/x-www-form-urlencoded", 400, "ParseError"),
        (b"{}", "application/x-www-form-urlencoded", 422, "InvalidParams"),  # as curl sends it
        (b"{}", "application/json; charset=utf-8", 422, "InvalidParams"),
    ],
)
def test_a_body_that_is_no_object_of_json_is_refused(api: Api, raw: bytes, kind: str, status: int, name: str) -> None:
    answered = api.ask("POST", "/tasks", raw=raw, Content_Type=kind)
    assert (answered.status, answered.json["error"]["name"]) == (status, name)


def test_a_get_with_a_body_and_a_post_with_a_query_are_refused(api: Api) -> None:
    assert api.ask("GET", "/tasks", {"limit": 1}).json["error"]["data"]["key"] == "body"
    assert api.ask("POST", "/run", {}, query={"agent": "a"}).json["error"]["data"]["key"] == "agent"


def test_an_unknown_path_is_not_found_and_a_known_one_says_what_it_serves(api: Api) -> None:
    for path in ("", "/", "/agents/", "/agents//x", "/nothing", "/agents/echo/nothing/x"):
        assert api.ask("GET", path).status == 404, path
    answered = api.ask("PUT", "/agents/echo")
    assert answered.status == 405
    assert {"GET", "DELETE"} <= set(answered.headers["Allow"].split(", "))
    assert api.ask("GET", "/agents/start/stop").status == 405


def test_an_agent_with_the_name_of_an_operation_can_be_reached(api: Api) -> None:
    spec = {"command": ["sleep", "9"], "protocol": "none"}
    assert api.ask("POST", "/agents", {"name": "start", "spec": spec}).status == 201
    assert api.ask("GET", "/agents/start").json["agent"]["name"] == "start"
    assert api.ask("DELETE", "/agents/start").json == {"removed": ["start"]}


def test_head_has_the_headers_of_get_alone(api: Api) -> None:
    answered = api.ask("HEAD", "/agents/echo")
    assert (answered.status, answered.text) == (200, "")


def test_a_client_that_takes_no_json_is_not_served(api: Api) -> None:
    assert api.ask("GET", "/ping", Accept="text/html").status == 406
    assert api.ask("GET", "/ping", Accept="text/html, */*;q=0.1").status == 200
    assert api.ask("GET", "/ping", Accept="text/event-stream").status == 406


def test_a_submitted_task_has_a_place(api: Api) -> None:
    answered = api.ask("POST", "/tasks", {"agent": "echo", "objective": "x"})
    assert answered.status == 202
    place = answered.headers["Location"]
    assert place == f"/api/v1/tasks/{answered.json['id']}"
    assert api.ask("GET", f"{place}/wait", below="").json["state"] == "succeeded"


def test_an_idempotency_key_queues_a_task_once(api: Api) -> None:
    body = {"agent": "echo", "objective": "x"}
    first, second = (api.ask("POST", "/tasks", body, Idempotency_Key="k1").json for _ in range(2))
    assert first["id"] == second["id"]
    other = {**body, "idempotency_key": "k2"}
    answered = api.ask("POST", "/tasks", other, Idempotency_Key="k1")
    assert (answered.status, answered.json["error"]["data"]["key"]) == (422, "idempotency_key")


def test_a_client_that_hangs_up_leaves_the_task_running(api: Api, tmp_path: Path) -> None:
    there = tmp_path / "there"
    connection = api.connection()
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}
    body = f'{{"objective": "wait", "input": "{there}"}}'
    with api.daemon.client() as client:
        client.call("event.follow", {"types": ["task.started"]}, timeout_s=BOUND_S)
        connection.request("POST", "/api/v1/agents/echo/run", body, headers)
        events: Any = next(client.notifications()).params["events"]
    connection.close()
    task = events[0]["task"]
    there.touch()
    assert api.ask("GET", f"/tasks/{task}/wait").json["state"] == "succeeded"


def test_an_error_has_the_status_of_its_class(api: Api) -> None:
    answered = api.ask("GET", "/agents/nobody")
    error = answered.json["error"]
    assert (answered.status, error["name"], error["code"]) == (404, "NotFound", -33001)
    assert error["data"]["name"] == "nobody"
    assert api.ask("POST", "/agents", {"name": "echo", "spec": {"command": ["x"]}}).status == 409
    failed = api.ask("POST", "/agents/echo/run", {"objective": "fail"})
    assert (failed.status, failed.json["state"]) == (200, "failed")
