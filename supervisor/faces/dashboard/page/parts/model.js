// Holds what the daemon has sent: the newest status of everything, the newest events, and short series for spark lines.
//
// `apply…` take notifications; listeners are called once per frame, however many came.

const MOST_EVENTS = 1000;
const MOST_POINTS = 90;
const POINT_MS = 4000;

const OFTEN_MS = 60000;
const ASKED_FOR = new Set(["stopped", "hibernated"]);

export const model = {
  isLive: false,
  daemon: null,
  /** The name of this daemon's node; null where it is in no cluster, or this session sees this node alone. */
  here: null,
  /** What each node has sent, by its name: its daemon and its counts of tasks. "" is the daemon that is in no cluster. */
  nodes: new Map(),
  /** The nodes that do not answer. */
  missing: [],
  tasks: { queued: 0, running: 0, succeeded: 0, failed: 0 },
  /** Agents, MCP servers, teams and workflows by key: the name, in a cluster NAME@NODE. */
  entries: new Map(),
  /** The newest events, the newest last; those of tasks are among them. */
  events: [],
  /** Number of events that were too many to be sent. */
  skipped: 0,
  /** Grows with each notification. */
  version: 0,
  rights: "read",
  user: "",
  receivedAt: 0,
  series: new Map(),
};

const listeners = new Set();
const eventListeners = new Set();
let isDrawing = false;

/** Calls `listener` once per frame in which something has changed; returns what ends that. */
export function onChange(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Calls `listener` with each array of new events, at once; returns what ends that. */
export function onEvents(listener) {
  eventListeners.add(listener);
  return () => eventListeners.delete(listener);
}

/** Lets the listeners of changes be called in the next frame. */
export function changed() {
  model.version += 1;
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    for (const listener of listeners) listener();
  });
}

function keyOf(name, node) {
  return node ? `${name}@${node}` : name;
}

/** Returns the entry of a key, or the first one of a name. */
export function entryOf(key) {
  return model.entries.get(key) ?? [...model.entries.values()].find((entry) => entry.name === key);
}

function take(entry, kind, node) {
  entry.workers ??= [];
  const now = performance.now();
  for (const worker of entry.workers) worker.seenAt ??= now;
  const key = keyOf(entry.name, node);
  model.entries.set(key, { ...entry, key, node, kind, figures: figuresOf(entry) });
}

function forget(node) {
  for (const [key, entry] of model.entries) if (entry.node === node) model.entries.delete(key);
}

/** Takes the names of the nodes that do not answer: what they have is not known. */
export function applyMissing(nodes) {
  model.missing = nodes;
  for (const node of nodes) {
    forget(node);
    model.nodes.delete(node);
  }
  count();
  changed();
}

/** Takes the whole status, of one node. */
export function applyStatus(status, node) {
  if (node) forget(node);
  else model.entries.clear();
  for (const [key, kind] of [["agents", "agent"], ["mcp_servers", "mcp"], ["teams", "team"], ["workflows", "workflow"]]) {
    for (const entry of status[key] ?? []) take(entry, kind, node);
  }
  takeFrame(status, node);
}

/** Takes what has changed, on one node. */
export function applyChange(change, node) {
  for (const name of change.removed) model.entries.delete(keyOf(name, node));
  for (const [key, kind] of [["agents", "agent"], ["mcp_servers", "mcp"], ["teams", "team"], ["workflows", "workflow"]]) {
    for (const entry of change[key]) {
      if (kind === "agent" || kind === "mcp") entry.workers = merged(entry, change.places[entry.name], node);
      take(entry, kind, node);
    }
  }
  model.skipped += change.skipped;
  if (node) for (const event of change.events) event.node = node;
  if (change.events.length) {
    model.events.push(...change.events);
    if (model.events.length > MOST_EVENTS) model.events.splice(0, model.events.length - MOST_EVENTS);
    for (const listener of eventListeners) listener(change.events, change.skipped);
  }
  takeFrame(change, node);
}

function merged(entry, places, node) {
  if (places) return entry.workers;
  const before = model.entries.get(keyOf(entry.name, node))?.workers ?? [];
  if (!entry.workers.length) return before;
  const changedById = new Map(entry.workers.map((worker) => [worker.id, worker]));
  return before.map((worker) => changedById.get(worker.id) ?? worker);
}

function takeFrame({ daemon, tasks }, node = "") {
  model.nodes.set(node, { daemon, tasks });
  if (!node || node === model.here) model.daemon = daemon;
  count();
  model.receivedAt = performance.now();
  model.isLive = true;
  changed();
}

/** Sums the tasks of all nodes. */
function count() {
  const sums = { queued: 0, running: 0, succeeded: 0, failed: 0 };
  for (const { tasks } of model.nodes.values()) for (const key of Object.keys(sums)) sums[key] += tasks[key];
  model.tasks = sums;
}

/** Returns the sums of an agent's workers, as `corral top` makes them. */
function figuresOf(entry) {
  const found = { up: 0, workers: entry.workers.length, cpu: 0, memory: 0, running: 0, restarts: 0, paused: 0 };
  for (const worker of entry.workers) {
    found.restarts += worker.restarts;
    if (worker.paused) found.paused += 1;
    if (worker.state === "Busy") found.running += 1;
    if (worker.pid == null) continue;
    if (worker.state === "Ready" || worker.state === "Idle" || worker.state === "Busy") found.up += 1;
    found.cpu += worker.cpu_percent;
    found.memory += worker.rss_bytes;
  }
  found.cpu = Math.round(found.cpu * 10) / 10;
  return found;
}

