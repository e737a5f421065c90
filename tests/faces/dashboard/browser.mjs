// Uses the dashboard in a real Chromium, and prints what it found as one JSON object.
//
// node browser.mjs CHROMIUM URL: the tokens come from the environment, as ADMIN_TOKEN and READ_TOKEN.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.MODULES}/`);
const { chromium } = require("playwright-core");
const axe = require("axe-core").source;
const [executablePath, base] = process.argv.slice(2);
const BOUND_MS = 30000;
const found = { errors: [], foreign: [], axe: {}, wide: {} };

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });

async function opened(options = {}) {
  // axe is put into the page, which the page's policy would forbid: the policy itself is checked where it is not bypassed.
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  context.setDefaultTimeout(BOUND_MS);
  const page = await context.newPage();
  page.on("pageerror", (error) => found.errors.push(error.message));
  page.on("console", (message) => { if (message.type() === "error" && !/401|403/.test(message.text())) found.errors.push(message.text()); });
  page.on("request", (request) => { if (!request.url().startsWith(base)) found.foreign.push(request.url()); });
  await page.goto(`${base}/`);
  return page;
}

async function logIn(page, token) {
  await page.fill("#token", token);
  await page.click("button[type=submit]");
  await page.waitForSelector("#header:not([hidden])");
  await page.waitForSelector("#live[data-live=yes]");
}

async function go(page, hash, ready) {
  await page.evaluate((to) => { location.hash = to; }, `#/${hash}`);
  await page.waitForSelector(ready);
}

const cells = (page, row) => page.$$eval(`.vrow:has-text("${row}") .cell`, (all) => all.map((each) => each.textContent.trim()));

// -- an administrator
const page = await opened();
await page.fill("#token", "wrong");
await page.click("button[type=submit]");
await page.waitForFunction(() => document.querySelector("[role=alert]").textContent !== "");
found.wrongToken = await page.textContent("[role=alert]");
await logIn(page, process.env.ADMIN_TOKEN);
await page.waitForSelector(".tile");
await page.waitForFunction(() => document.querySelector("#verdict").textContent.match(/[0-9] problem/));
found.tiles = Object.fromEntries(await page.$$eval(".tile", (all) => all.map((each) => [each.querySelector("dt").textContent, each.querySelector("dd span").textContent])));
found.problems = await page.$$eval(".verdict + section li", (all) => all.map((each) => each.textContent));
found.cookieSeen = await page.evaluate(() => document.cookie);

// -- keys
await page.keyboard.press("2");
await page.waitForSelector(".vrow");
found.agents = await cells(page, "echo");
await page.keyboard.press("?");
await page.waitForSelector("dialog[open]");
await page.keyboard.press("Escape");
await page.keyboard.press("g");
found.focused = await page.evaluate(() => document.activeElement.className);
await page.keyboard.press("j");
await page.keyboard.press("Enter");
await page.waitForFunction(() => location.hash.startsWith("#/agents/"));
found.opened = await page.evaluate(() => location.hash);

// -- a task, from the button to its page
await go(page, "agents/echo", "button.primary");
await page.click("button.primary");
await page.fill("#run-objective", "progress");
await page.fill("#run-input", "{");
await page.click("dialog button[type=submit]");
found.badInput = await page.textContent("dialog [role=alert]");
await page.fill("#run-input", '{"n": 1}');
await page.click("dialog button[type=submit]");
await page.waitForFunction(() => location.hash.startsWith("#/tasks/"));
await page.waitForSelector('.badge[data-state="succeeded"]');
await page.waitForFunction(() => [...document.querySelectorAll(".lane-names div")].some((each) => each.textContent === "look#3"));
found.task = await page.evaluate(() => ({ id: decodeURIComponent(location.hash.split("/")[2]), lanes: [...document.querySelectorAll(".lane-names div")].map((each) => each.textContent) }));
await page.waitForFunction(() => document.querySelector('[aria-label="Output"] pre').textContent.includes('"n": 1'));

// -- stop, with confirmation
await go(page, "agents/echo", 'button[aria-label="Stop echo"]');
await page.click('button[aria-label="Stop echo"]');
await page.click("dialog button.quiet");
found.stillUp = await page.textContent(".bar .badge");
await page.click('button[aria-label="Stop echo"]');
await page.click("dialog button.danger");
await page.waitForSelector('.bar .badge[data-state="Terminated"]');
await page.click('button[aria-label="Start echo"]');
await page.click("dialog button.primary");
await page.waitForSelector('.bar .badge[data-state="Ready"]');

// -- a log line, and what is searched in it
await go(page, "agents/echo/logs", ".vtable");
await page.evaluate(() => fetch("/api/v1/run", { method: "POST", headers: { "content-type": "application/json", "corral-session": localStorage.getItem("corral-session") }, body: JSON.stringify({ agent: "echo", objective: "print", input: 30 }) }));
await page.waitForFunction(() => document.querySelector(".log-line")?.textContent.startsWith("line"));
await page.fill("main input[type=search]", "line 29");
await page.waitForFunction(() => document.querySelectorAll("mark").length === 1);
found.logRows = await page.$$eval(".vrow", (all) => all.length);

