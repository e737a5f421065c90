"""What the screen of `corral top` shows and what its keys do: values in, values out; and what it asks of a daemon."""

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corral.cli import render
from corral.cli.screen.columns import health, sparkline
from corral.cli.screen.pages import Drawn, drawn
from corral.cli.screen.snapshot import Snapshot, combined_state, health_of
from corral.cli.screen.view import Action, Shown, View, pressed, sorted_by
from daemon_process import BIN
from screen_terminal import ScreenTerminal
from scripted_daemon import ScriptedDaemon

NOW = 1_800_000_000.0


def worker(name: str, state: str = "Ready", **more: object) -> dict[str, Any]:
    is_up = state not in ("Initial", "Terminated")
    known = {"id": name, "state": state, "pid": 7 if is_up else None, "cpu_percent": 1.5}
    return {**known, "rss_bytes": 1 << 20, "restarts": 0, "wanted": True, "task": None, **more}


def agent(name: str, *workers: dict[str, Any], **more: object) -> dict[str, Any]:
    state = combined_state(workers, "Initial")
    return {"name": name, "kind": "agent", "state": state, "workers": [*workers], **more}


def status_of(*agents: dict[str, Any]) -> dict[str, Any]:
    tasks = {"queued": 0, "running": 0, "succeeded": 12, "failed": 3}
    return {"daemon": {"uptime_s": 60}, "agents": [*agents], "mcp_servers": [], "tasks": tasks}


def statistics_of(*agents: dict[str, Any]) -> dict[str, Any]:
    figures = {
        "runtime": {"active": 1},
        "executor": {"total": 15, "ok": 12, "failed": 3, "tool_calls": 4, "p50_ms": 7.5},
    }
    return {
        "agents": {each["name"]: figures for each in agents},
        "mcp_servers": {},
        "process": {"active": len(agents), "memory_bytes": 1 << 30},
    }


def snapshot_of(*agents: dict[str, Any]) -> Snapshot:
    snapshot = Snapshot()
    snapshot.rights = "admin"
    snapshot.take_sample(status_of(*agents), statistics_of(*agents), "2026-01-31T12:00:00Z")
    return snapshot


def texts(page: Drawn) -> list[str]:
    return ["".join(text for text, _ in line) for line in page.lines]


MANY = [agent(f"agent-{number:04}", worker(f"agent-{number:04}-0")) for number in range(1000)]
HOSTILE = agent("evil", worker("evil-0", "Busy", task="\x1b[2J\u202etask"), title="a\x1b]0;b\x07")


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (40, 10), (3, 2), (1, 1), (500, 5)])
@pytest.mark.parametrize("page", ["agents", "tasks", "agent", "task"])
def test_a_page_fits_the_terminal_and_nothing_on_it_is_obeyed(size: tuple[int, int], page: Any) -> None:
    snapshot = snapshot_of(HOSTILE, agent("名前" * 20, worker("x-0")), *MANY[:100])
    snapshot.take_tasks([{"id": "t1", "agent": "evil", "state": "failed", "objective": "\x9b31m" + 300 * "字"}])
    snapshot.take_lines([{"at": "2026-01-31T12:00:00Z", "worker": "evil-0", "text": "\r\x1b[H"}])
    view = pressed(View(), "down", drawn(View(), snapshot, size, NOW).shown)[0]
    view = replace(drawn(view, snapshot, size, NOW).view, page=page)
    for mode in ("keys", "help", "filter"):
        shown = texts(drawn(replace(view, mode=mode), snapshot, size, NOW, "a message\n"))
        assert len(shown) <= size[1]
        assert all(render.columns(line) <= size[0] for line in shown)
        assert all(line.isprintable() for line in shown)


def test_the_columns_of_80_and_of_200_by_their_importance() -> None:
    snapshot = snapshot_of(agent("crew", worker("crew-0", "Busy"), worker("crew-1", "Idle")))
    narrow = texts(drawn(View(), snapshot, (80, 24), NOW))
    names = ["NAME", "STATE", "WORKERS", "HEALTH", "CPU%▼", "MEM", "RUN", "QUEUE", "OK", "FAILED"]
    assert [name for name in narrow[2].split() if name in names] == names
    assert narrow[3].split()[:2] == ["crew", "Busy"]
    wide = texts(drawn(View(), snapshot, (200, 60), NOW))
    assert "CPU HISTORY" in wide[2]
    assert (sparkline([0, 50, 100]), sparkline([0.1, 0.2])) == ("▁▅█", "▁▁")


