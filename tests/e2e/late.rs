//! Late spans follow the verdict.

use crate::http::Client;
use crate::process::Place;
use crate::traffic::{ERROR, orphan, request, span, trace_id};

#[test]
fn late_spans_follow_the_verdict() {
    let place = Place::new("late").errors_only();
    let tailkeep = place.start();
    let mut client = Client::new(tailkeep.http);
    let (kept, dropped) = (trace_id(1), trace_id(2));
    client.export(&request("a", vec![span(kept, 0, ERROR)]));
    client.export(&request("a", vec![span(dropped, 0, 0)]));
    tailkeep.wait_settled();
    client.export(&request("b", vec![orphan(kept, 7, 0), orphan(kept, 8, 0)]));
    client.export(&request("b", vec![orphan(dropped, 7, 0)]));
    let status = tailkeep.wait_settled();
    assert_eq!(status["signals"]["spans"]["kept"], 3);
    assert_eq!(status["signals"]["spans"]["rolled_up"], 2);
    assert_eq!(status["traces"]["opened"], 2, "late spans open no trace");
    let log = tailkeep.stop_well();

    let output = place.output();
    assert_eq!(output.traces(), [kept.to_vec()].into(), "{log}");
    let late: Vec<bool> = output
        .of_trace(&kept)
        .iter()
        .map(|span| {
            span.annotations
                .get("tailsampling.cached_decision")
                .is_some_and(|text| text == "true")
        })
        .collect();
    assert_eq!(late, [false, true, true]);
    for span in output.of_trace(&kept) {
        assert_eq!(span.annotations["tailsampling.policy"], "errors");
    }
}

#[test]
fn late_spans_follow_the_verdict_after_a_restart() {
    let place = Place::new("late-restart").errors_only();
    let tailkeep = place.start();
    let mut client = Client::new(tailkeep.http);
    let (kept, dropped) = (trace_id(1), trace_id(2));
    client.export(&request("a", vec![span(kept, 0, ERROR)]));
    client.export(&request("a", vec![span(dropped, 0, 0)]));
    tailkeep.wait_settled();
    tailkeep.kill();
    let tailkeep = place.start();
    let mut client = Client::new(tailkeep.http);
    client.export(&request("b", vec![orphan(kept, 7, 0)]));
    // A late span opens no trace.
    client.export(&request("b", vec![orphan(dropped, 7, 0)]));
    let status = tailkeep.wait_settled();
    assert_eq!(status["traces"]["opened"], 0);
    tailkeep.stop_well();
    let output = place.output();
    assert_eq!(output.traces(), [kept.to_vec()].into());
    assert!(
        output
            .spans
            .iter()
            .any(|span| span.annotations.contains_key("tailsampling.cached_decision"))
    );
}
