// Shows one agent or MCP server: its workers and their lives, tasks or tools, logs, events, revisions, configuration.

import { rollback, run, scale, verbButton } from "../parts/actions.js";
import { get } from "../parts/api.js";
import { spark } from "../parts/chart.js";
import { badge, h, setAttribute, setBadge, setText } from "../parts/dom.js";
import { clock, count, cut, duration, milliseconds, percent, size } from "../parts/format.js";
import { lifelines } from "../parts/lifeline.js";
import { logs } from "../parts/logs.js";
import { entryOf, may, model, points, problemOf, uptime } from "../parts/model.js";
import { virtualTable } from "../parts/table.js";
import { stateOf } from "./agents.js";
import { metricsTab } from "./metrics.js";
import { eventTable } from "./events.js";
import { taskTable } from "./tasks.js";

const FIGURES_MS = 5000;

const TABS = {
  workers: { label: "Workers", make: workersTab },
  tools: { label: "Tools", make: toolsTab, kind: "mcp" },
  tasks: { label: "Tasks", make: (name, node) => taskTable({ agent: name, node }), kind: "agent" },
  metrics: { label: "Metrics", make: metricsTab },
  logs: { label: "Logs", make: (name, node) => logs({ names: name, node }, `Log of ${name}`) },
  events: { label: "Events", make: (name, node) => eventTable({ agent: name, node }) },
  revisions: { label: "Revisions", make: revisionsTab },
  configuration: { label: "Configuration", make: configurationTab },
};

/** Returns the view of agent or server `parts[0]`, which may be NAME@NODE, with the tab `parts[1]`. */
export function agentView({ parts: [address, tab] }) {
  const key = entryOf(address)?.key ?? address;
  const [name, node = null] = key.split("@");
  const kind = entryOf(key)?.kind ?? "agent";
  const base = kind === "mcp" ? "servers" : "agents";
  const chosen = TABS[tab] ? tab : "workers";
  const state = badge("");
  const title = h("span", { className: "muted" });
  const actions = h("div", { className: "right" });
  const reason = h("p", { className: "problem" });
  const facts = h("dl", { className: "facts" });
  const chart = spark(220, 30, "CPU, the last minutes");
  const tabs = h("nav", { className: "tabs", "aria-label": `Parts of ${name}` }, Object.entries(TABS).filter(([, each]) => !each.kind || each.kind === kind)
    .map(([each, { label }]) => h("a", { href: `#/${base}/${encodeURIComponent(key)}/${each}`, "aria-current": each === chosen ? "page" : null }, label)));
  const inner = TABS[chosen].make(name, node, key);
  const element = h("div", { className: "stack" },
    h("div", { className: "bar" }, h("h1", {}, name), node ? h("span", { className: "muted" }, `on ${node}`) : null, state, title, actions), reason,
    h("section", { className: "panel pad figures", "aria-label": "Figures" }, facts, chart.element), tabs, inner.element);
  let figures = null;
  let shownActions = "";

  async function askFigures() {
    try {
      const found = await get(["statistics"], { names: name, node });
      figures = (found.agents[name] ?? found.mcp_servers[name])?.executor ?? null;
    } catch { /* the stream says that the daemon is away */ }
    update();
  }
  const timer = setInterval(() => { if (!document.hidden && model.isLive) askFigures(); }, FIGURES_MS);
  askFigures();

  function update() {
    const entry = entryOf(key);
    inner.update?.();
    if (!entry) { setText(title, model.isLive ? "It is not in the running set." : ""); return; }
    const problem = problemOf(entry);
    setBadge(state, entry.degraded && problem?.level !== "bad" ? "degraded" : stateOf(entry));
    setText(title, entry.title || entry.description || "");
    setText(reason, problem?.text ?? (entry.rolling ? `rolling: ${entry.rolling.reason}` : ""));
    reason.hidden = !reason.textContent;
    const { figures: sums } = entry;
    const pairs = [["Workers up", `${count(sums.up)} of ${count(sums.workers)}`], ["CPU", percent(sums.cpu)], ["Memory", size(sums.memory)], ["Restarts", count(sums.restarts)]];
    if (entry.kind === "agent") pairs.push(["Queued", count(entry.queued)], ["Running", count(sums.running)]);
    if (figures) {
      pairs.push([entry.kind === "mcp" ? "Calls" : "Ended", count(figures.total)], ["Succeeded", count(figures.ok)], ["Failed", count(figures.failed)],
        ["p50", milliseconds(figures.p50_ms)], ["p99", milliseconds(figures.p99_ms)]);
    }
    pairs.forEach(([label, text], n) => {
      const place = facts.children[n] ?? facts.appendChild(h("div", {}, h("dt"), h("dd")));
      setText(place.firstChild, label);
      setText(place.lastChild, text);
    });
    chart.set(points(key, "cpu"), 10);
    const wanted = `${entry.wanted} ${sums.paused} ${problem?.level} ${model.rights}`;
    if (wanted !== shownActions) {
      shownActions = wanted;
      actions.replaceChildren(...actionsOf(entry, problem));
    }
  }
  return { element, update, close() { clearInterval(timer); inner.close?.(); } };
}

