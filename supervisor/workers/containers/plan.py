"""Computes the command line and the files of one container, from values alone.

The root file system is read-only; only the temporary folder, as /tmp, and the listed paths can be written. A container has
no capabilities, may gain none, and carries labels by which its daemon finds it again. Standard library alone: `corral
doctor` tries the engines.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

EngineKind = Literal["podman", "docker", "runc"]
Network = Literal["host", "none"]

ENGINE_VARIABLES = ("HOME", "PATH", "XDG_RUNTIME_DIR", "TMPDIR", "DOCKER_HOST", "CONTAINER_HOST")
"""Variables of the daemon that an engine gets."""

BACKSTOP = 2.0, 64 * 1024 * 1024
"""Factor and bytes by which the kernel's limit of memory is above the one that corral holds: corral says why."""

DENIED_CALLS = (
    *("add_key", "keyctl", "request_key", "bpf", "perf_event_open", "userfaultfd", "ptrace"),
    *("mount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "pivot_root"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "setns", "unshare", "reboot"),
    *("swapon", "swapoff", "acct", "quotactl", "open_by_handle_at", "process_vm_readv"),
    *("process_vm_writev", "settimeofday", "clock_settime", "adjtimex"),
)
"""System calls that a container of runc may not make; podman and docker bring profiles of their own."""


@dataclass(frozen=True)
class Engine:
    """Represents a program that runs containers here, with the options that it needs on this machine.

    `runtime` is the low-level one that it calls; "" where it is one itself, or does not say.
    """

    kind: EngineKind
    program: str
    options: tuple[str, ...] = ()
    has_cgroups: bool = True
    has_init: bool = False
    runtime: str = ""


@dataclass(frozen=True)
class Volume:
    """Describes a path that is visible inside under the same name, or under `at`."""

    path: str
    is_writable: bool = False
    at: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Holds what a container is made of; `folder` is one that the daemon alone reads, for its files."""

    unit: str
    state: str
    image: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    folder: str
    volumes: Sequence[Volume]
    network: Network = "host"
    uid: int = 0
    gid: int = 0
    groups: Sequence[int] = ()
    umask: int = 0o077
    limits: Mapping[str, int] = field(default_factory=dict[str, int])
    memory_bytes: int = 0
    processes: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Holds the command lines of one container, and the texts of its files by name; its folder has no others."""

    name: str
    run: tuple[str, ...]
    remove: tuple[str, ...]
    enter: tuple[str, ...]
    """Begin of a command line that runs a command inside; options of a terminal, and the words, follow."""
    folder_option: str
    """The option of it that is followed by a folder."""
    files: Mapping[str, str]
    pid_file: str
    outcome: str


class Refused(Exception):
    """Reports a key that an engine cannot hold; `key` is its name."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(why)
        self.key = key


def is_folder(image: str) -> bool:
    """Returns whether an image is a folder with a root file system."""
    return image.startswith("/")


def needs_podman(image: str) -> bool:
    """Returns whether an image is an archive, which podman alone runs."""
    return bool(re.match(r"(docker|oci)-archive:|oci:", image))


def name_of(state: str, unit: str) -> str:
    """Returns the name of a container, which no other one has."""
    return f"corral-{state}-{re.sub(r'[^A-Za-z0-9_.-]', '_', unit)}"


def planned(facts: Facts, engine: Engine) -> Plan:
    """Returns the plan of a container."""
    return _of_runc(facts, engine) if engine.kind == "runc" else _of_engine(facts, engine)


# -- podman and docker


def _of_engine(facts: Facts, engine: Engine) -> Plan:
    name, folder = name_of(facts.state, facts.unit), facts.folder
    pid_file = f"{folder}/pid"
    is_podman = engine.kind == "podman"
    words = [engine.program, *engine.options, "run", "--interactive", f"--name={name}", "--rm"]
    words += [f"--label=corral.state={facts.state}", f"--label=corral.unit={facts.unit}"]
    words += ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"]
    words += ["--pull=never", f"--network={facts.network}", f"--user={facts.uid}:{facts.gid}"]
    words += [f"--group-add={group}" for group in facts.groups if group != facts.gid]
    words += [f"--workdir={facts.cwd}", f"--env-file={folder}/env", "--log-driver=none"]
    words += [
        f"--volume={each.path}:{each.at or each.path}:{'rw' if each.is_writable else 'ro'}" for each in facts.volumes
    ]
    words += _ulimits(facts)
    if is_podman:
        words += [f"--pidfile={pid_file}", f"--umask={facts.umask:04o}"]
        words += ["--http-proxy=false"]
    else:
        words += [f"--cidfile={pid_file}"]
    if engine.has_cgroups:
        words += _cgroup_limits(facts)
    else:
        words += ["--cgroups=disabled"]
    if engine.has_init:
        words += ["--init"]
    words += ["--entrypoint="]
    words += ["--rootfs", facts.image] if is_folder(facts.image) else [facts.image]
    force = ["--ignore", "--time=0"] if is_podman else []
    return Plan(
        name=name,
        run=(*words, *facts.argv),
        remove=(engine.program, *engine.options, "rm", "--force", *force, name),
        enter=_entering(facts, engine, name),
        folder_option="--workdir",
        files={"env": _env_file(facts.env)},
        pid_file=pid_file,
        outcome=f"{folder}/outcome",
    )


def _entering(facts: Facts, engine: Engine, name: str) -> tuple[str, ...]:
    words = [engine.program, *engine.options, "exec", "--interactive", f"--user={facts.uid}:{facts.gid}"]
    return (*words, f"--env-file={facts.folder}/env", "@options", name)


def _ulimits(facts: Facts) -> list[str]:
    names = {"NOFILE": "nofile", "CPU": "cpu", "FSIZE": "fsize", "CORE": "core", "NPROC": "nproc"}
    words: list[str] = []
    for name, value in facts.limits.items():
        if name not in names:
            raise Refused("max_address_space_bytes", f"podman and docker set no limit {name}")
        words.append(f"--ulimit={names[name]}={value}:{value}")
    return words


def _cgroup_limits(facts: Facts) -> list[str]:
    words: list[str] = []
    if facts.memory_bytes:
        factor, more = BACKSTOP
        words += [f"--memory={int(facts.memory_bytes * factor) + more}"]
    if facts.processes:
        words += [f"--pids-limit={facts.processes}"]
    return words


def _env_file(env: Mapping[str, str]) -> str:
    for name, value in env.items():
        if "\n" in value or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name):
            raise Refused("environment", f"podman and docker take no line break in {name}")
    return "".join(f"{name}={value}\n" for name, value in env.items())


# -- runc


def _of_runc(facts: Facts, engine: Engine) -> Plan:
    if not is_folder(facts.image):
        raise Refused("image", "runc takes a folder with a root file system")
    name, folder = name_of(facts.state, facts.unit), facts.folder
    root = [engine.program, *engine.options, "--root", f"{folder}/runc"]
    return Plan(
        name=name,
        run=(*root, "run", "--bundle", folder, "--pid-file", f"{folder}/pid", name),
        remove=(*root, "delete", "--force", name),
        enter=(*root, "exec", "--user", f"{facts.uid}:{facts.gid}", "@options", name),
        folder_option="--cwd",
        files={"config.json": json.dumps(_bundle(facts, has_cgroups=engine.has_cgroups))},
        pid_file=f"{folder}/pid",
        outcome=f"{folder}/outcome",
    )


def _bundle(facts: Facts, *, has_cgroups: bool) -> dict[str, object]:
    """Returns the config.json of an OCI bundle."""
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **facts.env}
    spaces = ["pid", "ipc", "uts", "mount", *(["network"] if facts.network == "none" else [])]
    resources: dict[str, object] = {"devices": [{"allow": False, "access": "rwm"}]}
    if has_cgroups and facts.memory_bytes:
        factor, more = BACKSTOP
        resources["memory"] = {"limit": int(facts.memory_bytes * factor) + more}
    if has_cgroups and facts.processes:
        resources["pids"] = {"limit": facts.processes}
    return {
        "ociVersion": "1.0.2",
        "hostname": "corral",
        "root": {"path": facts.image, "readonly": True},
        "process": {
            "terminal": False,
            "args": list(facts.argv),
            "env": [f"{name}={value}" for name, value in env.items()],
            "cwd": facts.cwd,
            "user": {"uid": facts.uid, "gid": facts.gid, "umask": facts.umask, "additionalGids": list(facts.groups)},
            "noNewPrivileges": True,
            "capabilities": {},
            "rlimits": [
                {"type": f"RLIMIT_{name}", "soft": value, "hard": value}
                for name, value in facts.limits.items()
                if value >= 0  # else there is none
            ],
        },
        "mounts": _mounts(facts),
        "linux": {
            "namespaces": [{"type": each} for each in spaces],
            "resources": resources,
            "cgroupsPath": f"/{name_of(facts.state, facts.unit)}",
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": list(DENIED_CALLS), "action": "SCMP_ACT_ERRNO"}],
            },
        },
    }


def _mounts(facts: Facts) -> list[dict[str, object]]:
    def special(at: str, kind: str, *options: str) -> dict[str, object]:
        return {"destination": at, "type": kind, "source": kind, "options": list(options)}

    found = [
        special("/proc", "proc"),
        special("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        special("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
        special("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
        special("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        special("/run", "tmpfs", "nosuid", "nodev", "mode=755", "size=65536k"),
    ]
    if facts.network == "none":
        found.append(special("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"))
    for each in sorted(facts.volumes, key=lambda each: each.at or each.path):
        options = ["rbind", "nosuid", "nodev", "rw" if each.is_writable else "ro"]
        found.append({"destination": each.at or each.path, "type": "bind", "source": each.path, "options": options})
    return found


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of an engine: that of the daemon, without anything of an agent."""
    found = {name: environ[name] for name in ENGINE_VARIABLES if name in environ}
    found.setdefault("PATH", os.defpath)
    return found
