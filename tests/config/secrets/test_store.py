"""Secrets that were set by command: who may have them, how they are written, and that no error has one."""

import os
from pathlib import Path

import pytest

from corral.supervisor.config.secrets.secrets import Secrets
from corral.supervisor.config.secrets.store import SecretStore
from corral.supervisor.machine.linux.durable import TEMPORARY
from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, Overloaded, SpawnFailed

pytestmark = pytest.mark.shell

VALUE = "open sesame 4711"


def expanded(secrets: Secrets, agent: str) -> str:
    return secrets.expand({"KEY": "${secret:A}"}, agent, "variable")["KEY"]


def test_a_kept_secret_comes_before_the_file_and_is_for_its_agents_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("A=of the file\nB=b\n")
    file.chmod(0o600)
    secrets = Secrets.of(str(file), {}, tmp_path)
    assert expanded(secrets, "web") == "of the file"
    assert secrets.store is not None
    secrets.store.set("A", VALUE, ("web*", "db"), replace=False)
    assert [expanded(secrets, agent) for agent in ("web", "web-2", "db")] == [VALUE] * 3
    with pytest.raises(SpawnFailed) as caught:
        expanded(secrets, "other")
    error = caught.value
    assert (error.data["agent"], error.data["secret"]) == ("other", "A")
    assert VALUE not in f"{error.message} {error.data}"
    listed = secrets.listed()
    assert [(each["name"], each["source"]) for each in listed] == [("A", "kept"), ("B", "secrets_file")]
    assert VALUE not in str(listed)
    assert VALUE not in repr(secrets.store.get("A"))


def test_a_secret_is_private_replaced_whole_and_removed(tmp_path: Path) -> None:
    store = SecretStore(tmp_path / "secrets")
    store.set("A", VALUE, (), replace=False)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "secrets" / "A").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict):
        store.set("A", "other", (), replace=False)
    store.set("A", "second", ("web",), replace=True)
    store.rotate("A", "third", None)
    kept = store.get("A")
    assert kept is not None
    assert (kept.value, kept.agents) == ("third", ("web",)), "a rotation keeps the agents"
    store.rotate("A", "fourth", ())
    assert [kept.is_for("db") for kept in [store.get("A")] if kept is not None] == [True]
    store.remove("A")
    assert (store.get("A"), store.names()) == (None, [])
    with pytest.raises(NotFound):
        store.remove("A")
    with pytest.raises(NotFound):
        store.rotate("A", "x", None)


def test_a_write_that_was_killed_leaves_the_secret_before_it(tmp_path: Path) -> None:
    store = SecretStore(tmp_path)
    store.set("A", VALUE, (), replace=False)
    (tmp_path / f"{TEMPORARY}half").write_text('{"value": "hal')
    assert store.names() == ["A"]
    kept = store.get("A")
    assert kept is not None
    assert kept.value == VALUE
    store.set("B", VALUE, (), replace=False)
    assert sorted(os.listdir(tmp_path)) == ["A", "B"], "the next write removes it"


@pytest.mark.parametrize("name", ["", "1A", "A/b", "a/b/c", "..", ".new-x", "A B", "x" * 101])
def test_a_name_that_no_reference_has_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidParams):
        SecretStore(tmp_path).set(name, VALUE, (), replace=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", ["", f"{VALUE}\0", VALUE * 10_000])
def test_a_value_that_no_variable_can_have_is_refused_unquoted(tmp_path: Path, value: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        SecretStore(tmp_path).set("A", value, (), replace=False)
    assert VALUE not in f"{caught.value.message} {caught.value.data}"


def test_a_file_that_is_damaged_or_open_to_others_is_refused_and_can_be_set_again(tmp_path: Path) -> None:
    store = SecretStore(tmp_path)
    secrets = Secrets(store=store)
    store.set("A", VALUE, (), replace=False)
    (tmp_path / "A").chmod(0o640)
    with pytest.raises(SpawnFailed):
        expanded(secrets, "web")
    (tmp_path / "A").chmod(0o600)
    (tmp_path / "A").write_text(f'{{"value": "{VALUE}')
    with pytest.raises(SpawnFailed) as caught:
        expanded(secrets, "web")
    assert VALUE not in f"{caught.value.message} {caught.value.data} {caught.value.__cause__}"
    assert "problem" in secrets.listed()[0]
    with pytest.raises(InvalidParams):
        store.rotate("A", "new", None)
    store.rotate("A", "new", ())
    assert expanded(secrets, "web") == "new"


def test_a_folder_that_cannot_be_written_is_an_error_by_name(tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("a file is in the way")
    with pytest.raises(Overloaded) as caught:
        SecretStore(tmp_path / "secrets").set("A", VALUE, (), replace=False)
    assert caught.value.data == {"name": "A"}
