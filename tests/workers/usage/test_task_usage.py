"""What a task is said to have used: never more than its worker used in that time."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from corral.supervisor.workers.usage.task_usage import READ_S, TREE_S, Meters, own_ns, peak_bytes

pytestmark = pytest.mark.core

MIB = 1024 * 1024


@dataclass
class Machine:
    """A clock, and the peak of one incarnation."""

    now: float = 100.0
    peak_bytes: int | None = 50 * MIB
    reads: int = 0

    def __post_init__(self) -> None:
        self.meters = Meters(lambda: self.now)

    def peak(self) -> int | None:
        self.reads += 1
        return self.peak_bytes

    def run(self, took_s: float, rises_to: int | None = None, *, before: int = 0, after: int = 0) -> int:
        """Returns the peak of a task that takes so long, with these samples."""
        self.now += 1.0
        meter = self.meters.begin("a", 0, self.peak, before, 0.0)
        self.now += took_s
        self.peak_bytes = rises_to or self.peak_bytes
        self.meters.end(meter, after, 0.0)
        return meter.most_bytes


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_peak_that_rose_during_a_task_is_the_tasks(machine: Machine) -> None:
    assert machine.run(READ_S * 2, 90 * MIB, before=40 * MIB, after=41 * MIB) == 90 * MIB


def test_a_peak_from_before_a_task_is_not_the_tasks(machine: Machine) -> None:
    assert machine.run(READ_S * 2, before=40 * MIB, after=41 * MIB) == 41 * MIB
    assert machine.run(READ_S * 2, 90 * MIB, before=41 * MIB) == 90 * MIB
    assert machine.run(READ_S * 2, before=41 * MIB) == 41 * MIB


def test_a_peak_that_rose_in_a_short_task_is_not_the_next_ones(machine: Machine) -> None:
    machine.run(READ_S * 2)
    machine.run(READ_S / 2, 90 * MIB)
    assert machine.run(READ_S * 2, before=40 * MIB) == 40 * MIB


def test_samples_during_a_task_count_and_a_second_end_does_not(machine: Machine) -> None:
    meter = machine.meters.begin("a", 0, machine.peak, 0, 0.0)
    meter.note(70 * MIB)
    meter.note(60 * MIB)
    machine.meters.end(meter, 0, 0.0)
    machine.meters.end(meter, 80 * MIB, 0.0)
    assert meter.most_bytes == 70 * MIB


def test_short_tasks_read_nothing_most_of_the_time(machine: Machine) -> None:
    for _ in range(1000):
        meter = machine.meters.begin("a", 0, machine.peak, 0, 0.0)
        machine.now += 0.0001
        machine.meters.end(meter, 0, 0.0)
    assert machine.reads <= 21


def test_the_processes_of_a_worker_count_for_long_tasks_alone(machine: Machine) -> None:
    for took_s, expected_s in ((TREE_S, 3.0), (TREE_S / 2, 0.0)):
        meter = machine.meters.begin("a", 2**22 + 1, machine.peak, 0, 1.0)  # a pid that none has
        machine.now += took_s
        machine.meters.end(meter, 0, 4.0)
        assert meter.cpu_ns == expected_s * 1e9


@pytest.fixture
def worker() -> Iterator["subprocess.Popen[str]"]:
    code = "import sys\nfor line in sys.stdin: exec(line); print(flush=True)"
    command = [sys.executable, "-Sc", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def test_the_kernel_reports_the_time_and_the_peak_of_a_real_process(worker: "subprocess.Popen[str]") -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("pass\n")
    worker.stdin.flush()
    worker.stdout.readline()
    meters = Meters()
    meter = meters.begin("a", worker.pid, lambda: peak_bytes(worker.pid, None), 0, 0.0)
    worker.stdin.write("x = bytearray(64 * 1024 * 1024); x = sum(range(2_000_000))\n")
    worker.stdin.flush()
    worker.stdout.readline()
    used_ns = own_ns(worker.pid)
    meters.end(meter, 0, 0.0)
    assert 64 * MIB < meter.most_bytes < 200 * MIB
    assert 0 < meter.cpu_ns <= used_ns
    worker.stdin.close()


def test_a_control_group_reports_the_peak_of_all_its_processes(tmp_path: Path) -> None:
    own = peak_bytes(os.getpid(), tmp_path)
    assert own is not None
    assert own > MIB, "without the kernel's file it is that of the process"
    (tmp_path / "memory.peak").write_text("123456\n")
    assert peak_bytes(os.getpid(), tmp_path) == 123456
    assert peak_bytes(2**22 + 1, None) is None
