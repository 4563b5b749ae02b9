//! A small shop whose requests make the demo's traffic: plausible spans without a single service running.
//!
//! ```text
//!  frontend ─┬─► catalog ─────────► SELECT products
//!            ├─► recommendation ──► catalog ─► SELECT products
//!            ├─► currency
//!            ├─► cart ────────────► HGETALL
//!            └─► checkout ─┬─► cart, catalog, currency
//!                          ├─► UPDATE stock             slow after the deploy
//!                          ├─► payment ─► POST card network
//!                          └─► shipping ─► send parcels
//! ```
//!
//! An operation is a row of a static tree ([`menu`]); a trace is one walk over it with drawn durations. In one of
//! a hundred traces some leaf fails and its callers with it, in one of two hundred some leaf is slow.

mod menu;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span::Event};

use menu::{Operation, ROUTES};

/// OTLP's number.
const ERROR: i32 = 2;

/// Of a thousand traces.
const FAILING: u64 = 10;
const SLOW: u64 = 5;
/// Of a hundred calls of what the deploy made slow.
const DEPLOYED_SLOW_PERCENT: u64 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Service {
    Frontend,
    Checkout,
    Cart,
    Payment,
    Catalog,
    Currency,
    Recommendation,
    Shipping,
}

impl Service {
    pub const ALL: [Service; 8] = [
        Service::Frontend,
        Service::Checkout,
        Service::Cart,
        Service::Payment,
        Service::Catalog,
        Service::Currency,
        Service::Recommendation,
        Service::Shipping,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Service::Frontend => "frontend",
            Service::Checkout => "checkout",
            Service::Cart => "cart",
            Service::Payment => "payment",
            Service::Catalog => "catalog",
            Service::Currency => "currency",
            Service::Recommendation => "recommendation",
            Service::Shipping => "shipping",
        }
    }
}

/// Spans that each service would send, by [`Service`].
pub type Batches = [Vec<Span>; Service::ALL.len()];

/// Draws traces. The same seed gives the same ones.
pub struct Shop {
    state: u64,
    is_deployed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Fails,
    IsSlow,
}

/// One walk.
struct Walk<'a> {
    shop: &'a mut Shop,
    batches: &'a mut Batches,
    trace_id: [u8; 16],
    fault: Fault,
    /// Leaves that may be at fault before the one that is.
    leaves_before: u64,
}

impl Shop {
    pub fn new(seed: u64) -> Shop {
        Shop {
            state: seed,
            is_deployed: false,
        }
    }

    /// From now on one route is slow.
    pub fn deploy(&mut self) {
        self.is_deployed = true;
    }

    pub fn is_deployed(&self) -> bool {
        self.is_deployed
    }

    /// Adds the spans of one trace that ended at `end_ns`. Returns how many.
    pub fn visit(&mut self, end_ns: u64, batches: &mut Batches) -> usize {
        let before: usize = batches.iter().map(Vec::len).sum();
        let firsts: [usize; Service::ALL.len()] = std::array::from_fn(|service| batches[service].len());
        let route = self.route();
        let fault = match self.below(1_000) {
            drawn if drawn < FAILING => Fault::Fails,
            drawn if drawn < FAILING + SLOW => Fault::IsSlow,
            _ => Fault::None,
        };
        let leaves_before = self.below(leaf_count(route));
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&(self.draw() | 1).to_be_bytes());
        trace_id[8..].copy_from_slice(&self.draw().to_be_bytes());
        let mut walk = Walk {
            shop: self,
            batches,
            trace_id,
            fault,
            leaves_before,
        };
        let (took_ns, _) = walk.operation(route, &[], 0);
        // The walk began at zero: now it is known how long it took.
        let begin_ns = end_ns.saturating_sub(took_ns);
        for (batch, first) in batches.iter_mut().zip(firsts) {
            for span in &mut batch[first..] {
                span.start_time_unix_nano += begin_ns;
                span.end_time_unix_nano += begin_ns;
                span.events
                    .iter_mut()
                    .for_each(|event| event.time_unix_nano += begin_ns);
            }
        }
        batches.iter().map(Vec::len).sum::<usize>() - before
    }

    fn route(&mut self) -> &'static Operation {
        let total = ROUTES.iter().map(|route| route.weight).sum();
        let mut drawn = self.below(total);
        for route in &ROUTES {
            if drawn < route.weight {
                return &route.operation;
            }
            drawn -= route.weight;
        }
        &ROUTES[0].operation
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit.max(1)
    }

    /// Mostly near the lower bound, as durations are.
    fn duration_ns(&mut self, (low_us, high_us): (u64, u64)) -> u64 {
        let width_ns = (high_us - low_us) * 1_000;
        let one = self.below(width_ns.max(1));
        let other = self.below(width_ns.max(1));
        // A collection of garbage, a lost packet: one of fifty takes several times as long.
        let tail = if self.below(50) == 0 { 3 } else { 1 };
        low_us * 1_000 + one.min(other) * tail
    }
}

