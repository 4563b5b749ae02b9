//! What single policies say of single digests, and when they say it early.

use crate::base::monoid::Monoid;

use super::*;

fn entry(name: &str, kind: PolicyKind) -> PolicyEntry {
    PolicyEntry {
        name: name.into(),
        kind,
    }
}

fn set_of(kinds: Vec<PolicyKind>, sample_on_first_match: bool) -> PolicySet {
    let policies = kinds
        .into_iter()
        .enumerate()
        .map(|(index, kind)| entry(&format!("p{index}"), kind));
    let options = PolicyOptions {
        policies: policies.collect(),
        sample_on_first_match,
        ..PolicyOptions::default()
    };
    PolicySet::compile(&options).expect("right policies")
}

fn errors() -> PolicyKind {
    PolicyKind::StatusCode {
        codes: vec![StatusCode::Error],
    }
}

fn slow(threshold_ms: i64, upper_threshold_ms: i64) -> PolicyKind {
    PolicyKind::Latency {
        threshold_ms,
        upper_threshold_ms,
    }
}

fn share(percentage: f64) -> PolicyKind {
    PolicyKind::Probabilistic {
        percentage,
        hash_salt: None,
    }
}

fn salted(percentage: f64) -> PolicyKind {
    PolicyKind::Probabilistic {
        percentage,
        hash_salt: Some("salt".into()),
    }
}

fn not(kind: PolicyKind) -> PolicyKind {
    PolicyKind::Not(Box::new(entry("", kind)))
}

fn and(kinds: Vec<PolicyKind>) -> PolicyKind {
    PolicyKind::And(kinds.into_iter().map(|kind| entry("", kind)).collect())
}

fn drop(kinds: Vec<PolicyKind>) -> PolicyKind {
    PolicyKind::Drop(kinds.into_iter().map(|kind| entry("", kind)).collect())
}

/// A root without anything.
fn span() -> SpanView<'static> {
    SpanView::parse(&[]).expect("an empty span is a span")
}

fn span_with(change: impl FnOnce(&mut SpanView<'static>)) -> SpanView<'static> {
    let mut changed = span();
    change(&mut changed);
    changed
}

fn status(code: i32) -> SpanView<'static> {
    span_with(|span| span.status_code = code)
}

fn lasting_ns(ns: u64) -> SpanView<'static> {
    span_with(|span| (span.start_ns, span.end_ns) = (1, 1 + ns))
}

fn lasting(ms: u64) -> SpanView<'static> {
    lasting_ns(ms * 1_000_000)
}

fn fold(set: &PolicySet, span: &SpanView<'_>) -> Digest {
    set.fold(span, ResourceMatch::NONE)
}

/// R = 0xc0000000000000.
fn trace() -> TraceId {
    TraceId::from_hex("000000000000000100c0000000000000").expect("32 digits")
}

