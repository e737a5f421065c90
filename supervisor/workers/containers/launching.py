"""Makes the folder and the command line of a container from a spec and facts of the host."""

import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from corral.supervisor.config.spec.spec import Spec

from . import files
from .engines import Missing, engine_for
from .plan import Facts, Refused, Volume, engine_environment, planned

HOST_VARIABLES = ("HOME", "LOGNAME", "PATH", "SHELL", "TMPDIR", "USER")
"""Variables that say where things are on the host: an image has its own."""

TEMPORARY = "/tmp"  # the container's own
"""Path inside of the temporary folder."""


MOST_PROCESSES = 32_768
"""Number of processes of a user in containers, where a spec has no limit; podman lowers its own hard limit."""


class Unheld(Exception):
    """Reports a key of a spec that cannot be held here; `key` is its name in `[process]`."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(why)
        self.key = key


class Contained(NamedTuple):
    """Holds the command line and environment of a monitor, and the folder of its container."""

    argv: Sequence[str]
    env: Mapping[str, str]
    folder: str


def contained(
    spec: Spec,
    *,
    unit: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    limits: Mapping[str, int],
    identity: tuple[int, int, Sequence[int]],
    sdk: Sequence[str],
    socket: str | None,
    root: Path,
    state: str,
    environ: Mapping[str, str],
) -> Contained:
    """Makes the folder of a container, and returns how its monitor is run; it blocks."""
    process, folder = spec.process, files.folder_of(root, unit)
    image = process.image or ""
    uid, gid, groups = identity
    if process.network == "proxy":
        raise Unheld("network", 'network "proxy": a container has none or that of the host')
    if process.connect_ports is not None:
        raise Unheld("connect_ports", "connect_ports: a container has no list of ports")
    if spec.models and process.network == "none":
        raise Unheld("network", "models of a container without a network: it has no way to the gateway yet")
    if spec.listen:
        raise Unheld("listen", "listen: a container inherits no sockets yet")
    if spec.entrypoint is not None and spec.python is None:
        argv = ("python3", *argv[1:])  # of the image
    try:
        engine = engine_for(process.runtime, image, environ)
        temporary = files.make(folder, (uid, gid))
        facts = Facts(
            unit=unit,
            state=state,
            image=image,
            argv=argv,
            env=_inside(env, spec, sdk),
            cwd=process.working_directory,
            folder=folder,
            volumes=_volumes(spec, sdk, socket, temporary),
            network="none" if process.network == "none" else "host",
            uid=uid,
            gid=gid,
            groups=groups,
            umask=int(process.umask, 8),
            limits={"NPROC": _most_processes(), **limits},
            memory_bytes=spec.resources.max_memory_bytes,
            processes=spec.resources.max_processes,
        )
        own = engine_environment(environ)
        return Contained(files.write(folder, planned(facts, engine), own), own, folder)
    except Missing as missing:
        raise Unheld("runtime", f'image "{image}" by runtime "{process.runtime}": {missing}') from None
    except Refused as refused:
        files.discard(folder)
        raise Unheld(refused.key, f"{refused.key}: {refused}") from None
    except OSError as error:
        raise Unheld("isolation", f'isolation "container": {error}') from None


def _most_processes() -> int:
    """Returns the limit of processes where a spec has none: engines set one in any case, and may not raise their own."""
    most = min(MOST_PROCESSES, int(Path("/proc/sys/kernel/pid_max").read_text("ascii")))
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    return most if hard == resource.RLIM_INFINITY else min(hard, most)


def _inside(env: Mapping[str, str], spec: Spec, sdk: Sequence[str]) -> dict[str, str]:
    """Returns the environment of a program in a container."""
    inside = {k: v for k, v in env.items() if k not in HOST_VARIABLES or k in spec.environment}
    if spec.control == "none":
        inside.pop("CORRAL_SOCKET", None)
    if spec.entrypoint is not None:
        more = spec.environment.get("PYTHONPATH")
        inside["PYTHONPATH"] = os.pathsep.join([sdk[0], *([more] if more else [])])
        inside.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    return {"TMPDIR": TEMPORARY, "HOME": TEMPORARY, **inside}


def _volumes(spec: Spec, sdk: Sequence[str], socket: str | None, temporary: str) -> list[Volume]:
    process = spec.process
    paths = [process.working_directory] if process.working_directory != "/" else []
    if spec.entrypoint is not None:
        paths += sdk
    if spec.control != "none" and socket is not None:
        paths.append(socket)
    found = {path: Volume(path) for path in (*paths, *(process.read_paths or ()))}
    found |= {path: Volume(path, is_writable=True) for path in process.write_paths or ()}
    return [*found.values(), Volume(temporary, is_writable=True, at=TEMPORARY)]
