"""Questions to real servers on loopback, commands as real processes, and lines in real reads."""

import asyncio
import contextlib
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from pathlib import Path

import pytest
import uvloop
from msgspec.structs import replace

from corral.supervisor.config.spec.probe_spec import Check, Readiness
from corral.supervisor.config.spec.spec import Process, Resources, Spec
from corral.supervisor.records.logs.rotating_file import LogLimits
from corral.supervisor.records.logs.store import LogStore
from corral.supervisor.workers.process import command
from corral.supervisor.workers.process.command import Commands, Outcome
from corral.supervisor.workers.process.launch import Host
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.supervisor.workers.supervision import probes as probe
from corral.supervisor.workers.supervision.alerts import BURST, INTERVAL_S, Allowance
from corral.supervisor.workers.supervision.line import WATCHED_BYTES, LogWatch
from corral.supervisor.workers.supervision.probes import PER_AGENT_MAX, Finding, Probes, ask_http, ask_tcp, http_status

pytestmark = pytest.mark.shell

BOUND_S = 60.0
SHORT_S = 0.2
"""A timeout that is meant to run out."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(test: Coroutine[None, None, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await test

    uvloop.run(bounded())


@contextlib.asynccontextmanager
async def served(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncGenerator[int, None]:
    """The port of a server on loopback, by TLS where there is a context."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answering(raw: bytes, heard: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if length := re.search(rb"Content-Length: (\d+)", head):
            head += await reader.readexactly(int(length[1]))
        if heard is not None:
            heard.append(head)
        writer.write(raw)
        await writer.drain()

    return serve


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


# -- http