impl Walk<'_> {
    /// Returns when it ended, and whether it failed.
    fn operation(&mut self, operation: &'static Operation, parent: &[u8], begin_ns: u64) -> (u64, bool) {
        let span_id = (self.shop.draw() | 1).to_be_bytes().to_vec();
        let own_ns = self.shop.duration_ns(operation.own_us);
        let mut at_ns = begin_ns + own_ns / 2;
        let mut failed = false;
        for call in operation.calls {
            let (end_ns, call_failed) = self.operation(call, &span_id, at_ns);
            at_ns = end_ns + own_ns / 8;
            failed |= call_failed;
            if failed {
                break;
            }
        }
        let mut end_ns = at_ns + own_ns / 2;
        if operation.deployed && self.shop.is_deployed && self.shop.below(100) < DEPLOYED_SLOW_PERCENT {
            end_ns += self.shop.duration_ns((1_050_000, 2_400_000));
        }
        let mut events = Vec::new();
        if let Some(exception) = operation.failure {
            let is_at_fault = self.leaves_before == 0;
            self.leaves_before = self.leaves_before.wrapping_sub(1);
            match self.fault {
                Fault::IsSlow if is_at_fault => end_ns += self.shop.duration_ns((1_200_000, 2_800_000)),
                Fault::Fails if is_at_fault => {
                    end_ns += self.shop.duration_ns((20_000, 250_000));
                    events.push(exception_event(exception, end_ns));
                    failed = true;
                }
                _ => {}
            }
        }
        let mut attributes: Vec<KeyValue> = operation
            .attributes
            .iter()
            .map(|(key, value)| text(key, value))
            .collect();
        if parent.is_empty() {
            self.describe_request(&mut attributes, failed);
        }
        let status = failed.then(|| Status {
            code: ERROR,
            message: operation
                .failure
                .map_or(String::new(), |(_, message)| message.to_owned()),
        });
        self.batches[operation.service as usize].push(Span {
            trace_id: self.trace_id.to_vec(),
            span_id,
            parent_span_id: parent.to_vec(),
            name: operation.name.to_owned(),
            kind: operation.kind,
            start_time_unix_nano: begin_ns,
            end_time_unix_nano: end_ns,
            attributes,
            events,
            status,
            ..Span::default()
        });
        (end_ns, failed)
    }
}

impl Walk<'_> {
    /// What only the server of a browser's request knows.
    fn describe_request(&mut self, attributes: &mut Vec<KeyValue>, failed: bool) {
        let status = if failed { 500 } else { 200 };
        let client = self.shop.below(250);
        attributes.push(number("http.response.status_code", status));
        attributes.push(text("client.address", &format!("198.51.100.{client}")));
        attributes.push(text(
            "user_agent.original",
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ));
        attributes.push(text("session.id", &format!("{:016x}", self.shop.draw())));
    }
}

