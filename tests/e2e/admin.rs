//! The admin port: its words are those of the contract, and its numbers add up.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::http::{self, Client};
use crate::process::{Place, Tailkeep, wait_for};
use crate::traffic::{ERROR, hex, orphan, request, span, trace_id};

/// Names of the contract for the parts that exist. What is not built yet stands in `METRICS_NOT_YET`.
const METRICS: &str = "
    accepted_items_total resumed_items_total upgraded_items_total kept_items_total rolled_up_items_total
    denied_items_total lost_items_total pending_items
    refused_items_total requests_total received_bytes_total ack_seconds
    traces_opened_total traces_pending traces_closed_total traces_decided_total traces_forced_total
    traces_with_error_total late_spans_total late_span_age_seconds decision_seconds
    policy_evaluated_traces_total policy_matched_traces_total policy_decided_traces_total
    policy_sole_traces_total policy_kept_spans_total policy_kept_bytes_total policy_errors_total
    exporter_sent_items_total exporter_failed_items_total exporter_retries_total exporter_sent_bytes_total
    exporter_request_seconds export_delay_seconds exporter_up exporter_queue_items exporter_queue_bytes
    exporter_queue_oldest_seconds
    wal_bytes wal_written_bytes_total wal_sync_seconds wal_poisoned_segments_total wal_corrupt_bytes_total
    wal_oldest_seconds wal_replay_seconds
    memory_bytes memory_limit_bytes memory_tier memory_evicted_bytes_total
    core_up core_busy_seconds_total
    config_reloads_total build_info";
const METRICS_NOT_YET: &str = "";

const STATUS: &str = r#"
{"version":"","commit":"","node":"","node_id":"","incarnation":1,"state":"","started_at":"","problems":[],
 "config":{"files":[],"hash":"","loaded_at":"","compat":"default","dry_run":false},
 "endpoints":{"grpc":"","http":"","admin":"","cluster":null},
 "cores":[{"core":0,"cpu":2,"up":true,"busy_ratio":0.4,"pending_traces":0}],
 "signals":{"spans":{"accepted":0,"resumed":0,"upgraded":0,"kept":0,"rolled_up":0,"denied":0,"lost":0,"pending":0,"refused":0},
            "log_records":{},"metric_points":{}},
 "traces":{"opened":0,"pending":0,"kept":0,"rolled_up":0,"denied":0,"upgraded":0,"incomplete":0,"forced":0,"closed":{"complete":0}},
 "policies":[{"name":"","type":"","dry_run":false,"evaluated":0,"matched":0,"decided":0,"sole":0,"kept_spans":0,"kept_bytes":0}],
 "wal":{"dir":"","durability":"fsync","segments":0,"used_bytes":0,"max_bytes":0,"free_disk_bytes":0,"oldest_age_seconds":0,
        "poisoned_segments":0,"corrupt_bytes":0,
        "last_replay":{"seconds":0,"segments":0,"entries":0,"traces_resumed":0,"skipped_bytes":0}},
 "memory":{"limit_bytes":0,"used_bytes":0,"evicted_bytes":0,"tier":0},
 "exporters":[{"id":"","state":"ok","sent":0,"failed":0,"queued_items":0,"queued_bytes":0,"oldest_age_seconds":0,"last_error":null}],
 "cluster":null}"#;

const EXPLAINED: &str = r#"
{"trace_id":"","verdict":"pending","certain":true,"source":"table","policy":"errors","reason":"complete","incomplete":false,
 "upgraded":false,"dry_run":null,"randomness":"14 hex","threshold":null,
 "spans":12,"log_records":3,"bytes":0,"late_spans":0,"services":[],
 "root":{"service":"","name":"","span_id":"","duration_ms":0},
 "first_seen":"","last_seen":"","decided_at":"","decided_by":"",
 "policies":[{"name":"","result":"match","span_id":null,"detail":""}],
 "nodes":[{"node":"","core":0,"spans":12,"in_memory":0,"on_disk":12,"exporters":{}}]}"#;

