"""Prints as one JSON line what it was born with, before anything of its own could change it."""

import ctypes
import json
import os
import resource
import sys

PR_GET_PDEATHSIG = 2


def main() -> None:
    with open("/proc/self/status", encoding="ascii") as status:
        facts = dict(line.rstrip("\n").split(":\t", 1) for line in status)
    signum = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(signum))
    fds = [fd for fd in range(1024) if os.path.exists(f"/proc/self/fd/{fd}")]
    born = {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "group": os.getpgid(0),
        "umask": facts["Umask"],
        "no_new_privs": facts["NoNewPrivs"],
        "blocked": facts["SigBlk"],
        "ignored": facts["SigIgn"],
        "uids": facts["Uid"].split(),
        "gids": facts["Gid"].split(),
        "groups": facts["Groups"].split(),
        "parent_death_signal": signum.value,
        "fds": fds,
        "blocking": [os.get_blocking(fd) for fd in (0, 1, 2)],
        "cwd": os.getcwd(),
        "nice": os.nice(0),
        "env": dict(os.environ),
        "argv": sys.argv[1:],
        "limits": {
            name: list(resource.getrlimit(getattr(resource, f"RLIMIT_{name}")))
            for name in ("NOFILE", "CPU", "FSIZE", "AS", "NPROC", "CORE")
        },
    }
    print(json.dumps(born), flush=True)


main()
