"""The key `listen`: addresses of sockets that the daemon holds."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.supervisor.config.decoding.values import Refused
from corral.supervisor.config.spec.diff import changed
from corral.supervisor.config.spec.listen import ListenAddress, listen_addresses
from corral.supervisor.config.spec.loader import decode, decode_agent, to_table
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core

AGENT = '[agents.web]\ncommand = ["web"]\nprotocol = "none"\n'


def config(text: str) -> str:
    return f"{AGENT}listen = {text}\n"


def read(text: str) -> tuple[ListenAddress, ...]:
    return decode(config(text), source="c.toml", directory="/").agents["web"].listen


def refused(text: str) -> InvalidParams:
    with pytest.raises(InvalidParams) as caught:
        decode(text, source="c.toml", directory="/")
    return caught.value


def test_one_address_is_written_as_a_string_and_several_as_a_list() -> None:
    assert read('"127.0.0.1:80"') == (ListenAddress("127.0.0.1:80"),)
    found = read('["[::1]:81", { address = "unix:/run/w.sock", name = "ctl", mode = "0660" }]')
    assert found == (ListenAddress("[::1]:81"), ListenAddress("unix:/run/w.sock", "ctl", "0660"))
    assert [each.place for each in found] == [("::1", 81), ("unix:/run/w.sock", 0)]


def test_the_name_of_the_loopback_address_is_that_address() -> None:
    assert read('"localhost:080"') == (ListenAddress("127.0.0.1:80"),)


@pytest.mark.parametrize(
    "text",
    [
        "8080",
        '"8080"',
        '"example.com:80"',
        '"::1:80"',
        '"[127.0.0.1]:80"',
        '"127.0.0.1:65536"',
        '"127.0.0.1:-1"',
        '"unix:run/w.sock"',
        f'"unix:/{"x" * 107}"',
        "{ address = 80 }",
        '{ name = "x" }',
        '{ address = "127.0.0.1:80", port = 1 }',
        '{ address = "127.0.0.1:80", mode = "0600" }',
        '{ address = "127.0.0.1:80", name = "a:b" }',
        '{ address = "unix:/w", mode = "rw" }',
        '["127.0.0.1:80", "localhost:80"]',
        str([f"127.0.0.1:{n}" for n in range(1, 12)]),
    ],
)
def test_what_is_no_address_is_refused_by_key(text: str) -> None:
    assert refused(config(text)).data["key"] == "agents.web.listen"


def test_any_free_port_may_be_asked_for_twice() -> None:
    assert len(read('["127.0.0.1:0", "127.0.0.1:0"]')) == 2


@pytest.mark.parametrize(
    "other",
    [
        'http = "127.0.0.1:80"\nprotocol = "none"\ncommand = ["x"]',
        'listen = "localhost:80"\nprotocol = "none"\ncommand = ["x"]',
    ],
)
def test_two_agents_cannot_have_one_address(other: str) -> None:
    text = config('"127.0.0.1:80"') + "[agents.b]\n" + other + "\n"
    assert refused(text).data["other"] == "agents.web.listen"


def test_an_agent_cannot_have_the_address_of_the_daemon_or_its_own_service() -> None:
    at = config('"127.0.0.1:80"')
    assert refused('[daemon]\nhttp = "localhost:80"\n' + at).data["other"] == "daemon.http"
    assert refused(at + 'http = "127.0.0.1:80"\n').data["other"] == "agents.web.listen"


@pytest.mark.parametrize(
    "text", ['protocol = "webhook"\nurl = "https://example.com"', 'type = "oneshot"\ncommand = ["x"]']
)
def test_an_agent_that_could_not_accept_has_no_sockets(text: str) -> None:
    assert refused(f'[agents.a]\n{text}\nlisten = "127.0.0.1:80"\n').data["key"] == "agents.a.listen"


def test_a_server_that_is_spoken_to_over_pipes_has_none() -> None:
    text = '[mcp.servers.s]\ncommand = ["x"]\nlisten = "127.0.0.1:80"\n'
    assert refused(text).data["key"] == "mcp.servers.s.listen"


def test_a_change_needs_new_workers_and_the_wait_for_connections_none() -> None:
    before = decode(config('"127.0.0.1:80"'), source="c", directory="/").agents["web"]
    after = decode(config('"127.0.0.1:81"'), source="c", directory="/").agents["web"]
    assert changed(before, after) == {"listen": "restart"}
    drained = config('"127.0.0.1:80"') + "process = { drain_timeout = 5 }\n"
    later = decode(drained, source="c", directory="/").agents["web"]
    assert changed(before, later) == {"process.drain_timeout": "live"}


addresses = st.one_of(
    st.builds("{}:{}".format, st.ip_addresses(v=4), st.integers(1, 65_535)),
    st.builds("[{}]:{}".format, st.ip_addresses(v=6), st.integers(1, 65_535)),
    st.builds("unix:/{}".format, st.text("abc/.-", min_size=1, max_size=50).map(lambda s: s + "x")),
)
names = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1)


@given(st.lists(st.tuples(addresses, st.none() | names), max_size=5, unique_by=lambda p: p[0]))
def test_what_is_written_from_a_spec_reads_as_the_same(given_: list[tuple[str, str | None]]) -> None:
    raw = [a if n is None else {"address": a, "name": n} for a, n in given_]
    try:
        wanted = listen_addresses(raw)
    except Refused:
        return  # two spellings of one
    table: dict[str, object] = {"command": ["web"], "protocol": "none", "listen": raw}
    defaults = decode("", source="c", directory="/").defaults

    def again(value: dict[str, object]) -> dict[str, object]:
        spec = decode_agent("web", value, kind="agent", defaults=defaults, source="store", directory="/")
        assert spec.listen == wanted
        return to_table(spec, defaults)

    assert again(again(table)) == again(table)
    for each in wanted:
        if each.path is None:
            ipaddress.ip_address(each.place[0])
