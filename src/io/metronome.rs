//! Keeps an executor from sleeping over work that is ready.
//!
//! glommio-ng 0.12 may go to sleep without a look at its task queues: `LocalExecutor::run` parks when
//! `run_task_queues` ran nothing, and that is so both when nothing was ready and when `need_preempt` was
//! true before the first task. The latter takes one completion that wakes nobody (the poll of a socket
//! that was closed, a timeout) between looking for completions and running tasks, or a thread that the
//! kernel took off its processor there. The executor then sleeps until the next event of any kind; with
//! all timers over, and so their tasks among the ready, that was for ever in one of five runs of
//! `tests/ingress.rs` on a contended machine.
//!
//! So some timer is always pending here, and the shortest bounds the sleep. If a stall made that one
//! ready too, the next longer one is pending unless the stall was five times as long, and so on.

use std::time::Duration;

use glommio::{Task, TaskQueueHandle, timer};

/// Seldom enough that an idle core costs nothing: each beat wakes it.
const SHORTEST: Duration = Duration::from_millis(25);
const RATIO: u32 = 5;
/// The longest is 16 s.
const BEATS: u32 = 5;

/// While this value lives no sleep lasts longer than 25 ms, or five times as long as the last stall.
pub struct Metronome {
    _beats: Vec<Task<()>>,
}

impl Metronome {
    /// On the executor to keep awake.
    pub fn start(queue: TaskQueueHandle) -> Metronome {
        let spawn = |beat| glommio::spawn_local_into(beat, queue).expect("the queue exists");
        Metronome {
            _beats: (0..BEATS)
                .map(|at| spawn(beat(SHORTEST * RATIO.pow(at))))
                .collect(),
        }
    }
}

/// A task for each: a glommio timer that is polled twice is registered twice, so no task may hold two.
async fn beat(period: Duration) {
    loop {
        timer::sleep(period).await;
    }
}
