// Lists agents, or MCP servers: sorted and filtered, with their present load.

import { get } from "../parts/api.js";
import { spark } from "../parts/chart.js";
import { badge, h, setAttribute, setBadge, setText } from "../parts/dom.js";
import { count, percent, plural, size } from "../parts/format.js";
import { entriesOf, model, points, problemOf } from "../parts/model.js";
import { virtualTable } from "../parts/table.js";

const SCORES_MS = 15000;

/** Health scores by name, as `metrics.latest` has them. */
const scores = new Map();

const SHOWS = [
  ["all", "All", () => true],
  ["problems", "With problems", (entry) => problemOf(entry) !== null],
  ["busy", "Busy", (entry) => entry.state === "Busy" || entry.queued > 0],
  ["down", "Down", (entry) => !["Ready", "Idle", "Busy"].includes(entry.state)],
];

/** Returns the view of agents. */
export const agentsView = ({ query }) => listView("agent", "Agents", query);

/** Returns the view of MCP servers. */
export const serversView = ({ query }) => listView("mcp", "MCP servers", query);

/** Returns the state of an entry as `corral status` shows it: a job has words of its own. */
export function stateOf(entry) {
  return { running: "Running", succeeded: "Done", failed: "Failed" }[entry.job] ?? (problemOf(entry)?.level === "bad" ? "Failed" : entry.state);
}

function columnsOf(kind) {
  const isAgent = kind === "agent";
  return [
    { key: "name", label: "Name", width: "minmax(140px, 1.4fr)", phone: "minmax(0, 1.5fr)", sort: (each) => each.name, render: renderName },
    ...(model.here ? [{ key: "node", label: "Node", width: "minmax(70px, 0.6fr)", phone: "70px", sort: (each) => each.node, text: (each) => each.node }] : []),
    { key: "state", label: "State", width: "104px", sort: (each) => each.state, render: renderState },
    { key: "workers", label: "Workers", title: "Workers that are up, of all", align: "right", width: "78px", phone: "60px", sort: (each) => each.figures.workers, text: (each) => `${count(each.figures.up)}/${count(each.figures.workers)}` },
    isAgent
      ? { key: "queued", label: "Queued", align: "right", width: "68px", low: true, sort: (each) => each.queued, text: (each) => count(each.queued) }
      : { key: "tools", label: "Tools", align: "right", width: "68px", low: true, sort: (each) => each.tools?.length ?? 0, text: (each) => count(each.tools?.length ?? 0) },
    isAgent
      ? { key: "running", label: "Running", align: "right", width: "72px", low: true, sort: (each) => each.figures.running, text: (each) => count(each.figures.running) }
      : { key: "calls", label: "Calls", align: "right", width: "72px", low: true, sort: (each) => each.mcp?.calls ?? 0, text: (each) => count(each.mcp?.calls ?? 0) },
    { key: "health", label: "Health", title: "Health score of the last hour, of 100", align: "right", width: "62px", low: true, sort: (each) => scores.get(each.key) ?? 101, text: (each) => String(scores.get(each.key) ?? "-") },
    { key: "cpu", label: "CPU", align: "right", width: "58px", phone: "52px", sort: (each) => each.figures.cpu, text: (each) => (each.figures.up ? percent(each.figures.cpu) : "-") },
    { key: "spark", label: "", title: "CPU, the last minutes", width: "96px", low: true, render: renderSpark },
    { key: "memory", label: "Memory", align: "right", width: "72px", low: true, sort: (each) => each.figures.memory, text: (each) => (each.figures.up ? size(each.figures.memory) : "-") },
    { key: "restarts", label: "Restarts", title: "Starts after failures", align: "right", width: "76px", low: true, sort: (each) => each.figures.restarts, text: (each) => count(each.figures.restarts) },
    { key: "reason", label: "Reason", width: "minmax(160px, 2fr)", low: true, render: renderReason },
  ];
}

