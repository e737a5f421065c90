// Sends requests to one daemon. client.ts has a method for each operation, and calls `request` and `stream`.

/** Where the daemon is, and the token that it wants. */
export interface ConnectionOptions {
  /** Without a slash at the end. */
  baseUrl?: string;
  token?: string;
  /** In place of the global one. */
  fetch?: typeof fetch;
}

/** What one request has beside its arguments. */
export interface RequestOptions {
  signal?: AbortSignal;
  /** The same key returns the task of an earlier request. */
  idempotencyKey?: string;
  /** The entity tag that a changed spec must still have. */
  ifMatch?: string;
  /** Of a stream: continues after this event. */
  lastEventId?: string;
  headers?: Record<string, string>;
}

/** One event of a stream; `data` is decoded. */
export interface ServerEvent<T = unknown> {
  event: string;
  id: string | undefined;
  data: T;
}

/** A refusal or a failure, as the daemon described it. `name` is its class: NotFound, Conflict, Timeout, … */
export class CorralError extends Error {
  readonly status: number;
  readonly code: number | undefined;
  readonly data: Record<string, unknown>;
  /** Seconds after which it may succeed. */
  readonly retryAfter: number | undefined;

  constructor(status: number, body: unknown, retryAfter?: string | null) {
    const error = (body as { error?: Record<string, unknown> } | null)?.error ?? {};
    super(typeof error.message === "string" ? error.message : `the daemon answered ${status}`);
    this.name = typeof error.name === "string" ? error.name : "CorralError";
    this.status = status;
    this.code = typeof error.code === "number" ? error.code : undefined;
    this.data = (error.data as Record<string, unknown> | undefined) ?? {};
    this.retryAfter = retryAfter ? Number(retryAfter) : undefined;
  }
}

export class Connection {
  readonly baseUrl: string;
  readonly #token: string | undefined;
  readonly #fetch: typeof fetch;

  constructor(options: ConnectionOptions = {}) {
    this.baseUrl = options.baseUrl ?? "http://127.0.0.1:7777";
    this.#token = options.token;
    this.#fetch = options.fetch ?? fetch;
  }

  /** Returns the decoded answer. */
  async request(
    verb: string,
    path: string,
    inQuery: readonly string[],
    args: object,
    options?: RequestOptions,
  ): Promise<unknown> {
    const response = await this.#send(verb, path, inQuery, args, "application/json", options);
    const text = await response.text();
    return text === "" ? undefined : JSON.parse(text);
  }

  /** Yields the events of a stream, until it ends or the caller leaves the loop. */
  async *stream(
    verb: string,
    path: string,
    inQuery: readonly string[],
    args: object,
    options?: RequestOptions,
  ): AsyncGenerator<ServerEvent> {
    const ended = new AbortController();
    const signal = options?.signal ? AbortSignal.any([options.signal, ended.signal]) : ended.signal;
    try {
      const given = { ...options, signal };
      const response = await this.#send(verb, path, inQuery, args, "text/event-stream", given);
      if (response.body !== null) yield* events(response.body);
    } finally {
      ended.abort();
    }
  }

  async #send(
    verb: string,
    path: string,
    inQuery: readonly string[],
    args: object,
    accept: string,
    options: RequestOptions = {},
  ): Promise<Response> {
    const left = new Map(Object.entries(args).filter(([, value]) => value !== undefined));
    const filled = path.replace(/\{(\w+)\}/g, (_, key: string) => {
      const value = left.get(key);
      left.delete(key);
      return encodeURIComponent(String(value));
    });
    const query = new URLSearchParams();
    for (const key of inQuery) {
      const value: unknown = left.get(key);
      left.delete(key);
      if (value === undefined || value === null) continue;
      for (const each of Array.isArray(value) ? value : [value]) query.append(key, String(each));
    }
    const headers: Record<string, string> = { accept, ...options.headers };
    if (this.#token !== undefined) headers.authorization = `Bearer ${this.#token}`;
    if (options.idempotencyKey !== undefined) headers["idempotency-key"] = options.idempotencyKey;
    if (options.ifMatch !== undefined) headers["if-match"] = options.ifMatch;
    if (options.lastEventId !== undefined) headers["last-event-id"] = options.lastEventId;
    const init: RequestInit = { method: verb, headers };
    if (options.signal !== undefined) init.signal = options.signal;
    if (verb !== "GET" && verb !== "DELETE") {
      headers["content-type"] = "application/json";
      init.body = JSON.stringify(Object.fromEntries(left));
    }
    const asked = query.size === 0 ? "" : `?${query}`;
    const response = await this.#fetch(`${this.baseUrl}${filled}${asked}`, init);
    if (response.ok) return response;
    const body: unknown = await response.json().catch(() => null);
    throw new CorralError(response.status, body, response.headers.get("retry-after"));
  }
}

/** Yields the events of a body, as the HTML standard reads them. */
async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const decoder = new TextDecoder();
  let rest = "";
  let event = "message";
  let id: string | undefined;
  let data: string[] = [];
  for await (const chunk of body) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const ended of lines) {
      const line = ended.endsWith("\r") ? ended.slice(0, -1) : ended;
      if (line === "") {
        if (data.length > 0) yield { event, id, data: JSON.parse(data.join("\n")) as unknown };
        event = "message";
        data = [];
        continue;
      }
      const colon = line.indexOf(":");
      const field = colon === -1 ? line : line.slice(0, colon);
      const value = colon === -1 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "data") data.push(value);
      else if (field === "event") event = value;
      else if (field === "id") id = value;
    }
  }
}
