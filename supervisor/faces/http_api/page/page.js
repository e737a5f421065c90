// Shows /openapi.json: operations by tag, with a form to try each, and the schemas. The token stays in its field.

const byId = (id) => document.getElementById(id);

/** Returns an element; `properties` are set on it, children are elements or text. */
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Returns the type of a schema as short text. */
function typeText(schema, depth = 0) {
  if (!schema || Object.keys(schema).length === 0) return "any";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return [...new Set(choices.map((each) => typeText(each, depth)))].join(" | ");
  if (Array.isArray(schema.type)) return schema.type.join(" | ");
  if (schema.type === "array") return `[${typeText(schema.items, depth)}]`;
  if (schema.type === "object" && schema.properties) return objectText(schema, depth);
  if (schema.type === "object") return `{ [key]: ${typeText(schema.additionalProperties, depth)} }`;
  return schema.type ?? "any";
}

function objectText(schema, depth) {
  const indent = "  ".repeat(depth + 1);
  const required = new Set(schema.required ?? []);
  const lines = Object.entries(schema.properties).map(([key, each]) => {
    const limits = limitText(each);
    return `${indent}${key}${required.has(key) ? "" : "?"}: ${typeText(each, depth + 1)}${limits && `  # ${limits}`}`;
  });
  return ["{", ...lines, `${"  ".repeat(depth)}}`].join("\n");
}

const LIMITS = ["default", "minimum", "exclusiveMinimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern"];

function limitText(schema) {
  const choices = [schema, ...(schema.anyOf ?? [])];
  const found = choices.flatMap((each) => LIMITS.filter((key) => key in each).map((key) => `${key} ${JSON.stringify(each[key])}`));
  return found.join(", ");
}

function resolve(spec, value) {
  if (!value?.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((part, key) => part[key], spec);
}

/** Returns the rows of the parameters, and what their fields hold. */
function parameterForm(operation) {
  const fields = [];
  const rows = (operation.parameters ?? []).map((parameter) => {
    const input = make("input", { className: "value", placeholder: typeText(parameter.schema), ariaLabel: parameter.name });
    fields.push({ parameter, input });
    const about = [parameter.in, parameter.required ? "required" : "", limitText(parameter.schema), parameter.description ?? ""];
    return make("tr", {},
      make("th", {}, make("code", {}, parameter.name)),
      make("td", {}, input),
      make("td", { className: "muted" }, about.filter(Boolean).join(", ")));
  });
  return { fields, table: rows.length ? make("table", {}, ...rows) : null };
}

/** Returns address, headers and body of the request that the form describes. */
function requestOf(path, verb, fields, body, stream) {
  const query = new URLSearchParams();
  const headers = { accept: stream ? "text/event-stream" : "application/json" };
  let address = path;
  for (const { parameter, input } of fields) {
    const value = input.value;
    if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (value === "") continue;
    else if (parameter.in === "header") headers[parameter.name] = value;
    else if (typeText(parameter.schema).startsWith("[")) value.split(",").forEach((each) => query.append(parameter.name, each.trim()));
    else query.append(parameter.name, value);
  }
  const token = byId("token").value;
  if (token) headers.authorization = `Bearer ${token}`;
  const request = { method: verb.toUpperCase(), headers };
  if (body !== null && body.value.trim()) {
    request.body = body.value;
    headers["content-type"] = "application/json";
  }
  const asked = query.toString();
  return [asked ? `${address}?${asked}` : address, request];
}

const MAX_SHOWN = 200000;

/** Number of lines of a body that are shown at once. */
const MAX_ROWS = 24;

async function showAnswer(output, response, since) {
  const head = `${response.status} ${response.statusText}, ${Math.round(performance.now() - since)} ms\n\n`;
  if (!(response.headers.get("content-type") ?? "").startsWith("text/event-stream")) {
    const text = await response.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* it is shown as it came */ }
    output.textContent = head + shown.slice(0, MAX_SHOWN);
    return;
  }
  output.textContent = head;
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    output.textContent = (output.textContent + decoder.decode(value, { stream: true })).slice(-MAX_SHOWN);
    output.scrollTop = output.scrollHeight;
  }
}

/** Returns a paragraph; what stands between backticks is code. */
function paragraph(text) {
  return make("p", {}, ...text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part)));
}

