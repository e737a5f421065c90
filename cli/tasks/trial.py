"""Implements `corral try`: runs one task on an agent of a file, under a daemon of its own that is gone afterwards."""

import ast
import asyncio
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from corral.worker.contract.errors import CorralError, InvalidParams

from .. import render
from ..context import Session, command, duration, json_value, option

READ_S = 5.0
"""Seconds for which the last log lines of the ended daemon are read."""


class Target(NamedTuple):
    """Names an agent to try: its entrypoint, and the folder in which its module is."""

    entrypoint: str
    folder: Path

    @property
    def name(self) -> str:
        """Returns the name of the agent: that of the module."""
        module = self.entrypoint.partition(":")[0].rpartition(".")[2]
        name = re.sub(r"[^A-Za-z0-9_]+", "_", module).replace("__", "_").strip("_")[:40]
        return name if name[:1].isalpha() else f"agent_{name}"


def target_of(text: str, folder: Path) -> Target:
    """Returns the agent that MODULE:AGENT, FILE.py or FILE.py:AGENT names."""
    module, colon, attribute = text.partition(":")
    if module.endswith(".py"):
        path = folder / module
        return Target(f"{path.stem}:{attribute or _agent_in(path)}", path.parent)
    if not colon or not attribute:
        path = folder / f"{module}.py"
        if not re.fullmatch(r"\w+", module) or not path.is_file():
            words = f'cannot try "{text}": write FILE.py or MODULE:AGENT, such as agent.py or agent:agent'
            raise InvalidParams(words, key="TARGET", value=text)
        attribute = _agent_in(path)
    return Target(f"{module}:{attribute}", folder)


