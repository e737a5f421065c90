"""What does a call to a worker of the SDK cost, and how many are answered in a second?

The daemon's side is its own, a `Channel` on uvloop; the worker's is `python -m corral.worker` on its pipes, as every agent of
an entrypoint runs. Two calls: `ping`, which the SDK answers by itself, and `task/run`, whose handler returns its input. Each
carries 200 bytes of text. Beside them, over two pipes as well:

- C: a child that sends each line back, and who writes and reads without looking at it: the least that pipes cost;
- blocking: a child and a caller in Python that read, decode, encode and write with msgspec, and do nothing else;
- uvloop: a bare Protocol with msgspec, and the blocking child.

Socket-free is the same codec and the same handler without pipes: what two `Peer`s make of a call and its answer, and the
SDK's own method between them, in one process. What a call takes beyond that is the pipes', the loops' and the scheduler's.
The processor time of both sides is counted beside the clock: on a busy machine it is what can be compared.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from corral.worker.contract.channel import Channel
from corral.worker.contract.jsonrpc import Peer, Request, Response
from corral.worker.sdk.runtime import AT_ONCE, Worker
from corral.worker.sdk.task import Hooks

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
import calling
from bench import Measure

HERE = Path(__file__).resolve().parent

TEXT = "x" * 200

DEPTH = 64

WHOLE = {"rounds": 7, "one": 2_000, "many": 100_000, "free": 5_000}
QUICK = {"rounds": 2, "one": 300, "many": 10_000, "free": 500}

AGENT = """
from corral.worker import Agent
agent = Agent("echo")
@agent.task
async def run(task):
    return task.input
"""

CHILD = """
import os
import msgspec
decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
rest = b""
while data := os.read(0, 1 << 16):
    *lines, rest = (rest + data).split(b"\\n")
    said = []
    for line in lines:
        message = decode(line)
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": {"output": message["params"]["input"]}}
        said.append(encode(answer) + b"\\n")
    os.write(1, b"".join(said))
"""

START: dict[str, object] = {
    "protocolVersion": "1",
    "agent": "echo",
    "worker": "echo-0",
    "incarnation": 1,
    "heartbeat_interval_s": 5.0,
    "limits": {"max_concurrent_requests": DEPTH},
    "config": {},
}

CALLS: dict[str, tuple[str, dict[str, object]]] = {
    "ping": ("ping", {"text": TEXT}),
    "task": ("task/run", {"task": "t", "attempt": 1, "objective": "echo", "input": TEXT}),
}

Found = dict[str, list[float]]
Call = Callable[[], Coroutine[Any, Any, object]]


# --- corral ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def child(*command: str, folder: Path) -> AsyncGenerator[tuple[int, int, int]]:
    """A child on two pipes: its pid, where to read and where to write."""
    read_fd, its_stdout = os.pipe()
    its_stdin, write_fd = os.pipe()
    process = subprocess.Popen(command, stdin=its_stdin, stdout=its_stdout, cwd=folder, env=bench.ENVIRON)
    os.close(its_stdin)
    os.close(its_stdout)
    try:
        yield process.pid, read_fd, write_fd
    finally:
        process.kill()
        process.wait()


async def _sdk(folder: Path, size: Mapping[str, int]) -> Found:
    found: Found = {}
    (folder / "echoing.py").write_text(AGENT)
    command = (*bench.PYTHON, "-P", "-m", "corral.worker", "echoing:agent")
    async with child(*command, folder=folder) as (pid, read_fd, write_fd):
        channel = Channel(Peer("1", log_foreign=True), name="worker")
        await channel.open_pipes(read_fd, write_fd)
        await channel.request("initialize", START, timeout_s=bench.BOUND_S)
        for name, (method, params) in CALLS.items():

            async def call(method: str = method, params: dict[str, object] = params) -> object:
                return await channel.request(method, params, timeout_s=None)

            found |= await _timed(name, call, pid, size)
        channel.close()
    return found


async def _raw(folder: Path, size: Mapping[str, int]) -> Found:
    async with child(*bench.PYTHON, "-c", CHILD, folder=folder) as (pid, read_fd, write_fd):
        raw = await calling.Raw.over_pipes(read_fd, write_fd)

        async def call() -> object:
            return await raw.request(*CALLS["task"])

        found = await _timed("uvloop", call, pid, size)
        raw.writer.close()
    return found


async def _timed(name: str, call: Call, pid: int, size: Mapping[str, int]) -> Found:
    """Calls one after the other, and then by many callers at once."""
    for _ in range(100):
        await call()
    each_us: list[float] = []
    for _ in range(size["one"]):
        began = time.perf_counter()
        await call()
        each_us.append((time.perf_counter() - began) * 1e6)
    left = iter(range(size["many"]))

    async def caller() -> None:
        for _ in left:
            await call()

    used_s, its_s = time.process_time(), processor_s(pid)
    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(DEPTH)))
    passed_s = time.perf_counter() - began
    return {
        f"{name}_us": each_us,
        f"{name}_rate": [size["many"] / passed_s],
        f"{name}_caller_us": [(time.process_time() - used_s) * 1e6 / size["many"]],
        f"{name}_worker_us": [(processor_s(pid) - its_s) * 1e6 / size["many"]],
    }


def processor_s(pid: int) -> float:
    """The processor time of a process' main thread, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


