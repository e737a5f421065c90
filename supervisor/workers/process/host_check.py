"""Judges what a machine gives a daemon: findings with remedies, and which promises hold because of them.

Everything here is a function of `host_facts.Facts`. The daemon reports on itself, since it alone knows what is in force
for it; `corral doctor` reports where no daemon runs, on the one that the caller would start. Standard library alone: the
command starts in the time that the import takes.
"""

import errno
import os
import resource
from dataclasses import asdict, dataclass
from typing import Literal

from corral.supervisor.machine.linux import landlock

from .host_facts import AGENT_USER, Facts, Services

DESCRIPTORS_PER_WORKER = 5
DESCRIPTORS_ENOUGH = 4096
"""Number of descriptors that suffices for hundreds of workers, with their logs and clients."""
FREE_ENOUGH_BYTES = 1 << 30
FREE_LEAST_BYTES = 64 << 20
"""Bytes of free disk below which the store and the logs are about to fail."""
PIDS_ENOUGH = 4096
VOLATILE = frozenset({"tmpfs", "ramfs"})
REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph"})
UNIT_REMEDY = "run corrald by its unit (make -C systemd install), which delegates a subtree to it"
SUBTREE_REMEDY = "cgroup v2 on Linux 5.14 or newer, Delegate=yes, and the unit's own group in ReadWritePaths="

ENGINE_REMEDY = "install podman (apt install podman, dnf install podman); as root runc suffices for folders"

