//! A small shop whose requests make the demo's traffic: plausible spans without a single service running.
//!
//! ```text
//!  frontend ─┬─► catalog ─► SELECT products
//!            ├─► cart ────► HGETALL
//!            └─► checkout ─┬─► cart ─► HGETALL
//!                          ├─► catalog ─► SELECT products
//!                          └─► payment ─► POST card network
//! ```
//!
//! An operation is a row of a static tree; a trace is one walk over it with drawn durations. In one of a hundred
//! traces some leaf fails and its callers with it, in another one some leaf is slow.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span::Event};

/// OTLP's numbers.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const ERROR: i32 = 2;

/// Of a hundred traces.
const FAILING_PERCENT: u64 = 1;
const SLOW_PERCENT: u64 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Service {
    Frontend,
    Checkout,
    Cart,
    Payment,
    Catalog,
}

impl Service {
    pub const ALL: [Service; 5] = [
        Service::Frontend,
        Service::Checkout,
        Service::Cart,
        Service::Payment,
        Service::Catalog,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Service::Frontend => "frontend",
            Service::Checkout => "checkout",
            Service::Cart => "cart",
            Service::Payment => "payment",
            Service::Catalog => "catalog",
        }
    }
}

/// A kind of span and what it calls, one after the other.
struct Operation {
    service: Service,
    name: &'static str,
    kind: i32,
    /// Its own time around its calls, at least and usually at most, in microseconds.
    own_us: (u64, u64),
    attributes: &'static [(&'static str, &'static str)],
    /// Exception type and message of leaves that may fail or be slow.
    failure: Option<(&'static str, &'static str)>,
    calls: &'static [Operation],
}

const fn calls(
    service: Service,
    name: &'static str,
    attributes: &'static [(&'static str, &'static str)],
    calls: &'static [Operation],
) -> Operation {
    Operation {
        service,
        name,
        kind: CLIENT,
        own_us: (150, 900),
        attributes,
        failure: None,
        calls,
    }
}

const fn serves(
    service: Service,
    name: &'static str,
    attributes: &'static [(&'static str, &'static str)],
    calls: &'static [Operation],
) -> Operation {
    Operation {
        service,
        name,
        kind: SERVER,
        own_us: (400, 4_000),
        attributes,
        failure: None,
        calls,
    }
}

static SELECT: &[Operation] = &[Operation {
    service: Service::Catalog,
    name: "SELECT shop.products",
    kind: CLIENT,
    own_us: (800, 12_000),
    attributes: &[("db.system.name", "postgresql"), ("db.operation.name", "SELECT")],
    failure: Some(("sqlx::PoolTimedOut", "no free connection to postgresql")),
    calls: &[],
}];

static HGETALL: &[Operation] = &[Operation {
    service: Service::Cart,
    name: "HGETALL",
    kind: CLIENT,
    own_us: (200, 1_500),
    attributes: &[("db.system.name", "redis"), ("db.operation.name", "HGETALL")],
    failure: Some((
        "redis.exceptions.ConnectionError",
        "connection to redis:6379 refused",
    )),
    calls: &[],
}];

static CHARGE: &[Operation] = &[Operation {
    service: Service::Payment,
    name: "POST",
    kind: CLIENT,
    own_us: (30_000, 140_000),
    attributes: &[
        ("server.address", "cards.example.com"),
        ("http.request.method", "POST"),
    ],
    failure: Some(("CardNetworkError", "upstream answered 502 Bad Gateway")),
    calls: &[],
}];

static CATALOG: &[Operation] = &[serves(
    Service::Catalog,
    "shop.Catalog/Get",
    &[("rpc.system.name", "grpc")],
    SELECT,
)];
static CART: &[Operation] = &[serves(
    Service::Cart,
    "shop.Cart/Get",
    &[("rpc.system.name", "grpc")],
    HGETALL,
)];
static PAYMENT: &[Operation] = &[serves(
    Service::Payment,
    "shop.Payment/Charge",
    &[("rpc.system.name", "grpc")],
    CHARGE,
)];
static CHECKOUT: &[Operation] = &[serves(
    Service::Checkout,
    "shop.Checkout/PlaceOrder",
    &[("rpc.system.name", "grpc")],
    &[
        calls(
            Service::Checkout,
            "shop.Cart/Get",
            &[("rpc.system.name", "grpc")],
            CART,
        ),
        calls(
            Service::Checkout,
            "shop.Catalog/Get",
            &[("rpc.system.name", "grpc")],
            CATALOG,
        ),
        calls(
            Service::Checkout,
            "shop.Payment/Charge",
            &[("rpc.system.name", "grpc")],
            PAYMENT,
        ),
    ],
)];

/// What people do in a shop: mostly look.
static ROUTES: [(u64, Operation); 3] = [
    (
        55,
        serves(
            Service::Frontend,
            "GET /products/{id}",
            &[("http.request.method", "GET"), ("http.route", "/products/{id}")],
            &[calls(
                Service::Frontend,
                "shop.Catalog/Get",
                &[("rpc.system.name", "grpc")],
                CATALOG,
            )],
        ),
    ),
    (
        25,
        serves(
            Service::Frontend,
            "GET /cart",
            &[("http.request.method", "GET"), ("http.route", "/cart")],
            &[calls(
                Service::Frontend,
                "shop.Cart/Get",
                &[("rpc.system.name", "grpc")],
                CART,
            )],
        ),
    ),
    (
        20,
        serves(
            Service::Frontend,
            "POST /checkout",
            &[("http.request.method", "POST"), ("http.route", "/checkout")],
            &[calls(
                Service::Frontend,
                "shop.Checkout/PlaceOrder",
                &[("rpc.system.name", "grpc")],
                CHECKOUT,
            )],
        ),
    ),
];

/// Spans that each service would send, by [`Service`].
pub type Batches = [Vec<Span>; Service::ALL.len()];

/// Draws traces. The same seed gives the same ones.
pub struct Shop {
    state: u64,
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
        Shop { state: seed }
    }

    /// Adds the spans of one trace that ended at `end_ns`. Returns how many.
    pub fn visit(&mut self, end_ns: u64, batches: &mut Batches) -> usize {
        let before: usize = batches.iter().map(Vec::len).sum();
        let firsts = [0, 1, 2, 3, 4].map(|service: usize| batches[service].len());
        let route = self.route();
        let fault = match self.below(100) {
            percent if percent < FAILING_PERCENT => Fault::Fails,
            percent if percent < FAILING_PERCENT + SLOW_PERCENT => Fault::IsSlow,
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
        let total = ROUTES.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.below(total);
        for (weight, route) in &ROUTES {
            if drawn < *weight {
                return route;
            }
            drawn -= weight;
        }
        &ROUTES[0].1
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
        low_us * 1_000 + one.min(other)
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
            attributes.push(number(
                "http.response.status_code",
                if failed { 500 } else { 200 },
            ));
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

fn leaf_count(operation: &Operation) -> u64 {
    let below: u64 = operation.calls.iter().map(leaf_count).sum();
    below + u64::from(operation.failure.is_some())
}

fn exception_event((kind, message): (&str, &str), time_unix_nano: u64) -> Event {
    Event {
        time_unix_nano,
        name: "exception".to_owned(),
        attributes: vec![text("exception.type", kind), text("exception.message", message)],
        ..Event::default()
    }
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
        assert!((50..200).contains(&slow), "{slow}");
    }
}
