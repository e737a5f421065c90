"""A tenant's hostile agent gets nowhere: each attempt on each level, and what stopped it, as docs/explanation/hostile-agent.md says."""

from collections.abc import Iterator

import pytest

from daemon_process import AGENTS
from hostile_scene import Scene, name_on, staged, why_not
from hostile_table import LEVELS, NOT_MEANT, ROWS, cell


@pytest.fixture(scope="module", params=LEVELS)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    level = str(request.param)
    if reason := why_not(level):
        pytest.skip(reason)
    with staged(level) as found:
        yield found


@pytest.mark.parametrize("name", ROWS)
def test_an_attempt_gets_where_the_table_says(scene: Scene, name: str) -> None:
    expected = cell(name, scene.level)
    if expected == NOT_MEANT:
        return
    found = scene.attempt(name)
    print(f"{scene.level} {name}: {found}")
    if expected == "gets there":
        assert found["got"], f"{name} is stopped now: {found['by']}; mend the table"
        return
    assert not found["got"], f"{name}: {found['by']}"
    assert expected in found["by"], f"{name}: {found['by']}"
    assert (scene.daemon.worker("victim-0") or {})["pid"] == scene.given["pid"]
    assert scene.daemon.call("daemon.ping") is not None


def test_forged_messages_change_nothing_of_another(scene: Scene) -> None:
    before = scene.daemon.call("task.show", task=scene.given["task"])
    for name in ("forge-progress", "forge-a-result"):
        scene.attempt(name)
    after = scene.daemon.call("task.show", task=scene.given["task"])
    for key in ("state", "progress", "output", "tokens_used", "cost_cents"):
        assert after.get(key) == before.get(key), key


def test_a_flood_of_the_log_stays_within_its_files(scene: Scene) -> None:
    scene.attempt("flood-the-log")
    folder = scene.daemon.state_dir / "logs" / name_on(scene.level)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < 4 * 256 * 1024, size


def test_the_table_has_every_attempt() -> None:
    known = {"hang", "forge-progress", "forge-a-result", "flood-the-log"}
    text = (AGENTS / "hostile_agent.py").read_text()
    made = {
        line.split()[1].partition("(")[0].rstrip("_").replace("_", "-")
        for before, line in zip(text.splitlines(), text.splitlines()[1:], strict=False)
        if before == "@attempt"
    }
    assert made - known == set(ROWS)
