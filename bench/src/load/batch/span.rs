//! One span as an instrumented web shop would send it: semantic-convention attributes of its role, cut
//! to a wanted size by one long text.

use super::encode::{Message, Value, framed_len};
use crate::load::identity::Draw;

/// What a span does; decides its name, its kind and its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An HTTP request served.
    Server,
    /// A query sent to a database.
    Database,
    /// A request sent to another service.
    Client,
    /// Work inside the process.
    Internal,
}

impl Role {
    /// Roots serve; below them the roles alternate as in a shop.
    pub fn of(index: u16) -> Role {
        match index {
            0 => Role::Server,
            _ => [Role::Database, Role::Client, Role::Server, Role::Internal][usize::from(index) % 4],
        }
    }
}

/// What is to be encoded.
pub struct Plan {
    pub role: Role,
    pub has_parent: bool,
    pub has_error: bool,
    /// Bytes of the span as it lies in its scope, tag and length included, an exception event not.
    pub size: usize,
}

/// An encoded span and where its changing parts lie; ids and times are zero until patched.
pub struct Encoded {
    pub message: Message,
    /// Where field 7's value begins; field 8's follows nine bytes on.
    pub times_at: usize,
    pub event_time_at: Option<usize>,
}

/// The trace id's value lies here in every span, since it comes first.
pub const TRACE_ID_AT: usize = 2;
/// The span id's value follows the trace id and its own tag and length.
pub const SPAN_ID_AT: usize = TRACE_ID_AT + 16 + 2;
/// The parent's follows the span id, where there is one.
pub const PARENT_ID_AT: usize = SPAN_ID_AT + 8 + 2;
/// From the start time's value to the end time's.
pub const END_AFTER_START: usize = 9;

/// Field 16 has a tag of two bytes.
const FLAGS_LEN: usize = 6;

/// The smallest size every role can be cut to.
pub const SIZE_MIN: usize = 150;

pub fn encode(plan: &Plan, draw: &mut Draw) -> Encoded {
    let mut span = Message::default();
    span.bytes(1, &[0; 16]);
    span.bytes(2, &[0; 8]);
    if plan.has_parent {
        span.bytes(4, &[0; 8]);
    }
    span.text(5, name(plan.role)).integer(6, kind(plan.role));
    let times_at = span.fixed64(7, 0);
    span.fixed64(8, 0);

    let mut end = Message::default();
    let mut event_time_in_event = None;
    if plan.has_error {
        let mut event = Message::default();
        event_time_in_event = Some(event.fixed64(1, 0));
        exception(&mut event, draw);
        let at = end.bytes(11, &event.0);
        event_time_in_event = event_time_in_event.map(|time| time + at);
        let mut status = Message::default();
        status
            .text(2, "upstream connect error or disconnect/reset before headers")
            .integer(3, 2);
        end.bytes(15, &status.0);
    }
    // Field 16, as SDKs write it: W3C sampled, remoteness known.
    end.fixed32(16, 0x101);

    // What an error adds comes on top of the size asked for, as in life.
    fill(&mut span, plan, FLAGS_LEN, draw);
    let event_time_at = event_time_in_event.map(|time| time + span.0.len());
    span.0.extend_from_slice(&end.0);
    Encoded {
        message: span,
        times_at,
        event_time_at,
    }
}

/// Adds attributes until the span, with `tail` bytes still to come, has the wanted size.
fn fill(span: &mut Message, plan: &Plan, tail: usize, draw: &mut Draw) {
    let (key, text) = long_text(plan.role);
    // Tags and lengths around the long text: KeyValue, its key, AnyValue, string_value.
    let long_text_min = framed_len(framed_len(key.len()) + framed_len(framed_len(1)));
    for (key, value) in attributes(plan, draw) {
        let before = span.0.len();
        span.attribute(9, key, &value);
        if framed_len(span.0.len() + tail + long_text_min) > plan.size {
            span.0.truncate(before);
        }
    }
    // Lengths take one byte up to 127 and two from there, so the text is cut by trying.
    let fixed = span.0.len();
    let mut length = plan.size.saturating_sub(framed_len(fixed + tail + long_text_min)) + 1;
    loop {
        let value = text.repeat(length.div_ceil(text.len()));
        span.attribute(9, key, &Value::Text(value[..length].to_owned()));
        let excess = framed_len(span.0.len() + tail).saturating_sub(plan.size);
        if excess == 0 || length <= excess {
            return;
        }
        span.0.truncate(fixed);
        length -= excess;
    }
}

fn name(role: Role) -> &'static str {
    match role {
        Role::Server => "GET /api/cart/{userId}",
        Role::Database => "SELECT shop.orders",
        Role::Client => "POST",
        Role::Internal => "PricingEngine.applyRules",
    }
}

fn kind(role: Role) -> u64 {
    match role {
        Role::Internal => 1,
        Role::Server => 2,
        Role::Client | Role::Database => 3,
    }
}