/** Returns agents and servers, or those of one kind. */
export function entriesOf(...kinds) {
  return [...model.entries.values()].filter((entry) => kinds.includes(entry.kind));
}

/** Returns how many items of the inbox need a person. */
export function needsYou() {
  return [...model.nodes.values()].reduce((sum, { daemon }) => sum + (daemon.needs_you ?? 0), 0);
}

/** Returns the sums of all agents and servers. */
export function totals() {
  const found = { agents: 0, agentsUp: 0, servers: 0, serversUp: 0, workers: 0, up: 0, cpu: 0, memory: 0, queued: 0, restarts: 0 };
  for (const entry of model.entries.values()) {
    if (entry.kind !== "agent" && entry.kind !== "mcp") continue;
    const { figures } = entry;
    const isUp = figures.up > 0;
    if (entry.kind === "agent") { found.agents += 1; found.agentsUp += isUp; } else { found.servers += 1; found.serversUp += isUp; }
    found.workers += figures.workers;
    found.up += figures.up;
    found.cpu += figures.cpu;
    found.memory += figures.memory;
    found.queued += entry.queued ?? 0;
    found.restarts += figures.restarts;
  }
  return found;
}

/** Returns why an agent is not as wanted, or null: the rule of `corral status --failed`, and restarts without end. */
export function problemOf(entry) {
  const failed = entry.workers?.filter(hasFailed) ?? [];
  if (failed.length) {
    const [worker] = failed;
    const last = worker.last_exit;
    const ended = last ? (last.message || last.result) : worker.reason;
    const next = worker.next_start_in_s == null ? "" : "waits to start again";
    const many = failed.length > 1 ? `${failed.length} of ${entry.workers.length} workers` : worker.id;
    return { level: worker.state === "Terminated" ? "bad" : "warn", text: [many, next, ended].filter(Boolean).join(": "), at: last?.at ?? null };
  }
  if (entry.degraded) {
    const checks = entry.workers.flatMap((worker) => (worker.health ?? []).filter((each) => each.degraded));
    const words = checks.map((each) => `${each.name}: ${each.message}`).slice(0, 2).join("; ");
    return { level: "warn", text: `degraded${words ? `: ${words}` : ""}`, at: checks[0]?.at ?? null };
  }
  const again = entry.workers?.find((worker) => worker.restarts >= 3 && Date.now() - Date.parse(worker.last_exit?.at) < OFTEN_MS);
  if (again) return { level: "warn", text: `${again.id} restarts again and again: ${again.restarts} restarts; ${again.last_exit.message || again.last_exit.result}`, at: again.last_exit.at };
  if (entry.service?.state === "degraded") return { level: "warn", text: `service: ${entry.service.reason}`, at: null };
  if (entry.mcp?.warning) return { level: "note", text: entry.mcp.warning, at: null };
  return null;
}

function hasFailed(worker) {
  if (worker.state === "Initial") return worker.wanted && worker.next_start_in_s != null;
  const last = worker.last_exit;
  if (worker.state !== "Terminated" || !last || ASKED_FOR.has(last.result)) return false;
  return last.result !== "exited" || last.code !== 0;
}

/** Returns the seconds that a worker is up now. */
export function uptime(worker) {
  return worker.pid == null ? null : worker.uptime_s + (performance.now() - worker.seenAt) / 1000;
}

/** Returns whether the rights of this session reach `needed`. */
export function may(needed) {
  const order = ["read", "operate", "admin"];
  return order.indexOf(model.rights) >= order.indexOf(needed);
}

// -- series: one point each POINT_MS while the page is open

function note(name, key, value) {
  const id = `${name}\n${key}`;
  const points = model.series.get(id) ?? [];
  points.push(value);
  if (points.length > MOST_POINTS) points.shift();
  model.series.set(id, points);
}

let last = null;

function sample() {
  if (!model.isLive || document.hidden) return;
  const sums = totals();
  note("", "cpu", sums.cpu);
  note("", "memory", sums.memory);
  note("", "queued", model.tasks.queued);
  note("", "running", model.tasks.running);
  const ended = model.tasks.succeeded + model.tasks.failed;
  const now = performance.now();
  if (last) {
    const minutes = (now - last.at) / 60000;
    note("", "ended", Math.max(0, ended - last.ended) / minutes);
    note("", "failed", Math.max(0, model.tasks.failed - last.failed) / minutes);
  }
  last = { at: now, ended, failed: model.tasks.failed };
  for (const entry of model.entries.values()) {
    if (!entry.figures || entry.kind === "team" || entry.kind === "workflow") continue;
    note(entry.key, "cpu", entry.figures.cpu);
    note(entry.key, "memory", entry.figures.memory);
  }
  changed();
}

/** Returns the points of a series; "" is the name of all together. */
export function points(name, key) {
  return model.series.get(`${name}\n${key}`) ?? [];
}

/** Puts points of the daemon's history before those of this page; its CPU and memory have corral's own processes, too, and are left out. */
export function seed(history) {
  const keys = { queued: (each) => each.queued, running: (each) => each.running, ended: (each) => each.executions_per_minute, failed: (each) => (each.span_s ? (each.failed * 60) / each.span_s : 0) };
  for (const [key, valueOf] of Object.entries(keys)) model.series.set(`\n${key}`, history.slice(-MOST_POINTS).map(valueOf));
  changed();
}

/** Begins to take points. */
export function startSampling() {
  setInterval(sample, POINT_MS);
}
