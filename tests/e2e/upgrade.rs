//! Dropped traces that are kept after all: by a late span, or by hand, while the log has them.

use crate::http::{self, Client};
use crate::process::{Place, Tailkeep, wait_for};
use crate::traffic::{ERROR, hex, orphan, request, span, trace_id};

fn keep(tailkeep: &Tailkeep, trace: [u8; 16]) -> (u16, serde_json::Value) {
    let path = format!("/api/v1/traces/{}/keep", hex(&trace));
    let (code, body) = http::post(tailkeep.admin, &path);
    let value = serde_json::from_slice(&body);
    (code, value.expect("JSON"))
}

fn assert_ledger(tailkeep: &Tailkeep) {
    let spans = &tailkeep.status()["signals"]["spans"];
    let sum = |names: &[&str]| -> u64 {
        names
            .iter()
            .map(|name| spans[name].as_u64().expect("a count"))
            .sum()
    };
    assert_eq!(
        sum(&["accepted", "resumed", "upgraded"]),
        sum(&["kept", "rolled_up", "denied", "lost", "pending"]),
        "C1: {spans}"
    );
}

fn assert_out_whole(place: &Place, trace: [u8; 16], count: usize, policy: &str) {
    let output = place.output();
    let spans = output.of_trace(&trace);
    assert_eq!(spans.len(), count);
    for span in spans {
        assert_eq!(span.annotations["tailkeep.upgraded"], "true");
        assert_eq!(span.annotations["tailsampling.policy"], policy);
    }
}

#[test]
fn a_late_error_brings_the_whole_dropped_trace_out() {
    let place = Place::new("late-error").errors_only().with("node.cores", "2");
    let tailkeep = place.start();
    // A client for each core, so that the trace lies in several logs.
    let mut clients: Vec<Client> = (0..4).map(|_| Client::new(tailkeep.http)).collect();
    let trace = trace_id(1);
    clients[0].export(&request("a", vec![span(trace, 0, 0), orphan(trace, 1, 0)]));
    clients[1].export(&request("b", vec![orphan(trace, 2, 0)]));
    clients[2].export(&request("b", vec![span(trace_id(2), 0, 0)]));
    let status = tailkeep.wait_settled();
    assert_eq!(status["signals"]["spans"]["kept"], 0);
    clients[3].export(&request("c", vec![orphan(trace, 3, ERROR)]));
    wait_for("the trace to come out", || {
        (place.output().spans.len() >= 4).then_some(())
    });
    let status = tailkeep.wait_settled();
    assert_eq!(status["traces"]["upgraded"], 1);
    assert_eq!(status["signals"]["spans"]["upgraded"], 4);
    assert_ledger(&tailkeep);
    let (_, explained) = tailkeep.ask(&format!("/api/v1/traces/{}", hex(&trace)));
    assert_eq!(explained["verdict"], "kept");
    assert_eq!(explained["upgraded"], true);
    // What comes later follows the new verdict.
    clients[0].export(&request("a", vec![orphan(trace, 4, 0)]));
    wait_for("the late span", || {
        (place.output().spans.len() >= 5).then_some(())
    });
    tailkeep.stop_well();
    assert_out_whole(&place, trace, 5, "errors");
}

#[test]
fn a_trace_is_kept_by_hand_after_a_restart_with_other_cores() {
    let mut place = Place::new("by-hand").errors_only().with("node.cores", "2");
    let tailkeep = place.start();
    let mut clients: Vec<Client> = (0..2).map(|_| Client::new(tailkeep.http)).collect();
    let trace = trace_id(7);
    for (number, client) in clients.iter_mut().enumerate() {
        client.export(&request("a", vec![orphan(trace, number as u64, 0)]));
    }
    for number in 100..200 {
        clients[0].export(&request("a", vec![span(trace_id(number), 0, 0)]));
    }
    tailkeep.wait_settled();
    // Verdicts linger for a request that needs a sync anyway: with its reply they are durable.
    for (number, client) in (300..).zip(&mut clients) {
        client.export(&request("a", vec![span(trace_id(number), 0, 0)]));
    }
    tailkeep.kill();

    place.set("node.cores", "1");
    let tailkeep = place.start();
    let (code, explained) = keep(&tailkeep, trace);
    assert_eq!(code, 200, "{explained}");
    assert_eq!(explained["verdict"], "kept");
    assert_eq!(explained["policy"], "manual");
    assert_eq!(explained["source"], "log");
    tailkeep.wait_settled();
    assert_ledger(&tailkeep);
    let (code, again) = keep(&tailkeep, trace);
    assert_eq!((code, &again["verdict"]), (200, &"kept".into()));
    tailkeep.stop_well();
    assert_out_whole(&place, trace, 2, "manual");

    // It is done: another start does not do it again.
    let tailkeep = place.start();
    tailkeep.wait_settled();
    tailkeep.stop_well();
    assert_out_whole(&place, trace, 2, "manual");
}

#[test]
fn a_trace_that_no_log_has_cannot_be_kept_and_pages_from_elsewhere_keep_nothing() {
    let place = Place::new("keep-404").errors_only();
    let tailkeep = place.start();
    let (code, error) = keep(&tailkeep, trace_id(9));
    assert_eq!(code, 404);
    let message = error["error"]["message"].as_str().expect("a message");
    assert!(message.contains("the log"), "{message}");
    assert_eq!(tailkeep.ask("/api/v1/traces/123/keep").0, 400);
    let path = format!("/api/v1/traces/{}/keep", hex(&trace_id(9)));
    assert_eq!(
        http::post_from(tailkeep.admin, &path, "http://evil.example").0,
        403
    );
    tailkeep.stop_well();
}

#[test]
fn an_open_trace_that_is_kept_by_hand_comes_out_when_it_closes() {
    let place = Place::new("keep-open")
        .errors_only()
        .with("completion.quiet", "1s");
    let tailkeep = place.start();
    let mut client = Client::new(tailkeep.http);
    let trace = trace_id(3);
    client.export(&request("a", vec![orphan(trace, 1, 0)]));
    let (code, explained) = keep(&tailkeep, trace);
    assert_eq!(code, 200, "{explained}");
    client.export(&request("a", vec![span(trace, 0, 0)]));
    let status = tailkeep.wait_settled();
    assert_eq!(status["signals"]["spans"]["kept"], 2);
    assert_ledger(&tailkeep);
    tailkeep.stop_well();
    let output = place.output();
    assert_eq!(output.of_trace(&trace).len(), 2);
    assert_eq!(
        output.of_trace(&trace)[0].annotations["tailsampling.policy"],
        "manual"
    );
}
