"""Files of other programs become tables of corral: what is taken over, what is told, and what is refused."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from corral.cli.tools.import_convert import (
    Server,
    Skipped,
    allowed_name,
    chosen,
    hidden,
    is_corral,
    toml,
    with_references,
)
from corral.cli.tools.import_files import Section, Surroundings, plain_json, read, usual_files
from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.spec import Config
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.shell

CORRAL = [sys.executable, "-P", "-m", "corral.cli"]
BOUND_S = 60.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def written(path: Path, text: str | Mapping[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text), "utf-8")
    return path


def taken(
    home: Path, path: Path, *, environ: Mapping[str, str] | None = None, **how: Any
) -> tuple[dict[str, Server], list[Skipped]]:  # Any: what `chosen` and Surroundings take
    inputs, project = how.pop("inputs", {}), how.pop("project", None)
    around = Surroundings(environ or {}, str(home), inputs, project)
    servers, skipped = chosen(read(str(path), str(home)), around, **how)
    return {server.name: server for server in servers}, skipped


def one(home: Path, path: Path, **how: Any) -> Server:  # Any: as `taken`
    servers, skipped = taken(home, path, **how)
    assert skipped == []
    [server] = servers.values()
    return server


def entry(home: Path, table: Mapping[str, object], **how: Any) -> Server:  # Any: as `taken`
    """What one entry in a file of a project becomes."""
    return one(home, written(home / "work/.mcp.json", {"mcpServers": {"x": table}}), **how)


def refused(home: Path, table: Mapping[str, object], **how: Any) -> dict[str, object]:
    with pytest.raises(InvalidParams) as caught:
        entry(home, table, **how)
    assert caught.value.message.startswith("cannot ")
    assert "hunter2" not in caught.value.message
    return caught.value.data


# --- the files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1} // the end',
        '// first\n{"a": /* in between */ 1}',
        '{"a": 1,}',
        '{"a": 1, // said\n /* and */ }',
        '\n\n{"a"\n:1\n,\n}\n',
    ],
)
def test_comments_and_trailing_commas_are_read(text: str) -> None:
    assert json.loads(plain_json(text)) == {"a": 1}


def test_what_looks_like_a_comment_in_a_text_stays() -> None:
    value = {"url": "https://x//y", "glob": "/* */", "quoted": '",] // "', "list": ["a,]", ","]}
    assert json.loads(plain_json(json.dumps(value))) == value


def test_a_long_line_of_slashes_takes_no_time() -> None:
    text = '{"a": [1,' + f"\n{'/' * 5000}\n" * 50 + "2]}"
    assert json.loads(plain_json(text)) == {"a": [1, 2]}


def test_an_error_names_the_line_where_it_is(home: Path) -> None:
    path = written(home / "mcp.json", '{ // one\n/* two\n three */\n "a": oops\n}')
    with pytest.raises(InvalidParams) as caught:
        read(str(path), str(home))
    assert "line 4" in str(caught.value.data["reason"])


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"a": 1, "a": 2}', '{"mcpServers": []}', '{"mcpServers": {"x": 1}}', "[" * 9999]
)
def test_a_file_that_is_none_of_these_is_refused_by_name(home: Path, text: str) -> None:
    path = written(home / "mcp.json", text)
    with pytest.raises(InvalidParams) as caught:
        read(str(path), str(home))
    assert caught.value.data["file"] == str(path)


def test_a_file_may_begin_with_a_byte_order_mark(home: Path) -> None:
    path = written(home / "x.json", "\ufeff" + '{"mcpServers": {"a": {"command": "true"}}}')
    assert one(home, path).table["command"] == ["true"]


def test_a_file_without_servers_has_none_and_a_missing_one_is_refused(home: Path) -> None:
    assert read(str(written(home / "settings.json", '{"editor.fontSize": 12}')), str(home)) == []
    assert read(str(written(home / "empty.json", "")), str(home)) == []
    with pytest.raises(InvalidParams):
        read(str(home / "missing.json"), str(home))


CLAUDE_CODE: dict[str, Any] = {  # Any: JSON
    "numStartups": 3,
    "mcpServers": {"everywhere": {"command": "a"}},
    "projects": {
        "/srv/one": {"mcpServers": {"there": {"type": "stdio", "command": "b", "args": ["x"]}}},
        "/srv/two": {"mcpServers": {}},
    },
}


def test_claude_code_keeps_servers_of_the_user_and_of_projects(home: Path) -> None:
    servers, _ = taken(home, written(home / ".claude.json", CLAUDE_CODE))
    folders = {name: inner(server, "process") for name, server in servers.items()}
    assert folders == {"everywhere": {"working_directory": str(home)}, "there": {"working_directory": "/srv/one"}}
    assert servers["there"].table["command"] == ["b", "x"]


def inner(server: Server, key: str) -> dict[str, Any]:  # Any: what TOML can say
    found: Any = server.table.get(key, {})  # Any: a table, as the test knows
    return dict(found)


VS_CODE = """{
  // for the team
  "inputs": [
    {"id": "token", "type": "promptString", "description": "Token", "password": true},
    {"id": "region", "type": "pickString", "default": "eu", "options": ["eu", "us"]},
  ],
  "servers": {
    "remote": {"type": "http", "url": "https://x.example/${input:region}",
               "headers": {"Authorization": "Bearer ${input:token}"}},
    "local": {"command": "node", "args": ["${workspaceFolder}/s.js"], "env": {"A": "1"}, "envFile": "${workspaceFolder}/.env"},
  },
}"""


def test_vs_codes_inputs_are_given_or_have_a_default(home: Path) -> None:
    path = written(home / "work/.vscode/mcp.json", VS_CODE)
    written(home / "work/.env", "# comment\nB=2\n\n")
    servers, _ = taken(home, path, inputs={"token": "${secret:TOKEN}"})
    assert servers["remote"].table == {
        "url": "https://x.example/eu",
        "headers": {"Authorization": "Bearer ${secret:TOKEN}"},
    }
    assert servers["remote"].secrets == ()
    work = str(home / "work")
    assert servers["local"].table == {
        "command": ["node", f"{work}/s.js"],
        "environment": {"A": "1"},
        "process": {"working_directory": work, "environment_file": f"{work}/.env"},
    }
    with pytest.raises(InvalidParams) as caught:
        taken(home, path)
    found = caught.value
    assert (found.data["server"], found.data["field"]) == ("remote", "headers.Authorization")
    assert "--input token='${secret:NAME}'" in found.message


def test_a_quoted_env_file_is_copied_and_the_entrys_own_variables_win(home: Path) -> None:
    written(home / "work/.env", "export A='one two'\nB=\"x\"\n")
    server = entry(home, {"command": "c", "env": {"B": "own"}, "envFile": ".env"})
    assert inner(server, "environment") == {"A": "one two", "B": "own"}
    assert len(server.notes) == 1
    assert refused(home, {"command": "c", "envFile": "gone.env"})["field"] == "envFile"


def test_zed_codex_gemini_windsurf_and_opencode_are_understood(home: Path) -> None:
    old = {"path": "p", "args": ["a"]}
    zed = {"context_servers": {"old": {"command": old}}}
    assert one(home, written(home / ".config/zed/settings.json", zed)).table["command"] == ["p", "a"]
    codex = """
        model = "x"
        [mcp_servers.docs]
        command = "npx"
        args = ["-y", "docs"]
        tool_timeout_sec = 45
        startup_timeout_sec = 12.5
        disabled_tools = ["drop"]
        [mcp_servers.docs.env]
        MODE = "fast"
    """
    server = one(home, written(home / ".codex/config.toml", codex))
    assert server.table == {
        "command": ["npx", "-y", "docs"],
        "environment": {"MODE": "fast"},
        "process": {"working_directory": str(home), "spawn_timeout": 12.5},
        "denied_tools": ["drop"],
        "mcp": {"request_timeout": 45.0},
    }
    gemini = {"mcpServers": {"g": {"httpUrl": "https://x.example/mcp", "timeout": 5000}}}
    server = one(home, written(home / ".gemini/settings.json", gemini))
    assert server.table == {"url": "https://x.example/mcp", "mcp": {"request_timeout": 5.0}}
    windsurf = {"mcpServers": {"w": {"serverUrl": "https://x.example/mcp"}}}
    path = written(home / ".codeium/windsurf/mcp_config.json", windsurf)
    assert one(home, path).table == {"url": "https://x.example/mcp"}


def test_codex_takes_headers_from_variables(home: Path) -> None:
    text = """
        [mcp_servers.r]
        url = "https://x.example/mcp"
        bearer_token_env_var = "TOKEN"
        env_http_headers = { X-Org = "ORG" }
    """
    path = written(home / ".codex/config.toml", text)
    server = one(home, path, environ={"TOKEN": "t", "ORG": "o"})
    assert server.table["headers"] == {"X-Org": "o", "Authorization": "Bearer t"}
    assert server.secrets == (("headers", "Authorization"),)


def test_the_usual_files_are_found_of_the_user_and_of_the_folder(home: Path) -> None:
    names = [".claude.json", ".config/Claude/claude_desktop_config.json", ".cursor/mcp.json"]
    names += [".config/Code/User/mcp.json", ".codeium/windsurf/mcp_config.json"]
    names += [".config/zed/settings.json", ".codex/config.toml", ".gemini/settings.json"]
    names += ["work/.mcp.json", "work/.vscode/mcp.json", "work/.cursor/mcp.json"]
    for name in names:
        written(home / name, "")
    found = usual_files(Surroundings({}, str(home)), str(home / "work"))
    assert {path for _, path in found} == {str((home / name).resolve()) for name in names}
    moved = Surroundings({"XDG_CONFIG_HOME": str(home / "elsewhere")}, str(home))
    assert len(usual_files(moved, str(home / "work"))) == len(names) - 3


# --- one entry ------------------------------------------------------------------------------------

ENVIRON = {"HOME_PAGE": "h", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("${HOME_PAGE}", "h"),
        ("a${HOME_PAGE}b${HOME_PAGE}", "ahbh"),
        ("${env:HOME_PAGE}", "h"),
        ("${GONE:-d:-e}", "d:-e"),
        ("${GONE:-}", ""),
        ("${EMPTY:-d}", ""),
        ("${userHome}/x", "HOME/x"),
        ("${workspaceFolder}", "HOME/work"),
        ("${workspaceFolderBasename}", "work"),
        ("$HOME_PAGE $(date) `date` ~ *", "$HOME_PAGE $(date) `date` ~ *"),
        ("${#list[@]} ${!x}", "${#list[@]} ${!x}"),
        ("${", "${"),
    ],
)
def test_a_variable_means_what_the_clients_mean(home: Path, text: str, meant: str) -> None:
    server = entry(home, {"command": "c", "args": [text]}, environ=ENVIRON)
    assert server.table["command"] == ["c", meant.replace("HOME/", f"{home}/")]


def test_a_value_is_expanded_once(home: Path) -> None:
    server = entry(home, {"command": "c", "args": ["${A}"]}, environ={"A": "${B}", "B": "b"})
    assert server.table["command"] == ["c", "${B}"]


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"command": "c", "args": ["${GONE}"]}, "args[0]"),
        ({"command": "c", "env": {"K": "${env:GONE} hunter2"}}, "env.K"),
        ({"url": "https://${GONE}/"}, "url"),
        ({"command": "c", "args": ["${input:unknown}"]}, "args[0]"),
        ({"command": "c", "args": ["${command:pick}"]}, "args[0]"),
        ({"command": "c", "args": ["${A:-${B}}"]}, "args[0]"),
        ({"command": "c", "args": ["${secret:X}"]}, "args[0]"),
        ({"command": "c", "args": [1]}, "args[0]"),
        ({"command": "c", "args": "x"}, "args"),
        ({"command": "c", "env": ["K=hunter2"]}, "env"),
        ({"command": "c", "env": {"K": {"hunter2": 1}}}, "env.K"),
        ({"command": "c\0d"}, "command"),
        ({"args": ["x"]}, "command"),
        ({"type": "carrier-pigeon", "command": "c"}, "type"),
        ({"command": "c", "timeout": "soon"}, "timeout"),
    ],
)
def test_an_entry_that_cannot_be_meant_names_server_and_field(home: Path, table: dict[str, object], field: str) -> None:
    data = refused(home, table)
    assert (data["server"], data["field"]) == ("x", field)


def test_a_variable_of_the_workspace_needs_one(home: Path) -> None:
    path = written(home / ".cursor/mcp.json", {"mcpServers": {"x": {"command": "${workspaceFolder}/s"}}})
    with pytest.raises(InvalidParams):
        one(home, path)
    assert one(home, path, project="/srv/p").table["command"] == ["/srv/p/s"]


def test_what_corral_has_no_word_for_is_reported(home: Path) -> None:
    server = entry(home, {"command": "c", "alwaysAllow": ["a"], "trust": True, "env": {"N": None}})
    assert len(server.notes) == 2
    assert "alwaysAllow, trust" in " ".join(server.notes)
    server = entry(home, {"command": "c", "includeTools": ["read"]})
    assert "includeTools" in server.notes[0]


def test_numbers_in_variables_are_texts(home: Path) -> None:
    server = entry(home, {"command": "c", "env": {"PORT": 80, "ON": True, "N": "x"}})
    assert inner(server, "environment") == {"PORT": "80", "ON": "true", "N": "x"}


@pytest.mark.parametrize(
    ("file", "given", "seconds"),
    [
        ("x.json", 60, 60.0),
        ("x.json", 60_000, 60.0),
        ("cline_mcp_settings.json", 3600, 3600.0),
        (".mcp.json", 500, 0.5),
    ],
)
def test_a_timeout_is_in_the_unit_of_its_client(home: Path, file: str, given: int, seconds: float) -> None:
    document = {"mcpServers": {"x": {"command": "c", "timeout": given}}}
    server = one(home, written(home / "work" / file, document))
    assert inner(server, "mcp")["request_timeout"] == seconds
    most = inner(server, "mcp").get("max_request_timeout", 600.0)
    assert most == max(seconds, 600.0)
    assert bool(server.notes) == (file == "x.json")


def test_what_looks_like_a_secret_is_reported_by_name_only(home: Path) -> None:
    table = {
        "command": "c",
        "args": ["--api-key", "hunter2"],
        "env": {"GITHUB_TOKEN": "hunter2", "API_KEY": "${secret:K}", "MODE": "x", "X": "sk-12345678ab"},
    }
    server = entry(home, table)
    assert server.secrets == (("environment", "GITHUB_TOKEN"), ("environment", "X"))
    assert len(server.notes) == 1
    assert "hunter2" not in repr(server.notes)


def test_disabled_foreign_and_own_servers_are_left_out(home: Path) -> None:
    document = {
        "mcpServers": {
            "off": {"command": "c", "disabled": True},
            "off-too": {"command": "c", "enabled": False},
            "old": {"type": "ws", "url": "wss://x.example/ws"},
            "self": {"command": "/opt/bin/corral", "args": ["mcp", "serve"]},
            "kept": {"command": "c", "disabled": False},
        }
    }
    servers, skipped = taken(home, written(home / "x.json", document))
    assert list(servers) == ["kept"]
    assert [each.name for each in skipped] == ["off", "off-too", "old", "self"]


def test_a_server_over_http_with_sse_keeps_its_type(home: Path) -> None:
    entry = {"type": "sse", "url": "https://x.example/sse"}
    servers, _ = taken(home, written(home / "x.json", {"mcpServers": {"old": entry}}))
    assert servers["old"].table == entry


@pytest.mark.parametrize(
    ("line", "is_so"),
    [
        ("corral mcp serve", True),
        ("/usr/bin/corral --socket /x mcp serve --read-only", True),
        ("uvx corral mcp serve", True),
        ("python -m corral.cli mcp serve", True),
        ("corral-cortex mcp stdio", False),
        ("my-corral mcp serve", False),
        ("corral mcp servers", False),
    ],
)
def test_corral_itself_is_known_by_its_command_line(line: str, is_so: bool) -> None:
    assert is_corral(line.split()) == is_so
    assert is_corral(["bash", "-lc", f"exec {line}"]) == is_so


# --- names and several ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("time", "time"),
        ("io.github.me/tool", "io-github-me-tool"),
        ("My Server", "My-Server"),
        ("a__b", "a_b"),
        ("files-2", "files-2"),
        ("42", "mcp42"),
        ("9lives", "mcp-9lives"),
        ("@scope/x_", "scope-x"),
        ("corral", "corral-server"),
        ("日本", "mcp"),
    ],
)
def test_a_name_becomes_one_that_corral_allows(home: Path, name: str, allowed: str) -> None:
    assert allowed_name(name) == allowed
    document = {"mcpServers": {name: {"command": "c"}}}
    server = one(home, written(home / "x.json", document))
    assert (server.name, server.original) == (allowed, name)
    assert bool(server.notes) == (name != allowed)


def test_a_long_name_is_cut_and_stays_different() -> None:
    first, second = allowed_name("n" * 60 + "a"), allowed_name("n" * 60 + "b")
    assert first != second
    assert len(first) <= 48


def test_only_the_named_are_taken_and_may_be_renamed(home: Path) -> None:
    document = {"mcpServers": {"a": {"command": "c"}, "b": {"command": "${GONE}"}}}
    path = written(home / "x.json", document)
    servers, _ = taken(home, path, only=["a"], renames={"a": "z"})
    assert list(servers) == ["z"]
    for only, renames in ((["c"], {}), (["a"], {"c": "d"})):
        with pytest.raises(InvalidParams):
            taken(home, path, only=only, renames=renames)


def test_the_same_server_in_two_files_counts_once_and_another_is_a_conflict(home: Path) -> None:
    around = Surroundings({}, str(home))
    first = Section("/one.json", None, {"x": {"command": "c"}})
    assert len(chosen([first, first._replace(file="/two.json")], around)[0]) == 1
    other = Section("/two.json", None, {"x": {"command": "d"}})
    with pytest.raises(InvalidParams) as caught:
        chosen([first, other], around)
    assert caught.value.data["places"] == ["/one.json", "/two.json"]


# --- TOML -----------------------------------------------------------------------------------------


def test_the_toml_is_what_the_configuration_reads(home: Path) -> None:
    odd = 'a "quoted" \\ \t\n\x7f ü 日本 \u2028'
    tables = {
        "a": {"command": "c", "args": [odd, ""], "env": {"K": odd, "odd-key": "v"}, "timeout": 90},
        "b": {"type": "http", "url": "https://x.example/mcp", "headers": {"X-A": "b"}},
    }
    servers, _ = taken(home, written(home / "x.json", {"mcpServers": tables}))
    text = toml(list(servers.values()))
    assert tomllib.loads(text)["mcp"]["servers"] == {n: s.table for n, s in servers.items()}
    config: Config = decode(toml([servers["b"]]), source="x.toml", directory="/")
    assert config.agents["b"].url == "https://x.example/mcp"


def test_written_secrets_are_references(home: Path) -> None:
    tables = {
        "a": {"command": "c", "env": {"TOKEN": "one", "MODE": "x"}},
        "b": {"command": "c", "env": {"TOKEN": "one"}},
        "c": {"command": "c", "env": {"TOKEN": "two"}},
    }
    servers, _ = taken(home, written(home / "x.json", {"mcpServers": tables}))
    changed, wanted = with_references(list(servers.values()))
    assert [inner(each, "environment")["TOKEN"] for each in changed] == [
        "${secret:TOKEN}",
        "${secret:TOKEN}",
        "${secret:c_TOKEN}",
    ]
    assert wanted == {"a": ["TOKEN"], "b": ["TOKEN"], "c": ["c_TOKEN"]}


def test_each_secret_has_a_name_of_its_own_that_a_reference_may_have(home: Path) -> None:
    tables = {
        "a": {"url": "https://h", "headers": {"2FA-Token": "one", "X-Token": "two"}},
        "b": {"url": "https://h", "headers": {"X-Token": "three", "b_X_Token": "four"}},
    }
    servers, _ = taken(home, written(home / "x.json", {"mcpServers": tables}))
    changed, wanted = with_references(list(servers.values()))
    named = [name for names in wanted.values() for name in names]
    assert named[0] == "_2FA_Token"
    assert len(set(named)) == 4
    assert [inner(each, "headers")["X-Token"] for each in changed] == ["${secret:X_Token}", "${secret:b_X_Token}"]


def corral(home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environ = {"HOME": str(home), "PATH": "/usr/bin:/bin", "CORRAL_SOCKET": str(home / "no.sock")}
    return subprocess.run(
        [*CORRAL, "mcp", "import", *words],
        env=environ | {"LC_ALL": "C.UTF-8"},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


def test_toml_is_written_without_a_daemon_and_never_over_a_file(home: Path) -> None:
    document = {"mcpServers": {"x": {"command": "c", "env": {"TOKEN": "hunter2"}}}}
    written(home / "x.json", document)
    done = corral(home, "x.json", "--write", "-")
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout)["mcp"]["servers"]["x"]["command"] == ["c"]
    assert corral(home, "x.json", "--write", "y.toml").returncode == 0
    assert (home / "y.toml").read_text() == done.stdout
    assert (home / "y.toml").stat().st_mode & 0o777 == 0o600
    assert corral(home, "x.json", "--write", "y.toml").returncode == 4
    assert "hunter2" not in done.stdout + done.stderr


def test_a_scan_lists_what_there_is_and_takes_what_is_named(home: Path) -> None:
    written(home / ".claude.json", CLAUDE_CODE)
    written(home / ".cursor/mcp.json", "{ broken")
    written(home / ".vscode/mcp.json", '{"servers": {"local": {"command": "l"}}}')
    found = json.loads(corral(home, "--scan", "--json").stdout)
    names = {(name, each["project"]) for each in found["found"] for name in each["servers"]}
    assert names == {("everywhere", None), ("there", "/srv/one"), ("local", None)}
    assert list(found["failures"]) == [str((home / ".cursor/mcp.json").resolve())]
    shown = corral(home, "--scan")
    assert "/srv/one" in shown.stdout
    some = corral(home, "--scan", "there", "local", "--write", "-")
    assert set(tomllib.loads(some.stdout)["mcp"]["servers"]) == {"there", "local"}
    both = corral(home, "--scan", "--all", "--write", "-")
    assert len(tomllib.loads(both.stdout)["mcp"]["servers"]) == 3


def test_nothing_to_import_is_said(home: Path) -> None:
    written(home / "x.json", "{}")
    for words in ((), ("x.json",), ("gone.json",), ("--scan", "--all", "gone")):
        done = corral(home, *words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert done.stderr.startswith("corral: cannot ")


def test_an_address_is_shown_without_what_stands_in_its_query() -> None:
    assert hidden({"url": "https://h/mcp?a=b&token=c"}) == {"url": "https://h/mcp?a=***&token=***"}


def test_a_server_that_an_extension_of_the_editor_starts_is_left_to_it(home: Path) -> None:
    tables: dict[str, object] = {"ext": {"settings": {}}, "own": {"source": "custom", "command": "c", "args": None}}
    servers, skipped = taken(home, written(home / "x.json", {"context_servers": tables}))
    assert (list(servers), [each.name for each in skipped]) == (["own"], ["ext"])


@pytest.mark.parametrize(
    ("value", "environ"), [("${secret:bad name}", {}), ("${secret:}", {}), ("${ODD}", {"ODD": "\udcff"})]
)
def test_a_value_that_no_start_could_use_is_refused_by_its_field(
    home: Path, value: str, environ: dict[str, str]
) -> None:
    path = written(home / "x.json", {"mcpServers": {"s": {"command": "c", "env": {"K": value}}}})
    with pytest.raises(InvalidParams) as caught:
        taken(home, path, environ=environ)
    assert (caught.value.data["server"], caught.value.data["field"]) == ("s", "env.K")


@pytest.mark.parametrize("text", ["", "\n", "// nothing yet\n"])
def test_a_file_without_anything_has_no_servers(home: Path, text: str) -> None:
    assert read(str(written(home / "x.json", text)), str(home)) == []


def test_values_of_a_file_of_variables_keep_what_they_mean(home: Path) -> None:
    written(home / "work/.env", "A=b \n C=d\n")
    written(home / "work/mcp.json", {"servers": {"s": {"command": "c", "envFile": ".env"}}})
    table = one(home, home / "work/mcp.json").table
    assert table["environment"] == {"A": "b", "C": "d"}


def test_one_name_in_two_projects_is_refused_with_what_can_be_done(home: Path) -> None:
    projects = {f"/srv/{n}": {"mcpServers": {"s": {"command": "c"}}} for n in "ab"}
    with pytest.raises(InvalidParams) as caught:
        taken(home, written(home / ".claude.json", {"projects": projects}))
    assert "--rename" not in caught.value.message
    assert "--project" in caught.value.message


def test_a_new_name_that_corral_does_not_allow_is_refused_before_anything_is_written(home: Path) -> None:
    path = written(home / "x.json", {"mcpServers": {"s": {"command": "c"}}})
    with pytest.raises(InvalidParams) as caught:
        taken(home, path, renames={"s": "a b"})
    assert caught.value.data["value"] == "a b"


def test_a_variable_that_the_server_finds_in_its_own_environment_stays_as_it_is(home: Path) -> None:
    entry = {"command": "npx", "args": ["mcp-remote", "--header", "Authorization:${AUTH}"], "env": {"AUTH": "Bearer x"}}
    path = written(home / "mcp.json", {"mcpServers": {"remote": entry}})
    table = one(home, path).table
    assert table["command"] == ["npx", "mcp-remote", "--header", "Authorization:${AUTH}"]
    with pytest.raises(InvalidParams):
        one(home, written(home / "other.json", {"mcpServers": {"remote": {**entry, "env": {}}}}))


@pytest.mark.parametrize(
    "document",
    [
        {"time": {"command": "uvx", "args": ["mcp-server-time"]}},
        {"$schema": "x", "mcp": {"time": {"type": "local", "command": ["uvx", "mcp-server-time"]}}},
    ],
)
def test_the_servers_of_a_plug_in_and_of_opencode_are_found(home: Path, document: Mapping[str, object]) -> None:
    server = one(home, written(home / "file.json", document))
    assert (server.name, server.table["command"]) == ("time", ["uvx", "mcp-server-time"])
