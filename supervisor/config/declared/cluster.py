"""Decodes `[cluster]`: the engine, and what this node is to the others.

Errors name file, key, value and reason, and never repeat a token or the password of an address.
"""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from corral.worker.contract.names import LOCAL

from ..decoding.decoder import Document, decode_inline
from ..decoding.keys import Change, Fields, Key, fields_of, schema_of
from ..decoding.shapes import STRINGS, TEXT, accepts
from ..decoding.values import Path, PositiveSeconds, Refused, duration, is_table, matching, whole, whole_seconds

EngineKind = Literal["nats", "redis"]

SCHEMES: Mapping[EngineKind, Mapping[str, int]] = {
    "nats": {"nats": 4222, "tls": 4222},
    "redis": {"redis": 6379, "rediss": 6379},
}
"""The schemes of an engine's addresses, each with its usual port."""

CAPACITY_MAX = 1_000_000
"""Number of workers that a node may claim room for."""

LABELS_MAX = 32
"""Number of labels of a node."""

REPLICAS_MAX = 10_000
"""Number of replicas that an agent may have over all nodes."""

LEASE_MIN_S, LEASE_MAX_S = 2, 3600
"""Seconds of the shortest and of the longest lease."""

BEFORE_END_S = 1.25
"""Seconds before the end of its lease at which a node stops its workers, see `lease.Timing`."""

BEATS_MIN = 1.5
"""Number of beats that have to fit before a node without an answer stops its workers; 0.5 s of the shortest lease of 2 s."""

NODE = LOCAL
"""Pattern of the name of a node."""

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_./-]{0,62})")


@accepts("table of strings", STRINGS)
def node_labels(raw: object) -> dict[str, str]:
    """Accepts a table of labels: { zone = "a", gpu = "yes" }."""
    if not is_table(raw):
        raise Refused('write a table of strings: { zone = "a" }')
    if len(raw) > LABELS_MAX:
        raise Refused(f"write at most {LABELS_MAX} labels, not {len(raw)}")
    found: dict[str, str] = {}
    for name, value in raw.items():
        for text in (name, value):
            if not isinstance(text, str) or not _LABEL.fullmatch(text):
                reason = "a label and its value have 1 to 63 letters, digits, _, ., / and -"
                raise Refused(f"{reason}, as strings", text)
        found[name] = str(value)
    return found


@accepts("addresses with commas between", TEXT)
def addresses(raw: object) -> str:
    """Accepts the addresses of an engine's servers, with commas between."""
    if not isinstance(raw, str) or not raw or re.search(r"[\s\\]", raw):
        raise Refused('write "nats://HOST:PORT" or "redis://HOST:PORT" as a string', "...")
    return raw


@accepts("string, or `${secret:NAME}`", TEXT)
def hidden(raw: object) -> str:
    """Accepts a token, which no error repeats."""
    if not isinstance(raw, str) or not raw or re.search(r"[\x00-\x20\x7f]", raw):
        raise Refused("write it as a string without spaces", "...")
    return raw


class Placement(Struct, frozen=True, kw_only=True):
    """Holds `[agents.NAME.placement]`: the labels that a node must have, and over what replicas are spread."""

    labels: Annotated[dict[str, str], node_labels] = {}
    spread: Literal["none", "node"] = "none"
    replicas: Annotated[int, whole(0, REPLICAS_MAX)] = 1


PLACEMENT_KEYS = fields_of(Placement)


@accepts("table: `labels`, `spread`, `replicas`", lambda: schema_of(Placement))
def placement_table(raw: object) -> Placement:
    """Decodes the table `placement`."""
    return Placement(**decode_inline(raw, PLACEMENT_KEYS, "placement = { replicas = 3 }"))


