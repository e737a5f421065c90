"""What /proc says of processes, and signals that reach exactly one, with real processes."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corral.supervisor.machine.linux import kernel
from corral.supervisor.workers.process import orphans

pytestmark = pytest.mark.shell

BOUND_S = 60.0
PYTHON = [sys.executable, "-I", "-S"]


def test_a_pid_that_is_another_process_now_is_not_signalled() -> None:
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        process = kernel.look_up(stranger.pid)
        assert process is not None
        process.starttime -= 1
        kernel.signal_other(process, signal.SIGTERM)  # it would end by this one first
        process.starttime += 1
        kernel.signal_other(process, signal.SIGKILL)
        assert stranger.wait(BOUND_S) == -signal.SIGKILL


def test_the_children_of_a_process_are_found_with_and_without_the_kernels_list() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000 & echo; wait"], stdout=-1) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        process = kernel.look_up(parent.pid)
        assert process is not None
        found = kernel.children(process)
        assert len(found) == 2
        assert sorted(kernel.children_by_parent(parent.pid)) == sorted(found)
        for pid in [*found, parent.pid]:
            os.kill(pid, signal.SIGKILL)


def test_a_process_whose_main_thread_has_ended_is_alive() -> None:
    code = """
import ctypes, threading
threading.Thread(target=lambda: (print(flush=True), threading.Event().wait())).start()
ctypes.CDLL(None).syscall(60, 0)  # exit(2), of this thread alone
"""
    if os.uname().machine != "x86_64":
        pytest.skip("the number of exit(2) is that of x86_64")
    with subprocess.Popen([*PYTHON, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + BOUND_S
        while (found := kernel.look_up(process.pid)) and found.state != b"Z":
            assert time.monotonic() < deadline
        assert [member.pid for member in kernel.walk(process.pid)] == [process.pid]
        process.kill()


# --- the brand ---

BRANDED = """
import resource, sys
sys.path.append(sys.argv[1])
from corral.supervisor.machine.linux import kernel
for state, seq in ((5, 6), (7, 8), (9, 10)):
    value = kernel.brand_for(state, seq)
    if value is not None:
        resource.setrlimit(resource.RLIMIT_RSS, (value, value))
    print(*kernel.brand(__import__("os").getpid()), flush=True)
"""


def test_a_brand_outlives_session_parents_and_environment() -> None:
    value = kernel.brand_for(2**29 - 1, 2**40 + 7)
    if value is None:
        pytest.skip("this process may not set the limit")
    set_it = (
        "import os, resource\n"
        f"resource.setrlimit(resource.RLIMIT_RSS, ({value}, {value}))\n"
        "os.execvp('sh', ['sh', '-c', \"env -i /bin/sh -c 'setsid sleep 1000 >/dev/null & echo $!' &\"])"
    )
    pid = int(subprocess.check_output([*PYTHON, "-c", set_it], text=True))
    assert kernel.brand(pid) == (2**29 - 1, 7)
    os.kill(pid, signal.SIGKILL)


def test_a_branded_process_brands_its_own_and_the_third_level_says_no() -> None:
    if kernel.brand_for(0, 0) is None:
        pytest.skip("this process may not set the limit")
    folder = str(Path(kernel.__file__).parents[4])
    lines = subprocess.check_output([*PYTHON, "-c", BRANDED, folder], text=True).splitlines()
    assert lines[:2] == ["5 6", "7 8"]
    assert lines[2] in ("7 8", "9 10"), "who may raise a limit may brand at any level"


def test_who_has_no_brand_has_none() -> None:
    assert kernel.brand(2**22 + 1) == (-1, -1), "no such process"
    with subprocess.Popen([*PYTHON, "-c", "input()"], stdin=subprocess.PIPE) as process:
        resource.prlimit(process.pid, resource.RLIMIT_RSS, (1 << 40, 1 << 40))
        assert kernel.brand(process.pid) == (-1, -1), "a limit that somebody else has set"
        process.kill()


def test_a_dead_process_that_nobody_has_reaped_is_not_waited_for() -> None:
    value = kernel.brand_for(77, 1)
    if value is None:
        pytest.skip("this process may not set the limit")
    code = f"import resource; resource.setrlimit(resource.RLIMIT_RSS, ({value}, {value}))"
    with subprocess.Popen([*PYTHON, "-c", code]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert kernel.brand(process.pid) == (77, 1), "a zombie has it still"
        assert asyncio.run(orphans.sweep(77)) == 0
