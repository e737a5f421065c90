// Follows the status by one connection (`daemon.follow`), and opens it again with the whole status after each loss.

import { get, session, url } from "./api.js";
import { applyChange, applyStatus, changed, model } from "./model.js";

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
  source = new EventSource(url(["status"]));
  source.addEventListener("status", ({ data }) => {
    waitMs = AGAIN_MS;
    applyStatus(JSON.parse(data).status);
  });
  source.addEventListener("status.change", ({ data }) => applyChange(JSON.parse(data).change));
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
