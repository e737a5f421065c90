// Generated from the OpenAPI document by generate.py: do not edit.

import { Connection } from "./connection.ts";
import type { RequestOptions, ServerEvent } from "./connection.ts";

export { Connection, CorralError } from "./connection.ts";
export type { ConnectionOptions, RequestOptions, ServerEvent } from "./connection.ts";

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

/** Specifies a tool call, by the exposed name `SERVER__TOOL` or a short name that only one server has. */
export interface CallParamsWithoutName {
  arguments?: Record<string, unknown>;
  timeout_s?: number | null;
}

/**
 * Selects a checkpoint, or `data`, and the worker (or agent of one worker) to restore.
 *
 * Without `name` it is the worker that saved it. A running task may continue as with HibernateParams.
 */
export interface CheckpointRestoreParams {
  checkpoint?: number | null;
  name?: string | null;
  data?: unknown;
  timeout_s?: number | null;
}

/**
 * Selects a checkpoint, or `data`, and the worker (or agent of one worker) to restore.
 *
 * Without `name` it is the worker that saved it. A running task may continue as with HibernateParams.
 */
export interface CheckpointRestoreParamsWithoutCheckpoint {
  name?: string | null;
  data?: unknown;
  timeout_s?: number | null;
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

/** A refusal or a failure. */
export interface Error {
  error: {
    code: number;
    name: string;
    message: string;
    data: Record<string, unknown>;
  };
}

/** Represents an event of an outside publisher, which chooses the type. */
export interface EventPublishParams {
  type: string;
  data?: unknown;
}

/** Specifies a new team or workflow by its table in `spec`; or several by name in `specs`, all or none. */
export interface GroupAddParams {
  name?: string | null;
  spec?: Record<string, unknown> | null;
  specs?: Record<string, Record<string, unknown>>;
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

/** Sets the least severe level of the daemon's own log. */
export interface LogLevelParams {
  level: "debug" | "error" | "info" | "warning";
}

/** Selects the memory of an agent; of all agents when absent. */
export interface MemoryCleanupParams {
  agent?: string | null;
}

/** Stores a value under a key of an agent's memory: any JSON, for `ttl_s` seconds or without limit. */
export interface MemoryPutParamsWithoutAgentKey {
  value: unknown;
  ttl_s?: number | null;
  session?: string;
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

/** Specifies the output: in words for the agent, and as a JSON Schema that the daemon enforces. */
export interface OutputFormat {
  description?: string;
  schema?: Record<string, unknown> | boolean | null;
}

/** Names a resource of an MCP server, by its own URI or `SERVER__URI`. */
export interface ReadParams {
  uri: string;
  timeout_s?: number | null;
}

/** Selects a dry run, which only reports the changes. */
export interface ReloadParams {
  dry_run?: boolean;
}

/**
 * Overrides the retry policy in `[tasks]` of the agent: the number of attempts, and the errors to retry on.
 *
 * `retry_on` as in the configuration: "worker-death", "any", "never", or names of errors.
 */
export interface Retry {
  max_attempts?: number | null;
  retry_on?: Array<string> | string | null;
  retry_backoff_base_s?: number | null;
}

/** Sets the number of workers of an agent. */
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

/** Replaces the value of a secret, and the agents that it is for unless `agents` is absent. */
export interface SecretRotateParamsWithoutName {
  secret: string;
  agents?: Array<string> | null;
  restart?: boolean;
}

/** Sets a secret. The key of its value is one that logs and the audit mask. `agents` are globs; all without any. */
export interface SecretSetParamsWithoutName {
  secret: string;
  agents?: Array<string>;
  replace?: boolean;
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
 * Specifies a new task: for an agent, team or workflow by name, or for any agent with a capability.
 *
 * Its agent must have all `required_capabilities`; `allowed_tools` is the same key of `boundaries`.
 * With an `idempotency_key` the same task is queued once, however often it is sent. It starts after the tasks in
 * `after` have succeeded, and not before `at`. Tasks with the same `sticky_key` go to the same worker; those of one
 * `session` share its memory and run one after the other. Without `durable` it is faster, and lost with the daemon.
 * `timeout_s` bounds each run of its handler, `queue_timeout_s` its wait for the first, `deadline_s` the whole, from when it came (or
 * from `at`). `when_down` says whether it waits for an agent that is down, instead of `[tasks]`.
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
}

/**
 * Specifies a new task: for an agent, team or workflow by name, or for any agent with a capability.
 *
 * Its agent must have all `required_capabilities`; `allowed_tools` is the same key of `boundaries`.
 * With an `idempotency_key` the same task is queued once, however often it is sent. It starts after the tasks in
 * `after` have succeeded, and not before `at`. Tasks with the same `sticky_key` go to the same worker; those of one
 * `session` share its memory and run one after the other. Without `durable` it is faster, and lost with the daemon.
 * `timeout_s` bounds each run of its handler, `queue_timeout_s` its wait for the first, `deadline_s` the whole, from when it came (or
 * from `at`). `when_down` says whether it waits for an agent that is down, instead of `[tasks]`.
 */
export interface TaskParamsWithoutAgent {
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

/** A client of one daemon: each method is an operation of its OpenAPI document. */
export class Corral extends Connection {
  /** Returns that the daemon lives */
  healthz(options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/healthz", [], {}, options) as Promise<unknown>;
  }

