"""The eight routes of agno's dynamic runtime: the documented commands of curl and code of httpx, word for word."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from daemon_process import BOUND_S
from http_api_client import Api, serving

pytestmark = pytest.mark.shell

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("http")) as found:
        yield found


def curl(api: Api, command: str) -> Any:
    """The status and the body of a documented command, with the address and the token of the daemon."""
    said = command.replace("http://localhost:7777", f"http://{api.address}")
    ended = subprocess.run(
        [*shlex.split(said.replace("OS_SECURITY_KEY", api.token)), *("--silent", "--write-out", "\n%{http_code}")],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=True,
    )
    text, _, status = ended.stdout.rpartition("\n")
    return int(status), json.loads(text)


@needs_curl
@pytest.mark.parametrize(
    ("plural", "field", "word"),
    [
        ("agents", "agent_config", "Agent"),
        ("teams", "team_config", "Team"),
        ("workflows", "workflow_config", "Workflow"),
    ],
)
@pytest.mark.parametrize("form", ["--data-urlencode", "--data", "--form"])
def test_the_documented_commands_add_and_remove(api: Api, plural: str, field: str, word: str, form: str) -> None:
    name = f"{plural}-{form.strip('-')}"
    config = f'{{"id": "{name}", "name": "Dynamic", "description": "Added at run time"}}'
    add = f"""curl --request POST http://localhost:7777/runtime/{plural} \
        --header 'Authorization: Bearer OS_SECURITY_KEY' {form} '{field}={config}'"""
    status, said = curl(api, add)
    assert (status, said["message"]) == (200, f"{word} {name} added successfully")
    ran = api.ask("POST", "/run", {"agent": name, "objective": "say", "input": 7}).json
    assert ran["state"] == "succeeded", ran
    status, said = curl(api, add)
    assert (status, said["error"]["name"]) == (400, "Conflict")
    remove = f"""curl --request DELETE http://localhost:7777/runtime/{plural}/{name} \
        --header 'Authorization: Bearer OS_SECURITY_KEY'"""
    status, said = curl(api, remove)
    assert (status, said["message"]) == (200, f"{word} {name} removed successfully")
    assert curl(api, remove)[0] == 404


def test_an_agent_of_the_template_answers_with_its_name_and_its_input(api: Api) -> None:
    with httpx.Client(base_url=f"http://{api.address}", headers={"Authorization": f"Bearer {api.token}"}) as client:
        config = {"id": "teller", "name": "A Teller", "description": "It tells"}
        said = client.post("/runtime/agents", data={"agent_config": json.dumps(config)})
        assert (said.status_code, said.json()["message"]) == (200, "Agent teller added successfully")
        run = {"objective": "tell", "input": {"a": 1}}
        output = client.post("/api/v1/agents/teller/run", json=run).json()["output"]
        assert output == {
            "agent": "teller",
            "name": "A Teller",
            "description": "It tells",
            "objective": "tell",
            "input": {"a": 1},
        }
        shown = client.get("/api/v1/agents/teller").json()
        assert (shown["spec"]["title"], shown["spec"]["description"]) == ("A Teller", "It tells")
        stats = client.get("/runtime/stats").json()
        assert "teller" in stats["agents"]["ids"]
        assert stats["agents"]["count"] == len(stats["agents"]["ids"])
        assert stats["databases"] == {"count": 0, "ids": []}
        assert client.delete("/runtime/agents/teller").status_code == 200
        assert "teller" not in client.get("/runtime/stats").json()["agents"]["ids"]


@pytest.mark.parametrize("around", [False, True])
def test_a_json_body_may_have_any_key_of_ours(api: Api, around: bool) -> None:
    config: dict[str, object] = {"id": "own", "command": ["sleep", "9"], "protocol": "none"}
    body = {"agent_config": config} if around else config
    assert api.ask("POST", "/agents", body, below="/runtime").status == 200
    assert api.ask("GET", "/agents/own").json["spec"]["command"] == ["sleep", "9"]
    assert api.ask("DELETE", "/agents/own", below="/runtime").status == 200


def test_a_workflow_without_an_id_gets_one(api: Api) -> None:
    said = api.ask("POST", "/workflows", {"name": "W"}, below="/runtime").json
    assert said.get("message") == f"Workflow {said.get('id')} added successfully", said
    assert said["id"].startswith("workflow-")
    assert api.ask("GET", f"/workflows/{said['id']}").status == 200


@pytest.mark.parametrize(
    ("verb", "path", "body", "status"),
    [
        ("POST", "/agents", {"name": "no id"}, 400),
        ("POST", "/teams", {"name": "no id"}, 400),
        ("POST", "/agents", {"id": ""}, 400),
        ("POST", "/agents", {"id": 7}, 400),
        ("POST", "/agents", {"id": "x", "template": "none"}, 422),
        ("POST", "/agents", {"id": "x", "instances": "many"}, 422),
        ("POST", "/agents", {"agent_config": "{"}, 400),
        ("POST", "/agents", [], 400),
        ("DELETE", "/agents/unknown", None, 404),
        ("DELETE", "/agents/*", None, 404),
        ("DELETE", "/teams/echo", None, 404),
        ("GET", "/agents", None, 405),
        ("GET", "/nothing", None, 404),
        ("GET", "/refresh", None, 405),
    ],
)
def test_a_wrong_request_says_why(api: Api, verb: str, path: str, body: object, status: int) -> None:
    answered = api.ask(verb, path, body, below="/runtime")
    assert answered.status == status
    assert answered.json["error"]["message"]
    assert api.ask("GET", "/agents/echo").status == 200


def test_a_refresh_reads_the_configuration_again_and_may_be_repeated(api: Api) -> None:
    for _ in range(2):
        said = api.ask("POST", "/refresh", below="/runtime")
        assert (said.status, said.json["message"]) == (200, "Runtime refreshed successfully")


def test_without_the_token_nothing_is_done(api: Api) -> None:
    answered = api.ask("POST", "/agents", {"id": "x"}, below="/runtime", Authorization="Bearer no")
    assert answered.status == 401
    assert api.ask("GET", "/agents/x").status == 404


def part(name: str, content: str, more: str = "") -> str:
    return f'--b0\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{content}\r\n'


WANTED = part("agent_config", '{"id": "hostile", "command": ["sleep", "9"], "protocol": "none"}')
END = "--b0--\r\n"
FORM = "multipart/form-data; boundary=b0"


@pytest.mark.parametrize(
    ("kind", "body", "status", "words"),
    [
        ("multipart/form-data", WANTED + END, 400, "no proper boundary"),
        ("multipart/form-data; boundary=", WANTED + END, 400, "no proper boundary"),
        (f"multipart/form-data; boundary={'b' * 4000}", WANTED + END, 400, "no proper boundary"),
        ("multipart/form-data; boundary=other", WANTED + END, 400, "last boundary"),
        (FORM, "", 400, "last boundary"),
        (FORM, WANTED, 400, "last boundary"),
        (FORM, WANTED[:-20], 400, "last boundary"),
        (FORM, "--b0\r\nContent-Disp", 400, "end of its head"),
        (FORM, part("x" * 5000, "") + WANTED + END, 400, "end of its head"),
        (FORM, part("agent_config", "{") + END, 400, "as JSON"),
        (FORM, part("agent_config", "[" * 100_000) + END, 400, "as JSON"),
        (FORM, part("other", "{}") + END, 400, "no field"),
        (FORM, part("other", "{}", '; filename="; name=agent_config"') + END, 400, "no field"),
        (FORM, part("agent_config", "", "\r\nContent-Transfer-Encoding: base64") + END, 400, "base64"),
        (FORM, part("f", "") * 10_000 + WANTED + END, 413, "100 parts"),
        (FORM, part("f", "x" * 1_100_000) + WANTED + END, 413, "1048576 bytes"),
        (
            FORM,
            "".join(f"--b{n}\r\nContent-Type: multipart/mixed; boundary=b{n + 1}\r\n\r\n" for n in range(10_000)),
            400,
            "last boundary",
        ),
    ],
)
def test_a_hostile_form_is_refused_with_its_reason_and_adds_nothing(
    api: Api, kind: str, body: str, status: int, words: str
) -> None:
    answered = api.ask("POST", "/agents", raw=body.encode(), below="/runtime", Content_Type=kind)
    error = answered.json["error"]
    assert (answered.status, words in error["message"]) == (status, True), answered
    assert api.ask("GET", "/agents/hostile").status == 404


def test_a_form_has_as_many_parts_as_it_may(api: Api) -> None:
    body = (part("f", "") * 99 + WANTED + END).encode()
    kind = 'multipart/form-data; charset=utf-8; boundary="b0"'
    answered = api.ask("POST", "/agents", raw=body, below="/runtime", Content_Type=kind)
    assert answered.status == 200, answered
    assert api.ask("DELETE", "/agents/hostile", below="/runtime").status == 200


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_file_of_100_megabytes_is_refused_without_being_kept(api: Api, is_chunked: bool) -> None:
    size, block = 100 * 1024 * 1024, 1024 * 1024
    head = part("agent_config", "", '; filename="big"')[:-2].encode().ljust(block, b"x")
    with closing(api.connection()) as connection:
        connection.putrequest("POST", "/runtime/agents")
        connection.putheader("Authorization", f"Bearer {api.token}")
        connection.putheader("Content-Type", FORM)
        if is_chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        else:
            connection.putheader("Content-Length", str(size))
        connection.endheaders()
        for _ in range(17 if is_chunked else 1):  # the answer does not wait for the rest
            connection.send(b"%x\r\n%s\r\n" % (block, head) if is_chunked else head)
        answered = connection.getresponse()
        error = json.loads(answered.read())["error"]
    assert (answered.status, error["name"]) == (413, "ResourceLimitExceeded")
    assert api.ask("GET", "/agents/echo").status == 200


def test_a_token_for_some_agents_learns_nothing_of_others_by_these_routes(api: Api) -> None:
    config: dict[str, object] = {"command": ["sleep", "9"], "protocol": "none"}
    for name in ("mine", "theirs"):
        assert api.ask("POST", "/agents", {"id": name, **config}, below="/runtime").status == 200
    made = api.daemon.call("token.add", name="scoped", rights="admin", agents=["mine"])
    bearer = f"Bearer {made['token']}"

    def ask(verb: str, path: str, body: object = None) -> tuple[int, Any]:
        answered = api.ask(verb, path, body, below="/runtime", Authorization=bearer)
        return answered.status, answered.json

    assert ask("GET", "/stats")[1]["agents"]["ids"] == ["mine"]
    for plural in ("agents", "teams", "workflows"):
        for name in ("theirs", "mine", "new"):
            status, said = ask("POST", f"/{plural}", {"id": name, "command": ["true"]})
            assert (status, said["error"]["name"]) == (403, "PermissionDenied")
    assert ask("POST", "/refresh")[0] == 403
    there, gone = (ask("DELETE", f"/agents/{name}") for name in ("theirs", "nobody"))
    assert (there[0], str(there).replace("theirs", "nobody")) == (404, str(gone))
    assert ask("DELETE", "/agents/mine")[0] == 200
    assert api.ask("DELETE", "/agents/theirs", below="/runtime").status == 200
    api.daemon.call("token.rm", name="scoped")
