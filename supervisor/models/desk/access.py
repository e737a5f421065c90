"""Gives a worker the variables by which it reaches the models of its agent."""

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.machine.isolation.levels import MODEL_PORT
from corral.supervisor.workers.process.instance_spec import instance_of
from corral.supervisor.workers.process.launch import Order, has_own_network

from ..gateway.keys import Keys, variables
from .process import ModelGateway


class ModelAccess:
    """Gives access to the models of one daemon."""

    def __init__(self, keys: Keys, registry: Registry, gateway: ModelGateway) -> None:
        self._keys = keys
        self._registry = registry
        self._gateway = gateway

    async def given(self, order: Order) -> Order:
        """Gives access to one incarnation of a worker, none to checks and other commands of it: a launch step."""
        spec, unit = order.spec, order.unit
        if not spec.models:
            return order
        models = self._registry.config.models
        named = [models[name] for name in spec.models if name in models]
        if not named or "." in unit.partition("#")[0] or instance_of(unit) is None:
            return order
        port = MODEL_PORT if has_own_network(spec.process) else self._gateway.port()
        own = variables(named, f"http://127.0.0.1:{port}", self._keys.of(unit))
        return order._replace(variables={**order.variables, **own}, model_port=port)
