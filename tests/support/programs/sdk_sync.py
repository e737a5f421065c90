"""An agent with a sync handler; the objective names what to do."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

from corral.worker import Agent, Cancelled, Result, SyncTask, ToolFailed

agent = Agent("sync")
together = threading.Barrier(3)


def echo(task: SyncTask) -> object:
    names = ("id", "attempt", "objective", "input", "context", "boundaries", "checkpoint")
    return {name: getattr(task, name) for name in (*names, "agent", "worker", "config")}


def tool(task: SyncTask) -> object:
    result = task.tool("git__log", repo_path=".", max_count=2)
    return {
        "text": result.text,
        "structured": result.structured,
        "content": result.content,
        "is_error": result.is_error,
    }


def tool_unchecked(task: SyncTask) -> object:
    result = task.tool("git__log", {"check": 1, "class": 2}, check=False)
    return [result.is_error, result.text]


def tool_caught(task: SyncTask) -> object:
    try:
        task.tool("git__log")
    except ToolFailed as error:
        return error.data
    return "nothing was raised"


def tools(task: SyncTask) -> object:
    return [each["name"] for each in task.tools()]


def delegate(task: SyncTask) -> object:
    result = task.delegate("reader", "read it", input={"path": "a"}, timeout_s=3, priority=7)
    return [result.id, result.state, result.output, result.record["agent"]]


def delegate_by_capability(task: SyncTask) -> object:
    return task.delegate(capability="reading", objective="read it").output


def delegate_all(task: SyncTask) -> object:
    found = task.delegate_all(
        [{"agent": "reader", "objective": "read it"}, {"capability": "reading", "objective": "b"}], max_parallel=2
    )
    return [each.output if isinstance(each, Result) else each.to_record() for each in found]


def delegate_with_all(task: SyncTask) -> object:
    result = task.delegate(
        objective="read it",
        required_capabilities=["reading"],
        allowed_tools=["git__*"],
        boundaries={"timeout": "5s"},
        output_format={"schema": {"type": "integer"}},
        session="s",
        sticky_key="k",
        idempotency_key="once",
        after=["t-0"],
        retry={"max_attempts": 2},
    )
    return result.output


def memory(task: SyncTask) -> object:
    task.remember("k", {"v": 1}, ttl_s=5, session="s")
    found = task.recall("k", session="s")
    default = task.recall("missing", "a default")
    task.forget("k")
    task.forget("missing")
    return [found, default, task.search("words", limit=3)]


def tell(task: SyncTask) -> object:
    task.progress(0.5, "half")
    task.progress(3, total=4)
    task.usage(tokens=10, cost_cents=0.5)
    task.usage(tokens=5)
    task.beat()
    task.log("look", level="warning", path="a")
    return task.save_checkpoint({"step": 2})


def publish(task: SyncTask) -> object:
    task.publish("build.done", {"ok": True})
    return None


def fail(task: SyncTask) -> object:
    raise ValueError("no such thing\nsecond line")


def fail_typed(task: SyncTask) -> object:
    task.tool("git__nothing")
    return None


def leave(task: SyncTask) -> object:
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[task.input](3)


def stop_iteration(task: SyncTask) -> object:
    return next(iter([]))


def not_finite(task: SyncTask) -> object:
    return {"loss": [1.5, float("nan")]}


def unspeakable(task: SyncTask) -> object:
    return {"value": object()}


def long(task: SyncTask) -> object:
    return "x" * task.input


def coroutine(task: SyncTask) -> object:
    return asyncio.sleep(0)


def wait(task: SyncTask) -> object:
    try:
        task.tool("wait")
    except Cancelled:
        assert task.cancelled.is_set()
        print("let go")
        raise
    return "done"


def wait_for_cancel(task: SyncTask) -> object:
    task.log("started")
    task.cancelled.wait()
    try:
        task.beat()
    except Cancelled:
        print("the call was refused")
    return "as if nothing had happened"


def never_end(task: SyncTask) -> object:
    read_fd, _ = os.pipe()
    task.log("started")
    os.read(read_fd, 1)
    return None


def spawn_thread(task: SyncTask) -> object:
    read_fd, _ = os.pipe()
    threading.Thread(target=os.read, args=(read_fd, 1)).start()  # not a daemon thread
    task.log("started")
    return None


def hold(task: SyncTask) -> object:
    with open(task.input, "rb", buffering=0) as fifo:
        task.log("started")
        fifo.read(1)
    return None


def block(task: SyncTask) -> object:
    together.wait()
    with open(task.input, "rb", buffering=0) as fifo:
        fifo.read(1)
    return "unblocked"


def end_child(_: SyncTask) -> object:
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    child.terminate()
    child.join()
    return child.exitcode


def shout(task: SyncTask) -> object:
    print("printed")
    sys.stdout.write("no newline, ")
    os.write(1, b"written to 1\n")
    subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
    return {"stdin": sys.stdin.read(), "inherited": []}


@agent.task
def run(task: SyncTask) -> object:
    return globals()[task.objective](task)


@agent.on_shutdown
def bye() -> None:
    print("bye from on_shutdown")


if __name__ == "__main__":
    agent.run()
    print("after run")
