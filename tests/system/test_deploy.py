"""Packages are deployed, replaced, taken back and brought back by a real daemon, under load."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import Corrupted
from daemon_process import BOUND_S, marked
from package_site import SOURCE, USUAL, Load, Site, await_state

pytestmark = pytest.mark.shell


def test_the_first_deployment_adds_an_agent_that_works_in_its_folder_on_its_own_python(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.add("1.0")
        done = site.daemon.corral("--json", "deploy", "kit")
        assert done.returncode == 0, done.stdout + done.stderr
        record = json.loads(done.stdout.splitlines()[-1])
        assert (record["state"], record["version"], record["error"]) == ("current", "1.0", None)
        assert record["revision"] == 1
        checks = {check["name"]: check["state"] for check in record["checks"]}
        assert checks == dict.fromkeys(("package", "needs", "install", "ready"), "passed")
        answer = site.ask()
        assert answer["cwd"] == record["folder"]
        assert answer["alpha"] == "2.0"
        shown = site.daemon.corral("deployments")
        assert "kit" in shown.stdout
        assert "current" in shown.stdout


def test_a_new_version_takes_over_under_load_without_a_task_that_fails(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.add("1.0", instances=2)
        site.add("1.1", instances=2)
        assert site.deploy("kit@1.0")["state"] == "current"
        with Load(site) as load:
            record = site.deploy("kit@1.1")
            after = site.ask()["version"]
            deadline = time.monotonic() + BOUND_S
            while "1.1" not in load.answers and time.monotonic() < deadline:
                site.ask()  # the load goes on until it has met the new ones, too
        assert (record["state"], record["revision"]) == ("current", 2)
        assert load.failures == []
        assert after == "1.1"
        assert set(load.answers) == {"1.0", "1.1"}
        first = load.answers.index("1.1")
        assert "1.0" not in load.answers[first + 4 :], "the old ones only finish what they have"
        states = {each["version"]: each["state"] for each in site.daemon.call("deployment.list")["deployments"]}
        assert states == {"1.0": "superseded", "1.1": "current"}


SLEEPS = 'import time; hoard = bytearray(b"x") * 400_000_000; time.sleep(20)\n'

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "syntax": ({"source": "def (\n"}, "syntax"),
    "import": ({"source": "import nothing_of_this_name\n"}, "nothing_of_this_name"),
    "missing dependency": ({"keys": 'dependencies = ["absent-thing"]'}, "absent-thing"),
    "conflict": ({"keys": 'dependencies = ["beta", "alpha>=2"]'}, "alpha"),
    "install script": (
        {
            "keys": f'{USUAL}\ninstall = "./install.sh"',
            "files": {"install.sh": "#!/bin/sh\necho no such library\nexit 3\n"},
        },
        "no such library",
    ),
    "health": ({"keys": f'{USUAL}\nhealth = {{ name = "db", exec = ["false"], interval = "100ms" }}'}, "db"),
    "smoke": ({"keys": f'{USUAL}\nsmoke = {{ objective = "smoke" }}', "fails_smoke": True}, "it smokes"),
    "memory": (
        {
            "source": SLEEPS + SOURCE.format(version="1.1", fails_smoke=False),
            "keys": f'{USUAL}\n[resources]\nmax_memory_bytes = "100MiB"',
        },
        "memory",
    ),
    "python": ({"keys": f'{USUAL}\nrequires-runtime = {{ python = ">=9" }}'}, ">=9"),
    "need": ({"keys": f'{USUAL}\nneeds = {{ mcp = ["search"] }}'}, "search"),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_version_gets_no_task_and_leaves_the_old_one_serving(tmp_path: Path, kind: str) -> None:
    changes, word = BAD[kind]
    with Site(tmp_path) as site:
        site.add("1.0")
        site.add("1.1", **changes)
        assert site.deploy("kit@1.0")["state"] == "current"
        serving, files = site.ask()["pid"], site.left()
        with Load(site) as load:
            record = site.deploy("kit@1.1")
            for _ in range(3):
                site.ask()
        assert record["state"] == "failed", record
        text = json.dumps(record["error"]).lower()
        assert word in text
        assert load.failures == []
        assert set(load.answers) == {"1.0"}
        assert site.ask()["pid"] == serving, "the worker of the old version was left alone"
        assert site.left() == files
        status = site.daemon.call("daemon.status", names=["kit"])["agents"][0]
        assert [worker["id"] for worker in status["workers"]] == ["kit-0"]
        site.add("1.2")
        assert site.deploy("kit@1.2")["state"] == "current"
        assert site.ask()["version"] == "1.2"


def test_a_first_version_that_is_bad_is_not_there_afterwards(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.add("1.0", keys=f'{USUAL}\nsmoke = {{ objective = "smoke" }}', fails_smoke=True)
        record = site.deploy("kit")
        assert record["state"] == "failed"
        assert "it smokes" in record["error"]["message"]
        assert site.daemon.call("daemon.status")["agents"] == []
        assert site.left() == []


def test_a_changed_byte_is_found_before_anything_is_installed(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.add("1.0")
        site.add("1.1")
        assert site.deploy("kit@1.0")["state"] == "current"
        files = site.left()
        stored = max(
            (p for p in (site.daemon.state_dir / "packages").rglob("*") if p.is_file()),
            key=lambda p: p.stat().st_mtime_ns,
        )
        data = bytearray(stored.read_bytes())
        data[len(data) // 2] ^= 1
        stored.chmod(0o600)
        stored.write_bytes(data)
        done = site.daemon.corral("deploy", "kit@1.1")
        assert done.returncode != 0
        assert site.left() == files
        assert site.ask()["version"] == "1.0"


def test_a_worker_does_not_start_from_files_that_have_changed(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.add("1.0")
        record = site.deploy("kit")
        changed = Path(record["folder"]) / "kit.py"
        changed.write_text(changed.read_text().replace("1.0", "6.6"))
        done = site.daemon.corral("restart", "kit")
        assert done.returncode == 1
        assert "kit.py is not as it was installed" in done.stderr
        site.daemon.call("agent.stop", names=["kit"])
        with pytest.raises(Corrupted):
            site.daemon.call("agent.start", names=["kit"])
        assert site.daemon.worker("kit-0")["last_exit"]["result"] == "corrupted"
        assert site.deploy("kit")["state"] == "current"
        assert site.ask()["version"] == "1.0"


def test_a_canary_gets_its_share_and_is_promoted_or_aborted(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        for version in ("1.0", "1.1"):
            site.add(version, instances=3)
        assert site.deploy("kit@1.0")["state"] == "current"
        record = site.deploy("kit@1.1", canary_percent=10)
        assert record["state"] == "canary", record
        with Load(site, 6) as load:
            for _ in range(30):
                site.ask()
        assert load.failures == []
        assert set(load.answers) == {"1.0", "1.1"}
        refused = site.daemon.corral("deploy", "kit@1.1")
        assert refused.returncode == 4, "one at a time"
        aborted = site.daemon.corral("deploy", "kit", "--abort")
        assert aborted.returncode == 0, aborted.stderr
        assert {site.ask()["version"] for _ in range(9)} == {"1.0"}
        assert site.deploy("kit@1.1", canary_percent=50)["state"] == "canary"
        promoted = site.daemon.corral("deploy", "kit", "--promote")
        assert promoted.returncode == 0, promoted.stderr
        assert {site.ask()["version"] for _ in range(9)} == {"1.1"}


def test_a_canary_whose_worker_dies_is_taken_back_by_itself(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        for version in ("1.0", "1.1"):
            site.add(version, instances=2, keys=f'{USUAL}\n[recovery]\nrestart = "never"')
        assert site.deploy("kit@1.0")["state"] == "current"
        assert site.deploy("kit@1.1", canary_percent=50)["state"] == "canary"
        with site.daemon.client() as client:
            client.call("event.follow", {"types": ["deployment.state"]}, timeout_s=30.0)
            while (answer := site.ask())["version"] != "1.1":
                pass
            os.kill(answer["pid"], signal.SIGKILL)
            await_state(client, "1.1", "failed")
        assert {site.ask()["version"] for _ in range(6)} == {"1.0"}


def test_a_canary_without_a_failure_is_promoted_after_its_time(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        for version in ("1.0", "1.1"):
            site.add(version, instances=2)
        assert site.deploy("kit@1.0")["state"] == "current"
        with site.daemon.client() as client:
            client.call("event.follow", {"types": ["deployment.state"]}, timeout_s=30.0)
            record = site.deploy("kit@1.1", canary_percent=50, promote_after_s=0.2)
            assert record["state"] == "canary"
            await_state(client, "1.1", "current")
        assert {site.ask()["version"] for _ in range(6)} == {"1.1"}


def test_settings_override_the_package_and_stay_for_the_next_version(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.add("1.0")
        site.add("1.1")
        done = site.daemon.corral("deploy", "kit@1.0", "--set", "instances=2", "--set", "title=The kit")
        assert done.returncode == 0, done.stderr
        assert site.deploy("kit@1.1")["state"] == "current"
        status = site.daemon.call("daemon.status", names=["kit"])["agents"][0]
        assert len(status["workers"]) == 2
        assert site.daemon.call("agent.show", name="kit")["spec"]["title"] == "The kit"


@pytest.mark.long
def test_an_older_version_comes_back_with_the_dependencies_that_it_had(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.add("1.0", keys='dependencies = ["alpha<2"]')
        site.add("1.1")
        assert site.deploy("kit@1.0")["state"] == "current"
        assert site.deploy("kit@1.1")["state"] == "current"
        assert site.ask()["alpha"] == "2.0"
        unknown = site.daemon.corral("rollback", "kit", "2.0")
        assert (unknown.returncode, "it had 1.1, 1.0" in unknown.stderr) == (3, True)
        done = site.daemon.corral("rollback", "kit", "1.0.0", "--wait")
        assert done.returncode == 0, done.stderr
        answer = site.ask()
        assert (answer["version"], answer["alpha"]) == ("1.0", "1.0")
        states = {each["version"]: each["state"] for each in site.daemon.call("deployment.list")["deployments"]}
        assert states == {"1.0": "current", "1.1": "superseded"}


@pytest.mark.long
def test_a_package_in_use_stays_and_its_files_go_after_the_agent(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.add("1.0")
        assert site.deploy("kit")["state"] == "current"
        assert site.daemon.corral("package", "rm", "kit@1.0").returncode == 4
        assert site.ask()["version"] == "1.0"
        assert len(site.left()) == 2
        assert site.daemon.corral("rm", "kit").returncode == 0
        assert site.daemon.corral("package", "rm", "kit@1.0").returncode == 0
        site.add("1.1")
        assert site.deploy("kit@1.1", agent="other")["state"] == "current"
        assert all(not name.startswith("kit-") for name in site.left())
        assert marked(site.daemon.state_dir / "installed" / "kit-1") == []