fn leaf_count(operation: &Operation) -> u64 {
    let below: u64 = operation.calls.iter().map(leaf_count).sum();
    below + u64::from(operation.failure.is_some())
}

fn exception_event((kind, message): (&str, &str), time_unix_nano: u64) -> Event {
    Event {
        time_unix_nano,
        name: "exception".to_owned(),
        attributes: vec![
            text("exception.type", kind),
            text("exception.message", message),
            text("exception.stacktrace", &stack_trace(kind, message)),
        ],
        ..Event::default()
    }
}

/// Some 2 KB, as they are.
fn stack_trace(kind: &str, message: &str) -> String {
    const FRAMES: usize = 24;
    let frames = (0..FRAMES).map(|depth| {
        format!("\n  {depth:>2}: shop::runtime::layer_{depth}::Handler::call\n             at src/runtime/layer_{depth}.rs:{}:9", 40 + 7 * depth)
    });
    format!("{kind}: {message}{}", frames.collect::<String>())
}

pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, any_value::Value::IntValue(value))
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const END_NS: u64 = 1_000_000_000_000;

    fn visit(shop: &mut Shop) -> Vec<Span> {
        let mut batches = Batches::default();
        let count = shop.visit(END_NS, &mut batches);
        let spans: Vec<Span> = batches.into_iter().flatten().collect();
        assert_eq!(spans.len(), count);
        spans
    }

    #[test]
    fn a_visit_is_one_whole_trace_that_ends_when_it_says() {
        let mut shop = Shop::new(1);
        for _ in 0..1_000 {
            let spans = visit(&mut shop);
            let ids: BTreeSet<_> = spans.iter().map(|span| span.span_id.clone()).collect();
            assert_eq!(ids.len(), spans.len());
            let roots = spans.iter().filter(|span| span.parent_span_id.is_empty());
            assert_eq!(
                roots.map(|root| root.end_time_unix_nano).collect::<Vec<_>>(),
                [END_NS]
            );
            for span in &spans {
                assert_eq!(span.trace_id, spans[0].trace_id);
                assert!(span.start_time_unix_nano < span.end_time_unix_nano);
                assert!(span.parent_span_id.is_empty() || ids.contains(&span.parent_span_id));
            }
        }
    }

    #[test]
    fn some_traces_fail_and_some_are_slow() {
        let mut shop = Shop::new(2);
        let (mut failing, mut slow) = (0, 0);
        for _ in 0..10_000 {
            let spans = visit(&mut shop);
            let root = spans
                .iter()
                .find(|span| span.parent_span_id.is_empty())
                .expect("a root");
            let has_exception = spans.iter().any(|span| !span.events.is_empty());
            assert_eq!(root.status.is_some(), has_exception, "a failure reaches the root");
            failing += usize::from(has_exception);
            slow += usize::from(root.end_time_unix_nano - root.start_time_unix_nano > 1_000_000_000);
        }
        assert!((50..200).contains(&failing), "{failing}");
        assert!((20..100).contains(&slow), "{slow}");
    }

    #[test]
    fn a_deploy_makes_checkout_slow_and_nothing_else() {
        let mut shop = Shop::new(3);
        shop.deploy();
        let (mut checkouts, mut slow, mut others) = (0, 0, 0);
        for _ in 0..5_000 {
            let spans = visit(&mut shop);
            let root = spans
                .iter()
                .find(|span| span.parent_span_id.is_empty())
                .expect("a root");
            let is_slow = root.end_time_unix_nano - root.start_time_unix_nano > 1_000_000_000;
            match root.name == "POST /checkout" {
                true => {
                    checkouts += 1;
                    slow += usize::from(is_slow);
                }
                false => others += usize::from(is_slow),
            }
        }
        assert!(slow * 2 > checkouts, "{slow} of {checkouts}");
        assert!(others < 60, "{others}");
    }
}
