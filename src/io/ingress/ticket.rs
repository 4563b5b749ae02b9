//! The promise between an appended request and its reply: a oneshot within one executor.
//!
//! The shard keeps a [`Ticket`] per request beside the group that will make it durable; ingress awaits
//! the [`Durable`]. Plain cells: neither half leaves its thread.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The log could not make the request durable. It may or may not be there after a restart; the client
/// is told to send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log could not make the request durable")]
pub struct Unavailable;

/// The half that answers. Dropped without an answer it says [`Unavailable`].
#[derive(Debug)]
pub struct Ticket(Rc<RefCell<Slot>>);

/// The half that waits. Dropping it takes nothing back: the request stays appended.
#[derive(Debug)]
pub struct Durable(Waits);

#[derive(Debug)]
enum Waits {
    Not,
    For(Rc<RefCell<Slot>>),
}

#[derive(Debug, Default)]
struct Slot {
    answer: Option<Result<(), Unavailable>>,
    waker: Option<Waker>,
}

/// A fresh pair.
pub fn ticket() -> (Ticket, Durable) {
    let slot = Rc::new(RefCell::new(Slot::default()));
    (Ticket(slot.clone()), Durable(Waits::For(slot)))
}

impl Ticket {
    pub fn answer(self, answer: Result<(), Unavailable>) {
        self.settle(answer);
    }

    /// Whether nobody waits any more.
    pub fn is_abandoned(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }

    fn settle(&self, answer: Result<(), Unavailable>) {
        let mut slot = self.0.borrow_mut();
        if slot.answer.is_none() {
            slot.answer = Some(answer);
            let waker = slot.waker.take();
            drop(slot);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.settle(Err(Unavailable));
    }
}

impl Durable {
    /// Already kept: nothing to wait for (an empty request, `durability: none`).
    pub fn already() -> Durable {
        Durable(Waits::Not)
    }
}

impl Future for Durable {
    type Output = Result<(), Unavailable>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &self.0 {
            Waits::Not => Poll::Ready(Ok(())),
            Waits::For(slot) => {
                let mut slot = slot.borrow_mut();
                match slot.answer {
                    Some(answer) => Poll::Ready(answer),
                    None => {
                        slot.waker = Some(cx.waker().clone());
                        Poll::Pending
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(durable: &mut Durable) -> Poll<Result<(), Unavailable>> {
        Pin::new(durable).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn waiting_ends_with_the_answer() {
        let (ticket, mut durable) = ticket();
        assert_eq!(poll(&mut durable), Poll::Pending);
        ticket.answer(Ok(()));
        assert_eq!(poll(&mut durable), Poll::Ready(Ok(())));
    }

    #[test]
    fn a_dropped_ticket_is_no_promise() {
        let (ticket, mut durable) = ticket();
        drop(ticket);
        assert_eq!(poll(&mut durable), Poll::Ready(Err(Unavailable)));
    }

    #[test]
    fn a_ticket_knows_that_nobody_waits() {
        let (ticket, durable) = ticket();
        assert!(!ticket.is_abandoned());
        drop(durable);
        assert!(ticket.is_abandoned());
    }
}
