//! What `print-config` prints loads to what was printed.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tailkeep::config::options::{
    AdminOptions, Auto, ClusterOptions, CompletionOptions, Compression, Cores, Durability, Endpoint,
    ExporterKind, ExporterOptions, FileExporterOptions, FilterOptions, FreeSpace, GrpcReceiverOptions,
    HttpReceiverOptions, Keepalive, MemoryOptions, NodeOptions, OnFull, OtlpExporterOptions, OtlpProtocol,
    QueueOptions, ReceiverOptions, RetryOptions, RotationOptions, SamplingOptions, ServerKeepalive,
    SpansArrive, WalOptions,
};
use tailkeep::config::render::render;
use tailkeep::config::{BUILT_IN, Config, DEFAULTS, EXAMPLE, Source, Surroundings, load};
use tailkeep::policy::options::{PolicyEntry, PolicyKind, PolicyOptions, StatusCode};
use tailkeep::shard::OnOverload;

/// Fills in nothing: what is printed must not need it.
struct Nothing;

impl Surroundings for Nothing {
    fn env(&self, name: &str) -> Option<String> {
        panic!("looked up {name}")
    }

    fn file(&self, path: &str) -> Result<String, String> {
        panic!("looked up {path}")
    }
}

fn load_text(text: &str) -> Config {
    let source = Source {
        name: "a.yaml".to_owned(),
        bytes: text.into(),
    };
    match load(&[source], &[], &Nothing) {
        Ok(loaded) => loaded.config,
        Err(errors) => {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            panic!("{}\n{text}", lines.join("\n"));
        }
    }
}

#[test]
fn the_built_in_configuration_prints_as_a_file_that_means_the_same() {
    let built_in = load(&[], &[], &Nothing).expect("loads").config;
    assert!(built_in.built_in);
    let printed = load_text(&render(&built_in));
    assert_eq!(
        printed,
        Config {
            built_in: false,
            ..built_in
        }
    );
    assert_eq!(printed, load_text(BUILT_IN));
}

#[test]
fn the_defaults_shown_are_the_defaults() {
    let shown = load_text(DEFAULTS);
    let bare = load_text("tail_sampling: { policies: [] }\nexporters: { file: { path: kept.jsonl } }");
    assert_eq!(
        Config {
            policies: bare.policies.clone(),
            ..shown
        },
        bare
    );
    assert_eq!(bare.node, NodeOptions::default());
    assert_eq!(bare.receivers, ReceiverOptions::default());
    assert_eq!(bare.wal, WalOptions::default());
    assert_eq!(bare.sampling, SamplingOptions::default());
    assert_eq!(bare.completion, CompletionOptions::default());
    assert_eq!(bare.memory, MemoryOptions::default());
    assert_eq!(bare.admin, AdminOptions::default());
}

#[test]
fn the_example_samples() {
    let example = load_text(EXAMPLE);
    let names: Vec<&str> = example
        .policies
        .policies
        .iter()
        .map(|policy| policy.name.as_str())
        .collect();
    assert_eq!(names, ["errors", "slow", "baseline"]);
}

#[test]
fn quiet_is_a_third_of_the_wait_within_1s_and_10s() {
    for (decision_wait, quiet) in [(1, 1), (3, 1), (15, 5), (30, 10), (300, 10)] {
        let options = CompletionOptions {
            decision_wait: Duration::from_secs(decision_wait),
            ..Default::default()
        };
        assert_eq!(
            options.quiet(),
            Duration::from_secs(quiet),
            "decision_wait {decision_wait}s"
        );
    }
}

#[test]
fn memory_is_half_of_what_there_is_and_1_gib_at_most_without_a_configuration() {
    let built_in = load(&[], &[], &Nothing).expect("loads").config;
    assert_eq!(built_in.memory_limit_bytes(1 << 30), 1 << 29);
    assert_eq!(built_in.memory_limit_bytes(1 << 40), 1 << 30);
    let given = load_text(BUILT_IN);
    assert_eq!(given.memory_limit_bytes(1 << 40), 1 << 39);
}

/// Text of every kind that YAML, `${…}` and terminals treat specially.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z.]{1,12}",
        r#"[ "'\\$ {}\[\]:,#&*!|>%@`~\-?0-9a-e\n\t]{1,16}"#,
        Just("${env:HOME}".to_owned()),
        Just("null".to_owned()),
        Just("5".to_owned()),
        vec(any::<char>(), 1..8).prop_map(|characters| characters.into_iter().collect()),
    ]
}

fn path() -> impl Strategy<Value = std::path::PathBuf> {
    text()
        .prop_filter("no NUL", |path| !path.contains('\0'))
        .prop_map(Into::into)
}