// -- questions of tasks are answered; one stays open for the views below
const submit = (objective, input, agent = "questions") => page.evaluate(([objective, input, agent]) => fetch("/api/v1/tasks", { method: "POST", headers: { "corral-session": localStorage.getItem("corral-session"), "content-type": "application/json" }, body: JSON.stringify({ agent, objective, input }) }).then((answer) => answer.json()), [objective, input, agent]);
await go(page, "", ".tile");
const deploy = await submit("Deploy it?", { options: ["yes", "no"] });
await go(page, `tasks/${deploy.id}`, ".question button");
const buttons = await page.$$eval(".question button", (all) => all.map((each) => each.textContent));
await go(page, "", ".tile");
await page.click('button[aria-label="yes: Deploy it?"]');
await page.waitForFunction(() => !document.querySelector(".question"));
const name = await submit("Which name?");
await page.fill('input[aria-label="Answer to: Which name?"]', "corral");
found.questions = await page.$$eval(".question", (all) => all.map((each) => each.textContent));
await page.click(".question button");
await page.waitForFunction(() => !document.querySelector(".question"));
found.answers = await page.evaluate(async (tasks) => Promise.all(tasks.map(async (id) => {
  for (;;) {
    const task = await (await fetch(`/api/v1/tasks/${id}`, { headers: { "corral-session": localStorage.getItem("corral-session") } })).json();
    if (task.finished_at) return task.output;
  }
})), [deploy.id, name.id]);
await submit("Still open?");
await page.waitForSelector(".question");
await page.waitForSelector('.badge[data-state="asks"]');
found.overview = await page.$$eval('[aria-label="Agents"] .list li', (all) => all.map((each) => [...each.children].slice(0, 3).map((cell) => cell.textContent)));

// -- a turn of a coding agent, as a conversation
const turn = await submit("edit", undefined, "writer");
await go(page, `tasks/${turn.id}`, '.badge[data-state="succeeded"]');
await page.waitForFunction(() => document.querySelectorAll(".talk > li:not([hidden])").length === 5);
found.talk = {
  question: buttons,
  plan: await page.$$eval(".plan li", (all) => all.map((each) => each.textContent)),
  entries: await page.$$eval(".talk > li:not([hidden])", (all) => all.map((each) => `${each.className}: ${each.textContent}`)),
};

// -- a table of ten thousand rows has few elements
found.rows = await page.evaluate(async () => {
  const { virtualTable } = await import("/dashboard/parts/table.js");
  const table = virtualTable({ columns: [{ key: "n", label: "N", sort: (each) => each.n, text: (each) => String(each.n) }], label: "many", keyOf: (each) => each.n, open() {} });
  document.querySelector("main").append(table.element);
  table.set(Array.from({ length: 10000 }, (_, n) => ({ n })));
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  const first = table.element.querySelectorAll(".vrow").length;
  table.toEnd();
  await new Promise((resolve) => setTimeout(() => requestAnimationFrame(resolve), 100));
  const last = [...table.element.querySelectorAll(".vrow")].map((each) => Number(each.textContent));
  return { first, last: Math.max(...last), count: table.element.getAttribute("aria-rowcount") };
});

// -- each view for assistive technology, in light and dark, at both widths
const VIEWS = ["", "agents", "agents/echo", "agents/echo/revisions", "agents/echo/configuration", "agents/echo/events", "servers", "tasks", `tasks/${found.task.id}`, `tasks/${turn.id}`, "groups", "events"];
for (const [name, options] of Object.entries({ light: { colorScheme: "light" }, dark: { colorScheme: "dark", viewport: { width: 390, height: 844 } } })) {
  const other = await opened({ ...options, bypassCSP: true });
  await logIn(other, process.env.ADMIN_TOKEN);
  for (const view of name === "light" ? VIEWS : VIEWS.filter((each) => !/^(servers|groups|agents|agents.echo.events)$/.test(each))) {
    await go(other, view, "main > *:not(.muted)");
    await other.evaluate(axe);
    const { violations } = await other.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    const serious = violations.filter((each) => each.impact === "serious" || each.impact === "critical");
    found.axe[`${name} ${view}`] = serious.map((each) => `${each.id}: ${each.nodes.slice(0, 3).map((node) => node.html.slice(0, 200)).join(" | ")}`);
    found.wide[`${name} ${view}`] = await other.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  }
  if (name === "dark") {
    await go(other, "agents/broken", ".vrow");
    found.phoneWorker = await other.$$eval(".vrow .cell", (all) => all.filter((each) => each.offsetParent).map((each) => each.textContent));
  }
  await other.context().close();
}

// -- a reader
const reader = await opened();
await logIn(reader, process.env.READ_TOKEN);
found.readerButtons = [];
for (const view of ["", "agents/echo", "agents/echo/revisions", `tasks/${found.task.id}`, "groups"]) {
  await go(reader, view, "main > *:not(.muted)");
  found.readerButtons.push(...await reader.$$eval("main button", (all) => all.map((each) => each.getAttribute("aria-label") ?? each.textContent).filter((text) => /^(Answer|Run|Start|Stop|Restart|Pause|Resume|Reset|Scale|Cancel|Try|Roll)\b/.test(text))));
}

// -- the end of the session shows the login
await page.evaluate(() => fetch("/dashboard/session", { method: "DELETE", headers: { "corral-session": localStorage.getItem("corral-session") } }));
await page.evaluate(() => { location.hash = "#/tasks"; });
await page.waitForSelector("#token");
await browser.close();
console.log(JSON.stringify(found));
