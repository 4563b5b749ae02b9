
// What is asked, how often, and where the answers go. History lives in this page: it begins when it is opened.

const POLL_MS = 2000;
const SLOTS = 300;
const WINDOW_S = (SLOTS * POLL_MS) / 1000;
const ACK_WINDOW = 30;
// A young page's charts show a minute; what is older than ten is dropped.
const slots = () => Math.min(SLOTS, Math.max(30, history_.length));
let history_ = [];
let paused = false;
let busy = false;

function ask(path) {
  const token = sessionStorage.getItem("token");
  return fetch(path, { cache: "no-store", headers: token ? { Authorization: `Bearer ${token}` } : {} });
}

async function poll() {
  if (busy || document.hidden) return;
  busy = true;
  try {
    const reply = await ask("/api/v1/status");
    if (reply.status === 401) return login();
    if (!reply.ok) throw new Error(((await reply.json()).error || {}).message || `status ${reply.status}`);
    const status = await reply.json();
    const metrics = parseMetrics(await (await ask("/metrics")).text());
    byId("login").hidden = true;
    byId("main").hidden = false;
    document.body.classList.remove("stale");
    remember(status, metrics);
    show(status, metrics);
    if (!paused) await pollRecent();
  } catch (error) {
    document.body.classList.add("stale");
    setState("bad", "no answer");
    const last = history_.length ? `Last answer ${clockTime(history_[history_.length - 1].at)}.` : "";
    say("facts", `${plain(error.message)}. ${last}`);
  } finally {
    busy = false;
  }
}

async function pollRecent() {
  const query = new URLSearchParams({ limit: RECENT });
  for (const [key, id] of [["verdict", "by-verdict"], ["policy", "by-policy"]]) {
    if (byId(id).value) query.set(key, byId(id).value);
  }
  const reply = await ask(`/api/v1/traces?${query}`);
  if (reply.ok) showRecent((await reply.json()).traces || [], query.size > 1);
}

function login() {
  byId("login").hidden = false;
  byId("main").hidden = true;
  setState("warn", "locked");
  say("login-error", sessionStorage.getItem("token") ? "That is not its token." : "");
  sessionStorage.removeItem("token");
}

function setState(kind, text) {
  byId("state").className = `state ${kind}`;
  say("state", text);
}

// One sample a poll. A restart begins a new history: its counters begin at zero.
function remember(status, metrics) {
  const last = history_[history_.length - 1];
  if (last && last.started !== status.started_at) history_ = [];
  const traces = status.traces || {};
  history_.push({
    at: Date.now(), started: status.started_at,
    spans: ((status.signals || {}).spans || {}).accepted || 0,
    bytes: sum(metrics, "tailkeep_received_bytes_total", { kind: "decoded" }),
    pending: traces.pending || 0, kept: traces.kept || 0, rolled_up: traces.rolled_up || 0, denied: traces.denied || 0,
    policies: Object.fromEntries((status.policies || []).map((policy) => [policy.name, policy.decided])),
    ack: buckets(metrics, "tailkeep_ack_seconds"),
  });
  if (history_.length > SLOTS + 1) history_.shift();
}

// A second's worth of what `value` grew by between neighbouring samples.
function rates(value) {
  return history_.slice(1).map((sample, index) => {
    const before = history_[index];
    return Math.max(0, ((value(sample) || 0) - (value(before) || 0)) / Math.max((sample.at - before.at) / 1000, 0.1));
  });
}

// The mean of the last few: one poll's rate jumps with the batches.
const latest = (values, n = 5) => (values.length ? values.slice(-n).reduce((a, b) => a + b, 0) / Math.min(n, values.length) : 0);

function show(status, metrics) {
  const state = status.state || "?";
  setState({ ready: "good", degraded: "warn", draining: "warn", starting: "warn" }[state] || "bad", state);
  say("node", plain(status.node));
  document.title = `${status.node || "tailkeep"}: ${state}`;
  const up = (Date.now() - Date.parse(status.started_at)) / 1000;
  const ports = status.endpoints || {};
  say("facts", `up ${span(up)} · grpc ${plain(ports.grpc)} · http ${plain(ports.http)}`);
  const config = status.config || {};
  say("foot", `tailkeep ${plain(status.version)} (${plain(status.commit)}) · ${(config.files || []).map(plain).join(" ") || "built-in configuration"} (${plain(config.hash)})`
    + (config.dry_run ? " · dry run" : "") + (config.compat === "strict" ? " · compat strict" : ""));
  showProblems(status.problems || []);
  const accepted = ((status.signals || {}).spans || {}).accepted || 0;
  byId("hint").hidden = accepted > 0;
  if (!accepted) say("hint", `Nothing has come in yet. Point an SDK here: OTEL_EXPORTER_OTLP_ENDPOINT=http://${plain(ports.grpc)} (gRPC), http://${plain(ports.http)} (HTTP).`);
  showFigures(status, metrics);
  showVerdicts(status);
  showStores(status, metrics);
  showCores(status.cores || []);
  showExporters(status.exporters || []);
}

