"""Signals of the launcher to a unit whose leader is a sandbox."""

import asyncio
import os
import select
import shutil
import signal

import pytest

from corral.supervisor.machine.isolation.availability import strict_filter
from corral.supervisor.machine.isolation.bubblewrap import wrapped
from corral.supervisor.machine.isolation.levels import Facts
from corral.supervisor.machine.isolation.mounts import visible
from corral.supervisor.workers.process.launcher_client import Launch, Launcher
from daemon_process import BOUND_S
from strict_agent import needs_strict
from unit_owner import UnitOwner

SYSTEM = ("-/usr", "-/bin", "-/lib", "-/lib64", "-/etc/ld.so.cache")
ASKED = 'trap "exit 7" TERM; sleep 1000 & echo ready; wait'


def inside(code: str) -> Launch:
    facts = Facts(
        unit="kept#1", argv=("/bin/sh", "-c", code), env={"PATH": os.defpath}, cwd="/", mounts=visible(SYSTEM)
    )
    found = wrapped(facts, bwrap=shutil.which("bwrap") or "", filter_hex=strict_filter())
    return Launch(unit="kept#1", argv=found.argv, env=found.env, cwd="/", sandbox=found.sandbox)


@needs_strict
@pytest.mark.parametrize("scope", ["leader", "tree"])
def test_an_ending_signal_goes_to_the_program_and_not_to_its_sandbox(scope: str) -> None:
    async def main() -> int:
        owner = UnitOwner()
        launcher = Launcher()
        await launcher.start()
        try:
            child = await launcher.spawn(inside(ASKED), owner)
            fds = [fd for fd in (child.stdin_fd, child.stdout_fd, child.stderr_fd) if fd is not None]
            assert child.stdout_fd is not None
            assert select.select([child.stdout_fd], [], [], BOUND_S)[0]
            assert os.read(child.stdout_fd, 100) == b"ready\n"
            launcher.signal("kept#1", signal.SIGTERM, "tree" if scope == "tree" else "leader")
            async with asyncio.timeout(BOUND_S):
                report = await owner.exit
                await owner.empty.wait()
            for fd in fds:
                os.close(fd)
            return report.status
        finally:
            await launcher.close()

    assert os.waitstatus_to_exitcode(asyncio.run(main())) == 7
