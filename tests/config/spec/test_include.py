"""A configuration in several files: what an included file may have, and in which file and line a mistake is."""

from pathlib import Path
from typing import cast

import pytest

from corral.supervisor.config.spec.loader import decode
from corral.supervisor.config.spec.spec import Config
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core

INCLUDE = 'include = ["conf.d/*.toml"]\n'
AGENT = '[agents.{}]\ncommand = ["x"]\n'


def written(folder: Path, **files: str) -> Path:
    """A folder with a file for each name: `conf_d__a` is conf.d/a.toml."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/").replace("_d", ".d") + ".toml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def read(folder: Path) -> Config:
    main = folder / "main.toml"
    return decode(main.read_text(), source=str(main), directory=str(folder))


def mistakes(folder: Path) -> list[tuple[str, str, object]]:
    """The file, the key and the line of each mistake."""
    with pytest.raises(InvalidParams) as caught:
        read(folder)
    data = caught.value.data
    errors = cast("list[dict[str, object]]", data.get("errors", [data]))
    return [(Path(str(e["file"])).relative_to(folder).as_posix(), str(e["key"]), e.get("line")) for e in errors]


def test_named_tables_of_included_files_are_those_of_one_configuration(tmp_path: Path) -> None:
    config = read(
        written(
            tmp_path,
            main=f"{INCLUDE}[resources]\nmax_processes = 7\n{AGENT.format('one')}requires = ['two']\n",
            conf_d__b=f"{AGENT.format('two')}process.environment_file = 'env'\n[mcp.servers.s]\ncommand = ['y']\n",
            conf_d__a="[teams.t]\nlead = 'one'\nmembers = ['two']\n[mcp.profiles.p]\nread_only = true\n",
        )
    )
    assert list(config.agents) == ["one", "two", "s"]
    assert set(config.groups) == {"t"}
    assert config.profiles["p"].read_only
    two = config.agents["two"]
    assert two.resources.max_processes == 7
    assert (two.process.working_directory, two.process.environment_file) == (
        str(tmp_path / "conf.d"),
        str(tmp_path / "conf.d" / "env"),
    )
    assert two.source == str(tmp_path / "conf.d" / "b.toml")
    assert config.agents["one"].process.working_directory == str(tmp_path)


def test_an_included_file_includes_others_relative_to_itself_and_each_is_read_once(tmp_path: Path) -> None:
    config = read(
        written(
            tmp_path,
            main='include = ["conf.d/a.toml", "conf.d/*.toml", "none/*.toml"]\n',
            conf_d__a='include = ["b.toml"]\n' + AGENT.format("a"),
            conf_d__b=AGENT.format("b"),
        )
    )
    assert list(config.agents) == ["a", "b"]


def test_a_mistake_is_in_the_file_and_line_that_has_it(tmp_path: Path) -> None:
    found = mistakes(
        written(
            tmp_path,
            main=f"{INCLUDE}{AGENT.format('one')}\n{AGENT.format('same')}typo = 1\n",
            conf_d__a=f"{AGENT.format('same')}[agents.two]\n\ncomand = ['x']\n[process]\nnice = 3\n",
            conf_d__b="[agents.three\n",
            conf_d__c=f"[mcp.servers.one]\ncommand = ['x']\n{AGENT.format('four')}requires = ['five']\n",
        )
    )
    assert sorted(found, key=str) == sorted(
        [
            ("main.toml", "agents.same.typo", 7),
            ("conf.d/a.toml", "agents.same", 1),
            ("conf.d/a.toml", "process", 6),
            ("conf.d/a.toml", "agents.two.comand", 5),
            ("conf.d/b.toml", "None", 1),
            ("conf.d/c.toml", "mcp.servers.one", 1),
            ("conf.d/c.toml", "agents.four.requires", 5),
        ],
        key=str,
    )


def test_a_name_in_two_files_names_both_files_and_lines(tmp_path: Path) -> None:
    folder = written(
        tmp_path, main=f"{INCLUDE}", conf_d__a=f"\n{AGENT.format('same')}", conf_d__b=f"\n\n{AGENT.format('same')}"
    )
    with pytest.raises(InvalidParams) as caught:
        read(folder)
    assert f"{folder}/conf.d/b.toml, line 3" in caught.value.message
    assert f"{folder}/conf.d/a.toml, line 2" in caught.value.message


@pytest.mark.parametrize(
    ("include", "word"),
    [
        ('["absent.toml"]', "no such file"),
        ('["."]', "directory"),
        ('"conf.d/*.toml"', "list"),
        ('["main.toml"]', "circle"),
        ('["conf.d/a.toml"]', "circle"),
        ("[3]", "path"),
    ],
)
def test_an_include_that_cannot_be_is_refused(tmp_path: Path, include: str, word: str) -> None:
    folder = written(tmp_path, main=f"include = {include}\n", conf_d__a='include = ["../main.toml"]\n')
    with pytest.raises(InvalidParams) as caught:
        read(folder)
    assert caught.value.data["key"] == "include"
    assert word in caught.value.message


def test_files_that_include_one_another_in_a_long_row_are_bounded(tmp_path: Path) -> None:
    row = {f"f{n}": f'include = ["f{n + 1}.toml"]\n' for n in range(10)}
    folder = written(tmp_path, main='include = ["f0.toml"]\n', **row, f10="")
    assert mistakes(folder) == [("f6.toml", "include", 1)]
