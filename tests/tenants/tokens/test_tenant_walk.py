"""The walk: a tenant tries every method with every name that is not its own, over every face, and learns and changes nothing.

Each attempt is answered byte for byte as its twin, whose name nothing has; no answer has a word of another; and the state
of all others is the same afterwards.
"""

import base64
import http.client
import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest

from corral import Runtime
from corral.worker.client.sync import Client
from corral.worker.contract import codec
from corral.worker.contract.errors import CorralError, PermissionDenied
from corral.worker.methods.table import METHODS
from daemon_process import AGENTS, BOUND_S, DaemonProcess
from tenant_walk import SAID, WORD, Attempt, Foreign, attempts, replaced, told

pytestmark = pytest.mark.shell

CONFIG = f"""
[process]
working_directory = "{AGENTS}"
[daemon]
http = "127.0.0.1:0"
[monitoring]
metrics_interval = "36500d"
[tenants.acme]
[tenants.globex]
[agents."acme/web"]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
[templates.zephyrtemplate]
command = ["sleep", "1"]
protocol = "none"
"""

OTHER = """
[agents."{tenant}zephyr{rest}"]
entrypoint = "live_agent:agent"
labels = {{ whose = "zephyr", zephyr = "1" }}
description = "zephyr is the word"
[agents."{tenant}zephyrdown{rest}"]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
[mcp.servers."{tenant}zephyrtools{rest}"]
command = ["sleep", "1000"]
autostart = false
[teams."{tenant}zephyrsquad{rest}"]
mode = "broadcast"
members = ["zephyr{rest}"]
[workflows."{tenant}zephyrchain{rest}"]
steps = [{{ name = "one", agent = "zephyr{rest}", objective = "zephyr" }}]
[schedules."{tenant}zephyrtimes{rest}"]
agent = "zephyr{rest}"
objective = "zephyr"
every = "1h"
"""

OWNERS = ("globex/zephyr", "zephyrown")

VOLATILE = re.compile(
    r'"(newest|next|seq|at|created_at|since|duration_s|uptime_s|started_at|last_used|hash|prev|'
    r'wait_s|retry_after_s|mono_ms|resident_bytes|next_at|next_start_in_s|settled_at|upload|position|session|until|token|expires_at)": ?("[^"]*"|[0-9.e+-]+|null)'
)


def answered(client: Client, method: str, params: object) -> str:
    """The result or the error of a call, as it is sent."""
    try:
        found = client.call(method, params, timeout_s=BOUND_S)  # type: ignore[arg-type]  # an object
    except CorralError as error:
        return json.dumps(error.to_wire())
    return json.dumps(found)


def is_closing(method: str) -> bool:
    """Whether a call changes what its connection is."""
    return method.endswith(".follow") or method in ("mcp.attach", "auth.login")


