"""What a worker is kept in: the files that its program needs, and the removal of its temporary folder."""

import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corral.supervisor.workers.process import sandbox

pytestmark = pytest.mark.shell

ROOT = os.geteuid() == 0
ORDINARY_UID = 61_825
BOUND_S = 60.0
needs_root = pytest.mark.skipif(not ROOT, reason="only root may mount and change owners")


# --- what a program needs -------------------------------------------------------------------------


def needed(argv: list[str], folder: Path, path: str = os.defpath) -> list[str]:
    """What is readable beside what is readable for every program, which is below /usr mostly."""
    environment = {"PATH": path}
    usual = sandbox.readable((), (), environment, "/", ())
    found = sandbox.readable((), argv, environment, str(folder), ())
    assert all(each.startswith("-/") for each in found)
    return [each[1:] for each in found if each not in usual and not each.startswith("-/usr/")]


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_what_is_listed_must_be_there_and_what_is_implied_may_be_missing() -> None:
    found = sandbox.readable(("/a", "/b"), ["no-such-program"], {}, "/", ("/sdk",))
    assert found[:2] == ["/a", "/b"]
    assert all(path.startswith("-/") for path in found[2:])
    assert "-/sdk" in found


def test_nothing_of_a_person_or_of_the_daemon_is_implied(tmp_path: Path) -> None:
    found = needed([str(program(tmp_path / "program"))], tmp_path)
    assert found == [str(tmp_path / "program")]
    usual = {path[1:] for path in sandbox.readable((), (), {}, "/", ())}
    assert usual.isdisjoint(
        {"/", "/etc", "/home", "/root", "/var", "/run", "/tmp", "/proc", "/sys", "/dev", "/opt"}
        | {"/etc/passwd", "/etc/shadow", "/etc/ssl", "/etc/ssl/private", "/etc/corral"}
        | {os.path.expanduser("~"), os.getcwd()}
    )


def test_a_file_among_the_arguments_is_readable_and_a_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "script.py").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("script.py")
    words = ["script.py", str(tmp_path / "folder"), "folder", "link", "-m", "\0", "", "."]
    assert needed(["/bin/true", *words], tmp_path) == [str(tmp_path / "script.py")]


def test_a_program_is_found_in_path_and_its_links_are_followed(tmp_path: Path) -> None:
    target = program(tmp_path / "elsewhere" / "target")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "name").symlink_to(target)
    found = needed(["name"], tmp_path, f"/nowhere:{tmp_path}/bin")
    assert found == [str(target)]
    assert needed(["name"], tmp_path, "bin") == [str(target)]
    assert needed(["elsewhere/target"], tmp_path) == [str(target)]


@pytest.mark.parametrize("words", ["{}", "{} -u", "/usr/bin/env inner", "/usr/bin/env -S inner -u"])
def test_the_interpreter_of_a_script_is_readable(tmp_path: Path, words: str) -> None:
    inner = program(tmp_path / "bin" / "inner")
    script = program(tmp_path / "script", f"#!{words.format(inner)}\n")
    assert str(inner) in needed([str(script)], tmp_path, str(tmp_path / "bin"))


@pytest.mark.parametrize("mark", ["pyvenv.cfg", "lib/python3.12", "lib/node_modules"])
def test_an_installation_is_readable_without_what_else_is_beside_it(tmp_path: Path, mark: str) -> None:
    prefix = tmp_path / "pre[f]ix"
    program(prefix / "bin" / "program")
    assert str(prefix / "lib") not in needed([str(prefix / "bin/program")], tmp_path)
    (prefix / mark).mkdir(parents=True)
    found = needed([str(prefix / "bin/program")], tmp_path)
    assert {str(prefix / "bin"), str(prefix / "lib"), str(prefix / "pyvenv.cfg")} <= {*found}
    assert str(prefix) not in found
    assert str(prefix / "share") not in found


def test_a_home_is_no_installation_whatever_it_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin" / "program")
    (tmp_path / "lib" / "node_modules").mkdir(parents=True)
    assert str(tmp_path / "lib") in needed([str(tmp_path / "bin/program")], tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / "lib") not in needed([str(tmp_path / "bin/program")], tmp_path)


def test_a_virtual_environment_brings_what_it_was_made_from(tmp_path: Path) -> None:
    base, venv = tmp_path / "base", tmp_path / "venv"
    (base / "lib" / "python3.12").mkdir(parents=True)
    program(base / "bin" / "python3.12")
    program(venv / "bin" / "python")  # a copy, as `python -m venv --copies` makes it
    (venv / "pyvenv.cfg").write_text(f"home = {base}/bin\nversion = 3.12.0\n")
    copied = needed([str(venv / "bin/python")], tmp_path)
    assert {str(venv / "lib"), str(base / "lib")} <= {*copied}
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to(base / "bin" / "python3.12")
    (venv / "pyvenv.cfg").write_text("")
    linked = needed([str(venv / "bin/python")], tmp_path)
    assert {str(venv / "lib"), str(base / "lib")} <= {*linked}


def test_links_that_go_round_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert needed([str(tmp_path / "a")], tmp_path) == []
    loop = program(tmp_path / "loop")
    loop.write_text(f"#!{loop}\n")
    assert needed([str(loop)], tmp_path) == [str(loop)]


def test_the_sdk_is_found_by_the_link_of_the_state_folder(tmp_path: Path) -> None:
    package = Path(sys.modules["corral"].__path__[0])
    (tmp_path / "corral").symlink_to(package)
    found = sandbox.sdk_folders(tmp_path)
    assert {str(tmp_path), str(package.resolve())} <= {*found}
    assert str(Path(sys.modules["corral.supervisor"].__path__[0]).resolve()) in {
        *found,
        *(str(Path(folder, "supervisor")) for folder in found),
    }


