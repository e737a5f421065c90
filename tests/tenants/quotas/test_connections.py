"""The shares of connections: what one client takes, and what is left for the others."""

import resource

import pytest

from corral.supervisor.faces.http.face import HttpClient
from corral.supervisor.tenants.quotas.connections import Clients, allowed
from corral.worker.contract.errors import Overloaded

OWNER = HttpClient("http", "admin")
MOST = 64


def taken(clients: Clients, client: HttpClient, first: int) -> int:
    """How many connections a client gets that asks for as many as there are."""
    for number in range(MOST):
        try:
            clients.note((first, number), client.sharer)
        except Overloaded:
            return number
    return MOST


def test_a_token_has_a_quarter_and_gets_it_again_when_its_connections_end() -> None:
    clients = Clients(MOST)
    weak = HttpClient("weak", "read", agents=("a",))
    assert taken(clients, weak, 1) == MOST // 4
    clients.note((1, 0), weak.sharer)  # another request of a connection that it has
    clients.forget((1, 0))
    clients.forget((1, 0))
    assert taken(clients, weak, 2) == 1


def test_all_tokens_of_a_tenant_have_one_share() -> None:
    clients = Clients(MOST)
    tokens = [HttpClient(name, "operate", tenant="acme") for name in ("one", "two")]
    assert sum(taken(clients, token, number) for number, token in enumerate(tokens)) == MOST // 4


def test_room_is_left_for_the_owner_whatever_all_others_take() -> None:
    clients = Clients(MOST)
    taken_by_others = sum(taken(clients, HttpClient(f"t{number}", "read"), number) for number in range(10))
    assert taken_by_others == MOST - MOST // 8
    assert taken(clients, OWNER, 99) == MOST // 8 - MOST // 16


def test_room_is_left_for_probes_whatever_the_owner_takes() -> None:
    assert taken(Clients(MOST), OWNER, 1) == MOST - MOST // 16


def test_the_owner_takes_nothing_from_the_share_of_others() -> None:
    clients = Clients(MOST)
    for number in range(MOST // 2):
        clients.note((99, number), OWNER.sharer)
    assert taken(clients, HttpClient("weak", "read"), 1) == MOST // 4


@pytest.mark.parametrize("client", [HttpClient("t", "admin", agents=("a",)), HttpClient("t", "operate")])
def test_who_has_less_than_all_rights_has_a_share(client: HttpClient) -> None:
    assert taken(Clients(MOST), client, 1) == MOST // 4


def test_connections_leave_three_quarters_of_the_descriptors_to_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = iter([(90, 90), (1 << 20, 1 << 20)])

    def getrlimit(_resource: int) -> tuple[int, int]:
        return next(limits)

    monkeypatch.setattr(resource, "getrlimit", getrlimit)
    assert [allowed(512), allowed(512)] == [22, 512]
