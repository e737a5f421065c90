"""What does it cost that calls of models go through the gateway: for a call, until the first byte of a stream, and in memory?

A worker calls a provider on loopback by one connection that is kept, directly and through the gateway, alternately. The
provider is a plain asyncio server that answers at once, so that the times are those of the way alone: a real model takes
100 ms to minutes. A stream has 200 events; its first byte is the first of its body. They come all at once, so that the first
byte competes with the others for two processors, or, as those of a model do, the first one PAUSE_S before the others. `--peers FOLDER` names a virtual
environment with LiteLLM, whose proxy is then started and called in the same way.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import Measure

from corral.worker.client.sync import Client

WHOLE = {"rounds": 5, "calls": 300, "streams": 60}
QUICK = {"rounds": 2, "calls": 20, "streams": 5}
PAUSE_S = 0.02
"""Seconds between the first event and the others, where a stream comes as from a model."""
START_S = 180.0
"""Seconds that LiteLLM may take to start."""

PROVIDER = """
import asyncio, json
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
HEAD = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word word word"}}
BODY = json.dumps({**HEAD, "choices": [CHOICE], "usage": USAGE}).encode()
WHOLE = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(BODY) + BODY
CHUNK = {**HEAD, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
EVENT = b"data: " + json.dumps(CHUNK).encode() + b"\\n\\n"
LAST = b"data: " + json.dumps({**CHUNK, "choices": [], "usage": USAGE}).encode() + b"\\n\\ndata: [DONE]\\n\\n"
BEGIN = b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"
def chunk(data): return b"%x\\r\\n%s\\r\\n" % (len(data), data)
async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\\r\\n\\r\\n"):
            length = sum(int(line[15:]) for line in head.split(b"\\r\\n") if line.lower().startswith(b"content-length:"))
            body = json.loads(await reader.readexactly(length) or b"{}")
            if not body.get("stream"):
                writer.write(WHOLE)
                continue
            writer.write(BEGIN)
            for number in range(200):
                writer.write(chunk(EVENT))
                await writer.drain()
                if not number and body.get("pause_s"):
                    await asyncio.sleep(body["pause_s"])
            writer.write(chunk(LAST) + b"0\\r\\n\\r\\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""

AGENT = """
import http.client, json, os, time
from urllib.parse import urlsplit
from corral.worker import Agent, SyncTask
agent = Agent("caller")
kept = {}
def call(url, key, stream, pause_s=0):
    place = urlsplit(url)
    connection = kept.setdefault(place.netloc, http.client.HTTPConnection(place.netloc, timeout=60))
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello " * 50}], "stream": stream, "pause_s": pause_s})
    began = time.perf_counter()
    connection.request("POST", place.path + "/chat/completions", body, {"Content-Type": "application/json", "Authorization": "Bearer " + key})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read(1)
    first = time.perf_counter() - began
    answer.read()
    return first * 1e6, (time.perf_counter() - began) * 1e6
@agent.task
def run(task: SyncTask):
    calls, streams, places = task.input
    places = {**places, "gateway": [os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]]}
    found = {}
    for name, (url, key) in places.items():
        kept.clear()
        call(url, key, False)
        found[f"{name}_us"] = [call(url, key, False)[1] for _ in range(calls)]
        streamed = [call(url, key, True) for _ in range(streams)]
        found[f"{name}_first_us"] = [first for first, _ in streamed]
        found[f"{name}_stream_us"] = [whole for _, whole in streamed]
        found[f"{name}_paused_us"] = [call(url, key, True, PAUSE_S)[0] for _ in range(streams)]
    return found
"""

CONFIG = """
[models.main]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
key = "secret"
prices = {{ input = 100, output = 400 }}

[agents.caller]
entrypoint = "caller:agent"
models = ["main"]
resources.max_task_duration = "250s"
"""

MEASURES = [
    Measure("direct_us", "a call, directly", "µs"),
    Measure("gateway_us", "a call through the gateway", "µs", against="direct_us"),
    Measure("direct_first_us", "the first byte of a stream, directly", "µs"),
    Measure("gateway_first_us", "the same through the gateway", "µs", against="direct_first_us"),
    Measure("direct_paused_us", "the first byte, before a pause, directly", "µs"),
    Measure("gateway_paused_us", "the same through the gateway", "µs", against="direct_paused_us"),
    Measure("direct_stream_us", "a stream of 200 events, directly", "µs"),
    Measure("gateway_stream_us", "the same through the gateway", "µs", against="direct_stream_us"),
    Measure("daemon_cpu_us", "processor time of the daemon for a call or a stream", "µs"),
    Measure("gateway_mb", "memory of the gateway (RSS)", "MB"),
]
PEER = [
    Measure("litellm_us", "a call through LiteLLM's proxy", "µs", against="direct_us"),
    Measure("litellm_first_us", "the first byte of a stream", "µs", against="direct_first_us"),
    Measure("litellm_paused_us", "the first, before a pause", "µs", against="direct_paused_us"),
    Measure("litellm_stream_us", "a stream of 200 events", "µs", against="direct_stream_us"),
    Measure("litellm_start_s", "LiteLLM, from its start to its first answer", "s"),
    Measure("litellm_mb", "memory of LiteLLM's proxy (RSS)", "MB"),
]

Found = dict[str, list[float]]


class LiteLlm:
    """Runs LiteLLM's proxy for one model of a provider."""

    def __init__(self, peers: Path, where: Path, provider: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (where / "litellm.yaml").write_text(
            json.dumps(
                {
                    "model_list": [
                        {
                            "model_name": "m",
                            "litellm_params": {
                                "model": "openai/m",
                                "api_base": f"http://127.0.0.1:{provider}/v1",
                                "api_key": "secret",
                            },
                        }
                    ],
                    "general_settings": {"master_key": "sk-test"},
                }
            )
        )
        env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
        command = [str(peers / "bin" / "litellm"), "--config", str(where / "litellm.yaml")]
        began = time.monotonic()
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self.port), "--telemetry", "False"],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > began + START_S:
                self.close()
                raise SystemExit("cannot start LiteLLM")
            time.sleep(0.2)
        self.start_s = time.monotonic() - began

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/liveliness", timeout=5):
                return True
        except OSError:
            return False

    def memory_mb(self) -> float:
        """Returns the resident memory of all its processes."""
        pids = [self.process.pid, *bench.children(self.process.pid)]
        return sum(map(_memory_mb, pids))

    def close(self) -> None:
        """Ends it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _round(daemon: bench.Daemon, size: dict[str, int], places: dict[str, list[str]]) -> Found:
    calls, streams = size["calls"], size["streams"]
    before_s = bench.cpu_s(daemon.process.pid)
    with Client(daemon.socket) as client:
        asked = {"agent": "caller", "objective": "call", "input": [calls, streams, places]}
        record: Any = client.call("task.run", asked)
        shown: Any = client.call("models.list", {})
    assert record["state"] == "succeeded", record["error"]
    used_us = (bench.cpu_s(daemon.process.pid) - before_s) * 1e6
    found: Found = record["output"]
    return {
        **found,
        "daemon_cpu_us": [used_us / (calls + 2 * streams + 1)],
        "gateway_mb": [_memory_mb(shown["gateway"]["pid"])],
    }


def _add_peers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers", metavar="FOLDER", help="a virtual environment with LiteLLM")


def _memory_mb(pid: int) -> float:
    """Returns the resident memory of a process, also of one that lets nobody look into it."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024 / 1e6


def main() -> None:
    """Measures, and reports."""
    options = bench.arguments(__doc__ or "", _add_peers)
    size = QUICK if options.quick else WHOLE
    machine = bench.Machine()
    measures, litellm = list(MEASURES), None
    with (
        bench.folder() as folder,
        subprocess.Popen([*bench.PYTHON, "-c", PROVIDER], stdout=subprocess.PIPE) as provider,
    ):
        assert provider.stdout is not None, "asked for"
        port = int(provider.stdout.readline())
        places = {"direct": [f"http://127.0.0.1:{port}/v1", "secret"]}
        try:
            if options.peers:
                litellm = LiteLlm(Path(options.peers), folder, port)
                places["litellm"] = [f"http://127.0.0.1:{litellm.port}/v1", "sk-test"]
                measures += PEER
            (folder / "caller.py").write_text(AGENT.replace("PAUSE_S", str(PAUSE_S)))
            with bench.Daemon(folder, CONFIG.format(port=port)) as daemon:
                daemon.await_ready()
                _round(daemon, QUICK, places)
                rounds = bench.interleaved(size["rounds"], [lambda: _round(daemon, size, places)])
                if litellm is not None:
                    own = {"litellm_start_s": litellm.start_s, "litellm_mb": litellm.memory_mb()}
                    for name, value in own.items():
                        rounds[name] = [[value]]
        finally:
            if litellm is not None:
                litellm.close()
            provider.kill()
    bench.report("models", measures, rounds, machine, options)


if __name__ == "__main__":
    main()
