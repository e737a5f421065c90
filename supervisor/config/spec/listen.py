"""Decodes `listen`: the addresses whose listening sockets the daemon holds for an agent.

An address is written as a string, or as a table where it has a name or, of a unix socket, a mode.
"""

import ipaddress
import re

from msgspec import Struct

from ..decoding.shapes import TEXT, Schema, accepts, closed_object
from ..decoding.values import Refused, is_list, is_table, kind_of

ADDRESSES_MAX = 10
"""Number of addresses of one agent: their descriptors travel in one message to the launcher."""

UNIX = "unix:"
PATH_BYTES_MAX = 107
"""Bytes of the path of a unix socket, see unix(7)."""

NAME = r"[!-9;-~]{1,255}"
"""Names of descriptors as sd_listen_fds(3) has them: printable ASCII without a colon."""

MODE = r"0?[0-7]{3}"
WORDS = 'write "HOST:PORT" with an IP address, or "unix:/PATH"'


class ListenAddress(Struct, frozen=True):
    """Represents one address: `HOST:PORT`, or `unix:` and an absolute path, whose socket gets `mode`.

    `name` is that of its descriptor in LISTEN_FDNAMES; "" is the name of the agent.
    """

    address: str
    name: str = ""
    mode: str = ""

    @property
    def path(self) -> str | None:
        """Returns the path of a unix socket; None for TCP."""
        return self.address.removeprefix(UNIX) if self.address.startswith(UNIX) else None

    @property
    def place(self) -> tuple[str, int]:
        """Returns host and port; of a unix socket the whole address, and 0."""
        if self.path is not None:
            return self.address, 0
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def plain(self) -> object:
        """Returns the value as it is written in a file: a string where that is enough."""
        given = {key: value for key, value in {"name": self.name, "mode": self.mode}.items() if value}
        return {"address": self.address, **given} if given else self.address


def _schema() -> Schema:
    properties: dict[str, Schema] = {
        "address": TEXT,
        "name": {"type": "string", "pattern": f"^{NAME}$"},
        "mode": {"type": "string", "pattern": f"^{MODE}$"},
    }
    one = [TEXT, closed_object(properties, "address")]
    return {"anyOf": [*one, {"type": "array", "items": {"anyOf": one}, "maxItems": ADDRESSES_MAX}]}


@accepts("address, or list of them", _schema)
def listen_addresses(raw: object) -> tuple[ListenAddress, ...]:
    """Decodes one address, or a list of them."""
    items = raw if is_list(raw) else [raw]
    if len(items) > ADDRESSES_MAX:
        raise Refused(f"write at most {ADDRESSES_MAX} addresses")
    found = tuple(map(_listen_address, items))
    for n, each in enumerate(found):
        is_free = each.path is None and each.place[1] == 0  # any port that is free
        if not is_free and each.place in [other.place for other in found[:n]]:
            raise Refused("this address is there twice", each.address)
    return found


def _listen_address(raw: object) -> ListenAddress:
    if not is_table(raw):
        return ListenAddress(_address(raw))
    if unknown := set(raw) - {"address", "name", "mode"}:
        raise Refused(f'"{min(unknown)}" is no key here: write address, name and mode')
    if "address" not in raw:
        raise Refused('write { address = "HOST:PORT", name = "NAME" }')
    name, mode = raw.get("name", ""), raw.get("mode", "")
    found = ListenAddress(_address(raw["address"]))
    if not isinstance(name, str) or ("name" in raw and not re.fullmatch(NAME, name)):
        raise Refused("a name has up to 255 printable characters without a colon", name)
    if "mode" in raw and found.path is None:
        raise Refused("mode is for unix sockets: TCP has none", mode)
    if not isinstance(mode, str) or ("mode" in raw and not re.fullmatch(MODE, mode)):
        raise Refused('write mode as an octal number in a string: "0660"', mode)
    return ListenAddress(found.address, name, mode)


def _address(raw: object) -> str:
    if not isinstance(raw, str):
        raise Refused(WORDS, raw if isinstance(raw, int) else kind_of(raw))
    if raw.startswith(UNIX):
        path = raw.removeprefix(UNIX)
        if not path.startswith("/") or "\0" in path or path.endswith("/"):
            raise Refused('write the whole path: "unix:/run/NAME.sock"', raw)
        if len(path.encode()) > PATH_BYTES_MAX:
            raise Refused(f"the path of a unix socket has at most {PATH_BYTES_MAX} bytes", raw)
        return raw
    host, colon, port = raw.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise Refused(f"{WORDS}; a port is a number from 0 to 65535", raw)
    if host == "localhost":
        return f"127.0.0.1:{int(port)}"
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        found = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise Refused(WORDS, raw) from None
    if (found.version == 6) is not bracketed:
        raise Refused('write an IPv6 address in brackets: "[::1]:8080"', raw)
    return f"[{found}]:{int(port)}" if bracketed else f"{found}:{int(port)}"
