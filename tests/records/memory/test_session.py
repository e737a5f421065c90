"""What a session holds: a turn changes what its handler changed, wherever it is kept, and within its limit."""

import json
import random
from typing import Any

import msgspec
import pytest

from corral.supervisor.records.memory.session import VERSION, Part, SessionState, StoredSession, Turn, encoded, read
from corral.supervisor.records.store.sealed import seal
from corral.worker.contract import codec
from corral.worker.contract.errors import Corrupted, ResourceLimitExceeded
from corral.worker.contract.worker_messages import MemoryChanges, MemoryDelta
from corral.worker.sdk.session import Memory
from seeds import seeds

pytestmark = pytest.mark.core

NAMED = {"agent": "historian", "session": "s"}
PLENTY = 1 << 30
VALUES: list[object] = [None, 1, "ü", [{}]]


def plain(state: SessionState) -> Any:  # the JSON of what a worker is given
    return json.loads(codec.encode(state.as_json()))


def answer(**values: object) -> MemoryDelta:
    return msgspec.convert(values, MemoryDelta)


def plan(state: SessionState, delta: MemoryDelta, limit_bytes: int = PLENTY, *, trims: bool = True) -> Turn:
    return state.plan(delta, limit_bytes=limit_bytes, trims=trims, named=NAMED)


def of_messages(count: int, size: int = 20) -> SessionState:
    made = SessionState()
    messages: list[dict[str, object]] = [{"n": n, "text": "x" * size} for n in range(count)]
    made.apply(plan(made, MemoryDelta(append=messages)))
    return made


def texts(state: SessionState) -> list[int]:
    return [message["n"] for message in plain(state)["history"]]


class Life:
    """A session in every form that it has, which all have to say the same."""

    def __init__(self, seed: int, limit_bytes: int) -> None:
        self.chance = random.Random(seed)
        self.limit_bytes = limit_bytes
        self.held = SessionState()
        self.lean = SessionState()
        self.lean.drop_content()
        self.base: bytes | None = None
        self.since: list[bytes] = []

    def stored(self) -> StoredSession:
        return StoredSession(self.held.turns, self.held.messages, self.base, self.since)

    def handle(self, memory: Memory) -> None:
        """What an author may do with the memory of a session."""
        chance = self.chance
        for _ in range(chance.randrange(5)):
            what = chance.randrange(9)
            if what <= 2:
                memory.add("user", "é" * chance.randrange(40), n=chance.random())
            elif what == 3:
                memory.history.append({"role": "tool", "parts": [{"at": chance.random()}]})
            elif what == 4 and memory.history:
                chance.choice(memory.history)["edited"] = chance.random()
            elif what == 5 and memory.history:
                del memory.history[chance.randrange(len(memory.history))]
            elif what == 6:
                memory.variables[f"v{chance.randrange(4)}"] = chance.choice(VALUES)
            elif what == 7 and memory.variables:
                del memory.variables[chance.choice(sorted(memory.variables))]
            elif what == 8:
                deep: dict[str, object] = memory.data.setdefault("deep", {})
                deep[f"k{chance.randrange(3)}"] = chance.random()

    def turn(self) -> None:
        """One task: what it was given, what it made of it, and how that was kept."""
        memory = Memory(plain(self.held), codec.encode)
        self.handle(memory)
        delta = json.loads(codec.encode(memory.delta()))
        try:
            turn = plan(self.held, answer(**delta), self.limit_bytes)
        except ResourceLimitExceeded:
            with pytest.raises(ResourceLimitExceeded):
                plan(self.lean, answer(**delta), self.limit_bytes)
            return
        assert turn == plan(self.lean, answer(**delta), self.limit_bytes)
        foreseen = self.held.after(turn)
        self.held.apply(turn)
        self.lean.apply(turn)
        self.since.append(seal(encoded(turn), compress=self.chance.random() < 0.5))
        if self.chance.random() < 0.1:
            self.base, self.since = seal(encoded(self.held.whole()), compress=True), []
        self.check(memory, turn.drop, foreseen)

    def check(self, memory: Memory, dropped: int, foreseen: tuple[int, int]) -> None:
        now = plain(self.held)
        assert now["variables"] == memory.variables
        assert now["data"] == memory.data
        assert now["history"] == memory.history[dropped:]
        assert self.held.size_bytes <= self.limit_bytes
        for other in (self.lean, read(self.stored(), "session")):
            assert (other.turns, other.messages) == (self.held.turns, self.held.messages)
            assert other.size_bytes == self.held.size_bytes
        assert plain(read(self.stored(), "session")) == now
        assert foreseen == (self.held.messages, self.held.size_bytes)


@pytest.mark.parametrize("limit_bytes", [600, PLENTY])
@pytest.mark.parametrize("seed", seeds(10, 4))
def test_a_long_life_of_turns_is_the_same_in_memory_lean_and_read_back(seed: int, limit_bytes: int) -> None:
    life = Life(seed, limit_bytes)
    for _ in range(60):
        life.turn()


