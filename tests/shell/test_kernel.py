"""What /proc says of processes, and signals that reach exactly one, with real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from corral.supervisor import kernel

BOUND_S = 20.0
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
    with subprocess.Popen(
        ["sh", "-c", "sleep 1000 & sleep 1000 & echo; wait"], stdout=-1
    ) as parent:
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
