//! What the shop serves: static trees of operations, with the attributes that instrumentation would set.

use super::Service;

/// OTLP's numbers.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;

/// A kind of span and what it calls, one after the other.
pub struct Operation {
    pub service: Service,
    pub name: &'static str,
    pub kind: i32,
    /// Its own time around its calls, at least and usually at most, in microseconds.
    pub own_us: (u64, u64),
    pub attributes: &'static [(&'static str, &'static str)],
    /// Exception type and message of leaves that may fail or be slow.
    pub failure: Option<(&'static str, &'static str)>,
    /// What the deploy in the middle of the demo makes slow.
    pub deployed: bool,
    pub calls: &'static [Operation],
}

/// A request that people make, and how often of a hundred times.
pub struct Route {
    pub weight: u64,
    pub operation: Operation,
}

const fn operation(
    service: Service,
    kind: i32,
    name: &'static str,
    own_us: (u64, u64),
    attributes: &'static [(&'static str, &'static str)],
    calls: &'static [Operation],
) -> Operation {
    Operation {
        service,
        name,
        kind,
        own_us,
        attributes,
        failure: None,
        deployed: false,
        calls,
    }
}

const RPC: &[(&str, &str)] = &[
    ("rpc.system.name", "grpc"),
    ("network.transport", "tcp"),
    ("network.type", "ipv4"),
];

const fn calls(service: Service, name: &'static str, calls: &'static [Operation]) -> Operation {
    operation(service, CLIENT, name, (150, 900), RPC, calls)
}

const fn serves(service: Service, name: &'static str, calls: &'static [Operation]) -> Operation {
    operation(service, SERVER, name, (400, 4_000), RPC, calls)
}

const fn may_fail(mut leaf: Operation, kind: &'static str, message: &'static str) -> Operation {
    leaf.failure = Some((kind, message));
    leaf
}

const fn slowed_by_deploy(mut leaf: Operation) -> Operation {
    leaf.deployed = true;
    leaf
}

const fn route(
    weight: u64,
    name: &'static str,
    attributes: &'static [(&'static str, &'static str)],
    calls: &'static [Operation],
) -> Route {
    Route {
        weight,
        operation: operation(Service::Frontend, SERVER, name, (600, 5_000), attributes, calls),
    }
}

static PRODUCT: &[Operation] = &[serves(
    Service::Catalog,
    "shop.Catalog/Get",
    &[may_fail(
        operation(
            Service::Catalog,
            CLIENT,
            "SELECT shop.products",
            (800, 12_000),
            &[
                ("db.system.name", "postgresql"),
                ("db.namespace", "shop"),
                ("db.operation.name", "SELECT"),
                ("db.collection.name", "products"),
                (
                    "db.query.text",
                    "SELECT id, name, price_cents, currency, picture FROM products WHERE id = $1",
                ),
                ("server.address", "pg-1.shop.internal"),
            ],
            &[],
        ),
        "sqlx::PoolTimedOut",
        "no free connection to pg-1.shop.internal:5432 within 250 ms",
    )],
)];

static CART: &[Operation] = &[serves(
    Service::Cart,
    "shop.Cart/Get",
    &[may_fail(
        operation(
            Service::Cart,
            CLIENT,
            "HGETALL",
            (200, 1_500),
            &[
                ("db.system.name", "redis"),
                ("db.operation.name", "HGETALL"),
                ("server.address", "redis-2.shop.internal"),
            ],
            &[],
        ),
        "redis.exceptions.ConnectionError",
        "Error 111 connecting to redis-2.shop.internal:6379. Connection refused.",
    )],
)];

static RATES: &[Operation] = &[serves(Service::Currency, "shop.Currency/Convert", &[])];

static IDEAS: &[Operation] = &[serves(
    Service::Recommendation,
    "shop.Recommendation/List",
    &[calls(Service::Recommendation, "shop.Catalog/Get", PRODUCT)],
)];

static PAYMENT: &[Operation] = &[serves(
    Service::Payment,
    "shop.Payment/Charge",
    &[may_fail(
        operation(
            Service::Payment,
            CLIENT,
            "POST",
            (30_000, 140_000),
            &[
                ("server.address", "cards.example.com"),
                ("http.request.method", "POST"),
                ("url.full", "https://cards.example.com/v2/charges"),
                ("network.protocol.version", "1.1"),
            ],
            &[],
        ),
        "CardNetworkError",
        "upstream answered 502 Bad Gateway after 3 tries",
    )],
)];

static SHIPPING: &[Operation] = &[serves(
    Service::Shipping,
    "shop.Shipping/Order",
    &[operation(
        Service::Shipping,
        PRODUCER,
        "send parcels",
        (300, 2_500),
        &[
            ("messaging.system", "kafka"),
            ("messaging.destination.name", "parcels"),
            ("messaging.operation.type", "send"),
        ],
        &[],
    )],
)];

static CHECKOUT: &[Operation] = &[serves(
    Service::Checkout,
    "shop.Checkout/PlaceOrder",
    &[
        calls(Service::Checkout, "shop.Cart/Get", CART),
        calls(Service::Checkout, "shop.Catalog/Get", PRODUCT),
        calls(Service::Checkout, "shop.Currency/Convert", RATES),
        slowed_by_deploy(operation(
            Service::Checkout,
            CLIENT,
            "UPDATE shop.stock",
            (1_500, 9_000),
            &[
                ("db.system.name", "postgresql"),
                ("db.namespace", "shop"),
                ("db.operation.name", "UPDATE"),
                ("db.collection.name", "stock"),
                (
                    "db.query.text",
                    "UPDATE stock SET reserved = reserved + $2 WHERE product_id = ANY($1)",
                ),
                ("server.address", "pg-1.shop.internal"),
            ],
            &[],
        )),
        calls(Service::Checkout, "shop.Payment/Charge", PAYMENT),
        calls(Service::Checkout, "shop.Shipping/Order", SHIPPING),
    ],
)];

/// What people do in a shop: mostly look.
pub static ROUTES: [Route; 4] = [
    route(
        30,
        "GET /",
        &[
            ("http.request.method", "GET"),
            ("http.route", "/"),
            ("url.scheme", "https"),
        ],
        &[calls(Service::Frontend, "shop.Recommendation/List", IDEAS)],
    ),
    route(
        35,
        "GET /products/{id}",
        &[
            ("http.request.method", "GET"),
            ("http.route", "/products/{id}"),
            ("url.scheme", "https"),
        ],
        &[
            calls(Service::Frontend, "shop.Catalog/Get", PRODUCT),
            calls(Service::Frontend, "shop.Currency/Convert", RATES),
            calls(Service::Frontend, "shop.Recommendation/List", IDEAS),
        ],
    ),
    route(
        20,
        "GET /cart",
        &[
            ("http.request.method", "GET"),
            ("http.route", "/cart"),
            ("url.scheme", "https"),
        ],
        &[
            calls(Service::Frontend, "shop.Cart/Get", CART),
            calls(Service::Frontend, "shop.Currency/Convert", RATES),
        ],
    ),
    route(
        15,
        "POST /checkout",
        &[
            ("http.request.method", "POST"),
            ("http.route", "/checkout"),
            ("url.scheme", "https"),
        ],
        &[calls(Service::Frontend, "shop.Checkout/PlaceOrder", CHECKOUT)],
    ),
];
