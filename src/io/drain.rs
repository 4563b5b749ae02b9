//! The end of a node that gives everything away: `run --drain` and `POST /api/v1/drain`.
//!
//! ```text
//!  drain asked ─→ every core: refuses, decides all (`shutdown`), exports ─→ all have nothing left, twice ─→ stop
//! ```
//!
//! One core asks all. What a core has taken from others tells whether anything moved between two rounds: if not, and
//! nobody has anything left, nothing is on its way either.

use super::admin::Admin;
use super::executor::Flags;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Rounds between two lines about what is left.
const TELL_ROUNDS: u32 = 40;

/// Waits until the node is drained, telling how far it has come, and has it stop.
pub async fn watch(admin: Rc<Admin>, flags: Arc<Flags>) {
    let mut before = None;
    let mut rounds = 0u32;
    while !flags.stop.load(Ordering::Relaxed) && !flags.restart.load(Ordering::Relaxed) {
        glommio::timer::sleep(LOOK_INTERVAL).await;
        if !flags.drain.load(Ordering::Relaxed) {
            continue;
        }
        let now = admin.drained().await;
        if now.is_some() && now == before {
            tracing::info!("drained: everything is decided and exported");
            flags.stop.store(true, Ordering::Relaxed);
            return;
        }
        before = now;
        if rounds.is_multiple_of(TELL_ROUNDS) {
            tell(&admin).await;
        }
        rounds = rounds.wrapping_add(1);
    }
}

async fn tell(admin: &Admin) {
    let Some(all) = admin.node_report().await.all else {
        return;
    };
    tracing::info!(pending_traces = all.traces_pending, "draining");
    for destination in all
        .destinations
        .iter()
        .filter(|destination| destination.queued_spans > 0)
    {
        tracing::info!(
            exporter = destination.id,
            queued_spans = destination.queued_spans,
            queued_bytes = destination.queued_bytes,
            state = destination.state,
            last_error = destination.last_error,
            "draining"
        );
    }
}
