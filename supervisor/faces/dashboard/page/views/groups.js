// Shows teams and workflows as graphs, with the tasks of them that run now.

import { run } from "../parts/actions.js";
import { get } from "../parts/api.js";
import { badge, h, setText } from "../parts/dom.js";
import { clock, plural } from "../parts/format.js";
import { graph } from "../parts/graph.js";
import { entriesOf, entryOf, may, model, onEvents } from "../parts/model.js";

const MOST_RUNS = 5;
const SOON_MS = 300;

/** Returns the view. */
export function groupsView() {
  const place = h("div", { className: "stack" });
  const element = h("div", { className: "stack" }, h("div", { className: "bar" }, h("h1", {}, "Teams and workflows")), place);
  const cards = new Map();
  const end = onEvents((events, skipped) => {
    for (const card of cards.values()) if (skipped || events.some((event) => event.agent === card.name || card.runs.has(event.task) || card.runs.has(event.parent))) card.soon();
  });

  function update() {
    const groups = entriesOf("team", "workflow").sort((a, b) => b.running - a.running || a.name.localeCompare(b.name));
    for (const [key, card] of cards) if (!model.entries.has(key)) { card.element.remove(); cards.delete(key); }
    for (const group of groups) {
      if (!cards.has(group.key)) {
        const card = makeCard(group);
        cards.set(group.key, card);
        place.append(card.element);
      }
      cards.get(group.key).update(group);
    }
    if (!groups.length && model.daemon && !place.childElementCount) place.append(h("p", { className: "empty panel none" }, "There is no team, and no workflow."));
    if (groups.length) place.querySelector(".none")?.remove();
  }
  return { element, update, close() { end(); for (const card of cards.values()) card.close(); } };
}

function makeCard(group) {
  const { name, kind, node = null } = group;
  const state = h("span", { className: "muted" });
  const picture = h("div", { className: "pad" });
  const list = h("ul", { className: "list" });
  const button = may("operate") ? h("button", { type: "button", className: "small", "aria-label": `Run ${name}`, on: { click: () => run(name, node) } }, "Run") : null;
  const element = h("section", { className: "panel", "aria-label": name }, h("div", { className: "title" }, h("h2", {}, group.title || name), h("span", { className: "muted" }, `${kind === "team" ? `team, ${group.mode}` : "workflow"}${node ? ` on ${node}` : ""}`), state, h("span", { className: "right" }, button)), picture, list);
  const runs = new Set();
  let spec = null;
  let timer = null;
  let current = null;
  let below = [];

  async function load() {
    timer = null;
    try {
      spec ??= (await get([kind === "team" ? "teams" : "workflows", name], { node })).spec;
      const { tasks } = await get(["tasks"], { agent: name, node, limit: MOST_RUNS });
      runs.clear();
      tasks.forEach((task) => runs.add(task.id));
      [current] = tasks;
      below = current ? (await get(["tasks"], { parent: current.id, node, limit: 200 })).tasks : [];
      draw(tasks);
    } catch (error) { setText(state, error.message); }
  }

  function draw(tasks) {
    const nodes = kind === "team" ? teamNodes(group, below, current) : stepNodes(spec, below, current);
    picture.replaceChildren(graph(nodes, `Graph of ${name}`));
    list.replaceChildren(...tasks.map((task) => h("li", {}, badge(task.state), h("a", { className: "name mono", href: `#/tasks/${encodeURIComponent(task.id)}` }, task.id), h("span", { className: "grow" }, task.objective), h("span", { className: "when" }, clock(task.created_at)))));
  }
  load();
  return {
    element, runs, name,
    soon() { timer ??= setTimeout(load, SOON_MS); },
    update(now) { if (now !== group) { group = now; setText(state, now.running ? `${plural(now.running, "task")} under way` : ""); } },
    close() { clearTimeout(timer); },
  };
}

/** Returns the newest state of the tasks of one step or member. */
function stateOfTasks(tasks) {
  for (const state of ["running", "queued", "failed", "timeout", "succeeded"]) if (tasks.some((task) => task.state === state)) return { timeout: "failed", queued: "running" }[state] ?? state;
  return "";
}

function stepNodes(spec, below, current) {
  const isOver = current && current.state !== "running" && current.state !== "queued";
  return (spec.steps ?? []).map((step) => {
    const text = JSON.stringify({ ...step, name: "", after: [] });
    const used = [...text.matchAll(/steps\.([A-Za-z][\w-]*)/g)].map((match) => match[1]);
    const tasks = below.filter((task) => task.step === step.name || task.step.startsWith(`${step.name}[`) || task.step.startsWith(`${step.name}.`));
    const ran = stateOfTasks(tasks);
    const target = step.agent ?? step.capability ?? step.workflow ?? step.tool ?? "";
    return { name: step.name, title: step.name, sub: target, state: ran || (isOver && current ? "skipped" : ""), needs: [...new Set([...(step.after ?? []), ...used])], href: tasks[0] ? `#/tasks/${encodeURIComponent(tasks[0].id)}` : step.agent ? `#/agents/${encodeURIComponent(step.agent)}` : null };
  });
}

function teamNodes(team, below, current) {
  const stateOf = (name) => stateOfTasks(below.filter((task) => task.agent === name));
  const nodes = [];
  const isRunning = current && (current.state === "running" || current.state === "queued");
  const root = team.lead ?? team.name;
  nodes.push({ name: `lead ${root}`, title: root, sub: team.lead ? "lead" : team.mode, state: team.lead ? stateOf(root) || (isRunning ? "running" : "") : isRunning ? "running" : "", needs: [], href: team.lead ? `#/agents/${encodeURIComponent(root)}` : null });
  for (const name of team.members) {
    const kind = entryOf(name)?.kind;
    nodes.push({ name, title: name, sub: entryOf(name)?.state ?? kind ?? "", state: stateOf(name), needs: [`lead ${root}`], href: kind === "agent" ? `#/agents/${encodeURIComponent(name)}` : null });
  }
  return nodes;
}
