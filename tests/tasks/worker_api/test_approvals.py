"""Words that answer a question."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.supervisor.tasks.worker_api.approvals import ALLOW, DENY, answer_of, check_question, key_of
from corral.worker.contract.approvals import AskParams
from corral.worker.contract.errors import InvalidParams

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@given(words=WORDS)
def test_without_options_any_words_are_the_answer(words: str) -> None:
    assert answer_of(words, [], 1) == words


@given(options=st.lists(WORDS, min_size=1, max_size=20), words=WORDS)
def test_with_options_the_answer_is_one_of_them_or_refused(options: list[str], words: str) -> None:
    are_distinct = len({each.lower() for each in options}) == len(options)
    if words in options and are_distinct:
        assert answer_of(words, options, 1) == words
        return
    with contextlib.suppress(InvalidParams):
        assert answer_of(words, options, 1) in options


@pytest.mark.parametrize(("said", "meant"), [(a, b) for a in ALLOW for b in ALLOW])
def test_a_word_of_consent_means_the_option_of_consent_and_never_that_of_refusal(said: str, meant: str) -> None:
    assert answer_of(said.upper(), ["later", meant.title()], 1) == meant.title()
    with pytest.raises(InvalidParams):
        answer_of(said, [*DENY], 1)


def test_options_are_distinguished_and_a_default_is_one_of_them() -> None:
    check_question(AskParams(question="q", options=["a", "b"], default="b"))
    check_question(AskParams(question="q", default="anything"))
    for asked in (AskParams(question="q", options=["a", "A"]), AskParams(question="q", options=["a"], default="A")):
        with pytest.raises(InvalidParams):
            check_question(asked)


def test_a_question_is_known_again_by_its_key_or_its_words() -> None:
    plain = AskParams(question="q", options=["a"])
    assert key_of(plain) == key_of(AskParams(question="q", options=["a"], default="a"))
    assert key_of(plain) != key_of(AskParams(question="qa"))
    assert key_of(AskParams(question="other", key="k")) == "k"
