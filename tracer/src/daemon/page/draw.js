// Elements and pictures. Whatever comes from the daemon becomes text of a node, never markup.

const SVG = "http://www.w3.org/2000/svg";

// Characters that draw nothing or turn the direction of what follows: names could deceive with them.
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value != null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(3)) {
    if (child == null || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child).replace(INVISIBLE, "\ufffd")));
  }
  return node;
}

export const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const s = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

/** A name, path or URL, which may go on in a new line behind its signs rather than anywhere. */
export const code = (text) => text.split(/(?<=[^/:]\/|[&?=_,-]|::)(?=\w)/).flatMap((part, index) => (index ? [h("wbr"), part] : part));

/** Makes `old` like `wanted` with as few changes as may be, so that focus and selection stay. */
export function morph(old, wanted) {
  for (const { name } of [...old.attributes]) {
    // whether details are open is the reader's choice
    if (!wanted.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const key = (node) => node.dataset?.key;
  const keyed = new Map([...old.children].filter(key).map((node) => [key(node), node]));
  let at = old.firstChild;
  for (const next of [...wanted.childNodes]) {
    let match = key(next) ? keyed.get(key(next)) : at && !key(at) ? at : null;
    keyed.delete(key(next));
    if (match && (match.nodeName !== next.nodeName || match.namespaceURI !== next.namespaceURI)) match = null;
    if (!match) {
      old.insertBefore(next, at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else old.insertBefore(match, at);
    if (next.nodeType === Node.TEXT_NODE) {
      if (match.data !== next.data) match.data = next.data;
    } else morph(match, next);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** Points as coordinates in a box of 100 by 100; a single one is a level line. */
function scaled(points, value, top) {
  const first = Date.parse(points[0].at);
  const span = Date.parse(points.at(-1).at) - first;
  const place = (point) => [span ? ((Date.parse(point.at) - first) / span) * 100 : 0, 100 - (value(point) / top) * 100];
  const all = points.map(place);
  return all.length > 1 && span ? all : [[0, all.at(-1)[1]], [100, all.at(-1)[1]]];
}

const path = (points) => points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");

/** A line as high as its cell: the shape of the growth, not its size. */
export function spark(points) {
  if (!points?.length) return null;
  const values = points.map((point) => point.outlived);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const line = scaled(points, (point) => (most > least ? point.outlived - least : 0.5), most > least ? most - least : 1);
  const frame = { class: "spark", viewBox: "-3 -8 106 116", preserveAspectRatio: "none", role: "img" };
  return s("svg", { ...frame, "aria-label": `from ${values[0]} to ${values.at(-1)}` },
    s("path", { class: "area", d: `${path(line)}L100 100L0 100Z` }),
    s("path", { class: "line", d: path(line) }));
}

/** A round number from which on the axis has room for `most`. */
function ceiling(most) {
  const power = 10 ** Math.floor(Math.log10(Math.max(most, 1)));
  return Math.max(2, [1, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= most));
}

/** Open and outlived connections over time, with axes; `label` tells the same in words. */
export function area(points, label, write) {
  const top = ceiling(Math.max(...points.map((point) => point.open)));
  const open = scaled(points, (point) => point.open, top);
  const outlived = scaled(points, (point) => point.outlived, top);
  const plot = s("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": label },
    [0, 50, 100].map((y) => s("path", { class: "grid", d: `M0 ${y}H100` })),
    s("path", { class: "area", d: `${path(outlived)}L100 100L0 100Z` }),
    s("path", { class: "open", d: path(open) }),
    s("path", { class: "line", d: path(outlived) }));
  const axis = (name, ...texts) => h("div", { class: name, "aria-hidden": "true" }, texts.map((text) => h("span", {}, text)));
  return h("div", { class: "chart" },
    axis("y", write.count(top), write.count(top / 2), "0"),
    plot,
    axis("x", write.clock(points[0].at), write.clock(points.at(-1).at)));
}

const ROW = 26;
/** Narrower cells have no name in them, only a title. */
const NAMED_FROM = 0.02;

/**
 * An icicle: every row is a frame further in, every width a number of connections. A node is
 * `{ name, open, mark, link, children }`, with `mark` one of `root`, `own`, `fold`, `site`, `well`.
 */
export function icicle(root, label, write) {
  const cells = [];
  let depth = 0;
  const put = (node, x, row) => {
    depth = Math.max(depth, row + 1);
    const width = node.open / root.open;
    const text = `${node.name}: ${write.count(node.open)} open`;
    const sign = { site: "▸ ", well: "✓ " }[node.mark] ?? "";
    const cell = s("svg", { x: `${x * 100}%`, y: row * ROW, width: `${width * 100}%`, height: ROW - 1 },
      s("title", {}, text),
      s("rect", { class: node.mark, width: "100%", height: "100%" }),
      width >= NAMED_FROM && s("text", { x: 6, y: 17, class: node.mark }, `${sign}${node.name}`),
      (node.link || width >= NAMED_FROM) && s("rect", { class: "edge", width: "100%", height: "100%" }));
    cells.push(node.link ? s("a", { href: node.link, "data-key": `${row} ${node.link}`, "aria-label": text }, cell) : cell);
    let at = x;
    for (const child of node.children) {
      put(child, at, row + 1);
      at += child.open / root.open;
    }
  };
  put(root, 0, 0);
  return s("svg", { class: "icicle", width: "100%", height: depth * ROW, role: "group", "aria-label": label }, cells);
}
