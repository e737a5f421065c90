"""Which requests are served: their target, their host, their origin, the address that others may reach; and how long the answers to wrong tokens wait."""

import pytest

from corral.supervisor.faces.http.admission import (
    ADDRESSES_MAX,
    FREE,
    MOST_S,
    STEP_S,
    WINDOW_S,
    Admission,
    Guesses,
    address_of,
    check_target,
)
from corral.supervisor.faces.http.face import HttpClient
from corral.worker.contract.errors import InvalidRequest, PermissionDenied

pytestmark = pytest.mark.core


def admission(host: str = "127.0.0.1", names: tuple[str, ...] = (), **options: bool) -> Admission:
    return Admission(host, 7777, lambda _: HttpClient("x", "read"), names=names, **options)


@pytest.mark.parametrize("target", ["/", "/mcp", "/api/v1/agents/a%2Fb?x=%ff", "/a..b/.c", "/%C3%A9"])
def test_a_plain_path_is_served(target: str) -> None:
    check_target(target)


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1/mcp", "*", "", "host:80", "/a/../b", "/a/%2e%2E/b", "/.", "/a%00", "/%0d%0a", "/%7f", "/%ff", "/\udcff"],
)  # fmt: skip
def test_a_target_that_is_no_plain_path_is_refused(target: str) -> None:
    with pytest.raises(InvalidRequest):
        check_target(target)


@pytest.mark.parametrize(
    ("place", "hosts"),
    [
        (admission(), ["127.0.0.1:7777"]),
        (admission(), ["LOCALHOST:7777"]),
        (admission("0.0.0.0"), ["corral.example.org"]),
        (admission("0.0.0.0"), ["[fe80::1]:9"]),
        (admission(is_behind_proxy=True), ["corral.example.org"]),
        (admission(names=("Corral.example.org",)), ["corral.example.org:443"]),
        (admission("0.0.0.0", names=("corral.example.org",)), ["localhost:7777"]),
    ],
)
def test_a_host_that_is_ours_is_served(place: Admission, hosts: list[str]) -> None:
    place.check_place(hosts, [])


@pytest.mark.parametrize(
    ("place", "hosts"),
    [
        (admission(), []),
        (admission(), ["127.0.0.1:7777", "127.0.0.1:7777"]),
        (admission(), ["127.0.0.1:7778"]),
        (admission(), ["corral.example.org:7777"]),
        (admission("0.0.0.0"), ["a b"]),
        (admission("0.0.0.0"), [""]),
        (admission("0.0.0.0", names=("corral.example.org",)), ["example.org"]),
        (admission(names=("corral.example.org",), is_behind_proxy=True), ["example.org"]),
    ],
)
def test_another_host_or_two_or_none_is_refused(place: Admission, hosts: list[str]) -> None:
    with pytest.raises(PermissionDenied):
        place.check_place(hosts, [])


@pytest.mark.parametrize("origin", ["https://corral.example.org", "http://localhost:3000"])
def test_a_page_of_the_same_host_or_of_this_machine_is_served(origin: str) -> None:
    admission("0.0.0.0").check_place(["corral.example.org"], [origin])


@pytest.mark.parametrize("origin", ["https://example.org", "null", "corral.example.org", "https://corral.example.org:1"])  # fmt: skip
def test_a_foreign_page_is_refused(origin: str) -> None:
    with pytest.raises(PermissionDenied):
        admission("0.0.0.0").check_place(["corral.example.org"], [origin])


def test_an_address_that_others_reach_is_served_where_it_is_protected() -> None:
    assert address_of("0.0.0.0:443", is_protected=True) == ("0.0.0.0", 443)
    assert address_of("[::]:0", is_protected=True) == ("::", 0)


def test_a_few_wrong_tokens_are_answered_at_once_and_more_of_them_wait_longer_up_to_a_bound() -> None:
    guesses = Guesses()
    waits = [guesses.wait_s("192.0.2.1", 0.0) for _ in range(100)]
    assert waits[:FREE] == [0.0] * FREE
    assert waits[FREE] == STEP_S
    assert waits == sorted(waits)
    assert waits[-1] == MOST_S
    assert guesses.wait_s("192.0.2.2", 0.0) == 0.0


def test_a_window_later_nothing_is_held_against_an_address() -> None:
    guesses = Guesses()
    for _ in range(50):
        guesses.wait_s("192.0.2.1", 0.0)
    assert guesses.wait_s("192.0.2.1", WINDOW_S + 1) == 0.0


def test_the_addresses_that_are_remembered_are_bounded() -> None:
    guesses = Guesses()
    for _ in range(50):
        guesses.wait_s("first", 0.0)
    for number in range(ADDRESSES_MAX):
        guesses.wait_s(str(number), 0.0)
    assert guesses.wait_s("first", 0.0) == 0.0
