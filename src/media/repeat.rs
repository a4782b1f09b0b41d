//! DTLS handshakes that survive packet loss.
//!
//! RFC 6347 (4.2.4) wants a flight sent again when the peer repeats its own. rtc-dtls 0.21.1 does the contrary: a
//! repeated message of the peer's stops its own timer, and a flight that was lost is never sent again. At 15 %
//! loss every fifth call then never connects, and the timer, while it runs, waits a whole second. So the sockets given
//! to the library remember the last flight, and send it again when they see the peer repeat itself or hear nothing
//! for a quarter of a second. To be dropped when the library does it; the tests with a lossy network show whether.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, RecvMeta, Runtime, Transmit,
};

/// A flight is not sent again sooner than this: repeats come in several datagrams.
const SPACING: Duration = Duration::from_millis(40);

/// Sends apart by more than this are the library's own repetition, not one flight.
const FLIGHT_TIME: Duration = Duration::from_millis(300);

/// Silence after which a flight is sent again, as libwebrtc's DTLS does after a few of its first tries.
const SILENCE: Duration = Duration::from_millis(250);

/// Times a socket repeats itself; also the bound on what a stranger's replayed hello can make us send.
const MAX_REPEATS: u32 = 32;

/// Datagrams of a flight: certificates of any size we make fit in three.
const MAX_DATAGRAMS: usize = 8;

/// The given runtime, with sockets that repeat DTLS flights.
#[derive(Debug)]
pub(super) struct Repeating(pub Arc<dyn Runtime>);

impl Runtime for Repeating {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        self.0.spawn(future)
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = self.0.wrap_udp_socket(socket)?;
        let flights = Arc::new(Mutex::default());
        let clock = tokio::spawn(insist(Arc::clone(&socket), Arc::clone(&flights)));
        Ok(Arc::new(RepeatingSocket {
            socket,
            flights,
            done: AtomicBool::new(false),
            _clock: AbortOnDropHandle::new(clock),
        }))
    }

    fn wrap_tcp_listener(&self, listener: std::net::TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        self.0.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(
        &'a self,
        address: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Arc<dyn AsyncTcpStream>>> + Send + 'a>> {
        self.0.connect_tcp(address)
    }

    fn resolve_host<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        self.0.resolve_host(host)
    }

    fn now(&self) -> Instant {
        self.0.now()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        self.0.sleep(duration)
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        self.0.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        self.0.block_on(future);
    }

    fn yield_now(&self) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        self.0.yield_now()
    }

    fn name(&self) -> &'static str {
        self.0.name()
    }
}

#[derive(Debug)]
struct RepeatingSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    flights: Arc<Mutex<Flights>>,
    /// The flights' `done`, readable for each packet without a lock.
    done: AtomicBool,
    _clock: AbortOnDropHandle<()>,
}

/// Sends an unanswered flight again until media flows. Ends with its socket.
async fn insist(socket: Arc<dyn AsyncUdpSocket>, flights: Arc<Mutex<Flights>>) {
    loop {
        tokio::time::sleep(SILENCE / 2).await;
        let (again, to) = {
            let mut flights = locked(&flights);
            if flights.done {
                return;
            }
            let Some(due) = flights.due(Instant::now()) else { continue };
            due
        };
        for contents in &again {
            if let Err(error) = socket.send_to(contents, to).await {
                tracing::debug!(%error, "a DTLS flight was not repeated");
            }
        }
    }
}

fn locked(flights: &Mutex<Flights>) -> std::sync::MutexGuard<'_, Flights> {
    flights.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl AsyncUdpSocket for RepeatingSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let sent = self.socket.poll_send(cx, transmit);
        if is_handshake(transmit.contents) && sent.is_ready() {
            locked(&self.flights).sent(transmit.contents, transmit.destination, Instant::now());
        } else if is_media(transmit.contents) {
            self.media();
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.socket.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = received {
            for (buf, meta) in bufs.iter().zip(meta.iter()).take(count) {
                for datagram in buf.get(..meta.len).unwrap_or_default().chunks(meta.stride.max(1)) {
                    if is_handshake(datagram) {
                        self.repeat(cx, datagram, meta.addr);
                    } else if is_media(datagram) {
                        self.media();
                    }
                }
            }
        }
        received
    }

    fn max_gso_segments(&self) -> usize {
        self.socket.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.socket.max_gro_segments()
    }
}

impl RepeatingSocket {
    /// Both sides have the keys: no flight is missing any more.
    fn media(&self) {
        if !self.done.swap(true, Ordering::Relaxed) {
            locked(&self.flights).done = true;
        }
    }

    fn repeat(&self, cx: &mut Context<'_>, datagram: &[u8], from: SocketAddr) {
        let again = locked(&self.flights).received(datagram, Instant::now());
        for contents in &again {
            let transmit = Transmit { destination: from, ecn: None, contents, segment_size: None, src_ip: None };
            // A full socket loses it, as the network would; the peer repeats itself again.
            if let Poll::Ready(Err(error)) = self.socket.poll_send(cx, &transmit) {
                tracing::debug!(%error, "a DTLS flight was not repeated");
            }
        }
    }
}

/// Our last flight, and how far the peer has come.
#[derive(Debug, Default)]
struct Flights {
    ours: Vec<Vec<u8>>,
    to: Option<SocketAddr>,
    done: bool,
    sent_at: Option<Instant>,
    heard_since: bool,
    theirs: Option<u16>,
    repeats: u32,
}

