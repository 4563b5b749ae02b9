//! Destinations that are dead, slow or gone for a while, and a tailkeep that dies.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;

use prost::Message;

use crate::codes::export;
use crate::destination::{Answer, BOTH, Destination, Wire, exporter, place, status_of, wait_counts};
use crate::http::Client;
use crate::output::{self, SpanKey};
use crate::process::wait_for;
use crate::traffic::{ERROR, orphan, request, span, trace_id};

fn id(wire: Wire) -> &'static str {
    match wire {
        Wire::Grpc => "otlp_grpc/a",
        Wire::Http => "otlp_http/a",
    }
}

#[test]
fn c04_a_connection_that_is_closed_is_made_again() {
    for wire in BOTH {
        let destination = Destination::start(wire);
        let place = place("closed", &destination.exporter("a", ""));
        let tailkeep = place.start();
        destination.next([Answer::Close, Answer::Close]);
        export(&tailkeep, 1, 2);
        wait_counts(&tailkeep, id(wire), 2, 0);
        assert_eq!(destination.count_of(1), 3);
        assert_eq!(destination.connection_count(), 3);
    }
}

#[test]
fn a_connection_closed_mid_request_is_made_again() {
    let destination = Destination::start(Wire::Http);
    let place = place("midway", &destination.exporter("a", ", compression: none"));
    let tailkeep = place.start();
    destination.next([Answer::CloseMidway]);
    export(&tailkeep, 1, 200);
    wait_counts(&tailkeep, "otlp_http/a", 200, 0);
    assert_eq!(destination.count_of(1), 1);
}

#[test]
fn a_destination_that_is_dead_gets_everything_when_it_is_back() {
    for wire in BOTH {
        let address = Destination::nowhere();
        let exporter = exporter(wire, &address.to_string(), "a", "");
        let place = place("dead", &exporter);
        let tailkeep = place.start();
        for trace in 0..10 {
            export(&tailkeep, trace, 2);
        }
        let status = wait_for("a failure", || {
            let status = status_of(&tailkeep, id(wire));
            let all = status["queued_items"] == 20 && status["state"] != "ok";
            all.then_some(status)
        });
        let error = status["last_error"].as_str().expect("an error");
        assert!(
            error.contains("connect") && error.contains(&address.to_string()),
            "{error}"
        );
        assert_eq!(tailkeep.ask("/readyz").0, 200, "ingest goes on");

        let destination = Destination::start_at(wire, address);
        destination.wait_accepted(0..10);
        wait_counts(&tailkeep, id(wire), 20, 0);
        let status = status_of(&tailkeep, id(wire));
        assert_eq!(
            (&status["state"], &status["queued_items"]),
            (&"ok".into(), &0.into())
        );
        let log = tailkeep.stop_well();
        assert!(log.contains("exporting again"), "{log}");
    }
}

#[test]
fn a_server_that_restarts_is_found_again() {
    for wire in BOTH {
        let destination = Destination::start(wire);
        let address = destination.address;
        let place = place("restart", &destination.exporter("a", ""));
        let tailkeep = place.start();
        export(&tailkeep, 1, 1);
        destination.wait_accepted([1]);
        drop(destination);
        export(&tailkeep, 2, 1);
        let destination = Destination::start_at(wire, address);
        export(&tailkeep, 3, 1);
        destination.wait_accepted([2, 3]);
        wait_counts(&tailkeep, id(wire), 3, 0);
    }
}

#[test]
fn a_restart_sends_only_what_was_not_acknowledged() {
    for wire in BOTH {
        let destination = Destination::start(wire);
        // One that never gets anything keeps all of it in the kept log.
        let dead = exporter(wire, &Destination::nowhere().to_string(), "dead", "");
        let place = place("kill", &(destination.exporter("a", "") + &dead));
        let tailkeep = place.start();
        for trace in 0..5 {
            export(&tailkeep, trace, 2);
        }
        destination.wait_accepted(0..5);
        wait_counts(&tailkeep, id(wire), 10, 0);
        destination.always(Answer::unavailable(wire));
        for trace in 5..10 {
            export(&tailkeep, trace, 2);
        }
        // By its sixth refusal the cursor of what was accepted has long been logged.
        wait_for("all of it refused, again and again", || {
            let tries = (5..10).map(|trace| destination.count_of(trace)).min();
            (tries >= Some(6)).then_some(())
        });
        let before = destination.received().len();
        tailkeep.kill();

        destination.always(Answer::Accept);
        let tailkeep = place.start();
        destination.wait_accepted(0..10);
        tailkeep.stop_well();
        let after = &destination.received()[before..];
        let resent: std::collections::BTreeSet<u64> = after
            .iter()
            .filter(|request| request.accepted)
            .flat_map(|request| request.traces())
            .collect();
        assert_eq!(resent, (5..10).collect());
    }
}

/// Sends traces from `first` on, each as two requests over this connection, until the process is gone. Every
/// third has its error in the first of them. What is due goes into `due` as soon as it is acknowledged.
fn send_until_gone(address: SocketAddr, first: u64, due: &Mutex<BTreeSet<SpanKey>>) {
    let mut client = Client::new(address);
    for trace in first.. {
        let fails = trace % 3 == 0;
        let (id, status) = (trace_id(trace), if fails { ERROR } else { 0 });
        let halves = [
            vec![orphan(id, 1, status), orphan(id, 2, 0)],
            vec![orphan(id, 3, 0), span(id, 0, 0)],
        ];
        for spans in halves {
            let keys: Vec<SpanKey> = spans.iter().map(output::key).collect();
            match client.try_export(&request("shop", spans).encode_to_vec()) {
                Ok(200) if fails => due.lock().expect("unpoisoned").extend(keys),
                Ok(200) => {}
                // The rest of a trace without its error would be another story.
                Ok(503) => break,
                Ok(other) => panic!("{other}"),
                Err(_) => return,
            }
        }
    }
}

