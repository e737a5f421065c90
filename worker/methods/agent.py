"""Defines the methods about agents and servers, teams and workflows: show, start, stop and change them, their revisions, and commands in a worker."""

from ..contract.records import AgentStatus
from ..control import params, results, revisions, runtime_results
from .faces import faces
from .method import Signature, access, method
from .rules import ALL_NAMES, NAME, NAMES, NAMES_AND_GROUPS, NEW_AGENT, NEW_TEAM, NEW_WORKFLOW, OPEN, TABLE, Rule

AGENT_SHOW = method(
    Signature("agent.show", params.NameParams, results.AgentShown),
    access("read", NAME),
    faces("GET /agents/{name}", python="show_agent", command="show"),
    """Returns one agent in full: its spec (values of environment and headers hidden), last exits, the end of its stderr.

    While a change is rolled out, the spec is the new one; `agent.rolling` says how far that is.

    Of a team or workflow: its spec.
    """,
    example={"name": "crawler"},
)

AGENT_SELECT = method(
    Signature("agent.select", params.SelectionParams, results.Names),
    access("read", ALL_NAMES),
    faces("GET /select", python="select_agents"),
    "Returns the names of the agents, MCP servers, teams, workflows and workers that the params choose.",
    example={"selector": "team=red"},
)

AGENT_START = method(
    Signature("agent.start", params.NamesParams, results.AgentsChanged),
    access("operate", NAMES, recorded="or-refused"),
    faces("POST /agents/{names}/start", "POST /agents/start", python="start_agent", command="start"),
    """Starts agents or workers and waits until they are ready, jobs until they have succeeded.

    A choice that does not name them leaves out jobs that have succeeded, or that are not to start by themselves.
    """,
    example={"names": ["crawler"], "timeout_s": 30.0},
)

AGENT_STOP = method(
    Signature("agent.stop", params.NamesParams, results.AgentsChanged),
    access("operate", NAMES, recorded="always"),
    faces("POST /agents/{names}/stop", "POST /agents/stop", python="stop_agent", command="stop"),
    "Stops agents or workers and waits until no process of them is left.",
    example={"names": ["crawler"], "timeout_s": 30.0},
)

AGENT_RESTART = method(
    Signature("agent.restart", params.NamesParams, results.AgentsChanged),
    access("operate", NAMES, recorded="or-refused"),
    faces("POST /agents/{names}/restart", "POST /agents/restart", python="restart_agent", command="restart"),
    "Stops agents or workers, starts them again and waits until they are ready; leaves out jobs that neither run nor are named.",
    example={"names": ["crawler"], "wait": False},
)

AGENT_RESET = method(
    Signature("agent.reset", params.NamesParams, results.AgentsChanged),
    access("operate", NAMES, recorded="or-refused"),
    faces("POST /agents/{names}/reset", "POST /agents/reset", python="reset_agent", command="reset"),
    "Forgets failures: agents that should run and have given up start again.",
    example={"names": ["crawler"]},
)

AGENT_PAUSE = method(
    Signature("agent.pause", params.SelectionParams, results.AgentsChanged),
    access("operate", NAMES, recorded="always"),
    faces("POST /agents/{names}/pause", "POST /agents/pause", python="pause_agent", command="pause"),
    "Freezes agents or workers with all their processes, until they are resumed, stopped or die.",
    example={"names": ["crawler"]},
)

AGENT_RESUME = method(
    Signature("agent.resume", params.SelectionParams, results.AgentsChanged),
    access("operate", NAMES, recorded="always"),
    faces("POST /agents/{names}/resume", "POST /agents/resume", python="resume_agent", command="resume"),
    "Lets paused agents or workers run again.",
    example={"names": ["crawler"]},
)

AGENT_HIBERNATE = method(
    Signature("agent.hibernate", params.HibernateParams, results.AgentsChanged),
    access("operate", NAMES, recorded="always"),
    faces("POST /agents/{names}/hibernate", "POST /agents/hibernate", python="hibernate_agent", command="hibernate"),
    "Saves a checkpoint of agents or workers, and ends their processes until a task, `wake` or `start` comes.",
    example={"names": ["crawler"], "timeout_s": 30.0},
)

