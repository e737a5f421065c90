"""Runs corrald with its own arguments, but for one rule: no Landlock holds what agents of tenants read and write.

The kernel of the guest has none, so that no tenant could start anything there: see tests/support/uml_guest.py. Used as a prefix
of the command.
"""

import sys
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from corral.supervisor.__main__ import main
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.tenants.registry.accounts import Accounts

Floor = Callable[[Accounts, Spec], tuple[Spec, tuple[int, int, Sequence[int]] | None]]

floor: Floor = Accounts.floor


def without_paths(accounts: Accounts, spec: Spec) -> tuple[Spec, tuple[int, int, Sequence[int]] | None]:
    """The spec and the identity of a process as the daemon has them, without the paths that it would be held to."""
    spec, identity = floor(accounts, spec)
    process = replace(spec.process, read_paths=None, write_paths=None)
    return replace(spec, process=process), identity


if __name__ == "__main__":
    setattr(Accounts, "floor", without_paths)  # noqa: B010 - mypy refuses the assignment to a method
    del sys.argv[1]  # the program that this stands for
    main()
