// Keeps light or dark: the system's choice, until the switch is used; then that of this browser.

const KEY = "corral.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  try { return localStorage.getItem(KEY); } catch { return null; }
}

function apply() {
  document.documentElement.dataset.theme = chosen() ?? (system.matches ? "dark" : "light");
}

/** Takes the other of light and dark. */
export function flip() {
  const other = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem(KEY, other); } catch { /* it lasts as long as the page */ }
  document.documentElement.dataset.theme = other;
}

/** Applies the choice, follows the system, and binds the switch. */
export function begin(button) {
  apply();
  system.addEventListener("change", apply);
  button.addEventListener("click", flip);
}
