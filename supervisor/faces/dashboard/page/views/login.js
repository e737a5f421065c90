// Asks for a token, once: the daemon answers with a cookie that no script can read.

import { logIn } from "../parts/api.js";
import { h } from "../parts/dom.js";

/** Returns the view; `entered` is called when the session is open. */
export function loginView(entered, message) {
  const token = h("input", { type: "password", id: "token", autocomplete: "current-password", required: true, spellcheck: false });
  const problem = h("p", { className: "problem", role: "alert" }, message);
  const button = h("button", { type: "submit", className: "primary" }, "Log in");
  const form = h("form", {}, h("label", { for: "token" }, "Token"), token, button, problem);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    problem.textContent = "";
    try {
      await logIn(token.value);
      token.value = "";
      await entered();
    } catch (error) {
      problem.textContent = error.status === 401 ? "The token is wrong or has expired." : error.message;
      button.disabled = false;
      token.select();
    }
  });
  const element = h("section", { className: "login" }, h("h1", {}, "corral"), form,
    h("p", { className: "muted" }, "The token of the daemon's user is in ", h("code", {}, "http.token"), " in the state folder; ", h("code", {}, "corral token add"), " makes others."));
  queueMicrotask(() => token.focus());
  return { element };
}
