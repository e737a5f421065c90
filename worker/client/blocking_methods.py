# written by docs/reference/python.py; do not edit
# ruff: noqa: A002 - parameters have the names that the daemon has for them
"""Defines each coroutine of `runtime.AgentRuntime` as a function that waits; `blocking.Runtime` has these methods.

It must not decide anything.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, Unpack

from msgspec import UNSET

from ..contract.approvals import Approval
from ..contract.errors import CorralError
from ..contract.records import (
    AgentStatus,
    ScheduleRecord,
    Statistics,
    Status,
    Task,
    TaskParams,
    TaskState,
    TeamStatus,
    WorkflowStatus,
)
from ..control.access import NewToken, TokenList, TokenRemoved, Whoami
from ..control.approvals import Approvals
from ..control.backup import BackupMade, BackupPiece, Exported, Imported
from ..control.deployments import Deployment, Deployments
from ..control.logins import LoggedOut, Login, Logins, LoginStarted
from ..control.metrics import MetricsHistory, MetricsLatest, MetricsTop
from ..control.nodes import Node, Nodes
from ..control.packages import PackageDetails, PackageRecord, PackageRecords, PackageUpload
from ..control.params import Addition
from ..control.reports import Costs, TaskLog
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
from ..control.revisions import RevisionDiff, Revisions, RevisionShown, RolledBack
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
from ..control.tenants import TenantAdded, TenantChanged, TenantRemoved, Tenants, TenantShown, TenantSwitched
from .agent_source import AgentSource
from .loop_thread import LoopThread
from .runtime import AgentRuntime
from .tasks import OnProgress, TaskOptions
from .usage import ResourceUsage


class BlockingMethods:
    """Calls the coroutines of an AgentRuntime, and waits for them."""

    def __init__(self, loop: LoopThread, runtime: AgentRuntime) -> None:
        self._loop = loop
        self._runtime = runtime

    def add_agents(
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
        return self._loop.wait(
            self._runtime.add_agents(agents, start=start, wait=wait, present=present, dry_run=dry_run)
        )

    def expose_agent(self, name: str, address: str | None, *, auth: Literal["token", "none"] = "token") -> Exposed:
        """Serves an agent, team or workflow alone over HTTP at an address, or no longer; kept until it is removed.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.expose_agent(name, address, auth=auth))

    def hibernate_agents(
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
        return self._loop.wait(
            self._runtime.hibernate_agents(names, selector=selector, timeout_s=timeout_s, force=force)
        )

    def list_agents(
        self, names: Sequence[str] | None = None, *, selector: str | None = None, failed: bool = False
    ) -> Agents:
        """Lists the status of agents and MCP servers: of all, or of those that the params choose.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_agents(names, selector=selector, failed=failed))

    def pause_agents(
        self, names: Sequence[str] = (), *, all: bool = False, selector: str | None = None
    ) -> AgentsChanged:
        """Freezes agents or workers with all their processes, until they are resumed, stopped or die.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.pause_agents(names, all=all, selector=selector))

    def reset_agents(
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
        return self._loop.wait(
            self._runtime.reset_agents(names, all=all, selector=selector, wait=wait, timeout_s=timeout_s)
        )

    def restart_agents(
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
        return self._loop.wait(
            self._runtime.restart_agents(names, all=all, selector=selector, wait=wait, timeout_s=timeout_s)
        )

    def resume_agents(
        self, names: Sequence[str] = (), *, all: bool = False, selector: str | None = None
    ) -> AgentsChanged:
        """Lets paused agents or workers run again.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.resume_agents(names, all=all, selector=selector))

    def remove_agents(
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
        return self._loop.wait(
            self._runtime.remove_agents(names, name=name, selector=selector, cascade=cascade, expected=expected)
        )

    def rollback_agent(
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
        return self._loop.wait(
            self._runtime.rollback_agent(
                name,
                revision=revision,
                version=version,
                why=why,
                expected=expected,
                dry_run=dry_run,
                wait=wait,
                timeout_s=timeout_s,
            )
        )

    def run_command(
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
        return self._loop.wait(
            self._runtime.run_command(
                name,
                argv,
                stdin=stdin,
                environment=environment,
                working_directory=working_directory,
                timeout_s=timeout_s,
                max_output_bytes=max_output_bytes,
            )
        )

    def scale_agent(self, name: str, instances: int, *, wait: bool = True) -> AgentStatus:
        """Changes the number of workers of an agent; of a placed one that of its replicas on all nodes together.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.scale_agent(name, instances, wait=wait))

    def set_agent(
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
        return self._loop.wait(
            self._runtime.set_agent(
                name, spec, expected=expected, why=why, dry_run=dry_run, wait=wait, timeout_s=timeout_s
            )
        )

    def show_agent(self, name: str) -> AgentShown:
        """Returns one agent in full: its spec (values of environment and headers hidden), last exits, the end of its stderr.

        While a change is rolled out, the spec is the new one; `agent.rolling` says how far that is.

        Of a team or workflow: its spec.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.show_agent(name))

    def signal_agents(
        self, signal: str, names: Sequence[str] = (), *, name: str | None = None, selector: str | None = None
    ) -> Names:
        """Sends a signal to the leader of each worker that runs.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.signal_agents(signal, names, name=name, selector=selector))

    def start_agents(
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
        return self._loop.wait(
            self._runtime.start_agents(names, all=all, selector=selector, wait=wait, timeout_s=timeout_s)
        )

    def stop_agents(
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
        return self._loop.wait(
            self._runtime.stop_agents(names, all=all, selector=selector, wait=wait, timeout_s=timeout_s)
        )

    def wake_agents(
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
        return self._loop.wait(
            self._runtime.wake_agents(names, all=all, selector=selector, wait=wait, timeout_s=timeout_s)
        )

    def answer_approval(self, approval: int, answer: str | None) -> Approval:
        """Answers an open question of a task, which goes on with the answer; the first one counts, and null declines a form.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.answer_approval(approval, answer))

    def list_approvals(
        self, *, agent: str | None = None, task: str | None = None, ended: bool = False, limit: int = 1000
    ) -> Approvals:
        """Lists the open questions of tasks, the oldest first; with `ended` those that have ended, the newest first.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_approvals(agent=agent, task=task, ended=ended, limit=limit))

    def show_approval(self, approval: int) -> Approval:
        """Returns a question of a task, with its answer where it has one.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.show_approval(approval))

    def list_audit(
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
        return self._loop.wait(
            self._runtime.list_audit(
                since=since,
                before=before,
                since_time=since_time,
                until_time=until_time,
                n=n,
                actions=actions,
                name=name,
            )
        )

    def verify_audit(self, *, head: str | None = None) -> AuditVerdict:
        """Verifies the whole chain of hashes; `wrong` is the first record that is not as it was written.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.verify_audit(head=head))

    def whoami(self) -> Whoami:
        """Returns the caller as this daemon knows it: name, rights and agents.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.whoami())

    def discard_backup(self, id: str) -> Done:
        """Removes an archive from the state folder.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.discard_backup(id))

    def make_backup(self, *, logs: bool = False, secrets: bool = True) -> BackupMade:
        """Makes an archive of the state folder and the configuration, in which is all that was acknowledged before.

        It holds secrets in plain text, unless `secrets` is false. `backup.read` hands it out.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.make_backup(logs=logs, secrets=secrets))

    def read_backup(self, id: str, *, offset: int = 0) -> BackupPiece:
        """Returns a part of an archive, from `offset` on.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.read_backup(id, offset=offset))

    def list_checkpoints(self, *, name: str | None = None, limit: int = 100) -> Checkpoints:
        """Lists checkpoints without their data, newest first.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_checkpoints(name=name, limit=limit))

    def remove_checkpoints(self, checkpoints: Sequence[int], *, force: bool = False) -> CheckpointsRemoved:
        """Removes checkpoints, all or none; one that a worker is to begin with only with `force`.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.remove_checkpoints(checkpoints, force=force))

    def save_states(self, name: str, *, timeout_s: float | None = None) -> Checkpoints:
        """Saves a checkpoint of one worker, or of each worker of an agent that is up.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.save_states(name, timeout_s=timeout_s))

    def show_checkpoint(self, checkpoint: int) -> CheckpointShown:
        """Returns one checkpoint with its data.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.show_checkpoint(checkpoint))

    def list_costs(
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
        return self._loop.wait(self._runtime.list_costs(by=by, since=since, until=until, agent=agent, limit=limit))

    def doctor(self) -> Diagnosis:
        """Checks the machine and the daemon: the features of the kernel, those in force, and the guarantees that hold.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.doctor())

    def emergency_stop(self) -> EmergencyStopped:
        """Kills every worker and server at once, cancels every task, and refuses work until `agent.start`.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.emergency_stop())

    def export(self, names: Sequence[str] | None = None, *, selector: str | None = None) -> Exported:
        """Returns agents, servers, teams, workflows and schedules as TOML, which `corral add --file` takes.

        Before them stand the stores, templates and profiles of the configuration file, which `corrald` takes with the rest; where names are chosen, those
        stores and templates that they use. Secrets are named. Plain values of environments and headers are in it for a caller with the right admin alone.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.export(names, selector=selector))

    def import_tables(
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
        return self._loop.wait(
            self._runtime.import_tables(
                agents=agents,
                teams=teams,
                workflows=workflows,
                schedules=schedules,
                start=start,
                wait=wait,
                directory=directory,
                environment=environment,
            )
        )

    def set_log_level(self, level: Literal["debug", "info", "warning", "error"]) -> LogLevelSet:
        """Sets the log level of the daemon, until a reload or its end; `daemon.status` shows it.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.set_log_level(level))

    def ping(self) -> Done:
        """Answers at once, so that a client knows that the daemon is up.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.ping())

    def reload(self, *, dry_run: bool = False, wait: bool = False, timeout_s: float | None = None) -> Reloaded:
        """Reads the configuration again, applies the changes and returns them; an invalid file changes nothing.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.reload(dry_run=dry_run, wait=wait, timeout_s=timeout_s))

    def get_schema(
        self,
        *,
        document: Literal["config", "agent", "server", "template", "team", "workflow", "task", "event"] = "config",
    ) -> object:
        """Returns the JSON Schema of the configuration file, of a table in it, of a task, or of an event.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.get_schema(document=document))

    def stop_daemon(self) -> Stopping:
        """Stops the daemon, as SIGTERM does: workers end in order, each within its grace period. Answers before that.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.stop_daemon())

    def abort_deployment(self, name: str) -> Deployment:
        """Takes back a canary, or gives up a deployment that is under way; answers when the former version is whole again.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.abort_deployment(name))

    def deploy(
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
        return self._loop.wait(
            self._runtime.deploy(
                package,
                agent=agent,
                settings=settings,
                canary_percent=canary_percent,
                promote_after_s=promote_after_s,
                timeout_s=timeout_s,
                why=why,
            )
        )

    def list_deployments(self, *, name: str | None = None, limit: int = 50) -> Deployments:
        """Lists the deployments of one agent or of all, the newest first.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_deployments(name=name, limit=limit))

    def promote_deployment(self, name: str) -> Deployment:
        """Gives the rest of an agent's workers the version of its canary; answers when all have it, or it has failed.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.promote_deployment(name))

    def show_deployment(self, deployment: int) -> Deployment:
        """Returns one deployment in full.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.show_deployment(deployment))

    def list_events(
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
        return self._loop.wait(
            self._runtime.list_events(
                since=since, since_time=since_time, n=n, types=types, agent=agent, worker=worker, task=task, until=until
            )
        )

    def publish(self, type: str, data: object = None) -> Published:
        """Publishes an event to the subscribers of its type; returns its number.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.publish(type, data))

    def read_logs(
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
        return self._loop.wait(
            self._runtime.read_logs(
                names,
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
        )

    def call_tool(
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
        return self._loop.wait(self._runtime.call_tool(name, arguments, timeout_s=timeout_s, traceparent=traceparent))

    def finish_login(self, name: str, login: str, *, redirect: str | None = None) -> Login:
        """Finishes a login, and starts the server's workers that waited for it; `pending` while a device has not been told yet.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.finish_login(name, login, redirect=redirect))

    def start_login(
        self, name: str, *, port: int = 41357, device: bool = False, scopes: Sequence[str] = ()
    ) -> LoginStarted:
        """Starts a login to a remote MCP server (OAuth): returns the address that a person's browser has to open.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.start_login(name, port=port, device=device, scopes=scopes))

    def list_logins(self) -> Logins:
        """Lists the remote MCP servers with the state of their logins; no token.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_logins())

    def logout(self, name: str, *, revoke: bool = True) -> LoggedOut:
        """Forgets the token of a remote MCP server and corral's registration there, and revokes the token.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.logout(name, revoke=revoke))

    def list_prompts(self) -> Prompts:
        """Lists the prompts of all servers, by exposed name; a server that never listed anything is started first.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_prompts())

    def read_resource(self, uri: str, *, timeout_s: float | None = None) -> object:
        """Reads a resource and returns MCP's result object.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.read_resource(uri, timeout_s=timeout_s))

    def list_resources(self) -> Resources:
        """Lists the resources of all servers and their templates; a server that never listed anything is started first.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_resources())

    def list_servers(self) -> Servers:
        """Lists the MCP servers, with the tools that they listed last.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_servers())

    def list_tools(self, server: str | None = None) -> Tools:
        """Lists the tools of all servers, or of one; a server that never listed any is started first.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_tools(server))

    def clean_up_memory(self, *, agent: str | None = None) -> MemoryRemoved:
        """Removes at once the sessions and keys that have expired, of an agent or of all; returns how many of each.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.clean_up_memory(agent=agent))

    def clear_memory(self, agent: str, *, session: str | None = None) -> MemoryRemoved:
        """Deletes a session of an agent with its keys, or all of them; refused while a task works on it.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.clear_memory(agent, session=session))

    def delete_memory(self, agent: str, key: str, *, session: str = "") -> Done:
        """Deletes a key of an agent.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.delete_memory(agent, key, session=session))

    def expire_session(self, agent: str, session: str, *, ttl_s: float | None = None) -> SessionExpiry:
        """Sets the time after which a session is gone, from now on; without `ttl_s` only `retention` counts.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.expire_session(agent, session, ttl_s=ttl_s))

    def get_memory(self, agent: str, key: str, *, session: str = "") -> Value:
        """Returns the value under a key of an agent; null where there is none.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.get_memory(agent, key, session=session))

    def memory_pools(self) -> MemoryPools:
        """Lists the memory pools: their limits, the size of their sessions and keys, and the agents in them.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.memory_pools())

    def put_memory(self, agent: str, key: str, value: object, *, ttl_s: float | None = None, session: str = "") -> Done:
        """Stores a value under a key of an agent; it is durable when this returns.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.put_memory(agent, key, value, ttl_s=ttl_s, session=session))

    def search_memory(self, agent: str, query: str = "", *, limit: int = 100, session: str | None = None) -> Items:
        """Returns keys and values of an agent that contain a text, the newest first.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.search_memory(agent, query, limit=limit, session=session))

    def list_sessions(self, *, agent: str | None = None, limit: int = 1000) -> Sessions:
        """Lists sessions with turns, messages, sizes and last access, the last used first.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_sessions(agent=agent, limit=limit))

    def show_session(self, agent: str, session: str, *, last: int | None = None) -> SessionShown:
        """Returns a session: history, variables and data; counts as an access.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.show_session(agent, session, last=last))

    def memory_stats(self, *, agent: str | None = None) -> MemoryStatistics:
        """Returns the size of sessions and keys by agent, without expired ones, and the bytes of them in the daemon's memory.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.memory_stats(agent=agent))

    def get_metrics_history(
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
        return self._loop.wait(self._runtime.get_metrics_history(agent=agent, since=since, until=until, step_s=step_s))

    def get_latest_metrics(self, names: Sequence[str] | None = None, *, selector: str | None = None) -> MetricsLatest:
        """Returns the present figures: those since the daemon's start, and those of the last minute.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.get_latest_metrics(names, selector=selector))

    def get_metrics_top(
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
        return self._loop.wait(self._runtime.get_metrics_top(names, selector=selector, since=since, limit=limit))

    def list_models(self) -> Models:
        """Lists the declared models: state, users, and what was measured of them today; connects to those of which nothing is known.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_models())

    def drain_node(self, name: str) -> Node:
        """Requests that a node gives its replicas to other nodes, and gets no new ones, until `node.resume`; also over its restarts.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.drain_node(name))

    def list_nodes(self) -> Nodes:
        """Lists the nodes of the cluster that have a lease, without the engine those known last; NotFound where the daemon is in none.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_nodes())

    def resume_node(self, name: str) -> Node:
        """Lets a node that was drained get replicas again.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.resume_node(name))

    def add_package(
        self, data: str | None = None, *, upload: str | None = None, sha256: str | None = None
    ) -> PackageRecord:
        """Verifies an uploaded package and keeps it. The same content twice is one package; other content needs another version.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.add_package(data, upload=upload, sha256=sha256))

    def list_packages(self, *, name: str | None = None) -> PackageRecords:
        """Returns the packages, by name and version.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_packages(name=name))

    def remove_package(self, package: str) -> PackageRecord:
        """Removes a package; one that an agent uses, or can come back to, is refused.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.remove_package(package))

    def show_package(self, package: str) -> PackageDetails:
        """Returns a package with its needs, its dependencies and the keys of its agent.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.show_package(package))

    def upload_package(self, data: str, *, offset: int = 0, upload: str | None = None) -> PackageUpload:
        """Takes the next bytes of a package; `package.add` adds it once all have arrived. An upload without calls for ten minutes may go.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.upload_package(data, offset=offset, upload=upload))

    def verify_package(self, package: str) -> PackageRecord:
        """Verifies each byte of a package, and its signature; a changed byte is Corrupted.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.verify_package(package))

    def list_quotas(self, names: Sequence[str] | None = None, *, selector: str | None = None) -> QuotaList:
        """Lists the limits that the daemon holds, what is used of each, and how often it has refused something.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_quotas(names, selector=selector))

    def diff_revisions(self, name: str, *, before: int | None = None, after: int | None = None) -> RevisionDiff:
        """Compares two revisions key by key; values of environment, headers and secrets are hidden.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.diff_revisions(name, before=before, after=after))

    def list_revisions(self, name: str, *, limit: int = 50) -> Revisions:
        """Lists the revisions of an agent, server, team or workflow, the newest first.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_revisions(name, limit=limit))

    def show_revision(self, name: str, *, revision: int | None = None) -> RevisionShown:
        """Returns one revision with its table; values of environment, headers and secrets are hidden.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.show_revision(name, revision=revision))

    def discover(self) -> object:
        """Returns this table as an OpenRPC document (https://spec.open-rpc.org).

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.discover())

    def get_runtime_stats(self) -> RuntimeStatistics:
        """Returns the number and the names of agents, teams, workflows, and databases: the declared stores that agents use.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.get_runtime_stats())

    def add_schedule(
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
        return self._loop.wait(
            self._runtime.add_schedule(
                task,
                name=name,
                every_s=every_s,
                cron=cron,
                timezone=timezone,
                catch_up=catch_up,
                overlap=overlap,
                start_at=start_at,
                at=at,
            )
        )

    def add_command_schedule(
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
        return self._loop.wait(
            self._runtime.add_command_schedule(
                name,
                command,
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
        )

    def list_schedules(self) -> Schedules:
        """Lists all schedules, by name.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_schedules())

    def pause_schedule(self, name: str) -> ScheduleRecord:
        """Pauses a schedule until it is resumed; the times meanwhile are skipped.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.pause_schedule(name))

    def resume_schedule(self, name: str) -> ScheduleRecord:
        """Resumes a paused schedule.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.resume_schedule(name))

    def remove_schedule(self, name: str) -> Removed:
        """Removes a schedule, and the job that was added with its command; the tasks that it submitted stay.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.remove_schedule(name))

    def run_schedule(self, name: str) -> Task:
        """Submits the task of a schedule now, beside its times, and returns its record.

        Needs the right "operate".
        """
        return self._loop.wait(self._runtime.run_schedule(name))

    def show_schedule(self, name: str) -> ScheduleShown:
        """Returns a schedule with its next times (`upcoming`) and its last runs (`recent`), the newest first.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.show_schedule(name))

    def list_secrets(self) -> Secrets:
        """Returns the names of all secrets, their places, and the agents that they are for and that name them; no value.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.list_secrets())

    def remove_secret(self, name: str, *, force: bool = False) -> SecretUse:
        """Removes a kept secret. One that agents name is refused without `force`.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.remove_secret(name, force=force))

    def rotate_secret(
        self, name: str, secret: str, *, agents: Sequence[str] | None = None, restart: bool = False
    ) -> SecretRotated:
        """Replaces the value of a kept secret; with `restart` the workers of agents that name it restart one after another.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.rotate_secret(name, secret, agents=agents, restart=restart))

    def set_secret(self, name: str, secret: str, *, agents: Sequence[str] = (), replace: bool = False) -> SecretUse:
        """Keeps a secret for `${secret:NAME}`, of all agents or of those that match `agents`. Returns the agents that name it.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.set_secret(name, secret, agents=agents, replace=replace))

    def list_stores(self) -> Stores:
        """Probes the declared stores that agents use, and lists all, each with its state and its users.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_stores())

    def discard_tasks(
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
        return self._loop.wait(
            self._runtime.discard_tasks(
                task=task, tasks=tasks, dead=dead, agent=agent, limit=limit, until=until, after=after
            )
        )

    def list_task_page(
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
        return self._loop.wait(
            self._runtime.list_task_page(
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
        )

    def task_log(self, task: str, *, follow: bool = False, lines: int = 1000) -> TaskLog:
        """Returns what a task has done in order of time: attempts, progress, log lines, tool calls, delegated tasks.

        With `follow` they are sent as `task.log` notifications {entries}, until it has ended.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.task_log(task, follow=follow, lines=lines))

    def retry_tasks(
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
        return self._loop.wait(
            self._runtime.retry_tasks(
                task=task, tasks=tasks, dead=dead, agent=agent, limit=limit, until=until, after=after
            )
        )

    def task_tree(self, task: str, *, depth: int = 16, limit: int = 1000) -> TaskNode:
        """Returns a short record of a task with those it delegated: {task, children: [the same], more: number of children left out}.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.task_tree(task, depth=depth, limit=limit))

    def add_teams(
        self,
        specs: Mapping[str, Mapping[str, object]] | None = None,
        *,
        name: str | None = None,
        spec: Mapping[str, object] | None = None,
    ) -> Teams:
        """Adds teams, which are kept until they are removed.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.add_teams(specs, name=name, spec=spec))

    def list_teams(self) -> Teams:
        """Lists the teams.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_teams())

    def show_team(self, name: str) -> TeamShown:
        """Returns one team in full, with its spec.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.show_team(name))

    def list_templates(self) -> Templates:
        """Returns the templates of the configuration, with their parameters and the agents and servers that have them.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_templates())

    def add_tenant(self, name: str, *, spec: Mapping[str, object] | None = None, new: bool = False) -> TenantAdded:
        """Adds a tenant, or returns the one that is there, whose agents that have given up start again.

        A tenant that is there with other values of the given keys is a Conflict, and so is any with `new`.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.add_tenant(name, spec=spec, new=new))

    def list_tenants(self) -> Tenants:
        """Lists the tenants with their limits and counts; a tenant is told of itself alone.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_tenants())

    def resume_tenant(self, name: str) -> TenantSwitched:
        """Starts the agents of a suspended tenant that start by themselves, and takes its tasks again; again is harmless.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.resume_tenant(name))

    def remove_tenant(self, name: str) -> TenantRemoved:
        """Ends all of a tenant, then erases what there is of it; the audit alone keeps its records.

        A tenant that the configuration file has is a Conflict: its tables go first. So is one whose removal is under way.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.remove_tenant(name))

    def set_tenant(self, name: str, spec: Mapping[str, object]) -> TenantChanged:
        """Changes keys of the table of a tenant at once; a key that is null is as the file or the tier has it again.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.set_tenant(name, spec))

    def show_tenant(self, *, name: str | None = None) -> TenantShown:
        """Returns one tenant in full: its table, the names of what it has, and the layers that keep it apart.

        A caller that is bound to a tenant names its own, or none.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.show_tenant(name=name))

    def suspend_tenant(self, name: str) -> TenantSwitched:
        """Stops all agents and servers of a tenant, and refuses its tasks and starts until it is resumed; again is harmless.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.suspend_tenant(name))

    def add_token(
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
        return self._loop.wait(self._runtime.add_token(name, rights, agents=agents, expires_s=expires_s, tenant=tenant))

    def list_tokens(self) -> TokenList:
        """Lists the tokens with their rights, agents, ends and last use; without their texts, which are kept nowhere.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.list_tokens())

    def remove_token(self, name: str) -> TokenRemoved:
        """Removes a token: its next request is refused.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.remove_token(name))

    def rotate_token(self, name: str, *, overlap_s: float = 0, expires_s: float | None = None) -> NewToken:
        """Replaces the text of a token, and keeps its rights; the one before ends at once, or after `overlap_s`.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.rotate_token(name, overlap_s=overlap_s, expires_s=expires_s))

    def add_workflows(
        self,
        specs: Mapping[str, Mapping[str, object]] | None = None,
        *,
        name: str | None = None,
        spec: Mapping[str, object] | None = None,
    ) -> Workflows:
        """Adds workflows, which are kept until they are removed.

        Needs the right "admin".
        """
        return self._loop.wait(self._runtime.add_workflows(specs, name=name, spec=spec))

    def list_workflows(self) -> Workflows:
        """Lists the workflows.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.list_workflows())

    def show_workflow(self, name: str) -> WorkflowShown:
        """Returns one workflow in full, with its steps.

        Needs the right "read".
        """
        return self._loop.wait(self._runtime.show_workflow(name))

    def spawn_agent(
        self,
        name: AgentSource,
        *,
        command: Sequence[str] | None = None,
        entrypoint: str | None = None,
        agent: AgentSource | None = None,
        **spec: object,
    ) -> AgentStatus:
        """Adds an agent and starts it; returns when all its workers are Ready.

        Args:
            name: the agent's name; or the agent itself: a `corral.worker.Agent`, which is an attribute of a module,
                "FILE.py:NAME", "MODULE:NAME", or its table with `name`. Its name is then that of the object, or
                of the file.
            command: the command line of its workers; or
            entrypoint: `module:attribute` of a Python agent; or
            agent: the agent itself, as for `name`.
            spec: the other keys of its table in the configuration, sections as mappings.

        Raises:
            Conflict: the name is taken.
            InvalidParams: the spec is wrong, `data["key"]`; or no process could import the agent.
            SpawnFailed, Timeout: it did not become Ready; it is added nevertheless.
        """
        return self._loop.wait(
            self._runtime.spawn_agent(name, command=command, entrypoint=entrypoint, agent=agent, **spec)
        )

    def register_agent(
        self,
        name: AgentSource,
        *,
        command: Sequence[str] | None = None,
        entrypoint: str | None = None,
        agent: AgentSource | None = None,
        **spec: object,
    ) -> AgentStatus:
        """Adds an agent without starting it; else as `spawn_agent`."""
        return self._loop.wait(
            self._runtime.register_agent(name, command=command, entrypoint=entrypoint, agent=agent, **spec)
        )

    def add_agent(
        self,
        name: str,
        spec: Mapping[str, object],
        *,
        kind: Literal["agent", "mcp"] = "agent",
        start: bool = True,
        wait: bool = True,
        directory: str | os.PathLike[str] | None = None,
    ) -> AgentStatus:
        """Adds an agent or MCP server by its table in the configuration; relative paths are relative to `directory`.

        Raises:
            CorralError: as for `spawn_agent`.
        """
        return self._loop.wait(
            self._runtime.add_agent(name, spec, kind=kind, start=start, wait=wait, directory=directory)
        )

    def remove_agent(self, name: str, *, cascade: bool = False) -> list[str]:
        """Stops and removes an agent, with `cascade` also all that require it; returns the removed names.

        Raises:
            NotFound: there is no such agent.
            Conflict: another one requires it.
        """
        return self._loop.wait(self._runtime.remove_agent(name, cascade=cascade))

    def start_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Starts an agent, or a worker, and waits until it is Ready.

        Raises:
            SpawnFailed, Timeout: it did not become Ready.
        """
        return self._loop.wait(self._runtime.start_agent(name, timeout_s=timeout_s))

    def stop_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Stops an agent, or a worker, and waits until no process of it is left."""
        return self._loop.wait(self._runtime.stop_agent(name, timeout_s=timeout_s))

    def restart_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Stops an agent, or a worker, and starts it again."""
        return self._loop.wait(self._runtime.restart_agent(name, timeout_s=timeout_s))

    def reset_agent(self, name: str) -> AgentStatus:
        """Forgets the failures of an agent: one that is wanted and has given up starts again."""
        return self._loop.wait(self._runtime.reset_agent(name))

    def pause_agent(self, name: str) -> AgentStatus:
        """Freezes an agent, or a worker, with all its processes, until it is resumed, stopped or dies."""
        return self._loop.wait(self._runtime.pause_agent(name))

    def resume_agent(self, name: str) -> AgentStatus:
        """Lets a paused agent, or worker, run again."""
        return self._loop.wait(self._runtime.resume_agent(name))

    def signal_agent(self, name: str, signal: str) -> None:
        """Sends a signal, by name, to the leader of each worker of an agent, or to that of a worker."""
        return self._loop.wait(self._runtime.signal_agent(name, signal))

    def agent_status(self, name: str) -> AgentStatus:
        """Returns the status of an agent or MCP server.

        Raises:
            NotFound: there is no such agent or server.
        """
        return self._loop.wait(self._runtime.agent_status(name))

    def run_agent(
        self, name: str, objective: str = "", *, on_progress: OnProgress | None = None, **options: Unpack[TaskOptions]
    ) -> object:
        """Runs a task on an agent, team or workflow, and returns its output.

        Cancelling this cancels the task. `run_team` and `run_workflow` are the same method: agents, teams and
        workflows share one namespace.

        Raises:
            CorralError: the task was refused, or it failed: of the class that its record names, with `task` in
                `data`.
        """
        return self._loop.wait(self._runtime.run_agent(name, objective, on_progress=on_progress, **options))

    def execute_task(
        self,
        agent: str | None,
        objective: str = "",
        *,
        on_progress: OnProgress | None = None,
        **options: Unpack[TaskOptions],
    ) -> Task:
        """Runs a task and returns its record when it has ended, successfully or not (`state`, `error`).

        Cancelling this cancels the task; `submit_task` and `wait_task` leave it running.

        Raises:
            CorralError: the task was refused.
            Unreachable: the daemon went away; `data["task"]` names the accepted task: wait for it again.
        """
        return self._loop.wait(self._runtime.execute_task(agent, objective, on_progress=on_progress, **options))

    def execute_tasks_parallel(
        self, tasks: Iterable[TaskParams | Mapping[str, object]], *, max_parallel: int | None = None
    ) -> list[Task | CorralError]:
        """Runs tasks, `max_parallel` at a time; returns in their order the result or error of `execute_task`.

        A failure stops no other task. Cancelling this cancels the running tasks.

        Args:
            tasks: mappings with `agent`, `objective` and the keys of TaskOptions, or TaskParams.
            max_parallel: at least 1; by default 100.

        Raises:
            InvalidParams: `max_parallel` is less than 1.
        """
        return self._loop.wait(self._runtime.execute_tasks_parallel(tasks, max_parallel=max_parallel))

    def submit_task(self, agent: str | None, objective: str = "", **options: Unpack[TaskOptions]) -> Task:
        """Submits a task and returns its record; it is stored by then, and runs whatever happens to this program.

        Raises:
            NotFound: there is no such agent, or none with the capability.
            Conflict: the agent is stopped.
            Overloaded: its queue is full; `data["retry_after_s"]`.
        """
        return self._loop.wait(self._runtime.submit_task(agent, objective, **options))

    def wait_task(self, task: str, *, timeout_s: float | None = None, on_progress: OnProgress | None = None) -> Task:
        """Returns the record of a task when it has ended; calls `on_progress` with each progress until then.

        Raises:
            NotFound: there is no such task.
            Timeout: it has not ended within `timeout_s`; it continues.
        """
        return self._loop.wait(self._runtime.wait_task(task, timeout_s=timeout_s, on_progress=on_progress))

    def cancel_task(self, task: str) -> Task:
        """Cancels a task and the tasks that it delegated; returns its record."""
        return self._loop.wait(self._runtime.cancel_task(task))

    def show_task(self, task: str, *, calls: bool = False) -> Task:
        """Returns the record of a task; `calls` puts its tool calls into `Task.calls`.

        Raises:
            NotFound: there is none, or it has expired.
        """
        return self._loop.wait(self._runtime.show_task(task, calls=calls))

    def list_tasks(self, *, agent: str | None = None, state: TaskState | None = None, limit: int = 100) -> list[Task]:
        """Returns records of tasks, newest first; `list_task_page` has more conditions, and the next page."""
        return self._loop.wait(self._runtime.list_tasks(agent=agent, state=state, limit=limit))

    def add_team(self, name: str, spec: Mapping[str, object]) -> TeamStatus:
        """Adds a team by its table in the configuration, and returns its status.

        Raises:
            Conflict: the name is taken.
            InvalidParams: the table is wrong.
        """
        return self._loop.wait(self._runtime.add_team(name, spec))

    def remove_team(self, name: str, *, cascade: bool = False) -> list[str]:
        """Removes a team but not its members, with `cascade` also all that refer to it; returns the removed names."""
        return self._loop.wait(self._runtime.remove_team(name, cascade=cascade))

    def add_workflow(self, name: str, spec: Mapping[str, object]) -> WorkflowStatus:
        """Adds a workflow by its table in the configuration, and returns its status.

        Raises:
            Conflict: the name is taken.
            InvalidParams: the table is wrong.
        """
        return self._loop.wait(self._runtime.add_workflow(name, spec))

    def remove_workflow(self, name: str, *, cascade: bool = False) -> list[str]:
        """Removes a workflow, with `cascade` also all that refer to it; returns the removed names."""
        return self._loop.wait(self._runtime.remove_workflow(name, cascade=cascade))

    def save_state(self, name: str, *, timeout_s: float | None = None) -> int:
        """Saves the state of a worker, or of an agent of one worker; returns the number of the checkpoint.

        Raises:
            Conflict: it is not up, or saves nothing; or the agent has several workers, which have all saved by
                then: `data["checkpoints"]` has the numbers.
        """
        return self._loop.wait(self._runtime.save_state(name, timeout_s=timeout_s))

    def restore_agent(
        self,
        checkpoint: int | None = None,
        name: str | None = None,
        *,
        start: bool = True,
        data: object = UNSET,
        timeout_s: float | None = None,
    ) -> str:
        """Restores a worker from a checkpoint, or from `data`: the one that saved it, or `name`; returns the agent's name.

        Where there is no agent of that name, that of the checkpoint is added under it, with the table that it had when the
        checkpoint was saved, and runs, unless `start` is False. A worker that is there and does not run restores it when it is
        started. A running task may continue for `timeout_s`.

        Raises:
            NotFound: there is no such checkpoint, or no such worker.
            Corrupted: the stored checkpoint is damaged.
        """
        return self._loop.wait(
            self._runtime.restore_agent(checkpoint, name, start=start, data=data, timeout_s=timeout_s)
        )

    def hibernate_agent(self, name: str, *, timeout_s: float | None = None, force: bool = False) -> AgentStatus:
        """Saves an agent's state and ends its processes; its next task, or `wake_agent`, restores it.

        With `force` also one that saves no state is ended.
        """
        return self._loop.wait(self._runtime.hibernate_agent(name, timeout_s=timeout_s, force=force))

    def wake_agent(self, name: str, *, timeout_s: float | None = None) -> AgentStatus:
        """Starts a hibernated agent from its saved state."""
        return self._loop.wait(self._runtime.wake_agent(name, timeout_s=timeout_s))

    def select_agents(self, names: Sequence[str] = (), *, selector: str | None = None) -> list[str]:
        """Returns the names that globs and labels choose: `select_agents(["work*"], selector="team=red")`.

        Raises:
            NotFound: a glob or the selector matches nothing.
            InvalidParams: the selector is not valid.
        """
        return self._loop.wait(self._runtime.select_agents(names, selector=selector))

    def status(
        self, names: Sequence[str] | None = None, *, selector: str | None = None, failed: bool = False
    ) -> Status:
        """Returns the status of the daemon, of its agents and MCP servers, and task counts.

        Args:
            names: names, worker ids or globs; None: all.
            selector: labels, such as `team=red,tier!=db`.
            failed: whether to return only what is not as wanted.

        Raises:
            NotFound: a name is unknown, or a glob or the selector matches nothing.
        """
        return self._loop.wait(self._runtime.status(names, selector=selector, failed=failed))

    def get_statistics(self, names: Sequence[str] | None = None, *, selector: str | None = None) -> Statistics:
        """Returns counts and durations since the daemon started, in total and by agent and server (chosen as in `status`).

        Raises:
            NotFound: a name is unknown.
        """
        return self._loop.wait(self._runtime.get_statistics(names, selector=selector))

    def get_resource_usage(self, name: str | None = None) -> ResourceUsage:
        """Returns the resource usage of all agents and servers, or of one of them.

        Raises:
            NotFound: the name is unknown.
        """
        return self._loop.wait(self._runtime.get_resource_usage(name))

    def call(self, method: str, *, timeout_s: float | None = None, **params: object) -> object:
        """Returns the result of any method of the daemon, as JSON; `rpc.discover` lists them.

        Raises:
            CorralError: the error that the daemon answered.
        """
        return self._loop.wait(self._runtime.call(method, timeout_s=timeout_s, **params))
