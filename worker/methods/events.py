"""Defines the methods about events, logs and the audit."""

from msgspec import Struct

from ..control import params, results
from .faces import Resumption, faces
from .method import Signature, access, method
from .rules import LOGS, OPEN, Rule

EVENT_LIST = method(
    Signature("event.list", params.EventParams, results.Events),
    access("read", Rule("agent", lists=(("events", "agent"),))),
    faces("GET /events", python="list_events", command="events"),
    "Lists stored events, oldest first; `next`, where it is not null, is the `since` for more of them.",
    example={"types": ["task.*"], "n": 10},
)

EVENT_FOLLOW = method(
    Signature("event.follow", params.EventParams, results.Position),
    access("read", Rule("agent", sends=(("event", "events", "agent"),))),
    faces(
        "GET /events",
        python="events",
        command="events",
        streams=True,
        only_streams=True,
        resumption=Resumption("seq", "since"),
    ),
    "Sends stored events after `position`, then all new ones, as `event` notifications {events}.",
    example={"types": ["task.*"], "n": 10},
)


class EventTypesParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Chooses types of events by globs, such as `task.*`; all without."""

    types: list[str] | None = None


class EventField(Struct, frozen=True, kw_only=True):
    """Describes a field of the events of one type; `kind` names its JSON type or its unit."""

    name: str
    kind: str
    meaning: str


class EventType(Struct, frozen=True, kw_only=True):
    """Describes a type of event that the daemon publishes.

    `subject` says which of agent and worker its events name; `stored` is "yes", "no", or when they are.
    """

    type: str
    meaning: str
    subject: str
    stored: str
    fields: list[EventField]


class EventTypes(Struct, frozen=True, kw_only=True):
    """Lists the types of events that the daemon publishes, by name."""

    types: list[EventType]


EVENT_TYPES = method(
    Signature("event.types", EventTypesParams, EventTypes),
    access("read", OPEN),
    faces("GET /events/types", python="list_event_types"),
    """Lists the types of events that the daemon publishes: when each is published, and what its fields mean.

    Types that agents publish are their own, and are not among them.
    """,
    example={"types": ["task.*"]},
)

EVENT_PUBLISH = method(
    Signature("event.publish", params.EventPublishParams, results.Published),
    access("operate", tenant=OPEN),
    faces("POST /events", python="publish", command="events publish"),
    "Publishes an event to the subscribers of its type; returns its number.",
    example={"type": "price.changed", "data": {"item": "A-17", "price": 12.5}},
)

AUDIT_LIST = method(
    Signature("audit.list", params.AuditParams, results.AuditPage),
    access("operate", tenant=OPEN),
    faces("GET /audit", python="list_audit", command="audit list"),
    "Lists audit records, oldest first: the newest `n`, or those after `since`; `next` is the next `before`, or `since`.",
    example={"actions": ["agent.*"], "n": 20},
)

AUDIT_VERIFY = method(
    Signature("audit.verify", params.VerifyParams, results.AuditVerdict),
    access("operate"),
    faces("GET /audit/verify", python="verify_audit", command="audit verify"),
    "Verifies the whole chain of hashes; `wrong` is the first record that was changed.",
)

LOG_READ = method(
    Signature("log.read", params.LogParams, results.LogLines),
    access("read", LOGS),
    faces("GET /logs", python="read_logs", command="logs"),
    "Returns the last lines of the logs, merged by time, up to 8 MiB of JSON.",
    example={"names": ["crawler"], "n": 10, "stream": "stderr"},
)

LOG_FOLLOW = method(
    Signature("log.follow", params.LogParams, results.LogPlace),
    access("read", LOGS),
    faces(
        "GET /logs",
        python="follow_logs",
        command="logs",
        streams=True,
        only_streams=True,
        resumption=Resumption("position", "after", of_all=True),
    ),
    "Sends the last lines, then new ones, as `log` notifications {records, position}; without `follow` the last ones, then `log.end`.",
    example={"names": ["crawler"], "n": 10},
)
