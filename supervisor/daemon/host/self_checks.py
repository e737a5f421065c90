"""Looks once a second at the daemon's own store and log files, and publishes what it finds."""

import logging

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.records.events.bus import Bus
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.records.store.store import Store
from corral.supervisor.workers.supervision.limit_enforcer import LossReporter

logger = logging.getLogger(__name__)


class SelfChecks:
    """Publishes when the store takes nothing, has lost what was posted, or takes things again, and which output was lost."""

    def __init__(self, store: Store, logs: LogStore, bus: Bus, registry: Registry) -> None:
        self._store = store
        self._logs = logs
        self._bus = bus
        self._registry = registry
        self._loss_reporter = LossReporter(bus)
        self._store_fails = False
        self._lost_posts = 0
        self._lost_lines = 0

    def check(self) -> None:
        """Looks once."""
        self._check_store()
        try:
            self._logs.check()
        except OSError as error:
            logger.warning("cannot check the log files: %s", error)
        if self._lost_lines != self._logs.losses:
            self._lost_lines = self._logs.losses
            self._loss_reporter.report(self._registry.lives())

    def _check_store(self) -> None:
        stalled_s, lost, is_bad = self._store.stalled_s, self._store.lost_posts, self._store.probe()
        if self._store_fails != is_bad:
            self._store_fails = is_bad
            what = "daemon.degraded" if is_bad else "daemon.recovered"
            since, self._lost_posts = lost - self._lost_posts, lost
            self._bus.publish(what, part="store", stalled_s=round(stalled_s, 3), lost=since)
