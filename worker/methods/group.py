"""Defines the methods about teams and workflows."""

from ..control.params import GroupAddParams, GroupRemoveParams, NameParams, NoParams
from ..control.results import Removed, Teams, TeamShown, Workflows, WorkflowShown
from .faces import faces
from .method import Signature, access, method
from .rules import NAME, NEW_TEAM, NEW_WORKFLOW, Rule

TEAM_LIST = method(
    Signature("team.list", NoParams, Teams),
    access("read", Rule(lists=(("teams", "name"),))),
    faces("GET /teams", python="list_teams", command="team list"),
    "Lists the teams.",
)

TEAM_SHOW = method(
    Signature("team.show", NameParams, TeamShown),
    access("read", NAME),
    faces("GET /teams/{name}", python="show_team", command="team show"),
    "Returns one team in full, with its spec.",
    example={"name": "readers"},
)

TEAM_ADD = method(
    Signature("team.add", GroupAddParams, Teams),
    access("admin", tenant=NEW_TEAM, recorded="or-refused"),
    faces("POST /teams", python="add_team", command="team add"),
    "Adds teams, which are kept until they are removed.",
    example={"name": "readers", "spec": {"members": ["crawler", "writer"]}},
)

TEAM_RM = method(
    Signature("team.rm", GroupRemoveParams, Removed),
    access("admin", NAME, recorded="always", recorded_keys=("removed",)),
    faces("DELETE /teams/{name}", python="remove_team", command="team rm"),
    "Removes a team; its running tasks go on.",
    example={"name": "readers"},
)

WORKFLOW_LIST = method(
    Signature("workflow.list", NoParams, Workflows),
    access("read", Rule(lists=(("workflows", "name"),))),
    faces("GET /workflows", python="list_workflows", command="workflow list"),
    "Lists the workflows.",
)

WORKFLOW_SHOW = method(
    Signature("workflow.show", NameParams, WorkflowShown),
    access("read", NAME),
    faces("GET /workflows/{name}", python="show_workflow", command="workflow show"),
    "Returns one workflow in full, with its steps.",
    example={"name": "digest"},
)

WORKFLOW_ADD = method(
    Signature("workflow.add", GroupAddParams, Workflows),
    access("admin", tenant=NEW_WORKFLOW, recorded="or-refused"),
    faces("POST /workflows", python="add_workflow", command="workflow add"),
    "Adds workflows, which are kept until they are removed.",
    example={"name": "digest", "spec": {"steps": [{"name": "read", "agent": "crawler", "objective": "Read the page"}]}},
)

WORKFLOW_RM = method(
    Signature("workflow.rm", GroupRemoveParams, Removed),
    access("admin", NAME, recorded="always", recorded_keys=("removed",)),
    faces("DELETE /workflows/{name}", python="remove_workflow", command="workflow rm"),
    "Removes a workflow; its running tasks go on.",
    example={"name": "digest"},
)
