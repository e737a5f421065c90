"""Changes to the table of an agent over HTTP: keys, etags, and what cannot be changed."""

from collections.abc import Iterator

import pytest

from http_api_client import Api, serving

pytestmark = pytest.mark.shell

SPEC = {"command": ["sleep", "99"], "protocol": "none", "environment": {"A": "1", "B": "2"}}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("http")) as found:
        yield found


@pytest.fixture
def path(api: Api) -> Iterator[str]:
    assert api.ask("POST", "/agents", {"name": "it", "spec": SPEC}).status == 201
    yield "/agents/it"
    api.ask("DELETE", "/agents/it")


def test_a_patch_replaces_keys_and_null_removes_them(api: Api, path: str) -> None:
    spec = {"title": "It", "environment": {"B": None, "C": "3"}}
    answered = api.ask("PATCH", path, {"spec": spec})
    assert answered.status == 200
    assert set(answered.json["changed"]) == {"title", "environment"}
    shown = api.ask("GET", path).json
    assert (shown["spec"]["title"], set(shown["spec"]["environment"])) == ("It", {"A", "C"})
    assert shown["etag"] == answered.json["etag"]
    api.ask("PATCH", path, {"spec": {"title": None}})
    assert "title" not in api.ask("GET", path).json["spec"]


def test_an_etag_is_that_of_the_true_table_and_saves_an_answer(api: Api, path: str) -> None:
    first = api.ask("GET", path)
    tag = first.headers["ETag"]
    assert tag == f'"{first.json["etag"]}"'
    again = api.ask("GET", path, If_None_Match=tag)
    assert (again.status, again.text, again.headers["ETag"]) == (304, "", tag)
    assert api.ask("PATCH", path, {"spec": {"environment": {"A": "9"}}}).status == 200
    assert api.ask("GET", path, If_None_Match=tag).status == 200  # the answer hides the value


def test_a_stale_etag_changes_nothing(api: Api, path: str) -> None:
    tag = api.ask("GET", path).headers["ETag"]
    assert api.ask("PATCH", path, {"spec": {"title": "a"}}, If_Match=tag).status == 200
    stale = api.ask("PATCH", path, {"spec": {"title": "b"}}, If_Match=tag)
    assert (stale.status, stale.json["error"]["data"]["reason"]) == (412, "stale")
    assert api.ask("DELETE", path, If_Match=tag).status == 412
    fresh = api.ask("GET", path)
    assert fresh.json["spec"]["title"] == "a"
    assert api.ask("DELETE", path, If_Match=fresh.headers["ETag"]).status == 200


def test_a_change_survives_the_daemon(api: Api, path: str) -> None:
    api.ask("PATCH", path, {"spec": {"title": "kept"}})
    api.daemon.kill()
    api.daemon.start()
    assert api.daemon.call("agent.show", name="it")["spec"]["title"] == "kept"
    api.__init__(api.daemon)  # type: ignore[misc]  # the address is another


def test_an_invalid_table_and_an_unknown_name_are_refused(api: Api, path: str) -> None:
    wrong = api.ask("PATCH", path, {"spec": {"instances": "many"}})
    assert (wrong.status, wrong.json["error"]["name"]) == (422, "InvalidParams")
    assert api.ask("PATCH", "/agents/nobody", {"spec": {}}).status == 404


def test_agents_are_listed_with_servers(api: Api, path: str) -> None:
    names = [each["name"] for each in api.ask("GET", "/agents").json["agents"]]
    assert {"echo", "it"} <= set(names)
    assert api.ask("GET", "/agents", query={"names": "i*"}).json["agents"][0]["name"] == "it"


def test_teams_and_workflows_without_a_name_get_one(api: Api) -> None:
    team = api.ask("POST", "/teams", {"spec": {"members": ["echo"], "mode": "route"}})
    name = team.json["teams"][0]["name"]
    assert (team.status, name[:5], len(name)) == (201, "team-", 11)
    assert api.ask("DELETE", f"/teams/{name}").status == 200


def test_an_agent_of_the_file_is_set_and_rolled_back(api: Api) -> None:
    filed = api.ask("PATCH", "/agents/echo", {"spec": {"title": "x"}})
    assert (filed.status, filed.json["agent"]["overridden"]) == (200, filed.json["revision"])
    assert api.ask("POST", "/agents/echo/rollback", {}).status == 200
    assert "overridden" not in api.ask("GET", "/agents/echo").json["agent"]
