"""Templates: what an agent takes of its template, which parameters are refused, and what bounds an expansion."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.supervisor.config.decoding.decoder import STORE
from corral.supervisor.config.decoding.values import is_table
from corral.supervisor.config.spec import loader
from corral.supervisor.config.spec.diff import changed, plan
from corral.supervisor.config.spec.sources import Variables
from corral.supervisor.config.spec.spec import Config, Defaults, Scale, Spec
from corral.supervisor.config.spec.template_spec import BUILT_IN_TEMPLATES, merge
from corral.supervisor.config.spec.templates import VALUES_MAX
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.core

FAST = """
[templates.fast]
params = { model = { type = "string", default = "x" }, nice = { type = "integer", maximum = 19, default = 3 }, tags = { type = "array" } }
command = ["serve", "--model=${param.model}", "${param.nice}", "${HOME}/$${param.model}"]
description = "runs ${param.model}"
capabilities = "${param.tags}"
instances = 2
environment = { MODEL = "${param.model}", NICE = "${param.nice}" }
process = { nice = "${param.nice}", write_paths = ["data"] }
resources = { max_memory_bytes = "1GiB" }
"""


def decode(text: str) -> Config:
    known = Variables({"HOME": "/home/me"}, {})
    return loader.decode(text, source="/etc/corral.toml", directory="/etc", variables=known)


def refused(text: str) -> InvalidParams:
    with pytest.raises(InvalidParams) as caught:
        decode(text)
    return caught.value


def of_api(table: dict[str, object], config: Config) -> Spec:
    return loader.decode_agent(
        "b", table, kind="agent", defaults=config.defaults, source=STORE, directory="/srv", templates=config.templates
    )


def test_an_agent_has_the_keys_of_its_template_with_its_params_put_in() -> None:
    agent = decode(FAST + '[agents.a]\ntemplate = "fast"\nparams = { model = "big", tags = ["s", "t"] }\n').agents["a"]
    assert agent.command == ("serve", "--model=big", "3", "/home/me/${param.model}")
    assert agent.description == "runs big"
    assert agent.capabilities == ("s", "t")
    assert agent.environment == {"MODEL": "big", "NICE": "3"}
    assert (agent.process.nice, agent.process.write_paths) == (3, ("/etc/data",))
    assert (agent.resources.max_memory_bytes, agent.instances) == (1 << 30, Scale(2, 2))
    assert {type(each) for each in agent.command} == {str}


def test_the_keys_of_an_agent_win_over_those_of_its_template() -> None:
    agent = decode(
        FAST + '[agents.a]\ntemplate = "fast"\nparams.tags = []\ninstances = 5\n'
        'environment = { MODEL = "own", MORE = "1" }\nresources.max_tool_calls_per_task = 7\n'
    ).agents["a"]
    assert agent.instances == Scale(5, 5)
    assert agent.environment == {"MODEL": "own", "NICE": "3", "MORE": "1"}
    assert agent.resources.max_memory_bytes == 1 << 30
    assert agent.resources.max_tool_calls_per_task == 7


def test_a_program_of_its_own_is_in_place_of_the_templates() -> None:
    agent = decode(FAST + '[agents.a]\ntemplate = "fast"\nparams.tags = []\nentrypoint = "m:agent"\n').agents["a"]
    assert (agent.command, agent.entrypoint) == ((), "m:agent")


@pytest.mark.parametrize(
    ("params", "param", "word"),
    [
        ("{}", "tags", "missing"),
        ("{ tags = [], modle = 'y' }", "modle", 'did you mean "model"'),
        ("{ tags = [], nice = 20 }", "nice", "maximum"),
        ("{ tags = [], nice = 'low' }", "nice", "integer"),
        ("{ tags = 1 }", "tags", "array"),
    ],
)
def test_a_param_that_does_not_fit_is_refused_by_name(params: str, param: str, word: str) -> None:
    error = refused(FAST + f'[agents.a]\ntemplate = "fast"\nparams = {params}\n')
    assert {k: error.data[k] for k in ("agent", "template", "param", "line")} == {
        "agent": "a",
        "template": "fast",
        "param": param,
        "line": 13,
    }
    assert word in str(error.data["reason"])


def test_a_value_of_a_variable_fits_a_param_that_is_a_number() -> None:
    text = FAST + "[agents.a]\ntemplate = 'fast'\nparams = { tags = [], nice = '${N:-7}' }\n"
    assert decode(text).agents["a"].process.nice == 7


def test_a_value_of_a_param_is_never_expanded_itself() -> None:
    config = decode(FAST)
    table: dict[str, object] = {"template": "fast", "params": {"tags": [], "model": "${HOME} ${param.nice} $$"}}
    assert of_api(table, config).environment["MODEL"] == "${HOME} ${param.nice} $$"


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("[templates.t]\nnice = 1", 2, "unknown key"),
        ("[templates.t]\ndescription = '${param.x}'", 2, "no parameter of this name"),
        ("[templates.t]\nprocess.nice = 50", 2, "19"),
        ("[templates.t.process]\nnice = '${param.x'", 2, "no reference"),
        ("[templates.t]\ndescription = '${UNSET}'", 2, "not set"),
        ("[templates.t]\nparams.x = 'string'", 2, "JSON Schema"),
        ("[templates.t]\nparams.x = { type = 'strin' }", 2, ""),
        ("[templates.t]\nparams.x = { type = 'string', default = 1 }", 2, "default"),
        ("[templates.t]\ntemplate = 'u'", 2, "no template"),
        ("[templates.t]\ntemplate = 't'", 2, "circle"),
        ("[agents.a]\ncommand = ['x']\nparams.x = 1", 3, "with template only"),
        ("[agents.a]\ntemplate = 'fsat'\n[templates.fast]\n", 2, 'did you mean "fast"'),
        ("[tasks]\nmax_attempts = 1\n[templates.t]\ntasks.max_total_queue_size = 3", 4, "whole"),
    ],
)
def test_a_mistake_in_a_template_is_reported_with_its_line(text: str, line: int, word: str) -> None:
    error = refused(text)
    assert error.data["line"] == line
    assert word in str(error.data["reason"])


def test_an_error_about_a_value_of_the_template_names_the_templates_line_and_the_agent() -> None:
    error = refused(
        "[templates.t]\nparams.n = { type = 'integer' }\ncommand = ['x']\nprocess.nice = '${param.n}'\n"
        "[agents.a]\ntemplate = 't'\nparams.n = 50\n"
    )
    assert (error.data["line"], error.data["key"]) == (4, "templates.t.process.nice")
    assert "agents.a" in str(error.data["reason"])


def test_a_template_begins_with_the_keys_and_params_of_another() -> None:
    config = decode(
        FAST + "[templates.small]\ntemplate = 'fast'\nparams.model.default = 'tiny'\n"
        "params.tags.default = ['t']\ninstances = 1\nenvironment.SIZE = '${param.model}'\n"
        "[agents.a]\ntemplate = 'small'\n"
    )
    agent = config.agents["a"]
    assert (agent.description, agent.instances) == ("runs tiny", Scale(1, 1))
    assert agent.environment == {"MODEL": "tiny", "NICE": "3", "SIZE": "tiny"}
    assert config.templates["small"].base == "fast"
    assert config.templates["fast"].params["model"]["default"] == "x"


def test_a_row_of_templates_is_bounded_and_a_circle_is_refused() -> None:
    row = "".join(f"[templates.t{n}]\ntemplate = 't{n + 1}'\n" for n in range(20))
    assert "in a row" in str(refused(row + "[templates.t20]\n"))
    assert "circle" in str(refused("[templates.a]\ntemplate='b'\n[templates.b]\ntemplate='a'\n"))


def test_a_server_may_have_a_template() -> None:
    config = decode(
        "[templates.npx]\nparams.name = { type = 'string' }\ncommand = ['npx', '-y', '${param.name}']\n"
        "[mcp.servers.a]\ntemplate = 'npx'\nparams.name = 'server-a'\n"
    )
    assert config.agents["a"].command == ("npx", "-y", "server-a")
    assert config.agents["a"].protocol == "mcp"


def test_an_agent_with_a_template_is_written_with_its_own_keys_alone_and_read_the_same() -> None:
    config = decode(FAST)
    table: dict[str, object] = {
        "template": "fast",
        "params": {"tags": ["a"]},
        "instances": 4,
        "process": {"write_paths": ["x"], "umask": "022"},
        "environment": {"A": "1"},
    }
    spec = of_api(table, config)
    written = loader.to_table(spec)
    assert written == table | {"process": {"write_paths": ["/srv/x"], "umask": "022"}}
    assert of_api(written, config) == spec
    plain = loader.expanded_table(spec)
    assert "template" not in plain
    alone = of_api(plain, config)
    assert {**changed(alone, spec)}.keys() <= {"template", "params"}


def test_a_changed_template_changes_the_agents_that_have_it() -> None:
    text = '[agents.a]\ntemplate = "fast"\nparams.tags = []\n[agents.b]\ncommand = ["b"]\n'
    old, new = decode(FAST + text), decode(FAST.replace("instances = 2", "instances = 3") + text)
    found = plan(old.agents, frozenset(old.agents), old, new)
    assert (found.changed, found.keys) == ({"a": "live"}, {"a": ("instances",)})


def test_a_param_with_the_same_outcome_restarts_nothing() -> None:
    text = '[agents.a]\ntemplate = "fast"\nparams = {{ tags = []{} }}\n'
    old, new = decode(FAST + text.format("")), decode(FAST + text.format(", nice = 3"))
    assert changed(old.agents["a"], new.agents["a"]) == {"params": "live"}


def test_the_built_in_template_is_there_unless_the_file_has_its_own() -> None:
    assert of_api({"template": "default"}, decode("")).entrypoint == BUILT_IN_TEMPLATES["default"].layers[0].body.get(
        "entrypoint"
    )
    own = decode("[templates.default]\ncommand = ['own']\n")
    assert of_api({"template": "default"}, own).command == ("own",)


def test_an_expansion_is_bounded() -> None:
    uses = ", ".join(['"${param.x}"'] * 1000)
    text = f"[templates.bomb]\nparams.x = {{ type = 'array' }}\ncommand = ['x']\nconfig.a = [{uses}]\n"
    config = decode(text)
    assert of_api({"template": "bomb", "params": {"x": [1]}}, config).config["a"] == [[1]] * 1000
    with pytest.raises(InvalidParams, match=f"more than {VALUES_MAX} values"):
        of_api({"template": "bomb", "params": {"x": [1] * 1000}}, config)
    wide = decode(text.replace("array", "string"))
    with pytest.raises(InvalidParams, match="characters"):
        of_api({"template": "bomb", "params": {"x": "x" * 100_000}}, wide)


def test_deep_and_strange_params_are_refused() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    config = decode(FAST)
    for value in (deep, None, {"a": None}, float("nan")):
        with pytest.raises(InvalidParams):
            of_api({"template": "fast", "params": {"tags": value}}, config)
    tables: list[Any] = [{"template": ["fast"]}, {"template": None}, {"template": "fast", "params": []}]
    for table in tables:
        with pytest.raises(InvalidParams):
            of_api(table, config)
    with pytest.raises(InvalidParams, match="null"):
        of_api({"template": "fast", "params": {"tags": []}, "resources": {"a": None}}, config)


def test_a_table_stands_inside_no_text() -> None:
    config = decode("[templates.t]\nparams.x = {}\ncommand = ['a']\ndescription = 'is ${param.x}'\n")
    with pytest.raises(InvalidParams, match="inside the text"):
        of_api({"template": "t", "params": {"x": {"a": 1}}}, config)
    assert of_api({"template": "t", "params": {"x": True}}, config).description == "is true"


TABLES: Any = st.recursive(
    st.one_of(st.integers(), st.text(max_size=4), st.booleans(), st.lists(st.integers(), max_size=2)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
).filter(lambda each: isinstance(each, dict))


@settings(deadline=None)
@given(TABLES, TABLES)
def test_merging_is_that_of_rfc_7396(base: dict[str, object], patch: dict[str, object]) -> None:
    def expected(target: object, change: object) -> object:  # the pseudocode of its section 2
        if not is_table(change):
            return change
        found: dict[str, object] = dict(target) if is_table(target) else {}
        for key, value in change.items():
            if value is None:
                found.pop(key, None)
            else:
                found[key] = expected(found.get(key), value)
        return found

    holes = {k: None if k == "a" else v for k, v in patch.items()}
    for each in (patch, holes):
        assert merge(base, each) == expected(base, each)
    assert merge(merge(base, patch), patch) == merge(base, patch)
    assert merge(base, {}) == base


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30),
    st.integers(-20, 19),
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=3),
)
def test_any_param_arrives_as_it_is(model: str, nice: int, tags: list[str]) -> None:
    config = decode(FAST)
    params: dict[str, object] = {"model": model, "nice": nice, "tags": tags}
    spec = of_api({"template": "fast", "params": params}, config)
    assert spec.command[1] == f"--model={model}"
    assert (spec.process.nice, spec.capabilities) == (nice, tuple(tags))
    assert of_api(loader.to_table(spec, Defaults()), config) == spec
