"""Reads the declared models as the gateway needs them: each with the key of its provider."""

import asyncio
from collections.abc import Sequence

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.declared.models import DeclaredModel
from corral.supervisor.config.secrets.secrets import Secrets
from corral.worker.contract.errors import SpawnFailed

from ..gateway.endpoint import Endpoint


class ModelEndpoints:
    """Reads the models of one daemon, as they are declared now."""

    def __init__(self, registry: Registry, secrets: Secrets) -> None:
        self._registry = registry
        self._secrets = secrets

    async def read(self) -> Sequence[Endpoint]:
        """Returns all models; one whose secret is not there has a problem in place of a key."""
        return await asyncio.to_thread(lambda: list(map(self._endpoint, self._registry.config.models.values())))

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
