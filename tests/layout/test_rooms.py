"""The layout of docs/explanation/architecture.md, as a test: what each group and each room may import, and rules beside it."""

import ast
import functools
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("cli", "mcp", "supervisor", "worker")

GROUPS = [
    "machine",
    "config",
    "records",
    "workers",
    "tenants",
    "agents",
    "tasks",
    "models",
    "api",
    "cluster",
    "faces",
    "daemon",
]
"""The groups of supervisor/, from the ground up: none imports one that stands after it, and cluster and faces not each other."""

ROOMS = """
worker.contract:
worker.control: worker.contract
worker.methods: worker.contract worker.control
worker.sdk: worker.contract
worker.adapters: worker.contract worker.sdk
worker.client: worker.contract worker.control worker.methods worker.adapters worker.sdk
worker.service: worker.contract worker.client
worker.webhook: worker.contract worker.sdk
worker.a2a: worker.contract worker.sdk worker.webhook
worker.acp: worker.contract worker.sdk mcp.endpoint mcp.protocol
worker.zygote: worker.adapters worker.sdk machine
worker: worker.contract worker.sdk worker.adapters
mcp.protocol: worker.contract
mcp.upstream: worker.contract mcp.protocol
mcp.pool: worker.contract mcp.protocol mcp.upstream
mcp.endpoint: worker.contract mcp.protocol mcp.upstream
mcp.oauth: worker.contract mcp.protocol
mcp.cortex: worker.contract
cli: worker.contract worker.client cli.tools
cli.agents: worker.contract worker.client cli config
cli.tasks: worker.contract worker.client cli
cli.packages: worker.contract cli agents
cli.observe: worker.contract worker.client cli cli.screen
cli.screen: worker.contract worker.client cli
cli.tools: worker.contract worker.client cli
cli.daemon: worker.contract worker.methods cli machine config records workers api cluster faces
cli.convert: worker.contract cli cli.tools config
"""
"""The rooms outside supervisor/, and what each may import: rooms, and groups of supervisor/."""

MODULES_MAX = 25
"""Modules of a room."""

ROOMS_MAX = 14
"""Rooms of a group."""

PURE = {
    "mcp.oauth": "metadata records",
    "mcp.pool": "placement",
    "mcp.protocol": "catalog",
    "supervisor.agents.demand": "sizing",
    "supervisor.agents.kept": "record",
    "supervisor.agents.packages": "manifest",
    "supervisor.agents.rollout": "policy",
    "supervisor.api.metrics": "histogram step series health",
    "supervisor.cluster.calls": "one_view",
    "supervisor.cluster.lease": "lease fencing",
    "supervisor.cluster.placed": "placement",
    "supervisor.config.declared": "tenant pools oauth cluster models",
    "supervisor.config.decoding": "values expression decoder",
    "supervisor.config.spec": "probe_spec team workflow spec sections template_spec templates loader diff",
    "supervisor.faces.a2a": "messages",
    "supervisor.machine.isolation": "levels bubblewrap",
    "supervisor.models.gateway": "usage shapes stream",
    "supervisor.records.backup": "export",
    "supervisor.records.memory": "session",
    "supervisor.records.store": "sealed",
    "supervisor.tasks.rules": "availability boundaries payload queue",
    "supervisor.tasks.workflows": "cron workflow_decision",
    "supervisor.tenants.limits": "sums",
    "supervisor.tenants.quotas": "spending fair_share task_limits",
    "supervisor.tenants.registry": "floor",
    "supervisor.tenants.tokens": "scope change_rate",
    "supervisor.workers.egress": "rules",
    "supervisor.workers.lifecycle": "state_machine transitions restart_policy health_check start_failure",
    "supervisor.workers.usage": "limits",
    "supervisor.workers.zygote": "policy",
    "worker.a2a": "messages",
    "worker.acp": "messages policy",
}
"""Modules that decide and do nothing: no I/O, no clock, no randomness."""

IMPURE = {"asyncio", "os", "random", "select", "signal", "socket", "sqlite3", "subprocess", "threading", "time"}

EXPORTING = ("cli.__init__", "worker.__init__", "worker.client.__init__")
"""Packages that programs import names from."""


def _allowed() -> dict[str, set[str]]:
    lines = (line.partition(":") for line in ROOMS.strip().splitlines())
    return {room: set(words.split()) for room, _, words in lines}


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


@functools.cache
def imports(module: str) -> set[str]:
    """What a module imports: ours by dotted name below `corral`, others by their first name."""
    found: set[str] = set()
    folder = module.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            if node.level:
                parts = folder[: len(folder) - node.level + 1] + parts
            elif parts[0] != "corral":
                found.add(parts[0])
                continue
            else:
                parts = parts[1:]
            for alias in node.names:
                name = ".".join([*parts, alias.name])
                found.add(name if name in MODULES else ".".join(parts))
    return found


