// Shows what is wrong first, then the totals, the queue, and what happened last.

import { verbButton } from "../parts/actions.js";
import { get } from "../parts/api.js";
import { spark } from "../parts/chart.js";
import { badge, h, keyed, setAttribute, setBadge, setText } from "../parts/dom.js";
import { eventKey, eventSubject, eventText, eventTarget } from "../parts/event_text.js";
import { ago, clock, count, cut, duration, percent, plural, size } from "../parts/format.js";
import { entriesOf, model, needsYou, onEvents, points, problemOf, totals } from "../parts/model.js";
import { questionsPanel } from "../parts/questions.js";
import { stateOf } from "./agents.js";

const MOST_PROBLEMS = 12;
const MOST_ROWS = 10;

const TILES = [
  { key: "agents", label: "Agents up", text: (sums) => [count(sums.agentsUp), `of ${count(sums.agents)}`] },
  { key: "workers", label: "Workers up", text: (sums) => [count(sums.up), `of ${count(sums.workers)}`] },
  { key: "servers", label: "MCP servers up", text: (sums) => [count(sums.serversUp), `of ${count(sums.servers)}`] },
  { key: "running", label: "Tasks running", text: () => [count(model.tasks.running)], series: "running" },
  { key: "queued", label: "Tasks queued", text: () => [count(model.tasks.queued)], series: "queued" },
  { key: "ended", label: "Succeeded", text: () => [count(model.tasks.succeeded), rate("ended")], series: "ended" },
  { key: "failed", label: "Failed", text: () => [count(model.tasks.failed)], series: "failed", level: () => (model.tasks.failed ? "bad" : null) },
  { key: "cpu", label: "CPU of workers", text: (sums) => [percent(sums.cpu)], series: "cpu" },
  { key: "memory", label: "Memory of workers", text: (sums) => [size(sums.memory)], series: "memory" },
];

function rate(key) {
  const value = points("", key).at(-1);
  return value == null ? "" : `${count(value)} ended/min`;
}

