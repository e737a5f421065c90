// Shows one task: its state, what its agent says and does, a waterfall of waiting, attempts, tool calls and delegations, its parts, output and log.

import { cancel, retry } from "../parts/actions.js";
import { get, Stream, url } from "../parts/api.js";
import { lanes } from "../parts/chart.js";
import { conversation } from "../parts/conversation.js";
import { badge, h, setBadge, setText, visible } from "../parts/dom.js";
import { clock, cost, count, duration } from "../parts/format.js";
import { axisElement } from "../parts/lifeline.js";
import { logs } from "../parts/logs.js";
import { may, model, onEvents } from "../parts/model.js";
import { questionsPanel } from "../parts/questions.js";
import { taken } from "./tasks.js";

const ENDED = new Set(["succeeded", "failed", "cancelled", "timeout"]);
const SOON_MS = 250;
const MOST_PARTS = 200000;
const MOST_RECORDS = 5000; // of the log, from its end

/** Returns the view of task `parts[0]`. */
export function taskView({ parts: [id] }) {
  let task = null;
  let tree = null;
  let events = [];
  let timer = null;
  let source = null;
  let drawnAt = 0;
  let drawn = "";
  const state = badge("");
  const agent = h("a", {});
  const actions = h("div", { className: "right" });
  const objective = h("p", {});
  const problem = h("p", { className: "problem" });
  const bar = h("progress", { "aria-label": "Progress" });
  const facts = h("dl", { className: "facts" });
  const waterfall = h("div", { className: "pad" });
  const parts = h("pre", { className: "pad", tabIndex: 0, role: "region", "aria-label": "Parts of the output" });
  const partsPanel = h("section", { className: "panel", hidden: true, "aria-label": "Parts of the output" }, h("div", { className: "title" }, h("h2", {}, "Parts of the output")), parts);
  const output = h("pre", { className: "pad", tabIndex: 0, role: "region", "aria-label": "Output" });
  const input = h("pre", { className: "pad", tabIndex: 0, role: "region", "aria-label": "Input" });
  const questions = questionsPanel(id);
  const talk = conversation();
  const lines = logs({ task: id, n: MOST_RECORDS }, `Log of task ${id}`, talk);
  lines.element.querySelector(".vtable").classList.add("fits");
  const element = h("div", { className: "stack" },
    h("div", { className: "bar" }, h("h1", {}, "Task ", h("code", {}, id)), state, agent, actions), objective, problem, bar, questions.element,
    h("section", { className: "panel pad", "aria-label": "Facts" }, facts), talk.element,
    h("section", { className: "panel", "aria-label": "Waterfall" }, h("div", { className: "title" }, h("h2", {}, "Waterfall")), waterfall),
    partsPanel,
    h("div", { className: "grid" },
      h("section", { className: "panel", "aria-label": "Input" }, h("div", { className: "title" }, h("h2", {}, "Input")), input),
      h("section", { className: "panel", "aria-label": "Output" }, h("div", { className: "title" }, h("h2", {}, "Output")), output)),
    h("section", { className: "stack", "aria-label": "Log" }, h("h2", {}, "Log"), lines.element));

  async function load() {
    timer = null;
    try {
      const [shown, below, happened] = await Promise.all([get(["tasks", id], { calls: true, steps: true }), get(["tasks", id, "tree"]), get(["events"], { task: id })]);
      task = shown;
      tree = below;
      events = happened.events;
      drawn = "";
      update();
      if (!ENDED.has(task.state)) listen();
    } catch (error) {
      setText(problem, error.message);
      problem.hidden = false;
    }
  }

  function listen() {
    if (source) return;
    source = new Stream(url(["tasks", id, "wait"]));
    const take = ({ data }) => {
      const { part, lost, attempt } = JSON.parse(data);
      if (attempt !== undefined && parts.attempt !== attempt) {
        if (parts.attempt !== undefined) talk.part(null);
        parts.textContent = "";
        parts.attempt = attempt;
      }
      if (lost) talk.part(null);
      const text = typeof part === "string" ? part : `${JSON.stringify(part)}\n`;
      talk.part(text);
      partsPanel.hidden = !talk.element.hidden;
      parts.textContent = ((lost ? `${parts.textContent}… ${lost} parts are missing\n` : parts.textContent) + visible(text)).slice(-MOST_PARTS);
      parts.scrollTop = parts.scrollHeight;
    };
    source.addEventListener("task.part", take);
    source.addEventListener("part", take);
    source.addEventListener("result", () => { close(); talk.part(null); load(); });
    source.addEventListener("error", close);
  }

  function close() {
    source?.close();
    source = null;
  }

  const end = onEvents((news) => {
    let isOurs = false;
    for (const event of news) {
      if (event.task !== id && event.parent !== id && !task?.children.includes(event.task)) continue;
      if (event.type === "task.progress" && event.task === id && task) task = { ...task, progress: event.progress, progress_total: event.total, progress_message: event.message };
      else isOurs = true;
    }
    if (isOurs && !timer) timer = setTimeout(load, SOON_MS);
  });

  function update() {
    if (!task) return;
    setBadge(state, task.state);
    setText(agent, task.agent);
    agent.href = `#/agents/${encodeURIComponent(task.agent)}`;
    setText(objective, task.objective);
    const wrong = task.error ? `${task.error.name}: ${task.error.message}` : task.state === "queued" ? task.reason : "";
    setText(problem, wrong);
    problem.hidden = !wrong;
    bar.hidden = task.state !== "running" || task.progress == null;
    if (!bar.hidden) { bar.max = task.progress_total ?? 1; bar.value = task.progress; }
    const key = `${task.state} ${model.rights}`;
    if (actions.key !== key) {
      actions.key = key;
      const isOver = ENDED.has(task.state);
      actions.replaceChildren(...(may("operate") ? [isOver ? (task.state === "succeeded" ? null : h("button", { type: "button", on: { click: () => retry(id) } }, "Try again")) : h("button", { type: "button", on: { click: () => cancel(id) } }, "Cancel")] : []).filter(Boolean));
    }
    const pairs = [["Worker", task.worker ?? "-"], ["Attempt", String(task.attempt)], ["Priority", String(task.priority)], ["Created", clock(task.created_at)], ["Started", clock(task.started_at)], ["Ended", clock(task.finished_at)],
      ["Duration", duration(taken(task))], ["Tool calls", count(task.tool_calls)], ["Tokens", count(task.tokens_used)], ["Cost", cost(task.cost_cents)]];
    if (task.progress_message) pairs.push(["Progress", task.progress_message]);
    if (task.peak_memory_bytes != null) pairs.push(["Peak memory", `${Math.round(task.peak_memory_bytes / 1048576)}M`]);
    if (task.cpu_ms != null) pairs.push(["CPU time", duration(task.cpu_ms / 1000)]);
    pairs.forEach(([label, text], n) => {
      const place = facts.children[n] ?? facts.appendChild(h("div", {}, h("dt"), h("dd")));
      setText(place.firstChild, label);
      setText(place.lastChild, text);
    });
    if (task.parent && !facts.parentLink) facts.append((facts.parentLink = h("div", {}, h("dt", {}, "Delegated by"), h("dd", {}, h("a", { href: `#/tasks/${encodeURIComponent(task.parent)}` }, task.parent)))));
    setText(input, task.input == null ? "none" : JSON.stringify(task.input, null, 2));
    setText(output, task.output == null ? (ENDED.has(task.state) ? "none" : "not yet") : typeof task.output === "string" ? task.output : JSON.stringify(task.output, null, 2));
    const now = performance.now();
    const isMoving = !ENDED.has(task.state);
    if (drawn === task.state && !(isMoving && now - drawnAt > 1000)) return;
    drawn = task.state;
    drawnAt = now;
    drawWaterfall();
  }

  function drawWaterfall() {
    const rows = rowsOf(task, tree, events, Date.now());
    const times = rows.flatMap((row) => row.spans.flatMap((span) => [span.from, span.to]));
    const from = Math.min(...times);
    const to = Math.max(...times, from + 1);
    const { chart, axis } = lanes({ lanes: rows, from, to, base: from, label: `Waterfall of task ${id}: ${rows.map((row) => row.label).join(", ")}`, tickText: (at) => `+${duration((at - from) / 1000)}`, onClick: (other) => { location.hash = `#/tasks/${encodeURIComponent(other)}`; } });
    waterfall.replaceChildren(h("div", { className: "laned" },
      h("div", { className: "lane-names" }, rows.map((row) => h("div", { title: row.label }, row.id ? h("a", { href: `#/tasks/${encodeURIComponent(row.id)}` }, row.label) : row.label))), h("div", {}, chart, axisElement(axis))));
  }
  load();
  return { element, update, close() { end(); close(); questions.close(); clearTimeout(timer); lines.close(); } };
}

