"""What is kept of a login on disk."""

from pathlib import Path

import pytest

from corral.mcp.oauth.records import Client, Endpoints, Grant
from corral.supervisor.agents.external.token_store import FOLDER, KEY_FILE, Kept, TokenStore
from corral.worker.contract.errors import Corrupted

CLIENT = Client(issuer="https://a.example", client_id="me", client_secret="s3cret")

GRANT = Grant(
    url="https://x.example/mcp",
    resource="https://x.example/mcp",
    endpoints=Endpoints(issuer="https://a.example", token="https://a.example/token"),
    client=CLIENT,
    access_token="at-1",
    refresh_token="rt-1",
)

KEPT = Kept(url=GRANT.url, grant=GRANT, client=CLIENT, scope="read")


@pytest.mark.shell
def test_what_is_kept_comes_back_and_stands_nowhere_in_clear(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    store.set("acme/x", KEPT)
    assert TokenStore(tmp_path).get("acme/x") == KEPT
    assert store.names() == ["acme/x"]
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert {each.stat().st_mode & 0o777 for each in files} == {0o600}
    assert not any(word in each.read_bytes() for each in files for word in (b"at-1", b"s3cret"))
    assert store.remove("acme/x")
    assert store.get("acme/x") is None
    assert not store.remove("acme/x")


@pytest.mark.shell
@pytest.mark.parametrize("what", ["changed", "other", "key", "no key", "open key", "cut"])
def test_a_token_that_was_tampered_with_is_not_used(what: str, tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    store.set("x", KEPT)
    path, key = tmp_path / FOLDER / "x", tmp_path / KEY_FILE
    data = path.read_bytes()
    name = "x"
    match what:
        case "changed":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "other":  # of another server, whose process would get it
            path.rename(path.with_name("y"))
            name = "y"
        case "key":
            key.write_text("A" * 43 + "=\n")
        case "no key":
            key.unlink()
        case "open key":
            key.chmod(0o644)
        case _:
            path.write_bytes(data[:3])
    with pytest.raises(Corrupted) as caught:
        store.get(name)
    assert "corral mcp login" in caught.value.message


@pytest.mark.shell
def test_the_key_of_the_service_manager_is_used(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "corral-tokens-key").write_text("A" * 43 + "=")
    store = TokenStore(tmp_path / "state", str(tmp_path / "credentials"))
    store.set("x", KEPT)
    assert store.get("x") == KEPT
    assert not (tmp_path / "state" / KEY_FILE).exists()
    with pytest.raises(Corrupted):
        TokenStore(tmp_path / "state").get("x")