def test_a_selected_line_stays_selected_where_lines_move_come_and_go() -> None:
    view = View()
    for key in ("end", "up", "pageup"):
        page = drawn(view, snapshot_of(*MANY), (80, 24), NOW)
        view = pressed(page.view, key, page.shown)[0]
    chosen = view.agent
    assert chosen == "agent-0979"
    page = drawn(sorted_by(view, "NAME", page.shown), snapshot_of(*MANY), (80, 24), NOW)
    page = drawn(sorted_by(page.view, "NAME", page.shown), snapshot_of(*MANY), (80, 24), NOW)
    assert page.view.agent == chosen
    assert any(chosen in line for line in texts(page))
    less = [each for each in MANY if each["name"] != chosen]
    page = drawn(page.view, snapshot_of(*less), (80, 24), NOW)
    assert page.view.agent == "agent-0978"  # in its place, of names that go down
    assert drawn(page.view, snapshot_of(), (80, 24), NOW).view.agent == ""


def test_until_a_line_is_chosen_the_first_one_is_selected_whatever_it_is() -> None:
    crew, other = agent("crew", worker("c", cpu_percent=9)), agent("other", worker("o"))
    page = drawn(View(), snapshot_of(crew, other), (80, 24), NOW)
    assert page.view.agent == "crew"
    crew, other = agent("crew", worker("c")), agent("other", worker("o", cpu_percent=9))
    page = drawn(page.view, snapshot_of(crew, other), (80, 24), NOW)
    assert page.view.agent == "other"
    detail = pressed(page.view, "enter", page.shown)[0]
    back = pressed(detail, "escape", page.shown)[0]
    page = drawn(back, snapshot_of(agent("crew", worker("c", cpu_percent=20)), other), (80, 24), NOW)
    assert (page.view.agent, page.view.place("agents").index) == ("other", 1)


def test_any_keys_in_any_order_leave_a_page_that_can_be_drawn() -> None:
    seed = 20261123
    chance = random.Random(seed)
    keys = [*"jkgGatsxrc<>i/? pqnZyyyyyy", "up", "down", "pageup", "pagedown", "home", "end"]
    keys += ["enter", "escape", "backspace", "tab", "left", "right"]
    view, acted = View(), 0
    for step in range(500):
        snapshot = snapshot_of(*chance.sample(MANY[:30], chance.randrange(30)))
        snapshot.take_tasks([{"id": f"t{n}", "agent": "agent-0001"} for n in range(step % 40)])
        size = (chance.randrange(1, 120), chance.randrange(1, 40))
        page = drawn(view, snapshot, size, NOW)
        view, wish = pressed(page.view, chance.choice(keys), page.shown)
        if isinstance(wish, Action):
            acted += 1
            assert page.view.mode == "confirm"
            assert wish == page.view.asked
        place = page.view.place(page.view.page)
        if page.view.page in ("agents", "tasks") and page.shown.ids and page.view.mode != "help":
            assert page.shown.ids[place.index] == place.selected
            assert place.first <= place.index < place.first + page.shown.room
    assert acted > 0


def test_without_the_right_no_key_asks_for_an_action() -> None:
    snapshot = snapshot_of(agent("crew", worker("crew-0")))
    snapshot.rights = "read"
    page = drawn(View(), snapshot, (80, 24), NOW)
    for key in "sxr":
        assert pressed(page.view, key, page.shown) == (page.view, None)
    snapshot.rights = "operate"
    page = drawn(page.view, snapshot, (80, 24), NOW)
    asked = pressed(page.view, "x", page.shown)[0]
    assert pressed(asked, "q", page.shown) == (page.view, None)
    assert pressed(asked, "y", page.shown) == (page.view, Action("stop", "crew"))


def test_a_click_sorts_by_the_column_under_it_or_selects_the_line() -> None:
    page = drawn(View(), snapshot_of(*MANY), (80, 24), NOW)
    at = texts(page)[2].index("MEM")
    assert page.column_at(2, at) == "MEM"
    assert page.column_at(3, at) == ""
    assert (page.index_at(3), page.index_at(2), page.index_at(23)) == (0, None, None)
    again = sorted_by(sorted_by(page.view, "MEM", page.shown), "MEM", page.shown)
    assert not again.sorts["agents"].is_descending
    assert pressed(View(), "<", Shown()) == (View(), None)


