"""Text files that an ACP agent reads and writes by its client."""

import os
from pathlib import Path

import pytest

from corral.worker.acp import files
from corral.worker.contract.errors import InvalidParams, NotFound, PermissionDenied, ResourceLimitExceeded

pytestmark = pytest.mark.shell


def read(folder: Path, path: object, **more: object) -> object:
    return files.read_text({"path": path, **more}, str(folder))["content"]


def write(folder: Path, path: object, content: object = "new") -> None:
    files.write_text({"path": path, "content": content}, str(folder))


def test_a_file_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.txt"
    write(tmp_path, str(path), "one\ntwo\r\nthrée\n")
    assert path.read_bytes() == "one\ntwo\r\nthrée\n".encode()
    assert read(tmp_path, str(path)) == "one\ntwo\r\nthrée\n"
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]


def test_lines_of_a_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1\n2\n3\n4\n", "utf-8")
    assert read(tmp_path, str(path), line=2, limit=2) == "2\n3\n"
    assert read(tmp_path, str(path), line=3) == "3\n4\n"
    assert read(tmp_path, str(path), limit=1) == "1\n"
    assert read(tmp_path, str(path), line=9) == ""
    assert read(tmp_path, str(path), limit=0) == ""


def test_a_file_keeps_its_permissions_and_its_place_behind_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old", "utf-8")
    real.chmod(0o750)
    link.symlink_to(real)
    write(tmp_path, str(link))
    assert link.is_symlink()
    assert (real.read_text("utf-8"), real.stat().st_mode & 0o777) == ("new", 0o750)


@pytest.mark.parametrize("path", ["a.txt", "", None, 7, "/a\0b"])
def test_a_path_that_is_not_absolute_is_refused(tmp_path: Path, path: object) -> None:
    for act in (read, write):
        with pytest.raises(InvalidParams):
            act(tmp_path, path)


def test_nothing_outside_of_the_working_directory_is_served(tmp_path: Path) -> None:
    folder, outside = tmp_path / "work", tmp_path / "secret"
    folder.mkdir()
    outside.write_text("secret", "utf-8")
    (folder / "link").symlink_to(outside)
    for path in (outside, folder / ".." / "secret", folder / "link"):
        for act in (read, write):
            with pytest.raises(PermissionDenied):
                act(folder, str(path))
    assert outside.read_text("utf-8") == "secret"


def test_a_file_that_is_not_there_has_the_code_of_the_protocol(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as missing:
        read(tmp_path, str(tmp_path / "none"))
    assert missing.value.to_wire()["code"] == -32002


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        for act in (read, write):
            with pytest.raises(InvalidParams):
                act(tmp_path, str(path))


def test_a_long_file_is_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"x" * 1023 + b"\n")
    with path.open("ab") as file:
        file.truncate(files.READ_BYTES + 1)
    with pytest.raises(ResourceLimitExceeded):
        read(tmp_path, str(path))
    assert read(tmp_path, str(path), limit=1) == "x" * 1023 + "\n"


def test_a_content_that_is_no_text_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old", "utf-8")
    for content in (None, 7, "\ud800"):
        with pytest.raises(InvalidParams):
            write(tmp_path, str(path), content)
    assert path.read_text("utf-8") == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