function renderName(cell, entry) {
  if (!cell.link) cell.append((cell.link = h("a", {})), (cell.more = h("span", { className: "muted" })));
  cell.link.href = `#/${entry.kind === "mcp" ? "servers" : "agents"}/${encodeURIComponent(entry.key)}`;
  cell.link.tabIndex = -1;
  setText(cell.link, entry.name);
  setText(cell.more, entry.title ? ` ${entry.title}` : "");
}

function renderState(cell, entry) {
  if (!cell.badge) cell.append((cell.badge = badge("")));
  const state = stateOf(entry);
  setBadge(cell.badge, entry.degraded && state !== "Terminated" && state !== "Failed" ? "degraded" : entry.figures.paused ? "paused" : state);
  if (state === "Initial" && !entry.wanted) setAttribute(cell.badge, "data-state", "off");
}

function renderSpark(cell, entry) {
  if (!cell.chart) {
    cell.chart = spark(96, 20, "CPU");
    cell.append(cell.chart.element);
  }
  cell.chart.set(points(entry.key, "cpu"), 10);
}

function renderReason(cell, entry) {
  const text = problemOf(entry)?.text ?? (entry.rolling ? `rolling: ${entry.rolling.reason}` : entry.description ?? "");
  setText(cell, text);
  cell.title = text;
}

function listView(kind, title, query) {
  let shown = query.get("show") ?? "all";
  const filter = h("input", { type: "search", className: "filter", placeholder: "Filter by name, title, label", "aria-label": `Filter ${title}`, value: query.get("filter") ?? "", on: { input: () => update() } });
  const chips = h("div", { className: "chips", role: "group", "aria-label": "Show" }, SHOWS.map(([key, label]) => h("button", { type: "button", "data-key": key, on: { click: () => { shown = key; update(); } } }, label)));
  const number = h("span", { className: "muted", role: "status" });
  const base = kind === "mcp" ? "servers" : "agents";
  const table = virtualTable({
    columns: columnsOf(kind), label: title, keyOf: (entry) => entry.key, order: { key: "name", down: false },
    open: (entry) => { location.hash = `#/${base}/${encodeURIComponent(entry.key)}`; },
    empty: kind === "mcp" ? "No MCP server matches." : "No agent matches.",
  });
  const element = h("div", { className: "stack" }, h("div", { className: "bar" }, h("h1", {}, title), filter, chips, number), table.element);
  let drawn = -1;

  async function askScores() {
    try {
      const { agents, mcp_servers: servers } = await get(["metrics", "latest"], { node: model.here ? "*" : null });
      for (const each of [...agents, ...servers]) scores.set(each.node ? `${each.name}@${each.node}` : each.name, each.health_score);
      drawn = -1;
      update();
    } catch { /* metrics are off, or the daemon is away: there is no score */ }
  }
  askScores();
  const timer = setInterval(() => { if (!document.hidden) askScores(); }, SCORES_MS);

  function update() {
    const words = filter.value.toLowerCase();
    const key = `${model.version} ${words} ${shown}`;
    if (key === drawn) return;
    drawn = key;
    const fits = SHOWS.find(([each]) => each === shown)?.[2] ?? SHOWS[0][2];
    const all = entriesOf(kind);
    const rows = all.filter((entry) => fits(entry) && (!words || textOf(entry).includes(words)));
    for (const chip of chips.children) chip.setAttribute("aria-pressed", String(chip.dataset.key === shown));
    setText(number, rows.length === all.length ? plural(all.length, kind === "mcp" ? "server" : "agent") : `${count(rows.length)} of ${count(all.length)}`);
    table.set(rows);
  }
  return { element, update, close: () => clearInterval(timer) };
}

function textOf(entry) {
  const labels = Object.entries(entry.labels ?? {}).map(([key, value]) => `${key}=${value}`);
  return `${entry.name} ${entry.node ?? ""} ${entry.title ?? ""} ${entry.state} ${labels.join(" ")}`.toLowerCase();
}
