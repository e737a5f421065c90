"""Runs one worker of a remote agent of A2A: takes tasks from the daemon, and has the agent run each.

Address and headers come as those of a webhook do, see `webhook.service`. The id of the remote task is kept in the
checkpoint: an attempt after a death or a hibernation follows that task, and begins no second one. A question of the
remote agent is one of the task, which a person answers. A cancelled task is cancelled there.
"""

import asyncio
import contextlib
import sys
from collections.abc import Mapping

from ..contract.errors import CorralError, TaskFailed, WorkerFailed
from ..sdk.results import Json
from ..sdk.task import Task
from ..webhook.service import Service, serve
from .messages import ASKS, ENDED, RemoteTask, reply_of, request_of
from .remote import Remote

POLL_S = (0.2, 2.0)
"""Seconds between the first two looks at a task, and at most, where its agent does not stream; before a cut stream is taken up, too."""
CANCEL_S = 3.0
"""Seconds that the agent may take to cancel its task."""
QUESTIONS = 50
"""Number of questions of one task that are answered."""


class Runner:
    """Runs the tasks of one remote agent."""

    def __init__(self, service: Service) -> None:
        self._remote = Remote(service)

    async def run(self, task: Task) -> Json:
        """Runs a task at the remote agent, and returns its output."""
        remote = RemoteTask(self._remote.target.address)
        try:
            await self._run(task, remote)
            return remote.output()
        except asyncio.CancelledError:
            await self._cancel(task, remote)
            raise

    async def _run(self, task: Task, remote: RemoteTask) -> None:
        if not await self._found_again(task, remote):
            await self._send(task, remote, request_of(task))
        for number in range(1, QUESTIONS + 1):
            await self._follow(task, remote)
            if remote.state != ASKS:
                return
            question = remote.words or "The agent asks for input, and does not say which."
            answer = await task.ask(question, key=f"a2a-{number}-{question[:100]}")
            await self._send(task, remote, reply_of(task, remote, answer, number))
        raise TaskFailed(f'cannot answer more than {QUESTIONS} questions of task "{task.id}"', limit=QUESTIONS)

    async def _found_again(self, task: Task, remote: RemoteTask) -> bool:
        """Returns whether an earlier attempt has begun a task that the agent still has, and that has not failed."""
        saved = task.checkpoint.get("a2a_task") if isinstance(task.checkpoint, Mapping) else None
        if not isinstance(saved, str):
            return False
        try:
            remote.take({"task": await self._remote.call(task, "GetTask", {"id": saved})})
        except TaskFailed:
            return False  # it has forgotten the task
        return remote.state not in ENDED or remote.state == "TASK_STATE_COMPLETED"

    async def _send(self, task: Task, remote: RemoteTask, message: Mapping[str, object]) -> None:
        """Sends a message, and takes what comes until the task is over or the stream is cut."""
        interface = await self._remote.interface(task)
        remote.state = ""
        if not interface.streams:
            params = {"message": message, "configuration": {"returnImmediately": True}}
            await self._take(task, remote, await self._remote.call(task, "SendMessage", params))
            return
        params = {"message": message}
        try:
            async with contextlib.aclosing(self._remote.stream(task, "SendStreamingMessage", params)) as events:
                async for event in events:
                    await self._take(task, remote, event)
        except WorkerFailed:
            if not remote.id:  # else it is looked at
                raise

    async def _follow(self, task: Task, remote: RemoteTask) -> None:
        """Follows the task until it is over: by another stream where its agent has them, else by looking at it."""
        pause_s = POLL_S[0]
        streams = not remote.is_over and (await self._remote.interface(task)).streams
        while not remote.is_over:
            if not remote.id:
                raise TaskFailed(f"cannot follow a task at {self._remote.target.address}: it has no id")
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, POLL_S[1])
            if streams and (streams := await self._followed_again(task, remote)):
                continue
            found = await self._remote.call(task, "GetTask", {"id": remote.id})
            await self._take(task, remote, {"task": found})

    async def _followed_again(self, task: Task, remote: RemoteTask) -> bool:
        """Follows the task by a stream of its own until that ends or is cut; returns whether there was one."""
        has_begun = False
        try:
            async with contextlib.aclosing(self._remote.stream(task, "SubscribeToTask", {"id": remote.id})) as events:
                async for event in events:
                    has_begun = True
                    await self._take(task, remote, event)
        except (TaskFailed, WorkerFailed):  # the look at the task that follows says why
            pass
        return has_begun

    async def _take(self, task: Task, remote: RemoteTask, event: Json) -> None:
        known, words = remote.id, remote.words
        parts = remote.take(event)
        if remote.id and remote.id != known:
            await task.save_checkpoint({"a2a_task": remote.id})
        task.beat()
        for part in parts:
            await task.stream(part)
        if remote.words and remote.words != words and not remote.is_over:
            await task.progress(0.0, remote.words[:1000])

    async def _cancel(self, task: Task, remote: RemoteTask) -> None:
        if not remote.id or remote.state in ENDED:
            return
        try:
            async with asyncio.timeout(CANCEL_S):
                await self._remote.call(task, "CancelTask", {"id": remote.id})
        except (CorralError, TimeoutError) as error:
            words = self._remote.target.masked(str(error) or "no answer")
            task.log(f"cannot cancel the remote task: {words}", "warning", remote_task=remote.id)


if __name__ == "__main__":
    sys.exit(serve(lambda service: Runner(service).run))
