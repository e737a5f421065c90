"""Decodes the keys of a job: an agent of `type = "oneshot"`, a command that runs to its end.

A job speaks no protocol, so `protocol = "none"` is its default; keys that only a service has are refused.
"""

from collections.abc import Mapping
from typing import Any

from .decoder import Document, KeyPath

OF_SERVICES = ("ready", "health", "hibernate_after")
"""Keys for a process that stays: a job is done when it has ended."""


def decode_job(
    document: Document, path: KeyPath, table: Mapping[str, object], own: dict[str, Any]
) -> None:  # Any: the values of a Spec's fields, each decoded by its own rule
    """Completes the decoded keys of a job, and refuses those that contradict its type, or need it.

    Raises:
        InvalidParams: a key contradicts `type`; `data` has key, value and reason.
    """
    if own.get("type") != "oneshot":
        _refuse_without_type(document, path, own)
        return
    if own.get("entrypoint"):
        reason = 'it contradicts type = "oneshot", which runs a command: an entrypoint takes tasks, also those of [schedules.NAME]'
        raise document.error((*path, "entrypoint"), own["entrypoint"], reason)
    if own.setdefault("protocol", "none") != "none":
        reason = (
            'it contradicts type = "oneshot": a command that runs to its end has protocol = "none"'
        )
        raise document.error((*path, "protocol"), own["protocol"], reason)
    for key in OF_SERVICES:
        if own.get(key):
            reason = (
                'it contradicts type = "oneshot": a job is done when it has exited with status 0'
            )
            raise document.error((*path, key), None, reason)
    recovery = table.get("recovery")
    if isinstance(recovery, Mapping) and recovery.get("restart") == "always":
        reason = 'it contradicts type = "oneshot": write "on-failure" or "never", or a schedule'
        raise document.error((*path, "recovery", "restart"), "always", reason)


def _refuse_without_type(document: Document, path: KeyPath, own: Mapping[str, Any]) -> None:
    if own.get("remain"):
        raise document.error((*path, "remain"), True, 'it goes with type = "oneshot" only')
    if own.get("timeout"):
        reason = 'it goes with type = "oneshot" only; resources.max_task_duration limits a task'
        raise document.error((*path, "timeout"), own["timeout"], reason)
