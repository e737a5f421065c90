// Generated from the OpenAPI document by generate.py: do not edit.

import { Connection } from "./connection.ts";
import type { RequestOptions, ServerEvent } from "./connection.ts";

export { Connection, CorralError } from "./connection.ts";
export type { ConnectionOptions, RequestOptions, ServerEvent } from "./connection.ts";

/** Accepts the words that the tools of a server have now, or one of them; with the `digest` of the diff that was seen, only those. */
export interface AcceptParamsWithoutName {
  tool?: string | null;
  digest?: string | null;
}

/** Lists the tools of a server whose words were accepted, by their own names. */
export interface Accepted {
  name: string;
  tools: Array<string>;
}

/**
 * Specifies several new agents and servers, which may require each other: all are added, or none.
 *
 * `present` is the handling of a name that is taken: `refuse` refuses it, `keep` accepts it if its table is the same,
 * `replace` replaces the table of one that was added at run time. A dry run only reports the changes.
 */
export interface AddAllParams {
  agents: Array<Addition>;
  start?: boolean;
  wait?: boolean;
  present?: "keep" | "refuse" | "replace";
  dry_run?: boolean;
}

/** Specifies a new agent or server; `spec` has the shape of its table in the configuration file. */
export interface AddParams {
  name: string;
  spec: Record<string, unknown>;
  kind?: "agent" | "mcp";
  start?: boolean;
  wait?: boolean;
  directory?: string | null;
}

/**
 * Specifies one of several new agents or servers; see AddParams.
 *
 * `environment` has the values of `${NAME}` in `spec`; without it nothing is expanded.
 */
export interface Addition {
  name: string;
  spec: Record<string, unknown>;
  kind?: "agent" | "mcp";
  directory?: string | null;
  environment?: Record<string, string> | null;
}

/** Represents the end of one incarnation of a worker. */
export interface AgentExit {
  result: string;
  code: number | null;
  signal: string | null;
  forced: boolean;
  at: string;
  message: string;
  worker: string;
  incarnation: number;
}

/** Counts the sessions and keys of an agent; `pool` is the memory pool that it is in. */
export interface AgentMemory {
  agent: string;
  pool: string | null;
  keys: number;
  keys_bytes: number;
  sessions: number;
  turns: number;
  messages: number;
  size_bytes: number;
}

/**
 * Represents the result of `agent.set`: `changed` are the keys whose values differ from before.
 *
 * A team or workflow has no `agent`. `revision` is the number of its last revision; while `rolling`, new workers are brought up,
 * and the former table is in force.
 */
export interface AgentSet {
  agent?: AgentStatus;
  changed: Array<string>;
  etag: string;
  revision: number;
  rolling?: boolean;
}

/**
 * Specifies changes to the table of an agent or server: each key of `spec` replaces that key, and null removes it.
 *
 * A table within it is changed likewise. With `expected` the change is refused unless the agent has that `etag` still. `why` is
 * kept with the revision. `dry_run` returns the keys that would differ, and changes nothing. With `wait` the call waits until the
 * change is in force or taken back, at most `timeout_s`.
 */
export interface AgentSetParamsWithoutName {
  spec: Record<string, unknown>;
  expected?: string | null;
  why?: string;
  dry_run?: boolean;
  wait?: boolean;
  timeout_s?: number | null;
}

/** Represents the result of `agent.show`; of a team or workflow its spec alone. `etag` stands for its whole table. */
export interface AgentShown {
  agent?: AgentStatus;
  team?: TeamStatus;
  workflow?: WorkflowStatus;
  spec: Record<string, unknown>;
  source: string;
  etag?: string;
  template?: TemplateUse;
  exits?: Array<AgentExit>;
  tool_calls?: ToolCallRate;
  stderr?: Record<string, Array<string>>;
}

/**
 * Represents an agent or MCP server in `status`; `tools` and `mcp` are for servers, `instances` for a range.
 *
 * `job` is the state of an agent of `type = "oneshot"`, and null for a service. `rolling` is there while a change replaces
 * its workers, `taken_back` after one that did not come up, until the next one; `beside` has the workers without a place: new ones that come, and former ones that finish. `overridden` is the
 * number of the revision whose table is in force instead of the file's. `health_score` is from 0 to 100, by failed tasks,
 * restarts, failed checks, met limits and hangs of the last minutes.
 */
export interface AgentStatus {
  name: string;
  kind: "agent" | "mcp";
  state: string;
  wanted: boolean;
  degraded: boolean;
  protocol: string;
  workers: Array<WorkerStatus>;
  queued?: number;
  health_score?: number;
  type?: "http" | "oneshot" | "service" | "sse";
  job?: "failed" | "idle" | "running" | "stopped" | "succeeded" | "waiting" | null;
  title?: string;
  description?: string;
  labels?: Record<string, string>;
  instances?: InstancesStatus;
  service?: ServiceStatus;
  listen?: Array<ListenStatus>;
  warm?: Record<string, unknown> | null;
  tools?: Array<string>;
  mcp?: ServerStatus;
  rolling?: RollingStatus;
  taken_back?: TakenBack;
  beside?: Array<WorkerStatus>;
  overridden?: number;
}

/** Represents the result of `agent.list`. */
export interface Agents {
  agents: Array<AgentStatus>;
}

/** Represents the result of `agent.add_all`; `failures` has the agents that did not start, `changed` the keys that differ. */
export interface AgentsAdded {
  agents: Array<AgentStatus>;
  failures: Record<string, ErrorSchema>;
  added: Array<string>;
  changed: Record<string, Array<string>>;
  unchanged: Array<string>;
}

/**
 * Represents the agents and servers that a call was about, as they are after it.
 *
 * `names` are the names and ids of workers that the params chose.
 */
export interface AgentsChanged {
  agents: Array<AgentStatus>;
  names: Array<string>;
}

/** Counts the alerts since the daemon's start; suppressed ones exceeded the rate. */
export interface AlertCounts {
  sent?: number;
  failed?: number;
  suppressed?: number;
}

/**
 * Represents a question of a task: open, or ended by an answer, by its time limit, or with its task.
 *
 * `options` are the answers that are permitted; empty: any text. `detail` is what the question is about, any JSON value.
 * An expired one has its `default` as `answer`, null where it has none. `answered_by` names the caller.
 * One of a form may be declined (`can_decline`): it is answered, with null as `answer`. `server` is the MCP server that
 * asks in a tool call of the task; such a question ends with that call.
 */
export interface Approval {
  id: number;
  agent: string;
  worker?: string | null;
  task: string;
  key: string;
  kind?: "permission" | "question";
  question: string;
  options?: Array<string>;
  detail?: unknown;
  default?: string | null;
  state?: "answered" | "expired" | "open" | "withdrawn";
  answer?: string | null;
  answered_by?: string | null;
  asked_at?: string;
  expires_at?: string;
  ended_at?: string | null;
  can_decline?: boolean;
  server?: string | null;
}

/**
 * Answers a question: one of its options, in any case; any text where it has none.
 *
 * "allow" means the option of consent, whichever word it has: allow, yes, approve or ok; "deny" that of refusal: deny,
 * no, reject or refuse. null declines the form that the question belongs to (`can_decline`).
 */
export interface ApprovalAnswerParamsWithoutApproval {
  answer: string | null;
}

/** Lists questions; `more` says whether there are others beyond the limit. */
export interface Approvals {
  approvals: Array<Approval>;
  more?: boolean;
}

/** Lists audit records, the oldest first; `next` is the next `before`, or the next `since`. */
export interface AuditPage {
  records: Array<Record<string, unknown>>;
  next: number | null;
}

/**
 * Represents the result of `audit.verify`: the extent of the chain, and the first record that is wrong.
 *
 * `anchor` and `head` are positions, NUMBER:HASH.
 */
export interface AuditVerdict {
  ok: boolean;
  records: number;
  first: number | null;
  last: number | null;
  anchor: string;
  head: string;
  wrong: WrongRecord | null;
}

/**
 * Represents an archive that `backup.read` hands out, until it is discarded or no call was about it for 10 minutes.
 *
 * `size` and `sha256` are those of the archive, `content_bytes` the size of what is in it. `left` has the entries of the
 * state folder that are not in it, with the reasons, but for those that are made anew by each daemon.
 */
export interface BackupMade {
  id: string;
  size: number;
  sha256: string;
  files: number;
  content_bytes: number;
  created_at: string;
  left: Record<string, string>;
  duration_s: number;
}

/** Specifies a backup: with the logs or without, with the secrets in plain text or without. */
export interface BackupParams {
  logs?: boolean;
  secrets?: boolean;
}

/** Represents a part of an archive: `data` is base64. `last` is true at the end. */
export interface BackupPiece {
  data: string;
  offset: number;
  last: boolean;
}

/**
 * Limits a task. `timeout_s` and `max_tool_calls` can only tighten the agent's own limits.
 *
 * `timeout` is another way to write `timeout_s`: seconds, or "30s". A record has `timeout_s` alone.
 */
export interface Boundaries {
  timeout_s?: number | null;
  max_tool_calls?: number | null;
  allowed_tools?: Array<string> | null;
  constraints?: Array<string>;
  scope?: string;
  timeout?: number | string | null;
  max_tokens?: number | null;
  max_cost_cents?: number | null;
}

/**
 * Specifies a tool call, by the exposed name `SERVER__TOOL` or a short name that only one server has.
 *
 * `traceparent` is the trace context of the caller (W3C).
 */
export interface CallParamsWithoutName {
  arguments?: Record<string, unknown>;
  timeout_s?: number | null;
  traceparent?: string | null;
}

/** Represents a checkpoint without its data; `size_bytes` is the size of the data as JSON. `task` is null for a worker's. */
export interface CheckpointRecord {
  id: number;
  agent: string;
  worker: string | null;
  task: string | null;
  reason: string;
  at: string;
  size_bytes: number;
}

/**
 * Selects a checkpoint, or `data`, and the worker (or agent of one worker) to restore.
 *
 * Without `name` it is the worker that saved it. A running task may continue as with HibernateParams. Where there is no
 * agent of the name, the checkpoint's own is added under it, with the table that it had then, and started unless `start`
 * is false. A worker that is there and stopped is started only where `start` is true; else it begins with it at its next start.
 */
export interface CheckpointRestoreParams {
  checkpoint?: number | null;
  name?: string | null;
  data?: unknown;
  timeout_s?: number | null;
  start?: boolean | null;
}

/**
 * Selects a checkpoint, or `data`, and the worker (or agent of one worker) to restore.
 *
 * Without `name` it is the worker that saved it. A running task may continue as with HibernateParams. Where there is no
 * agent of the name, the checkpoint's own is added under it, with the table that it had then, and started unless `start`
 * is false. A worker that is there and stopped is started only where `start` is true; else it begins with it at its next start.
 */
export interface CheckpointRestoreParamsWithoutCheckpoint {
  name?: string | null;
  data?: unknown;
  timeout_s?: number | null;
  start?: boolean | null;
}

/**
 * Represents the result of `checkpoint.restore`: the worker's own copy, and whether it goes on with it at once.
 *
 * `added` says that there was no such agent, and that it was brought back with the table that it had.
 */
export interface CheckpointRestored {
  agent: string;
  worker: string;
  added: boolean;
  checkpoint: CheckpointRecord;
  live: boolean;
}

/** Names an agent, for all its workers that are up, or a worker; each has `timeout_s` to respond. */
export interface CheckpointSaveParams {
  name: string;
  timeout_s?: number | null;
}

/** Names an agent, for all its workers that are up, or a worker; each has `timeout_s` to respond. */
export interface CheckpointSaveParamsWithoutName {
  timeout_s?: number | null;
}

/** Represents a checkpoint with its data, which the agent decides. */
export interface CheckpointShown {
  id: number;
  agent: string;
  worker: string | null;
  task: string | null;
  reason: string;
  at: string;
  size_bytes: number;
  data: unknown;
}

/** Lists checkpoints. */
export interface Checkpoints {
  checkpoints: Array<CheckpointRecord>;
}

/** Represents the result of `checkpoint.rm`: the removed numbers. */
export interface CheckpointsRemoved {
  removed: Array<number>;
}

/**
 * Represents the result of `agent.run_command`: the worker that it ran in, its exit code or signal, and its output.
 *
 * `reason` says why it was killed. `stdout` and `stderr` are their first part as text; `stdout_bytes` and `stderr_bytes` are
 * the lengths of the whole. Bytes that are no UTF-8 are replaced by U+FFFD.
 */
export interface CommandRun {
  exec: string;
  worker: string;
  code: number | null;
  signal: string | null;
  reason: string;
  stdout: string;
  stderr: string;
  stdout_bytes: number;
  stderr_bytes: number;
}

/**
 * Represents what tasks have used. Tokens and cents are what their agents have reported.
 *
 * `name` is the agent or tenant, null for all; `at` is when the day or hour begins. `failed` are those of `tasks` that
 * neither succeeded nor were cancelled. `cpu_ms` is the processor time of their workers.
 */
export interface Cost {
  name: string | null;
  session: string | null;
  at: string | null;
  tasks: number;
  failed: number;
  tokens: number;
  cost_cents: number;
  cpu_ms: number;
}

/**
 * Represents the result of `cost.list`: the most expensive first, days and hours in order; `total` is of all that were selected.
 *
 * `since` is the beginning of the first hour that counts.
 */
export interface Costs {
  by: "agent" | "day" | "hour" | "session" | "tenant";
  since: string | null;
  costs: Array<Cost>;
  total: Cost;
}

/** Represents the components of one kind: their number and their names. */
export interface Counted {
  count: number;
  ids: Array<string>;
}

/** Represents the daemon in `daemon.doctor`; `rights` are those of the caller. */
export interface DaemonFound {
  running: boolean;
  pid: number;
  version: string;
  rights: "admin" | "operate" | "read";
}

/**
 * Represents the daemon itself in `status`.
 *
 * `log_lost` counts entries of its own log, `journal_lost` lines of workers that are in the files and not
 * in the system's journal. `http` is the address where MCP is served over HTTP. `upgrades` counts how often another
 * program took the place of the one before, without an end. `cluster_problem` says why "cluster" is `degraded`: what the engine
 * does not do, or which other daemon has the name of this node, since when and where. `needs_you` counts what waits for a person in the inbox.
 */
export interface DaemonStatus {
  pid: number;
  version: string;
  uptime_s: number;
  socket: string;
  state_dir: string;
  containment: string;
  draining: boolean;
  degraded: Array<string>;
  config: string | null;
  launcher_pid: number | null;
  alerts?: AlertCounts;
  log_level?: string;
  log_lost?: number;
  journal?: boolean;
  journal_lost?: number;
  http?: string | null;
  upgrades?: number;
  cluster_problem?: string;
  needs_you?: number;
}

/**
 * Asks for a version of a package as an agent.
 *
 * `package` is NAME or NAME@VERSION, the newest version without one; `agent` defaults to the name of the package. `settings`
 * are keys of the agent that override those of the package; null removes one. They are kept for the next versions.
 * `canary_percent` of the workers get the version first; the rest after `promote_after_s` seconds without a failure, or
 * when a promotion is asked for.
 */
export interface DeployParams {
  package: string;
  agent?: string | null;
  settings?: Record<string, unknown>;
  canary_percent?: number | null;
  promote_after_s?: number | null;
  timeout_s?: number | null;
  why?: string;
}

/**
 * Represents one deployment: a version of a package as an agent.
 *
 * `deployment` is its number, `revision` that of the agent, None if it got none; `first` where there was no agent of the
 * name before. `step` is what is being done, "" at the
 * end. `error` has the reason of one that failed. `folder` is where its files are.
 */
export interface Deployment {
  deployment: number;
  agent: string;
  package: string;
  version: string;
  digest: string;
  state: "canary" | "current" | "failed" | "installing" | "rolling" | "superseded";
  step?: string;
  first?: boolean;
  revision?: number | null;
  canary_percent?: number | null;
  promote_after_s?: number | null;
  settings?: Record<string, unknown>;
  checks?: Array<DeploymentCheck>;
  error?: ErrorSchema | null;
  by?: string;
  why?: string;
  environment?: string;
  folder?: string;
  created_at?: string;
  finished_at?: string | null;
}

/** Represents one thing that a version had to prove: package, needs, install, ready. */
export interface DeploymentCheck {
  name: string;
  state: "failed" | "passed" | "skipped";
  message?: string;
}

/** Lists deployments, the newest first. */
export interface Deployments {
  deployments: Array<Deployment>;
}

/** Represents the result of `daemon.doctor`. */
export interface Diagnosis {
  daemon: DaemonFound;
  findings: Array<Finding>;
  promises: Array<PromiseSchema>;
}

/** Represents a result without any content, for a call whose end is all there is to tell. */
export type Done = Record<string, unknown>;

/** Represents the result of `daemon.emergency_stop`: the numbers of killed workers and cancelled tasks. */
export interface EmergencyStopped {
  workers: number;
  tasks: number;
}