@pytest.mark.parametrize(
    ("raw", "is_good"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 204 \r\n\r\n", True),
        (b"HTTP/1.1 399 Odd\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"SSH-2.0-OpenSSH_9\r\n", False),
        (b"HTTP/1.1 two hundred\r\n", False),
        (b"\r\n", False),
        (b"", False),
        (b"HTTP/1.1 200", False),
        (b"x" * 1_000_000, False),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Endless: x\r\n" * 100_000, True),
    ],
)
def test_an_answer_by_http_is_good_from_200_to_399(raw: bytes, is_good: bool) -> None:
    async def test() -> None:
        async with served(answering(raw)) as port:
            finding = await ask_http(f"http://127.0.0.1:{port}/health", BOUND_S)
            assert finding.is_good is is_good
            assert bool(finding.message) is not is_good

    run(test())


def test_a_question_by_http_asks_for_the_path_of_the_host_once() -> None:
    async def test() -> None:
        heard: list[bytes] = []
        async with served(answering(b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", heard)) as port:
            assert (await ask_http(f"http://127.0.0.1:{port}/a/b?c=d", BOUND_S)).is_good
            (asked,) = heard
            lines = asked.split(b"\r\n")
            assert lines[0] == b"GET /a/b?c=d HTTP/1.1"
            assert f"Host: 127.0.0.1:{port}".encode() in lines

    run(test())


def test_a_server_that_accepts_and_says_nothing_is_not_waited_for() -> None:
    async def test() -> None:
        async with served(silent) as port:
            assert not (await ask_http(f"http://127.0.0.1:{port}", SHORT_S)).is_good

    run(test())


async def hasty(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")


async def curt(_: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Hangs up."""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with the key and the certificate of "localhost", signed by itself."""
    path = tmp_path / "localhost.pem"
    if shutil.which("openssl") is None:
        pytest.skip("nothing to make a certificate with")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(path), "-out", str(path)]
    made = subprocess.run(["openssl", *words.split(), *more], capture_output=True, check=True)
    path.write_bytes(path.read_bytes() + made.stdout)
    return path


@pytest.mark.parametrize("is_trusted", [True, False])
def test_by_https_who_cannot_prove_its_name_is_not_asked(
    certificate: Path, is_trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    probe.trusting.cache_clear()
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def test() -> None:
        heard: list[bytes] = []
        long = b"HTTP/1.1 202 Accepted\r\n" + b"X-Endless: x\r\n" * 100_000
        async with served(answering(long, heard), server) as port:
            url = f"https://localhost:{port}/hook"
            body = b'{"a": "%s"}' % (b"x" * 200_000)
            if is_trusted:
                assert await http_status("POST", url, timeout_s=BOUND_S, body=body) == 202
                assert heard[0].endswith(body)
            finding = await ask_http(url.replace("localhost", "127.0.0.1"), BOUND_S)
            assert not finding.is_good, "that is not its name"
            assert (await ask_http(url, BOUND_S)).is_good is is_trusted
            assert len(heard) == 2 * is_trusted
        async with served(answering(b""), server) as port:
            assert not (await ask_http(f"https://localhost:{port}/", BOUND_S)).is_good
        for no_tls in (hasty, curt):
            async with served(no_tls) as port:
                assert not (await ask_http(f"https://localhost:{port}/", BOUND_S)).is_good
        async with served(silent, server) as port:
            assert not (await ask_http(f"https://localhost:{port}/", SHORT_S)).is_good

    run(test())
    probe.trusting.cache_clear()


def test_a_body_is_posted_whole() -> None:
    async def test() -> None:
        heard: list[bytes] = []
        async with served(answering(b"HTTP/1.1 202 Accepted\r\n\r\n", heard)) as port:
            url = f"http://127.0.0.1:{port}/hook"
            assert await http_status("POST", url, timeout_s=BOUND_S, body=b'{"a": 1}') == 202
            assert heard[0].endswith(b'\r\n\r\n{"a": 1}')
            assert b"Content-Type: application/json" in heard[0]

    run(test())


# -- tcp


def test_a_port_is_well_while_somebody_listens() -> None:
    async def test() -> None:
        async with served(silent) as port:
            assert await ask_tcp(f"127.0.0.1:{port}", BOUND_S) == Finding(True)
            assert await ask_tcp(f"localhost:{port}", BOUND_S) == Finding(True)
        for finding in (
            await ask_tcp(f"127.0.0.1:{port}", BOUND_S),
            await ask_http(f"http://127.0.0.1:{port}", BOUND_S),
            await ask_tcp("no-such-host.invalid:80", BOUND_S),
        ):
            assert not finding.is_good
            assert finding.message

    run(test())


# -- commands


@contextlib.asynccontextmanager
async def commands(folder: Path) -> AsyncGenerator[Commands, None]:
    """Commands with a launcher of their own."""
    async with launched(folder) as (found, _):
        yield found


@contextlib.asynccontextmanager
async def launched(folder: Path) -> AsyncGenerator[tuple[Commands, Launcher], None]:
    """The same, with the launcher."""

    launcher = Launcher()
    environ = {"PATH": os.environ["PATH"]}
    found = Commands(launcher, Host(environ, folder, ordinary_user=os.getuid() != 0), 1)
    await launcher.start()
    try:
        yield found, launcher
    finally:
        await launcher.close()


def spec(folder: Path, environment_file: str | None = None) -> Spec:
    return Spec(
        name="web",
        kind="agent",
        source="test",
        command=("sleep", "1000"),
        environment={"OWN": "mine", "BOTH": "spec"},
        process=Process(working_directory=str(folder), environment_file=environment_file),
        resources=Resources(max_file_descriptors=77),
    )


def outcome(folder: Path, script: str, *, stdin: bytes | None = None, timeout_s: float = BOUND_S, **environment: str) -> Outcome:  # fmt: skip
    """How a shell script ends."""
    outcomes: list[Outcome] = []

    async def test() -> None:
        async with commands(folder) as found:
            outcomes.append(
                await found.run(
                    spec(folder),
                    ["sh", "-c", script],
                    unit="web-0.check",
                    timeout_s=timeout_s,
                    environment=environment,
                    stdin=stdin,
                )
            )
            assert found.leaders() == {}

    run(test())
    return outcomes[0]


def test_a_command_ends_with_its_status_and_the_end_of_what_it_printed(tmp_path: Path) -> None:
    ended = outcome(tmp_path, "echo out; echo err >&2; exit 3")
    assert (ended.code, ended.signal, ended.is_success) == (3, None, False)
    assert sorted(ended.output.split()) == ["err", "out"]
    assert outcome(tmp_path, "true").is_success


def test_the_temporary_folder_of_an_isolated_command_goes_with_it(tmp_path: Path) -> None:
    isolated = replace(spec(tmp_path), process=Process(isolation="basic", working_directory=str(tmp_path)))

    async def test() -> None:
        launcher = Launcher()
        root = tmp_path / "temporary"
        root.mkdir()
        host = Host({"PATH": os.environ["PATH"]}, tmp_path, ordinary_user=os.getuid() != 0, temporary_root=root)
        await launcher.start()
        try:
            made = ["sh", "-c", "touch $TMPDIR/made && echo $TMPDIR"]
            ended = await Commands(launcher, host, 1).run(isolated, made, unit="web-0.check", timeout_s=BOUND_S)
            assert Path(ended.output.strip()).parent == root, ended
            assert list(root.iterdir()) == []
        finally:
            await launcher.close()

    run(test())


def test_a_command_that_dies_by_a_signal_says_which(tmp_path: Path) -> None:
    ended = outcome(tmp_path, "kill -USR1 $$")
    assert (ended.code, ended.signal, ended.is_success) == (None, "SIGUSR1", False)


def test_a_command_has_the_environment_folder_and_limits_of_its_spec(tmp_path: Path) -> None:
    ended = outcome(tmp_path, "echo $OWN $BOTH $CHECK $(pwd) $(ulimit -n)", BOTH="own", CHECK="web")
    assert ended.output.split() == ["mine", "own", "web", str(tmp_path), "77"]


def test_a_command_reads_what_it_is_given_and_then_the_end(tmp_path: Path) -> None:
    given = b"x" * command.INPUT_BYTES
    assert outcome(tmp_path, "wc -c", stdin=given).output.split() == [str(len(given))]
    assert outcome(tmp_path, "exec 0<&-; sleep 0.1", stdin=given).is_success, "it need not read"


def test_a_command_that_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    script = f"(setsid sleep 1000 & echo $! > {tmp_path}/child; setsid sleep 1000 &) ; echo said; sleep 1000"
    ended = outcome(tmp_path, script, timeout_s=1.0)
    assert not ended.is_success
    assert ended.problem
    assert "said" in ended.output
    assert not Path(f"/proc/{(tmp_path / 'child').read_text().strip()}").exists()


def test_what_a_command_leaves_behind_is_killed(tmp_path: Path) -> None:
    ended = outcome(tmp_path, f"setsid sleep 1000 & echo $! > {tmp_path}/child")
    assert ended.is_success
    assert not Path(f"/proc/{(tmp_path / 'child').read_text().strip()}").exists()


def test_only_the_end_of_a_flood_of_output_is_kept(tmp_path: Path) -> None:
    ended = outcome(tmp_path, "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo the end")
    assert ended.is_success
    assert ended.output.endswith("\nthe end\n")
    assert len(ended.output) <= command.OUTPUT_BYTES


def test_a_command_that_is_not_there_has_a_problem_and_no_status(tmp_path: Path) -> None:
    async def test() -> None:
        async with commands(tmp_path) as found:
            ended = await found.run(spec(tmp_path), ["no-such"], unit="x", timeout_s=BOUND_S)
            assert (ended.code, ended.signal, ended.is_success) == (None, None, False)
            assert ended.problem
            missing = spec(tmp_path, environment_file=str(tmp_path / "absent"))
            ended = await found.run(missing, ["true"], unit="x", timeout_s=BOUND_S)
            assert ended.problem

    run(test())


def test_a_command_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with commands(tmp_path) as found:
            task = asyncio.create_task(found.run(spec(tmp_path), ["sleep", "1000"], unit="x", timeout_s=BOUND_S))
            while not found.leaders():
                await asyncio.sleep(0)
            (pid,) = found.leaders()
            watched = os.pidfd_open(pid)
            gone = asyncio.Event()
            asyncio.get_running_loop().add_reader(watched, gone.set)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await gone.wait()
            asyncio.get_running_loop().remove_reader(watched)
            os.close(watched)

    run(test())


def test_a_launcher_that_dies_ends_its_commands(tmp_path: Path) -> None:
    async def test() -> None:
        async with launched(tmp_path) as (found, launcher):
            task = asyncio.create_task(found.run(spec(tmp_path), ["sleep", "1000"], unit="x", timeout_s=BOUND_S))
            while not found.leaders():
                await asyncio.sleep(0)
            os.kill(launcher.pid, 9)
            assert not (await task).is_success

    run(test())


# -- many at a time


def test_only_so_many_are_asked_at_a_time_and_waiting_costs_no_answer(tmp_path: Path) -> None:
    """Twice as many as there are slots, of a server that answers nobody before it is told to."""

    async def test() -> None:
        asked = 0
        full, seen, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            if (await reader.readline()).startswith(b"LAST"):
                seen.set()
                return
            asked += 1
            if asked == PER_AGENT_MAX:
                full.set()
            await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await writer.drain()

        async with commands(tmp_path) as found, served(serve) as port:
            probes = Probes(found)
            check = Check(name="http", way="http", target=(f"http://127.0.0.1:{port}/",))
            asking = [
                asyncio.create_task(probes.ask(check, spec(tmp_path), "w", timeout_s=BOUND_S, environment={}))
                for _ in range(2 * PER_AGENT_MAX)
            ]
            await full.wait()
            _, last = await asyncio.open_connection("127.0.0.1", port)  # behind all that is there
            last.write(b"LAST\n")
            await seen.wait()
            last.close()
            assert asked == PER_AGENT_MAX
            go.set()
            findings = await asyncio.gather(*asking)
        assert all(finding.is_good for finding in findings)

    run(test())


def test_hanging_checks_of_one_agent_hold_up_neither_others_nor_a_start_of_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read()

        async with commands(tmp_path) as found, served(hang) as port:
            probes = Probes(found)
            hangs = Check(name="http", way="http", target=(f"http://127.0.0.1:{port}/",))
            own = spec(tmp_path)
            async with asyncio.TaskGroup() as group:
                asking = [
                    group.create_task(probes.ask(hangs, own, "w", timeout_s=BOUND_S, environment={}))
                    for _ in range(500)
                ]
                address = (f"127.0.0.1:{port}",)
                check = Check(name="tcp", way="tcp", target=address)
                ready = Readiness(way="tcp", target=address)
                for question, whose in ((check, replace(own, name="other")), (ready, own)):
                    finding = await probes.ask(question, whose, "w", timeout_s=BOUND_S, environment={})
                    assert finding.is_good
                for each in asking:
                    each.cancel()

    run(test())


# -- lines of a log


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_line_is_found_however_the_reads_cut_it(size: int) -> None:
    async def test() -> None:
        watch = LogWatch(r"^listening on \d+$")
        read = watch.reader()
        text = b"starting\nnot listening on 80 yet\nlistening on 8080\nmore\n"
        upto = text.index(b"8080\n") + len(b"8080\n")
        for start in range(0, upto - 1, size):
            read(text[start : min(start + size, upto - 1)])
        assert not watch.found.is_set(), "the line has not ended yet"
        read(text[upto - 1 : upto])
        assert watch.found.is_set()

    run(test())


def test_streams_are_searched_each_for_itself() -> None:
    async def test() -> None:
        watch = LogWatch("ready")
        out, err = watch.reader(), watch.reader()
        out(b"rea")
        err(b"dy\n")
        assert not watch.found.is_set()
        out(b"dy\n")
        assert watch.found.is_set()

    run(test())


@pytest.mark.parametrize("cut", [True, False])
def test_only_the_beginning_of_a_long_line_is_searched(cut: bool) -> None:
    async def test() -> None:
        watch = LogWatch("ready")
        read = watch.reader()
        line = b"x" * WATCHED_BYTES + b" ready" + b"\n"
        for piece in (line[:700], line[700:]) if cut else (line,):
            read(piece)
        assert not watch.found.is_set()
        read(b"x" * (WATCHED_BYTES - 5) + b"ready" + b"y" * 100_000 + b"\n")
        assert watch.found.is_set()

    run(test())


def test_a_tap_sees_what_is_written_and_the_log_too(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    seen: list[bytes] = []
    stream = store.writer("a", "a-0", LogLimits(1 << 20, 2)).stream("stdout", seen.append)
    stream.write(b"one\ntw")
    stream.write(b"o\n")
    assert seen == [b"one\ntw", b"o\n"]
    records = asyncio.run(store.read())
    assert [record["text"] for record in records] == ["one", "two"]
    stream.close()
    store.close()


# -- alerts


def test_a_storm_of_alerts_is_cut_to_a_burst_and_a_trickle() -> None:
    allowance = Allowance(100.0)
    assert sum(allowance.take(100.0) for _ in range(1000)) == BURST
    assert sum(allowance.take(100.0 + second) for second in range(60)) == 60 / INTERVAL_S - 1
    assert sum(allowance.take(1e9) for _ in range(1000)) == BURST
