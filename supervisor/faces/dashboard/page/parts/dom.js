// Makes and changes elements. No text ever becomes markup: the page's policy forbids it, too.

const SVG = "http://www.w3.org/2000/svg";
// Characters that have no shape or change the direction of others: text from outside must not hide a part of itself.
const UNSEEN = /[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\u{e0000}-\u{e0fff}\p{Cs}]/gu;

/** Returns text with what could not be seen written out, such as \u202e. */
export function visible(text) {
  return text.replace(UNSEEN, (each) => `\\u${each.codePointAt(0).toString(16).padStart(4, "0")}`);
}

/** Returns an element. `props` are properties, `aria-*`, `data-*` and `role` attributes, `on` listeners; null children are left out. */
export function h(name, props = {}, ...children) {
  return fill(document.createElement(name), props, children);
}

/** Returns an element of SVG; all its props are attributes. */
export function s(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.filter((each) => each != null));
  return element;
}

function fill(element, props, children) {
  for (const [key, value] of Object.entries(props)) {
    if (value == null) continue;
    if (key === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (key.includes("-") || key === "role" || key === "for" || key === "colspan") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.flat().filter((each) => each != null && each !== false).map((each) => (typeof each === "string" ? visible(each) : each)));
  return element;
}

/** Sets the text of an element, if it is another one. */
export function setText(element, text) {
  const given = String(text);
  if (element.shown !== given) {
    element.shown = given;
    element.textContent = visible(given);
  }
}

/** Sets an attribute, if it has another value; null removes it. */
export function setAttribute(element, name, value) {
  if (value == null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Makes the children of `parent` those of `items`: those with a known key are kept and updated, moved only if they have to be. */
export function keyed(parent, items, keyOf, make, update) {
  const known = (parent.known ??= new Map());
  const wanted = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    wanted.add(key);
    let element = known.get(key);
    if (!element) known.set(key, (element = make(item)));
    update?.(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const [key, element] of known) {
    if (wanted.has(key)) continue;
    element.remove();
    known.delete(key);
  }
}

/** Returns a badge of a state; its colour is that of the state's class in page.css. */
export function badge(state, title) {
  return h("span", { className: "badge", "data-state": state, title: title ?? null }, state);
}

/** Sets the state of a badge. */
export function setBadge(element, state) {
  setText(element, state);
  setAttribute(element, "data-state", state);
}
