// Changes something, after it was confirmed: start, stop, restart, pause, scale, run, cancel, retry, roll back.

import { post, remove } from "./api.js";
import { ask, notice } from "./dialog.js";
import { h } from "./dom.js";
import { may } from "./model.js";

/** Returns the words for a node. */
const on = (node) => (node ? ` on ${node}` : "");

const VERBS = {
  start: { done: "started", text: "It is started, and restarted when it fails." },
  stop: { done: "stopped", danger: true, text: "Its workers end, each within its grace period. It stays down until it is started." },
  restart: { done: "restarted", text: "Its workers are stopped and started again. A running task is queued again unless it ends in time." },
  pause: { done: "paused", text: "All its processes are frozen until it is resumed." },
  resume: { done: "resumed", text: "Its processes run again." },
  reset: { done: "reset", text: "Its failures are forgotten. If it should be running, it starts again." },
};

/** Awaits what `doing` sends, and notes `done` or the error; returns the result, or null. */
export async function attempt(doing, done) {
  try {
    const result = await doing();
    notice(done);
    return result ?? true;
  } catch (error) {
    notice(error.message, true);
    return null;
  }
}

/** Starts, stops, restarts, pauses, resumes or resets an agent, server or worker. */
export async function operate(verb, name, node = null) {
  const { done, danger, text } = VERBS[verb];
  const label = verb[0].toUpperCase() + verb.slice(1);
  if (!(await ask({ title: `${label} ${name}${on(node)}?`, children: [h("p", {}, text)], confirm: label, danger }))) return;
  notice(`${label}: ${name} …`);
  await attempt(() => post(["agents", name, verb], {}, node), `${name} was ${done}.`);
}

/** Returns a button for a verb; null where the session may not use it. */
export function verbButton(verb, name, { small = false, node = null } = {}) {
  if (!may("operate")) return null;
  const label = verb[0].toUpperCase() + verb.slice(1);
  return h("button", { type: "button", className: small ? "small" : "", "aria-label": `${label} ${name}`, on: { click: () => operate(verb, name, node) } }, label);
}

/** Asks for the number of workers of an agent. */
export async function scale(name, now, node = null) {
  const field = h("input", { type: "number", min: 0, max: 1000, value: now, required: true, id: "scale-number" });
  const isSure = await ask({ title: `Scale ${name}`, children: [h("label", { for: "scale-number" }, "Number of workers"), field], confirm: "Scale", check: () => (field.checkValidity() ? null : "It is a number from 0 to 1000.") });
  if (isSure) await attempt(() => post(["agents", name, "scale"], { instances: Number(field.value) }, node), `${name} has ${field.value} workers.`);
}

/** Asks for a task, submits it and opens it. */
export async function run(name, node = null) {
  const objective = h("textarea", { id: "run-objective", rows: 3, required: true });
  const input = h("textarea", { id: "run-input", rows: 3, placeholder: "JSON, or empty", spellcheck: false });
  const priority = h("input", { type: "number", id: "run-priority", min: 1, max: 10, value: 5 });
  let params = null;
  const check = () => {
    params = { agent: name, objective: objective.value, priority: Number(priority.value) };
    if (!input.value.trim()) return null;
    try { params.input = JSON.parse(input.value); } catch (error) { return `The input is no JSON: ${error.message}`; }
    return null;
  };
  const children = [h("label", { for: "run-objective" }, "Objective"), objective, h("label", { for: "run-input" }, "Input"), input, h("label", { for: "run-priority" }, "Priority, 10 is the most urgent"), priority];
  if (!(await ask({ title: `Run a task of ${name}`, children, confirm: "Run", check }))) return;
  const task = await attempt(() => post(["tasks"], params, node), "The task was queued.");
  if (task?.id) location.hash = `#/tasks/${encodeURIComponent(task.id)}`;
}

/** Cancels a task and those that it delegated. */
export async function cancel(id) {
  const isSure = await ask({ title: "Cancel the task?", children: [h("p", {}, h("code", {}, id)), h("p", {}, "Tasks that it delegated are cancelled, too.")], confirm: "Cancel the task", danger: true });
  if (isSure) await attempt(() => remove(["tasks", id]), "The task was cancelled.");
}

/** Queues an ended task once more, as a new task. */
export async function retry(id) {
  if (!(await ask({ title: "Try the task again?", children: [h("p", {}, "A new task takes its place.")], confirm: "Try again" }))) return;
  const found = await attempt(() => post(["tasks", id, "retry"]), "The task was queued again.");
  const [failed] = found?.failed ?? [];
  if (failed) notice(failed.error.message, true);
  else if (found?.retried?.[0]) location.hash = `#/tasks/${encodeURIComponent(found.retried[0].by)}`;
}

/** Puts an earlier revision in force again. */
export async function rollback(name, revision, node = null) {
  const isSure = await ask({ title: `Roll ${name} back to revision ${revision}?`, children: [h("p", {}, "Its table is put in force as a new revision. New workers come up beside the present ones, which then finish.")], confirm: "Roll back", danger: true });
  if (!isSure) return null;
  notice(`Rolling back ${name} …`);
  return attempt(() => post(["agents", name, "rollback"], { revision }, node), `${name} has the table of revision ${revision}.`);
}

/** Drains a node, or lets it get replicas again. */
export async function setDrained(node, isDrained) {
  const verb = isDrained ? "drain" : "resume";
  const text = isDrained ? "Its replicas of placed agents go to other nodes, and it gets no new ones until it is resumed. Its own agents go on." : "It gets replicas of placed agents again.";
  const isSure = await ask({ title: `${isDrained ? "Drain" : "Resume"} node ${node}?`, children: [h("p", {}, text)], confirm: isDrained ? "Drain" : "Resume", danger: isDrained });
  return isSure && attempt(() => post(["nodes", node, verb]), `Node ${node} is ${isDrained ? "draining" : "ready"}.`);
}
