//! Questions from node to node over TCP: what a person asks one node, all can answer.
//!
//! A question is a text that only those understand who ask and answer it; gossip seals it, and tells it from a request
//! for batches.

use super::{Gossip, Outcome};
use crate::gossip::NodeId;
use crate::gossip::datagram::{Lane, Opened};
use crate::proto;
use bytes::Bytes;
use prost::Message;
use rand::RngExt;
use std::net::SocketAddr;

/// What a frame over TCP wants.
#[derive(Debug)]
pub enum Served {
    /// Nothing more than this response.
    Response(Vec<u8>),
    /// To be answered by [`Gossip::answer`].
    Question(Question),
}

#[derive(Debug)]
pub struct Question {
    pub content: Vec<u8>,
    sender: NodeId,
    incarnation: u64,
    id: u64,
}

/// A question to be sent; what comes back is for [`Gossip::open_answer`].
#[derive(Debug)]
pub struct AskCall {
    pub id: u64,
    pub to: SocketAddr,
    pub frame: Vec<u8>,
}

impl Gossip {
    /// Takes a frame of another node. `None`: it gets no reply.
    pub fn serve(&mut self, frame: &[u8]) -> Option<Served> {
        let (opened, request) = self.open_request(frame)?;
        if request.question.is_empty() {
            return self.respond(&opened, request).map(Served::Response);
        }
        Some(Served::Question(Question {
            content: request.question.to_vec(),
            sender: opened.sender,
            incarnation: opened.incarnation,
            id: request.id,
        }))
    }

    pub(super) fn open_request(&mut self, frame: &[u8]) -> Option<(Opened, proto::SyncRequest)> {
        self.counts.bytes_in += frame.len() as u64;
        let opened = match self.opener.open(Lane::Sync, frame) {
            Ok(opened) => opened,
            Err(rejected) => {
                self.counts.datagrams_in[Outcome::from(rejected) as usize] += 1;
                return None;
            }
        };
        let request = proto::SyncRequest::decode(opened.content.clone()).ok()?;
        let is_ours = (request.to, request.to_incarnation) == (self.own.origin.0, self.own.incarnation);
        is_ours.then_some((opened, request))
    }

    /// The frame that answers a question.
    pub fn answer(&mut self, question: &Question, answer: Vec<u8>) -> Vec<u8> {
        let response = proto::SyncResponse {
            to: question.sender.0,
            to_incarnation: question.incarnation,
            id: question.id,
            answer: answer.into(),
            ..proto::SyncResponse::default()
        };
        let frame = self.sealer.seal(Lane::Sync, &response.encode_to_vec());
        self.counts.bytes_out += frame.len() as u64;
        frame
    }

    /// The same question to every other node that is there.
    pub fn ask_all(&mut self, question: &[u8]) -> Vec<AskCall> {
        let peers = self.peers.values().filter(|peer| peer.gone.is_none());
        let peers: Vec<_> = peers.map(|peer| peer.identity).collect();
        let mut calls = Vec::with_capacity(peers.len());
        for peer in peers {
            let request = proto::SyncRequest {
                to: peer.node.0,
                to_incarnation: peer.incarnation,
                id: self.random.random(),
                missing: None,
                question: Bytes::copy_from_slice(question),
            };
            let frame = self.sealer.seal(Lane::Sync, &request.encode_to_vec());
            self.counts.bytes_out += frame.len() as u64;
            calls.push(AskCall {
                id: request.id,
                to: peer.address,
                frame,
            });
        }
        calls
    }

    /// What came back for an [`AskCall`]; `None`: it is no answer to it.
    pub fn open_answer(&mut self, id: u64, frame: &[u8]) -> Option<Vec<u8>> {
        self.counts.bytes_in += frame.len() as u64;
        let opened = self.opener.open(Lane::Sync, frame).ok()?;
        let response = proto::SyncResponse::decode(opened.content).ok()?;
        let is_ours = (response.to, response.to_incarnation, response.id)
            == (self.own.origin.0, self.own.incarnation, id);
        is_ours.then(|| response.answer.to_vec())
    }
}
