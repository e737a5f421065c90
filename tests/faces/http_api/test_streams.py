"""Streams of server-sent events: progress and result, and events that are followed across a restart without loss or doubles."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from corral.worker.client.sync import Client
from daemon_process import BOUND_S
from http_api_client import Api, Event, serving

pytestmark = pytest.mark.shell

TYPE = "test.counted"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving(tmp_path) as found:
        yield found


def publish(client: Client, numbers: range, size: int = 0) -> list[int]:
    """The sequence numbers of events with these numbers."""
    text = "x" * size
    found: list[int] = []
    for number in numbers:
        params = {"type": TYPE, "data": {"number": number, "text": text}}
        answer: Any = client.call("event.publish", params, timeout_s=BOUND_S)
        found.append(int(answer["seq"]))
    return found


def numbers(events: Iterator[Event], count: int) -> list[tuple[str | None, int]]:
    """The ids and the numbers of the next events, without the one that has an id alone."""
    named = (each for each in events if each.name == "event")
    return [(each.id, each.data["data"]["number"]) for each in islice(named, count)]


def test_a_run_sends_its_progress_and_last_its_record(api: Api) -> None:
    with api.stream("POST", "/agents/echo/run", {"objective": "progress", "input": 5}) as events:
        found = list(events)
    assert {each.name for each in found[:-1]} == {"task.progress"}
    assert "step 1" in [each.data["message"] for each in found[:-1]]
    assert found[-1].name == "result"
    assert (found[-1].data["state"], found[-1].data["output"]) == ("succeeded", 5)


def test_a_call_that_fails_at_once_has_the_status_of_its_error(api: Api) -> None:
    run = {"agent": "nobody", "objective": "x"}
    answered = api.ask("POST", "/run", run, Accept="text/event-stream")
    assert (answered.status, answered.json["error"]["name"]) == (404, "NotFound")
    answered = api.ask("GET", "/events", Accept="text/event-stream", Last_Event_ID="x")
    assert (answered.status, answered.json["error"]["data"]["key"]) == (422, "since")


def test_a_call_that_fails_later_ends_with_the_error(api: Api, tmp_path: Path) -> None:
    there = tmp_path / "there"
    body = {"agent": "echo", "objective": "wait", "input": str(there)}
    task = api.ask("POST", "/tasks", body).json["id"]
    with api.stream("GET", f"/tasks/{task}/wait?timeout_s=1") as events:
        *_, last = events
    assert (last.name, last.data["name"], last.data["data"]["task"]) == ("error", "Timeout", task)
    there.touch()


def test_a_log_that_is_not_followed_ends(api: Api) -> None:
    api.ask("POST", "/agents/echo/run", {"objective": "print", "input": 3})
    with api.stream("GET", "/logs?names=echo&follow=false") as events:
        found = list(events)
    records = [each.data["records"] for each in found if each.name == "log"]
    lines = [str(record["text"]) for batch in records for record in batch]
    assert [line for line in lines if line.startswith("line")] == ["line 0", "line 1", "line 2"]
    assert [each.name for each in found[-2:]] == ["log.end", "result"]


@pytest.mark.long
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_events_go_on_after_a_restart_without_loss_or_doubles(api: Api, end: str) -> None:
    with api.stream("GET", f"/events?types={TYPE}") as events, api.daemon.client() as client:
        first = next(events)  # the id alone: where it begins
        assert (first.name, first.data) == ("", None)
        publish(client, range(100))
        seen = numbers(events, 40)  # of the others it knows nothing
    # Events that are on the way to the store when the daemon is killed are lost with it; those listed are stored.
    assert len(api.daemon.call("event.list", types=[TYPE])["events"]) == 100
    getattr(api.daemon, end)()
    api.daemon.start()
    again = Api(api.daemon)
    with again.stream("GET", f"/events?types={TYPE}&n=0", Last_Event_ID=str(seen[-1][0])) as events:
        with api.daemon.client() as client:
            publish(client, range(100, 120))
        stored = api.daemon.call("event.list", types=[TYPE])["events"]
        seen += numbers(events, len(stored) - 40)
    assert seen == [(str(each["seq"]), each["data"]["number"]) for each in stored]
    assert [number for _, number in seen][-20:] == list(range(100, 120))
    assert len({seq for seq, _ in seen}) == len(seen)


def lines(events: Iterator[Event], until: str) -> list[tuple[str | None, str, str]]:
    """The id of the event, the time and the text of all lines up to one that ends so, with all of its event."""
    found: list[tuple[str | None, str, str]] = []
    for each in events:
        records: list[Any] = each.data["records"] if each.name == "log" else []
        found += [(each.id, str(record["at"]), str(record["text"])) for record in records]
        if any(str(record["text"]) == until for record in records):
            return found
    raise AssertionError("the stream has ended")


@pytest.mark.long
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_logs_go_on_after_a_restart_without_loss_or_doubles(api: Api, end: str) -> None:
    def printed(count: int) -> None:
        run = {"agent": "echo", "objective": "print", "input": count}
        assert api.daemon.call("task.run", **run)["state"] == "succeeded"

    with api.stream("GET", "/logs?names=echo&n=0") as events:
        place = next(events)  # the id alone: where it begins
        assert (place.name, place.data) == ("", None)
    printed(1)
    with api.stream("GET", "/logs?names=echo", Last_Event_ID=str(place.id)) as events:
        printed(900)
        seen = lines(events, "line 100")
    getattr(api.daemon, end)()
    api.daemon.start()
    printed(951)
    again = Api(api.daemon)
    before, last = len(seen), str(seen[-1][0])
    with again.stream("GET", "/logs?names=echo&n=3", Last_Event_ID=last) as events:
        seen += lines(events, "line 950")
    stored = api.daemon.call("log.read", names=["echo"], since=0)["records"]
    assert [(at, text) for _, at, text in seen] == [(r["at"], r["text"]) for r in stored]
    # The same in one answer: the position of an answer, and of an event.
    answered = again.ask("GET", "/logs", query={"names": "echo", "after": last}).json
    after = [(record["at"], record["text"]) for record in answered["records"]]
    assert after == [(at, text) for _, at, text in seen[before:]]
    rest = again.ask("GET", "/logs", query={"names": "echo", "after": answered["position"]}).json
    assert rest["records"] == []


@pytest.mark.parametrize("wrong", ["x", "AAAA", "1-2"])
def test_a_position_that_is_none_is_refused(api: Api, wrong: str) -> None:
    answered = api.ask("GET", "/logs", Accept="text/event-stream", Last_Event_ID=wrong)
    assert (answered.status, answered.json["error"]["data"]["key"]) == (422, "after")
    answered = api.ask("GET", "/logs", query={"after": wrong})
    assert (answered.status, answered.json["error"]["data"]["key"]) == (422, "after")


def test_a_reader_that_loses_its_stream_before_an_event_goes_on_from_its_beginning(api: Api) -> None:
    with api.stream("GET", f"/events?types={TYPE}") as events:
        place = next(events).id
    with api.daemon.client() as client:
        publish(client, range(3))
    with api.stream("GET", f"/events?types={TYPE}", Last_Event_ID=str(place)) as events:
        assert [number for _, number in numbers(events, 3)] == [0, 1, 2]


def test_a_reader_that_does_not_read_is_not_waited_for_and_loses_nothing(api: Api) -> None:
    with api.stream("GET", f"/events?types={TYPE}") as events:
        next(events)
        with api.daemon.client() as client:
            publish(client, range(900), size=12_000)
        assert [number for _, number in numbers(events, 900)] == list(range(900))
