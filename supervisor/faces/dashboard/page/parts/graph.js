// Draws a graph of nodes in layers, from left to right: steps of a workflow, members of a team.

import { s, visible } from "./dom.js";
import { cut } from "./format.js";

const WIDTH = 168;
const HEIGHT = 46;
const GAP_X = 56;
const GAP_Y = 16;

/** Returns the layer of each node: one behind the last of those that it needs. */
export function layersOf(nodes) {
  const byName = new Map(nodes.map((node) => [node.name, node]));
  const layer = new Map();
  const visit = (node, path) => {
    if (layer.has(node.name)) return layer.get(node.name);
    if (path.has(node.name)) return 0;
    path.add(node.name);
    const before = node.needs.filter((name) => byName.has(name)).map((name) => visit(byName.get(name), path));
    path.delete(node.name);
    const found = before.length ? Math.max(...before) + 1 : 0;
    layer.set(node.name, found);
    return found;
  };
  nodes.forEach((node) => visit(node, new Set()));
  return layer;
}

/** Returns the drawing; a node is {name, title, sub, state, needs, href}. */
export function graph(nodes, label) {
  const layer = layersOf(nodes);
  const columns = [];
  for (const node of nodes) (columns[layer.get(node.name)] ??= []).push(node);
  const rows = Math.max(1, ...columns.map((column) => column.length));
  const places = new Map();
  columns.forEach((column, x) => column.forEach((node, n) => {
    const free = (rows - column.length) * (HEIGHT + GAP_Y);
    places.set(node.name, { x: 2 + x * (WIDTH + GAP_X), y: 2 + n * (HEIGHT + GAP_Y) + free / 2 });
  }));
  const width = columns.length * (WIDTH + GAP_X) - GAP_X + 4;
  const height = rows * (HEIGHT + GAP_Y) - GAP_Y + 4;
  const picture = s("svg", { class: "graph", viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label });
  for (const node of nodes) {
    const to = places.get(node.name);
    for (const name of node.needs) {
      const from = places.get(name);
      if (!from) continue;
      const [x1, y1, x2, y2] = [from.x + WIDTH, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
      const middle = (x1 + x2) / 2;
      picture.append(s("path", { class: "edge", d: `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}` }));
    }
  }
  for (const node of nodes) {
    const { x, y } = places.get(node.name);
    const text = s("text", { x: x + 12, y: y + 19 });
    text.textContent = visible(cut(node.title, 22));
    const sub = s("text", { class: "sub", x: x + 12, y: y + 35 });
    sub.textContent = visible(cut(node.sub ?? "", 26));
    const title = s("title");
    title.textContent = visible(`${node.title}: ${node.sub ?? ""} ${node.state ?? ""}`);
    const box = s("g", { class: "node", "data-state": node.state ?? "" }, title, s("rect", { x, y, width: WIDTH, height: HEIGHT, rx: 6 }), text, sub);
    picture.append(node.href ? s("a", { href: node.href }, box) : box);
  }
  return picture;
}