/** Represents an error in a record; the codes are those of `errors`. */
export interface ErrorSchema {
  code: number;
  name: string;
  message: string;
  data?: Record<string, unknown>;
}

/** A refusal or a failure. */
export interface ErrorAnswer {
  error: {
    code: number;
    name: string;
    message: string;
    data: Record<string, unknown>;
  };
}

/** Describes a field of the events of one type; `kind` names its JSON type or its unit. */
export interface EventField {
  name: string;
  kind: string;
  meaning: string;
}

/** Represents an event of an outside publisher, which chooses the type. */
export interface EventPublishParams {
  type: string;
  data?: unknown;
}

/**
 * Describes a type of event that the daemon publishes.
 *
 * `subject` says which of agent and worker its events name; `stored` is "yes", "no", or when they are.
 */
export interface EventType {
  type: string;
  meaning: string;
  subject: string;
  stored: string;
  fields: Array<EventField>;
}

/** Lists the types of events that the daemon publishes, by name. */
export interface EventTypes {
  types: Array<EventType>;
}

/**
 * Lists events, the oldest first; `next` is the `since` for more of them, `newest` the last number of all.
 *
 * Of all nodes of a cluster, both are texts NODE:NUMBER,NODE:NUMBER…
 */
export interface Events {
  events: Array<Record<string, unknown>>;
  next: number | string | null;
  newest: number | string;
}

/**
 * Counts ended tasks, or calls of a server, with durations from the start of the last attempt to the end.
 *
 * `tool_calls` counts the calls that a server received, in a task or not; `tool_calls_last_minute` those that workers
 * of an agent made, as `max_tool_calls_per_minute` counts them. `tokens` and `cost_cents` are what its tasks reported;
 * `tokens_last_minute` and `cost_cents_today` (the last 24 hours) count as the limits do.
 */
export interface ExecutorFigures {
  total: number;
  ok: number;
  failed: number;
  cancelled: number;
  tool_calls: number;
  tool_calls_last_minute?: number;
  average_ms: number | null;
  p50_ms: number | null;
  p99_ms: number | null;
  tokens?: number;
  cost_cents?: number;
  tokens_last_minute?: number;
  cost_cents_today?: number;
}

/** Represents the end of an incarnation. */
export interface ExitRecord {
  result: string;
  code: number | null;
  signal: string | null;
  forced: boolean;
  at: string;
  message: string;
}

/**
 * Represents an export: `toml` is its text, `names` what is in it, in order.
 *
 * `secrets` are the names of the secrets that it refers to. `hidden` are the variables that stand for values which the
 * caller may not see.
 */
export interface Exported {
  toml: string;
  names: Array<string>;
  secrets: Array<string>;
  hidden: Array<string>;
}

/**
 * Gives the address where an agent, team or workflow is served over HTTP; null: nowhere.
 *
 * Without a token (`auth` "none") it is served on a loopback address only.
 */
export interface ExposeParamsWithoutName {
  address: string | null;
  auth?: "none" | "token";
}

/** Represents the result of `agent.expose`: the service, null without one, and the file with a token for it. */
export interface Exposed {
  name: string;
  service: ServiceStatus | null;
  token_file: string;
}

/** Represents the statistics of one agent, server, team or workflow. */
export interface Figures {
  runtime: RuntimeFigures;
  process: ProcessFigures;
  executor: ExecutorFigures;
}

/** Represents one finding of `daemon.doctor`, and the remedy that would improve it. */
export interface Finding {
  topic: string;
  verdict: "broken" | "ok" | "warning";
  found: string;
  remedy: string;
}

/**
 * Specifies a new team or workflow by its table in `spec`; or several by name in `specs`, all or none.
 *
 * Without a name one is generated: `team-` or `workflow-` with 6 hexadecimal digits.
 */
export interface GroupAddParams {
  name?: string | null;
  spec?: Record<string, unknown> | null;
  specs?: Record<string, Record<string, unknown>>;
}

/** Represents a health check of a worker; `healthy` is null until it has passed or failed. */
export interface HealthRecord {
  name: string;
  healthy: boolean | null;
  degraded: boolean;
  failures: number;
  at: string | null;
  message: string;
}

/**
 * Selects agents or workers to hibernate.
 *
 * A running task may continue for `timeout_s`, by default for the shutdown_grace_period. With `force` also a worker
 * that saves no state is ended: it starts anew when it is woken. `names` may be globs, `selector` requires labels.
 */
export interface HibernateParams {
  names?: Array<string>;
  selector?: string | null;
  timeout_s?: number | null;
  force?: boolean;
}

/**
 * Selects agents or workers to hibernate.
 *
 * A running task may continue for `timeout_s`, by default for the shutdown_grace_period. With `force` also a worker
 * that saves no state is ended: it starts anew when it is woken. `names` may be globs, `selector` requires labels.
 */
export interface HibernateParamsWithoutNames {
  selector?: string | null;
  timeout_s?: number | null;
  force?: boolean;
}

/**
 * Specifies agents, servers, teams, workflows and schedules to add: all are added, or none.
 *
 * The tables have the shape of those of the configuration file. `environment` has the values of `${NAME}` in those of
 * teams and schedules; without it nothing is expanded. Relative paths of schedules are relative to `directory`.
 */
export interface ImportParams {
  agents?: Array<Addition>;
  teams?: Record<string, Record<string, unknown>>;
  workflows?: Record<string, Record<string, unknown>>;
  schedules?: Record<string, Record<string, unknown>>;
  start?: boolean;
  wait?: boolean;
  directory?: string | null;
  environment?: Record<string, string> | null;
}

/** Represents what was added, by kind; `failures` has the agents that did not start, which are added all the same. */
export interface Imported {
  agents: Array<string>;
  teams: Array<string>;
  workflows: Array<string>;
  schedules: Array<string>;
  failures: Record<string, ErrorSchema>;
}

/**
 * Represents what waits for a person. `text` is the question, the error, or the objective of a task that succeeded.
 *
 * `approval` is the number of a question, with the answers that are permitted, `options`. One that was `seen` is
 * listed for as long as it is needed.
 */
export interface InboxItem {
  id: string;
  kind: "budget" | "done" | "failed" | "gave-up" | "question";
  at: string;
  agent: string;
  worker?: string | null;
  task?: string | null;
  text: string;
  approval?: number | null;
  options?: Array<string>;
  expires_at?: string | null;
  seen?: boolean;
}

/**
 * Lists items, the newest need first: questions, other needs, good ends. `needs_you` counts all but good ends and what was seen.
 *
 * `more` says whether there are others beyond the limit.
 */
export interface InboxItems {
  items: Array<InboxItem>;
  needs_you: number;
  more?: boolean;
}

/** Represents the result of `inbox.seen`: the ids. */
export interface InboxSeen {
  seen: Array<string>;
}

/** Names items by their ids, or with `all` takes all. */
export interface InboxSeenParams {
  items?: Array<string>;
  all?: boolean;
}

/** Represents the range of the number of workers of an agent. */
export interface InstancesStatus {
  min: number;
  max: number;
}

/** Represents a key in memory with its value; `corrupted` is there, and true, where the value was damaged. */
export interface Item {
  session: string;
  key: string;
  value: unknown;
  corrupted?: boolean;
}

/** Lists keys in memory, the newest first. */
export interface Items {
  items: Array<Item>;
}

/** Represents one key that differs, such as `tasks.max_attempts`; a value is null where the table has no such key. */
export interface KeyChange {
  key: string;
  before: unknown;
  after: unknown;
}

/** Describes one layer that keeps the processes of a tenant apart; `detail` has the value, or the reason for its lack. */
export interface Layer {
  name: string;
  in_force: boolean;
  detail?: string;
}

/**
 * Represents an address at which the daemon listens for an agent, as `listen` says.
 *
 * In the state "on-demand" the next connection starts it; in "closed" connections are refused, where `reason` is not
 * empty because the address could not be had. `bound` has the port that the kernel chose for port 0.
 */
export interface ListenStatus {
  address: string;
  name: string;
  state: "closed" | "on-demand" | "open";
  bound?: string | null;
  reason?: string;
}

/** Sets the least severe level of the daemon's own log. */
export interface LogLevelParams {
  level: "debug" | "error" | "info" | "warning";
}

/** Represents the result of `daemon.log_level`. */
export interface LogLevelSet {
  level: string;
}

/**
 * Represents a line of a log, or a message; `bytes` is its base64 where it is not UTF-8.
 *
 * `stream` is stdout, stderr, log (messages of an agent's SDK) or corral (lines were lost). A piece of a line that is
 * too long for one record, or that its worker has left unfinished, has `partial`.
 */
export interface LogLine {
  agent: string;
  at: string;
  bytes?: string;
  fields?: Record<string, unknown>;
  level: string | null;
  node?: string;
  partial?: boolean;
  stream: string;
  task?: string;
  text: string;
  worker: string;
}

/**
 * Represents the result of `log.read`: lines in the order of their times.
 *
 * `position` is the `after` for what is written later; null of lines that are no end (`until`, `previous`).
 */
export interface LogLines {
  records: Array<LogLine>;
  position?: string | null;
}

/** Represents a logout: whether there was a token, or a registration, to forget. */
export interface LoggedOut {
  name: string;
  forgotten: boolean;
}

/**
 * Represents what corral has of a remote server: a token, a login under way, or neither; never the token itself.
 *
 * `client` says how corral is a client there: configured, by a document, or registered; `renews` whether the token is renewed
 * without a person. `reason` is why there is no usable token.
 */
export interface Login {
  name: string;
  state: "logged-in" | "none" | "pending";
  issuer?: string;
  resource?: string;
  client?: string;
  scopes?: Array<string>;
  renews?: boolean;
  obtained_at?: string;
  expires_at?: string | null;
  reason?: string | null;
}

/** Finishes a login: with the address to which the browser was sent back, or for a device by waiting a while. */
export interface LoginFinishParamsWithoutName {
  login: string;
  redirect?: string | null;
}

/**
 * Starts a login to a remote MCP server.
 *
 * The browser is sent back to `port` of its own machine, unless `oauth.redirect_uri` says where to; with `device` a person types a
 * code at another device. `scopes` are wanted beside those that the server asks for.
 */
export interface LoginParamsWithoutName {
  port?: number;
  device?: boolean;
  scopes?: Array<string>;
}

/**
 * Represents a login that a person has to finish until `expires_at`.
 *
 * A browser has to open `url`, from which it is sent to `redirect_uri`; for a device, `user_code` has to be typed at `url`.
 */
export interface LoginStarted {
  name: string;
  login: string;
  issuer: string;
  scopes: Array<string>;
  url: string;
  redirect_uri?: string | null;
  user_code?: string | null;
  expires_at: string;
}

/** Lists remote servers that may want a login. */
export interface Logins {
  logins: Array<Login>;
}

/** Counts the sessions in the daemon's memory, which are a cache of those in the store. */
export interface MemoryCache {
  sessions: number;
  size_bytes: number;
  limit_bytes: number;
  hits: number;
  misses: number;
  evictions: number;
}

/** Selects the memory of an agent; of all agents when absent. */
export interface MemoryCleanupParams {
  agent?: string | null;
}

/** Selects a session of an agent, and sets its end: `ttl_s` seconds from now, or none of its own when absent. */
export interface MemoryExpireParamsWithoutAgentSession {
  ttl_s?: number | null;
}

/**
 * Represents a memory pool: its limit, and the sessions and keys of its agents, without expired ones.
 *
 * `used_bytes` is the sum of `size_bytes`, of the sessions, and `keys_bytes`. `retention_s` null is that of each agent.
 * `agents` and `tenants` are those that the caller may know; the numbers are of all.
 */
export interface MemoryPool {
  name: string;
  max_bytes: number;
  overflow: "evict" | "refuse" | "trim";
  retention_s: number | null;
  cleanup_interval_s: number;
  used_bytes: number;
  sessions: number;
  size_bytes: number;
  keys: number;
  keys_bytes: number;
  agents: Array<string>;
  tenants: Array<string>;
}

/** Lists memory pools, in the order of the configuration. */
export interface MemoryPools {
  pools: Array<MemoryPool>;
}

/** Stores a value under a key of an agent's memory: any JSON, for `ttl_s` seconds or without limit. */
export interface MemoryPutParamsWithoutAgentKey {
  value: unknown;
  ttl_s?: number | null;
  session?: string;
}

/** Counts removed sessions and keys. */
export interface MemoryRemoved {
  sessions: number;
  keys: number;
}

/** Represents the result of `memory.stats`. */
export interface MemoryStatistics {
  pool: MemoryCache;
  agents: Array<AgentMemory>;
}

/** Counts the calls of a method, with the time that each waited for what it asked for; percentiles are within 4.5 %. */
export interface MethodFigures {
  count: number;
  average_ms: number;
  p50_ms: number;
  p99_ms: number;
}

/**
 * Represents what happened to an agent, a server or the daemon in one step, which began at `at`.
 *
 * `span_s` is the time in it for which figures were collected. Counters (`executed`, `tokens`, `restarts` …) are of this
 * step alone; `up`, `processes`, `memory_bytes`, `open_files`, `queued` and `running` are those of its end. Durations are
 * at most 4.5 % from the exact ones. `error_rate` is the share that failed of what was not cancelled. `storage` has the
 * bytes on disk by part, of the daemon alone.
 */
export interface MetricPoint {
  at: string;
  span_s: number;
  up: number;
  processes: number;
  memory_bytes: number;
  memory_peak_bytes: number;
  cpu_percent: number;
  cpu_ms: number;
  open_files: number;
  queued: number;
  queued_peak: number;
  running: number;
  restarts: number;
  executed: number;
  ok: number;
  failed: number;
  cancelled: number;
  executions_per_minute: number;
  error_rate: number | null;
  average_ms: number | null;
  p50_ms: number | null;
  p90_ms: number | null;
  p99_ms: number | null;
  tool_calls: number;
  tokens: number;
  cost_cents: number;
  failed_checks: number;
  limit_hits: number;
  hung: number;
  storage?: Record<string, number>;
}

/**
 * Represents a part of the history: one point for each step in which figures were collected, oldest first.
 *
 * `agent` is null for the daemon and for a sum. A step without a point is a gap: the daemon did not run, metrics were off, or the
 * subject was not there. `resolution_s` is the time between two rows of the store that the points are made of.
 */
export interface MetricsHistory {
  agent: string | null;
  since: string;
  until: string;
  step_s: number;
  resolution_s: number;
  points: Array<MetricPoint>;
}

/** Represents the figures of the last step, which ended at `at`, null before the first one; without `enabled` there are none. */
export interface MetricsLatest {
  enabled: boolean;
  at: string | null;
  step_s: number;
  daemon: SubjectMetrics | null;
  agents: Array<SubjectMetrics>;
  mcp_servers: Array<SubjectMetrics>;
}

/**
 * Ranks agents and servers by what they did since `since`.
 *
 * `best` and `worst` are by the share of tasks that succeeded, `slowest` by the average duration, `expensive` by cost and
 * then tokens; each has only those to which it applies. `problems` are as `[metrics] problem_…` says. `tenants` has the sums by tenant, the
 * most expensive first, and is empty where no agent has a tenant.
 */
export interface MetricsTop {
  since: string;
  until: string;
  best: Array<Ranked>;
  worst: Array<Ranked>;
  slowest: Array<Ranked>;
  expensive: Array<Ranked>;
  problems: Array<Problem>;
  tenants: Array<TenantMetrics>;
}

/**
 * Represents a declared model, and what the agents in `used_by` have used of it since midnight, UTC.
 *
 * `calls_estimated` are those whose provider has not told the usage. `reason` tells why it is down.
 */
export interface Model {
  name: string;
  kind: "anthropic" | "gemini" | "openai";
  url: string;
  model: string;
  state: "down" | "unused" | "up";
  reason: string;
  used_by: Array<string>;
  fallback: Array<string>;
  calls_today: number;
  calls_failed_today: number;
  calls_estimated_today: number;
  tokens_today: number;
  cost_cents_today: number;
  limits: ModelLimits;
}

/** Represents the limits of a model that are set, beside what is used of them. */
export interface ModelLimits {
  max_tokens_per_minute?: number;
  tokens_last_minute?: number;
  max_cost_cents_per_day?: number;
}

/** Represents the result of `models.list`. */
export interface Models {
  models: Array<Model>;
  gateway: ModelsGateway;
}

/** Represents the process that passes calls on: `pid` is null until a worker needs it, `restarts` counts deaths. */
export interface ModelsGateway {
  pid: number | null;
  in_flight: number;
  restarts: number;
}

/** Represents a result that is a list of names. */
export interface Names {
  names: Array<string>;
}

/**
 * Selects agents, MCP servers or workers; with `wait` the call waits for the effect, at most `timeout_s`.
 *
 * `names` may be globs, `selector` requires labels.
 */
