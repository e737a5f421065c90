"""Runs the memory server: `python -m corral.mcp.cortex`."""

import sys

from .server import main

if __name__ == "__main__":
    sys.exit(main())
