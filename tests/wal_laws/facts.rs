//! Single facts about the log, each with its few steps.

use std::time::Duration;

use tailkeep::base::block::{BLOCK_BYTES, VecPool};
use tailkeep::base::ids::{LogId, Position};
use tailkeep::base::time::{Instant, Now, WallTime};
use tailkeep::wal::entry::{EntryHeader, Seed};
use tailkeep::wal::recover::{Extent, Fallback, RecoverError, Recovery};
use tailkeep::wal::{
    DiskOp, EntryFlags, EntryKind, Log, LogOptions, LogStart, OpId, Refused, SegmentHeader, SegmentId,
};

use crate::disk::Crash;
use crate::world::{World, options, payload, recover, recover_files};

/// Hands out everything that is wanted now, without carrying it out.
fn wanted(world: &mut World) -> Vec<(OpId, DiskOp<VecPool>)> {
    let now = world.now;
    std::iter::from_fn(|| world.log.poll_op(now)).collect()
}

fn opened(world: &mut World) {
    world.settle().expect("a sound disk");
}

/// Carries out what is wanted until a sync is, and fails that one.
fn fail_the_first_sync(world: &mut World) {
    while let Some((id, op)) = world.log.poll_op(world.now) {
        let syncs = matches!(op, DiskOp::Sync { .. });
        world.disk.submit(id, op);
        if syncs {
            return world.fail(0, false).expect("the log takes it");
        }
        world.complete(0).expect("sound");
    }
    panic!("no sync was wanted");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of format version 1, checked by hand against another CRC32C. They never change.
#[test]
fn an_entry_has_these_bytes() {
    let header = EntryHeader {
        kind: EntryKind(20),
        flags: EntryFlags::LAST_OF_RUN,
        length: 5,
        segment: SegmentId(7),
        position: Position(0x0001_0040),
        sequence: 9,
    };
    let mut entry = [0; 53];
    entry[48..].copy_from_slice(b"spans");
    header.stamp(Seed::new(0x0123_4567_89ab_cdef), &mut entry);
    assert_eq!(
        hex(&entry),
        "746b4531011401000500000000000000070000000000000040000100000000000900000000000000ad4eaf98b2f1dc207370616e73"
    );
}

#[test]
fn a_segment_header_has_these_bytes() {
    let header = SegmentHeader {
        log: LogId(3),
        log_seed: 0x0123_4567_89ab_cdef,
        segment: SegmentId(7),
        base: Position(0x40_0000),
        cut: Position(0x30_1000),
        size: 0x40_0000,
    };
    let page = header.page();
    assert_eq!(
        hex(&page[..56]),
        "746b5331010000009b334e0f03000000efcdab89674523010700000000000000000040000000000000103000000000000000400000000000"
    );
    assert!(page[56..].iter().all(|byte| *byte == 0));
}

/// The checkers must be able to fail: a disk that says yes to syncs it did not do is caught.
#[test]
fn a_disk_that_lies_about_syncs_is_caught() {
    let caught = (0..20).filter(|seed| {
        let mut world = World::new(*seed, options());
        opened(&mut world);
        world.disk.lies = true;
        world.append(&[3_000, 40_000]).expect("room");
        world.settle().expect("the disk says yes");
        world.crash(Crash::PowerCut).is_err()
    });
    assert!(caught.count() > 10);
}

#[test]
fn nothing_is_durable_before_the_sync_that_covers_it() {
    let mut world = World::new(1, options());
    opened(&mut world);
    let appended = world.append(&[100]).expect("sound").expect("room");
    for (id, op) in wanted(&mut world) {
        assert!(matches!(op, DiskOp::Write { .. }), "{op:?}");
        world.log.handle_op(world.now, id, Ok(()));
    }
    assert!(world.log.durable() < appended.end);
    let ops = wanted(&mut world);
    assert!(matches!(ops[..], [(_, DiskOp::Sync { .. })]), "{ops:?}");
    world.log.handle_op(world.now, ops[0].0, Ok(()));
    assert!(world.log.durable() >= appended.end);
}

#[test]
fn while_a_group_syncs_the_next_one_fills_and_its_full_blocks_leave() {
    let mut world = World::new(1, options());
    opened(&mut world);
    world.append(&[100]).expect("sound");
    world.poll(9).expect("sound");
    world.complete(0).expect("sound");
    let sync = wanted(&mut world);
    assert!(matches!(sync[..], [(_, DiskOp::Sync { .. })]), "{sync:?}");
    world.append(&[100]).expect("sound");
    assert!(wanted(&mut world).is_empty(), "the open group waits for the sync");
    for _ in 0..5 {
        world.append(&[60_000]).expect("sound");
    }
    let eager = wanted(&mut world);
    assert!(matches!(eager[..], [(_, DiskOp::Write { .. })]), "{eager:?}");
    if let DiskOp::Write { data, .. } = &eager[0].1 {
        assert_eq!(data.as_ref().len(), BLOCK_BYTES, "as it is, not a copy");
    }
}

#[test]
fn a_group_that_nobody_waits_for_lingers_until_it_is_hastened_or_large() {
    let linger = Duration::from_millis(30);
    let mut world = World::new(1, LogOptions { linger, ..options() });
    opened(&mut world);
    let append = |world: &mut World| world.append(&[100]).expect("sound").expect("room");
    append(&mut world);
    assert!(wanted(&mut world).is_empty(), "nobody waits");
    assert_eq!(world.log.poll_timeout(), Some(world.now.instant.plus(linger)));
    append(&mut world);
    world.log.hasten();
    assert!(
        matches!(wanted(&mut world)[..], [(_, DiskOp::Write { .. })]),
        "both at once"
    );

    let mut world = World::new(1, LogOptions { linger, ..options() });
    opened(&mut world);
    append(&mut world);
    world.wait(linger).expect("sound");
    assert!(
        matches!(wanted(&mut world)[..], [(_, DiskOp::Write { .. })]),
        "in time"
    );

    let mut world = World::new(1, LogOptions { linger, ..options() });
    opened(&mut world);
    world
        .append(&[BLOCK_BYTES / 2, BLOCK_BYTES / 2])
        .expect("sound")
        .expect("room");
    assert!(
        matches!(wanted(&mut world)[..], [_, _]),
        "a block and the rest of the group"
    );
}

#[test]
fn an_idle_log_says_once_that_its_last_group_was_synced() {
    let mut world = World::new(1, options());
    opened(&mut world);
    let appended = world.append(&[100]).expect("sound").expect("room");
    world.poll(9).expect("sound");
    world.complete(0).expect("sound");
    world.poll(9).expect("sound");
    world.complete(0).expect("sound");
    assert!(world.log.durable() >= appended.end);
    let at = world.log.poll_timeout().expect("the empty group");
    assert!(at.since(world.now.instant) <= Duration::from_millis(100));
    world.settle().expect("sound");
    let rest = world.log.marks().tail;
    assert_eq!(rest.since(appended.end.align_up(4096)), 4096, "one empty group");
    world.wait(Duration::from_secs(60)).expect("sound");
    world.settle().expect("sound");
    assert_eq!(world.log.marks().tail, rest, "and no more");

    // Damage to the acknowledged entry is corruption now, not a torn tail.
    let mut files: std::collections::BTreeMap<_, _> = world
        .disk
        .files
        .iter()
        .map(|(segment, file)| (*segment, file.bytes()))
        .collect();
    let at = 4096 + appended.position.0 as usize + 60;
    files.values_mut().next().expect("one file")[at] ^= 1;
    let (recovered, _) = recover_files(&files).expect("recovers");
    assert_eq!(
        recovered.entries_lost + recovered.corrupt.len() as u64,
        1,
        "{recovered:?}"
    );
}

#[test]
fn a_failed_sync_is_made_good_at_the_same_positions() {
    let mut world = World::new(1, options());
    opened(&mut world);
    let before = world.append(&[500]).expect("sound").expect("room");
    world.settle().expect("sound");
    let failed = world.append(&[300_000, 200]).expect("sound").expect("room");
    fail_the_first_sync(&mut world);
    assert!(world.log.durable() < failed.end);
    let after = world.append(&[700]).expect("sound").expect("still admits");
    world.settle().expect("sound");
    assert_eq!(
        world.log.failed_through(),
        Position(0),
        "one failure answers nobody"
    );
    assert!(world.log.durable() >= after.end);
    assert_eq!(world.log.usage().poisoned_segments, 1);
    assert_ne!(world.log.locate(before.position), None);
    let (first, _) = world.log.locate(before.position).expect("on disk");
    let (second, offset) = world.log.locate(failed.position).expect("on disk");
    assert!(second > first && offset >= 4096);
    world.crash(Crash::PowerCut).expect("all of it is there");
    assert_eq!(world.entries.len(), 4);
}

#[test]
fn a_second_failure_answers_the_waiters_and_the_log_goes_on_trying() {
    let mut world = World::new(1, options());
    opened(&mut world);
    let appended = world.append(&[500]).expect("sound").expect("room");
    fail_the_first_sync(&mut world);
    fail_the_first_sync(&mut world);
    let ops = wanted(&mut world);
    assert!(
        ops.iter().all(|(_, op)| matches!(op, DiskOp::Remove { .. })),
        "{ops:?} before the delay"
    );
    for (id, op) in ops {
        world.disk.submit(id, op);
    }
    assert!(world.log.failed_through() >= appended.end && world.log.durable() < appended.end);
    assert!(matches!(world.log.admit(1), Err(Refused::Failing { .. })));
    world.settle().expect("the disk is sound again");
    assert!(world.log.durable() >= appended.end);
    assert_eq!(world.log.admit(1), Ok(()));
    world.crash(Crash::PowerCut).expect("it is there");
    assert_eq!(world.entries.len(), 1);
}

#[test]
fn a_full_disk_refuses_and_resumes_by_itself() {
    let mut world = World::new(1, options());
    opened(&mut world);
    let mut refused = None;
    for _ in 0..200 {
        if let Err(why) = world.log.admit(30_000) {
            refused = Some(why);
            break;
        }
        world.append(&[30_000]).expect("sound");
        while let Some((id, op)) = world.log.poll_op(world.now) {
            let opens = matches!(op, DiskOp::OpenSegment { .. });
            world.disk.submit(id, op);
            if opens {
                world.fail(0, true)
            } else {
                world.complete(0)
            }
            .expect("sound");
        }
    }
    assert!(matches!(refused, Some(Refused::NoSpace { .. })), "{refused:?}");
    let marks = world.log.marks();
    assert_eq!(marks.durable, marks.tail, "what was admitted found room");
    world.settle().expect("space again");
    assert_eq!(world.log.admit(30_000), Ok(()));
}

#[test]
fn a_full_log_refuses_until_something_is_let_go() {
    let mut world = World::new(
        1,
        LogOptions {
            retain: Duration::from_secs(3600),
            ..options()
        },
    );
    let mut positions = Vec::new();
    for _ in 0..1_000 {
        let Some(appended) = world.append(&[60_000]).expect("sound") else {
            break;
        };
        world.log.hold(appended.position, 1);
        positions.push(appended.position);
        world.poll(99).expect("sound");
        while world.disk.under_way() > 0 {
            world.complete(0).expect("sound");
            world.poll(99).expect("sound");
        }
    }
    assert!(matches!(world.log.admit(60_000), Err(Refused::Full { .. })));
    let files: u64 = world.disk.files.len() as u64 * (world.options.segment_size + 4096);
    assert!(files <= world.options.size_max, "{files}");
    assert!(positions.len() > 100, "{}", positions.len());
    for position in positions.drain(..60) {
        world.log.release(position, 1);
    }
    // Younger than `retain`, but the space is needed.
    assert_eq!(world.log.admit(60_000), Ok(()));
    let begin = world.log.marks().begin;
    for _ in 0..20 {
        world.append(&[60_000]).expect("sound").expect("room again");
        world.settle().expect("sound");
    }
    assert!(world.log.marks().begin > begin, "the oldest went");
    assert!(world.log.marks().begin <= positions[0], "what is held did not");
}

#[test]
fn what_is_older_than_retain_goes_without_need() {
    let mut world = World::new(1, options());
    for _ in 0..60 {
        world.append(&[60_000]).expect("sound").expect("room");
        world.poll(99).expect("sound");
        while world.disk.under_way() > 0 {
            world.complete(0).expect("sound");
            world.poll(99).expect("sound");
        }
    }
    assert_eq!(world.log.marks().begin, Position(0));
    assert!(world.log.usage().retained_bytes > 0);
    world.log.set_floor(Position(world.options.segment_size));
    world.wait(Duration::from_secs(1)).expect("sound");
    assert_eq!(
        world.log.marks().begin,
        Position(world.options.segment_size),
        "up to the floor"
    );
    world.log.set_floor(world.log.durable());
    world.settle().expect("sound");
    assert!(world.log.marks().begin > Position(world.options.segment_size));
    world
        .crash(Crash::PowerCut)
        .expect("what went stays away or comes back whole");
}

#[test]
fn a_log_that_is_started_again_and_again_stays_within_its_size() {
    let options = LogOptions {
        retain: Duration::from_secs(3600),
        ..options()
    };
    let files_max = options.size_max / (options.segment_size + 4096);
    let mut world = World::new(1, options);
    for start in 0..30 {
        world.log.set_floor(Position(0));
        world.append(&[1000]).expect("sound");
        world.settle().expect("sound");
        // What the start needed of the past, it has seen to.
        world.log.set_floor(world.log.durable());
        world.wait(Duration::from_millis(10)).expect("sound");
        world.settle().expect("sound");
        let files = world.disk.files.len() as u64;
        assert!(files <= files_max + 1, "{files} files after start {start}");
        world.crash(Crash::Kill).expect("sound");
    }
}

/// Its groups may be the only ones that say how far the log was synced. Without them damage before it would pass for a
/// torn tail, silently.
#[test]
fn a_file_that_does_not_count_stays_until_a_later_group_is_durable() {
    let start = LogStart {
        next_segment: SegmentId(6),
        removable: vec![SegmentId(5)],
        ..LogStart::fresh()
    };
    let mut now = Now {
        instant: Instant(1_000_000_000),
        wall: WallTime(1_000_000_000),
    };
    let mut log = Log::new(options(), VecPool::default(), start, now);
    let mut done = Vec::new();
    // Nothing is appended: the log says by itself what that file said.
    for _ in 0..100 {
        now.instant = now.instant.plus(Duration::from_millis(1));
        while let Some((id, op)) = log.poll_op(now) {
            done.push(match op {
                DiskOp::OpenSegment { segment, .. } => ("open", segment),
                DiskOp::Write { segment, .. } => ("write", segment),
                DiskOp::Sync { segment } => ("sync", segment),
                DiskOp::Remove { segment } => ("remove", segment),
            });
            log.handle_op(now, id, Ok(()));
        }
    }
    let (old, new) = (SegmentId(5), SegmentId(6));
    assert_eq!(
        done,
        [("open", new), ("write", new), ("sync", new), ("remove", old)]
    );
}

#[test]
fn only_durable_blocks_leave_memory() {
    let mut world = World::new(1, options());
    opened(&mut world);
    for _ in 0..10 {
        world.append(&[60_000]).expect("sound").expect("room");
    }
    assert_eq!(world.log.evict(0), 0, "nothing is durable");
    world.settle().expect("sound");
    let resident = world.log.usage().resident_bytes;
    let gone = world.log.evict(0);
    assert!(gone > 0 && world.log.usage().resident_bytes == resident - gone);
    for which in 0..10 {
        world.read(which).expect("in memory or on disk");
    }
}

#[test]
fn blocks_without_a_live_run_leave_memory_and_others_stay() {
    let mut world = World::new(1, options());
    opened(&mut world);
    let mut entries = Vec::new();
    for _ in 0..20 {
        entries.push(world.append(&[60_000]).expect("sound").expect("room"));
        world.log.hold(entries[entries.len() - 1].position, 2);
    }
    let resident = |world: &World| world.log.usage().resident_bytes;
    let all = resident(&world);
    entries
        .iter()
        .for_each(|entry| world.log.release(entry.position, 1));
    world.settle().expect("sound");
    world.log.drop_settled();
    assert_eq!(resident(&world), all, "every run has one more use");
    for entry in &entries[..15] {
        world.log.release(entry.position, 1);
    }
    world.log.drop_settled();
    let left = resident(&world);
    assert!(left < all / 2, "{left} of {all}");
    assert!(world.log.resident(entries[0].position).is_none());
    assert!(world.log.resident(entries[15].position).is_some());
    for which in 0..20 {
        world.read(which).expect("in memory or on disk");
    }
}

#[test]
fn rooms_are_filled_to_the_end_of_the_block() {
    let mut world = World::new(1, options());
    opened(&mut world);
    let mut wasted = 0;
    let mut last_end = Position(0);
    for id in 0..200 {
        let room = world.log.payload_room();
        assert!((4096..=64 * 1024).contains(&room), "{room}");
        let out = world.log.begin(world.now, EntryKind(20), room).expect("room");
        out.copy_from_slice(&payload(id, room));
        let appended = world.log.finish(EntryFlags::LAST_OF_RUN);
        wasted += appended.position.since(last_end);
        last_end = appended.end;
    }
    assert!(wasted * 50 < last_end.0, "{wasted} of {}", last_end.0);
}

#[test]
fn a_file_of_another_log_is_named() {
    let header = SegmentHeader {
        log: LogId(3),
        log_seed: 1,
        segment: SegmentId(1),
        base: Position(0),
        cut: Position(0),
        size: 1 << 20,
    };
    let mut recovery = Recovery::new(LogId(4), Extent::Whole);
    let foreign = recovery.header(SegmentId(1), &header.page()[..]);
    assert_eq!(
        foreign,
        Err(RecoverError::Foreign {
            segment: SegmentId(1)
        })
    );
}

#[test]
fn segments_begin_with_the_names_of_their_time() {
    let mut world = World::new(
        1,
        LogOptions {
            retain: Duration::from_secs(3600),
            ..options()
        },
    );
    for _ in 0..60 {
        world.append(&[60_000]).expect("sound").expect("room");
    }
    world.settle().expect("sound");
    let (recovered, _) = recover(&world.disk).expect("sound");
    for known in &recovered.start.segments {
        let first = Position(known.base.0 + 128);
        let entry = world.log.resident(first).expect("in memory");
        assert_eq!(
            (entry.kind, entry.payload),
            (EntryKind::NAMES, crate::world::PROLOGUE)
        );
    }
    assert!(recovered.start.segments.len() > 2);
}

#[test]
#[should_panic(expected = "W3")]
fn more_is_released_than_was_held() {
    let mut world = World::new(1, options());
    let appended = world.append(&[1]).expect("sound").expect("room");
    world.log.hold(appended.position, 1);
    world.log.release(appended.position, 2);
}

/// The seed of the checks and the size of segments stand in the headers only, and a young log has one file.
#[test]
fn a_log_without_a_sound_header_is_read_by_what_its_directory_knows() {
    let mut world = World::new(5, options());
    opened(&mut world);
    world.append(&[3_000, 40_000]).expect("sound").expect("room");
    world.settle().expect("a sound disk");
    let (_, all) = recover(&world.disk).expect("sound files");
    assert_eq!((world.disk.files.len(), all.len()), (1, 2));
    let (segment, file) = world.disk.files.iter().next().expect("one file");
    let mut bytes = file.bytes();
    bytes[..4096].fill(0);
    let found = |fallback| {
        let mut recovery = Recovery::new(options().log, Extent::Whole).with_fallback(fallback);
        recovery.header(*segment, &bytes[..8192]).expect("damaged");
        let mut positions = Vec::new();
        while let Some(read) = recovery.poll_read() {
            let start = (read.offset as usize).min(bytes.len());
            let piece = bytes[start..(start + read.len).min(bytes.len())].to_vec();
            recovery.handle_read(piece, &mut |entry| positions.push(entry.position));
        }
        (positions, recovery.finish())
    };
    let fallback = Fallback {
        log_seed: options().log_seed,
        size: options().segment_size,
    };
    let (positions, recovered) = found(Some(fallback));
    assert!(
        all.keys().all(|position| positions.contains(position)),
        "{positions:?}"
    );
    assert_eq!(recovered.log_seed, Some(fallback.log_seed));
    assert_eq!(recovered.start.half_made, None);
    assert_eq!(found(None).0, []);
}

#[test]
fn a_disk_that_does_not_answer_is_noticed_by_its_time() {
    let mut world = World::new(1, options());
    opened(&mut world);
    assert_eq!(world.log.stalled_for(world.now), Duration::ZERO);
    world.append(&[100]).expect("sound").expect("room");
    let _under_way = wanted(&mut world);
    let later = Duration::from_secs(12);
    let now = Now {
        instant: world.now.instant.plus(later),
        wall: world.now.wall,
    };
    assert_eq!(world.log.stalled_for(now), later);
}

/// Bytes at the wrong place and bytes that changed are no entries; what they cost is never another entry.
#[test]
fn misdirected_writes_and_rot_invent_nothing() {
    for seed in 0..20 {
        let mut world = World::new(seed, options());
        opened(&mut world);
        for round in 0..30 {
            let odds = if round % 3 == 0 { 300 } else { 0 };
            world.disk.faults.misdirect = odds;
            world.append(&[500, 20_000]).expect("sound").expect("room");
            world.settle().expect("the disk says yes");
        }
        world.disk.rot();
        let durable = world.log.durable();
        let (_, replayed) = recover(&world.disk).expect("recovers");
        // None is owed; those that are there are those that were appended.
        world.compare(&replayed, durable, Position(0)).expect("no others");
    }
}

#[test]
fn an_entry_for_no_segment_is_refused() {
    let mut world = World::new(1, options());
    let size = world.options.segment_size as usize;
    let refused = world.log.begin(world.now, EntryKind(20), size).map(|_| ());
    let Err(Refused::TooLarge { limit }) = refused else {
        panic!("{refused:?}")
    };
    world
        .append(&[limit])
        .expect("sound")
        .expect("the largest one has room");
    world.append(&[1]).expect("sound").expect("room");
    world.settle().expect("sound");
    world.crash(Crash::PowerCut).expect("sound");
    assert_eq!(world.entries.len(), 2);
}

#[test]
fn entries_of_the_segment_a_file_was_before_are_not_replayed() {
    let mut world = World::new(1, options());
    world.append(&[100, 200]).expect("sound").expect("room");
    world.settle().expect("sound");
    let (segment, file) = world.disk.files.iter().next().expect("one file");
    let mut bytes = file.bytes();
    let mut header = tailkeep::wal::parse_header(&bytes).expect("sound");
    let files = |bytes: Vec<u8>, name: SegmentId| std::collections::BTreeMap::from([(name, bytes)]);
    let (before, _) = recover_files(&files(bytes.clone(), *segment)).expect("recovers");
    assert_eq!(before.entries, 3, "two and the names");

    // Used again at the same positions, as after a failure.
    header.segment = SegmentId(9);
    bytes[..4096].copy_from_slice(&header.page()[..]);
    let (after, _) = recover_files(&files(bytes, SegmentId(9))).expect("recovers");
    assert_eq!((after.entries, after.corrupt.len()), (0, 0), "{after:?}");
}