export interface NamesParams {
  names?: Array<string>;
  all?: boolean;
  selector?: string | null;
  wait?: boolean;
  timeout_s?: number | null;
}

/**
 * Selects agents, MCP servers or workers; with `wait` the call waits for the effect, at most `timeout_s`.
 *
 * `names` may be globs, `selector` requires labels.
 */
export interface NamesParamsWithoutNames {
  all?: boolean;
  selector?: string | null;
  wait?: boolean;
  timeout_s?: number | null;
}

/** Represents a token with its text, which is shown once. */
export interface NewToken {
  name: string;
  rights: "admin" | "operate" | "read";
  agents?: Array<string> | null;
  created_at?: string;
  created_by?: string;
  expires_at?: string | null;
  last_used?: string | null;
  expired?: boolean;
  tenant?: string | null;
  token: string;
}

/**
 * Represents a node of the cluster that has a lease, or had one when this daemon knew it last.
 *
 * `load` is the number of replicas of placed agents that it runs, `capacity` how many it takes. `here` is true for the
 * node that answers. One that is `draining` gives its replicas away, and gets none; a `cordoned` one gets none.
 * Without the engine the node that answers is `away`, and others are `unknown`.
 */
export interface Node {
  name: string;
  state: "away" | "cordoned" | "draining" | "ready" | "unknown";
  version: string;
  labels?: Record<string, string>;
  capacity: number;
  load: number;
  here?: boolean;
}

/** Lists the nodes of the cluster, by name. */
export interface Nodes {
  nodes: Array<Node>;
}

/** Specifies the output: in words for the agent, and as a JSON Schema that the daemon enforces. */
export interface OutputFormat {
  description?: string;
  schema?: Record<string, unknown> | boolean | null;
}

/** Names the upload to add, or gives a small package as a whole, in base64; `sha256` is that of the whole file. */
export interface PackageAddParams {
  upload?: string | null;
  data?: string | null;
  sha256?: string | null;
}

/** Represents a package with its package.toml: `agent` has the keys of its agent, as they are written. */
export interface PackageDetails {
  package: PackageRecord;
  agent: Record<string, unknown>;
  requires_runtime: Record<string, unknown>;
  dependencies: Record<string, Array<string>>;
  needs: Record<string, Array<Record<string, unknown>>>;
  install: string | null;
  has_lock: boolean;
}

/**
 * Represents a package that is stored. `digest` identifies its content; sizes are bytes, that of the archive and of all files.
 *
 * `signer` is the public key that signed it, null without a signature; `used_by` are agents of which a version that can
 * come back is of this package.
 */
export interface PackageRecord {
  name: string;
  version: string;
  digest: string;
  description: string;
  size_bytes: number;
  content_bytes: number;
  files: number;
  signer: string | null;
  added_at: string;
  added_by: string;
  used_by: Array<string>;
}

/** Holds packages, by name and version, the highest first. */
export interface PackageRecords {
  packages: Array<PackageRecord>;
}

/** Represents a package whose first `offset` bytes have arrived. */
export interface PackageUpload {
  upload: string;
  offset: number;
}

/** Gives the next bytes of a package in base64, which begin at `offset`; without `upload` a new one begins. */
export interface PackageUploadParams {
  data: string;
  offset?: number;
  upload?: string | null;
}

/** Represents an agent or server that is a problem, with the reasons as text. */
export interface Problem {
  name: string;
  kind: string;
  health_score: number;
  reasons: Array<string>;
  total: MetricPoint;
}

/** Counts workers with a process, the memory of their trees, and the processor time of all incarnations. */
export interface ProcessFigures {
  active: number;
  memory_bytes: number;
  cpu_ms: number;
}

/** Represents a guarantee in `daemon.doctor`; `why` names the exception, or what it rests on. */
export interface PromiseSchema {
  name: string;
  holds: "except" | "no" | "yes";
  why: string;
}

/** Lists MCP's objects of prompts, with their exposed names; `failures` has the servers that could not be asked. */
export interface Prompts {
  prompts: Array<Record<string, unknown>>;
  failures: Record<string, ErrorSchema>;
}

/** Represents the result of `event.publish`: the number of the event. */
export interface Published {
  seq: number;
}

/**
 * Represents a limit that the daemon holds, and what is used of it.
 *
 * `name` is of an agent or server, null for a limit of all together or of all that a tenant has. `window_s` is the time in seconds that usage counts,
 * null where it counts for as long as it lasts. `refused` counts what was refused, or the times that a budget was used up,
 * since the start of the daemon.
 */
export interface Quota {
  name: string | null;
  key: string;
  limit: number;
  used: number;
  window_s?: number | null;
  refused?: number;
  tenant?: string | null;
}

/** Represents the result of `quota.list`. */
export interface QuotaList {
  quotas: Array<Quota>;
}

/** Represents an agent or server in a ranking; `total` is of the whole time, which began at its `at`. */
export interface Ranked {
  name: string;
  kind: string;
  health_score: number;
  total: MetricPoint;
}

/** Names a resource of an MCP server, by its own URI or `SERVER__URI`. */
export interface ReadParams {
  uri: string;
  timeout_s?: number | null;
}

/**
 * Selects a dry run, which only reports the changes.
 *
 * With `wait` the call waits until each change is in force or taken back, at most `timeout_s`.
 */
export interface ReloadParams {
  dry_run?: boolean;
  wait?: boolean;
  timeout_s?: number | null;
}

/**
 * Represents the result of `daemon.reload`: the changes that were made, or of a dry run those that would be.
 *
 * `changed` has the effect on each agent and server, `keys` those that differ; `rolling` are those whose workers are replaced
 * by new ones, and whose former tables are in force until then. Of the daemon-wide keys, `live` take
 * effect now, `pending` at the next start. `renewed` are agents with the same configuration and changed sources. `overrides_ended`
 * are names that `agent.set` had changed, and whose table in the file has changed now.
 */
export interface Reloaded {
  added: Array<string>;
  removed: Array<string>;
  changed: Record<string, "live" | "restart">;
  pending: Array<string>;
  live: Array<string>;
  keys: Record<string, Array<string>>;
  teams: Record<string, string>;
  workflows: Record<string, string>;
  schedules: Record<string, string>;
  renewed: Array<string>;
  overrides_ended?: Array<string>;
  rolling?: Array<string>;
}

/** Represents a result that names what was removed. */
export interface Removed {
  removed: Array<string>;
}

/** Lists MCP's objects of resources and of templates; `failures` has the servers that could not be asked. */
export interface Resources {
  resources: Array<Record<string, unknown>>;
  templates: Array<Record<string, unknown>>;
  failures: Record<string, ErrorSchema>;
}

/** Names an ended task, and the new one in its place. */
export interface Retried {
  task: string;
  by: string;
}

/**
 * Overrides the retry policy in `[tasks]` of the agent: the number of attempts, and the errors to retry on.
 *
 * `retry_on` as in the configuration: "worker-death", "any", "never", or names of errors. `retry_backoff_base`, as there,
 * is another way to write `retry_backoff_base_s`: seconds, or "1s". A record has `retry_backoff_base_s` alone.
 */
export interface Retry {
  max_attempts?: number | null;
  retry_on?: Array<string> | string | null;
  retry_backoff_base_s?: number | null;
  retry_backoff_base?: number | string;
}

/** Represents a task that was not tried again, and why. */
export interface RetryFailed {
  task: string;
  error: ErrorSchema;
}

/**
 * Represents one revision without its table.
 *
 * `reason` says why it failed, or that its name was removed; `by` is a token, an agent, a user, or `file`; `of` is the
 * revision that a rollback brought back. Times are RFC 3339, UTC; `settled_at` is null while it is rolling.
 */
export interface Revision {
  name: string;
  revision: number;
  kind: "agent" | "mcp" | "team" | "workflow";
  state: "current" | "failed" | "rolling" | "superseded";
  reason: string;
  how: "add" | "deploy" | "file" | "reload" | "rollback" | "set";
  by: string;
  why: string;
  package: string | null;
  of: number | null;
  at: string;
  settled_at: string | null;
}

/** Represents the result of `revision.diff`; `before` is null where there was no revision before. */
export interface RevisionDiff {
  name: string;
  before: number | null;
  after: number;
  changes: Array<KeyChange>;
}

/** Represents the result of `revision.show`. */
export interface RevisionShown {
  revision: Revision;
  spec: Record<string, unknown>;
}

/** Represents the result of `revision.list`, the newest first. */
export interface Revisions {
  revisions: Array<Revision>;
}

/**
 * Names the revision whose table is to be in force again; without a number the one that was current before.
 *
 * `version` names it by the version of its package instead. With `expected` it is refused unless the present table has that
 * `etag` still. `dry_run` returns the keys that would differ, and changes nothing. With `wait` the call waits until the change is
 * in force or taken back, at most `timeout_s`.
 */
export interface RollbackParamsWithoutName {
  revision?: number | null;
  version?: string | null;
  why?: string;
  expected?: string | null;
  dry_run?: boolean;
  wait?: boolean;
  timeout_s?: number | null;
}

/**
 * Represents the result of `agent.rollback`.
 *
 * `revision` is the new revision, null where nothing had to change; `of` is the one whose table is in force again;
 * `changed` are the keys whose values differ from before. While `rolling`, new workers are brought up, and the former table is
 * in force.
 */
export interface RolledBack {
  name: string;
  revision: number | null;
  of: number;
  changed: Array<string>;
  etag: string;
  rolling?: boolean;
}

/**
 * Represents a change of workers that is under way.
 *
 * `from` and `to` are the numbers of the revisions, null where they are not numbered. `ready` counts the new workers that
 * have their places, `left` the others to be replaced; `reason` says what is waited for.
 */
export interface RollingStatus {
  from?: number | null;
  to?: number | null;
  ready: number;
  left: number;
  reason: string;
}

/**
 * Represents a run of a schedule that has ended: its task, and how a command has exited.
 *
 * `incarnation` is the life of the worker in which it ran, as the logs number them; null for a task of a handler.
 */
export interface Run {
  task: string;
  state: string;
  started_at?: string | null;
  finished_at?: string | null;
  duration_s?: number | null;
  code?: number | null;
  signal?: string | null;
  incarnation?: number | null;
  error?: string | null;
}

/**
 * Specifies a command to run in the isolation of a worker to its end: of `name`, a worker's id or an agent's name.
 *
 * It reads `stdin`, then the end of its input. It is killed after `timeout_s`. `max_output_bytes` of its stdout and of its
 * stderr are kept. `environment` and `working_directory` replace what the worker has.
 */
export interface RunCommandParamsWithoutName {
  argv: Array<string>;
  stdin?: string;
  environment?: Record<string, string>;
  working_directory?: string | null;
  timeout_s?: number;
  max_output_bytes?: number;
}

/**
 * Counts incarnations that were started, workers that are up, and tasks that have ended (of a server: calls).
 *
 * `failed` are those that failed or timed out; `success_rate` is the share that succeeded of what was not cancelled.
 * `restarts` counts starts after failures alone. `health_score` is from 0 to 100, null where there is no process.
 */
export interface RuntimeFigures {
  spawned: number;
  active: number;
  executed: number;
  failed: number;
  success_rate: number | null;
  restarts?: number;
  health_score?: number | null;
}

/** Represents the result of `runtime.stats`. */
export interface RuntimeStatistics {
  agents: Counted;
  teams: Counted;
  workflows: Counted;
  databases: Counted;
}

/** Sets the number of workers of an agent; of one that a cluster places the number of its replicas. */
export interface ScaleParamsWithoutName {
  instances: number;
  wait?: boolean;
}

/**
 * Specifies a command at times, which are those of `schedule.add`: it becomes a job of the name.
 *
 * `spec` has further keys of the job's table, as in the configuration; relative paths are relative to `directory`.
 */
export interface ScheduleCommandParams {
  name: string;
  command: Array<string>;
  spec?: Record<string, unknown>;
  directory?: string | null;
  every_s?: number | null;
  cron?: string | null;
  timezone?: string | null;
  catch_up?: boolean;
  overlap?: "queue" | "replace" | "skip";
  start_at?: number | null;
  at?: number | null;
}

/**
 * Specifies a task at times: every `every_s` seconds from `start_at` on, by `cron` in `timezone`, or once `at` a time.
 *
 * `cron` has five fields (minute, hour, day of the month, month, day of the week), or six with seconds before them;
 * `timezone` is a name such as Europe/Berlin, and UTC without one. Runs that were missed while the daemon was down are made up
 * for once, unless `catch_up` is false. Without a `name` one is generated.
 */
export interface ScheduleParams {
  task: TaskParams;
  name?: string | null;
  every_s?: number | null;
  cron?: string | null;
  timezone?: string | null;
  catch_up?: boolean;
  overlap?: "queue" | "replace" | "skip";
  start_at?: number | null;
  at?: number | null;
}

/**
 * Represents a schedule and the results of its runs.
 *
 * `next_at` is the time of the next run, null if there is none. `runs` counts tasks that were made, `skipped` runs
 * that were due while the last one had not ended or that were missed without `catch_up`, `refused` runs whose task was
 * refused, the last one because of `last_error`. `last_due_at` is the due time of the last run, `last_task` its task,
 * `last_run` the last one that has ended. `source` is "store" for a schedule that was added at run time, "cluster" for
 * one that all nodes of the cluster have, else the configuration file. `command` is that of the job of its name, null for tasks of others.
 */
export interface ScheduleRecord {
  name: string;
  task: TaskParams;
  every_s?: number | null;
  cron?: string | null;
  timezone?: string | null;
  catch_up?: boolean;
  overlap?: "queue" | "replace" | "skip";
  start_at?: string | null;
  paused?: boolean;
  created_at?: string;
  next_at?: string | null;
  last_due_at?: string | null;
  last_task?: string | null;
  last_error?: ErrorSchema | null;
  runs?: number;
  skipped?: number;
  refused?: number;
  at?: string | null;
  source?: string;
  command?: Array<string> | null;
  last_run?: Run | null;
}

/** Represents a schedule with its next times and its last runs, the newest first. */
export interface ScheduleShown {
  name: string;
  task: TaskParams;
  every_s?: number | null;
  cron?: string | null;
  timezone?: string | null;
  catch_up?: boolean;
  overlap?: "queue" | "replace" | "skip";
  start_at?: string | null;
  paused?: boolean;
  created_at?: string;
  next_at?: string | null;
  last_due_at?: string | null;
  last_task?: string | null;
  last_error?: ErrorSchema | null;
  runs?: number;
  skipped?: number;
  refused?: number;
  at?: string | null;
  source?: string;
  command?: Array<string> | null;
  last_run?: Run | null;
  upcoming: Array<string>;
  recent: Array<Run>;
}

/** Lists schedules. */
export interface Schedules {
  schedules: Array<ScheduleRecord>;
}

/**
 * Represents a secret without its value; `source` is null for one that is named and found nowhere.
 *
 * `agents` are globs of those that may have it, all where there is none; `problem` is why it cannot be read. Those in
 * a file of secrets have none of these keys.
 */
export interface Secret {
  name: string;
  source: "credentials" | "kept" | "secrets_file" | null;
  agents?: Array<string>;
  changed_at?: string;
  problem?: string;
  used_by: Array<string>;
}

/** Replaces the value of a secret, and the agents that it is for unless `agents` is absent. */
export interface SecretRotateParamsWithoutName {
  secret: string;
  agents?: Array<string> | null;
  restart?: boolean;
}

/** Represents the result of `secret.rotate`; `restarted` are ids of workers. */
export interface SecretRotated {
  name: string;
  used_by: Array<string>;
  restarted: Array<string>;
}

/** Sets a secret. The key of its value is one that logs and the audit mask. `agents` are globs; all without any. */
export interface SecretSetParamsWithoutName {
  secret: string;
  agents?: Array<string>;
  replace?: boolean;
}

/** Names a secret, and the agents and servers that refer to it. */
export interface SecretUse {
  name: string;
  used_by: Array<string>;
}

/** Lists secrets. */
export interface Secrets {
  secrets: Array<Secret>;
}

/** Selects agents, MCP servers or workers; `names` may be globs, `selector` requires labels. */
export interface SelectionParams {
  names?: Array<string>;
  all?: boolean;
  selector?: string | null;
}

/** Selects agents, MCP servers or workers; `names` may be globs, `selector` requires labels. */
export interface SelectionParamsWithoutNames {
  all?: boolean;
  selector?: string | null;
}

/**
 * Represents the part of an MCP server in `status` that agents do not have.
 *
 * `era` and `version` are those of the last negotiated protocol, null if there was none. `listed_at` is the time of
 * its last listing, also by an earlier daemon. `calls`, `failures` and `retries` count since it was added or
 * the daemon started. `warning` names a risk of its configuration, `stderr` has its last lines after it gave up.
 * `changed` are the tools, at most 100, that are not as they were accepted; with `held` they cannot be called.
 */
