"""Starts the gateway when the first worker needs it, feeds it, and starts it again when it has died.

One process serves all workers, as a unit of the launcher: it dies with the daemon, and the daemon's loop copies no data.
The daemon keeps each listening socket, so that a new gateway goes on where the old one has ended; calls are lost then,
workers are not. The keys of providers reach it over a socket pair: they are in no command line, environment or file.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec

from corral.supervisor.agents.running.registry import Registry
from corral.supervisor.config.declared.models import DeclaredModel
from corral.supervisor.config.secrets.secrets import Secrets
from corral.supervisor.machine.isolation.levels import MODEL_PORT, Sandbox
from corral.supervisor.workers.process.helper_process import HelperProcess, Program
from corral.supervisor.workers.process.instance_spec import instance_of
from corral.supervisor.workers.process.launch import Host, Order, has_own_network
from corral.supervisor.workers.process.launcher_client import Launcher
from corral.worker.contract.errors import CorralError, SpawnFailed

from ..gateway.keys import Keys, variables
from ..gateway.shapes import Endpoint
from .answers import Answers
from .desk import ModelDesk, Recall


class ModelEndpoints:
    """Reads the models of one daemon, as they are declared now."""

    def __init__(self, registry: Registry, secrets: Secrets) -> None:
        self._registry = registry
        self._secrets = secrets

    async def read(self) -> Sequence[Endpoint]:
        """Returns all models; one whose secret is not there has a problem in place of a key."""
        return await asyncio.to_thread(lambda: list(map(self._endpoint, self._registry.config.models.values())))

    def _endpoint(self, model: DeclaredModel) -> Endpoint:
        key, headers, problem = "", {}, ""
        owner = f"models.{model.name}"
        try:
            key = self._secrets.expand({"key": model.key}, owner, "key")["key"]
            headers = self._secrets.expand(model.headers, owner, "header")
        except SpawnFailed as error:
            problem = error.message
        return Endpoint(
            name=model.name,
            kind=model.kind,
            base=model.address,
            key=key,
            headers=headers,
            model=model.model,
            retries=model.max_retries,
            timeout_s=model.timeout,
            concurrent=model.max_concurrent_calls,
            problem=problem,
        )


REFRESH_S = 10.0
"""Seconds after which keys are read again when a call comes: a secret may have changed."""
BACKLOG = 512
PROGRAM = Program(
    title="the gateway of models",
    unit="corral.models",
    module="models.gateway.program",
    environment=(
        *("PATH", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "no_proxy"),
    ),
)

log = logging.getLogger(__name__)


class ModelGateway:
    """Represents the gateway; for use in one event loop."""

    def __init__(
        self,
        launcher: Launcher,
        host: Host,
        generation: int,
        desk: ModelDesk,
        endpoints: ModelEndpoints,
        answers: Answers,
    ) -> None:
        self._desk = desk
        self._answers = answers
        self._answering: set[asyncio.Task[None]] = set()
        self._endpoints = endpoints
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[str, int] = {}
        self._port = 0
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = 0.0
        self._is_fed = False  # the process has the models, and is told of each socket
        self._is_closed = False
        self._process = HelperProcess(
            launcher, host, generation, PROGRAM, on_start=self._begin, on_message=self._on_message, on_end=self._ended
        )

    @property
    def pid(self) -> int | None:
        """Returns the pid of the process, None while there is none."""
        return self._process.pid

    @property
    def restarts(self) -> int:
        """Returns the number of times that a dead one was replaced."""
        return self._process.restarts

    def port(self) -> int:
        """Returns the port of the gateway on the loopback of the machine, and starts it."""
        if not self._port:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", 0))
            sock.listen(BACKLOG)
            self._port = sock.getsockname()[1]
            self._listen("", sock.detach())
        return self._port

    def open(self, unit: str, _sandbox: Sandbox, listener_fd: int) -> None:
        """Serves at a socket in the network of a worker; it belongs to this object from now on."""
        self._listen(unit, listener_fd)

    def _listen(self, unit: str, listener_fd: int) -> None:
        """Serves at a socket: of the network of a unit, "" for the machine's."""
        if self._is_closed:
            os.close(listener_fd)
            return
        self._listeners[unit] = listener_fd
        if self._is_fed:
            self._send_listener(unit)
        self._process.start()

    def close(self, unit: str) -> None:
        """Ends the calls of a worker that is gone."""
        found = self._listeners.pop(unit, None)
        if found is not None:
            os.close(found)
        self._process.send({"op": "close", "unit": unit})

    def refresh(self) -> None:
        """Reads the models and their keys again."""
        self._refreshed_at = self._loop.time()
        if self._process.is_up and self._refreshing is None:
            self._refreshing = self._loop.create_task(self._feed())
            self._refreshing.add_done_callback(self._refreshed)

    def settle(self) -> None:
        """Takes what the gateway has told until now."""
        self._process.read()

    async def end(self) -> None:
        """Ends the gateway."""
        self._is_closed = True
        await self._process.end()
        under_way = [*self._answering, *([] if self._refreshing is None else [self._refreshing])]
        for each in under_way:
            each.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        for listener_fd in self._listeners.values():
            os.close(listener_fd)
        self._listeners.clear()

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled() and task.exception() is not None:
            log.error("cannot read the models: %s", task.exception())

    async def _feed(self) -> None:
        self._process.send({"op": "models", "models": msgspec.to_builtins(await self._endpoints.read())})

    def _send_journal(self) -> None:
        try:
            name, fd = self._desk.journal()
        except CorralError as error:  # calls are counted all the same, as long as no process dies
            log.error("%s", error.message)
            return
        self._process.send({"op": "journal", "name": name}, [fd])

    def _send_listener(self, unit: str) -> None:
        self._process.send({"op": "listen", "unit": unit}, [os.dup(self._listeners[unit])])

    async def _begin(self) -> None:
        """Sends a new process its journal, the models, and then its sockets: a call comes once its model is known."""
        self._refreshed_at = self._loop.time()
        self._send_journal()
        await self._feed()
        self._is_fed = True
        for unit in self._listeners:
            self._send_listener(unit)

    def _ended(self) -> None:
        self._is_fed = False
        for each in self._answering:
            each.cancel()  # the next process numbers its calls anew
        self._desk.lost()

    def _on_message(self, message: Any) -> None:  # Any: JSON
        if message.get("op") == "used":
            if self._desk.used(message) and self._process.is_up:
                self._send_journal()
        elif message.get("op") == "closed":
            self._desk.closed(message["journal"])
        elif message.get("op") == "ask":
            if self._loop.time() > self._refreshed_at + REFRESH_S:
                self.refresh()
            decision = self._desk.decide(message)
            if isinstance(decision, Recall):
                self._answer_soon(self._recall(message, decision))
            else:
                self._process.send({**decision, "call": message["call"]})
        elif message.get("op") == "keep":
            self._answer_soon(self._keep(message))

    def _answer_soon(self, answering: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(answering)
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _recall(self, asked: Any, recall: Recall) -> None:  # Any: JSON
        decision = await self._answers.recall(recall)
        if decision is None:
            found = self._desk.decide(asked, is_new=True)
            assert not isinstance(found, Recall), "it is new"
            decision = found
        self._process.send({**decision, "call": asked["call"]})

    async def _keep(self, told: Any) -> None:  # Any: JSON
        await self._answers.keep(told)
        self._process.send({"op": "kept", "call": told["call"]})


class ModelAccess:
    """Gives access to the models of one daemon."""

    def __init__(self, keys: Keys, registry: Registry, gateway: ModelGateway) -> None:
        self._keys = keys
        self._registry = registry
        self._gateway = gateway

    async def given(self, order: Order) -> Order:
        """Gives access to one incarnation of a worker, none to checks and other commands of it: a launch step."""
        spec, unit = order.spec, order.unit
        if not spec.models:
            return order
        models = self._registry.config.models
        named = [models[name] for name in spec.models if name in models]
        if not named or "." in unit.partition("#")[0] or instance_of(unit) is None:
            return order
        port = MODEL_PORT if has_own_network(spec.process) else self._gateway.port()
        own = variables(named, f"http://127.0.0.1:{port}", self._keys.of(unit))
        return order._replace(variables={**order.variables, **own}, model_port=port)