fn period() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (1..100_000_u64).prop_map(Duration::from_secs),
        (1..u64::MAX >> 1).prop_map(Duration::from_nanos)
    ]
}

fn auto<T: std::fmt::Debug + Clone>(given: impl Strategy<Value = T>) -> impl Strategy<Value = Auto<T>> {
    option::of(given).prop_map(|given| given.map_or(Auto::Auto, Auto::Given))
}

fn endpoint(port: u16) -> impl Strategy<Value = Endpoint> {
    let host = prop_oneof![
        Just("localhost"),
        Just("0.0.0.0"),
        Just("::1"),
        Just("a-b.example")
    ];
    (host, prop_oneof![Just(0), Just(port)]).prop_map(|(host, port)| Endpoint::new(host, port))
}

fn leaf() -> impl Strategy<Value = PolicyKind> {
    let code = prop_oneof![
        Just(StatusCode::Ok),
        Just(StatusCode::Error),
        Just(StatusCode::Unset)
    ];
    prop_oneof![
        Just(PolicyKind::AlwaysSample),
        vec(code, 1..4).prop_map(|codes| PolicyKind::StatusCode { codes }),
        (0..i64::MAX / 2, 1..1_000_i64, any::<bool>()).prop_map(|(threshold_ms, more, upper)| {
            let upper_threshold_ms = if upper { threshold_ms + more } else { 0 };
            PolicyKind::Latency {
                threshold_ms,
                upper_threshold_ms,
            }
        }),
        (text(), vec(text(), 0..4), any::<bool>()).prop_map(|(key, values, invert)| {
            PolicyKind::StringAttribute {
                key,
                values,
                regex: false,
                invert,
            }
        }),
        (text(), i64::MIN..0, option::of(0..i64::MAX), any::<bool>()).prop_map(|(key, min, max, invert)| {
            PolicyKind::NumericAttribute {
                key,
                min: Some(min),
                max,
                invert,
            }
        }),
        (text(), any::<(bool, bool)>()).prop_map(|(key, (value, invert))| PolicyKind::BooleanAttribute {
            key,
            value,
            invert
        }),
        (0.0..=100.0_f64, option::of(text())).prop_map(|(percentage, hash_salt)| PolicyKind::Probabilistic {
            percentage,
            hash_salt
        }),
        (1..u64::MAX / 2, 0..u64::MAX / 2).prop_map(|(spans_per_second, burst)| PolicyKind::RateLimiting {
            spans_per_second,
            burst
        }),
        (1..u64::MAX / 2, 0..u64::MAX / 2).prop_map(|(bytes_per_second, burst)| PolicyKind::BytesLimiting {
            bytes_per_second,
            burst
        }),
        (0..1_000_i32, 0..1_000_i32).prop_map(|(min, more)| PolicyKind::SpanCount {
            min,
            max: if more == 0 { 0 } else { min + more }
        }),
    ]
}

fn entry(kind: impl Strategy<Value = PolicyKind>) -> impl Strategy<Value = PolicyEntry> {
    (prop_oneof![Just(String::new()), text()], kind).prop_map(|(name, kind)| PolicyEntry { name, kind })
}

fn policy() -> impl Strategy<Value = PolicyKind> {
    let not = || entry(leaf()).prop_map(|sub| PolicyKind::Not(Box::new(sub)));
    let part = move || entry(prop_oneof![leaf(), not()]);
    prop_oneof![
        4 => leaf(),
        1 => not(),
        1 => vec(part(), 0..4).prop_map(PolicyKind::And),
        1 => vec(part(), 0..4).prop_map(PolicyKind::Drop),
    ]
}

fn policies() -> impl Strategy<Value = PolicyOptions> {
    (vec(policy(), 0..6), any::<bool>(), text()).prop_map(|(kinds, sample_on_first_match, attribute)| {
        PolicyOptions {
            policies: kinds
                .into_iter()
                .enumerate()
                .map(|(index, kind)| PolicyEntry {
                    name: format!("p\u{e9} ${index}"),
                    kind,
                })
                .collect(),
            sample_on_first_match,
            expected_count_attribute: attribute,
        }
    })
}

fn node() -> impl Strategy<Value = NodeOptions> {
    let cores = prop_oneof![
        Just(Cores::Auto),
        Just(Cores::Count(1)),
        (0..64_u32).prop_map(|cpu| Cores::List(vec![cpu]))
    ];
    let name = text().prop_filter("a name", |name| {
        name != "auto" && !name.contains(char::is_control)
    });
    (auto(name), cores, path()).prop_map(|(name, cores, data_dir)| NodeOptions {
        name,
        cores,
        data_dir,
    })
}

