"""`corral top` on a terminal, with a real daemon: what a person sees, what the keys do, and that the terminal is given back."""

import signal
import sys
from collections.abc import Iterator

import pytest

from daemon_process import AGENTS, BIN, DaemonProcess
from screen_terminal import ALTERNATE, BACK, ScreenTerminal

CONFIG = f"""
[agents.crew]
entrypoint = "crew_agent:agent"
instances = 2
process.working_directory = "{AGENTS}"
[agents.other]
entrypoint = "crew_agent:agent"
process.working_directory = "{AGENTS}"
[agents.a-name-that-takes-many-columns-of-a-terminal]
command = ["sleep", "1000"]
protocol = "none"
autostart = false
"""

SELDOM = ("--interval", "1h", "--sort", "name")
"""One sample and no other: whatever changes after it has come by an event."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("top"), CONFIG) as process:
        process.call("agent.start", names=["crew", "other"])
        yield process


def top(daemon: DaemonProcess, *words: str, size: tuple[int, int] = (80, 24), **environ: str) -> ScreenTerminal:
    command = [str(BIN / "corral"), "--socket", str(daemon.socket), "top", *words]
    return ScreenTerminal(command, *size, environ)


def line_of(text: str, name: str) -> list[str]:
    """The words of the line of an agent, a worker or a task."""
    found = [line.split() for line in text.splitlines() if line.startswith(name)]
    return found[0] if found else []


def test_what_happens_is_on_the_screen_at_once_and_not_with_the_next_sample(daemon: DaemonProcess) -> None:
    with top(daemon, *SELDOM) as screen:
        shown = screen.wait_text("other", "? keys")
        assert "…" in shown
        header = next(line for line in screen.lines if line.startswith("NAME▲"))
        assert header.split()[1:9] == ["STATE", "WORKERS", "HEALTH", "CPU%", "MEM", "RUN", "QUEUE", "OK"]
        screen.press("/OTH\r")
        screen.wait_for(lambda text: "filter: OTH" in text and "crew" not in text)
        screen.press("\r")
        screen.wait_text("WORKER", "other-0", "LOG")
        daemon.call("task.run", agent="other", objective="echo", input="for the screen")
        screen.wait_text("echoes for the screen", "succeeded")
        task = daemon.call("task.submit", agent="other", objective="wait")
        screen.wait_for(lambda text: {"Busy", task["id"]} < {*line_of(text, "other-0")})
        screen.wait_text(f"{task['id']} other-0 running")
        screen.press("\x1b")
        screen.wait_for(lambda text: "Busy" in line_of(text, "other") and "LOG" not in text)
        screen.press("\x1bt")  # the first one clears the filter
        screen.wait_text(task["id"], "running", "50%")
        screen.press("c")
        screen.wait_text(f'cancel task "{task["id"]}"? y')
        screen.press("y")
        screen.wait_text(f'cancelled task "{task["id"]}"')
        screen.wait_for(lambda text: "cancelled" in line_of(text, task["id"]))


def test_an_agent_is_stopped_and_started_once_it_is_confirmed(daemon: DaemonProcess) -> None:
    with top(daemon, "other", "--interval", "200ms") as screen:
        screen.wait_for(lambda text: {"Ready", "Idle"} & {*line_of(text, "other")})
        screen.press("xn")
        screen.wait_text("? keys")
        screen.press("x")
        screen.wait_text('stop "other"? y')
        assert daemon.worker("other-0")["wanted"]
        screen.press("y")
        screen.wait_text('stopped "other"')
        screen.wait_for(lambda text: "Terminated" in line_of(text, "other"))
        assert not daemon.worker("other-0")["wanted"]
        screen.press("sy")
        screen.wait_text('started "other"')
        screen.wait_for(lambda text: "Ready" in line_of(text, "other"))
        before = daemon.worker("other-0")["incarnation"]
        screen.press("\rry")  # in its detail
        screen.wait_text('restarted "other"')
        assert daemon.worker("other-0")["incarnation"] == before + 1


def test_a_token_that_may_only_read_has_no_keys_that_act(daemon: DaemonProcess) -> None:
    token = daemon.call("token.add", name="reader", rights="read")["token"]
    with top(daemon, "--interval", "200ms", CORRAL_TOKEN=token) as screen:
        shown = screen.wait_text("other", "? keys")
        assert "x stop" not in shown
        screen.press("x?")
        assert "may read only" in screen.wait_text("show the keys")
        screen.press("q")
        screen.press("q")
        assert screen.wait_end() == 0


def test_a_larger_terminal_shows_more_columns_and_a_small_one_cuts_names(daemon: DaemonProcess) -> None:
    with top(daemon, "--interval", "200ms", size=(200, 60)) as screen:
        screen.wait_text("CPU HISTORY", "a-name-that-takes-many-columns-of-a-terminal ", "P99")
        screen.resize(40, 10)
        screen.wait_text("a-name-that-takes-m…", "crew")
        assert "P99" not in screen.text
        assert len(screen.lines) == 10
        screen.resize(5, 2)
        screen.wait_for(lambda text: "crew" not in text)
        screen.resize(80, 24)
        screen.wait_text("crew", "? keys")


def test_a_pause_holds_the_picture_until_it_ends(daemon: DaemonProcess) -> None:
    with top(daemon, "--interval", "200ms") as screen:
        screen.wait_text("crew", "? keys")
        screen.press(" ")
        held = screen.wait_text("paused", "Space go on")
        task = daemon.call("task.submit", agent="crew", objective="wait")
        daemon.await_worker("crew-0", lambda worker: worker["state"] == "Busy")
        screen.press("?")
        screen.wait_text("show the keys")
        screen.press("q")
        screen.wait_for(lambda text: text == held)
        screen.press(" ")
        screen.wait_text("crew", "Busy", "1 running")
        daemon.call("task.cancel", task=task["id"])


def test_the_loss_of_a_daemon_is_reported_and_it_is_found_again(daemon: DaemonProcess) -> None:
    with top(daemon, "--interval", "200ms") as screen:
        screen.wait_text("crew", "? keys")
        screen.press("\r")
        screen.wait_text("LOG")
        assert daemon.stop() == 0
        screen.wait_text("trying again: cannot reach the daemon")
        daemon.start()
        screen.wait_for(lambda text: "trying again" not in text)
        screen.press("\x1b")
        screen.wait_for(lambda text: "Ready" in line_of(text, "crew"))


@pytest.mark.parametrize(
    ("end", "status"), [("q", 0), ("\x03", 0), (signal.SIGINT, 0), (signal.SIGTERM, -15), (signal.SIGHUP, -1)]
)
def test_the_terminal_is_given_back_however_it_ends(
    daemon: DaemonProcess, end: str | signal.Signals, status: int
) -> None:
    with top(daemon, TERM="xterm-256color") as screen:
        screen.wait_text("crew", "? keys")
        assert not screen.is_restored
        screen.signal(end) if isinstance(end, signal.Signals) else screen.press(end)
        assert screen.wait_end() == status
        assert screen.is_restored
        assert (screen.written.count(ALTERNATE), screen.written.count(BACK)) == (1, 1)


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(daemon: DaemonProcess) -> None:
    command = f"{BIN}/corral --socket {daemon.socket} top"
    script = f"set -m; {command}; echo is stopped; read; fg; echo ended $?"
    with ScreenTerminal(["bash", "-c", script], 80, 24) as screen:
        screen.wait_text("crew", "? keys")
        assert not screen.is_restored
        screen.press("\x1a")
        screen.wait_text("is stopped")
        assert screen.is_restored
        screen.resize(60, 20)
        screen.screen.reset()
        screen.press("\n")
        screen.wait_text("crew", "? keys")
        assert not screen.is_restored
        screen.press("q")
        screen.wait_text("ended 0")
        assert screen.is_restored


PAINTS = """
import itertools, os, signal
from corral.cli.screen.terminal import Terminal
with Terminal(has_colours=True) as terminal:
    signal.signal(signal.SIGTSTP, lambda *_: exit(7))
    for number in itertools.count():
        terminal.paint([[(str(number % 10) * 400, "bar")]] * 200)
