// Shows rows of one height as a table of which only the visible part exists: ten thousand rows cost as much as fifty.
//
// Columns: {key, label, title?, align?, width, cell(row) → text or node maker, sort?(row), low?: hidden on phones,
// line?: there it has a line of its own below the others}.

import { h, setAttribute, setText } from "./dom.js";

const OVERSCAN = 6;
const LINE = 30;
const HEAD = 35;

/** The width at which page.css has one column. */
const phone = matchMedia("(max-width: 760px)");

/**
 * Returns {element, set(rows), refresh()}.
 * `render(cell, row, column)` may be given by a column to fill its cell; else `text(row)` is its text.
 */
export function virtualTable({ columns, label, keyOf, open, order, empty = "Nothing here.", rowHeight: plainHeight = 32, onEnd }) {
  const lines = columns.filter((column) => column.line).length;
  let rowHeight = 0;
  const state = { rows: [], sorted: [], order: order ?? null, focus: 0, first: -1, last: -1, width: 0 };
  const head = h("div", { className: "vhead", role: "row" });
  const body = h("div", { className: "vbody", role: "rowgroup" });
  const note = h("p", { className: "empty" }, empty);
  const scroller = h("div", { className: "vscroll", role: "presentation" }, h("div", { role: "rowgroup", className: "vheadgroup" }, head), body);
  const element = h("div", { className: "vtable", role: "table", "aria-label": label }, scroller, note);
  element.style.setProperty("--columns", columns.map((column) => column.width ?? "1fr").join(" "));
  element.style.setProperty("--columns-phone", columns.filter((column) => !column.low && !column.line).map((column) => column.phone ?? column.width ?? "1fr").join(" "));

  for (const column of columns) {
    const cell = h("div", { className: classes(column), role: "columnheader", title: column.title ?? null });
    if (column.sort) {
      cell.append(h("button", { type: "button", className: "sort", on: { click: () => sortBy(column) } }, column.label));
    } else cell.append(column.label || h("span", { className: "hidden" }, column.title ?? ""));
    cell.column = column;
    head.append(cell);
  }

  function classes(column) {
    return ["cell", column.align === "right" ? "right" : "", column.low ? "low" : "", column.line ? "line" : ""].filter(Boolean).join(" ");
  }

  function sortBy(column) {
    const isSame = state.order?.key === column.key;
    state.order = { key: column.key, down: isSame ? !state.order.down : column.align === "right" };
    arrange();
  }

  function arrange() {
    const column = columns.find((each) => each.key === state.order?.key);
    state.sorted = column?.sort ? [...state.rows].sort(comparison(column.sort, state.order.down, keyOf)) : state.rows;
    for (const cell of head.children) {
      if (!cell.column.sort) continue;
      const isIt = cell.column.key === state.order?.key;
      setAttribute(cell, "aria-sort", isIt ? (state.order.down ? "descending" : "ascending") : "none");
    }
    setAttribute(element, "aria-rowcount", state.sorted.length + 1);
    body.style.height = `${state.sorted.length * rowHeight}px`;
    element.style.setProperty("--whole", `${state.sorted.length * rowHeight + HEAD}px`);
    note.hidden = state.sorted.length > 0;
    element.classList.toggle("none", state.sorted.length === 0);
    draw(true);
  }

  const pool = new Map();

  function draw(isWhole) {
    const top = scroller.scrollTop;
    const height = scroller.clientHeight || 600;
    const first = Math.max(0, Math.floor(top / rowHeight) - OVERSCAN);
    const last = Math.min(state.sorted.length, Math.ceil((top + height) / rowHeight) + OVERSCAN);
    if (!isWhole && first === state.first && last === state.last) return;
    Object.assign(state, { first, last });
    const wanted = new Set();
    for (let n = first; n < last; n++) wanted.add(keyOf(state.sorted[n]));
    const free = [];
    for (const [key, row] of pool) {
      if (wanted.has(key)) continue;
      pool.delete(key);
      free.push(row);
    }
    for (let n = first; n < last; n++) {
      const item = state.sorted[n];
      const key = keyOf(item);
      let row = pool.get(key);
      if (!row) {
        row = free.pop() ?? makeRow();
        pool.set(key, row);
        if (!row.isConnected) body.append(row);
      }
      if (row.place !== n) {
        row.place = n;
        row.style.transform = `translateY(${n * rowHeight}px)`;
        setAttribute(row, "aria-rowindex", n + 2);
      }
      setAttribute(row, "tabindex", open ? (n === state.focus || (state.focus >= last && n === first) ? 0 : -1) : null);
      row.item = item;
      fillRow(row, item);
    }
    for (const row of free) row.remove();
    if (onEnd && last >= state.sorted.length && state.sorted.length) onEnd();
  }

  function makeRow() {
    const row = h("div", { className: open ? "vrow opens" : "vrow", role: "row" });
    row.cells = columns.map((column) => {
      const cell = h("div", { className: classes(column), role: "cell" });
      row.append(cell);
      return cell;
    });
    return row;
  }

  function fillRow(row, item) {
    columns.forEach((column, n) => {
      if (column.render) column.render(row.cells[n], item);
      else setText(row.cells[n], column.text(item));
    });
  }

  function move(step) {
    const next = Math.max(0, Math.min(state.sorted.length - 1, state.focus + step));
    state.focus = next;
    const top = next * rowHeight;
    const room = scroller.clientHeight - head.offsetHeight;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + rowHeight > scroller.scrollTop + room) scroller.scrollTop = top + rowHeight - room;
    draw(true);
    pool.get(keyOf(state.sorted[next]))?.focus({ preventScroll: true });
  }

  if (open) {
    body.addEventListener("click", (event) => {
      if (event.target.closest("a, button")) return;
      const row = event.target.closest(".vrow");
      if (row) open(row.item);
    });
    body.addEventListener("focusin", (event) => { state.focus = event.target.closest(".vrow")?.place ?? state.focus; });
    element.addEventListener("keydown", (event) => {
      const steps = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: 15, PageUp: -15, Home: -1e9, End: 1e9 };
      if (!event.target.closest(".vrow") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in steps) { move(steps[event.key]); event.preventDefault(); event.stopPropagation(); }
      if (event.key === "Enter" && event.target.matches(".vrow")) open(event.target.item);
    });
  }
  let isDue = false;
  scroller.addEventListener("scroll", () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => { isDue = false; draw(false); });
  }, { passive: true });
  new ResizeObserver(() => draw(true)).observe(scroller);

  /** Gives the rows their height; on a phone with the lines of their own that some columns have. */
  function measure() {
    rowHeight = plainHeight + (phone.matches ? lines * LINE : 0);
    element.style.setProperty("--row", `${rowHeight}px`);
    for (const row of pool.values()) row.place = -1;
    arrange();
  }
  measure();
  if (lines) phone.addEventListener("change", () => { if (element.isConnected) measure(); });

  return {
    element,
    set(rows) { state.rows = rows; arrange(); },
    focusFirst() { if (state.sorted.length) { state.focus = 0; move(0); } },
    /** Keeps the view at the end, unless the reader has scrolled up. */
    get isAtEnd() { return scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - rowHeight * 2; },
    toEnd() { scroller.scrollTop = scroller.scrollHeight; },
    scroller,
  };
}

function comparison(valueOf, isDown, keyOf) {
  const sign = isDown ? -1 : 1;
  return (one, other) => {
    const a = valueOf(one);
    const b = valueOf(other);
    if (a === b) return String(keyOf(one)).localeCompare(String(keyOf(other)), "en", { numeric: true });
    if (a == null) return 1;
    if (b == null) return -1;
    return sign * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  };
}
