"""What do traces cost?

Two daemons run the same empty tasks in turn: one exports its spans to a receiver of OTLP on this machine, the other none. Tasks run as fast
as one client sends them, so far more traces begin than the default records (20 a second). The processor time is that of corrald with
all its threads; the receiver decodes nothing.
"""

import http.server
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # `python -P` leaves out where `bench` is
import bench
from bench import Daemon, Measure

from tasks import Flood  # pyright: ignore  # tests/tasks has the same name

ROUNDS, ROUNDS_QUICK = 7, 1
TASKS, TASKS_QUICK = 5_000, 100
AT_ONCE = 100
"""Number of tasks that are sent together."""

ECHO = """
from corral.worker import Agent
agent = Agent("echo")
@agent.task
async def run(task):
    return task.input
"""

MEASURES = [
    Measure("rate off", "tasks, not durable, without telemetry", "1/s"),
    Measure("rate on", "tasks, not durable, with traces", "1/s", "rate off"),
    Measure("task off", "processor time of a task without telemetry", "us"),
    Measure("task on", "processor time of a task with traces", "us", "task off"),
]


class Taker(http.server.BaseHTTPRequestHandler):
    """Answers that all was taken."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's own
        """Says nothing."""


def receive() -> None:
    """Listens on a port of loopback, and prints it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def main() -> None:
    options = bench.arguments(__doc__ or "")
    machine = bench.Machine()
    rounds, count = (ROUNDS_QUICK, TASKS_QUICK) if options.quick else (ROUNDS, TASKS)
    command = [sys.executable, "-P", __file__, "--receive"]
    with bench.folder() as folder, subprocess.Popen(command, stdout=subprocess.PIPE) as receiver:
        try:
            assert receiver.stdout is not None, "it is a pipe"
            port = int(receiver.stdout.readline())
            with (
                _daemon(folder / "off", "") as off,
                _daemon(folder / "on", f'[telemetry]\notlp = "http://127.0.0.1:{port}"\n') as on,
            ):
                off.await_ready()
                on.await_ready()
                ways = [_part(off, "off", count), _part(on, "on", count)]
                taken = bench.interleaved(rounds, ways)
        finally:
            receiver.kill()
    bench.report("telemetry", MEASURES, taken, machine, options)


def _daemon(where: Path, telemetry: str) -> Daemon:
    where.mkdir()
    (where / "echo_agent.py").write_text(ECHO)
    return Daemon(
        where,
        f'{telemetry}[agents.echo]\nentrypoint = "echo_agent:agent"\ninstances = 2\n'
        f'process.working_directory = "{where}"\n',
    )


def _part(daemon: Daemon, word: str, count: int) -> Callable[[], Mapping[str, list[float]]]:
    def measured() -> Mapping[str, list[float]]:
        begun, before_s = time.perf_counter(), bench.used_s(daemon.process.pid)
        flood: Callable[[int], object] = Flood(daemon.socket, "echo", durable=False)  # pyright: ignore  # likewise
        for _ in range(0, count, AT_ONCE):
            flood(AT_ONCE)
        passed_s, used_s = time.perf_counter() - begun, bench.used_s(daemon.process.pid) - before_s
        return {f"rate {word}": [count / passed_s], f"task {word}": [used_s / count * 1e6]}

    return measured


if __name__ == "__main__":
    receive() if "--receive" in sys.argv else main()