class Walk:
    """A daemon with three owners, and the ways of one of them to it."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.foreign = self._filled()
        made = daemon.call("token.add", name="walker", rights="admin", tenant="acme")
        self.token = str(made["token"])
        self.address = str(daemon.call("daemon.status", names=[])["daemon"]["http"])

    def _filled(self) -> Foreign:
        call = self.daemon.call
        tasks: list[str] = []
        for owner in OWNERS:
            tenant = "globex/" if "/" in owner else ""
            for objective in ("say", "recall", "delegate"):  # the last one fails
                task = call(
                    "task.submit", agent=owner, objective=objective, input=f"{WORD} says so", session=f"{SAID}-session"
                )
                call("task.wait", task=task["id"])
                tasks.append(task["id"])
            waiting = call("task.submit", agent=f"{owner.replace(WORD, f'{WORD}squad')}", objective="later", at=4e9)
            tasks.append(waiting["id"])
            call("memory.put", agent=owner, key=f"{SAID}-key", value=f"{WORD}-value")
            call("checkpoint.save", name=owner)
            call("token.add", name=f"{tenant}{WORD}token", rights="read")
            call("agent.set", name=owner, spec={"title": f"{WORD} again"})
        call("secret.set", name=f"{WORD}_KEY", secret=f"{WORD}-secret")
        call("event.publish", type=f"{WORD}.said", data={"of": WORD})
        deployed = [self._deployed(tenant) for tenant in ("", "globex")]
        # The only step of the history: one that fell into an attempt would keep a name of which its twin has no row.
        call("metrics.latest")
        assert all(call("metrics.history", agent=owner)["points"] for owner in OWNERS)
        found = call("checkpoint.list")["checkpoints"]
        return Foreign(tuple(tasks), tuple(each["id"] for each in found), tuple(deployed))

    def _deployed(self, tenant: str) -> int:
        """The number of a deployment of another."""
        folder = self.daemon.state_dir.parent / f"pack-{tenant}"
        folder.mkdir()
        text = f'name = "{WORD}pack"\nversion = "1.0"\ncommand = ["sleep", "1000"]\n'
        (folder / "package.toml").write_text(f'{text}protocol = "none"\n')
        packed = folder.with_suffix(".corral")
        done = self.daemon.corral("package", "build", str(folder), "-o", str(packed))
        assert done.returncode == 0, done.stderr
        data = base64.b64encode(packed.read_bytes()).decode()
        with self.daemon.client() as client:
            if tenant:
                client.call("auth.login", {"tenant": tenant}, timeout_s=BOUND_S)
            client.call("package.add", {"data": data}, timeout_s=BOUND_S)
            made: Any = client.call("deployment.create", {"package": f"{WORD}pack"}, timeout_s=BOUND_S)
        assert made["state"] == "current", made["error"]
        return int(made["deployment"])

    def client(self) -> Client:
        """A connection of the tenant."""
        client = self.daemon.client()
        client.call("auth.login", {"token": self.token}, timeout_s=BOUND_S)
        return client

    def state(self) -> dict[str, object]:
        """All that the others have, as the owner reads it."""
        call = self.daemon.call
        names = [each["name"] for each in call("agent.list")["agents"] if WORD in each["name"]]
        statuses = [
            {key: each.get(key) for key in ("name", "state", "wanted", "labels", "title")}
            | {"workers": [(w["id"], w["state"], w["incarnation"]) for w in each["workers"]]}
            for each in call("agent.list")["agents"]
            if each["name"] in names
        ]
        found: dict[str, object] = {
            "status": statuses,
            "export": [call("daemon.export", names=[name]) for name in names],
            "revisions": [call("revision.list", name=name) for name in names],
            "memory": [call("memory.sessions", agent=name) for name in OWNERS],
            "values": [call("memory.search", agent=name) for name in OWNERS],
            "level": call("daemon.status", names=[])["daemon"]["log_level"],
        }
        for method, key in (
            ("task.list", "tasks"),
            ("schedule.list", "schedules"),
            ("token.list", "tokens"),
            ("secret.list", "secrets"),
            ("checkpoint.list", "checkpoints"),
            ("package.list", "packages"),
            ("deployment.list", "deployments"),
            ("team.list", "teams"),
            ("workflow.list", "workflows"),
            ("tenant.list", "tenants"),
        ):
            entries = [json.dumps(each) for each in call(method)[key]]
            found[key] = sorted(
                VOLATILE.sub("", each) for each in entries if '"acme/' not in each and '"name": "acme"' not in each
            )
        return found


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    config = CONFIG + OTHER.format(tenant="globex/", rest="") + OTHER.format(tenant="", rest="own")
    with DaemonProcess(tmp_path_factory.mktemp("walk"), config) as daemon:
        yield Walk(daemon)


def over_socket(walk: Walk) -> Iterator[Callable[[str, dict[str, object]], str]]:
    with walk.client() as client:

        def ask(method: str, params: dict[str, object]) -> str:
            if not is_closing(method):
                return answered(client, method, params)
            with walk.client() as own:
                return answered(own, method, params)

        yield ask


def over_mcp(walk: Walk) -> Iterator[Callable[[str, dict[str, object]], str]]:
    with walk.client() as client:
        client.call("mcp.attach", {}, timeout_s=BOUND_S)
        about: dict[str, object] = {"protocolVersion": "2025-06-18", "capabilities": {}}
        about["clientInfo"] = {"name": "walker", "version": "1"}
        client.call("initialize", about, timeout_s=BOUND_S)

        def ask(method: str, params: dict[str, object]) -> str:
            arguments = {"method": method, "params": params}
            asked = {"name": "corral__call", "arguments": arguments}
            found = json.loads(answered(client, "tools/call", asked))
            found.pop("content", None)  # the same once more, as a text
            return json.dumps(found)

        yield ask


def over_http(walk: Walk) -> Iterator[Callable[[str, dict[str, object]], str]]:
    host, _, port = walk.address.rpartition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=BOUND_S)) as connection:

        def ask(method: str, params: dict[str, object]) -> str:
            request = http_request(method, params)
            if request is None:
                return ""
            verb, path, body = request
            headers = {"Authorization": f"Bearer {walk.token}", "Accept": "application/json"}
            if body is not None:
                headers["Content-Type"] = "application/json"
            connection.request(verb, f"/api/v1{path}", body, headers)
            answer = connection.getresponse()
            return f"{answer.status} {answer.read().decode()}"

        yield ask


OBJECTS = ("exec_command",)
"""Methods of the runtime that return an object before the daemon is asked."""


def over_python(walk: Walk) -> Iterator[Callable[[str, dict[str, object]], str]]:
    with Runtime.connect(walk.daemon.socket, token=walk.token) as runtime:

        def ask(method: str, params: dict[str, object]) -> str:
            name = METHODS[method].faces.python
            function = None if name is None else getattr(runtime, name, None)
            if function is None or is_closing(method) or name in OBJECTS:
                return ""
            try:
                inspect.signature(function).bind(**params)
            except TypeError:  # it has another shape in Python
                return ""
            try:
                return codec.encode(msgspec.to_builtins(function(**params))).decode()
            except CorralError as error:
                return json.dumps(error.to_wire())

        yield ask


def http_request(method: str, params: dict[str, object]) -> tuple[str, str, str | None] | None:
    """The request of a call, None where HTTP cannot have it."""
    faces = METHODS[method].faces
    for route in () if faces.only_streams else faces.routes:
        rest: dict[str, Any] = dict(params)  # Any: values of JSON
        words: list[Any] = []
        for word, is_key in route.segments:
            value = rest.pop(word, None) if is_key else word
            several = codec.as_array(value)
            words.append(several[0] if several is not None and len(several) == 1 else value)
        if any(word is None or isinstance(word, list | dict) or word == "" for word in words):
            continue
        path = "".join(f"/{quote(str(word), safe='')}" for word in words)
        if route.verb not in ("GET", "DELETE"):
            return route.verb, path, json.dumps(rest)
        plain = {k: str(v).lower() if isinstance(v, bool) else v for k, v in rest.items()}
        if any(isinstance(value, dict) for value in plain.values()):
            continue
        query = urlencode(plain, doseq=True)
        return route.verb, f"{path}?{query}" if query else path, None
    return None


FACES = {"socket": over_socket, "http": over_http, "mcp": over_mcp, "python": over_python}

LEAST = {"python": 600}
"""Number of attempts over a face, 1,000 over others: some methods have params of another shape in Python."""


def with_own(params: dict[str, object]) -> dict[str, object]:
    """An example whose other names are those of an agent that the tenant has."""
    return json.loads(json.dumps(params).replace("crawler", "web"))  # type: ignore[no-any-return]  # an object


UNDONE_BY = {
    f"{noun}.{verb}": f"{noun}.rm"
    for noun, verb in (
        ("agent", "add"),
        ("agent", "add_all"),
        ("schedule", "add"),
        ("secret", "set"),
        ("team", "add"),
        ("token", "add"),
        ("workflow", "add"),
    )
}
"""Methods that undo what an attempt has made under a name of the tenant's own, so that its twin finds the same."""


