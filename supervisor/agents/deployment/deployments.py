"""Carries out deployments: find, verify, check needs, install, roll; and promotes, aborts and lists them.

Guarantees one deployment of an agent at a time, and a record that says how it ended, after a kill -9 too. Nothing here
touches what serves: `RunningSet.roll` alone moves it, in a transaction of its own. A deployment outlives the call that
asked for it. Its state at rest follows from the spec in force: the version in whose folder the agent works is current.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from corral.supervisor.config.spec.allowed import check_table
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.config.spec.template_spec import merge
from corral.supervisor.workers.supervision.shared import utc_now
from corral.worker.contract.errors import (
    Cancelled,
    Conflict,
    CorralError,
    Corrupted,
    InternalError,
    InvalidParams,
    NotFound,
    Timeout,
    WorkerFailed,
)
from corral.worker.contract.names import SEPARATOR, tenant_of
from corral.worker.control.deployments import Deployment, DeploymentCheck, DeployParams

from .folders import OF_TENANT, remove
from .installer import Installer
from .plan import UNFINISHED, Package, PackageSource, agent_table, kept_settings, missing, words
from .records import Records
from .runner import Limits
from .running_set import Change, RunningSet

KEPT_VERSIONS = 5
"""Number of versions of an agent that have served, whose files are kept for a rollback."""

QUIET_S = 15.0
"""Seconds to wait for the last workers of a version that was taken back: they had no task, or finish one."""

INSTALLING_MAX = 4
"""Number of deployments that install at a time; others wait for their turn."""

logger = logging.getLogger(__name__)


class Deployments:
    """Holds the deployments of one daemon."""

    def __init__(
        self,
        records: Records,
        installer: Installer,
        packages: PackageSource,
        agents: RunningSet,
        path: str,
        folder_of: Callable[[str], str],
    ) -> None:
        self._folder_of = folder_of
        self._records = records
        self._installer = installer
        self._packages = packages
        self._agents = agents
        self._path = path
        self._running: dict[str, asyncio.Task[Deployment]] = {}
        self._canaries: dict[str, asyncio.Task[None]] = {}
        self._aborted: set[str] = set()
        self._turns = asyncio.Semaphore(INSTALLING_MAX)
        self._left: list[Path] = []

    async def load(self) -> None:
        """Reads the records, and ends those that an earlier daemon left unfinished; after the agents were loaded."""
        self._left = await asyncio.to_thread(self._installer.prepare)
        await self._records.load()
        for record in self._records.where(lambda r: r.state in UNFINISHED):
            if record.first and self._agents.spec_of(record.agent) is not None:
                await self._agents.remove(record.agent)  # it had not proved itself
            if self._serves(record):
                await self._records.put(_succeeded(record))
            else:
                text = f'cannot deploy "{record.agent}": the daemon ended'
                await self._records.fail(record.deployment, Cancelled(text))

    @property
    def is_busy(self) -> bool:
        """Returns whether a deployment is under way."""
        return bool(self._running or self._canaries)

    async def clean(self) -> None:
        """Removes what an earlier daemon left, and what no spec and no revision refers to."""
        left, self._left = self._left, []
        for path in left:
            await asyncio.to_thread(remove, path)
        if not self._running:
            await self._collect()

    async def close(self) -> None:
        """Gives up what is under way; the next daemon finds it unfinished."""
        tasks: set[asyncio.Future[Deployment] | asyncio.Future[None]]
        tasks = {*self._running.values(), *self._canaries.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def listed(self, name: str | None = None, limit: int = 50) -> list[Deployment]:
        """Returns the last deployments of an agent, newest first; without a name those of all agents."""
        found = self._records.where(lambda r: name is None or r.agent == name)
        return [self._shown(record) for record in reversed(found[-limit:])]

    def of(self, number: int) -> Deployment:
        """Returns one deployment."""
        return self._shown(self._records.of(number))

    def users_of(self, package: str, digest: str) -> list[str]:
        """Returns the agents that serve a version of a package with these bytes, can roll back to it, or are about to get it."""
        kept = {record.deployment for record in self._kept()}
        found = self._records.where(lambda r: (r.package, r.digest) == (package, digest) and r.deployment in kept)
        return sorted({record.agent for record in found})

    def _kept(self) -> list[Deployment]:
        """Returns the deployments whose files are kept: those under way, and the last that served of each agent that is there."""
        found = self._records.where(lambda r: r.state in UNFINISHED)
        served: dict[str, list[Deployment]] = {}
        for record in self._records.where(lambda r: r.state == "current"):
            served.setdefault(record.agent, []).append(record)
        for name, records in served.items():
            if self._agents.spec_of(name) is not None:
                found += [r for r in records[:-KEPT_VERSIONS] if self._serves(r)]
                found += records[-KEPT_VERSIONS:]
        return found

    def _serves(self, record: Deployment) -> bool:
        spec = self._agents.spec_of(record.agent)
        return spec is not None and spec.process.working_directory == record.folder

    def _shown(self, record: Deployment) -> Deployment:
        if record.state != "current" or self._serves(record):
            return record
        return replace(record, state="superseded")

    async def deploy(self, params: DeployParams, by: str) -> Deployment:
        """Deploys a version; returns its record once it serves, a share of the workers has it, or it has failed. A cancelled caller leaves it under way."""
        package = await self._packages.find(params.package)
        name = params.agent or package.name
        self._check_owner(package.name, name)
        if name in self._running or name in self._canaries:
            state = "is under way" if name in self._running else "waits to be promoted or aborted"
            raise Conflict(f'cannot deploy "{name}": another deployment of it {state}', name=name)
        last = next((each for each in self.listed(name) if each.state == "current"), None)
        settings = kept_settings({} if last is None else last.settings, params.settings)
        if tenant := tenant_of(package.name):
            check_table("agent", name, merge(package.table, settings), self._folder_of(tenant))
        number = self._records.next_number()
        folder = str(self._installer.files_of(_folder_name(name, number)))
        spec = self._agents.decode(name, agent_table(package, settings, folder, "", self._path))
        record = Deployment(
            deployment=number,
            agent=name,
            package=package.name,
            version=package.version,
            digest=package.digest,
            state="installing",
            first=self._agents.spec_of(name) is None,
            canary_percent=params.canary_percent,
            promote_after_s=params.promote_after_s,
            settings=settings,
            checks=[DeploymentCheck(name="package", state="passed")],
            by=by,
            why=params.why,
            folder=folder,
            created_at=utc_now(),
        )
        carried_out = self._carried_out(record, package, spec, params.timeout_s)
        task = asyncio.get_running_loop().create_task(carried_out)
        self._running[name] = task
        task.add_done_callback(functools.partial(self._ended, name))
        return await asyncio.shield(task)

    def _check_owner(self, package: str, name: str) -> None:
        """Refuses to deploy the package of a tenant as an agent of another owner, whose rights it would have."""
        tenant = tenant_of(package)
        if tenant and tenant_of(name) != tenant:
            reason = f'its package is one of the tenant "{tenant}": deploy it as {tenant}/NAME'
            raise InvalidParams(f'cannot deploy "{name}": {reason}', key="agent", value=name, reason=reason)

    async def forget(self, tenant: str) -> None:
        """Gives up the deployments of a tenant that is removed, and drops their records; its rows and files are erased with it."""
        tasks: list[asyncio.Future[Deployment] | asyncio.Future[None]] = []
        for held in (self._running, self._canaries):
            tasks += [task for name, task in held.items() if tenant_of(name) == tenant]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._records.forget(tenant)

    def _ended(self, name: str, task: asyncio.Task[Deployment]) -> None:
        del self._running[name]
        self._aborted.discard(name)
        if not task.cancelled():
            task.exception()  # its caller may have gone

    async def _carried_out(
        self, record: Deployment, package: Package, spec: Spec, timeout_s: float | None
    ) -> Deployment:
        await self._records.put(record)
        number, name = record.deployment, record.agent
        try:
            async with asyncio.timeout(timeout_s):
                self._check_needs(record, package)
                async with self._turns:
                    table = await self._install(number, package, spec)
                return await self._roll(number, table)
        except TimeoutError:
            assert timeout_s is not None, "nothing else ends it so"
            text = f'cannot deploy "{name}" within {timeout_s:g} s'
            return await self._fail(number, Timeout(text, name=name, limit=timeout_s))
        except CorralError as error:
            return await self._fail(number, error)
        except asyncio.CancelledError:
            if name not in self._aborted:
                raise  # the daemon ends
            return await self._fail(number, _was_aborted(record))
        except Exception as error:
            logger.exception("deployment %d has met a defect", number)
            await self._fail(number, InternalError(f'cannot deploy "{name}": {error!r}'))
            raise

    def _check_needs(self, record: Deployment, package: Package) -> None:
        commands = [need.name for need in package.needs if need.kind == "commands"]
        lacking = missing(package.needs, self._agents.facts(commands, tenant_of(record.agent)))
        required = [need for need in lacking if not need.is_optional]
        if not required:
            self._records.check(record, "needs", "passed", words(lacking))
            return
        self._records.check(record, "needs", "failed", words(required))
        text = f'cannot deploy "{record.agent}": {words(required)}'
        raise NotFound(text, name=record.agent, missing=[{"kind": need.kind, "name": need.name} for need in required])

    async def _install(self, number: int, package: Package, spec: Spec) -> dict[str, object]:
        dependencies = package.dependencies
        if not dependencies.lock:
            dependencies = replace(dependencies, lock=await self._records.lock_of(package.digest, tenant_of(spec.name)))

        def unpack(target: Path) -> None:
            self._packages.unpack(package, target)

        def on_step(step: str) -> None:
            self._records.note(replace(self._records.of(number), step=step))

        name = _folder_name(spec.name, number)
        try:
            found = await self._installer.install(spec, dependencies, unpack, name, Limits(), on_step)
        except CorralError as error:
            what = "package" if isinstance(error, Corrupted) else "install"
            self._records.check(self._records.of(number), what, "failed", error.message)
            raise
        record = replace(self._records.of(number), environment=found.environment)
        record = self._records.check(record, "install", "passed")
        await self._records.put(replace(record, state="rolling", step="roll"), lock=found.lock)
        return agent_table(package, record.settings, record.folder, found.python, self._path)

    async def _roll(self, number: int, table: dict[str, object]) -> Deployment:
        record = self._records.of(number)
        percent = record.canary_percent
        share = 1.0 if percent is None or record.first else percent / 100
        package = f"{record.package}@{record.version}"
        change = Change(package=package, by=record.by, why=record.why, share=share)
        try:
            revision = await self._agents.roll(record.agent, table, change)
        except CorralError as error:
            self._records.check(self._records.of(number), "ready", "failed", error.message)
            raise
        record = self._records.check(replace(record, revision=revision), "ready", "passed")
        if share == 1.0:
            return await self._succeed(record)
        held = await self._records.put(replace(record, state="canary", step=""))
        watch = asyncio.get_running_loop().create_task(self._watch(held))
        self._canaries[held.agent] = watch
        watch.add_done_callback(lambda _: self._canaries.pop(held.agent, None))
        return held

    async def _succeed(self, record: Deployment) -> Deployment:
        record = await self._records.put(_succeeded(record))
        await self._collect(record.agent)
        return record

    async def _fail(self, number: int, error: CorralError) -> Deployment:
        """Keeps why a deployment failed, once what was there before is in force; its folder is removed."""
        record = self._records.of(number)
        if record.state != "installing":
            with contextlib.suppress(CorralError):
                await self._agents.abort(record.agent, error.message)
        record = await self._records.fail(number, error)
        with contextlib.suppress(TimeoutError):  # else the next one removes its folder
            async with asyncio.timeout(QUIET_S):
                await self._agents.quiet(record.agent)
        await self._collect(record.agent)
        return record

    async def promote(self, name: str) -> Deployment:
        """Gives the rest of the workers the version of the canary; returns its record once all have it, or it has failed."""
        record = await self._taken(name, "promote")
        return await asyncio.shield(self._promoting(record))

    def _promoting(self, record: Deployment) -> asyncio.Task[Deployment]:
        task = asyncio.get_running_loop().create_task(self._promoted(record))
        self._running[record.agent] = task
        task.add_done_callback(functools.partial(self._ended, record.agent))
        return task

    async def abort(self, name: str) -> Deployment:
        """Takes back a canary, or gives up a deployment that is under way; returns its record."""
        running = self._running.get(name)
        if running is not None:
            self._aborted.add(name)
            running.cancel()
            return await asyncio.shield(running)
        record = await self._taken(name, "abort")
        return await self._fail(record.deployment, _was_aborted(record))

    async def _watch(self, record: Deployment) -> None:
        """Promotes a canary after its time, and takes it back when one of its workers fails before."""
        failing = asyncio.ensure_future(self._agents.failed(record.agent))
        try:
            done, _ = await asyncio.wait({failing}, timeout=record.promote_after_s)
        finally:
            failing.cancel()
        if not done:
            self._promoting(record)
            return
        reason = failing.result()
        text = f'cannot deploy "{record.agent}": its canary failed: {reason}'
        self._records.check(self._records.of(record.deployment), "canary", "failed", reason)
        await self._fail(record.deployment, WorkerFailed(text, name=record.agent, result=reason))

    async def _promoted(self, record: Deployment) -> Deployment:
        number = record.deployment
        record = await self._records.put(replace(record, state="rolling", step="promote"))
        try:
            await self._agents.promote(record.agent)
        except CorralError as error:
            return await self._fail(number, error)
        except asyncio.CancelledError:
            if record.agent not in self._aborted:
                raise
            return await self._fail(number, _was_aborted(record))
        return await self._succeed(self._records.check(record, "canary", "passed"))

    async def _taken(self, name: str, what: str) -> Deployment:
        """Returns the canary of an agent, which is watched no more."""
        watch = self._canaries.get(name)
        if watch is None:
            raise Conflict(f'cannot {what} "{name}": no canary of it waits', name=name)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        found = self._records.where(lambda r: r.agent == name and r.state == "canary")
        if not found:
            raise Conflict(f'cannot {what} "{name}": its canary has just ended', name=name)
        return found[-1]

    async def _collect(self, own: str = "") -> None:
        """Removes installed versions and environments that nothing refers to; not while others than `own` are installed."""
        if self._running.keys() - {own}:
            return  # the last of them does it
        installed, environments = self._installer.installed, self._installer.environments
        kept, referred = self._kept(), self._agents.referred()
        names = {Path(each).parent.name for each in (*referred, *(r.folder for r in kept))}
        keys = {environments.key_of(each) for each in referred} | {r.environment for r in kept}
        unused = await asyncio.to_thread(lambda: [*installed.unused(names), *environments.folders.unused(keys)])
        for path in unused:
            await asyncio.to_thread(remove, path)


def _succeeded(record: Deployment) -> Deployment:
    return replace(record, state="current", step="", finished_at=utc_now())


def _was_aborted(record: Deployment) -> Cancelled:
    text = f'cannot deploy "{record.agent}": deployment {record.deployment} was aborted'
    return Cancelled(text, name=record.agent, deployment=record.deployment)


def _folder_name(agent: str, number: int) -> str:
    return f"{agent.replace(SEPARATOR, OF_TENANT)}-{number}"
