"""Defines the methods about commands beside workers, and of jobs."""

from ..control.params import ExecInputParams, ExecParams, RunCommandParams
from ..control.results import CommandRun, ExecInput, ExecStarted
from .faces import faces
from .method import Signature, access, method
from .rules import NAME, OPEN

ENDS_WITH_CONNECTION = (
    "its command ends with its connection, and its input belongs to that connection alone: use the socket"
)

AGENT_EXEC = method(
    Signature("agent.exec", ExecParams, ExecStarted),
    access("admin", NAME, recorded="or-refused", recorded_keys=("exec", "worker", "pid")),
    faces(python="exec_command", command="exec", reason=ENDS_WITH_CONNECTION),
    """Runs a command with the user, limits, isolation and environment of a worker; it ends with this connection.

    It reaches the secrets of the agent, and whatever the agent may write to: so it needs the right admin.
    """,
    example={"name": "crawler-0", "argv": ["ls", "-l"]},
)

AGENT_EXEC_INPUT = method(
    Signature("agent.exec_input", ExecInputParams, ExecInput),
    access("admin", OPEN),
    faces(command="exec", reason=ENDS_WITH_CONNECTION),
    "Writes to a running command of this connection, and answers once it is taken; signals it; resizes its terminal.",
    example={"exec": "crawler-0.exec#7.1", "data": "bHMK"},
)

AGENT_RUN_COMMAND = method(
    Signature("agent.run_command", RunCommandParams, CommandRun),
    access("admin", NAME, recorded="or-refused", recorded_keys=("exec", "worker")),
    faces("POST /agents/{name}/exec", python="run_command", command="exec"),
    """Runs a command as `agent.exec` does, without a terminal, and answers once it has ended.

    The command is killed after `timeout_s`, or when its worker ends; the answer has what it printed until then.
    """,
    example={"name": "crawler", "argv": ["sort"], "stdin": "b\na\n"},
)
