// Begins the page: the session, the stream, the views by the part of the address behind #.

import { get, logOut, session } from "./parts/api.js";
import { show } from "./parts/dialog.js";
import { h, setAttribute, setText } from "./parts/dom.js";
import { listen, KEYS } from "./parts/keys.js";
import { model, needsYou, onChange, problemOf, seed, startSampling } from "./parts/model.js";
import * as stream from "./parts/stream.js";
import * as theme from "./parts/theme.js";
import { agentView } from "./views/agent.js";
import { agentsView, serversView } from "./views/agents.js";
import { eventsView } from "./views/events.js";
import { groupsView } from "./views/groups.js";
import { loginView } from "./views/login.js";
import { nodesView } from "./views/nodes.js";
import { overviewView } from "./views/overview.js";
import { taskView } from "./views/task.js";
import { tasksView } from "./views/tasks.js";

const VIEWS = [
  { path: "", label: "Overview", view: overviewView },
  { path: "agents", label: "Agents", view: agentsView, inner: agentView },
  { path: "servers", label: "MCP servers", view: serversView, inner: agentView },
  { path: "tasks", label: "Tasks", view: tasksView, inner: taskView },
  { path: "groups", label: "Teams and workflows", view: groupsView },
  { path: "events", label: "Events", view: eventsView },
  { path: "nodes", label: "Nodes", view: nodesView, isHidden: () => !model.here },
];

const main = document.getElementById("main");
const nav = document.getElementById("nav");
let shown = null;
let name = "";
let isIn = false;

/** Returns the parts of the address behind #/, and its query. */
function place() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  return { parts, query: new URLSearchParams(query ?? "") };
}

function route() {
  if (!isIn) return;
  if (!model.daemon) {
    mount({ element: h("p", { className: "muted" }, "Connecting"), isWaiting: true });
    return;
  }
  const { parts, query } = place();
  const found = VIEWS.find((each) => each.path === parts[0]) ?? VIEWS[0];
  const inner = parts.slice(1).filter(Boolean);
  for (const link of nav.children) setAttribute(link, "aria-current", link.path === found.path ? "page" : null);
  mount((found.inner && inner.length ? found.inner : found.view)({ parts: inner, query }));
  name = inner[0] ?? found.label;
  entitle();
}

/** Shows in the page's title how much waits for a person. */
function entitle() {
  const needs = needsYou();
  const title = `${needs ? `(${needs}) ` : ""}${name} · corral`;
  if (document.title !== title) document.title = title;
}

/** Views are made with the status at hand: the first one waits for it. */
function begin() {
  if (shown?.isWaiting && model.daemon) route();
}

function mount(view) {
  shown?.close?.();
  shown = view;
  main.replaceChildren(view.element);
  view.update?.();
  scrollTo(0, 0);
}

function frame() {
  if (!isIn) return;
  begin();
  entitle();
  const link = document.getElementById("live");
  setAttribute(link, "data-live", model.isLive ? "yes" : "no");
  setText(link, model.isLive ? "live" : "not connected");
  VIEWS.forEach((each, n) => { nav.children[n].hidden = each.isHidden?.() ?? false; });
  shown?.update?.();
  let wrong = 0;
  for (const entry of model.entries.values()) if (entry.figures && problemOf(entry)) wrong += 1;
  wrong += model.missing.length;
  setAttribute(document.documentElement, "data-wrong", wrong || null);
}

async function enter() {
  let who;
  try {
    who = await get(["whoami"]);
  } catch (error) {
    leave(error.status === 401 ? "" : error.message);
    return;
  }
  isIn = true;
  model.rights = who.rights;
  model.user = who.name;
  model.here = who.agents || who.tenant ? null : who.node; // a session that is restricted has one node's lists
  document.getElementById("header").hidden = false;
  document.getElementById("logout").title = `${who.name}, ${who.rights}`;
  stream.start();
  get(["metrics", "history"], { since: (Date.now() / 1000 - 900).toFixed(0) }).then(({ points }) => seed(points), () => { /* of this page alone: the token is for some agents, or metrics are off */ });
  route();
}

function leave(message = "") {
  isIn = false;
  stream.stop();
  document.getElementById("header").hidden = true;
  mount(loginView(enter, message));
}

for (const each of VIEWS) {
  const link = h("a", { href: `#/${each.path}` }, each.label);
  link.path = each.path;
  nav.append(link);
}
document.getElementById("logout").addEventListener("click", async () => {
  try { await logOut(); } catch { /* a daemon that is gone has no session */ }
  leave();
});
document.getElementById("help").addEventListener("click", showKeys);
theme.begin(document.getElementById("theme"));

function showKeys() {
  show("Keys", h("table", {}, h("tbody", {}, KEYS.map(([key, text]) => h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, key)), h("td", {}, text))))));
}

listen({ help: showKeys, theme: theme.flip, places: VIEWS.map((each) => each.path) });
session.addEventListener("ended", () => { if (isIn) leave("The session is over."); });
addEventListener("hashchange", () => { route(); main.focus({ preventScroll: true }); });
onChange(frame);
startSampling();
enter();