def test_events_change_what_the_next_sample_will_say() -> None:
    snapshot = snapshot_of(agent("crew", worker("crew-0"), worker("crew-1", "Busy")))
    for event in (
        {"type": "worker.state", "worker": "crew-1", "to": "Idle"},
        {"type": "worker.state", "worker": "crew-0", "to": "Terminated", "reason": "died"},
        {"type": "task.queued", "task": "t1", "agent": "crew", "at": "2026-01-31T12:00:00Z"},
        {"type": "task.started", "task": "t1", "worker": "crew-1", "attempt": 1},
        {"type": "task.ended", "task": "t1", "state": "failed", "error": "TaskFailed"},
    ):
        assert snapshot.take_event(event)
    snapshot.settle()
    row = snapshot.row_of("crew")
    assert (row["state"], row["running"], row["memory_bytes"]) == ("Terminated", 0, 1 << 20)
    assert [(each["id"], each["state"]) for each in snapshot.tasks] == [("t1", "failed")]
    for event in (
        {"type": "worker.state", "worker": "nobody-0", "to": "Idle"},
        {"type": "task.started", "task": "of long ago", "worker": "crew-1"},
        {"type": "config.reloaded"},
    ):
        assert not snapshot.take_event(event)


def test_health_is_a_word_or_else_the_score() -> None:
    snapshot = snapshot_of(agent("a", worker("a-0"), health_score=72))
    assert health(snapshot.row_of("a")) == ("72", "yellow")
    ended = {"result": "exited", "code": 0}
    assert health_of(agent("a", worker("a-0"))) == "ok"
    assert health_of(agent("a", worker("a-0"), degraded=True)) == "degraded"
    assert health_of(agent("a", worker("a-0", "Initial", next_start_in_s=3))) == "failed"
    assert health_of(agent("a", worker("a-0", "Terminated", last_exit=ended))) == "ok"
    assert health_of(agent("a", worker("a-0", "Terminated", last_exit={"result": "oom"}))) == ("failed")
    assert health_of(agent("a", worker("a-0", "Initial"))) == "-"


def test_it_asks_for_the_status_once_in_an_interval_however_much_happens(tmp_path: Path) -> None:
    many = [worker(f"crew-{number}") for number in range(1000)]
    asked_at: list[float] = []

    def status(caller: Any, params: dict[str, object]) -> object:
        asked_at.append(time.monotonic())
        return status_of(agent("crew", *many))

    def follow(caller: Any, params: dict[str, object]) -> object:
        for number in range(500):
            to = "Busy" if number % 2 else "Idle"
            event = {"type": "worker.state", "worker": f"crew-{number % 1000}", "to": to}
            caller.notify("event", {"events": [event]})
        last = {"type": "worker.state", "worker": "crew-0", "to": "Starting"}
        caller.notify("event", {"events": [last]})
        return {"position": 1}

    scripts: dict[str, object] = {
        "auth.whoami": {"rights": "operate"},
        "daemon.status": status,
        "statistics.show": statistics_of(agent("crew")),
        "event.follow": follow,
        "task.list": {"tasks": []},
    }
    with ScriptedDaemon(tmp_path / "socket", scripts) as daemon:
        command = [str(BIN / "corral"), "--socket", str(daemon.path), "top", "--interval", "500ms"]
        with ScreenTerminal(command, 80, 24) as screen:
            screen.wait_text("crew", "1/1000")
            for _ in range(20):
                screen.press("t?qa>i")
            daemon.wait_until(lambda: len(asked_at) >= 5)
            # Of four intervals three: the first call may be late, and none begins before the answer to it.
            assert asked_at[4] - asked_at[0] > 3 * 0.5 * 0.9
            screen.press("q")
            assert screen.wait_end() == 0


def test_agents_of_one_name_on_two_nodes_are_two_lines() -> None:
    here, there = ({**agent("same", worker("same-0", "Idle")), "node": node} for node in ("one", "two"))
    snapshot = snapshot_of(here, there)
    assert [each["name"] for each in snapshot.rows()] == ["same@one", "same@two"]
    event = {"type": "worker.state", "agent": "same", "worker": "same-0", "to": "Busy"}
    assert snapshot.take_event({**event, "node": "two"})
    snapshot.settle()
    assert [each["state"] for each in snapshot.rows()] == ["Idle", "Busy"]
