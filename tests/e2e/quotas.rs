//! Limits on the real process: what they let through, what they say of it, and what a restart makes of them.

use std::time::Instant;

use serde_json::Value;

use crate::cluster::{address, member, wait_members};
use crate::http::{self, Client};
use crate::output::Output;
use crate::process::{Place, Tailkeep};
use crate::traffic::{ERROR, hex, request, span, trace_id};

const SPANS: u64 = 8;

/// Whole traces of [`SPANS`] spans.
fn send(to: &Tailkeep, traces: std::ops::Range<u64>, status: i32) {
    for number in traces {
        let spans = (0..SPANS).map(|span_number| span(trace_id(number), span_number, status));
        Client::new(to.http).export(&request("shop", spans.collect()));
    }
}

/// What came in by the rate since then, and a little.
fn came(since: Instant, rate: u64) -> u64 {
    since.elapsed().as_millis() as u64 * rate / 1_000 + 1
}

fn by_policy(output: &Output, policy: &str) -> u64 {
    let is_its = |span: &&crate::output::Exported| {
        span.annotations.get("tailsampling.policy").map(String::as_str) == Some(policy)
    };
    output.spans.iter().filter(is_its).count() as u64
}

fn policy_of<'a>(explained: &'a Value, name: &str) -> &'a Value {
    let mut policies = explained["policies"].as_array().expect("a list").iter();
    policies
        .find(|policy| policy["name"] == name)
        .expect("it is there")
}

const LIMIT: &str =
    "{ name: limit, type: rate_limiting, rate_limiting: { spans_per_second: 1, burst_capacity: 40 } }";

#[test]
fn limit_lets_its_burst_through_says_why_not_more_and_restarts_without_it() {
    let policies =
        format!("[{{ name: errors, type: status_code, status_code: {{ status_codes: [ERROR] }} }}, {LIMIT}]");
    let place = Place::new("limit").policies(&policies).with("node.cores", "1");
    let began = Instant::now();
    let tailkeep = place.start();
    send(&tailkeep, 0..20, 0);
    let status = tailkeep.wait_settled();
    let (kept, most) = (by_policy(&place.output(), "limit"), 40 + came(began, 1));
    assert!(
        (40..=most).contains(&kept) && kept % SPANS == 0,
        "{kept} of {most}"
    );

    let quota = &status["policies"][1]["quota"];
    assert_eq!(quota["tokens"], kept, "{quota}");
    assert_eq!(quota["granted"], kept / SPANS, "{quota}");
    assert_eq!(quota["refused"], 20 - kept / SPANS, "{quota}");
    assert_eq!(status["policies"][0]["quota"], Value::Null);
    let (_, metrics) = http::get(tailkeep.admin, "/metrics");
    let metrics = String::from_utf8(metrics).expect("text");
    for sample in [
        format!("tailkeep_policy_quota_spent_tokens_total{{policy=\"limit\"}} {kept}\n"),
        "tailkeep_policy_quota_traces_total{policy=\"limit\",outcome=\"unanswered\"} 0\n".to_owned(),
        "tailkeep_policy_quota_tokens{policy=\"limit\"} ".to_owned(),
    ] {
        assert!(metrics.contains(&sample), "{sample}");
    }
    assert!(!metrics.contains("quota_spent_tokens_total{policy=\"errors\"}"));

    let kept_traces = place.output().traces();
    for number in 0..20 {
        let (_, explained) = tailkeep.ask(&format!("/api/v1/traces/{}", hex(&trace_id(number))));
        let limit = policy_of(&explained, "limit");
        let detail = limit["detail"].as_str().expect("text");
        match kept_traces.contains(trace_id(number).as_slice()) {
            true => {
                assert_eq!(limit["result"], "match");
                assert_eq!(detail, "8 spans: within 1 a second, 40 at once");
            }
            false => {
                assert_eq!(limit["result"], "no_match");
                let has_left =
                    detail.starts_with("8 spans, ") && detail.contains(" tokens left: beyond 1 a second");
                assert!(has_left, "{detail}");
            }
        }
    }
    tailkeep.stop_well();

    let before = place.output().spans.len() as u64;
    let began = Instant::now();
    let tailkeep = place.start();
    send(&tailkeep, 100..120, 0);
    send(&tailkeep, 200..203, ERROR);
    tailkeep.wait_settled();
    tailkeep.stop_well();
    let output = place.output();
    assert_eq!(by_policy(&output, "errors"), 3 * SPANS);
    let kept = output.spans.len() as u64 - before - 3 * SPANS;
    assert!(kept <= came(began, 1), "W4: {kept} after a restart");
}

#[test]
fn cores_share_one_limit() {
    let policies = "[{ name: limit, type: bytes_limiting, bytes_limiting: { bytes_per_second: 1, burst_capacity: 100000 } }, \
                     { name: cap, type: rate_limiting, rate_limiting: { spans_per_second: 1, burst_capacity: 80 } }]";
    let policies = policies.replacen("limit", "bytes", 1);
    let place = Place::new("cores").policies(&policies).with("node.cores", "3");
    let began = Instant::now();
    let tailkeep = place.start();
    send(&tailkeep, 0..150, 0);
    let status = tailkeep.wait_settled();
    let [bytes, cap] = [0, 1].map(|policy| status["policies"][policy]["quota"].clone());
    for quota in [&bytes, &cap] {
        assert_eq!(quota["unanswered"], 0, "{quota}");
        let asked = quota["granted"].as_u64().expect("a count") + quota["refused"].as_u64().expect("a count");
        assert_eq!(asked, 150, "{quota}");
    }
    let spent = |quota: &Value| quota["tokens"].as_u64().expect("a count");
    let most = 80 + came(began, 1);
    assert!((80..=most).contains(&spent(&cap)), "{cap} of {most}");
    let largest = 2_000;
    assert!(
        (100_000 - largest..=100_000 + came(began, 1)).contains(&spent(&bytes)),
        "{bytes}"
    );
    tailkeep.stop_well();
}

#[test]
fn nodes_share_one_limit() {
    const RATE: u64 = 40;
    let policies = "[{ name: limit, type: rate_limiting, rate_limiting: { spans_per_second: 40 } }]";
    let key = "0a".repeat(32);
    let began = Instant::now();
    let settle_soon = |place: Place| place.policies(policies).with("completion.quiet", "500ms");
    let one = settle_soon(member("one", &key, &[]));
    let first = one.start();
    let two = settle_soon(member("two", &key, &[address(&first)]));
    let second = two.start();
    for tailkeep in [&first, &second] {
        wait_members(tailkeep, &[("one", "alive"), ("two", "alive")]);
    }
    for round in 0..12 {
        send(&first, round * 20..round * 20 + 10, 0);
        send(&second, round * 20 + 10..round * 20 + 20, 0);
    }
    // A home has judged what the other node has settled.
    for tailkeep in [&first, &second] {
        tailkeep.wait_settled();
    }
    let statuses = [&first, &second].map(|tailkeep| tailkeep.status());
    let counted = |what: &str| -> u64 {
        let quotas = statuses.iter().map(|status| &status["policies"][0]["quota"]);
        quotas.filter_map(|quota| quota[what].as_u64()).sum()
    };
    let kept = (one.output().spans.len() + two.output().spans.len()) as u64;
    // While they did not know each other each had a ledger.
    assert!(kept > 0 && kept <= 2 * came(began, RATE), "{kept}");
    assert_eq!(counted("tokens"), kept);
    assert_eq!(
        counted("granted") + counted("refused") + counted("unanswered"),
        240
    );
    second.stop_well();
    first.stop_well();
}
