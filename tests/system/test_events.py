"""The stream of events and the bus of agents through the whole: real daemons, workers and commands."""

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from corral.supervisor.faces.socket.unix import MAX_STREAMS
from corral.worker.client.sync import Client
from corral.worker.contract.errors import (
    Conflict,
    CorralError,
    InvalidParams,
    Overloaded,
    ParseError,
    PermissionDenied,
    Unreachable,
)
from daemon_process import AGENTS, BIN, BOUND_S, DaemonProcess, until
from seeds import seeds

GOSSIP = f"""
[agents.anna]
command = ["python", "-P", "{AGENTS}/gossip.py"]
[agents.bert]
command = ["python", "-P", "{AGENTS}/gossip.py"]
control = "read"
"""

PLAIN = """
[agents.plain]
command = ["sleep", "600"]
protocol = "none"
"""

Record = dict[str, Any]


def gossip(extra: str = "") -> str:
    return extra + GOSSIP


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("events"), gossip()) as process:
        for name in ("anna", "bert"):
            process.await_worker(f"{name}-0", lambda w: w["state"] in ("Ready", "Idle"))
        yield process


def run(daemon: DaemonProcess, agent: str, objective: str, value: object = None) -> Any:
    """What a task returns."""
    task = daemon.call("task.run", agent=agent, objective=objective, input=value)
    assert task["state"] == "succeeded", task
    return task["output"]


def follow(client: Client, **params: object) -> Iterator[Record]:
    """The events that a follower gets, one by one."""
    client.call("event.follow", params, timeout_s=BOUND_S)  # before this returns

    def each() -> Iterator[Record]:
        for notification in client.notifications():
            events: Any = notification.params["events"]
            yield from events

    return each()


def await_events(events: Iterator[Record], is_so: Callable[[list[Record]], bool]) -> list[Record]:
    found: list[Record] = []
    while not is_so(found):
        found.append(next(events))
    return found


def publish(daemon: DaemonProcess, event_type: str, data: object = None) -> int:
    seq: int = daemon.call("event.publish", type=event_type, data=data)["seq"]
    return seq


def await_heard(daemon: DaemonProcess, agent: str, event_type: str) -> list[list[Any]]:
    """What an agent has heard, as soon as an event of this type is among it."""
    while True:
        heard: list[list[Any]] = run(daemon, agent, "heard")
        if any(each[0] == event_type for each in heard):
            return heard


# -- the bus


def test_one_connection_follows_so_many_streams_and_another_one_as_many(daemon: DaemonProcess) -> None:
    with daemon.client() as greedy, daemon.client() as other:
        for _ in range(MAX_STREAMS):
            greedy.call("event.follow", {})
        with pytest.raises(Overloaded) as refused:
            greedy.call("event.follow", {})
        assert refused.value.data["limit"] == "streams"
        other.call("event.follow", {})


