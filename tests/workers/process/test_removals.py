"""Temporary folders of ended lives: all gone in the end, and none waits for another that takes long."""

import asyncio
from pathlib import Path

import pytest

from corral.supervisor.workers.process.sandbox import Removals

pytestmark = pytest.mark.shell

BOUND_S = 60.0


def test_what_was_added_is_gone_when_all_is_finished(tmp_path: Path) -> None:
    folders = [tmp_path / f"a-{number}.1" for number in range(100)]
    for folder in folders:
        folder.mkdir()
    (folders[3] / "deep").mkdir()
    (folders[3] / "deep" / "file").write_text("left")

    async def remove() -> None:
        removals = Removals()
        for folder in folders:
            removals.add(str(folder))
        removals.add(str(tmp_path / "missing"))
        async with asyncio.timeout(BOUND_S):
            await removals.finish()

    asyncio.run(remove())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_removed_although_nobody_asks_and_more_can_be_added(tmp_path: Path) -> None:
    async def remove() -> None:
        removals = Removals()
        async with asyncio.timeout(BOUND_S):
            for turn in range(2):
                folder = tmp_path / str(turn)
                folder.mkdir()
                removals.add(str(folder))
                while folder.exists():
                    await asyncio.sleep(0)
            await removals.finish()

    asyncio.run(remove())
