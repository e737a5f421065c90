"""A real systemd as PID 1 of namespaces of its own, on an overlay of this machine's files, or of another root: nothing of it is changed.

The writable layer is memory, held by a process that outlives a boot, so that the box can lose its power and
boot again. Programs of the tests run in it by `run`. It needs root, cgroup2, overlayfs and a Python that
other users can reach; where one of these is missing, `missing` says which.
"""

import contextlib
import importlib.util
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path

BOUND_S = 60.0
"""Every wait ends after this long, by failing."""

ROOT = Path(__file__).parents[2]
PREFIX = "/opt/corral"
NEEDED = ("click", "msgspec", "setproctitle", "uvloop")
TOOLS = ("unshare", "nsenter", "setpriv", "mount", "pivot_root", "make", "systemctl", "ip")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

HOLD = """
set -e
mount -t tmpfs tmpfs "$1/layer"
mkdir "$1/layer/upper" "$1/layer/work"
echo held
exec sleep infinity
"""
"""Holds the writable layer in a mount namespace of its own."""

BOOT = """
set -e
echo $$ > "$2/cgroup.procs"
exec setpriv --pdeathsig KILL unshare --cgroup --fork --pid --mount --uts --ipc --net --kill-child \
  sh -c "$3" boot "$1" "$4" "$5"
"""

INIT = """
set -e
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$3,upperdir=$1/layer/upper,workdir=$1/layer/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/pts dev/shm run/outside
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
touch dev/console
mount --bind "$1/outside" run/outside
# Of the machine's own services only what systemd itself is made of; the tests add theirs.
rm -rf etc/systemd/system.box && mkdir -p etc/systemd/system.box
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system.box/default.target
for unit in systemd-sysctl systemd-modules-load systemd-update-utmp systemd-logind systemd-remount-fs \
  systemd-timesyncd systemd-random-seed systemd-binfmt systemd-udevd console-getty getty@tty1; do
  ln -sf /dev/null etc/systemd/system.box/$unit.service
done
for unit in sys-kernel-debug sys-kernel-tracing sys-kernel-config sys-fs-fuse-connections dev-hugepages dev-mqueue; do
  ln -sf /dev/null etc/systemd/system.box/$unit.mount
done
if test -d etc/systemd/system.mine; then cp -a etc/systemd/system.mine/. etc/systemd/system.box/; fi
mount --bind etc/systemd/system.box etc/systemd/system
ip link set lo up
hostname box
pivot_root . mnt
umount -l /mnt
exec env -i container=box NOTIFY_SOCKET=/run/outside/notify PATH=/usr/sbin:/usr/bin:/sbin:/bin "$2" --system
"""
"""$1 is the folder of the box, $2 systemd, $3 the files that it begins with. What `systemctl enable` made before the last power cut is kept in system.mine."""


def missing() -> str:
    """What this machine lacks for a box, in words; empty where nothing is."""
    if os.getuid() != 0:
        return "a systemd of its own needs root"
    if lacking := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"there is no {lacking[0]} here"
    if _systemd() is None:
        return "there is no systemd here"
    if _cgroups() is None:
        return "there is no cgroup2 here that can be written"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlayfs"
    if python_for_all() is None:
        return "there is no Python of this version here that other users can reach"
    return ""


def _systemd() -> str | None:
    names = ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")
    return next((name for name in names if os.access(name, os.X_OK)), None)


def _cgroups() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            folder = Path(fields.split()[4])
            return folder if os.access(folder / "cgroup.procs", os.W_OK) else None
    return None


