"""An agent with an async handler; the objective names what to do."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys

from corral.worker import Agent, CorralError, Result, Task, ToolFailed
from corral.worker.contract.errors import Unreachable

agent = Agent("async", capabilities=["test", "async"], version="1.2")


async def echo(task: Task) -> object:
    names = ("id", "attempt", "objective", "input", "context", "boundaries", "checkpoint")
    return {name: getattr(task, name) for name in (*names, "agent", "worker", "config")}


async def tool(task: Task) -> object:
    result = await task.tool("git__log", repo_path=".", max_count=2)
    return {
        "text": result.text,
        "structured": result.structured,
        "content": result.content,
        "is_error": result.is_error,
    }


async def tool_unchecked(task: Task) -> object:
    result = await task.tool("git__log", {"check": 1, "class": 2}, check=False)
    return [result.is_error, result.text]


async def tool_caught(task: Task) -> object:
    try:
        await task.tool("git__log")
    except ToolFailed as error:
        return error.data
    return "nothing was raised"


async def tools(task: Task) -> object:
    return [each["name"] for each in await task.tools()]


async def too_long_arguments(task: Task) -> object:
    try:
        await task.tool("git__log", text="x" * (17 * 1024 * 1024))
    except CorralError as error:
        return error.code
    return "nothing was raised"


async def delegate(task: Task) -> object:
    result = await task.delegate("reader", "read it", input={"path": "a"}, timeout_s=3, priority=7)
    return [result.id, result.state, result.output, result.record["agent"]]


async def delegate_by_capability(task: Task) -> object:
    return (await task.delegate(capability="reading", objective="read it")).output


async def delegate_all(task: Task) -> object:
    found = await task.delegate_all(
        [{"agent": "reader", "objective": "read it"}, {"capability": "reading", "objective": "b"}], max_parallel=2
    )
    return [each.output if isinstance(each, Result) else each.to_record() for each in found]


async def delegate_with_all(task: Task) -> object:
    result = await task.delegate(
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


async def memory(task: Task) -> object:
    await task.remember("k", {"v": 1}, ttl_s=5, session="s")
    found = await task.recall("k", session="s")
    default = await task.recall("missing", "a default")
    await task.forget("k")
    await task.forget("missing")
    return [found, default, await task.search("words", limit=3)]


async def tell(task: Task) -> object:
    await task.progress(0.5, "half")
    await task.progress(3, total=4)
    task.usage(tokens=10, cost_cents=0.5)
    task.usage(tokens=5)
    task.beat()
    task.log("look", level="warning", path="a")
    return await task.save_checkpoint({"step": 2})


async def publish(task: Task) -> object:
    await task.publish("build.done", {"ok": True})
    return None


async def publish_unawaited(task: Task) -> object:
    task.publish("build.done", {"ok": True})
    return None


async def fail(task: Task) -> object:
    raise ValueError("no such thing\nsecond line")


async def fail_typed(task: Task) -> object:
    await task.tool("git__nothing")
    return None


async def leave(task: Task) -> object:
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[task.input](3)


async def unprintable(task: Task) -> object:
    class Bad(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    raise Bad


async def unreachable(task: Task) -> object:
    raise Unreachable("cannot reach a daemon of the author's own")


async def untyped(task: Task) -> object:
    class Untyped(CorralError):
        code = 7

    raise Untyped("not of the table")


async def own_cancel(task: Task) -> object:
    child = asyncio.create_task(asyncio.sleep(3600))
    child.cancel()
    await child
    return None


async def not_finite(task: Task) -> object:
    return {"loss": [1.5, float("nan")]}


async def unspeakable(task: Task) -> object:
    return {"value": object()}


async def long(task: Task) -> object:
    return "x" * task.input


async def wait(task: Task) -> object:
    try:
        await task.tool("wait")
    finally:
        print("let go")
    return "done"


async def swallow(task: Task) -> object:
    try:
        await task.tool("wait")
    except asyncio.CancelledError:
        return "as if nothing had happened"
    return "done"


async def modules(task: Task) -> object:
    return [name for name in task.input if name in sys.modules]


async def ignore_cancel(task: Task) -> object:
    task.log("started")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            task.log("not now")


async def block(task: Task) -> object:
    with open(task.input, "rb", buffering=0) as fifo:
        await task.tool("ready")
        os.write(2, b"blocking now\n")
        fifo.read(1)
    return "unblocked"


async def end_child(_: Task) -> object:
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    child.terminate()
    child.join()
    return child.exitcode


async def shout(task: Task) -> object:
    print("printed")
    sys.stdout.write("no newline, ")
    os.write(1, b"written to 1\n")
    subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
    fds = [fd for fd in range(3, 64) if _is_open(fd)]
    inherited = [fd for fd in fds if os.get_inheritable(fd)]
    return {"stdin": sys.stdin.read(), "inherited": inherited}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def leave_thread_behind(task: Task) -> object:
    read_fd, _ = os.pipe()
    task.log("started")
    await asyncio.to_thread(os.read, read_fd, 1)
    return None


async def from_thread(task: Task) -> object:
    await asyncio.to_thread(task.beat)
    return None


@agent.task
async def run(task: Task) -> object:
    return await globals()[task.objective](task)


@agent.on_shutdown
async def bye() -> None:
    await asyncio.sleep(0)
    print("bye from on_shutdown")


agent.run()
print("after run")
