// Asks the daemon: the method table under /api/v1, with the cookie of the session and the word that is this origin's alone.

const BASE = "/api/v1";
const SESSION = "/dashboard/session";
const HEADER = "corral-session";
const AGAIN_MS = 1000;

/** An answer that is an error: `status` of HTTP, `name` and `data` of the error. */
export class Failure extends Error {
  constructor(status, record) {
    super(record.message ?? `the daemon answered ${status}`);
    this.status = status;
    this.name = record.name ?? "Error";
    this.data = record.data ?? {};
  }
}

/** Dispatches `ended` when the session is over. */
export const session = new EventTarget();

// The word of the session: a browser sends the cookie to every port of this host, but gives what is stored to this origin alone.
let word = "";

function known() {
  try { return localStorage.getItem(HEADER) ?? word; } catch { return word; }
}

function keep(given) {
  word = given;
  try { localStorage.setItem(HEADER, given); } catch { /* it lasts as long as the page */ }
}

async function ask(verb, path, body, signal, node) {
  const options = { method: verb, headers: { accept: "application/json", [HEADER]: known() }, signal, credentials: "same-origin" };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] = "application/json";
  }
  if (node) options.headers["corral-node"] = node;
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, { name: "Unreachable", message: "cannot reach the daemon" });
  }
  if (path === SESSION && response.ok) keep(response.headers.get(HEADER) ?? "");
  if (response.status === 204) return null;
  const text = await response.text();
  let value = {};
  try { value = JSON.parse(text); } catch { /* an answer of something between: only its status is known */ }
  if (response.ok) return value;
  if (response.status === 401 && path !== SESSION) session.dispatchEvent(new Event("ended"));
  throw new Failure(response.status, value.error ?? {});
}

function query(params) {
  const words = new URLSearchParams();
  for (const [key, value] of Object.entries(params ?? {})) {
    if (value == null || value === "") continue;
    for (const each of Array.isArray(value) ? value : [value]) words.append(key, each);
  }
  const text = words.toString();
  return text ? `?${text}` : "";
}

/** Returns the path of `/api/v1`, whose parts are encoded, with a query. */
export function url(parts, params) {
  return `${BASE}/${parts.map(encodeURIComponent).join("/")}${query(params)}`;
}

export const get = (parts, params, signal) => ask("GET", url(parts, params), undefined, signal);
/** `node` is the node of the cluster that is to answer; null for the one that has what the call is about. */
export const post = (parts, body = {}, node = null) => ask("POST", url(parts), body, undefined, node);
export const remove = (parts, node = null) => ask("DELETE", url(parts), undefined, undefined, node);
export const logIn = (token) => ask("POST", SESSION, { token });
export const logOut = () => ask("DELETE", SESSION);

/**
 * Follows a stream of server-sent events as EventSource does, which cannot send a header: dispatches each event by its name,
 * and `error` when the connection is lost, after which it begins again at its place, or refused, after which it is closed.
 */
export class Stream extends EventTarget {
  #path;
  #aborted = new AbortController();
  #last = "";
  #waitMs = AGAIN_MS;

  constructor(path) {
    super();
    this.#path = path;
    this.#run();
  }

  get isClosed() { return this.#aborted.signal.aborted; }

  close() { this.#aborted.abort(); }

  async #run() {
    while (!this.isClosed) {
      try {
        const headers = { accept: "text/event-stream", [HEADER]: known(), ...(this.#last && { "last-event-id": this.#last }) };
        const response = await fetch(this.#path, { headers, signal: this.#aborted.signal, credentials: "same-origin", cache: "no-store" });
        if (response.ok && response.status !== 204) await this.#read(response.body);
        else this.close();
        this.dispatchEvent(new Event("error"));
      } catch {
        if (this.isClosed) return;
        this.dispatchEvent(new Event("error"));
      }
      if (!this.isClosed) await new Promise((resolve) => setTimeout(resolve, this.#waitMs));
    }
  }

  async #read(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const events = (rest + part.value).split("\n\n");
      rest = events.pop();
      for (const each of events) this.#take(each);
    }
  }

  #take(text) {
    let name = "message";
    const data = [];
    for (const line of text.split("\n")) {
      const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
      if (field === "event") name = value;
      else if (field === "data") data.push(value);
      else if (field === "id") this.#last = value;
      else if (field === "retry") this.#waitMs = Number(value) || AGAIN_MS;
    }
    if (data.length && !this.isClosed) this.dispatchEvent(new MessageEvent(name, { data: data.join("\n") }));
  }
}
