"""How a tenant's agent runs at least, whatever its table says."""

from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.config.declared.tenant import free_uid, uid_range, uids_of
from corral.supervisor.config.decoding.values import Refused
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.sources import Variables
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.tenants.registry.floor import Standing, floored, is_below
from corral.worker.contract.errors import InvalidParams

FOLDER = "/state/tenants/acme"
OWN = Standing(tenant="acme", folder=FOLDER, user="1900000001", identity=(1_900_000_001, 1_900_000_001, []))


def spec(text: str, general: str = "") -> Spec:
    whole = f'{general}\n[tenants.acme]\n[agents."acme/a"]\ncommand = ["true"]\nprotocol = "none"\n{text}'
    found = decode(whole, source="c.toml", directory="/etc/corral", variables=Variables({}, {}))
    return found.agents["acme/a"]


def test_an_agent_of_a_tenant_runs_in_its_folder_as_its_user() -> None:
    found = floored(spec(""), OWN)
    process = found.process
    assert (process.user, process.group, process.isolation) == ("1900000001", None, "basic")
    assert process.working_directory == FOLDER
    assert (process.read_paths, process.write_paths) == ((FOLDER,), (FOLDER,))
    assert found.environment == {"HOME": FOLDER, "USER": "acme", "LOGNAME": "acme"}
    assert not {"HOME", "USER", "LOGNAME", "SHELL"} & set(process.inherit_environment)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ('process.isolation = "none"', "isolation", "basic"),
        ("process.enable_isolation = false", "enable_isolation", True),
        ('process.user = "root"', "user", "1900000001"),
        ('process.group = "shadow"', "group", None),
        ('process.read_paths = ["/srv"]', "read_paths", (FOLDER, "/srv")),
        ('process.write_paths = ["/srv"]', "write_paths", (FOLDER, "/srv")),
        ('process.working_directory = "/srv/code"', "working_directory", "/srv/code"),
        ('process.working_directory = "/srv/code"', "read_paths", (FOLDER, "/srv/code")),
        ('process.working_directory = "/srv/code"', "write_paths", (FOLDER,)),
        (f'process.working_directory = "{FOLDER}/x"', "read_paths", (FOLDER,)),
    ],
)
def test_a_table_cannot_go_below_it(text: str, key: str, value: Any) -> None:
    assert getattr(floored(spec(text), OWN).process, key) == value


def test_no_right_on_the_control_socket_is_granted() -> None:
    assert floored(spec('control = "admin"'), OWN).control == "none"


def test_without_a_user_of_its_own_the_table_says_the_user() -> None:
    standing = Standing(tenant="acme", folder=FOLDER)
    assert floored(spec('process.user = "worker"'), standing).process.user == "worker"


@pytest.mark.parametrize(
    ("path", "found"), [("/a/b", True), ("/a/b/c", True), ("/a/bc", False), ("/a/b/../c", False), ("/", False)]
)
def test_a_path_below_a_folder(path: str, found: bool) -> None:
    assert is_below(path, "/a/b") is found


@pytest.mark.parametrize("raw", [1, "", "5", "5-9", "1000-999", "1000-4294967294", "1000-9999999", "1000-2000x"])
def test_a_range_of_uids_that_is_refused(raw: object) -> None:
    with pytest.raises(Refused):
        uid_range(raw)
    with pytest.raises(InvalidParams):
        decode(f"[daemon]\ntenant_uids = {raw!r}\n", source="c.toml", directory="/", variables=Variables({}, {}))


def test_the_least_free_uid_is_chosen() -> None:
    uids = uids_of(uid_range("1900000000-1900000002"))
    assert free_uid(uids, {1_900_000_000, 1_900_000_002}) == 1_900_000_001
    assert free_uid(uids, set(uids)) is None


def test_the_folder_of_the_configuration_is_not_that_of_a_tenant(tmp_path: Path) -> None:
    assert spec("").process.working_directory == ""
    assert spec("", f'process.working_directory = "{tmp_path}"').process.working_directory == str(tmp_path)
