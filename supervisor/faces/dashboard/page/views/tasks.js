// Lists tasks, the newest first: pages of the store, kept up to date by events.

import { get } from "../parts/api.js";
import { badge, h, setBadge, setText } from "../parts/dom.js";
import { clock, cost, count, duration, shortId } from "../parts/format.js";
import { model, onEvents } from "../parts/model.js";
import { virtualTable } from "../parts/table.js";

const PAGE = 200;
const MOST = 10000;
const SOON_MS = 300;
const STATES = ["queued", "running", "succeeded", "failed", "cancelled", "timeout"];

/** Returns the view. */
export function tasksView({ query }) {
  const inner = taskTable({ state: query.get("state") ?? "", withAgent: true, agent: query.get("agent") ?? "" });
  const counts = h("span", { className: "muted", role: "status" });
  const element = h("div", { className: "stack" }, h("div", { className: "bar" }, h("h1", {}, "Tasks"), counts), inner.element);
  return {
    element,
    update() {
      const { queued, running, succeeded, failed } = model.tasks;
      setText(counts, `${count(queued)} queued, ${count(running)} running, ${count(succeeded)} succeeded, ${count(failed)} failed since the daemon's start`);
      inner.update();
    },
    close: inner.close,
  };
}

/** Returns the seconds that a task has taken in its last attempt until now; null before it. */
export function taken(task) {
  if (task.duration_s != null) return task.duration_s;
  return task.state === "running" && task.started_at ? Math.max(0, (Date.now() - Date.parse(task.started_at)) / 1000) : null;
}