class ClusterSettings(Struct, frozen=True, kw_only=True):
    """Holds `[cluster]`. `node` "" is the host's name; `token` may be `${secret:NAME}`; paths are absolute.

    `lease` and `beat` are seconds: how long a node counts as alive after its last beat, and between two beats.
    """

    changes: ClassVar[Change] = "daemon"

    engine: EngineKind
    """The kind of server that keeps leases and placements."""
    url: Annotated[str, addresses]
    """The servers, such as `nats://10.0.0.1:4222,nats://10.0.0.2:4222` or `redis://10.0.0.1:6379`; `tls://` and
    `rediss://` are encrypted."""
    node: Annotated[
        str, matching(NODE, "a name of 1 to 48 letters, digits, _ and -"), Key(default="the host's name")
    ] = ""
    """The name of this node: a second daemon of that name waits until the first one's lease has ended."""
    labels: Annotated[dict[str, str], node_labels] = {}
    """Words that placements ask for."""
    capacity: Annotated[int, whole(1, CAPACITY_MAX)] = 100
    """How many replicas of placed agents this node takes."""
    token: Annotated[str, hidden] = ""
    """The token or password of the engine; it gives admin rights on every node."""
    tls_ca: Annotated[Path, Key(default="those of the system")] | None = None
    """The certificates that the servers' are checked with."""
    tls_certificate: Path | None = None
    """The certificate of this node."""
    tls_key: Path | None = None
    """Its key."""
    lease: Annotated[int, duration, whole_seconds, Key(unit=f"whole seconds, {LEASE_MIN_S} to {LEASE_MAX_S}")] = 3
    """How long a node counts as alive after its last beat; it stops its placed agents 1.25 s before. Three servers of
    NATS need `"10s"`, see [leases](../explanation/engines.md#leases)."""
    beat: PositiveSeconds = 0.5
    """The time between two beats."""

    @property
    def urls(self) -> tuple[str, ...]:
        """Returns the addresses of the servers."""
        return tuple(self.url.split(","))

    @property
    def shown(self) -> str:
        """Returns the addresses without what may be a secret in them."""
        return ",".join(re.sub(r"//[^/@]*@", "//", url) for url in self.urls)


CLUSTER_KEYS: Fields = fields_of(ClusterSettings)


def decode_cluster(document: Document, table: Mapping[str, object]) -> ClusterSettings:
    """Decodes the table `[cluster]`."""
    keys = document.decode(("cluster",), table, CLUSTER_KEYS)
    document.require(("cluster",), keys, engine='engine = "nats"', url='url = "nats://HOST:4222"')
    found = ClusterSettings(**keys)
    for url in found.urls:
        if reason := _why_refused(found.engine, url):
            raise document.error(("cluster", "url"), "...", reason)
    if (found.tls_certificate is None) != (found.tls_key is None):
        given = "tls_certificate" if found.tls_key is None else "tls_key"
        other = "tls_key" if found.tls_key is None else "tls_certificate"
        raise document.error(("cluster", other), None, f"it is missing: {given} needs it")
    if not LEASE_MIN_S <= found.lease <= LEASE_MAX_S:
        raise document.error(("cluster", "lease"), found.lease, f"write {LEASE_MIN_S} s to {LEASE_MAX_S} s")
    if found.beat * BEATS_MIN > found.lease - BEFORE_END_S:
        reason = f"{BEATS_MIN} beats have to fit into lease less {BEFORE_END_S} s"
        raise document.error(("cluster", "beat"), found.beat, reason)
    return found


def node_name(settings: ClusterSettings, host: str) -> str:
    """Returns the name of this node: the one of the settings, else the first part of the host's name."""
    name = settings.node or host.partition(".")[0]
    if not re.fullmatch(NODE, name):
        raise Refused('the host\'s name cannot be one of a node: write node = "NAME"', name)
    return name


def _why_refused(engine: EngineKind, url: str) -> str:
    schemes = SCHEMES[engine]
    example = f'write "{next(iter(schemes))}://HOST:PORT"'
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # whose text has the address
        return example
    if parts.scheme not in schemes:
        return f'{example}: engine = "{engine}" has no scheme "{parts.scheme}"'
    if not parts.hostname or port == 0:
        return example
    if engine == "nats" and parts.path.strip("/"):
        return f"{example} without a path"
    return ""
