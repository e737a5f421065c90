"""Defines the methods about teams and workflows."""

from ..control.params import GroupAddParams, GroupRemoveParams, NameParams, NoParams
from ..control.results import Removed, Teams, TeamShown, Workflows, WorkflowShown
from .faces import faces
from .method import method
from .rules import NAME, NEW_TEAM, NEW_WORKFLOW, Rule

TEAM_LIST = method(
    "team.list",
    "read",
    NoParams,
    Teams,
    scope=Rule(lists=(("teams", "name"),)),
    faces=faces("GET /teams", python="list_teams", command="team list"),
    doc="Lists the teams.",
)

TEAM_SHOW = method(
    "team.show",
    "read",
    NameParams,
    TeamShown,
    scope=NAME,
    faces=faces("GET /teams/{name}", python="show_team", command="team show"),
    doc="Returns one team in full, with its spec.",
    example={"name": "readers"},
)

TEAM_ADD = method(
    "team.add",
    "admin",
    GroupAddParams,
    Teams,
    recorded="or-refused",
    tenant=NEW_TEAM,
    faces=faces("POST /teams", python="add_team", command="team add"),
    doc="Adds teams, which are kept until they are removed.",
    example={"name": "readers", "spec": {"members": ["crawler", "writer"]}},
)

TEAM_RM = method(
    "team.rm",
    "admin",
    GroupRemoveParams,
    Removed,
    recorded="always",
    recorded_keys=("removed",),
    scope=NAME,
    faces=faces("DELETE /teams/{name}", python="remove_team", command="team rm"),
    doc="Removes a team; its tasks that are under way go on.",
    example={"name": "readers"},
)

WORKFLOW_LIST = method(
    "workflow.list",
    "read",
    NoParams,
    Workflows,
    scope=Rule(lists=(("workflows", "name"),)),
    faces=faces("GET /workflows", python="list_workflows", command="workflow list"),
    doc="Lists the workflows.",
)

WORKFLOW_SHOW = method(
    "workflow.show",
    "read",
    NameParams,
    WorkflowShown,
    scope=NAME,
    faces=faces("GET /workflows/{name}", python="show_workflow", command="workflow show"),
    doc="Returns one workflow in full, with its steps.",
    example={"name": "digest"},
)

WORKFLOW_ADD = method(
    "workflow.add",
    "admin",
    GroupAddParams,
    Workflows,
    recorded="or-refused",
    tenant=NEW_WORKFLOW,
    faces=faces("POST /workflows", python="add_workflow", command="workflow add"),
    doc="Adds workflows, which are kept until they are removed.",
    example={"name": "digest", "spec": {"steps": [{"name": "read", "agent": "crawler", "objective": "Read the page"}]}},
)

WORKFLOW_RM = method(
    "workflow.rm",
    "admin",
    GroupRemoveParams,
    Removed,
    recorded="always",
    recorded_keys=("removed",),
    scope=NAME,
    faces=faces("DELETE /workflows/{name}", python="remove_workflow", command="workflow rm"),
    doc="Removes a workflow; its tasks that are under way go on.",
    example={"name": "digest"},
)
