"""Runs the crew on a git repository, kills one of it at work, and shows that the report is right.

All of it could be typed: `corrald`, `corral run lead …`, `corral events -f`, `kill -9`, `git log`.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from corral.worker.client import SOCKET_PATH_BYTES_MAX, Client, await_daemon
from corral.worker.errors import CorralError, Unreachable

CREW = Path(__file__).resolve().parent
sys.path.append(str(CREW))  # at the end, as corral does for its agents: `python -P` leaves it out
import report  # noqa: E402  it is found by the line above
import witness  # noqa: E402

ROOT = CREW.parent.parent
BIN = Path(sys.executable).parent
VICTIM = "historian"
PATIENCE_S = 30
GONE_WITHIN_S = 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Refused(Exception):
    """What was asked for cannot be done: one line that says why."""


class Unfit(Refused):
    """The repository is not one that the crew can read."""


def main():
    """Returns the exit status: 0 all is well, 1 something is not, 2 there is no such repository."""
    options = parser().parse_args()
    for number in SIGNALS:
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # by way of every `finally`
    try:
        repo = repository(options.repo)
        with ExitStack() as stack:
            return Demo(*places(options.keep, stack), repo, options).run()
    except (Refused, CorralError, witness.GitFailed, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2 if isinstance(error, Unfit) else 1


def parser():
    made = argparse.ArgumentParser(description="Runs a crew of agents on a git repository.")
    made.add_argument("--repo", metavar="DIR", type=Path, default=ROOT, help="default: this one")
    made.add_argument("--commits", metavar="N", type=count, default=200, help="the newest N (200)")
    made.add_argument("--report", metavar="FILE", type=Path, help="write the report as JSON, too")
    made.add_argument("--keep", action="store_true", help="leave the crew running")
    return made


def count(text):
    number = int(text)
    if not 1 <= number <= 5_000:
        raise argparse.ArgumentTypeError(f'"{text}" is not one of 1 to 5000')
    return number


def repository(path):
    """The repository's folder as git names it.

    Raises:
        Unfit: it is none, it has no commit, or git does not trust its owner.
    """
    if not path.is_dir():
        raise Unfit(f'cannot read "{path}": it is no folder')
    place = str(path.resolve())
    if not place.isprintable():
        raise Unfit(f"cannot read {place!r}: its path has characters that cannot be printed")
    try:
        is_bare = witness.git(place, "rev-parse", "--is-bare-repository").strip() == "true"
        what = "--absolute-git-dir" if is_bare else "--show-toplevel"
        top = witness.git(place, "rev-parse", what).removesuffix("\n")
    except witness.GitFailed as error:
        words = explained(str(error), place)
        raise Unfit(f'cannot read "{path}" as a git repository: {words}') from error
    try:
        witness.git(top, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except witness.GitFailed as error:
        raise Unfit(f'cannot report on "{path}": it has no commit yet') from error
    return top


def explained(said, place):
    """Git's words for a person who only wanted to see the demo."""
    if "dubious ownership" in said:
        trust = f"git config --global --add safe.directory {place}"
        return f"it belongs to another user, and git wants to hear that you trust it: {trust}"
    return "it is none" if "not a git repository" in said else said


