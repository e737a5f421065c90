"""A daemon whose configuration is changed key by key while it runs, for the test of live keys."""

import copy
import json
import sys
from collections.abc import Callable
from typing import Any

from corral.supervisor.config.decoding.values import is_list, is_table
from corral.supervisor.config.spec import diff
from corral.worker.contract.errors import CorralError
from daemon_process import AGENTS, BOUND_S, DaemonProcess, until

Json = Any  # Any: the shape of each answer is the probe's affair


def inline(value: Json) -> str:
    if is_table(value):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(each)}" for key, each in value.items()) + "}"
    if is_list(value):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value)


BASE: dict[str, Json] = {
    "audit": {},
    "daemon": {},
    "events": {},
    "mcp": {},
    "memory": {},
    "process": {"working_directory": str(AGENTS)},
    "recovery": {"restart_backoff_base": "1ms"},
    "tasks": {"retry_backoff_base": "1ms"},
    "templates": {"named": {"params": {"name": {"default": "x"}}, "description": "${param.name}"}},
    "agents": {
        "live": {"entrypoint": "live_agent:agent", "warm": False},
        "plain": {"command": ["sleep", "600"], "protocol": "none"},
        "served": {
            "command": [sys.executable, f"{AGENTS}/socket_server.py"],
            **{"protocol": "none", "listen": "127.0.0.1:0", "autostart": False},
        },
    },
}
SERVER = {"command": [sys.executable, "-I", f"{AGENTS}/mcp_state.py"]}
BASE["mcp"]["servers"] = {"state": SERVER}


class Live:
    """The daemon of all probes, and its file."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.call = daemon.call

    def write(self, tables: dict[str, Json]) -> Json:
        """Writes the file and reloads it; the plan."""
        self.daemon.config.write_text("".join(f"{k} = {inline(v)}\n" for k, v in tables.items()))
        return self.call("daemon.reload")

    def reset(self) -> None:
        self.write(BASE)

    def set(self, key: str, value: Json, *, of: str = "live", **more: Json) -> None:
        """Changes a key of an agent or server, or of the daemon where it counts for all; nothing restarts."""
        tables = copy.deepcopy(BASE)
        section, _, name = key.rpartition(".")
        if key in diff.LIVE:
            tables.setdefault(section, {})[name] = value
        else:
            table = tables["agents"].get(of) or tables["mcp"]["servers"][of]
            (table.setdefault(section, {}) if section else table)[name] = value
            for other, its_value in more.items():
                part, _, last = other.rpartition("__")
                (table.setdefault(part, {}) if part else table)[last] = its_value
        planned = self.write(tables)
        if key in diff.LIVE:
            assert key in planned["live"]
        else:
            assert planned["changed"].get(of) == "live"
            assert key in planned["keys"][of]

    def run(self, objective: str, given: Json = None, **params: Json) -> Json:
        """The record of a task that has succeeded, or the name of the error that it ended with."""
        try:
            found = self.call("task.run", agent="live", objective=objective, input=given, **params)
        except CorralError as error:
            return error.name
        return found if found["state"] == "succeeded" else found["error"]["name"]

    def submit(self, objective: str, given: Json = None, **params: Json) -> Json:
        return self.call("task.submit", agent="live", objective=objective, input=given, **params)

    def ended(self, task: Json) -> Json:
        return self.call("task.wait", task=task["id"], timeout_s=BOUND_S)

    def busy(self) -> Json:
        """A task that runs until it is cancelled."""
        task = self.submit("wait")
        self.await_task(task, lambda t: t["state"] == "running")
        return task

    def cancel(self, *tasks: Json) -> None:
        for task in tasks:
            self.call("task.cancel", task=task["id"])
        for task in tasks:
            self.ended(task)

    def await_task(self, task: Json, is_so: Callable[[Json], bool]) -> Json:
        return self.until(lambda: self.call("task.show", task=task["id"]), is_so)

    def until(self, look: Callable[[], Json], is_so: Callable[[Json], bool]) -> Json:
        """What is looked at, once it is so: files and waiting tasks send no event."""
        return until(look, is_so)

    def status(self, name: str = "live") -> Json:
        found = self.call("daemon.status", names=[name])
        return [*found["agents"], *found["mcp_servers"]][0]

    def worker(self, name: str = "live-0") -> Json:
        return self.daemon.worker(name)

    def ready(self, name: str = "live-0") -> Json:
        return self.daemon.await_worker(name, lambda w: w["state"] in ("Ready", "Idle"))

    def shown(self, name: str = "live") -> Json:
        return self.call("agent.show", name=name)["spec"]


Probe = Callable[[Live], None]

PROBES: dict[str, Probe] = {}
"""Live key -> the function that changes it and sees the effect."""


def probe(*keys: str) -> Callable[[Probe], Probe]:
    """Notes a probe for some keys."""

    def note(function: Probe) -> Probe:
        PROBES.update(dict.fromkeys(keys, function))
        return function

    return note