fn cluster() -> impl Strategy<Value = ClusterOptions> {
    let name = text().prop_filter("a name", |name| !name.contains(char::is_control));
    let advertise = auto(Just(Endpoint::new("a.example", 5)));
    let by_trace_id = any::<bool>();
    let key_file = option::of(path());
    (
        name,
        endpoint(5337),
        advertise,
        vec(Just(Endpoint::new("b.example", 7)), 0..3),
        key_file,
        by_trace_id,
    )
        .prop_map(
            |(name, listen, advertise, join, key_file, by_trace_id)| ClusterOptions {
                name,
                listen,
                advertise,
                join,
                key_file,
                insecure: true,
                spans_arrive: if by_trace_id {
                    SpansArrive::ByTraceId
                } else {
                    SpansArrive::Anywhere
                },
            },
        )
}

fn receivers() -> impl Strategy<Value = ReceiverOptions> {
    let seconds = || (1..=1_000_u64).prop_map(Duration::from_secs);
    let keepalive =
        (prop::option::of(seconds()), seconds(), seconds()).prop_map(|(age_max, time, timeout)| {
            ServerKeepalive {
                age_max,
                time,
                timeout,
            }
        });
    let sizes = (1..=4_u64, 1..=4_u64 << 20);
    (endpoint(1), endpoint(2), sizes, keepalive).prop_map(|(grpc, http, (mebibytes, bytes), keepalive)| {
        ReceiverOptions {
            grpc: GrpcReceiverOptions {
                endpoint: grpc,
                message_bytes_max: mebibytes << 20,
                keepalive,
            },
            http: HttpReceiverOptions {
                endpoint: http,
                body_bytes_max: bytes,
            },
        }
    })
}

fn wal() -> impl Strategy<Value = WalOptions> {
    let durability = prop::sample::select(Durability::ALL.to_vec());
    let min_free = prop_oneof![
        (0.0..=100.0_f64).prop_map(FreeSpace::Percent),
        any::<u64>().prop_map(FreeSpace::Bytes)
    ];
    (
        durability,
        16..=1_000_u64,
        auto(1_u64 << 30..1 << 50),
        min_free,
        option::of(period()),
    )
        .prop_map(|(durability, blocks, max_bytes, min_free, retain)| WalOptions {
            durability,
            segment_bytes: blocks * (256 << 10),
            max_bytes,
            min_free,
            retain: retain.unwrap_or_default(),
        })
}

fn completion(expected_count_attribute: String) -> impl Strategy<Value = CompletionOptions> {
    let wait = 2..u64::MAX >> 1;
    let quiet = option::of(any::<prop::sample::Index>());
    (
        wait,
        option::of(period()),
        any::<bool>(),
        quiet,
        1..1_u64 << 40,
        1..1_u64 << 40,
    )
        .prop_map(
            move |(wait, wait_after_root, structural, quiet, spans_max, bytes_max)| CompletionOptions {
                decision_wait: Duration::from_nanos(wait),
                wait_after_root,
                structural,
                quiet: quiet.map_or(Auto::Auto, |quiet| {
                    Auto::Given(Duration::from_nanos(1 + quiet.index((wait - 1) as usize) as u64))
                }),
                spans_max,
                bytes_max,
                expected_count_attribute: expected_count_attribute.clone(),
            },
        )
}

fn file_exporter() -> impl Strategy<Value = ExporterKind> {
    let rotation = (1..1_000_u64, 1..1_000_u32).prop_map(|(mebibytes, backup_count_max)| RotationOptions {
        file_bytes_max: mebibytes << 20,
        backup_count_max,
    });
    (path(), period(), option::of(rotation)).prop_map(|(path, flush_interval, rotation)| {
        ExporterKind::File(FileExporterOptions {
            path,
            flush_interval,
            rotation,
        })
    })
}

fn otlp_protocol() -> impl Strategy<Value = OtlpProtocol> {
    let endpoint = || {
        endpoint(4317).prop_map(|endpoint| Endpoint {
            port: 4317,
            ..endpoint
        })
    };
    let keepalive =
        (10..1_000_u64, period(), any::<bool>()).prop_map(|(seconds, timeout, permit)| Keepalive {
            time: Duration::from_secs(seconds),
            timeout,
            permit_without_stream: permit,
        });
    prop_oneof![
        (endpoint(), option::of(keepalive))
            .prop_map(|(endpoint, keepalive)| OtlpProtocol::Grpc { endpoint, keepalive }),
        (endpoint(), "/[a-z0-9/%?=&]{0,9}").prop_map(|(endpoint, traces_path)| OtlpProtocol::Http {
            endpoint,
            traces_path
        }),
    ]
}

