"""Helpers of the tests of workflows: a configuration of four agents, and a workflow of the steps a test gives."""

from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.spec import Config
from corral.supervisor.config.spec.workflow import Workflow

AGENTS = """
[agents.reader]
command = ["true"]
[agents.writer]
command = ["true"]
[agents.chief]
command = ["true"]
[agents.plain]
command = ["true"]
protocol = "none"
"""


def config(text: str) -> Config:
    return decode(AGENTS + text, source="corral.toml", directory="/")


def workflow(steps: str, head: str = "") -> Workflow:
    tables = steps.replace("[[", "[[workflows.flow.").replace("flow.step]]", "flow.steps]]")
    found = config(f"[workflows.flow]\n{head}\n{tables}").groups["flow"]
    assert isinstance(found, Workflow)
    return found


def step(name: str, *more: str, agent: str = "reader") -> str:
    return "\n".join(["[[step]]", f'name = "{name}"', f'agent = "{agent}"', *more, ""])
