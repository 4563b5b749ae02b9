//! A home by itself: digests in, words out.

use std::time::Duration;

use tailkeep::base::ids::TraceId;
use tailkeep::base::monoid::Monoid;
use tailkeep::base::time::{Instant, Now, WallTime};
use tailkeep::digest::{Digest, PredicateSet};
use tailkeep::gossip::home::{Home, HomeOptions, Word};
use tailkeep::gossip::{NodeDigest, NodeId};
use tailkeep::policy::{PolicyEntry, PolicyKind, PolicyOptions, PolicySet};
use tailkeep::verdict::{Reason, Verdict};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const OPTIONS: HomeOptions = HomeOptions {
    quiet: Duration::from_secs(10),
    age_max: Duration::from_secs(60),
    remembered: Duration::from_secs(60),
    bytes_max: 1 << 20,
};

/// Keeps traces of ten spans and more.
fn policies() -> PolicySet {
    let options = PolicyOptions {
        policies: vec![PolicyEntry {
            name: "many".to_owned(),
            kind: PolicyKind::SpanCount { min: 10, max: 0 },
        }],
        ..PolicyOptions::default()
    };
    PolicySet::compile(&options).expect("a right policy")
}

struct World {
    home: Home,
    policies: PolicySet,
    now: Now,
}

impl World {
    fn new(options: HomeOptions) -> World {
        let now = Now {
            instant: Instant(1_000_000_000),
            wall: WallTime(1_700_000_000_000_000_000),
        };
        World {
            home: Home::new(options, now),
            policies: policies(),
            now,
        }
    }

    fn digest(&mut self, from: NodeId, trace: u8, version: u32, span_count: u32) -> Vec<Word> {
        let digest = NodeDigest {
            trace: TraceId::new(&[trace; 16]).expect("not zero"),
            digest: Digest {
                span_count,
                has_root: from == A,
                ..Digest::EMPTY
            },
            unknown: PredicateSet::NONE,
            version,
        };
        let mut out = Vec::new();
        self.home
            .absorb(self.now, from, &digest, &self.policies, &mut out);
        out
    }

    fn after(&mut self, seconds: u64) -> Vec<Word> {
        let mut out = Vec::new();
        for _ in 0..seconds * 10 {
            self.now.instant = self.now.instant.plus(Duration::from_millis(100));
            if self
                .home
                .poll_timeout()
                .is_some_and(|due| due <= self.now.instant)
            {
                self.home.handle_timeout(self.now, &self.policies, &mut out);
            }
        }
        out
    }
}

/// Who was told what, about which version of its digest; nobody: everybody.
type Told = (Option<(NodeId, u32)>, Verdict, Reason);

fn told(words: &[Word]) -> Vec<Told> {
    let told = words.iter().map(|word| match word {
        Word::Keep(keep) => (None, keep.decision.verdict, keep.decision.reason),
        Word::Answer(node, version, answer) => (
            Some((*node, *version)),
            answer.decision.verdict,
            answer.decision.reason,
        ),
    });
    told.collect()
}

#[test]
fn a_newer_digest_replaces_the_older_one_of_its_node_and_no_other() {
    let mut world = World::new(OPTIONS);
    assert_eq!(world.digest(A, 7, 1, 6), []);
    assert_eq!(world.digest(A, 7, 2, 7), []);
    // Late on its way: it is the older one.
    assert_eq!(world.digest(A, 7, 1, 6), []);
    assert_eq!(world.digest(B, 7, 1, 2), []);
    let answers = [
        (Some((A, 2)), Verdict::Rollup, Reason::Complete),
        (Some((B, 1)), Verdict::Rollup, Reason::Complete),
    ];
    assert_eq!(told(&world.after(11)), answers);
}

#[test]
fn a_keep_that_nothing_can_change_waits_for_nobody_and_is_said_once() {
    let mut world = World::new(OPTIONS);
    assert_eq!(world.digest(A, 7, 1, 6), []);
    let keep = [(None, Verdict::Keep, Reason::Complete)];
    assert_eq!(told(&world.digest(B, 7, 1, 4)), keep);
    assert_eq!(world.after(30), []);
    // Who asks again is answered.
    let again = [(Some((B, 1)), Verdict::Keep, Reason::Complete)];
    assert_eq!(told(&world.digest(B, 7, 1, 4)), again);
}

#[test]
fn a_digest_that_comes_later_raises_the_verdict() {
    let mut world = World::new(OPTIONS);
    world.digest(A, 7, 1, 6);
    assert_eq!(
        told(&world.after(11)),
        [(Some((A, 1)), Verdict::Rollup, Reason::Complete)]
    );
    assert_eq!(
        told(&world.digest(B, 7, 1, 4)),
        [(None, Verdict::Keep, Reason::Complete)]
    );
}

#[test]
fn without_a_root_it_waits_twice_as_long() {
    let mut world = World::new(OPTIONS);
    world.digest(B, 7, 1, 6);
    assert_eq!(world.after(19), []);
    assert_eq!(
        told(&world.after(2)),
        [(Some((B, 1)), Verdict::Rollup, Reason::Quiet)]
    );
}

#[test]
fn versions_wrap() {
    let mut world = World::new(OPTIONS);
    world.digest(A, 7, u32::MAX, 6);
    world.digest(A, 7, 3, 7);
    let answer = [(Some((A, 3)), Verdict::Rollup, Reason::Complete)];
    assert_eq!(told(&world.after(11)), answer);
}

#[test]
fn above_its_bound_the_oldest_are_judged_and_forgotten() {
    let mut world = World::new(HomeOptions {
        bytes_max: 10_000,
        ..OPTIONS
    });
    let mut forced = 0;
    for trace in 1..200 {
        for (_, verdict, reason) in told(&world.digest(A, trace, 1, 2)) {
            assert_eq!((verdict, reason), (Verdict::Rollup, Reason::MemoryPressure));
            forced += 1;
        }
        assert!(world.home.state_bytes() <= 10_000, "M1");
    }
    assert_eq!(forced + world.home.len(), 199);
    world.after(200);
    assert!(world.home.is_empty());
    assert_eq!(world.home.state_bytes(), 0);
}