AGENT_WAKE = method(
    Signature("agent.wake", params.NamesParams, results.AgentsChanged),
    access("operate", NAMES, recorded="or-refused"),
    faces("POST /agents/{names}/wake", "POST /agents/wake", python="wake_agent", command="wake"),
    "Starts hibernated agents or workers with their checkpoints, and waits until they are ready.",
    example={"names": ["crawler"]},
)

AGENT_ADD = method(
    Signature("agent.add", params.AddParams, AgentStatus),
    access("admin", tenant=NEW_AGENT, recorded="or-refused"),
    faces("POST /agents", python="add_agent", command="add"),
    "Adds an agent or an MCP server, which is kept until it is removed.",
    example={"name": "crawler", "spec": {"entrypoint": "crawler:agent", "instances": 2}},
)

AGENT_ADD_ALL = method(
    Signature("agent.add_all", params.AddAllParams, results.AgentsAdded),
    access("admin", tenant=NEW_AGENT, recorded="or-refused", recorded_keys=("failures",)),
    faces("POST /agents/batch", python="add_agents", command="add"),
    """Adds several agents and MCP servers, all or none; `failures` has those that did not start.

    `added`, `changed` (with the keys) and `unchanged` are the names, also those of a dry run.
    """,
    example={
        "agents": [{"name": "crawler", "spec": {"entrypoint": "crawler:agent", "instances": 2}}],
        "present": "replace",
    },
)

AGENT_LIST = method(
    Signature("agent.list", params.StatusParams, runtime_results.Agents),
    access("read", ALL_NAMES),
    faces("GET /agents", python="list_agents", command="status"),
    "Lists the status of agents and MCP servers: of all, or of those that the params choose.",
    example={"names": ["crawl*"]},
)

AGENT_SET = method(
    Signature("agent.set", params.AgentSetParams, runtime_results.AgentSet),
    access("admin", tenant=TABLE, recorded="or-refused", recorded_keys=("changed",)),
    faces("PATCH /agents/{name}", python="set_agent", command="set"),
    "Changes keys of an agent, server, team or workflow; each change is a revision.",
    example={"name": "crawler", "spec": {"title": "The crawler", "labels": {"team": "red"}}},
)

AGENT_RM = method(
    Signature("agent.rm", params.RemoveParams, results.Removed),
    access("admin", NAMES_AND_GROUPS, recorded="always", recorded_keys=("removed",)),
    faces("DELETE /agents/{names}", "DELETE /agents", python="remove_agent", command="rm"),
    "Stops agents and MCP servers and removes them, all or none; returns the removed names.",
    example={"names": ["crawler"]},
)

AGENT_EXPOSE = method(
    Signature("agent.expose", params.ExposeParams, results.Exposed),
    access("admin", NAME, tenant=None, recorded="or-refused", recorded_keys=("service",)),
    faces("POST /agents/{name}/expose", python="expose_agent", command="expose"),
    "Serves an agent, team or workflow over HTTP at an address of its own, or stops that; lasts until it is removed.",
    example={"name": "crawler", "address": "127.0.0.1:8000"},
)

AGENT_SCALE = method(
    Signature("agent.scale", params.ScaleParams, AgentStatus),
    access("operate", NAME, recorded="or-refused"),
    faces("POST /agents/{name}/scale", python="scale_agent", command="scale"),
    "Changes the number of workers of an agent; of a placed one that of its replicas on all nodes together.",
    example={"name": "crawler", "instances": 4},
)

AGENT_SIGNAL = method(
    Signature("agent.signal", params.SignalParams, results.Names),
    access("operate", NAMES, recorded="always"),
    faces("POST /agents/{names}/signal", "POST /agents/signal", python="signal_agent", command="signal"),
    "Sends a signal to the leader of each worker that runs.",
    example={"names": ["crawler"], "signal": "SIGUSR1"},
)


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


ENDS_WITH_CONNECTION = (
    "its command ends with its connection, and its input belongs to that connection alone: use the socket"
)

