// Shows what an agent does in a task as a conversation: its plan, messages, thoughts, tool calls and changes of files.
//
// It is read from records of the task's log, by the fields that worker/acp/turn.py gives them.

import { h, setBadge, setText, badge, visible } from "./dom.js";
import { clock } from "./format.js";

const MOST_ENTRIES = 2000;
const MOST_LIVE = 20000; // characters of the message that is being written
const MARKS = { completed: "✓", in_progress: "▸", pending: "○" };

/** Returns the view, hidden until there is something to show: `element`, `add(record)`, `part(text)`, `clear()`, `end()`. */
export function conversation() {
  const plan = h("ol", { className: "plan", "aria-label": "Plan", hidden: true });
  const list = h("ol", { className: "talk" });
  const live = h("li", { className: "said live", hidden: true });
  const element = h("section", { className: "panel", "aria-label": "Conversation", hidden: true }, h("div", { className: "title" }, h("h2", {}, "Conversation")), plan, h("div", { className: "pad", role: "log", "aria-label": "What the agent says and does" }, list));
  const tools = new Map();
  let last = null; // {kind, worker, text, body}: what the next record may go on with
  let written = ""; // parts that no message of the log has yet
  let ahead = 0; // characters of messages whose parts have not come yet, without white space

  function add(record) {
    const { message, tool_call: call, plan: entries, diff, path } = record.fields ?? {};
    if (message === "agent" || message === "thought") say(record, message);
    else if (Array.isArray(entries)) setPlan(entries);
    else if (typeof path === "string") put(makeChange(path, String(diff ?? "")), record);
    else if (typeof call === "string") setTool(record, call);
  }

  function put(entry, record) {
    last = null;
    entry.title = `${clock(record.at)} ${record.worker ?? ""}`;
    live.before(entry);
    element.hidden = false;
    if (list.children.length > MOST_ENTRIES) list.firstElementChild.remove();
  }

  function say(record, kind) {
    const text = kind === "thought" ? record.text.replace(/^thinks: /, "") : record.text;
    if (kind === "agent") {
      ahead += record.text.replace(/\s/g, "").length;
      showLive();
    }
    if (last?.kind === kind && last.worker === record.worker) {
      last.text += text;
    } else {
      const body = h("div", { className: "words" });
      put(kind === "thought" ? h("li", { className: "thought" }, h("details", {}, h("summary", {}, "Thoughts"), body)) : h("li", { className: "said" }, body), record);
      last = { kind, worker: record.worker, text, body };
    }
    last.body.replaceChildren(...worded(last.text));
  }

  function setPlan(entries) {
    plan.hidden = entries.length === 0;
    element.hidden = false;
    plan.replaceChildren(...entries.map(({ content, status }) => h("li", { "data-state": status }, h("span", { className: "mark", "aria-hidden": "true" }, MARKS[status] ?? "○"), h("span", {}, String(content)), h("span", { className: "hidden" }, `, ${String(status).replace("_", " ")}`))));
  }

  function setTool(record, call) {
    const key = `${record.worker} ${call}`;
    let row = tools.get(key);
    if (!row) {
      const kind = record.fields.kind;
      row = h("li", { className: "tool" }, badge(""), kind ? h("span", { className: "kind" }, kind) : null, h("span", { className: "grow" }));
      tools.set(key, row);
      put(row, record);
    }
    setBadge(row.firstChild, STATES[record.fields.status] ?? record.fields.status);
    setText(row.lastChild, record.text);
  }

  /** Takes a part of the message that is being written; null where what is to come does not go on from what came. */
  function part(text) {
    written = text === null ? "" : (written + text).slice(-MOST_LIVE);
    if (text === null) ahead = 0;
    showLive();
  }

  function showLive() {
    let at = 0;
    for (; at < written.length && ahead > 0; at += 1) if (!/\s/.test(written[at])) ahead -= 1;
    written = written.slice(at);
    live.hidden = written.trim() === "";
    live.replaceChildren(...worded(written));
  }

  function clear() {
    tools.clear();
    last = null;
    list.replaceChildren(live);
    part(null);
  }

  clear();
  return { element, add, part, clear };
}

const STATES = { pending: "waits", in_progress: "running", completed: "succeeded", failed: "failed" };

/** Returns the elements of a text: blocks between ``` as they are, `code` within lines. */
function worded(text) {
  return text.split(/^```[^\n]*\n?/m).map((block, n) => {
    if (n % 2) return h("pre", {}, block.trimEnd());
    return block.trim() ? h("p", {}, block.trim().split(/`([^`\n]+)`/).map((each, at) => (at % 2 ? h("code", {}, each) : each))) : null;
  }).filter(Boolean);
}

function makeChange(path, diff) {
  const lines = diff.split("\n");
  const added = lines.filter((line) => line.startsWith("+")).length;
  const gone = lines.filter((line) => line.startsWith("-")).length;
  const counts = diff ? h("span", { className: "counts" }, h("ins", {}, `+${added}`), " ", h("del", {}, `-${gone}`)) : null;
  const name = h("code", {}, path);
  if (!diff) return h("li", { className: "change" }, name);
  const kinds = { "+": "ins", "-": "del", "@": "at" };
  const rows = lines.map((line) => h("span", { className: kinds[line[0]] ?? null }, `${visible(line)}\n`));
  return h("li", { className: "change" }, h("details", { open: lines.length <= 40 }, h("summary", {}, name, counts), h("pre", { tabIndex: 0, role: "region", "aria-label": `Changes of ${path}` }, rows)));
}
