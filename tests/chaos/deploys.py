"""kill -9 of the daemon at random moments of deployments and rollbacks: exactly one whole version serves afterwards.

    .venv/bin/python -P tests/chaos/deploys.py [--seed N] [--rounds 100]

Each round begins a deployment or a rollback, kills the daemon after a random part of the time that a whole one takes, and starts it
again. Then the agent answers with the version before or the new one, all of its workers with the same, from a folder
whose bytes are those of the package; a deployment that the killed daemon began has ended; nothing is left that no version
uses: no folder, no environment, no process. Last a deployment that nobody interrupts succeeds.
"""

import argparse
import contextlib
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path += [
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "support"),
]  # `python -P` leaves out where the harness is

from corral.worker.contract.errors import CorralError
from daemon_process import BOUND_S, marked
from package_site import USUAL, Site

WORKERS = 2

LEAST_S = 1.0
"""Seconds that a deployment takes at least, as far as the moment of a kill is chosen."""

KEYS = {
    "1.0": 'dependencies = ["alpha<2"]',
    "1.1": USUAL,
    "1.2": f'{USUAL}\ninstall = "./install.sh"\nsmoke = {{ objective = "smoke", input = 1 }}',
}
FILES = {"install.sh": "#!/bin/sh\nsleep 0.1\necho done > installed\n"}


@dataclass
class Verdict:
    """The counts of one run; `wrong` says in words whatever is."""

    seed: int
    states: Counter[str] = field(default_factory=Counter[str])
    """What the daemon was doing when it was killed, by the last step that the store has."""
    served: Counter[str] = field(default_factory=Counter[str])
    """Which version served after the start: the old or the new one."""
    wrong: list[str] = field(default_factory=list[str])

    @property
    def rounds(self) -> int:
        """Returns the number of kills."""
        return sum(self.served.values())

    def __str__(self) -> str:
        def counts(of: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(of.items()))

        return (
            f"seed {self.seed}: {self.rounds} kills ({counts(self.states)}); served afterwards: {counts(self.served)};"
            f" {len(self.wrong)} wrong" + "".join(f"\n  {each}" for each in self.wrong[:20])
        )


class _Round:
    """One deployment or rollback that a kill interrupts."""

    def __init__(self, site: Site, before: str, chance: random.Random) -> None:
        self._site = site
        self.before = before
        self.after = chance.choice([each for each in KEYS if each != before])
        self._is_rollback = chance.random() < 0.4 and bool(self._revision())

    def _revision(self) -> int | None:
        """Returns the number of a deployment of that version which can come back."""
        found = self._site.daemon.call("deployment.list", name="kit")["deployments"]
        return next((d["revision"] for d in found if d["version"] == self.after and d["state"] == "superseded"), None)

    def begin(self) -> None:
        """Asks for it; whether there is an answer does not matter."""
        with contextlib.suppress(CorralError, OSError), self._site.daemon.client() as client:
            if self._is_rollback:
                asked = {"name": "kit", "revision": self._revision()}
                client.call("agent.rollback", asked, timeout_s=2 * BOUND_S)
            else:
                client.call("deployment.create", {"package": f"kit@{self.after}"}, timeout_s=2 * BOUND_S)


def interrupted(site: Site, chance: random.Random, usual_s: float, before: str, verdict: Verdict) -> str:
    """Does one round, and returns the version that serves after it."""
    this = _Round(site, before, chance)
    asking = threading.Thread(target=this.begin)
    asking.start()
    time.sleep(chance.random() * usual_s)  # the moment of the kill is the point
    site.daemon.kill()
    asking.join(2 * BOUND_S)
    site.daemon.start()
    _until(lambda: _check_at_rest(site))
    seen = {_answered(site)["version"] for _ in range(3 * WORKERS)}
    if len(seen) != 1 or not seen <= {this.before, this.after}:
        verdict.wrong.append(f"{sorted(seen)} served after a kill between {this.before} and {this.after}")
    found = site.daemon.call("deployment.list", name="kit")["deployments"]
    verdict.states[f"{found[0]['state']}"] += 1
    open_ = [d["deployment"] for d in found if d["state"] in ("installing", "rolling", "canary")]
    if open_:
        verdict.wrong.append(f"deployments {open_} are still under way")
    serving = str(next(iter(seen)))
    current = [d["version"] for d in found if d["state"] == "current"]
    if current != [serving]:
        verdict.wrong.append(f"{current} are called current while {serving} serves")
    verdict.served["old" if serving == this.before else "new"] += 1
    _check_left(site, verdict)
    return serving


def _check_at_rest(site: Site) -> None:
    """Fails while a rollback that the kill has interrupted, and the new daemon has taken up again, is under way."""
    newest = site.daemon.call("revision.list", name="kit", limit=1)["revisions"][0]
    assert newest["state"] != "rolling", newest


def _answered(site: Site) -> Any:  # what the handler returns
    return _until(site.ask)


def _until(ask: Callable[[], Any]) -> Any:
    until = time.monotonic() + BOUND_S
    while True:
        try:
            return ask()
        except (CorralError, AssertionError):
            if time.monotonic() > until:
                raise
            time.sleep(0.05)  # the workers are about to start


def _check_left(site: Site, verdict: Verdict) -> None:
    """Waits until what no version uses is gone, and reports what stays."""

    def check() -> None:
        state = site.daemon.state_dir
        records = site.daemon.call("deployment.list", name="kit", limit=1000)["deployments"]
        kept = [d for d in records if d["state"] in ("current", "superseded")]
        wanted = {Path(d["folder"]).parent.name for d in kept}
        there = {each.name for each in (state / "installed").iterdir()}
        assert there <= wanted, f"installed has {sorted(there - wanted)}"
        wanted = {d["environment"] for d in kept}
        there = {each.name for each in (state / "environments").iterdir()}
        assert there <= wanted, f"environments has {sorted(there - wanted)}"
        status = site.daemon.call("daemon.status", names=["kit"])["agents"][0]
        pids = {worker["pid"] for worker in status["workers"]}
        foreign = [pid for pid in marked(state / "environments") if pid not in pids]
        assert not foreign, f"processes {foreign} work in an environment"

    try:
        _until(check)
    except AssertionError as error:
        verdict.wrong.append(str(error))


def deploys(folder: Path, seed: int, rounds: int) -> Verdict:
    """Kills the daemon `rounds` times."""
    chance, verdict = random.Random(seed), Verdict(seed)
    with Site(folder) as site:
        for version, keys in KEYS.items():
            site.add(version, keys=keys, files=FILES, instances=WORKERS)
        usual_s, before = LEAST_S, "1.0"
        for version in ("1.1", "1.2", "1.0"):
            began = time.monotonic()
            assert site.deploy(f"kit@{version}")["state"] == "current"
            usual_s = max(usual_s, time.monotonic() - began)
        for _ in range(rounds):
            before = interrupted(site, chance, usual_s, before, verdict)
        last = site.deploy(f"kit@{chance.choice([each for each in KEYS if each != before])}")
        if last["state"] != "current":
            verdict.wrong.append(f"the next deployment has failed: {last['error']}")
    return verdict


def main(arguments: Sequence[str]) -> int:
    """Runs from the command line; the exit status is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="deploys-") as folder:
        verdict = deploys(Path(folder), options.seed, options.rounds)
    print(verdict)
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
