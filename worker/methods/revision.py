"""Defines the methods about revisions of agents, servers, teams and workflows."""

from ..control.revisions import (
    RevisionDiff,
    RevisionDiffParams,
    RevisionListParams,
    Revisions,
    RevisionShown,
    RevisionShowParams,
    RollbackParams,
    RolledBack,
)
from .faces import faces
from .method import method
from .rules import NAME

REVISION_LIST = method(
    "revision.list",
    "read",
    RevisionListParams,
    Revisions,
    scope=NAME,
    faces=faces("GET /agents/{name}/revisions", python="list_revisions", command="history"),
    doc="Lists the revisions of an agent, server, team or workflow, the newest first.",
    example={"name": "crawler", "limit": 10},
)

REVISION_SHOW = method(
    "revision.show",
    "read",
    RevisionShowParams,
    RevisionShown,
    scope=NAME,
    faces=faces("GET /agents/{name}/revision", python="show_revision", command="history"),
    doc="Returns one revision with its table; values of environment, headers and secrets are hidden.",
    example={"name": "crawler", "revision": 3},
)

REVISION_DIFF = method(
    "revision.diff",
    "read",
    RevisionDiffParams,
    RevisionDiff,
    scope=NAME,
    faces=faces("GET /agents/{name}/diff", python="diff_revisions", command="diff"),
    doc="Compares two revisions key by key; values of environment, headers and secrets are hidden.",
    example={"name": "crawler", "before": 2, "after": 3},
)

AGENT_ROLLBACK = method(
    "agent.rollback",
    "admin",
    RollbackParams,
    RolledBack,
    recorded="or-refused",
    recorded_keys=("revision", "of", "changed"),
    faces=faces("POST /agents/{name}/rollback", python="rollback_agent", command="rollback"),
    doc="Puts the table of an earlier revision in force again, as a new revision; also of a server, team or workflow.",
    example={"name": "crawler", "revision": 3, "why": "it lost pages"},
)