function actionsOf(entry, problem) {
  if (!may("operate")) return [];
  const { name, node } = entry;
  const found = [];
  if (entry.kind === "agent" && entry.protocol !== "none") found.push(h("button", { type: "button", className: "primary", on: { click: () => run(name, node) } }, "Run a task"));
  if (problem?.level === "bad") found.push(verbButton("reset", name, { node }));
  found.push(verbButton(entry.wanted ? "restart" : "start", name, { node }));
  if (entry.wanted) found.push(verbButton("stop", name, { node }), verbButton(entry.figures.paused ? "resume" : "pause", name, { node }));
  if (entry.kind === "agent") found.push(h("button", { type: "button", on: { click: () => scale(name, entry.figures.workers, node) } }, "Scale"));
  return found;
}

function workersTab(name, node, key) {
  const lives = lifelines(name, node, key);
  const table = virtualTable({
    label: `Workers of ${name}`, keyOf: (worker) => worker.id, order: { key: "id", down: false }, empty: "It has no worker.",
    columns: [
      { key: "id", label: "Worker", width: "minmax(110px, 1fr)", phone: "minmax(0, 1.3fr)", sort: (each) => each.id, text: (each) => each.id },
      { key: "state", label: "State", width: "104px", sort: (each) => each.state, render: renderState },
      { key: "pid", label: "PID", align: "right", width: "74px", low: true, sort: (each) => each.pid, text: (each) => String(each.pid ?? "-") },
      { key: "uptime", label: "Uptime", align: "right", width: "70px", phone: "60px", sort: (each) => uptime(each), text: (each) => duration(uptime(each)) },
      { key: "cpu", label: "CPU", align: "right", width: "56px", phone: "48px", sort: (each) => each.cpu_percent, text: (each) => (each.pid == null ? "-" : percent(each.cpu_percent)) },
      { key: "memory", label: "Memory", align: "right", width: "72px", low: true, sort: (each) => each.rss_bytes, text: (each) => (each.pid == null ? "-" : size(each.rss_bytes)) },
      { key: "restarts", label: "Restarts", align: "right", width: "76px", low: true, sort: (each) => each.restarts, text: (each) => count(each.restarts) },
      { key: "task", label: "Task or reason", width: "minmax(160px, 2fr)", line: true, render: renderTask },
      { key: "actions", label: "", title: "Actions", width: may("operate") ? "150px" : "0px", line: true, render: (cell, worker) => renderActions(cell, worker, node) },
    ],
  });
  table.element.classList.add("fits");
  let drawn = -1;
  return {
    element: h("div", { className: "stack" }, table.element, lives.element),
    update() {
      lives.update();
      const second = Math.floor(performance.now() / 1000);
      const now = `${model.version} ${second}`;
      if (drawn === now) return;
      drawn = now;
      table.set(entryOf(key)?.workers ?? []);
    },
    close: lives.close,
  };
}

function renderState(cell, worker) {
  if (!cell.badge) cell.append((cell.badge = badge("")));
  setBadge(cell.badge, worker.paused ? "paused" : worker.state);
}

function renderTask(cell, worker) {
  if (!cell.link) cell.append((cell.link = h("a", {})), (cell.text = h("span", {})));
  cell.link.hidden = !worker.task;
  if (worker.task) {
    cell.link.href = `#/tasks/${encodeURIComponent(worker.task)}`;
    setText(cell.link, worker.task);
  }
  const last = worker.last_exit;
  const words = worker.next_start_in_s != null ? `next start in ${duration(worker.next_start_in_s)}` : "";
  const ended = worker.pid == null && last ? last.message || last.result : "";
  const text = worker.task ? (worker.task_reason && ` ${worker.task_reason}`) : [words, worker.reason && !ended.includes(worker.reason) ? worker.reason : "", ended].filter(Boolean).join(": ");
  setText(cell.text, text);
  setAttribute(cell, "title", text || null);
}

function renderActions(cell, worker, node) {
  if (cell.of === worker.id || !may("operate")) return;
  cell.of = worker.id;
  cell.replaceChildren(verbButton("restart", worker.id, { small: true, node }), " ", verbButton("stop", worker.id, { small: true, node }));
}