"""


@pytest.mark.long
def test_a_key_that_stops_is_not_lost_while_the_screen_is_painted() -> None:
    with ScreenTerminal([sys.executable, "-c", PAINTS], 400, 200) as screen:
        screen.wait_for(lambda text: "5555" in text)
        # Nothing is read now, and a page is more than a terminal holds: it stands in the middle of one.
        screen.wait_full()
        screen.press("\x1a")
        assert screen.wait_end() == 7


BREAKS = """
from corral.cli.screen.terminal import Terminal
with Terminal(has_colours=True) as terminal:
    terminal.paint([[("on the screen", "bar")]])
    input()
    1 / 0
"""


def test_an_exception_is_read_on_a_terminal_that_is_whole() -> None:
    with ScreenTerminal([sys.executable, "-c", BREAKS], 80, 24, {"TERM": "xterm-256color"}) as screen:
        screen.wait_text("on the screen")
        screen.press("\n")
        assert screen.wait_end() == 1
        assert screen.is_restored
        assert screen.written.partition(BACK)[2].count(b"ZeroDivisionError") == 1


def test_a_dumb_terminal_gets_lines(daemon: DaemonProcess) -> None:
    with top(daemon, "--interval", "100ms", TERM="dumb") as screen:
        screen.wait_for(lambda text: text.count("NAME") >= 2)
        assert b"\x1b" not in screen.written
        screen.press("\x03")
        assert screen.wait_end() == 0
