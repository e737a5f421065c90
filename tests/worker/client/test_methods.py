"""The Python names of the table of methods: each is there, with the params of its method."""

import asyncio
import importlib.util
import inspect
import types
from pathlib import Path
from typing import cast

import pytest

from corral import AgentRuntime, Runtime
from corral.worker.client.async_ import Reconnecting
from corral.worker.client.calling import Caller, given
from corral.worker.client.methods import Methods
from corral.worker.client.tasks import TaskOptions
from corral.worker.contract.records import AgentStatus
from corral.worker.control.params import ScheduleParams, TaskListParams
from corral.worker.methods.table import METHODS

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.contract

OTHER_NAMES = {
    ("select_agents", "all"): "all are chosen without names",
    ("events", "until"): "a follower ignores it",
    ("execute_task", "stream"): "run_agent_stream",
    ("wait_task", "stream"): "stream_task",
}
"""Params that a method made by hand takes in another way, or not."""


def script() -> types.ModuleType:
    """Returns docs/reference/python.py as a module."""
    path = ROOT / "docs" / "reference" / "python.py"
    spec = importlib.util.spec_from_file_location("python_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = script()


def parameters(name: str) -> set[str]:
    """Returns the names of the parameters of a method of AgentRuntime, those of its options included."""
    found = inspect.signature(getattr(AgentRuntime, name)).parameters
    options = TaskOptions.__annotations__ if "options" in found else {}
    return {*found, *options} - {"self", "options"}


def test_the_typed_methods_are_those_that_the_table_gives() -> None:
    for path, text in SCRIPT.written().items():
        assert path.read_text("utf-8") == text, f"run docs/reference/python.py: {path.name}"


def test_a_method_of_the_table_has_a_typed_one_in_python_with_all_its_params(subtests: pytest.Subtests) -> None:
    for entry in METHODS.values():
        name = entry.faces.python
        with subtests.test(entry.name):
            if name is None:
                assert entry.faces.reason
                continue
            taken = parameters(name)
            if name in SCRIPT.FULL and hasattr(AgentRuntime, SCRIPT.FULL[name]):
                taken |= parameters(SCRIPT.FULL[name])
            missing = set(entry.params.__struct_fields__) - taken
            assert {key for key in missing if (name, key) not in OTHER_NAMES} == set()


def test_params_that_are_as_by_default_are_not_sent() -> None:
    assert given(TaskListParams, agent=None, agents=(), limit=100, roots=True) == {"roots": True}
    task = {"objective": "x", "after": ("a",)}
    assert given(ScheduleParams, task=task, every_s=2, catch_up=False) == {
        "task": {"objective": "x", "after": ["a"]},
        "every_s": 2,
        "catch_up": False,
    }


def public(of: type) -> dict[str, object]:
    """Returns the public methods and properties of a class, with their bases'."""
    return {name: getattr(of, name) for name in dir(of) if not name.startswith("_")}


def test_the_synchronous_runtime_has_the_methods_of_the_other_one_with_their_signatures() -> None:
    ours, theirs = public(AgentRuntime), public(Runtime)
    assert set(ours) - {"socket"} == set(theirs) - {"socket"}
    for name, method in ours.items():
        if not callable(method) or name in ("connect", "start"):
            continue
        other = theirs[name]
        assert callable(other)
        signature = inspect.signature(method)
        assert list(signature.parameters.values()) == list(inspect.signature(other).parameters.values()), name
        assert not inspect.iscoroutinefunction(other), name


def test_a_method_takes_the_arguments_of_its_signature_alone_and_sends_no_defaults() -> None:
    sent: list[tuple[object, ...]] = []

    class Connection:
        async def ask(self, *call: object) -> None:
            sent.append(call)

    class Client(Caller, Methods):
        """Has the declared methods alone."""

    methods = Client(cast("Reconnecting", Connection()))
    asyncio.run(methods.scale_agent("web", instances=2, wait=True))
    assert sent == [(AgentStatus, "agent.scale", {"name": "web", "instances": 2})]
    with pytest.raises(TypeError):
        asyncio.run(methods.scale_agent("web", 2, force=True))  # type: ignore[call-arg]  # which is the mistake
    assert len(sent) == 1