def places(keep, stack):
    """The folder for the daemon's state, and its socket; the stack removes what is temporary."""
    if keep:
        folder = ROOT / ".demo"
        folder.mkdir(mode=0o700, exist_ok=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix="corral-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    socket = folder / "corral.sock"
    if len(os.fsencode(socket)) > SOCKET_PATH_BYTES_MAX:  # a checkout or a $TMPDIR that is deep down
        short = Path(f"/tmp/corral-demo-{os.getuid()}-{os.getpid()}")
        short.mkdir(mode=0o700)
        if not keep:
            stack.callback(shutil.rmtree, short, ignore_errors=True)
        socket = short / "corral.sock"
    return folder, str(socket)


class Demo:
    """One run: the daemon, the crew at work, the blow, the report, and the end of it all."""

    def __init__(self, folder, socket, repo, options):
        self.folder, self.socket, self.repo, self.options = folder, socket, repo, options
        self.log = folder / "corrald.log"
        self.began = time.monotonic()
        self.processes = {}  # every one that was seen: its name, or "" for what a worker has started
        self.shown = set()
        self.killed = None  # the task of the worker that was
        self.daemon = None

    def run(self):
        stays = False
        try:
            self.start()
            with Client(self.socket) as self.control, Client(self.socket) as events:
                events.call("event.follow", {"types": ["task.*", "worker.state"], "n": 0})
                found = self.work(events)
                status = self.conclude(found)
                self.notice()
            print("\n$ corral status", flush=True)
            subprocess.run([BIN / "corral", "--socket", self.socket, "status"], check=True)
            stays = self.options.keep
        except Unreachable as error:
            raise Refused(f"{error}\n{tail(self.log)}") from error
        finally:
            if self.daemon is not None and not stays:
                stop(self.daemon)
        if stays:
            print(invitation(self.socket, self.repo, self.daemon.pid))
            return status
        return max(status, self.farewell())

    def say(self, who, what):
        elapsed_s = time.monotonic() - self.began
        print(f"{elapsed_s:5.1f} s  {who:<12} {report.plain(what)}", flush=True)

    # -- the daemon

    def start(self):
        with suppress(Unreachable), Client(self.socket) as running:
            pid = running.call("daemon.status")["daemon"]["pid"]
            raise Refused(f"cannot start a second crew at {self.socket}: stop the first, kill {pid}")
        with open(self.log, "ab") as log, held(SIGNALS):
            self.daemon = subprocess.Popen(
                [
                    *(BIN / "corrald", "--config", self.config()),
                    *("--socket", self.socket, "--state-dir", self.folder / "state"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": f"{BIN}:{os.environ.get('PATH', os.defpath)}"},
                start_new_session=True,  # Ctrl-C is for the demo, which then stops the daemon
            )
        try:
            await_daemon(self.socket, patience_s=PATIENCE_S).close()
        except Unreachable as error:
            raise Refused(f"cannot start corrald:\n{tail(self.log)}") from error
        self.processes[psutil.Process(self.daemon.pid)] = "corrald"
        self.say("corrald", f"is up, pid {self.daemon.pid}")

    def config(self):
        """The crew's file; for root with its own name in it, or a packaged corral would use its user."""
        written = CREW / "corral.toml"
        if os.getuid() != 0:
            return written
        own = self.folder / "corral.toml"
        process = f'[process]\nuser = "root"\nworking_directory = {json.dumps(str(CREW))}\n\n'
        own.write_text(process + written.read_text("utf-8"), "utf-8")
        return own

    def notice(self):
        """Remembers every process that is there now, by pid and start time."""
        daemon = psutil.Process(self.daemon.pid)
        supervisors = [daemon.pid, *(each.pid for each in daemon.children())]
        for process in daemon.children(recursive=True):
            with suppress(psutil.Error):
                name = process.environ().get("CORRAL_WORKER", "launcher").partition("#")[0]
                self.processes[process] = name if process.ppid() in supervisors else ""

    # -- the work

    def work(self, events):
        """The lead's report, once its task has ended."""
        order = {
            "agent": "lead",
            "objective": f"a report on {self.repo}",
            "input": {"repo": self.repo, "commits": self.options.commits},
        }
        if witness.git(self.repo, "rev-parse", "--is-shallow-repository").strip() == "true":
            self.say("demo", "this clone is shallow: `git fetch --unshallow` gets the rest of the history")
        task = self.control.call("task.submit", order)["id"]
        for notification in events.notifications():
            for event in notification.params["events"]:
                self.tell(event)
                if event["type"] not in ("task.ended", "events.skipped"):
                    continue
                record = self.control.call("task.show", {"task": task})
                if record["state"] == "succeeded":
                    return record["output"]
                if record["error"] is not None:
                    raise Refused(f"cannot report: {record['error']['message']}")
        raise AssertionError("notifications end with an exception")

    def tell(self, event):
        """Says what an event means."""
        who = event["worker"] or event["agent"]
        match event["type"]:
            case "worker.state" if event["to"] == "Ready":
                self.notice()
                self.say(who, "is ready")
            case "worker.state" if event["to"] == "Terminated":
                self.say(who, f"has ended: {event['reason']}")
            case "task.started":
                objective = self.control.call("task.show", {"task": event["task"]})["objective"]
                again = "" if event["attempt"] == 1 else f"attempt {event['attempt']}: "
                self.say(who, f"{again}{objective}")
            case "task.progress":
                self.progress(who, event)
            case "task.retried":
                self.say(who, f"the task is queued again: {event['reason']}")
            case "task.ended":
                self.say(who, f"{event['state']} after {event['duration_s']:.1f} s")

    def progress(self, who, event):
        """Says it, of many steps one in a quarter; a historian that is on its way meets its end."""
        done, total = event["progress"], event["total"]
        step = int(4 * done / total) if total else done
        if (event["task"], event["attempt"], step) not in self.shown:
            self.shown.add((event["task"], event["attempt"], step))
            share = f" ({done + 1:.0f} of {total:.0f})" if total else ""
            self.say(who, event["message"] + share)
        if event["agent"] == VICTIM and self.killed is None and done >= total // 2:
            with suppress(ProcessLookupError):
                self.strike(who, event["task"])

    def strike(self, worker, task):
        """SIGKILL for a worker that is certainly in the middle of its task.

        It is frozen first. The daemon reads its pipes at each turn of its loop, and answers of two turns
        have come when it says that the task still runs: it cannot end between this look and the blow.
        """
        status = self.control.call("daemon.status", {"names": [VICTIM]})
        pids = {each["id"]: each["pid"] for each in status["agents"][0]["workers"]}
        pid = pids[worker]
        if pid is None:
            return
        os.kill(pid, signal.SIGSTOP)
        self.control.call("daemon.ping")
        self.control.call("daemon.ping")
        record = self.control.call("task.show", {"task": task})
        if (record["state"], record["worker"]) != ("running", worker):
            os.kill(pid, signal.SIGCONT)
            return
        os.kill(pid, signal.SIGKILL)
        self.killed = task
        self.say("demo", f"kill -9 {pid}: {worker} dies in the middle of its task")

    # -- the end

    def conclude(self, found):
        """Prints the report, and what git and the task list say of it; returns the exit status."""
        print(f"\n{report.text(found)}\n")
        if self.options.report:
            self.options.report.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        wrong = witness.disagreements(found)
        if wrong:
            print(f"git does NOT confirm: {', '.join(wrong)}")
        else:
            print("git by itself confirms every figure of the report")
        again = [part for part in found["parts"] if part["task"] == self.killed]
        if not again or again[0]["attempt"] < 2:
            print("no historian was killed in the middle of its task")
            return 1
        print(f"{again[0]['worker']} did the work of the killed one in attempt {again[0]['attempt']}")
        return 1 if wrong else 0

    def farewell(self):
        """Says what is left of all that ran; returns the exit status."""
        _, alive = psutil.wait_procs(self.processes, timeout=GONE_WITHIN_S)
        left = [each.pid for each in alive if runs(each)] + strays()
        names = [f"{name} {process.pid}" for process, name in self.processes.items() if name]
        others = len(self.processes) - len(names)
        print(f"\nstopped: {', '.join(names)}, and {others} processes that these had started")
        print(f"left: {left or 'none of them, and none with CORRAL_WORKER in its environment'}")
        return 1 if left else 0


@contextmanager
def held(numbers):
    """Signals wait until the end of the block: what it starts is known before it has to be stopped."""
    came = []
    handlers = {each: signal.signal(each, lambda number, _: came.append(number)) for each in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def stop(daemon):
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def runs(process):
    """Whether it does; one that is dead and only not yet reaped does not."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def strays():
    """Processes of a crew like this one that no corrald keeps: their pids."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_crew = "CORRAL_WORKER" in process.environ() and process.cwd() == str(CREW)
            if is_crew and not any(each.name() == "corrald" for each in process.parents()):
                found.append(process.pid)
    return found


def tail(log):
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-10:])


def invitation(socket, repo, pid):
    order = shlex.quote(json.dumps({"repo": repo, "commits": 50}))
    return f"""
The crew stays. Try:
  export CORRAL_SOCKET={shlex.quote(socket)} PATH={shlex.quote(str(BIN))}:"$PATH"
  corral status
  corral run lead "another report" --input {order}
  corral tasks
  corral logs -f
  corral events -f
  corral mcp tools
  corral mcp call cortex__cortex_search --args '{{"query": "lines changed", "tags": ["history"]}}'
  kill -9 a worker's pid, and look again
Stop it:
  kill {pid}"""


if __name__ == "__main__":
    sys.exit(main())
