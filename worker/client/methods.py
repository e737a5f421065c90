# written by docs/reference/python.py; do not edit
# ruff: noqa: A002, D102 - parameters have the names that the daemon has for them; the docstrings are those of the definitions
# `calls` makes the bodies.
# mypy: disable-error-code="empty-body"
"""Declares each method of the daemon with its types; `runtime.AgentRuntime` and `blocking.Runtime` have these methods, and more."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from ..contract.approvals import Approval
from ..contract.records import AgentStatus, ScheduleRecord, Task, TaskParams
from ..control import results, runtime_results, state_results
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
from ..control.revisions import RevisionDiff, Revisions, RevisionShown, RolledBack
from ..control.tenants import TenantAdded, TenantChanged, TenantRemoved, Tenants, TenantShown, TenantSwitched
from ..methods import access, agent, daemon, deployment, events, mcp, state, task
from .calling import calls


class Methods:
    """Declares the methods of a daemon, for a Caller and for a Waiter.

    Each raises the CorralError that the daemon answers.
    """

    @calls(agent.AGENT_ADD_ALL)
    async def add_agents(
        self,
        agents: Sequence[Addition | Mapping[str, object]],
        *,
        start: bool = True,
        wait: bool = True,
        present: Literal["refuse", "keep", "replace"] = "refuse",
        dry_run: bool = False,
    ) -> results.AgentsAdded: ...

    @calls(agent.AGENT_EXPOSE)
    async def expose_agent(
        self, name: str, address: str | None, *, auth: Literal["token", "none"] = "token"
    ) -> results.Exposed: ...

    @calls(agent.AGENT_HIBERNATE)
    async def hibernate_agents(
        self,
        names: Sequence[str] = (),
        *,
        selector: str | None = None,
        timeout_s: float | None = None,
        force: bool = False,
    ) -> results.AgentsChanged: ...

    @calls(agent.AGENT_LIST)
    async def list_agents(
        self, names: Sequence[str] | None = None, *, selector: str | None = None, failed: bool = False
    ) -> runtime_results.Agents: ...

    @calls(agent.AGENT_PAUSE)
    async def pause_agents(
        self, names: Sequence[str] = (), *, all: bool = False, selector: str | None = None
    ) -> results.AgentsChanged: ...

    @calls(agent.AGENT_RESET)
    async def reset_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> results.AgentsChanged: ...

    @calls(agent.AGENT_RESTART)
    async def restart_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> results.AgentsChanged: ...

    @calls(agent.AGENT_RESUME)
    async def resume_agents(
        self, names: Sequence[str] = (), *, all: bool = False, selector: str | None = None
    ) -> results.AgentsChanged: ...

    @calls(agent.AGENT_RM)
    async def remove_agents(
        self,
        names: Sequence[str] = (),
        *,
        name: str | None = None,
        selector: str | None = None,
        cascade: bool = False,
        expected: str | None = None,
    ) -> results.Removed: ...

    @calls(agent.AGENT_ROLLBACK)
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
    ) -> RolledBack: ...

    @calls(agent.AGENT_RUN_COMMAND)
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
    ) -> results.CommandRun: ...

    @calls(agent.AGENT_SCALE)
    async def scale_agent(self, name: str, instances: int, *, wait: bool = True) -> AgentStatus: ...

    @calls(agent.AGENT_SET)
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
    ) -> runtime_results.AgentSet: ...

    @calls(agent.AGENT_SHOW)
    async def show_agent(self, name: str) -> results.AgentShown: ...

    @calls(agent.AGENT_SIGNAL)
    async def signal_agents(
        self, signal: str, names: Sequence[str] = (), *, name: str | None = None, selector: str | None = None
    ) -> results.Names: ...

    @calls(agent.AGENT_START)
    async def start_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> results.AgentsChanged: ...

    @calls(agent.AGENT_STOP)
    async def stop_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> results.AgentsChanged: ...

    @calls(agent.AGENT_WAKE)
    async def wake_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> results.AgentsChanged: ...

    @calls(task.APPROVAL_ANSWER)
    async def answer_approval(self, approval: int, answer: str | None) -> Approval: ...

    @calls(task.APPROVAL_LIST)
    async def list_approvals(
        self, *, agent: str | None = None, task: str | None = None, ended: bool = False, limit: int = 1000
    ) -> Approvals: ...

    @calls(task.APPROVAL_SHOW)
    async def show_approval(self, approval: int) -> Approval: ...

    @calls(events.AUDIT_LIST)
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
    ) -> results.AuditPage: ...

    @calls(events.AUDIT_VERIFY)
    async def verify_audit(self, *, head: str | None = None) -> results.AuditVerdict: ...

    @calls(access.AUTH_WHOAMI)
    async def whoami(self) -> Whoami: ...

    @calls(daemon.BACKUP_DISCARD)
    async def discard_backup(self, id: str) -> results.Done: ...

    @calls(daemon.BACKUP_MAKE)
    async def make_backup(self, *, logs: bool = False, secrets: bool = True) -> BackupMade: ...

    @calls(daemon.BACKUP_READ)
    async def read_backup(self, id: str, *, offset: int = 0) -> BackupPiece: ...

    @calls(state.CHECKPOINT_LIST)
    async def list_checkpoints(self, *, name: str | None = None, limit: int = 100) -> state_results.Checkpoints: ...

    @calls(state.CHECKPOINT_RM)
    async def remove_checkpoints(
        self, checkpoints: Sequence[int], *, force: bool = False
    ) -> state_results.CheckpointsRemoved: ...

    @calls(state.CHECKPOINT_SAVE)
    async def save_states(self, name: str, *, timeout_s: float | None = None) -> state_results.Checkpoints: ...

    @calls(state.CHECKPOINT_SHOW)
    async def show_checkpoint(self, checkpoint: int) -> state_results.CheckpointShown: ...

    @calls(task.COST_LIST)
    async def list_costs(
        self,
        *,
        by: Literal["agent", "session", "tenant", "day", "hour"] = "agent",
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        agent: str | None = None,
        limit: int = 1000,
    ) -> Costs: ...

    @calls(daemon.DAEMON_DOCTOR)
    async def doctor(self) -> results.Diagnosis: ...

    @calls(daemon.DAEMON_EMERGENCY_STOP)
    async def emergency_stop(self) -> results.EmergencyStopped: ...

    @calls(daemon.DAEMON_EXPORT)
    async def export(self, names: Sequence[str] | None = None, *, selector: str | None = None) -> Exported: ...

    @calls(daemon.DAEMON_IMPORT)
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
    ) -> Imported: ...

    @calls(daemon.DAEMON_LOG_LEVEL)
    async def set_log_level(self, level: Literal["debug", "info", "warning", "error"]) -> results.LogLevelSet: ...

    @calls(daemon.DAEMON_PING)
    async def ping(self) -> results.Done: ...

    @calls(daemon.DAEMON_RELOAD)
    async def reload(
        self, *, dry_run: bool = False, wait: bool = False, timeout_s: float | None = None
    ) -> results.Reloaded: ...

    @calls(daemon.DAEMON_SCHEMA)
    async def get_schema(
        self,
        *,
        document: Literal["config", "agent", "server", "template", "team", "workflow", "task", "event"] = "config",
    ) -> object: ...

    @calls(daemon.DAEMON_STOP)
    async def stop_daemon(self) -> results.Stopping: ...

    @calls(daemon.DAEMON_UPGRADE)
    async def upgrade(
        self, *, python: str | None = None, check: bool = False, timeout_s: float = 10.0
    ) -> results.Upgraded: ...

    @calls(deployment.DEPLOYMENT_ABORT)
    async def abort_deployment(self, name: str) -> Deployment: ...

    @calls(deployment.DEPLOYMENT_CREATE)
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
    ) -> Deployment: ...

    @calls(deployment.DEPLOYMENT_LIST)
    async def list_deployments(self, *, name: str | None = None, limit: int = 50) -> Deployments: ...

    @calls(deployment.DEPLOYMENT_PROMOTE)
    async def promote_deployment(self, name: str) -> Deployment: ...

    @calls(deployment.DEPLOYMENT_SHOW)
    async def show_deployment(self, deployment: int) -> Deployment: ...

    @calls(events.EVENT_LIST)
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
    ) -> results.Events: ...

    @calls(events.EVENT_PUBLISH)
    async def publish(self, type: str, data: object = None) -> results.Published: ...

    @calls(events.EVENT_TYPES)
    async def list_event_types(self, *, types: Sequence[str] | None = None) -> events.EventTypes: ...

    @calls(events.LOG_READ)
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
    ) -> results.LogLines: ...

    @calls(mcp.MCP_CALL)
    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
        traceparent: str | None = None,
    ) -> object: ...

    @calls(mcp.MCP_FINISH_LOGIN)
    async def finish_login(self, name: str, login: str, *, redirect: str | None = None) -> Login: ...

    @calls(mcp.MCP_LOGIN)
    async def start_login(
        self, name: str, *, port: int = 41357, device: bool = False, scopes: Sequence[str] = ()
    ) -> LoginStarted: ...

    @calls(mcp.MCP_LOGINS)
    async def list_logins(self) -> Logins: ...

    @calls(mcp.MCP_LOGOUT)
    async def logout(self, name: str, *, revoke: bool = True) -> LoggedOut: ...

    @calls(mcp.MCP_PROMPTS)
    async def list_prompts(self) -> results.Prompts: ...

    @calls(mcp.MCP_READ)
    async def read_resource(self, uri: str, *, timeout_s: float | None = None) -> object: ...

    @calls(mcp.MCP_RESOURCES)
    async def list_resources(self) -> results.Resources: ...

    @calls(mcp.MCP_SERVERS)
    async def list_servers(self) -> results.Servers: ...

    @calls(mcp.MCP_TOOLS)
    async def list_tools(self, server: str | None = None) -> results.Tools: ...

    @calls(state.MEMORY_CLEANUP)
    async def clean_up_memory(self, *, agent: str | None = None) -> state_results.MemoryRemoved: ...

    @calls(state.MEMORY_CLEAR)
    async def clear_memory(self, agent: str, *, session: str | None = None) -> state_results.MemoryRemoved: ...

    @calls(state.MEMORY_DELETE)
    async def delete_memory(self, agent: str, key: str, *, session: str = "") -> results.Done: ...

    @calls(state.MEMORY_EXPIRE)
    async def expire_session(
        self, agent: str, session: str, *, ttl_s: float | None = None
    ) -> state_results.SessionExpiry: ...

    @calls(state.MEMORY_GET)
    async def get_memory(self, agent: str, key: str, *, session: str = "") -> state_results.Value: ...

    @calls(state.MEMORY_POOLS)
    async def memory_pools(self) -> state_results.MemoryPools: ...

    @calls(state.MEMORY_PUT)
    async def put_memory(
        self, agent: str, key: str, value: object, *, ttl_s: float | None = None, session: str = ""
    ) -> results.Done: ...

    @calls(state.MEMORY_SEARCH)
    async def search_memory(
        self, agent: str, query: str = "", *, limit: int = 100, session: str | None = None
    ) -> state_results.Items: ...

    @calls(state.MEMORY_SESSIONS)
    async def list_sessions(self, *, agent: str | None = None, limit: int = 1000) -> state_results.Sessions: ...

    @calls(state.MEMORY_SHOW)
    async def show_session(
        self, agent: str, session: str, *, last: int | None = None
    ) -> state_results.SessionShown: ...

    @calls(state.MEMORY_STATS)
    async def memory_stats(self, *, agent: str | None = None) -> state_results.MemoryStatistics: ...

    @calls(daemon.METRICS_HISTORY)
    async def get_metrics_history(
        self,
        *,
        agent: str | None = None,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        step_s: float | None = None,
    ) -> MetricsHistory: ...

    @calls(daemon.METRICS_LATEST)
    async def get_latest_metrics(
        self, names: Sequence[str] | None = None, *, selector: str | None = None
    ) -> MetricsLatest: ...

    @calls(daemon.METRICS_TOP)
    async def get_metrics_top(
        self,
        names: Sequence[str] | None = None,
        *,
        selector: str | None = None,
        since: float | datetime | None = None,
        limit: int = 5,
    ) -> MetricsTop: ...

    @calls(daemon.MODELS_LIST)
    async def list_models(self) -> runtime_results.Models: ...

    @calls(daemon.NODE_DRAIN)
    async def drain_node(self, name: str) -> Node: ...

    @calls(daemon.NODE_LIST)
    async def list_nodes(self) -> Nodes: ...

    @calls(daemon.NODE_RESUME)
    async def resume_node(self, name: str) -> Node: ...

    @calls(deployment.PACKAGE_ADD)
    async def add_package(
        self, data: str | None = None, *, upload: str | None = None, sha256: str | None = None
    ) -> PackageRecord: ...

    @calls(deployment.PACKAGE_LIST)
    async def list_packages(self, *, name: str | None = None) -> PackageRecords: ...

    @calls(deployment.PACKAGE_RM)
    async def remove_package(self, package: str) -> PackageRecord: ...

    @calls(deployment.PACKAGE_SHOW)
    async def show_package(self, package: str) -> PackageDetails: ...

    @calls(deployment.PACKAGE_UPLOAD)
    async def upload_package(self, data: str, *, offset: int = 0, upload: str | None = None) -> PackageUpload: ...

    @calls(deployment.PACKAGE_VERIFY)
    async def verify_package(self, package: str) -> PackageRecord: ...

    @calls(daemon.QUOTA_LIST)
    async def list_quotas(
        self, names: Sequence[str] | None = None, *, selector: str | None = None
    ) -> results.QuotaList: ...

    @calls(agent.REVISION_DIFF)
    async def diff_revisions(
        self, name: str, *, before: int | None = None, after: int | None = None
    ) -> RevisionDiff: ...

    @calls(agent.REVISION_LIST)
    async def list_revisions(self, name: str, *, limit: int = 50) -> Revisions: ...

    @calls(agent.REVISION_SHOW)
    async def show_revision(self, name: str, *, revision: int | None = None) -> RevisionShown: ...

    @calls(daemon.RPC_DISCOVER)
    async def discover(self) -> object: ...

    @calls(daemon.RUNTIME_STATS)
    async def get_runtime_stats(self) -> runtime_results.RuntimeStatistics: ...

    @calls(task.SCHEDULE_ADD)
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
    ) -> ScheduleRecord: ...

    @calls(task.SCHEDULE_ADD_COMMAND)
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
    ) -> ScheduleRecord: ...

    @calls(task.SCHEDULE_LIST)
    async def list_schedules(self) -> results.Schedules: ...

    @calls(task.SCHEDULE_PAUSE)
    async def pause_schedule(self, name: str) -> ScheduleRecord: ...

    @calls(task.SCHEDULE_RESUME)
    async def resume_schedule(self, name: str) -> ScheduleRecord: ...

    @calls(task.SCHEDULE_RM)
    async def remove_schedule(self, name: str) -> results.Removed: ...

    @calls(task.SCHEDULE_RUN)
    async def run_schedule(self, name: str) -> Task: ...

    @calls(task.SCHEDULE_SHOW)
    async def show_schedule(self, name: str) -> results.ScheduleShown: ...

    @calls(access.SECRET_LIST)
    async def list_secrets(self) -> results.Secrets: ...

    @calls(access.SECRET_RM)
    async def remove_secret(self, name: str, *, force: bool = False) -> results.SecretUse: ...

    @calls(access.SECRET_ROTATE)
    async def rotate_secret(
        self, name: str, secret: str, *, agents: Sequence[str] | None = None, restart: bool = False
    ) -> results.SecretRotated: ...

    @calls(access.SECRET_SET)
    async def set_secret(
        self, name: str, secret: str, *, agents: Sequence[str] = (), replace: bool = False
    ) -> results.SecretUse: ...

    @calls(daemon.STORE_LIST)
    async def list_stores(self) -> runtime_results.Stores: ...

    @calls(task.TASK_DISCARD)
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
    ) -> results.TasksDiscarded: ...

    @calls(task.TASK_LIST)
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
    ) -> results.TaskPage: ...

    @calls(task.TASK_LOG)
    async def task_log(self, task: str, *, follow: bool = False, lines: int = 1000) -> TaskLog: ...

    @calls(task.TASK_RETRY)
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
        step: str | None = None,
    ) -> results.TasksRetried: ...

    @calls(task.TASK_TREE)
    async def task_tree(self, task: str, *, depth: int = 16, limit: int = 1000) -> results.TaskNode: ...

    @calls(agent.TEAM_ADD)
    async def add_teams(
        self,
        specs: Mapping[str, Mapping[str, object]] | None = None,
        *,
        name: str | None = None,
        spec: Mapping[str, object] | None = None,
    ) -> results.Teams: ...

    @calls(agent.TEAM_LIST)
    async def list_teams(self) -> results.Teams: ...

    @calls(agent.TEAM_SHOW)
    async def show_team(self, name: str) -> results.TeamShown: ...

    @calls(daemon.TEMPLATE_LIST)
    async def list_templates(self) -> runtime_results.Templates: ...

    @calls(access.TENANT_ADD)
    async def add_tenant(
        self, name: str, *, spec: Mapping[str, object] | None = None, new: bool = False
    ) -> TenantAdded: ...

    @calls(access.TENANT_LIST)
    async def list_tenants(self) -> Tenants: ...

    @calls(access.TENANT_RESUME)
    async def resume_tenant(self, name: str) -> TenantSwitched: ...

    @calls(access.TENANT_RM)
    async def remove_tenant(self, name: str) -> TenantRemoved: ...

    @calls(access.TENANT_SET)
    async def set_tenant(self, name: str, spec: Mapping[str, object]) -> TenantChanged: ...

    @calls(access.TENANT_SHOW)
    async def show_tenant(self, *, name: str | None = None) -> TenantShown: ...

    @calls(access.TENANT_SUSPEND)
    async def suspend_tenant(self, name: str) -> TenantSwitched: ...

    @calls(access.TOKEN_ADD)
    async def add_token(
        self,
        name: str,
        rights: Literal["read", "operate", "admin"],
        *,
        agents: Sequence[str] | None = None,
        expires_s: float | None = None,
        tenant: str | None = None,
    ) -> NewToken: ...

    @calls(access.TOKEN_LIST)
    async def list_tokens(self) -> TokenList: ...

    @calls(access.TOKEN_RM)
    async def remove_token(self, name: str) -> TokenRemoved: ...

    @calls(access.TOKEN_ROTATE)
    async def rotate_token(self, name: str, *, overlap_s: float = 0, expires_s: float | None = None) -> NewToken: ...

    @calls(agent.WORKFLOW_ADD)
    async def add_workflows(
        self,
        specs: Mapping[str, Mapping[str, object]] | None = None,
        *,
        name: str | None = None,
        spec: Mapping[str, object] | None = None,
    ) -> results.Workflows: ...

    @calls(agent.WORKFLOW_LIST)
    async def list_workflows(self) -> results.Workflows: ...

    @calls(agent.WORKFLOW_SHOW)
    async def show_workflow(self, name: str) -> results.WorkflowShown: ...