/** Returns a table of tasks, of one agent or all, with its filters. */
export function taskTable({ agent = "", node = null, state = "", withAgent = false }) {
  const tasks = new Map();
  let more = null;
  let isAsking = false;
  let generation = 0;
  let stale = null;
  let drawn = "";
  let version = 0;
  const chips = h("div", { className: "chips", role: "group", "aria-label": "State" }, ["", ...STATES].map((each) => h("button", { type: "button", "data-state-filter": each, on: { click: () => { state = each; reload(); } } }, each || "All")));
  const text = h("input", { type: "search", className: "filter", placeholder: "Filter by text of the objective", "aria-label": "Filter by text of the objective", on: { change: () => reload() } });
  const name = h("input", { type: "search", placeholder: "Agent", "aria-label": "Agent", value: agent, on: { change: () => reload() } });
  const note = h("span", { className: "muted", role: "status" });
  const table = virtualTable({
    label: "Tasks", keyOf: (task) => task.id, open: (task) => { location.hash = `#/tasks/${encodeURIComponent(task.id)}`; }, onEnd: () => load(), empty: "No task matches.",
    columns: [
      { key: "state", label: "State", width: "96px", phone: "88px", sort: (each) => each.state, render: renderState },
      { key: "id", label: "Task", width: "112px", phone: "92px", sort: (each) => each.id, render: renderId },
      { key: "agent", label: "Agent", width: "minmax(90px, 0.7fr)", low: true, sort: (each) => each.agent, text: (each) => each.agent },
      { key: "objective", label: "Objective", width: "minmax(120px, 2fr)", phone: "minmax(0, 1fr)", sort: (each) => each.objective, render: renderObjective },
      { key: "worker", label: "Worker", width: "minmax(80px, 0.7fr)", low: true, sort: (each) => each.worker ?? "", text: (each) => each.worker ?? "-" },
      ...(model.here && !node ? [{ key: "node", label: "Node", width: "minmax(60px, 0.5fr)", low: true, sort: (each) => each.node ?? "", text: (each) => each.node ?? "waiting" }] : []),
      { key: "attempt", label: "Attempt", align: "right", width: "66px", low: true, sort: (each) => each.attempt, text: (each) => String(each.attempt) },
      { key: "created", label: "Created", align: "right", width: "124px", low: true, sort: (each) => each.created_at, text: (each) => clock(each.created_at) },
      { key: "duration", label: "Duration", align: "right", width: "78px", phone: "60px", sort: (each) => taken(each) ?? -1, text: (each) => duration(taken(each)) },
      { key: "cost", label: "Cost", align: "right", width: "60px", low: true, sort: (each) => each.cost_cents, text: (each) => cost(each.cost_cents) },
    ].filter((column) => withAgent || column.key !== "agent"),
  });
  table.element.style.setProperty("--above", withAgent ? "230px" : "330px");
  const element = h("div", { className: "stack" }, h("div", { className: "bar" }, chips, text, withAgent ? name : null, note), table.element);

  const params = () => ({ agent: name.value.trim(), node, state, text: text.value.trim() });

  async function load() {
    if (isAsking || tasks.size >= MOST || (more === null && tasks.size)) return;
    isAsking = true;
    const own = generation;
    try {
      const page = await get(["tasks"], { ...params(), limit: PAGE, before: more });
      if (own !== generation) return;
      for (const task of page.tasks) tasks.set(task.id, task);
      more = page.more;
      version += 1;
      update();
    } catch (error) { setText(note, error.message); } finally { isAsking = false; }
  }

  function reload() {
    generation += 1;
    isAsking = false;
    tasks.clear();
    more = null;
    version += 1;
    for (const chip of chips.children) chip.setAttribute("aria-pressed", String(chip.dataset.stateFilter === state));
    update();
    load();
  }

  /** Asks for the newest page once more: events have no objective, and some may be missing. */
  function refresh() {
    if (stale) return;
    stale = setTimeout(async () => {
      const own = generation;
      try {
        const page = await get(["tasks"], { ...params(), limit: Math.min(PAGE, 100) });
        if (own === generation) {
          const kept = [...tasks.values()];
          tasks.clear();
          for (const task of page.tasks) tasks.set(task.id, task);
          for (const task of kept) if (!tasks.has(task.id)) tasks.set(task.id, task);
          if (more === null && kept.length === 0) more = page.more;
          while (tasks.size > MOST) tasks.delete([...tasks.keys()].at(-1));
          version += 1;
          update();
        }
      } catch { /* the stream says that the daemon is away */ } finally { stale = null; }
    }, SOON_MS);
  }

  const end = onEvents((events, skipped) => {
    let isNew = skipped > 0;
    for (const event of events) {
      if (!event.type.startsWith("task.") || (name.value && event.agent !== name.value)) continue;
      const known = tasks.get(event.task);
      if (!known) { isNew ||= event.type !== "task.progress"; continue; }
      tasks.set(event.task, changedBy(known, event));
      version += 1;
    }
    if (isNew) refresh();
  });

  function update() {
    const second = [...tasks.values()].some((task) => task.state === "running") ? Math.floor(Date.now() / 1000) : 0;
    const key = `${version} ${second} ${state}`;
    if (key === drawn) return;
    drawn = key;
    const rows = [...tasks.values()].filter((task) => !state || task.state === state);
    setText(note, `${count(rows.length)}${more ? " and more" : ""} shown`);
    table.set(rows);
  }
  reload();
  return { element, update, close() { end(); clearTimeout(stale); } };
}

/** Returns a task after an event about it. */
export function changedBy(task, event) {
  switch (event.type) {
    case "task.queued": return { ...task, state: "queued" };
    case "task.started": return { ...task, state: "running", worker: event.worker, attempt: event.attempt, started_at: event.at };
    case "task.progress": return { ...task, progress: event.progress, progress_total: event.total, progress_message: event.message };
    case "task.retried": return { ...task, state: "queued", reason: event.reason };
    case "task.ended": return { ...task, state: event.state, duration_s: event.duration_s, finished_at: event.at, cost_cents: event.cost_cents ?? task.cost_cents };
    default: return task;
  }
}

function renderState(cell, task) {
  if (!cell.badge) cell.append((cell.badge = badge("")));
  setBadge(cell.badge, task.state);
}

function renderId(cell, task) {
  if (!cell.link) cell.append((cell.link = h("a", { className: "mono", tabIndex: -1 })));
  cell.link.href = `#/tasks/${encodeURIComponent(task.id)}`;
  setText(cell.link, shortId(task.id));
}

function renderObjective(cell, task) {
  const progress = task.state === "running" && task.progress_message ? ` (${task.progress_message})` : "";
  const text = task.state === "failed" && task.error ? `${task.objective}: ${task.error.message}` : `${task.objective}${progress}`;
  setText(cell, text);
  cell.title = text;
}