Verdict = Literal["ok", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """Describes one finding by itself, and the remedy that would improve it."""

    topic: str
    verdict: Verdict
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Promise:
    """Describes whether a promise holds on this machine; `why` names the exception, or the means that it rests on."""

    name: str
    holds: Literal["yes", "except", "no"]
    why: str


# -- what it means


def report(facts: Facts) -> dict[str, object]:
    """Returns findings and promises as plain values."""
    return {
        "findings": [asdict(finding) for finding in findings(facts)],
        "promises": [asdict(promise) for promise in promises(facts)],
    }


def findings(facts: Facts) -> list[Finding]:
    """Returns all findings in a fixed order; their topics are stable."""
    return [
        *_containment(facts),
        *_isolation(facts),
        _user(facts),
        *_sizes(facts),
        *_places(facts),
        *_care(facts),
        *_services(facts.services),
    ]


def _containment(facts: Facts) -> list[Finding]:
    held = facts.containment
    reason = f": {held.reason}" if held.reason else ""
    remedy = SUBTREE_REMEDY if facts.under_systemd else UNIT_REMEDY
    is_tree = held.tier != "launcher"
    found = [
        Finding("containment", "ok" if is_tree else "warning", f"tier {held.tier}{reason}", "" if is_tree else remedy)
    ]
    parts = {
        "kill": (held.kill, held.kill != "subreaper", "what has escaped is found by its parents, session and mark"),
        "freeze": (held.freeze, held.freeze == "cgroup.freeze", "pause stops processes one by one"),
        "memory": (held.memory, held.memory == "cgroup", "looked at several times a second, so a fast hog passes its limit by a little"),
        "cpu": (held.cpu, held.cpu == "cgroup", "held by stopping and continuing the tree"),
        "processes": (held.processes, held.processes == "cgroup", "counted per user, and for root not at all"),
    }  # fmt: skip
    wanted = "the controllers memory, cpu and pids in the delegated subtree (cgroup v2 alone, not beside v1)"
    for name, (value, is_best, lack) in parts.items():
        text = value if is_best else f"{value}: {lack}"
        advice = "" if is_best else remedy if not is_tree else wanted
        found.append(Finding(f"containment.{name}", "ok" if is_best else "warning", text, advice))
    return found


def _isolation(facts: Facts) -> list[Finding]:
    is_on = facts.isolation != "none"
    found = [
        Finding(
            "isolation",
            "ok" if is_on else "warning",
            f"{facts.isolation} by default",
            "" if is_on else 'isolation = "basic" in [process]',
        )
    ]
    for part, key in (("paths", "write_paths"), ("ports", "connect_ports"), ("signals", "scope_signals")):
        needed = landlock.NEEDED_ABI[key]
        has = facts.landlock_abi >= needed
        text = (
            f"Landlock {facts.landlock_abi}"
            if has
            else f"Landlock {facts.landlock_abi or 'is missing'}, {needed} is needed"
        )
        advice = "" if has else f"a kernel with Landlock {needed} (and `landlock` among its lsm=)"
        found.append(Finding(f"isolation.{part}", "ok" if has else "warning", text, advice))
    return [*found, _strict(facts), _container(facts)]


def _strict(facts: Facts) -> Finding:
    """Returns whether this machine gives the level strict, and the time that a sandbox adds to a start."""
    trial = facts.strict
    if trial.problem:
        text = f"this machine does not give strict: {trial.problem}"
        return Finding("isolation.strict", "warning", text, trial.advice)
    text = f"strict by bubblewrap: a sandbox is made in {trial.took_s * 1000:.0f} ms, and every start is cold"
    return Finding("isolation.strict", "ok", text)


def _container(facts: Facts) -> Finding:
    """Returns which engines give the level container here."""
    trial, topic = facts.container, "isolation.container"
    if trial.working:
        return Finding(topic, "ok", f"container by {'; '.join(trial.working)}")
    if trial.unasked:
        return Finding(topic, "ok", f"container perhaps by {', '.join(trial.unasked)}, which a running daemon asks")
    reasons = "; ".join(trial.problems) or "no engine was found"
    return Finding(topic, "warning", f"this machine does not give container: {reasons}", ENGINE_REMEDY)


def _user(facts: Facts) -> Finding:
    if facts.uid != 0:
        return Finding(
            "user",
            "ok",
            f"agents run as uid {facts.uid}, the daemon's own",
            "for agents that are not trusted: corrald as root, whose agents have a user of their own",
        )
    if facts.agent_user is not None:
        return Finding("user", "ok", f"agents without a user run as {facts.agent_user}")
    remedy = f"make -C systemd install, or useradd --system {AGENT_USER}; then start corrald again"
    return Finding("user", "warning", f"agents without a user run as root: there is no user {AGENT_USER}", remedy)


def _sizes(facts: Facts) -> list[Finding]:
    soft, hard = facts.descriptors
    most = (hard if hard != resource.RLIM_INFINITY else 1 << 20) // DESCRIPTORS_PER_WORKER
    verdict: Verdict = "ok" if most * DESCRIPTORS_PER_WORKER >= DESCRIPTORS_ENOUGH else "warning"
    limit = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    text = f"{limit} at most (soft {soft}), enough for about {most} workers"
    remedy = "" if verdict == "ok" else "LimitNOFILE= of the unit, or `ulimit -Hn` of the shell that starts corrald"
    sizes = [Finding("descriptors", verdict, text, remedy)]
    verdict = "ok" if facts.pids >= PIDS_ENOUGH else "warning"
    remedy = "" if verdict == "ok" else "sysctl kernel.pid_max and kernel.threads-max"
    sizes.append(Finding("pids", verdict, f"{facts.pids} processes and threads on this machine", remedy))
    return sizes


def _places(facts: Facts) -> list[Finding]:
    found: list[Finding] = []
    free = facts.state_free_bytes
    if facts.state_problem:
        found.append(
            Finding(
                "state",
                "broken",
                f"{facts.state_dir}: {facts.state_problem}",
                "--state-dir, or another owner of the folder",
            )
        )
    elif free is not None and free < FREE_LEAST_BYTES:
        found.append(Finding("state", "broken", f"{facts.state_dir} has {free >> 20} MiB free", "make room"))
    elif free is not None and free < FREE_ENOUGH_BYTES:
        found.append(Finding("state", "warning", f"{facts.state_dir} has {free >> 20} MiB free", "make room"))
    else:
        size = "" if free is None else f" has {free >> 30} GiB free"
        found.append(Finding("state", "ok", f"{facts.state_dir}{size}"))
    if facts.state_filesystem in VOLATILE | REMOTE:
        text = f"{facts.state_dir} is on {facts.state_filesystem}"
        found.append(Finding("state.disk", "warning", text, "a state_dir on a disk of this machine"))
    if facts.socket_problem:
        found.append(
            Finding("socket", "broken", f"{facts.socket}: {facts.socket_problem}", "--socket, or CORRAL_SOCKET")
        )
    else:
        found.append(Finding("socket", "ok", _socket(facts.socket)))
    running, installed = facts.versions
    if running and installed and running != installed:
        text = f"the daemon runs {running}, and {installed} is installed"
        found.append(Finding("version", "warning", text, "corral daemon upgrade, or a restart"))
    if facts.config_problem:
        found.append(Finding("configuration", "broken", facts.config_problem, "corrald --check"))
    return found


def _care(facts: Facts) -> list[Finding]:
    """Returns the findings about the daemon itself."""
    found: list[Finding] = []
    if facts.is_daemon:
        text = "kept by systemd" if facts.under_systemd else "nothing starts it again when it dies"
        found.append(
            Finding(
                "service", "ok" if facts.under_systemd else "warning", text, "" if facts.under_systemd else UNIT_REMEDY
            )
        )
        plans = "by plans of machine code"
        text = f"not {plans}, but as forks, which take longer: {facts.unplanned}"
        found.append(Finding("starts", "ok", text if facts.unplanned else plans))
        is_shielded = facts.oom_score_adj < 0
        text = f"oom_score_adj {facts.oom_score_adj}"
        found.append(
            Finding(
                "oom", "ok" if is_shielded else "warning", text, "" if is_shielded else "OOMScoreAdjust= of the unit"
            )
        )
        if facts.journal_problem:
            advice = "systemctl status systemd-journald; the lines wait in the log files"
            found.append(Finding("log", "warning", facts.journal_problem, advice))
        elif facts.log:
            found.append(Finding("log", "ok", facts.log))
        if facts.store_stalled_s > 1:
            text = f"the store has not answered for {facts.store_stalled_s:.0f} s: durable work is refused"
            found.append(Finding("store", "broken", text, "look at the disk of the state folder"))
    if not facts.reads_others and facts.containment.memory != "cgroup" and facts.agent_user is not None:
        text = "the shared memory of agents of other users cannot be told from their own: workers that share pages look larger"
        found.append(
            Finding("proportional memory", "warning", text, "CapabilityBoundingSet=CAP_SYS_PTRACE in a drop-in")
        )
    return found


def _services(services: Services | None) -> list[Finding]:
    """Returns the findings about servers, warm agents, secrets and HTTP of a running daemon."""
    if services is None:
        return []
    found: list[Finding] = []
    advice = "corral show NAME, then corral reset NAME"
    found += [Finding("servers", "warning", each, advice) for each in services.failed]
    if not services.failed:
        found.append(Finding("servers", "ok", f"{services.servers} MCP servers, {services.up} of them up"))
    advice = "start no thread and open no connection in an import, or warm = false"
    found += [Finding("warm agents", "warning", each, advice) for each in services.cold]
    advice = "[daemon] secrets_file (mode 0600), or LoadCredential= of the unit"
    found += [Finding("secrets", "warning", each, advice) for each in services.secret_problems]
    if services.secrets and not services.secret_problems:
        found.append(Finding("secrets", "ok", f"{services.secrets} values name secrets, and all of them are there"))
    advice = 'corrald as root, with [daemon] tenant_uids = "1900000000-1900065535" or a user of each tenant'
    found += [Finding("tenants", "warning", each, advice) for each in services.sharing]
    if services.tenants and not services.sharing:
        found.append(Finding("tenants", "ok", f"{services.tenants}, each with a user of its own"))
    advice = "corral models; corral secret set NAME, or base_url in [models.NAME]"
    found += [Finding("models", "warning", each, advice) for each in services.model_problems]
    if services.models and not services.model_problems:
        found.append(Finding("models", "ok", f"{services.models}, all that are used can be reached"))
    found += _cluster(services)
    found.append(Finding("http", "ok", services.http or "no HTTP"))
    advice = "end the program that has the address, or give another: corral expose NAME --port N"
    found += [Finding("http", "warning", each, advice) for each in services.degraded]
    return found


def _cluster(services: Services) -> list[Finding]:
    """Returns the findings about the engine of the cluster; none where there is no cluster."""
    if services.cluster_problem:
        advice = "corral cluster check URL; local agents run meanwhile"
        return [Finding("cluster", "broken", services.cluster_problem, advice)]
    advice = "set the engine up as docs/explanation/engines.md describes, or accept it"
    weak = [Finding("cluster", "warning", each, advice) for each in services.cluster_weaknesses]
    return [Finding("cluster", "ok", services.cluster), *weak] if services.cluster else []


def promises(facts: Facts) -> list[Promise]:
    """Returns corral's promises, and whether each holds here."""
    held = facts.containment
    shares_uid = facts.uid != 0 or facts.agent_user is None
    whom = f"uid {facts.uid}" if facts.uid else "root"
    if shares_uid:
        scope = "" if facts.landlock_abi >= landlock.NEEDED_ABI["scope_signals"] else " and may signal them"
        malice = Promise(
            "a bad worker hurts nobody else",
            "except",
            f"a hostile one: agents run as {whom}, as the daemon does, may read and write its files{scope}",
        )
    elif facts.landlock_abi < landlock.NEEDED_ABI["scope_signals"]:
        malice = Promise(
            "a bad worker hurts nobody else",
            "except",
            f"a hostile one may signal the others that run as {facts.agent_user}",
        )
    elif held.processes != "cgroup":
        malice = Promise(
            "a bad worker hurts nobody else",
            "except",
            "a fork bomb: it takes the processes of its user, which other agents share",
        )
    else:
        malice = Promise(
            "a bad worker hurts nobody else",
            "yes",
            f"agents run as {facts.agent_user}, and the kernel holds their limits",
        )
    kept = Promise("nothing accepted is lost", "yes", f"the store is on {facts.state_filesystem or 'a disk'}")
    if facts.state_filesystem in VOLATILE:
        kept = Promise(
            "nothing accepted is lost", "except", f"{facts.state_dir} is in memory, and lost at the next boot"
        )
    elif facts.state_filesystem in REMOTE:
        kept = Promise(
            "nothing accepted is lost", "except", f"{facts.state_filesystem} may lose what it has acknowledged"
        )
    elif facts.store_stalled_s > 1 or facts.state_problem:
        kept = Promise("nothing accepted is lost", "yes", "by refusing: the store takes nothing now")
    why = (
        "the kernel reports deaths for lack of memory"
        if held.memory == "cgroup"
        else "the sampler reports deaths for lack of memory; those by the kernel are guessed from SIGKILL"
    )
    return [_no_orphan(facts), malice, kept, Promise("it says why", "yes", why)]


def _no_orphan(facts: Facts) -> Promise:
    """Judges the first promise, which depends on what is left when daemon and launcher are killed in one instant."""
    held = facts.containment
    if held.tier == "pidns":
        return Promise("no orphan", "yes", "everything dies with the launcher, by the kernel")
    if facts.under_systemd:
        return Promise("no orphan", "yes", "by the launcher, and by systemd for what is left of the service")
    end = "until the next start"
    if held.tier == "launcher" and not held.branded:
        end = "on: RLIMIT_RSS, which marks them for the next start, is limited already"
    why = "when daemon and launcher are killed in one instant, processes in sessions of their own survive"
    return Promise("no orphan", "except", f"{why} {end}")


# -- how it is found


def _socket(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError as error:
        return f"{path}, not there" if error.errno == errno.ENOENT else f"{path}: {error.strerror}"
    return f"{path}, mode {status.st_mode & 0o777:04o}, uid {status.st_uid}, gid {status.st_gid}"
