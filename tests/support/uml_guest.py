"""A user-mode-linux guest: a kernel of its own, whose cgroup2 has the controllers memory, cpu, pids, on this machine's files.

Its root is this machine's, read-only (hostfs); what is written goes to memory, and to one shared folder. A command runs in
it, and its output and exit status come back. It needs Debian's package user-mode-linux, and no rights; where something
is missing, `missing` says what.
"""

import contextlib
import os
import platform
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

KERNEL = "linux.uml"
MEMORY = "1G"
ROOT = Path(__file__).parents[2]
MARK = "CORRAL_CGROUP_TIER"
"""The variable that is 1 in the guest."""

INIT = """#!/bin/sh
# Process 1 of the guest.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
fail() { echo "cannot set up the guest: $1"; poweroff -f; reboot -f; }
mount -t devtmpfs devtmpfs /dev || fail devtmpfs
mount -t proc proc /proc || fail proc
mount -t sysfs sysfs /sys || fail sysfs
mount -t cgroup2 cgroup2 /sys/fs/cgroup || fail cgroup2
mount -t tmpfs -o mode=755 tmpfs /run || fail /run
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ln -sf pts/ptmx /dev/ptmx; ln -sf /proc/self/fd /dev/fd
# A folder of its own in place of each of these: writable, and without what this machine's user keeps private.
for hidden in @HIDDEN@; do
  mount -t tmpfs -o mode=755 tmpfs /mnt || fail "$hidden"
  for kept in @KEPT@; do
    case "$kept" in
      "$hidden"/*) mkdir -p "/mnt/${kept#"$hidden"/}" && mount --bind "$kept" "/mnt/${kept#"$hidden"/}" || fail "$kept";;
    esac
  done
  mount --move /mnt "$hidden" || fail "$hidden"
done
chmod 1777 /tmp
mkdir -p /run/outside
mount -t hostfs -o @SHARED@ none /run/outside || fail @SHARED@
ip link set lo up
hostname guest
cd @FOLDER@ || fail @FOLDER@
env -i @ENVIRON@ PATH="$PATH" HOME=/tmp setsid -w timeout -k 5 @BOUND@ @COMMAND@ </dev/null
echo $? > /run/outside/status
poweroff -f
reboot -f
"""

SHIM = r"""
/* Hands the host's ptrace(2) extended processor states of the size that the host wants: where the processor has tiles
   (AMX), that is more than the guest's kernel keeps, and the host refuses what is shorter. */
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PEEKTEXT = 1, PEEKDATA = 2, PEEKUSER = 3, GETREGSET = 0x4204, SETREGSET = 0x4205 };
static unsigned char state[65536] __attribute__((aligned(64)));

long ptrace(int request, ...)
{
	va_list list;
	va_start(list, request);
	int pid = va_arg(list, int);
	void *address = va_arg(list, void *), *data = va_arg(list, void *);
	va_end(list);
	struct iovec all = {state, sizeof state};
	if (request == SETREGSET && (long)address == NT_X86_XSTATE) {
		const struct iovec *given = data;
		if (syscall(SYS_ptrace, GETREGSET, pid, address, &all) < 0)
			return -1;
		memcpy(state, given->iov_base, given->iov_len < all.iov_len ? given->iov_len : all.iov_len);
		data = &all;
	}
	if (request == PEEKTEXT || request == PEEKDATA || request == PEEKUSER) {
		long word;
		if (syscall(SYS_ptrace, request, pid, address, &word) < 0)
			return -1;
		errno = 0;
		return word;
	}
	return syscall(SYS_ptrace, request, pid, address, data);
}
"""


def missing() -> str:
    """What this machine lacks for a guest, in words; empty where nothing is."""
    if shutil.which(KERNEL) is None:
        return f"there is no {KERNEL} here (Debian's package user-mode-linux)"
    if platform.machine() != "x86_64":
        return "the guest's kernel is for x86-64"
    if shutil.which("cc") is None and "amx_tile" in Path("/proc/cpuinfo").read_text():
        return "this processor has tiles, and there is no C compiler here to help the guest with them"
    return ""


