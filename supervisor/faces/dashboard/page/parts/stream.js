// Follows the status by one connection (`daemon.follow`), in a cluster that of all nodes, and opens it again with the whole status after each loss.

import { get, session, Stream, url } from "./api.js";
import { applyChange, applyMissing, applyStatus, changed, model } from "./model.js";

const AGAIN_MS = 1000;
const AGAIN_MOST_MS = 15000;

let source = null;
let waitMs = AGAIN_MS;
let timer = null;

/** Opens the stream; while the page is hidden it is closed, so that no work is done for it. */
export function start() {
  document.addEventListener("visibilitychange", sync);
  sync();
}

/** Closes the stream for good. */
export function stop() {
  document.removeEventListener("visibilitychange", sync);
  close();
  model.isLive = false;
}

function sync() {
  if (document.hidden) close();
  else if (!source) open();
}

function close() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

function open() {
  clearTimeout(timer);
  source = new Stream(url(["status"], { node: model.here ? "*" : null }));
  source.addEventListener("status", ({ data }) => {
    waitMs = AGAIN_MS;
    const { status, node } = JSON.parse(data);
    applyStatus(status, node);
  });
  source.addEventListener("status.change", ({ data }) => {
    const { change, node } = JSON.parse(data);
    applyChange(change, node);
  });
  source.addEventListener("nodes.missing", ({ data }) => applyMissing(JSON.parse(data).missing_nodes));
  source.addEventListener("error", lost);
}

async function lost() {
  close();
  model.isLive = false;
  changed();
  timer = setTimeout(() => { if (!document.hidden) open(); }, waitMs);
  waitMs = Math.min(waitMs * 2, AGAIN_MOST_MS);
  try {
    await get(["whoami"]); // a session that is over is answered with 401, which shows the login
  } catch (error) {
    if (error.status === 401) session.dispatchEvent(new Event("ended"));
  }
}
