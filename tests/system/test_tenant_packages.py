"""Packages and deployments of tenants in a whole daemon: names, uid, folders, refusals, and removal."""

import base64
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corral.worker.client.sync import Client
from corral.worker.contract.errors import InvalidParams, NotFound, PermissionDenied, ResourceLimitExceeded
from daemon_process import BOUND_S, DaemonProcess, until
from package_site import Site, package
from tenant_uids import RANGE

CONFIG = """
[tenants.acme]
[tenants.beta]
[tenants.one]
[tenants.two]
[tenants.full]
max_disk_bytes = 1
[agents."full/big"]
command = ["sh", "-c", "echo something > big; exec sleep 1000000"]
protocol = "none"
"""

INSTALL = "#!/bin/sh\nid -u > made\n"
RUN = "echo uid=$(id -u) made=$(cat made); exec sleep 1000000\n"
TOML = """
name = "kit"
version = "{version}"
command = ["sh", "run.sh"]
protocol = "none"
install = "./install.sh"
{keys}
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    folder = Path(tempfile.mkdtemp(prefix="packs-", dir="/tmp"))
    folder.chmod(0o711)
    config = CONFIG
    if os.getuid() == 0:
        config = f'[daemon]\ntenant_uids = "{RANGE}"\n{CONFIG}'
    try:
        with DaemonProcess(folder, config) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def of_tenant(daemon: DaemonProcess, tenant: str) -> Client:
    """A connection that is bound to a tenant."""
    client = daemon.client()
    client.call("auth.login", {"tenant": tenant}, timeout_s=BOUND_S)
    return client


def built(daemon: DaemonProcess, version: str = "1.0", keys: str = "", run: str = RUN) -> str:
    """A package in base64."""
    folder = Path(tempfile.mkdtemp(dir=daemon.state_dir.parent))
    files = {"package.toml": TOML.format(version=version, keys=keys), "run.sh": run}
    for name, text in {**files, "install.sh": INSTALL}.items():
        (folder / name).write_text(text)
    (folder / "install.sh").chmod(0o755)
    target = folder.with_suffix(".corral")
    done = daemon.corral("package", "build", str(folder), "-o", str(target))
    assert done.returncode == 0, done.stderr
    return base64.b64encode(target.read_bytes()).decode()


def called(client: Client, method: str, **params: object) -> Any:
    return client.call(method, params, timeout_s=BOUND_S)


def test_a_tenant_adds_and_deploys_a_package_of_its_own(daemon: DaemonProcess) -> None:
    data = built(daemon)
    owner = daemon.call("package.add", data=data)
    with of_tenant(daemon, "acme") as acme, of_tenant(daemon, "beta") as beta:
        added = called(acme, "package.add", data=data)
        assert added["name"] == "acme/kit"
        assert added["digest"] == owner["digest"], "each owner has the content once"
        assert called(acme, "package.add", data=data) == added
        listed = called(acme, "package.list")["packages"]
        assert [each["name"] for each in listed] == ["acme/kit"]
        assert called(acme, "package.show", package="kit")["package"] == added
        assert called(beta, "package.list") == {"packages": []}
        for name in ("kit", "acme/kit"):
            with pytest.raises(NotFound):
                called(beta, "package.show", package=name)
            with pytest.raises(NotFound):
                called(beta, "deployment.create", package=name)

        record = called(acme, "deployment.create", package="kit")
        assert (record["state"], record["agent"]) == ("current", "acme/kit"), record["error"]
        uid = daemon.call("tenant.show", name="acme")["tenant"]["uid"]
        uid = os.getuid() if uid is None else uid
        lines = called(acme, "log.read", names=["kit"])["records"]
        assert f"uid={uid} made={uid}" in [each["text"] for each in lines]
        used = [each["used_by"] for each in daemon.call("package.list")["packages"]]
        assert used == [["acme/kit"], []], "the owner's package is not used"
        assert called(acme, "deployment.show", deployment=record["deployment"]) == record
        with pytest.raises(NotFound):
            called(beta, "deployment.show", deployment=record["deployment"])
        assert called(beta, "deployment.list") == {"deployments": []}
        called(acme, "agent.rm", names=["kit"])
        called(acme, "package.rm", package="kit@1.0")
    assert [each["name"] for each in daemon.call("package.list")["packages"]] == ["kit"]
    assert daemon.call("package.verify", package="kit")["name"] == "kit", "its archive is there"
    daemon.call("package.rm", package="kit")


def test_an_upload_belongs_to_its_tenant(daemon: DaemonProcess) -> None:
    with of_tenant(daemon, "one") as one, of_tenant(daemon, "two") as two:
        upload = called(one, "package.upload", data="AAAA")["upload"]
        with pytest.raises(NotFound):
            called(two, "package.add", upload=upload)
        with pytest.raises(NotFound):
            called(two, "package.upload", upload=upload, data="AAAA", offset=3)
        with pytest.raises(NotFound):
            daemon.call("package.add", upload=upload)
        for _ in range(3):
            called(one, "package.upload", data="AAAA")
        called(two, "package.upload", data="AAAA")  # another's uploads do not fill its own places


def test_a_package_of_a_tenant_has_the_keys_of_a_tenant(daemon: DaemonProcess) -> None:
    with of_tenant(daemon, "acme") as acme:
        keys = 'health = { name = "x", exec = ["/bin/true"] }'
        called(acme, "package.add", data=built(daemon, "2.0", keys))
        with pytest.raises(PermissionDenied) as refused:
            called(acme, "deployment.create", package="kit@2.0", agent="checked")
        assert refused.value.data["key"] == "health"
        called(acme, "package.add", data=built(daemon, "2.1"))
        for settings in (
            {"control": "admin"},
            {"process": {"user": "root"}},
            {"process": {"read_paths": ["/etc"]}},
            {"environment": {"X": "${HOME}"}},
        ):
            with pytest.raises(PermissionDenied):
                called(acme, "deployment.create", package="kit@2.1", settings=settings)
        with pytest.raises(NotFound):
            called(acme, "deployment.create", package="kit@2.1", agent="beta/kit")
    with pytest.raises(InvalidParams):  # the owner does not give it its own rights by mistake
        daemon.call("deployment.create", package="acme/kit@2.1", agent="kit")
    assert [each["name"] for each in daemon.call("agent.list")["agents"]] == ["full/big", "cortex"]


def test_a_tenant_with_a_full_disk_adds_no_package(daemon: DaemonProcess) -> None:
    data = built(daemon)
    with of_tenant(daemon, "full") as full:
        until(
            lambda: any(
                (each["tenant"], each["key"]) == ("full", "tenants.max_disk_bytes") and each["used"] > 1
                for each in daemon.call("quota.list")["quotas"]
            )
        )
        with pytest.raises(ResourceLimitExceeded) as refused:
            called(full, "package.upload", data="AAAA")
        assert refused.value.data["limit"] == "max_disk_bytes"
        with pytest.raises(ResourceLimitExceeded):
            called(full, "package.add", data=data)


def test_nothing_is_left_of_the_packages_of_a_tenant_that_is_removed(daemon: DaemonProcess) -> None:
    daemon.call("tenant.add", name="zanzibar")
    with of_tenant(daemon, "zanzibar") as tenant:
        called(tenant, "package.add", data=built(daemon))
        assert called(tenant, "deployment.create", package="kit")["state"] == "current"
        called(tenant, "package.upload", data="AAAA")
    state = daemon.state_dir
    found = {path.parent.name for path in state.rglob("zanzibar*")}
    assert {"packages", "installed", "cache"} <= found
    daemon.call("tenant.rm", name="zanzibar")
    assert list(state.rglob("*zanzibar*")) == []
    with closing(sqlite3.connect(f"file:{state / 'corral.db'}?mode=ro", uri=True)) as store:
        for table, column in (("package", "name"), ("deployment", "agent")):
            sql = f"SELECT count(*) FROM {table} WHERE {column} GLOB 'zanzibar/*'"
            assert store.execute(sql).fetchone() == (0,), table
    assert "zanzibar" not in str(daemon.call("package.list"))
    assert "zanzibar" not in str(daemon.call("deployment.list"))


def test_packages_of_a_tenant_survive_a_kill(daemon: DaemonProcess) -> None:
    data = built(daemon, "3.0")
    with of_tenant(daemon, "beta") as beta:
        added = called(beta, "package.add", data=data)
    daemon.kill()
    daemon.start()
    with of_tenant(daemon, "beta") as beta:
        assert called(beta, "package.verify", package="kit@3.0") == added
        called(beta, "package.rm", package="kit@3.0")


def test_an_environment_of_a_tenant_is_its_own(tmp_path: Path) -> None:
    with Site(tmp_path, "[tenants.beta]\n") as site:
        site.daemon.call("tenant.add", name="acme")
        data = base64.b64encode(package(tmp_path, "1.0").read_bytes()).decode()
        environments: set[str] = set()
        for tenant in ("acme", "beta"):
            with of_tenant(site.daemon, tenant) as client:
                called(client, "package.add", data=data)
                record = called(client, "deployment.create", package="kit")
                assert record["state"] == "current", record["error"]
                task = called(client, "task.run", agent="kit", objective="look")
                assert task["output"]["alpha"] == "2.0"
                assert task["output"]["cwd"] == record["folder"]
                environments.add(record["environment"])
        assert {each.partition("+")[0] for each in environments} == {"acme", "beta"}
        site.daemon.call("tenant.rm", name="acme")
        left = {path.name for path in (site.daemon.state_dir / "environments").iterdir()}
        assert left == {each for each in environments if each.startswith("beta+")}
