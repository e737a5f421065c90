"""The keys and values that a tenant may write into a table of its own."""

import pytest

from corral.supervisor.config.spec.allowed import KEYS, Kind, check_table
from corral.worker.contract.errors import PermissionDenied

pytestmark = pytest.mark.core

FOLDER = "/state/tenants/acme"


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"control": "admin"}, "control"),
        ({"http": "127.0.0.1:80"}, "http"),
        ({"listen": ["127.0.0.1:80"]}, "listen"),
        ({"stores": ["db"]}, "stores"),
        ({"url": "http://127.0.0.1:1"}, "url"),
        ({"health": {"command": ["true"]}}, "health"),
        ({"template": "theirs"}, "template"),
        ({"a key of tomorrow": 1}, "a key of tomorrow"),
        ({"process": {"user": "root"}}, "process.user"),
        ({"process": {"group": "root"}}, "process.group"),
        ({"process": {"isolation": "none"}}, "process.isolation"),
        ({"process": {"enable_isolation": False}}, "process.enable_isolation"),
        ({"process": {"inherit_environment": ["SECRET"]}}, "process.inherit_environment"),
        ({"process": {"environment_file": "/etc/x"}}, "process.environment_file"),
        ({"process": {"nice": -1}}, "process.nice"),
        ({"process": {"network": "host"}}, "process.network"),
        ({"process": {"working_directory": "/etc"}}, "process.working_directory"),
        ({"process": {"working_directory": "../x"}}, "process.working_directory"),
        ({"process": {"read_paths": [f"{FOLDER}/../globex"]}}, "process.read_paths"),
        ({"process": {"write_paths": [f"-{FOLDER}x"]}}, "process.write_paths"),
        ({"monitoring": {"alert_url": "http://127.0.0.1"}}, "monitoring.alert_url"),
        ({"recovery": {"actions": []}}, "recovery.actions"),
        ({"environment": {"A": "${HOME}"}}, "environment.A"),
        ({"command": ["sh", "-c", "${HOME"]}, "command.1"),
    ],
)
def test_what_is_not_for_tenants_is_refused_by_its_key(table: dict[str, object], key: str) -> None:
    with pytest.raises(PermissionDenied) as refused:
        check_table("agent", "acme/x", table, FOLDER)
    found = str(refused.value.data["key"])
    assert found == key or (key == "command.1" and found == "command.2")


def test_what_is_for_tenants_is_taken() -> None:
    table: dict[str, object] = {
        "command": ["sh", "-c", "echo $$HOME ${secret:KEY}"],
        "process": {"working_directory": "a", "nice": 5, "isolation": "strict"},
        "environment": {"A": "${secret:KEY}", "B": "$$"},
        "resources": {"max_memory_bytes": "64MiB"},
        "labels": None,
        "template": "default",
    }
    check_table("agent", "acme/x", table, FOLDER)


@pytest.mark.parametrize("kind", ["team", "workflow"])
def test_a_group_of_a_tenant_has_no_address(kind: Kind) -> None:
    assert not {"http", "http_auth", "expose"} & KEYS[kind]
    with pytest.raises(PermissionDenied):
        check_table(kind, "acme/x", {"http": "127.0.0.1:0"}, FOLDER)
