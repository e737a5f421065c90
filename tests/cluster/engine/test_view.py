"""The newest state of watched keys: random histories with lost connections, from printed seeds; and what is imported."""

import asyncio
import random
import subprocess
import sys

import pytest

from corral.supervisor.cluster.engine.interface import Change
from corral.supervisor.cluster.engine.view import Inbox, View
from seeds import seeds

pytestmark = pytest.mark.core


@pytest.mark.parametrize("seed", seeds(100))
def test_a_reader_ends_with_what_the_engine_has_whatever_it_missed(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def life() -> None:
        view = View()
        truth: dict[str, tuple[bytes, int]] = {}
        read: dict[str, bytes] = {}
        revision = 0
        is_connected = False
        for _ in range(300):
            draw = rng.random()
            key = f"k{rng.randint(0, 5)}"
            if draw < 0.05:
                is_connected = False
            elif draw < 0.15 and not is_connected:
                view.begin()
                for name, (value, at) in sorted(truth.items(), key=lambda each: each[1][1]):
                    view.put(Change(name, value, at))
                view.complete()
                is_connected = True
            elif draw < 0.7:
                revision += 1
                if rng.random() < 0.3:
                    if truth.pop(key, None) is not None and is_connected:
                        view.put(Change(key, None, revision))
                else:
                    truth[key] = (str(revision).encode(), revision)
                    if is_connected:
                        view.put(Change(key, *truth[key]))
                        if rng.random() < 0.2:
                            view.put(Change(key, b"old", revision - 1))
            while rng.random() < 0.3 and view.unread:
                apply(read, await view.next())
        view.begin()
        for name, (value, at) in truth.items():
            view.put(Change(name, value, at))
        view.complete()
        while view.unread:
            apply(read, await view.next())
        assert read == {key: value for key, (value, _) in truth.items()}
        assert {k: e.value for k, e in view.entries().items()} == read

    asyncio.run(life())


def apply(read: dict[str, bytes], change: Change) -> None:
    if change.value is None:
        read.pop(change.key, None)
    else:
        read[change.key] = change.value


def test_unread_changes_of_one_key_are_one() -> None:
    view = View()
    for revision in range(1, 10_000):
        view.put(Change("k", b"", revision))
    assert view.unread == 1


def test_a_full_inbox_counts_what_it_drops() -> None:
    inbox = Inbox(2)
    for number in range(5):
        inbox.put(number)
    assert inbox.dropped == 3


def test_without_a_cluster_no_client_of_an_engine_is_imported() -> None:
    code = (
        "import sys, corral.supervisor.daemon, corral.supervisor.cluster.engine.connection as c;"
        "print([n for n in sys.modules if n.split('.')[0] in ('nats', 'redis')])"
    )
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stdout.strip()) == (0, "[]"), found.stderr
