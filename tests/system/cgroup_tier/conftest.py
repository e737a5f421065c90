"""Skips the tests of this folder outside of the guest: most machines give a test no controllers."""

import os
from pathlib import Path

import pytest

from uml_guest import MARK

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get(MARK) != "1":
        outside = pytest.mark.skip(reason="needs a kernel with controllers: make cgroup-tier")
        for item in items:
            if item.path.is_relative_to(HERE):
                item.add_marker(outside)
