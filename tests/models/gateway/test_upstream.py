"""How providers are reached."""

from collections.abc import Iterator

import pytest

from corral.supervisor.models.gateway.upstream import Proxy, proxy_of


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> Iterator[None]:
    proxy_of.cache_clear()
    yield
    proxy_of.cache_clear()


def test_a_provider_is_reached_by_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1,inside.example")
    url, headers = proxy_of("https://api.example/v1")
    assert str(url) == "http://proxy.example:3128"
    assert headers == {"Authorization": "Basic bWU6c2VjcmV0"}
    for address in ("https://inside.example/v1", "http://127.0.0.1:8000/v1", "http://api.example"):
        assert proxy_of(address) == Proxy(None, None)
