// Lists events: stored ones, then each as it comes; filtered by type, agent and text; it can be held still.

import { get } from "../parts/api.js";
import { h, setText } from "../parts/dom.js";
import { eventKey, eventSubject, eventTarget, eventText } from "../parts/event_text.js";
import { clock, count } from "../parts/format.js";
import { onEvents } from "../parts/model.js";
import { virtualTable } from "../parts/table.js";

const MOST = 5000;
const PAGE = 500;

/** Returns the view. */
export function eventsView({ query }) {
  const inner = eventTable({ withAgent: true, text: query.get("filter") ?? "" });
  return { ...inner, element: h("div", { className: "stack" }, h("div", { className: "bar" }, h("h1", {}, "Events")), inner.element) };
}

/** Returns a table of events, of one agent or all. */
export function eventTable({ agent = "", node = null, withAgent = false, text = "" }) {
  let rows = [];
  let held = [];
  let isHeld = false;
  let missed = 0;
  let version = 0;
  let drawn = "";
  const filter = h("input", { type: "search", className: "filter", placeholder: "Filter by type, agent, words", "aria-label": "Filter events", value: text, on: { input: () => { version += 1; update(); } } });
  const quiet = h("input", { type: "checkbox", id: "quiet", checked: true, on: { change: () => { version += 1; update(); } } });
  const hold = h("button", { type: "button", "aria-pressed": "false", on: { click: toggle } }, "Hold");
  const note = h("span", { className: "muted", role: "status" });
  const table = virtualTable({
    label: "Events", keyOf: eventKey, rowHeight: 28, empty: "No event matches.",
    columns: [
      { key: "at", label: "Time", width: "126px", phone: "62px", text: (event) => clock(event.at) },
      { key: "type", label: "Type", width: "minmax(130px, 0.7fr)", low: true, text: (event) => event.type },
      { key: "about", label: "About", width: "minmax(110px, 0.7fr)", phone: "minmax(0, 0.8fr)", render: renderAbout },
      { key: "text", label: "Event", width: "minmax(140px, 3fr)", phone: "minmax(0, 1.6fr)", render: renderText },
    ],
  });
  table.element.style.setProperty("--above", withAgent ? "200px" : "330px");
  const element = h("div", { className: "stack" }, h("div", { className: "bar" }, filter, h("label", { className: "check" }, quiet, "Without Busy, Idle and progress"), hold, note), table.element);

  function toggle() {
    isHeld = !isHeld;
    hold.setAttribute("aria-pressed", String(isHeld));
    if (!isHeld) { add(held); held = []; }
    version += 1;
    update();
  }

  function add(events) {
    rows = [...[...events].reverse(), ...rows].slice(0, MOST);
    version += 1;
  }
  const end = onEvents((events, skipped) => {
    missed += skipped;
    const ours = agent ? events.filter((event) => event.agent === agent && (!node || event.node === node)) : events;
    if (isHeld) held = [...held, ...ours].slice(-MOST);
    else add(ours);
  });
  get(["events"], { n: PAGE, agent, node }).then(({ events }) => {
    const known = new Set(rows.map(eventKey));
    rows = [...rows, ...events.filter((event) => !known.has(eventKey(event))).reverse()].slice(0, MOST);
    version += 1;
    update();
  }, (error) => setText(note, error.message));

  function update() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const key = `${version} ${quiet.checked}`;
    if (key === drawn) return;
    drawn = key;
    const fits = rows.filter((event) => !(quiet.checked && isNoise(event)) && (!words.length || words.every((word) => textOf(event).includes(word))));
    table.set(fits);
    setText(note, `${count(fits.length)} shown${isHeld ? `, ${count(held.length)} held back` : ""}${missed ? `, ${count(missed)} were too many to be sent` : ""}`);
  }
  return { element, update, close: end };
}

function isNoise(event) {
  return event.type === "task.progress" || (event.type === "worker.state" && (event.to === "Busy" || (event.to === "Idle" && event.from === "Busy")));
}

function textOf(event) {
  return `${event.type} ${event.agent ?? ""} ${event.worker ?? ""} ${event.task ?? ""} ${event.node ?? ""} ${eventText(event)}`.toLowerCase();
}

function renderAbout(cell, event) {
  if (!cell.link) cell.append((cell.link = h("a", {})));
  const target = eventTarget(event);
  if (target) cell.link.href = target;
  else cell.link.removeAttribute("href");
  setText(cell.link, eventSubject(event));
}

function renderText(cell, event) {
  const text = eventText(event);
  setText(cell, text);
  cell.title = text;
}