function showProblems(problems) {
  const items = problems.map((problem) => make("li", { class: problem.severity === "error" ? "error" : "warning" },
    make("b", {}, problem.severity === "error" ? "Error" : "Warning"), plain(problem.message)));
  const list = byId("problems");
  if (list.children.length !== items.length || items.some((item, i) => !item.isEqualNode(list.children[i]))) list.replaceChildren(...items);
}

function showFigures(status, metrics) {
  const spans = (status.signals || {}).spans || {};
  const traces = status.traces || {};
  const arriving = rates((sample) => sample.spans);
  say("in-rate", arriving.length ? rate(latest(arriving)) : "–");
  say("in-more", `${bytes(latest(rates((sample) => sample.bytes)))}/s · ${count(spans.accepted)} so far${spans.refused ? ` · ${count(spans.refused)} refused` : ""}`);
  drawSpark("in-line", arriving, slots(), `Spans a second, now ${rate(latest(arriving))}`);

  const acks = history_.map((sample, i) => quantile(history_[Math.max(0, i - ACK_WINDOW)].ack, sample.ack, 0.99));
  const [from, to] = [history_[Math.max(0, history_.length - 1 - ACK_WINDOW)].ack, history_[history_.length - 1].ack];
  const [p99, unit] = milliseconds(quantile(from, to, 0.99)).split(" ");
  say("ack-p99", p99);
  say("ack-unit", unit || "");
  say("ack-more", unit ? `99 % of requests · 50 % ${milliseconds(quantile(from, to, 0.5))} · 90 % ${milliseconds(quantile(from, to, 0.9))}` : "no request in the last minute");
  drawSpark("ack-line", acks, slots(), `Acknowledgement of 99 % of requests, now within ${p99} ${unit || ""}`);

  say("pending", count(traces.pending));
  say("pending-more", `${count(spans.pending)} spans${traces.forced ? ` · ${count(traces.forced)} decided early for want of memory` : ""}`);
  drawSpark("pending-line", history_.map((sample) => sample.pending), slots(), `Traces pending, now ${count(traces.pending)}`);

  const decided = (traces.kept || 0) + (traces.rolled_up || 0) + (traces.denied || 0);
  const keeping = rates((sample) => sample.kept);
  say("kept", decided ? ((100 * traces.kept) / decided).toFixed(1) : "–");
  say("kept-unit", decided ? "%" : "");
  say("kept-more", `${count(traces.kept)} of ${count(decided)}${traces.incomplete ? ` · ${count(traces.incomplete)} incomplete` : ""}${spans.lost ? ` · ${count(spans.lost)} spans lost` : ""}`);
  drawSpark("kept-line", keeping, slots(), `Kept traces a second, now ${rate(latest(keeping))}`);
}

function showVerdicts(status) {
  const seconds = history_.length > 1 ? (Date.now() - history_[0].at) / 1000 : 0;
  say("window", seconds < WINDOW_S - 10 ? `since this page was opened, ${span(seconds)} ago` : `the last ${span(WINDOW_S)}`);
  const shown = (slots() * POLL_MS) / 1000;
  const policies = [...(status.policies || [])];
  const named = policies.length > FILLS ? policies.slice(0, FILLS - 1) : policies;
  const rest = policies.slice(named.length);
  const series = named.map((policy, i) => ({ fill: colour(i), name: policy.name, values: rates((s) => s.policies[policy.name]) }));
  if (rest.length) series.push({ fill: colour(FILLS - 1), name: `${rest.length} others`, values: rates((s) => rest.reduce((total, p) => total + (s.policies[p.name] || 0), 0)) });
  drawStack("policy-chart", series, slots(), shown, series.map((s) => `${plain(s.name)} ${rate(latest(s.values))}`).join(", "));
  setLegend("policy-legend", series.map((s) => ({ ...s, text: `${rate(latest(s.values))}/s` })));

  const verdicts = [["kept", "var(--accent)", "kept"], ["rolled_up", "var(--rest)", "rolled up"], ["denied", "var(--denied)", "denied"]]
    .map(([key, paint, label]) => ({ fill: paint, name: label, values: rates((s) => s[key]) }));
  drawStack("verdict-chart", verdicts, slots(), shown, verdicts.map((s) => `${s.name} ${rate(latest(s.values))}`).join(", "));
  setLegend("verdict-legend", verdicts.map((s) => ({ ...s, text: `${rate(latest(s.values))}/s` })));

  setRows(bodyOf("policies"), policies.length ? policies.map((policy) => make("tr", {},
    cell(name(policy.name)), cell(words(policy.type) + (policy.dry_run ? ", dry run" : ""), "quiet"),
    ...["evaluated", "matched", "decided", "sole", "kept_spans"].map((key) => cell(count(policy[key]), "n")),
    cell(bytes(policy.kept_bytes), "n"))) : [emptyRow(8, "No policies: nothing is kept.")]);
  const select = byId("by-policy");
  const names = policies.map((policy) => policy.name);
  if (names.join("\n") !== [...select.options].slice(1).map((o) => o.value).join("\n")) {
    select.replaceChildren(select.options[0], ...names.map((n) => make("option", { value: n }, plain(n))));
  }
}

