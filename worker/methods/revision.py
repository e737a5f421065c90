"""Defines the methods about revisions of agents, servers, teams and workflows."""

from ..control import revisions
from .faces import faces
from .method import Signature, access, method
from .rules import NAME

REVISION_LIST = method(
    Signature("revision.list", revisions.RevisionListParams, revisions.Revisions),
    access("read", NAME),
    faces("GET /agents/{name}/revisions", python="list_revisions", command="history"),
    "Lists the revisions of an agent, server, team or workflow, the newest first.",
    example={"name": "crawler", "limit": 10},
)

REVISION_SHOW = method(
    Signature("revision.show", revisions.RevisionShowParams, revisions.RevisionShown),
    access("read", NAME),
    faces("GET /agents/{name}/revision", python="show_revision", command="history"),
    "Returns one revision with its table; values of environment, headers and secrets are hidden.",
    example={"name": "crawler", "revision": 3},
)

REVISION_DIFF = method(
    Signature("revision.diff", revisions.RevisionDiffParams, revisions.RevisionDiff),
    access("read", NAME),
    faces("GET /agents/{name}/diff", python="diff_revisions", command="diff"),
    "Compares two revisions key by key; values of environment, headers and secrets are hidden.",
    example={"name": "crawler", "before": 2, "after": 3},
)

AGENT_ROLLBACK = method(
    Signature("agent.rollback", revisions.RollbackParams, revisions.RolledBack),
    access("admin", recorded="or-refused", recorded_keys=("revision", "of", "changed")),
    faces("POST /agents/{name}/rollback", python="rollback_agent", command="rollback"),
    "Restores the table of an earlier revision, as a new revision; also of a server, team or workflow.",
    example={"name": "crawler", "revision": 3, "why": "it lost pages"},
)
