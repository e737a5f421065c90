"""Converts socket units of systemd: their addresses become `listen` of the service that they belong to."""

import re
from collections.abc import Mapping, Sequence

from .draft import Draft

MODE = "0666"
"""Mode of a unix socket of systemd that has no SocketMode=."""

NOT_NEEDED = frozenset({"Backlog", "RemoveOnStop", "Service", "Accept", "SocketMode"}) | {
    "FileDescriptorName",
    "ReusePort",
}
NO_EQUIVALENT = "only ListenStream= has an equivalent: TCP, and unix sockets with a path"


def service_of(name: str, unit: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """Returns the name of the service that a socket unit belongs to."""
    return dict(unit.get("Socket", ())).get("Service", name.removesuffix(".socket") + ".service")


def convert_socket(draft: Draft, name: str, unit: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Adds the addresses of a socket unit to its service, or notes why not."""
    settings = unit.get("Socket", ())
    known = dict(settings)
    service = service_of(name, unit)
    entry = draft.named(service.removesuffix(".service"))
    if entry is None:
        draft.note(name, f"{service} is not among the files: import both")
        return
    if known.get("Accept", "no") in ("yes", "true", "1", "on"):
        draft.note(name, "Accept=yes starts a process for each connection: no equivalent")
        return
    found: list[object] = []
    for key, value in settings:
        if key == "ListenStream":
            address = _address(value)
            if address is None:
                draft.note(f"{name}: {key}={value}", NO_EQUIVALENT)
            else:
                found.append(_item(address, known))
        elif key.startswith("Listen"):
            draft.note(f"{name}: {key}={value}", NO_EQUIVALENT)
        elif key not in NOT_NEEDED:
            draft.note(f"{name}: {key}={value}", "no equivalent")
    if found:
        entry.set("listen", found)


def _address(value: str) -> str | None:
    if value.startswith("/"):
        return f"unix:{value}"
    if value.isdecimal():
        return f"[::]:{value}"
    is_tcp = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]+", value)
    return value if is_tcp else None


def _item(address: str, known: Mapping[str, str]) -> object:
    item: dict[str, object] = {"address": address}
    if "FileDescriptorName" in known:
        item["name"] = known["FileDescriptorName"]
    if address.startswith("unix:"):
        item["mode"] = known.get("SocketMode", MODE)
    return item if len(item) > 1 else address
