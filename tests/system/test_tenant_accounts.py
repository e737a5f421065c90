"""What the processes of a tenant run as: their uid, folder, environment and rights, in a whole daemon of root."""

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.worker.contract.errors import ResourceLimitExceeded
from daemon_process import DaemonProcess
from tenant_uids import FIRST

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may change to another uid")

REPORT = """
echo uid=$(id -u) gid=$(id -g) groups=$(id -G)
echo pwd=$PWD home=$HOME user=$USER socket=${CORRAL_SOCKET:-none}
touch own && echo own=yes
cat "$0.secret" 2>/dev/null && echo secret=yes || echo secret=no
touch /tmp/of-acme 2>/dev/null && echo tmp=yes || echo tmp=no
touch "$TMPDIR/x" && echo private=yes
exec sleep 1000000
"""

CONFIG = f"""
[daemon]
tenant_uids = "{FIRST}-{FIRST + 2}"
[tenants.acme]
[tenants.beta]
[tenants.named]
user = "nobody"
[agents."acme/a"]
command = ["sh", "FOLDER/report.sh"]
protocol = "none"
[agents."acme/none"]
command = ["sh", "FOLDER/report.sh"]
protocol = "none"
process = {{ isolation = "none", user = "root" }}
[agents."named/a"]
command = ["sh", "FOLDER/report.sh"]
protocol = "none"
[agents.a]
command = ["sh", "-c", "umask 022; date > FOLDER/state/owner; exec sleep 1000000"]
protocol = "none"
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    folder = Path(tempfile.mkdtemp(prefix="tenants-", dir="/tmp"))
    folder.chmod(0o711)
    (folder / "report.sh").write_text(REPORT)
    (folder / "report.sh.secret").write_text("the owner's\n")
    for name in ("report.sh", "report.sh.secret"):
        (folder / name).chmod(0o644)
    try:
        with DaemonProcess(folder, CONFIG.replace("FOLDER", str(folder))) as running:
            yield running
    finally:
        shutil.rmtree(folder)


def report(daemon: DaemonProcess, agent: str) -> dict[str, str]:
    """The words that the script of an agent has printed."""
    daemon.call("agent.start", names=[agent])
    lines = daemon.call("log.read", names=[agent], n=100, stream="stdout")["records"]
    return dict(word.split("=", 1) for each in lines for word in each["text"].split() if "=" in word)


def uid_of(daemon: DaemonProcess, name: str) -> Any:
    return daemon.call("tenant.show", name=name)["tenant"]["uid"]


@pytest.mark.parametrize("agent", ["acme/a", "acme/none"])
def test_an_agent_runs_as_its_tenant_in_its_folder(daemon: DaemonProcess, agent: str) -> None:
    found = report(daemon, agent)
    uid, folder = uid_of(daemon, "acme"), daemon.state_dir / "tenants" / "acme"
    assert (found["uid"], found["gid"], found["groups"]) == (str(uid), str(uid), str(uid))
    assert (found["pwd"], found["home"], found["user"]) == (str(folder), str(folder), "acme")
    assert found["socket"] == "none"
    assert (found["own"], found["secret"], found["tmp"], found["private"]) == (*("yes", "no", "no", "yes"),)
    status = folder.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (uid, 0o700)


def test_each_tenant_has_a_uid_of_its_own_unless_it_names_a_user(daemon: DaemonProcess) -> None:
    assert sorted([uid_of(daemon, "acme"), uid_of(daemon, "beta")]) == [FIRST, FIRST + 1]
    found = report(daemon, "named/a")
    assert found["uid"] == str(pwd.getpwnam("nobody").pw_uid)
    before = uid_of(daemon, "acme")
    daemon.kill()
    daemon.start()
    assert uid_of(daemon, "acme") == before


def test_the_layers_in_force_are_shown(daemon: DaemonProcess) -> None:
    found = daemon.call("tenant.show", name="acme")["layers"]
    layers = {each["name"]: each for each in found}
    assert layers["user"] == {"name": "user", "in_force": True, "detail": str(uid_of(daemon, "acme"))}
    assert layers["folder"]["detail"] == str(daemon.state_dir / "tenants" / "acme")
    assert layers["no-new-privileges"]["in_force"]


def test_a_tenant_for_which_no_uid_is_left_is_not_added(daemon: DaemonProcess) -> None:
    daemon.call("tenant.add", name="last")
    assert uid_of(daemon, "last") == FIRST + 2
    with pytest.raises(ResourceLimitExceeded) as found:
        daemon.call("tenant.add", name="more")
    assert found.value.data["limit"] == "tenant_uids"
    assert "more" not in [each["name"] for each in daemon.call("tenant.list")["tenants"]]
    daemon.call("tenant.add", name="more", spec={"user": "nobody"})
