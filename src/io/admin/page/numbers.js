
// Numbers as people read them, and numbers out of Prometheus text.

const integers = new Intl.NumberFormat("en");
const count = (value) => integers.format(value || 0);

function scaled(value, steps, base) {
  let index = 0;
  while (index < steps.length - 1 && Math.abs(value) >= base) { value /= base; index += 1; }
  const digits = index === 0 || Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return [value.toFixed(digits), steps[index]];
}

const bytes = (value) => scaled(value || 0, ["B", "KiB", "MiB", "GiB", "TiB"], 1024).join(" ");

// 0.4, 12, 1.25 k, 330 k
function rate(value) {
  if (value > 0 && value < 10) return value.toFixed(1);
  const [number, unit] = scaled(Math.round(value || 0), ["", "k", "M"], 1000);
  return unit ? `${number} ${unit}` : number;
}

function span(seconds) {
  if (!(seconds >= 0)) return "–";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds / 3600) % 24} h`;
}

function milliseconds(value) {
  if (value === null || value === undefined || !isFinite(value)) return "–";
  if (value >= 10000) return `${(value / 1000).toFixed(1)} s`;
  return value >= 100 ? `${value.toFixed(0)} ms` : value >= 1 ? `${value.toFixed(1)} ms` : `${value.toFixed(2)} ms`;
}

const clockTime = (text) => (text ? new Date(text).toLocaleTimeString([], { hour12: false }) : "–");

// [{name, labels, value}] of the text format 0.0.4.
function parseMetrics(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, key, value] of (match[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[key] = value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    }
    samples.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return samples;
}

const sum = (samples, metric, where = {}) => samples
  .filter((s) => s.name === metric && Object.entries(where).every(([key, value]) => s.labels[key] === value))
  .reduce((total, s) => total + s.value, 0);

// Cumulative buckets over all transports: [[upper bound in seconds, count]], ascending.
function buckets(samples, metric) {
  const found = new Map();
  for (const s of samples) {
    if (s.name === `${metric}_bucket`) {
      const bound = s.labels.le === "+Inf" ? Infinity : Number(s.labels.le);
      found.set(bound, (found.get(bound) || 0) + s.value);
    }
  }
  return [...found].sort((a, b) => a[0] - b[0]);
}

// The quantile of what was added between two readings, in ms; null without anything added.
function quantile(before, after, which) {
  const earlier = new Map(before);
  const added = after.map(([bound, value]) => [bound, value - (earlier.get(bound) || 0)]);
  const total = added.length ? added[added.length - 1][1] : 0;
  if (total <= 0) return null;
  let below = 0, counted = 0;
  for (const [bound, value] of added) {
    if (value >= which * total) {
      if (bound === Infinity) return below * 1000;
      const share = value > counted ? (which * total - counted) / (value - counted) : 1;
      return (below + share * (bound - below)) * 1000;
    }
    below = bound; counted = value;
  }
  return below * 1000;
}
