// Draws small SVG: spark lines, the life of a worker, and the waterfall of a task.

import { s, setAttribute } from "./dom.js";

/** Returns an element that draws a series: {element, set(points)}; its scale begins at 0. */
export function spark(width = 96, height = 22, label = "") {
  const line = s("polyline", { class: "spark-line" });
  const area = s("polygon", { class: "spark-area" });
  const element = s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, preserveAspectRatio: "none", role: "img", "aria-label": label }, area, line);
  let shown = null;
  return {
    element,
    set(points, most) {
      const key = `${points.length}:${points[points.length - 1]}:${points[0]}`;
      if (key === shown) return;
      shown = key;
      if (points.length < 2) { setAttribute(line, "points", ""); setAttribute(area, "points", ""); return; }
      const top = Math.max(most ?? 0, ...points) || 1;
      const step = width / (points.length - 1);
      const places = points.map((value, n) => `${(n * step).toFixed(1)},${(height - 1 - (value / top) * (height - 2)).toFixed(1)}`);
      setAttribute(line, "points", places.join(" "));
      setAttribute(area, "points", `0,${height} ${places.join(" ")} ${width},${height}`);
    },
  };
}

const TICKS_S = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800];

/** Returns times (ms) between two, at round distances, at most `most` of them. */
export function ticks(fromMs, toMs, most) {
  const distance = (TICKS_S.find((each) => (toMs - fromMs) / 1000 / each <= most) ?? TICKS_S.at(-1)) * 1000;
  const found = [];
  for (let at = Math.ceil(fromMs / distance) * distance; at <= toMs; at += distance) found.push(at);
  return found;
}

/** Draws spans of time in lanes: `lanes` are [{label, spans: [{from, to, kind, title}]}], times in ms; ticks are round from `base` on. */
export function lanes({ lanes: rows, from, to, label, tickText, base = 0, laneHeight = 22, onClick }) {
  const width = 1000;
  const place = (ms) => ((Math.min(Math.max(ms, from), to) - from) / Math.max(1, to - from)) * width;
  const height = rows.length * laneHeight + 20;
  const chart = s("svg", { class: "lanes", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", height, role: "img", "aria-label": label });
  const marks = ticks(from - base, to - base, 8).map((at) => at + base);
  for (const at of marks) chart.append(s("line", { class: "tick", x1: place(at), x2: place(at), y1: 0, y2: height - 18 }));
  rows.forEach((row, n) => {
    for (const span of row.spans) {
      const x = place(span.from);
      const title = s("title");
      title.textContent = span.title;
      const bar = s("rect", { class: "span", "data-state": span.kind, x, y: n * laneHeight + 4, width: Math.max(1.5, place(span.to) - x), height: laneHeight - 8 }, title);
      if (onClick && span.id) { bar.addEventListener("click", () => onClick(span.id)); bar.classList.add("link"); }
      chart.append(bar);
    }
  });
  const axis = marks.map((at) => ({ at, share: (at - from) / Math.max(1, to - from), text: tickText(at) }));
  return { chart, axis, height };
}
