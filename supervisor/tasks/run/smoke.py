"""Runs the smoke task of a spec on one worker: an ordinary task, with a record, that no other worker takes."""

import asyncio
import contextlib

from corral.supervisor.agents.rollout.roll import Try
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import CorralError
from corral.worker.contract.records import Boundaries, Retry, TaskParams

from .backlog import Origin
from .tasks import Tasks


def smoke_of(tasks: Tasks) -> Try:
    """Returns the function that runs a smoke task; it returns why the task has failed, "" if it has not."""

    async def attempt(supervisor: WorkerSupervisor, spec: Spec) -> str:
        smoke = spec.smoke
        assert smoke is not None, "it is tried where one is asked for"
        params = TaskParams(
            smoke.objective,
            agent=spec.name,
            input=smoke.input,
            boundaries=Boundaries(timeout_s=smoke.timeout),
            retry=Retry(max_attempts=1, retry_on="never"),
        )
        try:
            task = await tasks.submit(params, Origin(only=supervisor))
        except CorralError as error:
            return error.message
        try:
            ended = await tasks.wait(task.id)
        except asyncio.CancelledError:
            with contextlib.suppress(CorralError):
                await tasks.cancel(task.id, "the change that it was to try is taken back")
            raise
        except CorralError as error:
            return error.message
        if ended.state == "succeeded":
            return ""
        return ended.error.message if ended.error is not None else f"it is {ended.state}"

    return attempt