function toolsTab(name, node) {
  const list = h("div", { className: "panel" }, h("p", { className: "empty" }, "Asking"));
  get(["mcp", "tools"], { server: name, node }).then(({ tools, failures }) => {
    const rows = tools.map((tool) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, tool.name)),
      h("td", {}, h("div", {}, cut(tool.description ?? "", 300)), h("details", {}, h("summary", { className: "muted" }, "Arguments"), h("pre", {}, JSON.stringify(tool.input_schema, null, 2)))),
      h("td", { className: "muted" }, Object.entries(tool.annotations ?? {}).filter(([, value]) => value === true).map(([key]) => key).join(", "))));
    const failed = Object.entries(failures ?? {}).map(([server, error]) => h("p", { className: "problem pad" }, `${server}: ${error.message}`));
    list.replaceChildren(...failed, tools.length ? h("table", {}, h("thead", {}, h("tr", {}, ["Tool", "Does", "Hints"].map((each) => h("th", { scope: "col" }, each)))), h("tbody", {}, rows)) : h("p", { className: "empty" }, "It lists no tool."));
  }, (error) => list.replaceChildren(h("p", { className: "problem pad" }, error.message)));
  return { element: list };
}

function revisionsTab(name, node) {
  const body = h("tbody");
  const diff = h("section", { className: "panel", "aria-label": "Difference", hidden: true });
  const table = h("table", {}, h("thead", {}, h("tr", {}, ["Revision", "State", "How", "By", "Why", "At", ""].map((each) => h("th", { scope: "col" }, each || h("span", { className: "hidden" }, "Actions"))))), body);
  async function load() {
    try {
      const { revisions } = await get(["agents", name, "revisions"], { node });
      body.replaceChildren(...revisions.map((each, n) => h("tr", {}, h("th", { scope: "row" }, String(each.revision)), h("td", {}, badge(each.state, each.reason)), h("td", {}, each.how),
        h("td", {}, each.by), h("td", {}, each.why || each.reason), h("td", {}, clock(each.at)),
        h("td", { className: "right" }, h("button", { type: "button", className: "small", "aria-label": `Difference of revision ${each.revision}`, on: { click: () => compare(each.revision, revisions[n + 1]?.revision) } }, "Difference"), " ",
          n > 0 && may("admin") && each.state === "superseded" ? h("button", { type: "button", className: "small", "aria-label": `Roll back to revision ${each.revision}`, on: { click: async () => { if (await rollback(name, each.revision, node)) load(); } } }, "Roll back") : null))));
    } catch (error) { body.replaceChildren(h("tr", {}, h("td", { colspan: 7 }, error.message))); }
  }
  async function compare(after, before) {
    diff.hidden = false;
    try {
      const found = await get(["agents", name, "diff"], { before, after, node });
      const rows = found.changes.map((each) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, each.key)), h("td", {}, h("pre", {}, valueText(each.before))), h("td", {}, h("pre", {}, valueText(each.after)))));
      diff.replaceChildren(h("div", { className: "title" }, h("h2", {}, `Revision ${found.before ?? "none"} to ${found.after}`)),
        rows.length ? h("table", {}, h("thead", {}, h("tr", {}, ["Key", "Before", "After"].map((each) => h("th", { scope: "col" }, each)))), h("tbody", {}, rows)) : h("p", { className: "empty" }, "No key differs."));
      diff.scrollIntoView({ block: "nearest" });
    } catch (error) { diff.replaceChildren(h("p", { className: "problem pad" }, error.message)); }
  }
  load();
  return { element: h("div", { className: "stack" }, h("div", { className: "panel" }, table), diff) };
}

function valueText(value) {
  return value == null ? "-" : typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

function configurationTab(name, node) {
  const place = h("div", { className: "stack" }, h("p", { className: "empty" }, "Asking"));
  get(["agents", name], { node }).then((found) => {
    const exits = (found.exits ?? []).map((each) => h("tr", {}, h("td", {}, clock(each.at)), h("td", {}, each.worker), h("td", {}, each.result), h("td", {}, each.message)));
    place.replaceChildren(
      h("section", { className: "panel", "aria-label": "Table" }, h("div", { className: "title" }, h("h2", {}, "Table"), h("span", { className: "muted" }, `from ${found.source}`)), h("pre", { className: "pad", tabIndex: 0, "aria-label": "Table as JSON", role: "region" }, JSON.stringify(found.spec, null, 2))),
      exits.length ? h("section", { className: "panel", "aria-label": "Last exits" }, h("div", { className: "title" }, h("h2", {}, "Last exits")), h("table", {}, h("thead", {}, h("tr", {}, ["At", "Worker", "Result", "Message"].map((each) => h("th", { scope: "col" }, each)))), h("tbody", {}, exits))) : "");
  }, (error) => place.replaceChildren(h("p", { className: "problem" }, error.message)));
  return { element: place };
}
