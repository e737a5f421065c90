// Says in a line what an event tells.

import { duration, size } from "./format.js";

const COMMON = new Set(["seq", "at", "type", "agent", "worker", "incarnation", "node", "reason", "message"]);

/** Returns the line. */
export function eventText(event) {
  const reason = event.reason || event.message || "";
  const because = reason ? `: ${reason}` : "";
  switch (event.type) {
    case "worker.state": return `${event.from} → ${event.to}${because}`;
    case "task.queued": return `task ${event.task} queued`;
    case "task.started": return `task ${event.task} started, attempt ${event.attempt}`;
    case "task.retried": return `task ${event.task} is tried again after attempt ${event.attempt}${because}`;
    case "task.ended": return `task ${event.task} ${event.state}${event.duration_s == null ? "" : ` after ${duration(event.duration_s)}`}${because}`;
    case "task.progress": return `task ${event.task}: ${event.progress}${event.total == null ? "" : ` of ${event.total}`}${because}`;
    case "mcp.call": return `called ${event.tool}: ${event.outcome} after ${duration(event.duration_s)}`;
    default: return [words(event.type.slice(event.type.indexOf(".") + 1)), fieldText(event)].filter(Boolean).join(", ") + because;
  }
}

/** Returns the fields that only this type has, as short text with their units. */
export function fieldText(event) {
  return Object.entries(event).filter(([key, value]) => !COMMON.has(key) && value != null && value !== "").map(([key, value]) => {
    if (key.endsWith("_bytes")) return `${words(key.slice(0, -6))} ${size(value)}`;
    if (key.endsWith("_s")) return `${words(key.slice(0, -2))} ${duration(value)}`;
    return `${words(key)} ${typeof value === "string" ? value : JSON.stringify(value)}`;
  }).join(", ");
}

const words = (key) => key.replaceAll(/[_.]/g, " ");

/** Returns the address of what an event is about, or null. */
export function eventTarget(event) {
  if (event.task) return `#/tasks/${encodeURIComponent(event.task)}`;
  return event.agent ? `#/agents/${encodeURIComponent(event.node ? `${event.agent}@${event.node}` : event.agent)}` : null;
}

/** Returns what an event is about, with its node. */
export function eventSubject(event) {
  return `${event.worker ?? event.agent ?? "corrald"}${event.node ? `@${event.node}` : ""}`;
}

/** Returns what no other event has: numbers are of one node. */
export const eventKey = (event) => `${event.node ?? ""}:${event.seq}`;
