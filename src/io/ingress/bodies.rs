//! The bodies of one core that are being received: one account for all of them, and their memory.
//!
//! A body is one contiguous vector, filled by a single copy from the transport's buffers, grown with what
//! arrives and never by what the peer announces (an announced length only stops the doubling). Vectors
//! are reused without being zeroed. A body that arrived in one piece is not copied at all.
//!
//! The account counts an announced body from its first byte on. If it counted what arrived, many bodies at once would
//! fill it half received, and be refused one after the other when most of their bytes had been read for nothing.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use bytes::Bytes;

/// The largest vector worth keeping.
const SPARE_BYTES_EACH_MAX: usize = 1 << 20;

/// What a body counts as at most before it has arrived: a peer that announces much and sends nothing takes no more.
const RESERVED_BYTES_MAX: usize = 1 << 20;

/// What a body may grow by without having received as much.
const AHEAD_BYTES: usize = 64 << 10;

/// A piece below this is copied even if it is the whole body: it may pin a transport buffer of 64 KiB.
const ADOPT_BYTES_MIN: usize = 16 << 10;

/// The account.
///
/// Invariant (M1): the bytes of all bodies together are at most `bytes_max`, or one request has made them up to
/// `alone_max` more.
pub struct Bodies {
    bytes_max: usize,
    alone_max: usize,
    bytes: Cell<usize>,
    /// Bodies beyond `bytes_max`, all of one request; no other may join them.
    beyond: Cell<u32>,
    /// Bytes of vectors kept for reuse at most: a request of 512 spans has 0.2 to 0.5 MB, and the calls of a few
    /// connections mostly end together.
    spare_bytes_max: usize,
    spare: RefCell<Vec<Vec<u8>>>,
    spare_bytes: Cell<usize>,
}

/// One body. Gives its bytes back to the account when dropped.
pub struct Body {
    bytes: Vec<u8>,
    /// The whole body, if it came in one piece; then `bytes` is empty.
    piece: Option<Bytes>,
    charged: usize,
    /// Of `charged`, what is held beside the bytes to make them.
    beside: usize,
    /// Of `charged`, what is announced and has not arrived.
    reserved: usize,
    /// It is of the one request beyond the account.
    is_beyond: bool,
    home: Rc<Bodies>,
}

/// No room in the account; the body is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Bodies {
    /// All together, one alone, vectors that wait for their next use.
    pub fn new(bytes_max: usize, alone_max: usize, spare_bytes_max: usize) -> Rc<Bodies> {
        Rc::new(Bodies {
            bytes_max,
            alone_max,
            bytes: Cell::new(0),
            beyond: Cell::new(0),
            spare_bytes_max,
            spare: RefCell::default(),
            spare_bytes: Cell::new(0),
        })
    }

    pub fn body(self: &Rc<Bodies>) -> Body {
        let bytes = self.spare.borrow_mut().pop().unwrap_or_default();
        self.spare_bytes.set(self.spare_bytes.get() - bytes.capacity());
        Body {
            bytes,
            piece: None,
            charged: 0,
            beside: 0,
            reserved: 0,
            is_beyond: false,
            home: self.clone(),
        }
    }

    /// In flight now, announced ones with what is still to come.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Kept for reuse.
    pub fn spare_bytes(&self) -> usize {
        self.spare_bytes.get()
    }
}

impl Body {
    /// An empty one that is made from this one, and belongs to the same request.
    pub fn heir(&self) -> Body {
        let mut heir = self.home.body();
        if self.is_beyond {
            self.home.beyond.set(self.home.beyond.get() + 1);
            heir.is_beyond = true;
        }
        heir
    }

    fn charge(&mut self, more: usize) -> Result<(), Full> {
        let home = &self.home;
        let sum = home.bytes.get().checked_add(more).ok_or(Full)?;
        if sum > home.bytes_max && !self.is_beyond {
            // Or a large request could never be taken by a small node.
            if home.beyond.get() > 0 {
                return Err(Full);
            }
            home.beyond.set(1);
            self.is_beyond = true;
        }
        if sum > home.bytes_max.saturating_add(home.alone_max) {
            return Err(Full);
        }
        home.bytes.set(sum);
        self.charged += more;
        Ok(())
    }

