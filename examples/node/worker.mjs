// A corral worker in Node without any package: JSON-RPC 2.0, one object per line on stdin and stdout.
// `run` at the end is the part to replace; it may be slow, since heartbeats and cancels go on meanwhile.
import { createInterface } from "node:readline";

let lastId = 0;
const asked = new Map(); // id of our own request -> its promise
const running = new Map(); // id of a request task/run -> AbortController

const send = (message) => process.stdout.write(JSON.stringify({ jsonrpc: "2.0", ...message }) + "\n");
const notify = (method, params) => send({ method, params });

function ask(method, params) {
  const id = ++lastId;
  send({ id, method, params });
  return new Promise((resolve, reject) => asked.set(id, { resolve, reject }));
}

/** What a handler may do with its task. */
class Task {
  constructor(params, signal) {
    Object.assign(this, params, { id: params.task, signal });
  }
  /** Calls a tool of the pool. */
  async tool(name, args = {}) {
    const result = await ask("tools/call", { name, arguments: args, task: this.id });
    if (result.isError) throw new Error(result.content.map((block) => block.text ?? "").join("\n"));
    return result.structuredContent ?? result.content;
  }
  /** Hands work to another agent and returns its output. */
  async delegate(agent, objective, input = null) {
    return (await ask("task/delegate", { agent, objective, input, task: this.id })).output;
  }
  /** Sends a part of the output, text or a JSON value, to those who wait for the task. */
  stream(part) {
    notify("stream", { task: this.id, part });
  }
  /** Reports how far the work is, from 0 to 1. */
  progress(done, message = "") {
    notify("progress", { task: this.id, progress: done, message });
  }
}

const methods = {
  initialize(params) {
    setInterval(() => notify("heartbeat", { busy: running.size > 0 }), params.heartbeat_interval_s * 1000);
    return { protocolVersion: "1", name: "node", version: "1", capabilities: [] };
  },
  ping: () => ({}),
  async "task/run"(params, id) {
    const abort = new AbortController();
    running.set(id, abort);
    try {
      return { output: await run(new Task(params, abort.signal)) };
    } finally {
      running.delete(id);
    }
  },
};

async function answer({ id, method, params = {} }) {
  if (!methods[method]) return send({ id, error: { code: -32601, message: `cannot ${method}` } });
  try {
    send({ id, result: await methods[method](params, id) });
  } catch (error) {
    const code = error.name === "AbortError" ? -33010 : error.code ?? -33013; // cancelled; the task failed
    send({ id, error: { code, message: String(error.message), data: error.data } });
  }
}

function take(message) {
  if (message.method === "shutdown") {
    setInterval(() => running.size || process.exit(0), 10);
  } else if (message.method === "notifications/cancelled") {
    running.get(message.params.requestId)?.abort();
  } else if (message.method && "id" in message) {
    answer(message);
  } else if (!message.method && asked.has(message.id)) {
    const { resolve, reject } = asked.get(message.id);
    asked.delete(message.id);
    message.error ? reject(Object.assign(new Error(message.error.message), message.error)) : resolve(message.result);
  }
}

createInterface({ input: process.stdin })
  .on("line", (line) => take(JSON.parse(line)))
  .on("close", () => process.exit(0)); // the daemon is gone

/** Performs a task: stores the objective in the memory server, and waits as long as it is told. */
async function run(task) {
  task.progress(0.5, "storing it");
  const { id } = await task.tool("cortex__cortex_store", { content: task.objective });
  if (task.input?.wait_s) {
    const { setTimeout: sleep } = await import("node:timers/promises");
    await sleep(task.input.wait_s * 1000, null, { signal: task.signal });
  }
  task.stream(`stored ${id}\n`);
  console.error(`stored ${id}`); // stderr is the log
  return { said: task.objective, attempt: task.attempt };
}
