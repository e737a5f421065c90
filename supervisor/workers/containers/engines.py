"""Finds out which of podman, docker and runc works on this machine, by trying each once."""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from .plan import Engine, EngineKind, engine_environment, is_folder, needs_podman

PROBE_S = 20.0
"""Seconds that a probe may take."""

INIT = "/usr/libexec/podman/catatonit"
"""Path of the program that podman takes for --init."""


IMAGES: Mapping[EngineKind, str] = {"runc": "folders", "podman": "folders, archives and images", "docker": "images"}
"""Kinds of images that each engine runs, in the order in which `tried` asks the engines."""


class Missing(Exception):
    """Reports that no engine runs an image here, and how to get one."""


@dataclass(frozen=True)
class Trial:
    """Holds the engines that work here, each with its low-level runtime, and why the others do not.

    `unasked` are those that are installed and were not asked.
    """

    working: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()


def engine_for(runtime: str, image: str, environ: Mapping[str, str]) -> Engine:
    """Returns the engine for an image; the first one that works, in `auto`."""
    reasons: list[str] = []
    for kind in _kinds(runtime, image):
        try:
            return _probed(kind, tuple(sorted(engine_environment(environ).items())))
        except Missing as missing:
            reasons.append(f"{kind}: {missing}")
    raise Missing("; ".join(reasons))


def tried(environ: Mapping[str, str], *, may_leave_traces: bool) -> Trial:
    """Returns which engines work here; blocks for about a second, at most PROBE_S for each engine.

    Without `may_leave_traces`, podman of an ordinary user is not asked: its first command makes folders in the home of the
    user, and leaves a process.
    """
    working: list[str] = []
    problems: list[str] = []
    unasked: list[str] = []
    env = engine_environment(environ)
    for kind, images in IMAGES.items():
        try:
            if kind == "podman" and os.getuid() != 0 and not may_leave_traces:
                unasked.append(_program(kind, env))
                continue
            engine = _probed(kind, tuple(sorted(env.items())))
            over = f" with {engine.runtime}" if engine.runtime else ""
            working.append(f"{kind}{over} ({images})")
        except Missing as missing:
            problems.append(f"{kind}: {missing}")
    return Trial(tuple(working), tuple(problems), tuple(unasked))


def _kinds(runtime: str, image: str) -> tuple[EngineKind, ...]:
    fitting: tuple[EngineKind, ...] = ("podman", "docker")
    if is_folder(image):
        fitting = ("runc", "podman")  # runc starts twice as fast, and keeps no store of its own
    elif needs_podman(image):
        fitting = ("podman",)
    if runtime == "auto":
        return fitting
    for kind in ("podman", "docker", "runc"):
        if kind == runtime and kind not in fitting:
            raise Missing(f'{runtime} does not run image "{image}": {" or ".join(fitting)} does')
    return tuple(kind for kind in fitting if kind == runtime)


@functools.cache
def _probed(kind: EngineKind, environment: tuple[tuple[str, str], ...]) -> Engine:
    env = dict(environment)
    program = _program(kind, env)
    if kind == "docker":
        _answer([program, "version", "--format", "{{.Server.Version}}"], env)
        return Engine(kind, program, has_init=True)
    if kind == "runc":
        if os.getuid() != 0:
            raise Missing('it needs a daemon that runs as root; write runtime = "podman"')
        _answer([program, "--version"], env)
        return Engine(kind, program)
    info = json.loads(_answer([program, "info", "--format", "json"], env))["host"]
    options: list[str] = []
    runtime = info["ociRuntime"]["name"]
    is_hybrid = info["cgroupVersion"] == "v1" and os.path.ismount("/sys/fs/cgroup/unified")
    if runtime == "crun" and is_hybrid:
        runc = shutil.which("runc", path=env["PATH"] + ":/usr/sbin:/sbin")
        if runc is None:
            raise Missing("crun does not work beside cgroups of version 1 and 2; install runc")
        options, runtime = ["--runtime=" + runc], "runc"
    if info["cgroupManager"] == "systemd" and not os.path.isdir("/run/systemd/system"):
        options.append("--cgroup-manager=cgroupfs")
    has_cgroups = runtime != "crun"  # in the cgroup of its unit, which corral limits, it needs none
    return Engine(kind, program, tuple(options), has_cgroups, os.path.exists(INIT), runtime)


def _program(kind: EngineKind, env: Mapping[str, str]) -> str:
    program = shutil.which(kind, path=env["PATH"] + ":/usr/sbin:/sbin")
    if program is None:
        package = "docker.io" if kind == "docker" else kind
        raise Missing(f"not installed; install the package {package}")
    return program


def _answer(words: list[str], env: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PROBE_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"it does not answer: {error}") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise Missing(lines[-1][:300] if lines else f"it exited with status {done.returncode}")
    return done.stdout
