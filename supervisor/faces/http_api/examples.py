"""Shows the body of each method that takes one, for the OpenAPI document.

Guarantees nothing by itself: a test decodes each example as the params of its method.
"""

from collections.abc import Mapping

_SPEC: dict[str, object] = {"entrypoint": "crawler:agent", "instances": 2}

_WORK: dict[str, object] = {"objective": "Summarise the page", "input": {"url": "https://example.org"}}

_NAMES: dict[str, object] = {"names": ["crawler"]}

BODIES: Mapping[str, Mapping[str, object]] = {
    "agent.add": {"name": "crawler", "spec": _SPEC},
    "agent.add_all": {"agents": [{"name": "crawler", "spec": _SPEC}], "present": "replace"},
    "agent.hibernate": {**_NAMES, "timeout_s": 30.0},
    "agent.pause": _NAMES,
    "agent.reset": _NAMES,
    "agent.restart": {**_NAMES, "wait": False},
    "agent.resume": _NAMES,
    "agent.expose": {"name": "crawler", "address": "127.0.0.1:8000"},
    "agent.run_command": {"name": "crawler", "argv": ["sort"], "stdin": "b\na\n"},
    "agent.scale": {"name": "crawler", "instances": 4},
    "agent.signal": {**_NAMES, "signal": "SIGUSR1"},
    "agent.start": {**_NAMES, "timeout_s": 30.0},
    "agent.stop": {**_NAMES, "timeout_s": 30.0},
    "agent.wake": _NAMES,
    "approval.answer": {"approval": 7, "answer": "allow"},
    "checkpoint.restore": {"checkpoint": 7, "name": "crawler-1"},
    "checkpoint.save": {"name": "crawler", "timeout_s": 10.0},
    "daemon.log_level": {"level": "debug"},
    "daemon.reload": {"dry_run": True},
    "event.publish": {"type": "price.changed", "data": {"item": "A-17", "price": 12.5}},
    "mcp.call": {"name": "files__read_file", "arguments": {"path": "notes.txt"}},
    "mcp.read": {"uri": "file:///notes.txt"},
    "memory.cleanup": {"agent": "crawler"},
    "memory.put": {"agent": "crawler", "key": "last-page", "value": {"page": 3}, "ttl_s": 3600.0},
    "schedule.add": {"name": "nightly", "cron": "0 3 * * *", "task": {**_WORK, "agent": "crawler"}},
    "schedule.add_command": {"name": "cleanup", "command": ["/bin/true"], "every_s": 3600.0},
    "secret.rotate": {"name": "API_KEY", "secret": "a-new-value", "restart": True},
    "secret.set": {"name": "API_KEY", "secret": "a-value", "agents": ["crawler"]},
    "task.discard": {"dead": True, "agent": "crawler"},
    "task.retry": {"dead": True, "agent": "crawler"},
    "task.run": {**_WORK, "agent": "crawler", "timeout_s": 60.0},
    "task.submit": {**_WORK, "agent": "crawler", "idempotency_key": "page-17"},
    "team.add": {"name": "readers", "spec": {"members": ["crawler", "writer"]}},
    "tenant.add": {"name": "acme", "spec": {"tier": "free", "max_agents": 5}},
    "tenant.set": {"name": "acme", "spec": {"max_agents": 10}},
    "token.add": {"name": "ci", "rights": "operate", "agents": ["web*"], "expires_s": 2592000.0},
    "token.rotate": {"name": "ci", "overlap_s": 600.0},
    "workflow.add": {
        "name": "digest",
        "spec": {"steps": [{"name": "read", "agent": "crawler", "objective": "Read the page"}]},
    },
}
