//! Damage to files that were sound: what it may cost, and what it may not.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tailkeep::wal::SegmentId;

use crate::world::{Checked, Replayed, World, ensure, payload, recover, recover_files};

type Files = BTreeMap<SegmentId, Vec<u8>>;

#[derive(Clone, Debug)]
pub enum Damage {
    Flip { at: usize, mask: u8 },
    Zero { page: usize },
    Swap { page: usize, with: usize },
    Duplicate { page: usize, over: usize },
    Noise { at: usize, bytes: Vec<u8> },
    Truncate { at: usize },
}

pub fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<usize>;
    prop_oneof![
        4 => (index(), 1..=255_u8).prop_map(|(at, mask)| Damage::Flip { at, mask }),
        2 => index().prop_map(|page| Damage::Zero { page }),
        2 => (index(), index()).prop_map(|(page, with)| Damage::Swap { page, with }),
        2 => (index(), index()).prop_map(|(page, over)| Damage::Duplicate { page, over }),
        2 => (index(), prop::collection::vec(any::<u8>(), 1..300)).prop_map(|(at, bytes)| Damage::Noise { at, bytes }),
        1 => index().prop_map(|at| Damage::Truncate { at }),
    ]
}

/// Damages the `which`-th file.
pub fn inflict(files: &mut Files, which: usize, damage: &Damage) {
    if files.is_empty() {
        return;
    }
    let which = which % files.len();
    let bytes = files.values_mut().nth(which).expect("in range");
    let pages = bytes.len() / 4096;
    if pages == 0 {
        return;
    }
    match damage {
        Damage::Flip { at, mask } => {
            let at = at % bytes.len();
            bytes[at] ^= mask;
        }
        Damage::Zero { page } => bytes[page % pages * 4096..][..4096].fill(0),
        Damage::Swap { page, with } => {
            let (page, with) = (page % pages * 4096, with % pages * 4096);
            for index in 0..4096 {
                bytes.swap(page + index, with + index);
            }
        }
        Damage::Duplicate { page, over } => {
            let page = page % pages * 4096;
            bytes.copy_within(page..page + 4096, over % pages * 4096);
        }
        Damage::Noise { at, bytes: noise } => {
            let at = at % bytes.len();
            let until = (at + noise.len()).min(bytes.len());
            bytes[at..until].copy_from_slice(&noise[..until - at]);
        }
        Damage::Truncate { at } => bytes.truncate(at % bytes.len()),
    }
}

/// A log at rest is damaged: only entries whose bytes changed may be gone, each within a range that is
/// reported, and nothing appears that was not there.
pub fn costs_only_what_it_touches(world: &mut World, damages: &[(usize, Damage)]) -> Checked {
    let before: Files = world
        .disk
        .files
        .iter()
        .map(|(segment, file)| (*segment, file.bytes()))
        .collect();
    let (sound, all) = recover(&world.disk)?;
    ensure!(
        sound.corrupt.is_empty(),
        "sound files are called corrupt: {sound:?}"
    );
    let mut after = before.clone();
    for (which, damage) in damages {
        inflict(&mut after, *which, damage);
    }
    let (recovered, replayed) = recover_files(&after)?;
    subset(&replayed, &all)?;
    for (position, (length, _)) in &all {
        if replayed.contains_key(position) {
            continue;
        }
        let known = sound
            .start
            .segments
            .iter()
            .find(|known| known.base <= *position && *position < known.end);
        let known = known.ok_or(format!("{position} lies in no segment"))?;
        let from = 4096 + position.since(known.base) as usize;
        let until = from + 48 + length;
        let (old, new) = (&before[&known.segment], &after[&known.segment]);
        let touched = new.get(from..until) != Some(&old[from..until]);
        let reported = recovered
            .corrupt
            .iter()
            .any(|range| range.start <= *position && *position < range.end);
        let unreadable = recovered.unreadable.contains(&known.segment);
        if !(touched && (reported || unreadable)) {
            // The damage took the groups that knew better, and the log ends before this entry's run.
            let beyond =
                world.entries[position].run_end > recovered.synced && recovered.start.cut <= *position;
            ensure!(
                beyond,
                "{position} is gone, touched {touched}, reported {reported}: {recovered:?}"
            );
        }
    }
    let lost = (all.len() - replayed.len()) as u64;
    let names = sound.entries - all.len() as u64;
    ensure!(
        recovered.entries_lost <= lost + names,
        "{lost} lost, {recovered:?}"
    );
    Ok(())
}

/// Any bytes at all: no panic, and no entry that was never written.
pub fn invents_nothing(world: &World, damages: &[(usize, Damage)]) -> Checked {
    let mut files: Files = world
        .disk
        .files
        .iter()
        .map(|(segment, file)| (*segment, file.bytes()))
        .collect();
    for (which, damage) in damages {
        inflict(&mut files, *which, damage);
    }
    let (_, replayed) = match recover_files(&files) {
        Ok(found) => found,
        // No file says which log this is, or another one does: nothing is replayed.
        Err(_) => return Ok(()),
    };
    for (position, (length, bytes)) in &replayed {
        let entry = world
            .entries
            .get(position)
            .ok_or(format!("{position} was never appended"))?;
        ensure!(
            *length == entry.length && *bytes == payload(entry.id, entry.length),
            "{position} differs"
        );
    }
    Ok(())
}

fn subset(part: &Replayed, all: &Replayed) -> Checked {
    for (position, entry) in part {
        ensure!(
            all.get(position) == Some(entry),
            "{position} was not there before"
        );
    }
    Ok(())
}
