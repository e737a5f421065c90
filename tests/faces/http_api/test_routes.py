"""Every route of the table answers as the socket does for the same params, and none with a defect."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from corral.supervisor.faces.http.answers import status_of
from corral.supervisor.faces.http_api.routes import IN_QUERY, Router, fields_of, is_list
from corral.worker.contract.errors import Conflict, CorralError
from corral.worker.methods.faces import Route
from corral.worker.methods.method import AnyMethod
from corral.worker.methods.table import METHODS
from http_api_client import Api, segment, serving

pytestmark = pytest.mark.shell

ENDING = ("daemon.stop", "daemon.emergency_stop")
"""Methods that end what the others are called on."""

ONCE = [
    "agent.add",
    "agent.add_all",
    "agent.rm",
    "daemon.import",
    "memory.delete",
    "schedule.add_command",
    "secret.set",
    "daemon.import",
    "tenant.resume",
    "tenant.rm",
    "tenant.set",
    "tenant.show",
    "tenant.suspend",
    "token.add",
    "token.rotate",
    "token.rm",
]
"""Methods that answer a second call in another way."""

ROUTES = [(method, route) for method in METHODS.values() for route in method.faces.routes]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("http")) as found:
        yield found


def params_for(method: AnyMethod, route: Route) -> dict[str, object]:
    """The params of the example, with a value for each key of the path; agents are the one there is."""
    params = dict(method.example)
    for key in route.keys:
        params.setdefault(key, ["echo"] if is_list(fields_of(method.params)[key]) else "echo")
    if not route.keys and "names" in params and "name" in params:
        del params["name"]
    for key, value in params.items():
        if value == "crawler":
            params[key] = "echo"
        elif value == ["crawler"]:
            params[key] = ["echo"]
    if "signal" in params:
        params["signal"] = "SIGWINCH"  # which is ignored: a worker that ends would not get the second
    return params


def split(method: AnyMethod, route: Route, params: Mapping[str, object]) -> tuple[str, dict[str, Any]]:
    """The path of a request, and the params that it does not hold."""
    left = dict(params)
    words: list[str] = []
    for word, is_key in route.segments:
        value: Any = left.pop(word) if is_key else word
        one = str(value if isinstance(value, str | int) else value[0])
        words.append(segment(one))
    return "/" + "/".join(words), left


def set_up(api: Api) -> None:
    """Has the agent up, whatever was done to it before: stopped, paused, hibernated or scaled down."""
    with contextlib.suppress(Conflict):  # it is not paused
        api.daemon.call("agent.resume", names=["echo"])
    if not api.daemon.call("agent.scale", name="echo", instances=1)["workers"]:
        raise AssertionError("scaled to one, it has no worker")
    api.daemon.call("agent.start", names=["echo"])


def test_a_route_answers_as_the_socket_does(api: Api, subtests: pytest.Subtests) -> None:
    for method, route in ROUTES:
        if method.faces.only_streams or method.name in (*ENDING, *ONCE):
            continue
        params = params_for(method, route)
        if any(isinstance(params[key], list) and len(params[key]) > 1 for key in route.keys):  # type: ignore[arg-type]  # of lists
            continue  # a path holds one value
        with subtests.test(method.name, verb=route.verb, path=route.path):
            check_the_answer(api, method, route, params)


def check_the_answer(api: Api, method: AnyMethod, route: Route, params: dict[str, object]) -> None:
    path, left = split(method, route, params)
    in_query = route.verb in IN_QUERY
    texts = {k: str(v).lower() if isinstance(v, bool) else v for k, v in left.items()}
    said: dict[str, object] = {}
    set_up(api)
    try:
        said = api.daemon.call(method.name, **params)
        expected: object = None
    except CorralError as refused:
        expected = (status_of(refused), refused.name, refused.data.get("key"))
    set_up(api)
    answered = api.ask(route.verb, path, None if in_query else left, query=texts if in_query else None)
    assert answered.status != 500
    if expected is not None:
        error = answered.json["error"]
        assert (answered.status, error["name"], error["data"].get("key")) == expected, answered
    else:
        assert answered.status in (200, 201, 202), answered
        assert set(answered.json) == set(said)


def test_a_signal_for_an_agent_without_a_process_is_refused_by_its_name(api: Api) -> None:
    api.daemon.call("agent.stop", names=["echo"])
    answered = api.ask("POST", "/agents/echo/signal", {"signal": "HUP"})
    assert answered.status == 409
    assert answered.json["error"]["message"] == 'cannot signal "echo": it has no process'


def test_each_route_leads_to_its_method(subtests: pytest.Subtests) -> None:
    router = Router(METHODS)
    for method, route in ROUTES:
        path = "/" + "/".join("a%2Fb" if is_key else word for word, is_key in route.segments)
        with subtests.test(method.name, verb=route.verb, path=route.path):
            match = router.match(route.verb, path, streams=method.faces.only_streams)
            assert match.method is method
            assert match.keys == dict.fromkeys(route.keys, "a/b")