/** Returns the view. */
export function overviewView() {
  const verdict = h("div", { className: "verdict" }, h("h1", { id: "verdict" }), h("span", { className: "muted" }));
  const problems = h("ul", { className: "list", "aria-labelledby": "verdict" });
  const problemsPanel = h("section", { className: "panel", "aria-labelledby": "verdict" }, problems);
  const tiles = h("dl", { className: "tiles" }, TILES.map(makeTile));
  const hint = h("p", { className: "panel empty" }, "Nothing to run yet: ", h("code", {}, "corral add NAME -- COMMAND"), ", or agents in the configuration.");
  const agents = h("ul", { className: "list" });
  const queue = h("ul", { className: "list" });
  const failed = h("ul", { className: "list" });
  const recent = h("ul", { className: "list" });
  const questions = questionsPanel();
  const element = h("div", { className: "stack" }, verdict, problemsPanel, questions.element, hint, tiles,
    h("div", { className: "grid" }, panel("Agents", "#/agents", agents), panel("Longest queues", "#/agents", queue),
      panel("Recent failures", "#/tasks?state=failed", failed)),
    panel("Recent events", "#/events", recent));
  let failures = null;
  let isAsking = false;

  async function askFailures() {
    if (isAsking) return;
    isAsking = true;
    try {
      failures = (await get(["tasks"], { states: ["failed", "timeout"], limit: MOST_ROWS })).tasks;
      update();
    } catch { /* the stream says that the daemon is away */ } finally { isAsking = false; }
  }
  const end = onEvents((events, skipped) => {
    if (skipped || events.some((event) => event.type === "task.ended" && event.state !== "succeeded")) askFailures();
  });
  askFailures();
  let past = [];
  get(["events"], { n: 60, types: NEWS }).then((found) => { past = found.events; update(); }, () => {});

  function update() {
    if (!model.daemon) { setText(verdict.firstChild, "Connecting"); problemsPanel.hidden = hint.hidden = true; return; }
    const sums = totals();
    const wrong = wrongs();
    const bad = wrong.filter((each) => each.level === "bad").length;
    const needs = needsYou();
    setAttribute(verdict, "data-level", bad ? "bad" : wrong.length || needs ? "warn" : null);
    setText(verdict.firstChild, [needs ? `Needs you: ${needs}` : "", wrong.length ? plural(wrong.length, "problem") : needs ? "" : "No problems"].filter(Boolean).join(", "));
    setText(verdict.lastChild, `corrald ${model.daemon.version}, up ${duration(model.daemon.uptime_s + (performance.now() - model.receivedAt) / 1000)}`);
    problemsPanel.hidden = wrong.length === 0;
    hint.hidden = sums.agents > 0;
    const rows = wrong.slice(0, MOST_PROBLEMS);
    if (wrong.length > MOST_PROBLEMS) rows.push({ name: "", level: "more", text: `and ${wrong.length - MOST_PROBLEMS} more`, href: "#/agents?show=problems" });
    keyed(problems, rows, (each) => `${each.name}\n${each.level}\n${each.text}`, makeProblem);
    TILES.forEach((tile, n) => {
      const cell = tiles.children[n];
      const [main, more] = tile.text(sums);
      setText(cell.value, main);
      setText(cell.more, more ? ` ${more}` : "");
      setAttribute(cell, "data-level", tile.level?.() ?? null);
      if (cell.chart) cell.chart.set(points("", tile.series));
    });
    const shown = entriesOf("agent").sort((a, b) => needOf(b) - needOf(a) || a.key.localeCompare(b.key)).slice(0, MOST_ROWS);
    fillList(agents, shown, (each) => each.key, makeAgent, updateAgent);
    const queues = entriesOf("agent").filter((entry) => entry.queued > 0).sort((a, b) => b.queued - a.queued).slice(0, MOST_ROWS);
    fillList(queue, queues, (each) => each.key, (each) => h("li", {}, h("a", { className: "grow", href: `#/agents/${encodeURIComponent(each.key)}` }, each.key), h("span", { className: "number" })),
      (row, each) => setText(row.lastChild, `${count(each.queued)} queued, ${count(each.figures.running)} running`));
    fillList(failed, failures ?? [], (each) => each.id, makeFailure);
    const known = new Set(model.events.map(eventKey));
    const happened = [...past.filter((event) => !known.has(eventKey(event))), ...model.events].filter(isNews).slice(-MOST_ROWS).reverse();
    fillList(recent, happened, eventKey, makeEvent);
  }
  return { element, update, close: () => { end(); questions.close(); } };
}

const NEWS = ["worker.state", "agent.*", "config.*", "daemon.*", "health.*", "limit.*", "deployment.*", "revision.*", "store.*"];
const NOISE = /^(task|mcp|workflow|checkpoint|memory)\./;

function isNews(event) {
  if (event.type === "worker.state") return event.to === "Terminated" || event.to === "Ready";
  return !NOISE.test(event.type) || (event.type === "task.ended" && event.state !== "succeeded");
}

function wrongs() {
  const found = model.missing.map((node) => ({ name: node, level: "bad", text: "the node does not answer: what it has is not shown", node, href: "#/nodes" }));
  for (const [node, { daemon }] of model.nodes) {
    const name = node ? `corrald@${node}` : "corrald";
    found.push(...daemon.degraded.map((part) => ({ name, level: "bad", text: part === "emergency-stop" ? "emergency stop: nothing starts until an agent is started" : `degraded: ${part}` })));
    if (daemon.draining) found.push({ name, level: "warn", text: "is stopping" });
  }
  for (const entry of model.entries.values()) {
    if (entry.kind !== "agent" && entry.kind !== "mcp") continue;
    const problem = problemOf(entry);
    if (problem && problem.level !== "note") found.push({ ...problem, name: entry.key, entry });
  }
  const order = { bad: 0, warn: 1 };
  return found.sort((a, b) => order[a.level] - order[b.level] || (b.at ?? "").localeCompare(a.at ?? "") || a.name.localeCompare(b.name));
}

