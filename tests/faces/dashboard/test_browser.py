"""The dashboard in a real Chromium: one run of `browser.mjs`, and what it has to have found."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from daemon_process import AGENTS
from http_api_client import serving
from node_packages import MODULES, NODE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.shell,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium"),
    pytest.mark.skipif(
        not (MODULES / "playwright-core").is_dir() or not (MODULES / "axe-core").is_dir(),
        reason="no npm packages: make test could not reach a registry",
    ),
]

RUN_S = 240

CONFIG = f"""
[daemon]
http = "127.0.0.1:{{port}}"

[agents.echo]
command = ["python", "{AGENTS / "http_agent.py"}"]
instances = 2

[agents.other]
command = ["python", "{AGENTS / "http_agent.py"}"]
autostart = false

[agents.questions]
entrypoint = "questions_agent:agent"
process.working_directory = "{AGENTS}"

[agents.writer]
protocol = "acp"
command = [{json.dumps(sys.executable)}, "-P", "{AGENTS / "acp_agent.py"}"]
monitoring.agent_log_level = "debug"

[agents.broken]
command = ["no-such-program-at-all"]
protocol = "none"

[teams.both]
mode = "broadcast"
members = ["echo", "other"]

[[workflows.twice.steps]]
name = "once"
agent = "echo"
objective = "x"
"""


class Seen(NamedTuple):
    """What the browser found, and what the command says."""

    found: dict[str, Any]
    status: dict[str, Any]
    top: dict[str, Any]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    script = Path(__file__).parent / "browser.mjs"
    with serving(tmp_path_factory.mktemp("browser"), CONFIG) as api:
        daemon = api.daemon
        daemon.await_worker("broken-0", lambda worker: worker["state"] == "Terminated")
        for each in ("echo-0", "echo-1", "questions-0", "writer-0"):
            daemon.await_worker(each, lambda worker: worker["state"] in ("Ready", "Idle"))
        status = json.loads(daemon.corral("--json", "status").stdout)
        top = json.loads(daemon.corral("--json", "top", "--once").stdout)
        reader = daemon.call("token.add", name="reader", rights="read")["token"]
        environment = {**os.environ, "ADMIN_TOKEN": api.token, "READ_TOKEN": reader}
        done = subprocess.run(
            [NODE, str(script), str(CHROMIUM), f"http://{api.address}"],
            env={**environment, "MODULES": str(MODULES)},
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        yield Seen(json.loads(done.stdout), status, top)


def test_no_error_is_reported_and_no_other_host_is_asked(seen: Seen) -> None:
    assert seen.found["errors"] == []
    assert seen.found["foreign"] == []
    assert seen.found["cookieSeen"] == ""
    assert seen.found["wrongToken"] != ""


def test_what_is_wrong_comes_first(seen: Seen) -> None:
    [problem] = seen.found["problems"]
    assert "broken" in problem
    assert "no-such-program-at-all" in problem


def test_the_figures_are_those_of_the_command(seen: Seen) -> None:
    workers = [each for entry in seen.status["agents"] for each in entry["workers"]]
    tiles = seen.found["tiles"]
    assert tiles["Workers up"] == str(sum(each["pid"] is not None for each in workers))
    for key, label in (("running", "Tasks running"), ("queued", "Tasks queued")):
        assert tiles[label] == str(seen.status["tasks"][key])
    row = next(each for each in seen.top["agents"] if each["name"] == "echo")
    name, state, up, queued, running, *_rest = seen.found["agents"]
    assert (name, state, up) == ("echo", row["state"], f"{row['up']}/{row['workers']}")
    assert (queued, running) == (str(row["queued"]), str(row["running"]))


def test_rows_are_reached_and_opened_by_keys(seen: Seen) -> None:
    assert "vrow" in seen.found["focused"]
    assert seen.found["opened"] == "#/agents/echo"


def test_a_task_is_run_and_shown_as_a_waterfall(seen: Seen) -> None:
    assert seen.found["badInput"] != ""
    lanes = seen.found["task"]["lanes"]
    assert lanes[lanes.index("attempt") :] == ["attempt", "look", "look#2", "look#3"]


def test_nothing_is_stopped_without_confirmation(seen: Seen) -> None:
    assert seen.found["stillUp"] in ("Ready", "Idle")


def test_a_log_is_followed_and_searched(seen: Seen) -> None:
    assert seen.found["logRows"] == 1


def test_questions_of_tasks_are_answered_by_a_button_or_a_text(seen: Seen) -> None:
    [question] = seen.found["questions"]
    assert question.startswith("questionsWhich name?")
    assert seen.found["answers"] == ["yes", "corral"]


def test_what_a_coding_agent_says_and_does_is_a_conversation(seen: Seen) -> None:
    talk = seen.found["talk"]
    assert talk["plan"] == ["▸rename, in progress", "○test, pending"]
    assert talk["entries"] == [
        "thought: ThoughtsThe name is wrong.",
        "said: I rename it:mv a bin a.py.",
        "change: a.py+1 -1@@ -1,2 +1,2 @@\n-def a():\n+def b():\n     return 1\n",
        "tool: succeedededitEdit a.py",
        "said: Renamed.",
    ]
    assert talk["question"] == ["yes", "no"]


def test_ten_thousand_rows_have_few_elements(seen: Seen) -> None:
    rows = seen.found["rows"]
    assert 10 < rows["first"] < 100
    assert (rows["last"], rows["count"]) == (9999, "10001")


def test_no_view_has_a_serious_finding_of_axe(seen: Seen) -> None:
    assert {view: each for view, each in seen.found["axe"].items() if each} == {}


def test_no_view_is_wider_than_the_screen(seen: Seen) -> None:
    assert {view: each for view, each in seen.found["wide"].items() if each > 0} == {}


def test_a_token_that_may_read_sees_no_button_that_changes_something(seen: Seen) -> None:
    assert seen.found["readerButtons"] == []


def test_the_overview_lists_agents_who_ask_first_then_who_failed(seen: Seen) -> None:
    first, second, *_ = seen.found["overview"]
    assert first == ["asks", "questions", "Still open?"]
    assert second[:2] == ["Failed", "broken"]
    assert "no-such-program-at-all" in second[2]


def test_a_phone_shows_why_a_worker_failed_and_its_buttons(seen: Seen) -> None:
    assert "no-such-program-at-all" in " ".join(seen.found["phoneWorker"])
    assert seen.found["phoneWorker"][-1] == "Restart Stop"