def undo(client: Client, method: str, params: dict[str, Any]) -> None:
    """Removes what a call may have made."""
    if method not in UNDONE_BY:
        return
    entries = map(codec.as_object, codec.as_array(params.get("agents")) or [])
    names: list[Any] = [each["name"] for each in entries if each is not None]
    for name in [params.get("name"), *names, *params.get("specs", {})]:
        if name is not None and name != "web" and "/" not in name:
            answered(client, UNDONE_BY[method], {"name": name})


OWN_WORDS = ("audit.list",)
"""Methods that tell a caller what it asked for itself: a test of their own has them."""


def wrong(attempt: Attempt, one: str, other: str) -> str | None:
    """What is wrong with the answers to an attempt and to its twin."""
    ours = replaced(VOLATILE.sub("", one), attempt)
    theirs = VOLATILE.sub("", other)
    if ours != theirs and attempt.key:
        return f"{attempt.method} {attempt.key} {attempt.foreign}:\n  {ours[:600]}\n  {theirs[:600]}"
    if WORD in told(ours) or "globex" in told(ours):
        return f"{attempt.method} {attempt.key} {attempt.foreign} tells: {ours[:1500]}"
    return None


@pytest.mark.parametrize("face", FACES)
def test_what_is_anothers_is_answered_as_what_is_not_there(walk: Walk, face: str) -> None:
    before = walk.state()
    number, problems = Counter[str](), list[str]()
    with walk.client() as client:
        for ask in FACES[face](walk):
            for given in attempts(walk.foreign):
                if given.method in OWN_WORDS or (not given.key and given.method == "agent.rm"):
                    continue  # the walk needs the tenant's own agent
                attempt = given._replace(foreign=with_own(given.foreign), missing=with_own(given.missing))
                one = ask(attempt.method, attempt.foreign)
                if one == "":
                    continue
                undo(client, attempt.method, attempt.foreign)
                number[attempt.method] += 1
                other = ask(attempt.method, attempt.missing)
                undo(client, attempt.method, attempt.missing)
                problem = wrong(attempt, one, other)
                problems += [] if problem is None else [problem]
    after = walk.state()
    print(f"{face}: {number.total()} attempts on {len(number)} methods")
    assert not problems, f"{len(problems)} of {number.total()}:\n" + "\n".join(problems[:40])
    assert number.total() >= LEAST.get(face, 1000)
    for key, value in before.items():
        assert after[key] == value, key


