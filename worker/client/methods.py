# written by docs/reference/python.py; do not edit
# ruff: noqa: A002, D102 - parameters have the names that the daemon has for them; the docstrings are those of the definitions
# `declares` makes the bodies.
# mypy: disable-error-code="empty-body"
"""Declares each method of the daemon with its types; `runtime.AgentRuntime` and `blocking.Runtime` have these methods, and more."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from ..contract.records import AgentStatus, ScheduleRecord, TaskParams
from ..control import results, runtime_results, state_results
from ..control.access import NewToken
from ..control.backup import BackupMade, BackupPiece, Exported, Imported
from ..control.deployments import Deployment, Deployments, PackageRecord, PackageRecords, PackageUpload
from ..control.logins import LoggedOut, Login, LoginStarted
from ..control.metrics import MetricsHistory, MetricsLatest, MetricsTop
from ..control.params import Addition
from ..control.reports import Approvals, Costs, InboxItems, InboxSeen, TaskLog
from ..control.revisions import RevisionDiff, Revisions, RevisionShown, RolledBack
from ..control.tenants import TenantAdded, TenantChanged, TenantShown
from ..control.tool_pins import Accepted, ToolDiff
from ..methods import access, agent, daemon, deployment, events, mcp, state, task
from .calling import calls, declares


class Methods:
    """Declares the methods of a daemon, for a Caller and for a Waiter.

    Each raises the CorralError that the daemon answers.
    """

    show_agent = calls(agent.AGENT_SHOW)
    answer_approval = calls(task.APPROVAL_ANSWER)
    show_approval = calls(task.APPROVAL_SHOW)
    whoami = calls(access.AUTH_WHOAMI)
    discard_backup = calls(daemon.BACKUP_DISCARD)
    show_checkpoint = calls(state.CHECKPOINT_SHOW)
    doctor = calls(daemon.DAEMON_DOCTOR)
    emergency_stop = calls(daemon.DAEMON_EMERGENCY_STOP)
    set_log_level = calls(daemon.DAEMON_LOG_LEVEL)
    ping = calls(daemon.DAEMON_PING)
    stop_daemon = calls(daemon.DAEMON_STOP)
    abort_deployment = calls(deployment.DEPLOYMENT_ABORT)
    promote_deployment = calls(deployment.DEPLOYMENT_PROMOTE)
    show_deployment = calls(deployment.DEPLOYMENT_SHOW)
    list_logins = calls(mcp.MCP_LOGINS)
    list_prompts = calls(mcp.MCP_PROMPTS)
    list_resources = calls(mcp.MCP_RESOURCES)
    list_servers = calls(mcp.MCP_SERVERS)
    memory_pools = calls(state.MEMORY_POOLS)
    list_models = calls(daemon.MODELS_LIST)
    drain_node = calls(daemon.NODE_DRAIN)
    list_nodes = calls(daemon.NODE_LIST)
    resume_node = calls(daemon.NODE_RESUME)
    remove_package = calls(deployment.PACKAGE_RM)
    show_package = calls(deployment.PACKAGE_SHOW)
    verify_package = calls(deployment.PACKAGE_VERIFY)
    get_runtime_stats = calls(daemon.RUNTIME_STATS)
    list_schedules = calls(task.SCHEDULE_LIST)
    pause_schedule = calls(task.SCHEDULE_PAUSE)
    resume_schedule = calls(task.SCHEDULE_RESUME)
    remove_schedule = calls(task.SCHEDULE_RM)
    run_schedule = calls(task.SCHEDULE_RUN)
    show_schedule = calls(task.SCHEDULE_SHOW)
    list_secrets = calls(access.SECRET_LIST)
    list_stores = calls(daemon.STORE_LIST)
    list_teams = calls(agent.TEAM_LIST)
    show_team = calls(agent.TEAM_SHOW)
    list_templates = calls(daemon.TEMPLATE_LIST)
    list_tenants = calls(access.TENANT_LIST)
    resume_tenant = calls(access.TENANT_RESUME)
    remove_tenant = calls(access.TENANT_RM)
    suspend_tenant = calls(access.TENANT_SUSPEND)
    list_tokens = calls(access.TOKEN_LIST)
    remove_token = calls(access.TOKEN_RM)
    list_workflows = calls(agent.WORKFLOW_LIST)
    show_workflow = calls(agent.WORKFLOW_SHOW)

    @declares(agent.AGENT_ADD_ALL)
    async def add_agents(
        self,
        agents: Sequence[Addition | Mapping[str, object]],
        *,
        start: bool = True,
        wait: bool = True,
        present: Literal["refuse", "keep", "replace"] = "refuse",
        dry_run: bool = False,
    ) -> results.AgentsAdded: ...

    @declares(agent.AGENT_EXPOSE)
    async def expose_agent(
        self, name: str, address: str | None, *, auth: Literal["token", "none"] = "token"
    ) -> results.Exposed: ...

    @declares(agent.AGENT_HIBERNATE)
    async def hibernate_agents(
        self,
        names: Sequence[str] = (),
        *,
        selector: str | None = None,
        timeout_s: float | None = None,
        force: bool = False,
    ) -> results.AgentsChanged: ...

    @declares(agent.AGENT_LIST)
    async def list_agents(
        self, names: Sequence[str] | None = None, *, selector: str | None = None, failed: bool = False
    ) -> runtime_results.Agents: ...

    @declares(agent.AGENT_PAUSE)
    async def pause_agents(
        self, names: Sequence[str] = (), *, all: bool = False, selector: str | None = None
    ) -> results.AgentsChanged: ...

    @declares(agent.AGENT_RESET)
    async def reset_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> results.AgentsChanged: ...

    @declares(agent.AGENT_RESTART)
    async def restart_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> results.AgentsChanged: ...

    @declares(agent.AGENT_RESUME)
    async def resume_agents(
        self, names: Sequence[str] = (), *, all: bool = False, selector: str | None = None
    ) -> results.AgentsChanged: ...

    @declares(agent.AGENT_RM)
    async def remove_agents(
        self,
        names: Sequence[str] = (),
        *,
        name: str | None = None,
        selector: str | None = None,
        cascade: bool = False,
        expected: str | None = None,
    ) -> results.Removed: ...

    @declares(agent.AGENT_ROLLBACK)
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

    @declares(agent.AGENT_RUN_COMMAND)
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

    @declares(agent.AGENT_SCALE)
    async def scale_agent(self, name: str, instances: int, *, wait: bool = True) -> AgentStatus: ...

    @declares(agent.AGENT_SET)
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

    @declares(agent.AGENT_SIGNAL)
    async def signal_agents(
        self, signal: str, names: Sequence[str] = (), *, name: str | None = None, selector: str | None = None
    ) -> results.Names: ...

    @declares(agent.AGENT_START)
    async def start_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> results.AgentsChanged: ...

    @declares(agent.AGENT_STOP)
    async def stop_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> results.AgentsChanged: ...

    @declares(agent.AGENT_WAKE)
    async def wake_agents(
        self,
        names: Sequence[str] = (),
        *,
        all: bool = False,
        selector: str | None = None,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> results.AgentsChanged: ...

    @declares(task.APPROVAL_LIST)
    async def list_approvals(
        self, *, agent: str | None = None, task: str | None = None, ended: bool = False, limit: int = 1000
    ) -> Approvals: ...

    @declares(events.AUDIT_LIST)
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

    @declares(events.AUDIT_VERIFY)
    async def verify_audit(self, *, head: str | None = None) -> results.AuditVerdict: ...

    @declares(daemon.BACKUP_MAKE)
    async def make_backup(self, *, logs: bool = False, secrets: bool = True) -> BackupMade: ...

    @declares(daemon.BACKUP_READ)
    async def read_backup(self, id: str, *, offset: int = 0) -> BackupPiece: ...

    @declares(state.CHECKPOINT_LIST)
    async def list_checkpoints(self, *, name: str | None = None, limit: int = 100) -> state_results.Checkpoints: ...

    @declares(state.CHECKPOINT_RM)
    async def remove_checkpoints(
        self, checkpoints: Sequence[int], *, force: bool = False
    ) -> state_results.CheckpointsRemoved: ...

    @declares(state.CHECKPOINT_SAVE)
    async def save_states(self, name: str, *, timeout_s: float | None = None) -> state_results.Checkpoints: ...

    @declares(task.COST_LIST)
    async def list_costs(
        self,
        *,
        by: Literal["agent", "session", "tenant", "day", "hour"] = "agent",
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        agent: str | None = None,
        limit: int = 1000,
    ) -> Costs: ...

    @declares(daemon.DAEMON_EXPORT)
    async def export(self, names: Sequence[str] | None = None, *, selector: str | None = None) -> Exported: ...

    @declares(daemon.DAEMON_IMPORT)
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

    @declares(daemon.DAEMON_RELOAD)
    async def reload(
        self, *, dry_run: bool = False, wait: bool = False, timeout_s: float | None = None
    ) -> results.Reloaded: ...

    @declares(daemon.DAEMON_SCHEMA)
    async def get_schema(
        self,
        *,
        document: Literal["config", "agent", "server", "template", "team", "workflow", "task", "event"] = "config",
    ) -> object: ...

    @declares(daemon.DAEMON_UPGRADE)
    async def upgrade(
        self, *, python: str | None = None, check: bool = False, timeout_s: float = 10.0
    ) -> results.Upgraded: ...

    @declares(deployment.DEPLOYMENT_CREATE)
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

    @declares(deployment.DEPLOYMENT_LIST)
    async def list_deployments(self, *, name: str | None = None, limit: int = 50) -> Deployments: ...

    @declares(events.EVENT_LIST)
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

    @declares(events.EVENT_PUBLISH)
    async def publish(self, type: str, data: object = None) -> results.Published: ...

    @declares(events.EVENT_TYPES)
    async def list_event_types(self, *, types: Sequence[str] | None = None) -> events.EventTypes: ...

    @declares(task.INBOX_LIST)
    async def list_inbox(self, *, agent: str | None = None, limit: int = 1000) -> InboxItems: ...

    @declares(task.INBOX_SEEN)
    async def mark_inbox_seen(self, *, items: Sequence[str] = (), all: bool = False) -> InboxSeen: ...

    @declares(events.LOG_READ)
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

    @declares(mcp.MCP_ACCEPT)
    async def accept_tools(self, name: str, *, tool: str | None = None, digest: str | None = None) -> Accepted: ...

    @declares(mcp.MCP_CALL)
    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
        traceparent: str | None = None,
    ) -> object: ...

    @declares(mcp.MCP_DIFF)
    async def diff_tools(self, name: str, *, tool: str | None = None) -> ToolDiff: ...

    @declares(mcp.MCP_FINISH_LOGIN)
    async def finish_login(self, name: str, login: str, *, redirect: str | None = None) -> Login: ...

    @declares(mcp.MCP_LOGIN)
    async def start_login(
        self, name: str, *, port: int = 41357, device: bool = False, scopes: Sequence[str] = ()
    ) -> LoginStarted: ...

    @declares(mcp.MCP_LOGOUT)
    async def logout(self, name: str, *, revoke: bool = True) -> LoggedOut: ...

    @declares(mcp.MCP_READ)
    async def read_resource(self, uri: str, *, timeout_s: float | None = None) -> object: ...

    @declares(mcp.MCP_TOOLS)
    async def list_tools(self, server: str | None = None) -> results.Tools: ...

    @declares(state.MEMORY_CLEANUP)
    async def clean_up_memory(self, *, agent: str | None = None) -> state_results.MemoryRemoved: ...

    @declares(state.MEMORY_CLEAR)
    async def clear_memory(self, agent: str, *, session: str | None = None) -> state_results.MemoryRemoved: ...

    @declares(state.MEMORY_DELETE)
    async def delete_memory(self, agent: str, key: str, *, session: str = "") -> results.Done: ...

    @declares(state.MEMORY_EXPIRE)
    async def expire_session(
        self, agent: str, session: str, *, ttl_s: float | None = None
    ) -> state_results.SessionExpiry: ...

    @declares(state.MEMORY_GET)
    async def get_memory(self, agent: str, key: str, *, session: str = "") -> state_results.Value: ...

    @declares(state.MEMORY_PUT)
    async def put_memory(
        self, agent: str, key: str, value: object, *, ttl_s: float | None = None, session: str = ""
    ) -> results.Done: ...

    @declares(state.MEMORY_SEARCH)
    async def search_memory(
        self, agent: str, query: str = "", *, limit: int = 100, session: str | None = None
    ) -> state_results.Items: ...

    @declares(state.MEMORY_SESSIONS)
    async def list_sessions(self, *, agent: str | None = None, limit: int = 1000) -> state_results.Sessions: ...

    @declares(state.MEMORY_SHOW)
    async def show_session(
        self, agent: str, session: str, *, last: int | None = None
    ) -> state_results.SessionShown: ...

    @declares(state.MEMORY_STATS)
    async def memory_stats(self, *, agent: str | None = None) -> state_results.MemoryStatistics: ...

    @declares(daemon.METRICS_HISTORY)
    async def get_metrics_history(
        self,
        *,
        agent: str | None = None,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        step_s: float | None = None,
    ) -> MetricsHistory: ...

    @declares(daemon.METRICS_LATEST)
    async def get_latest_metrics(
        self, names: Sequence[str] | None = None, *, selector: str | None = None
    ) -> MetricsLatest: ...

    @declares(daemon.METRICS_TOP)
    async def get_metrics_top(
        self,
        names: Sequence[str] | None = None,
        *,
        selector: str | None = None,
        since: float | datetime | None = None,
        limit: int = 5,
    ) -> MetricsTop: ...

    @declares(deployment.PACKAGE_ADD)
    async def add_package(
        self, data: str | None = None, *, upload: str | None = None, sha256: str | None = None
    ) -> PackageRecord: ...

    @declares(deployment.PACKAGE_LIST)
    async def list_packages(self, *, name: str | None = None) -> PackageRecords: ...

    @declares(deployment.PACKAGE_UPLOAD)
    async def upload_package(self, data: str, *, offset: int = 0, upload: str | None = None) -> PackageUpload: ...

    @declares(daemon.QUOTA_LIST)
    async def list_quotas(
        self, names: Sequence[str] | None = None, *, selector: str | None = None
    ) -> results.QuotaList: ...

    @declares(agent.REVISION_DIFF)
    async def diff_revisions(
        self, name: str, *, before: int | None = None, after: int | None = None
    ) -> RevisionDiff: ...

    @declares(agent.REVISION_LIST)
    async def list_revisions(self, name: str, *, limit: int = 50) -> Revisions: ...

    @declares(agent.REVISION_SHOW)
    async def show_revision(self, name: str, *, revision: int | None = None) -> RevisionShown: ...

    @declares(daemon.RPC_DISCOVER)
    async def discover(self) -> object: ...

    @declares(task.SCHEDULE_ADD)
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

    @declares(task.SCHEDULE_ADD_COMMAND)
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

    @declares(access.SECRET_RM)
    async def remove_secret(self, name: str, *, force: bool = False) -> results.SecretUse: ...

    @declares(access.SECRET_ROTATE)
    async def rotate_secret(
        self, name: str, secret: str, *, agents: Sequence[str] | None = None, restart: bool = False
    ) -> results.SecretRotated: ...

    @declares(access.SECRET_SET)
    async def set_secret(
        self, name: str, secret: str, *, agents: Sequence[str] = (), replace: bool = False
    ) -> results.SecretUse: ...

    @declares(task.TASK_DISCARD)
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

    @declares(task.TASK_LIST)
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

    @declares(task.TASK_LOG)
    async def task_log(self, task: str, *, follow: bool = False, lines: int = 1000) -> TaskLog: ...

    @declares(task.TASK_RETRY)
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

    @declares(task.TASK_TREE)
    async def task_tree(self, task: str, *, depth: int = 16, limit: int = 1000) -> results.TaskNode: ...

    @declares(agent.TEAM_ADD)
    async def add_teams(
        self,
        specs: Mapping[str, Mapping[str, object]] | None = None,
        *,
        name: str | None = None,
        spec: Mapping[str, object] | None = None,
    ) -> results.Teams: ...

    @declares(access.TENANT_ADD)
    async def add_tenant(
        self, name: str, *, spec: Mapping[str, object] | None = None, new: bool = False
    ) -> TenantAdded: ...

    @declares(access.TENANT_SET)
    async def set_tenant(self, name: str, spec: Mapping[str, object]) -> TenantChanged: ...

    @declares(access.TENANT_SHOW)
    async def show_tenant(self, *, name: str | None = None) -> TenantShown: ...

    @declares(access.TOKEN_ADD)
    async def add_token(
        self,
        name: str,
        rights: Literal["read", "operate", "admin"],
        *,
        agents: Sequence[str] | None = None,
        expires_s: float | None = None,
        tenant: str | None = None,
    ) -> NewToken: ...

    @declares(access.TOKEN_ROTATE)
    async def rotate_token(self, name: str, *, overlap_s: float = 0, expires_s: float | None = None) -> NewToken: ...

    @declares(agent.WORKFLOW_ADD)
    async def add_workflows(
        self,
        specs: Mapping[str, Mapping[str, object]] | None = None,
        *,
        name: str | None = None,
        spec: Mapping[str, object] | None = None,
    ) -> results.Workflows: ...
