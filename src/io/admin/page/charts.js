
// Sparklines, stacked areas and bars, in SVG. Samples that are missing (`null`) leave a gap at zero height.

const FILLS = 8;
const colour = (index) => `var(--s${index % FILLS})`;

// `points`: samples, oldest first, drawn to the right end of `slots`.
function drawSpark(id, points, slots, label) {
  const svg = byId(id);
  svg.setAttribute("viewBox", "0 0 100 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const top = Math.max(...points.map((p) => p || 0), 1e-9);
  const x = (index) => 100 - ((points.length - 1 - index) / Math.max(slots - 1, 1)) * 100;
  const y = (value) => 38.5 - ((value || 0) / top) * 36;
  const line = points.map((value, index) => `${index ? "L" : "M"}${x(index).toFixed(2)} ${y(value).toFixed(2)}`).join("");
  const marks = points.length < 2 ? [] : [
    shape("path", { class: "area", d: `${line}L100 40L${x(0).toFixed(2)} 40Z` }),
    shape("path", { class: "stroke", d: line, "vector-effect": "non-scaling-stroke" }),
  ];
  svg.replaceChildren(...marks);
}

// A round number at or above `value`.
function ceiling(value) {
  const step = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return [1, 2, 2.5, 5, 10].map((m) => m * step).find((m) => m >= value * 0.999) || value;
}

// `series`: [{fill, values}], stacked in their order; `slots`: samples that the width stands for.
function drawStack(id, series, slots, seconds, label) {
  const svg = byId(id);
  const box = svg.getBoundingClientRect();
  const [width, height] = [Math.max(box.width, 120), Math.max(box.height, 60)];
  const [left, bottom, head] = [40, 18, 8];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const length = series.length ? series[0].values.length : 0;
  const totals = Array.from({ length }, (_, i) => series.reduce((total, s) => total + (s.values[i] || 0), 0));
  const top = ceiling(Math.max(...totals, 1));
  const x = (index) => left + (width - left) * (1 - (length - 1 - index) / Math.max(slots - 1, 1));
  const y = (value) => height - bottom - (value / top) * (height - bottom - head);
  const marks = [];
  for (const part of [0, 0.5, 1]) {
    marks.push(shape("line", { x1: left, x2: width, y1: y(part * top), y2: y(part * top) }));
    marks.push(shape("text", { x: left - 8, y: y(part * top) + 4, "text-anchor": "end" }, part ? rate(part * top) : "0"));
  }
  for (const part of [0, 0.5, 1]) {
    const ago = seconds * (1 - part);
    const anchor = part === 0 ? "start" : part === 1 ? "end" : "middle";
    const text = ago ? `−${span(ago)}` : "now";
    marks.push(shape("text", { x: left + (width - left) * part, y: height - 3, "text-anchor": anchor }, text));
  }
  let base = new Array(length).fill(0);
  if (length > 1) {
    for (const s of series) {
      const roof = base.map((value, i) => value + (s.values[i] || 0));
      const there = roof.map((value, i) => `${x(i).toFixed(1)} ${y(value).toFixed(1)}`);
      const back = base.map((value, i) => `${x(i).toFixed(1)} ${y(value).toFixed(1)}`).reverse();
      marks.push(shape("path", { d: `M${there.join("L")}L${back.join("L")}Z`, fill: s.fill }));
      base = roof;
    }
  }
  svg.replaceChildren(...marks);
}

// `parts`: [{fill, value}] of `whole`.
function fillBar(svg, parts, whole, label) {
  svg.setAttribute("viewBox", "0 0 100 1");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  let at = 0;
  svg.replaceChildren(...parts.map(({ fill: paint, value }) => {
    const width = Math.max(0, Math.min(100 - at, whole > 0 ? (100 * value) / whole : 0));
    at += width;
    return shape("rect", { x: at - width, y: 0, width, height: 1, fill: paint });
  }));
}

// `entries`: [{fill, name, text}].
function setLegend(id, entries) {
  const items = entries.map((entry) => make("li", {},
    shape("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, shape("rect", { width: 10, height: 10, rx: 2, fill: entry.fill })),
    name(entry.name), make("span", {}, entry.text)));
  byId(id).replaceChildren(...items);
}
