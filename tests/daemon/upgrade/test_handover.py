"""The handover of one program of the daemon to the next: a contract between neighbouring versions."""

import hashlib
import os
from base64 import b64decode
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from corral.supervisor.daemon.upgrade import handover
from corral.supervisor.daemon.upgrade.handover import LAYOUT, Handover
from corral.worker.contract.errors import Conflict

KEPT = sorted((Path(__file__).parent).glob("handover-*.base64"))
"""Handovers as versions of corral wrote them, by version. A file is added when a release changes the shapes, and never changed."""


def encoded(keys: dict[str, object]) -> bytes:
    data = msgspec.msgpack.encode(keys)
    return LAYOUT + hashlib.sha256(data).digest() + data


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_handover_of_an_earlier_version_is_read(path: Path) -> None:
    found = handover.decode(b64decode(path.read_text()))
    life = found.agents["counts"].workers[0].life
    assert life is not None
    assert (life.unit, life.child.pid, life.captures[0].stream.rest) == ("counts-0#1", 4711, b"half a li")
    assert found.launcher.units[0].key == life.unit
    assert found.listener.connections[0].channel.requests[0].method == "daemon.upgrade"
    assert found.descriptors == [5, 6, 7, 8, 11, 12, 13, 14, 15]
    line, task = found.agents["counts"].workers[0].line, found.tasks[0]
    assert (line is not None and line.channel.unread, task.attempt is not None and task.attempt.request) == (
        b"unread",
        "3-4",
    )
    assert handover.decode(handover.encode(found)) == found


def test_what_was_begun_for_requests_is_handed_over() -> None:
    known = handover.decode(b64decode(KEPT[0].read_text()))
    agent = known.agents["counts"]
    line = agent.workers[0].line
    assert line is not None
    assert line.begun == {}
    noted = replace(line, begun={"a-1": {"tasks": {"0": "t2"}}, 7: {"unsettled": 0}})
    agents = {"counts": replace(agent, workers=(replace(agent.workers[0], line=noted),))}
    tasks = (known.tasks[0], replace(known.tasks[0], attempt=None, life_before=7))
    assert [each.runs for each in tasks] == [True, True]
    found = handover.decode(handover.encode(replace(known, agents=agents, tasks=tasks)))
    assert (found.agents, found.tasks) == (agents, tasks)


def test_what_a_later_version_adds_is_ignored() -> None:
    known: Handover = handover.decode(b64decode(KEPT[-1].read_text()))
    keys = msgspec.msgpack.decode(msgspec.msgpack.encode(known)) | {"added_later": 1}
    assert handover.decode(encoded(keys)) == known


def test_a_damaged_handover_and_one_of_another_layout_are_refused() -> None:
    data = b64decode(KEPT[-1].read_text())
    for other, reason in (
        (data[:-1] + bytes([data[-1] ^ 1]), "damaged"),
        (data.replace(LAYOUT, b"corral handover 9\n"), "layout"),
        (encoded({"before": 1}), "layout"),
        (b"", "layout"),
    ):
        with pytest.raises(Conflict) as refusal:
            handover.decode(other)
        assert refusal.value.data["reason"] == reason


def test_a_handover_is_sealed() -> None:
    known = handover.decode(b64decode(KEPT[-1].read_text()))
    fd = handover.write(known)
    try:
        assert handover.read(fd) == known
        with pytest.raises(PermissionError):
            os.write(fd, b"more")
    finally:
        os.close(fd)
    with pytest.raises(Conflict):
        handover.read(fd)