export interface ServerStatus {
  era: string | null;
  version: string | null;
  listed_at: string | null;
  prompts: number;
  resources: number;
  templates: number;
  calls: number;
  failures: number;
  retries: number;
  in_flight: number;
  waiting: number;
  warning?: string | null;
  stderr?: Array<string>;
  changed?: Array<string>;
  held?: boolean;
}

/** Lists MCP servers. */
export interface Servers {
  servers: Array<AgentStatus>;
}

/**
 * Represents an agent, team or workflow as an HTTP service; without a `url` it cannot listen, for `reason`.
 *
 * `exposed` is true where `corral expose` gave the address, not the configuration.
 */
export interface ServiceStatus {
  address: string;
  auth: "none" | "token";
  state: "degraded" | "open";
  url: string | null;
  reason?: string;
  exposed?: boolean;
}

/**
 * Represents a session without its content; `stored_bytes` is its size in the store, after compression.
 *
 * `expires_at` is the time after which it is gone, unless it is used before: the end of its retention, or of its own time.
 */
export interface Session {
  agent: string;
  session: string;
  turns: number;
  messages: number;
  size_bytes: number;
  stored_bytes: number;
  created_at: string;
  accessed_at: string;
  expires_at: string;
}

/** Represents the time after which a session is gone, unless it is used before. */
export interface SessionExpiry {
  agent: string;
  session: string;
  expires_at: string;
}

/** Represents a session with its content. */
export interface SessionShown {
  agent: string;
  session: string;
  messages: number;
  size_bytes: number;
  created_at: string;
  accessed_at: string;
  expires_at: string;
  turns: number;
  history: Array<unknown>;
  variables: Record<string, unknown>;
  data: Record<string, unknown>;
}

/** Lists sessions, the last used first. */
export interface Sessions {
  sessions: Array<Session>;
}

/**
 * Selects a signal, by name, for the leader of each worker of `name` or `names`.
 *
 * `names` may be globs, `selector` requires labels.
 */
export interface SignalParams {
  signal: string;
  name?: string | null;
  names?: Array<string>;
  selector?: string | null;
}

/**
 * Selects a signal, by name, for the leader of each worker of `name` or `names`.
 *
 * `names` may be globs, `selector` requires labels.
 */
export interface SignalParamsWithoutNames {
  signal: string;
  selector?: string | null;
}

/**
 * Represents the result of `statistics.show`: counts since `since`, percentiles over the last `window` durations.
 *
 * `process` counts all agents and servers and corral's own processes; `overhead` has these alone, as `daemon`, `launcher`
 * and `zygotes`. Memory is the resident memory (RSS), in which pages that processes share count for each. `methods` are
 * those of the method table that were called.
 */
export interface Statistics {
  since: string;
  uptime_s: number;
  window: number;
  runtime: RuntimeFigures;
  process: ProcessFigures;
  executor: ExecutorFigures;
  agents: Record<string, Figures>;
  mcp_servers: Record<string, Figures>;
  teams: Record<string, Figures>;
  workflows: Record<string, Figures>;
  overhead?: Record<string, ProcessFigures>;
  methods?: Record<string, MethodFigures>;
}

/** Represents the result of `daemon.status`. */
export interface Status {
  daemon: DaemonStatus;
  agents: Array<AgentStatus>;
  mcp_servers: Array<AgentStatus>;
  tasks: TaskCounts;
  teams?: Array<TeamStatus>;
  workflows?: Array<WorkflowStatus>;
}

/** Represents the result of `daemon.stop`: the process that ends. */
export interface Stopping {
  pid: number;
}

/** Represents a declared store: `url` without userinfo, query and secrets; `reason` tells why it is down or unknown. */
export interface Store {
  name: string;
  kind: "files" | "http" | "postgres" | "redis" | "sqlite";
  url: string;
  state: "down" | "unknown" | "unused" | "up";
  reason: string;
  used_by: Array<string>;
}

/** Represents the result of `store.list`. */
export interface Stores {
  stores: Array<Store>;
}

/**
 * Represents the present figures of an agent, a server or the daemon.
 *
 * `total` counts since the daemon's start, or since the agent was added; `last_minute` the steps of the last minute.
 */
export interface SubjectMetrics {
  name: string | null;
  kind: string;
  health_score: number | null;
  total: MetricPoint;
  last_minute: MetricPoint;
}

/** Represents the last change of workers where it was taken back: its revision, null where it has no number, and why. */
export interface TakenBack {
  revision?: number | null;
  reason: string;
  at: string;
}

/**
 * Represents one task of an agent, from its acknowledgement to its end.
 *
 * `attempt` counts from 1 once it has been dispatched, and only goes up after a failure; `delivery` counts every
 * beginning of its handler, whatever ended the one before. `parent` is the task that delegated it, `depth` the
 * number of its ancestors, `step` its part in the task of a team or workflow.
 * `progress` is the last report of the worker, of `progress_total` (1 where it gave none).
 * `after` are tasks that have to succeed first, `scheduled_at` is its earliest start, `schedule` the schedule that made it.
 * A `durable` task is stored before it is acknowledged; another one never outlives the daemon.
 * `retry_of` is the ended task that it replaces, `retried_by` the task that replaces it. `when_down` and
 * `queue_timeout_s` are the task's own, null where `[tasks]` decides; at `deadline_at` it ends as timeout. `calls` are its tool calls,
 * and `steps` its steps, where they are asked for. A retry has the `retried_from`: the first step that it does not keep. `peak_memory_bytes` and `cpu_ms` are what its workers have used while it ran, null where that was not measured.
 * `traceparent` names the span above it, of the caller or of the task that delegated it.
 */
export interface Task {
  id: string;
  agent: string;
  worker?: string | null;
  state?: "cancelled" | "failed" | "queued" | "running" | "succeeded" | "timeout";
  priority?: number;
  attempt?: number;
  delivery?: number;
  objective?: string;
  input?: unknown;
  context?: unknown;
  boundaries?: Boundaries;
  output?: unknown;
  error?: ErrorSchema | null;
  progress?: number | null;
  progress_total?: number | null;
  progress_message?: string;
  created_at?: string;
  started_at?: string | null;
  finished_at?: string | null;
  duration_s?: number | null;
  tool_calls?: number;
  tokens_used?: number;
  cost_cents?: number;
  parent?: string | null;
  children?: Array<string>;
  reason?: string;
  kind?: "job" | "placed" | "task" | "team" | "workflow";
  depth?: number;
  step?: string;
  required_capabilities?: Array<string>;
  output_format?: OutputFormat | null;
  idempotency_key?: string | null;
  after?: Array<string>;
  scheduled_at?: string | null;
  schedule?: string | null;
  sticky_key?: string | null;
  session?: string | null;
  durable?: boolean;
  retry?: Retry | null;
  retry_of?: string | null;
  retried_by?: string | null;
  when_down?: "queue" | "refuse" | null;
  queue_timeout_s?: number | null;
  deadline_at?: string | null;
  calls?: Array<TaskCall> | null;
  peak_memory_bytes?: number | null;
  cpu_ms?: number | null;
  traceparent?: string | null;
  tokens_estimated?: number;
  steps?: Array<TaskStep> | null;
  retried_from?: string | null;
}

/**
 * Represents a tool call of a task, in the beginning `delivery` of it.
 *
 * `outcome` is ok, error (the tool's own), cancelled, or the name of an error. `size_bytes` is that of the result;
 * `result` is there with `record_tool_calls = "results"`, masked, and of a long one the beginning of its text.
 */
export interface TaskCall {
  tool: string;
  ok: boolean;
  outcome: string;
  at: string;
  duration_s: number;
  size_bytes?: number;
  delivery?: number;
  result?: unknown;
}

/** Counts tasks by state; ended ones since the daemon started. */
export interface TaskCounts {
  queued: number;
  running: number;
  succeeded: number;
  failed: number;
}

/** Represents a task without the fields that may be long; see Task. */
export interface TaskInShort {
  id: string;
  agent: string;
  worker: string | null;
  state: "cancelled" | "failed" | "queued" | "running" | "succeeded" | "timeout";
  priority: number;
  attempt: number;
  delivery: number;
  objective: string;
  error: ErrorSchema | null;
  progress: number | null;
  progress_total: number | null;
  progress_message: string;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  duration_s: number | null;
  tool_calls: number;
  tokens_used: number;
  cost_cents: number;
  parent: string | null;
  reason: string;
  kind: "job" | "placed" | "task" | "team" | "workflow";
  depth: number;
  step: string;
  required_capabilities: Array<string>;
  idempotency_key: string | null;
  scheduled_at: string | null;
  schedule: string | null;
  sticky_key: string | null;
  session: string | null;
  durable: boolean;
  retry: Retry | null;
  retry_of: string | null;
  retried_by: string | null;
  when_down: "queue" | "refuse" | null;
  queue_timeout_s: number | null;
  deadline_at: string | null;
  calls: Array<TaskCall> | null;
  peak_memory_bytes: number | null;
  cpu_ms: number | null;
  traceparent: string | null;
  tokens_estimated: number;
  retried_from: string | null;
}

/** Represents the result of `task.log`: the entries in order of time, none with `follow`, which has sent them. */
export interface TaskLog {
  task: string;
  state: string;
  entries: Array<TaskLogEntry>;
}

/**
 * Represents one moment of a task.
 *
 * `after_s` is the time since the task came, `duration_s` that which a call, an attempt or a delegated task took. `name` is the
 * tool, or the agent that a task was delegated to; `task` is the delegated one. `outcome` is that of a call, or the state in which a
 * task ended. `memory_bytes` is the peak of an attempt, or what the worker used.
 */
export interface TaskLogEntry {
  at: string;
  step: "call" | "delegated" | "ended" | "log" | "progress" | "queued" | "retried" | "started";
  after_s: number;
  text?: string;
  attempt?: number | null;
  worker?: string | null;
  level?: string | null;
  name?: string | null;
  task?: string | null;
  outcome?: string | null;
  duration_s?: number | null;
  memory_bytes?: number | null;
  cpu_ms?: number | null;
  tool_calls?: number | null;
  tokens_used?: number | null;
  cost_cents?: number | null;
}

/** Represents a task with the tasks that it delegated; `more` is the number of those that were left out. */
export interface TaskNode {
  task: TaskInShort;
  children: Array<TaskNode>;
  more: number;
}

/** Lists tasks, the newest first; `more` is the `before` of the next page, `skipped` the number that cannot be read. */
export interface TaskPage {
  tasks: Array<Task>;
  more: string | null;
  skipped: number;
}

/**
 * Specifies a new task: for an agent, team or workflow by name, or for any agent with a capability.
 *
 * Its agent must have all `required_capabilities`; `allowed_tools` is the same key of `boundaries`.
 * With an `idempotency_key` the same task is queued once, however often it is sent. It starts after the tasks in
 * `after` have succeeded, and not before `at`. Tasks with the same `sticky_key` go to the same worker; those of one
 * `session` share its memory and run one after the other. Without `durable` it is faster, and lost with the daemon.
 * `timeout_s` bounds each run of its handler, `queue_timeout_s` its wait for the first, `deadline_s` the whole, from when it came (or
 * from `at`). `when_down` says whether it waits for an agent that is down, instead of `[tasks]`. `traceparent` is the trace context
 * of the caller (W3C).
 */
export interface TaskParams {
  objective: string;
  agent?: string | null;
  capability?: string | null;
  input?: unknown;
  context?: unknown;
  priority?: number | null;
  timeout_s?: number | null;
  boundaries?: Boundaries;
  required_capabilities?: Array<string>;
  allowed_tools?: Array<string> | null;
  output_format?: OutputFormat | null;
  idempotency_key?: string | null;
  after?: Array<string>;
  at?: number | null;
  sticky_key?: string | null;
  session?: string | null;
  durable?: boolean;
  retry?: Retry | null;
  when_down?: "queue" | "refuse" | null;
  queue_timeout_s?: number | null;
  deadline_s?: number | null;
  traceparent?: string | null;
}

/** Specifies a new task; `stream` sends what it streams as `task.part` notifications. */
export interface TaskRunParams {
  objective: string;
  agent?: string | null;
  capability?: string | null;
  input?: unknown;
  context?: unknown;
  priority?: number | null;
  timeout_s?: number | null;
  boundaries?: Boundaries;
  required_capabilities?: Array<string>;
  allowed_tools?: Array<string> | null;
  output_format?: OutputFormat | null;
  idempotency_key?: string | null;
  after?: Array<string>;
  at?: number | null;
  sticky_key?: string | null;
  session?: string | null;
  durable?: boolean;
  retry?: Retry | null;
  when_down?: "queue" | "refuse" | null;
  queue_timeout_s?: number | null;
  deadline_s?: number | null;
  traceparent?: string | null;
  stream?: boolean;
}

/** Specifies a new task; `stream` sends what it streams as `task.part` notifications. */
export interface TaskRunParamsWithoutAgent {
  objective: string;
  capability?: string | null;
  input?: unknown;
  context?: unknown;
  priority?: number | null;
  timeout_s?: number | null;
  boundaries?: Boundaries;
  required_capabilities?: Array<string>;
  allowed_tools?: Array<string> | null;
  output_format?: OutputFormat | null;
  idempotency_key?: string | null;
  after?: Array<string>;
  at?: number | null;
  sticky_key?: string | null;
  session?: string | null;
  durable?: boolean;
  retry?: Retry | null;
  when_down?: "queue" | "refuse" | null;
  queue_timeout_s?: number | null;
  deadline_s?: number | null;
  traceparent?: string | null;
  stream?: boolean;
}

/**
 * Represents a step of a task: work that is done once, however often the task begins.
 *
 * `number` is its place, from 1, `name` unique in the task. `state` is done (its `result` is kept), failed (it runs again at
 * the next beginning), or running: a tool was called, and nobody knows whether it ended. `kind` is step, tool,
 * delegate or ask; `tries` the number of times that it has failed.
 */
export interface TaskStep {
  number: number;
  name: string;
  state: "done" | "failed" | "running";
  kind: string;
  at: string;
  duration_s: number | null;
  delivery: number;
  tries?: number;
  size_bytes?: number;
  error?: string | null;
  result?: unknown;
}

/** Represents the result of `task.discard`: the number of tasks that are dead letters no longer. */
export interface TasksDiscarded {
  discarded: number;
  more: string | null;
}

/**
 * Selects ended tasks: one, several, or with `dead` the dead letters (of an agent), oldest first, at most `limit`.
 *
 * Dead letters are restricted to those before `until`, in seconds of the Unix epoch, and after the `more` of an
 * earlier result.
 */
export interface TasksParams {
  task?: string | null;
  tasks?: Array<string>;
  dead?: boolean;
  agent?: string | null;
  limit?: number;
  until?: number | null;
  after?: string | null;
}

/**
 * Selects ended tasks: one, several, or with `dead` the dead letters (of an agent), oldest first, at most `limit`.
 *
 * Dead letters are restricted to those before `until`, in seconds of the Unix epoch, and after the `more` of an
 * earlier result.
 */
export interface TasksParamsWithoutTasks {
  dead?: boolean;
  agent?: string | null;
  limit?: number;
  until?: number | null;
  after?: string | null;
}

/** Represents the result of `task.retry`; `more` is the `after` for more dead letters. */
export interface TasksRetried {
  retried: Array<Retried>;
  failed: Array<RetryFailed>;
  more: string | null;
}

/** Selects ended tasks as TasksParams; a retry keeps the steps that have ended, with `step` only those before it. */
export interface TasksRetryParams {
  task?: string | null;
  tasks?: Array<string>;
  dead?: boolean;
  agent?: string | null;
  limit?: number;
  until?: number | null;
  after?: string | null;
  step?: string | null;
}

/** Selects ended tasks as TasksParams; a retry keeps the steps that have ended, with `step` only those before it. */
export interface TasksRetryParamsWithoutTasks {
  dead?: boolean;
  agent?: string | null;
  limit?: number;
  until?: number | null;
  after?: string | null;
  step?: string | null;
}

/** Represents a team with its spec; `source` is "store" if it was added at run time, else the configuration file. */
export interface TeamShown {
  team: TeamStatus;
  spec: Record<string, unknown>;
  source: string;
}

/** Represents a team in `status`; `running` counts its tasks that have not ended. `lead` is null without a lead. */
export interface TeamStatus {
  name: string;
  kind?: "team";
  mode: string;
  lead: string | null;
  members: Array<string>;
  running: number;
  title?: string;
  description?: string;
  labels?: Record<string, string>;
  capabilities?: Array<string>;
  service?: ServiceStatus;
  overridden?: number;
}

/** Lists teams. */
export interface Teams {
  teams: Array<TeamStatus>;
}

/** Represents a template: its file, the template that it begins with, its parameters, and the agents that have it. */
export interface Template {
  name: string;
  source: string;
  base: string | null;
  description: string;
  params: Array<TemplateParam>;
  used_by: Array<string>;
}