/// Keys of `wanted` that `found` has not, with their paths.
fn missing(wanted: &Value, found: &Value, path: &str) -> Vec<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted
            .iter()
            .flat_map(|(key, wanted)| {
                let path = format!("{path}.{key}");
                match found.get(key) {
                    Some(found) => missing(wanted, found, &path),
                    None => vec![path],
                }
            })
            .collect(),
        (Value::Array(wanted), Value::Array(found)) => match (wanted.first(), found.first()) {
            (Some(wanted), Some(found)) => missing(wanted, found, &format!("{path}.0")),
            (Some(_), None) => vec![format!("{path}.0")],
            (None, _) => Vec::new(),
        },
        (Value::Object(_) | Value::Array(_), _) => vec![path.to_owned()],
        _ => Vec::new(),
    }
}

fn template(text: &str) -> Value {
    serde_json::from_str(text).expect("the contract's own")
}

fn metrics(tailkeep: &Tailkeep) -> String {
    let (status, body) = http::get(tailkeep.admin, "/metrics");
    assert_eq!(status, 200);
    String::from_utf8(body).expect("UTF-8")
}

/// The sum of a counter or gauge over its samples for spans.
fn spans(metrics: &str, name: &str) -> u64 {
    let is_it =
        |line: &&str| line.starts_with(&format!("tailkeep_{name}{{")) && line.contains("signal=\"spans\"");
    let samples: Vec<&str> = metrics.lines().filter(is_it).collect();
    assert!(!samples.is_empty(), "{name} is not there");
    samples
        .iter()
        .map(|line| {
            line.rsplit(' ')
                .next()
                .and_then(|value| value.parse::<u64>().ok())
                .expect("a count")
        })
        .sum()
}

fn assert_ledger_balances(tailkeep: &Tailkeep) {
    let text = metrics(tailkeep);
    let of = |name: &str| spans(&text, name);
    let came = of("accepted_items_total") + of("resumed_items_total") + of("upgraded_items_total");
    let went = of("kept_items_total")
        + of("rolled_up_items_total")
        + of("denied_items_total")
        + of("lost_items_total");
    assert_eq!(came, went + of("pending_items"), "C1: {text}");
    let ledger = &tailkeep.status()["signals"]["spans"];
    let count = |key: &str| {
        ledger[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key} of {ledger}"))
    };
    assert_eq!(
        count("accepted") + count("resumed") + count("upgraded"),
        count("kept") + count("rolled_up") + count("denied") + count("lost") + count("pending"),
        "C1: {ledger}"
    );
}

#[test]
fn the_ledger_balances_at_every_turn() {
    let drop_health = "{ name: no-health, type: drop, drop: { drop_sub_policy: [
        { name: health, type: string_attribute, string_attribute: { key: health, values: [yes] } } ] } }";
    let errors = "{ name: errors, type: status_code, status_code: { status_codes: [ERROR] } }";
    let place = Place::new("ledger").policies(&format!("[{drop_health}, {errors}]"));
    let tailkeep = place.start();
    assert_ledger_balances(&tailkeep);
    let mut client = Client::new(tailkeep.http);
    for number in 0..60 {
        let mut root = span(trace_id(number), 0, if number % 3 == 0 { ERROR } else { 0 });
        if number % 5 == 0 {
            root.attributes.push(crate::traffic::text("health", "yes"));
        }
        client.export(&request("a", vec![root, span(trace_id(number), 1, 0)]));
        if number % 10 == 0 {
            assert_ledger_balances(&tailkeep);
        }
    }
    let status = tailkeep.wait_settled();
    assert_ledger_balances(&tailkeep);
    let ledger = &status["signals"]["spans"];
    assert_eq!(ledger["denied"], 24, "12 traces: {ledger}");
    assert_eq!(ledger["kept"], 32, "20 with an error, 4 of them denied");
    assert_eq!(ledger["rolled_up"], 64);
    client.export(&request("a", vec![orphan(trace_id(999), 1, ERROR)]));
    tailkeep.kill();
    let tailkeep = place.start();
    assert_ledger_balances(&tailkeep);
    tailkeep.wait_settled();
    assert_ledger_balances(&tailkeep);
    tailkeep.stop_well();
}

