"""A command line that cannot be parsed is refused in plain English: no word of the parser's library, and what to write."""

import re
from collections.abc import Iterator

import click
import pytest

from corral.cli.__main__ import command_line
from corral.cli.context import Session, json_value
from corral.cli.usage_error import usage_error, with_option
from corral.worker.contract.errors import InvalidParams

pytestmark = pytest.mark.shell

FOREIGN = re.compile(
    r"No such option|is not a valid|Invalid value|is not in the range|Missing (argument|option|parameter)"
    r"|is not one of|requires an argument|Got unexpected|does not take a value|Try '"
)
"""Words of the parser."""

CASES = [
    ("scale out -1", "-1: must be 0 or more"),
    ("scale out two", "number two: write a whole number of at least 0"),
    ("scale out", "write NAME N, or NAME=N for each of several"),
    ("run greeter hi --priority 99", "--priority 99: write a whole number from 1 to 10"),
    ("run greeter hi --priority", "--priority needs a value"),
    ("tenant add t --max-agents 1", "--max-agents is no option; keys are written max_agents=VALUE"),
    ("run greeter hi --prioritty 3", "--prioritty is no option; did you mean --priority?"),
    ("run greeter hi --timeout abc", '--timeout: "abc" is no duration'),
    ("tasks --state odd", "--state odd: write "),
    ("status --json=yes", "--json takes no value"),
    ("log-level loud", "loud: write "),
    ("tasks list", 'unexpected "list"'),
    ("run", "AGENT is missing"),
    ("add kit python x.py", "write -- before"),
    ("logs -n many", "--tail many: write a whole number"),
]


def refused(line: str) -> InvalidParams:
    """The error for a command line."""
    arguments = line.split()
    try:
        with command_line().make_context("corral", list(arguments), obj=Session({})) as context:
            command_line().invoke(context)
    except click.ClickException as error:
        return usage_error(error, arguments)
    except InvalidParams as error:
        return error
    raise AssertionError(f"it was taken: {line}")


@pytest.mark.parametrize(("line", "words"), CASES)
def test_a_refused_line_names_the_option_the_value_and_the_rule(line: str, words: str) -> None:
    error = refused(line)
    assert words in error.message
    assert not FOREIGN.search(error.message)


def commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its words."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            child = command.get_command(click.Context(command), name)
            assert child is not None
            yield from commands(child, (*path, name))
    else:
        yield path, command


def refusals() -> Iterator[InvalidParams]:
    """The errors for every command with an option too much, and for each of its options without and with a wrong value."""
    for path, command in commands(command_line(), ()):
        lines = [["--no-such-option"], [*["x"] * 9], ["--json=1"], []]
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag:
                lines += [[option.opts[0]], [option.opts[0], "no such", *["x"] * 9]]
        for line in lines:
            try:
                command.make_context(path[-1], list(line), obj=Session({}))
            except click.ClickException as error:
                yield usage_error(error, line)
            except (InvalidParams, click.exceptions.Exit):
                continue  # refused by the command's own check


def test_no_word_of_the_parser_reaches_a_user_of_any_command() -> None:
    found = list(refusals())
    assert len(found) > 300
    assert [error.message for error in found if FOREIGN.search(error.message)] == []


def test_a_param_that_the_daemon_refuses_is_reported_by_its_option() -> None:
    facts = {"method": "schedule.add", "key": "every_s", "value": "0", "reason": "write more"}
    error = InvalidParams('cannot call "schedule.add": every_s = 0: write more', **facts)
    assert with_option(error) == "cannot use --every 0: write more"


@pytest.mark.parametrize(
    ("text", "value"), [("world", "world"), ("-5 x", "-5 x"), ("[1]", [1]), ("5", 5), ("null", None)]
)
def test_an_input_that_is_no_json_is_a_text(text: str, value: object) -> None:
    assert json_value(text, "--input", or_text=True) == value


@pytest.mark.parametrize("text", ["{bad", '"world', "[1"])
def test_an_input_that_begins_as_json_has_to_be_json(text: str) -> None:
    with pytest.raises(InvalidParams):
        json_value(text, "--input", or_text=True)


@pytest.mark.parametrize(
    ("word", "command"), [("ps", "status"), ("ls", "status"), ("up", "start"), ("down", "stop"), ("kill", "signal")]
)
def test_the_usual_words_of_other_programs_are_commands(word: str, command: str) -> None:
    group = command_line()
    name, found, _ = group.resolve_command(click.Context(group), [word, "web"])
    assert (name, found) == (command, group.get_command(click.Context(group), command))