AGENT_EXEC = method(
    Signature("agent.exec", params.ExecParams, results.ExecStarted),
    access("admin", NAME, recorded="or-refused", recorded_keys=("exec", "worker", "pid")),
    faces(python="exec_command", command="exec", reason=ENDS_WITH_CONNECTION),
    """Runs a command with the user, limits, isolation and environment of a worker; it ends with this connection.

    It reaches the secrets of the agent, and whatever the agent may write to: so it needs the right admin.
    """,
    example={"name": "crawler-0", "argv": ["ls", "-l"]},
)

AGENT_EXEC_INPUT = method(
    Signature("agent.exec_input", params.ExecInputParams, results.ExecInput),
    access("admin", OPEN),
    faces(command="exec", reason=ENDS_WITH_CONNECTION),
    "Writes to a running command of this connection, and answers once it is taken; signals it; resizes its terminal.",
    example={"exec": "crawler-0.exec#7.1", "data": "bHMK"},
)

AGENT_RUN_COMMAND = method(
    Signature("agent.run_command", params.RunCommandParams, results.CommandRun),
    access("admin", NAME, recorded="or-refused", recorded_keys=("exec", "worker")),
    faces("POST /agents/{name}/exec", python="run_command", command="exec"),
    """Runs a command as `agent.exec` does, without a terminal, and answers once it has ended.

    The command is killed after `timeout_s`, or when its worker ends; the answer has what it printed until then.
    """,
    example={"name": "crawler", "argv": ["sort"], "stdin": "b\na\n"},
)


TEAM_LIST = method(
    Signature("team.list", params.NoParams, results.Teams),
    access("read", Rule(lists=(("teams", "name"),))),
    faces("GET /teams", python="list_teams", command="team list"),
    "Lists the teams.",
)

TEAM_SHOW = method(
    Signature("team.show", params.NameParams, results.TeamShown),
    access("read", NAME),
    faces("GET /teams/{name}", python="show_team", command="team show"),
    "Returns one team in full, with its spec.",
    example={"name": "readers"},
)

TEAM_ADD = method(
    Signature("team.add", params.GroupAddParams, results.Teams),
    access("admin", tenant=NEW_TEAM, recorded="or-refused"),
    faces("POST /teams", python="add_team", command="team add"),
    "Adds teams, which are kept until they are removed.",
    example={"name": "readers", "spec": {"members": ["crawler", "writer"]}},
)

TEAM_RM = method(
    Signature("team.rm", params.GroupRemoveParams, results.Removed),
    access("admin", NAME, recorded="always", recorded_keys=("removed",)),
    faces("DELETE /teams/{name}", python="remove_team", command="team rm"),
    "Removes a team; its running tasks go on.",
    example={"name": "readers"},
)

WORKFLOW_LIST = method(
    Signature("workflow.list", params.NoParams, results.Workflows),
    access("read", Rule(lists=(("workflows", "name"),))),
    faces("GET /workflows", python="list_workflows", command="workflow list"),
    "Lists the workflows.",
)

WORKFLOW_SHOW = method(
    Signature("workflow.show", params.NameParams, results.WorkflowShown),
    access("read", NAME),
    faces("GET /workflows/{name}", python="show_workflow", command="workflow show"),
    "Returns one workflow in full, with its steps.",
    example={"name": "digest"},
)

WORKFLOW_ADD = method(
    Signature("workflow.add", params.GroupAddParams, results.Workflows),
    access("admin", tenant=NEW_WORKFLOW, recorded="or-refused"),
    faces("POST /workflows", python="add_workflow", command="workflow add"),
    "Adds workflows, which are kept until they are removed.",
    example={"name": "digest", "spec": {"steps": [{"name": "read", "agent": "crawler", "objective": "Read the page"}]}},
)

WORKFLOW_RM = method(
    Signature("workflow.rm", params.GroupRemoveParams, results.Removed),
    access("admin", NAME, recorded="always", recorded_keys=("removed",)),
    faces("DELETE /workflows/{name}", python="remove_workflow", command="workflow rm"),
    "Removes a workflow; its running tasks go on.",
    example={"name": "digest"},
)
