"""Defines the methods about agents and servers: show, start, stop and change them."""

from ..contract.records import AgentStatus
from ..control import params
from ..control.results import AgentsAdded, AgentsChanged, AgentShown, Exposed, Names, Removed
from .faces import faces
from .method import Signature, access, method
from .rules import ALL_NAMES, NAME, NAMES, NAMES_AND_GROUPS, NEW_AGENT

AGENT_SHOW = method(
    Signature("agent.show", params.NameParams, AgentShown),
    access("read", NAME),
    faces("GET /agents/{name}", python="show_agent", command="show"),
    """Returns one agent in full: its spec (values of environment and headers hidden), last exits, the end of its stderr.

    While a change is rolled out, the spec is the new one; `agent.rolling` says how far that is.

    Of a team or workflow: its spec.
    """,
    example={"name": "crawler"},
)

AGENT_SELECT = method(
    Signature("agent.select", params.SelectionParams, Names),
    access("read", ALL_NAMES),
    faces("GET /select", python="select_agents"),
    "Returns the names of the agents, MCP servers, teams, workflows and workers that the params choose.",
    example={"selector": "team=red"},
)

AGENT_START = method(
    Signature("agent.start", params.NamesParams, AgentsChanged),
    access("operate", NAMES, recorded="or-refused"),
    faces("POST /agents/{names}/start", "POST /agents/start", python="start_agent", command="start"),
    """Starts agents or workers and waits until they are ready, jobs until they have succeeded.

    A choice that does not name them leaves out jobs that have succeeded, or that are not to start by themselves.
    """,
    example={"names": ["crawler"], "timeout_s": 30.0},
)

AGENT_STOP = method(
    Signature("agent.stop", params.NamesParams, AgentsChanged),
    access("operate", NAMES, recorded="always"),
    faces("POST /agents/{names}/stop", "POST /agents/stop", python="stop_agent", command="stop"),
    "Stops agents or workers and waits until no process of them is left.",
    example={"names": ["crawler"], "timeout_s": 30.0},
)

AGENT_RESTART = method(
    Signature("agent.restart", params.NamesParams, AgentsChanged),
    access("operate", NAMES, recorded="or-refused"),
    faces("POST /agents/{names}/restart", "POST /agents/restart", python="restart_agent", command="restart"),
    "Stops agents or workers, starts them again and waits until they are ready; leaves out jobs that neither run nor are named.",
    example={"names": ["crawler"], "wait": False},
)

AGENT_RESET = method(
    Signature("agent.reset", params.NamesParams, AgentsChanged),
    access("operate", NAMES, recorded="or-refused"),
    faces("POST /agents/{names}/reset", "POST /agents/reset", python="reset_agent", command="reset"),
    "Forgets failures: agents that should run and have given up start again.",
    example={"names": ["crawler"]},
)

AGENT_PAUSE = method(
    Signature("agent.pause", params.SelectionParams, AgentsChanged),
    access("operate", NAMES, recorded="always"),
    faces("POST /agents/{names}/pause", "POST /agents/pause", python="pause_agent", command="pause"),
    "Freezes agents or workers with all their processes, until they are resumed, stopped or die.",
    example={"names": ["crawler"]},
)

AGENT_RESUME = method(
    Signature("agent.resume", params.SelectionParams, AgentsChanged),
    access("operate", NAMES, recorded="always"),
    faces("POST /agents/{names}/resume", "POST /agents/resume", python="resume_agent", command="resume"),
    "Lets paused agents or workers run again.",
    example={"names": ["crawler"]},
)

AGENT_HIBERNATE = method(
    Signature("agent.hibernate", params.HibernateParams, AgentsChanged),
    access("operate", NAMES, recorded="always"),
    faces("POST /agents/{names}/hibernate", "POST /agents/hibernate", python="hibernate_agent", command="hibernate"),
    "Saves a checkpoint of agents or workers, and ends their processes until a task, `wake` or `start` comes.",
    example={"names": ["crawler"], "timeout_s": 30.0},
)

AGENT_WAKE = method(
    Signature("agent.wake", params.NamesParams, AgentsChanged),
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
    Signature("agent.add_all", params.AddAllParams, AgentsAdded),
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

AGENT_RM = method(
    Signature("agent.rm", params.RemoveParams, Removed),
    access("admin", NAMES_AND_GROUPS, recorded="always", recorded_keys=("removed",)),
    faces("DELETE /agents/{names}", "DELETE /agents", python="remove_agent", command="rm"),
    "Stops agents and MCP servers and removes them, all or none; returns the removed names.",
    example={"names": ["crawler"]},
)

AGENT_EXPOSE = method(
    Signature("agent.expose", params.ExposeParams, Exposed),
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
    Signature("agent.signal", params.SignalParams, Names),
    access("operate", NAMES, recorded="always"),
    faces("POST /agents/{names}/signal", "POST /agents/signal", python="signal_agent", command="signal"),
    "Sends a signal to the leader of each worker that runs.",
    example={"names": ["crawler"], "signal": "SIGUSR1"},
)