CLOSED = {
    "agent.rollback": "an earlier table may have what the owner has taken away since",
    "daemon.import": "it may have all kinds of tables: they are added one by one",
    "schedule.add_command": "it adds a job: agent.add and schedule.add do",
    "agent.expose": "addresses are of the machine",
    "audit.verify": "the chain has the records of all",
    "backup.discard": "a backup has all",
    "backup.make": "likewise",
    "backup.read": "likewise",
    "daemon.doctor": "it is about the machine",
    "daemon.emergency_stop": "it stops all",
    "daemon.log_level": "it is about the daemon",
    "daemon.reload": "likewise",
    "daemon.stop": "likewise",
    "daemon.upgrade": "likewise",
    "node.drain": "nodes are the owner's",
    "node.list": "likewise",
    "node.resume": "likewise",
    "template.list": "templates are the owner's",
    "tenant.add": "tenants are the owner's",
    "tenant.resume": "likewise",
    "tenant.rm": "likewise",
    "tenant.set": "likewise",
    "tenant.suspend": "likewise",
}
"""Methods that a tenant cannot call, each with the reason. A new one must be put here on purpose, or have a rule."""


def test_every_method_without_a_rule_for_tenants_is_closed_on_purpose() -> None:
    assert {name for name, entry in METHODS.items() if entry.access.tenant is None} == {*CLOSED}


def test_every_method_has_an_example_that_the_walk_begins_with() -> None:
    for name, entry in METHODS.items():
        required = [each.name for each in msgspec.structs.fields(entry.params) if each.required]
        assert not required or entry.example, f"{name}: put one into api.examples"


COMMANDS = (
    ("show", "{}"),
    ("status", "{}"),
    ("stop", "{}"),
    ("restart", "{}"),
    ("logs", "{}"),
    ("run", "{}", "look"),
    ("rm", "{}"),
    ("history", "{}"),
    ("scale", "{}", "2"),
    ("quota", "{}"),
    ("metrics", "{}"),
    ("memory", "list", "{}"),
    ("schedule", "show", "{}"),
    ("team", "show", "{}"),
    ("events", "--agent", "{}"),
    ("tasks", "{}"),
    ("token", "rm", "{}"),
)
"""Commands with a place for a name."""


