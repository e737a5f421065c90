"""The kernel's controllers, shortly: a guest boots, and a few tests of tests/system/cgroup_tier run in it. `make long cgroup-tier` runs all."""

import os
import time
from pathlib import Path

import pytest

import uml_guest
from system.cgroup_tier.run import in_guest

BOUND_S = 100.0

END_S = 5.0
"""So long the kernel may need to end what was killed."""

TOLD = (
    "test_limits.py::test_a_tree_over_its_memory_is_killed_whole_and_the_reason_has_the_figures[escapee]",
    "test_limits.py::test_forks_beyond_the_limit_are_refused_and_reported",
    "test_tenants.py::test_a_tenant_that_uses_up_its_memory_loses_one_worker_whole_and_others_none",
    "test_limits.py::test_nothing_is_left_of_processes_or_groups[kill]",
)

LACKING = uml_guest.missing()

needs_guest = pytest.mark.skipif(bool(LACKING), reason=LACKING or "it can boot")


@needs_guest
def test_limits_that_the_kernel_holds_are_held_and_reported(tmp_path: Path) -> None:
    named = [f"tests/system/cgroup_tier/{name}" for name in TOLD]
    status, said = in_guest(tmp_path, *named, bound_s=BOUND_S)
    assert status == 0, said
    assert f"{len(TOLD)} passed" in said


@needs_guest
def test_a_guest_hands_back_the_exit_status_and_leaves_nothing(tmp_path: Path) -> None:
    guest = uml_guest.Guest(tmp_path)
    status, said = guest.run(["sh", "-c", "echo here > /run/outside/told; exit 7"], bound_s=BOUND_S)
    assert status == 7, said
    assert (guest.shared / "told").read_text() == "here\n"
    await_none(tmp_path)


@needs_guest
def test_a_guest_that_does_not_end_is_killed_with_all_of_it(tmp_path: Path) -> None:
    guest = uml_guest.Guest(tmp_path)
    with pytest.raises(TimeoutError):
        guest.run(["sh", "-c", "sleep 600 & trap '' TERM; exec sleep 600"], bound_s=3.0)
    await_none(tmp_path)


def await_none(folder: Path) -> None:
    """Returns when the processes that were killed are gone."""
    deadline = time.monotonic() + END_S
    while left := processes(folder):
        assert time.monotonic() < deadline, f"{left} are left"


def processes(folder: Path) -> list[int]:
    """The pids of processes that live and work in a folder."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")) == folder:
                found.append(int(entry.name))
        except OSError:
            continue
    return found
