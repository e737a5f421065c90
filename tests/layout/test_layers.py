"""The layers of docs/ARCHITECTURE.md, as a test: a module imports only modules of rows above its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("cli", "mcp", "supervisor", "worker")

ROWS = """
supervisor.kernel  supervisor.landlock  worker.errors  worker.welcome
supervisor.packet  supervisor.seccomp  supervisor.cgroup  supervisor.namespace
supervisor.birth  supervisor.lineage
supervisor.midwife
supervisor.nursery
supervisor.launcher
worker.bytecode
worker.codec  worker.memory  worker.answer  worker.preload  worker.sources  worker.cradle
worker.wire
worker.channel
worker.task  worker.stdio  worker.forking
worker.hearing
worker.runtime
worker.agent
worker.__main__
worker.zygote
worker.schema  worker.client
worker.connection  worker.embedding
worker.audience  worker.errand  worker.consumption
worker.agent_runtime
supervisor.values  supervisor.expression  supervisor.envelope
supervisor.document  supervisor.check  supervisor.calendar  supervisor.conversation
supervisor.team  supervisor.workflow
supervisor.spec
supervisor.configuration  supervisor.restart  supervisor.throttle  supervisor.excess  supervisor.quota  supervisor.deadlock
supervisor.lifecycle  supervisor.schedule  supervisor.reload  supervisor.health  supervisor.scaling  supervisor.warmth
supervisor.turns
mcp.cortex_store  mcp.cortex_command  mcp.cortex_item
mcp.cortex_search
mcp.cortex_memory
mcp.cortex  mcp.messages  mcp.liveness
mcp.mirror  mcp.event_stream
mcp.origin
mcp.catalogue  mcp.caller  mcp.remote
mcp.inventory  mcp.flight  mcp.subscription  mcp.exchange
mcp.session  mcp.validation  mcp.dispatch  mcp.directory  mcp.gate  mcp.face
mcp.subscribers  mcp.backend
mcp.dispatcher
mcp.pool
supervisor.containment
supervisor.orphan  supervisor.confinement  supervisor.doctor
supervisor.database  supervisor.link  supervisor.testimony  supervisor.event_types  supervisor.lifeline  supervisor.turnstile
supervisor.identity  supervisor.socket_lock  supervisor.bus  supervisor.store  supervisor.journal  supervisor.offspring  supervisor.usage
supervisor.process
supervisor.archive  supervisor.pattern  supervisor.secret  supervisor.sheet  supervisor.output_format
supervisor.logfile  supervisor.metrics  supervisor.chain
supervisor.position  supervisor.log_stream
supervisor.packing  supervisor.cursor  supervisor.capture
supervisor.intake
supervisor.logs  supervisor.chronicle  supervisor.records  supervisor.launch  supervisor.removals  supervisor.roster  supervisor.numbering  supervisor.audit  supervisor.listing  supervisor.notebook  supervisor.session_table
supervisor.checkpoints  supervisor.memory
supervisor.expiry  supervisor.diary  supervisor.forwarding
supervisor.command  supervisor.zygote
supervisor.reserve
supervisor.zygotes
supervisor.probe
supervisor.line  supervisor.checkup  supervisor.alert
supervisor.keeper
supervisor.bench  supervisor.outlook
supervisor.crew  supervisor.broker
supervisor.partners
supervisor.tool_server  supervisor.running  supervisor.ensemble
supervisor.staffing
supervisor.agents  supervisor.limits  supervisor.loss
supervisor.hibernation  supervisor.renewal
supervisor.attempt
supervisor.backlog  supervisor.budget
supervisor.ledger  supervisor.waitlist  supervisor.admission
supervisor.accounts
supervisor.performance
supervisor.assignment
supervisor.tasks
supervisor.delegation  supervisor.statistics
supervisor.timetable  supervisor.conductor  supervisor.autoscaler
supervisor.service
supervisor.control  supervisor.stream  supervisor.header  supervisor.bearer
supervisor.report  supervisor.steering  supervisor.visit
supervisor.offering  supervisor.board
supervisor.listener  supervisor.web
supervisor.daemon_methods  supervisor.agent_methods  supervisor.task_methods  supervisor.schedule_methods  supervisor.team_methods  supervisor.checkpoint_methods  supervisor.memory_methods  supervisor.statistics_methods  supervisor.log_methods  supervisor.event_methods  supervisor.audit_methods  supervisor.tool_methods
supervisor.methods
supervisor.daemon
supervisor.__main__
cli.absence  cli.client_file
cli.render  cli.serve  cli.client_config
cli.terminal
cli.session  cli.ensemble
cli.order  cli.overview
cli.glance
cli.about  cli.agent  cli.task  cli.schedule  cli.team  cli.checkpoint  cli.memory  cli.statistics  cli.log  cli.event  cli.audit  cli.daemon  cli.tool  cli.doctor
cli.__main__
"""

CORE = {
    "supervisor.values",
    "supervisor.expression",
    "supervisor.calendar",
    "supervisor.envelope",
    "supervisor.team",
    "supervisor.workflow",
    "supervisor.quota",
    "supervisor.document",
    "supervisor.check",
    "supervisor.conversation",
    "supervisor.spec",
    "supervisor.configuration",
    "supervisor.restart",
    "supervisor.throttle",
    "supervisor.excess",
    "supervisor.lifecycle",
    "supervisor.health",
    "supervisor.scaling",
    "supervisor.warmth",
    "mcp.liveness",
    "mcp.catalogue",
    "mcp.dispatch",
    "supervisor.schedule",
    "supervisor.turns",
    "supervisor.reload",
}
IMPURE = {
    "asyncio",
    "os",
    "random",
    "select",
    "signal",
    "socket",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
}

LAYER = {name: n for n, row in enumerate(ROWS.split("\n")) for name in row.split()}


MODULES = sorted(
    f"{folder}.{path.stem}"
    for folder in FOLDERS
    for path in (ROOT / folder).glob("*.py")
    if path.name != "__init__.py"
)


def imports(name: str) -> Iterator[str]:
    """Our own modules that `name` imports, as folder.module; std and third-party ones by top name."""
    folder = name.split(".")[0]
    for node in ast.walk(ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            base = ([folder] if node.level == 1 else []) + parts
            if len(base) == 2:
                yield ".".join(base)
            else:
                yield from (".".join([*base, alias.name]) for alias in node.names)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_lower_layers(name: str) -> None:
    assert name in LAYER, f"{name} has no row: add it to ROWS and to docs/ARCHITECTURE.md"
    ours = [i for i in imports(name) if i.split(".")[0] in FOLDERS and "." in i]
    assert [i for i in ours if LAYER[i] >= LAYER[name]] == []


@pytest.mark.parametrize("name", sorted(CORE))
def test_the_core_is_pure(name: str) -> None:
    assert IMPURE.isdisjoint(imports(name))