  /** Returns whether all that is wanted is up */
  readyz(options?: RequestOptions): Promise<{
    ready: boolean;
  }> {
    return this.request("GET", "/readyz", [], {}, options) as Promise<{
    ready: boolean;
  }>;
  }

  /** Returns this document */
  openapi(options?: RequestOptions): Promise<Record<string, unknown>> {
    return this.request("GET", "/openapi.json", [], {}, options) as Promise<Record<string, unknown>>;
  }

  /** Adds an agent or an MCP server, which is kept until it is removed. */
  addAgent(args: AddParams, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents", [], args, options) as Promise<unknown>;
  }

  /** Stops agents and MCP servers and removes them, all or none; returns the removed names. */
  removeAgentSelected(args: { name?: string; names?: Array<string>; selector?: string; cascade?: boolean } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("DELETE", "/api/v1/agents", ["name","names","selector","cascade"], args, options) as Promise<unknown>;
  }

  /**
   * Adds several agents and MCP servers, all or none; `failures` has those that did not start.
   *
   * `added`, `changed` (with the keys) and `unchanged` are the names, also those of a dry run.
   */
  addAgents(args: AddAllParams, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/batch", [], args, options) as Promise<unknown>;
  }

  /** Saves a checkpoint of agents or workers, and ends their processes until a task, `wake` or `start` comes. */
  hibernateAgentSelected(args: HibernateParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/hibernate", [], args, options) as Promise<unknown>;
  }

  /** Freezes agents or workers with all their processes, until they are resumed, stopped or die. */
  pauseAgentSelected(args: SelectionParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/pause", [], args, options) as Promise<unknown>;
  }

  /** Forgets failures: agents that are wanted and have given up start again. */
  resetAgentSelected(args: NamesParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/reset", [], args, options) as Promise<unknown>;
  }

  /** Stops agents or workers, starts them again and waits until they are ready; leaves out jobs that neither run nor are named. */
  restartAgentSelected(args: NamesParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/restart", [], args, options) as Promise<unknown>;
  }

  /** Lets paused agents or workers run again. */
  resumeAgentSelected(args: SelectionParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/resume", [], args, options) as Promise<unknown>;
  }

  /** Sends a signal to the leader of each worker that runs. */
  signalAgentSelected(args: SignalParams, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/signal", [], args, options) as Promise<unknown>;
  }

  /**
   * Starts agents or workers and waits until they are ready, jobs until they have succeeded.
   *
   * A choice that does not name them leaves out jobs that have succeeded, or that are not to start by themselves.
   */
  startAgentSelected(args: NamesParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/start", [], args, options) as Promise<unknown>;
  }

