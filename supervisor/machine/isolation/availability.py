"""Finds out whether this machine gives the level strict, and what to do where it does not.

Whether a sandbox can be made is only known by making one: user namespaces may be switched off, or a container may keep
/proc from being mounted. The trial takes a few milliseconds, and is made for `corral doctor` and `corral validate`; a start
makes its own sandbox, and reports what bubblewrap says.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from ..linux import seccomp, seccomp_profile

PROGRAM = "bwrap"
TRIAL_S = 10.0
"""Seconds that a trial may take."""
TRIAL = (
    *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"),
    *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--cap-drop", "ALL"),
    *("--die-with-parent", "--", "/bin/true"),
)
INSTALL = "install bubblewrap (apt install bubblewrap, dnf install bubblewrap)"
NAMESPACES = (
    "user namespaces have to be allowed: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone,"
    " kernel.apparmor_restrict_unprivileged_userns; in a container, its runtime's option"
)


class Missing(Exception):
    """Reports that this machine cannot give the level: one line with the reason, and how to get it in `advice`."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(f"{why}; {advice}")
        self.why = why
        self.advice = advice


@dataclass(frozen=True)
class Trial:
    """Holds how a sandbox was made for a trial: the seconds that it took, or why it was not made, and the advice."""

    took_s: float = 0.0
    problem: str = ""
    advice: str = ""


def bubblewrap(environ: Mapping[str, str]) -> str:
    """Returns the path of the program in the PATH of `environ`."""
    found = shutil.which(PROGRAM, path=environ.get("PATH", os.defpath))
    if found is None:
        raise Missing(f"there is no {PROGRAM} in PATH", INSTALL)
    return found


@cache
def strict_filter() -> str:
    """Returns the seccomp filter of strict, in hexadecimal."""
    machine = os.uname().machine
    try:
        return seccomp_profile.strict_program(machine).hex()
    except seccomp.Unknown:
        why = f"no filter of system calls is known for {machine}"
        raise Missing(why, "use a machine of x86_64, aarch64, riscv64 or loongarch64") from None


def tried(environ: Mapping[str, str]) -> Trial:
    """Makes a sandbox, and returns how that went; blocks for some milliseconds, at most TRIAL_S."""
    try:
        program = bubblewrap(environ)
        strict_filter()
    except Missing as missing:
        return Trial(problem=missing.why, advice=missing.advice)
    began = time.monotonic()
    try:
        done = subprocess.run(
            (program, *TRIAL), capture_output=True, timeout=TRIAL_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Trial(problem=f"cannot run {program}: {error}", advice=INSTALL)
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1][:300] if lines else f"{program} exited with status {done.returncode}"
        return Trial(problem=why, advice=NAMESPACES)
    return Trial(took_s=time.monotonic() - began)
