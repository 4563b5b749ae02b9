//! The whole of tailkeep from outside: the real process, real sockets, real files, real clients.
//!
//! Every test has a directory and ports of its own. Waiting is polling with a deadline; times in configurations
//! are long where a slow machine must not change a verdict. Random rounds print their seed; `TAILKEEP_TEST_SEED`
//! repeats one.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "outside of the process under test there are threads and the host's clock"
)]

#[path = "e2e/process.rs"]
mod process; // a running tailkeep and its directory
#[path = "e2e/http.rs"]
mod http; // HTTP/1.1 by hand, for exports and for the admin port
#[path = "e2e/output.rs"]
mod output; // what the file exporter wrote, decoded
#[path = "e2e/traffic.rs"]
mod traffic; // requests, made or from real captures
#[path = "e2e/policies.rs"]
mod policies; // policy sets, random ones too, as YAML
#[path = "oracle/sampler.rs"]
#[allow(dead_code, reason = "the tests of policies use more of it")]
mod sampler; // the naive sampler

#[path = "e2e/admin.rs"]
mod admin; // health, metrics, status, explain
#[path = "e2e/captures.rs"]
mod captures; // real traffic against the oracle
#[path = "e2e/cluster.rs"]
mod cluster; // real nodes and strangers
#[path = "e2e/damage.rs"]
mod damage; // flipped bytes
#[path = "e2e/drain.rs"]
mod drain; // everything given away
#[path = "e2e/kill.rs"]
mod kill; // SIGKILL in mid-load
#[path = "e2e/late.rs"]
mod late; // spans after the verdict
#[path = "e2e/lifecycle.rs"]
mod lifecycle; // SIGTERM, locks, ports, formats, tmpfs
#[path = "e2e/outputs.rs"]
mod outputs; // torn lines, SIGHUP, unwritable places
#[path = "e2e/quotas.rs"]
mod quotas; // so many spans a second
#[path = "e2e/reload.rs"]
mod reload; // new policies, checkpoints
#[path = "e2e/sdk.rs"]
mod sdk; // the OpenTelemetry SDK
#[path = "e2e/upgrade.rs"]
mod upgrade; // dropped traces kept after all
