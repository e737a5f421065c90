"""Defines the interface of a level of isolation: the facts of a program, and the command line that runs it inside.

A level is a pure function of `Facts` that returns `Wrapped`. The caller replaces argv and env of the Launch with those of
the result, drops the lists that Landlock would hold outside, and gives `sandbox` to the launcher.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

Level = Literal["none", "basic", "strict", "container"]
Network = Literal["host", "none", "proxy"]

ARGUMENTS, FILTER, STATUS = "@arguments", "@filter", "@status"
"""Words of a command line that the launcher replaces by the numbers of descriptors: of a file with the arguments, of one
with the seccomp filter, and of the pipe that the sandbox reports to."""

PROXY_PORT = 3128
"""Port of the proxy on the loopback of a network of its own."""

MODEL_PORT = 3129
"""Port of the gateway of models there."""


class Mount(Struct, frozen=True):
    """Describes one path that is visible inside: a file or folder, or a symbolic link.

    `source` is the path outside; None for a symbolic link, whose target is `target`. An `is_optional` one is left out
    where it does not exist.
    """

    path: str
    source: str | None
    is_writable: bool = False
    is_optional: bool = False
    target: str = ""


class Facts(Struct, frozen=True, kw_only=True):
    """Holds what a level needs to know of a program; every path is absolute.

    `mounts` are the paths that it may see, in no order; `temporary` is the folder that becomes its /tmp, None for an empty
    one in memory; `hidden` are folders of the daemon that lie below a visible one and are not shown. `memory_bytes` bounds
    what it may keep in shared memory; 0 for the kernel's own bound. `has_models` gives a network of its own the port of the
    gateway of models.
    """

    unit: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    mounts: tuple[Mount, ...] = ()
    hidden: tuple[str, ...] = ()
    temporary: str | None = None
    network: Network = "host"
    agent: str = ""
    hosts: tuple[str, ...] = ()
    has_models: bool = False
    memory_bytes: int = 0


class Sandbox(Struct, frozen=True, kw_only=True):
    """Describes to the launcher how a leader contains its program.

    `kind` names the program that leads the unit: "bwrap" reports the first process of the sandbox to STATUS, the worker is
    that one's first child, and ending signals go to what is inside. `arguments` are those of ARGUMENTS, `filter` is the
    seccomp filter of FILTER, in hexadecimal.
    `agent` and `hosts` are for the proxy: the name of the agent, and the hosts that it may reach.
    "join" leads a program in the sandbox of another unit, `unit`: it joins the namespaces of that one's program, and its own
    gets the filter.
    `listen` are the ports at which the launcher listens in a new network before the leader starts; none for no new network.
    """

    kind: Literal["bwrap", "join"]
    arguments: tuple[str, ...] = ()
    filter: str = ""
    listen: tuple[int, ...] = ()
    agent: str = ""
    hosts: tuple[str, ...] = ()
    unit: str = ""


class Wrapped(Struct, frozen=True, kw_only=True):
    """Holds the command line and the environment that run a program inside a level, and how it is found there."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    sandbox: Sandbox
