"""Two builds of the same files are the same bytes, and a file that cannot be part of a package is refused by name."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from corral.supervisor.agents.packages.archive import opened
from corral.supervisor.agents.packages.builder import build, collect, resigned, scaffold
from corral.supervisor.agents.packages.package import generate, read_package, read_secret
from corral.worker.contract.errors import Conflict, InvalidParams, NotFound, PermissionDenied

BUILD = """
import os, sys
from pathlib import Path
from corral.supervisor.agents.packages.builder import build, scaffold
os.umask(int(sys.argv[3], 8))
sample = Path(sys.argv[2]).parent / "warm"
scaffold(sample / "a", "a")
build(sample / "a", sample / "a.corral")  # imports all while it may
if sys.argv[4] != "-":
    os.setuid(int(sys.argv[4]))
build(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scaffold(tmp_path / "greeter", "greeter")
    return tmp_path / "greeter"


def paths(folder: Path) -> list[str]:
    return [source.path for source in collect(folder)]


def test_a_new_package_builds_and_reads_back(folder: Path, tmp_path: Path) -> None:
    built = build(folder, tmp_path / "x.corral")
    with opened(tmp_path / "x.corral") as file:
        found = read_package(file)
    assert (found.reference, found.digest, found.signer) == ("greeter@0.1.0", built.digest, "")
    assert paths(folder) == ["greeter.py", "package.toml"]


def test_builds_on_two_paths_under_two_umasks_by_two_users_are_the_same_bytes(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as reachable:  # by the other user too
        os.chmod(reachable, 0o755)
        _build_twice(folder, Path(reachable))


def _build_twice(folder: Path, tmp_path: Path) -> None:
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "ü.txt").write_text("ü")
    other = tmp_path / "elsewhere" / "with a long name"
    for name in ("sub/deep/ü.txt", "run.sh", "package.toml", "greeter.py"):  # another order
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, other / name)
        os.utime(other / name, (1, 1))
    (other / "run.sh").chmod(0o700)
    users = ("-", "12345" if os.getuid() == 0 else "-")
    for path, name, mask, user in zip((folder, other), "ab", ("000", "077"), users, strict=True):
        out = tmp_path / f"out-{name}"
        out.mkdir(mode=0o777)
        if os.getuid() == 0:
            os.chown(out, 12345, 12345)
            subprocess.run(["chown", "-R", "12345", str(other)], check=True)
        subprocess.run(
            [sys.executable, "-P", "-c", BUILD, str(path), str(out / "x.corral"), mask, user],
            check=True,
            cwd="/",
            timeout=60,
        )
    first, second = (tmp_path / f"out-{name}" / "x.corral" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    target = tmp_path / "target"
    target.mkdir()
    with opened(first) as file:
        read_package(file, target)
    assert {str(p.relative_to(target)): p.stat().st_mode & 0o777 for p in target.rglob("*") if p.is_file()} == {
        "greeter.py": 0o644,
        "package.toml": 0o644,
        "run.sh": 0o755,
        "sub/deep/ü.txt": 0o644,
    }


def test_what_git_python_and_the_ignore_file_leave_out_is_left_out(folder: Path) -> None:
    for name in (".git/config", "__pycache__/a.pyc", ".venv/x", "a.pyc", "tests/t.py", "old.corral"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / "data").mkdir()
    (folder / "data" / "keep.bin").write_text("x")
    (folder / "data" / "drop.bin").write_text("x")
    (folder / ".corralignore").write_text("tests/\n*.bin\n!keep.bin\n")
    assert paths(folder) == ["data/keep.bin", "greeter.py", "package.toml"]


def test_a_link_inside_is_stored_as_its_file_and_one_to_the_outside_is_refused(folder: Path) -> None:
    (folder / "again.py").symlink_to("greeter.py")
    assert "again.py" in paths(folder)
    for name, target in (("out", "/etc/passwd"), ("up", "../x"), ("dangling", "nothing"), ("dir", ".")):
        (folder / name).symlink_to(target)
        with pytest.raises(InvalidParams) as caught:
            collect(folder)
        assert caught.value.data["path"] == name
        (folder / name).unlink()


def test_a_fifo_a_socket_and_a_name_that_is_not_utf8_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with pytest.raises(InvalidParams, match="a FIFO"):
        collect(folder)
    (folder / "fifo").unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(folder)
        try:
            bound.bind("s")
        finally:
            os.chdir(here)
        with pytest.raises(InvalidParams, match="a socket"):
            collect(folder)
    (folder / "s").unlink()
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff"))).write_text("x")
    with pytest.raises(InvalidParams, match="not UTF-8"):
        collect(folder)


@pytest.mark.parametrize("name", [".env", "deploy/.env.production", "server.pem", "id_ed25519"])
def test_a_file_that_looks_like_a_secret_is_refused_unless_requested(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    (folder / ".env.example").write_text("x")
    with pytest.raises(InvalidParams) as caught:
        collect(folder)
    assert caught.value.data["paths"] == [name]
    assert name in [source.path for source in collect(folder, with_secrets=True)]


def test_an_install_script_has_to_be_there_and_executable(folder: Path, tmp_path: Path) -> None:
    toml = folder / "package.toml"
    toml.write_text('install = "./install.sh"\n' + toml.read_text())
    with pytest.raises(InvalidParams):
        build(folder, tmp_path / "x.corral")
    (folder / "install.sh").write_text("#!/bin/sh\n")
    with pytest.raises(InvalidParams):
        build(folder, tmp_path / "x.corral")
    (folder / "install.sh").chmod(0o755)
    assert build(folder, tmp_path / "x.corral").spec.install == "install.sh"


def test_a_failed_build_leaves_the_archive_before_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "x.corral").write_text("before")
    (folder / ".env").write_text("x")
    with pytest.raises(InvalidParams):
        build(folder, out / "x.corral")
    assert [p.name for p in out.iterdir()] == ["x.corral"]
    assert (out / "x.corral").read_text() == "before"
    with pytest.raises(NotFound):
        build(tmp_path / "nowhere", out / "x.corral")


def test_a_signature_names_its_key_and_does_not_change_the_digest(folder: Path, tmp_path: Path) -> None:
    public = generate(tmp_path / "k")
    with pytest.raises(Conflict):
        generate(tmp_path / "k")
    secret = read_secret(tmp_path / "k")
    plain = build(folder, tmp_path / "plain.corral")
    signed = build(folder, tmp_path / "signed.corral", secret=secret)
    again = build(folder, tmp_path / "again.corral", secret=secret)
    assert Path(signed.path).read_bytes() == Path(again.path).read_bytes()
    assert plain.digest == signed.digest
    late = resigned(Path(plain.path), secret, tmp_path / "late.corral")
    assert (late.digest, late.signer) == (plain.digest, public)
    assert Path(late.path).read_bytes() == Path(signed.path).read_bytes(), "as if built with the key"
    generate(tmp_path / "second")
    resigned(tmp_path / "late.corral", read_secret(tmp_path / "second"))
    with opened(tmp_path / "late.corral") as file:
        assert read_package(file).signer not in ("", public), "in place of the former signature"
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]
    with opened(tmp_path / "signed.corral") as file:
        assert read_package(file).signer == public == signed.signer
    (tmp_path / "k").chmod(0o644)
    with pytest.raises(PermissionDenied):
        read_secret(tmp_path / "k")
    (tmp_path / "other").write_text("nothing")
    (tmp_path / "other").chmod(0o600)
    with pytest.raises(InvalidParams):
        read_secret(tmp_path / "other")
