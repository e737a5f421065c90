"""The empty task in RQ and in Celery: their workers, and who hands tasks in and waits for the ends.

    python queues.py rq-worker|rq|celery-worker|celery PORT

It is run by the Python of an environment that has them, beside a Redis at PORT, and imports nothing of ours. A caller
makes a round for each line that it is sent, `{"one": COUNT, "many": COUNT}`, and answers with one line: how many ms each
task took, one at a time and of a burst, and how many seconds the burst took.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

WAIT_S = 600
WORKERS = 2

Burst = Callable[[int], Iterator[object]]
"""Hands in so many tasks, then yields once for each that has ended."""


def nothing() -> None:
    """The task."""


def served(burst: Burst) -> None:
    """Rounds until there are no more lines."""
    list(burst(10))  # connections are open, and workers have imported what they need
    print("ready", flush=True)
    for line in sys.stdin:
        size = json.loads(line)
        one_ms = [each for _ in range(size["one"]) for each in timed(burst, 1)]
        began = time.perf_counter()
        many_ms = timed(burst, size["many"])
        took_s = time.perf_counter() - began
        print(json.dumps({"one_ms": one_ms, "many_ms": many_ms, "took_s": took_s}), flush=True)


def timed(burst: Burst, count: int) -> list[float]:
    began = time.perf_counter()
    return [(time.perf_counter() - began) * 1000 for _ in burst(count)]


def rq(port: int) -> Burst:
    from redis import Redis  # noqa: PLC0415  each environment has one of the two
    from rq import Queue  # noqa: PLC0415

    queue = Queue(connection=Redis(port=port))

    def burst(count: int) -> Iterator[object]:
        if count == 1:
            jobs = [queue.enqueue("queues.nothing")]
        else:  # one trip to Redis for all
            jobs = queue.enqueue_many([Queue.prepare_data("queues.nothing") for _ in range(count)])
        for job in jobs:
            result = job.latest_result(timeout=WAIT_S)
            assert result is not None, f"{job.id} has not ended"
            assert result.type is result.Type.SUCCESSFUL, result.exc_string
            yield result

    return burst


def rq_worker(port: int) -> None:
    from redis import Redis  # noqa: PLC0415
    from rq import Queue, SimpleWorker  # noqa: PLC0415  the one that does not fork for each task

    connection = Redis(port=port)
    SimpleWorker([Queue(connection=connection)], connection=connection).work(logging_level="ERROR")


def celery_task(port: int) -> Any:
    """The task of an app that loses nothing when a worker dies, as corral does not."""
    from celery import Celery  # noqa: PLC0415

    url = f"redis://127.0.0.1:{port}/0"
    app = Celery("queues", pubsub=url, backend=url)
    app.conf.task_acks_late = True
    app.conf.task_reject_on_worker_lost = True
    app.conf.broker_connection_retry_on_startup = True
    return app.task(nothing, name="nothing")


def celery(port: int) -> Burst:
    task = celery_task(port)

    def burst(count: int) -> Iterator[object]:
        for result in [task.apply_async() for _ in range(count)]:
            yield result.get(timeout=WAIT_S)

    return burst


def celery_worker(port: int) -> None:
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR"]
    celery_task(port).app.worker_main(["worker", f"--concurrency={WORKERS}", *quiet])


if __name__ == "__main__":
    kind, its_port = sys.argv[1], int(sys.argv[2])
    if kind.endswith("-worker"):
        {"rq-worker": rq_worker, "celery-worker": celery_worker}[kind](its_port)
    else:
        served({"rq": rq, "celery": celery}[kind](its_port))