/// What an open, then a closed trace of these spans is judged.
fn check(
    set: &PolicySet,
    spans: &[SpanView<'_>],
    open: (Verdict, Option<u16>),
    closed: (Verdict, Option<u16>),
) {
    let digest = spans
        .iter()
        .map(|span| fold(set, span))
        .fold(Digest::EMPTY, Monoid::merge);
    let answer = |ruling: Ruling| (ruling.verdict, ruling.policy.map(|policy| policy.0));
    assert_eq!(answer(set.judge_open(trace(), &digest)), open, "open");
    assert_eq!(answer(set.judge_closed(trace(), &digest)), closed, "closed");
}

const PENDING: (Verdict, Option<u16>) = (Verdict::Pending, None);
const ROLLUP: (Verdict, Option<u16>) = (Verdict::Rollup, None);

fn keep(policy: u16) -> (Verdict, Option<u16>) {
    (Verdict::Keep, Some(policy))
}

fn deny(policy: u16) -> (Verdict, Option<u16>) {
    (Verdict::Deny, Some(policy))
}

#[test]
fn error_keeps_at_once_and_its_absence_only_when_closed() {
    let set = set_of(vec![errors(), slow(2000, 0)], false);
    check(&set, &[status(2)], keep(0), keep(0));
    check(&set, &[status(1)], PENDING, ROLLUP);
}

#[test]
fn trace_is_slow_above_the_threshold_in_whole_milliseconds() {
    let set = set_of(vec![slow(2000, 0)], false);
    check(&set, &[lasting(2000)], PENDING, ROLLUP);
    check(&set, &[lasting_ns(2_000_999_999)], PENDING, ROLLUP);
    check(&set, &[lasting(2001)], keep(0), keep(0));
}

#[test]
fn upper_bound_of_a_duration_holds_at_the_end_not_on_the_way() {
    let set = set_of(vec![slow(100, 200)], false);
    check(&set, &[lasting(150)], PENDING, keep(0));
    check(&set, &[lasting(150), lasting(200)], PENDING, keep(0));
    check(&set, &[lasting(150), lasting(201)], ROLLUP, ROLLUP);
}

#[test]
fn drop_beats_keep_and_holds_it_back_while_unknown() {
    let set = set_of(vec![PolicyKind::AlwaysSample, drop(vec![errors()])], false);
    check(&set, &[span()], PENDING, keep(0));
    check(&set, &[status(2)], deny(1), deny(1));
}

#[test]
fn empty_and_matches_and_empty_drop_denies_all() {
    check(&set_of(vec![and(vec![])], false), &[span()], keep(0), keep(0));
    check(
        &set_of(vec![and(vec![]), drop(vec![])], false),
        &[span()],
        deny(1),
        deny(1),
    );
}

#[test]
fn no_policies_keep_nothing() {
    check(&set_of(vec![], false), &[span()], ROLLUP, ROLLUP);
}

#[test]
fn first_match_waits_for_all_before_the_winner() {
    let kinds = vec![errors(), slow(100, 0)];
    check(&set_of(kinds.clone(), false), &[lasting(500)], keep(1), keep(1));
    check(&set_of(kinds, true), &[lasting(500)], PENDING, keep(1));
    let settled_first = vec![PolicyKind::SpanCount { min: 0, max: 1 }, slow(100, 0)];
    check(
        &set_of(settled_first, true),
        &[lasting(500), span()],
        keep(1),
        keep(1),
    );
}

#[test]
fn chance_is_settled_early_only_against_a_root_that_loses() {
    let set = set_of(vec![share(25.0)], false);
    let root = |state: &'static [u8]| span_with(|span| span.trace_state = state);
    let child =
        |state: &'static [u8]| span_with(|span| (span.trace_state, span.parent_span_id) = (state, &[1; 8]));
    check(&set, &[child(b"")], PENDING, keep(0)); // R of the trace id is just enough
    check(&set, &[child(b"ot=rv:bfffffffffffff")], PENDING, ROLLUP);
    check(&set, &[root(b"ot=rv:ffffffffffffff")], PENDING, keep(0));
    check(&set, &[root(b"ot=rv:bfffffffffffff")], ROLLUP, ROLLUP);
    check(&set_of(vec![share(0.0)], false), &[child(b"")], ROLLUP, ROLLUP);
    check(
        &set_of(vec![share(100.0)], false),
        &[child(b"")],
        keep(0),
        keep(0),
    );
}

#[test]
fn threshold_is_the_lowest_of_all_that_match_whichever_is_recorded() {
    let threshold = |kinds| {
        let set = set_of(kinds, true);
        let digest = fold(&set, &status(2));
        let ruling = set.judge_closed(trace(), &digest);
        assert_eq!(ruling.verdict, Verdict::Keep);
        ruling.threshold.map(Threshold::value)
    };
    const HALF: Option<u64> = Some(1 << 55);
    assert_eq!(threshold(vec![share(50.0)]), HALF);
    assert_eq!(threshold(vec![share(25.0), share(50.0)]), HALF);
    assert_eq!(threshold(vec![share(50.0), errors()]), Some(0));
    assert_eq!(threshold(vec![share(100.0)]), Some(0));
    assert_eq!(threshold(vec![and(vec![share(50.0), errors()])]), HALF);
    assert_eq!(threshold(vec![and(vec![share(50.0), share(75.0)])]), HALF);
    assert_eq!(threshold(vec![salted(100.0)]), None);
    assert_eq!(threshold(vec![salted(100.0), share(50.0)]), HALF);
    assert_eq!(threshold(vec![and(vec![salted(100.0), errors()])]), None);
    assert_eq!(threshold(vec![not(share(1.0))]), None);
    assert_eq!(threshold(vec![not(slow(100, 0))]), Some(0));
    assert_eq!(threshold(vec![not(not(share(50.0)))]), HALF);
}

#[test]
fn keep_without_threshold_waits_while_another_policy_may_bring_one() {
    check(&set_of(vec![salted(100.0)], false), &[span()], keep(0), keep(0));
    check(
        &set_of(vec![salted(100.0), errors()], false),
        &[span()],
        PENDING,
        keep(0),
    );
}

#[test]
fn equal_questions_are_one_predicate() {
    let kinds = vec![errors(), and(vec![errors(), not(errors())]), drop(vec![errors()])];
    let attribute = |invert| PolicyKind::NumericAttribute {
        key: "k".into(),
        min: Some(1),
        max: None,
        invert,
    };
    let set = set_of([kinds, vec![attribute(false), attribute(true)]].concat(), false);
    assert_eq!(set.predicates.len(), 2);
}

#[test]
fn resource_counts_for_the_spans_below_it() {
    let flag = PolicyKind::BooleanAttribute {
        key: "debug".into(),
        value: true,
        invert: false,
    };
    let set = set_of(vec![flag], false);
    let attributes: [(&[u8], _); 3] = [
        (b"debug", AnyValueView::String(b"true")),
        (b"debug", AnyValueView::Bool(true)),
        (b"trace.expected_span_count", AnyValueView::Int(7)),
    ];
    let resource = set.match_resource(attributes.into_iter());
    let digest = set.fold(&span(), resource);
    assert_eq!(set.judge_open(trace(), &digest).verdict, Verdict::Keep);
    assert_eq!(digest.expected_count, 7);
    assert_eq!(
        set.judge_closed(trace(), &fold(&set, &span())).verdict,
        Verdict::Rollup
    );
}

#[test]
fn expected_count_is_a_positive_integer_or_nothing() {
    let set = set_of(vec![], false);
    let count = |value| {
        let attributes: [(&[u8], _); 1] = [(b"trace.expected_span_count", value)];
        set.fold(&span(), set.match_resource(attributes.into_iter()))
            .expected_count
    };
    assert_eq!(count(AnyValueView::Int(12)), 12);
    assert_eq!(count(AnyValueView::Int(-1)), 0);
    assert_eq!(count(AnyValueView::Int(i64::MAX)), u32::MAX);
    assert_eq!(count(AnyValueView::String(b"12")), 0);
    let unread = PolicyOptions {
        expected_count_attribute: String::new(),
        ..PolicyOptions::default()
    };
    assert!(
        !PolicySet::compile(&unread)
            .expect("right policies")
            .wants_attributes()
    );
}

#[test]
fn explanation_says_what_was_asked_and_found() {
    let key = "http.status_code".to_owned();
    let server_error = PolicyKind::NumericAttribute {
        key,
        min: Some(500),
        max: Some(599),
        invert: true,
    };
    let set = set_of(vec![and(vec![slow(100, 200), share(25.0)]), server_error], false);
    let digest = fold(&set, &lasting(150));
    let open = set.explain(trace(), &digest, false);
    let words: Vec<_> = open
        .iter()
        .map(|result| (result.name, result.result.name(), &result.detail[..]))
        .collect();
    assert_eq!(
        words,
        [
            (
                "p0",
                "unknown",
                "150 ms > 100 ms and not (150 ms > 200 ms) and randomness c0000000000000 >= threshold c0000000000000"
            ),
            (
                "p1",
                "unknown",
                "not (http.status_code from 500 to 599: not seen)"
            ),
        ]
    );
    let closed = set.explain(trace(), &digest, true);
    assert!(closed.iter().all(|result| result.result == Outcome::Match));
}

fn check_errors(policies: Vec<PolicyEntry>, expected: &[(&str, &str)]) {
    let options = PolicyOptions {
        policies,
        ..PolicyOptions::default()
    };
    let errors = PolicySet::compile(&options).expect_err("wrong policies");
    let found: Vec<_> = errors
        .iter()
        .map(|error| (&error.path[..], &error.message[..]))
        .collect();
    assert_eq!(found, expected);
    assert!(errors.iter().all(|error| !error.help.is_empty()));
}

#[test]
fn all_mistakes_are_reported_at_once_each_at_its_place() {
    let text = |values: &[&str], regex| PolicyKind::StringAttribute {
        key: "k".into(),
        values: values.iter().map(|value| value.to_string()).collect(),
        regex,
        invert: false,
    };
    let number = |min, max| PolicyKind::NumericAttribute {
        key: "k".into(),
        min,
        max,
        invert: false,
    };
    let keyless = PolicyKind::BooleanAttribute {
        key: String::new(),
        value: true,
        invert: false,
    };
    check_errors(
        vec![
            entry("", PolicyKind::AlwaysSample),
            entry("a", text(&["ok", "(", "a{1000}{1000}"], true)),
            entry("a", and(vec![errors(), number(None, None)])),
            entry("b", drop(vec![not(number(Some(500), Some(0)))])),
            entry("c", and(vec![drop(vec![])])),
            entry("d", PolicyKind::StatusCode { codes: vec![] }),
            entry("e", share(f64::NAN)),
            entry("f", keyless),
            entry("g", slow(100, 100)),
            entry("h", PolicyKind::SpanCount { min: 3, max: 2 }),
            entry("i", text(&["("], false)),
        ],
        &[
            ("policies[0].name", "the name is empty"),
            (
                "policies[1].string_attribute.values[1]",
                "is no regular expression: unclosed group",
            ),
            (
                "policies[1].string_attribute.values[2]",
                "takes more than 1048576 bytes when compiled",
            ),
            ("policies[2].name", "policies[1] is named \"a\" too"),
            (
                "policies[2].and.and_sub_policy[1].numeric_attribute",
                "neither min_value nor max_value is given",
            ),
            (
                "policies[3].drop.drop_sub_policy[0].not.not_sub_policy.numeric_attribute.max_value",
                "no number is at least 500 and at most 0",
            ),
            (
                "policies[4].and.and_sub_policy[0]",
                "drop is not a part of other policies",
            ),
            ("policies[5].status_code.status_codes", "the list is empty"),
            (
                "policies[6].probabilistic.sampling_percentage",
                "NaN is no percentage",
            ),
            ("policies[7].boolean_attribute.key", "the key is empty"),
            (
                "policies[8].latency.upper_threshold_ms",
                "no duration is above 100 ms and not above 100 ms",
            ),
            (
                "policies[9].span_count.max_spans",
                "no trace has at least 3 and at most 2 spans",
            ),
        ],
    );
}

#[test]
fn one_policy_or_predicate_too_many_is_refused_by_name() {
    let number = |value| PolicyKind::NumericAttribute {
        key: "k".into(),
        min: Some(value),
        max: None,
        invert: false,
    };
    let numbers = |count| and((0..count).map(number).collect());
    set_of(vec![numbers(128)], false);
    check_errors(
        vec![entry("many", numbers(129))],
        &[(
            "policies[0].and.and_sub_policy[128].numeric_attribute",
            "asks one more thing of spans than the 128 different ones there can be",
        )],
    );
    let always = |index| entry(&format!("p{index}"), PolicyKind::AlwaysSample);
    check_errors(
        (0..129).map(always).collect(),
        &[(
            "policies[128]",
            "policy \"p128\" is one more than the 128 there can be",
        )],
    );
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth| (0..depth).fold(PolicyKind::AlwaysSample, |inner, _| and(vec![inner]));
    set_of(vec![nested(16)], false);
    let options = PolicyOptions {
        policies: vec![entry("deep", nested(17))],
        ..PolicyOptions::default()
    };
    let errors = PolicySet::compile(&options).expect_err("too deep");
    assert_eq!(errors[0].message, "nested more than 16 deep");
}

fn rate(spans_per_second: u64) -> PolicyKind {
    PolicyKind::RateLimiting {
        spans_per_second,
        burst: 0,
    }
}

/// Verdict and policy.
type Judged = (Verdict, Option<u16>);

/// Asks with quotas that have so many tokens each, and returns what they were asked for.
fn ask(set: &PolicySet, spans: &[SpanView<'_>], tokens: &[u64]) -> (Judged, Vec<(u8, u64)>) {
    let digest = spans
        .iter()
        .map(|span| fold(set, span))
        .fold(Digest::EMPTY, Monoid::merge);
    let (mut answers, mut asked) = (QuotaAnswers::NONE, Vec::new());
    let mut answer = |quota: QuotaIndex, amount, _| {
        asked.push((quota.0, amount));
        let left = tokens[quota.number()];
        match amount <= left {
            true => Answer::Granted,
            false => Answer::Refused { left },
        }
    };
    let ruling = set.judge_asking(trace(), &digest, PredicateSet::NONE, &mut answers, &mut answer);
    let ruling = ruling.expect("nobody answers later");
    // What was answered is not asked again.
    let again = set.judge_asking(
        trace(),
        &digest,
        PredicateSet::NONE,
        &mut answers,
        &mut |_, _, _| panic!("asked twice"),
    );
    assert_eq!(again, Some(ruling));
    ((ruling.verdict, ruling.policy.map(|policy| policy.0)), asked)
}

#[test]
fn quota_keeps_what_it_has_tokens_for() {
    let set = set_of(vec![rate(5)], false);
    assert_eq!(ask(&set, &[span(), span()], &[2]), (keep(0), vec![(0, 2)]));
    assert_eq!(ask(&set, &[span(), span()], &[1]), (ROLLUP, vec![(0, 2)]));
    check(&set, &[span()], PENDING, ROLLUP);
    let terms = set.quotas()[0].key.terms;
    assert_eq!((terms.rate, terms.burst), (5, 10));
}

#[test]
fn every_quota_is_charged_but_of_a_denied_trace() {
    let kinds = vec![errors(), rate(5), rate(7)];
    let set = set_of(kinds.clone(), false);
    assert_eq!(ask(&set, &[status(2)], &[9, 0]), (keep(0), vec![(0, 1), (1, 1)]));
    let denying = set_of([kinds, vec![drop(vec![slow(10, 0)])]].concat(), false);
    assert_eq!(ask(&denying, &[lasting(11)], &[9, 9]), (deny(3), vec![]));
    assert_eq!(
        ask(&denying, &[lasting(1)], &[9, 9]),
        (keep(1), vec![(0, 1), (1, 1)])
    );
}

#[test]
fn first_match_charges_no_later_quota() {
    let kinds = vec![rate(5), errors(), rate(7)];
    let set = set_of(kinds, true);
    assert_eq!(ask(&set, &[status(2)], &[1, 1]), (keep(0), vec![(0, 1)]));
    assert_eq!(ask(&set, &[status(2)], &[0, 1]), (keep(1), vec![(0, 1)]));
    assert_eq!(ask(&set, &[status(1)], &[0, 1]), (keep(2), vec![(0, 1), (1, 1)]));
}

#[test]
fn conjunction_asks_its_quota_last_and_only_if_the_rest_holds() {
    let set = set_of(vec![and(vec![rate(5), errors()])], false);
    assert_eq!(ask(&set, &[status(1)], &[9]), (ROLLUP, vec![]));
    assert_eq!(ask(&set, &[status(2)], &[9]), (keep(0), vec![(0, 1)]));
    assert_eq!(ask(&set, &[status(2)], &[0]), (ROLLUP, vec![(0, 1)]));
}

#[test]
fn drop_of_what_is_beyond_a_quota_is_a_cap_for_all() {
    let set = set_of(vec![errors(), drop(vec![not(rate(5))])], false);
    check(&set, &[status(2)], PENDING, keep(0));
    assert_eq!(ask(&set, &[status(2)], &[1]), (keep(0), vec![(0, 1)]));
    assert_eq!(ask(&set, &[status(2)], &[0]), (deny(1), vec![(0, 1)]));
    let digest = fold(&set, &status(2));
    // A late span does not lift it; of a trace that passed, it may.
    let again = |before| set.judge_again(trace(), &digest, before).verdict;
    assert_eq!(again(Verdict::Deny), Verdict::Deny);
    assert_eq!(again(Verdict::Rollup), Verdict::Keep);
}

#[test]
fn bytes_are_those_of_the_spans() {
    let limit = PolicyKind::BytesLimiting {
        bytes_per_second: 1_000,
        burst: 4_000,
    };
    let set = set_of(vec![limit], false);
    let digest = Digest {
        bytes: 3_999,
        ..fold(&set, &span())
    };
    let mut asked = None;
    set.judge_asking(
        trace(),
        &digest,
        PredicateSet::NONE,
        &mut QuotaAnswers::default(),
        &mut |_, amount, _| {
            asked = Some(amount);
            Answer::Granted
        },
    );
    assert_eq!(asked, Some(3_999));
    assert_eq!(set.quotas()[0].key.terms.burst, 4_000);
}

#[test]
fn quota_erases_th_and_gives_way_to_any_other() {
    let threshold = |kinds: Vec<PolicyKind>| {
        let set = set_of(kinds, false);
        let digest = fold(&set, &status(2));
        let grant = &mut |_, _, _| Answer::Granted;
        let ruling = set.judge_asking(
            trace(),
            &digest,
            PredicateSet::NONE,
            &mut QuotaAnswers::default(),
            grant,
        );
        let ruling = ruling.expect("nobody answers later");
        assert_eq!(ruling.verdict, Verdict::Keep);
        ruling.threshold.map(Threshold::value)
    };
    assert_eq!(threshold(vec![rate(1)]), None);
    assert_eq!(threshold(vec![and(vec![rate(1), share(50.0)])]), None);
    assert_eq!(threshold(vec![rate(1), share(50.0)]), Some(1 << 55));
    assert_eq!(threshold(vec![rate(1), errors()]), Some(0));
}

#[test]
fn answer_that_comes_later_holds_back_all_that_comes_after_it() {
    let set = set_of(vec![rate(5), rate(7)], true);
    let digest = fold(&set, &span());
    let mut answers = QuotaAnswers::NONE;
    let later = set.judge_asking(
        trace(),
        &digest,
        PredicateSet::NONE,
        &mut answers,
        &mut |quota, _, ticket| {
            assert_eq!((quota.0, ticket), (0, None));
            Answer::Later(Ticket::new(7))
        },
    );
    assert_eq!(later, None);
    let ruling = set.judge_asking(
        trace(),
        &digest,
        PredicateSet::NONE,
        &mut answers,
        &mut |quota, _, ticket| match quota.0 {
            0 => {
                assert_eq!(ticket, Some(Ticket::new(7)));
                Answer::Refused { left: 0 }
            }
            _ => Answer::Granted,
        },
    );
    assert_eq!(
        ruling.map(|ruling| (ruling.verdict, ruling.policy.map(|policy| policy.0))),
        Some(keep(1))
    );
}

#[test]
fn explanation_says_what_a_quota_had_left() {
    let set = set_of(vec![and(vec![rate(5), errors()])], false);
    let digest = fold(&set, &status(2)).merge(fold(&set, &span()));
    let mut answers = QuotaAnswers::NONE;
    let say = |answers| set.explain_asked(trace(), &digest, true, answers)[0].clone();
    assert_eq!(
        (say(answers).result, &say(answers).detail[..]),
        (
            Outcome::Unknown,
            "status ERROR: seen and 2 spans against 5 a second, 10 at once: not asked"
        )
    );
    answers.note(QuotaIndex(0), Answer::Refused { left: 1 });
    assert_eq!(
        (say(answers).result, &say(answers).detail[..]),
        (
            Outcome::NoMatch,
            "status ERROR: seen and 2 spans, 1 tokens left: beyond 5 a second, 10 at once"
        )
    );
}
