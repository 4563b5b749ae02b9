//! Laws of buckets, ledgers and leases, and what a lossy way between them costs.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

const MS: u64 = 1_000_000;
const START: u64 = 5_000_000_000;

fn at(ns: u64) -> Instant {
    Instant(START + ns)
}

fn terms(rate: u64, burst: u64) -> Terms {
    Terms {
        unit: Unit::Spans,
        rate,
        burst,
    }
}

fn key(name: &str, rate: u64, burst: u64) -> QuotaKey {
    QuotaKey {
        policy: name_hash(name),
        part: 0,
        terms: terms(rate, burst),
    }
}

fn quota(name: &str, rate: u64, burst: u64) -> Quota {
    Quota {
        key: key(name, rate, burst),
        policy: PolicyIndex(0),
    }
}

const FIRST: QuotaIndex = QuotaIndex(0);

// ---- buckets --------------------------------------------------------------------------------------------

proptest! {
    /// Q1 of one bucket: between any two looks it gives out no more than burst and rate × time.
    #[test]
    fn bucket_never_gives_more_than_burst_and_rate(
        rate in 1..5_000u64,
        burst in 1..10_000u64,
        steps in vec((0..300 * MS, 1..3_000u64, any::<bool>()), 1..80),
    ) {
        let mut bucket = TokenBucket::full(terms(rate, burst), at(0));
        let (mut now, mut taken) = (0, Vec::new());
        for (wait, tokens, all) in steps {
            now += wait;
            let got = match all {
                true => u64::from(bucket.take(at(now), tokens)) * tokens,
                false => bucket.take_some(at(now), tokens / 2, tokens),
            };
            taken.push((now, got));
        }
        for (first, (begin, _)) in taken.iter().enumerate() {
            let mut sum = 0;
            for (end, got) in &taken[first..] {
                sum += u128::from(*got);
                let came = u128::from(rate) * u128::from(end - begin);
                prop_assert!(sum * 1_000_000_000 <= u128::from(burst) * 1_000_000_000 + came);
            }
        }
    }

    /// And no less: what is refused was not there, by a count of our own in exact fractions.
    #[test]
    fn bucket_refuses_only_what_it_lacks(
        rate in 1..5_000u64,
        burst in 1..10_000u64,
        steps in vec((0..300 * MS, 1..3_000u64), 1..80),
    ) {
        let mut bucket = TokenBucket::full(terms(rate, burst), at(0));
        let (mut now, mut level) = (0, i128::from(burst) * 1_000_000_000);
        for (wait, tokens) in steps {
            now += wait;
            level = (level + i128::from(rate) * i128::from(wait)).min(i128::from(burst) * 1_000_000_000);
            let cost = i128::from(tokens) * 1_000_000_000;
            let expected = cost <= level;
            prop_assert_eq!(bucket.take(at(now), tokens), expected);
            level -= if expected { cost } else { 0 };
        }
    }
}

#[test]
fn trace_larger_than_the_burst_never_passes() {
    let mut quotas = alone(&[quota("p", 100, 200)], true);
    for second in 0..20 {
        let answer = quotas.ask(at(second * 1_000 * MS), FIRST, 201, None, Urgency::MayWait);
        assert!(matches!(answer, Answer::Refused { .. }), "{answer:?}");
    }
    let answer = quotas.ask(at(20_000 * MS), FIRST, 200, None, Urgency::MayWait);
    assert_eq!(answer, Answer::Granted);
}

#[test]
fn clock_that_stands_still_or_goes_back_brings_nothing() {
    let mut bucket = TokenBucket::empty(terms(1_000, 1_000), at(50 * MS));
    assert_eq!(bucket.left(at(0)), 0);
    assert_eq!(bucket.left(at(60 * MS)), 10);
    assert_eq!(bucket.left(at(20 * MS)), 10);
    assert_eq!(bucket.left(at(61 * MS)), 11);
}

fn alone(quotas: &[Quota], starts_full: bool) -> Quotas {
    let judge = Judge {
        node: 0,
        core: CoreId(0),
    };
    let now = Now {
        instant: at(0),
        ..Now::default()
    };
    Quotas::new(quotas, judge, 1, Company::None, starts_full, now)
}

