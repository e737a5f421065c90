"""Keeps the moment at which the units of a cluster's lease are killed, also when the daemon is frozen.

The time is of the clock that goes on while the machine sleeps (CLOCK_BOOTTIME), and so is the timer that wakes the
launcher (timerfd_create(2)).  Standard library alone: it is part of the launcher.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

from ..linux import kernel

CLOCK_BOOTTIME = 7
TFD_TIMER_ABSTIME = 1


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class LeaseTimer:
    """Holds the token of the lease in force and its deadline; there is no lease before the first `set`."""

    def __init__(self) -> None:
        self.token = 0
        self.kill_at_s = 0.0
        self._fd = -1

    def set(self, token: int, kill_at_s: float) -> int:
        """Sets the lease in force; returns a descriptor that is readable from its deadline on."""
        if self._fd < 0:
            self._fd = kernel.timer_descriptor(CLOCK_BOOTTIME)
        whole, rest = divmod(kill_at_s, 1.0)
        value = _TimeSpec(int(whole), int(rest * 1e9) or 1)  # zero would disarm it
        kernel.set_timer(self._fd, TFD_TIMER_ABSTIME, _TimerSpec(_TimeSpec(0, 0), value))
        self.token, self.kill_at_s = token, kill_at_s
        return self._fd

    def holds(self, token: int) -> bool:
        """Returns whether the units of a lease may run now."""
        return token == self.token and time.clock_gettime(CLOCK_BOOTTIME) < self.kill_at_s

    def drain(self) -> None:
        """Takes note of the deadline, so that the descriptor is readable no more."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
