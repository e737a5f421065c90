"""The table of browser sessions: bounded in number and time."""

from corral.supervisor.faces.dashboard.face import Proof, Sessions

TOKEN, OTHER = b"1" * 32, b"2" * 32


def test_a_session_stands_for_its_token_until_its_end() -> None:
    sessions = Sessions(duration_s=10)
    session_id = sessions.open(TOKEN, 100.0)
    assert sessions.token(session_id, 109.9) == TOKEN
    assert sessions.token(session_id, 110.0) is None
    assert sessions.token(Proof("another", "word"), 100.0) is None


def test_neither_the_cookie_nor_the_header_is_enough() -> None:
    sessions = Sessions()
    one, two = sessions.open(TOKEN, 0.0), sessions.open(TOKEN, 0.0)
    for wrong in (
        Proof(one.cookie, ""),
        Proof("", one.header),
        Proof(one.cookie, two.header),
        Proof(one.header, one.cookie),
    ):
        assert sessions.token(wrong, 0.0) is None


def test_a_closed_session_stands_for_nothing() -> None:
    sessions = Sessions()
    one, two = sessions.open(TOKEN, 0.0), sessions.open(OTHER, 0.0)
    sessions.close(one)
    sessions.close(one)
    assert (sessions.token(one, 0.0), sessions.token(two, 0.0)) == (None, OTHER)


def test_the_oldest_session_makes_room_for_a_new_one() -> None:
    sessions = Sessions(most=3)
    ids = [sessions.open(TOKEN, float(n)) for n in range(5)]
    assert [sessions.token(each, 5.0) for each in ids] == [None, None, TOKEN, TOKEN, TOKEN]
    assert len(sessions) == 3


def test_sessions_that_are_over_take_no_room() -> None:
    sessions = Sessions(most=2, duration_s=10)
    sessions.open(TOKEN, 0.0)
    kept = sessions.open(TOKEN, 9.0)
    sessions.open(TOKEN, 12.0)
    assert (len(sessions), sessions.token(kept, 12.0)) == (2, TOKEN)