/** Returns the form that sends the operation. */
function tryForm(path, verb, operation) {
  const { fields, table } = parameterForm(operation);
  const content = operation.requestBody?.content?.["application/json"];
  const example = JSON.stringify(content?.example ?? {}, null, 2);
  const rows = Math.min(example.split("\n").length + 1, MAX_ROWS);
  const body = content ? make("textarea", { ariaLabel: "body", spellcheck: false, rows, value: example }) : null;
  const output = make("pre", { hidden: true });
  const streams = Object.values(operation.responses).some((each) => each.content?.["text/event-stream"]);
  const stream = streams ? make("input", { type: "checkbox" }) : null;
  const button = make("button", { type: "submit" }, "Send");
  const stop = make("button", { type: "button", hidden: true }, "Stop");
  const form = make("form", {}, table, body,
    make("p", {}, button, " ", stop, stream ? make("label", {}, stream, " as a stream of events") : null), output);
  let under_way = null;
  stop.addEventListener("click", () => under_way?.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    under_way?.abort();
    const own = (under_way = new AbortController());
    output.hidden = stop.hidden = false;
    output.className = "";
    output.textContent = "…";
    const since = performance.now();
    try {
      const [address, request] = requestOf(path, verb, fields, body, stream?.checked);
      const response = await fetch(address, { ...request, signal: own.signal, credentials: "omit" });
      output.className = response.ok ? "" : "error";
      await showAnswer(output, response, since);
    } catch (error) {
      if (own === under_way) output.textContent += `\n${error.message}`;
    } finally {
      if (own === under_way) stop.hidden = true;
    }
  });
  return form;
}

function responseRows(spec, operation) {
  return Object.entries(operation.responses).map(([status, given]) => {
    const response = resolve(spec, given);
    const kinds = Object.entries(response.content ?? {}).map(([kind, { schema }]) => `${kind}: ${typeText(schema)}`);
    return make("tr", {}, make("th", {}, make("code", {}, status)), make("td", {}, response.description), make("td", {}, make("code", {}, kinds.join("; "))));
  });
}

function operationElement(spec, path, verb, operation) {
  const rights = operation["x-permission"] ? `needs ${operation["x-permission"]}` : "needs no token";
  const summary = make("summary", {},
    make("span", { className: `verb ${verb}` }, verb.toUpperCase()), make("code", {}, path), " ",
    make("span", { className: "muted" }, operation.summary));
  const details = make("details", { className: "operation", id: operation.operationId }, summary);
  details.dataset.text = `${verb} ${path} ${operation.summary} ${operation.operationId} ${operation["x-method"] ?? ""}`.toLowerCase();
  // A hundred forms at once would take a second: each is made when it is opened.
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return;
    const body = resolve(spec, operation.requestBody?.content?.["application/json"]?.schema);
    details.append(make("div", {},
      ...(operation.description ?? "").split("\n\n").map(paragraph),
      make("p", { className: "muted" }, [operation["x-method"], `operation ${operation.operationId}`, rights].filter(Boolean).join(", ")),
      tryForm(path, verb, operation),
      body ? make("details", {}, make("summary", {}, "Body"), make("pre", {}, typeText(body))) : null,
      make("details", {}, make("summary", {}, "Answers"), make("table", {}, ...responseRows(spec, operation)))));
  });
  return details;
}

function schemaElement(name, schema) {
  return make("details", { className: "schema", id: `schema-${name}` },
    make("summary", {}, make("code", {}, name)),
    make("div", {}, paragraph(schema.description ?? ""), make("pre", {}, typeText(schema))));
}

function show(spec) {
  byId("version").textContent = spec.info.version;
  const sections = new Map(spec.tags.map((tag) => [tag.name,
    make("section", {}, make("h2", {}, tag.name), make("p", { className: "muted" }, tag.description))]));
  for (const [path, item] of Object.entries(spec.paths)) {
    for (const [verb, operation] of Object.entries(item)) {
      sections.get(operation.tags[0]).append(operationElement(spec, path, verb, operation));
    }
  }
  const schemas = Object.entries(spec.components.schemas).map(([name, schema]) => schemaElement(name, schema));
  byId("main").replaceChildren(paragraph(spec.info.description),
    ...sections.values(), make("section", {}, make("h2", {}, "Schemas"), ...schemas));
  byId("main").ariaBusy = "false";
}

byId("filter").addEventListener("input", ({ target }) => {
  const words = target.value.toLowerCase().split(/\s+/);
  for (const each of document.querySelectorAll("details.operation")) {
    each.hidden = !words.every((word) => each.dataset.text.includes(word));
  }
  for (const section of document.querySelectorAll("section")) {
    section.hidden = target.value !== "" && section.querySelector("details.operation:not([hidden])") === null;
  }
});

try {
  const response = await fetch("/openapi.json", { credentials: "omit" });
  if (!response.ok) throw new Error(`/openapi.json: ${response.status}`);
  show(await response.json());
  if (location.hash) document.getElementById(location.hash.slice(1))?.setAttribute("open", "");
} catch (error) {
  byId("main").replaceChildren(make("p", { className: "error" }, error.message));
}