    /// Appends `chunk` of a body that is to have `announced` bytes in the end, if the peer said so.
    pub fn push(&mut self, chunk: &Bytes, announced: Option<usize>) -> Result<(), Full> {
        if chunk.is_empty() {
            return Ok(());
        }
        if self.is_empty() {
            let announced = announced.map_or(0, |announced| announced.min(RESERVED_BYTES_MAX));
            self.charge(announced.max(chunk.len()))?;
            self.reserved = announced.saturating_sub(chunk.len());
        } else {
            let arrived = chunk.len().min(self.reserved);
            self.charge(chunk.len() - arrived)?;
            self.reserved -= arrived;
        }
        if self.is_empty() && announced == Some(chunk.len()) && chunk.len() >= ADOPT_BYTES_MIN {
            self.piece = Some(chunk.clone());
            return Ok(());
        }
        let announced = announced.unwrap_or(usize::MAX);
        if let Some(piece) = self.piece.take() {
            // Only a peer that sends more than it announced gets here; the transports refuse that.
            self.append(&piece, announced);
        }
        self.append(chunk, announced);
        Ok(())
    }

    /// Lets `fill` append to the vector, whose spare room is some more bytes but never makes it longer
    /// than `len_max`, and charges what was appended.
    pub fn fill<T>(&mut self, len_max: usize, fill: impl FnOnce(&mut Vec<u8>) -> T) -> Result<T, Full> {
        self.make_room(AHEAD_BYTES.min(len_max.saturating_sub(self.bytes.len())), len_max);
        let done = fill(&mut self.bytes);
        self.settle()?;
        Ok(done)
    }

    /// The vector itself, for a writer that knows no bounds; charged afterwards.
    pub fn write<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> Result<T, Full> {
        let done = write(&mut self.bytes);
        self.settle()?;
        Ok(done)
    }

