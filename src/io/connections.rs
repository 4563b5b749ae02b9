//! The connections of one core: how many there are, when each wait of theirs ends, and how all end.
//!
//! No connection has a timer. Whoever waits holds a [`Deadline`], a slot of one table that one task
//! sweeps; a deadline that passed wakes its holder, who closes or answers. A wake costs a sweep of
//! lateness (250 ms), a wait that ends in time costs a store.
//!
//! ```text
//!  Connections ── slots: │ at │ idle since │ passed │ waker │   one per wait
//!      │ sweep()  at ≤ now: passed, wake
//!      │ admit()  full: the longest idle slot passes at once, so that the idle never keep out the busy
//!      └ leave()  wakes all; all_gone() once more after the grace, "now"
//! ```

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::base::time::Instant;
use crate::io::clock::Clock;

/// Every connection of a core and every deadline of theirs.
pub struct Connections {
    clock: Rc<Clock>,
    count_max: usize,
    count: Cell<usize>,
    ending: Cell<Ending>,
    slots: RefCell<Slots>,
    all_gone_waker: RefCell<Option<Waker>>,
}

/// What connections are asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Go on.
    No,
    /// Take nothing new, finish what is in flight, close.
    Leave,
    /// Close at once.
    Now,
}

/// Room for one connection, given back on drop.
pub struct Admitted(Rc<Connections>);

/// The end of a wait. One holder at a time polls it.
pub struct Deadline {
    home: Rc<Connections>,
    key: usize,
}

#[derive(Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
}

struct Slot {
    at: Instant,
    idle_since: Option<Instant>,
    passed: bool,
    waker: Option<Waker>,
}

const NEVER: Instant = Instant(u64::MAX);

const UNUSED: Slot = Slot {
    at: NEVER,
    idle_since: None,
    passed: false,
    waker: None,
};

impl Connections {
    pub fn new(clock: Rc<Clock>, count_max: usize) -> Rc<Connections> {
        Rc::new(Connections {
            clock,
            count_max,
            count: Cell::new(0),
            ending: Cell::new(Ending::No),
            slots: RefCell::default(),
            all_gone_waker: RefCell::default(),
        })
    }

    /// Takes one more connection. When all room is taken, the connection that has been without a call
    /// for longest makes room; `None` when all are busy or we are stopping.
    pub fn admit(self: &Rc<Connections>) -> Option<Admitted> {
        if self.ending() != Ending::No || self.count.get() >= self.count_max && !self.evict_idle() {
            return None;
        }
        self.count.set(self.count.get() + 1);
        Some(Admitted(self.clone()))
    }

    pub fn deadline(self: &Rc<Connections>) -> Deadline {
        let mut slots = self.slots.borrow_mut();
        let key = match slots.free.pop() {
            Some(key) => key,
            None => {
                slots.all.push(UNUSED);
                slots.all.len() - 1
            }
        };
        Deadline {
            home: self.clone(),
            key,
        }
    }

    /// Wakes whoever holds a deadline that is over.
    pub fn sweep(&self, now: Instant) {
        let mut due = Vec::new();
        for slot in &mut self.slots.borrow_mut().all {
            if slot.at <= now {
                slot.at = NEVER;
                slot.passed = true;
                due.extend(slot.waker.take());
            }
        }
        due.into_iter().for_each(Waker::wake);
    }

    /// Takes no more connections and asks those there are to leave.
    pub fn leave(&self) {
        self.end(Ending::Leave);
    }

