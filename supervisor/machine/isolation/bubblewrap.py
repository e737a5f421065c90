"""Makes the command line of bubblewrap (bwrap(1)) for the level strict.

The program gets mount, pid, ipc, uts, cgroup and user namespaces of its own, a file system of the given paths alone, no
capability, and where its network is not the host's a network namespace. Everything is read-only but /tmp, /dev/shm and
the writable paths. The module does nothing: it is a function of values.
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence

from .levels import ARGUMENTS, FILTER, MODEL_PORT, PROXY_PORT, STATUS, Facts, Mount, Sandbox, Wrapped

SHM_BYTES = 64 * 1024 * 1024
"""Bytes of /dev/shm at least; a program with a limit of memory has that much."""

NAMESPACES = (*("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"), "--unshare-cgroup-try")
TEMPORARY = "/tmp"
_URL = f"http://127.0.0.1:{PROXY_PORT}"
_PROXIES = {"http_proxy": _URL, "https_proxy": _URL, "all_proxy": _URL, "no_proxy": "localhost,127.0.0.1,::1"}
PROXY_VARIABLES = {**_PROXIES, **{name.upper(): value for name, value in _PROXIES.items()}, "NODE_USE_ENV_PROXY": "1"}
"""Variables by which clients find the proxy (curl, python, node from 24 on); the spec may set each differently."""
PROC, DEVICES = "/proc", "/dev"
OWN_DEVICES = frozenset(f"/dev/{name}" for name in ("null", "zero", "full", "tty", "random", "urandom", "shm", "pts"))
"""Names of devices that the sandbox has of its own; another one that is listed is that of the machine."""


def wrapped(facts: Facts, *, bwrap: str, filter_hex: str) -> Wrapped:
    """Returns the command line that runs the program of `facts` inside, by the program `bwrap`.

    The network of `network = "proxy"`, or of an agent with models, is one that the launcher has made before, with the
    sockets of the proxy and of the gateway of models in it.
    """
    ports = (PROXY_PORT,) if facts.network == "proxy" else ()
    if facts.has_models and facts.network != "host":
        ports = (*ports, MODEL_PORT)
    arguments = (
        *NAMESPACES,
        *(("--unshare-net",) if facts.network == "none" and not ports else ()),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--json-status-fd", STATUS, "--add-seccomp-fd", FILTER),
        *_file_system(facts),
        *("--chdir", facts.cwd),
        *_environment(facts),
    )
    return Wrapped(
        argv=(bwrap, "--args", ARGUMENTS, "--", *facts.argv),
        env={},
        sandbox=Sandbox(
            kind="bwrap",
            arguments=arguments,
            filter=filter_hex,
            listen=ports,
            agent=facts.agent,
            hosts=facts.hosts if facts.network == "proxy" else (),
        ),
    )


def joining(sandbox: Sandbox, unit: str) -> tuple[dict[str, str], Sandbox]:
    """Returns the environment inside, and how another program runs in the sandbox of a living unit that was `wrapped`."""
    at = sandbox.arguments.index("--chdir") + 2  # before it are paths and options, behind it the variables alone
    words = sandbox.arguments[at:]
    env = dict(zip(words[1::3], words[2::3], strict=True))
    return env, Sandbox(kind="join", unit=unit, filter=sandbox.filter)


def _environment(facts: Facts) -> Iterator[str]:
    """Yields the variables as arguments: bubblewrap itself must not obey those of the dynamic loader."""
    env = dict(facts.env)
    if facts.temporary is not None:
        env["TMPDIR"] = TEMPORARY
    if facts.network == "proxy":
        env = PROXY_VARIABLES | env
    for name, value in env.items():
        yield from ("--setenv", name, value)


def _file_system(facts: Facts) -> Iterator[str]:
    """Yields the operations in the order in which they are made: a folder before what is mounted below it."""
    hidden = [Mount(path, "") for path in facts.hidden]
    mounts = ordered([*facts.mounts, *hidden])
    if mounts and mounts[0].path == "/":  # under the sandbox's own folders
        yield from _operation(mounts.pop(0))
    yield from ("--proc", PROC, "--dev", DEVICES)
    yield from ("--size", str(facts.memory_bytes or SHM_BYTES), "--tmpfs", "/dev/shm")
    if facts.temporary is None:
        yield from ("--size", str(facts.memory_bytes or SHM_BYTES), "--tmpfs", TEMPORARY)
    else:
        yield from ("--bind", facts.temporary, TEMPORARY)
    for mount in mounts:
        yield from _operation(mount)
    hidden_paths = (mount.path for mount in mounts if _is_hidden(mount))
    for path in (*hidden_paths, DEVICES, "/"):
        yield from ("--remount-ro", path)  # not before the mounts below it have their places


def _operation(mount: Mount) -> tuple[str, ...]:
    if mount.source is None:
        return ("--symlink", mount.target, mount.path)
    if _is_hidden(mount):
        return ("--tmpfs", mount.path)
    how = "--bind" if mount.is_writable else "--ro-bind"
    if _is_below(mount.path, DEVICES) and not _is_below(mount.path, f"{DEVICES}/shm"):
        how = "--dev-bind"
    return (f"{how}-try" if mount.is_optional else how, mount.source, mount.path)


def ordered(mounts: Sequence[Mount]) -> list[Mount]:
    """Returns the mounts that are needed, folders before what is below them.

    Of two of one path the writable one wins. One below another of the same rights is left out, since that shows it
    already; so is a link below a folder that is mounted, and what the sandbox has of its own. A hidden
    folder that nothing shows needs no mount.
    """
    by_path: dict[str, Mount] = {}
    for mount in mounts:
        known = by_path.get(mount.path)
        if known is None or _rank(mount) > _rank(known):
            by_path[mount.path] = mount
    kept: dict[str, Mount] = {}
    for path in sorted(by_path, key=lambda path: (path.rstrip("/").count("/"), path)):
        mount = by_path[path]
        above = _nearest(path, kept)
        if _is_own(mount):
            continue
        if _is_hidden(mount) if above is None else _shows(above, mount):
            continue
        kept[path] = mount
    return list(kept.values())


def _rank(mount: Mount) -> tuple[bool, bool, bool]:
    """Returns which of two mounts of one path counts: a hidden one never does against one that was asked for."""
    return (bool(mount.source), mount.is_writable, not mount.is_optional)


def _nearest(path: str, kept: Mapping[str, Mount]) -> Mount | None:
    while path != "/":
        path = posixpath.dirname(path)
        if path in kept:
            return kept[path]
    return None


def _is_hidden(mount: Mount) -> bool:
    return mount.source == ""


def _shows(above: Mount, mount: Mount) -> bool:
    """Returns whether the mount of a folder shows another below it, with the same rights and from the same place."""
    if _is_hidden(above):
        return _is_hidden(mount)
    if _is_hidden(mount):
        return False
    if mount.source is None or above.source is None:
        return True
    below = mount.path.removeprefix(above.path).lstrip("/")
    return mount.source == posixpath.join(above.source, below) and above.is_writable == mount.is_writable


def _is_own(mount: Mount) -> bool:
    """Returns whether the sandbox has the path of its own, so that the machine's is not shown."""
    if mount.path in (TEMPORARY, DEVICES) or mount.path in OWN_DEVICES:
        return True
    return _is_below(mount.path, PROC) or (mount.source is None and _is_below(mount.path, DEVICES))


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