class Guest:
    """Runs commands in guests whose files are in `folder`; each `run` boots one, which is gone when it returns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shared = folder / "shared"
        """/run/outside of the guest."""
        self.shared.mkdir()

    def run(
        self, command: Sequence[str], *, bound_s: float, environ: Mapping[str, str] | None = None, echo: bool = False
    ) -> tuple[int, str]:
        """Returns the exit status of a command and all that it and the kernel print; `echo` prints it as it comes.

        Raises:
            TimeoutError: it does not end within `bound_s`; the guest is killed.
            RuntimeError: the guest ends without a status.
        """
        status = self.shared / "status"
        status.unlink(missing_ok=True)
        environment = {MARK: "1", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **(environ or {})}
        init = self.folder / "init"
        init.write_text(self._init(command, environment, bound_s))
        init.chmod(0o755)
        words = [
            KERNEL,
            f"mem={MEMORY}",
            "rootfstype=hostfs",
            "rootflags=/",
            "root=/dev/root",
            "ro",
            "quiet",
            "devtmpfs.mount=0",  # done by the init script, which may be below /dev/shm itself
            "con=null",
            "con0=null,fd:1",
            f"uml_dir={self.folder}/",
            "umid=guest",
            f"init={init}",
        ]
        outside = {"PATH": os.environ["PATH"]} | self._preload()
        with subprocess.Popen(
            words,
            env=outside,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as guest:
            try:
                said = _read(guest, bound_s, echo=echo)
            finally:
                # Its processes have its group, whatever they are in the guest.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(guest.pid, signal.SIGKILL)
        text = said.decode(errors="replace").replace("\r\n", "\n")
        if not status.exists():
            raise RuntimeError(f"the guest ended without a status:\n{text}")
        return int(status.read_text()), text

    def _init(self, command: Sequence[str], environ: Mapping[str, str], bound_s: float) -> str:
        python = Path(sys.executable).resolve().parents[1]
        kept = {ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), python}
        hidden = {"/tmp", str(Path.home().resolve())} - {"/"}
        values = {
            "HIDDEN": shlex.join(sorted(hidden)),
            "KEPT": shlex.join(sorted(map(str, kept))),
            "SHARED": shlex.quote(str(self.shared)),
            "FOLDER": shlex.quote(str(ROOT)),
            "ENVIRON": shlex.join(f"{name}={value}" for name, value in environ.items()),
            "BOUND": f"{bound_s:.0f}",  # of its own, too: whoever waits may be killed
            "COMMAND": shlex.join(command),
        }
        text = INIT
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        return text

    def _preload(self) -> dict[str, str]:
        compiler = shutil.which("cc")
        if compiler is None:
            return {}
        source, library = self.folder / "shim.c", self.folder / "shim.so"
        source.write_text(SHIM)
        build = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(build, check=True, capture_output=True)
        return {"LD_PRELOAD": str(library)}


def _read(guest: subprocess.Popen[bytes], bound_s: float, *, echo: bool) -> bytes:
    """Reads until the guest's main process ends: its helpers may hold the pipe open for longer."""
    assert guest.stdout is not None, "it is a pipe"
    said = bytearray()
    until = time.monotonic() + bound_s
    pidfd = os.pidfd_open(guest.pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.register(guest.stdout, select.POLLIN)
        while True:
            ready = dict(poller.poll(max(0.0, until - time.monotonic()) * 1000))
            if not ready:
                text = said.decode(errors="replace")
                raise TimeoutError(f"the guest did not end within {bound_s:.0f} s:\n{text}")
            if guest.stdout.fileno() in ready:
                part = os.read(guest.stdout.fileno(), 65536)
                said += part
                if echo:
                    sys.stdout.buffer.write(part)
                    sys.stdout.buffer.flush()
                if part:
                    continue
                poller.unregister(guest.stdout)
            if pidfd in ready:
                return bytes(said)
    finally:
        os.close(pidfd)
