"""Runs one worker of an ACP agent: `python -P -m corral.worker.acp PROGRAM…`.

The policy of permissions is in CORRAL_ACP_PERMISSIONS, as JSON, the way to sign in in CORRAL_ACP_AUTH_METHOD, and whether
the agent gets the tools of the pool in CORRAL_ACP_TOOLS; they are taken out of the environment at the start.
"""

import os
import sys

from ..sdk import runtime
from ..sdk.stdio import log_line
from .bridge import Bridge
from .policy import Policy, policy_of

PERMISSIONS_VARIABLE = "CORRAL_ACP_PERMISSIONS"
AUTH_METHOD_VARIABLE = "CORRAL_ACP_AUTH_METHOD"
TOOLS_VARIABLE = "CORRAL_ACP_TOOLS"


def main(argv: list[str]) -> int:
    """Runs until the daemon ends the worker (0), or not at all (2)."""
    if not argv:
        print("usage: python -P -m corral.worker.acp PROGRAM...", file=sys.stderr)
        return 2
    written = os.environ.pop(PERMISSIONS_VARIABLE, "")
    auth_method = os.environ.pop(AUTH_METHOD_VARIABLE, "") or None
    has_tools = os.environ.pop(TOOLS_VARIABLE, "1") != "0"
    try:
        permissions = policy_of(written) if written else Policy()
    except ValueError as error:
        log_line(f"corral: cannot start: {PERMISSIONS_VARIABLE}: {error}")
        return 2
    return runtime.run(Bridge(argv, os.environ, permissions, auth_method, has_tools=has_tools).hooks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
