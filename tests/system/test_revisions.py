"""The history of what is added at run time: set, history, diff, rollback, by the command and by the methods."""

import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from corral.worker.contract.errors import Conflict, CorralError, InvalidParams, NotFound
from daemon_process import BOUND_S, DaemonProcess

pytestmark = pytest.mark.shell

CONFIG = """
[agents.filed]
command = ["sleep", "1000"]
protocol = "none"
"""
SLEEP = {"command": ["sleep", "1000"], "protocol": "none", "autostart": False}


def revisions(daemon: DaemonProcess, name: str) -> list[tuple[int, str, str]]:
    found = daemon.call("revision.list", name=name)["revisions"]
    return [(each["revision"], each["state"], each["how"]) for each in found]


def test_changes_are_revisions_and_every_one_comes_back(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        assert revisions(daemon, "filed") == [(1, "current", "file")]
        spec = {**SLEEP, "environment": {"KEY": "one"}}
        daemon.call("agent.add", name="a", spec=spec, start=False)
        words = ["tasks.max_attempts=5", "labels.team=red", "environment.KEY=two", "title=A b"]
        done = daemon.corral("set", "a", *words, "--why", "as agreed")
        assert done.returncode == 0, done.stderr
        shown = daemon.call("agent.show", name="a")
        assert shown["spec"]["tasks"] == {"max_attempts": 5}
        assert (shown["spec"]["labels"], shown["spec"]["title"]) == ({"team": "red"}, "A b")
        newest = daemon.call("revision.list", name="a")["revisions"][0]
        assert (newest["how"], newest["why"], newest["state"]) == ("set", "as agreed", "current")
        assert newest["by"] not in ("", "file")
        found = daemon.call("revision.diff", name="a")["changes"]
        assert [each["key"] for each in found] == [*("environment.KEY", "labels.team", "tasks.max_attempts", "title")]
        assert found[0]["before"] == found[0]["after"] != "one", "values are hidden"
        assert "two" not in daemon.corral("history", "a", "2").stdout

        dry = daemon.call("agent.rollback", name="a", dry_run=True)
        assert (dry["of"], dry["revision"]) == (1, None)
        assert daemon.call("agent.show", name="a")["etag"] == shown["etag"]
        assert daemon.corral("rollback", "a").returncode == 0
        assert "tasks" not in daemon.call("agent.show", name="a")["spec"]
        assert revisions(daemon, "a") == [
            *((3, "current", "rollback"), (2, "superseded", "set"), (1, "superseded", "add"))
        ]
        assert daemon.call("agent.rollback", name="a", revision=2)["revision"] == 4
        assert daemon.call("agent.show", name="a")["etag"] == shown["etag"]
        assert json.loads(daemon.corral("--json", "history", "a", "-n", "1").stdout)["revisions"]
        assert daemon.corral("set", "a", "labels=", "--unset", "title").returncode == 0
        assert not daemon.call("agent.show", name="a")["spec"].keys() & {"labels", "title"}

        assert daemon.process is not None, "it was started"
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        before = daemon.call("revision.list", name="a")["revisions"]
        assert [each["revision"] for each in before] == [5, 4, 3, 2, 1]
        assert before[0]["state"] == "current"
        daemon.call("agent.rm", names=["a"])
        assert revisions(daemon, "a")[0] == (5, "superseded", "set")
        daemon.call("agent.add", name="a", spec=SLEEP, start=False)
        assert revisions(daemon, "a")[0] == (6, "current", "add")
        with pytest.raises(NotFound):
            daemon.call("agent.rollback", name="a", revision=99)
        with pytest.raises(NotFound):
            daemon.call("revision.list", name="nobody")


def test_a_revision_that_requires_what_is_gone_is_refused(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        daemon.call("agent.add", name="b", spec=SLEEP, start=False)
        daemon.call("agent.add", name="a", spec={**SLEEP, "requires": ["b"]}, start=False)
        daemon.call("agent.set", name="a", spec={"requires": None})
        daemon.call("agent.rm", names=["b"])
        with pytest.raises(InvalidParams, match="b"):
            daemon.call("agent.rollback", name="a")
        assert len(revisions(daemon, "a")) == 2


def test_teams_and_servers_have_a_history_and_a_stale_etag_is_refused(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        for name in "ab":
            spec = {"command": ["sleep", "1000"], "autostart": False}
            daemon.call("agent.add", name=name, spec=spec, start=False)
        daemon.call("team.add", name="duo", spec={"mode": "route", "members": ["a", "b"]})
        etag = daemon.call("agent.set", name="duo", spec={"members": ["a"]})["etag"]
        assert daemon.call("team.show", name="duo")["spec"]["members"] == ["a"]
        daemon.call("agent.set", name="duo", spec={"title": "Two"}, expected=etag)
        with pytest.raises(Conflict):
            daemon.call("agent.rollback", name="duo", expected=etag)
        daemon.call("agent.rm", names=["b"])
        with pytest.raises(CorralError):
            daemon.call("agent.rollback", name="duo", revision=1)
        daemon.call("agent.rollback", name="duo", revision=2)
        assert revisions(daemon, "duo")[0] == (4, "current", "rollback")
        server = {"command": ["sleep", "1000"]}
        daemon.call("agent.add", name="s", kind="mcp", spec=server, start=False)
        daemon.call("agent.set", name="s", spec={"title": "Server"})
        assert daemon.call("revision.list", name="s")["revisions"][0]["kind"] == "mcp"


def test_a_reload_makes_revisions_of_what_it_changes(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        daemon.config.write_text(CONFIG + 'title = "Filed"\n')
        daemon.call("daemon.reload")
        assert revisions(daemon, "filed") == [(2, "current", "reload"), (1, "superseded", "file")]
        daemon.call("agent.set", name="filed", spec={"title": "Other"})
        assert revisions(daemon, "filed")[:2] == [(3, "current", "set"), (2, "superseded", "reload")]


def test_no_change_is_lost_when_several_callers_change_one_table_at_once(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, CONFIG) as daemon:
        daemon.call("agent.add", name="a", spec=SLEEP, start=False)

        def change(n: int) -> int:
            done = daemon.call("agent.set", name="a", spec={"labels": {f"k{n}": "x"}})
            return int(done["revision"])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(change, range(40)))
        labels = daemon.call("agent.show", name="a")["spec"]["labels"]
        assert labels == {f"k{n}": "x" for n in range(40)}
        found = daemon.call("revision.list", name="a", limit=100)["revisions"]
        assert [each["revision"] for each in found] == list(range(41, 0, -1))
        assert [each["state"] for each in found] == ["current", *["superseded"] * 40]


def test_reloads_of_an_unchanged_file_refuse_and_lose_no_change(tmp_path: Path) -> None:
    teams = """
[agents.worker]
command = ["sleep", "1000"]
autostart = false
[teams.crew]
mode = "route"
members = ["worker"]
"""
    with DaemonProcess(tmp_path, CONFIG + teams) as daemon:
        is_over = threading.Event()

        def reload() -> None:
            while not is_over.is_set():
                daemon.call("daemon.reload")

        with ThreadPoolExecutor(2) as pool:
            reloading = [pool.submit(reload) for _ in range(2)]
            try:
                for number in range(20):
                    daemon.call("agent.set", name="filed", spec={"labels": {"v": str(number)}})
                    daemon.call("agent.set", name="crew", spec={"title": str(number)})
                    assert daemon.call("agent.show", name="filed")["spec"]["labels"] == {"v": str(number)}
            finally:
                is_over.set()
            for each in reloading:
                each.result(BOUND_S)
        daemon.call("daemon.reload")
        assert daemon.call("agent.show", name="filed")["spec"]["labels"] == {"v": "19"}
        daemon.stop()
        daemon.start()
        assert daemon.call("agent.show", name="filed")["spec"]["labels"] == {"v": "19"}


@pytest.mark.parametrize("acknowledged", [1, 7, 20])
def test_a_daemon_that_is_killed_between_changes_leaves_one_table_and_its_revision(
    tmp_path: Path, acknowledged: int
) -> None:
    done: list[int] = []
    reached = threading.Event()

    def change(n: int) -> None:
        with contextlib.suppress(CorralError):
            if n % 5 == 4:
                daemon.call("agent.rollback", name="a")
            else:
                daemon.call("agent.set", name="a", spec={"title": f"T{n}"})
            done.append(n)
            if len(done) >= acknowledged:
                reached.set()

    with DaemonProcess(tmp_path, CONFIG) as daemon:
        daemon.call("agent.add", name="a", spec=SLEEP, start=False)
        with ThreadPoolExecutor(4) as pool:
            working = [pool.submit(change, n) for n in range(30)]
            assert reached.wait(BOUND_S)
            assert daemon.process is not None, "it was started"
            daemon.process.kill()
            for each in working:
                each.result(BOUND_S)
        daemon.process.wait()
        daemon.start()
        found = daemon.call("revision.list", name="a", limit=100)["revisions"]
        assert [each["revision"] for each in found] == list(range(len(found), 0, -1))
        assert len(found) >= len(done)
        assert [each["state"] for each in found] == ["current", *["superseded"] * (len(found) - 1)]
        shown = daemon.call("agent.show", name="a")["spec"]
        assert daemon.call("revision.show", name="a")["spec"] == shown
        assert daemon.call("agent.set", name="a", spec={"title": "after"})["revision"] == len(found) + 1
