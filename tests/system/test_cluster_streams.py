"""Events and logs of all nodes as one stream: from any node, over a node that dies and comes back, nothing twice, nothing lost."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cluster_of_daemons import Cluster, cluster_of, until_all_answer
from corral import AgentRuntime
from corral.worker.contract.errors import InvalidParams, NotFound, Unreachable
from corral.worker.control.nodes import places_of
from daemon_process import BOUND_S, DaemonProcess
from http_api_client import Api

pytestmark = [pytest.mark.shell, pytest.mark.long]

PRINTER = """
[agents.printer]
command = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.03; done"]
protocol = "none"
"""

ONLY = PRINTER.replace("printer", "only")

HTTP = """
[daemon]
http = "127.0.0.1:0"
"""

FLOOD = """
[agents.flood]
command = ["sh", "-c", "seq -f '%08.0f{filler}' 1 {lines}; exec sleep 1000"]
protocol = "none"
"""


def notified(client: Any, method: str) -> Iterator[tuple[str, Any]]:
    """The notifications of a stream, and of nodes that are missing."""
    for each in client.notifications():
        if each.method in (method, "nodes.missing"):
            yield each.method, each.params


class Reader:
    """Reads a stream, and keeps what came."""

    def __init__(self, node: DaemonProcess, method: str, **params: object) -> None:
        self.client = node.client()
        self.records: list[dict[str, Any]] = []
        self.missing: list[str] = []
        self.told: list[list[str]] = []
        answer: Any = self.client.call(method, params, timeout_s=BOUND_S)
        self.position = answer["position"]
        self._coming = notified(self.client, method.partition(".")[0])

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def until(self, is_so: Any) -> None:
        """Reads until it is so."""
        while not is_so():
            method, params = next(self._coming)
            if method == "nodes.missing":
                self.missing = params["missing_nodes"]
                self.told.append(self.missing)
                continue
            self.records += params.get("records") or params.get("events")
            self.position = params["position"]

    def of(self, node: str) -> list[dict[str, Any]]:
        """Returns the records of a node."""
        return [each for each in self.records if each["node"] == node]


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_following_goes_on_over_a_node_that_dies_and_comes_back(tmp_path: Path, kind: str) -> None:
    with cluster_of(tmp_path, kind, ("one", "two"), PRINTER) as cluster, ExitStack() as stack:
        until_all_answer(cluster)
        one, two = cluster.nodes["one"], cluster.nodes["two"]
        lines = stack.enter_context(Reader(one, "log.follow", names=["printer"], n=1))
        events = stack.enter_context(Reader(one, "event.follow", types=["worker.state"]))
        lines.until(lambda: min(len(lines.of("one")), len(lines.of("two"))) > 5)
        before = len(lines.of("two"))
        two.kill()
        lines.until(lambda: lines.missing == ["two"])
        seen = len(lines.of("one"))
        lines.until(lambda: len(lines.of("one")) > seen + 5)
        two.start()
        lines.until(lambda: not lines.missing)
        begun = len(lines.of("two"))
        lines.until(lambda: len(lines.of("two")) > begun + 5)
        anew = [each["text"] for each in lines.of("two")[before:]]
        assert anew.count("line 1") == 1, "it began anew, and its first line is there"
        for node in ("one", "two"):
            shown = [(each["at"], each["text"]) for each in lines.of(node)]
            whole: Any = one.call("log.read", names=["printer"], n=100_000, node=node)
            stored = [(each["at"], each["text"]) for each in whole["records"]]
            start = stored.index(shown[0])
            assert shown == stored[start : start + len(shown)], "none twice, and none is missing"
        events.until(lambda: any(each["to"] == "Ready" for each in events.of("two")))
        assert events.told == [["two"], []]
        numbers = Counter((each["node"], each["seq"]) for each in events.records)
        assert set(numbers.values()) == {1}
        # A reader that lost its connection goes on behind what it has, from another node, too.
        again = Reader(two, "log.follow", names=["printer"], after=lines.position)
        stack.enter_context(again)
        again.until(lambda: min(len(again.of("one")), len(again.of("two"))) > 5)
        for node in ("one", "two"):
            last = lines.of(node)[-1]
            assert all(each["at"] > last["at"] for each in again.of(node))
            number = int(last["text"].split()[1])
            assert again.of(node)[0]["text"] == f"line {number + 1}"


def test_any_node_shows_the_logs_and_events_of_all(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "nats", ("one", "two"), PRINTER + HTTP) as cluster:
        until_all_answer(cluster)
        one, two = cluster.nodes["one"], cluster.nodes["two"]
        cluster.until(lambda: all(_lines(each, each_name) for each_name, each in cluster.nodes.items()))
        shown = one.corral("logs", "-n", "20", "printer", "--json")
        found = [json.loads(line) for line in shown.stdout.splitlines()]
        assert {each["node"] for each in found} == {"one", "two"}
        assert [each["at"] for each in found] == sorted(each["at"] for each in found)
        assert "printer-0@two" in one.corral("logs", "-n", "5", "printer").stdout
        narrow = one.corral("--node", "two", "logs", "-n", "5", "printer", "--json").stdout
        assert {json.loads(line)["node"] for line in narrow.splitlines()} == {"two"}
        read: Any = two.call("log.read", names=["printer"], n=3, node="*")
        assert {each["node"] for each in read["records"]} == {"one", "two"}
        for _ in range(20):  # the end of a log that is short comes as soon as the answer
            read = two.call("log.read", names=["printer"], n=1, node="*")
            assert read["missing_nodes"] == []
        _check_events(cluster, one)
        with pytest.raises(NotFound):
            one.call("log.follow", names=["nobody"])
        with pytest.raises(Unreachable):
            one.call("log.follow", node="three")
        with pytest.raises(InvalidParams):
            one.call("event.follow", node="*", since=7)
        _check_http(two)
        asyncio.run(_check_python(two))


def _lines(node: DaemonProcess, name: str) -> bool:
    return len(node.call("log.read", names=["printer"], node=name)["records"]) > 20


def _check_events(cluster: Cluster, one: DaemonProcess) -> None:
    everything = {
        name: [each["seq"] for each in node.call("event.list", n=100_000, node=name)["events"]]
        for name, node in cluster.nodes.items()
    }
    shown = one.corral("events", "-n", "100000", "--json").stdout.splitlines()
    found = [json.loads(line) for line in shown]
    for name, numbers in everything.items():
        assert [each["seq"] for each in found if each["node"] == name][: len(numbers)] == numbers
    # Page by page it is the same.
    page: Any = one.call("event.list", n=0)
    since, paged = page["newest"], list[Any]()
    since = ",".join(f"{node}:0" for node in places_of(since))
    while since is not None:
        page = one.call("event.list", since=since, until=page["newest"])
        paged += page["events"]
        since = page["next"]
    for name, numbers in everything.items():
        numbers = [each for each in numbers if each <= int(places_of(page["newest"])[name])]
        assert [each["seq"] for each in paged if each["node"] == name][: len(numbers)] == numbers


def _check_http(two: DaemonProcess) -> None:
    api = Api(two)
    with api.stream("GET", "/events?n=3") as events:
        told: list[Any] = []
        for each in events:
            if each.name == "event":
                told.append(each)
            if len(told) == 6:
                break
    assert {each.data["node"] for each in told} == {"one", "two"}
    # A browser that lost its stream in the middle of a batch comes back with the id of the last event.
    middle = told[1]
    with api.stream("GET", "/events", **{"Last-Event-ID": str(middle.id)}) as events:
        again = [next(each for each in events if each.name == "event") for _ in range(2)]
    seen = {(each.data["node"], each.data["seq"]) for each in told[:2]}
    assert not seen & {(each.data["node"], each.data["seq"]) for each in again}


async def _check_python(two: DaemonProcess) -> None:
    async with AgentRuntime(str(two.socket)) as runtime:
        async with runtime.events(["worker.*"], n=1) as events:
            found: set[str | None] = set()
            async for event in events:
                found.add(event.node)
                if found == {"one", "two"}:
                    break
        async with runtime.follow_logs(["printer"], n=1) as lines:
            nodes: set[object] = set()
            async for line in lines:
                nodes.add(line.get("node"))
                if nodes == {"one", "two"}:
                    break


def test_each_node_shows_those_of_the_names_that_it_has(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "nats") as cluster, ExitStack() as stack:
        one, two = cluster.add("one", PRINTER), cluster.add("two", PRINTER + ONLY)
        until_all_answer(cluster)
        cluster.until(lambda: all(_lines(each, name) for name, each in cluster.nodes.items()))
        both = ["only", "printer"]
        lines = stack.enter_context(Reader(one, "log.follow", names=both, n=1))
        lines.until(lambda: min(len(lines.of("one")), len(lines.of("two"))) > 5)
        assert {each["agent"] for each in lines.of("two")} == set(both)
        with pytest.raises(NotFound, match="nobody"):
            one.call("log.follow", names=["printer", "nobody"])
        read: Any = two.call("log.read", names=both, n=50)
        assert {(each["node"], each["agent"]) for each in read["records"]} == {
            *(("one", "printer"), ("two", "printer"), ("two", "only"))
        }


def test_a_slow_reader_of_another_node_gets_a_flood_whole(tmp_path: Path) -> None:
    count, filler = 20_000, "x" * 1000
    flood = FLOOD.replace("{filler}", filler).replace("{lines}", str(count))
    with cluster_of(tmp_path, "nats") as cluster, ExitStack() as stack:
        one = cluster.add("one")
        two = cluster.add("two", flood)
        cluster.until(lambda: one.call("log.read", names=["flood"], n=1)["records"])
        reader = stack.enter_context(Reader(one, "log.follow", names=["flood"], n=count))
        # Nothing is read meanwhile: what the other node sends waits there, and not in this daemon.
        before = _memory(one)
        cluster.until(lambda: _printed(two) >= count)
        assert _memory(one) < before + 40 * 1024 * 1024
        reader.until(lambda: len(reader.records) >= count)
        assert [int(each["text"][:8]) for each in reader.records] == list(range(1, count + 1))


def _printed(node: DaemonProcess) -> int:
    found = node.call("log.read", names=["flood"], n=1, node="two")["records"]
    return int(found[-1]["text"][:8])


def _memory(node: DaemonProcess) -> int:
    status = Path(f"/proc/{node.pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if "VmRSS" in line))
