"""`python -m corral.mcp.cortex`: runs the memory server."""

import sys

from .server import main

if __name__ == "__main__":
    sys.exit(main())
