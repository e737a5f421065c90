"""Gives programs network namespaces of their own on one bridge, and cuts them off from each other: packets vanish, nobody is told.

The bridge is in the namespace of the caller, which has to be one that nobody else uses (`unshare --net`). The namespaces go
with the processes that hold them, and those with the caller. Needs root and ip(8) and nsenter(1).
"""

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence

SUBNET = "10.77.0"
BRIDGE = "hub"


def why_not() -> str:
    """Returns why there can be no such networks here, "" where there can."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    for program in ("ip", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    made = subprocess.run(
        ["unshare", "--net", "--mount", "ip", "link", "add", BRIDGE, "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    return made.stderr.strip() if made.returncode else ""


class Network:
    """Holds one namespace for each name, `host N` at the address SUBNET.N."""

    def __init__(self, names: Sequence[str]) -> None:
        self._numbers = {name: number for number, name in enumerate(names, 2)}
        self._holders: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Network":
        """Makes all."""
        ip("link", "set", "lo", "up")
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        try:
            for name in self._numbers:
                self._add(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all; the kernel takes the interfaces with the namespaces."""
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
        ip("link", "del", BRIDGE)

    def address(self, name: str) -> str:
        """Returns the address of one."""
        return f"{SUBNET}.{self._numbers[name]}"

    def before(self, name: str) -> tuple[str, ...]:
        """Returns the words in front of a command that runs there."""
        return ("nsenter", f"--net=/proc/{self._holders[name].pid}/ns/net", "--")

    def cut(self, name: str) -> None:
        """Makes every packet from and to it vanish."""
        ip("link", "set", self._port(name), "type", "bridge_slave", "state", "0")

    def heal(self, name: str) -> None:
        """Takes `cut` back."""
        ip("link", "set", self._port(name), "type", "bridge_slave", "state", "3")

    def part(self, names: Sequence[str]) -> None:
        """Makes the packets between these vanish; all others reach them."""
        for name in names:
            ip("link", "set", self._port(name), "type", "bridge_slave", "isolated", "on")

    def join(self, names: Sequence[str]) -> None:
        """Takes `part` back."""
        for name in names:
            ip("link", "set", self._port(name), "type", "bridge_slave", "isolated", "off")

    def mute(self, name: str, to: str) -> None:
        """Makes what `name` sends to `to` vanish; the other direction goes on."""
        ip(*("route", "add", "blackhole", f"{self.address(to)}/32"), inside=self.before(name))

    def unmute(self, name: str, to: str) -> None:
        """Takes `mute` back."""
        ip(*("route", "del", "blackhole", f"{self.address(to)}/32"), inside=self.before(name))

    def _port(self, name: str) -> str:
        return f"port{self._numbers[name]}"

    def _add(self, name: str) -> None:
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            preexec_fn=_end_with_parent,
        )
        self._holders[name] = holder
        assert holder.stdout is not None, "it was asked for"
        assert holder.stdout.readline() == b"\n", "the namespace is made"
        holder.stdout.close()
        port, pid = self._port(name), str(holder.pid)
        ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", pid)
        ip("link", "set", port, "master", BRIDGE, "up")
        inside = self.before(name)
        ip("addr", "add", f"{self.address(name)}/24", "dev", "eth0", inside=inside)
        ip("link", "set", "eth0", "up", inside=inside)
        ip("link", "set", "lo", "up", inside=inside)


def ip(*words: str, inside: Sequence[str] = ()) -> None:
    """Runs ip(8), in a namespace where `inside` says so."""
    subprocess.run([*inside, "ip", *words], check=True)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
