"""The rooms of docs/explanation/architecture.md, as a test: what each package may import, and three rules beside it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("cli", "mcp", "supervisor", "worker")

ROOMS = """
worker.contract:
worker.control: worker.contract
worker.sdk: worker.contract
worker.adapters: worker.contract worker.sdk
worker.client: worker.contract worker.control worker.adapters worker.sdk
worker.service: worker.contract worker.client
worker.webhook: worker.contract worker.sdk
worker.a2a: worker.contract worker.sdk worker.webhook
worker.acp: worker.contract worker.sdk mcp.endpoint mcp.protocol
worker.zygote: worker.adapters worker.sdk supervisor.machine.linux supervisor.machine.launcher
worker: worker.contract worker.sdk worker.adapters
mcp.protocol: worker.contract
mcp.upstream: worker.contract mcp.protocol
mcp.pool: worker.contract mcp.protocol mcp.upstream
mcp.endpoint: worker.contract mcp.protocol mcp.upstream
mcp.oauth: worker.contract mcp.protocol
mcp.cortex: worker.contract
supervisor.machine.linux:
supervisor.machine.launcher: linux
supervisor.machine.isolation: linux
supervisor.config.decoding: worker.contract mcp.pool
supervisor.config.secrets: worker.contract linux
supervisor.stores: worker.contract decoding secrets
supervisor.models: worker.contract decoding secrets
supervisor.tenants: worker.contract decoding
supervisor.cluster: worker.contract decoding
supervisor.cluster.engine: worker.contract cluster
supervisor.cluster.lease: worker.contract cluster engine
supervisor.memory_pools: worker.contract decoding tenants
supervisor.oauth: worker.contract mcp.oauth decoding linux
supervisor.config: worker.contract cluster decoding mcp.pool memory_pools models oauth secrets stores tenants
supervisor.records.store: worker.contract
supervisor.tenants.tokens: worker.contract worker.control quotas store
supervisor.workers.lifecycle: worker.contract config
supervisor.records.events: worker.contract config store
supervisor.tenancy: worker.contract config decoding linux store tenants
supervisor.tenants.quotas: worker.contract config events tenancy tenants
supervisor.api.schema: worker.contract cluster config decoding events memory_pools models oauth stores tenants
supervisor.records.audit: worker.contract config store
supervisor.records.backup: worker.contract worker.control audit config decoding linux memory_pools models secrets store stores
supervisor.workers.containers: config
supervisor.workers.usage: config linux
supervisor.workers.process: worker.contract config containers decoding isolation launcher linux secrets stores usage
supervisor.workers.egress: isolation launcher process
supervisor.models.gateway: worker.contract launcher linux models process
supervisor.records.logs: worker.contract config events
supervisor.agents.packages: worker.contract config decoding linux secrets store
supervisor.agents.deployment: worker.contract worker.control agents config decoding events launcher lifecycle linux logs packages process revisions rollout store supervision tenants
supervisor.records.memory: worker.contract config events memory_pools store tenants
supervisor.workers.listening: worker.contract config linux
supervisor.tasks.run: worker.contract
supervisor.workers.supervision: worker.contract mcp.protocol mcp.upstream config containers events lifecycle linux listening logs process store usage
supervisor.tenants.limits: worker.contract lifecycle process quotas store supervision tenancy tenants usage
supervisor.agents.kept: worker.contract events store
supervisor.agents.kept: worker.contract config decoding revisions
supervisor.agents: worker.contract mcp.protocol mcp.upstream mcp.pool config decoding events lifecycle overrides process quotas revisions store supervision tenancy
supervisor.records.telemetry: worker.contract logs
supervisor.agents.demand: worker.contract lifecycle events supervision agents
supervisor.agents.external: worker.contract mcp.oauth config lifecycle oauth process
supervisor.workers.zygote: worker.contract agents config events launcher lifecycle linux logs process supervision usage
supervisor.tasks.rules: worker.contract mcp.pool agents config decoding lifecycle
supervisor.tasks: worker.contract worker.control config events lifecycle quotas store streaming supervision telemetry agents hibernation task_rules usage
supervisor.models.desk: worker.contract agents config isolation lifecycle models process quotas secrets store stores supervision tasks telemetry task_rules
supervisor.agents.demand: worker.contract agents lifecycle supervision
supervisor.rollout: worker.contract agents config lifecycle supervision tasks
supervisor.agents.demand: worker.contract agents config lifecycle supervision tasks
supervisor.tasks.workflows: worker.contract agents config events lifecycle store supervision tasks
supervisor.tasks.workflows: worker.contract worker.control config decoding events lifecycle store supervision agents tasks task_rules
supervisor.tasks.worker_api: worker.contract events store
supervisor.tasks.worker_api: worker.contract mcp.protocol mcp.pool agents audit config events lifecycle quotas secrets sessions store streaming supervision telemetry hibernation tasks approvals
supervisor.api.metrics: worker.contract worker.control agents config events lifecycle process store supervision tasks worker_api usage
supervisor.api.reports: worker.contract worker.control events logs store supervision
supervisor.api.agent_methods: worker.contract worker.control access api events packages supervision
supervisor.api: worker.contract worker.control mcp.pool access agents audit backup config deployment events lifecycle logins logs metrics model_use packages process quotas secrets sessions stores supervision hibernation tasks worker_api reports tenancy tenants approvals
supervisor.api.daemon_methods: worker.contract worker.control access agents api config decoding lifecycle memory_pools process supervision tenant_removal tenants
supervisor.tenants.registry: worker.contract process store tenancy
supervisor.interactive: worker.contract worker.control access api config containers process supervision
supervisor.api.daemon_methods: worker.contract worker.control access agents api audit backup config decoding events interactive lifecycle login_methods logs model_use overrides package_methods process revisions schema secrets store streaming supervision tenant_methods worker_api reports approval_methods cluster_methods
supervisor.api.task_methods: worker.contract worker.control access api
supervisor.cluster.calls: worker.contract worker.control api engine logs nodes supervision
supervisor.cluster.state: worker.contract engine task_rules tasks
supervisor.cluster.placed: worker.contract worker.control agents api cluster cluster_calls cluster_tasks config decoding engine events lifecycle nodes process supervision tasks task_rules quotas
supervisor.api.daemon_methods: worker.control api
supervisor.api.agent_methods: worker.contract worker.control access api config lifecycle
supervisor.faces.mcp: worker.contract worker.control mcp.protocol access api config events supervision tasks worker_api
supervisor.faces.socket: worker.contract worker.control mcp.protocol mcp.endpoint access api mcp_gateway streaming supervision
supervisor.faces.http: worker.contract mcp.protocol mcp.upstream mcp.endpoint api
supervisor.faces.http_api: worker.contract worker.control api config http supervision
supervisor.faces.a2a: worker.contract worker.control access api events http store supervision
supervisor.faces.prometheus: worker.contract access agents api http lifecycle metrics
supervisor.faces.dashboard: worker.contract http http_api
supervisor.faces.services: worker.contract worker.control access agents api config decoding events http lifecycle store supervision
supervisor.daemon.composition: *
supervisor: *
cli: worker.contract worker.client cli.tools
cli.agents: worker.contract worker.client cli supervisor.config supervisor.config.decoding
cli.tasks: worker.contract worker.client cli
cli.packages: worker.contract cli supervisor.agents.packages
cli.observe: worker.contract worker.client cli cli.screen
cli.screen: worker.contract worker.client cli
cli.tools: worker.contract worker.client cli
cli.daemon: worker.contract supervisor.records.backup supervisor.cluster supervisor.config.decoding supervisor.cluster.engine supervisor.machine.linux supervisor.cluster.lease supervisor.workers.process supervisor.faces.http_api supervisor.api.daemon_methods cli supervisor.api.schema
cli.convert: worker.contract cli cli.tools
"""
"""room: the rooms that it may import; a name without a dot is one of supervisor, or cli."""

PURE = {
    "supervisor.config.decoding": "values expression decoder",
    "supervisor.config": "probe_spec team workflow spec sections program_rules template_spec templates loader diff",
    "supervisor.tenants": "tenant naming uids",
    "supervisor.tenancy": "floor",
    "supervisor.tenants.quotas": "minute spending fair_share task_limits",
    "supervisor.tenants.limits": "sums",
    "supervisor.memory_pools": "declared",
    "supervisor.oauth": "declared",
    "mcp.oauth": "challenge metadata records",
    "supervisor.cluster": "settings lease placement fencing",
    "supervisor.cluster.calls": "one_view",
    "supervisor.records.store": "sealed",
    "supervisor.tenants.tokens": "scope change_rate",
    "supervisor.records.backup": "export",
    "supervisor.workers.lifecycle": "state_machine transitions restart_policy health_check start_failure",
    "supervisor.workers.usage": "limits",
    "supervisor.machine.isolation": "levels bubblewrap",
    "supervisor.workers.egress": "rules",
    "supervisor.models": "declared tables usage endpoint",
    "supervisor.models.gateway": "shapes stream",
    "supervisor.agents.packages": "manifest",
    "supervisor.workers.zygote": "policy",
    "supervisor.records.memory": "session",
    "supervisor.tasks.rules": "availability boundaries payload queue retry_policy",
    "supervisor.api.metrics": "histogram step rollup series health ranking",
    "supervisor.rollout": "policy",
    "supervisor.agents.kept": "decision",
    "supervisor.agents.demand": "policy",
    "supervisor.agents.demand": "policy",
    "supervisor.tasks.workflows": "cron workflow_decision",
    "supervisor.faces.a2a": "messages",
    "mcp.upstream": "liveness",
    "worker.acp": "policy content capabilities",
    "worker.a2a": "messages",
    "mcp.protocol": "catalog",
    "mcp.pool": "placement",
}
"""Modules that decide and do nothing: no I/O, no clock, no randomness."""

IMPURE = {"asyncio", "os", "random", "select", "signal", "socket", "sqlite3", "subprocess", "threading", "time"}

EXPORTING = ("cli.__init__", "worker.__init__", "worker.client.__init__")
"""Packages that programs import names from."""

MODULES_MAX = 15


def _allowed() -> dict[str, set[str]]:
    table: dict[str, set[str]] = {}
    for line in ROOMS.strip().splitlines():
        room, _, words = line.partition(":")
        table[room] = {word if "." in word or word in ("*", "cli") else f"supervisor.{word}" for word in words.split()}
    return table


ALLOWED = _allowed()

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
"""All modules of ours, by dotted name below `corral`; a package is PACKAGE.__init__."""


def room_of(module: str) -> str:
    """Returns the package that a module lies in."""
    return module.rpartition(".")[0]


def imports(module: str) -> Iterator[str]:
    """Yields what a module imports: ours by dotted name below `corral`, others by their first name."""
    folder = module.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            if node.level:
                parts = folder[: len(folder) - node.level + 1] + parts
            elif parts[0] != "corral":
                yield parts[0]
                continue
            else:
                parts = parts[1:]
            for alias in node.names:
                found = ".".join([*parts, alias.name])
                yield found if found in MODULES else ".".join(parts)


def ours(module: str) -> set[str]:
    """Returns the modules of ours that a module imports; a package as PACKAGE.__init__."""
    return {
        name if name in MODULES else f"{name}.__init__"
        for name in imports(module)
        if name in MODULES or f"{name}.__init__" in MODULES
    }


def test_every_room_is_in_the_table() -> None:
    assert {room_of(module) for module in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    if "*" in ALLOWED[room]:
        return
    wrong = {
        f"{module} imports {name}"
        for module in MODULES
        if room_of(module) == room
        for name in ours(module)
        if room_of(name) not in {room, *ALLOWED[room]}
    }
    assert wrong == set()


def test_the_table_is_the_one_of_the_architecture_page() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text("utf-8")
    assert f"```rooms\n{ROOMS.strip()}\n```" in text


def test_no_room_allows_what_it_does_not_import() -> None:
    used: dict[str, set[str]] = {room: set() for room in ALLOWED}
    for module in MODULES:
        used[room_of(module)] |= {room_of(name) for name in ours(module)} - {room_of(module)}
    loose = {room: words - used[room] for room, words in ALLOWED.items() if "*" not in words}
    assert {room: words for room, words in loose.items() if words} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in sorted(ours(module)):
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_is_small(room: str) -> None:
    modules = [m for m in MODULES if room_of(m) == room and not m.endswith("__init__")]
    assert len(modules) <= MODULES_MAX


@pytest.mark.parametrize("module", [f"{room}.{name}" for room, names in PURE.items() for name in names.split()])
def test_a_module_that_decides_does_nothing(module: str) -> None:
    assert IMPURE.isdisjoint(imports(module))


@pytest.mark.parametrize("room", ["supervisor.machine.linux", "supervisor.machine.launcher"])
def test_the_launcher_is_made_of_the_standard_library(room: str) -> None:
    for module in MODULES:
        if room_of(module) == room:
            names = {name for name in imports(module) if name not in MODULES}
            outside = {name for name in names if not name.startswith(("supervisor.", "__future__"))}
            assert outside <= sys.stdlib_module_names, module


def test_a_room_explains_itself() -> None:
    for module, path in MODULES.items():
        if module.endswith(".__init__") and module not in EXPORTING:
            body = ast.parse(path.read_text("utf-8")).body
            assert len(body) == 1, module
            assert isinstance(body[0], ast.Expr), module