#[test]
fn restart_begins_without_burst() {
    let mut quotas = alone(&[quota("p", 100, 200)], false);
    let ask = |quotas: &mut Quotas, ms: u64, amount| {
        quotas.ask(at(ms * MS), FIRST, amount, None, Urgency::MayWait) == Answer::Granted
    };
    assert!(!ask(&mut quotas, 0, 1));
    assert!(!ask(&mut quotas, 1_000, 101));
    assert!(ask(&mut quotas, 1_000, 100));
    assert!(ask(&mut quotas, 9_000, 200));
}

#[test]
fn quotas_of_other_names_parts_and_terms_have_ledgers_of_their_own() {
    let other_part = Quota {
        key: QuotaKey {
            part: 1,
            ..key("p", 10, 10)
        },
        policy: PolicyIndex(0),
    };
    let all = [
        quota("p", 10, 10),
        other_part,
        quota("q", 10, 10),
        quota("p", 10, 11),
    ];
    let mut quotas = alone(&all, true);
    for number in 0..4 {
        let answer = quotas.ask(at(0), QuotaIndex(number), 10, None, Urgency::MayWait);
        assert_eq!(answer, Answer::Granted, "{number}");
    }
}

// ---- judges and ledgers with a way between them -----------------------------------------------------------

/// Cores of nodes, and what is on its way between them.
struct World {
    quotas: BTreeMap<Judge, Quotas>,
    on_way: Vec<(Instant, Judge, Leasing)>,
    now: Instant,
    random: u64,
    loss: u64,
    repeats: u64,
    delay_ms: u64,
    /// What was granted, when.
    granted: Vec<(Instant, u64)>,
    waiting: Vec<(Judge, u64, Ticket, Instant)>,
    answers: BTreeMap<Judge, [u64; 3]>,
    lease_max: u64,
}

fn key_of_cluster() -> HashKey {
    HashKey([7, 9])
}

fn company(live: &[u64]) -> Company {
    Company::Nodes {
        live: live.to_vec(),
        key: key_of_cluster(),
    }
}

impl World {
    fn new(nodes: u64, cores: u16, quota: Quota, random: u64) -> World {
        let live: Vec<u64> = (1..=nodes).collect();
        let mut quotas = BTreeMap::new();
        for node in live.iter().copied() {
            for core in 0..cores {
                let judge = Judge {
                    node,
                    core: CoreId(core),
                };
                let now = Now {
                    instant: at(0),
                    ..Now::default()
                };
                quotas.insert(
                    judge,
                    Quotas::new(&[quota], judge, cores, company(&live), false, now),
                );
            }
        }
        World {
            quotas,
            on_way: Vec::new(),
            now: at(0),
            random,
            loss: 0,
            repeats: 0,
            delay_ms: 1,
            granted: Vec::new(),
            waiting: Vec::new(),
            answers: BTreeMap::new(),
            lease_max: 0,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below.max(1)
    }

    fn send(&mut self, from: Judge, to: To, leasing: Leasing) {
        if let Leasing::Ask(ask) = &leasing {
            // Q2
            let ahead = ask.quota.terms.rate / 10;
            self.lease_max = self.lease_max.max(ask.want + ahead);
        }
        let judge = match (to, &leasing) {
            (To::Core(core), _) => Judge {
                node: from.node,
                core,
            },
            (To::Node(node), leasing) => {
                let cores = self.quotas.keys().filter(|judge| judge.node == node).count();
                Judge {
                    node,
                    core: leasing.core(cores as u16),
                }
            }
        };
        let crosses = matches!(to, To::Node(_));
        if crosses && self.draw(1000) < self.loss {
            return;
        }
        let copies = 1 + u64::from(crosses && self.draw(1000) < self.repeats);
        for _ in 0..copies {
            let delay_ns = match crosses {
                true => self.draw(self.delay_ms * MS) + 1,
                false => 1_000,
            };
            let arrives = Instant(self.now.0 + delay_ns);
            self.on_way.push((arrives, judge, leasing));
        }
    }

    fn ask(&mut self, judge: Judge, amount: u64) {
        let quotas = self.quotas.get_mut(&judge).expect("it is there");
        let answer = quotas.ask(self.now, FIRST, amount, None, Urgency::MayWait);
        self.settle(judge, amount, answer, self.now);
    }

    fn settle(&mut self, judge: Judge, amount: u64, answer: Answer, since: Instant) {
        let counts = self.answers.entry(judge).or_default();
        match answer {
            Answer::Granted => {
                counts[0] += 1;
                self.granted.push((self.now, amount));
            }
            Answer::Refused { .. } => counts[1] += 1,
            Answer::Unanswered => counts[2] += 1,
            Answer::Later(ticket) => self.waiting.push((judge, amount, ticket, since)),
        }
    }

    /// So much time in steps of half a millisecond; whoever waits asks again when it has an answer or no patience.
    fn pass(&mut self, ms: u64) {
        for _ in 0..2 * ms {
            self.now = Instant(self.now.0 + MS / 2);
            let now = self.now;
            let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.on_way)
                .into_iter()
                .partition(|(at, ..)| *at <= now);
            self.on_way = rest;
            for (_, judge, leasing) in due {
                if let Some(quotas) = self.quotas.get_mut(&judge) {
                    quotas.handle(now, leasing);
                }
            }
            for (judge, amount, ticket, since) in std::mem::take(&mut self.waiting) {
                let Some(quotas) = self.quotas.get_mut(&judge) else {
                    continue;
                };
                let urgency = match now.since(since) >= PATIENCE {
                    true => Urgency::Now,
                    false => Urgency::MayWait,
                };
                let answer = quotas.ask(now, FIRST, amount, Some(ticket), urgency);
                self.settle(judge, amount, answer, since);
            }
            let judges: Vec<Judge> = self.quotas.keys().copied().collect();
            for judge in judges {
                while let Some((to, leasing)) =
                    self.quotas.get_mut(&judge).and_then(|quotas| quotas.poll(now))
                {
                    self.send(judge, to, leasing);
                }
            }
        }
    }

