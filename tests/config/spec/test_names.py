"""Names that end in digits: which are also ids of workers, and are refused with both."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.references import check_worker_ids, shared_ids, workers_max
from corral.worker.contract.errors import Conflict, InvalidParams

pytestmark = pytest.mark.core

AGENT = '[agents.{}]\ncommand = ["x"]\ninstances = {}\n'


def read(text: str) -> set[str]:
    config = decode(text, source="/etc/corral.toml", directory="/etc")
    return {*config.agents, *config.groups}


def test_a_name_may_end_in_digits() -> None:
    text = AGENT.format("worker-1", 2) + "[mcp.servers.node-0]\ncommand = ['x']\n"
    text += "[teams.crew-7]\nmode = 'route'\nmembers = ['worker-1']\n"
    assert read(text) == {"worker-1", "node-0", "crew-7"}
    assert read(AGENT.format("worker", 1) + AGENT.format("worker-1", 1)) == {"worker", "worker-1"}
    assert read(AGENT.format("worker", 2) + AGENT.format("worker-01", 1)) == {"worker", "worker-01"}


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (AGENT.format("worker-1", 1), "agents.worker-1"),
        ("[mcp.servers.worker-1]\ncommand = ['x']\n", "mcp.servers.worker-1"),
        ("[teams.worker-1]\nmode = 'route'\nmembers = ['worker']\n", "teams.worker-1"),
    ],
)
def test_a_name_that_is_the_id_of_a_worker_is_refused_with_the_other(other: str, key: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        read(AGENT.format("worker", 2) + other)
    assert (caught.value.data["key"], caught.value.data["line"]) == (key, 4)
    assert '"worker"' in str(caught.value.data["reason"])


NAMES = st.from_regex(r"[a-c](-[0-9]{1,2}){0,2}", fullmatch=True)


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.integers(0, 12), max_size=8), st.sets(NAMES, max_size=5))
def test_a_set_is_accepted_exactly_when_no_word_is_both(workers: dict[str, int], others: set[str]) -> None:
    names = {*workers, *others}
    ids = {f"{name}-{n}" for name, number in workers.items() for n in range(number)}
    assert {name for name, _ in shared_ids(workers, names)} == ids & names
    if ids & names:
        with pytest.raises(Conflict) as caught:
            check_worker_ids(workers, names, "add")
        assert caught.value.data["name"] in ids & names
    else:
        check_worker_ids(workers, names, "add")
    for name in workers:
        most = workers_max(name, names)
        taken = {n for n in range(100) if f"{name}-{n}" in names}
        assert most == min(taken, default=None)
