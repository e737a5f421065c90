// Draws the lives of an agent's workers: their states over time, from stored events and those that come.

import { get } from "./api.js";
import { lanes } from "./chart.js";
import { h } from "./dom.js";
import { clock, duration } from "./format.js";
import { entryOf, onEvents } from "./model.js";

const RANGES = [["10m", 600], ["1h", 3600], ["6h", 21600], ["24h", 86400]];
const MOST_WORKERS = 20;
const MOST_EVENTS = 2000;
const REDRAW_MS = 1000;

/** Returns {element, update(), close()}. */
export function lifelines(name, node, key) {
  const states = new Map();
  let rangeS = RANGES[0][1];
  let drawnAt = 0;
  let version = 0;
  let drawn = "";
  const chips = h("div", { className: "chips right", role: "group", "aria-label": "Range" }, RANGES.map(([label, seconds]) => h("button", { type: "button", "data-s": seconds, on: { click: () => { rangeS = seconds; load(); } } }, label)));
  const place = h("div", { className: "pad" });
  const legend = h("p", { className: "legend pad" }, "Busy times are shown only since you opened this page.");
  const element = h("section", { className: "panel", "aria-label": "States of the workers over time" }, h("div", { className: "title" }, h("h2", {}, "States over time"), chips), place, legend);

  function take(event) {
    if (event.type !== "worker.state" || event.agent !== name || (node && event.node !== node)) return;
    const life = states.get(event.worker) ?? [];
    if (life.length && life.at(-1).seq >= event.seq) return;
    life.push({ seq: event.seq, at: Date.parse(event.at), from: event.from, state: event.to, reason: event.reason });
    states.set(event.worker, life);
    version += 1;
  }
  const end = onEvents((events) => events.forEach(take));

  async function load() {
    for (const chip of chips.children) chip.setAttribute("aria-pressed", String(Number(chip.dataset.s) === rangeS));
    try {
      const since = Date.now() / 1000 - rangeS;
      const found = await get(["events"], { agent: name, node, types: "worker.state", since_time: since.toFixed(3), n: MOST_EVENTS });
      const live = [...states.values()].flat().length ? new Map(states) : null;
      states.clear();
      found.events.forEach(take);
      const newest = found.events.at(-1)?.seq ?? 0;
      for (const [worker, life] of live ?? []) for (const each of life) if (each.seq > newest) take({ type: "worker.state", agent: name, node, worker, seq: each.seq, at: new Date(each.at).toISOString(), from: each.from, to: each.state, reason: each.reason });
      drawn = "";
      draw();
    } catch (error) { place.textContent = error.message; }
  }

  function draw() {
    const workers = (entryOf(key)?.workers ?? []).slice(0, MOST_WORKERS);
    const now = Date.now();
    const from = now - rangeS * 1000;
    const rows = workers.map((worker) => ({ label: worker.id, spans: spansOf(states.get(worker.id) ?? [], worker, from, now) }));
    if (!rows.length) { place.textContent = "It has no worker."; return; }
    const { chart, axis } = lanes({ lanes: rows, from, to: now, label: `States of ${rows.length} workers of ${name} over time`, tickText: (at) => clock(new Date(at).toISOString()).slice(0, rangeS > 900 ? -3 : undefined) });
    place.replaceChildren(h("div", { className: "laned" }, h("div", { className: "lane-names" }, rows.map((row) => h("div", { title: row.label }, row.label))), h("div", {}, chart, axisElement(axis))));
  }
  load();
  return {
    element,
    update() {
      const now = Date.now();
      const key = String(version);
      if (now - drawnAt < REDRAW_MS || (drawn === key && now - drawnAt < REDRAW_MS * 5)) return;
      drawnAt = now;
      drawn = key;
      draw();
    },
    close: end,
  };
}

/** Returns the spans of a worker between two times; before its first change it was in the state that it left then. */
export function spansOf(life, worker, from, to) {
  const spans = [];
  const add = (start, end, state, reason) => {
    if (end > from && state) spans.push({ from: start, to: end, kind: state, title: `${worker.id} ${state}, ${duration((end - start) / 1000)}${reason ? `: ${reason}` : ""}` });
  };
  if (!life.length) { add(from, to, worker.state, worker.reason); return spans; }
  if (life[0].from !== "Initial") add(from, life[0].at, life[0].from, "");
  life.forEach((each, n) => add(each.at, life[n + 1]?.at ?? to, each.state, each.reason));
  return spans;
}

/** Returns the times below a chart. */
export function axisElement(axis) {
  return h("div", { className: "axis", "aria-hidden": "true" }, axis.map(({ share, text }) => {
    const tick = h("span", {}, text);
    tick.style.left = `${share * 100}%`;
    return tick;
  }));
}
