//! Queue A: from the ear to the scribe. One second; when full the oldest frame goes, because late words help nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use babelcast_domain::audio::{MediaTime, PcmFrame};
use tokio::sync::Notify;

/// Audio that may wait for the scribe.
pub const BOUND: MediaTime = MediaTime::from_millis(1_000);

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<PcmFrame>,
    length: MediaTime,
    /// Begin and end of what was thrown away since the scribe last looked.
    dropped: Option<(MediaTime, MediaTime)>,
}

/// Both ends hold a clone.
#[derive(Debug, Clone, Default)]
pub struct Frames(Arc<(Mutex<Waiting>, Notify)>);

/// What the scribe finds.
#[derive(Debug, Default)]
pub struct Taken {
    pub frames: VecDeque<PcmFrame>,
    pub dropped: Option<(MediaTime, MediaTime)>,
}

impl Frames {
    /// Never waits. Answers with the number of frames that had to go.
    pub fn push(&self, frame: PcmFrame) -> u64 {
        let mut waiting = self.lock();
        waiting.length = waiting.length + frame.duration();
        waiting.frames.push_back(frame);
        let mut gone = 0;
        while waiting.length > BOUND {
            let Some(oldest) = waiting.frames.pop_front() else { break };
            waiting.length = waiting.length - oldest.duration();
            let from = waiting.dropped.map_or(oldest.at, |(from, _)| from);
            waiting.dropped = Some((from, oldest.end()));
            gone += 1;
        }
        drop(waiting);
        self.0.1.notify_one();
        gone
    }

    /// Waits until there is a frame, and takes all of them. Cancel safe.
    pub async fn take(&self) -> Taken {
        loop {
            {
                let mut waiting = self.lock();
                if !waiting.frames.is_empty() {
                    waiting.length = MediaTime::ZERO;
                    return Taken { frames: std::mem::take(&mut waiting.frames), dropped: waiting.dropped.take() };
                }
            }
            self.0.1.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use babelcast_domain::audio::Origin;

    use super::*;

    #[tokio::test]
    async fn a_second_waits_and_the_oldest_goes() {
        let frames = Frames::default();
        let mut gone = 0;
        for n in 0..60 {
            gone += frames.push(PcmFrame {
                at: MediaTime::from_millis(n * 20),
                samples: vec![0; 320],
                origin: Origin::Received,
            });
        }
        let taken = frames.take().await;
        assert_eq!((gone, taken.frames.len()), (10, 50));
        assert_eq!(taken.dropped, Some((MediaTime::ZERO, MediaTime::from_millis(200))));
    }
}