    /// From now on `bytes` are held beside the body to make it.
    pub fn charge_beside(&mut self, bytes: usize) -> Result<(), Full> {
        if bytes > self.beside {
            self.charge(bytes - self.beside)?;
        } else {
            self.home.bytes.set(self.home.bytes.get() - (self.beside - bytes));
            self.charged -= self.beside - bytes;
        }
        self.beside = bytes;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8], announced: usize) {
        self.make_room(bytes.len(), announced);
        self.bytes.extend_from_slice(bytes);
    }

    fn settle(&mut self) -> Result<(), Full> {
        let more = self.bytes.len() - (self.charged - self.beside - self.reserved);
        self.charge(more)
    }

    /// Room for `more` bytes: at least doubled, so that copying stays linear, but not beyond `len_max`
    /// unless those bytes need it.
    fn make_room(&mut self, more: usize, len_max: usize) {
        let len = self.bytes.len();
        if self.bytes.capacity() - len < more {
            let doubled = (len * 2).max(len + AHEAD_BYTES).min(len_max);
            self.bytes.reserve_exact(doubled.max(len + more) - len);
        }
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.piece.as_deref().unwrap_or(&self.bytes)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.home.bytes.set(self.home.bytes.get() - self.charged);
        if self.is_beyond {
            self.home.beyond.set(self.home.beyond.get() - 1);
        }
        let spare_bytes = self.home.spare_bytes.get() + self.bytes.capacity();
        if spare_bytes <= self.home.spare_bytes_max
            && (1..=SPARE_BYTES_EACH_MAX).contains(&self.bytes.capacity())
        {
            self.home.spare_bytes.set(spare_bytes);
            self.bytes.clear();
            self.home.spare.borrow_mut().push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(bytes_max: usize) -> Rc<Bodies> {
        Bodies::new(bytes_max, 0, 16 << 20)
    }

    fn chunk(length: usize) -> Bytes {
        Bytes::from(vec![1; length])
    }

    #[test]
    fn a_body_in_one_piece_is_not_copied() {
        let bodies = account(1 << 20);
        let piece = chunk(ADOPT_BYTES_MIN);
        let mut body = bodies.body();
        body.push(&piece, Some(piece.len())).expect("room");
        assert_eq!(body.as_ptr(), piece.as_ptr());
        assert_eq!(bodies.bytes(), piece.len());
        body.push(&chunk(1), Some(piece.len())).expect("room");
        assert_eq!(body.len(), piece.len() + 1);
    }

    #[test]
    fn the_account_is_bounded_and_balanced() {
        let bodies = account(100);
        let (mut one, mut two) = (bodies.body(), bodies.body());
        assert_eq!(one.push(&chunk(60), None), Ok(()));
        assert_eq!(two.push(&chunk(60), None), Err(Full));
        assert_eq!((bodies.bytes(), two.len()), (60, 0));
        drop(one);
        assert_eq!(two.push(&chunk(60), None), Ok(()));
        drop(two);
        assert_eq!(bodies.bytes(), 0);
    }

    #[test]
    fn an_announced_body_has_its_room_from_the_first_byte_on() {
        let bodies = account(100);
        let (mut one, mut two) = (bodies.body(), bodies.body());
        assert_eq!(one.push(&chunk(1), Some(60)), Ok(()));
        assert_eq!(two.push(&chunk(1), Some(60)), Err(Full));
        assert_eq!((bodies.bytes(), two.len()), (60, 0));
        assert_eq!(two.push(&chunk(1), Some(40)), Ok(()));
        for _ in 1..60 {
            assert_eq!(one.push(&chunk(1), Some(60)), Ok(()));
        }
        assert_eq!((bodies.bytes(), one.push(&chunk(1), Some(60))), (100, Err(Full)));
        drop((one, two));
        assert_eq!(bodies.bytes(), 0);
        // Who announces much and sends little holds a bounded room.
        let bodies = account(2 * RESERVED_BYTES_MAX);
        let (mut one, mut two) = (bodies.body(), bodies.body());
        assert_eq!(one.push(&chunk(1), Some(usize::MAX)), Ok(()));
        assert_eq!(two.push(&chunk(1), Some(usize::MAX)), Ok(()));
        assert_eq!(bodies.bytes(), 2 * RESERVED_BYTES_MAX);
    }

    #[test]
    fn one_large_body_at_a_time_goes_beyond_the_account() {
        let bodies = Bodies::new(100, 300, 0);
        let mut large = bodies.body();
        assert_eq!(large.push(&chunk(250), None), Ok(()));
        let mut other = bodies.body();
        assert_eq!(other.push(&chunk(10), None), Err(Full));
        let mut heir = large.heir();
        assert_eq!(
            (heir.push(&chunk(100), None), heir.push(&chunk(60), None)),
            (Ok(()), Err(Full))
        );
        drop((large, heir));
        assert_eq!((bodies.bytes(), other.push(&chunk(110), None)), (0, Ok(())));
        drop(other);
        assert_eq!((bodies.bytes(), bodies.beyond.get()), (0, 0));
    }

    #[test]
    fn what_is_held_beside_a_body_is_accounted_until_it_is_gone() {
        let bodies = account(100);
        let mut body = bodies.body();
        assert_eq!(body.charge_beside(70), Ok(()));
        body.fill(40, |bytes| bytes.extend([1; 30])).expect("room");
        assert_eq!((bodies.bytes(), body.charge_beside(71)), (100, Err(Full)));
        assert_eq!((body.charge_beside(0), bodies.bytes()), (Ok(()), 30));
        body.charge_beside(5).expect("room");
        drop(body);
        assert_eq!(bodies.bytes(), 0);
    }

    #[test]
    fn an_announced_length_allocates_nothing_by_itself() {
        let bodies = account(1 << 30);
        let mut body = bodies.body();
        body.push(&chunk(5), Some(4 << 30)).expect("room");
        assert!(body.bytes.capacity() <= AHEAD_BYTES + 5);
        let mut small = bodies.body();
        small.push(&chunk(5), Some(9)).expect("room");
        assert_eq!(small.bytes.capacity(), 9);
    }

    #[test]
    fn room_follows_the_bytes_received_and_is_never_more_than_the_body_needs() {
        let bodies = account(1 << 30);
        let mut endless = bodies.body();
        for count in 1..=100 {
            endless
                .push(&chunk(16_384), Some(u32::MAX as usize))
                .expect("room");
            assert!(endless.bytes.capacity() <= AHEAD_BYTES.max(2 * 16_384 * count));
        }
        let mut body = bodies.body();
        for _ in 0..10 {
            body.push(&chunk(10_000), Some(100_000)).expect("room");
            assert!(body.bytes.capacity() <= 100_000);
        }
        assert_eq!(body[..], [1; 100_000]);
    }

    #[test]
    fn a_filler_gets_no_more_room_than_the_limit() {
        let bodies = account(1 << 30);
        let mut body = bodies.body();
        let room = body.fill(10, |bytes| bytes.capacity()).expect("room");
        assert_eq!(room, 10);
    }
}
