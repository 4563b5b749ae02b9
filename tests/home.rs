//! A home by itself: digests in, words out.

use std::time::Duration;

use tailkeep::base::ids::TraceId;
use tailkeep::base::monoid::Monoid;
use tailkeep::base::time::{Instant, Now, WallTime};
use tailkeep::digest::{Digest, PredicateSet};
use tailkeep::gossip::home::{Bench, Home, HomeOptions, Word};
use tailkeep::gossip::{NodeDigest, NodeId};
use tailkeep::policy::quota::Urgency;
use tailkeep::policy::{Answer, PolicyEntry, PolicyKind, PolicyOptions, PolicySet, Ticket};
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
    /// What the quota says, and what it was asked.
    answer: Answer,
    asked: Vec<(u64, Option<Ticket>, Urgency)>,
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
            answer: Answer::Granted,
            asked: Vec::new(),
        }
    }

    fn limited(answer: Answer) -> World {
        let limit = PolicyKind::RateLimiting {
            spans_per_second: 5,
            burst: 0,
        };
        let options = PolicyOptions {
            policies: [
                ("many", PolicyKind::SpanCount { min: 10, max: 0 }),
                ("limit", limit),
            ]
            .map(|(name, kind)| PolicyEntry {
                name: name.to_owned(),
                kind,
            })
            .into(),
            ..PolicyOptions::default()
        };
        World {
            policies: PolicySet::compile(&options).expect("right policies"),
            answer,
            ..World::new(OPTIONS)
        }
    }

    fn at_home(&mut self, work: impl FnOnce(&mut Home, &mut Bench<'_>)) {
        let World {
            home,
            policies,
            answer,
            asked,
            ..
        } = self;
        let mut bench = Bench {
            policies,
            ask: &mut |_, amount, ticket, urgency| {
                asked.push((amount, ticket, urgency));
                *answer
            },
        };
        work(home, &mut bench);
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
        let now = self.now;
        self.at_home(|home, bench| home.absorb(now, from, &digest, bench, &mut out));
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
                let now = self.now;
                self.at_home(|home, bench| home.handle_timeout(now, bench, &mut out));
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

#[test]
fn home_charges_the_whole_trace_once() {
    let mut world = World::limited(Answer::Granted);
    world.digest(A, 1, 1, 3);
    world.digest(B, 1, 1, 4);
    let words = world.after(11);
    assert!(
        matches!(&words[..], [Word::Keep(keep)] if keep.decision.policy.is_some_and(|policy| policy.0 == 1)),
        "{words:?}"
    );
    assert_eq!(world.asked, [(7, None, Urgency::MayWait)]);
    // More of it changes nothing.
    world.digest(B, 1, 2, 6);
    world.after(11);
    assert_eq!(world.asked.len(), 1);
}

#[test]
fn home_asks_no_quota_again_that_has_refused() {
    let mut world = World::limited(Answer::Refused { left: 2 });
    world.digest(A, 1, 1, 3);
    let words = world.after(11);
    assert!(
        matches!(&words[..], [Word::Answer(A, 1, answer)] if answer.decision.verdict == Verdict::Rollup),
        "{words:?}"
    );
    world.answer = Answer::Granted;
    world.digest(B, 1, 1, 4);
    let words = world.after(11);
    assert!(
        !words.iter().any(|word| matches!(word, Word::Keep(_))),
        "{words:?}"
    );
    assert_eq!(world.asked, [(3, None, Urgency::MayWait)]);
    // What another policy keeps is kept.
    let words = world.digest(B, 1, 2, 9);
    assert!(matches!(&words[..], [Word::Keep(_)]), "{words:?}");
}

#[test]
fn home_waits_for_an_answer_and_no_longer_than_its_patience() {
    let later = Answer::Later(Ticket::new(5));
    let mut world = World::limited(later);
    world.digest(A, 1, 1, 3);
    assert_eq!(world.after(11), []);
    assert!(world.home.waits());
    let mut out = Vec::new();
    let now = world.now;
    world.answer = Answer::Granted;
    world.at_home(|home, bench| home.ask_again(now, bench, &mut out));
    assert!(matches!(&out[..], [Word::Keep(_)]), "{out:?}");
    assert_eq!(
        world.asked.last(),
        Some(&(3, Some(Ticket::new(5)), Urgency::MayWait))
    );

    let mut world = World::limited(later);
    world.digest(A, 1, 1, 3);
    world.after(11);
    world.answer = Answer::Unanswered;
    let words = world.after(1);
    assert!(matches!(&words[..], [Word::Answer(A, 1, _)]), "{words:?}");
    assert_eq!(world.asked.last(), Some(&(3, Some(Ticket::new(5)), Urgency::Now)));
}

#[test]
fn trace_that_is_kept_early_is_charged_all_the_same() {
    let mut world = World::limited(Answer::Later(Ticket::new(5)));
    let words = world.digest(A, 1, 1, 12);
    assert!(
        matches!(&words[..], [Word::Keep(keep)] if keep.decision.policy.is_some_and(|policy| policy.0 == 0)),
        "{words:?}"
    );
    assert_eq!(world.asked, [(12, None, Urgency::Anyway)]);
}
