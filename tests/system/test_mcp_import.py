"""`corral mcp import`, `add` and `rm` against a real daemon: at once, all or none, and for good."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_process import AGENTS, BIN, DaemonProcess

CONFIG = f"""
[recovery]
restart = "never"
[mcp.servers.odd]
command = ["{sys.executable}", "{AGENTS}/mcp_odd.py", "--declares=tools", "--declares=prompts", "--declares=resources"]
[mcp.servers.of-the-file]
command = ["{BIN}/corral-cortex", "mcp", "stdio", "--db", "of-the-file.db"]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("import"), CONFIG) as running:
        yield running


def memory(name: str, **more: object) -> dict[str, object]:
    args = ["mcp", "stdio", "--db", f"${{workspaceFolder}}/{name}.db"]
    return {"command": f"{BIN}/corral-cortex", "args": args, **more}


def file(tmp_path: Path, **servers: object) -> str:
    path = tmp_path / "mcp.json"
    path.write_text("// from an editor\n" + json.dumps({"mcpServers": servers}))
    return str(path)


def names(daemon: DaemonProcess) -> set[str]:
    return {server["name"] for server in daemon.call("mcp.servers")["servers"]}


def imported(daemon: DaemonProcess, *words: str) -> Any:  # the document that it prints
    done = daemon.corral("mcp", "import", *words, "--json")
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def remembered(daemon: DaemonProcess, server: str) -> bool:
    """Whether the server takes a call."""
    done = daemon.corral("mcp", "call", f"{server}__cortex_store", "content=x", "--json")
    return done.returncode == 0 and "structuredContent" in json.loads(done.stdout)


