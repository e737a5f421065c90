"""The adoption of a restored state: the old or the new one, whole, whatever kills it; and no number is given twice."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from corral.supervisor.records.backup.adoption import MARK, NEW, RATE, STAGING, Mark, adopt, jump
from corral.supervisor.records.store.schema import open_database
from corral.worker.contract.errors import Conflict

KILLED = 9
SCRIPT = """
import os, sys
from pathlib import Path
from corral.supervisor.records.backup.adoption import adopt
root, left = Path(sys.argv[1]), int(sys.argv[2])
def hook(event, arguments):
    global left
    if event.startswith(("os.", "sqlite3.", "open", "shutil.")) and any(str(a).startswith(str(root)) for a in arguments):
        left -= 1
        if left < 0:
            os._exit(9)
sys.addaudithook(hook)
adopt(root)
"""


def make_store(path: Path, life: str, generation: int, incarnation: int) -> None:
    found = open_database(path)
    with closing(found.reader):
        found.writer.execute("UPDATE meta SET value = ? WHERE key = 'generation'", (generation,))
        found.writer.execute("INSERT INTO meta VALUES ('life', ?)", (life,))
        found.writer.execute("INSERT INTO incarnation VALUES ('a-0', ?)", (incarnation,))
    found.writer.close()
    os.close(found.lock_fd)


def prepared(root: Path, *, created: float = 1000.0, has_old: bool = True) -> Path:
    """A state folder with an old state, and a new one that waits."""
    new = root / STAGING / NEW
    new.mkdir(parents=True)
    make_store(new / "corral.db", "new", 7, 20)
    (new / "secrets.d").mkdir()
    (new / "secrets.d" / "KEY").write_text("new")
    if has_old:
        make_store(root / "corral.db", "old", 30, 10)
        for name in ("secrets.d", "cortex", "logs", "tmp"):
            (root / name).mkdir()
            (root / name / "file").write_text("old")
    mark = Mark(created=created, names=["corral.db", "secrets.d"])
    (root / STAGING / MARK).write_bytes(msgspec.json.encode(mark))
    return root


def life_of(store: Path) -> str:
    with closing(sqlite3.connect(store)) as opened:
        return str(opened.execute("SELECT value FROM meta WHERE key = 'life'").fetchone()[0])


def numbers_of(store: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(store)) as opened:
        (generation,) = opened.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()
        (incarnation,) = opened.execute("SELECT value FROM incarnation").fetchone()
        return int(generation), int(incarnation)


def check_adopted(root: Path) -> None:
    assert life_of(root / "corral.db") == "new"
    assert (root / "secrets.d" / "KEY").read_text() == "new"
    assert not (root / "cortex").exists(), "what the new state has not is gone"
    assert (root / "logs" / "file").read_text() == "old", "logs that are not in the archive stay"
    assert [each for each in root.glob("restore/*") if not each.name.endswith(".part")] == []
    (before,) = root.glob("before-*")
    assert life_of(before / "corral.db") == "old"
    assert sorted(each.name for each in before.iterdir()) == ["corral.db", "cortex", "secrets.d"]


def test_a_state_that_waits_replaces_the_present_one_which_is_kept(tmp_path: Path) -> None:
    root = prepared(tmp_path)
    assert adopt(root) is not None
    check_adopted(root)
    assert adopt(root) is None


def test_a_kill_at_any_point_is_made_good_by_the_next_start(tmp_path: Path) -> None:
    killed = 0
    for point in range(200):
        folder = tmp_path / str(point)
        root = prepared(folder)
        done = subprocess.run([sys.executable, "-P", "-c", SCRIPT, str(root), str(point)], check=False)
        if done.returncode == 0:
            break
        assert done.returncode == KILLED
        killed += 1
        adopt(root)
        check_adopted(root)
    assert 10 < killed < 199


def test_what_is_staged_without_its_mark_is_not_adopted(tmp_path: Path) -> None:
    root = prepared(tmp_path)
    (root / STAGING / MARK).unlink()
    assert adopt(root) is None
    assert life_of(root / "corral.db") == "old"


def test_numbers_go_on_beyond_those_of_both_states_and_of_the_time_since(tmp_path: Path) -> None:
    root = prepared(tmp_path, created=1000.0)
    adopt(root, now=1000.0 + 3600.0)
    generation, incarnation = numbers_of(root / "corral.db")
    assert generation > 30
    assert generation >= 7 + 3600 * RATE
    assert incarnation >= 20 + 3600 * RATE


def test_on_an_empty_machine_nothing_is_kept(tmp_path: Path) -> None:
    root = prepared(tmp_path, has_old=False)
    adopt(root)
    assert life_of(root / "corral.db") == "new"
    assert list(root.glob("before-*")) == []


@pytest.mark.parametrize("seconds", [-1e9, 0.0, 1.0, 1e9])
def test_a_clock_that_was_set_back_still_leaves_a_margin(seconds: float) -> None:
    assert jump(seconds) >= 1000


def test_a_folder_that_another_daemon_uses_is_left_as_it_is(tmp_path: Path) -> None:
    root = prepared(tmp_path)
    found = open_database(root / "corral.db")
    try:
        with pytest.raises(Conflict) as refused:
            adopt(root)
        assert refused.value.data["reason"] == "in-use"
        assert (root / STAGING / MARK).exists()
    finally:
        found.reader.close()
        found.writer.close()
        os.close(found.lock_fd)


def test_a_damaged_plan_is_an_error_that_names_it(tmp_path: Path) -> None:
    root = prepared(tmp_path)
    (root / STAGING / MARK).write_bytes(b"{")
    with pytest.raises(Conflict):
        adopt(root)
