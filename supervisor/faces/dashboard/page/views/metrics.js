// Shows the history of an agent or server: its load, its tasks and how long they took.

import { get } from "../parts/api.js";
import { spark } from "../parts/chart.js";
import { h, setText } from "../parts/dom.js";
import { clock, count, milliseconds, percent, size } from "../parts/format.js";

const RANGES = [["1h", 3600], ["6h", 21600], ["24h", 86400], ["7d", 604800]];
const AGAIN_MS = 10000;

const CHARTS = [
  ["CPU", (point) => point.cpu_percent, percent],
  ["Memory", (point) => point.memory_bytes, size],
  ["Tasks or calls ended per minute", (point) => point.executions_per_minute, count],
  ["Failed", (point) => point.failed, count],
  ["p50", (point) => point.p50_ms, milliseconds],
  ["p99", (point) => point.p99_ms, milliseconds],
  ["Queued", (point) => point.queued, count],
  ["Running", (point) => point.running, count],
];

/** Returns {element, close()}. */
export function metricsTab(name, node) {
  let rangeS = RANGES[0][1];
  const note = h("span", { className: "muted", role: "status" });
  const score = h("span", {});
  const chips = h("div", { className: "chips right", role: "group", "aria-label": "Range" }, RANGES.map(([label, seconds]) => h("button", { type: "button", "data-s": seconds, on: { click: () => { rangeS = seconds; load(); } } }, label)));
  const cards = CHARTS.map(([label, valueOf, text]) => {
    const chart = spark(600, 70, `${label} of ${name} over time`);
    const last = h("strong", {});
    const most = h("span", { className: "right muted" });
    return { valueOf, text, chart, last, most, element: h("section", { className: "panel", "aria-label": label }, h("div", { className: "title" }, h("h2", {}, label), last, most), h("div", { className: "pad wide" }, chart.element)) };
  });
  const element = h("div", { className: "stack" }, h("div", { className: "bar" }, score, note, chips), h("div", { className: "grid" }, cards.map((each) => each.element)));

  async function load() {
    for (const chip of chips.children) chip.setAttribute("aria-pressed", String(Number(chip.dataset.s) === rangeS));
    try {
      const since = Date.now() / 1000 - rangeS;
      const [{ points, since: from }, latest] = await Promise.all([get(["metrics", "history"], { agent: name, node, since: since.toFixed(0) }), get(["metrics", "latest"], { names: name, node })]);
      const now = [...latest.agents, ...latest.mcp_servers][0];
      setText(score, now?.health_score == null ? "" : `Health ${now.health_score} of 100`);
      setText(note, !latest.enabled ? "Metrics are off: [monitoring] enable_metrics." : points.length ? `since ${clock(points[0]?.at ?? from)}` : "No data yet.");
      for (const card of cards) {
        const values = points.map(card.valueOf);
        card.chart.set(values.map((value) => value ?? 0));
        setText(card.last, values.length ? card.text(values.at(-1)) : "-");
        setText(card.most, values.length ? `at most ${card.text(Math.max(...values.map((value) => value ?? 0)))}` : "");
      }
    } catch (error) { setText(note, error.message); }
  }
  const timer = setInterval(() => { if (!document.hidden) load(); }, AGAIN_MS);
  load();
  return { element, close: () => clearInterval(timer) };
}
