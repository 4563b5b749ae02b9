//! New policies for a running process, and what is open at a clean stop.

use std::fs;

use crate::http::{self, Client};
use crate::process::{Place, Tailkeep, wait_for};
use crate::traffic::{orphan, request, span, trace_id};

/// Policies of `place` as they are now, into the file that the process reads.
fn write(place: &Place) {
    place.write_configuration();
}

fn reloads(tailkeep: &Tailkeep, outcome: &str) -> u64 {
    let (_, body) = http::get(tailkeep.admin, "/metrics");
    let text = String::from_utf8(body).expect("UTF-8");
    let name = format!("tailkeep_config_reloads_total{{outcome=\"{outcome}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value.expect("it is counted").parse().expect("a number")
}

#[test]
fn new_policies_judge_what_is_open_and_a_bad_configuration_changes_nothing() {
    let mut place = Place::new("reload")
        .errors_only()
        .with("completion.quiet", "2s")
        .with("node.cores", "2");
    let tailkeep = place.start();
    let mut clients: Vec<Client> = (0..2).map(|_| Client::new(tailkeep.http)).collect();
    let trace = trace_id(1);
    // Open when the policies change, in two logs.
    for (number, client) in clients.iter_mut().enumerate() {
        client.export(&request("a", vec![orphan(trace, number as u64, 0)]));
    }
    place.policies = "[{ name: everything, type: always_sample }]".to_owned();
    write(&place);
    tailkeep.signal(rustix::process::Signal::HUP);
    let status = wait_for("the new policies", || {
        let status = tailkeep.try_status()?;
        (status["policies"][0]["name"] == "everything").then_some(status)
    });
    assert_eq!(status["wal"]["last_replay"]["traces_resumed"], 1);
    let status = tailkeep.wait_settled();
    assert_eq!(status["signals"]["spans"]["kept"], 2);

    place.policies = "[{ name: broken, type: no_such_type }]".to_owned();
    write(&place);
    let (code, body) = http::post(tailkeep.admin, "/api/v1/reload");
    let body = String::from_utf8(body).expect("UTF-8");
    assert_eq!(code, 422, "{body}");
    assert!(body.contains("no_such_type"), "{body}");
    assert_eq!(tailkeep.status()["policies"][0]["name"], "everything");

    // The same policies again: nothing happens but a count.
    place.policies = "[{ name: everything, type: always_sample }]".to_owned();
    write(&place);
    let (code, _) = http::post(tailkeep.admin, "/api/v1/reload");
    assert_eq!(code, 200);
    assert_eq!(
        (reloads(&tailkeep, "succeeded"), reloads(&tailkeep, "failed")),
        (2, 1)
    );
    Client::new(tailkeep.http).export(&request("a", vec![span(trace_id(2), 0, 0)]));
    tailkeep.wait_settled();
    let log = tailkeep.stop_well();
    assert!(log.contains("the configuration in effect stays"), "{log}");
    let spans = place.output();
    assert_eq!(spans.keys().len(), 3);
}

fn checkpoints(place: &Place) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(place.data()).expect("a directory");
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("checkpoint"))
        })
        .collect()
}

/// Traces pend over a clean stop; the next start takes them from the checkpoint, with another number of cores, or folds
/// the logs if there is anything wrong with it.
#[test]
fn what_is_open_at_a_clean_stop_is_open_at_the_next_start() {
    for harm in ["none", "damage", "missing", "policies"] {
        let mut place = Place::new("checkpoint")
            .with("completion.quiet", "15s")
            .with("node.cores", "2");
        let tailkeep = place.start();
        let mut clients: Vec<Client> = (0..4).map(|_| Client::new(tailkeep.http)).collect();
        for number in 1..=40u64 {
            let trace = trace_id(number);
            clients[number as usize % 4].export(&request("a", vec![orphan(trace, 1, 0)]));
            clients[(number as usize + 1) % 4].export(&request("a", vec![span(trace, 0, 0)]));
        }
        tailkeep.stop_well();
        assert_eq!(checkpoints(&place).len(), 2);
        let first = place.data().join("checkpoint-01");
        match harm {
            "damage" => {
                let mut bytes = fs::read(&first).expect("there");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&first, bytes).expect("written");
            }
            "missing" => fs::remove_file(&first).expect("there"),
            "policies" => place.policies = "[{ name: others, type: always_sample }]".to_owned(),
            _ => {}
        }
        place.set("node.cores", "3");
        place.set("completion.quiet", "200ms");
        let tailkeep = place.start();
        assert!(checkpoints(&place).is_empty(), "it holds for one start");
        let status = tailkeep.wait_settled();
        assert_eq!(status["wal"]["last_replay"]["traces_resumed"], 40, "{harm}");
        assert_eq!(status["signals"]["spans"]["resumed"], 80, "{harm}");
        assert_eq!(status["signals"]["spans"]["kept"], 80, "{harm}");
        let log = tailkeep.stop_well();
        assert_eq!(
            log.contains("the checkpoint is not used"),
            harm != "none",
            "{harm}: {log}"
        );
        assert_eq!(place.output().keys().len(), 80);
        assert_eq!(place.output().spans.len(), 80);
    }
}

#[test]
fn after_a_kill_there_is_no_checkpoint() {
    let place = Place::new("no-checkpoint").with("completion.quiet", "15s");
    let tailkeep = place.start();
    Client::new(tailkeep.http).export(&request("a", vec![span(trace_id(1), 0, 0)]));
    tailkeep.stop_well();
    let tailkeep = place.start();
    tailkeep.kill();
    assert!(checkpoints(&place).is_empty());
    let tailkeep = place.start();
    assert_eq!(tailkeep.status()["wal"]["last_replay"]["traces_resumed"], 1);
    tailkeep.stop_well();
}
