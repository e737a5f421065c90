// Asks before something is changed, and tells how it went.

import { h } from "./dom.js";

/** Shows a dialog with these children; resolves to whether it was confirmed. */
export function ask({ title, children = [], confirm = "OK", danger = false, check }) {
  return new Promise((resolve) => {
    const problem = h("p", { className: "problem", role: "alert", hidden: true });
    const yes = h("button", { type: "submit", className: danger ? "danger" : "primary" }, confirm);
    const no = h("button", { type: "button", className: "quiet", on: { click: () => dialog.close("no") } }, "Cancel");
    const form = h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title), ...children, problem, h("div", { className: "buttons" }, no, yes));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const wrong = check?.();
      if (wrong) {
        problem.textContent = wrong;
        problem.hidden = false;
      } else dialog.close("yes");
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
    (form.querySelector("input, textarea, select") ?? yes).focus();
  });
}

/** Shows a dialog that is only read. */
export function show(title, ...children) {
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" },
    h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title), ...children, h("div", { className: "buttons" }, h("button", { className: "primary" }, "Close"))));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

const NOTICE_MS = 6000;

/** Shows a line for some seconds; errors until they are clicked away. */
export function notice(text, isError = false) {
  const line = h("div", { className: isError ? "notice error" : "notice" }, h("span", {}, text),
    h("button", { type: "button", className: "plain", "aria-label": "Dismiss", on: { click: () => line.remove() } }, "✕"));
  const place = document.getElementById("notices");
  place.append(line);
  while (place.childElementCount > 4) place.firstElementChild.remove();
  if (!isError) setTimeout(() => line.remove(), NOTICE_MS);
}
