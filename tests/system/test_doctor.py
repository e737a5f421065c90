"""`corral doctor`: what it finds with and without a daemon, and what it makes of the facts of other machines."""

import json
import os
import resource
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corral import __version__
from corral.supervisor.machine.isolation.availability import Trial
from corral.supervisor.workers.containers import engines
from corral.supervisor.workers.process import host_check
from corral.supervisor.workers.process.host_check import Finding, Promise
from corral.supervisor.workers.process.host_facts import Containment, Facts, Services
from daemon_process import BIN, BOUND_S, DaemonProcess

TOPICS = {
    "containment", "containment.kill", "containment.freeze", "containment.memory", "containment.cpu",
    "containment.processes", "isolation", "isolation.paths", "isolation.ports", "isolation.signals",
    "isolation.strict", "isolation.container",
    "user", "descriptors", "pids", "state", "socket",
}  # fmt: skip
PROMISES = {"no orphan", "a bad worker hurts nobody else", "nothing accepted is lost", "it says why"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("doctor"), "") as process:
        yield process


def told(done: "subprocess.CompletedProcess[str]") -> Any:  # a JSON document
    return json.loads(done.stdout)


def alone(folder: Path, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """The command where no daemon runs."""
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "CORRAL_SOCKET": str(folder / "run" / "corral.sock"),
        "CORRAL_STATE_DIR": str(folder / "state"),
        **environ,
    }
    return subprocess.run(
        [str(BIN / "corral"), *arguments, "doctor"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


# -- the command


def test_with_a_daemon_it_reports_what_is_in_force(daemon: DaemonProcess) -> None:
    report = told(daemon.corral("--json", "doctor"))
    assert set(report) == {"daemon", "cli", "findings", "promises", "verdict"}
    assert report["daemon"] == {"running": True, "pid": daemon.pid, "version": __version__, "rights": "admin"}
    assert report["cli"] == {"version": __version__}
    assert {finding["topic"] for finding in report["findings"]} >= TOPICS | {"service", "starts", "oom"}
    assert all(set(each) == {"topic", "verdict", "found", "remedy"} for each in report["findings"])
    assert {promise["name"] for promise in report["promises"]} == PROMISES
    assert all(set(each) == {"name", "holds", "why"} for each in report["promises"])
    tier = daemon.call("daemon.status")["daemon"]["containment"]
    (containment,) = (each for each in report["findings"] if each["topic"] == "containment")
    assert f"tier {tier}" in containment["found"]


def test_for_people_it_prints_each_remedy_once(daemon: DaemonProcess) -> None:
    done = daemon.corral("doctor")
    assert done.returncode == 0
    report = told(daemon.corral("--json", "doctor"))
    for remedy in {finding["remedy"] for finding in report["findings"]} - {""}:
        assert done.stdout.count(f"    {remedy}\n") == 1
    for promise in report["promises"]:
        assert promise["why"] in done.stdout


@pytest.mark.long
def test_without_a_daemon_it_reports_what_one_would_get_and_creates_nothing(tmp_path: Path) -> None:
    done = alone(tmp_path, "--json")
    report = told(done)
    assert (done.returncode, report["verdict"], report["daemon"]) == (0, "warning", {"running": False})
    assert {finding["topic"] for finding in report["findings"]} >= TOPICS | {"daemon"}
    assert not list(tmp_path.iterdir())
    assert alone(tmp_path).returncode == 0


@pytest.mark.long
def test_a_state_folder_that_cannot_be_made_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = alone(tmp_path, "--json", CORRAL_STATE_DIR=str(tmp_path / "file"))
    broken = [each["topic"] for each in told(done)["findings"] if each["verdict"] == "broken"]
    assert (done.returncode, broken) == (1, ["state"])


@pytest.mark.long
def test_a_configuration_that_no_daemon_would_take_is_broken(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[agents.a]\n")
    done = alone(tmp_path, "--json", CORRAL_CONFIG=str(tmp_path / "c.toml"))
    broken = [each["topic"] for each in told(done)["findings"] if each["verdict"] == "broken"]
    assert (done.returncode, broken) == (1, ["configuration"])


def test_a_running_daemon_reports_that_its_configuration_is_broken_by_now(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, "") as process:
        assert process.corral("doctor").returncode == 0
        process.config.write_text("[agents.a]\n")
        done = process.corral("--json", "doctor")
        broken = [each["topic"] for each in told(done)["findings"] if each["verdict"] == "broken"]
        assert (done.returncode, broken) == (1, ["configuration"])


# -- what is made of the facts

BEST = Facts(
    is_daemon=True,
    uid=0,
    agent_user="corral-agent",
    under_systemd=True,
    containment=Containment("cgroup", "cgroup.kill", "cgroup.freeze", "cgroup", "cgroup", "cgroup"),
    landlock_abi=7,
    isolation="basic",
    descriptors=(524_288, 524_288),
    pids=1 << 22,
    state_dir="/var/lib/corral",
    state_free_bytes=1 << 40,
    state_filesystem="ext4",
    state_problem="",
    socket="/run/corral/corral.sock",
    socket_problem="",
    reads_others=True,
    oom_score_adj=-200,
    container=engines.Trial(working=("runc (folders)",)),
)


def verdicts(facts: Facts) -> Mapping[str, Finding]:
    return {finding.topic: finding for finding in host_check.findings(facts)}


def broken_promises(facts: Facts) -> Mapping[str, Promise]:
    return {promise.name: promise for promise in host_check.promises(facts) if promise.holds != "yes"}


def test_a_machine_that_has_everything_is_well_and_keeps_every_promise() -> None:
    assert {finding.verdict for finding in host_check.findings(BEST)} == {"ok"}
    assert not broken_promises(BEST)


def test_the_reason_for_starts_without_plans_is_reported_and_no_fault() -> None:
    found = verdicts(replace(BEST, unplanned="this is no x86_64"))["starts"]
    assert (found.verdict, "this is no x86_64" in found.found) == ("ok", True)
    assert "this is no" not in verdicts(BEST)["starts"].found


LAUNCHER = Containment(reason="no cgroups")

LACKS: list[tuple[dict[str, Any], set[str], set[str]]] = [
    ({"containment": LAUNCHER}, {"containment", "containment.kill", "containment.freeze", "containment.memory", "containment.cpu", "containment.processes"}, {"a bad worker hurts nobody else"}),
    ({"containment": LAUNCHER, "under_systemd": False}, {"containment", "containment.kill", "containment.freeze", "containment.memory", "containment.cpu", "containment.processes", "service"}, {"no orphan", "a bad worker hurts nobody else"}),
    ({"containment": Containment("cgroup-kill", "cgroup.kill", "cgroup.freeze"), "reads_others": False}, {"containment.memory", "containment.cpu", "containment.processes", "proportional memory"}, {"a bad worker hurts nobody else"}),
    ({"under_systemd": False}, {"service"}, {"no orphan"}),
    ({"containment": Containment("pidns", "pid-namespace", "cgroup.freeze", "cgroup", "cgroup", "cgroup"), "under_systemd": False}, {"service"}, set()),
    ({"agent_user": None}, {"user"}, {"a bad worker hurts nobody else"}),
    ({"uid": 1000, "agent_user": None}, set(), {"a bad worker hurts nobody else"}),
    ({"landlock_abi": 5}, {"isolation.signals"}, {"a bad worker hurts nobody else"}),
    ({"landlock_abi": 0}, {"isolation.paths", "isolation.ports", "isolation.signals"}, {"a bad worker hurts nobody else"}),
    ({"isolation": "none"}, {"isolation"}, set()),
    ({"strict": Trial(problem="there is no bwrap in PATH", advice="install it")}, {"isolation.strict"}, set()),
    ({"container": engines.Trial(problems=("podman: not installed",))}, {"isolation.container"}, set()),
    ({"container": engines.Trial(unasked=("/usr/bin/podman",))}, set(), set()),
    ({"descriptors": (256, 256)}, {"descriptors"}, set()),
    ({"descriptors": (1024, resource.RLIM_INFINITY)}, set(), set()),
    ({"pids": 1000}, {"pids"}, set()),
    ({"state_free_bytes": 500 << 20}, {"state"}, set()),
    ({"state_filesystem": "tmpfs"}, {"state.disk"}, {"nothing accepted is lost"}),
    ({"state_filesystem": "nfs4"}, {"state.disk"}, {"nothing accepted is lost"}),
    ({"oom_score_adj": 0}, {"oom"}, set()),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "warned", "promises"), LACKS)
def test_what_is_missing_is_named_with_its_remedy_and_the_promise_that_it_costs(
    changes: dict[str, Any], warned: set[str], promises: set[str]
) -> None:
    facts = replace(BEST, **changes)
    found = verdicts(facts)
    assert {topic for topic, finding in found.items() if finding.verdict == "warning"} == warned
    assert {topic for topic, finding in found.items() if finding.verdict == "broken"} == set()
    assert all(found[topic].remedy for topic in warned)
    assert set(broken_promises(facts)) == promises


def test_a_running_daemon_reports_servers_secrets_and_http() -> None:
    well = Services(secrets=2, servers=3, up=1, http="127.0.0.1:7080")
    found = verdicts(replace(BEST, services=well))
    assert {found[topic].verdict for topic in ("servers", "secrets", "http")} == {"ok"}
    assert "127.0.0.1:7080" in found["http"].found
    ill = Services(secret_problems=("cannot expand x",), failed=("time-0: exited",))
    found = verdicts(replace(BEST, services=ill))
    assert (found["servers"].verdict, found["servers"].found) == ("warning", "time-0: exited")
    assert (found["secrets"].verdict, found["secrets"].found) == ("warning", "cannot expand x")
    assert found["servers"].remedy
    assert found["secrets"].remedy


def test_what_the_engine_of_a_cluster_cannot_promise_is_reported() -> None:
    assert "cluster" not in verdicts(replace(BEST, services=Services()))
    weak = Services(cluster="redis at x", cluster_weaknesses=("it is one server",))
    found = [each for each in host_check.findings(replace(BEST, services=weak)) if each.topic == "cluster"]
    assert [each.verdict for each in found] == ["ok", "warning"]
    assert found[1].remedy
    away = verdicts(replace(BEST, services=Services(cluster_problem="no answer")))
    assert (away["cluster"].verdict, away["cluster"].found) == ("broken", "no answer")


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives tenants users of their own")
def test_tenants_that_share_a_user_are_reported_with_the_remedy(tmp_path: Path) -> None:
    text = "[tenants.acme]\n[tenants.globex]\n[daemon]\n"
    with DaemonProcess(tmp_path, text) as daemon:
        found = {each["topic"]: each for each in daemon.call("daemon.doctor")["findings"]}
        assert found["tenants"]["verdict"] == "warning"
        assert "2 tenants share a user" in found["tenants"]["found"]
        assert "tenant_uids" in found["tenants"]["remedy"]
        daemon.stop()
        daemon.config.write_text(text + 'tenant_uids = "1900000000-1900000001"\n')
        daemon.start()
        found = {each["topic"]: each for each in daemon.call("daemon.doctor")["findings"]}
        assert (found["tenants"]["verdict"], found["tenants"]["found"]) == ("ok", "2, each with a user of its own")


def test_what_nobody_would_find_again_is_distinguished_from_what_the_next_start_ends() -> None:
    alone = replace(BEST, under_systemd=False, containment=LAUNCHER)
    unbranded = replace(alone, containment=replace(LAUNCHER, branded=False))
    found, lost = (broken_promises(facts)["no orphan"].why for facts in (alone, unbranded))
    assert found != lost


def test_a_terminal_that_a_service_has_started_is_no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOCATION_ID", "0" * 32)
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    with DaemonProcess(tmp_path, "") as process:
        found = told(process.corral("--json", "doctor"))["findings"]
    (service,) = (each for each in found if each["topic"] == "service")
    assert service["verdict"] == "warning", "nobody starts this daemon again"


@pytest.mark.parametrize(
    ("changes", "topic"),
    [
        ({"state_free_bytes": 1 << 20}, "state"),
        ({"state_problem": "it is no folder"}, "state"),
        ({"socket_problem": "uid 1 may not write there"}, "socket"),
        ({"config_problem": "unknown key"}, "configuration"),
        ({"store_stalled_s": 6.0}, "store"),
    ],
)
def test_what_keeps_corral_from_working_is_broken(changes: dict[str, Any], topic: str) -> None:
    found = verdicts(replace(BEST, **changes))
    assert {name for name, finding in found.items() if finding.verdict == "broken"} == {topic}
    assert found[topic].remedy


def test_a_daemon_that_is_not_of_the_installed_version_is_a_warning() -> None:
    finding = verdicts(replace(BEST, versions=("1.0.0", "1.1.0")))["version"]
    assert (finding.verdict, "corral daemon upgrade" in finding.remedy) == ("warning", True)
    assert "version" not in verdicts(replace(BEST, versions=("1.1.0", "1.1.0")))