# --- the removal of temporary folders -------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    """A worker's temporary folder, in a root that belongs to an ordinary user where we are root."""
    base = Path(tempfile.mkdtemp())
    base.chmod(0o711)
    path = base / "root" / "a-0.1"
    path.mkdir(parents=True)
    if ROOT:
        os.chown(path.parent, ORDINARY_UID, ORDINARY_UID)
        os.chown(path, ORDINARY_UID, ORDINARY_UID)
    yield path
    subprocess.run(["rm", "-rf", base], check=True)


def as_ordinary(act: Callable[[], object]) -> bool:
    """Whether it is true of what was done without privileges."""
    pid = os.fork()
    if pid == 0:
        try:
            if ROOT:
                os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
                os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
            os._exit(bool(act()))
        finally:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 1), "what was to be done could not be done"
    return status == 1


def nothing(_folder: Path) -> None: ...


def deep(folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)
    for _ in range(1500):  # deeper than PATH_MAX and than any limit of recursion
        os.mkdir("deep")
        os.chdir("deep")
    os.chdir(here)


def locked(folder: Path) -> None:
    for mode in (0o000, 0o100, 0o200, 0o300, 0o400, 0o500):
        inner = folder / f"{mode:o}" / "inner"
        inner.mkdir(parents=True)
        (inner / "file").touch(0o000)
        inner.chmod(mode)
        inner.parent.chmod(mode)
    folder.chmod(0)


def wide(folder: Path) -> None:
    for number in range(1000):
        (folder / f"{number}").touch()


def odd(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "0").mkdir()  # a name that the heap gives
    (folder / "0" / "0").mkdir()
    (folder / os.fsdecode(b"\xff\n")).touch()
    (folder / ("n" * 255)).mkdir()


@pytest.mark.parametrize("by_root", [True, False])
@pytest.mark.parametrize("fill", [nothing, deep, locked, wide, odd])
def test_whatever_is_in_it_the_folder_goes(folder: Path, fill: Callable[[Path], None], by_root: bool) -> None:
    def fill_it() -> bool:
        fill(folder)
        return True

    assert as_ordinary(fill_it)
    if by_root:
        assert sandbox.remove_temporary(str(folder), BOUND_S)
    else:
        assert as_ordinary(lambda: sandbox.remove_temporary(str(folder), BOUND_S))
    assert list(folder.parent.iterdir()) == []


def test_no_link_is_followed(folder: Path) -> None:
    precious = folder.parent.parent / "precious"
    precious.mkdir()
    (precious / "file").touch()
    precious.chmod(0o750)
    (folder / "link").symlink_to(precious)
    (folder / "inner").mkdir()
    (folder / "inner" / "link").symlink_to(precious / "file")
    assert sandbox.remove_temporary(str(folder), BOUND_S)
    assert (precious / "file").exists()
    assert stat.S_IMODE(precious.stat().st_mode) == 0o750
    assert not folder.exists()


@needs_root
def test_what_is_somebody_elses_stays_and_all_else_goes(folder: Path) -> None:
    (folder / "theirs").mkdir()
    (folder / "theirs" / "file").touch()
    (folder / "ours").mkdir()
    os.chown(folder / "ours", ORDINARY_UID, ORDINARY_UID)
    assert not as_ordinary(lambda: sandbox.remove_temporary(str(folder), BOUND_S))
    assert [path.name for path in folder.parent.rglob("file")] == ["file"]
    assert list(folder.parent.rglob("ours")) == []
    assert sandbox.remove_temporary(str(next(folder.parent.iterdir())))


def test_a_link_in_place_of_the_folder_goes_alone(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    folder.rmdir()
    folder.symlink_to(precious)
    assert sandbox.remove_temporary(str(folder), BOUND_S)
    assert (precious / "file").exists()
    assert list(folder.parent.iterdir()) == []
    (folder.parent / "heap").mkdir()  # as an earlier removal may have left it
    (folder.parent / "heap" / "0").symlink_to(precious)
    assert sandbox.remove_temporary(str(folder.parent / "heap"), BOUND_S)
    assert (precious / "file").exists()


def test_what_is_not_there_is_removed_already(folder: Path) -> None:
    assert sandbox.remove_temporary(str(folder / "missing"))
    assert list(folder.iterdir()) == []


def test_the_removal_is_bounded_and_may_be_done_again(folder: Path) -> None:
    wide(folder)
    started = time.monotonic()
    assert not sandbox.remove_temporary(str(folder), 0.0)
    assert time.monotonic() - started < BOUND_S
    assert len(list(folder.parent.rglob("*"))) > 900
    sandbox.remove_leftovers(sandbox.leftovers(folder.parent), BOUND_S)
    assert list(folder.parent.iterdir()) == []


@pytest.fixture
def mounted(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """Something precious that is mounted in the folder."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (folder / "mount").mkdir()
    words = ["mount", "--bind", str(precious), str(folder / "mount")]
    if subprocess.run(words, check=False).returncode != 0:
        pytest.skip("nothing may be mounted here")
    yield precious
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    (place,) = (place for place in places if place.startswith(str(folder.parent)))
    subprocess.run(["umount", place], check=True)


@needs_root
def test_what_is_mounted_in_it_is_left_alone(folder: Path, mounted: Path) -> None:
    (folder / "file").touch()
    mounted.chmod(0o750)
    assert not sandbox.remove_temporary(str(folder), BOUND_S)
    assert (mounted / "file").exists()
    assert stat.S_IMODE(mounted.stat().st_mode) == 0o750
