"""Uids of tenants for the daemons of one test process: the removal of a tenant ends every process that has its uid."""

import os

FIRST = 1_900_000_000 + 10 * os.getpid()
"""The least of ten uids that no daemon of another test process gives."""

RANGE = f"{FIRST}-{FIRST + 9}"
"""The value of `[daemon] tenant_uids`."""
