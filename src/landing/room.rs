//! Bounds of what waits for destinations: bytes, entries, age, and a kept log that is full.

use super::Landing;
use super::deliver::{Delivery, TURN_PASSED_MAX};
use super::queue::{KeptEntry, Queue, Readers};
use crate::base::block::BlockPool;
use crate::base::time::Now;
use crate::export::OnFull;
use crate::export::retry::Loss;

/// Whether an entry can be kept, for a kept log that is full.
pub(super) enum Room {
    /// Room was made.
    Made,
    /// There will be some; nothing may be lost meanwhile.
    Later,
    /// Its readers lose it.
    None,
}

impl Delivery {
    pub(super) fn pushes_back(&self) -> bool {
        self.destination.options.on_full == OnFull::PushBack
    }

    /// Whether `more` bytes are more than its queue may hold, or as many entries wait for it as there is memory for;
    /// says so once.
    fn is_full(&mut self, more: u64, queue: &Queue, count_max: usize) -> bool {
        let count = queue.next_number() - self.destination.next();
        let full = self.waiting().bytes + more > self.destination.options.queue_bytes_max
            || count >= count_max as u64;
        if full != self.full && (full || self.waiting().bytes < self.destination.options.queue_bytes_max / 2)
        {
            self.full = full;
            let options = &self.destination.options;
            let id = options.id.as_str();
            match (full, options.on_full) {
                (true, OnFull::LoseNew) => {
                    tracing::error!(
                        exporter = id,
                        "its queue is full (queue.max_size); losing new traces"
                    );
                }
                (true, OnFull::PushBack) => {
                    tracing::error!(
                        exporter = id,
                        "its queue is full (queue.max_size); refusing requests"
                    );
                }
                (false, _) => tracing::info!(exporter = id, "its queue has room again"),
            }
        }
        full
    }

    /// Passes over what stands at the cursor and has waited too long: for it that is lost.
    pub(super) fn pass_old(&mut self, now: Now, queue: &Queue, index: usize) -> bool {
        let Some(age_max) = self.destination.options.queue_age_max else {
            return false;
        };
        let mut passed = 0;
        while passed < TURN_PASSED_MAX
            && let Some(entry) = queue.get(self.destination.next())
            && now.instant.since(entry.kept_at) >= age_max
        {
            if entry.readers.contains(index) {
                self.done.add(entry);
                let spans = u64::from(entry.span_count);
                self.destination.stats.lose(Loss::TooOld, spans);
            }
            self.destination.pass_over(entry.end, 1);
            passed += 1;
        }
        passed > 0
    }
}

impl<P: BlockPool, W> Landing<P, W> {
    /// Of those that want a new entry, the destinations that are to get it; those that have no room lose it,
    /// counted.
    pub(super) fn readers_of(&mut self, wanted: Readers, framed_len: usize, span_count: u32) -> Readers {
        let mut readers = wanted;
        let (queue, count_max) = (&self.queue, self.options.queued_count_max);
        for (index, delivery) in self.deliveries.iter_mut().enumerate() {
            let mut is_full = || delivery.is_full(framed_len as u64, queue, count_max);
            if readers.contains(index) && is_full() && !delivery.pushes_back() {
                readers.remove(index);
                delivery
                    .destination
                    .stats
                    .lose(Loss::QueueFull, u64::from(span_count));
            }
        }
        readers
    }

    pub(super) fn lose_for(&mut self, readers: Readers, loss: Loss, spans: u64) {
        for (index, delivery) in self.deliveries.iter_mut().enumerate() {
            if readers.contains(index) {
                delivery.destination.stats.lose(loss, spans);
            }
        }
    }

    /// The first destination whose full queue refuses requests.
    pub fn pushed_back_by(&mut self) -> Option<&str> {
        let (queue, count_max) = (&self.queue, self.options.queued_count_max);
        let mut deliveries = self.deliveries.iter_mut();
        deliveries.find_map(|delivery| {
            let full = delivery.pushes_back() && delivery.is_full(0, queue, count_max);
            full.then_some(delivery.destination.options.id.as_str())
        })
    }

    /// The kept log is full, and `readers` want one more entry.
    ///
    /// Segments go oldest first, so the destination that is furthest behind takes the room of all. If others
    /// want the new entry, that one loses the oldest segment of its queue; if nobody else does, the new entry is
    /// what is lost. Who pushes back loses nothing: the entry waits in the log.
    pub(super) fn make_room(&mut self, readers: Readers) -> Room {
        let Landing {
            deliveries,
            queue,
            kept,
            ..
        } = self;
        let Some(oldest) = queue.front().and_then(|entry| kept.locate(entry.position)) else {
            return Room::Later;
        };
        let is_oldest = |entry: &KeptEntry| {
            kept.locate(entry.position)
                .is_some_and(|(segment, _)| segment == oldest.0)
        };
        let holds_up = |delivery: &Delivery| queue.get(delivery.destination.next()).is_some_and(is_oldest);
        let (mut others, mut free) = (false, true);
        for (index, delivery) in deliveries.iter().enumerate() {
            if !holds_up(delivery) {
                others |= readers.contains(index);
                continue;
            }
            if delivery.pushes_back() {
                return Room::Later;
            }
            free &= !delivery.is_busy();
        }
        match (others, free) {
            (false, _) => return Room::None,
            // Its attempt ends soon, and nothing is lost by waiting so long.
            (true, false) => return Room::Later,
            (true, true) => {}
        }
        for (index, delivery) in deliveries.iter_mut().enumerate() {
            while let Some(entry) = queue.get(delivery.destination.next())
                && is_oldest(entry)
            {
                if entry.readers.contains(index) {
                    delivery.done.add(entry);
                    let spans = u64::from(entry.span_count);
                    delivery.destination.stats.lose(Loss::QueueFull, spans);
                }
                delivery.destination.pass_over(entry.end, 1);
            }
        }
        self.cursors_changed = true;
        self.forget_delivered();
        Room::Made
    }
}