const MOST_ROWS = 60;

/** Returns the lanes of a task: waiting, attempts, steps, tool calls, and the tasks that it delegated. */
export function rowsOf(task, tree, events, now) {
  const at = (stamp) => Date.parse(stamp);
  const end = task.finished_at ? at(task.finished_at) : now;
  const begins = events.filter((event) => event.type === "task.started");
  const rows = [];
  const first = begins[0] ? at(begins[0].at) : task.started_at ? at(task.started_at) : end;
  if (first > at(task.created_at)) rows.push(lane("waits", at(task.created_at), first, "queued", "waits"));
  begins.forEach((event, n) => {
    const over = events.find((each) => each.seq > event.seq && (each.type === "task.retried" || each.type === "task.ended"));
    const until = over ? at(over.at) : n < begins.length - 1 ? at(begins[n + 1].at) : end;
    const kind = !over ? "running" : over.type === "task.retried" ? "failed" : over.state;
    rows.push(lane(begins.length > 1 ? `attempt ${event.attempt}` : "attempt", at(event.at), until, kind, over?.reason ?? ""));
  });
  if (!begins.length && task.started_at) rows.push(lane("attempt", at(task.started_at), end, task.state, ""));
  for (const call of task.calls ?? []) {
    const over = at(call.at);
    rows.push(lane(call.tool, over - call.duration_s * 1000, over, call.ok ? "call" : "error", call.outcome));
  }
  for (const step of task.steps ?? []) {
    if (step.state === "done" && (step.kind === "tool" || step.kind === "delegate")) continue; // a call or a task of its own
    const kind = step.state === "running" ? "queued" : step.state === "failed" ? "error" : "call";
    rows.push(lane(step.name, at(step.at), at(step.at) + (step.duration_s ?? 0) * 1000, kind, step.error ?? (step.state === "running" ? "its end is not known" : "")));
  }
  const add = (node, depth) => {
    for (const child of node.children) {
      const each = child.task;
      const from = at(each.started_at ?? each.created_at);
      const until = each.finished_at ? at(each.finished_at) : now;
      const spans = each.started_at && at(each.started_at) > at(each.created_at) ? [{ from: at(each.created_at), to: from, kind: "queued", title: "waits" }] : [];
      spans.push({ from, to: until, kind: each.state, title: `${each.agent} ${each.state}, ${duration((until - from) / 1000)}: ${each.objective}`, id: each.id });
      rows.push({ label: `${"· ".repeat(depth)}${each.step || each.agent}`, id: each.id, spans });
      add(child, depth + 1);
    }
  };
  if (tree) add(tree, 0);
  if (!rows.length) rows.push(lane("waits", at(task.created_at), Math.max(end, at(task.created_at) + 1), "queued", task.reason));
  return rows.slice(0, MOST_ROWS);
}

function lane(label, from, to, kind, why) {
  return { label, spans: [{ from, to, kind, title: `${label}: ${duration((to - from) / 1000)}${why ? `, ${why}` : ""}` }] };
}
