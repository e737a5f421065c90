"""Runs the provider of models of tests/support/programs, which counts for itself."""

import json
import subprocess
import sys
import urllib.request
from typing import Any

from daemon_process import AGENTS

KEY = "provider-key-of-the-test"


class Provider:
    """A provider of models."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(AGENTS / "model_server.py"), KEY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def get(self, path: str) -> Any:  # JSON
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return json.load(answer)

    def open(self) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/open", b"", method="POST"), timeout=20).close()

    def close(self) -> None:
        self.process.communicate(timeout=20)
