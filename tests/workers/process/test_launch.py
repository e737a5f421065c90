"""What a remote server's process is started with; the whole of a launch is held by the tests of the daemon."""

import json
import os
import sys
from dataclasses import replace as with_
from pathlib import Path

import pytest
from msgspec.structs import replace

from corral.supervisor.config.secrets.secrets import MAX_BYTES, Secrets
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.machine.launcher import child_setup
from corral.supervisor.workers.process.launch import (
    HEADERS,
    URL,
    Host,
    Order,
    launch_of,
    read_environment_file,
    secret_problems,
)
from corral.worker.contract.errors import InvalidParams, SpawnFailed

pytestmark = pytest.mark.shell

VALUE = "hunter2"

REMOTE = """
[mcp.servers.far]
url = "https://far.example:8443/mcp?key=1"
headers = { Authorization = "Bearer ${secret:TOKEN}", X-Plain = "$${TOKEN}" }
environment = { HTTPS_PROXY = "http://proxy.example:3128", KEY = "${secret:TOKEN}" }
"""


def spec(text: str = REMOTE) -> Spec:
    return decode(text, source="c.toml", directory="/").agents["far"]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return keeping(tmp_path, VALUE)


def keeping(folder: Path, value: str) -> Host:
    (folder / "TOKEN").write_text(value)
    secrets = Secrets(None, str(folder))
    return Host({"PATH": "/usr/bin"}, folder, ordinary_user=True, secrets=secrets)


def test_its_address_and_its_headers_are_in_its_environment_and_in_no_argument(host: Host) -> None:
    launch = launch_of(Order(spec(), "far-0#1.1"), host)
    assert tuple(launch.argv) == (sys.executable, "-P", "-m", "corral.mcp.upstream.http_bridge")
    assert launch.env[URL] == "https://far.example:8443/mcp?key=1"
    headers = {"Authorization": f"Bearer {VALUE}", "X-Plain": "${TOKEN}"}
    assert json.loads(launch.env[HEADERS]) == headers
    assert (launch.env["KEY"], launch.env["PATH"]) == (VALUE, "/usr/bin")


@pytest.mark.parametrize(
    ("url", "ports", "allowed"),
    [
        ("https://far.example:8443/mcp", "[53]", (53, 8443)),
        ("https://far.example/mcp", "[]", (443,)),
        ("http://[::1]/mcp", "[80]", (80,)),
        ("https://far.example/mcp", None, None),
    ],
)
def test_its_own_port_is_among_those_that_it_may_connect_to(
    host: Host, url: str, ports: str | None, allowed: tuple[int, ...] | None
) -> None:
    more = "" if ports is None else f"process.connect_ports = {ports}\n"
    text = f'[mcp.servers.far]\nurl = "{url}"\n{more}'
    launch = launch_of(Order(spec(text), "far-0#1.1"), host)
    assert launch.connect_ports == allowed


def test_a_command_in_its_name_has_neither_address_nor_headers(host: Host) -> None:
    check = replace(spec(), command=("true",))
    launch = launch_of(Order(check, "far-0#1.1"), host)
    assert tuple(launch.argv) == ("true",)
    assert {URL, HEADERS}.isdisjoint(launch.env)


@pytest.mark.parametrize("value", ["two\nlines", "naïve", "bell\a"])
def test_a_secret_that_is_no_part_of_a_header_is_refused_without_being_shown(tmp_path: Path, value: str) -> None:
    with pytest.raises(SpawnFailed) as caught:
        launch_of(Order(spec(), "far-0#1.1"), keeping(tmp_path, value))
    assert caught.value.data["header"] == "Authorization"
    assert value not in f"{caught.value.message} {caught.value.data}"


def test_every_value_that_names_what_is_not_there_is_reported(host: Host) -> None:
    assert secret_problems([spec()], host.secrets) == []
    text_ = secret_problems([spec()], with_(host, secrets=Secrets()).secrets)
    assert ['variable "KEY"' in text_[0], 'header "Authorization"' in text_[1]] == [True, True]
    disabled = replace(spec(), disabled=True)
    assert secret_problems([disabled], Secrets()) == []


def test_headers_that_are_no_table_are_refused_without_being_shown() -> None:
    with pytest.raises(InvalidParams) as caught:
        spec(f'[mcp.servers.far]\nurl = "http://far.example"\nheaders = "{VALUE}"\n')
    assert VALUE not in f"{caught.value.message} {caught.value.data}"


def test_a_file_of_variables_may_begin_with_a_mark_of_the_byte_order(tmp_path: Path) -> None:
    (tmp_path / "env").write_bytes(b"\xef\xbb\xbfA=b\r\nC=d\r\n")
    assert read_environment_file(tmp_path / "env") == {"A": "b", "C": "d"}


def test_a_file_of_variables_that_could_hold_up_a_start_or_breaks_it_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nul").write_bytes(b"A=b\0c\n")
    (tmp_path / "long").write_bytes(b"A=" + b"x" * MAX_BYTES)
    for name in ("pipe", "nul", "long", "gone", "."):
        with pytest.raises(SpawnFailed):
            read_environment_file(tmp_path / name)
    assert read_environment_file(Path(os.devnull)) == {}


@pytest.mark.parametrize(("limit", "value"), [("0", None), ('"4KiB"', "1")])
def test_an_agent_whose_files_may_be_cut_off_saves_no_bytecode(host: Host, limit: str, value: str | None) -> None:
    text = f'[agents.far]\nentrypoint = "m:a"\nresources.max_file_size_bytes = {limit}\n'
    launch = launch_of(Order(spec(text), "far-0#1.1"), host)
    assert launch.env.get("PYTHONDONTWRITEBYTECODE") == value


@pytest.mark.parametrize(
    ("keys", "user", "identity"),
    [
        ("", None, None),
        ('user = "nobody"', "nobody", child_setup.identity_of("nobody", None)),
        ('user = "0"\ngroup = "7"', "0", (0, 7, child_setup.identity_of("0", "7")[2])),
        ('group = "7"', None, (os.getuid(), 7, [7])),
        ('user = "no-such-user"', "no-such-user", None),
        ('user = "nobody"\ngroup = "no-such-group"', "nobody", None),
    ],
)
def test_who_a_process_runs_as_is_known_before_it_is_asked_for(
    host: Host, keys: str, user: str | None, identity: tuple[int, int, list[int]] | None
) -> None:
    text = f'[agents.far]\ncommand = ["true"]\n[agents.far.process]\n{keys}\n'
    launch = launch_of(Order(decode(text, source="c.toml", directory="/").agents["far"], "far-0#1"), host)
    assert (launch.user, launch.identity) == (user, identity)