/// In the order in which they are dropped from the end when the span is to be small.
fn attributes(plan: &Plan, draw: &mut Draw) -> Vec<(&'static str, Value)> {
    let text = |value: &str| Value::Text(value.to_owned());
    let address =
        |draw: &mut Draw| Value::Text(format!("10.4.{}.{}", draw.between(0, 256), draw.between(1, 255)));
    let status = Value::Integer(if plan.has_error { 503 } else { 200 });
    match plan.role {
        Role::Server => vec![
            ("http.request.method", text("GET")),
            ("http.response.status_code", status),
            ("http.route", text("/api/cart/{userId}")),
            (
                "url.path",
                Value::Text(format!("/api/cart/{}", draw.between(10_000, 100_000))),
            ),
            ("url.scheme", text("https")),
            ("server.address", text("shop.example.com")),
            ("server.port", Value::Integer(8443)),
            ("client.address", address(draw)),
            ("network.protocol.version", text("1.1")),
            ("thread.id", Value::Integer(draw.between(20, 80) as i64)),
            ("thread.name", text("http-nio-8443-exec-7")),
            (
                "enduser.id",
                Value::Text(format!("user-{}", draw.between(1, 1_000_000))),
            ),
            (
                "app.cart.total",
                Value::Double(draw.between(100, 90_000) as f64 / 100.0),
            ),
        ],
        Role::Database => vec![
            ("db.system.name", text("postgresql")),
            ("db.namespace", text("shop")),
            ("db.operation.name", text("SELECT")),
            ("db.collection.name", text("orders")),
            ("server.address", text("orders-db-2.internal")),
            ("server.port", Value::Integer(5432)),
            ("network.peer.address", address(draw)),
            (
                "db.response.returned_rows",
                Value::Integer(draw.between(0, 500) as i64),
            ),
            ("thread.id", Value::Integer(draw.between(20, 80) as i64)),
            ("thread.name", text("HikariPool-1 worker")),
            ("app.replica.read", Value::Bool(true)),
        ],
        Role::Client => vec![
            ("http.request.method", text("POST")),
            ("http.response.status_code", status),
            ("server.address", text("pricing.internal")),
            ("server.port", Value::Integer(8080)),
            ("network.peer.address", address(draw)),
            ("network.protocol.name", text("http")),
            ("network.protocol.version", text("1.1")),
            (
                "http.request.body.size",
                Value::Integer(draw.between(100, 9_000) as i64),
            ),
            ("http.request.resend_count", Value::Integer(0)),
            ("thread.id", Value::Integer(draw.between(20, 80) as i64)),
        ],
        Role::Internal => vec![
            (
                "code.function.name",
                text("com.example.shop.PricingEngine.applyRules"),
            ),
            ("code.line.number", Value::Integer(218)),
            ("app.cache.hit", Value::Bool(draw.number() & 1 == 1)),
            ("app.rules.applied", Value::Integer(draw.between(1, 40) as i64)),
            (
                "app.discount.ratio",
                Value::Double(draw.between(0, 100) as f64 / 100.0),
            ),
            ("thread.id", Value::Integer(draw.between(20, 80) as i64)),
        ],
    }
}

/// The attribute that takes what is left of the size.
fn long_text(role: Role) -> (&'static str, &'static str) {
    match role {
        Role::Server => (
            "user_agent.original",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 ",
        ),
        Role::Database => (
            "db.query.text",
            "SELECT o.id, o.state, o.total, l.sku, l.count FROM orders o JOIN lines l ON l.order_id = o.id WHERE o.user_id = ? ",
        ),
        Role::Client => (
            "url.full",
            "http://pricing.internal:8080/v2/quotes?currency=EUR&country=AT&sku=4711-0815&sku=4711-0816&coupon=SUMMER&",
        ),
        Role::Internal => (
            "app.rules.trace",
            "base>volume(3)>loyalty(gold)>coupon(SUMMER)>tax(AT,20%)>round; ",
        ),
    }
}

/// The attributes of an exception event, about one kilobyte.
fn exception(event: &mut Message, draw: &mut Draw) {
    let mut stack =
        String::from("java.net.ConnectException: Connection refused: pricing.internal/10.4.7.21:8080\n");
    for frame in [
        "HttpClient.connect",
        "HttpClient.send",
        "PricingClient.quote",
        "CartService.total",
        "CartApi.get",
    ] {
        stack.push_str(&format!(
            "\tat com.example.shop.{frame}({frame}.java:{})\n",
            draw.between(20, 900)
        ));
    }
    for frame in 0..8 {
        stack.push_str(&format!(
            "\tat org.apache.catalina.core.Chain{frame}.doFilter(Chain{frame}.java:166)\n"
        ));
    }
    event
        .text(2, "exception")
        .attribute(
            3,
            "exception.type",
            &Value::Text("java.net.ConnectException".into()),
        )
        .attribute(
            3,
            "exception.message",
            &Value::Text("Connection refused: pricing.internal".into()),
        )
        .attribute(3, "exception.stacktrace", &Value::Text(stack));
}

/// The attributes of a process on a host of its own.
pub fn resource(service: usize, draw: &mut Draw) -> Message {
    const SERVICES: [&str; 8] = [
        "frontend", "cart", "checkout", "pricing", "orders", "payment", "shipping", "catalog",
    ];
    let name = match service {
        0..8 => SERVICES[service].to_owned(),
        _ => format!("{}-{}", SERVICES[service % 8], service / 8),
    };
    let mut resource = Message::default();
    let mut add = |key: &str, value: Value| {
        resource.attribute(1, key, &value);
    };
    add("service.name", Value::Text(name));
    add("service.version", Value::Text("2.14.3".into()));
    add(
        "service.instance.id",
        Value::Text(format!("{:016x}", draw.number())),
    );
    add("deployment.environment.name", Value::Text("production".into()));
    add(
        "host.name",
        Value::Text(format!("app-{:02}.example.com", draw.between(1, 40))),
    );
    add("os.type", Value::Text("linux".into()));
    add("process.pid", Value::Integer(draw.between(300, 60_000) as i64));
    add(
        "process.runtime.name",
        Value::Text("OpenJDK Runtime Environment".into()),
    );
    add("telemetry.sdk.language", Value::Text("java".into()));
    add("telemetry.sdk.name", Value::Text("opentelemetry".into()));
    add("telemetry.sdk.version", Value::Text("1.52.0".into()));
    resource
}
