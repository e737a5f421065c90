"""Addresses of stores: which are accepted, where they lead, and that nothing shown has a password."""

import contextlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.supervisor.config.declared.stores import Kind, Place, checked, place_of, shown, variable_of
from corral.supervisor.config.decoding.values import Refused
from corral.supervisor.config.spec import loader
from corral.supervisor.config.spec.diff import changed
from corral.supervisor.config.spec.spec import Config, Defaults
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core

FOLDER = "/etc/corral"
MARK = "hunter2"
AGENT = """
[agents.reader]
command = ["reader"]
stores = ["main-db", "papers"]
"""
STORES = """
[stores.main-db]
kind = "postgres"
url = "postgresql://app:${secret:DB}@db.example.com/app"
[stores.papers]
kind = "files"
url = "papers"
"""


def decoded(text: str) -> Config:
    return loader.decode(text, source="/etc/corral/corral.toml", directory=FOLDER)


@pytest.mark.parametrize(
    ("kind", "url", "place"),
    [
        ("sqlite", "/var/a.db", Place(path="/var/a.db")),
        ("sqlite", "sqlite:////var/a.db?mode=ro", Place(path="/var/a.db")),
        ("sqlite", "sqlite+aiosqlite:////var/a.db", Place(path="/var/a.db")),
        ("files", "file:///var/a%20b", Place(path="/var/a b")),
        ("postgres", "postgres://h/db", Place(host="h", port=5432)),
        ("postgres", "postgresql+asyncpg://u:p@[::1]:6000/db", Place(host="::1", port=6000)),
        ("redis", "rediss://:p%40ss@h:1/0", Place(host="h", port=1)),
        ("http", "https://h/x?key=v", Place(host="h", port=443)),
    ],
)
def test_an_address_leads_to_a_place(kind: Kind, url: str, place: Place) -> None:
    checked(kind, url)
    assert place_of(kind, url) == place


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("sqlite", "sqlite:///relative.db"),
        ("sqlite", "postgres://h/db"),
        ("files", "file://host/a"),
        ("files", "sqlite:////a"),
        ("postgres", f"postgres://u:{MARK}/x@h/db"),
        ("postgres", f"postgres://u:{MARK}#x@h/db"),
        ("postgres", f"postgres://u:1/{MARK}@h/db"),
        ("postgres", f"u:{MARK}@h/db"),
        ("postgres", f"mysql://u:{MARK}@h/db"),
        ("postgres", f"postgres://u:{MARK}@h:port/db"),
        ("postgres", f"postgres://u:{MARK}@h:99999/db"),
        ("redis", f"redis://:{MARK}@/0"),
        ("http", f"http://{MARK} x@h"),
    ],
)
def test_what_is_no_address_of_its_kind_is_refused_without_a_part_of_it(kind: Kind, url: str) -> None:
    with pytest.raises(Refused) as caught:
        checked(kind, url)
    assert MARK not in caught.value.reason
    with pytest.raises(InvalidParams) as refused:
        decoded(f'[stores.a]\nkind = "{kind}"\nurl = "{url}"\n')
    assert MARK not in str(refused.value) + str(refused.value.data)


TEXTS = st.text(max_size=12)


@given(
    kind=st.sampled_from(("postgres", "redis", "http")),
    parts=st.tuples(TEXTS, TEXTS, TEXTS, TEXTS),
    is_quoted=st.booleans(),
)
def test_no_accepted_address_is_shown_with_a_password(
    kind: Kind, parts: tuple[str, str, str, str], is_quoted: bool
) -> None:
    encoded = [quote(each.encode("utf-8", "replace"), safe="") for each in parts]
    user, left, right, query = encoded if is_quoted else parts
    scheme = {"postgres": "postgresql", "redis": "redis", "http": "https"}[kind]
    url = f"{scheme}://{user}:{left}{MARK}{right}@host.example/db?password={query}{MARK}#{MARK}"
    if is_quoted:
        checked(kind, url)
        assert shown(kind, url) == f"{scheme}://host.example/db"
        assert place_of(kind, url).host == "host.example"
        return
    with contextlib.suppress(Refused):
        checked(kind, url)
        assert MARK not in shown(kind, url)


@given(kind=st.sampled_from(("sqlite", "files", "postgres", "redis", "http")), url=TEXTS)
def test_any_text_is_a_place_or_is_refused(kind: Kind, url: str) -> None:
    try:
        place = place_of(kind, url)
    except Refused:
        return
    assert bool(place.path) != bool(place.host)


def test_a_secret_is_shown_by_its_name() -> None:
    assert shown("postgres", "${secret:DB_URL}") == "${secret:DB_URL}"
    assert shown("postgres", "${secret:DB_URL}?password=x") == "${secret:DB_URL}"
    assert shown("http", "https://${secret:HOST}:${secret:PORT}/a") == "https://${secret:HOST}:${secret:PORT}/a"  # fmt: skip
    checked("http", "https://${secret:HOST}:${secret:PORT}/a")
    checked("http", "${secret:DB_URL}")


def test_an_agent_has_the_addresses_of_its_stores() -> None:
    config = decoded(STORES + AGENT)
    assert config.agents["reader"].store_urls == {
        "main-db": "postgresql://app:${secret:DB}@db.example.com/app",
        "papers": f"{FOLDER}/papers",
    }
    assert variable_of("main-db") == "CORRAL_STORE_MAIN_DB"
    assert loader.to_table(config.agents["reader"])["stores"] == ["main-db", "papers"]


def test_a_changed_address_needs_new_workers_of_its_users_alone() -> None:
    text = STORES + AGENT + '[agents.other]\ncommand = ["other"]\nstores = ["papers"]\n'
    old, new = decoded(text), decoded(text.replace("db.example.com", "db2.example.com"))
    assert changed(old.agents["reader"], new.agents["reader"]) == {"stores": "restart"}
    assert changed(old.agents["other"], new.agents["other"]) == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (AGENT + STORES.replace("main-db", "main_db"), 'did you mean "main_db"?'),
        ('[stores.a]\nkind = "sqlite"\n', "it is missing"),
        ('[stores.a]\nurl = "/a"\n', "it is missing"),
        ('[stores.a]\nkind = "mongo"\nurl = "/a"\n', "mongo"),
        ('[stores.a]\nkind = "files"\nurl = "/a"\npath = "/a"\n', "unknown key"),
        (f"{STORES}[stores.main_db]\nkind = 'files'\nurl = '/a'\n", "CORRAL_STORE_MAIN_DB"),
        ('[stores.a]\nkind = "files"\nurl = "${secret:1}"\n', "${secret:NAME}"),
    ],
)
def test_a_mistake_in_stores_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        decoded(text)
    assert reason in str(caught.value)


def test_an_agent_that_is_added_names_stores_that_are_there() -> None:
    config, table = decoded(STORES), {"command": ["a"], "stores": ["paper"]}

    def add() -> object:
        return loader.decode_agent("a", table, kind="agent", defaults=Defaults(), source="store", directory="/", stores=config.stores)  # fmt: skip

    with pytest.raises(InvalidParams) as caught:
        add()
    assert 'did you mean "papers"?' in str(caught.value)
    table["stores"] = ["papers"]
    add()
