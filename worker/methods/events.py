"""Defines the methods about events, logs and the audit."""

from ..control.params import AuditParams, EventParams, EventPublishParams, LogParams, VerifyParams
from ..control.results import AuditPage, AuditVerdict, Events, LogLines, LogPlace, Position, Published
from .faces import Resumption, faces
from .method import Signature, access, method
from .rules import LOGS, OPEN, Rule

EVENT_LIST = method(
    Signature("event.list", EventParams, Events),
    access("read", Rule("agent", lists=(("events", "agent"),))),
    faces("GET /events", python="list_events", command="events"),
    "Lists stored events, oldest first; `next`, where it is not null, is the `since` for more of them.",
    example={"types": ["task.*"], "n": 10},
)

EVENT_FOLLOW = method(
    Signature("event.follow", EventParams, Position),
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

EVENT_PUBLISH = method(
    Signature("event.publish", EventPublishParams, Published),
    access("operate", tenant=OPEN),
    faces("POST /events", python="publish", command="events publish"),
    "Publishes an event to the subscribers of its type; returns its number.",
    example={"type": "price.changed", "data": {"item": "A-17", "price": 12.5}},
)

AUDIT_LIST = method(
    Signature("audit.list", AuditParams, AuditPage),
    access("operate", tenant=OPEN),
    faces("GET /audit", python="list_audit", command="audit list"),
    "Lists audit records, oldest first: the newest `n`, or those after `since`; `next` is the next `before`, or `since`.",
    example={"actions": ["agent.*"], "n": 20},
)

AUDIT_VERIFY = method(
    Signature("audit.verify", VerifyParams, AuditVerdict),
    access("operate"),
    faces("GET /audit/verify", python="verify_audit", command="audit verify"),
    "Verifies the whole chain of hashes; `wrong` is the first record that was changed.",
)

LOG_READ = method(
    Signature("log.read", LogParams, LogLines),
    access("read", LOGS),
    faces("GET /logs", python="read_logs", command="logs"),
    "Returns the last lines of the logs, merged by time, up to 8 MiB of JSON.",
    example={"names": ["crawler"], "n": 10, "stream": "stderr"},
)

LOG_FOLLOW = method(
    Signature("log.follow", LogParams, LogPlace),
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
