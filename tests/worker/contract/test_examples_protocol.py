"""examples/protocol: a worker needs no SDK, only lines of JSON on its pipes."""

import json
import shutil
import subprocess
import sys
import tomllib
from typing import cast

import pytest

from worker_peer import BEAT_S, ROOT, WorkerPeer, on_loop

pytestmark = pytest.mark.shell

FOLDER = ROOT / "examples" / "protocol"


def command(agent: str) -> list[str]:
    """The command that the example's configuration gives, with the Python of this test."""
    agents = tomllib.loads((FOLDER / "corral.toml").read_text("utf-8"))["agents"]
    words = cast("list[str]", agents[agent]["command"])
    return [sys.executable if word == "python3" else word for word in words]


def bash_is_new_enough() -> bool:
    bash = shutil.which("bash")
    if bash is None:
        return False
    told = subprocess.run([bash, "-c", "echo $BASH_VERSINFO"], capture_output=True, check=True)
    return int(told.stdout) >= 5


SHELL = pytest.mark.skipif(not bash_is_new_enough(), reason="bash 5 is not here")
EACH = pytest.mark.parametrize("agent", ["plain", pytest.param("shell", marks=SHELL)])


@pytest.mark.parametrize("file", ["worker.py", "worker.sh"])
def test_a_worker_without_the_sdk_has_forty_lines_and_imports_none_of_ours(file: str) -> None:
    text = (FOLDER / file).read_text("utf-8")
    assert len(text.splitlines()) <= 40
    assert "import corral" not in text
    assert "from corral" not in text


@EACH
@on_loop
async def test_it_becomes_ready_runs_tasks_answers_pings_and_leaves(agent: str) -> None:
    async with WorkerPeer(command(agent), cwd=FOLDER) as peer:
        hello = await peer.initialize()
        assert hello == {"protocolVersion": "1", "name": agent, "version": "1", "capabilities": []}
        assert await peer.run("hello there") == {"said": "hello there"}
        assert await peer.request("ping") == {}
        peer.shut_down(5)
        assert await peer.exit_status() == 0
        assert (peer.foreign, peer.stderr) == ([], b"")


@EACH
@pytest.mark.parametrize(
    "objective",
    ["", 'a "quoted" word', "back\\slash \\", '"objective": "x"', "naïve ☃ 😀", "two\nlines\t%d %s", "$(x) `y` *"],
)
@on_loop
async def test_it_says_every_objective_back_as_it_was(agent: str, objective: str) -> None:
    async with WorkerPeer(command(agent), cwd=FOLDER) as peer:
        await peer.initialize()
        assert await peer.run(objective, {"objective": "another"}) == {"said": objective}


@EACH
@on_loop
async def test_it_beats_from_ready_on(agent: str) -> None:
    async with WorkerPeer(command(agent), cwd=FOLDER) as peer:
        assert await peer.request("ping") == {}
        assert peer.heard == []
        await peer.initialize()
        await peer.hear_more("heartbeat", 5)
        assert all(each.params == {"busy": False} for each in peer.heard)


@EACH
@on_loop
async def test_it_beats_while_it_is_asked_without_a_pause(agent: str) -> None:
    async with WorkerPeer(command(agent), cwd=FOLDER) as peer:
        await peer.initialize()
        while peer.count("heartbeat") < 3:
            assert await peer.request("ping") == {}


@EACH
@on_loop
async def test_it_refuses_what_it_does_not_know_and_drops_unknown_notifications(agent: str) -> None:
    async with WorkerPeer(command(agent), cwd=FOLDER) as peer:
        await peer.initialize()
        peer.notify("event", {"type": "x", "data": {"id": 3, "method": "task/run"}})
        assert (await peer.fails(peer.request("task/juggle", {"id": 4}))).code == -32601
        assert await peer.run("still there") == {"said": "still there"}


@EACH
@on_loop
async def test_a_message_that_comes_in_pieces_around_a_beat_is_read_whole(agent: str) -> None:
    async with WorkerPeer(command(agent), cwd=FOLDER) as peer:
        await peer.initialize(heartbeat_interval_s=BEAT_S)
        line = json.dumps({"jsonrpc": "2.0", "method": "shutdown", "params": {"grace_s": 1}})
        for start in range(0, len(line), 20):
            peer.send_bytes(line[start : start + 20].encode())
            await peer.hear_more("heartbeat", 1)
        peer.send_bytes(b"\n")
        assert await peer.exit_status() == 0


@EACH
@on_loop
async def test_the_daemons_end_is_its_end(agent: str) -> None:
    async with WorkerPeer(command(agent), cwd=FOLDER) as peer:
        await peer.initialize()
        peer.close_stdin()
        assert await peer.exit_status() == 0


@on_loop
async def test_the_hello_example_says_hello() -> None:
    folder = ROOT / "examples" / "hello"
    table = tomllib.loads((folder / "corral.toml").read_text("utf-8"))["agents"]["hello"]
    words = [sys.executable, "-P", "-m", "corral.worker", table["entrypoint"]]
    async with WorkerPeer(words, cwd=folder) as peer:
        await peer.initialize()
        assert await peer.run("world") == "hello, world"
