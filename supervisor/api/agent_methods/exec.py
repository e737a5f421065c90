"""Serves the methods of the table that run commands of an operator beside workers: with a connection, or to their end."""

import asyncio
import base64
import binascii
import codecs
import contextlib
import signal as signals
from collections.abc import Mapping

import msgspec

from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.records.audit.log import Audit
from corral.supervisor.workers.exec.command import Command, ExecRequest, Reader
from corral.supervisor.workers.exec.execs import Execs
from corral.supervisor.workers.supervision.shared import utc_now
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Conflict, InvalidParams
from corral.worker.control.params import ExecInputParams, ExecParams, RunCommandParams
from corral.worker.control.results import CommandRun, ExecInput, ExecStarted
from corral.worker.methods.agent import AGENT_EXEC, AGENT_EXEC_INPUT, AGENT_RUN_COMMAND

from ..table.handlers import Caller, serve

END = "exec.end"
"""The notification with the end of a command."""


class _Output:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = {"stdout": bytearray(), "stderr": bytearray()}
        self.size = {"stdout": 0, "stderr": 0}

    def notify(self, _method: str, params: Mapping[str, object]) -> None:
        stream, data = str(params["stream"]), base64.b64decode(str(params["data"]))
        self.size[stream] += len(data)
        kept = self._kept[stream]
        kept += data[: self._limit - len(kept)]

    async def drain(self) -> None:
        """Returns at once: it takes all output."""

    def text(self, stream: str) -> str:
        """Returns what was kept; a character that the limit has cut is left out."""
        kept = bytes(self._kept[stream])
        if len(kept) == self.size[stream]:
            return kept.decode("utf-8", "replace")
        return codecs.getincrementaldecoder("utf-8")("replace").decode(kept)


class ExecMethods:
    """Serves the methods that run commands beside workers."""

    def __init__(self, agents: Agents, execs: Execs, audit: Audit) -> None:
        self._agents = agents
        self._execs = execs
        self._audit = audit

    @serve(AGENT_EXEC)
    async def _exec(self, params: ExecParams, caller: Caller) -> ExecStarted:
        supervisor = self._chosen(params.name)
        size = (params.rows, params.columns) if params.tty else None
        wanted = ExecRequest(
            params.argv, params.environment, params.working_directory, size, params.stdin or params.tty
        )
        command = await self._execs.start(supervisor, wanted, caller)
        caller.follow(self._run(command, caller))
        assert command.pid is not None, "it was started"
        return ExecStarted(exec=command.unit, worker=command.worker, pid=command.pid)

    @serve(AGENT_EXEC_INPUT)
    async def _exec_input(self, params: ExecInputParams, caller: Caller) -> ExecInput:
        command = self._execs.of(params.exec, caller)
        try:
            data = base64.b64decode(params.data, validate=True)
        except binascii.Error as error:
            raise InvalidParams(f"cannot write to {params.exec}: data is not base64: {error}", key="data") from None
        signum = None if params.signal is None else _number(params.signal)
        if params.rows is not None and params.columns is not None:
            command.resize(params.rows, params.columns)
        if signum is not None:
            command.signal(signum)
        if data or params.end:
            await command.write(data, end=params.end)
        return ExecInput(written=len(data))

    @serve(AGENT_RUN_COMMAND)
    async def _run_command(self, params: RunCommandParams, caller: Caller) -> CommandRun:
        supervisor = self._chosen(params.name)
        wanted = ExecRequest(params.argv, params.environment, params.working_directory, None, bool(params.stdin))
        command = await self._execs.start(supervisor, wanted, caller)
        output = _Output(params.max_output_bytes)
        loop = asyncio.get_running_loop()
        ends = loop.call_later(params.timeout_s, command.end, f"it did not end within {params.timeout_s:g} s")
        feeds = loop.create_task(_feed(command, params.stdin.encode()))
        try:
            await self._run_to_end(command, output, caller)
        finally:
            ends.cancel()
            feeds.cancel()
            await asyncio.gather(feeds, return_exceptions=True)
        printed = {
            "stdout": output.text("stdout"),
            "stderr": output.text("stderr"),
            "stdout_bytes": output.size["stdout"],
            "stderr_bytes": output.size["stderr"],
        }
        return msgspec.convert({**command.record, **printed}, CommandRun)

    async def _run(self, command: Command, caller: Caller) -> None:
        await self._run_to_end(command, caller, caller)
        caller.notify(END, command.record)

    async def _run_to_end(self, command: Command, reader: Reader, caller: Caller) -> None:
        """Runs a command until it has ended, and records its end."""
        try:
            await command.run(reader)
        finally:
            self._execs.forget(command.unit)
            self._audit.add(
                {
                    "action": "agent.exec.end",
                    "who": dict(caller.who),
                    "names": [command.worker],
                    "params": {"exec": command.unit},
                    "at": utc_now(),
                    "result": command.outcome,
                }
            )

    def _chosen(self, name: str) -> WorkerSupervisor:
        """Returns the worker of a name: itself, or the first one of an agent that has a process, else the first."""
        supervisors = self._agents.supervisors(name)
        return ([each for each in supervisors if each.life is not None and each.life.child] or supervisors)[0]


async def _feed(command: Command, data: bytes) -> None:
    if data:
        with contextlib.suppress(Conflict):  # it reads no more, as head(1) does
            await command.write(data, end=True)


def _number(name: str) -> int:
    try:
        return int(signals.Signals[name if name.startswith("SIG") else f"SIG{name}"])
    except KeyError:
        raise InvalidParams(f'cannot signal: "{name}" is no signal', key="signal", value=name) from None
