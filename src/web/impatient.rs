//! A connection that gives up on a peer that takes nothing.
//!
//! hyper has timeouts for what it reads and none for what it writes: whoever asks and never reads the answer would
//! hold a connection for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

pub(super) struct Impatient<S> {
    stream: S,
    patience: Duration,
    /// Since the peer has taken nothing. Boxed, because hardly any connection ever has one.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    /// Fails with `TimedOut` once the peer has taken nothing for so long although there was something to take.
    pub fn new(stream: S, patience: Duration) -> Self {
        Impatient { stream, patience, waiting: None }
    }

    /// What became of a write, unless it has been waited for too long.
    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{Instant, timeout};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (ours, _theirs) = duplex(16);
        let mut line = Impatient::new(ours, PATIENCE);
        let begun = Instant::now();
        let written = timeout(Duration::from_secs(20), line.write_all(&[0; 64])).await.expect("it waits for ever");
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= PATIENCE);
    }

    #[tokio::test]
    async fn a_peer_that_takes_a_little_now_and_then_is_waited_for() {
        let (ours, mut theirs) = duplex(16);
        let mut line = Impatient::new(ours, PATIENCE);
        let reading = tokio::spawn(async move {
            let mut taken = [0; 8];
            for _ in 0..20 {
                tokio::time::sleep(PATIENCE / 6).await;
                theirs.read_exact(&mut taken).await.unwrap();
            }
        });
        line.write_all(&[0; 160]).await.expect("it took something all the time");
        reading.await.unwrap();
    }
}
