// Lists the nodes of the cluster: their load, capacity, labels and version, and what runs on each.

import { setDrained } from "../parts/actions.js";
import { get } from "../parts/api.js";
import { badge, h, setBadge, setText } from "../parts/dom.js";
import { count, duration, percent, plural, size } from "../parts/format.js";
import { may, model } from "../parts/model.js";
import { virtualTable } from "../parts/table.js";

const AGAIN_MS = 3000;

/** Returns the view. */
export function nodesView() {
  let nodes = new Map();
  let timer = null;
  const note = h("span", { className: "muted", role: "status" });
  const table = virtualTable({
    label: "Nodes", keyOf: (node) => node.name, order: { key: "name", down: false }, rowHeight: 34,
    empty: "This daemon is in no cluster: write [cluster] in its configuration.",
    open: (node) => { location.hash = `#/agents?filter=${encodeURIComponent(node.name)}`; },
    columns: [
      { key: "name", label: "Node", width: "minmax(110px, 1fr)", phone: "minmax(0, 1fr)", sort: (each) => each.name, text: (each) => (each.here ? `${each.name} (this page)` : each.name) },
      { key: "state", label: "State", width: "100px", sort: (each) => each.state, render: renderState },
      { key: "load", label: "Load", title: "Replicas of placed agents, of the capacity", align: "right", width: "76px", phone: "66px", sort: (each) => each.load / each.capacity, text: (each) => `${count(each.load)}/${count(each.capacity)}` },
      { key: "agents", label: "Agents", title: "Agents that are up, of all", align: "right", width: "70px", low: true, sort: (each) => sumsOf(each).agents, text: (each) => known(each, ({ up, agents }) => `${count(up)}/${count(agents)}`) },
      { key: "running", label: "Running", title: "Tasks that run", align: "right", width: "72px", low: true, sort: (each) => sumsOf(each).running, text: (each) => known(each, ({ running }) => count(running)) },
      { key: "cpu", label: "CPU", title: "CPU of its workers", align: "right", width: "62px", low: true, sort: (each) => sumsOf(each).cpu, text: (each) => known(each, ({ cpu }) => percent(cpu)) },
      { key: "memory", label: "Memory", title: "Memory of its workers", align: "right", width: "76px", low: true, sort: (each) => sumsOf(each).memory, text: (each) => known(each, ({ memory }) => size(memory)) },
      { key: "labels", label: "Labels", width: "minmax(90px, 1fr)", low: true, text: (each) => Object.entries(each.labels).map(([key, value]) => `${key}=${value}`).join(" ") || "-" },
      { key: "version", label: "Version", width: "86px", low: true, text: (each) => each.version },
      { key: "uptime", label: "Uptime", align: "right", width: "80px", low: true, text: (each) => duration(model.nodes.get(each.name)?.daemon.uptime_s ?? null) },
      { key: "actions", label: "", title: "Actions", width: may("admin") ? "84px" : "0px", render: renderActions },
    ],
  });
  table.element.classList.add("fits");
  const element = h("div", { className: "stack" }, h("div", { className: "bar" }, h("h1", {}, "Nodes"), note), table.element);

  async function load() {
    clearTimeout(timer);
    try {
      nodes = new Map((await get(["nodes"])).nodes.map((each) => [each.name, each]));
      setText(note, plural(nodes.size, "node"));
      update();
    } catch (error) { if (error.status !== 404) setText(note, error.message); }
    timer = setTimeout(load, AGAIN_MS);
  }

  function renderActions(cell, node) {
    const verb = node.state === "draining" ? "Resume" : "Drain";
    const isThere = may("admin") && (node.state === "ready" || node.state === "draining");
    const key = isThere ? `${node.name} ${verb}` : "";
    if (cell.of === key) return;
    cell.of = key;
    cell.replaceChildren(...(isThere ? [h("button", { type: "button", className: "small", "aria-label": `${verb} ${node.name}`, on: { click: async (event) => { event.stopPropagation(); if (await setDrained(node.name, verb === "Drain")) load(); } } }, verb)] : []));
  }

  function update() {
    const missing = model.missing.filter((name) => !nodes.has(name)).map((name) => ({ name, capacity: 0, load: 0, labels: {}, version: "-", state: "missing" }));
    table.set([...nodes.values(), ...missing].map((each) => (model.missing.includes(each.name) ? { ...each, state: "missing" } : each)));
  }
  load();
  return { element, update, close: () => clearTimeout(timer) };
}

function renderState(cell, node) {
  if (!cell.badge) cell.append((cell.badge = badge("")));
  setBadge(cell.badge, node.state);
}

function known(node, text) {
  return model.nodes.has(node.name) ? text(sumsOf(node)) : "-";
}

function sumsOf({ name }) {
  const found = { agents: 0, up: 0, running: model.nodes.get(name)?.tasks.running ?? 0, cpu: 0, memory: 0 };
  for (const entry of model.entries.values()) {
    if (entry.node !== name || (entry.kind !== "agent" && entry.kind !== "mcp")) continue;
    if (entry.kind === "agent") { found.agents += 1; found.up += entry.figures.up > 0; }
    found.cpu += entry.figures.cpu;
    found.memory += entry.figures.memory;
  }
  return found;
}