def test_a_command_reports_nothing_about_another(walk: Walk) -> None:
    before, problems = walk.state(), list[str]()
    for words in COMMANDS:
        answers: list[str] = []
        for name in (f"globex/{WORD}", "globex/nowhere"):
            line = [name if word == "{}" else word for word in words]
            done = walk.daemon.corral("--token", walk.token, *line)
            answers.append(f"{done.returncode} {done.stdout}{done.stderr}".replace(name, "NAME"))
        if answers[0] != answers[1] or WORD in answers[0]:
            problems.append(f"{words}: {answers}")
    assert not problems, "\n".join(problems)
    assert walk.state() == before


@pytest.mark.parametrize("method", ["event.follow", "daemon.follow", "log.follow"])
def test_a_follower_gets_nothing_of_another(walk: Walk, method: str) -> None:
    params = {"event.follow": {"since": 0}, "log.follow": {"n": 1000}}
    with walk.client() as client:
        heard = [answered(client, method, params.get(method, {}))]
        for owner in (*OWNERS, "globex/zephyrdown", "zephyrdownown"):
            walk.daemon.call("agent.restart", names=[owner])
        walk.daemon.call("event.publish", type=f"{WORD}.said", data={"of": WORD})
        walk.daemon.call("agent.set", name="acme/web", spec={"title": f"for {method}"})
        walk.daemon.call("agent.start", names=["acme/web"])
        is_own = {"log.follow": False}.get(method, True)
        for notification in client.notifications() if is_own else ():
            heard.append(json.dumps(notification.params))
            if "Ready" in heard[-1] and "acme/web" in heard[-1]:
                break
        walk.daemon.call("agent.stop", names=["acme/web"])
    assert WORD not in told("".join(heard))
    assert "globex" not in told("".join(heard))


FIGURES = re.compile(
    VOLATILE.pattern
    + r'|"([a-z_]*(_ms|_s|_bytes|_percent|_at)|restarts|up|processes|open_files|health_score)": ?("[^"]*"|[0-9.e+-]+|null)'
)
"""Figures that change by themselves: those of the tenant's own agent as it was sampled last are among them."""


def test_no_figure_of_a_tenant_shows_the_work_of_others(walk: Walk, subtests: pytest.Subtests) -> None:
    reading = sorted(
        name
        for name, entry in METHODS.items()
        if entry.access.permission == "read" and entry.access.tenant is not None and not is_closing(name)
    )
    with walk.client() as client:

        def figures(method: str) -> list[str]:
            params = with_own(dict(METHODS[method].example))
            least = {} if METHODS[method].params.__struct_fields__ else params
            return [FIGURES.sub("", answered(client, method, each)) for each in (params, least)]

        before = {method: figures(method) for method in reading}
        for owner in OWNERS:
            for _ in range(3):
                task = walk.daemon.call("task.submit", agent=owner, objective="nothing")
                walk.daemon.call("task.wait", task=task["id"])
        for method in reading:
            with subtests.test(method):
                assert figures(method) == before[method]


def test_the_audit_shows_a_tenant_its_own_records_alone(walk: Walk) -> None:
    with walk.client() as client:
        client.call("agent.set", {"name": "web", "spec": {"title": "of acme"}}, timeout_s=BOUND_S)
        for owner in OWNERS:
            walk.daemon.call("agent.set", name=owner, spec={"title": f"{WORD} once more"})
        walk.daemon.call("agent.set", name="acme/web", spec={"title": "by the owner"})
        found: Any = client.call("audit.list", {"n": 1000}, timeout_s=BOUND_S)
        for record in found["records"]:
            of_it = record["who"].get("tenant") == "acme"
            assert of_it or {name.partition("/")[0] for name in record["names"]} == {"acme"}
        by = [record["who"].get("tenant") for record in found["records"][-2:]]
        assert by == ["acme", None]
        for name in (f"globex/{WORD}", "nowhere/nowhere"):
            params = {"name": name, "actions": ["agent.set"]}
            about: Any = client.call("audit.list", params, timeout_s=BOUND_S)
            assert all(each["who"].get("tenant") == "acme" for each in about["records"])