def _agent_in(path: Path) -> str:
    """Returns the name that the file gives to its only Agent, from its text: nothing of it is run."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except OSError as error:
        words = f'cannot try "{path}": {(error.strerror or "").lower()}'
        raise InvalidParams(words, key="TARGET", value=str(path)) from error
    except (SyntaxError, ValueError) as error:
        raise InvalidParams(f'cannot try "{path}": {error}', key="TARGET", value=str(path)) from error
    found = list(_agents(tree.body))
    if len(found) == 1:
        return found[0]
    reason = (
        f"it has {', '.join(found)}: write {path.name}:{found[0]}"
        if found
        else ('it makes no Agent: write agent = Agent("NAME") in it')
    )
    raise InvalidParams(f'cannot try "{path}": {reason}', key="TARGET", value=str(path))


def _agents(statements: Iterable[ast.stmt]) -> Iterable[str]:
    for each in statements:
        if not isinstance(each, ast.Assign | ast.AnnAssign) or not isinstance(each.value, ast.Call):
            continue
        call = each.value
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        targets = [each.target] if isinstance(each, ast.AnnAssign) else each.targets
        yield from (to.id for to in targets if called == "Agent" and isinstance(to, ast.Name))


@command("try")
@click.argument("target", metavar="MODULE:AGENT|FILE.py")
@click.argument("objective", metavar="OBJECTIVE")
@option("--input JSON|TEXT|@FILE|-", "Structured input of the task.", "given")
@option("--timeout D", "Stop the task after this long.", "timeout_s", type=duration)
@option("--config FILE", "Configuration with the servers and agents that it calls.")
@option("--python PATH", "Interpreter of the agent; default that of corral.")
@option("--env K[=V]", "Variable of the agent; K alone takes yours.", "variables", multiple=True)
@option("--max-memory SIZE", "Limit of its process tree, such as 512MiB.")
@option("--watch", "Run again whenever a source file of the agent changes.")
def try_(session: Session, /, target: str, objective: str, **options: Any) -> int:
    """Run one task on an agent of a file, without a daemon.

    A daemon of its own in a temporary folder runs the agent: its output goes to stderr, the result to stdout, and nothing is
    left afterwards. The exit code is that of the task. Nothing of a running daemon is used or changed.
    """
    task: dict[str, Any] = {}  # the options of execute_task
    if options["given"] is not None:
        task["input"] = json_value(options["given"], "--input", or_text=True)
    if options["timeout_s"] is not None:
        task["timeout_s"] = options["timeout_s"]
    if sys.modules.get("msgspec") is None:
        sys.modules.pop("msgspec", None)  # kept out for the sake of quick commands; the client needs it
    found = target_of(target, Path.cwd())
    spec = _spec(found, options)
    config = options["config"]
    if config is not None and not Path(config).is_file():
        raise InvalidParams(f'cannot read "{config}": no such file', key="--config", value=config)
    return asyncio.run(_tried(session, found.name, spec, objective, task, config, options["watch"]))


def _spec(found: Target, options: Mapping[str, Any]) -> dict[str, Any]:
    environment: dict[str, str] = {}
    for each in options["variables"]:
        key, equals, value = each.partition("=")
        if not key or (not equals and key not in os.environ):
            raise InvalidParams(f"cannot use --env {each}: no variable of this name is set", key="--env", value=each)
        environment[key] = value if equals else os.environ[key]
    spec: dict[str, Any] = {
        "entrypoint": found.entrypoint,
        "warm": options["watch"],  # a zygote watches its sources; for one run it costs more than it saves
        "process": {"working_directory": str(found.folder.absolute())},
        "recovery": {"enable_auto_restart": False},
    }
    if environment:
        spec["environment"] = environment
    if options["python"] is not None:
        spec["python"] = options["python"]
    if options["max_memory"] is not None:
        spec["resources"] = {"max_memory_bytes": options["max_memory"]}
    return spec


async def _tried(
    session: Session,
    name: str,
    spec: Mapping[str, Any],
    objective: str,
    task: dict[str, Any],
    config: str | None,
    watch: bool,
) -> int:
    from corral.worker.client.embedded import START_S, Embedded  # noqa: PLC0415 - start-up time: asyncio, tempfile
    from corral.worker.client.runtime import AgentRuntime  # noqa: PLC0415 - likewise

    daemon = await Embedded.start(config, None, START_S)
    shown: asyncio.Task[None] | None = None
    try:
        runtime = await AgentRuntime.connect(daemon.socket)
        stream = runtime.events(["agent.renewal"], agent=name) if watch else None
        shown = asyncio.create_task(_show_log(session, daemon.socket, name))
        await runtime.spawn_agent(name, **spec)
        status = await _run(session, runtime, name, objective, task)
        if stream is None:
            return status
        session.note("corral: waits for a change of its sources; Ctrl-C ends it")
        async for event in stream:
            session.note(f"corral: {event.fields.get('reason', 'changed')}")
            if event.fields.get("ok"):
                await runtime.restart_agent(name)
                await _run(session, runtime, name, objective, task)
        return status
    finally:
        await daemon.stop()
        if shown is not None:
            await asyncio.wait({shown}, timeout=READ_S)
            shown.cancel()


async def _run(session: Session, runtime: Any, name: str, objective: str, task: Mapping[str, Any]) -> int:
    try:
        output = await runtime.run_agent(name, objective, **task)
    except CorralError as error:
        if session.json:
            session.print_json({"error": error.to_record()})
        else:
            print(f"corral: {render.one_line(error.message)}", file=sys.stderr)
        return error.exit_status
    if session.json:
        session.print_json({"output": output})
    elif output is not None:
        session.print_foreign(render.output_text(output))
    session.stdout.flush()
    return 0


async def _show_log(session: Session, socket: str, name: str) -> None:
    from corral.worker.client.async_ import Stream  # noqa: PLC0415 - start-up time: asyncio

    stream = await Stream.open(socket)
    try:
        await stream.connection.call("log.follow", {})
        async for notification in stream:
            for record in render.inners(notification.params, "records"):
                if record.get("agent") == name:
                    text = render.one_line(render.word(record, "text"))
                    session.note(f"{render.word(record, 'worker')} | {text}")
    except CorralError:
        return  # the daemon has ended
    finally:
        await stream.connection.close()
