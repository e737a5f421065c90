"""Agents, teams and workflows added and removed over HTTP while tasks run: no request fails. `make long http-churn` runs 100."""

import os
import threading
import time
from pathlib import Path

import pytest

from http_api_client import Api, serving

pytestmark = pytest.mark.shell

COUNT = int(os.environ.get("CORRAL_CHURN", "6"))
"""Number of components of each kind."""

THREADS = 3


class Churn:
    """Counts of the requests of all threads."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.requests = 0
        self.failed: list[tuple[str, str, int, str]] = []
        self._lock = threading.Lock()

    def ask(self, verb: str, path: str, body: object = None, *, below: str = "/runtime") -> None:
        """Does one request, and notes one that fails."""
        answered = self.api.ask(verb, path, body, below=below)
        with self._lock:
            self.requests += 1
            if answered.status >= 300:
                self.failed.append((verb, path, answered.status, answered.text))

    def change(self, thread: int, count: int) -> None:
        """Adds and removes components of each kind, with a task for each agent."""
        for number in range(count):
            name = f"c{thread}-{number}x"
            self.ask("POST", "/agents", {"id": name, "name": name})
            self.ask("POST", "/teams", {"id": f"t{name}", "members": [name], "mode": "route"})
            self.ask("POST", "/workflows", {"id": f"w{name}"})
            run = {"objective": "say", "input": number}
            self.ask("POST", f"/agents/{name}/run", run, below="/api/v1")
            self.ask("DELETE", f"/workflows/w{name}")
            self.ask("DELETE", f"/teams/t{name}")
            self.ask("DELETE", f"/agents/{name}")

    def load(self, ended: threading.Event) -> None:
        """Runs tasks of an agent that stays, until it is told to end."""
        while not ended.is_set():
            self.ask("POST", "/agents/echo/run", {"objective": "say"}, below="/api/v1")
            self.ask("GET", "/stats")


def test_components_come_and_go_under_load_and_no_request_fails(tmp_path: Path) -> None:
    with serving(tmp_path) as api:
        churn = Churn(api)
        ended = threading.Event()
        loader = threading.Thread(target=churn.load, args=[ended])
        shares = [len(range(thread, COUNT, THREADS)) for thread in range(THREADS)]
        threads = [threading.Thread(target=churn.change, args=[thread, share]) for thread, share in enumerate(shares)]
        started = time.monotonic()
        for thread in [loader, *threads]:
            thread.start()
        for thread in threads:
            thread.join()
        ended.set()
        loader.join()
        took_s = time.monotonic() - started
        print(f"{COUNT} of each kind, {churn.requests} requests in {took_s:.1f} s")
        print(f"{len(churn.failed)} failed")
        assert churn.failed == []
        stats = api.ask("GET", "/stats", below="/runtime").json
        assert set(stats["agents"]["ids"]) == {"echo", "default"}
        assert (stats["teams"]["count"], stats["workflows"]["count"]) == (0, 0)