def test_events_of_a_tenant_stay_with_it(walk: Walk) -> None:
    with walk.client() as client:
        client.call("event.publish", {"type": "acme.said", "data": 1}, timeout_s=BOUND_S)
        listed: Any = client.call("event.list", {"types": ["acme.*"]}, timeout_s=BOUND_S)
        assert [each["data"] for each in listed["events"]] == [1]
    token = walk.daemon.call("token.add", name="hears", rights="read", tenant="globex")["token"]
    with walk.daemon.client() as other:
        other.call("auth.login", {"token": token}, timeout_s=BOUND_S)
        heard: Any = other.call("event.list", {"types": ["acme.*"]}, timeout_s=BOUND_S)
        assert heard["events"] == []


def test_a_secret_of_a_tenant_is_for_its_agents_alone(walk: Walk) -> None:
    spec = {"command": ["sh", "-c", "echo key is $KEY; sleep 1000"], "protocol": "none"}
    spec["environment"] = {"KEY": "${secret:MINE}"}  # type: ignore[assignment]  # a table
    with walk.client() as client:
        client.call("secret.set", {"name": "MINE", "secret": "of-acme"}, timeout_s=BOUND_S)
        client.call("agent.add", {"name": "reads", "spec": spec}, timeout_s=BOUND_S)
        lines: Any = client.call("log.read", {"names": ["reads"]}, timeout_s=BOUND_S)
        assert [each["text"] for each in lines["records"]] == ["key is of-acme"]
        listed: Any = client.call("secret.list", timeout_s=BOUND_S)
        assert [(each["name"], each["used_by"]) for each in listed["secrets"]] == [("acme/MINE", ["acme/reads"])]
        spec["environment"] = {"KEY": f"${{secret:{WORD}_KEY}}"}  # type: ignore[assignment]  # likewise
        with pytest.raises(CorralError) as refused:
            client.call("agent.add", {"name": "steals", "spec": spec}, timeout_s=BOUND_S)
        assert f"{WORD}-secret" not in str(refused.value.to_wire())
        for name in ("reads", "steals"):
            client.call("agent.rm", {"names": [name]}, timeout_s=BOUND_S)
        client.call("secret.rm", {"name": "MINE"}, timeout_s=BOUND_S)
    assert (walk.daemon.state_dir / "secrets.d" / f"{WORD}_KEY").exists()


def test_a_suspended_tenant_reads_and_changes_nothing(walk: Walk) -> None:
    walk.daemon.call("tenant.suspend", name="acme")
    try:
        with walk.client() as client:
            assert client.call("daemon.status", timeout_s=BOUND_S)
            for method, params in (
                ("agent.start", {"names": ["web"]}),
                ("task.submit", {"agent": "web", "objective": "x"}),
                ("token.add", {"name": "more", "rights": "read"}),
            ):
                with pytest.raises(PermissionDenied) as refused:
                    client.call(method, params, timeout_s=BOUND_S)
                assert refused.value.data["reason"] == "suspended"
    finally:
        walk.daemon.call("tenant.resume", name="acme")


def test_a_tenant_sees_itself_alone_among_the_tenants(walk: Walk) -> None:
    with walk.client() as client:
        shown: Any = client.call("tenant.show", {}, timeout_s=BOUND_S)
        assert shown["tenant"]["name"] == "acme"
        assert shown["agents"] == ["acme/web"]
        assert client.call("tenant.show", {"name": "acme"}, timeout_s=BOUND_S) == shown
        listed: Any = client.call("tenant.list", {}, timeout_s=BOUND_S)
        assert [each["name"] for each in listed["tenants"]] == ["acme"]
    done = walk.daemon.corral("--token", walk.token, "tenant", "show")
    assert done.stdout.startswith("acme: "), done.stderr
    assert {each["name"] for each in walk.daemon.call("tenant.list")["tenants"]} > {"globex"}
    with pytest.raises(CorralError) as refused:
        walk.daemon.call("tenant.show")
    assert refused.value.name == "InvalidParams"
