"""Shows params of each method, for documents, and for tests that call all of them.

Guarantees nothing by itself: a test decodes each example as the params of its method.
"""

from collections.abc import Mapping

_TASK = "task-1f0c5a7e9b3d"

_SPEC: dict[str, object] = {"entrypoint": "crawler:agent", "instances": 2}

_WORK: dict[str, object] = {
    "objective": "Summarise the page",
    "input": {"url": "https://example.org"},
}

_NAMES: dict[str, object] = {"names": ["crawler"]}

_AGENT: dict[str, object] = {"agent": "crawler"}

_DEAD: dict[str, object] = {"dead": True, "agent": "crawler"}

EXAMPLES: Mapping[str, Mapping[str, object]] = {
    "agent.add": {"name": "crawler", "spec": _SPEC},
    "agent.add_all": {"agents": [{"name": "crawler", "spec": _SPEC}], "present": "replace"},
    "agent.hibernate": {**_NAMES, "timeout_s": 30.0},
    "agent.list": {"names": ["crawl*"]},
    "agent.pause": _NAMES,
    "agent.reset": _NAMES,
    "agent.restart": {**_NAMES, "wait": False},
    "agent.resume": _NAMES,
    "agent.rm": _NAMES,
    "agent.expose": {"name": "crawler", "address": "127.0.0.1:8000"},
    "agent.scale": {"name": "crawler", "instances": 4},
    "agent.select": {"selector": "team=red"},
    "agent.set": {"name": "crawler", "spec": {"title": "The crawler", "labels": {"team": "red"}}},
    "agent.show": {"name": "crawler"},
    "agent.signal": {**_NAMES, "signal": "SIGUSR1"},
    "agent.start": {**_NAMES, "timeout_s": 30.0},
    "agent.stop": {**_NAMES, "timeout_s": 30.0},
    "agent.wake": _NAMES,
    "audit.list": {"actions": ["agent.*"], "n": 20},
    "audit.verify": {},
    "auth.login": {"token": "corral_9f8e7d"},
    "auth.whoami": {},
    "checkpoint.list": {"name": "crawler", "limit": 10},
    "checkpoint.restore": {"checkpoint": 7, "name": "crawler-1"},
    "checkpoint.rm": {"checkpoints": [7]},
    "checkpoint.save": {"name": "crawler", "timeout_s": 10.0},
    "checkpoint.show": {"checkpoint": 7},
    "daemon.doctor": {},
    "daemon.emergency_stop": {},
    "daemon.log_level": {"level": "debug"},
    "daemon.ping": {},
    "daemon.reload": {"dry_run": True},
    "daemon.schema": {"document": "agent"},
    "daemon.status": {"names": ["crawl*"]},
    "daemon.stop": {},
    "event.follow": {"types": ["task.*"], "n": 10},
    "event.list": {"types": ["task.*"], "n": 10},
    "event.publish": {"type": "price.changed", "data": {"item": "A-17", "price": 12.5}},
    "log.follow": {"names": ["crawler"], "n": 10},
    "log.read": {"names": ["crawler"], "n": 10, "stream": "stderr"},
    "mcp.attach": {"read_only": True},
    "mcp.call": {"name": "files__read_file", "arguments": {"path": "notes.txt"}},
    "mcp.prompts": {},
    "mcp.read": {"uri": "file:///notes.txt"},
    "mcp.resources": {},
    "mcp.servers": {},
    "mcp.tools": {"server": "files"},
    "memory.cleanup": _AGENT,
    "memory.clear": {**_AGENT, "session": "customer-42"},
    "memory.delete": {**_AGENT, "key": "last-page"},
    "memory.get": {**_AGENT, "key": "last-page"},
    "memory.put": {**_AGENT, "key": "last-page", "value": {"page": 3}, "ttl_s": 3600.0},
    "memory.search": {**_AGENT, "query": "page"},
    "memory.sessions": _AGENT,
    "memory.show": {**_AGENT, "session": "customer-42", "last": 10},
    "memory.stats": _AGENT,
    "rpc.discover": {},
    "runtime.stats": {},
    "schedule.add": {"name": "nightly", "cron": "0 3 * * *", "task": {**_WORK, **_AGENT}},
    "schedule.add_command": {"name": "cleanup", "command": ["/bin/true"], "every_s": 3600.0},
    "schedule.list": {},
    "schedule.pause": {"name": "nightly"},
    "schedule.resume": {"name": "nightly"},
    "schedule.rm": {"name": "nightly"},
    "schedule.run": {"name": "nightly"},
    "schedule.show": {"name": "nightly"},
    "secret.list": {},
    "secret.rm": {"name": "API_KEY"},
    "secret.rotate": {"name": "API_KEY", "secret": "a-new-value", "restart": True},
    "secret.set": {"name": "API_KEY", "secret": "a-value", "agents": ["crawler"]},
    "statistics.show": _NAMES,
    "task.cancel": {"task": _TASK},
    "task.discard": _DEAD,
    "task.follow": {"task": _TASK},
    "task.list": {**_AGENT, "state": "failed", "limit": 20},
    "task.retry": _DEAD,
    "task.run": {**_WORK, **_AGENT, "timeout_s": 60.0},
    "task.show": {"task": _TASK, "calls": True},
    "task.submit": {**_WORK, **_AGENT, "idempotency_key": "page-17"},
    "task.tree": {"task": _TASK, "depth": 3},
    "task.wait": {"task": _TASK, "timeout_s": 60.0},
    "team.add": {"name": "readers", "spec": {"members": ["crawler", "writer"]}},
    "team.list": {},
    "team.rm": {"name": "readers"},
    "team.show": {"name": "readers"},
    "token.add": {"name": "ci", "rights": "operate", "agents": ["web*"], "expires_s": 2592000.0},
    "token.list": {},
    "token.rm": {"name": "ci"},
    "token.rotate": {"name": "ci", "overlap_s": 600.0},
    "workflow.add": {
        "name": "digest",
        "spec": {"steps": [{"name": "read", "agent": "crawler", "objective": "Read the page"}]},
    },
    "workflow.list": {},
    "workflow.rm": {"name": "digest"},
    "workflow.show": {"name": "digest"},
}
"""Params by method."""
