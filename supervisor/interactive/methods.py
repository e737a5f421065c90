"""Serves the methods `agent.exec` and `agent.exec_input` of the table: runs commands of an operator beside workers."""

import base64
import binascii
import signal as signals

from ...worker.contract.errors import InvalidParams
from ...worker.control.params import ExecInputParams, ExecParams
from ...worker.control.results import ExecInput, ExecStarted
from ..access.scope import NAME, OPEN
from ..api.faces import faces
from ..api.services import ExecRequest, RunningCommand
from ..api.table import Caller, Control, method
from ..supervision.shared import utc_now
from ..supervision.worker_supervisor import WorkerSupervisor

ENDS_WITH_CONNECTION = "its command ends with its connection, and its input belongs to that connection alone: use the socket"


END = "exec.end"
"""The notification with the end of a command."""


@method(
    "agent.exec",
    "admin",
    ExecParams,
    ExecStarted,
    recorded="or-refused",
    recorded_keys=("exec", "worker", "pid"),
    scope=NAME,
    faces=faces(python="exec_command", command="exec", reason=ENDS_WITH_CONNECTION),
)
async def _exec(control: Control, params: ExecParams, caller: Caller) -> ExecStarted:
    """Runs a command with the user, limits, isolation and environment of a worker; it ends with this connection.

    It reaches the secrets of the agent, and whatever the agent may write to: so it needs the right admin.
    """
    supervisor = _chosen(control, params.name)
    size = (params.rows, params.columns) if params.tty else None
    wanted = ExecRequest(
        params.argv, params.environment, params.working_directory, size, params.stdin or params.tty
    )
    command = await control.execs.start(supervisor, wanted, caller)
    caller.follow(_run(control, command, caller))
    assert command.pid is not None, "it was started"
    return ExecStarted(exec=command.unit, worker=command.worker, pid=command.pid)


@method(
    "agent.exec_input",
    "admin",
    ExecInputParams,
    ExecInput,
    scope=OPEN,
    faces=faces(command="exec", reason=ENDS_WITH_CONNECTION),
)
async def _exec_input(control: Control, params: ExecInputParams, caller: Caller) -> ExecInput:
    """Writes to a running command of this connection, and answers once it is taken; signals it; resizes its terminal."""
    command = control.execs.of(params.exec, caller)
    try:
        data = base64.b64decode(params.data, validate=True)
    except binascii.Error as error:
        text = f"cannot write to {params.exec}: data is not base64: {error}"
        raise InvalidParams(text, key="data") from None
    signum = None if params.signal is None else _number(params.signal)
    if params.rows is not None and params.columns is not None:
        command.resize(params.rows, params.columns)
    if signum is not None:
        command.signal(signum)
    if data or params.end:
        await command.write(data, end=params.end)
    return ExecInput(written=len(data))


async def _run(control: Control, command: RunningCommand, caller: Caller) -> None:
    try:
        await command.run(caller)
    finally:
        control.execs.forget(command.unit)
        control.audit.add(
            {
                "action": "agent.exec.end",
                "who": dict(caller.who),
                "names": [command.worker],
                "params": {"exec": command.unit},
                "at": utc_now(),
                "result": command.outcome,
            }
        )
    caller.notify(END, command.record)


def _chosen(control: Control, name: str) -> WorkerSupervisor:
    """Returns the worker of a name: itself, or the first one of an agent that has a process, else the first.

    Raises:
        NotFound: there is no such agent or worker.
    """
    supervisors = control.agents.supervisors(name)
    running = [each for each in supervisors if each.life is not None and each.life.child]
    return (running or supervisors)[0]


def _number(name: str) -> int:
    try:
        return int(signals.Signals[name if name.startswith("SIG") else f"SIG{name}"])
    except KeyError:
        text = f'cannot signal: "{name}" is no signal'
        raise InvalidParams(text, key="signal", value=name) from None
