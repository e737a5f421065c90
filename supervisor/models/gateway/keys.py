"""Makes the keys by which workers call the gateway, and the variables that pass them on.

A key names the unit of a worker, and is signed with a secret that the daemon makes at its start: no list of keys is kept,
none can be made up, and none is good for another daemon. It says nothing of whether that worker lives.
A key may end in `.` and the id of a task, which the caller adds itself: it names one of the tasks of that worker.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from corral.supervisor.config.declared.models import DeclaredModel, variable

USUAL: Mapping[str, tuple[str, str]] = {
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_KEY"),
    "anthropic": ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
    "gemini": ("GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY"),
}
"""The variables of address and key that the official clients read, by kind; for the first model of it."""

PATHS: Mapping[str, str] = {"openai": "/v1", "anthropic": "", "gemini": ""}
"""The end of the address of a model, behind its name: the clients of one kind add the version themselves."""

BEGINNING = "corral-"
SECRET_BYTES = 32
KEY_CHARS_MAX = 1024
"""Characters of a key that is looked at."""


class Claim(NamedTuple):
    """Represents what a key says: the unit of its worker, and one of its tasks, "" for none."""

    unit: str
    task: str


class Keys:
    """Makes and reads the keys of one daemon; any thread may use it."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or secrets.token_bytes(SECRET_BYTES)

    def of(self, unit: str) -> str:
        """Returns the key of the worker that is this unit."""
        name = base64.urlsafe_b64encode(unit.encode()).decode().rstrip("=")
        return f"{BEGINNING}{name}.{self._signature(unit)}"

    def read(self, key: str) -> Claim | None:
        """Returns what a key says; None for one that this daemon has not made."""
        name, _, rest = key.removeprefix(BEGINNING).partition(".")
        signature, _, task = rest.partition(".")
        if not key.startswith(BEGINNING) or len(key) > KEY_CHARS_MAX:
            return None
        try:
            unit = base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
        except (binascii.Error, ValueError):
            return None
        ours = self._signature(unit).encode()
        is_ours = hmac.compare_digest(ours, signature.encode("utf-8", "replace"))
        return Claim(unit, task) if is_ours else None

    def _signature(self, unit: str) -> str:
        return base64.urlsafe_b64encode(hmac.digest(self._secret, unit.encode(), "sha256")).decode().rstrip("=")


def variables(models: Iterable[DeclaredModel], address: str, key: str) -> dict[str, str]:
    """Returns the variables of a worker that may use these models, at a gateway with this address."""
    env: dict[str, str] = {}
    for model in models:
        url = f"{address}/{model.name}{PATHS[model.kind]}"
        usual_url, usual_key = USUAL[model.kind]
        env.setdefault(usual_url, url)
        env.setdefault(usual_key, key)
        env[variable(model.name, "URL")] = url
        env[variable(model.name, "KEY")] = key
    return env
