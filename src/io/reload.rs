//! New policies for a running node: SIGHUP and `POST /api/v1/reload`.
//!
//! ```text
//!  asked ─→ configuration is read and checked ──wrong──→ said why; the old one stays
//!                     │ right, and its policies differ
//!                     └─→ cores stop, as on SIGTERM but for the ports ─→ cores start ─→ logs are folded anew
//! ```
//!
//! What was folded with other policies means nothing to new ones; the log can be folded by both. So a reload is a start
//! without a new process: ports stay bound, and connections wait in their queues; open traces are folded and judged by the
//! new policies, and what was decided stays decided.

use super::executor::Flags;
use super::node::NodeError;
use crate::policy::PolicySet;
use futures_channel::oneshot;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

/// How often it is looked whether a signal asks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The part of a configuration that can change while a node runs.
#[derive(Clone)]
pub struct Reloaded {
    pub policies: PolicySet,
    /// Differs if the policies do.
    pub policies_hash: u64,
    pub config_hash: String,
}

/// Reads the configuration again; the error is for people.
pub type Load = Arc<dyn Fn() -> Result<Reloaded, String> + Send + Sync>;

/// What became of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Cores start again with the new policies.
    Changed,
    Unchanged,
}

/// What the thread that waits for the cores is told.
pub enum Event {
    Ended(Result<(), NodeError>),
    Reload(oneshot::Sender<Result<Outcome, String>>),
}

/// A way to ask for a reload, and to say that a core has ended.
pub type Events = Sender<Event>;

/// Waits until all cores have ended. What is returned is what they are to start with again, if they are.
pub fn oversee(
    happened: &Receiver<Event>,
    core_count: u16,
    current: u64,
    load: &Load,
    flags: &Flags,
) -> Result<Option<Reloaded>, NodeError> {
    let (mut ended, mut result, mut next) = (0, Ok(()), None);
    while ended < core_count {
        match happened.recv_timeout(LOOK_INTERVAL) {
            Ok(Event::Ended(Ok(()))) => ended += 1,
            Ok(Event::Ended(Err(NodeError::Unsettled))) => {
                result = Err(NodeError::Unsettled);
                ended += 1;
            }
            // Every core says so: nobody can go on without all the others.
            Ok(Event::Ended(Err(NodeError::Checkpoint))) => {
                result = Err(NodeError::Checkpoint);
                ended += 1;
            }
            // The process ends with the first core that cannot go on; the logs bring everything back.
            Ok(Event::Ended(Err(error))) => return Err(error),
            Ok(Event::Reload(answer)) => {
                let _ = answer.send(reload(&mut next, current, load, flags));
                // The answer leaves before the port does.
                restart(&next, flags);
            }
            Err(RecvTimeoutError::Timeout) => {
                if flags.reload.swap(false, Ordering::Relaxed) {
                    let _ = reload(&mut next, current, load, flags);
                    restart(&next, flags);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if matches!(result, Err(NodeError::Checkpoint)) {
        return Err(NodeError::Checkpoint);
    }
    match (flags.stop.load(Ordering::Relaxed), next) {
        // What was not settled is in the logs, which are folded next.
        (false, Some(reloaded)) => Ok(Some(reloaded)),
        (true, _) | (false, None) => result.map(|()| None),
    }
}

fn restart(next: &Option<Reloaded>, flags: &Flags) {
    if next.is_some() {
        flags.restart.store(true, Ordering::Relaxed);
    }
}

fn reload(next: &mut Option<Reloaded>, current: u64, load: &Load, flags: &Flags) -> Result<Outcome, String> {
    if flags.stop.load(Ordering::Relaxed) || flags.drain.load(Ordering::Relaxed) || next.is_some() {
        return Err("this node is stopping or reloading already".to_string());
    }
    match load() {
        Ok(reloaded) => {
            flags.reloads_succeeded.fetch_add(1, Ordering::Relaxed);
            if reloaded.policies_hash == current {
                tracing::info!("reload: the policies are the same; other changes need a restart");
                return Ok(Outcome::Unchanged);
            }
            tracing::info!(
                "reload: open traces are folded again with the new policies; other changes need a restart"
            );
            *next = Some(reloaded);
            Ok(Outcome::Changed)
        }
        Err(error) => {
            flags.reloads_failed.fetch_add(1, Ordering::Relaxed);
            tracing::error!("reload: the configuration in effect stays:\n{error}");
            Err(error)
        }
    }
}
