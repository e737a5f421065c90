"""What a changed file means for the running set."""

import pytest
from msgspec.structs import replace

from corral.supervisor.config.spec.diff import Plan, plan
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.spec import Config

pytestmark = pytest.mark.core


def config(text: str) -> Config:
    return decode(text, source="corral.toml", directory="/srv")


OLD = config("""
[agents.same]
command = ["a"]
[agents.goes]
command = ["b"]
[agents.changes]
command = ["c"]
""")

SAME = '[agents.same]\ncommand = ["a"]\n'
GOES = '[agents.goes]\ncommand = ["b"]\n'
CHANGES = '[agents.changes]\ncommand = ["c"]\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SAME + GOES + CHANGES, Plan()),
        (SAME + CHANGES, Plan(removed=("goes",))),
        (SAME + GOES + CHANGES + '[agents.new]\ncommand = ["n"]\n', Plan(added=("new",))),
        (
            SAME + GOES + '[agents.renamed]\ncommand = ["c"]\n',
            Plan(added=("renamed",), removed=("changes",)),
        ),
        (SAME + GOES + '[agents.changes]\ncommand = ["d"]\n', Plan(changed={"changes": "restart"})),
        (SAME + GOES + CHANGES + "capabilities = ['x']\n", Plan(changed={"changes": "live"})),
        (
            SAME + GOES + CHANGES + "tasks.max_attempts = 9\nresources.max_cpu_seconds = 9\n",
            Plan(changed={"changes": "restart"}),
        ),
        ('daemon.log_level = "debug"\n' + SAME + GOES + CHANGES, Plan(live=("daemon.log_level",))),
        (
            "process.max_concurrent_processes = 9\n" + SAME + GOES + CHANGES,
            Plan(live=("process.max_concurrent_processes",)),
        ),
        (
            "recovery.max_restart_attempts = 9\n" + SAME + GOES + CHANGES,
            Plan(changed={"same": "live", "goes": "live", "changes": "live"}),
        ),
        ('[mcp.servers.off]\ncommand = ["x"]\ndisabled = true\n' + SAME + GOES + CHANGES, Plan()),
    ],
)  # fmt: skip
def test_a_plan_holds_what_has_changed_and_nothing_else(text: str, expected: Plan) -> None:
    running = dict(OLD.agents)
    found = plan(running, frozenset(running), OLD, config(text))
    assert replace(found, keys={}) == expected
    assert found.keys.keys() == found.changed.keys()
    assert found.is_empty == (expected == Plan())


def test_a_plan_names_the_keys_that_changed() -> None:
    text = SAME + GOES + CHANGES + "tasks.max_attempts = 9\nresources.max_cpu_seconds = 9\ncapabilities = ['x']\n"
    found = plan(dict(OLD.agents), frozenset(OLD.agents), OLD, config(text))
    assert found.keys == {"changes": ("capabilities", "resources.max_cpu_seconds", "tasks.max_attempts")}


def test_what_was_added_at_run_time_stays_unless_the_file_names_it() -> None:
    added = config('[agents.added]\ncommand = ["x"]\n').agents["added"]
    running = {**OLD.agents, "added": added}
    assert plan(running, frozenset(OLD.agents), OLD, config(SAME + GOES + CHANGES)).is_empty
    text = SAME + GOES + CHANGES + '[agents.added]\ncommand = ["y"]\n'
    named = plan(running, frozenset(OLD.agents), OLD, config(text))
    assert named == Plan(changed={"added": "restart"}, keys={"added": ("command",)})
