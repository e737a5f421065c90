"""Runs corrald with its own arguments, as a newer version would: it knows one more key of the table of an agent, `newer`.

Used as a prefix of the command.
"""

import sys

from msgspec.structs import replace

from corral.supervisor.__main__ import main
from corral.supervisor.cluster.placed import placed_agents
from corral.supervisor.cluster.state.state import PlacedSpec
from corral.supervisor.config.spec.spec import Spec

decoded_spec = placed_agents.decoded_spec


def newer_spec(name: str, placed: PlacedSpec) -> Spec:
    """The spec of a table, whether the newer key is in it or not."""
    table = {key: value for key, value in placed.table.items() if key != "newer"}
    return decoded_spec(name, replace(placed, table=table))


if __name__ == "__main__":
    setattr(placed_agents, "decoded_spec", newer_spec)  # noqa: B010 - mypy refuses the assignment to a function
    del sys.argv[1]  # the program that this stands for
    main()
