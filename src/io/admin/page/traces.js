
// The list of recent decisions, and what is known of one trace.

const RECENT = 25;
const words = (text) => plain(text).replace(/_/g, " ");
const verdictCell = (verdict) => cell(words(verdict), /^(kept|rolled_up|denied|pending)$/.test(verdict) ? verdict : "");

function traceLink(id) {
  const safe = /^[0-9a-f]{32}$/.test(id) ? id : null;
  return safe ? make("a", { class: "mono", href: `#trace=${safe}`, title: safe }, safe) : name(id);
}

function rootText(root) {
  if (!root || (!root.service && !root.name)) return "–";
  return make("bdi", { title: plain(`${root.service || ""} ${root.name || ""}`) }, plain([root.service, root.name].filter(Boolean).join(" · ")));
}

function recentRow(trace) {
  const took = trace.root && trace.root.duration_ms;
  return make("tr", {},
    cell(clockTime(trace.decided_at)),
    cell(traceLink(trace.trace_id)),
    verdictCell(trace.verdict),
    cell(name(trace.policy)),
    cell(words(trace.reason) + (trace.incomplete ? ", incomplete" : "")),
    cell(count(trace.spans), "n"),
    cell(milliseconds(took), "n"),
    cell(rootText(trace.root)));
}

function showRecent(traces, filtered) {
  const none = filtered ? "No recent decision is like that." : "Nothing was decided yet.";
  setRows(bodyOf("recent"), traces.length ? traces.map(recentRow) : [emptyRow(8, none)]);
  say("recent-more", traces.length === RECENT ? `The last ${RECENT}.` : "");
}

function factsOf(trace) {
  const facts = [["Verdict", words(trace.verdict)
    + (trace.policy ? ` by policy ${plain(trace.policy)}` : "")
    + (trace.reason ? `, closed because ${words(trace.reason)}` : "")
    + (trace.incomplete ? ", incomplete" : "") + (trace.upgraded ? ", dropped first and kept later" : "")]];
  if (trace.certain === false) facts.push(["Certainty", "known by a fingerprint, another trace's with odds below 1 in 10⁹"]);
  if (trace.dry_run) facts.push(["Dry run", `would have been ${words(trace.dry_run)}`]);
  if (trace.root) facts.push(["Root", [trace.root.service, trace.root.name].filter(Boolean).map(plain).concat(milliseconds(trace.root.duration_ms)).join(" · ")]);
  if (trace.spans !== undefined) {
    facts.push(["Content", `${count(trace.spans)} spans, ${count(trace.log_records)} log records, ${bytes(trace.bytes)}`
      + (trace.late_spans ? `, ${count(trace.late_spans)} spans late` : "")]);
  }
  if (trace.services && trace.services.length) facts.push(["Services", trace.services.map(plain).join(", ")]);
  if (trace.first_seen) facts.push(["Seen", `${plain(trace.first_seen)} to ${plain(trace.last_seen)}`]);
  if (trace.decided_at) facts.push(["Decided", `${plain(trace.decided_at)} by ${plain(trace.decided_by)}`]);
  if (trace.randomness) facts.push(["Sampling", `randomness ${plain(trace.randomness)}, threshold ${plain(trace.threshold)}`]);
  return facts;
}

function tableOf(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function describe(trace) {
  const parts = [make("h3", {}, "Trace ", make("span", { class: "mono" }, plain(trace.trace_id)))];
  parts.push(make("dl", {}, ...factsOf(trace).flatMap(([term, fact]) => [make("dt", {}, term), make("dd", {}, fact)])));
  if (trace.policies && trace.policies.length) {
    parts.push(tableOf(["Policy", "Result", "Span", "Why"], trace.policies.map((policy) => make("tr", {},
      cell(name(policy.name)),
      cell(words(policy.result), policy.result === "match" ? "kept" : policy.result === "error" ? "bad" : "rolled_up"),
      cell(policy.span_id ? make("span", { class: "mono" }, plain(policy.span_id)) : "–"), cell(plain(policy.detail))))));
  }
  if (trace.nodes && trace.nodes.length) {
    parts.push(tableOf(["Node", "Core", "Spans", "In memory", "On disk", "Exported"], trace.nodes.map((node) => make("tr", {},
      cell(name(node.node)), cell(plain(node.core)), cell(count(node.spans)), cell(plain(node.in_memory)), cell(plain(node.on_disk)),
      cell(Object.entries(node.exporters || {}).map(([id, sent]) =>
        `${plain(id)}: ${count(sent.accepted)} accepted, ${count(sent.queued)} queued`).join("; ") || "–")))));
  }
  return parts;
}

// The page's address names the trace, so that it can be shared and gone back from.
async function showTrace(ask) {
  const panel = byId("explained");
  const wanted = /^#trace=(.*)$/.exec(location.hash);
  if (!wanted) { panel.hidden = true; return; }
  const id = decodeURIComponent(wanted[1]).trim().toLowerCase();
  byId("trace").value = id;
  const close = make("button", { class: "close", type: "button", "aria-label": "Close" }, "✕");
  close.addEventListener("click", () => { history.pushState(null, "", "#decisions"); panel.hidden = true; byId("trace").focus(); });
  let content;
  if (!/^[0-9a-f]{32}$/.test(id) || /^0+$/.test(id)) {
    content = [make("p", { class: "bad" }, "A trace id is 32 hexadecimal digits, not all zero.")];
  } else {
    try {
      const reply = await ask(`/api/v1/traces/${id}`);
      const answer = await reply.json();
      content = reply.ok ? describe(answer)
        : [make("h3", {}, "Trace ", make("span", { class: "mono" }, id)), make("p", {}, plain(answer.error && answer.error.message))];
    } catch (error) {
      content = [make("p", { class: "bad" }, `No answer: ${plain(error.message)}`)];
    }
  }
  panel.replaceChildren(close, ...content);
  panel.hidden = false;
  panel.focus({ preventScroll: true });
  panel.scrollIntoView({ block: "nearest" });
}