impl Flights {
    fn sent(&mut self, datagram: &[u8], to: SocketAddr, now: Instant) {
        let stale = self.sent_at.is_some_and(|at| now.saturating_duration_since(at) > FLIGHT_TIME);
        if std::mem::take(&mut self.heard_since) || stale {
            self.ours.clear();
        }
        if self.ours.len() < MAX_DATAGRAMS {
            self.ours.push(datagram.to_vec());
        }
        (self.sent_at, self.to) = (Some(now), Some(to));
    }

    /// Takes a handshake datagram of the peer's; what is to be sent again comes back.
    fn received(&mut self, datagram: &[u8], now: Instant) -> Vec<Vec<u8>> {
        let Some((first, last)) = messages(datagram) else { return Vec::new() };
        if self.theirs.is_none_or(|theirs| first > theirs) {
            self.theirs = Some(last);
            self.heard_since = true;
            return Vec::new();
        }
        self.theirs = self.theirs.max(Some(last));
        let rested = self.sent_at.is_some_and(|at| now.saturating_duration_since(at) >= SPACING);
        if !rested || self.repeats >= MAX_REPEATS {
            return Vec::new();
        }
        self.again(now)
    }

    /// The flight, if the peer has been silent for too long since.
    fn due(&mut self, now: Instant) -> Option<(Vec<Vec<u8>>, SocketAddr)> {
        let silent = !self.heard_since && self.sent_at.is_some_and(|at| now.saturating_duration_since(at) >= SILENCE);
        if !silent || self.repeats >= MAX_REPEATS {
            return None;
        }
        let to = self.to?;
        Some((self.again(now), to))
    }

    fn again(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.repeats += 1;
        self.sent_at = Some(now);
        self.ours.clone()
    }
}

const RECORD_HEADER: usize = 13;

/// A DTLS handshake record comes first (RFC 7983 tells the kinds apart by the first byte).
fn is_handshake(datagram: &[u8]) -> bool {
    datagram.first() == Some(&22)
}

fn is_media(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| (128..192).contains(first))
}

/// The numbers of the first and the last handshake message in a datagram, of those that are not encrypted yet.
fn messages(mut datagram: &[u8]) -> Option<(u16, u16)> {
    let mut seen = None;
    while let Some((header, rest)) = datagram.split_at_checked(RECORD_HEADER) {
        let length = usize::from(u16::from_be_bytes([header[11], header[12]]));
        let (record, rest) = rest.split_at_checked(length)?;
        let plain = header[0] == 22 && header[3..5] == [0, 0];
        if let (true, Some(number)) = (plain, record.get(4..6)) {
            let number = u16::from_be_bytes([number[0], number[1]]);
            seen = Some(seen.map_or((number, number), |(first, _)| (first, number)));
        }
        datagram = rest;
    }
    seen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to() -> SocketAddr {
        ([127, 0, 0, 1], 9).into()
    }

    /// A datagram of plain handshake messages with these numbers.
    fn datagram(numbers: &[u16]) -> Vec<u8> {
        let record = |number: &u16| {
            let mut record = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 1, 0, 12];
            record.extend([1, 0, 0, 0]);
            record.extend(number.to_be_bytes());
            record.extend([0; 6]);
            record
        };
        numbers.iter().flat_map(record).collect()
    }

    #[test]
    fn a_flight_is_repeated_when_the_peer_repeats_itself() {
        let (mut flights, start) = (Flights::default(), Instant::now());
        assert!(flights.received(&datagram(&[0]), start).is_empty());
        flights.sent(b"\x16hello", to(), start);
        flights.sent(b"\x16certificate", to(), start);
        let later = start + SPACING;
        assert_eq!(flights.received(&datagram(&[0]), later), [b"\x16hello".to_vec(), b"\x16certificate".to_vec()]);
        assert!(flights.received(&datagram(&[0]), later).is_empty(), "once for all datagrams of a repetition");
        assert!(flights.received(&datagram(&[1, 2]), later).is_empty(), "their next flight");
        flights.sent(b"\x16done", to(), later);
        assert_eq!(flights.received(&datagram(&[1]), later + SPACING), [b"\x16done".to_vec()]);
    }

    #[test]
    fn a_flight_is_repeated_when_the_peer_stays_silent() {
        let (mut flights, start) = (Flights::default(), Instant::now());
        flights.sent(b"\x16hello", to(), start);
        assert_eq!(flights.due(start + SILENCE / 2), None);
        let again = flights.due(start + SILENCE).unwrap();
        assert_eq!(again, (vec![b"\x16hello".to_vec()], to()));
        flights.received(&datagram(&[0]), start + SILENCE);
        assert_eq!(flights.due(start + SILENCE * 9), None, "the next word is ours, and the library's to say");
    }

    #[test]
    fn nobody_can_make_a_socket_repeat_itself_for_ever() {
        let (mut flights, mut now) = (Flights::default(), Instant::now());
        flights.received(&datagram(&[0]), now);
        flights.sent(b"\x16hello", to(), now);
        let mut repeats = 0;
        for _ in 0..1_000 {
            now += SPACING;
            repeats += flights.received(&datagram(&[0]), now).len();
        }
        assert_eq!(repeats as u32, MAX_REPEATS);
    }

    proptest! {
        #[test]
        fn no_datagram_panics(datagram in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (is_handshake(&datagram), messages(&datagram));
        }
    }
}
