// Keys of all views. Those of a table are in table.js.

export const KEYS = [
  ["?", "these keys"],
  ["/", "the filter of the view"],
  ["1 … 7", "a view, by its place in the head"],
  ["g", "the first row of the table"],
  ["j, ↓", "the next row"],
  ["k, ↑", "the row before"],
  ["Enter", "open the row"],
  ["Backspace", "back"],
  ["t", "light or dark"],
  ["Esc", "leave a field or a dialog"],
];

const TYPING = "input, textarea, select, [contenteditable]";

/** Listens to the keys; `places` are the addresses of the numbered views. */
export function listen({ help, theme, places }) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.matches(TYPING)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (document.querySelector("dialog[open]")) return;
    const number = Number(event.key);
    if (event.key === "?") help();
    else if (event.key === "t") theme();
    else if (event.key === "Backspace") history.back();
    else if (event.key === "/") document.querySelector("main input[type=search]")?.focus();
    else if (event.key === "g") document.querySelector("main .vrow")?.focus();
    else if (number >= 1 && number <= places.length) location.hash = `#/${places[number - 1]}`;
    else return;
    event.preventDefault();
  });
}