    fn judges(&self) -> Vec<Judge> {
        self.quotas.keys().copied().collect()
    }

    fn total(&self) -> u64 {
        self.granted.iter().map(|(_, amount)| amount).sum()
    }

    /// The most that any window gives out beyond its rate × time.
    fn most_beyond_rate(&self, rate: u64) -> i128 {
        let mut most = 0;
        for (first, (begin, _)) in self.granted.iter().enumerate() {
            let mut sum = 0;
            for (end, amount) in &self.granted[first..] {
                sum += i128::from(*amount) * 1_000_000_000;
                most = most.max(sum - i128::from(rate) * end.since(*begin).as_nanos() as i128);
            }
        }
        most / 1_000_000_000
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Q1 and Q3 over cores and nodes: whatever is lost, repeated or late, no window has more than burst, rate × time,
    /// and one lease for each judge; and everybody is answered.
    #[test]
    fn judges_spend_no_more_than_burst_rate_and_one_lease_each(
        (nodes, cores) in (1..5u64, 1..4u16),
        (rate, burst) in (10..3_000u64, 10..6_000u64),
        (loss, repeats, delay_ms) in (prop_oneof![Just(0), Just(20), Just(300)], prop_oneof![Just(0), Just(100)], 1..60u64),
        steps in vec((0..40u64, any::<prop::sample::Index>(), 1..60u64), 1..120),
        random in any::<u64>(),
    ) {
        let mut world = World::new(nodes, cores, quota("p", rate, burst), random);
        (world.loss, world.repeats, world.delay_ms) = (loss, repeats, delay_ms);
        let judges = world.judges();
        let asked = steps.len() as u64;
        for (wait, judge, amount) in steps {
            world.pass(wait);
            world.ask(judges[judge.index(judges.len())], amount);
        }
        world.pass(1_100);
        prop_assert!(world.waiting.is_empty(), "Q3: {:?}", world.waiting);
        let answered: u64 = world.answers.values().flatten().sum();
        prop_assert_eq!(answered, asked);
        let allowed = i128::from(burst) + i128::from(world.lease_max) * judges.len() as i128;
        prop_assert!(world.most_beyond_rate(rate) <= allowed);
        // From the first moment on nothing had been leased yet, and the ledger began empty.
        let came = u128::from(rate) * world.now.since(at(0)).as_nanos() / 1_000_000_000;
        prop_assert!(u128::from(world.total()) <= came);
    }
}

/// Demand at one core of many gets what there is, up to a lease: the others give theirs back.
#[test]
fn one_busy_judge_is_not_starved_by_idle_ones() {
    let (rate, burst) = (1_000, 2_000);
    let mut world = World::new(1, 8, quota("p", rate, burst), 1);
    world.pass(2_000);
    // Everybody has asked once, and holds a lease.
    for judge in world.judges() {
        world.ask(judge, 5);
    }
    world.pass(500);
    let before = world.total();
    let busy = world.judges()[3];
    for _ in 0..2_000 {
        world.ask(busy, 4);
        world.pass(2);
    }
    let got = world.total() - before;
    let came = rate * 4;
    assert!(
        got + world.lease_max >= came + burst - 100,
        "got {got} of {}",
        came + burst
    );
}

/// All demand what is more than there is, on all cores of three nodes: what comes out is the rate.
#[test]
fn work_conserving_up_to_a_lease_of_each() {
    let (rate, burst) = (500, 1_000);
    let mut world = World::new(3, 2, quota("p", rate, burst), 3);
    world.delay_ms = 5;
    for _ in 0..1_500 {
        for judge in world.judges() {
            world.ask(judge, 3);
        }
        world.pass(2);
    }
    let came = rate * 3;
    let leases = world.lease_max * world.quotas.len() as u64;
    assert!(world.total() <= came, "{} of {came}", world.total());
    assert!(
        world.total() + leases >= came,
        "{} of {came}, {leases} leased",
        world.total()
    );
    // They take turns.
    let fair = world.total() / 3 / world.quotas.len() as u64;
    let is_fair = |[granted, ..]: &[u64; 3]| *granted * 2 > fair;
    assert!(world.answers.values().all(is_fair), "{:?}", world.answers);
}

/// Q3 without any ledger: the node that has it is gone, and nobody has noticed.
#[test]
fn without_a_ledger_everybody_is_answered_in_time() {
    let mut world = World::new(2, 1, quota("p", 1_000, 1_000), 5);
    let ledger = world.ledger();
    world.quotas.remove(&ledger);
    let other = world.judges()[0];
    for _ in 0..20 {
        world.ask(other, 1);
        world.pass(50);
    }
    world.pass(PATIENCE.as_millis() as u64 + 1);
    assert_eq!(world.answers[&other], [0, 0, 20]);
}

impl World {
    fn ledger(&self) -> Judge {
        let is_here = |quotas: &Quotas| quotas.levels(self.now)[0].is_some();
        let mut found = self.quotas.iter().filter(|(_, quotas)| is_here(quotas));
        let (judge, _) = found.next().expect("somebody keeps it");
        assert!(found.next().is_none(), "one ledger");
        *judge
    }

