"""Text from outside on a terminal: nothing controls it, and nothing is there that is not seen."""

import json

import pytest

from corral.cli.render import json_text, one_line, one_lines, visible

HIDDEN = {
    "tags": "rm" + "".join(chr(0xE0000 + ord(each)) for each in " -rf /"),
    "zero width": "a\u200b\u200d\u2060b",
    "arabic letter mark": "a\u061cb",
    "soft hyphen": "pay\u00adpal",
    "byte order mark": "a\ufeffb",
    "interlinear": "a\ufff9b\ufffb",
    "right to left": "a\u202eb",
    "filler": "a\u3164b",
    "blank braille": "a\u2800b",
    "variation": "a\ufe01b",
    "variation of the supplement": "a\U000e0101b",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "clear": "\x1b[2J",
    "C1": "a\x9b2Jb",
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_could_not_be_seen_is_written_out(kind: str) -> None:
    text = HIDDEN[kind]
    for shown in (visible(text), visible(text, keep_colours=True), one_line(text), *one_lines(["plain", text])[1:]):
        assert shown.isprintable()
        assert shown != text
        assert not set(shown) & set("\u3164\u2800\ufe01\U000e0101")


@pytest.mark.parametrize("kind", HIDDEN)
def test_json_is_the_same_value_and_shows_all_of_it(kind: str) -> None:
    value = {"question": HIDDEN[kind]}
    text = json_text(value, indent=False)
    assert text.isprintable()
    assert json.loads(text) == value


@pytest.mark.parametrize("text", ["plain", "Grüße", "日本語", "🙂", "❤\ufe0f", "עברית", "a\tb\nc"])
def test_text_that_people_read_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b[1;4;92mstrong\x1b[m", "\x1b[1;4;92mstrong\x1b[m"),
        ("\x1b[38;5;208morange", "\x1b[38;5;208morange"),
        ("ok \x1b[8mand wipe the disk\x1b[0m", "ok and wipe the disk\x1b[0m"),
        ("\x1b[30;40mblack on black", "black on black"),
        ("\x1b[1;38;5;16mblack", "\x1b[1mblack"),
        ("\x1b[38;2;0;0;0mblack", "black"),
        ("\x1b[37mwhite \x1b[97mwhiter", "white whiter"),
    ],
)
def test_colours_stay_as_far_as_they_conceal_nothing(given: str, kept: str) -> None:
    assert visible(given, keep_colours=True) == f"{kept}\x1b[0m"
