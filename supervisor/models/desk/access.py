"""Gives a worker the variables by which it reaches the models of its agent."""

from collections.abc import Mapping
from typing import NamedTuple

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.machine.isolation.levels import MODEL_PORT
from corral.supervisor.workers.process.instance_spec import instance_of

from ..gateway.keys import Keys, variables
from .process import ModelGateway


class Access(NamedTuple):
    """Holds the variables of a worker, and the port that it connects to; 0 where it has no models."""

    env: Mapping[str, str]
    port: int


class ModelAccess:
    """Gives access to the models of one daemon; any thread may call it."""

    def __init__(self, keys: Keys, registry: Registry, gateway: ModelGateway) -> None:
        self._keys = keys
        self._registry = registry
        self._gateway = gateway

    def of(self, spec: Spec, unit: str, *, own_network: bool) -> Access:
        """Returns the access of one incarnation of a worker; none for checks and other commands of it."""
        models = self._registry.config.models
        named = [models[name] for name in spec.models if name in models]
        if not named or "." in unit.partition("#")[0] or instance_of(unit) is None:
            return Access({}, 0)
        port = MODEL_PORT if own_network else self._gateway.port()
        return Access(variables(named, f"http://127.0.0.1:{port}", self._keys.of(unit)), port)
