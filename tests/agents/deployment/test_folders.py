"""The files of an installed version are those that were installed, or the start of a worker is refused."""

from pathlib import Path

from corral.supervisor.agents.deployment.folders import FILES, Integrity, MarkedFolders, files_in, note_sums


def test_a_changed_installed_file_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "version" / FILES
    folder.mkdir(parents=True)
    file = folder / "greeter.py"
    file.write_bytes(b"print('hello')")
    note_sums(folder.parent, files_in(folder))
    (folder / "made-later").write_text("x")
    integrity = Integrity(MarkedFolders(tmp_path))
    assert integrity.problem(str(folder)) == ""
    before = file.read_bytes()
    file.write_bytes(before.replace(b"hello", b"hallo"))
    assert integrity.problem(str(folder)) == "greeter.py is not as it was installed"
    file.unlink()
    (tmp_path / "same").write_bytes(before)
    file.symlink_to(tmp_path / "same")
    assert integrity.problem(str(folder)) == "greeter.py is not as it was installed"
