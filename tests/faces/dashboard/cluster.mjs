// Uses the dashboard of one node of a cluster in a real Chromium, and prints what it found as one JSON object.
//
// node cluster.mjs CHROMIUM URL: the token comes from the environment, as ADMIN_TOKEN. A line KILL or START asks for the end and
// the return of the other node.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.MODULES}/`);
const { chromium } = require("playwright-core");
const axe = require("axe-core").source;
const [executablePath, base] = process.argv.slice(2);
const BOUND_MS = 60000;
const found = { errors: [], axe: {} };

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, bypassCSP: true });
context.setDefaultTimeout(BOUND_MS);
const page = await context.newPage();
page.on("pageerror", (error) => found.errors.push(error.message));
await page.goto(`${base}/`);
await page.fill("#token", process.env.ADMIN_TOKEN);
await page.click("button[type=submit]");
await page.waitForSelector("#live[data-live=yes]");

async function go(hash, ready) {
  await page.evaluate((to) => { location.hash = to; }, `#/${hash}`);
  await page.waitForSelector(ready);
}

const rows = () => page.$$eval(".vrow", (all) => all.map((row) => [...row.querySelectorAll(".cell")].map((each) => each.textContent.trim())));
const call = (path, body) => page.evaluate(([path, body]) => {
  const own = { "corral-session": localStorage.getItem("corral-session") };
  const options = body ? { method: "POST", headers: { "content-type": "application/json", ...own }, body: JSON.stringify(body) } : { headers: own };
  return fetch(`/api/v1/${path}`, options).then((answer) => answer.json());
}, [path, body]);

// -- the nodes, and what runs on them
await page.keyboard.press("7");
await page.waitForFunction(() => document.querySelectorAll(".vrow").length === 2);
await page.waitForFunction(() => [...document.querySelectorAll(".vrow .cell")].every((each) => !/(^|\/)-1/.test(each.textContent)));
found.nodes = await rows();
await page.evaluate(axe);
found.axe.nodes = (await page.evaluate(() => globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa"] }))).violations.filter((each) => ["serious", "critical"].includes(each.impact)).map((each) => each.id);
await page.click('button[aria-label="Drain two"]');
await page.click("dialog button.danger");
await page.waitForSelector('.badge[data-state="draining"]');
await page.click('button[aria-label="Resume two"]');
await page.click("dialog button.primary");
await page.waitForFunction(() => document.querySelectorAll('.badge[data-state="ready"]').length === 2);
await go("agents", '.vrow:has-text("second")');
await page.waitForFunction(() => document.querySelectorAll(".vrow").length === 3);
found.agents = (await rows()).map((cells) => cells.slice(0, 2)).sort();

// -- an agent of the other node is stopped and started, and is given a task; one of the same name here is not
await go("agents/same%40two", 'button[aria-label="Stop same"]');
await page.click('button[aria-label="Stop same"]');
await page.click("dialog button.danger");
await page.waitForSelector('.bar .badge[data-state="Terminated"]');
found.stopped = Object.fromEntries((await call("status")).agents.filter((each) => each.name === "same").map((each) => [each.node, each.wanted]));
await page.click('button[aria-label="Start same"]');
await page.click("dialog button.primary");
await page.waitForSelector('.bar .badge[data-state="Ready"], .bar .badge[data-state="Idle"]');
await page.click("button.primary");
await page.fill("#run-objective", "print");
await page.fill("#run-input", "3");
await page.click("dialog button[type=submit]");
await page.waitForFunction(() => location.hash.startsWith("#/tasks/"));
await page.waitForSelector('.badge[data-state="succeeded"]');
await page.waitForFunction(() => document.querySelector(".log-line")?.textContent.startsWith("line"));
await go("agents/same%40two/logs", ".log-line");
found.logs = [...new Set((await rows()).map((cells) => cells[1]))];
await go("tasks", ".vrow");
found.tasks = (await rows()).map((cells) => [cells[2], cells[5]]);
await go("events", ".vrow");
await page.waitForFunction(() => document.querySelector(".vbody").textContent.includes("same-0@two"));

// -- a question of a task of the other node
await go("", ".tile");
const asked = await call("tasks", { agent: "second", objective: "Deploy it?", input: { options: ["yes", "no"] } });
await page.waitForSelector(".question");
found.question = await page.textContent(".question a");
await page.click('button[aria-label="yes: Deploy it?"]');
await page.waitForFunction(() => !document.querySelector(".question"));
for (;;) {
  const task = await call(`tasks/${asked.id}`);
  if (task.finished_at) { found.answer = task.output; break; }
}

// -- the other node dies, and comes back
console.log("KILL");
await page.waitForSelector('.verdict + section .badge:has-text("missing")');
found.problem = await page.textContent(".verdict + section li");
await go("nodes", '.badge[data-state="missing"]');
await go("agents", '.vrow:has-text("same")');
await page.waitForFunction(() => document.querySelectorAll(".vrow").length === 1);
console.log("START");
await page.waitForFunction(() => document.querySelectorAll(".vrow").length === 3);
await go("", ".tile");
await page.waitForFunction(() => document.querySelector("#verdict").textContent === "No problems");
await browser.close();
console.log(JSON.stringify(found));
