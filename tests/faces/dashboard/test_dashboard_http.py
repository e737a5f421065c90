"""The dashboard over HTTP: the page and its files, sessions, and the stream that it follows."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from corral.supervisor.faces.dashboard.face import PAGE
from http_api_client import CONFIG, Answered, Api, events_of, serving

pytestmark = pytest.mark.shell

SCRIPTS = sorted(path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("dashboard"), CONFIG) as found:
        yield found


class Browser:
    """A browser: it keeps the cookie and the word of its session, and says where its requests come from."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.origin = f"http://{api.address}"
        self.cookie = ""
        self.word = ""

    def ask(self, verb: str, path: str, body: object = None, **headers: str) -> Answered:
        """The answer; without a token, and with the cookie."""
        sent = {"Sec_Fetch_Site": "same-origin", **headers}
        if verb != "GET":
            sent = {"Origin": self.origin, **sent}
        if self.cookie:
            sent = {"Cookie": self.cookie, "Corral_Session": self.word, **sent}
        with closing(self.api.connection()) as connection:
            data = None if body is None else str(body).replace("'", '"').encode()
            given = {key.replace("_", "-"): value for key, value in sent.items() if value}
            if data is not None:
                given["Content-Type"] = "application/json"
            connection.request(verb, path, data, given)
            response = connection.getresponse()
            text = response.read().decode()
            return Answered(response.status, dict(response.getheaders()), text)

    def log_in(self, token: str, **headers: str) -> Answered:
        """Logs in, and keeps the cookie."""
        found = self.ask("POST", "/dashboard/session", {"token": token}, **headers)
        self.cookie = found.headers.get("Set-Cookie", "").partition(";")[0]
        self.word = found.headers.get("Corral-Session", "")
        return found


@pytest.fixture
def browser(api: Api) -> Browser:
    found = Browser(api)
    assert found.log_in(api.token).status == 204
    return found


def test_the_page_and_each_file_come_without_a_token_and_with_a_strict_policy(api: Api) -> None:
    browser = Browser(api)
    for path in ["/", *(f"/dashboard/{name}" for name in SCRIPTS)]:
        found = browser.ask("GET", path)
        assert found.status == 200, path
        policy = found.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert found.headers["X-Content-Type-Options"] == "nosniff"
        assert browser.ask("GET", path, If_None_Match=found.headers["ETag"]).status == 304


def test_the_word_dashboard_leads_to_the_page(api: Api) -> None:
    browser = Browser(api)
    for path, target in (("/dashboard", "./"), ("/dashboard/", "../")):
        found = browser.ask("GET", path)
        assert (found.status, found.headers["Location"]) == (307, target)
        assert browser.ask("POST", path).status == 405


def test_no_file_names_another_host_or_has_anything_inline() -> None:
    for name in SCRIPTS:
        text = re.sub(r"^\s*//.*$", "", (PAGE / name).read_text(), flags=re.MULTILINE)
        hosts = set(re.findall(r"\w+://[\w.]+", text)) - {"http://www.w3.org"}
        assert not hosts, name
        assert not re.search(r"<style|<script>|\son\w+=\"|style=\"|innerHTML|\beval\b", text), name


def test_every_import_of_the_page_is_a_file_of_it() -> None:
    for name in SCRIPTS:
        for path in re.findall(r'^import .*?"(\./|\.\./)(.+?)";', (PAGE / name).read_text(), re.M):
            assert ((PAGE / name).parent / "".join(path)).resolve().is_file(), (name, path)


@pytest.mark.parametrize("path", ["/dashboard/../face.py", "/dashboard/%2e%2e/face.py", "/dashboard/none.js", "/other"])
def test_nothing_else_is_served(api: Api, path: str) -> None:
    assert Browser(api).ask("GET", path).status in (400, 404)


def test_a_session_has_the_rights_of_its_token_and_its_cookie_is_for_no_script(api: Api) -> None:
    browser = Browser(api)
    assert browser.ask("GET", "/api/v1/whoami").status == 401
    made = browser.log_in(api.token)
    assert made.status == 204
    for word in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="):
        assert word in made.headers["Set-Cookie"]
    assert browser.ask("GET", "/api/v1/whoami").json["rights"] == "admin"
    assert browser.ask("POST", "/api/v1/agents/echo/restart", {}).status == 200
    assert browser.ask("DELETE", "/dashboard/session").status == 204
    assert browser.ask("GET", "/api/v1/whoami").status == 401


