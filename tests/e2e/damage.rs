//! Damaged logs: what was hit is lost and said, the rest is exported, and nothing panics.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;

use opentelemetry_proto::tonic::trace::v1::Span;

use crate::http::Client;
use crate::process::Place;
use crate::traffic::{self, Random, request, span, trace_id};

const TRACES: u64 = 100;

/// A log with traces that wait, each written alone.
fn pending(name: &str) -> Place {
    let mut place = Place::new(name)
        .with("completion.quiet", "60s")
        .with("tail_sampling.decision_wait", "300s");
    // One log, which is then damaged.
    place.set("node.cores", "1");
    let tailkeep = place.start();
    let mut client = Client::new(tailkeep.http);
    for number in 0..TRACES {
        let filler = traffic::text("filler", &"x".repeat(5000));
        client.export(&request(
            "a",
            vec![Span {
                attributes: vec![filler],
                ..span(trace_id(number), 0, 0)
            }],
        ));
    }
    // A clean stop would leave a checkpoint, and the next start would not look at them.
    tailkeep.kill();
    place.set("completion.quiet", "200ms");
    place
}

/// The one segment with spans and how far it is written.
fn written_segment(place: &Place) -> (fs::File, u64) {
    let of = |path: &std::path::PathBuf| {
        let bytes = fs::read(path).expect("readable");
        bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at as u64 + 1)
    };
    let path = place.segments().into_iter().max_by_key(of).expect("a segment");
    let end = of(&path);
    assert!(end > 5000 * TRACES, "{end} bytes are written");
    (
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .expect("opened"),
        end,
    )
}

#[test]
fn flipped_bytes_cost_only_what_they_hit() {
    let place = pending("flipped");
    let (segment, end) = written_segment(&place);
    // Where spans are, and not the padding between them.
    let mut hit = [0; 64];
    let at = (end / 2..end).find(|at| {
        segment.read_exact_at(&mut hit, *at).expect("read");
        hit == [b'x'; 64]
    });
    segment
        .write_all_at(&[b'y'; 64], at.expect("a filler"))
        .expect("written");

    let tailkeep = place.start();
    let status = tailkeep.wait_settled();
    assert!(
        status["wal"]["corrupt_bytes"].as_u64() > Some(0),
        "{}",
        status["wal"]
    );
    let codes: Vec<_> = status["problems"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| &it["code"])
        .collect();
    assert_eq!(codes, ["log_corrupt"]);
    let log = tailkeep.stop_well();
    assert!(log.contains("corrupt"), "{log}");
    let came_back = place.output().traces();
    let sent: BTreeSet<Vec<u8>> = (0..TRACES).map(|number| trace_id(number).to_vec()).collect();
    assert!(came_back.is_subset(&sent));
    let lost = sent.difference(&came_back).count();
    assert!((1..=3).contains(&lost), "{lost} traces are lost");
}

#[test]
fn no_damage_makes_it_panic() {
    let mut random = Random::printed("damage");
    for round in 0..4 {
        let place = pending("damaged");
        let (segment, end) = written_segment(&place);
        for _ in 0..1 + random.below(20) {
            let at = random.below(end);
            let bytes: Vec<u8> = (0..1 + random.below(200)).map(|_| random.next() as u8).collect();
            segment.write_all_at(&bytes, at).expect("written");
        }
        if random.below(2) == 0 {
            segment.set_len(random.below(end)).expect("cut");
        }
        let tailkeep = place.start();
        let status = tailkeep.wait_settled();
        let mut client = Client::new(tailkeep.http);
        client.export(&request("after", vec![span(trace_id(TRACES), 0, 0)]));
        tailkeep.wait_settled();
        tailkeep.stop_well();
        let came_back = place.output().traces();
        println!(
            "round {round}: {} traces, corrupt {}",
            came_back.len(),
            status["wal"]["corrupt_bytes"]
        );
        assert!(
            came_back
                .iter()
                .all(|trace| (0..=TRACES).any(|number| trace_id(number)[..] == trace[..]))
        );
        assert!(
            came_back.contains(&trace_id(TRACES)[..]),
            "what comes after the damage is taken"
        );
    }
}

#[test]
fn a_damaged_kept_log_costs_no_trace_whose_spans_are_there() {
    let mut random = Random::printed("kept log");
    let place = Place::new("kept-damage");
    // Nothing can be exported, so that everything waits in the kept log.
    std::os::unix::fs::symlink("/dev/full", place.kept()).expect("linked");
    let tailkeep = place.start();
    let mut client = Client::new(tailkeep.http);
    (0..TRACES).for_each(|number| client.export(&request("a", vec![span(trace_id(number), 0, 0)])));
    crate::process::wait_for("all decided", || {
        (tailkeep.status()["traces"]["pending"] == 0).then_some(())
    });
    tailkeep.stop();
    let directory = place.data().join("kept-00");
    for entry in fs::read_dir(directory).expect("there") {
        let path = entry.expect("readable").path();
        let length = fs::metadata(&path).expect("there").len();
        let file = fs::OpenOptions::new().write(true).open(path).expect("opened");
        for _ in 0..50 {
            file.write_all_at(&[random.next() as u8; 8], random.below(length.min(64 << 10)))
                .expect("written");
        }
    }
    fs::remove_file(place.kept()).expect("unlinked");
    let tailkeep = place.start();
    tailkeep.wait_settled();
    tailkeep.stop_well();
    assert_eq!(place.output().traces().len() as u64, TRACES);
}