class _Mute(Worker):
    """A worker without a daemon to beat for."""

    def _beat(self) -> None:
        pass


async def _free(size: Mapping[str, int]) -> Found:
    """What codec and handler take without pipes; the loop only lends the SDK its clock."""
    hooks = Hooks("echo", (), "1")
    hooks.task = _echo
    worker = _Mute(hooks, asyncio.get_running_loop())
    await worker.answer(Request("0", "initialize", START))
    here, there = Peer("1", log_foreign=True), Peer()
    found: Found = {}
    for name, (method, params) in CALLS.items():
        each_us: list[float] = []
        for _ in range(size["free"]):
            began = time.perf_counter()
            here.request(method, params, deadline=None)
            (request,) = there.receive(here.take())
            assert type(request) is Request, request
            at_once = AT_ONCE.get(method)
            there.respond(request.id, await worker.answer(request) if at_once is None else at_once(request.params))
            (response,) = here.receive(there.take())
            each_us.append((time.perf_counter() - began) * 1e6)
            assert type(response) is Response, response
            assert response.error is None, response
        found[f"{name}_free"] = each_us
    return found


async def _echo(task: Any) -> object:
    return task.input


# --- the limits -----------------------------------------------------------------------------------


def _blocking(folder: Path, size: Mapping[str, int]) -> Found:
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    method, params = CALLS["task"]
    process = subprocess.Popen(
        [*bench.PYTHON, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        env=bench.ENVIRON,
        bufsize=0,
    )
    assert process.stdin is not None, "asked for"
    assert process.stdout is not None, "asked for"
    write_fd, read_fd = process.stdin.fileno(), process.stdout.fileno()

    def call(number: int) -> None:
        said = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        os.write(write_fd, encode(said) + b"\n")
        assert decode(os.read(read_fd, 1 << 16))["id"] == number, "the answer to this"

    each_us: list[float] = []
    for number in range(size["one"] + 100):
        began = time.perf_counter()
        call(number)
        each_us.append((time.perf_counter() - began) * 1e6)
    process.stdin.close()
    process.wait()
    return {"blocking_us": each_us[100:]}


def _c(program: Path, size: Mapping[str, int]) -> Found:
    """Lines as long as those of `task/run`."""
    method, params = CALLS["task"]
    line = msgspec.json.encode({"jsonrpc": "2.0", "id": "1-1", "method": method, "params": params})
    sizes = (len(line) + 1, size["one"], size["many"], DEPTH)
    done = subprocess.run([program, *map(str, sizes)], check=True, capture_output=True)
    *each_ns, passed_ns = map(int, done.stdout.split())
    return {"c_us": [each / 1000 for each in each_ns], "c_rate": [size["many"] / (passed_ns / 1e9)]}


# --- all of it ------------------------------------------------------------------------------------


def _measures(names: Mapping[str, str]) -> list[Measure]:
    calls = {"ping": "`ping`, which the SDK answers", "task": "`task/run`, whose handler echoes"}
    rows = [
        Measure(f"{name}_us", f"{words}, one at a time", "µs", f"{name}_free" if name in calls else None)
        for name, words in (names | calls).items()
    ]
    rows += [Measure(f"{name}_free", f"{words}, socket-free", "µs") for name, words in calls.items()]
    limit = "uvloop_rate"
    many = {name: words for name, words in (names | calls).items() if name != "blocking"}
    rows += [
        Measure(f"{name}_rate", f"{words}, {DEPTH} at once", "calls/s", limit if name in calls else None)
        for name, words in many.items()
    ]
    for name, words in many.items():
        if name != "c":
            rows.append(Measure(f"{name}_caller_us", f"{words}: processor of the caller", "µs"))
            rows.append(Measure(f"{name}_worker_us", f"{words}: processor of the worker", "µs"))
    return rows


def main() -> None:
    options = bench.arguments(__doc__ or "")
    size = QUICK if options.quick else WHOLE
    machine = bench.Machine()
    with bench.folder() as folder:
        names = {"blocking": "blocking Python on both sides", "uvloop": "bare uvloop, blocking child"}
        parts: list[Callable[[], Found]] = [
            lambda: _blocking(folder, size),
            lambda: uvloop.run(_raw(folder, size)),
            lambda: uvloop.run(_sdk(folder, size)),
            lambda: uvloop.run(_free(size)),
        ]
        compiler = shutil.which("cc")
        if compiler is None:
            print("no C compiler `cc`: its limit is left out", file=sys.stderr)
        else:
            program = folder / "pingpong"
            subprocess.run([compiler, "-O2", "-o", program, HERE / "pingpong.c"], check=True)
            parts.append(lambda: _c(program, size))
            names = {"c": "C on both sides"} | names
        taken = bench.interleaved(size["rounds"], parts)
    bench.report("rpc", _measures(names), taken, machine, options)


if __name__ == "__main__":
    main()
