//! Where requests come from: a pool of batches, dealt in order, patched when dealt.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::Outcome;
use super::batch::{Batch, Builder, PREFIX_LEN, Shape};
use super::identity::Identity;
use super::ledger::Ledger;

/// Deals requests 0, 1, 2 …; request r is member `r % members` of group `r / members`.
///
/// Invariant: each member's pool has at least as many batches as there are lanes, so dealing never waits.
pub struct Source {
    identity: Identity,
    pools: Vec<VecDeque<Batch>>,
    next_request: u64,
    checked_out: usize,
    ledger: Option<Ledger>,
}

/// A request on its way.
pub struct Parcel {
    batch: Batch,
    request: u64,
    bytes: Bytes,
}

/// So many traces are in the pool at least, or shares of one in a hundred could not be dealt.
const POOL_TRACES_MIN: usize = 1024;

impl Source {
    pub fn new(shape: &Shape, seed: u64, lanes: usize, ledger: Option<Ledger>) -> Source {
        let groups = POOL_TRACES_MIN.div_ceil(shape.traces_per_group()).max(lanes);
        let mut pools: Vec<VecDeque<Batch>> =
            (0..shape.requests_per_trace).map(|_| VecDeque::new()).collect();
        let mut builder = Builder::new(shape, seed);
        for _ in 0..groups {
            for batch in builder.group() {
                pools[batch.member].push_back(batch);
            }
        }
        Source {
            identity: Identity::new(seed, shape.trace_ids),
            pools,
            next_request: 0,
            checked_out: 0,
            ledger,
        }
    }

    pub fn checkout(&mut self, now_ns: u64) -> Parcel {
        let members = self.pools.len() as u64;
        let request = self.next_request;
        self.next_request += 1;
        self.checked_out += 1;
        let pool = &mut self.pools[(request % members) as usize];
        let mut batch = pool.pop_front().expect("a pool has a batch for each lane");
        let group = request / members;
        batch.patch(&self.identity, group, now_ns);
        if let Some(ledger) = &mut self.ledger {
            ledger.sent(request, batch.spans(&self.identity, group));
        }
        let bytes = std::mem::take(&mut batch.bytes).freeze();
        Parcel {
            batch,
            request,
            bytes,
        }
    }

    pub fn settle(&mut self, parcel: Parcel, outcome: Outcome) {
        self.checked_out -= 1;
        if let Some(ledger) = &mut self.ledger {
            ledger.settled(parcel.request, outcome);
        }
        let Parcel { mut batch, bytes, .. } = parcel;
        // A transport that was answered before it had sent everything may still hold the buffer.
        batch.bytes = bytes
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        self.pools[batch.member].push_back(batch);
    }

    /// Requests without an outcome.
    pub fn checked_out(&self) -> usize {
        self.checked_out
    }

    /// Bytes of an OTLP message, over the whole pool.
    pub fn request_bytes_mean(&self) -> f64 {
        let batches = || self.pools.iter().flatten();
        batches().map(|batch| batch.body_len() as f64).sum::<f64>() / batches().count() as f64
    }
}

impl Parcel {
    /// With the gRPC prefix.
    pub fn framed(&self) -> &Bytes {
        &self.bytes
    }

    pub fn body(&self) -> &[u8] {
        &self.bytes[PREFIX_LEN..]
    }

    pub fn body_len(&self) -> usize {
        self.bytes.len() - PREFIX_LEN
    }

    pub fn span_count(&self) -> usize {
        self.batch.span_count()
    }
}
