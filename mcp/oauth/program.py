"""Runs one step of an authorization as a process: the order is in the environment, the answer goes to stdout.

The daemon starts `python -m corral.mcp.oauth.program` with the user, the limits and the isolation of the MCP server, so that
what a server answers never meets more rights than the server's own process has. The order is Base64 of JSON in
CORRAL_MCP_OAUTH; the answer is one line, MARK and JSON: `{"answer": ...}` or `{"error": ...}`. Neither is ever printed
elsewhere.
"""

import asyncio
import base64
import os
import sys

import msgspec

from corral.worker.contract.errors import CorralError, InternalError

from .flow import perform
from .records import MARK, VARIABLE, Order


def main() -> None:
    """Performs the order; the exit status is 0 also where the answer is an error."""
    os.environ["NETRC"] = os.devnull
    try:
        order = msgspec.json.decode(base64.b64decode(os.environ.pop(VARIABLE, "")), type=Order)
        result: dict[str, object] = {"answer": asyncio.run(perform(order))}
    except CorralError as error:
        result = {"error": error.to_wire()}
    except Exception as error:  # its text could have a secret
        result = {"error": InternalError(f"cannot log in: {type(error).__name__}").to_wire()}
    sys.stdout.buffer.write(MARK + msgspec.json.encode(result) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
