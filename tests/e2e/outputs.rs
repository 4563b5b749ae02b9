//! The output file when things go wrong around it.

use std::fs;

use rustix::process::Signal;

use crate::http::Client;
use crate::output::Output;
use crate::process::{Place, Tailkeep, wait_for};
use crate::traffic::{request, span, trace_id};

fn export(tailkeep: &Tailkeep, number: u64) {
    Client::new(tailkeep.http).export(&request("a", vec![span(trace_id(number), 0, 0)]));
}

fn wait_failing(tailkeep: &Tailkeep) {
    let status = wait_for("a failing exporter", || {
        let status = tailkeep.status();
        (!status["exporters"][0]["last_error"].is_null()).then_some(status)
    });
    let exporter = &status["exporters"][0];
    assert_ne!(exporter["state"], "ok", "{exporter}");
    assert_eq!(
        (&exporter["queued_items"], &exporter["sent"]),
        (&1.into(), &0.into()),
        "{exporter}"
    );
    assert_eq!(status["state"], "degraded");
    assert_eq!(
        tailkeep.ask("/readyz").0,
        200,
        "a destination that fails does not stop the log"
    );
}

#[test]
fn a_torn_last_line_is_cut_at_start() {
    let place = Place::new("torn");
    let tailkeep = place.start();
    export(&tailkeep, 1);
    tailkeep.wait_settled();
    tailkeep.stop_well();
    let whole = fs::read(place.kept()).expect("written");
    let torn = [&whole[..], b"{\"resourceSpans\":[{\"resou"].concat();
    fs::write(place.kept(), torn).expect("torn");

    let tailkeep = place.start();
    assert_eq!(fs::read(place.kept()).expect("there"), whole);
    export(&tailkeep, 2);
    tailkeep.wait_settled();
    tailkeep.stop_well();
    assert!(fs::read(place.kept()).expect("there").starts_with(&whole));
    assert_eq!(
        place.output().traces(),
        [trace_id(1).to_vec(), trace_id(2).to_vec()].into()
    );
}

#[test]
fn sighup_reopens_a_moved_file() {
    let place = Place::new("sighup");
    let tailkeep = place.start();
    export(&tailkeep, 1);
    tailkeep.wait_settled();
    let moved = place.path.join("moved.jsonl");
    fs::rename(place.kept(), &moved).expect("moved");
    tailkeep.signal(Signal::HUP);
    // When it takes effect is not told, so spans are sent until one arrives in the new file.
    let mut number = 1;
    wait_for("a new file", || {
        number += 1;
        export(&tailkeep, number);
        tailkeep.wait_settled();
        place.kept().exists().then_some(())
    });
    tailkeep.stop_well();
    let (before, after) = (
        Output::read(&moved).spans.len() as u64,
        place.output().spans.len() as u64,
    );
    assert_eq!(before + after, number, "nothing is lost between the files");
    assert!(after > 0);
}

#[test]
fn traces_wait_while_the_disk_of_the_output_is_full() {
    let place = Place::new("full");
    std::os::unix::fs::symlink("/dev/full", place.kept()).expect("linked");
    let tailkeep = place.start();
    export(&tailkeep, 1);
    wait_failing(&tailkeep);
    fs::remove_file(place.kept()).expect("unlinked");
    tailkeep.wait_settled();
    tailkeep.stop_well();
    assert_eq!(place.output().traces(), [trace_id(1).to_vec()].into());
}

#[test]
fn traces_wait_while_the_output_directory_is_gone() {
    let mut place = Place::new("gone");
    let folder = place.path.join("out");
    let kept = folder.join("kept.jsonl");
    place.kept = kept.clone();
    let tailkeep = place.start();
    fs::rename(&folder, place.path.join("away")).expect("moved");
    fs::write(&folder, "in the way").expect("written");
    tailkeep.signal(Signal::HUP);
    export(&tailkeep, 1);
    // If SIGHUP took effect after the first export, that one is in the file that was moved.
    let arrived = wait_for("a failure or an export", || {
        let exporter = &tailkeep.status()["exporters"][0];
        match (exporter["last_error"].is_null(), exporter["sent"].as_u64()) {
            (false, _) => Some(0),
            (true, Some(1)) => Some(1),
            _ => None,
        }
    });
    if arrived == 0 {
        wait_failing(&tailkeep);
        // It survives a kill, too.
        tailkeep.kill();
    } else {
        println!("the export was faster than SIGHUP");
        tailkeep.stop_well();
    }
    fs::remove_file(&folder).expect("out of the way");
    let tailkeep = place.start();
    tailkeep.wait_settled();
    tailkeep.stop_well();
    let away = Output::read(&place.path.join("away/kept.jsonl")).spans.len();
    assert_eq!((away, place.output().spans.len()), (arrived, 1 - arrived));
}