/** Represents a parameter of a template: its JSON Schema, and whether it has to be given. */
export interface TemplateParam {
  name: string;
  schema: Record<string, unknown>;
  required: boolean;
}

/** Represents the template of an agent: `params` with their defaults, and `spec`, what both make together. */
export interface TemplateUse {
  name: string;
  source: string | null;
  params: Record<string, unknown>;
  spec: Record<string, unknown>;
}

/** Represents the result of `template.list`. */
export interface Templates {
  templates: Array<Template>;
}

/** Specifies a tenant by its table in `spec`, with the keys of `[tenants.NAME]`; with `new` it must not be there yet. */
export interface TenantAddParamsWithoutName {
  spec?: Record<string, unknown>;
  new?: boolean;
}

/** Represents a tenant that is there now: `created` is true if it was not before, `restarted` names agents that had given up. */
export interface TenantAdded {
  tenant: TenantRecord;
  created: boolean;
  restarted?: Array<string>;
}

/** Represents a tenant that was changed, with the keys that differ. */
export interface TenantChanged {
  tenant: TenantRecord;
  keys?: Array<string>;
}

/** Represents the sum of the agents and servers of a tenant, or with null of the owner; peaks are sums of peaks. */
export interface TenantMetrics {
  name: string | null;
  agents: number;
  total: MetricPoint;
}

/**
 * Represents a tenant.
 *
 * `runtime_id` is the same for as long as the tenant is there, and never comes again. `uid` is null where its processes have
 * no user of their own. `limits` are those in force, with the defaults of the tier, by key; a key that is absent is no limit.
 * `folder` is the folder of its agents. `agents`, `servers` and `workers` are counts, of workers those that have a process.
 * `source` is the file that has its table, or `store`.
 */
export interface TenantRecord {
  name: string;
  runtime_id: string;
  source: string;
  suspended?: boolean;
  tier?: string | null;
  user?: string | null;
  uid?: number | null;
  pool?: string | null;
  folder?: string | null;
  created_at?: string | null;
  limits?: Record<string, number>;
  agents?: number;
  servers?: number;
  workers?: number;
}

/** Names the tenant that is gone, with the counts of what was erased, by kind. */
export interface TenantRemoved {
  removed: Array<string>;
  erased?: Record<string, number>;
}

/** Gives new values to keys of the table of a tenant; null takes a key out. */
export interface TenantSetParamsWithoutName {
  spec: Record<string, unknown>;
}

/** Represents a tenant in full: the names of all that it has, and the layers between its processes and others'. */
export interface TenantShown {
  tenant: TenantRecord;
  spec?: Record<string, unknown>;
  agents?: Array<string>;
  servers?: Array<string>;
  groups?: Array<string>;
  layers?: Array<Layer>;
}

/** Represents a tenant that was suspended or resumed, with the workers that were stopped or started for it. */
export interface TenantSwitched {
  tenant: TenantRecord;
  workers?: Array<string>;
}

/** Lists tenants by name. */
export interface Tenants {
  tenants: Array<TenantRecord>;
}

/**
 * Specifies a new token: its rights, for agents that match one of the globs `agents` (all where it is null), for `expires_s` seconds or without end.
 *
 * With `tenant` it is one of that tenant, `TENANT/NAME`, and its agents are those of the tenant.
 */
export interface TokenAddParams {
  name: string;
  rights: "admin" | "operate" | "read";
  agents?: Array<string> | null;
  expires_s?: number | null;
  tenant?: string | null;
}

/** Lists tokens by name. */
export interface TokenList {
  tokens: Array<TokenRecord>;
}

/**
 * Represents a token without its text: times in UTC, null for one that never was or never will be.
 *
 * `agents` are globs, null for all. `tenant` is null for a token of the owner. `created_by` is the caller as the audit names it; `last_used` is exact to a minute. `expired` is true once `expires_at` is over.
 */
export interface TokenRecord {
  name: string;
  rights: "admin" | "operate" | "read";
  agents?: Array<string> | null;
  created_at?: string;
  created_by?: string;
  expires_at?: string | null;
  last_used?: string | null;
  expired?: boolean;
  tenant?: string | null;
}

/** Names the tokens that are no longer valid. */
export interface TokenRemoved {
  removed: Array<string>;
}

/** Names a token; its text before is valid for `overlap_s` seconds more. `expires_s` sets a new end, else it keeps its own. */
export interface TokenRotateParamsWithoutName {
  overlap_s?: number;
  expires_s?: number | null;
}

/** Represents a tool of an MCP server: `name` is the exposed one, `tool` its own; schemas are the server's. */
export interface Tool {
  name: string;
  server: string;
  tool: string;
  description: string;
  input_schema: Record<string, unknown>;
  annotations: Record<string, unknown>;
  output_schema?: Record<string, unknown>;
}

/** Counts the tool calls of an agent within the last minute; `limit` is 0 where there is none. */
export interface ToolCallRate {
  last_minute: number;
  limit: number;
}

/**
 * Represents a tool that is not as it was accepted: `parts` have changed, or it is `new`.
 *
 * `accepted` (null for a new tool) and `pending` have the keys of MCP that are compared: `title`, `description`, `inputSchema`,
 * `outputSchema`, `annotations`. A `held` one cannot be called.
 */
export interface ToolChange {
  tool: string;
  parts: Array<"annotations" | "description" | "inputSchema" | "new" | "outputSchema" | "title">;
  accepted: Record<string, unknown> | null;
  pending: Record<string, unknown>;
  held: boolean;
}

/** Lists the tools of a server that are not as they were accepted; `digest` stands for all of them. */
export interface ToolDiff {
  name: string;
  digest: string;
  changes: Array<ToolChange>;
}

/** Lists tools; `failures` has the servers that could not be asked. */
export interface Tools {
  tools: Array<Tool>;
  failures: Record<string, ErrorSchema>;
}

/**
 * Selects the Python interpreter of the next program, the present one by default, and the time for what cannot be taken along.
 *
 * With `check` the next program only proves that it can go on.
 */
export interface UpgradeParams {
  python?: string | null;
  check?: boolean;
  timeout_s?: number;
}

/**
 * Represents the result of `daemon.upgrade`: the program that goes on, or would with `check`, and the one before.
 *
 * `upgrades` counts them since the daemon started; `gap_s` is the time in which nothing was answered.
 */
export interface Upgraded {
  pid: number;
  python: string;
  version: string;
  before: string;
  upgrades: number;
  gap_s: number;
}

/** Represents a value in memory; null where there is none. */
export interface Value {
  value: unknown;
}

/** Describes the caller: its token or its process, its rights, its agents (globs, null for all), its tenant, and the face it came through. */
export interface Whoami {
  name: string;
  rights: "admin" | "operate" | "read";
  agents?: Array<string> | null;
  via?: "http" | "socket";
  token?: string | null;
  tenant?: string | null;
  node?: string | null;
}

/**
 * Represents a worker in `status`.
 *
 * `wanted` is true if it is to be up, which may hold for some workers of an agent only. `throttled` is true while
 * cpu_limit_percent stops it; `throttled_s` is the sum of these times in this incarnation. `done` is true for a job
 * from its success to the beginning of its next run. `restarts` counts starts after failures alone, `renewals` those
 * after an end that was asked for: `restart`, `reload`, a rolling restart on changed sources. `task_reason` is what its
 * task waits for, such as a person's answer; empty while it waits for nothing.
 */
export interface WorkerStatus {
  id: string;
  pid: number | null;
  state: string;
  incarnation: number;
  restarts: number;
  uptime_s: number;
  rss_bytes: number;
  paused: boolean;
  cpu_percent: number;
  open_files: number;
  task: string | null;
  next_start_in_s: number | null;
  last_exit: ExitRecord | null;
  reason: string;
  wanted?: boolean;
  log_lost_lines?: number;
  log_lost_bytes?: number;
  log_trouble?: string | null;
  throttled?: boolean;
  throttled_s?: number;
  health?: Array<HealthRecord>;
  hibernated?: boolean;
  done?: boolean;
  renewals?: number;
  task_reason?: string;
}

/** Represents a workflow with its spec; `source` is as that of a team. */
export interface WorkflowShown {
  workflow: WorkflowStatus;
  spec: Record<string, unknown>;
  source: string;
}

/** Represents a workflow in `status`; `steps` are names, `running` counts its tasks that have not ended. */
export interface WorkflowStatus {
  name: string;
  kind?: "workflow";
  steps: Array<string>;
  running: number;
  title?: string;
  description?: string;
  labels?: Record<string, string>;
  capabilities?: Array<string>;
  service?: ServiceStatus;
  overridden?: number;
}

/** Lists workflows. */
export interface Workflows {
  workflows: Array<WorkflowStatus>;
}

/** Names an audit record that is not as it was written. */
export interface WrongRecord {
  id: number;
  what: string;
}

/** A client of one daemon: each method is an operation of its OpenAPI document. */
export class Corral extends Connection {
  /** Returns that the daemon answers */
  healthz(options?: RequestOptions): Promise<{
    status: "ok";
  }> {
    return this.request("GET", "/healthz", [], {}, options) as Promise<{
    status: "ok";
  }>;
  }

  /** Returns whether everything that should run is up */
  readyz(options?: RequestOptions): Promise<{
    status: "ready" | "not ready";
    draining: boolean;
    down: Array<string>;
  }> {
    return this.request("GET", "/readyz", [], {}, options) as Promise<{
    status: "ready" | "not ready";
    draining: boolean;
    down: Array<string>;
  }>;
  }

  /** Returns this document */
  openapi(options?: RequestOptions): Promise<Record<string, unknown>> {
    return this.request("GET", "/openapi.json", [], {}, options) as Promise<Record<string, unknown>>;
  }

  /** Adds an agent */
  addRuntimeAgent(args: {
    id: string;
    name?: string;
    description?: string;
    template?: string;
  }, options?: RequestOptions): Promise<{
    message: string;
    id: string;
  }> {
    return this.request("POST", "/runtime/agents", [], args, options) as Promise<{
    message: string;
    id: string;
  }>;
  }

  /** Removes an agent */
  removeRuntimeAgent(args: { id: string }, options?: RequestOptions): Promise<{
    message: string;
    id: string;
  }> {
    return this.request("DELETE", "/runtime/agents/{id}", [], args, options) as Promise<{
    message: string;
    id: string;
  }>;
  }

  /** Adds a team */
  addRuntimeTeam(args: {
    id: string;
    name?: string;
    description?: string;
    template?: string;
  }, options?: RequestOptions): Promise<{
    message: string;
    id: string;
  }> {
    return this.request("POST", "/runtime/teams", [], args, options) as Promise<{
    message: string;
    id: string;
  }>;
  }

  /** Removes a team */
  removeRuntimeTeam(args: { id: string }, options?: RequestOptions): Promise<{
    message: string;
    id: string;
  }> {
    return this.request("DELETE", "/runtime/teams/{id}", [], args, options) as Promise<{
    message: string;
    id: string;
  }>;
  }

  /** Adds a workflow */
  addRuntimeWorkflow(args: {
    id?: string;
    name?: string;
    description?: string;
    template?: string;
  } = {}, options?: RequestOptions): Promise<{
    message: string;
    id: string;
  }> {
    return this.request("POST", "/runtime/workflows", [], args, options) as Promise<{
    message: string;
    id: string;
  }>;
  }

  /** Removes a workflow */
  removeRuntimeWorkflow(args: { id: string }, options?: RequestOptions): Promise<{
    message: string;
    id: string;
  }> {
    return this.request("DELETE", "/runtime/workflows/{id}", [], args, options) as Promise<{
    message: string;
    id: string;
  }>;
  }

  /** Reads the configuration again */
  refreshRuntime(options?: RequestOptions): Promise<{
    message: string;
    changes: unknown;
  }> {
    return this.request("POST", "/runtime/refresh", [], {}, options) as Promise<{
    message: string;
    changes: unknown;
  }>;
  }

  /** Returns the number and the names of each kind */
  runtimeCounts(options?: RequestOptions): Promise<{
    agents: {
      count: number;
      ids: Array<string>;
    };
    teams: {
      count: number;
      ids: Array<string>;
    };
    workflows: {
      count: number;
      ids: Array<string>;
    };
    databases: {
      count: number;
      ids: Array<string>;
    };
  }> {
    return this.request("GET", "/runtime/stats", [], {}, options) as Promise<{
    agents: {
      count: number;
      ids: Array<string>;
    };
    teams: {
      count: number;
      ids: Array<string>;
    };
    workflows: {
      count: number;
      ids: Array<string>;
    };
    databases: {
      count: number;
      ids: Array<string>;
    };
  }>;
  }

  /** Adds an agent or an MCP server, which is kept until it is removed. */
  addAgent(args: AddParams, options?: RequestOptions): Promise<AgentStatus> {
    return this.request("POST", "/api/v1/agents", [], args, options) as Promise<AgentStatus>;
  }

  /** Lists the status of agents and MCP servers: of all, or of those that the params choose. */
  listAgents(args: { names?: Array<string>; selector?: string; failed?: boolean } = {}, options?: RequestOptions): Promise<Agents> {
    return this.request("GET", "/api/v1/agents", ["names","selector","failed"], args, options) as Promise<Agents>;
  }

  /** Stops agents and MCP servers and removes them, all or none; returns the removed names. */
  removeAgentSelected(args: { name?: string; names?: Array<string>; selector?: string; cascade?: boolean; expected?: string } = {}, options?: RequestOptions): Promise<Removed> {
    return this.request("DELETE", "/api/v1/agents", ["name","names","selector","cascade","expected"], args, options) as Promise<Removed>;
  }

  /**
   * Adds several agents and MCP servers, all or none; `failures` has those that did not start.
   *
   * `added`, `changed` (with the keys) and `unchanged` are the names, also those of a dry run.
   */
  addAgents(args: AddAllParams, options?: RequestOptions): Promise<AgentsAdded> {
    return this.request("POST", "/api/v1/agents/batch", [], args, options) as Promise<AgentsAdded>;
  }

  /** Saves a checkpoint of agents or workers, and ends their processes until a task, `wake` or `start` comes. */
  hibernateAgentSelected(args: HibernateParams = {}, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/hibernate", [], args, options) as Promise<AgentsChanged>;
  }

  /** Freezes agents or workers with all their processes, until they are resumed, stopped or die. */
  pauseAgentSelected(args: SelectionParams = {}, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/pause", [], args, options) as Promise<AgentsChanged>;
  }

  /** Forgets failures: agents that should run and have given up start again. */
  resetAgentSelected(args: NamesParams = {}, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/reset", [], args, options) as Promise<AgentsChanged>;
  }

  /** Stops agents or workers, starts them again and waits until they are ready; leaves out jobs that neither run nor are named. */
  restartAgentSelected(args: NamesParams = {}, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/restart", [], args, options) as Promise<AgentsChanged>;
  }

  /** Lets paused agents or workers run again. */
  resumeAgentSelected(args: SelectionParams = {}, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/resume", [], args, options) as Promise<AgentsChanged>;
  }

  /** Sends a signal to the leader of each worker that runs. */
  signalAgentSelected(args: SignalParams, options?: RequestOptions): Promise<Names> {
    return this.request("POST", "/api/v1/agents/signal", [], args, options) as Promise<Names>;
  }

  /**
   * Starts agents or workers and waits until they are ready, jobs until they have succeeded.
   *
   * A choice that does not name them leaves out jobs that have succeeded, or that are not to start by themselves.
   */
  startAgentSelected(args: NamesParams = {}, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/start", [], args, options) as Promise<AgentsChanged>;
  }

  /** Stops agents or workers and waits until no process of them is left. */
  stopAgentSelected(args: NamesParams = {}, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/stop", [], args, options) as Promise<AgentsChanged>;
  }

  /** Starts hibernated agents or workers with their checkpoints, and waits until they are ready. */
  wakeAgentSelected(args: NamesParams = {}, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/wake", [], args, options) as Promise<AgentsChanged>;
  }

  /** Runs a task and answers when it has ended; a caller that hangs up leaves it running. */
  executeTask(args: { agent: string } & TaskRunParamsWithoutAgent, options?: RequestOptions): Promise<Task> {
    return this.request("POST", "/api/v1/agents/{agent}/run", [], args, options) as Promise<Task>;
  }

  /** Yields the events of `task.run`. */
  executeTaskStream(args: { agent: string } & TaskRunParamsWithoutAgent, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("POST", "/api/v1/agents/{agent}/run", [], args, options);
  }

  /** Stops agents and MCP servers and removes them, all or none; returns the removed names. */
  removeAgent(args: { name: string; selector?: string; cascade?: boolean; expected?: string }, options?: RequestOptions): Promise<Removed> {
    return this.request("DELETE", "/api/v1/agents/{name}", ["selector","cascade","expected"], args, options) as Promise<Removed>;
  }