def test_what_is_imported_can_be_called_at_once_and_is_there_after_kill_9(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    done = imported(daemon, file(tmp_path, **{"kept": memory("kept"), "other one": memory("two")}))
    assert (done["added"], done["changed"], done["unchanged"]) == (["kept", "other-one"], {}, [])
    workers = daemon.call("daemon.status", names=["kept"])["mcp_servers"][0]["workers"]
    assert workers[0]["state"] == "Initial", "nothing starts before it is called"
    assert remembered(daemon, "kept")
    assert (tmp_path / "kept.db").exists()
    daemon.kill()
    daemon.start()
    assert {"kept", "other-one"} <= names(daemon)
    assert remembered(daemon, "other-one")


def test_the_same_again_changes_nothing_and_another_table_is_refused_unless_replaced(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    path = file(tmp_path, again=memory("a"))
    assert imported(daemon, path)["added"] == ["again"]
    assert imported(daemon, path)["unchanged"] == ["again"]
    assert remembered(daemon, "again")
    pid = daemon.worker("again-0")["pid"]
    path = file(tmp_path, again=memory("b", env={"A": "hidden-value"}), fresh=memory("c"))
    refused = daemon.corral("mcp", "import", path, "--json")
    error = json.loads(refused.stdout)["error"]
    assert (refused.returncode, error["name"]) == (4, "Conflict")
    assert set(error["data"]["keys"]) == {"command", "environment"}
    assert path in error["message"]
    assert "fresh" not in names(daemon), "all or none"
    told = imported(daemon, path, "--dry-run")
    assert (told["added"], list(told["changed"])) == (["fresh"], ["again"])
    assert "hidden-value" not in json.dumps(told)
    assert "hidden-value" not in daemon.corral("mcp", "import", path, "--dry-run").stdout
    assert "fresh" not in names(daemon), "a dry run changes nothing"
    done = imported(daemon, path, "--replace")
    assert (done["added"], list(done["changed"])) == (["fresh"], ["again"])
    daemon.await_worker("again-0", lambda worker: worker["pid"] not in (None, pid))
    assert remembered(daemon, "again")
    assert (tmp_path / "b.db").exists()
    assert list(imported(daemon, file(tmp_path, again=memory("c")), "--replace")["changed"])
    path = file(tmp_path, again=memory("d"), fresh=memory("c"))
    assert list(imported(daemon, path, "--replace")["changed"]) == ["again"]
    assert imported(daemon, path)["unchanged"] == ["again", "fresh"]
    daemon.kill()
    daemon.start()
    assert imported(daemon, path)["unchanged"] == ["again", "fresh"]


def test_a_name_of_the_file_or_of_corral_itself_is_never_replaced(daemon: DaemonProcess, tmp_path: Path) -> None:
    for name in ("of-the-file", "cortex"):
        path = file(tmp_path, **{name: memory("x"), "beside": memory("y")})
        refused = daemon.corral("mcp", "import", path, "--replace")
        assert refused.returncode == 4, refused
        renamed = imported(daemon, path, "--dry-run", "--rename", f"{name}=mine")
        assert renamed["added"] == ["mine", "beside"]
    assert "beside" not in names(daemon)


def test_a_table_that_the_daemon_refuses_adds_none(daemon: DaemonProcess, tmp_path: Path) -> None:
    path = file(tmp_path, good=memory("x"), bad={"url": "ftp://x.example"})
    assert daemon.corral("mcp", "import", path).returncode == 2
    assert daemon.corral("mcp", "import", path, "--dry-run").returncode == 2
    assert "good" not in names(daemon)


def test_an_import_that_starts_says_which_did_not_come_up(daemon: DaemonProcess, tmp_path: Path) -> None:
    gone = {"command": str(tmp_path / "missing")}
    path = file(tmp_path, up=memory("x"), gone=gone)
    done = daemon.corral("mcp", "import", path, "--start")
    assert (done.returncode, done.stdout) == (1, "added up\nadded gone\n")
    assert daemon.worker("up-0")["state"] == "Ready"


def test_a_server_is_added_called_with_words_and_removed(daemon: DaemonProcess, tmp_path: Path) -> None:
    command = [f"{BIN}/corral-cortex", "mcp", "stdio", "--db", "words.db"]
    folder = ("--cwd", str(tmp_path))
    done = daemon.corral("mcp", "add", "words", "--env", "A=b", *folder, "--", *command)
    assert (done.returncode, done.stdout) == (0, "added words (Ready, 4 tools)\n")
    words = ["content=42", "ttl_s=60", 'tags:=["a"]', "metadata:={}"]
    done = daemon.corral("mcp", "call", "words__cortex_store", *words, "--json")
    assert done.returncode == 0, done
    found = daemon.corral("mcp", "call", "words__cortex_search", "query=42", "limit=1", "--json")
    [item] = json.loads(found.stdout)["structuredContent"]["items"]
    assert (item["content"], item["tags"]) == ("42", ["a"])
    assert item["expires_at"] is not None
    assert daemon.corral("mcp", "call", "words__cortex_search", "query").returncode == 2
    assert daemon.corral("mcp", "rm", "nobody").returncode == 3
    assert daemon.corral("mcp", "rm", "words").stdout == "removed words\n"
    assert "words" not in names(daemon)


@pytest.mark.parametrize("words", ["", "x", "x --url http://a.example -- cmd", "x cmd", "x --env A -- cmd"])
def test_an_add_that_says_too_little_or_too_much_is_refused(daemon: DaemonProcess, words: str) -> None:
    before = names(daemon)
    assert daemon.corral("mcp", "add", *words.split()).returncode == 2
    assert names(daemon) == before


def test_prompts_and_resources_are_listed_and_read(daemon: DaemonProcess) -> None:
    [prompt] = json.loads(daemon.corral("mcp", "prompts", "--json").stdout)
    assert prompt["name"] == "odd__greet"
    assert "odd__greet  [whom]" in daemon.corral("mcp", "prompts").stdout
    found = json.loads(daemon.corral("mcp", "resources", "--json").stdout)
    assert [each["uri"] for each in found["resources"]] == ["odd://a", "odd://b"]
    assert [each["uriTemplate"] for each in found["templates"]] == ["odd://{name}"]
    assert "odd://b" in daemon.corral("mcp", "resources").stdout
    read = json.loads(daemon.corral("mcp", "read", "odd://a", "--json").stdout)
    assert read["about"] == "odd://a"
    assert daemon.corral("mcp", "read", "odd://a").returncode == 0
    assert daemon.corral("mcp", "read", "odd://gone").returncode != 0