@pytest.mark.parametrize("body", [{"token": "wrong"}, {"token": ""}, {"tokens": 1}, 1, None])
def test_a_wrong_token_opens_no_session(api: Api, body: object) -> None:
    found = Browser(api).ask("POST", "/dashboard/session", body)
    assert found.status in (401, 422)
    assert "Set-Cookie" not in found.headers


def test_a_session_serves_no_other_page(browser: Browser) -> None:
    """Pages of other ports of this machine are of the same site, and send the cookie."""
    ask = browser.ask
    foreign = "http://localhost:3000"
    assert ask("POST", "/api/v1/agents/echo/stop", {}, Origin=foreign).status == 403
    assert ask("POST", "/api/v1/agents/echo/stop", {}, Origin="").status == 403
    assert ask("GET", "/api/v1/status", Origin=foreign).status == 403
    assert ask("GET", "/api/v1/status", Sec_Fetch_Site="same-site").status == 403
    assert ask("POST", "/dashboard/session", {"token": "x"}, Origin=foreign).status == 403
    assert ask("GET", "/api/v1/status").status == 200


def test_a_cookie_alone_which_every_port_of_the_host_is_sent_opens_nothing(browser: Browser) -> None:
    assert browser.ask("GET", "/api/v1/status").status == 200
    for word in ("", "x" * 43, browser.cookie.partition("=")[2]):
        for verb, path in (("GET", "status"), ("POST", "emergency-stop"), ("GET", "whoami")):
            assert browser.ask(verb, f"/api/v1/{path}", {}, Corral_Session=word).status == 401
    assert browser.ask("GET", "/api/v1/status").status == 200


def test_a_login_reads_no_more_than_a_login_needs(api: Api) -> None:
    found = Browser(api).ask("POST", "/dashboard/session", {"token": "x" * 10_000})
    assert (found.status, found.json["error"]["data"]) == (413, {"limit": "message", "value": 8192})


def test_a_session_ends_with_its_token(api: Api) -> None:
    made = api.daemon.call("token.add", name="guest", rights="read")
    browser = Browser(api)
    browser.log_in(made["token"])
    assert browser.ask("GET", "/api/v1/whoami").json["name"] == "guest"
    assert browser.ask("POST", "/api/v1/agents/echo/stop", {}).status == 403
    api.daemon.call("token.rm", name="guest")
    assert browser.ask("GET", "/api/v1/whoami").status == 401


def test_the_stream_begins_with_the_status_and_goes_on_with_what_changes(api: Api) -> None:
    with api.stream("GET", "/status") as events:
        first = next(events)
        assert first.name == "status"
        told = api.ask("GET", "/status").json
        assert first.data["status"]["agents"][0]["workers"][0]["id"] == "echo-0"
        assert first.data["status"].keys() == told.keys()
        task = api.ask("POST", "/run", {"agent": "echo", "objective": "x", "input": 1}).json
        seen: list[str] = []
        counts = 0
        for event in events:
            change = event.data["change"]
            seen += [each["type"] for each in change["events"] if each.get("task") == task["id"]]
            counts = change["tasks"]["succeeded"]
            if "task.ended" in seen:
                break
        assert seen == ["task.queued", "task.started", "task.ended"]
        assert counts >= 1
        api.ask("POST", "/agents/echo/scale", {"instances": 2})
        places = (event.data["change"]["places"].get("echo") for event in events)
        assert ["echo-0", "echo-1"] in places


def test_the_stream_shows_a_token_nothing_of_other_agents(api: Api) -> None:
    made = api.daemon.call("token.add", name="narrow", rights="operate", agents=["other*"])
    with closing(api.connection()) as connection:
        sent = {"Authorization": f"Bearer {made['token']}", "Accept": "text/event-stream"}
        connection.request("GET", "/api/v1/status", headers=sent)
        events = events_of(connection.getresponse())
        assert next(events).data["status"]["agents"] == []
        api.ask("POST", "/run", {"agent": "echo", "objective": "x"})
        other = {"name": "other", "spec": {"command": ["sleep", "60"], "protocol": "none"}}
        api.ask("POST", "/agents", other)
        names: set[str] = set()
        for event in events:
            change = event.data["change"]
            names |= {each["agent"] for each in change["events"]}
            names |= {each["name"] for each in change["agents"]}
            if "other" in names:
                break
        assert names == {"other"}
    api.ask("DELETE", "/agents/other")


def test_the_files_of_the_page_are_small() -> None:
    assert sum((PAGE / name).stat().st_size for name in SCRIPTS) < 174_000
    assert Path(PAGE / "index.html").is_file()