  /** Changes keys of an agent, server, team or workflow; each change is a revision. */
  setAgent(args: { name: string } & AgentSetParamsWithoutName, options?: RequestOptions): Promise<AgentSet> {
    return this.request("PATCH", "/api/v1/agents/{name}", [], args, options) as Promise<AgentSet>;
  }

  /**
   * Returns one agent in full: its spec (values of environment and headers hidden), last exits, the end of its stderr.
   *
   * While a change is rolled out, the spec is the new one; `agent.rolling` says how far that is.
   *
   * Of a team or workflow: its spec.
   */
  showAgent(args: { name: string }, options?: RequestOptions): Promise<AgentShown> {
    return this.request("GET", "/api/v1/agents/{name}", [], args, options) as Promise<AgentShown>;
  }

  /** Saves a checkpoint of one worker, or of each worker of an agent that is up. */
  saveStateOfAgents(args: { name: string } & CheckpointSaveParamsWithoutName, options?: RequestOptions): Promise<Checkpoints> {
    return this.request("POST", "/api/v1/agents/{name}/checkpoint", [], args, options) as Promise<Checkpoints>;
  }

  /** Compares two revisions key by key; values of environment, headers and secrets are hidden. */
  diffRevisions(args: { name: string; before?: number; after?: number }, options?: RequestOptions): Promise<RevisionDiff> {
    return this.request("GET", "/api/v1/agents/{name}/diff", ["before","after"], args, options) as Promise<RevisionDiff>;
  }

  /**
   * Runs a command as `agent.exec` does, without a terminal, and answers once it has ended.
   *
   * The command is killed after `timeout_s`, or when its worker ends; the answer has what it printed until then.
   */
  runCommand(args: { name: string } & RunCommandParamsWithoutName, options?: RequestOptions): Promise<CommandRun> {
    return this.request("POST", "/api/v1/agents/{name}/exec", [], args, options) as Promise<CommandRun>;
  }

  /** Serves an agent, team or workflow over HTTP at an address of its own, or stops that; lasts until it is removed. */
  exposeAgent(args: { name: string } & ExposeParamsWithoutName, options?: RequestOptions): Promise<Exposed> {
    return this.request("POST", "/api/v1/agents/{name}/expose", [], args, options) as Promise<Exposed>;
  }

  /** Saves a checkpoint of agents or workers, and ends their processes until a task, `wake` or `start` comes. */
  hibernateAgent(args: { name: string } & HibernateParamsWithoutNames, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/{name}/hibernate", [], args, options) as Promise<AgentsChanged>;
  }

  /** Freezes agents or workers with all their processes, until they are resumed, stopped or die. */
  pauseAgent(args: { name: string } & SelectionParamsWithoutNames, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/{name}/pause", [], args, options) as Promise<AgentsChanged>;
  }

  /** Forgets failures: agents that should run and have given up start again. */
  resetAgent(args: { name: string } & NamesParamsWithoutNames, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/{name}/reset", [], args, options) as Promise<AgentsChanged>;
  }

  /** Stops agents or workers, starts them again and waits until they are ready; leaves out jobs that neither run nor are named. */
  restartAgent(args: { name: string } & NamesParamsWithoutNames, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/{name}/restart", [], args, options) as Promise<AgentsChanged>;
  }

  /** Lets paused agents or workers run again. */
  resumeAgent(args: { name: string } & SelectionParamsWithoutNames, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/{name}/resume", [], args, options) as Promise<AgentsChanged>;
  }

  /** Returns one revision with its table; values of environment, headers and secrets are hidden. */
  showRevision(args: { name: string; revision?: number }, options?: RequestOptions): Promise<RevisionShown> {
    return this.request("GET", "/api/v1/agents/{name}/revision", ["revision"], args, options) as Promise<RevisionShown>;
  }

  /** Lists the revisions of an agent, server, team or workflow, the newest first. */
  listRevisions(args: { name: string; limit?: number }, options?: RequestOptions): Promise<Revisions> {
    return this.request("GET", "/api/v1/agents/{name}/revisions", ["limit"], args, options) as Promise<Revisions>;
  }

  /** Restores the table of an earlier revision, as a new revision; also of a server, team or workflow. */
  rollbackAgent(args: { name: string } & RollbackParamsWithoutName, options?: RequestOptions): Promise<RolledBack> {
    return this.request("POST", "/api/v1/agents/{name}/rollback", [], args, options) as Promise<RolledBack>;
  }

  /** Changes the number of workers of an agent; of a placed one that of its replicas on all nodes together. */
  scaleAgent(args: { name: string } & ScaleParamsWithoutName, options?: RequestOptions): Promise<AgentStatus> {
    return this.request("POST", "/api/v1/agents/{name}/scale", [], args, options) as Promise<AgentStatus>;
  }

  /** Sends a signal to the leader of each worker that runs. */
  signalAgent(args: { name: string } & SignalParamsWithoutNames, options?: RequestOptions): Promise<Names> {
    return this.request("POST", "/api/v1/agents/{name}/signal", [], args, options) as Promise<Names>;
  }

  /**
   * Starts agents or workers and waits until they are ready, jobs until they have succeeded.
   *
   * A choice that does not name them leaves out jobs that have succeeded, or that are not to start by themselves.
   */
  startAgent(args: { name: string } & NamesParamsWithoutNames, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/{name}/start", [], args, options) as Promise<AgentsChanged>;
  }

  /** Stops agents or workers and waits until no process of them is left. */
  stopAgent(args: { name: string } & NamesParamsWithoutNames, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/{name}/stop", [], args, options) as Promise<AgentsChanged>;
  }

  /** Starts hibernated agents or workers with their checkpoints, and waits until they are ready. */
  wakeAgent(args: { name: string } & NamesParamsWithoutNames, options?: RequestOptions): Promise<AgentsChanged> {
    return this.request("POST", "/api/v1/agents/{name}/wake", [], args, options) as Promise<AgentsChanged>;
  }

  /** Lists the open questions of tasks, the oldest first; with `ended` those that have ended, the newest first. */
  listApprovals(args: { agent?: string; task?: string; ended?: boolean; limit?: number } = {}, options?: RequestOptions): Promise<Approvals> {
    return this.request("GET", "/api/v1/approvals", ["agent","task","ended","limit"], args, options) as Promise<Approvals>;
  }

  /** Returns a question of a task, with its answer where it has one. */
  showApproval(args: { approval: number }, options?: RequestOptions): Promise<Approval> {
    return this.request("GET", "/api/v1/approvals/{approval}", [], args, options) as Promise<Approval>;
  }

  /** Answers an open question of a task, which goes on with the answer; the first one counts, and null declines a form. */
  answerApproval(args: { approval: number } & ApprovalAnswerParamsWithoutApproval, options?: RequestOptions): Promise<Approval> {
    return this.request("POST", "/api/v1/approvals/{approval}/answer", [], args, options) as Promise<Approval>;
  }

  /** Lists audit records, oldest first: the newest `n`, or those after `since`; `next` is the next `before`, or `since`. */
  listAudit(args: { since?: number; before?: number; since_time?: number; until_time?: number; n?: number; actions?: Array<string>; name?: string } = {}, options?: RequestOptions): Promise<AuditPage> {
    return this.request("GET", "/api/v1/audit", ["since","before","since_time","until_time","n","actions","name"], args, options) as Promise<AuditPage>;
  }

  /** Verifies the whole chain of hashes; `wrong` is the first record that was changed. */
  verifyAudit(args: { head?: string } = {}, options?: RequestOptions): Promise<AuditVerdict> {
    return this.request("GET", "/api/v1/audit/verify", ["head"], args, options) as Promise<AuditVerdict>;
  }

  /**
   * Makes an archive of the state folder and the configuration, with all that was acknowledged before.
   *
   * It holds secrets in plain text, unless `secrets` is false. `backup.read` hands it out.
   */
  makeBackup(args: BackupParams = {}, options?: RequestOptions): Promise<BackupMade> {
    return this.request("POST", "/api/v1/backups", [], args, options) as Promise<BackupMade>;
  }

  /** Removes an archive from the state folder. */
  discardBackup(args: { id: string }, options?: RequestOptions): Promise<Done> {
    return this.request("DELETE", "/api/v1/backups/{id}", [], args, options) as Promise<Done>;
  }

  /** Returns a part of an archive, from `offset` on. */
  readBackup(args: { id: string; offset?: number }, options?: RequestOptions): Promise<BackupPiece> {
    return this.request("GET", "/api/v1/backups/{id}", ["offset"], args, options) as Promise<BackupPiece>;
  }

  /** Lists checkpoints without their data, newest first. */
  listCheckpoints(args: { name?: string; limit?: number } = {}, options?: RequestOptions): Promise<Checkpoints> {
    return this.request("GET", "/api/v1/checkpoints", ["name","limit"], args, options) as Promise<Checkpoints>;
  }

  /** Removes checkpoints, all or none; one that a worker will start with only with `force`. */
  removeCheckpointsSelected(args: { checkpoints: Array<number>; force?: boolean }, options?: RequestOptions): Promise<CheckpointsRemoved> {
    return this.request("DELETE", "/api/v1/checkpoints", ["checkpoints","force"], args, options) as Promise<CheckpointsRemoved>;
  }

  /** Saves a checkpoint of one worker, or of each worker of an agent that is up. */
  saveState(args: CheckpointSaveParams, options?: RequestOptions): Promise<Checkpoints> {
    return this.request("POST", "/api/v1/checkpoints", [], args, options) as Promise<Checkpoints>;
  }

  /**
   * Restores a checkpoint, also another worker's, in a worker; one that does not run starts with it.
   *
   * `checkpoint` is the worker's own copy, `live` whether it goes on with it at once. A removed agent is brought back.
   */
  restoreAgentDefault(args: CheckpointRestoreParams = {}, options?: RequestOptions): Promise<CheckpointRestored> {
    return this.request("POST", "/api/v1/checkpoints/restore", [], args, options) as Promise<CheckpointRestored>;
  }

  /** Removes checkpoints, all or none; one that a worker will start with only with `force`. */
  removeCheckpoints(args: { checkpoint: number; force?: boolean }, options?: RequestOptions): Promise<CheckpointsRemoved> {
    return this.request("DELETE", "/api/v1/checkpoints/{checkpoint}", ["force"], args, options) as Promise<CheckpointsRemoved>;
  }

  /** Returns one checkpoint with its data. */
  showCheckpoint(args: { checkpoint: number }, options?: RequestOptions): Promise<CheckpointShown> {
    return this.request("GET", "/api/v1/checkpoints/{checkpoint}", [], args, options) as Promise<CheckpointShown>;
  }

  /**
   * Restores a checkpoint, also another worker's, in a worker; one that does not run starts with it.
   *
   * `checkpoint` is the worker's own copy, `live` whether it goes on with it at once. A removed agent is brought back.
   */
  restoreAgent(args: { checkpoint: number } & CheckpointRestoreParamsWithoutCheckpoint, options?: RequestOptions): Promise<CheckpointRestored> {
    return this.request("POST", "/api/v1/checkpoints/{checkpoint}/restore", [], args, options) as Promise<CheckpointRestored>;
  }

  /** Returns what ended tasks have used, summed by agent, session, tenant, day or hour; also of agents that were removed. */
  listCosts(args: { by?: "agent" | "day" | "hour" | "session" | "tenant"; since?: number; until?: number; agent?: string; limit?: number } = {}, options?: RequestOptions): Promise<Costs> {
    return this.request("GET", "/api/v1/costs", ["by","since","until","agent","limit"], args, options) as Promise<Costs>;
  }

  /**
   * Deploys a version of a package as an agent; answers when it serves, its canary does, or it has failed.
   *
   * Meanwhile each step is sent as a `deployment.event` notification {event}. A caller that hangs up leaves it under way.
   */
  deploy(args: DeployParams, options?: RequestOptions): Promise<Deployment> {
    return this.request("POST", "/api/v1/deployments", [], args, options) as Promise<Deployment>;
  }

  /** Yields the events of `deployment.create`. */
  deployStream(args: DeployParams, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("POST", "/api/v1/deployments", [], args, options);
  }

  /** Lists the deployments of one agent or of all, the newest first. */
  listDeployments(args: { name?: string; limit?: number } = {}, options?: RequestOptions): Promise<Deployments> {
    return this.request("GET", "/api/v1/deployments", ["name","limit"], args, options) as Promise<Deployments>;
  }

  /** Returns one deployment in full. */
  showDeployment(args: { deployment: number }, options?: RequestOptions): Promise<Deployment> {
    return this.request("GET", "/api/v1/deployments/{deployment}", [], args, options) as Promise<Deployment>;
  }

  /** Takes back a canary, or ends a deployment that is under way; answers when the former version serves alone. */
  abortDeployment(args: { name: string }, options?: RequestOptions): Promise<Deployment> {
    return this.request("POST", "/api/v1/deployments/{name}/abort", [], args, options) as Promise<Deployment>;
  }

  /** Gives all workers of an agent the version of its canary; answers when all have it, or it has failed. */
  promoteDeployment(args: { name: string }, options?: RequestOptions): Promise<Deployment> {
    return this.request("POST", "/api/v1/deployments/{name}/promote", [], args, options) as Promise<Deployment>;
  }

  /** Checks the machine and the daemon: the features of the kernel, those in force, and the guarantees that hold. */
  doctor(options?: RequestOptions): Promise<Diagnosis> {
    return this.request("GET", "/api/v1/doctor", [], {}, options) as Promise<Diagnosis>;
  }

  /** Kills every worker and server at once, cancels every task, and refuses work until `agent.start`. */
  emergencyStop(options?: RequestOptions): Promise<EmergencyStopped> {
    return this.request("POST", "/api/v1/emergency-stop", [], {}, options) as Promise<EmergencyStopped>;
  }

  /** Lists stored events, oldest first; `next`, where it is not null, is the `since` for more of them. */
  listEvents(args: { since?: number | string; since_time?: number; n?: number; types?: Array<string>; agent?: string; worker?: string; task?: string; until?: number | string } = {}, options?: RequestOptions): Promise<Events> {
    return this.request("GET", "/api/v1/events", ["since","since_time","n","types","agent","worker","task","until"], args, options) as Promise<Events>;
  }

  /** Yields the events of `event.follow`. */
  events(args: { since?: number | string; since_time?: number; n?: number; types?: Array<string>; agent?: string; worker?: string; task?: string; until?: number | string } = {}, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("GET", "/api/v1/events", ["since","since_time","n","types","agent","worker","task","until"], args, options);
  }

  /** Publishes an event to the subscribers of its type; returns its number. */
  publish(args: EventPublishParams, options?: RequestOptions): Promise<Published> {
    return this.request("POST", "/api/v1/events", [], args, options) as Promise<Published>;
  }

  /**
   * Lists the types of events that the daemon publishes: when each is published, and what its fields mean.
   *
   * Types that agents publish are their own, and are not among them.
   */
  listEventTypes(args: { types?: Array<string> } = {}, options?: RequestOptions): Promise<EventTypes> {
    return this.request("GET", "/api/v1/events/types", ["types"], args, options) as Promise<EventTypes>;
  }

  /**
   * Returns agents, servers, teams, workflows and schedules as TOML, which `corral add --file` takes.
   *
   * Before them stand the stores, templates and profiles of the configuration file, which `corrald` takes with the rest; where names are chosen, those stores and templates that they use. Secrets are named. Plain values of environments and headers are in it for a caller with the right admin alone.
   */
  export(args: { names?: Array<string>; selector?: string } = {}, options?: RequestOptions): Promise<Exported> {
    return this.request("GET", "/api/v1/export", ["names","selector"], args, options) as Promise<Exported>;
  }

  /** Adds agents, servers, teams, workflows and schedules, all or none; `failures` has the agents that did not start. */
  importTables(args: ImportParams = {}, options?: RequestOptions): Promise<Imported> {
    return this.request("POST", "/api/v1/import", [], args, options) as Promise<Imported>;
  }

  /** Lists what waits for a person, the newest need first: open questions, workers that gave up, tasks that nobody waited for. */
  listInbox(args: { agent?: string; limit?: number } = {}, options?: RequestOptions): Promise<InboxItems> {
    return this.request("GET", "/api/v1/inbox", ["agent","limit"], args, options) as Promise<InboxItems>;
  }

  /** Marks items of the inbox as seen; questions stay in it until they are answered. */
  markInboxSeen(args: InboxSeenParams = {}, options?: RequestOptions): Promise<InboxSeen> {
    return this.request("POST", "/api/v1/inbox/seen", [], args, options) as Promise<InboxSeen>;
  }

  /** Sets the log level of the daemon, until a reload or its end; `daemon.status` shows it. */
  setLogLevel(args: LogLevelParams, options?: RequestOptions): Promise<LogLevelSet> {
    return this.request("PUT", "/api/v1/log-level", [], args, options) as Promise<LogLevelSet>;
  }

