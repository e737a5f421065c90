"""The memory of a session in real worker processes: what a handler sees of it, and what travels back."""

import sys
from typing import cast

import pytest

from corral.worker.contract.errors import ResourceLimitExceeded, TaskFailed
from corral.worker.contract.jsonrpc import MAX_MESSAGE_BYTES
from worker_peer import AGENTS, Json, WorkerPeer, on_loop

pytestmark = pytest.mark.shell

BOTH = pytest.mark.parametrize("kind", ["async", "sync"])


def worker(kind: str) -> WorkerPeer:
    return WorkerPeer.of("rememberer", kind)


def remembered(*contents: str, **values: object) -> Json:
    """The `memory` of task/run."""
    history = [{"role": "user", "content": each} for each in contents]
    empty: Json = {"variables": {}, "data": {}}
    return {"session": "s", "turns": len(contents), "history": history, **empty, **values}


async def changed(peer: WorkerPeer, objective: str, memory: Json) -> object:
    """The `memory` in the answer."""
    answer = cast("Json", await peer.answer(peer.start(objective, memory=memory)))
    return answer.get("memory")


@BOTH
@on_loop
async def test_a_handler_sees_what_was_remembered(kind: str) -> None:
    async with worker(kind) as peer:
        await peer.initialize()
        memory = remembered("a", "b", variables={"name": "Ada"}, data={"cart": [1]})
        assert await peer.run("look", memory=memory) == {
            "session": "s",
            "turns": 2,
            "history": ["a", "b"],
            "variables": {"name": "Ada"},
            "data": {"cart": [1]},
        }


@BOTH
@on_loop
async def test_only_what_a_handler_changed_travels_back(kind: str) -> None:
    async with worker(kind) as peer:
        await peer.initialize()
        memory = remembered("a", "b", variables={"k": "v"}, data={"k": ["v"]})
        assert await changed(peer, "say ü", memory) == {"append": [{"role": "user", "content": "ü"}]}
        assert await changed(peer, "set k=v", memory) is None
        assert await changed(peer, "set n=1", memory) == {
            "variables": {"set": {"n": "1"}},
            "data": {"set": {"n": ["1"]}},
        }
        assert await changed(peer, "unset k", memory) == {"variables": {"delete": ["k"]}, "data": {"delete": ["k"]}}
        assert await changed(peer, "edit c", memory) == {
            "history": [{"role": "user", "content": "c"}, {"role": "user", "content": "b"}]
        }
        assert await changed(peer, "look", memory) is None
        assert await changed(peer, "end 60", memory) == {"ttl_s": 60.0}
        assert await changed(peer, "end never", memory) == {"ttl_s": None}


@on_loop
async def test_a_task_without_a_session_has_an_empty_memory_that_is_gone_with_it() -> None:
    async with worker("async") as peer:
        await peer.initialize()
        answer = cast("Json", await peer.answer(peer.start("say hello")))
        assert answer == {"output": 0}
        look = cast("Json", await peer.run("look"))
        assert (look["session"], look["history"]) == (None, [])


@on_loop
async def test_what_json_cannot_say_fails_the_task_and_not_the_worker() -> None:
    async with worker("async") as peer:
        await peer.initialize()
        error = await peer.fails(peer.run("unspeakable", memory=remembered()))
        assert isinstance(error, TaskFailed)
        assert await peer.run("say hello", memory=remembered()) == 0


@on_loop
async def test_a_turn_that_no_message_can_hold_is_refused_by_the_worker() -> None:
    async with worker("async") as peer:
        await peer.initialize()
        error = await peer.fails(peer.run(f"fill {MAX_MESSAGE_BYTES}", memory=remembered()))
        assert isinstance(error, ResourceLimitExceeded)
        assert await peer.run("say hello", memory=remembered()) == 0


@on_loop
async def test_an_environment_without_msgspec_remembers_as_well() -> None:
    program = (
        "import sys; sys.modules['msgspec'] = None; sys.argv = ['rememberer']; "
        f"import runpy; runpy.run_path({str(AGENTS / 'rememberer.py')!r}, run_name='__main__')"
    )
    async with WorkerPeer([sys.executable, "-P", "-c", program]) as peer:
        await peer.initialize()
        memory = remembered("a", variables={"k": 1.5})
        assert await changed(peer, "edit ü", memory) == {"history": [{"role": "user", "content": "ü"}]}
        assert await changed(peer, "look", memory) is None