def test_the_command_publishes_to_agents_in_two_processes_and_they_to_each_other(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        events = follow(client, types=["pong.*"])
        told = daemon.corral("--json", "events", "publish", "ping.one", '{"n": 1}')
        assert told.returncode == 0, told.stderr
        seq = json.loads(told.stdout)["seq"]
        pongs = await_events(events, lambda found: len(found) == 2)
    assert {each["from"] for each in pongs} == {"anna-0", "bert-0"}
    assert [each["data"] for each in pongs] == [{"n": 1}] * 2
    (ping,) = daemon.call("event.list", since=seq - 1, types=["ping.*"], until=seq)["events"]
    assert (ping["from"], ping["agent"]) == (f"uid {os.getuid()}", None)
    for name in ("anna", "bert"):
        publish(daemon, "told.end")
        heard = await_heard(daemon, name, "told.end")
        assert ["ping.one", {"n": 1}, f"uid {os.getuid()}"] in heard
        # Its own is among them: the sender says whose it is.
        assert {each[2] for each in heard if each[0] == "pong.one"} == {"anna-0", "bert-0"}


def test_a_hook_that_raises_harms_nobody_and_gets_the_next_event(daemon: DaemonProcess) -> None:
    for word in ("trouble", "ping.two"):
        publish(daemon, word, word)
    publish(daemon, "told.trouble")
    assert ["ping.two", "ping.two"] in [each[:2] for each in await_heard(daemon, "anna", "told.trouble")]
    raised: list[str] = []
    while "ValueError: ping.two" not in raised:  # this hook is another one
        log = daemon.call("log.read", names=["anna"], n=1000, grep="ValueError: ")["records"]
        raised = [record["text"] for record in log]
    assert raised[-2:] == ["ValueError: trouble", "ValueError: ping.two"]


def test_a_hook_can_call_a_tool_and_publish_in_a_thread_and_at_the_start(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        events = follow(client, types=["told.tool"])
        publish(daemon, "ask.tool")
        told = await_events(events, lambda found: len(found) == 2)
    assert [each["data"] for each in told] == [{"code": -33001}] * 2
    begun = daemon.call("event.list", types=["begun"])["events"]
    assert {each["data"]["worker"] for each in begun} == {"anna-0", "bert-0"}


def test_what_one_publishes_fast_arrives_in_its_order_and_what_is_too_fast_is_refused(daemon: DaemonProcess) -> None:
    said = run(daemon, "bert", "flood 3000")
    publish(daemon, "told.flooded")
    heard = await_heard(daemon, "anna", "told.flooded")
    flood = [each[1] for each in heard if each[0] == "flood"]
    assert flood == sorted(set(flood))
    most = 1000 * (1 + said["seconds"])
    assert 3000 - said["refused"] == len(flood) <= most
    assert said["refused"] > 0


@pytest.mark.parametrize("event_type", ["task.queued", "worker", "events.skipped", "config.x"])
def test_nobody_can_publish_what_is_the_daemons(daemon: DaemonProcess, event_type: str) -> None:
    with pytest.raises(PermissionDenied):
        publish(daemon, event_type)
    assert daemon.corral("events", "publish", event_type).returncode == 4


@pytest.mark.parametrize("event_type", ["", "a b", "build.", "*", "x" * 129])
def test_what_is_no_type_is_a_wrong_parameter(daemon: DaemonProcess, event_type: str) -> None:
    with pytest.raises(InvalidParams):
        publish(daemon, event_type)
    assert daemon.corral("events", "publish", event_type).returncode == 2


def test_data_may_have_a_mebibyte_and_no_more(daemon: DaemonProcess) -> None:
    seq = publish(daemon, "big", "x" * (1024 * 1024 - 2))
    (big,) = daemon.call("event.list", since=seq - 1, types=["big"])["events"]
    assert len(big["data"]) == 1024 * 1024 - 2
    with pytest.raises(InvalidParams) as refusal:
        publish(daemon, "big", "x" * (1024 * 1024 - 1))
    assert refusal.value.data["key"] == "data"


def test_long_data_is_delivered_listed_and_read_from_the_store_as_it_was_published(daemon: DaemonProcess) -> None:
    data = {"rows": [{"n": n, "text": '\u00e9\n"', "none": None} for n in range(500)]}
    seq = publish(daemon, "told.long", data)
    with Client(str(daemon.socket)) as client:
        (followed,) = await_events(follow(client, since=seq - 1), bool)
    publish(daemon, "told.after")
    for agent in ("anna", "bert"):
        heard = await_heard(daemon, agent, "told.after")
        assert ["told.long", data] in [each[:2] for each in heard]
        run(daemon, agent, "forget")
    for n in (1, None):  # with a number all of it is on disk first
        (listed,) = daemon.call("event.list", since=seq - 1, until=seq, n=n)["events"]
        assert listed == followed
    assert followed["data"] == data


def test_data_that_is_nested_too_deep_is_refused_and_what_is_taken_can_be_read_again(daemon: DaemonProcess) -> None:
    # The deepest that can be read at all is too deep for the answers that it would be in.
    begun = daemon.call("event.list")["newest"]
    taken = 0
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(BOUND_S)
        raw.connect(str(daemon.socket))
        lines = raw.makefile("rb")
        for depth in range(850, 1_010):
            data = "[" * depth + "]" * depth
            raw.sendall(
                b'{"jsonrpc":"2.0","id":1,"method":"event.publish","params":'
                b'{"type":"told.deep","data":%s}}\n' % data.encode()
            )
            answer = json.loads(lines.readline())
            taken += "result" in answer
            if "error" in answer:
                assert answer["error"]["code"] in (InvalidParams.code, ParseError.code), answer
    listed = daemon.call("event.list", since=begun, types=["told.deep"])["events"]
    assert len(listed) == taken > 0
    publish(daemon, "told.after")
    heard: list[str] = []
    while "told.after" not in heard:
        heard = run(daemon, "anna", "types")
    assert heard.count("told.deep") == taken
    for agent in ("anna", "bert"):
        run(daemon, agent, "forget")


def test_data_comes_from_a_file_from_stdin_or_not_at_all(daemon: DaemonProcess, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text("[1]")
    seqs = [
        json.loads(done.stdout)["seq"]
        for done in (
            daemon.corral("events", "publish", "given", f"@{file}", "--json"),
            daemon.corral("events", "publish", "given", "-", "--json", stdin='{"a": null}'),
            daemon.corral("events", "publish", "given", "--json"),
        )
    ]
    given = daemon.call("event.list", since=seqs[0] - 1, types=["given"])["events"]
    assert [each["data"] for each in given] == [[1], {"a": None}, None]
    assert daemon.corral("events", "publish", "given", "{").returncode == 2


@pytest.mark.parametrize("word", ["subscribe", "pubish", "follow"])
def test_another_word_is_a_usage_error_with_a_hint(daemon: DaemonProcess, word: str) -> None:
    done = daemon.corral("events", word, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["data"]["suggestions"]


def test_an_agent_learns_of_others_only_what_all_may_see(daemon: DaemonProcess) -> None:
    run(daemon, "bert", "forget")
    run(daemon, "anna", "forget")
    for name in ("anna", "bert"):
        run(daemon, name, "say told.nothing")
        daemon.call("agent.pause", names=[name])
        daemon.call("agent.resume", names=[name])
    publish(daemon, "told.seen")
    heard = await_heard(daemon, "anna", "told.seen")
    daemons = [(kind, data) for kind, data, sender in heard if sender == "corrald"]
    of_bert = [(kind, data) for kind, data in daemons if data["agent"] == "bert"]
    of_anna = [(kind, data) for kind, data in daemons if data["agent"] == "anna"]
    assert {kind for kind, _ in of_anna} >= {"task.started", "worker.state", "agent.paused"}
    assert all("reason" in data for kind, data in of_anna if kind == "worker.state")
    assert {kind for kind, _ in of_bert} == {"worker.state", "agent.paused", "agent.resumed"}
    assert not any("reason" in data for _, data in of_bert)
    assert all({"from", "to"} < data.keys() for kind, data in of_bert if kind == "worker.state")
    # bert may read the control socket, and so hears all of it.
    heard = await_heard(daemon, "bert", "told.seen")
    assert any(each[0] == "task.started" and each[1]["agent"] == "anna" for each in heard)


def test_a_subscriber_that_never_reads_holds_up_nobody(tmp_path: Path) -> None:
    deaf = f"""
events.max_publish_per_second = 0
[agents.deaf]
command = ["python", "-P", "{AGENTS}/deaf_subscriber.py"]
"""
    with DaemonProcess(tmp_path, gossip(deaf)) as daemon:
        for name in ("deaf", "anna", "bert"):
            daemon.await_worker(f"{name}-0", lambda w: w["state"] in ("Ready", "Idle"))
        before = rss_bytes(daemon.pid)
        big = "x" * 500_000
        heard: list[list[Any]] = []
        for number in range(80):
            publish(daemon, "flood", [number, big])
            if number % 5 == 4:  # so many have room for one that reads
                publish(daemon, f"told.{number}")
                heard = await_heard(daemon, "bert", f"told.{number}")
        assert [each[1] for each in heard if each[0] == "flood"] == list(range(80))
        grown = rss_bytes(daemon.pid) - before
        print("grown", grown)
        assert grown < 80 * len(big)


def rss_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def test_a_slow_hook_learns_what_it_missed_and_the_others_miss_nothing(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, gossip("events.max_publish_per_second = 0\n")) as daemon:
        daemon.await_worker("anna-0", lambda w: w["state"] in ("Ready", "Idle"))
        with daemon.client() as client:
            events = follow(client, types=["holds"], since=0)
            publish(daemon, "slow", "hold")
            next(events)
            with daemon.client() as publisher:
                for number in range(1_200):
                    publisher.call("event.publish", {"type": "slow", "data": number}, timeout_s=BOUND_S)
            publish(daemon, "told.slow")
            await_heard(daemon, "anna", "told.slow")  # another hook is not held up
            run(daemon, "anna", "release")
            heard = run(daemon, "anna", "heard")
            while ["slow", 1_199] not in [each[:2] for each in heard]:
                heard = run(daemon, "anna", "heard")
        slow = [each[:2] for each in heard if each[0] in ("slow", "events.skipped")]
        assert slow[:2] == [["slow", "hold"], ["events.skipped", {"count": 200}]]
        assert [each[1] for each in slow[2:]] == list(range(200, 1_200))


def test_a_subscription_ends_with_its_incarnation(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, GOSSIP) as daemon:
        first = daemon.await_worker("anna-0", lambda w: w["state"] in ("Ready", "Idle"))
        os.kill(first["pid"], signal.SIGKILL)
        daemon.await_worker("anna-0", lambda w: w["incarnation"] == 2 and w["state"] == "Ready")
        publish(daemon, "told.twice")
        heard = await_heard(daemon, "anna", "told.twice")
        assert [each[0] for each in heard].count("told.twice") == 1


# -- the stream


def test_what_is_done_by_hand_is_an_event(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, PLAIN) as daemon:
        daemon.await_worker("plain-0", lambda w: w["state"] == "Ready")
        begun = daemon.call("event.list")["newest"]
        daemon.call("agent.signal", name="plain", signal="URG")
        daemon.call("agent.scale", name="plain", instances=2)
        daemon.call("agent.pause", names=["plain-0"])
        daemon.call("agent.resume", names=["plain-0"])
        daemon.call("agent.reset", names=["plain-1"])
        daemon.config.write_text(PLAIN + "process.nice = 5\n")
        with daemon.client() as client:
            events = follow(client, types=["revision.settled"])
            daemon.call("daemon.reload")
            next(events)
        found = daemon.call("event.list", since=begun, agent="plain")["events"]
        told: dict[str, Record] = {}
        for each in found:
            if each["type"] != "worker.state":
                told.setdefault(each["type"], each)  # the reload scales it back
        assert list(told) == [
            *("agent.signalled", "agent.scaled", "agent.paused", "agent.resumed"),
            *("agent.reset", "agent.rolling", "revision.recorded", "agent.changed"),
            *("agent.switched", "agent.rolled", "revision.settled"),
        ]
        assert told["agent.signalled"]["signal"] == "SIGURG"
        assert (told["agent.scaled"]["before"], told["agent.scaled"]["instances"]) == (1, 2)
        assert told["agent.reset"]["worker"] == "plain-1"
        assert told["agent.changed"]["keys"] == ["process.nice"]


def test_a_tool_call_names_server_caller_and_outcome(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        events = follow(client, types=["mcp.call"])
        with pytest.raises(CorralError):
            daemon.call("mcp.call", name="cortex__nothing")
        call = next(events)
    assert (call["server"], call["tool"]) == ("cortex", "cortex__nothing")
    assert daemon.call("event.list", types=["mcp.call"])["events"] == []  # the audit has it
    assert (call["agent"], call["worker"], call["outcome"]) == (None, None, "NotFound")
    assert call["caller"].startswith(f"uid {os.getuid()} ")


def test_the_name_of_a_tool_that_is_none_does_not_fill_the_event(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        events = follow(client, types=["mcp.call"])
        with pytest.raises(CorralError):
            daemon.call("mcp.call", name=f"cortex__{'x' * 100_000}")
        assert len(next(events)["tool"]) < 1000


def test_lines_that_cannot_be_written_are_reported_and_then_counted(tmp_path: Path) -> None:
    program = "import itertools, time\nfor n in itertools.count(): print(n, flush=True); time.sleep(0.01)"
    config = f"[agents.prints]\ncommand = ['python', '-c', {json.dumps(program)}]\nprotocol = 'none'\n"
    with DaemonProcess(tmp_path, config) as daemon, daemon.client() as client:
        events = follow(client, types=["log.*"])
        folder = daemon.state_dir / "logs" / "prints"
        daemon.await_worker("prints-0", lambda w: w["state"] == "Ready")
        folder.rename(tmp_path / "moved")
        folder.write_text("no folder")
        assert next(events)["type"] == "log.losing"
        folder.unlink()
        told = next(events)
        assert (told["type"], told["worker"]) == ("log.lost", "prints-0")
        worker = daemon.worker("prints-0")
        assert (told["lines"], told["bytes"]) == (worker["log_lost_lines"], worker["log_lost_bytes"])
        assert told["lines"] > 0


@pytest.mark.parametrize("method", ["event.list", "event.follow"])
def test_a_number_that_no_event_has_had_is_refused(daemon: DaemonProcess, method: str) -> None:
    newest = daemon.call("event.list")["newest"]
    with pytest.raises(Conflict) as refusal:
        daemon.call(method, since=newest + 1_000_000)
    assert refusal.value.data["newest"] >= newest
    assert daemon.corral("events", "-f", "--since", str(newest + 1_000_000)).returncode == 4


@pytest.mark.parametrize("method", ["event.list", "event.follow"])
def test_numbers_of_several_nodes_are_refused_where_there_is_one(daemon: DaemonProcess, method: str) -> None:
    with pytest.raises(InvalidParams, match="one:5,two:7") as refused:
        daemon.call(method, since="one:5,two:7")
    assert refused.value.data["key"] == "since"


@pytest.mark.long
def test_a_list_goes_on_where_the_answer_before_ended(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, "events.max_publish_per_second = 0\n") as daemon:
        with daemon.client() as client:
            for number in range(2_500):
                size = 100_000 if number < 200 else 1
                data = [number, "x" * size]
                client.call("event.publish", {"type": "numbered", "data": data}, timeout_s=BOUND_S)
        newest = daemon.call("event.list")["newest"]
        answers: list[Any] = [daemon.call("event.list", since=0, types=["numbered"], until=newest)]
        while answers[-1]["next"] is not None:
            since = answers[-1]["next"]
            answers.append(daemon.call("event.list", since=since, types=["numbered"], until=newest))
        found = [event["data"][0] for answer in answers for event in answer["events"]]
        assert found == list(range(2_500))
        assert len(answers) > 4  # 20 MB, and then by number
        last = [daemon.call("event.list", since=newest - 1001 + more, until=newest) for more in (0, 1)]
        assert [len(answer["events"]) for answer in last] == [1_000, 1_000]
        assert [answer["next"] for answer in last] == [newest - 1, None]
        shown = daemon.corral("--json", "events", "--since", "0", "--type", "numbered").stdout
        assert [json.loads(line)["data"][0] for line in shown.splitlines()] == found
        shown = daemon.corral("--json", "events", "-n", "1200", "--type", "n*").stdout
        assert [json.loads(line)["data"][0] for line in shown.splitlines()] == found[-1200:]


@pytest.mark.parametrize("seed", seeds(2, 1))
def test_a_follower_goes_on_after_kill_9_of_the_daemon_without_a_gap(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    print("seed", seed)
    with DaemonProcess(tmp_path, "events.max_publish_per_second = 0\n") as daemon:
        seen: list[Record] = []
        since = 0
        for _ in range(3):
            with daemon.client() as client, daemon.client() as publisher:
                events = follow(client, since=since)
                for _ in range(chance.randrange(5, 20)):
                    published = chance.randrange(1, 150)
                    for number in range(published):
                        publisher.call("event.publish", {"type": "numbered", "data": number}, timeout_s=BOUND_S)
                    seen += [next(events) for _ in range(chance.randrange(published))]
                daemon.kill()
                with suppress(Unreachable):
                    seen += events
            since = seen[-1]["seq"] if seen else 0
            daemon.start()
        with daemon.client() as client:
            end = publish(daemon, "the.end")
            seen += await_events(follow(client, since=since), lambda f: any(e["seq"] == end for e in f))
        seqs = [event["seq"] for event in seen]
        assert seqs == sorted(set(seqs))
        with closing(sqlite3.connect(daemon.state_dir / "corral.db")) as connection:
            stored = {seq for (seq,) in connection.execute("SELECT seq FROM event")}
        assert stored - set(seqs) == set()
        numbers = [event for event in seen if event["type"] == "numbered"]
        assert len(numbers) > 100


def test_the_command_that_loses_the_daemon_reports_where_to_go_on(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, "") as daemon:
        command = [str(BIN / "corral"), "--socket", str(daemon.socket), "events", "-f"]
        for options in ([], ["--json"]):
            with subprocess.Popen(
                [*command, "--since", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                process.stdout.readline()
                seq = publish(daemon, "the.end")
                while "the.end" not in process.stdout.readline():
                    pass
                daemon.kill()
                out, err = process.communicate(timeout=BOUND_S)
                daemon.start()
            if not options:
                assert f" {seq}" in err.splitlines()[-1]
            else:
                assert json.loads(out)["error"]["data"]["since"] == seq
            assert process.returncode == 6
            later = daemon.corral("--json", "events", "--since", str(seq)).stdout.splitlines()
            (started,) = [e for e in map(json.loads, later) if e["type"] == "daemon.started"]
            assert started["clean"] is False


def test_a_command_that_never_reached_the_daemon_prints_no_number_to_go_on_from(tmp_path: Path) -> None:
    command = [str(BIN / "corral"), "--json", "--socket", str(tmp_path / "none"), "events", "-f"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert done.returncode == 6
    assert "since" not in json.loads(done.stdout)["error"]["data"]


def test_what_is_kept_of_the_past_follows_the_file(tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, "events.max_publish_per_second = 0\n") as daemon:
        for number in range(40):
            publish(daemon, "big", [number, "x" * 100_000])
        daemon.config.write_text('events.max_bytes = "2MB"\n')
        with daemon.client() as client:
            daemon.call("daemon.reload")
            # Each answer waits for the store, which is removing meanwhile.
            while len(left := daemon.call("event.list", types=["big"], n=100)["events"]) == 40:
                pass
            while (now := daemon.call("event.list", types=["big"], n=100)["events"]) != left:
                left = now
            numbers = [event["data"][0] for event in left]
            assert numbers == list(range(numbers[0], 40))
            assert 4 <= len(numbers) <= 10  # agents' and other people's share is half
            assert daemon.call("event.list", types=["daemon.started"])["events"]
            events = follow(client, since=0)
            first = next(events)
            assert (first["type"], first["after"]) == ("events.expired", 0)
            assert first["first"] == left[0]["seq"]
        daemon.config.write_text('events.retention = "1ms"\n')
        daemon.call("daemon.reload")
        until(lambda: not daemon.call("event.list", types=["big"], n=100)["events"])
