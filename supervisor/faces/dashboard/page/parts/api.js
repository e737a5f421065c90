// Asks the daemon: the method table under /api/v1, with the cookie of the session.

const BASE = "/api/v1";
const SESSION = "/dashboard/session";

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

async function ask(verb, path, body, signal, node) {
  const options = { method: verb, headers: { accept: "application/json" }, signal, credentials: "same-origin" };
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
