"""Defines the methods about agents and servers: show, start, stop and change them."""

from ..contract.records import AgentStatus
from ..control.params import (
    AddAllParams,
    AddParams,
    ExposeParams,
    HibernateParams,
    NameParams,
    NamesParams,
    RemoveParams,
    ScaleParams,
    SelectionParams,
    SignalParams,
)
from ..control.results import AgentsAdded, AgentsChanged, AgentShown, Exposed, Names, Removed
from .faces import faces
from .method import method
from .rules import ALL_NAMES, NAME, NAMES, NAMES_AND_GROUPS, NEW_AGENT

AGENT_SHOW = method(
    "agent.show",
    "read",
    NameParams,
    AgentShown,
    scope=NAME,
    faces=faces("GET /agents/{name}", python="show_agent", command="show"),
    doc="""Returns one agent in full: its spec (values of environment and headers hidden), last exits, the end of its stderr.

    While a change is rolled out, the spec is the new one; `agent.rolling` says how far that is.

    Of a team or workflow: its spec.
    """,
    example={"name": "crawler"},
)

AGENT_SELECT = method(
    "agent.select",
    "read",
    SelectionParams,
    Names,
    scope=ALL_NAMES,
    faces=faces("GET /select", python="select_agents"),
    doc="Returns the names of the agents, MCP servers, teams, workflows and workers that the params choose.",
    example={"selector": "team=red"},
)

AGENT_START = method(
    "agent.start",
    "operate",
    NamesParams,
    AgentsChanged,
    recorded="or-refused",
    scope=NAMES,
    faces=faces("POST /agents/{names}/start", "POST /agents/start", python="start_agent", command="start"),
    doc="""Starts agents or workers and waits until they are ready, jobs until they have succeeded.

    A choice that does not name them leaves out jobs that have succeeded, or that are not to start by themselves.
    """,
    example={"names": ["crawler"], "timeout_s": 30.0},
)

AGENT_STOP = method(
    "agent.stop",
    "operate",
    NamesParams,
    AgentsChanged,
    recorded="always",
    scope=NAMES,
    faces=faces("POST /agents/{names}/stop", "POST /agents/stop", python="stop_agent", command="stop"),
    doc="Stops agents or workers and waits until no process of them is left.",
    example={"names": ["crawler"], "timeout_s": 30.0},
)

AGENT_RESTART = method(
    "agent.restart",
    "operate",
    NamesParams,
    AgentsChanged,
    recorded="or-refused",
    scope=NAMES,
    faces=faces("POST /agents/{names}/restart", "POST /agents/restart", python="restart_agent", command="restart"),
    doc="Stops agents or workers, starts them again and waits until they are ready; leaves out jobs that neither run nor are named.",
    example={"names": ["crawler"], "wait": False},
)

AGENT_RESET = method(
    "agent.reset",
    "operate",
    NamesParams,
    AgentsChanged,
    recorded="or-refused",
    scope=NAMES,
    faces=faces("POST /agents/{names}/reset", "POST /agents/reset", python="reset_agent", command="reset"),
    doc="Forgets failures: agents that are wanted and have given up start again.",
    example={"names": ["crawler"]},
)

AGENT_PAUSE = method(
    "agent.pause",
    "operate",
    SelectionParams,
    AgentsChanged,
    recorded="always",
    scope=NAMES,
    faces=faces("POST /agents/{names}/pause", "POST /agents/pause", python="pause_agent", command="pause"),
    doc="Freezes agents or workers with all their processes, until they are resumed, stopped or die.",
    example={"names": ["crawler"]},
)

AGENT_RESUME = method(
    "agent.resume",
    "operate",
    SelectionParams,
    AgentsChanged,
    recorded="always",
    scope=NAMES,
    faces=faces("POST /agents/{names}/resume", "POST /agents/resume", python="resume_agent", command="resume"),
    doc="Lets paused agents or workers run again.",
    example={"names": ["crawler"]},
)

AGENT_HIBERNATE = method(
    "agent.hibernate",
    "operate",
    HibernateParams,
    AgentsChanged,
    recorded="always",
    scope=NAMES,
    faces=faces(
        "POST /agents/{names}/hibernate", "POST /agents/hibernate", python="hibernate_agent", command="hibernate"
    ),
    doc="Saves a checkpoint of agents or workers, and ends their processes until a task, `wake` or `start` comes.",
    example={"names": ["crawler"], "timeout_s": 30.0},
)

AGENT_WAKE = method(
    "agent.wake",
    "operate",
    NamesParams,
    AgentsChanged,
    recorded="or-refused",
    scope=NAMES,
    faces=faces("POST /agents/{names}/wake", "POST /agents/wake", python="wake_agent", command="wake"),
    doc="Starts hibernated agents or workers with their checkpoints, and waits until they are ready.",
    example={"names": ["crawler"]},
)

AGENT_ADD = method(
    "agent.add",
    "admin",
    AddParams,
    AgentStatus,
    recorded="or-refused",
    tenant=NEW_AGENT,
    faces=faces("POST /agents", python="add_agent", command="add"),
    doc="Adds an agent or an MCP server, which is kept until it is removed.",
    example={"name": "crawler", "spec": {"entrypoint": "crawler:agent", "instances": 2}},
)

AGENT_ADD_ALL = method(
    "agent.add_all",
    "admin",
    AddAllParams,
    AgentsAdded,
    recorded="or-refused",
    recorded_keys=("failures",),
    tenant=NEW_AGENT,
    faces=faces("POST /agents/batch", python="add_agents", command="add"),
    doc="""Adds several agents and MCP servers, all or none; `failures` has those that did not start.

    `added`, `changed` (with the keys) and `unchanged` are the names, also those of a dry run.
    """,
    example={
        "agents": [{"name": "crawler", "spec": {"entrypoint": "crawler:agent", "instances": 2}}],
        "present": "replace",
    },
)

AGENT_RM = method(
    "agent.rm",
    "admin",
    RemoveParams,
    Removed,
    recorded="always",
    recorded_keys=("removed",),
    scope=NAMES_AND_GROUPS,
    faces=faces("DELETE /agents/{names}", "DELETE /agents", python="remove_agent", command="rm"),
    doc="Stops agents and MCP servers and removes them, all or none; returns the removed names.",
    example={"names": ["crawler"]},
)

AGENT_EXPOSE = method(
    "agent.expose",
    "admin",
    ExposeParams,
    Exposed,
    recorded="or-refused",
    recorded_keys=("service",),
    scope=NAME,
    tenant=None,
    faces=faces("POST /agents/{name}/expose", python="expose_agent", command="expose"),
    doc="Serves an agent, team or workflow alone over HTTP at an address, or no longer; kept until it is removed.",
    example={"name": "crawler", "address": "127.0.0.1:8000"},
)

AGENT_SCALE = method(
    "agent.scale",
    "operate",
    ScaleParams,
    AgentStatus,
    recorded="or-refused",
    scope=NAME,
    faces=faces("POST /agents/{name}/scale", python="scale_agent", command="scale"),
    doc="Changes the number of workers of an agent; of a placed one that of its replicas on all nodes together.",
    example={"name": "crawler", "instances": 4},
)

AGENT_SIGNAL = method(
    "agent.signal",
    "operate",
    SignalParams,
    Names,
    recorded="always",
    scope=NAMES,
    faces=faces("POST /agents/{names}/signal", "POST /agents/signal", python="signal_agent", command="signal"),
    doc="Sends a signal to the leader of each worker that runs.",
    example={"names": ["crawler"], "signal": "SIGUSR1"},
)
