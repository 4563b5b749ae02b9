//! `POST /api/v1/traces/{id}/keep`: a trace is kept by hand, while the log has it.

use super::{Admin, Reply};
use crate::base::ids::TraceId;
use crate::io::core::Core;
use crate::landing::Searched;
use crate::route::{self, Decision, PolicyNumber};
use crate::shard::Upgrade;
use crate::verdict::{Reason, Verdict};
use http::StatusCode;
use std::rc::Rc;
use std::time::Duration;

/// The policy that a trace kept by hand is said to be kept by.
pub const BY_HAND: &str = "manual";
/// Who keeps a trace waits so long for its export at most; it goes on without him.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// What the owner of a trace says to the wish to keep it.
enum Kept {
    /// It is, or will be when it closes.
    Yes,
    /// It will be; the logs are still being searched.
    Soon,
    /// No log has it.
    Gone,
    Busy,
    Starting,
}

impl Admin {
    /// Answers as explain does once the trace is out, or when it is an open one.
    pub(super) async fn keep(&self, id: &str) -> Reply {
        let Some(trace) = TraceId::from_hex(id) else {
            return Reply::error(
                StatusCode::BAD_REQUEST,
                "a trace id is 32 hexadecimal digits, not all zero",
            );
        };
        let owner = route::owner(
            self.facts.hash_key.trace(&trace),
            self.mesh.cores().count() as u16,
        );
        let asked = self.mesh.ask_for(owner, move |admin| async move {
            let core = admin.core.borrow().clone();
            match core {
                Some(core) => keep_owned(&core, trace).await,
                None => Kept::Starting,
            }
        });
        match asked.await.unwrap_or(Kept::Starting) {
            Kept::Yes => self.explain(id, "").await,
            Kept::Soon => Reply {
                status: StatusCode::ACCEPTED,
                ..self.explain(id, "").await
            },
            Kept::Gone => Reply::error(
                StatusCode::NOT_FOUND,
                &format!("the log has nothing of this trace; {}", self.reach().await),
            ),
            Kept::Busy => Reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many traces are looked for; ask again in a moment",
            ),
            Kept::Starting => Reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "starting or stopping; ask again in a moment",
            ),
        }
    }
}

async fn keep_owned(core: &Rc<Core>, trace: TraceId) -> Kept {
    let (is_open, known) = {
        let shard = core.shard();
        (
            shard.table().open_trace(&trace).is_some(),
            shard.table().decided(&trace),
        )
    };
    let is_dropped = known.is_some_and(|known| known.verdict != Verdict::Keep);
    if !is_open && (is_dropped || known.is_none()) {
        // Nothing is promised about what is gone.
        match find(core, trace).await {
            None => return Kept::Busy,
            Some(found) if found.span_count == 0 => return Kept::Gone,
            Some(_) => {}
        }
    }
    let policy = core.shard().landings()[0].policy_number(BY_HAND);
    let decision = by_hand(known, policy);
    match core.upgrade(trace, decision) {
        Upgrade::Begun => {}
        Upgrade::Kept => return Kept::Yes,
        Upgrade::Refused => return Kept::Busy,
    }
    let until = core.now().instant.plus(PATIENCE);
    while core.shard().is_upgrading(&trace) {
        if core.shard().table().is_promised(&trace) {
            return Kept::Yes;
        }
        if core.now().instant >= until {
            return Kept::Soon;
        }
        glommio::timer::sleep(LOOK_INTERVAL).await;
    }
    Kept::Yes
}

/// At what rate people keep traces nobody knows: `th` is erased.
fn by_hand(known: Option<Decision>, policy: Option<PolicyNumber>) -> Decision {
    Decision {
        verdict: Verdict::Keep,
        // Of a trace that nobody remembers this much is true.
        reason: known.map_or(Reason::Expired, |known| known.reason),
        policy,
        threshold: None,
        incomplete: known.is_some_and(|known| known.incomplete),
        upgraded: true,
    }
}

/// Looks through the logs of all cores; `None`: too many look, or it takes too long.
pub(super) async fn find(core: &Rc<Core>, trace: TraceId) -> Option<Searched> {
    let number = core.find(trace)?;
    let until = core.now().instant.plus(PATIENCE);
    loop {
        if let Some(found) = core.take_found(number) {
            return Some(found);
        }
        if core.now().instant >= until {
            core.give_up_find(number);
            return None;
        }
        glommio::timer::sleep(LOOK_INTERVAL).await;
    }
}
