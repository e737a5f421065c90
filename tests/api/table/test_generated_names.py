"""Names that the daemon gives teams and workflows are names that a configuration may have."""

import re

import pytest

from corral.supervisor.api.table.handlers import generated_name

pytestmark = pytest.mark.core


@pytest.mark.parametrize("kind", ["team", "workflow"])
def test_a_generated_name_never_looks_like_the_id_of_a_worker(kind: str) -> None:
    names = {generated_name(kind) for _ in range(2_000)}
    assert len(names) > 1_900
    assert all(re.fullmatch(kind + "-[a-f][0-9a-f]{5}", name) for name in names)