function showStores(status, metrics) {
  const memory = status.memory || {};
  const kinds = metrics.filter((s) => s.name === "tailkeep_memory_bytes").map((s, i) => ({ fill: colour(i), name: words(s.labels.kind), value: s.value }));
  fillBar(byId("memory-bar"), kinds, memory.limit_bytes, `${bytes(memory.used_bytes)} of ${bytes(memory.limit_bytes)}`);
  setLegend("memory-legend", kinds.map((kind) => ({ ...kind, text: bytes(kind.value) })));
  say("memory-more", `${bytes(memory.used_bytes)} of ${bytes(memory.limit_bytes)} · resident ${bytes(sum(metrics, "process_resident_memory_bytes"))}`
    + (memory.tier ? ` · short of room for traces, tier ${memory.tier} of 3` : "") + (memory.evicted_bytes ? ` · ${bytes(memory.evicted_bytes)} evicted to disk` : ""));

  const wal = status.wal || {};
  const states = [["used", "in use", 0], ["retained", "retained", 6]]
    .map(([state, label, fill]) => ({ fill: colour(fill), name: label, value: sum(metrics, "tailkeep_wal_bytes", { state }) }));
  fillBar(byId("log-bar"), states, wal.max_bytes, `${bytes(wal.used_bytes)} of ${bytes(wal.max_bytes)}`);
  setLegend("log-legend", states.map((s) => ({ ...s, text: bytes(s.value) })));
  say("log-more", `of at most ${bytes(wal.max_bytes)} · ${bytes(wal.free_disk_bytes)} free on disk · reaches back ${span(wal.oldest_age_seconds || 0)} · ${plain(wal.durability)}`
    + (wal.poisoned_segments ? ` · ${count(wal.poisoned_segments)} poisoned segments` : "") + (wal.corrupt_bytes ? ` · ${bytes(wal.corrupt_bytes)} corrupt` : ""));
}

function showCores(cores) {
  setRows(bodyOf("cores"), cores.map((core) => {
    const ratio = core.busy_ratio || 0;
    const bar = shape("svg", { class: "bar" });
    fillBar(bar, [{ fill: ratio > 0.9 ? "var(--bad)" : "var(--accent)", value: ratio }], 1, `${Math.round(ratio * 100)} % busy`);
    const busyCell = make("td", { class: "wide" }, bar, core.up ? `${Math.round(ratio * 100)} %` : "down");
    return make("tr", {}, cell(plain(core.core)), cell(plain(core.cpu)), busyCell, cell(count(core.pending_traces), "n"));
  }));
}

function showExporters(exporters) {
  const rows = exporters.flatMap((exporter) => {
    const kind = { ok: "good", retrying: "warn", failing: "bad" }[exporter.state] || "";
    const row = make("tr", { class: exporter.last_error ? "has-note" : null },
      cell(name(exporter.id)), cell(plain(exporter.state), kind), cell(count(exporter.sent), "n"),
      cell(count(exporter.failed), exporter.failed ? "n bad" : "n"), cell(`${count(exporter.queued_items)}${exporter.queued_bytes ? ` (${bytes(exporter.queued_bytes)})` : ""}`, "n"),
      cell(exporter.queued_items ? span(exporter.oldest_age_seconds) : "–", "n"));
    if (!exporter.last_error) return [row];
    return [row, make("tr", {}, make("td", { class: "note", colspan: 6 }, plain(exporter.last_error)))];
  });
  setRows(bodyOf("exporters"), rows.length ? rows : [emptyRow(6, "There are none.")]);
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value.trim());
  byId("token").value = "";
  poll();
});
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = `#trace=${encodeURIComponent(byId("trace").value.trim())}`;
  if (location.hash === wanted) showTrace(ask); else location.hash = wanted;
});
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  say("pause", paused ? "Resume" : "Pause");
  if (!paused) poll();
});
for (const id of ["by-verdict", "by-policy"]) byId(id).addEventListener("change", () => pollRecent().catch(() => {}));
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); byId("trace").focus(); }
});
window.addEventListener("hashchange", () => showTrace(ask));
document.addEventListener("visibilitychange", poll);
poll().then(() => showTrace(ask));
setInterval(poll, POLL_MS);
