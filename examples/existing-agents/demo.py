"""Lets agents that exist already review a git repository, and does to each of them what a supervisor does.

Each gets four tasks: in the first it is killed (SIGKILL), in the second paused, after that hibernated, and woken by the third,
which goes on with the conversation; the fourth has a budget that is too small. A person, which is this program, is asked for
leave and gives it. At the end stands a table of what was seen.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from corral.worker.client import Client, await_daemon
from corral.worker.errors import Conflict, CorralError, NotFound

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))
import jobs  # noqa: E402  it is found by the line above
from collector import Collector  # noqa: E402

ROOT = HERE.parent.parent
BIN = Path(sys.executable).parent
INSTALLED = BIN.parent / "existing"

ACP = ("opencode", "claude", "codex", "fast", "gemini")
FRAMEWORKS = ("pydantic-ai", "openai-agents", "langgraph", "agno")
JOBS = tuple(jobs.COMMANDS)
PROGRAMS = {
    "opencode": "node/node_modules/.bin/opencode",
    "gemini": "node/node_modules/.bin/gemini",
    "claude": "node/node_modules/.bin/claude-agent-acp",
    "codex": "node/node_modules/.bin/codex-acp",
    "fast": "python/bin/fast-agent",
}

PATIENCE_S = 300
PAUSED_S = 1.0
"""Seconds for which a paused agent is watched."""

COLUMNS = (
    ("job", "does the job"),
    ("killed", "killed, and resumed"),
    ("approved", "asks, and is answered"),
    ("paused", "paused"),
    ("hibernated", "hibernated, and goes on"),
    ("budget", "budget refuses"),
    ("tokens", "tokens, measured = served"),
    ("spans", "spans: tasks, models, tools"),
)


class Wrong(Exception):
    """Something is not as it should be: one line that says what."""


def main():
    """Returns the exit status: 0 all is well, 1 something is not."""
    options = parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with ExitStack() as stack:
        scene = Scene(Path(options.repo).resolve(), stack)
        members = options.agents or [each for each in (*ACP, *FRAMEWORKS) if is_there(each)]
        found = scene.review(members)
    print(f"\n{table(found)}")
    if options.table:
        options.table.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    left = scene.left()
    print(f"\nleft: {left or 'no process of them'}")
    return 1 if left or any("error" in each for each in found.values()) else 0


def parser():
    made = argparse.ArgumentParser(description="Lets existing agents review a git repository.")
    made.add_argument("--repo", metavar="DIR", default=ROOT, help="default: this one")
    made.add_argument("--table", metavar="FILE", type=Path, help="write the table as JSON, too")
    made.add_argument("agents", nargs="*", choices=[*ACP, *FRAMEWORKS, []], help="default: those that are there")
    return made


def is_there(name):
    return name not in PROGRAMS or (INSTALLED / PROGRAMS[name]).exists()


class Scene:
    """The daemon, the model, the collector, and a clone of the repository; the stack ends them."""

    def __init__(self, repo, stack):
        self.folder = Path(tempfile.mkdtemp(prefix="corral-review-"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.repo = self.folder / "repo"
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", repo, self.repo], check=True)
        (self.repo / "review").mkdir()
        self.homes()
        self.collector = Collector()
        stack.callback(self.collector.close)
        with open(self.folder / "model.log", "wb") as log:
            model = subprocess.Popen(
                [sys.executable, HERE / "model.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        stack.callback(model.communicate)
        self.model = model.stdout.readline().strip()
        self.socket = str(self.folder / "corral.sock")
        self.began = time.monotonic()
        self.processes = set()
        self.daemon = self.start(stack)

    def homes(self):
        """Makes a home for the agents: their own settings, which no user's are mixed with."""
        settings = {"permissions": {"defaultMode": "default"}, "env": {"ENABLE_TOOL_SEARCH": "false"}}
        claude = self.folder / "home" / ".claude"
        claude.mkdir(parents=True)
        (claude / "settings.json").write_text(json.dumps(settings))
        settings = {
            "security": {"auth": {"selectedType": "gemini-api-key"}},
            "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
            "privacy": {"usageStatisticsEnabled": False},
            "tools": {"exclude": ["write_file", "replace"]},  # cannot make a new file by ACP
        }
        gemini = self.folder / "home" / ".gemini"
        gemini.mkdir()
        (gemini / "settings.json").write_text(json.dumps(settings))

    def start(self, stack):
        text = (HERE / "corral.toml").read_text("utf-8")
        if os.getuid() == 0:  # or a packaged corral would use its user
            text = text.replace("[process]\n", '[process]\nuser = "root"\n', 1)
        config = self.folder / "corral.toml"
        config.write_text(text, "utf-8")
        variables = {
            "REVIEW_REPO": self.repo,
            "REVIEW_STATE": self.folder,
            "REVIEW_HOME": self.folder / "home",
            "REVIEW_MODEL": self.model,
            "REVIEW_COLLECTOR": self.collector.address,
            "REVIEW_BIN": INSTALLED / "node/node_modules/.bin",
            "REVIEW_FAST": INSTALLED / "python/bin",
            "REVIEW_HERE": HERE,
            "PATH": f"{BIN}:{INSTALLED / 'node/bin'}:{os.environ.get('PATH', os.defpath)}",
        }
        with open(self.folder / "corrald.log", "ab") as log:
            daemon = subprocess.Popen(
                [BIN / "corrald", "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **{name: str(value) for name, value in variables.items()}},
                start_new_session=True,
            )
        stack.callback(self.stop, daemon)
        await_daemon(self.socket, patience_s=PATIENCE_S).close()
        return daemon

    def stop(self, daemon):
        self.notice()
        daemon.terminate()
        daemon.wait()

    def notice(self):
        """Remembers every process that there is, by pid and start time."""
        with suppress(psutil.Error):
            self.processes |= set(psutil.Process(self.daemon.pid).children(recursive=True))

    def left(self):
        """The pids of processes that outlive the daemon."""
        _, alive = psutil.wait_procs(self.processes, timeout=3)
        return [each.pid for each in alive]

    def say(self, who, what):
        print(f"{time.monotonic() - self.began:6.1f} s  {who:<14} {what}", flush=True)

    def ask_model(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.model}{path}", data, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def review(self, members):
        """What was seen of each member, by column."""
        found = {name: {} for name in members}
        threads = [threading.Thread(target=self.member, args=(name, found[name]), daemon=True) for name in members]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with Client(self.socket) as control:
            models = control.call("models.list")["models"]
            estimated = {name: self.estimated(control, name) for name in found}
        measured = {each["name"]: each["tokens_today"] for each in models}
        served = self.ask_model("/counts")["tokens"]
        time.sleep(2)  # the exporter of spans waits for a second
        for name, seen in found.items():
            exact, more = measured[name] - estimated[name], estimated[name]
            seen["tokens"] = f"{exact:,} = {served.get(name, 0):,}" + f" (+ {more:,})" * bool(more)
            if exact != served.get(name, 0):
                seen.setdefault("error", "the gateway and the model count differently")
            seen["spans"] = self.spans_of(name, seen.pop("tasks", ()))
        return found

    def estimated(self, control, name):
        """The tokens of calls that a kill has cut off before the model had answered."""
        tasks = control.call("task.list", {"agent": name})["tasks"]
        return sum(each["tokens_estimated"] for each in tasks)

    def member(self, name, seen):
        try:
            Member(self, name, seen).work()
        except (Wrong, CorralError, TimeoutError) as error:
            seen["error"] = str(error)
            self.say(name, f"FAILED: {error}")

    def spans_of(self, name, tasks):
        """How many spans the tasks of a member have: of tasks, of calls of models, of calls of tools."""
        mine = [
            (title.partition(" ")[0], kept)
            for title, kept in self.collector.spans
            if kept.get("corral.task.id") in tasks
        ]
        return " + ".join(
            str(sum(kind == each for kind, _ in mine)) for each in ("invoke_agent", "chat", "execute_tool")
        )


class Member:
    """One agent, and what is done to it."""

    def __init__(self, scene, name, seen):
        self.scene, self.name, self.seen = scene, name, seen
        self.control = Client(scene.socket)
        self.answered = 0
        self.tasks = seen["tasks"] = []
        first = (*ACP, *FRAMEWORKS).index(name)
        self.jobs = [JOBS[(first + number) % len(JOBS)] for number in range(4)]

    def work(self):
        self.control.call("agent.start", {"names": [self.name]}, timeout_s=PATIENCE_S)
        self.scene.say(self.name, "is ready")
        self.scene.notice()
        self.kill()
        self.pause()
        self.hibernate()
        self.overspend()

    # -- what is done

    def kill(self):
        """SIGKILL while its model thinks: the task is tried again on the restarted worker."""
        task = self.held(self.jobs[0])
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        self.scene.say(self.name, f"kill -9 {pid}, in the middle of its task")
        self.release()
        record = self.ended(task)
        if record["attempt"] != 2:
            raise Wrong(f"the killed task ended in attempt {record['attempt']}")
        self.check(self.jobs[0], record)
        self.seen["job"] = "yes"
        self.seen["killed"] = f"attempt {record['attempt']}"
        self.seen["approved"] = f"{self.answered} times" if self.answered else "asks nothing"

    def pause(self):
        """Paused while its model thinks: it does not take the answer until it is resumed."""
        task = self.held(self.jobs[1])
        self.control.call("agent.pause", {"names": [self.name]})
        self.release()
        before = self.scene.ask_model("/counts")["calls"][self.name]
        time.sleep(PAUSED_S)
        calls = self.scene.ask_model("/counts")["calls"][self.name] - before
        state = self.control.call("task.show", {"task": task})["state"]
        if calls > 1 or state != "running":
            raise Wrong(f"the paused agent has made {calls} calls, its task is {state}")
        self.control.call("agent.resume", {"names": [self.name]})
        self.check(self.jobs[1], self.ended(task))
        self.seen["paused"] = f"still for {PAUSED_S:g} s"
        self.scene.say(self.name, "was paused, and went on")

    def hibernate(self):
        """Hibernated, and woken by the next task of its session."""
        before = psutil.Process(self.status()["pid"]).children(recursive=True)
        self.control.call("agent.hibernate", {"names": [self.name]}, timeout_s=PATIENCE_S)
        worker = self.status()
        _, alive = psutil.wait_procs(before, timeout=2)
        if worker["pid"] is not None or alive:
            raise Wrong(f"it has not ended: {worker['state']}, {len(alive)} processes")
        record = self.ended(self.submit(self.jobs[2]))
        self.check(self.jobs[2], record)
        turn = int(str(record["output"]).rpartition(" turn ")[2].split()[0])
        if turn < 3:
            raise Wrong(f"after hibernation the conversation is in turn {turn}")
        self.seen["hibernated"] = f"in turn {turn}"
        self.scene.say(self.name, f"was hibernated, and goes on in turn {turn}")

    def overspend(self):
        """A budget that its first call uses up: the next one is refused."""
        task = self.submit(self.jobs[3], boundaries={"max_tokens": 20})
        record = self.ended(task, "failed")
        error = record["error"]
        if error["name"] != "ResourceLimitExceeded" or error["data"].get("limit") != "max_tokens":
            raise Wrong(f"beyond its budget the task ends with {error['name']}: {error['message']}")
        self.seen["budget"] = f"after {record['tokens_used']:,} tokens"
        self.scene.say(self.name, f"is stopped by its budget: {error['message']}")

    # -- how

    def submit(self, job, **more):
        objective = f"review: {job} of {self.scene.repo}"
        order = {"agent": self.name, "objective": objective, "session": "review", **more}
        task = self.control.call("task.submit", order)["id"]
        self.tasks.append(task)
        return task

    def held(self, job):
        """The id of a task whose agent waits for its model."""
        self.scene.ask_model("/hold", {"agent": self.name})
        task = self.submit(job)
        until = time.monotonic() + PATIENCE_S
        while not self.scene.ask_model("/counts")["waiting"].get(self.name):
            record = self.control.call("task.show", {"task": task})
            if record["error"] is not None or time.monotonic() > until:
                raise Wrong(f"the task does not reach its model: {record['error']}")
            time.sleep(0.05)
        return task

    def release(self):
        self.scene.ask_model("/release", {"agent": self.name})

    def ended(self, task, state="succeeded"):
        """The record of a task that has ended; questions on the way are answered with consent."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            for question in self.control.call("approval.list", {"task": task})["approvals"]:
                answer = "allow" if "allow" in (question.get("options") or ()) else "yes"
                given = {"approval": question["id"], "answer": answer}
                with suppress(Conflict, NotFound):  # it was withdrawn
                    self.control.call("approval.answer", given)
                    self.answered += 1
                    self.scene.say(self.name, f"asks: {question['question'].splitlines()[0][:90]}")
            record = self.control.call("task.show", {"task": task})
            if record["finished_at"] is not None:
                self.scene.notice()
                if record["state"] != state:
                    words = (record["error"] or {}).get("message", record["output"])
                    raise Wrong(f"the task is {record['state']}: {words}")
                return record
            time.sleep(0.05)
        raise Wrong("the task does not end")

    def check(self, job, record):
        """Compares the report with what the command prints here; agents without a file name the commits alone."""
        newest = git(self.scene.repo, "git log -3 --format=%H").split()
        expected = jobs.report(job, "\n".join(newest), git(self.scene.repo, jobs.COMMANDS[job]))
        if self.name in ACP:
            path = self.scene.repo / "review" / f"{job}.md"
            if path.read_text("utf-8").strip() != expected.strip():
                raise Wrong(f"the report on {job} is not what git says")
        elif not record["tool_calls"]:
            raise Wrong("it has called no tool")

    def status(self):
        status = self.control.call("daemon.status", {"names": [self.name]})
        return status["agents"][0]["workers"][0]

    def pid(self):
        """The agent's own process; that of the worker is a part of corral, for an agent of ACP."""
        pid = self.status()["pid"]
        return psutil.Process(pid).children()[0].pid if self.name in ACP else pid


def git(repo, line):
    """What a command prints in the repository."""
    return subprocess.run(["bash", "-c", line], cwd=repo, capture_output=True, text=True, check=True).stdout


def table(found):
    """What was seen, as a table of Markdown."""
    lines = ["| agent | " + " | ".join(title for _, title in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, seen in found.items():
        cells = " | ".join(str(seen.get(key, "no")) for key, _ in COLUMNS)
        lines.append(f"| {name} | {cells} |")
        if "error" in seen:
            lines.append(f"\n{name}: {seen['error']}\n")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
