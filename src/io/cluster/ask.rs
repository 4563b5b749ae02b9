//! Questions of people that other nodes answer too.

use super::{Cluster, tcp};
use crate::gossip::machine::FRAME_BYTES_MAX;
use futures_util::future::{LocalBoxFuture, join_all};
use std::rc::Rc;
use std::time::Duration;

/// Who does not answer within this is left out.
const PATIENCE: Duration = Duration::from_secs(2);
/// An answer leaves room for its seal.
const ANSWER_BYTES_MAX: usize = FRAME_BYTES_MAX - (64 << 10);

/// Answers what others ask.
pub type Answerer = Rc<dyn Fn(Vec<u8>) -> LocalBoxFuture<'static, Vec<u8>>>;

impl Cluster {
    pub fn set_answerer(&self, answerer: Answerer) {
        *self.answerer.borrow_mut() = Some(answerer);
    }

    /// What the other nodes say, as far as they do in time.
    pub async fn ask_all(&self, question: &[u8]) -> Vec<Vec<u8>> {
        let calls = self.gossip.borrow_mut().ask_all(question);
        let asked = calls.into_iter().map(|call| async move {
            let answered = tcp::within(PATIENCE, tcp::ask(call.to, &call.frame))
                .await?
                .ok()?;
            self.gossip.borrow_mut().open_answer(call.id, &answered)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Nothing, if nobody here answers questions, or the answer is too long.
    pub(super) async fn answer(&self, question: Vec<u8>) -> Option<Vec<u8>> {
        let answerer = self.answerer.borrow().clone()?;
        let answer = answerer(question).await;
        (answer.len() <= ANSWER_BYTES_MAX).then_some(answer)
    }
}