function makeProblem({ name, level, text, at, href, entry, node }) {
  if (level === "more") return h("li", {}, h("a", { href }, text));
  const target = entry ? `#/${entry.kind === "mcp" ? "servers" : "agents"}/${encodeURIComponent(name)}` : node ? href : null;
  const button = entry ? verbButton(level === "bad" ? "reset" : "restart", entry.name, { small: true, node: entry.node }) : null;
  const mark = h("span", { className: "badge", "data-state": level }, node ? "missing" : level === "bad" ? "Failed" : entry && !entry.degraded ? "restarts" : "degraded");
  return h("li", {}, mark, target ? h("a", { className: "name", href: target }, name) : h("span", { className: "name" }, name),
    h("span", { className: "grow wrap", title: text }, cut(text, 400)), at ? h("span", { className: "when" }, clock(at)) : null, button);
}

function makeTile({ label, series }) {
  const value = h("span");
  const more = h("small");
  const chart = series ? spark(160, 26, `${label}, the last minutes`) : null;
  const cell = h("div", { className: "tile" }, h("dt", {}, label), h("dd", {}, value, more, chart ? h("span", { className: "chart" }, chart.element) : null));
  return Object.assign(cell, { value, more, chart });
}

function makeFailure(task) {
  return h("li", {}, badge(task.state), h("a", { className: "name", href: `#/tasks/${encodeURIComponent(task.id)}` }, task.agent),
    h("span", { className: "grow wrap", title: task.error?.message ?? "" }, task.error?.message ?? task.objective), h("span", { className: "when", title: ago(task.finished_at) }, clock(task.finished_at)));
}

function makeEvent(event) {
  const target = eventTarget(event);
  return h("li", {}, h("span", { className: "when" }, clock(event.at)), target ? h("a", { className: "name", href: target }, eventSubject(event)) : h("span", { className: "name" }, eventSubject(event)),
    h("span", { className: "grow", title: eventText(event) }, eventText(event)));
}

/** Fills the list of a panel, which is shown only while there is something in it. */
function fillList(list, items, keyOf, make, update) {
  list.parentElement.hidden = items.length === 0;
  keyed(list, items, keyOf, make, update);
}

/** Returns the question that a worker of an agent waits with, as `{task, text}`; null without one. */
function questionOf(entry) {
  const worker = entry.workers.find((each) => each.task_reason);
  return worker ? { task: worker.task, text: worker.task_reason } : null;
}

/** Returns how much an agent needs somebody to look at it: first who asks, then who fails, then who works. */
function needOf(entry) {
  if (questionOf(entry)) return 3;
  return problemOf(entry) ? 2 : entry.figures.running ? 1 : 0;
}

function makeAgent(entry) {
  const chart = spark(96, 20, `CPU of ${entry.key}`);
  const row = h("li", {}, badge(""), h("a", { className: "name", href: `#/agents/${encodeURIComponent(entry.key)}` }, entry.key), h("a", { className: "grow" }), chart.element);
  return Object.assign(row, { chart });
}

function updateAgent(row, entry) {
  const question = questionOf(entry);
  const task = question?.task ?? entry.workers.find((each) => each.task)?.task;
  setBadge(row.children[0], question ? "asks" : stateOf(entry));
  const text = question?.text.replace(/^asks: | \(corral approvals\)$/g, "") ?? problemOf(entry)?.text ?? (task ? `task ${task}` : entry.title ?? entry.description ?? "");
  setText(row.children[2], text);
  setAttribute(row.children[2], "href", task ? `#/tasks/${encodeURIComponent(task)}` : null);
  row.chart.set(points(entry.key, "cpu"), 10);
}

function panel(title, href, list) {
  return h("section", { className: "panel", "aria-label": title }, h("div", { className: "title" }, h("h2", {}, title), h("a", { className: "right", href, "aria-label": `All of: ${title}` }, "all")), list);
}
