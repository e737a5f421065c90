"""How long the answers to wrong tokens wait."""

from corral.supervisor.faces.http.guesses import ADDRESSES_MAX, FREE, MOST_S, STEP_S, WINDOW_S, Guesses


def test_a_few_wrong_tokens_are_answered_at_once_and_more_of_them_wait_longer_up_to_a_bound() -> None:
    guesses = Guesses()
    waits = [guesses.wait_s("192.0.2.1", 0.0) for _ in range(100)]
    assert waits[:FREE] == [0.0] * FREE
    assert waits[FREE] == STEP_S
    assert waits == sorted(waits)
    assert waits[-1] == MOST_S
    assert guesses.wait_s("192.0.2.2", 0.0) == 0.0


def test_a_window_later_nothing_is_held_against_an_address() -> None:
    guesses = Guesses()
    for _ in range(50):
        guesses.wait_s("192.0.2.1", 0.0)
    assert guesses.wait_s("192.0.2.1", WINDOW_S + 1) == 0.0


def test_the_addresses_that_are_remembered_are_bounded() -> None:
    guesses = Guesses()
    for _ in range(50):
        guesses.wait_s("first", 0.0)
    for number in range(ADDRESSES_MAX):
        guesses.wait_s(str(number), 0.0)
    assert guesses.wait_s("first", 0.0) == 0.0
