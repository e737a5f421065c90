// Shows the questions of tasks that wait for a person, with a button for each answer.

import { attempt } from "./actions.js";
import { get, post } from "./api.js";
import { h } from "./dom.js";
import { clock, cut, plural } from "./format.js";
import { changed, may, onEvents } from "./model.js";

const MOST = 20;

/** Returns the panel, hidden while no task asks, or not the one that is named: `element`, `close`. */
export function questionsPanel(task = null) {
  const title = h("h2", { id: "questions" }, "");
  const list = h("ul", { className: "list" });
  const element = h("section", { className: "panel", "aria-labelledby": "questions", hidden: true }, h("div", { className: "title" }, title), list);
  const rows = new Map();
  let isAsking = false;
  let isStale = false;

  async function load() {
    if (isAsking) { isStale = true; return; }
    isAsking = true;
    try {
      do {
        isStale = false;
        fill((await get(["approvals"], task ? { task, limit: MOST } : { limit: MOST })));
      } while (isStale);
    } catch { /* the stream says that the daemon is away */ } finally { isAsking = false; }
  }

  function fill({ approvals, more }) {
    element.hidden = approvals.length === 0;
    title.textContent = `${plural(approvals.length, "question")}${more ? " and more" : ""} ${approvals.length === 1 ? "waits" : "wait"} for an answer`;
    const known = new Set(approvals.map(keyOf));
    for (const [id, row] of rows) if (!known.has(id)) { row.remove(); rows.delete(id); }
    for (const each of approvals) {
      if (rows.has(keyOf(each))) continue;
      const row = makeQuestion(each);
      rows.set(keyOf(each), row);
      list.append(row);
    }
    changed();
  }

  const close = onEvents((events, skipped) => {
    if (skipped || events.some((event) => event.type.startsWith("approval."))) load();
  });
  load();
  return { element, close };
}

/** Returns what no other question has: numbers are of one node. */
const keyOf = (asked) => `${asked.node ?? ""}:${asked.id}`;

function makeQuestion(asked) {
  const text = cut(asked.question, 400);
  return h("li", { className: "question" },
    h("a", { className: "name", href: `#/tasks/${encodeURIComponent(asked.task)}` }, asked.node ? `${asked.agent}@${asked.node}` : asked.agent),
    h("span", { className: "grow wrap", title: asked.question }, text),
    h("span", { className: "when" }, `expires ${clock(asked.expires_at)}`),
    may("operate") ? answers(asked) : null);
}

function answers(asked) {
  const send = (answer) => attempt(() => post(["approvals", String(asked.id), "answer"], { answer }, asked.node), answer === null ? `Declined the form of ${asked.agent}` : `Answered ${asked.agent}: ${answer}`);
  const decline = asked.can_decline
    ? h("button", { type: "button", className: "small", "aria-label": `Decline: ${cut(asked.question, 100)}`, on: { click: () => send(null) } }, "Decline")
    : null;
  if (asked.options.length) {
    return h("span", { className: "answers" }, asked.options.map((option) => h("button", { type: "button", className: "small", "aria-label": `${option}: ${cut(asked.question, 100)}`, on: { click: () => send(option) } }, cut(option, 40))), decline);
  }
  const field = h("input", { type: "text", "aria-label": `Answer to: ${cut(asked.question, 100)}`, required: true });
  const submit = (event) => { event.preventDefault(); send(field.value); };
  return h("form", { className: "answers", on: { submit } }, field, h("button", { type: "submit", className: "small" }, "Answer"), decline);
}