  /** Returns the last lines of the logs, merged by time, up to 8 MiB of JSON. */
  readLogs(args: { names?: Array<string>; selector?: string; task?: string; n?: number; since?: number; stream?: "log" | "stderr" | "stdout"; until?: number; level?: "critical" | "debug" | "error" | "info" | "warning"; grep?: string; previous?: boolean; follow?: boolean; after?: string } = {}, options?: RequestOptions): Promise<LogLines> {
    return this.request("GET", "/api/v1/logs", ["names","selector","task","n","since","stream","until","level","grep","previous","follow","after"], args, options) as Promise<LogLines>;
  }

  /** Yields the events of `log.follow`. */
  followLogs(args: { names?: Array<string>; selector?: string; task?: string; n?: number; since?: number; stream?: "log" | "stderr" | "stdout"; until?: number; level?: "critical" | "debug" | "error" | "info" | "warning"; grep?: string; previous?: boolean; follow?: boolean; after?: string } = {}, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("GET", "/api/v1/logs", ["names","selector","task","n","since","stream","until","level","grep","previous","follow","after"], args, options);
  }

  /** Lists the remote MCP servers with the state of their logins, without tokens. */
  listLogins(options?: RequestOptions): Promise<Logins> {
    return this.request("GET", "/api/v1/mcp/logins", [], {}, options) as Promise<Logins>;
  }

  /** Lists the prompts of all servers, by exposed name; a server that never listed anything is started first. */
  listPrompts(options?: RequestOptions): Promise<Prompts> {
    return this.request("GET", "/api/v1/mcp/prompts", [], {}, options) as Promise<Prompts>;
  }

  /** Lists the resources of all servers and their templates; a server that never listed anything is started first. */
  listResources(options?: RequestOptions): Promise<Resources> {
    return this.request("GET", "/api/v1/mcp/resources", [], {}, options) as Promise<Resources>;
  }

  /** Reads a resource and returns MCP's result object. */
  readResource(args: ReadParams, options?: RequestOptions): Promise<Record<string, unknown>> {
    return this.request("POST", "/api/v1/mcp/resources/read", [], args, options) as Promise<Record<string, unknown>>;
  }

  /** Lists the MCP servers, with the tools that they listed last. */
  listServers(options?: RequestOptions): Promise<Servers> {
    return this.request("GET", "/api/v1/mcp/servers", [], {}, options) as Promise<Servers>;
  }

  /** Accepts the words that the tools of an MCP server have now; those that were held can be called again. */
  acceptTools(args: { name: string } & AcceptParamsWithoutName, options?: RequestOptions): Promise<Accepted> {
    return this.request("POST", "/api/v1/mcp/servers/{name}/accept", [], args, options) as Promise<Accepted>;
  }

  /** Returns the tools of an MCP server whose words are not those that were accepted, with both. */
  diffTools(args: { name: string; tool?: string }, options?: RequestOptions): Promise<ToolDiff> {
    return this.request("GET", "/api/v1/mcp/servers/{name}/changes", ["tool"], args, options) as Promise<ToolDiff>;
  }

  /** Starts a login to a remote MCP server (OAuth): returns the address that a person's browser has to open. */
  startLogin(args: { name: string } & LoginParamsWithoutName, options?: RequestOptions): Promise<LoginStarted> {
    return this.request("POST", "/api/v1/mcp/servers/{name}/login", [], args, options) as Promise<LoginStarted>;
  }

  /** Forgets the token of a remote MCP server and corral's registration there, and revokes the token. */
  logout(args: { name: string; revoke?: boolean }, options?: RequestOptions): Promise<LoggedOut> {
    return this.request("DELETE", "/api/v1/mcp/servers/{name}/login", ["revoke"], args, options) as Promise<LoggedOut>;
  }

  /** Finishes a login, and starts the server's workers that waited for it; `pending` until the device flow is confirmed. */
  finishLogin(args: { name: string } & LoginFinishParamsWithoutName, options?: RequestOptions): Promise<Login> {
    return this.request("POST", "/api/v1/mcp/servers/{name}/login/finish", [], args, options) as Promise<Login>;
  }

  /** Lists the tools of all servers, or of one; a server that never listed any is started first. */
  listTools(args: { server?: string } = {}, options?: RequestOptions): Promise<Tools> {
    return this.request("GET", "/api/v1/mcp/tools", ["server"], args, options) as Promise<Tools>;
  }

  /** Calls a tool and returns MCP's result object. */
  callTool(args: { name: string } & CallParamsWithoutName, options?: RequestOptions): Promise<Record<string, unknown>> {
    return this.request("POST", "/api/v1/mcp/tools/{name}/call", [], args, options) as Promise<Record<string, unknown>>;
  }

  /** Returns the size of sessions and keys by agent, without expired ones, and the bytes of them in the daemon's memory. */
  memoryStats(args: { agent?: string } = {}, options?: RequestOptions): Promise<MemoryStatistics> {
    return this.request("GET", "/api/v1/memory", ["agent"], args, options) as Promise<MemoryStatistics>;
  }

  /** Removes at once the sessions and keys that have expired, of an agent or of all; returns how many of each. */
  cleanUpMemory(args: MemoryCleanupParams = {}, options?: RequestOptions): Promise<MemoryRemoved> {
    return this.request("POST", "/api/v1/memory/cleanup", [], args, options) as Promise<MemoryRemoved>;
  }

  /** Lists the memory pools: their limits, the size of their sessions and keys, and the agents in them. */
  memoryPools(options?: RequestOptions): Promise<MemoryPools> {
    return this.request("GET", "/api/v1/memory/pools", [], {}, options) as Promise<MemoryPools>;
  }

  /** Returns keys and values of an agent that contain a text, the newest first. */
  searchMemory(args: { agent: string; query?: string; limit?: number; session?: string }, options?: RequestOptions): Promise<Items> {
    return this.request("GET", "/api/v1/memory/{agent}", ["query","limit","session"], args, options) as Promise<Items>;
  }

  /** Deletes a key of an agent. */
  deleteMemory(args: { agent: string; key: string; session?: string }, options?: RequestOptions): Promise<Done> {
    return this.request("DELETE", "/api/v1/memory/{agent}/{key}", ["session"], args, options) as Promise<Done>;
  }

  /** Returns the value under a key of an agent; null where there is none. */
  getMemory(args: { agent: string; key: string; session?: string }, options?: RequestOptions): Promise<Value> {
    return this.request("GET", "/api/v1/memory/{agent}/{key}", ["session"], args, options) as Promise<Value>;
  }

  /** Stores a value under a key of an agent; it is durable when this returns. */
  putMemory(args: { agent: string; key: string } & MemoryPutParamsWithoutAgentKey, options?: RequestOptions): Promise<Done> {
    return this.request("PUT", "/api/v1/memory/{agent}/{key}", [], args, options) as Promise<Done>;
  }

  /** Returns what an agent, a server, a tenant or the daemon did and used over time, in steps. */
  getMetricsHistory(args: { agent?: string; since?: number; until?: number; step_s?: number } = {}, options?: RequestOptions): Promise<MetricsHistory> {
    return this.request("GET", "/api/v1/metrics/history", ["agent","since","until","step_s"], args, options) as Promise<MetricsHistory>;
  }

  /** Returns the present figures: those since the daemon's start, and those of the last minute. */
  getLatestMetrics(args: { names?: Array<string>; selector?: string } = {}, options?: RequestOptions): Promise<MetricsLatest> {
    return this.request("GET", "/api/v1/metrics/latest", ["names","selector"], args, options) as Promise<MetricsLatest>;
  }

  /** Ranks agents and servers by success, duration and cost, and names those that are a problem. */
  getMetricsTop(args: { names?: Array<string>; selector?: string; since?: number; limit?: number } = {}, options?: RequestOptions): Promise<MetricsTop> {
    return this.request("GET", "/api/v1/metrics/top", ["names","selector","since","limit"], args, options) as Promise<MetricsTop>;
  }

  /** Lists the declared models: state, agents, and today's usage; probes those whose state is not known. */
  listModels(options?: RequestOptions): Promise<Models> {
    return this.request("GET", "/api/v1/models", [], {}, options) as Promise<Models>;
  }

  /** Lists the nodes of the cluster that have a lease, without the engine the last known ones; NotFound where the daemon is in no cluster. */
  listNodes(options?: RequestOptions): Promise<Nodes> {
    return this.request("GET", "/api/v1/nodes", [], {}, options) as Promise<Nodes>;
  }

  /** Requests that a node gives its replicas to other nodes, and gets no new ones, until `node.resume`; also over its restarts. */
  drainNode(args: { name: string }, options?: RequestOptions): Promise<Node> {
    return this.request("POST", "/api/v1/nodes/{name}/drain", [], args, options) as Promise<Node>;
  }

  /** Lets a node that was drained get replicas again. */
  resumeNode(args: { name: string }, options?: RequestOptions): Promise<Node> {
    return this.request("POST", "/api/v1/nodes/{name}/resume", [], args, options) as Promise<Node>;
  }

  /** Returns this table as an OpenRPC document (https://spec.open-rpc.org). */
  discover(options?: RequestOptions): Promise<Record<string, unknown>> {
    return this.request("GET", "/api/v1/openrpc", [], {}, options) as Promise<Record<string, unknown>>;
  }

  /** Verifies an uploaded package and keeps it. The same content twice is one package; other content needs another version. */
  addPackage(args: PackageAddParams = {}, options?: RequestOptions): Promise<PackageRecord> {
    return this.request("POST", "/api/v1/packages", [], args, options) as Promise<PackageRecord>;
  }

  /** Returns the packages, by name and version. */
  listPackages(args: { name?: string } = {}, options?: RequestOptions): Promise<PackageRecords> {
    return this.request("GET", "/api/v1/packages", ["name"], args, options) as Promise<PackageRecords>;
  }

  /** Takes the next bytes of a package; `package.add` adds it once all have arrived. An upload without calls for ten minutes may be dropped. */
  uploadPackage(args: PackageUploadParams, options?: RequestOptions): Promise<PackageUpload> {
    return this.request("POST", "/api/v1/packages/uploads", [], args, options) as Promise<PackageUpload>;
  }

  /** Removes a package; one that an agent uses, or can roll back to, is refused. */
  removePackage(args: { package: string }, options?: RequestOptions): Promise<PackageRecord> {
    return this.request("DELETE", "/api/v1/packages/{package}", [], args, options) as Promise<PackageRecord>;
  }

  /** Returns a package with its needs, its dependencies and the keys of its agent. */
  showPackage(args: { package: string }, options?: RequestOptions): Promise<PackageDetails> {
    return this.request("GET", "/api/v1/packages/{package}", [], args, options) as Promise<PackageDetails>;
  }

  /** Verifies each byte of a package, and its signature; a changed byte is Corrupted. */
  verifyPackage(args: { package: string }, options?: RequestOptions): Promise<PackageRecord> {
    return this.request("POST", "/api/v1/packages/{package}/verify", [], args, options) as Promise<PackageRecord>;
  }

  /** Answers at once, so that a client knows that the daemon is up. */
  ping(options?: RequestOptions): Promise<Done> {
    return this.request("GET", "/api/v1/ping", [], {}, options) as Promise<Done>;
  }

  /** Lists the limits that the daemon enforces, the usage of each, and how often it has refused something. */
  listQuotas(args: { names?: Array<string>; selector?: string } = {}, options?: RequestOptions): Promise<QuotaList> {
    return this.request("GET", "/api/v1/quotas", ["names","selector"], args, options) as Promise<QuotaList>;
  }

  /** Reads the configuration again, applies the changes and returns them; an invalid file changes nothing. */
  reload(args: ReloadParams = {}, options?: RequestOptions): Promise<Reloaded> {
    return this.request("POST", "/api/v1/reload", [], args, options) as Promise<Reloaded>;
  }

  /** Runs a task and answers when it has ended; a caller that hangs up leaves it running. */
  executeTaskDefault(args: TaskRunParams, options?: RequestOptions): Promise<Task> {
    return this.request("POST", "/api/v1/run", [], args, options) as Promise<Task>;
  }

  /** Yields the events of `task.run`. */
  executeTaskDefaultStream(args: TaskRunParams, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("POST", "/api/v1/run", [], args, options);
  }

  /** Returns the number and the names of agents, teams, workflows, and databases: the declared stores that agents use. */
  getRuntimeStats(options?: RequestOptions): Promise<RuntimeStatistics> {
    return this.request("GET", "/api/v1/runtime-stats", [], {}, options) as Promise<RuntimeStatistics>;
  }

  /** Adds a schedule, which submits a task at each of its times; it survives a restart of the daemon. */
  addSchedule(args: ScheduleParams, options?: RequestOptions): Promise<ScheduleRecord> {
    return this.request("POST", "/api/v1/schedules", [], args, options) as Promise<ScheduleRecord>;
  }

  /** Lists all schedules, by name. */
  listSchedules(options?: RequestOptions): Promise<Schedules> {
    return this.request("GET", "/api/v1/schedules", [], {}, options) as Promise<Schedules>;
  }

  /** Adds a schedule of a command, and a job of its name that runs the command. */
  addCommandSchedule(args: ScheduleCommandParams, options?: RequestOptions): Promise<ScheduleRecord> {
    return this.request("POST", "/api/v1/schedules/commands", [], args, options) as Promise<ScheduleRecord>;
  }

  /** Removes a schedule, and the job that was added with its command; the tasks that it submitted stay. */
  removeSchedule(args: { name: string }, options?: RequestOptions): Promise<Removed> {
    return this.request("DELETE", "/api/v1/schedules/{name}", [], args, options) as Promise<Removed>;
  }

  /** Returns a schedule with its next times (`upcoming`) and its last runs (`recent`), the newest first. */
  showSchedule(args: { name: string }, options?: RequestOptions): Promise<ScheduleShown> {
    return this.request("GET", "/api/v1/schedules/{name}", [], args, options) as Promise<ScheduleShown>;
  }

  /** Pauses a schedule until it is resumed; the times meanwhile are skipped. */
  pauseSchedule(args: { name: string }, options?: RequestOptions): Promise<ScheduleRecord> {
    return this.request("POST", "/api/v1/schedules/{name}/pause", [], args, options) as Promise<ScheduleRecord>;
  }

  /** Resumes a paused schedule. */
  resumeSchedule(args: { name: string }, options?: RequestOptions): Promise<ScheduleRecord> {
    return this.request("POST", "/api/v1/schedules/{name}/resume", [], args, options) as Promise<ScheduleRecord>;
  }

  /** Submits the task of a schedule now, in addition to its times, and returns its record. */
  runSchedule(args: { name: string }, options?: RequestOptions): Promise<Task> {
    return this.request("POST", "/api/v1/schedules/{name}/run", [], args, options) as Promise<Task>;
  }

  /** Returns the JSON Schema of the configuration file, of a table in it, of a task, or of an event. */
  getSchemaDefault(args: { document?: "agent" | "config" | "event" | "server" | "task" | "team" | "template" | "workflow" } = {}, options?: RequestOptions): Promise<Record<string, unknown>> {
    return this.request("GET", "/api/v1/schema", ["document"], args, options) as Promise<Record<string, unknown>>;
  }

  /** Returns the JSON Schema of the configuration file, of a table in it, of a task, or of an event. */
  getSchema(args: { document: "agent" | "config" | "event" | "server" | "task" | "team" | "template" | "workflow" }, options?: RequestOptions): Promise<Record<string, unknown>> {
    return this.request("GET", "/api/v1/schema/{document}", [], args, options) as Promise<Record<string, unknown>>;
  }

  /** Returns the names of all secrets, their places, the agents that may have each and that name it; no values. */
  listSecrets(options?: RequestOptions): Promise<Secrets> {
    return this.request("GET", "/api/v1/secrets", [], {}, options) as Promise<Secrets>;
  }

  /** Removes a kept secret. One that agents name is refused without `force`. */
  removeSecret(args: { name: string; force?: boolean }, options?: RequestOptions): Promise<SecretUse> {
    return this.request("DELETE", "/api/v1/secrets/{name}", ["force"], args, options) as Promise<SecretUse>;
  }

  /** Keeps a secret for `${secret:NAME}`, of all agents or of those that match `agents`. Returns the agents that name it. */
  setSecret(args: { name: string } & SecretSetParamsWithoutName, options?: RequestOptions): Promise<SecretUse> {
    return this.request("PUT", "/api/v1/secrets/{name}", [], args, options) as Promise<SecretUse>;
  }

  /** Replaces the value of a kept secret; with `restart` the workers of agents that name it restart one after another. */
  rotateSecret(args: { name: string } & SecretRotateParamsWithoutName, options?: RequestOptions): Promise<SecretRotated> {
    return this.request("POST", "/api/v1/secrets/{name}/rotate", [], args, options) as Promise<SecretRotated>;
  }

