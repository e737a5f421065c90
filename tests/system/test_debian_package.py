"""The Debian package under a real systemd: installed, started, used, removed and purged; what is left is the user's.

Here it has the environment of these tests, and the root is this machine's. `make release-check` names by CORRAL_DEB the package that
`make deb` has made, and by CORRAL_DEB_ROOT a root file system of Debian with nothing but systemd and Python in it.
"""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import systemd_box
from daemon_process import BIN
from systemd_box import PREFIX, ROOT, Box

PACKAGE = os.environ.get("CORRAL_DEB")
LOWER = os.environ.get("CORRAL_DEB_ROOT", "/")
LACKING = systemd_box.missing() or ("" if shutil.which("dpkg-deb") else "there is no dpkg-deb here")

OURS = ("/opt/corral", "/etc/corral", "/var/lib/corral", "/var/lib/corral-agent", "/run/corral", "/usr/bin/corral*")
INSTALL_S = 300.0
"""Seconds for an installation, which compiles 2,000 modules."""

PLACED = {
    "/etc/corral/corral.toml",
    *(f"/usr/bin/{name}" for name in ("corral", "corrald")),
    *(f"/usr/lib/systemd/system/corrald.{kind}" for kind in ("service", "socket")),
    *(f"/usr/lib/{folder}.d/corral.conf" for folder in ("sysusers", "tmpfiles")),
    *(f"/usr/share/man/{page}.gz" for page in ("man1/corral.1", "man5/corral.toml.5", "man8/corrald.8")),
    "/usr/share/bash-completion/completions/corral",
    "/usr/share/zsh/vendor-completions/_corral",
    "/usr/share/fish/vendor_completions.d/corral.fish",
    *(f"/usr/share/doc/corral/{name}" for name in ("changelog.gz", "copyright")),
}
"""Files beside the environment."""

PLACES = " ".join(
    [*OURS, "/usr/lib/*/*/corral*", "/usr/lib/*/corral*", "/usr/share/*/corral*", "/usr/share/*/*/*corral*"]
)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with Box(tmp_path_factory.mktemp("box"), LOWER) as box:
        package = Path(PACKAGE) if PACKAGE else packed(box, tmp_path_factory.mktemp("deb"))
        shutil.copy(package, box.files / "srv/corral.deb")
        # An image of a container forbids packages to start services.
        box.run("rm", "-f", "/usr/sbin/policy-rc.d")
        yield box


def packed(box: Box, folder: Path) -> Path:
    """Makes a package whose environment is that of these tests, and leaves nothing of it in the box."""
    box.install_python()
    root = folder / "root"
    shutil.copytree(box.files / PREFIX[1:], root / PREFIX[1:], symlinks=True)
    box.run("rm", "-r", PREFIX)
    return around(root)


def around(root: Path) -> Path:
    """Makes a package of an environment in `root`."""
    release = runpy.run_path(str(ROOT / "release" / "release.py"))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    package: Path = release["packed"](root, ROOT, BIN / "corral", root.parent, "1.0", python, "all")
    return package


def left(box: Box) -> set[str]:
    """Returns what is there under a name of ours."""
    listed = box.run("sh", "-c", f"ls -d {PLACES} 2> /dev/null", status=None).stdout.split()
    accounts = box.run("getent", "passwd", "corral-agent", status=None).stdout
    groups = box.run("getent", "group", "corral", "corral-agent", status=None).stdout
    return {*listed, *accounts.split(), *groups.split()}


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg-deb here")
def test_a_package_has_units_accounts_manual_completions_and_configuration(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    package = around(tmp_path / "root")
    listed = subprocess.run(["dpkg-deb", "-c", package], check=True, capture_output=True, text=True).stdout
    assert {line.split()[5].removeprefix(".") for line in listed.splitlines() if line[0] != "d"} == PLACED
    assert "-rw------- root/root" in next(line for line in listed.splitlines() if "corral.toml" in line)
    for script in ("postinst", "prerm", "postrm"):
        told = subprocess.run(["dpkg-deb", "-I", package, script], check=True, capture_output=True).stdout
        subprocess.run(["sh", "-n"], input=told, check=True)


@pytest.mark.long
@pytest.mark.skipif(bool(LACKING), reason=LACKING)
def test_a_package_is_installed_used_removed_and_purged(box: Box) -> None:
    before = left(box)
    # Python comes from elsewhere, where this machine's is not Debian's.
    box.run("dpkg", "--force-depends", "--install", "/srv/corral.deb", bound_s=INSTALL_S)
    assert box.run("systemctl", "is-active", "corrald.socket", "corrald.service").stdout.split() == ["active"] * 2
    assert box.run("systemctl", "is-enabled", "corrald.socket", "corrald.service").stdout.split() == ["enabled"] * 2
    assert box.run("corral", "status", "--json").stdout.startswith('{"daemon":')
    assert box.run("getent", "passwd", "corral-agent").stdout.endswith(":/var/lib/corral-agent:/usr/sbin/nologin\n")
    shipped = box.run("dpkg", "-L", "corral").stdout
    assert {*shipped.splitlines()} >= PLACED
    assert box.run("bash", "-c", ". /usr/share/bash-completion/completions/corral; complete -p corral").stdout
    box.run("corral", "add", "sleeper", "--protocol", "none", "--", "sleep", "86399")
    assert box.run("corral", "status").stdout.count("sleeper")

    box.run("dpkg", "--force-depends", "--install", "/srv/corral.deb", bound_s=INSTALL_S)
    assert "sleeper" in box.run("corral", "status").stdout, "a new version keeps the agents"

    box.run("dpkg", "--remove", "corral")
    assert box.run("pgrep", "-f", "sleep 86399|corrald", status=None).stdout == ""
    assert {path for path in left(box) - before if path.startswith("/")} == {
        *("/etc/corral", "/var/lib/corral", "/var/lib/corral-agent")
    }
    box.write("/etc/corral/mine.toml", "")
    box.run("dpkg", "--purge", "corral")
    assert left(box) - before == {"/etc/corral"}
    assert box.run("ls", "/etc/corral").stdout == "mine.toml\n"
    assert "corral" not in box.run("systemctl", "list-unit-files", "--state=enabled", status=None).stdout
