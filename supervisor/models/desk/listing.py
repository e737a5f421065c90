"""Lists the declared models: their state, their users, and what was used of them today.

The end of the last call tells the state for a while; then the address of a model that agents use is connected to, which
tells that a provider answers, not that it knows the key.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from corral.supervisor.agents.external.stores import why_not_connected
from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.declared.models import DeclaredModel

from .desk import LAST_S, ModelDesk
from .ledger import Ledger, Sums
from .process import ModelEndpoints, ModelGateway

PROBE_S = 3.0
"""Seconds that a connection may take."""

State = Literal["up", "down", "unused"]


class ModelFacts(Struct, frozen=True, kw_only=True):
    """Represents what is known of a model; `used_by` are names of agents, `today` the sums by agent."""

    model: DeclaredModel
    state: State
    reason: str
    used_by: Sequence[str]
    today: Mapping[str, Sums]
    tokens_last_minute: int


class ModelListing:
    """Lists the models of one daemon."""

    def __init__(self, registry: Registry, endpoints: ModelEndpoints, desk: ModelDesk, gateway: ModelGateway) -> None:
        self._registry = registry
        self._endpoints = endpoints
        self._desk = desk
        self._gateway = gateway

    @property
    def ledger(self) -> Ledger:
        """Returns the sums of all calls."""
        return self._desk.ledger

    @property
    def process(self) -> tuple[int | None, int, int]:
        """Returns the pid of the gateway, the number of calls under way, and how often a dead gateway was replaced."""
        return self._gateway.pid, self._desk.in_flight, self._gateway.restarts

    def used_by(self) -> dict[str, list[str]]:
        """Returns the agents of each declared model, by name."""
        found: dict[str, list[str]] = {name: [] for name in self._registry.config.models}
        for agent in self._registry.agents.values():
            for name in agent.spec.models:
                if name in found:
                    found[name].append(agent.name)
        return {name: sorted(agents) for name, agents in found.items()}

    async def listed(self) -> list[ModelFacts]:
        """Returns all models by name, after connecting to used ones whose state is not known."""
        problems = {each.name: each.problem for each in await self._endpoints.read()}
        used = self.used_by()
        models = [self._registry.config.models[name] for name in sorted(used)]
        states = await asyncio.gather(
            *(self._state(each, bool(used[each.name]), problems.get(each.name, "")) for each in models)
        )
        ledger = self._desk.ledger
        return [
            ModelFacts(
                model=model,
                state=state,
                reason=reason,
                used_by=used[model.name],
                today=ledger.agents_today(model.name),
                tokens_last_minute=ledger.last_minute(model.name),
            )
            for model, (state, reason) in zip(models, states, strict=True)
        ]

    async def _state(self, model: DeclaredModel, is_used: bool, problem: str) -> tuple[State, str]:
        if problem:
            return "down", problem
        last = self._desk.last.get(model.name)
        if last is not None and time.monotonic() < last.at + LAST_S:
            return ("up", "") if last.is_ok else ("down", f"its last call: {last.reason}")
        if not is_used:
            return "unused", ""
        place = urlsplit(model.address)
        port = place.port or (443 if place.scheme == "https" else 80)
        try:
            async with asyncio.timeout(PROBE_S):
                reason = await why_not_connected(place.hostname or "", port)
        except TimeoutError:
            reason = f"no answer within {PROBE_S:g} s"
        return ("down" if reason else "up"), reason
