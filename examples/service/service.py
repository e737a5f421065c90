"""Serves the agent of shout.py over HTTP until Ctrl-C: python examples/service/service.py [PORT]."""

import sys

from shout import agent

import corral

if __name__ == "__main__":
    corral.AgentService(agent).start(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
