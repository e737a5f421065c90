"""Every key of the configuration is read by something: a key that nothing reads would pretend."""

import ast
from pathlib import Path

import pytest
from msgspec import Struct

from corral.supervisor.config.spec import spec
from corral.supervisor.config.spec.probe_spec import Check, Readiness
from corral.supervisor.config.spec.team import Team
from corral.supervisor.config.spec.workflow import Step, Workflow

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[3]

EXCEPTIONS = {
    "Daemon.on_daemon_loss": "it has one value, which says what is always so",
    "Process.enable_isolation": "it is the same as isolation, which is read",
    "Spec.health": "Spec.checks has them with every key filled in",
    "Monitoring.health_check_interval": "Spec.checks fills it in",
    "Spec.written": "to_table shows it",
    "Spec.model_kinds": "a reload compares them, since they are part of the addresses of workers",
    "Team.source": "it is where the table came from",
}


def attributes() -> set[str]:
    """The attributes that the sources outside of the configuration read, also by name."""
    found: set[str] = set()
    for folder in ("supervisor", "worker", "mcp", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.is_relative_to(ROOT / "supervisor" / "config"):
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    found.add(node.attr)
                elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
                    found |= {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
    return found


def test_every_key_is_read_outside_of_the_configuration() -> None:
    structs: list[type[Struct]] = [spec.Daemon, spec.Events, spec.Audit, spec.Profile, spec.Spec]
    structs += [*spec.SECTIONS.values(), Team, Workflow, Step, Check, Readiness]
    read = attributes()
    unread = {f"{struct.__name__}.{key}" for struct in structs for key in struct.__struct_fields__ if key not in read}
    assert unread - EXCEPTIONS.keys() == set()
    assert all(EXCEPTIONS.values())
