"""A package.toml is decoded whole, and each mistake in it is named with key, value, reason and line."""

import pytest

from corral.supervisor.agents.packages.spec import Need, decode_package
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core

HEAD = 'name = "greeter"\nversion = "1.0"\ncommand = ["true"]\n'


def test_every_key_is_decoded() -> None:
    found = decode_package(
        b"""
name = "greeter"
version = "1.02.0-RC1"
description = "Greets"
entrypoint = "greeter:agent"
dependencies = { python = ["httpx >=0.27"], npm = ["left-pad@^1", "@scope/x"] }
requires-runtime = { python = ">=3.11", commands = ["git"] }
install = "./install.sh"
instances = 2
capabilities = ["greet"]
environment = { KEY = "${secret:API}" }

[needs]
mcp = ["git", { name = "time", optional = true }]
secrets = ["API"]

[resources]
max_memory_bytes = "64MiB"
"""
    )
    assert (found.name, found.version, found.install) == ("greeter", "1.2.0rc1", "install.sh")
    assert found.dependencies.python == ("httpx>=0.27",)
    assert found.dependencies.npm == ("left-pad@^1", "@scope/x")
    assert (found.requires_runtime.python, found.requires_runtime.commands) == (">=3.11", ("git",))
    assert found.needs.mcp == (Need("git"), Need("time", True))
    assert found.agent == {
        "description": "Greets",
        "entrypoint": "greeter:agent",
        "instances": 2,
        "capabilities": ["greet"],
        "environment": {"KEY": "${secret:API}"},
        "resources": {"max_memory_bytes": "64MiB"},
    }


MISTAKES = {
    'version = "one"': ("version", 'name = "x"\ncommand = ["x"]\n'),
    'name = "../x"': ("name", 'version = "1"\ncommand = ["x"]\n'),
    'name = "x-1"': ("name", 'version = "1"\ncommand = ["x"]\n'),
    'dependencies = ["-r x"]': ("dependencies", HEAD),
    'dependencies = ["x @ file:///etc/passwd"]': ("dependencies", HEAD),
    'dependencies.npm = ["--registry=x"]': ("dependencies.npm", HEAD),
    'dependencies.pip = ["x"]': ("dependencies.pip", HEAD),
    'requires-runtime.python = "3"': ("requires-runtime.python", HEAD),
    'requires-runtime.commands = ["a b"]': ("requires-runtime.commands", HEAD),
    'needs.mcp = ["git", 1]': ("needs.mcp", HEAD),
    "needs.tools = []": ("needs.tools", HEAD),
    'install = "../x.sh"': ("install", HEAD),
    'install = "/bin/sh"': ("install", HEAD),
    'control = "admin"': ("control", HEAD),
    'python = "/usr/bin/python3"': ("python", HEAD),
    'process.user = "root"': ("process.user", HEAD),
    'process.isolation = "none"': ("process.isolation", HEAD),
    "process.enable_isolation = false": ("process.enable_isolation", HEAD),
    "process.max_concurrent_processes = 1": ("process.max_concurrent_processes", HEAD),
    "resources.max_memory = 1": ("resources.max_memory", HEAD),
    "instances = 0": ("instances", HEAD),
    'environment = { A = "${secret:B}" }': ("needs.secrets", HEAD),
    "tasks.max_attempts = 0": ("tasks.max_attempts", HEAD),
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_named_with_its_key_and_line(line: str) -> None:
    key, head = MISTAKES[line]
    with pytest.raises(InvalidParams) as caught:
        decode_package(f"{head}{line}\n".encode())
    data = caught.value.data
    assert (data["file"], data["key"]) == ("package.toml", key)
    assert data["reason"]
    if key != "needs.secrets":  # which is not written
        assert data["line"] == head.count("\n") + 1


def test_an_unknown_key_has_the_nearest_known_one() -> None:
    for line, near in (
        ("entrypont = 1", "entrypoint"),
        ("dependancies = []", "dependencies"),
        ("resources.max_memory_byte = 1", "max_memory_bytes"),
    ):
        with pytest.raises(InvalidParams) as caught:
            decode_package(f"{HEAD}{line}\n".encode())
        assert f'did you mean "{near}"?' in str(caught.value.data["reason"])


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(InvalidParams) as caught:
        decode_package(b'name = "X"\nversion = "?"\ncommand = []\n')
    assert [message.partition(" = ")[0].rpartition(" ")[2] for message in caught.value.messages] == [
        "name",
        "version",
        "command",
    ]


@pytest.mark.parametrize("data", [b"", b"\xff", b"= 1", b"a = " + b"[" * 9999, b"#" * 300_000])
def test_what_is_no_toml_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidParams):
        decode_package(data)
