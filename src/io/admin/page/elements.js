
// Elements are made here and nowhere else. Foreign text only ever becomes a text node or an attribute that is
// neither a link nor a handler, so a hostile span name is just an odd name.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const shape = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function say(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

// Control characters have no picture; they are shown as the boxes that Unicode has for them.
function plain(value) {
  if (value === null || value === undefined || value === "") return "–";
  return String(value).replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g, "\u2423").slice(0, 400);
}

// A name of somebody else's, which may run from right to left.
const name = (value) => make("bdi", { title: plain(value) }, plain(value));

const cell = (content, className) => make("td", { class: className }, content);

// Rows are replaced only where they differ, so that focus and selection survive the next poll.
function setRows(body, rows) {
  const focused = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  rows.forEach((row, index) => {
    const old = body.rows[index];
    if (!old) body.append(row);
    else if (!old.isEqualNode(row)) old.replaceWith(row);
  });
  while (body.rows.length > rows.length) body.lastElementChild.remove();
  if (focused && !body.contains(document.activeElement)) {
    const again = [...body.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused);
    if (again) again.focus({ preventScroll: true });
  }
}

const bodyOf = (id) => byId(id).tBodies[0];
const emptyRow = (columns, text) => make("tr", {}, make("td", { class: "empty", colspan: columns }, text));