  /** Returns the names of the agents, MCP servers, teams, workflows and workers that the params choose. */
  selectAgents(args: { names?: Array<string>; all?: boolean; selector?: string } = {}, options?: RequestOptions): Promise<Names> {
    return this.request("GET", "/api/v1/select", ["names","all","selector"], args, options) as Promise<Names>;
  }

  /** Lists sessions with turns, messages, sizes and last access, the last used first. */
  listSessions(args: { agent?: string; limit?: number } = {}, options?: RequestOptions): Promise<Sessions> {
    return this.request("GET", "/api/v1/sessions", ["agent","limit"], args, options) as Promise<Sessions>;
  }

  /** Deletes a session of an agent with its keys, or all of them; refused while a task works on it. */
  clearMemoryOfAgent(args: { agent: string; session?: string }, options?: RequestOptions): Promise<MemoryRemoved> {
    return this.request("DELETE", "/api/v1/sessions/{agent}", ["session"], args, options) as Promise<MemoryRemoved>;
  }

  /** Lists sessions with turns, messages, sizes and last access, the last used first. */
  listSessionsOfAgent(args: { agent: string; limit?: number }, options?: RequestOptions): Promise<Sessions> {
    return this.request("GET", "/api/v1/sessions/{agent}", ["limit"], args, options) as Promise<Sessions>;
  }

  /** Deletes a session of an agent with its keys, or all of them; refused while a task works on it. */
  clearMemory(args: { agent: string; session: string }, options?: RequestOptions): Promise<MemoryRemoved> {
    return this.request("DELETE", "/api/v1/sessions/{agent}/{session}", [], args, options) as Promise<MemoryRemoved>;
  }

  /** Returns a session: history, variables and data; counts as an access. */
  showSession(args: { agent: string; session: string; last?: number }, options?: RequestOptions): Promise<SessionShown> {
    return this.request("GET", "/api/v1/sessions/{agent}/{session}", ["last"], args, options) as Promise<SessionShown>;
  }

  /** Sets the time after which a session expires; without `ttl_s` only `retention` counts. */
  expireSession(args: { agent: string; session: string } & MemoryExpireParamsWithoutAgentSession, options?: RequestOptions): Promise<SessionExpiry> {
    return this.request("POST", "/api/v1/sessions/{agent}/{session}/expire", [], args, options) as Promise<SessionExpiry>;
  }

  /** Returns counts of processes, tasks and tool calls since the daemon started: in total, and of all names or of `names`. */
  getStatistics(args: { names?: Array<string>; selector?: string } = {}, options?: RequestOptions): Promise<Statistics> {
    return this.request("GET", "/api/v1/statistics", ["names","selector"], args, options) as Promise<Statistics>;
  }

  /** Returns the status of the daemon, of agents, MCP servers, teams and workflows, and task counts. */
  status(args: { names?: Array<string>; selector?: string; failed?: boolean } = {}, options?: RequestOptions): Promise<Status> {
    return this.request("GET", "/api/v1/status", ["names","selector","failed"], args, options) as Promise<Status>;
  }

  /** Yields the events of `daemon.follow`. */
  followStatus(args: { names?: Array<string>; selector?: string; failed?: boolean } = {}, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("GET", "/api/v1/status", ["names","selector","failed"], args, options);
  }

  /** Stops the daemon, as SIGTERM does: workers end in order, each within its grace period. Answers before that. */
  stopDaemon(options?: RequestOptions): Promise<Stopping> {
    return this.request("POST", "/api/v1/stop", [], {}, options) as Promise<Stopping>;
  }

  /** Probes the declared stores that agents use, and lists all, each with its state and its agents. */
  listStores(options?: RequestOptions): Promise<Stores> {
    return this.request("GET", "/api/v1/stores", [], {}, options) as Promise<Stores>;
  }

  /** Lists records of tasks, newest first; `more`, where it is not null, is the `before` for the rest; `skipped` cannot be read. */
  listTasks(args: { agent?: string; state?: "cancelled" | "failed" | "queued" | "running" | "succeeded" | "timeout"; limit?: number; agents?: Array<string>; states?: Array<"cancelled" | "failed" | "queued" | "running" | "succeeded" | "timeout">; since?: number; until?: number; parent?: string; roots?: boolean; dead?: boolean; schedule?: string; session?: string; text?: string; before?: string } = {}, options?: RequestOptions): Promise<TaskPage> {
    return this.request("GET", "/api/v1/tasks", ["agent","state","limit","agents","states","since","until","parent","roots","dead","schedule","session","text","before"], args, options) as Promise<TaskPage>;
  }

  /** Queues a task and answers with its record at once; it is durable by then. */
  submitTask(args: TaskParams, options?: RequestOptions): Promise<Task> {
    return this.request("POST", "/api/v1/tasks", [], args, options) as Promise<Task>;
  }

  /** Removes tasks from the dead letters; their records stay for as long as those of others: {discarded, more}. */
  discardTasksSelected(args: TasksParams = {}, options?: RequestOptions): Promise<TasksDiscarded> {
    return this.request("POST", "/api/v1/tasks/discard", [], args, options) as Promise<TasksDiscarded>;
  }

  /** Queues ended tasks once more, each as a new task: {retried: [{task, by}], failed: [{task, error}], more: the `after` of more dead letters}. */
  retryTasksSelected(args: TasksRetryParams = {}, options?: RequestOptions): Promise<TasksRetried> {
    return this.request("POST", "/api/v1/tasks/retry", [], args, options) as Promise<TasksRetried>;
  }

  /** Cancels a task and those that it delegated. */
  cancelTask(args: { task: string }, options?: RequestOptions): Promise<Task> {
    return this.request("DELETE", "/api/v1/tasks/{task}", [], args, options) as Promise<Task>;
  }

  /** Returns the record of a task, on request with its tool calls. */
  showTask(args: { task: string; calls?: boolean; steps?: boolean }, options?: RequestOptions): Promise<Task> {
    return this.request("GET", "/api/v1/tasks/{task}", ["calls","steps"], args, options) as Promise<Task>;
  }

  /** Cancels a task and those that it delegated. */
  cancelTaskByPost(args: { task: string }, options?: RequestOptions): Promise<Task> {
    return this.request("POST", "/api/v1/tasks/{task}/cancel", [], args, options) as Promise<Task>;
  }

  /** Removes tasks from the dead letters; their records stay for as long as those of others: {discarded, more}. */
  discardTasks(args: { task: string } & TasksParamsWithoutTasks, options?: RequestOptions): Promise<TasksDiscarded> {
    return this.request("POST", "/api/v1/tasks/{task}/discard", [], args, options) as Promise<TasksDiscarded>;
  }

  /** Returns as `task.wait`; meanwhile sends the events of the task and those below it as `task.event` notifications {event}. */
  followTask(args: { task: string; timeout_s?: number }, options?: RequestOptions): Promise<Task> {
    return this.request("GET", "/api/v1/tasks/{task}/follow", ["timeout_s"], args, options) as Promise<Task>;
  }

  /** Yields the events of `task.follow`. */
  followTaskStream(args: { task: string; timeout_s?: number }, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("GET", "/api/v1/tasks/{task}/follow", ["timeout_s"], args, options);
  }

  /**
   * Returns what a task has done in order of time: attempts, progress, log lines, tool calls, delegated tasks.
   *
   * With `follow` they are sent as `task.log` notifications {entries}, until it has ended.
   */
  taskLog(args: { task: string; follow?: boolean; lines?: number }, options?: RequestOptions): Promise<TaskLog> {
    return this.request("GET", "/api/v1/tasks/{task}/log", ["follow","lines"], args, options) as Promise<TaskLog>;
  }

  /** Yields the events of `task.log`. */
  taskLogStream(args: { task: string; follow?: boolean; lines?: number }, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("GET", "/api/v1/tasks/{task}/log", ["follow","lines"], args, options);
  }

  /** Queues ended tasks once more, each as a new task: {retried: [{task, by}], failed: [{task, error}], more: the `after` of more dead letters}. */
  retryTasks(args: { task: string } & TasksRetryParamsWithoutTasks, options?: RequestOptions): Promise<TasksRetried> {
    return this.request("POST", "/api/v1/tasks/{task}/retry", [], args, options) as Promise<TasksRetried>;
  }

  /** Returns a short record of a task with those it delegated: {task, children: [the same], more: number of children left out}. */
  taskTree(args: { task: string; depth?: number; limit?: number }, options?: RequestOptions): Promise<TaskNode> {
    return this.request("GET", "/api/v1/tasks/{task}/tree", ["depth","limit"], args, options) as Promise<TaskNode>;
  }

  /** Answers with the record of a task when it has ended. */
  waitTask(args: { task: string; timeout_s?: number; stream?: boolean }, options?: RequestOptions): Promise<Task> {
    return this.request("GET", "/api/v1/tasks/{task}/wait", ["timeout_s","stream"], args, options) as Promise<Task>;
  }

  /** Yields the events of `task.wait`. */
  waitTaskStream(args: { task: string; timeout_s?: number; stream?: boolean }, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("GET", "/api/v1/tasks/{task}/wait", ["timeout_s","stream"], args, options);
  }

  /** Adds teams, which are kept until they are removed. */
  addTeam(args: GroupAddParams = {}, options?: RequestOptions): Promise<Teams> {
    return this.request("POST", "/api/v1/teams", [], args, options) as Promise<Teams>;
  }

  /** Lists the teams. */
  listTeams(options?: RequestOptions): Promise<Teams> {
    return this.request("GET", "/api/v1/teams", [], {}, options) as Promise<Teams>;
  }

  /** Runs a task and answers when it has ended; a caller that hangs up leaves it running. */
  executeTaskOfTeams(args: { agent: string } & TaskRunParamsWithoutAgent, options?: RequestOptions): Promise<Task> {
    return this.request("POST", "/api/v1/teams/{agent}/run", [], args, options) as Promise<Task>;
  }

  /** Yields the events of `task.run`. */
  executeTaskOfTeamsStream(args: { agent: string } & TaskRunParamsWithoutAgent, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("POST", "/api/v1/teams/{agent}/run", [], args, options);
  }

  /** Removes a team; its running tasks go on. */
  removeTeam(args: { name: string; cascade?: boolean }, options?: RequestOptions): Promise<Removed> {
    return this.request("DELETE", "/api/v1/teams/{name}", ["cascade"], args, options) as Promise<Removed>;
  }

  /** Returns one team in full, with its spec. */
  showTeam(args: { name: string }, options?: RequestOptions): Promise<TeamShown> {
    return this.request("GET", "/api/v1/teams/{name}", [], args, options) as Promise<TeamShown>;
  }

  /** Returns the templates of the configuration, with their parameters and the agents and servers that use them. */
  listTemplates(options?: RequestOptions): Promise<Templates> {
    return this.request("GET", "/api/v1/templates", [], {}, options) as Promise<Templates>;
  }

  /**
   * Returns one tenant in full: its table, the names of what it has, and the layers that keep it apart.
   *
   * A caller that is bound to a tenant names its own, or none.
   */
  showTenantDefault(args: { name?: string } = {}, options?: RequestOptions): Promise<TenantShown> {
    return this.request("GET", "/api/v1/tenant", ["name"], args, options) as Promise<TenantShown>;
  }

  /** Lists the tenants with their limits and counts; a tenant sees only itself. */
  listTenants(options?: RequestOptions): Promise<Tenants> {
    return this.request("GET", "/api/v1/tenants", [], {}, options) as Promise<Tenants>;
  }

  /**
   * Adds a tenant, or returns the existing one, whose agents that have given up start again.
   *
   * A tenant that is there with other values of the given keys is a Conflict, and so is any with `new`.
   */
  addTenant(args: { name: string } & TenantAddParamsWithoutName, options?: RequestOptions): Promise<TenantAdded> {
    return this.request("PUT", "/api/v1/tenants/{name}", [], args, options) as Promise<TenantAdded>;
  }

  /**
   * Ends a tenant's processes, then erases its data; only the audit keeps its records.
   *
   * A tenant that the configuration file has is a Conflict: its tables go first. So is one whose removal is under way.
   */
  removeTenant(args: { name: string }, options?: RequestOptions): Promise<TenantRemoved> {
    return this.request("DELETE", "/api/v1/tenants/{name}", [], args, options) as Promise<TenantRemoved>;
  }

  /** Changes keys of the table of a tenant at once; null restores the value of the file or the tier. */
  setTenant(args: { name: string } & TenantSetParamsWithoutName, options?: RequestOptions): Promise<TenantChanged> {
    return this.request("PATCH", "/api/v1/tenants/{name}", [], args, options) as Promise<TenantChanged>;
  }

  /**
   * Returns one tenant in full: its table, the names of what it has, and the layers that keep it apart.
   *
   * A caller that is bound to a tenant names its own, or none.
   */
  showTenant(args: { name: string }, options?: RequestOptions): Promise<TenantShown> {
    return this.request("GET", "/api/v1/tenants/{name}", [], args, options) as Promise<TenantShown>;
  }

  /** Starts the agents of a suspended tenant that start by themselves, and accepts its tasks again; repeating it is harmless. */
  resumeTenant(args: { name: string }, options?: RequestOptions): Promise<TenantSwitched> {
    return this.request("POST", "/api/v1/tenants/{name}/resume", [], args, options) as Promise<TenantSwitched>;
  }

  /** Stops all agents and servers of a tenant, and refuses its tasks and starts until it is resumed; repeating it is harmless. */
  suspendTenant(args: { name: string }, options?: RequestOptions): Promise<TenantSwitched> {
    return this.request("POST", "/api/v1/tenants/{name}/suspend", [], args, options) as Promise<TenantSwitched>;
  }

  /** Makes a token with rights, for some agents or all, of the owner or of a tenant; only the answer has its text. */
  addToken(args: TokenAddParams, options?: RequestOptions): Promise<NewToken> {
    return this.request("POST", "/api/v1/tokens", [], args, options) as Promise<NewToken>;
  }

  /** Lists the tokens with their rights, agents, expiry and last use, without their texts, which are not kept. */
  listTokens(options?: RequestOptions): Promise<TokenList> {
    return this.request("GET", "/api/v1/tokens", [], {}, options) as Promise<TokenList>;
  }

  /** Removes a token: its next request is refused. */
  removeToken(args: { name: string }, options?: RequestOptions): Promise<TokenRemoved> {
    return this.request("DELETE", "/api/v1/tokens/{name}", [], args, options) as Promise<TokenRemoved>;
  }

  /** Replaces the text of a token, and keeps its rights; the old one ends at once, or after `overlap_s`. */
  rotateToken(args: { name: string } & TokenRotateParamsWithoutName, options?: RequestOptions): Promise<NewToken> {
    return this.request("POST", "/api/v1/tokens/{name}/rotate", [], args, options) as Promise<NewToken>;
  }

  /**
   * Lets another program take the place of the daemon's own, in the same process: no process of a worker ends.
   *
   * A program that cannot go on, and work that cannot be taken along within `timeout_s`, refuse it by name and change nothing.
   */
  upgrade(args: UpgradeParams = {}, options?: RequestOptions): Promise<Upgraded> {
    return this.request("POST", "/api/v1/upgrade", [], args, options) as Promise<Upgraded>;
  }

  /** Returns the caller as this daemon knows it: name, rights and agents. */
  whoami(options?: RequestOptions): Promise<Whoami> {
    return this.request("GET", "/api/v1/whoami", [], {}, options) as Promise<Whoami>;
  }

  /** Adds workflows, which are kept until they are removed. */
  addWorkflow(args: GroupAddParams = {}, options?: RequestOptions): Promise<Workflows> {
    return this.request("POST", "/api/v1/workflows", [], args, options) as Promise<Workflows>;
  }

  /** Lists the workflows. */
  listWorkflows(options?: RequestOptions): Promise<Workflows> {
    return this.request("GET", "/api/v1/workflows", [], {}, options) as Promise<Workflows>;
  }

  /** Runs a task and answers when it has ended; a caller that hangs up leaves it running. */
  executeTaskOfWorkflows(args: { agent: string } & TaskRunParamsWithoutAgent, options?: RequestOptions): Promise<Task> {
    return this.request("POST", "/api/v1/workflows/{agent}/run", [], args, options) as Promise<Task>;
  }

  /** Yields the events of `task.run`. */
  executeTaskOfWorkflowsStream(args: { agent: string } & TaskRunParamsWithoutAgent, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("POST", "/api/v1/workflows/{agent}/run", [], args, options);
  }

  /** Removes a workflow; its running tasks go on. */
  removeWorkflow(args: { name: string; cascade?: boolean }, options?: RequestOptions): Promise<Removed> {
    return this.request("DELETE", "/api/v1/workflows/{name}", ["cascade"], args, options) as Promise<Removed>;
  }

  /** Returns one workflow in full, with its steps. */
  showWorkflow(args: { name: string }, options?: RequestOptions): Promise<WorkflowShown> {
    return this.request("GET", "/api/v1/workflows/{name}", [], args, options) as Promise<WorkflowShown>;
  }
}