#[test]
fn metrics_have_the_names_of_the_contract() {
    let place = Place::new("metrics");
    let tailkeep = place.start();
    Client::new(tailkeep.http).export(&request("a", vec![span(trace_id(1), 0, 0)]));
    tailkeep.wait_settled();
    let text = metrics(&tailkeep);
    let typed: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE tailkeep_")?.split(' ').next())
        .collect();
    let not_yet: BTreeSet<&str> = METRICS_NOT_YET.split_whitespace().collect();
    let absent: Vec<&str> = METRICS
        .split_whitespace()
        .filter(|name| !typed.contains(name))
        .collect();
    println!("not there: {absent:?}");
    assert!(absent.iter().all(|name| not_yet.contains(name)), "{absent:?}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        assert!(
            name.starts_with("tailkeep_") || name.starts_with("process_"),
            "{line}"
        );
        let value = line.rsplit(' ').next().expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn the_status_has_the_keys_of_the_contract() {
    let place = Place::new("status");
    let tailkeep = place.start();
    let status = tailkeep.status();
    assert_eq!(missing(&template(STATUS), &status, ""), [""; 0]);
    assert_eq!(status["state"], "ready");
    assert_eq!(status["endpoints"]["http"], tailkeep.http.to_string());
    assert_eq!(status["node"], "node-under-test");
}

#[test]
fn health_and_readiness_follow_the_life_of_the_process() {
    let place = Place::new("health");
    let tailkeep = place.start();
    assert_eq!(http::get(tailkeep.admin, "/healthz").0, 200);
    let (code, ready) = tailkeep.ask("/readyz");
    assert_eq!(
        (code, &ready["ready"], &ready["why"]),
        (200, &true.into(), &serde_json::json!([]))
    );
    let (code, error) = tailkeep.ask("/no/such/page");
    assert_eq!(code, 404);
    assert!(
        error["error"]["message"].is_string() && error["error"]["code"].is_string(),
        "{error}"
    );
}

#[test]
fn explain_knows_pending_kept_and_dropped_traces() {
    let mut place = Place::new("explain").errors_only();
    let tailkeep = place.start();
    let mut client = Client::new(tailkeep.http);
    let (kept, dropped, pending) = (trace_id(1), trace_id(2), trace_id(3));
    client.export(&request("a", vec![span(kept, 0, ERROR), span(kept, 1, 0)]));
    client.export(&request("a", vec![span(dropped, 0, 0)]));
    tailkeep.wait_settled();
    let explain =
        |tailkeep: &Tailkeep, trace: [u8; 16]| tailkeep.ask(&format!("/api/v1/traces/{}", hex(&trace)));
    for (trace, verdict, policy) in [
        (kept, "kept", Value::from("errors")),
        (dropped, "rolled_up", Value::Null),
    ] {
        let (code, explained) = explain(&tailkeep, trace);
        assert_eq!(
            (code, &explained["verdict"], &explained["policy"]),
            (200, &verdict.into(), &policy)
        );
        assert_eq!(explained["reason"], "complete");
        assert_eq!(explained["trace_id"], hex(&trace));
        assert_eq!(
            missing(&template(EXPLAINED), &explained, ""),
            Vec::<String>::new()
        );
        assert_eq!(explained["source"], "log");
        assert_eq!(explained["services"], serde_json::json!(["a"]));
        assert_eq!(explained["root"]["service"], "a");
        assert_eq!(explained["root"]["span_id"], hex(&span(trace, 0, 0).span_id));
        assert_eq!(explained["nodes"][0]["spans"], explained["spans"]);
    }
    let (_, explained) = explain(&tailkeep, kept);
    assert_eq!(
        explained["policies"][0]["span_id"],
        hex(&span(kept, 0, 0).span_id),
        "the span with the error"
    );
    let node = &explained["nodes"][0];
    let delivered = serde_json::json!({ "accepted": 2, "queued": 0 });
    assert_eq!(node["exporters"]["file"], delivered, "{node}");
    let held = node["in_memory"].as_u64().zip(node["on_disk"].as_u64());
    assert_eq!(held.map(|(memory, disk)| memory + disk), Some(2), "{node}");
    assert_eq!(
        (&explained["spans"], &explained["policies"][0]["result"]),
        (&2.into(), &"match".into())
    );

    let (code, unknown) = explain(&tailkeep, trace_id(77));
    assert_eq!(code, 404);
    assert!(
        unknown["error"]["message"].as_str().is_some_and(
            |text| text.contains("log reaches back to 2") && text.contains("memory reach back to 2")
        ),
        "{unknown}"
    );
    let local = |query: &str| tailkeep.ask(&format!("/api/v1/traces/{}?{query}", hex(&kept)));
    assert_eq!((local("local=true").0, local("nonsense=1").0), (200, 400));
    for bad in [
        "xyz",
        "00000000000000000000000000000000",
        "5e5e",
        "g00000000000000000000000000000001",
    ] {
        assert_eq!(tailkeep.ask(&format!("/api/v1/traces/{bad}")).0, 400, "{bad}");
    }
    let (code, recent) = tailkeep.ask("/api/v1/traces?verdict=kept&policy=errors&limit=5");
    assert_eq!(
        (code, &recent["traces"][0]["trace_id"]),
        (200, &hex(&kept).into()),
        "{recent}"
    );
    assert_eq!(recent["traces"].as_array().map(Vec::len), Some(1));
    assert_eq!(tailkeep.ask("/api/v1/traces?verdict=nonsense").0, 400);
    tailkeep.stop_well();

    place.set("completion.quiet", "50s");
    let tailkeep = place.start();
    // Decisions outlive the process.
    for (trace, verdict) in [(kept, "kept"), (dropped, "rolled_up")] {
        let (code, explained) = explain(&tailkeep, trace);
        assert_eq!(
            (code, &explained["verdict"]),
            (200, &verdict.into()),
            "{explained}"
        );
        assert_eq!(
            missing(&template(EXPLAINED), &explained, ""),
            Vec::<String>::new()
        );
        assert_eq!(explained["root"]["service"], "a");
    }
    let (_, recent) = tailkeep.ask("/api/v1/traces");
    let known: Vec<&Value> = recent["traces"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| &it["trace_id"])
        .collect();
    assert!(known.contains(&&Value::from(hex(&kept))) && known.contains(&&Value::from(hex(&dropped))));
    Client::new(tailkeep.http).export(&request("a", vec![orphan(pending, 4, ERROR)]));
    let explained = wait_for("the pending trace", || {
        let (code, explained) = explain(&tailkeep, pending);
        (code == 200).then_some(explained)
    });
    assert_eq!(
        (&explained["verdict"], &explained["decided_at"]),
        (&"pending".into(), &Value::Null)
    );
    assert_eq!(explained["spans"], 1);
    tailkeep.stop_well();
}

/// It reads more than the bytes of a turn, and its client says at once that it will send no more.
#[test]
fn one_connection_is_answered_request_after_request() {
    const COUNT: usize = 40;
    let place = Place::new("kept-alive");
    let tailkeep = place.start();
    let mut connection = TcpStream::connect(tailkeep.admin).expect("the admin port");
    connection
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a socket");
    let padding = "x".repeat(4096);
    for _ in 0..COUNT {
        write!(
            connection,
            "GET /healthz HTTP/1.1\r\nhost: tailkeep\r\nx-padding: {padding}\r\n\r\n"
        )
        .expect("room in the socket");
    }
    connection.shutdown(Shutdown::Write).expect("a socket");
    let mut replies = String::new();
    connection
        .read_to_string(&mut replies)
        .expect("replies, and the end");
    assert_eq!(replies.matches("HTTP/1.1 200").count(), COUNT);
}