def python_for_all() -> str | None:
    """An interpreter of our version that agents of other users can run."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for name in (os.path.realpath(sys.executable), f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        with contextlib.suppress(OSError):
            asked = [name, "-I", "-c", "import sys; print(sys.abiflags, sys.implementation.cache_tag)"]
            told = subprocess.run(asked, user=65534, cwd="/", capture_output=True, text=True, check=False)
            if told.returncode == 0 and told.stdout.split()[-1:] == [sys.implementation.cache_tag]:
                return name
    return None


class Box:
    """A booted systemd; `with` ends it, and everything in it."""

    def __init__(self, folder: Path, lower: str = "/") -> None:
        self.folder = folder
        self.lower = lower
        mounted = _cgroups()
        assert mounted is not None, "missing() was asked"
        self.cgroup = mounted / f"corral-box-{os.getpid()}"
        for name in ("layer", "root", "outside"):
            (folder / name).mkdir()
        self.cgroup.mkdir()
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "sh", "-c", HOLD, "hold", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._boot: subprocess.Popen[bytes] | None = None
        self.pid = 0
        try:
            assert self._holder.stdout is not None, "it is a pipe"
            assert self._holder.stdout.readline() == "held\n"
            self.boot()
        except BaseException:
            self.close()
            raise

    def boot(self) -> None:
        """Starts systemd, and returns when it says that the boot is complete."""
        systemd = _systemd()
        assert systemd is not None, "missing() was asked"
        address = self.folder / "outside" / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, (self.folder / "boot.log").open("wb") as log:
            notified.bind(str(address))
            notified.settimeout(BOUND_S)
            self._boot = subprocess.Popen(
                ["nsenter", "-t", str(self._holder.pid), "-m", "--", "sh", "-c", BOOT, "boot", str(self.folder), str(self.cgroup), INIT, systemd, self.lower],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
            try:
                while b"READY=1" not in notified.recv(4096):
                    pass
            except TimeoutError:
                raise AssertionError((self.folder / "boot.log").read_text()) from None
        (child,) = Path(f"/proc/{self._boot.pid}/task/{self._boot.pid}/children").read_text().split()
        self.pid = int(child)

    def lose_power(self) -> None:
        """Ends everything in the box at once; what is on its disk stays."""
        if self._boot is not None:
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
            else:
                self._boot.kill()
            self._boot.wait(BOUND_S)
            self._boot = None
            self.pid = 0
        _await_empty(self.cgroup)
        for folder, _, _ in os.walk(self.cgroup, topdown=False):
            if folder != str(self.cgroup):
                Path(folder).rmdir()

    def close(self) -> None:
        """Ends the box."""
        try:
            self.lose_power()
        finally:
            self._holder.kill()
            self._holder.wait()
            if self._holder.stdout is not None:
                self._holder.stdout.close()
            self.cgroup.rmdir()

    def __enter__(self) -> "Box":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def files(self) -> Path:
        """The root folder of the box, as seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    def command(self, *arguments: str, user: str | None = None, environ: Mapping[str, str] | None = None) -> list[str]:
        """The command that runs `arguments` in the box."""
        variables = {"PATH": SYSTEM_PATH, "HOME": "/root", **(environ or {})}
        becoming = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user else []
        return [
            *("nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-C", "-n", "--"),
            *("env", "-i", "-C", "/", *(f"{name}={value}" for name, value in variables.items())),
            *becoming,
            *arguments,
        ]

    def run(
        self,
        *arguments: str,
        user: str | None = None,
        status: int | None = 0,
        environ: Mapping[str, str] | None = None,
        bound_s: float = BOUND_S,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program to its end; its exit status must be `status`, if that is given."""
        done = subprocess.run(
            self.command(*arguments, user=user, environ=environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=bound_s,
            check=False,
        )
        assert status in (None, done.returncode), (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file in the box."""
        file = self.files / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def processes(self, unit: str) -> set[tuple[int, int]]:
        """(pid, start time) of every living process of a unit, as this machine numbers them."""
        found: set[tuple[int, int]] = set()
        for folder, _, _ in os.walk(self.cgroup / unit):
            with contextlib.suppress(OSError):
                for pid in Path(folder, "cgroup.procs").read_text().split():
                    if (started := start_time(int(pid))) is not None:
                        found.add((int(pid), started))
        return found

    def install_python(self) -> None:
        """What `python3 -m venv … && pip install .` makes of PREFIX, from what these tests run with and offline."""
        python = python_for_all()
        assert python is not None, "missing() was asked"
        self.run(python, "-m", "venv", "--without-pip", PREFIX)
        (site,) = (self.files / PREFIX[1:] / "lib").glob("python*/site-packages")
        for name in NEEDED:
            spec = importlib.util.find_spec(name)
            assert spec is not None, f"{name} is needed to run these tests"
            assert spec.origin is not None, f"{name} is a package on disk"
            shutil.copytree(Path(spec.origin).parent, site / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "src" / "corral", site / "corral", ignore=shutil.ignore_patterns("__pycache__"))
        for command, module in (("corral", "cli.__main__"), ("corrald", "supervisor.__main__")):
            text = f"#!{PREFIX}/bin/python3\nfrom corral.{module} import main\nmain()\n"
            self.write(f"{PREFIX}/bin/{command}", text, 0o755)
        for folder, _, names in os.walk(site):
            for path in (folder, *(f"{folder}/{name}" for name in names)):
                os.chmod(path, os.stat(path).st_mode | (0o055 if path == folder else 0o044))


def start_time(pid: int) -> int | None:
    """When a process began, in ticks since the boot; None when it is gone or a zombie (proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _await_empty(cgroup: Path) -> None:
    """Waits until no process is in it; its `cgroup.events` says so (cgroups(7))."""
    with (cgroup / "cgroup.events").open() as events:
        poller = select.poll()
        poller.register(events, select.POLLPRI)
        while "populated 1" in events.read():
            assert poller.poll(BOUND_S * 1000), f"{cgroup} does not become empty"
            events.seek(0)


@contextlib.contextmanager
def booted(folder: Path) -> Generator[Box, None, None]:
    """A box with corral installed by the documented commands, its service not enabled."""
    with Box(folder) as box:
        box.install_python()
        shutil.copytree(ROOT / "systemd", box.files / "srv/checkout/systemd")
        box.run("make", "--silent", "-C", "/srv/checkout/systemd", "install", f"PREFIX={PREFIX}")
        yield box
