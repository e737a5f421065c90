// Follows logs: the newest lines at the end, with a search in what was sent, and one that the daemon does.

import { Stream, url } from "./api.js";
import { h, setText, visible } from "./dom.js";
import { clock, count } from "./format.js";
import { virtualTable } from "./table.js";

const MOST_LINES = 5000;
const FIRST_LINES = 500;
const MOST_CHARACTERS = 16384; // of a line that comes in pieces

/** Returns {element, close()}; `params` are those of `log.follow`, `reader` also gets each record of all that is read without a filter. */
export function logs(params, label, reader = null) {
  let lines = [];
  let numbered = 0;
  let source = null;
  let isDue = false;
  let follows = true;
  let missing = [];
  const search = h("input", { type: "search", className: "filter", placeholder: "Search in these lines", "aria-label": "Search in these lines", on: { input: () => draw() } });
  const grep = h("input", { type: "search", className: "filter", placeholder: "Regular expression in all lines", "aria-label": "Regular expression in all lines", on: { change: () => open() } });
  const level = h("select", { "aria-label": "Least level", on: { change: () => open() } }, ["", "debug", "info", "warning", "error"].map((each) => h("option", { value: each }, each || "all levels")));
  const follow = h("button", { type: "button", "aria-pressed": "true", on: { click: () => { follows = !follows; follow.setAttribute("aria-pressed", String(follows)); draw(); } } }, "Follow");
  const note = h("span", { className: "muted", role: "status" });
  const table = virtualTable({
    label, rowHeight: 20, keyOf: (line) => line.number, empty: "No line yet.",
    columns: [
      { key: "at", label: "Time", width: "70px", phone: "62px", text: (line) => clock(line.at).slice(-8) },
      { key: "worker", label: "Worker", width: "130px", low: true, text: (line) => `${line.worker ?? ""}${line.node ? `@${line.node}` : ""}` },
      { key: "text", label: "Line", width: "minmax(0, 1fr)", render: renderLine },
    ],
  });
  table.element.classList.add("log");
  table.element.style.setProperty("--above", "330px");
  const element = h("div", { className: "stack" }, h("div", { className: "bar" }, search, grep, level, follow, note), table.element);

  function renderLine(cell, line) {
    const words = search.value.toLowerCase();
    const key = `${line.number} ${words}`;
    if (cell.shown === key) return;
    cell.shown = key;
    cell.className = "cell log-line";
    cell.dataset.level = line.level ?? "";
    cell.title = line.text.length > 120 ? line.text : "";
    const at = words ? line.text.toLowerCase().indexOf(words) : -1;
    if (at < 0) cell.textContent = visible(line.text);
    else cell.replaceChildren(visible(line.text.slice(0, at)), h("mark", {}, line.text.slice(at, at + words.length)), visible(line.text.slice(at + words.length)));
  }

  function draw() {
    const words = search.value.toLowerCase();
    const rows = words ? lines.filter((line) => line.text.toLowerCase().includes(words)) : lines;
    table.set(rows);
    const away = missing.length ? `, missing: ${missing.join(", ")}` : "";
    setText(note, words ? `${count(rows.length)} of ${count(lines.length)} lines${away}` : `${count(lines.length)} lines${away}`);
    if (follows) table.toEnd();
  }

  function soon() {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => { isDue = false; draw(); });
  }

  function open() {
    source?.close();
    lines = [];
    draw();
    const isWhole = reader && !grep.value && !level.value;
    if (isWhole) reader.clear();
    source = new Stream(url(["logs"], { n: FIRST_LINES, ...params, grep: grep.value, level: level.value }));
    source.addEventListener("log", ({ data }) => {
      for (const record of JSON.parse(data).records) {
        if (isWhole) reader.add(record);
        const last = lines.at(-1);
        const isMore = last?.partial && ["node", "worker", "stream"].every((key) => last[key] === record[key]) && last.text.length < MOST_CHARACTERS;
        record.text = record.text.replaceAll("\n", " ↵ ");
        lines.splice(isMore ? -1 : lines.length, 1, { ...record, text: (isMore ? last.text : "") + record.text, number: (numbered += 1) });
      }
      if (lines.length > MOST_LINES) lines.splice(0, lines.length - MOST_LINES);
      soon();
    });
    source.addEventListener("nodes.missing", ({ data }) => {
      missing = JSON.parse(data).missing_nodes;
      soon();
    });
    source.addEventListener("result", () => source.close());
    source.addEventListener("error", ({ data }) => {
      if (data) source.close();
      if (data) setText(note, JSON.parse(data).message);
      else if (source.isClosed) setText(note, grep.value ? "The daemon refuses that regular expression." : "The log cannot be followed.");
    });
  }
  open();
  return { element, close: () => source?.close() };
}
