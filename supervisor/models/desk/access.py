"""Gives a worker the variables by which it reaches the models of its agent, and the gateway the keys of the providers."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from corral.supervisor.config.declared.models import DeclaredModel
from corral.supervisor.config.secrets.secrets import Secrets
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.machine.isolation.levels import MODEL_PORT
from corral.supervisor.workers.process.instance_spec import instance_of
from corral.worker.contract.errors import SpawnFailed

from ..gateway.endpoint import Endpoint
from ..gateway.keys import Keys, variables


class Access(NamedTuple):
    """Holds the variables of a worker, and the port that it connects to; 0 where it has no models."""

    env: Mapping[str, str]
    port: int


class ModelAccess:
    """Gives access to the models of one daemon; any thread may call it."""

    def __init__(
        self, keys: Keys, models: Callable[[], Mapping[str, DeclaredModel]], port: Callable[[], int], secrets: Secrets
    ) -> None:
        self._keys = keys
        self._models = models
        self._port = port
        self._secrets = secrets

    def of(self, spec: Spec, unit: str, *, own_network: bool) -> Access:
        """Returns the access of one incarnation of a worker; none for checks and other commands of it."""
        models = self._models()
        named = [models[name] for name in spec.models if name in models]
        if not named or "." in unit.partition("#")[0] or instance_of(unit) is None:
            return Access({}, 0)
        port = MODEL_PORT if own_network else self._port()
        return Access(variables(named, f"http://127.0.0.1:{port}", self._keys.of(unit)), port)

    async def endpoints(self) -> Sequence[Endpoint]:
        """Returns all models as the gateway needs them; one whose secret is not there has a problem in place of a key."""
        return await asyncio.to_thread(lambda: list(map(self._endpoint, self._models().values())))

    def _endpoint(self, model: DeclaredModel) -> Endpoint:
        key, headers, problem = "", {}, ""
        owner = f"models.{model.name}"
        try:
            key = self._secrets.expand({"key": model.key}, owner, "key")["key"]
            headers = self._secrets.expand(model.headers, owner, "header")
        except SpawnFailed as error:
            problem = error.message
        return Endpoint(
            name=model.name,
            kind=model.kind,
            base=model.address,
            key=key,
            headers=headers,
            model=model.model,
            retries=model.max_retries,
            timeout_s=model.timeout,
            concurrent=model.max_concurrent_calls,
            problem=problem,
        )