    fn set_company(&mut self, live: &[u64]) {
        let now = self.now;
        self.quotas
            .values_mut()
            .for_each(|quotas| quotas.set_company(now, company(live)));
    }
}

/// A ledger that moves begins empty: what comes out beyond burst and rate is what was leased before.
#[test]
fn ledger_that_moves_gives_no_second_burst() {
    let (rate, burst) = (400, 4_000);
    let mut world = World::new(3, 1, quota("p", rate, burst), 9);
    world.pass(11_000);
    let nodes: Vec<u64> = world.judges().iter().map(|judge| judge.node).collect();
    for round in 0..6 {
        let gone = world.ledger();
        let rest: Vec<u64> = nodes.iter().copied().filter(|node| *node != gone.node).collect();
        world.set_company(if round % 2 == 0 { &rest } else { &nodes });
        for _ in 0..100 {
            for judge in world.judges() {
                world.ask(judge, 20);
            }
            world.pass(3);
        }
    }
    let leases = world.lease_max * 3;
    let beyond = world.most_beyond_rate(rate);
    assert!(
        beyond <= i128::from(burst + leases),
        "{beyond} beyond the rate, {burst} and {leases} allowed"
    );
}

/// Two sides of a partition have a ledger each: what comes out is the rate of each, and no burst more.
#[test]
fn partition_gives_each_side_the_rate() {
    let (rate, burst) = (400, 800);
    let mut world = World::new(2, 1, quota("p", rate, burst), 9);
    let judges = world.judges();
    let now = world.now;
    for judge in &judges {
        let quotas = world.quotas.get_mut(judge).expect("there");
        quotas.set_company(now, company(&[judge.node]));
    }
    for _ in 0..1_000 {
        for judge in &judges {
            world.ask(*judge, 8);
        }
        world.pass(3);
    }
    let came = rate * 3 * 2;
    assert!(world.total() <= came + burst, "{}", world.total());
    assert!(world.total() + 100 >= came, "{}", world.total());
}

/// A request that comes twice counts once; an older one counts no more.
#[test]
fn request_counts_once() {
    let mut ledger = Ledger::full(terms(10, 100), at(0));
    let judge = Judge {
        node: 1,
        core: CoreId(0),
    };
    let ask = |number, want, returned| Ask {
        quota: key("p", 10, 100),
        judge,
        number,
        want,
        least: want,
        ahead: 0,
        returned,
    };
    let first = ledger.handle(at(0), &ask(5, 60, 0)).expect("answered");
    assert_eq!((first.tokens, first.left), (60, 40));
    assert_eq!(ledger.handle(at(0), &ask(5, 60, 0)), Some(first));
    let second = ledger.handle(at(0), &ask(6, 0, 25)).expect("answered");
    assert_eq!((second.tokens, second.left), (0, 65));
    assert_eq!(ledger.handle(at(0), &ask(6, 0, 25)), Some(second));
    assert_eq!(ledger.handle(at(0), &ask(5, 60, 0)), None);
    assert_eq!(ledger.left(at(0)), 65);
}

/// What a judge returns of another ledger's tokens is not taken.
#[test]
fn strangers_return_nothing() {
    let mut ledger = Ledger::empty(terms(10, 100), at(0));
    let ask = Ask {
        quota: key("p", 10, 100),
        judge: Judge {
            node: 1,
            core: CoreId(0),
        },
        number: 1,
        want: 0,
        least: 0,
        ahead: 0,
        returned: 90,
    };
    ledger.handle(at(0), &ask);
    assert_eq!(ledger.left(at(0)), 0);
}

/// What nobody uses comes back: the ledger has it again.
#[test]
fn unspent_lease_comes_back() {
    let mut world = World::new(1, 2, quota("p", 1_000, 1_000), 1);
    world.pass(5_000);
    let ledger = world.ledger();
    let other = world.judges().into_iter().find(|judge| *judge != ledger);
    let other = other.expect("the other core");
    world.ask(other, 400);
    world.pass(20);
    let level = |world: &World| world.quotas[&ledger].levels(world.now)[0].expect("it is here");
    assert_eq!(world.total(), 400);
    let leased = 600 + 20 - level(&world);
    assert!(leased >= 50, "100 ms ahead, or what the others leave: {leased}");
    // No time for the rate to hide it: only what was leased is missing.
    let rest = level(&world);
    world.ask(ledger, rest);
    let before = world.now;
    world.pass(300);
    let came = world.now.since(before).as_millis() as u64;
    assert!(
        level(&world) + 2 >= came + leased,
        "{} and {leased} of {}",
        came,
        level(&world)
    );
}

/// A node that does not keep a ledger, as it sees the cluster, gives nothing out.
#[test]
fn who_does_not_keep_the_ledger_does_not_answer() {
    let mut world = World::new(2, 1, quota("p", 1_000, 1_000), 1);
    world.pass(1_000);
    let ledger = world.ledger();
    let other = world.judges().into_iter().find(|judge| *judge != ledger);
    let other = world
        .quotas
        .get_mut(&other.expect("the other node"))
        .expect("there");
    let ask = Ask {
        quota: key("p", 1_000, 1_000),
        judge: ledger,
        number: 1,
        want: 10,
        least: 10,
        ahead: 0,
        returned: 0,
    };
    other.handle(world.now, Leasing::Ask(ask));
    assert_eq!(other.poll(world.now), None);
}

/// A request that was lost is made again, and again, and then given up.
#[test]
fn request_is_repeated_until_it_is_answered_or_given_up() {
    let judge = Judge {
        node: 1,
        core: CoreId(0),
    };
    let mut lease = Lease::new(key("p", 10, 100), judge, 7);
    assert!(matches!(
        lease.ask(at(0), 30, None, Urgency::MayWait),
        Answer::Later(_)
    ));
    let first = lease.poll(at(0)).expect("asked");
    assert_eq!((first.number, first.want, first.least), (8, 30, 30));
    assert_eq!(lease.poll(at(99 * MS)), None);
    let mut tries = 1;
    for ms in 1..3_000 {
        if let Some(again) = lease.poll(at(ms * MS)) {
            assert_eq!(again, first);
            tries += 1;
        }
    }
    assert_eq!(tries, 8);
    let late = Grant {
        quota: first.quota,
        judge,
        number: 8,
        tokens: 30,
        left: 0,
    };
    assert!(
        !lease.handle(at(3_000 * MS), &late),
        "a lease that nobody waits for is void"
    );
    assert_eq!(lease.tokens(), 0);
}
