"""What a caller with some agents alone may know, as values: names, entries of results, errors."""

import random
import string
from fnmatch import fnmatchcase

from corral.supervisor.tenants.tokens.scope import as_glob, is_in_scope, kept, lesser, without_names
from corral.worker.control.access import RIGHTS

SEED = 20261123
LIVES = 2000


def names(chance: random.Random, count: int) -> list[str]:
    letters = "ab-_1"
    return [
        chance.choice("abAB") + "".join(chance.choice(letters) for _ in range(chance.randrange(6)))
        for _ in range(count)
    ]


def test_the_lesser_right_is_in_both() -> None:
    for one in RIGHTS:
        for other in RIGHTS:
            both = lesser(one, other)
            assert both in (one, other)
            assert RIGHTS.index(both) == min(RIGHTS.index(one), RIGHTS.index(other))


def test_no_globs_at_all_restrict_nothing_and_an_empty_list_everything() -> None:
    assert is_in_scope("web", None)
    assert not is_in_scope("web", ())


def test_nothing_out_of_scope_is_left_in_a_result_or_an_error() -> None:
    chance = random.Random(SEED)
    for _ in range(LIVES):
        all_names = names(chance, 8)
        globs = [*names(chance, 2), f"{chance.choice('ab')}*"][: chance.randrange(4)]
        entries: list[object] = [{"agent": name, "in": {"name": name}} for name in all_names]
        entries += [None, 1, {}, {"agent": 1}, {"agent": None}]
        chance.shuffle(entries)
        wanted = [name for name in all_names if any(fnmatchcase(name, glob) for glob in globs)]
        for path in ("agent", "in.name"):
            left = kept({"next": 7, "found": entries}, "found", path, globs)
            assert left["next"] == 7
            assert sorted(each["agent"] for each in left["found"]) == sorted(wanted)  # type: ignore[attr-defined]  # a list
        data = without_names({"name": "x", "known": all_names, "near": [*all_names]}, globs)
        assert data == {"name": "x", "known": wanted, "near": wanted}


def test_a_glob_of_a_name_matches_that_name_alone() -> None:
    chance = random.Random(SEED)
    for name in names(chance, LIVES):
        for other in names(chance, 4):
            assert fnmatchcase(other, as_glob(name)) == (other == name)
    assert all(fnmatchcase(c, as_glob(c)) for c in string.ascii_letters)
