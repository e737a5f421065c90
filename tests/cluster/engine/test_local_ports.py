"""Reserved ports: each is given once while it is held, and none of them is one that the kernel gives to others."""

import socket

from corral.supervisor.cluster.engine.local_ports import FIRST, GIVEN, reserve


def test_a_port_is_given_once_until_it_is_let_go() -> None:
    first, held = reserve(20)
    second, more = reserve(20)
    assert len({*first, *second}) == 40
    for each in held:
        each.close()
    third, again = reserve(20)
    assert third == first
    for each in (*more, *again):
        each.close()


def test_no_port_is_one_that_the_kernel_gives_or_that_is_taken() -> None:
    (port,), (held,) = reserve(1)
    assert FIRST <= port < int(GIVEN.read_text().split()[0])
    held.close()
    with socket.create_server(("127.0.0.1", port)):
        (other,), (held,) = reserve(1)
        assert other != port
        held.close()
