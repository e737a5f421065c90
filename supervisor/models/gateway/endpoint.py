"""Represents a model as the gateway needs it: with the key of its provider, without limits."""

from msgspec import Struct

from corral.supervisor.config.declared.models import Kind


class Endpoint(Struct, frozen=True, kw_only=True):
    """Represents where and how a provider is asked; `problem` tells why it cannot be, "" if it can.

    `retries` are further tries, `timeout_s` bounds the wait for an answer and for each part of it, `concurrent` the calls at a
    time.
    """

    name: str
    kind: Kind
    base: str
    key: str = ""
    headers: dict[str, str] = {}
    model: str = ""
    retries: int = 2
    timeout_s: float = 600.0
    concurrent: int = 100
    problem: str = ""