    /// After [`Connections::leave`]: done when the last connection is gone, all being told to close at
    /// once when `grace` is over.
    pub async fn all_gone(self: &Rc<Connections>, grace: Duration) {
        let deadline = self.deadline();
        deadline.set(grace);
        poll_fn(|cx| {
            if deadline.poll(cx).is_ready() && self.ending() < Ending::Now {
                self.end(Ending::Now);
            }
            if self.count.get() == 0 {
                return Poll::Ready(());
            }
            *self.all_gone_waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// Deadlines held by anyone: none when there is no connection.
    pub fn deadline_count(&self) -> usize {
        let slots = self.slots.borrow();
        slots.all.len() - slots.free.len()
    }

    pub fn ending(&self) -> Ending {
        self.ending.get()
    }

    fn end(&self, ending: Ending) {
        self.ending.set(ending);
        let wakers: Vec<_> = self
            .slots
            .borrow_mut()
            .all
            .iter_mut()
            .filter_map(|slot| slot.waker.take())
            .collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    fn evict_idle(&self) -> bool {
        let mut slots = self.slots.borrow_mut();
        let idle = slots
            .all
            .iter_mut()
            .filter(|slot| !slot.passed && slot.idle_since.is_some());
        let Some(longest) = idle.min_by_key(|slot| slot.idle_since) else {
            return false;
        };
        longest.at = NEVER;
        longest.passed = true;
        let waker = longest.waker.take();
        drop(slots);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0
            && let Some(waker) = self.0.all_gone_waker.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

impl Deadline {
    /// From now on, replacing an earlier one.
    pub fn set(&self, after: Duration) {
        self.set_at(self.home.clock.instant().plus(after));
    }

    pub fn set_at(&self, at: Instant) {
        self.change(|slot| (slot.at, slot.idle_since, slot.passed) = (at, None, false));
    }

    /// As [`Deadline::set`], and until it is set anew the holder may be asked to make room for another.
    pub fn set_idle(&self, after: Duration) {
        let now = self.home.clock.instant();
        self.change(|slot| (slot.at, slot.idle_since, slot.passed) = (now.plus(after), Some(now), false));
    }

    pub fn clear(&self) {
        self.set_at(NEVER);
    }

    /// Whether it is set and still ahead.
    pub fn is_set(&self) -> bool {
        self.home.slots.borrow().all[self.key].at != NEVER
    }

    /// Ready once the deadline is over. Also remembers whom `stop` has to wake.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.change(|slot| {
            if slot.passed {
                return Poll::Ready(());
            }
            match &mut slot.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
    }

    /// The output of `future`, or `None` when the deadline was over first.
    pub async fn bound<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll(cx).map(|()| None),
        })
        .await
    }

    fn change<T>(&self, change: impl FnOnce(&mut Slot) -> T) -> T {
        change(&mut self.home.slots.borrow_mut().all[self.key])
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut slots = self.home.slots.borrow_mut();
        slots.all[self.key] = UNUSED;
        slots.free.push(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(count_max: usize) -> Rc<Connections> {
        Connections::new(Rc::new(Clock::new()), count_max)
    }

    fn passed(deadline: &Deadline) -> bool {
        deadline.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_deadline_passes_once_it_is_swept() {
        let table = table(1);
        let (soon, later) = (table.deadline(), table.deadline());
        soon.set_at(Instant(100));
        later.set_at(Instant(200));
        table.sweep(Instant(150));
        assert_eq!((passed(&soon), passed(&later)), (true, false));
        soon.set_at(Instant(300));
        assert!(!passed(&soon), "set anew");
    }

    #[test]
    fn a_dropped_deadline_leaves_its_slot_to_the_next() {
        let table = table(1);
        let one = table.deadline();
        one.set_at(Instant(1));
        drop(one);
        let two = table.deadline();
        table.sweep(Instant(10));
        assert!(!passed(&two));
        assert_eq!(table.deadline_count(), 1);
    }

    #[test]
    fn the_longest_idle_makes_room_and_the_busy_do_not() {
        let table = table(2);
        let held = (table.admit().expect("room"), table.admit().expect("room"));
        assert!(table.admit().is_none(), "nobody is idle");
        let (first, second) = (table.deadline(), table.deadline());
        first.set_idle(Duration::from_secs(100));
        second.set_idle(Duration::from_secs(100));
        let more = table.admit();
        assert!(more.is_some());
        assert_eq!((passed(&first), passed(&second)), (true, false));
        drop((held, more));
        assert_eq!(table.count(), 0);
    }
}
