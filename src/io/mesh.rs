//! What goes from core to core of one process: every core has one inbox that all others post into.
//!
//! ```text
//!  core 1 ── Post ──┐
//!  core 2 ── Post ──┼──→ inbox of core 0 ──→ one task, which takes all there is and then has one turn
//!  core 3 ── Post ──┘
//! ```
//!
//! A post wakes the other executor through its eventfd, which costs far more than the post itself; so a core
//! posts once for several turns, and whoever is awake is not woken again. The inbox itself has no bound: what
//! may be in it is bounded by the credit of [`crate::shard::Message`], by one answer per question, by one
//! shipment per destination, and by the connections that a core admits.

use super::admin::Admin;
use super::seats::Seat;
use crate::base::ids::CoreId;
use crate::gossip::{Inbound, Outbound};
use crate::shard::Message;
use crate::stats::Transport;
use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt;
use glommio::net::AcceptedTcpStream;
use std::rc::Rc;

/// One thing for another core.
pub enum Post {
    Message(Message),
    /// From a shard to the core that speaks for the node.
    Outbound(Vec<Outbound>),
    /// From the cluster to a shard.
    Inbound(Vec<Inbound>),
    /// A connection that was accepted elsewhere.
    Connection(Transport, AcceptedTcpStream, Seat),
    /// Pieces of whole lines for a file that only the receiver writes.
    Append {
        destination: usize,
        lines: Vec<Vec<u8>>,
        done: oneshot::Sender<Result<(), String>>,
    },
    /// A log does not fit the checkpoint: the start is over.
    Misfit,
    /// A question to be answered at once.
    Ask(Question),
}

/// Asked of whoever answers for a core; it brings its own way back.
pub type Question = Box<dyn FnOnce(&Rc<Admin>) + Send>;

/// The sending ends of all inboxes.
pub struct Mesh {
    core: CoreId,
    inboxes: Vec<mpsc::UnboundedSender<(CoreId, Post)>>,
}

/// The receiving end of one core's inbox.
pub struct Inbox(mpsc::UnboundedReceiver<(CoreId, Post)>);

/// Connects `core_count` cores, each with each.
pub fn mesh(core_count: u16) -> Vec<(Mesh, Inbox)> {
    let (inboxes, ends): (Vec<_>, Vec<_>) = (0..core_count).map(|_| mpsc::unbounded()).unzip();
    let ends = ends.into_iter().enumerate();
    ends.map(|(core, end)| {
        let mesh = Mesh {
            core: CoreId(core as u16),
            inboxes: inboxes.clone(),
        };
        (mesh, Inbox(end))
    })
    .collect()
}

impl Mesh {
    /// The core that posts by it.
    pub fn core(&self) -> CoreId {
        self.core
    }

    pub fn cores(&self) -> impl Iterator<Item = CoreId> + use<> {
        (0..self.inboxes.len() as u16).map(CoreId)
    }

    pub fn post(&self, to: CoreId, post: Post) {
        // A core that is gone has ended the process, or is the last but us to leave it: what it was told is in
        // the logs.
        let _ = self.inboxes[usize::from(to.0)].unbounded_send((self.core, post));
    }

    /// Asks another core, or this one; `None`: it is going.
    pub async fn ask<T: Send + 'static>(
        &self,
        core: CoreId,
        question: impl FnOnce(&Rc<Admin>) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let ask = move |admin: &Rc<Admin>| {
            let _ = answer.send(question(admin));
        };
        self.post(core, Post::Ask(Box::new(ask)));
        answered.await.ok()
    }

    /// Asks a core something that it has to wait for.
    pub async fn ask_for<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        core: CoreId,
        question: impl FnOnce(Rc<Admin>) -> F + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let ask = move |admin: &Rc<Admin>| {
            let finding = question(admin.clone());
            glommio::spawn_local(async move {
                let _ = answer.send(finding.await);
            })
            .detach();
        };
        self.post(core, Post::Ask(Box::new(ask)));
        answered.await.ok()
    }

    /// Has the core that writes a file append to it.
    pub async fn append(
        &self,
        writer: CoreId,
        destination: usize,
        lines: Vec<Vec<u8>>,
    ) -> Result<(), String> {
        let (done, outcome) = oneshot::channel();
        let post = Post::Append {
            destination,
            lines,
            done,
        };
        self.post(writer, post);
        let gone = || Err("the core that writes the file is stopping".to_string());
        outcome.await.unwrap_or_else(|_| gone())
    }
}

impl Inbox {
    /// The next post; waits for one.
    pub async fn next(&mut self) -> (CoreId, Post) {
        let post = self.0.next().await;
        post.expect("this core's own mesh keeps the inbox open")
    }

    /// A post that is there already.
    pub fn next_here(&mut self) -> Option<(CoreId, Post)> {
        self.0.try_recv().ok()
    }
}