  /** Stops agents or workers and waits until no process of them is left. */
  stopAgentSelected(args: NamesParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/stop", [], args, options) as Promise<unknown>;
  }

  /** Starts hibernated agents or workers with their checkpoints, and waits until they are ready. */
  wakeAgentSelected(args: NamesParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/wake", [], args, options) as Promise<unknown>;
  }

  /** Runs a task and answers when it has ended; a caller that hangs up leaves it running. */
  executeTask(args: { agent: string } & TaskParamsWithoutAgent, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/{agent}/run", [], args, options) as Promise<unknown>;
  }

  /** Yields the events of `task.run`. */
  executeTaskStream(args: { agent: string } & TaskParamsWithoutAgent, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("POST", "/api/v1/agents/{agent}/run", [], args, options);
  }

  /** Stops agents and MCP servers and removes them, all or none; returns the removed names. */
  removeAgent(args: { name: string; selector?: string; cascade?: boolean }, options?: RequestOptions): Promise<unknown> {
    return this.request("DELETE", "/api/v1/agents/{name}", ["selector","cascade"], args, options) as Promise<unknown>;
  }

  /**
   * Returns one agent in full: its spec (values of environment and headers hidden), last exits, the end of its stderr.
   *
   * Of a team or workflow: its spec.
   */
  showAgent(args: { name: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/agents/{name}", [], args, options) as Promise<unknown>;
  }

  /** Saves a checkpoint of one worker, or of each worker of an agent that is up. */
  saveStateOfAgents(args: { name: string } & CheckpointSaveParamsWithoutName, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/{name}/checkpoint", [], args, options) as Promise<unknown>;
  }

  /** Saves a checkpoint of agents or workers, and ends their processes until a task, `wake` or `start` comes. */
  hibernateAgent(args: { name: string } & HibernateParamsWithoutNames, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/{name}/hibernate", [], args, options) as Promise<unknown>;
  }

  /** Freezes agents or workers with all their processes, until they are resumed, stopped or die. */
  pauseAgent(args: { name: string } & SelectionParamsWithoutNames, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/{name}/pause", [], args, options) as Promise<unknown>;
  }

  /** Forgets failures: agents that are wanted and have given up start again. */
  resetAgent(args: { name: string } & NamesParamsWithoutNames, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/{name}/reset", [], args, options) as Promise<unknown>;
  }

  /** Stops agents or workers, starts them again and waits until they are ready; leaves out jobs that neither run nor are named. */
  restartAgent(args: { name: string } & NamesParamsWithoutNames, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/{name}/restart", [], args, options) as Promise<unknown>;
  }

  /** Lets paused agents or workers run again. */
  resumeAgent(args: { name: string } & SelectionParamsWithoutNames, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/{name}/resume", [], args, options) as Promise<unknown>;
  }

  /** Changes the number of workers of an agent. */
  scaleAgent(args: { name: string } & ScaleParamsWithoutName, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/{name}/scale", [], args, options) as Promise<unknown>;
  }

  /** Sends a signal to the leader of each worker that runs. */
  signalAgent(args: { name: string } & SignalParamsWithoutNames, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/{name}/signal", [], args, options) as Promise<unknown>;
  }

  /**
   * Starts agents or workers and waits until they are ready, jobs until they have succeeded.
   *
   * A choice that does not name them leaves out jobs that have succeeded, or that are not to start by themselves.
   */
  startAgent(args: { name: string } & NamesParamsWithoutNames, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/{name}/start", [], args, options) as Promise<unknown>;
  }

  /** Stops agents or workers and waits until no process of them is left. */
  stopAgent(args: { name: string } & NamesParamsWithoutNames, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/{name}/stop", [], args, options) as Promise<unknown>;
  }

  /** Starts hibernated agents or workers with their checkpoints, and waits until they are ready. */
  wakeAgent(args: { name: string } & NamesParamsWithoutNames, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/agents/{name}/wake", [], args, options) as Promise<unknown>;
  }

  /** Lists audit records, oldest first: the newest `n`, or those after `since`; `next` is the next `before`, or `since`. */
  listAudit(args: { since?: number; before?: number; since_time?: number; until_time?: number; n?: number; actions?: Array<string>; name?: string } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/audit", ["since","before","since_time","until_time","n","actions","name"], args, options) as Promise<unknown>;
  }

  /** Verifies the whole chain of hashes; `wrong` is the first record that is not as it was written. */
  verifyAudit(args: { head?: string } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/audit/verify", ["head"], args, options) as Promise<unknown>;
  }

  /** Lists checkpoints without their data, newest first. */
  listCheckpoints(args: { name?: string; limit?: number } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/checkpoints", ["name","limit"], args, options) as Promise<unknown>;
  }

  /** Removes checkpoints, all or none; one that a worker is to begin with only with `force`. */
  removeCheckpointsSelected(args: { checkpoints: Array<number>; force?: boolean }, options?: RequestOptions): Promise<unknown> {
    return this.request("DELETE", "/api/v1/checkpoints", ["checkpoints","force"], args, options) as Promise<unknown>;
  }

  /** Saves a checkpoint of one worker, or of each worker of an agent that is up. */
  saveState(args: CheckpointSaveParams, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/checkpoints", [], args, options) as Promise<unknown>;
  }

  /**
   * Restores a checkpoint, also another worker's, in a worker; one that does not run begins with it.
   *
   * `checkpoint` is the worker's own copy, `live` whether it goes on with it at once.
   */
  restoreAgentDefault(args: CheckpointRestoreParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/checkpoints/restore", [], args, options) as Promise<unknown>;
  }

  /** Removes checkpoints, all or none; one that a worker is to begin with only with `force`. */
  removeCheckpoints(args: { checkpoint: number; force?: boolean }, options?: RequestOptions): Promise<unknown> {
    return this.request("DELETE", "/api/v1/checkpoints/{checkpoint}", ["force"], args, options) as Promise<unknown>;
  }

  /** Returns one checkpoint with its data. */
  showCheckpoint(args: { checkpoint: number }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/checkpoints/{checkpoint}", [], args, options) as Promise<unknown>;
  }

  /**
   * Restores a checkpoint, also another worker's, in a worker; one that does not run begins with it.
   *
   * `checkpoint` is the worker's own copy, `live` whether it goes on with it at once.
   */
  restoreAgent(args: { checkpoint: number } & CheckpointRestoreParamsWithoutCheckpoint, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/checkpoints/{checkpoint}/restore", [], args, options) as Promise<unknown>;
  }

  /** Checks the machine and the daemon: the features of the kernel, those in force, and the guarantees that hold. */
  doctor(options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/doctor", [], {}, options) as Promise<unknown>;
  }

  /** Kills every worker and server at once, cancels every task, and refuses work until `agent.start`. */
  emergencyStop(options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/emergency-stop", [], {}, options) as Promise<unknown>;
  }

  /** Lists stored events, oldest first; `next`, where it is not null, is the `since` for more of them. */
  listEvents(args: { since?: number; since_time?: number; n?: number; types?: Array<string>; agent?: string; worker?: string; task?: string; until?: number } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/events", ["since","since_time","n","types","agent","worker","task","until"], args, options) as Promise<unknown>;
  }

  /** Yields the events of `event.follow`. */
  events(args: { since?: number; since_time?: number; n?: number; types?: Array<string>; agent?: string; worker?: string; task?: string; until?: number } = {}, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("GET", "/api/v1/events", ["since","since_time","n","types","agent","worker","task","until"], args, options);
  }

  /** Publishes an event to the subscribers of its type; returns its number. */
  publish(args: EventPublishParams, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/events", [], args, options) as Promise<unknown>;
  }

  /** Sets the log level of the daemon, until a reload or its end; `daemon.status` shows it. */
  setLogLevel(args: LogLevelParams, options?: RequestOptions): Promise<unknown> {
    return this.request("PUT", "/api/v1/log-level", [], args, options) as Promise<unknown>;
  }

  /** Returns the last lines of the logs, merged by time, up to 8 MiB of JSON. */
  readLogs(args: { names?: Array<string>; selector?: string; task?: string; n?: number; since?: number; stream?: "log" | "stderr" | "stdout"; until?: number; level?: "critical" | "debug" | "error" | "info" | "warning"; grep?: string; previous?: boolean; follow?: boolean } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/logs", ["names","selector","task","n","since","stream","until","level","grep","previous","follow"], args, options) as Promise<unknown>;
  }

  /** Yields the events of `log.follow`. */
  followLogs(args: { names?: Array<string>; selector?: string; task?: string; n?: number; since?: number; stream?: "log" | "stderr" | "stdout"; until?: number; level?: "critical" | "debug" | "error" | "info" | "warning"; grep?: string; previous?: boolean; follow?: boolean } = {}, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("GET", "/api/v1/logs", ["names","selector","task","n","since","stream","until","level","grep","previous","follow"], args, options);
  }

  /** Lists the prompts of all servers, by exposed name; a server that never listed anything is started first. */
  listPrompts(options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/mcp/prompts", [], {}, options) as Promise<unknown>;
  }

  /** Lists the resources of all servers and their templates; a server that never listed anything is started first. */
  listResources(options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/mcp/resources", [], {}, options) as Promise<unknown>;
  }

  /** Reads a resource and returns MCP's result object. */
  readResource(args: ReadParams, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/mcp/resources/read", [], args, options) as Promise<unknown>;
  }

  /** Lists the MCP servers, with the tools that they listed last. */
  listServers(options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/mcp/servers", [], {}, options) as Promise<unknown>;
  }

  /** Lists the tools of all servers, or of one; a server that never listed any is started first. */
  listTools(args: { server?: string } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/mcp/tools", ["server"], args, options) as Promise<unknown>;
  }

  /** Calls a tool and returns MCP's result object. */
  callTool(args: { name: string } & CallParamsWithoutName, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/mcp/tools/{name}/call", [], args, options) as Promise<unknown>;
  }

  /** Returns the size of sessions and keys by agent, and the bytes of them in the daemon's memory. */
  memoryStats(args: { agent?: string } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/memory", ["agent"], args, options) as Promise<unknown>;
  }

  /** Removes at once the sessions and keys that have expired, of an agent or of all; returns how many of each. */
  cleanUpMemory(args: MemoryCleanupParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/memory/cleanup", [], args, options) as Promise<unknown>;
  }

  /** Returns keys and values of an agent that contain a text, the newest first. */
  searchMemory(args: { agent: string; query?: string; limit?: number; session?: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/memory/{agent}", ["query","limit","session"], args, options) as Promise<unknown>;
  }

  /** Deletes a key of an agent. */
  deleteMemory(args: { agent: string; key: string; session?: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("DELETE", "/api/v1/memory/{agent}/{key}", ["session"], args, options) as Promise<unknown>;
  }

  /** Returns the value under a key of an agent; null where there is none. */
  getMemory(args: { agent: string; key: string; session?: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/memory/{agent}/{key}", ["session"], args, options) as Promise<unknown>;
  }

  /** Stores a value under a key of an agent; it is durable when this returns. */
  putMemory(args: { agent: string; key: string } & MemoryPutParamsWithoutAgentKey, options?: RequestOptions): Promise<unknown> {
    return this.request("PUT", "/api/v1/memory/{agent}/{key}", [], args, options) as Promise<unknown>;
  }

  /** Returns this table as an OpenRPC document (https://spec.open-rpc.org). */
  discover(options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/openrpc", [], {}, options) as Promise<unknown>;
  }

  /** Answers at once, so that a client knows that the daemon is up. */
  ping(options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/ping", [], {}, options) as Promise<unknown>;
  }

  /** Reads the configuration again, applies the changes and returns them; an invalid file changes nothing. */
  reload(args: ReloadParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/reload", [], args, options) as Promise<unknown>;
  }

  /** Runs a task and answers when it has ended; a caller that hangs up leaves it running. */
  executeTaskDefault(args: TaskParams, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/run", [], args, options) as Promise<unknown>;
  }

  /** Yields the events of `task.run`. */
  executeTaskDefaultStream(args: TaskParams, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("POST", "/api/v1/run", [], args, options);
  }

  /** Adds a schedule, which submits a task at each of its times; it survives a restart of the daemon. */
  addSchedule(args: ScheduleParams, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/schedules", [], args, options) as Promise<unknown>;
  }

  /** Lists all schedules, by name. */
  listSchedules(options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/schedules", [], {}, options) as Promise<unknown>;
  }

  /** Adds a schedule of a command, and a job of its name that runs the command. */
  addCommandSchedule(args: ScheduleCommandParams, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/schedules/commands", [], args, options) as Promise<unknown>;
  }

  /** Removes a schedule, and the job that was added with its command; the tasks that it submitted stay. */
  removeSchedule(args: { name: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("DELETE", "/api/v1/schedules/{name}", [], args, options) as Promise<unknown>;
  }

  /** Returns a schedule with its next times (`upcoming`) and its last runs (`recent`), the newest first. */
  showSchedule(args: { name: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/schedules/{name}", [], args, options) as Promise<unknown>;
  }

  /** Pauses a schedule until it is resumed; the times meanwhile are skipped. */
  pauseSchedule(args: { name: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/schedules/{name}/pause", [], args, options) as Promise<unknown>;
  }

  /** Resumes a paused schedule. */
  resumeSchedule(args: { name: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/schedules/{name}/resume", [], args, options) as Promise<unknown>;
  }

  /** Submits the task of a schedule now, beside its times, and returns its record. */
  runSchedule(args: { name: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/schedules/{name}/run", [], args, options) as Promise<unknown>;
  }

  /** Returns the JSON Schema of the configuration file, of a table in it, of a task, or of an event. */
  getSchemaDefault(args: { document?: "agent" | "config" | "event" | "server" | "task" | "team" | "workflow" } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/schema", ["document"], args, options) as Promise<unknown>;
  }

  /** Returns the JSON Schema of the configuration file, of a table in it, of a task, or of an event. */
  getSchema(args: { document: "agent" | "config" | "event" | "server" | "task" | "team" | "workflow" }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/schema/{document}", [], args, options) as Promise<unknown>;
  }

  /** Returns the names of all secrets, their places, and the agents that they are for and that name them; no value. */
  listSecrets(options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/secrets", [], {}, options) as Promise<unknown>;
  }

  /** Removes a kept secret. One that agents name is refused without `force`. */
  removeSecret(args: { name: string; force?: boolean }, options?: RequestOptions): Promise<unknown> {
    return this.request("DELETE", "/api/v1/secrets/{name}", ["force"], args, options) as Promise<unknown>;
  }

  /** Keeps a secret for `${secret:NAME}`, of all agents or of those that match `agents`. Returns the agents that name it. */
  setSecret(args: { name: string } & SecretSetParamsWithoutName, options?: RequestOptions): Promise<unknown> {
    return this.request("PUT", "/api/v1/secrets/{name}", [], args, options) as Promise<unknown>;
  }

  /** Replaces the value of a kept secret; with `restart` the workers of agents that name it restart one after another. */
  rotateSecret(args: { name: string } & SecretRotateParamsWithoutName, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/secrets/{name}/rotate", [], args, options) as Promise<unknown>;
  }

  /** Returns the names of the agents, MCP servers, teams, workflows and workers that the params choose. */
  selectAgents(args: { names?: Array<string>; all?: boolean; selector?: string } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/select", ["names","all","selector"], args, options) as Promise<unknown>;
  }

  /** Lists sessions with turns, messages, sizes and last access, the last used first. */
  listSessions(args: { agent?: string; limit?: number } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/sessions", ["agent","limit"], args, options) as Promise<unknown>;
  }

  /** Deletes a session of an agent with its keys, or all of them; refused while a task works on it. */
  clearMemoryOfAgent(args: { agent: string; session?: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("DELETE", "/api/v1/sessions/{agent}", ["session"], args, options) as Promise<unknown>;
  }

  /** Lists sessions with turns, messages, sizes and last access, the last used first. */
  listSessionsOfAgent(args: { agent: string; limit?: number }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/sessions/{agent}", ["limit"], args, options) as Promise<unknown>;
  }

  /** Deletes a session of an agent with its keys, or all of them; refused while a task works on it. */
  clearMemory(args: { agent: string; session: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("DELETE", "/api/v1/sessions/{agent}/{session}", [], args, options) as Promise<unknown>;
  }

  /** Returns a session: history, variables and data; counts as an access. */
  showSession(args: { agent: string; session: string; last?: number }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/sessions/{agent}/{session}", ["last"], args, options) as Promise<unknown>;
  }

  /** Returns counts of processes, tasks and tool calls since the daemon started: in total, and of all names or of `names`. */
  getStatistics(args: { names?: Array<string>; selector?: string } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/statistics", ["names","selector"], args, options) as Promise<unknown>;
  }

  /** Returns the status of the daemon, of agents, MCP servers, teams and workflows, and task counts. */
  status(args: { names?: Array<string>; selector?: string; failed?: boolean } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/status", ["names","selector","failed"], args, options) as Promise<unknown>;
  }

  /** Stops the daemon, as SIGTERM does: workers end in order, each within its grace period. Answers before that. */
  stopDaemon(options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/stop", [], {}, options) as Promise<unknown>;
  }

  /** Lists records of tasks, newest first; `more`, where it is not null, is the `before` for the rest; `skipped` cannot be read. */
  listTasks(args: { agent?: string; state?: "cancelled" | "failed" | "queued" | "running" | "succeeded" | "timeout"; limit?: number; agents?: Array<string>; states?: Array<"cancelled" | "failed" | "queued" | "running" | "succeeded" | "timeout">; since?: number; until?: number; parent?: string; roots?: boolean; dead?: boolean; schedule?: string; session?: string; text?: string; before?: string } = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/tasks", ["agent","state","limit","agents","states","since","until","parent","roots","dead","schedule","session","text","before"], args, options) as Promise<unknown>;
  }

  /** Queues a task and answers with its record at once; it is durable by then. */
  submitTask(args: TaskParams, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/tasks", [], args, options) as Promise<unknown>;
  }

  /** Removes tasks from the dead letters; their records stay for as long as those of others: {discarded, more}. */
  discardTasksSelected(args: TasksParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/tasks/discard", [], args, options) as Promise<unknown>;
  }

  /** Queues ended tasks once more, each as a new task: {retried: [{task, by}], failed: [{task, error}], more: the `after` of more dead letters}. */
  retryTasksSelected(args: TasksParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/tasks/retry", [], args, options) as Promise<unknown>;
  }

  /** Cancels a task and those that it delegated. */
  cancelTask(args: { task: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("DELETE", "/api/v1/tasks/{task}", [], args, options) as Promise<unknown>;
  }

  /** Returns the record of a task, with its tool calls where they are asked for. */
  showTask(args: { task: string; calls?: boolean }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/tasks/{task}", ["calls"], args, options) as Promise<unknown>;
  }

  /** Cancels a task and those that it delegated. */
  cancelTaskByPost(args: { task: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/tasks/{task}/cancel", [], args, options) as Promise<unknown>;
  }

  /** Removes tasks from the dead letters; their records stay for as long as those of others: {discarded, more}. */
  discardTasks(args: { task: string } & TasksParamsWithoutTasks, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/tasks/{task}/discard", [], args, options) as Promise<unknown>;
  }

  /** Returns as `task.wait`; meanwhile sends the events of the task and those below it as `task.event` notifications {event}. */
  followTask(args: { task: string; timeout_s?: number }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/tasks/{task}/follow", ["timeout_s"], args, options) as Promise<unknown>;
  }

  /** Yields the events of `task.follow`. */
  followTaskStream(args: { task: string; timeout_s?: number }, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("GET", "/api/v1/tasks/{task}/follow", ["timeout_s"], args, options);
  }

  /** Queues ended tasks once more, each as a new task: {retried: [{task, by}], failed: [{task, error}], more: the `after` of more dead letters}. */
  retryTasks(args: { task: string } & TasksParamsWithoutTasks, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/tasks/{task}/retry", [], args, options) as Promise<unknown>;
  }

  /** Returns a short record of a task with those it delegated: {task, children: [the same], more: number of children left out}. */
  taskTree(args: { task: string; depth?: number; limit?: number }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/tasks/{task}/tree", ["depth","limit"], args, options) as Promise<unknown>;
  }

  /** Answers with the record of a task when it has ended. */
  waitTask(args: { task: string; timeout_s?: number }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/tasks/{task}/wait", ["timeout_s"], args, options) as Promise<unknown>;
  }

  /** Yields the events of `task.wait`. */
  waitTaskStream(args: { task: string; timeout_s?: number }, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("GET", "/api/v1/tasks/{task}/wait", ["timeout_s"], args, options);
  }

  /** Adds teams, which are kept until they are removed. */
  addTeam(args: GroupAddParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/teams", [], args, options) as Promise<unknown>;
  }

  /** Lists the teams. */
  listTeams(options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/teams", [], {}, options) as Promise<unknown>;
  }

  /** Runs a task and answers when it has ended; a caller that hangs up leaves it running. */
  executeTaskOfTeams(args: { agent: string } & TaskParamsWithoutAgent, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/teams/{agent}/run", [], args, options) as Promise<unknown>;
  }

  /** Yields the events of `task.run`. */
  executeTaskOfTeamsStream(args: { agent: string } & TaskParamsWithoutAgent, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("POST", "/api/v1/teams/{agent}/run", [], args, options);
  }

  /** Removes a team; its tasks that are under way go on. */
  removeTeam(args: { name: string; cascade?: boolean }, options?: RequestOptions): Promise<unknown> {
    return this.request("DELETE", "/api/v1/teams/{name}", ["cascade"], args, options) as Promise<unknown>;
  }

  /** Returns one team in full, with its spec. */
  showTeam(args: { name: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/teams/{name}", [], args, options) as Promise<unknown>;
  }

  /** Adds workflows, which are kept until they are removed. */
  addWorkflow(args: GroupAddParams = {}, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/workflows", [], args, options) as Promise<unknown>;
  }

  /** Lists the workflows. */
  listWorkflows(options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/workflows", [], {}, options) as Promise<unknown>;
  }

  /** Runs a task and answers when it has ended; a caller that hangs up leaves it running. */
  executeTaskOfWorkflows(args: { agent: string } & TaskParamsWithoutAgent, options?: RequestOptions): Promise<unknown> {
    return this.request("POST", "/api/v1/workflows/{agent}/run", [], args, options) as Promise<unknown>;
  }

  /** Yields the events of `task.run`. */
  executeTaskOfWorkflowsStream(args: { agent: string } & TaskParamsWithoutAgent, options?: RequestOptions): AsyncGenerator<ServerEvent> {
    return this.stream("POST", "/api/v1/workflows/{agent}/run", [], args, options);
  }

  /** Removes a workflow; its tasks that are under way go on. */
  removeWorkflow(args: { name: string; cascade?: boolean }, options?: RequestOptions): Promise<unknown> {
    return this.request("DELETE", "/api/v1/workflows/{name}", ["cascade"], args, options) as Promise<unknown>;
  }

  /** Returns one workflow in full, with its steps. */
  showWorkflow(args: { name: string }, options?: RequestOptions): Promise<unknown> {
    return this.request("GET", "/api/v1/workflows/{name}", [], args, options) as Promise<unknown>;
  }
}
