"""A program in the sandbox of another unit, by a real launcher without groups: what of it escapes is found inside."""

import errno
import os
from collections.abc import Iterator

import msgspec
import pytest

from corral.supervisor.machine.isolation import availability
from corral.supervisor.machine.isolation.bubblewrap import joining, wrapped
from corral.supervisor.machine.isolation.levels import Facts, Sandbox
from corral.supervisor.machine.isolation.mounts import visible
from corral.supervisor.machine.linux import kernel
from launcher_wire import Wire
from strict_agent import needs_strict, until

pytestmark = needs_strict

HOST, GUEST = "a-0#1", "a-0.exec#1"


@pytest.fixture
def wire() -> Iterator[Wire]:
    it = Wire()
    yield it
    it.close()


def shell(wire: Wire, unit: str, script: str, sandbox: Sandbox, argv: tuple[str, ...]) -> list[str]:
    """Starts a shell; the pid of the program, and the first line that it prints."""
    seq, reading = wire.spawn(unit, [*argv, "sh", "-c", script], sandbox=msgspec.to_builtins(sandbox))
    inner = wire.hear("spawned", seq=seq)["inner"]
    with os.fdopen(reading) as stdout:
        return [inner, stdout.readline().strip()]


@pytest.fixture
def sandbox(wire: Wire) -> tuple[Sandbox, int]:
    """How to join a unit that runs, and the pid of its first process."""
    mounts = visible(["/usr", "-/bin", "-/lib", "-/lib64"])
    facts = Facts(unit=HOST, argv=(), env={"PATH": os.defpath}, cwd="/", mounts=mounts)
    bwrap = availability.bubblewrap(os.environ)
    found = wrapped(facts, bwrap=bwrap, filter_hex=availability.strict_filter())
    inner = shell(wire, HOST, "echo up; exec sleep 1000", found.sandbox, found.argv)[0]
    program = kernel.look_up(int(inner))
    assert program is not None, "it runs"
    return joining(found.sandbox, HOST)[1], program.parent


def test_what_has_escaped_keeps_its_unit_from_being_empty_until_it_is_killed(
    wire: Wire, sandbox: tuple[Sandbox, int]
) -> None:
    joined, init = sandbox
    before = {process.pid for process in kernel.walk(init)}
    script = "setsid sleep 1000 >/dev/null 2>&1 & setsid sh -c 'sleep 1000 & exec sleep 1000' >/dev/null 2>&1 & echo up"
    shell(wire, GUEST, script, joined, ())
    wire.hear("exited", unit=GUEST)
    until(lambda: len({process.pid for process in kernel.walk(init)} - before) == 3)
    assert len(wire.listed()["units"]) == 2
    wire.send(op="kill", unit=GUEST)
    wire.hear("emptied", unit=GUEST)
    assert {process.pid for process in kernel.walk(init)} == before


def test_a_unit_that_has_ended_has_no_sandbox_to_join(wire: Wire, sandbox: tuple[Sandbox, int]) -> None:
    joined, _init = sandbox
    wire.send(op="kill", unit=HOST)
    wire.hear("emptied", unit=HOST)
    seq, reading = wire.spawn(GUEST, ["true"], sandbox=msgspec.to_builtins(joined))
    os.close(reading)
    answer = wire.hear("failed", seq=seq)
    assert (answer["stage"], answer["errno"]) == ("sandbox", errno.ESRCH)


def test_it_ends_with_the_unit_that_it_is_in(wire: Wire, sandbox: tuple[Sandbox, int]) -> None:
    joined, _init = sandbox
    shell(wire, GUEST, "echo up; exec sleep 1000", joined, ())
    wire.send(op="kill", unit=HOST)
    wire.hear("exited", unit=GUEST)
    wire.hear("emptied", unit=GUEST)
