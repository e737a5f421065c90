"""Which hosts a worker may reach, and which addresses a name may lead to."""

import pytest

from corral.supervisor.workers.egress.rules import rule_of, why_address_refused, why_refused

pytestmark = pytest.mark.core

LISTED = [
    rule_of(host)
    for host in (
        *("api.example.com:8443", "*.example.org", "plain.test", "10.0.0.7", "127.0.0.1:5000"),
        *("[::1]:5001", "[fe80::1]"),
    )
]


@pytest.mark.parametrize(
    ("host", "port", "may"),
    [
        ("api.example.com", 8443, True),
        ("API.Example.COM.", 8443, True),
        ("api.example.com", 443, False),
        ("example.com", 8443, False),
        ("evil-api.example.com", 8443, False),
        ("a.example.org", 443, True),
        ("a.b.example.org", 80, True),
        ("example.org", 443, False),
        ("evilexample.org", 443, False),
        ("a.example.org.evil.test", 443, False),
        ("plain.test", 80, True),
        ("plain.test", 22, False),
        ("10.0.0.7", 443, True),
        ("10.0.0.8", 443, False),
        ("::1", 5001, True),
        ("0:0::1", 5001, True),
        ("127.0.0.1", 5000, True),
        ("127.1", 5000, False),
        ("localhost", 5000, False),
    ],
)
def test_a_host_is_reached_only_as_it_is_listed(host: str, port: int, may: bool) -> None:
    assert (why_refused(host, port, LISTED) == "") is may


@pytest.mark.parametrize(
    ("address", "port", "may"),
    [
        ("93.184.216.34", 443, True),
        ("10.1.2.3", 443, True),
        ("127.0.0.1", 443, False),
        ("127.0.0.1", 5000, True),
        ("::1", 443, False),
        ("::1", 5001, True),
        ("::ffff:127.0.0.1", 443, False),
        ("169.254.169.254", 80, False),
        ("fe80::1%eth0", 443, True),
        ("fe80::2%eth0", 443, False),
        ("0.0.0.0", 80, False),
        ("::", 80, False),
        ("224.0.0.1", 80, False),
        ("fd00:ec2::254", 80, False),
        ("100.100.100.200", 80, False),
    ],
)
def test_a_listed_name_does_not_lead_to_this_machine(address: str, port: int, may: bool) -> None:
    assert (why_address_refused("plain.test", address, port, LISTED) == "") is may