fn otlp_exporter() -> impl Strategy<Value = ExporterKind> {
    let retry = (
        any::<bool>(),
        period(),
        period(),
        1.0..9.0_f64,
        0.0..=1.0_f64,
        option::of(period()),
    )
        .prop_map(
            |(enabled, initial_interval, more, multiplier, randomization_factor, elapsed_max)| RetryOptions {
                enabled,
                initial_interval,
                interval_max: initial_interval.max(more),
                multiplier,
                randomization_factor,
                elapsed_max,
            },
        );
    (
        otlp_protocol(),
        vec(("x-[a-z]{1,9}", "[ -~]{0,9}"), 0..3),
        prop::sample::select(Compression::ALL.to_vec()),
        1..=86_400_000_u64,
        retry,
        period(),
        1..=1_024_u64,
    )
        .prop_map(
            |(protocol, mut headers, compression, timeout, retry, flush_interval, pages)| {
                headers.sort();
                headers.dedup_by(|one, other| one.0 == other.0);
                ExporterKind::Otlp(OtlpExporterOptions {
                    protocol,
                    headers,
                    compression,
                    timeout: Duration::from_millis(timeout),
                    retry,
                    flush_interval,
                    request_bytes_max: pages << 16,
                })
            },
        )
}

/// Policies are named as [`policies`] names them, or there are none to name.
fn exporters(policy_count: usize) -> impl Strategy<Value = Vec<ExporterOptions>> {
    let kind = prop_oneof![file_exporter(), otlp_exporter()];
    let signals = (any::<[bool; 3]>(), any::<bool>(), any::<bool>());
    let named = option::of(any::<prop::sample::Index>());
    let queue = (auto(1_u64 << 16..1 << 50), any::<bool>());
    vec((kind, signals, named, queue), 1..3).prop_map(move |exporters| {
        let exporter = |(index, (kind, signals, named, queue)): (usize, (ExporterKind, _, _, _))| {
            let (([traces, logs, metrics], kept, rollup), (bytes_max, push_back)) = (signals, queue);
            let named: Option<prop::sample::Index> = named;
            let named = named.filter(|_| policy_count > 0);
            let policies = named.map(|at| format!("p\u{e9} ${}", at.index(policy_count)));
            let (name, kind) = match kind {
                ExporterKind::File(file) => {
                    let path = file.path.join(format!("{index}"));
                    ("file", ExporterKind::File(FileExporterOptions { path, ..file }))
                }
                ExporterKind::Otlp(otlp) => match otlp.protocol {
                    OtlpProtocol::Grpc { .. } => ("otlp_grpc", ExporterKind::Otlp(otlp)),
                    OtlpProtocol::Http { .. } => ("otlp_http", ExporterKind::Otlp(otlp)),
                },
            };
            ExporterOptions {
                id: format!("{name}/${index} \"\u{2028}"),
                kind,
                filter: FilterOptions {
                    traces,
                    logs,
                    metrics: metrics || !(traces || logs),
                    kept,
                    rollup: rollup || !kept,
                    policies: policies.into_iter().collect(),
                },
                queue: QueueOptions {
                    bytes_max,
                    age_max: Duration::from_millis(if push_back { 0 } else { 90_500 }),
                    on_full: if push_back {
                        OnFull::PushBack
                    } else {
                        OnFull::LoseNew
                    },
                },
            }
        };
        exporters.into_iter().enumerate().map(exporter).collect()
    })
}

fn config() -> impl Strategy<Value = Config> {
    let admin = (endpoint(3), option::of(path()))
        .prop_map(|(endpoint, token_file)| AdminOptions { endpoint, token_file });
    let memory = auto(64_u64 << 20..1 << 50).prop_map(|limit_bytes| MemoryOptions { limit_bytes });
    let judged = policies().prop_flat_map(|policies| {
        (
            completion(policies.expected_count_attribute.clone()),
            exporters(policies.policies.len()),
            Just(policies),
        )
    });
    (
        node(),
        receivers(),
        wal(),
        judged,
        any::<(bool, bool)>(),
        memory,
        option::of(cluster()),
        admin,
    )
        .prop_map(
            |(
                node,
                receivers,
                wal,
                (completion, exporters, policies),
                (annotate, samples),
                memory,
                cluster,
                admin,
            )| Config {
                built_in: false,
                node,
                receivers,
                wal,
                policies,
                sampling: SamplingOptions { annotate },
                completion,
                memory,
                overload: if samples {
                    OnOverload::Sample
                } else {
                    OnOverload::Refuse
                },
                exporters,
                cluster,
                admin,
            },
        )
}

proptest! {
    #[test]
    fn every_configuration_prints_as_a_file_that_loads_to_it(config in config()) {
        prop_assert_eq!(load_text(&render(&config)), config);
    }
}
