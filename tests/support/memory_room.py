"""A room of what agents remember, over a real store, without a daemon."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from functools import wraps
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from corral.supervisor.config.spec import spec
from corral.supervisor.config.spec.in_force import InForce
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.records.events.bus import Bus, Event
from corral.supervisor.records.memory.expiry import Expiry
from corral.supervisor.records.memory.listing import Listing
from corral.supervisor.records.memory.sessions import Memory
from corral.supervisor.records.store.store import Store
from corral.worker.contract import codec
from corral.worker.contract.records import Task

BOUND_S = 60.0


def on_loop(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    @wraps(test)
    def wrapper(*args: object, **kwargs: object) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(BOUND_S):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return wrapper


class Room:
    """Memory as a daemon has it, and tasks that use it."""

    def __init__(self, path: Path, **rules: object) -> None:
        self.path = path
        self.store = Store.open(path)
        self.bus = Bus(1)
        self.events = self.bus.subscribe(["memory.*"])
        self.untold: list[Event] = []
        self.in_force = InForce(decode("", source="none", directory="/"))
        self.rules(**rules)
        self.specs: dict[str, spec.Spec] = {}
        self.memory = Memory(self.store, self.bus, self.in_force, self.specs.get, lambda: self.in_force.config.tenants)
        self.listing = Listing(self.store, self.memory)
        self.clock = 1000.0
        self.expiry = Expiry(self.store, self.memory, lambda: self.clock)
        self._number = 0

    def rules(self, **rules: Any) -> None:
        """What `[memory]` says."""
        memory = replace(spec.Memory(), **rules)
        config = self.in_force.config
        self.in_force.adopt(replace(config, defaults=replace(config.defaults, memory=memory)))

    def file(self, text: str) -> None:
        """What the file says, agents, pools and tenants among it."""
        config = decode(text, source="none", directory="/")
        self.in_force.adopt(config)
        self.specs.clear()
        self.specs.update(config.agents)

    def begun(self, session: str, agent: str = "a") -> Task:
        self._number += 1
        task = Task(id=f"t{self._number}", agent=agent, session=session)
        self.memory.started(task)
        return task

    async def recalled(self, session: str, agent: str = "a") -> Any:  # JSON of the test's own
        return json.loads(codec.encode(await self.memory.recall(agent, session)))

    async def finish(self, task: Task, said: object) -> None:
        """The end of a task that succeeded, as the queue writes it down."""
        try:
            await self.store.write(*self.memory.keep(task, said))
            self.memory.kept(task)
        finally:
            self.memory.ended(task)

    async def turn(self, session: str, text: str = "hello", agent: str = "a") -> Any:
        """A whole task; what it was given."""
        task = self.begun(session, agent)
        given = await self.recalled(session, agent)
        await self.finish(task, {"append": [{"role": "user", "content": text}]})
        return given

    async def seen(self, session: str, agent: str = "a") -> list[str]:
        """What a task of the session would be given."""
        given = await self.recalled(session, agent)
        self.memory.ended(self.begun(session, agent))
        return [message["content"] for message in given["history"]]

    async def usage(self, agent: str | None = None) -> list[tuple[object, ...]]:
        """Agents with keys: name, number of keys, their bytes."""
        found: Any = (await self.listing.stats(agent))["agents"]
        return [(each["agent"], each["keys"], each["keys_bytes"]) for each in found if each["keys"]]

    def rows(self, sql: str, *values: object) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as other:
            return other.execute(sql, values).fetchall()

    def damage(self, table: str, column: str = "value") -> None:
        """Flips a byte of every value in a table."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            for number, blob in other.execute(f"SELECT rowid, {column} FROM {table}").fetchall():
                if blob is not None:
                    flipped = blob[:-2] + bytes([blob[-2] ^ 1]) + blob[-1:]
                    other.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (flipped, number))


@asynccontextmanager
async def room(folder: Path, **rules: object) -> AsyncGenerator[Room, None]:
    made = Room(folder / "corral.db", **rules)
    try:
        yield made
    finally:
        await made.store.close()


async def told(room: Room, event_type: str) -> dict[str, object]:
    """The fields of the next event of a type."""
    while True:
        if not room.untold:
            room.untold += await room.events.next_batch()
        event = room.untold.pop(0)
        if event.type == event_type:
            return {"agent": event.agent, **event.fields}
