"""Secrets by reference: where they come from, what is refused, and that no error has one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.supervisor.config.secrets.secrets import MAX_BYTES, Secrets, masked
from corral.worker.contract.errors import SpawnFailed

pytestmark = pytest.mark.shell

VALUE = "open sesame 4711"


def stored(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "secrets"
    path.write_bytes(text.encode())
    path.chmod(mode)
    return str(path)


def expanded(secrets: Secrets, value: str) -> str:
    return secrets.expand({"KEY": value, "PLAIN": "$HOME"}, "a", "variable")["KEY"]


def refused(secrets: Secrets, value: str) -> SpawnFailed:
    """The error for a value, which names what it is about and quotes nothing."""
    with pytest.raises(SpawnFailed) as caught:
        expanded(secrets, value)
    error = caught.value
    assert error.data["agent"] == "a"
    assert error.data["variable"] == "KEY"
    assert {'"KEY"', '"a":'} <= set(error.message.split())
    assert VALUE not in f"{error.message} {error.data} {error.__cause__}"
    return error


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        ("${secret:A}", VALUE),
        ("Bearer ${secret:A}", f"Bearer {VALUE}"),
        ("${secret:A}${secret:b.c-d}", f"{VALUE} quoted # "),
        ("$${secret:A}", f"${VALUE}"),
        ("${secret:LOOP}", "${secret:A}"),
        ("${A} ${env:A} $A ${secret} {secret:A} ${SECRET:A}",) * 2,
        ("", ""),
    ],
)
def test_one_form_is_expanded_once_and_nothing_else(tmp_path: Path, value: str, becomes: str) -> None:
    text = f"# a comment\n\nA={VALUE}\r\nb.c-d= quoted # \nLOOP=${{secret:A}}\n"
    assert expanded(Secrets(stored(tmp_path, text)), value) == becomes


@pytest.mark.parametrize("value", ["${secret:}", "${secret:A", "${secret:1A}", "${secret:A B}", "x${secret:../A}"])
def test_what_begins_like_a_reference_and_is_none_is_refused(tmp_path: Path, value: str) -> None:
    assert "secret" not in refused(Secrets(stored(tmp_path, f"A={VALUE}\n")), value).data


def test_a_secret_that_is_nowhere_is_refused_by_name(tmp_path: Path) -> None:
    file = stored(tmp_path, f"A={VALUE}\n")
    for secrets in (Secrets(), Secrets(file), Secrets(file, str(tmp_path / "none"))):
        assert refused(secrets, "${secret:A} ${secret:B}").data["secret"] in ("A", "B")


def test_values_without_references_need_no_file(tmp_path: Path) -> None:
    assert expanded(Secrets(str(tmp_path / "none")), "plain") == "plain"


def test_credentials_come_after_the_file_and_lose_one_newline(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "A").write_text("other\n")
    (folder / "KEY").write_text("-----BEGIN\nlines\n\n")
    secrets = Secrets.of(stored(tmp_path, f"A={VALUE}\n"), {"CREDENTIALS_DIRECTORY": str(folder)}, tmp_path)
    assert expanded(secrets, "${secret:A}") == VALUE
    assert expanded(secrets, "${secret:KEY}") == "-----BEGIN\nlines\n"


def test_a_secret_is_read_anew_each_time(tmp_path: Path) -> None:
    secrets = Secrets(stored(tmp_path, "A=old\n"))
    assert expanded(secrets, "${secret:A}") == "old"
    stored(tmp_path, "A=new\n")
    assert expanded(secrets, "${secret:A}") == "new"


def _open(folder: Path) -> str:
    return stored(folder, f"A={VALUE}\n", 0o640)


def _foreign(folder: Path) -> str:
    path = stored(folder, f"A={VALUE}\n")
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(path, 61_825, 61_825)
    return path


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe", 0o600)
    return str(folder / "pipe")


FILES: list[Callable[[Path], str]] = [
    _open,
    _foreign,
    _pipe,
    str,
    lambda folder: str(folder / "none"),
    lambda folder: stored(folder, f"A={VALUE}\n" + "#" * MAX_BYTES),
    lambda folder: stored(folder, f"A={VALUE}\n{VALUE}\n"),
    lambda folder: stored(folder, f"={VALUE}\n"),
    lambda folder: stored(folder, f"A={VALUE}\0\n"),
]


@pytest.mark.parametrize(
    "make", FILES, ids=["open", "foreign", "pipe", "folder", "missing", "long", "line", "nameless", "nul"]
)
def test_a_file_that_others_could_know_or_that_is_none_is_refused(tmp_path: Path, make: Callable[[Path], str]) -> None:
    refused(Secrets(make(tmp_path)), "${secret:A}")


def test_bytes_that_are_no_text_are_refused_without_being_shown(tmp_path: Path) -> None:
    path = stored(tmp_path, "")
    Path(path).write_bytes(b"A=" + VALUE.encode() + b"\xff")
    refused(Secrets(path), "${secret:A}")
    (tmp_path / "B").write_bytes(VALUE.encode() + b"\xff")
    refused(Secrets(None, str(tmp_path)), "${secret:B}")


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert expanded(Secrets(stored(tmp_path, f"\ufeffA={VALUE}\n")), "${secret:A}") == VALUE


def test_each_value_that_cannot_be_expanded_is_one_problem(tmp_path: Path) -> None:
    secrets = Secrets(stored(tmp_path, f"A={VALUE}\n"))
    values = {"GOOD": "${secret:A}", "GONE": "${secret:B}", "BAD": "${secret:", "PLAIN": "b"}
    problems = secrets.problems(values, "a", "variable")
    assert [name for name in values for each in problems if f'"{name}"' in each] == ["GONE", "BAD"]


@pytest.mark.parametrize("name", ["api-key", "X-API-Key", "Set-Cookie", "http_headers", "access-key"])
def test_a_key_that_names_a_secret_is_recognised_in_each_of_its_spellings(name: str) -> None:
    assert masked({name: VALUE}) == {name: "***"}


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://h/mcp?a=b&token=4711", "https://h/mcp?a=b&token=***"),
        ("https://h/mcp?api-key=4711&a=b", "https://h/mcp?api-key=***&a=b"),
        ("https://h/?key=4711", "https://h/?key=***"),
        ("https://me:4711@h/mcp", "https://***@h/mcp"),
        ("https://h/mcp?monkey=1#a@b", "https://h/mcp?monkey=1#a@b"),
    ],
)
def test_what_looks_like_a_secret_in_an_address_is_masked(address: str, shown: str) -> None:
    assert masked({"spec": {"url": address}}) == {"spec": {"url": shown}}


def test_what_looks_like_a_secret_is_masked_at_every_depth() -> None:
    value = {
        "environment": {"A": VALUE},
        "process.environment": {"A": VALUE},
        "headers": VALUE,
        "args": [{"api_key": VALUE, "Password": [VALUE, {"x": VALUE}]}, "shown"],
        "credentials": {"user": VALUE, "none": None},
        "token": None,
        "count": 3,
    }
    found = masked(value)
    assert VALUE not in str(found)
    assert found == {
        "environment": {"A": "***"},
        "process.environment": {"A": "***"},
        "headers": "***",
        "args": [{"api_key": "***", "Password": ["***", {"x": "***"}]}, "shown"],
        "credentials": {"user": "***", "none": "***"},
        "token": None,
        "count": 3,
    }
    deep: object = VALUE
    for _ in range(1000):
        deep = [deep]
    assert VALUE not in str(masked(deep))
