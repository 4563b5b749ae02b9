//! Requests to the ledgers of quotas and what these grant, as they stand in a batch.

use super::ContentError;
use crate::base::ids::CoreId;
use crate::gossip::NodeId;
use crate::policy::quota::{Ask, Grant, Judge, Leasing, QuotaKey, Terms, Unit};
use crate::proto;

/// One of them at most.
pub const LEASING_BYTES: usize = 120;

pub fn write_leasing(leasing: &Leasing) -> proto::Leasing {
    let (quota, judge, number) = match leasing {
        Leasing::Ask(ask) => (ask.quota, ask.judge, ask.number),
        Leasing::Grant(grant) => (grant.quota, grant.judge, grant.number),
    };
    let common = proto::Leasing {
        policy: quota.policy,
        part: quota.part.into(),
        unit: match quota.terms.unit {
            Unit::Spans => 0,
            Unit::Bytes => 1,
        },
        rate: quota.terms.rate,
        burst: quota.terms.burst,
        core: judge.core.0.into(),
        number,
        ..proto::Leasing::default()
    };
    match leasing {
        Leasing::Ask(ask) => proto::Leasing {
            want: ask.want,
            least: ask.least,
            ahead: ask.ahead,
            returned: ask.returned,
            ..common
        },
        Leasing::Grant(grant) => proto::Leasing {
            granted: true,
            tokens: grant.tokens,
            left: grant.left,
            ..common
        },
    }
}

/// `sender` asks for its own judges, and answers those of `own`. `None`: of a unit that a later version knows.
pub fn read_leasing(
    message: &proto::Leasing,
    sender: NodeId,
    own: NodeId,
) -> Result<Option<Leasing>, ContentError> {
    let unit = match message.unit {
        0 => Unit::Spans,
        1 => Unit::Bytes,
        _ => return Ok(None),
    };
    let (Ok(part), Ok(core)) = (u16::try_from(message.part), u16::try_from(message.core)) else {
        return Err(ContentError::Value);
    };
    if message.rate == 0 || message.burst == 0 || message.tokens > message.burst {
        return Err(ContentError::Value);
    }
    let quota = QuotaKey {
        policy: message.policy,
        part,
        terms: Terms {
            unit,
            rate: message.rate,
            burst: message.burst,
        },
    };
    let judge = |node: NodeId| Judge {
        node: node.0,
        core: CoreId(core),
    };
    Ok(Some(match message.granted {
        false => Leasing::Ask(Ask {
            quota,
            judge: judge(sender),
            number: message.number,
            want: message.want,
            least: message.least,
            ahead: message.ahead,
            returned: message.returned,
        }),
        true => Leasing::Grant(Grant {
            quota,
            judge: judge(own),
            number: message.number,
            tokens: message.tokens,
            left: message.left,
        }),
    }))
}