#[test]
fn a_restart_with_more_cores_sends_what_the_killed_ones_owed() {
    for wire in BOTH {
        let destination = Destination::start(wire);
        let mut place = place("more-cores", &destination.exporter("a", "")).errors_only();
        place.set("node.cores", "2");
        let tailkeep = place.start();
        let (address, due) = (tailkeep.http, Mutex::default());
        std::thread::scope(|scope| {
            for sender in 0..3u64 {
                let due = &due;
                scope.spawn(move || send_until_gone(address, sender << 32, due));
            }
            // Killed while some is delivered, some waits in the kept logs of both cores, and some is undecided.
            wait_for("a delivery of each sender", || {
                let senders: BTreeSet<u64> = destination.accepted().iter().map(|trace| trace >> 32).collect();
                (senders.len() == 3).then_some(())
            });
            destination.always(Answer::unavailable(wire));
            wait_for("a queue", || {
                let status = status_of(&tailkeep, id(wire));
                (status["queued_items"].as_u64() >= Some(200)).then_some(())
            });
            tailkeep.kill();
        });
        let due = due.into_inner().expect("unpoisoned");
        let unsent = due.difference(&destination.accepted_spans()).count();
        assert!(unsent >= 100, "only {unsent} of {} were left to send", due.len());

        destination.always(Answer::Accept);
        place.set("node.cores", "3");
        let tailkeep = place.start();
        wait_for("every acknowledged due span", || {
            destination.accepted_spans().is_superset(&due).then_some(())
        });
        tailkeep.wait_settled();
        tailkeep.stop_well();
        let undue = destination.accepted().into_iter().find(|trace| trace % 3 != 0);
        assert_eq!(undue, None, "no policy keeps it");
    }
}

#[test]
fn a_slow_destination_delays_no_other_and_no_ingest() {
    let (slow, fast) = (Destination::start(Wire::Grpc), Destination::start(Wire::Http));
    slow.always(Answer::Hang);
    let exporters = slow.exporter("slow", ", timeout: 1h") + &fast.exporter("fast", "");
    let place = place("slow", &exporters);
    let tailkeep = place.start();
    for trace in 0..20 {
        export(&tailkeep, trace, 1);
        fast.wait_accepted([trace]);
    }
    wait_counts(&tailkeep, "otlp_http/fast", 20, 0);
    let status = status_of(&tailkeep, "otlp_grpc/slow");
    assert_eq!(
        (&status["sent"], &status["queued_items"]),
        (&0.into(), &20.into())
    );
    assert_eq!(slow.received().len(), 1, "one request at a time");

    // What is in flight gets a bounded time, then the rest waits in the kept log.
    tailkeep.stop_well();
    slow.always(Answer::Accept);
    let tailkeep = place.start();
    slow.wait_accepted(0..20);
    tailkeep.stop_well();
    assert!(
        (0..20).all(|trace| fast.count_of(trace) == 1),
        "the fast one has had it all"
    );
}

#[test]
fn a_request_without_a_reply_is_sent_again_after_its_timeout() {
    for wire in BOTH {
        let destination = Destination::start(wire);
        let place = place("timeout", &destination.exporter("a", ", timeout: 300ms"));
        let tailkeep = place.start();
        destination.next([Answer::Hang]);
        export(&tailkeep, 1, 1);
        destination.wait_accepted([1]);
        wait_counts(&tailkeep, id(wire), 1, 0);
        assert_eq!(
            destination.connection_count(),
            2,
            "a late reply must not meet the next request"
        );
    }
}

#[test]
fn every_address_of_a_name_is_tried() {
    for wire in BOTH {
        // `localhost` is 127.0.0.1 and, on most hosts, ::1, where nobody listens.
        let destination = Destination::start_at(wire, SocketAddr::from(([127, 0, 0, 1], 0)));
        let endpoint = format!("localhost:{}", destination.address.port());
        let place = place("names", &exporter(wire, &endpoint, "a", ""));
        let tailkeep = place.start();
        export(&tailkeep, 1, 1);
        destination.wait_accepted([1]);
        // After a failure another address may be first; it arrives all the same.
        destination.next([Answer::unavailable(wire), Answer::unavailable(wire)]);
        export(&tailkeep, 2, 1);
        destination.wait_accepted([2]);
    }
}

#[test]
fn a_name_without_an_address_is_retried_and_named() {
    let place = place("nameless", &exporter(Wire::Grpc, "nowhere.invalid:4317", "a", ""));
    let tailkeep = place.start();
    export(&tailkeep, 1, 1);
    wait_for("the name in the error", || {
        let status = status_of(&tailkeep, "otlp_grpc/a");
        let error = status["last_error"].as_str()?.to_owned();
        (error.contains("resolve") && error.contains("nowhere.invalid")).then_some(())
    });
    assert_eq!(tailkeep.ask("/readyz").0, 200);
    tailkeep.stop_well();
}

#[test]
fn a_server_that_speaks_something_else_is_retried() {
    // tailkeep's own admin port answers a gRPC preface with an HTTP/1.1 error.
    let first = place("other", "").start();
    let address: SocketAddr = first.admin;
    let place = place(
        "other-client",
        &exporter(Wire::Grpc, &address.to_string(), "a", ", timeout: 1s"),
    );
    let tailkeep = place.start();
    export(&tailkeep, 1, 1);
    let status = wait_for("an error", || {
        let status = status_of(&tailkeep, "otlp_grpc/a");
        status["last_error"].is_string().then_some(status)
    });
    assert_eq!(status["failed"], 0, "{status}");
}
