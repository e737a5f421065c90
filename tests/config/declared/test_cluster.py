"""`[cluster]` as it is decoded: every mistake names key, value and reason, and no error repeats a secret."""

from typing import Any

import pytest

from corral.supervisor.config.declared.cluster import ClusterSettings, decode_cluster, node_name
from corral.supervisor.config.decoding.decoder import Document
from corral.supervisor.config.decoding.values import Refused
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core

NATS: dict[str, Any] = {"engine": "nats", "url": "nats://a:4222,nats://b:4222"}


def decoded(**table: Any) -> ClusterSettings:
    document = Document("corral.toml", "", "/etc/corral")
    found: ClusterSettings | None = None
    with document.collecting():
        found = decode_cluster(document, table)
    document.check()
    assert found is not None
    return found


def refused(**table: Any) -> dict[str, object]:
    with pytest.raises(InvalidParams) as caught:
        decoded(**table)
    assert "secret-word" not in f"{caught.value} {caught.value.data}"
    return caught.value.data


def test_two_keys_are_enough() -> None:
    found = decoded(**NATS)
    assert found.urls == ("nats://a:4222", "nats://b:4222")
    assert (found.capacity, found.labels, found.token) == (100, {}, "")


def test_relative_paths_are_in_the_folder_of_the_file() -> None:
    found = decoded(**NATS, tls_ca="ca.pem", tls_certificate="/x/c.pem", tls_key="k.pem")
    assert (found.tls_ca, found.tls_key) == ("/etc/corral/ca.pem", "/etc/corral/k.pem")


def test_an_address_is_shown_without_its_password() -> None:
    found = decoded(engine="redis", url="redis://u:secret-word@h:6379/2")
    assert found.shown == "redis://h:6379/2"


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"url": "nats://h"}, "cluster.engine"),
        ({"engine": "nats"}, "cluster.url"),
        ({"engine": "kafka", "url": "x"}, "cluster.engine"),
        ({"engine": "nats", "url": "redis://secret-word@h"}, "cluster.url"),
        ({"engine": "nats", "url": "nats://h/path"}, "cluster.url"),
        ({"engine": "nats", "url": "nats://h:99999"}, "cluster.url"),
        ({"engine": "nats", "url": "nats://h,,nats://i"}, "cluster.url"),
        ({"engine": "redis", "url": "redis:///0"}, "cluster.url"),
        ({**NATS, "node": "a.b"}, "cluster.node"),
        ({**NATS, "capacity": 0}, "cluster.capacity"),
        ({**NATS, "capacity": True}, "cluster.capacity"),
        ({**NATS, "labels": {"a": 1}}, "cluster.labels"),
        ({**NATS, "labels": {f"l{i}": "x" for i in range(33)}}, "cluster.labels"),
        ({**NATS, "token": "secret-word with spaces"}, "cluster.token"),
        ({**NATS, "tls_key": "k"}, "cluster.tls_certificate"),
        ({**NATS, "tls_certificate": "k"}, "cluster.tls_key"),
        ({**NATS, "nodes": 3}, "cluster.nodes"),
    ],
)
def test_a_mistake_names_its_key(table: dict[str, Any], key: str) -> None:
    data = refused(**table)
    assert data["key"] == key
    assert data["reason"]


def test_the_name_of_the_host_is_the_node_unless_it_cannot_be_one() -> None:
    assert node_name(decoded(**NATS), "box-1.example.org") == "box-1"
    assert node_name(decoded(**NATS, node="n1"), "1box") == "n1"
    with pytest.raises(Refused) as caught:
        node_name(decoded(**NATS), "1box")
    assert caught.value.item == "1box"