def ours(module: str) -> set[str]:
    """Returns the modules of ours that a module imports; a package as PACKAGE.__init__."""
    return {
        name if name in MODULES else f"{name}.__init__"
        for name in imports(module)
        if name in MODULES or f"{name}.__init__" in MODULES
    }


def part_of(module: str) -> str:
    """Returns the group of a module of supervisor/, and the room of any other."""
    return module.split(".")[1] if module.startswith("supervisor.") else room_of(module)


def described(group: str, line: str) -> list[str]:
    """Returns the words of a line of a group's docstring: "May import" or "Rooms"."""
    text = ast.get_docstring(ast.parse((ROOT / "supervisor" / group / "__init__.py").read_text("utf-8"))) or ""
    found = re.search(rf"^{line}[^:]*: (.+)\.$", text, re.MULTILINE)
    assert found, f'the docstring of supervisor/{group} has no line "{line}"'
    return [] if found[1] == "nothing" else found[1].split(", ")


RULED = {*ALLOWED, *GROUPS}


def imported(part: str) -> set[str]:
    """Returns the parts that the modules of a group or room import, but worker.contract, which everybody may."""
    ours_of = (ours(module) for module in MODULES if part_of(module) == part)
    return {part_of(name) for names in ours_of for name in names} - {part, "worker.contract"}


def test_supervisor_shows_the_twelve_groups_and_nothing_loose() -> None:
    found = {path.name for path in (ROOT / "supervisor").iterdir() if path.name != "__pycache__"}
    assert found == {*GROUPS, "__main__.py"}


def test_every_room_outside_supervisor_is_in_the_table() -> None:
    assert {part_of(module) for module in MODULES} - {*GROUPS, "__main__"} == set(ALLOWED)


def test_a_room_imports_what_the_table_says() -> None:
    assert {room: imported(room) for room in ALLOWED} == {
        room: may - {"worker.contract"} for room, may in ALLOWED.items()
    }


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_imports_what_its_docstring_says_and_nothing_above_it(group: str) -> None:
    may = described(group, "May import")
    assert imported(group) == set(may)
    groups = [name for name in may if "." not in name]
    assert groups == [name for name in GROUPS[: GROUPS.index(group)] if name in groups]
    assert group != "faces" or "cluster" not in groups


@pytest.mark.parametrize("group", GROUPS)
def test_a_room_of_a_group_imports_only_rooms_before_it(group: str) -> None:
    rooms = [f"supervisor.{group}.{name}" for name in described(group, "Rooms")]
    inside = {m for m in MODULES if m.startswith(f"supervisor.{group}.") and room_of(m) != f"supervisor.{group}"}
    assert {room_of(module) for module in inside} == set(rooms)
    assert len(rooms) <= ROOMS_MAX
    wrong = {
        f"{module} imports {name}"
        for module in inside
        for name in ours(module)
        if part_of(name) == group and room_of(name) not in rooms[: rooms.index(room_of(module)) + 1]
    }
    assert wrong == set()


def test_the_groups_are_those_of_the_architecture_page() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text("utf-8")
    for group in GROUPS:
        may = ", ".join(name for name in described(group, "May import") if "." not in name) or "-"
        rooms = ", ".join(described(group, "Rooms"))
        row = rf"^\| {group} \| [^|]+ \| {re.escape(may)} \| {re.escape(rooms)} \|$"
        assert re.search(row, text, re.MULTILINE), f"{group}: {may}: {rooms}"


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


def test_every_room_is_small() -> None:
    sizes = Counter(room_of(module) for module in MODULES if not module.endswith("__init__"))
    assert {room: size for room, size in sizes.items() if size > MODULES_MAX} == {}


def test_imports_are_relative_inside_a_group_and_absolute_across_groups() -> None:
    wrong: set[str] = set()
    for module, path in MODULES.items():
        own = module.split(".")[: 2 if module.startswith("supervisor.") else 1]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and not module.endswith((".program", "__main__")):
                folder = module.split(".")[:-1]
                inside = folder[: len(folder) - node.level + 1]
                if node.level and inside[: len(own)] != own:
                    wrong.add(f"{module} leaves its group by a relative import")
                if not node.level and f"{node.module}.".startswith(".".join(["corral", *own, ""])):
                    wrong.add(f"{module} imports {node.module} of its own group by an absolute import")
    assert wrong == set()


def test_a_module_that_decides_does_nothing() -> None:
    deciding = [f"{room}.{name}" for room, names in PURE.items() for name in names.split()]
    assert {module: found for module in deciding if (found := IMPURE & imports(module))} == {}


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