def test_a_turn_of_a_long_history_is_stored_as_what_it_adds() -> None:
    state = of_messages(1_000)
    turn = plan(state, answer(append=[{"role": "user", "content": "hello"}]))
    assert len(encoded(turn)) < 200


def test_the_oldest_messages_give_way_and_no_variable_does() -> None:
    state = of_messages(10)
    kept: dict[str, object] = {"name": "x" * 200}
    state.apply(plan(state, MemoryDelta(variables=MemoryChanges(set=kept))))
    limit = state.size_bytes
    turn = plan(state, answer(append=[{"n": 10}]), limit)
    state.apply(turn)
    assert texts(state) == list(range(turn.drop, 11))
    assert turn.drop > 0
    assert plain(state)["variables"] == kept


def test_a_session_that_is_full_is_not_trimmed_again_at_the_next_turn() -> None:
    state = of_messages(100)
    limit = state.size_bytes
    message = {"n": 1, "text": "x" * 20}
    state.apply(plan(state, answer(append=[message]), limit))
    assert plan(state, answer(append=[message]), limit).drop == 0


@pytest.mark.parametrize("trims", [True, False])
def test_a_message_that_fits_nowhere_is_refused(trims: bool) -> None:
    state = of_messages(3)
    with pytest.raises(ResourceLimitExceeded) as refused:
        plan(state, answer(append=[{"text": "x" * 2000}]), 1024, trims=trims)
    assert refused.value.data["limit"] == "max_session_bytes"
    assert refused.value.data["session"] == "s"
    assert state.turns == 1


def test_where_nothing_is_trimmed_what_is_too_much_is_refused() -> None:
    state = of_messages(10)
    with pytest.raises(ResourceLimitExceeded):
        plan(state, answer(append=[{"n": 10}]), state.size_bytes, trims=False)


def test_a_byte_that_is_changed_in_any_record_is_noticed() -> None:
    first = Turn(turn=1, messages=[msgspec.Raw(b'{"role":"user"}')])
    second = Turn(turn=2, messages=[msgspec.Raw(b'{"role":"agent"}')])
    records = [seal(encoded(first), compress=False), seal(encoded(second), compress=False)]
    for number, record in enumerate(records):
        for at in range(len(record)):
            damaged = bytearray(record)
            damaged[at] ^= 0x20
            since = [bytes(damaged) if n == number else each for n, each in enumerate(records)]
            with pytest.raises(Corrupted) as found:
                read(StoredSession(2, 2, None, since), "session s")
            assert found.value.data["record"] == "session s"


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_record_that_is_gone_is_noticed(missing: int) -> None:
    turns = [
        Turn(turn=1, messages=[msgspec.Raw(b"{}")]),
        Turn(turn=2, set={"variables": {"name": msgspec.Raw(b'"Ada"')}}),
        Turn(turn=3, set={"data": {"name": msgspec.Raw(b'"Ada"')}}),
    ]
    records = [seal(encoded(turn), compress=False) for turn in turns]
    del records[missing]
    with pytest.raises(Corrupted) as found:
        read(StoredSession(3, 1, None, records), "session s")
    assert found.value.data["reason"] == "missing"


def test_a_record_of_a_newer_corral_is_not_guessed_at() -> None:
    newer = seal(encoded(Turn(turn=1, version=VERSION + 1)), compress=False)
    with pytest.raises(Corrupted) as found:
        read(StoredSession(1, 0, None, [newer]), "session s")
    assert found.value.data["reason"] == "newer-version"


def test_only_the_last_messages_are_said_where_that_is_asked() -> None:
    state = of_messages(5)
    for last, expected in ((2, [3, 4]), (0, []), (9, [0, 1, 2, 3, 4])):
        history = json.loads(codec.encode(state.as_json(last)))["history"]
        assert [message["n"] for message in history] == expected


def test_a_handler_that_looks_at_the_history_and_changes_nothing_answers_nothing() -> None:
    memory = Memory(plain(of_messages(3)), codec.encode)
    assert len(memory.history) == 3
    assert (memory.variables, memory.data) == ({}, {})
    assert memory.delta() == {}


@pytest.mark.parametrize("part", ["variables", "data"])
def test_values_that_are_replaced_as_a_whole_are_reported_as_what_changed(part: Part) -> None:
    memory = Memory({part: {"a": 1, "b": 2}}, codec.encode)
    setattr(memory, part, {"b": 2, "c": 3})
    assert memory.delta() == {part: {"set": {"c": 3}, "delete": ["a"]}}


def test_a_history_that_is_cut_from_the_front_is_sent_as_a_whole() -> None:
    memory = Memory({"history": [{"n": 0}, {"n": 1}]}, codec.encode)
    memory.history = memory.history[1:]
    assert memory.delta() == {"history": [{"n": 1}]}


def test_a_message_that_is_no_object_is_refused_by_name() -> None:
    memory = Memory({}, codec.encode)
    history: list[Any] = memory.history
    history.append("hello")
    with pytest.raises(TypeError):
        memory.delta()
