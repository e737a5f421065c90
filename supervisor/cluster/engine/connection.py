"""Opens the engine that `[cluster]` names; only here, and only then, is a client library imported."""

from corral.supervisor.config.declared.cluster import ClusterSettings
from corral.worker.contract.errors import InvalidParams

from .interface import TIMEOUT_S, Engine, TlsFiles

START_S = 10.0
"""Seconds that the first connection may take."""


async def open_engine(
    settings: ClusterSettings, *, token: str | None = None, timeout_s: float = TIMEOUT_S, start_s: float = START_S
) -> Engine:
    """Connects to an engine; `token` is the one of the settings with its secret in place."""
    tls: TlsFiles | None = None
    if settings.tls_ca or settings.tls_certificate:
        tls = TlsFiles(settings.tls_ca, settings.tls_certificate, settings.tls_key)
    secret = settings.token if token is None else token
    try:
        if settings.engine == "nats":
            from .jetstream import JetStream  # noqa: PLC0415  # only who wants a cluster pays

            return await JetStream.open(settings.urls, token=secret, tls=tls, timeout_s=timeout_s, start_s=start_s)
        from .redis_engine import RedisEngine  # noqa: PLC0415  # only who wants a cluster pays

        return await RedisEngine.open(settings.urls, token=secret, tls=tls, timeout_s=timeout_s, start_s=start_s)
    except ImportError as error:
        raise InvalidParams(
            f'cannot use [cluster] engine = "{settings.engine}": {error.name} is not installed; install "corral[{settings.engine}]"',
            key="cluster.engine",
            extra=settings.engine,
        ) from error
