# written by docs/reference/python.py; do not edit
# ruff: noqa: A002 - parameters have the names that the daemon has for them
"""Defines a typed coroutine for each method of the daemon; `runtime.AgentRuntime` has these methods, and more.

Each sends its params to the daemon and decodes the answer. It must not decide anything.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from ..contract.approvals import Approval
from ..contract.records import AgentStatus, ScheduleRecord, Task, TaskParams
from ..control.access import (
    NewToken,
    TokenAddParams,
    TokenList,
    TokenNameParams,
    TokenRemoved,
    TokenRotateParams,
    Whoami,
)
from ..control.approvals import ApprovalAnswerParams, ApprovalListParams, ApprovalParams, Approvals
from ..control.backup import (
    BackupDiscardParams,
    BackupMade,
    BackupParams,
    BackupPiece,
    BackupReadParams,
    Exported,
    ExportParams,
    Imported,
    ImportParams,
)
from ..control.deployments import (
    CanaryParams,
    Deployment,
    DeploymentParams,
    Deployments,
    DeploymentsParams,
    DeployParams,
)
from ..control.logins import LoggedOut, Login, LoginFinishParams, LoginParams, Logins, LoginStarted, LogoutParams
from ..control.metrics import (
    MetricsHistory,
    MetricsHistoryParams,
    MetricsLatest,
    MetricsLatestParams,
    MetricsTop,
    MetricsTopParams,
)
from ..control.nodes import Node, NodeParams, Nodes
from ..control.packages import (
    PackageAddParams,
    PackageDetails,
    PackageListParams,
    PackageParams,
    PackageRecord,
    PackageRecords,
    PackageUpload,
    PackageUploadParams,
)
from ..control.params import (
    AddAllParams,
    Addition,
    AgentSetParams,
    AuditParams,
    CallParams,
    CheckpointIdParams,
    CheckpointListParams,
    CheckpointRemoveParams,
    CheckpointSaveParams,
    EventParams,
    EventPublishParams,
    ExposeParams,
    GroupAddParams,
    HibernateParams,
    LogLevelParams,
    LogParams,
    MemoryCleanupParams,
    MemoryClearParams,
    MemoryExpireParams,
    MemoryFindParams,
    MemoryKeyParams,
    MemoryListParams,
    MemoryPutParams,
    MemoryShowParams,
    MemoryStatsParams,
    NameParams,
    NamesParams,
    NoParams,
    ReadParams,
    ReloadParams,
    RemoveParams,
    RunCommandParams,
    ScaleParams,
    ScheduleCommandParams,
    ScheduleNameParams,
    ScheduleParams,
    SchemaParams,
    SecretRemoveParams,
    SecretRotateParams,
    SecretSetParams,
    SelectionParams,
    SignalParams,
    StatisticsParams,
    StatusParams,
    TaskListParams,
    TasksParams,
    TaskTreeParams,
    ToolsParams,
    VerifyParams,
)
from ..control.reports import CostParams, Costs, TaskLog, TaskLogParams
from ..control.results import (
    AgentsAdded,
    AgentsChanged,
    AgentShown,
    AuditPage,
    AuditVerdict,
    CommandRun,
    Diagnosis,
    Done,
    EmergencyStopped,
    Events,
    Exposed,
    LogLevelSet,
    LogLines,
    Names,
    Prompts,
    Published,
    QuotaList,
    Reloaded,
    Removed,
    Resources,
    Schedules,
    ScheduleShown,
    SecretRotated,
    Secrets,
    SecretUse,
    Servers,
    Stopping,
    TaskNode,
    TaskPage,
    TasksDiscarded,
    TasksRetried,
    Teams,
    TeamShown,
    Tools,
    Workflows,
    WorkflowShown,
)
from ..control.revisions import (
    RevisionDiff,
    RevisionDiffParams,
    RevisionListParams,
    Revisions,
    RevisionShown,
    RevisionShowParams,
    RollbackParams,
    RolledBack,
)
from ..control.runtime_results import Agents, AgentSet, Models, RuntimeStatistics, Stores, Templates
from ..control.state_results import (
    Checkpoints,
    CheckpointShown,
    CheckpointsRemoved,
    Items,
    MemoryPools,
    MemoryRemoved,
    MemoryStatistics,
    SessionExpiry,
    Sessions,
    SessionShown,
    Value,
)
from ..control.tenants import (
    TenantAdded,
    TenantAddParams,
    TenantChanged,
    TenantNameParams,
    TenantRemoved,
    Tenants,
    TenantSetParams,
    TenantShown,
    TenantShowParams,
    TenantSwitched,
)
from .async_ import Reconnecting
from .parameters import given


class Methods:
    """Calls the methods of a daemon over one connection.

    Each raises the CorralError that the daemon answers.
    """

    def __init__(self, connection: Reconnecting) -> None:
        self._connection = connection

    async def add_agents(
        self,
        agents: Sequence[Addition | Mapping[str, object]],
        *,
        start: bool = True,
        wait: bool = True,
        present: Literal["refuse", "keep", "replace"] = "refuse",
        dry_run: bool = False,
    ) -> AgentsAdded:
        """Adds several agents and MCP servers, all or none; `failures` has those that did not start.

        `added`, `changed` (with the keys) and `unchanged` are the names, also those of a dry run.

        Needs the right "admin".
        """
        params = given(AddAllParams, agents=agents, start=start, wait=wait, present=present, dry_run=dry_run)
        return await self._connection.ask(AgentsAdded, "agent.add_all", params)

    async def expose_agent(
        self, name: str, address: str | None, *, auth: Literal["token", "none"] = "token"
    ) -> Exposed:
        """Serves an agent, team or workflow alone over HTTP at an address, or no longer; kept until it is removed.

        Needs the right "admin".
        """
        params = given(ExposeParams, name=name, address=address, auth=auth)
        return await self._connection.ask(Exposed, "agent.expose", params)

    async def hibernate_agents(
        self,
        names: Sequence[str] = (),
        *,
        selector: str | None = None,
        timeout_s: float | None = None,
        force: bool = False,
    ) -> AgentsChanged:
        """Saves a checkpoint of agents or workers, and ends their processes until a task, `wake` or `start` comes.

        Needs the right "operate".
        """
        params = given(HibernateParams, names=names, selector=selector, timeout_s=timeout_s, force=force)
        return await self._connection.ask(AgentsChanged, "agent.hibernate", params)

    async def list_agents(
        self, names: Sequence[str] | None = None, *, selector: str | None = None, failed: bool = False
    ) -> Agents:
        """Lists the status of agents and MCP servers: of all, or of those that the params choose.

        Needs the right "read".
        """
        params = given(StatusParams, names=names, selector=selector, failed=failed)
        return await self._connection.ask(Agents, "agent.list", params)

    async def pause_agents(
        self, names: Sequence[str] = (), *, all: bool = False, selector: str | None = None
    ) -> AgentsChanged:
        """Freezes agents or workers with all their processes, until they are resumed, stopped or die.

        Needs the right "operate".
        """
        params = given(SelectionParams, names=names, all=all, selector=selector)
        return await self._connection.ask(AgentsChanged, "agent.pause", params)

    async def reset_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> AgentsChanged:
        """Forgets failures: agents that are wanted and have given up start again.

        Needs the right "operate".
        """
        params = given(NamesParams, names=names, all=all, selector=selector, wait=wait, timeout_s=timeout_s)
        return await self._connection.ask(AgentsChanged, "agent.reset", params)

    async def restart_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> AgentsChanged:
        """Stops agents or workers, starts them again and waits until they are ready; leaves out jobs that neither run nor are named.

        Needs the right "operate".
        """
        params = given(NamesParams, names=names, all=all, selector=selector, wait=wait, timeout_s=timeout_s)
        return await self._connection.ask(AgentsChanged, "agent.restart", params)

    async def resume_agents(
        self, names: Sequence[str] = (), *, all: bool = False, selector: str | None = None
    ) -> AgentsChanged:
        """Lets paused agents or workers run again.

        Needs the right "operate".
        """
        params = given(SelectionParams, names=names, all=all, selector=selector)
        return await self._connection.ask(AgentsChanged, "agent.resume", params)

    async def remove_agents(
        self,
        names: Sequence[str] = (),
        *,
        name: str | None = None,
        selector: str | None = None,
        cascade: bool = False,
        expected: str | None = None,
    ) -> Removed:
        """Stops agents and MCP servers and removes them, all or none; returns the removed names.

        Needs the right "admin".
        """
        params = given(RemoveParams, name=name, names=names, selector=selector, cascade=cascade, expected=expected)
        return await self._connection.ask(Removed, "agent.rm", params)

    async def rollback_agent(
        self,
        name: str,
        *,
        revision: int | None = None,
        version: str | None = None,
        why: str = "",
        expected: str | None = None,
        dry_run: bool = False,
        wait: bool = False,
        timeout_s: float | None = None,
    ) -> RolledBack:
        """Puts the table of an earlier revision in force again, as a new revision; also of a server, team or workflow.

        Needs the right "admin".
        """
        params = given(
            RollbackParams,
            name=name,
            revision=revision,
            version=version,
            why=why,
            expected=expected,
            dry_run=dry_run,
            wait=wait,
            timeout_s=timeout_s,
        )
        return await self._connection.ask(RolledBack, "agent.rollback", params)

    async def run_command(
        self,
        name: str,
        argv: Sequence[str],
        *,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        working_directory: str | None = None,
        timeout_s: float = 60.0,
        max_output_bytes: int = 1048576,
    ) -> CommandRun:
        """Runs a command as `agent.exec` does, without a terminal, and answers once it has ended.

        The command is killed after `timeout_s`, or when its worker ends; the answer has what it printed until then.

        Needs the right "admin".
        """
        params = given(
            RunCommandParams,
            name=name,
            argv=argv,
            stdin=stdin,
            environment=environment,
            working_directory=working_directory,
            timeout_s=timeout_s,
            max_output_bytes=max_output_bytes,
        )
        return await self._connection.ask(CommandRun, "agent.run_command", params)

    async def scale_agent(self, name: str, instances: int, *, wait: bool = True) -> AgentStatus:
        """Changes the number of workers of an agent; of a placed one that of its replicas on all nodes together.

        Needs the right "operate".
        """
        params = given(ScaleParams, name=name, instances=instances, wait=wait)
        return await self._connection.ask(AgentStatus, "agent.scale", params)

    async def set_agent(
        self,
        name: str,
        spec: Mapping[str, object],
        *,
        expected: str | None = None,
        why: str = "",
        dry_run: bool = False,
        wait: bool = False,
        timeout_s: float | None = None,
    ) -> AgentSet:
        """Changes keys of an agent, server, team or workflow; each change is a revision.

        Needs the right "admin".
        """
        params = given(
            AgentSetParams,
            name=name,
            spec=spec,
            expected=expected,
            why=why,
            dry_run=dry_run,
            wait=wait,
            timeout_s=timeout_s,
        )
        return await self._connection.ask(AgentSet, "agent.set", params)

    async def show_agent(self, name: str) -> AgentShown:
        """Returns one agent in full: its spec (values of environment and headers hidden), last exits, the end of its stderr.

        While a change is rolled out, the spec is the new one; `agent.rolling` says how far that is.

        Of a team or workflow: its spec.

        Needs the right "read".
        """
        params = given(NameParams, name=name)
        return await self._connection.ask(AgentShown, "agent.show", params)

    async def signal_agents(
        self, signal: str, names: Sequence[str] = (), *, name: str | None = None, selector: str | None = None
    ) -> Names:
        """Sends a signal to the leader of each worker that runs.

        Needs the right "operate".
        """
        params = given(SignalParams, signal=signal, name=name, names=names, selector=selector)
        return await self._connection.ask(Names, "agent.signal", params)

    async def start_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> AgentsChanged:
        """Starts agents or workers and waits until they are ready, jobs until they have succeeded.

        A choice that does not name them leaves out jobs that have succeeded, or that are not to start by themselves.

        Needs the right "operate".
        """
        params = given(NamesParams, names=names, all=all, selector=selector, wait=wait, timeout_s=timeout_s)
        return await self._connection.ask(AgentsChanged, "agent.start", params)

    async def stop_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> AgentsChanged:
        """Stops agents or workers and waits until no process of them is left.

        Needs the right "operate".
        """
        params = given(NamesParams, names=names, all=all, selector=selector, wait=wait, timeout_s=timeout_s)
        return await self._connection.ask(AgentsChanged, "agent.stop", params)

    async def wake_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> AgentsChanged:
        """Starts hibernated agents or workers with their checkpoints, and waits until they are ready.

        Needs the right "operate".
        """
        params = given(NamesParams, names=names, all=all, selector=selector, wait=wait, timeout_s=timeout_s)
        return await self._connection.ask(AgentsChanged, "agent.wake", params)

    async def answer_approval(self, approval: int, answer: str | None) -> Approval:
        """Answers an open question of a task, which goes on with the answer; the first one counts, and null declines a form.

        Needs the right "operate".
        """
        params = given(ApprovalAnswerParams, approval=approval, answer=answer)
        return await self._connection.ask(Approval, "approval.answer", params)

    async def list_approvals(
        self, *, agent: str | None = None, task: str | None = None, ended: bool = False, limit: int = 1000
    ) -> Approvals:
        """Lists the open questions of tasks, the oldest first; with `ended` those that have ended, the newest first.

        Needs the right "read".
        """
        params = given(ApprovalListParams, agent=agent, task=task, ended=ended, limit=limit)
        return await self._connection.ask(Approvals, "approval.list", params)

    async def show_approval(self, approval: int) -> Approval:
        """Returns a question of a task, with its answer where it has one.

        Needs the right "read".
        """
        params = given(ApprovalParams, approval=approval)
        return await self._connection.ask(Approval, "approval.show", params)

    async def list_audit(
        self,
        *,
        since: int | None = None,
        before: int | None = None,
        since_time: float | datetime | None = None,
        until_time: float | datetime | None = None,
        n: int | None = None,
        actions: Sequence[str] | None = None,
        name: str | None = None,
    ) -> AuditPage:
        """Lists audit records, oldest first: the newest `n`, or those after `since`; `next` is the next `before`, or `since`.

        Needs the right "operate".
        """
        params = given(
            AuditParams,
            since=since,
            before=before,
            since_time=since_time,
            until_time=until_time,
            n=n,
            actions=actions,
            name=name,
        )
        return await self._connection.ask(AuditPage, "audit.list", params)

    async def verify_audit(self, *, head: str | None = None) -> AuditVerdict:
        """Verifies the whole chain of hashes; `wrong` is the first record that is not as it was written.

        Needs the right "operate".
        """
        params = given(VerifyParams, head=head)
        return await self._connection.ask(AuditVerdict, "audit.verify", params)

    async def whoami(self) -> Whoami:
        """Returns the caller as this daemon knows it: name, rights and agents.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Whoami, "auth.whoami", params)

    async def discard_backup(self, id: str) -> Done:
        """Removes an archive from the state folder.

        Needs the right "admin".
        """
        params = given(BackupDiscardParams, id=id)
        return await self._connection.ask(Done, "backup.discard", params)

    async def make_backup(self, *, logs: bool = False, secrets: bool = True) -> BackupMade:
        """Makes an archive of the state folder and the configuration, in which is all that was acknowledged before.

        It holds secrets in plain text, unless `secrets` is false. `backup.read` hands it out.

        Needs the right "admin".
        """
        params = given(BackupParams, logs=logs, secrets=secrets)
        return await self._connection.ask(BackupMade, "backup.make", params)

    async def read_backup(self, id: str, *, offset: int = 0) -> BackupPiece:
        """Returns a part of an archive, from `offset` on.

        Needs the right "admin".
        """
        params = given(BackupReadParams, id=id, offset=offset)
        return await self._connection.ask(BackupPiece, "backup.read", params)

    async def list_checkpoints(self, *, name: str | None = None, limit: int = 100) -> Checkpoints:
        """Lists checkpoints without their data, newest first.

        Needs the right "read".
        """
        params = given(CheckpointListParams, name=name, limit=limit)
        return await self._connection.ask(Checkpoints, "checkpoint.list", params)

    async def remove_checkpoints(self, checkpoints: Sequence[int], *, force: bool = False) -> CheckpointsRemoved:
        """Removes checkpoints, all or none; one that a worker is to begin with only with `force`.

        Needs the right "operate".
        """
        params = given(CheckpointRemoveParams, checkpoints=checkpoints, force=force)
        return await self._connection.ask(CheckpointsRemoved, "checkpoint.rm", params)

    async def save_states(self, name: str, *, timeout_s: float | None = None) -> Checkpoints:
        """Saves a checkpoint of one worker, or of each worker of an agent that is up.

        Needs the right "operate".
        """
        params = given(CheckpointSaveParams, name=name, timeout_s=timeout_s)
        return await self._connection.ask(Checkpoints, "checkpoint.save", params)

    async def show_checkpoint(self, checkpoint: int) -> CheckpointShown:
        """Returns one checkpoint with its data.

        Needs the right "read".
        """
        params = given(CheckpointIdParams, checkpoint=checkpoint)
        return await self._connection.ask(CheckpointShown, "checkpoint.show", params)

    async def list_costs(
        self,
        *,
        by: Literal["agent", "session", "tenant", "day", "hour"] = "agent",
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        agent: str | None = None,
        limit: int = 1000,
    ) -> Costs:
        """Returns what ended tasks have used, summed by agent, session, tenant, day or hour; also of agents that were removed.

        Needs the right "read".
        """
        params = given(CostParams, by=by, since=since, until=until, agent=agent, limit=limit)
        return await self._connection.ask(Costs, "cost.list", params)

    async def doctor(self) -> Diagnosis:
        """Checks the machine and the daemon: the features of the kernel, those in force, and the guarantees that hold.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Diagnosis, "daemon.doctor", params)

    async def emergency_stop(self) -> EmergencyStopped:
        """Kills every worker and server at once, cancels every task, and refuses work until `agent.start`.

        Needs the right "operate".
        """
        params = given(NoParams)
        return await self._connection.ask(EmergencyStopped, "daemon.emergency_stop", params)

    async def export(self, names: Sequence[str] | None = None, *, selector: str | None = None) -> Exported:
        """Returns agents, servers, teams, workflows and schedules as TOML, which `corral add --file` takes.

        Before them stand the stores, templates and profiles of the configuration file, which `corrald` takes with the rest; where names are chosen, those
        stores and templates that they use. Secrets are named. Plain values of environments and headers are in it for a caller with the right admin alone.

        Needs the right "read".
        """
        params = given(ExportParams, names=names, selector=selector)
        return await self._connection.ask(Exported, "daemon.export", params)

    async def import_tables(
        self,
        *,
        agents: Sequence[Addition | Mapping[str, object]] = (),
        teams: Mapping[str, Mapping[str, object]] | None = None,
        workflows: Mapping[str, Mapping[str, object]] | None = None,
        schedules: Mapping[str, Mapping[str, object]] | None = None,
        start: bool = True,
        wait: bool = True,
        directory: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Imported:
        """Adds agents, servers, teams, workflows and schedules, all or none; `failures` has the agents that did not start.

        Needs the right "admin".
        """
        params = given(
            ImportParams,
            agents=agents,
            teams=teams,
            workflows=workflows,
            schedules=schedules,
            start=start,
            wait=wait,
            directory=directory,
            environment=environment,
        )
        return await self._connection.ask(Imported, "daemon.import", params)

    async def set_log_level(self, level: Literal["debug", "info", "warning", "error"]) -> LogLevelSet:
        """Sets the log level of the daemon, until a reload or its end; `daemon.status` shows it.

        Needs the right "operate".
        """
        params = given(LogLevelParams, level=level)
        return await self._connection.ask(LogLevelSet, "daemon.log_level", params)

    async def ping(self) -> Done:
        """Answers at once, so that a client knows that the daemon is up.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Done, "daemon.ping", params)

    async def reload(self, *, dry_run: bool = False, wait: bool = False, timeout_s: float | None = None) -> Reloaded:
        """Reads the configuration again, applies the changes and returns them; an invalid file changes nothing.

        Needs the right "admin".
        """
        params = given(ReloadParams, dry_run=dry_run, wait=wait, timeout_s=timeout_s)
        return await self._connection.ask(Reloaded, "daemon.reload", params)

    async def get_schema(
        self,
        *,
        document: Literal["config", "agent", "server", "template", "team", "workflow", "task", "event"] = "config",
    ) -> object:
        """Returns the JSON Schema of the configuration file, of a table in it, of a task, or of an event.

        Needs the right "read".
        """
        params = given(SchemaParams, document=document)
        return await self._connection.ask(object, "daemon.schema", params)

    async def stop_daemon(self) -> Stopping:
        """Stops the daemon, as SIGTERM does: workers end in order, each within its grace period. Answers before that.

        Needs the right "admin".
        """
        params = given(NoParams)
        return await self._connection.ask(Stopping, "daemon.stop", params)

    async def abort_deployment(self, name: str) -> Deployment:
        """Takes back a canary, or gives up a deployment that is under way; answers when the former version is whole again.

        Needs the right "admin".
        """
        params = given(CanaryParams, name=name)
        return await self._connection.ask(Deployment, "deployment.abort", params)

    async def deploy(
        self,
        package: str,
        *,
        agent: str | None = None,
        settings: Mapping[str, object] | None = None,
        canary_percent: int | None = None,
        promote_after_s: float | None = None,
        timeout_s: float | None = None,
        why: str = "",
    ) -> Deployment:
        """Deploys a version of a package as an agent; answers when it serves, its canary does, or it has failed.

        Meanwhile each step is sent as a `deployment.event` notification {event}. A caller that hangs up leaves it under way.

        Needs the right "admin".
        """
        params = given(
            DeployParams,
            package=package,
            agent=agent,
            settings=settings,
            canary_percent=canary_percent,
            promote_after_s=promote_after_s,
            timeout_s=timeout_s,
            why=why,
        )
        return await self._connection.ask(Deployment, "deployment.create", params)

    async def list_deployments(self, *, name: str | None = None, limit: int = 50) -> Deployments:
        """Lists the deployments of one agent or of all, the newest first.

        Needs the right "read".
        """
        params = given(DeploymentsParams, name=name, limit=limit)
        return await self._connection.ask(Deployments, "deployment.list", params)

    async def promote_deployment(self, name: str) -> Deployment:
        """Gives the rest of an agent's workers the version of its canary; answers when all have it, or it has failed.

        Needs the right "admin".
        """
        params = given(CanaryParams, name=name)
        return await self._connection.ask(Deployment, "deployment.promote", params)

    async def show_deployment(self, deployment: int) -> Deployment:
        """Returns one deployment in full.

        Needs the right "read".
        """
        params = given(DeploymentParams, deployment=deployment)
        return await self._connection.ask(Deployment, "deployment.show", params)

    async def list_events(
        self,
        *,
        since: int | str | None = None,
        since_time: float | datetime | None = None,
        n: int | None = None,
        types: Sequence[str] | None = None,
        agent: str | None = None,
        worker: str | None = None,
        task: str | None = None,
        until: int | str | None = None,
    ) -> Events:
        """Lists stored events, oldest first; `next`, where it is not null, is the `since` for more of them.

        Needs the right "read".
        """
        params = given(
            EventParams,
            since=since,
            since_time=since_time,
            n=n,
            types=types,
            agent=agent,
            worker=worker,
            task=task,
            until=until,
        )
        return await self._connection.ask(Events, "event.list", params)

    async def publish(self, type: str, data: object = None) -> Published:
        """Publishes an event to the subscribers of its type; returns its number.

        Needs the right "operate".
        """
        params = given(EventPublishParams, type=type, data=data)
        return await self._connection.ask(Published, "event.publish", params)

    async def read_logs(
        self,
        names: Sequence[str] | None = None,
        *,
        selector: str | None = None,
        task: str | None = None,
        n: int | None = None,
        since: float | datetime | None = None,
        stream: Literal["stdout", "stderr", "log"] | None = None,
        until: float | datetime | None = None,
        level: Literal["debug", "info", "warning", "error", "critical"] | None = None,
        grep: str | None = None,
        previous: bool = False,
        follow: bool = True,
        after: str | None = None,
    ) -> LogLines:
        """Returns the last lines of the logs, merged by time, up to 8 MiB of JSON.

        Needs the right "read".
        """
        params = given(
            LogParams,
            names=names,
            selector=selector,
            task=task,
            n=n,
            since=since,
            stream=stream,
            until=until,
            level=level,
            grep=grep,
            previous=previous,
            follow=follow,
            after=after,
        )
        return await self._connection.ask(LogLines, "log.read", params)

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
        traceparent: str | None = None,
    ) -> object:
        """Calls a tool and returns MCP's result object.

        Needs the right "operate".
        """
        params = given(CallParams, name=name, arguments=arguments, timeout_s=timeout_s, traceparent=traceparent)
        return await self._connection.ask(object, "mcp.call", params)

    async def finish_login(self, name: str, login: str, *, redirect: str | None = None) -> Login:
        """Finishes a login, and starts the server's workers that waited for it; `pending` while a device has not been told yet.

        Needs the right "admin".
        """
        params = given(LoginFinishParams, name=name, login=login, redirect=redirect)
        return await self._connection.ask(Login, "mcp.finish_login", params)

    async def start_login(
        self, name: str, *, port: int = 41357, device: bool = False, scopes: Sequence[str] = ()
    ) -> LoginStarted:
        """Starts a login to a remote MCP server (OAuth): returns the address that a person's browser has to open.

        Needs the right "admin".
        """
        params = given(LoginParams, name=name, port=port, device=device, scopes=scopes)
        return await self._connection.ask(LoginStarted, "mcp.login", params)

    async def list_logins(self) -> Logins:
        """Lists the remote MCP servers with the state of their logins; no token.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Logins, "mcp.logins", params)

    async def logout(self, name: str, *, revoke: bool = True) -> LoggedOut:
        """Forgets the token of a remote MCP server and corral's registration there, and revokes the token.

        Needs the right "admin".
        """
        params = given(LogoutParams, name=name, revoke=revoke)
        return await self._connection.ask(LoggedOut, "mcp.logout", params)

    async def list_prompts(self) -> Prompts:
        """Lists the prompts of all servers, by exposed name; a server that never listed anything is started first.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Prompts, "mcp.prompts", params)

    async def read_resource(self, uri: str, *, timeout_s: float | None = None) -> object:
        """Reads a resource and returns MCP's result object.

        Needs the right "operate".
        """
        params = given(ReadParams, uri=uri, timeout_s=timeout_s)
        return await self._connection.ask(object, "mcp.read", params)

    async def list_resources(self) -> Resources:
        """Lists the resources of all servers and their templates; a server that never listed anything is started first.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Resources, "mcp.resources", params)

    async def list_servers(self) -> Servers:
        """Lists the MCP servers, with the tools that they listed last.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Servers, "mcp.servers", params)

    async def list_tools(self, server: str | None = None) -> Tools:
        """Lists the tools of all servers, or of one; a server that never listed any is started first.

        Needs the right "read".
        """
        params = given(ToolsParams, server=server)
        return await self._connection.ask(Tools, "mcp.tools", params)

    async def clean_up_memory(self, *, agent: str | None = None) -> MemoryRemoved:
        """Removes at once the sessions and keys that have expired, of an agent or of all; returns how many of each.

        Needs the right "operate".
        """
        params = given(MemoryCleanupParams, agent=agent)
        return await self._connection.ask(MemoryRemoved, "memory.cleanup", params)

    async def clear_memory(self, agent: str, *, session: str | None = None) -> MemoryRemoved:
        """Deletes a session of an agent with its keys, or all of them; refused while a task works on it.

        Needs the right "operate".
        """
        params = given(MemoryClearParams, agent=agent, session=session)
        return await self._connection.ask(MemoryRemoved, "memory.clear", params)

    async def delete_memory(self, agent: str, key: str, *, session: str = "") -> Done:
        """Deletes a key of an agent.

        Needs the right "operate".
        """
        params = given(MemoryKeyParams, agent=agent, key=key, session=session)
        return await self._connection.ask(Done, "memory.delete", params)

    async def expire_session(self, agent: str, session: str, *, ttl_s: float | None = None) -> SessionExpiry:
        """Sets the time after which a session is gone, from now on; without `ttl_s` only `retention` counts.

        Needs the right "operate".
        """
        params = given(MemoryExpireParams, agent=agent, session=session, ttl_s=ttl_s)
        return await self._connection.ask(SessionExpiry, "memory.expire", params)

    async def get_memory(self, agent: str, key: str, *, session: str = "") -> Value:
        """Returns the value under a key of an agent; null where there is none.

        Needs the right "read".
        """
        params = given(MemoryKeyParams, agent=agent, key=key, session=session)
        return await self._connection.ask(Value, "memory.get", params)

    async def memory_pools(self) -> MemoryPools:
        """Lists the memory pools: their limits, the size of their sessions and keys, and the agents in them.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(MemoryPools, "memory.pools", params)

    async def put_memory(
        self, agent: str, key: str, value: object, *, ttl_s: float | None = None, session: str = ""
    ) -> Done:
        """Stores a value under a key of an agent; it is durable when this returns.

        Needs the right "operate".
        """
        params = given(MemoryPutParams, agent=agent, key=key, value=value, ttl_s=ttl_s, session=session)
        return await self._connection.ask(Done, "memory.put", params)

    async def search_memory(
        self, agent: str, query: str = "", *, limit: int = 100, session: str | None = None
    ) -> Items:
        """Returns keys and values of an agent that contain a text, the newest first.

        Needs the right "read".
        """
        params = given(MemoryFindParams, agent=agent, query=query, limit=limit, session=session)
        return await self._connection.ask(Items, "memory.search", params)

    async def list_sessions(self, *, agent: str | None = None, limit: int = 1000) -> Sessions:
        """Lists sessions with turns, messages, sizes and last access, the last used first.

        Needs the right "read".
        """
        params = given(MemoryListParams, agent=agent, limit=limit)
        return await self._connection.ask(Sessions, "memory.sessions", params)

    async def show_session(self, agent: str, session: str, *, last: int | None = None) -> SessionShown:
        """Returns a session: history, variables and data; counts as an access.

        Needs the right "read".
        """
        params = given(MemoryShowParams, agent=agent, session=session, last=last)
        return await self._connection.ask(SessionShown, "memory.show", params)

    async def memory_stats(self, *, agent: str | None = None) -> MemoryStatistics:
        """Returns the size of sessions and keys by agent, without expired ones, and the bytes of them in the daemon's memory.

        Needs the right "read".
        """
        params = given(MemoryStatsParams, agent=agent)
        return await self._connection.ask(MemoryStatistics, "memory.stats", params)

    async def get_metrics_history(
        self,
        *,
        agent: str | None = None,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        step_s: float | None = None,
    ) -> MetricsHistory:
        """Returns what an agent, a server or the daemon did and used over time, in steps.

        Needs the right "read".
        """
        params = given(MetricsHistoryParams, agent=agent, since=since, until=until, step_s=step_s)
        return await self._connection.ask(MetricsHistory, "metrics.history", params)

    async def get_latest_metrics(
        self, names: Sequence[str] | None = None, *, selector: str | None = None
    ) -> MetricsLatest:
        """Returns the present figures: those since the daemon's start, and those of the last minute.

        Needs the right "read".
        """
        params = given(MetricsLatestParams, names=names, selector=selector)
        return await self._connection.ask(MetricsLatest, "metrics.latest", params)

    async def get_metrics_top(
        self,
        names: Sequence[str] | None = None,
        *,
        selector: str | None = None,
        since: float | datetime | None = None,
        limit: int = 5,
    ) -> MetricsTop:
        """Ranks agents and servers by success, duration and cost, and names those that are a problem.

        Needs the right "read".
        """
        params = given(MetricsTopParams, names=names, selector=selector, since=since, limit=limit)
        return await self._connection.ask(MetricsTop, "metrics.top", params)

    async def list_models(self) -> Models:
        """Lists the declared models: state, users, and what was measured of them today; connects to those of which nothing is known.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Models, "models.list", params)

    async def drain_node(self, name: str) -> Node:
        """Requests that a node gives its replicas to other nodes, and gets no new ones, until `node.resume`; also over its restarts.

        Needs the right "admin".
        """
        params = given(NodeParams, name=name)
        return await self._connection.ask(Node, "node.drain", params)

    async def list_nodes(self) -> Nodes:
        """Lists the nodes of the cluster that have a lease, without the engine those known last; NotFound where the daemon is in none.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Nodes, "node.list", params)

    async def resume_node(self, name: str) -> Node:
        """Lets a node that was drained get replicas again.

        Needs the right "admin".
        """
        params = given(NodeParams, name=name)
        return await self._connection.ask(Node, "node.resume", params)

    async def add_package(
        self, data: str | None = None, *, upload: str | None = None, sha256: str | None = None
    ) -> PackageRecord:
        """Verifies an uploaded package and keeps it. The same content twice is one package; other content needs another version.

        Needs the right "admin".
        """
        params = given(PackageAddParams, upload=upload, data=data, sha256=sha256)
        return await self._connection.ask(PackageRecord, "package.add", params)

    async def list_packages(self, *, name: str | None = None) -> PackageRecords:
        """Returns the packages, by name and version.

        Needs the right "read".
        """
        params = given(PackageListParams, name=name)
        return await self._connection.ask(PackageRecords, "package.list", params)

    async def remove_package(self, package: str) -> PackageRecord:
        """Removes a package; one that an agent uses, or can come back to, is refused.

        Needs the right "admin".
        """
        params = given(PackageParams, package=package)
        return await self._connection.ask(PackageRecord, "package.rm", params)

    async def show_package(self, package: str) -> PackageDetails:
        """Returns a package with its needs, its dependencies and the keys of its agent.

        Needs the right "read".
        """
        params = given(PackageParams, package=package)
        return await self._connection.ask(PackageDetails, "package.show", params)

    async def upload_package(self, data: str, *, offset: int = 0, upload: str | None = None) -> PackageUpload:
        """Takes the next bytes of a package; `package.add` adds it once all have arrived. An upload without calls for ten minutes may go.

        Needs the right "admin".
        """
        params = given(PackageUploadParams, data=data, offset=offset, upload=upload)
        return await self._connection.ask(PackageUpload, "package.upload", params)

    async def verify_package(self, package: str) -> PackageRecord:
        """Verifies each byte of a package, and its signature; a changed byte is Corrupted.

        Needs the right "read".
        """
        params = given(PackageParams, package=package)
        return await self._connection.ask(PackageRecord, "package.verify", params)

    async def list_quotas(self, names: Sequence[str] | None = None, *, selector: str | None = None) -> QuotaList:
        """Lists the limits that the daemon holds, what is used of each, and how often it has refused something.

        Needs the right "read".
        """
        params = given(StatisticsParams, names=names, selector=selector)
        return await self._connection.ask(QuotaList, "quota.list", params)

    async def diff_revisions(self, name: str, *, before: int | None = None, after: int | None = None) -> RevisionDiff:
        """Compares two revisions key by key; values of environment, headers and secrets are hidden.

        Needs the right "read".
        """
        params = given(RevisionDiffParams, name=name, before=before, after=after)
        return await self._connection.ask(RevisionDiff, "revision.diff", params)

    async def list_revisions(self, name: str, *, limit: int = 50) -> Revisions:
        """Lists the revisions of an agent, server, team or workflow, the newest first.

        Needs the right "read".
        """
        params = given(RevisionListParams, name=name, limit=limit)
        return await self._connection.ask(Revisions, "revision.list", params)

    async def show_revision(self, name: str, *, revision: int | None = None) -> RevisionShown:
        """Returns one revision with its table; values of environment, headers and secrets are hidden.

        Needs the right "read".
        """
        params = given(RevisionShowParams, name=name, revision=revision)
        return await self._connection.ask(RevisionShown, "revision.show", params)

    async def discover(self) -> object:
        """Returns this table as an OpenRPC document (https://spec.open-rpc.org).

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(object, "rpc.discover", params)

    async def get_runtime_stats(self) -> RuntimeStatistics:
        """Returns the number and the names of agents, teams, workflows, and databases: the declared stores that agents use.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(RuntimeStatistics, "runtime.stats", params)

    async def add_schedule(
        self,
        task: TaskParams | Mapping[str, object],
        *,
        name: str | None = None,
        every_s: float | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        catch_up: bool = True,
        overlap: Literal["skip", "queue", "replace"] = "skip",
        start_at: float | datetime | None = None,
        at: float | datetime | None = None,
    ) -> ScheduleRecord:
        """Adds a schedule, which submits a task at each of its times; it survives a restart of the daemon.

        Needs the right "operate".
        """
        params = given(
            ScheduleParams,
            task=task,
            name=name,
            every_s=every_s,
            cron=cron,
            timezone=timezone,
            catch_up=catch_up,
            overlap=overlap,
            start_at=start_at,
            at=at,
        )
        return await self._connection.ask(ScheduleRecord, "schedule.add", params)

    async def add_command_schedule(
        self,
        name: str,
        command: Sequence[str],
        *,
        spec: Mapping[str, object] | None = None,
        directory: str | None = None,
        every_s: float | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        catch_up: bool = True,
        overlap: Literal["skip", "queue", "replace"] = "skip",
        start_at: float | datetime | None = None,
        at: float | datetime | None = None,
    ) -> ScheduleRecord:
        """Adds a schedule of a command, and a job of its name that runs the command.

        Needs the right "admin".
        """
        params = given(
            ScheduleCommandParams,
            name=name,
            command=command,
            spec=spec,
            directory=directory,
            every_s=every_s,
            cron=cron,
            timezone=timezone,
            catch_up=catch_up,
            overlap=overlap,
            start_at=start_at,
            at=at,
        )
        return await self._connection.ask(ScheduleRecord, "schedule.add_command", params)

    async def list_schedules(self) -> Schedules:
        """Lists all schedules, by name.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Schedules, "schedule.list", params)

    async def pause_schedule(self, name: str) -> ScheduleRecord:
        """Pauses a schedule until it is resumed; the times meanwhile are skipped.

        Needs the right "operate".
        """
        params = given(ScheduleNameParams, name=name)
        return await self._connection.ask(ScheduleRecord, "schedule.pause", params)

    async def resume_schedule(self, name: str) -> ScheduleRecord:
        """Resumes a paused schedule.

        Needs the right "operate".
        """
        params = given(ScheduleNameParams, name=name)
        return await self._connection.ask(ScheduleRecord, "schedule.resume", params)

    async def remove_schedule(self, name: str) -> Removed:
        """Removes a schedule, and the job that was added with its command; the tasks that it submitted stay.

        Needs the right "operate".
        """
        params = given(ScheduleNameParams, name=name)
        return await self._connection.ask(Removed, "schedule.rm", params)

    async def run_schedule(self, name: str) -> Task:
        """Submits the task of a schedule now, beside its times, and returns its record.

        Needs the right "operate".
        """
        params = given(ScheduleNameParams, name=name)
        return await self._connection.ask(Task, "schedule.run", params)

    async def show_schedule(self, name: str) -> ScheduleShown:
        """Returns a schedule with its next times (`upcoming`) and its last runs (`recent`), the newest first.

        Needs the right "read".
        """
        params = given(ScheduleNameParams, name=name)
        return await self._connection.ask(ScheduleShown, "schedule.show", params)

    async def list_secrets(self) -> Secrets:
        """Returns the names of all secrets, their places, and the agents that they are for and that name them; no value.

        Needs the right "admin".
        """
        params = given(NoParams)
        return await self._connection.ask(Secrets, "secret.list", params)

    async def remove_secret(self, name: str, *, force: bool = False) -> SecretUse:
        """Removes a kept secret. One that agents name is refused without `force`.

        Needs the right "admin".
        """
        params = given(SecretRemoveParams, name=name, force=force)
        return await self._connection.ask(SecretUse, "secret.rm", params)

    async def rotate_secret(
        self, name: str, secret: str, *, agents: Sequence[str] | None = None, restart: bool = False
    ) -> SecretRotated:
        """Replaces the value of a kept secret; with `restart` the workers of agents that name it restart one after another.

        Needs the right "admin".
        """
        params = given(SecretRotateParams, name=name, secret=secret, agents=agents, restart=restart)
        return await self._connection.ask(SecretRotated, "secret.rotate", params)

    async def set_secret(
        self, name: str, secret: str, *, agents: Sequence[str] = (), replace: bool = False
    ) -> SecretUse:
        """Keeps a secret for `${secret:NAME}`, of all agents or of those that match `agents`. Returns the agents that name it.

        Needs the right "admin".
        """
        params = given(SecretSetParams, name=name, secret=secret, agents=agents, replace=replace)
        return await self._connection.ask(SecretUse, "secret.set", params)

    async def list_stores(self) -> Stores:
        """Probes the declared stores that agents use, and lists all, each with its state and its users.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Stores, "store.list", params)

    async def discard_tasks(
        self,
        *,
        task: str | None = None,
        tasks: Sequence[str] = (),
        dead: bool = False,
        agent: str | None = None,
        limit: int = 1000,
        until: float | datetime | None = None,
        after: str | None = None,
    ) -> TasksDiscarded:
        """Removes tasks from the dead letters; their records stay for as long as those of others: {discarded, more}.

        Needs the right "operate".
        """
        params = given(
            TasksParams, task=task, tasks=tasks, dead=dead, agent=agent, limit=limit, until=until, after=after
        )
        return await self._connection.ask(TasksDiscarded, "task.discard", params)

    async def list_task_page(
        self,
        *,
        agent: str | None = None,
        state: Literal["queued", "running", "succeeded", "failed", "cancelled", "timeout"] | None = None,
        limit: int = 100,
        agents: Sequence[str] = (),
        states: Sequence[Literal["queued", "running", "succeeded", "failed", "cancelled", "timeout"]] = (),
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        parent: str | None = None,
        roots: bool = False,
        dead: bool = False,
        schedule: str | None = None,
        session: str | None = None,
        text: str | None = None,
        before: str | None = None,
    ) -> TaskPage:
        """Lists records of tasks, newest first; `more`, where it is not null, is the `before` for the rest; `skipped` cannot be read.

        Needs the right "read".
        """
        params = given(
            TaskListParams,
            agent=agent,
            state=state,
            limit=limit,
            agents=agents,
            states=states,
            since=since,
            until=until,
            parent=parent,
            roots=roots,
            dead=dead,
            schedule=schedule,
            session=session,
            text=text,
            before=before,
        )
        return await self._connection.ask(TaskPage, "task.list", params)

    async def task_log(self, task: str, *, follow: bool = False, lines: int = 1000) -> TaskLog:
        """Returns what a task has done in order of time: attempts, progress, log lines, tool calls, delegated tasks.

        With `follow` they are sent as `task.log` notifications {entries}, until it has ended.

        Needs the right "read".
        """
        params = given(TaskLogParams, task=task, follow=follow, lines=lines)
        return await self._connection.ask(TaskLog, "task.log", params)

    async def retry_tasks(
        self,
        *,
        task: str | None = None,
        tasks: Sequence[str] = (),
        dead: bool = False,
        agent: str | None = None,
        limit: int = 1000,
        until: float | datetime | None = None,
        after: str | None = None,
    ) -> TasksRetried:
        """Queues ended tasks once more, each as a new task: {retried: [{task, by}], failed: [{task, error}], more: the `after` of more dead letters}.

        Needs the right "operate".
        """
        params = given(
            TasksParams, task=task, tasks=tasks, dead=dead, agent=agent, limit=limit, until=until, after=after
        )
        return await self._connection.ask(TasksRetried, "task.retry", params)

    async def task_tree(self, task: str, *, depth: int = 16, limit: int = 1000) -> TaskNode:
        """Returns a short record of a task with those it delegated: {task, children: [the same], more: number of children left out}.

        Needs the right "read".
        """
        params = given(TaskTreeParams, task=task, depth=depth, limit=limit)
        return await self._connection.ask(TaskNode, "task.tree", params)

    async def add_teams(
        self,
        specs: Mapping[str, Mapping[str, object]] | None = None,
        *,
        name: str | None = None,
        spec: Mapping[str, object] | None = None,
    ) -> Teams:
        """Adds teams, which are kept until they are removed.

        Needs the right "admin".
        """
        params = given(GroupAddParams, name=name, spec=spec, specs=specs)
        return await self._connection.ask(Teams, "team.add", params)

    async def list_teams(self) -> Teams:
        """Lists the teams.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Teams, "team.list", params)

    async def show_team(self, name: str) -> TeamShown:
        """Returns one team in full, with its spec.

        Needs the right "read".
        """
        params = given(NameParams, name=name)
        return await self._connection.ask(TeamShown, "team.show", params)

    async def list_templates(self) -> Templates:
        """Returns the templates of the configuration, with their parameters and the agents and servers that have them.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Templates, "template.list", params)

    async def add_tenant(
        self, name: str, *, spec: Mapping[str, object] | None = None, new: bool = False
    ) -> TenantAdded:
        """Adds a tenant, or returns the one that is there, whose agents that have given up start again.

        A tenant that is there with other values of the given keys is a Conflict, and so is any with `new`.

        Needs the right "admin".
        """
        params = given(TenantAddParams, name=name, spec=spec, new=new)
        return await self._connection.ask(TenantAdded, "tenant.add", params)

    async def list_tenants(self) -> Tenants:
        """Lists the tenants with their limits and counts; a tenant is told of itself alone.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Tenants, "tenant.list", params)

    async def resume_tenant(self, name: str) -> TenantSwitched:
        """Starts the agents of a suspended tenant that start by themselves, and takes its tasks again; again is harmless.

        Needs the right "admin".
        """
        params = given(TenantNameParams, name=name)
        return await self._connection.ask(TenantSwitched, "tenant.resume", params)

    async def remove_tenant(self, name: str) -> TenantRemoved:
        """Ends all of a tenant, then erases what there is of it; the audit alone keeps its records.

        A tenant that the configuration file has is a Conflict: its tables go first. So is one whose removal is under way.

        Needs the right "admin".
        """
        params = given(TenantNameParams, name=name)
        return await self._connection.ask(TenantRemoved, "tenant.rm", params)

    async def set_tenant(self, name: str, spec: Mapping[str, object]) -> TenantChanged:
        """Changes keys of the table of a tenant at once; a key that is null is as the file or the tier has it again.

        Needs the right "admin".
        """
        params = given(TenantSetParams, name=name, spec=spec)
        return await self._connection.ask(TenantChanged, "tenant.set", params)

    async def show_tenant(self, *, name: str | None = None) -> TenantShown:
        """Returns one tenant in full: its table, the names of what it has, and the layers that keep it apart.

        A caller that is bound to a tenant names its own, or none.

        Needs the right "read".
        """
        params = given(TenantShowParams, name=name)
        return await self._connection.ask(TenantShown, "tenant.show", params)

    async def suspend_tenant(self, name: str) -> TenantSwitched:
        """Stops all agents and servers of a tenant, and refuses its tasks and starts until it is resumed; again is harmless.

        Needs the right "admin".
        """
        params = given(TenantNameParams, name=name)
        return await self._connection.ask(TenantSwitched, "tenant.suspend", params)

    async def add_token(
        self,
        name: str,
        rights: Literal["read", "operate", "admin"],
        *,
        agents: Sequence[str] | None = None,
        expires_s: float | None = None,
        tenant: str | None = None,
    ) -> NewToken:
        """Makes a token with rights, for some agents or all, of the owner or of a tenant; the answer alone has its text.

        Needs the right "admin".
        """
        params = given(TokenAddParams, name=name, rights=rights, agents=agents, expires_s=expires_s, tenant=tenant)
        return await self._connection.ask(NewToken, "token.add", params)

    async def list_tokens(self) -> TokenList:
        """Lists the tokens with their rights, agents, ends and last use; without their texts, which are kept nowhere.

        Needs the right "admin".
        """
        params = given(NoParams)
        return await self._connection.ask(TokenList, "token.list", params)

    async def remove_token(self, name: str) -> TokenRemoved:
        """Removes a token: its next request is refused.

        Needs the right "admin".
        """
        params = given(TokenNameParams, name=name)
        return await self._connection.ask(TokenRemoved, "token.rm", params)

    async def rotate_token(self, name: str, *, overlap_s: float = 0, expires_s: float | None = None) -> NewToken:
        """Replaces the text of a token, and keeps its rights; the one before ends at once, or after `overlap_s`.

        Needs the right "admin".
        """
        params = given(TokenRotateParams, name=name, overlap_s=overlap_s, expires_s=expires_s)
        return await self._connection.ask(NewToken, "token.rotate", params)

    async def add_workflows(
        self,
        specs: Mapping[str, Mapping[str, object]] | None = None,
        *,
        name: str | None = None,
        spec: Mapping[str, object] | None = None,
    ) -> Workflows:
        """Adds workflows, which are kept until they are removed.

        Needs the right "admin".
        """
        params = given(GroupAddParams, name=name, spec=spec, specs=specs)
        return await self._connection.ask(Workflows, "workflow.add", params)

    async def list_workflows(self) -> Workflows:
        """Lists the workflows.

        Needs the right "read".
        """
        params = given(NoParams)
        return await self._connection.ask(Workflows, "workflow.list", params)

    async def show_workflow(self, name: str) -> WorkflowShown:
        """Returns one workflow in full, with its steps.

        Needs the right "read".
        """
        params = given(NameParams, name=name)
        return await self._connection.ask(WorkflowShown, "workflow.show", params)
