//! How much one address, one connection and all together may ask.
//!
//! The number of addresses remembered has a bound: a flood from more of them shares one bucket.

use std::collections::HashMap;
use std::hash::Hash;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, Shutdown};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::rate::{Bucket, Rate};
use babelcast_domain::seldom::Seldom;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;

use super::error::{Refusal, Refused};
use super::{House, wall};

/// Addresses remembered at once.
const ADDRESSES: usize = 1 << 16;
/// Said to a connection there is no room for, before it has said anything.
const NO_ROOM: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// How much is too much. 0: no limit.
///
/// A lecture hall shares one address, so what an honest audience does in a minute must pass; guesses are what an
/// honest audience does not make.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Connections to this node at once.
    pub connections: usize,
    pub connections_per_address: usize,
    /// HTTP requests of one address, WebSockets and probes not counted.
    pub requests_per_second: u32,
    pub requests_burst: u32,
    /// Attempts of one address to join a session.
    pub joins_per_second: u32,
    pub joins_burst: u32,
    /// Unknown session ids and wrong access codes of one address; past it all its looks at sessions wait.
    pub guesses_per_minute: u32,
    /// Messages and pings of one socket.
    pub messages_per_second: u32,
    pub messages_burst: u32,
}

impl Default for LimitSettings {
    fn default() -> Self {
        LimitSettings {
            connections: 20_000,
            connections_per_address: 10_000,
            requests_per_second: 500,
            requests_burst: 1_000,
            joins_per_second: 1_000,
            joins_burst: 2_000,
            guesses_per_minute: 60,
            messages_per_second: 20,
            messages_burst: 60,
        }
    }
}

impl LimitSettings {
    /// For benches and tests that measure something else.
    pub const OFF: LimitSettings = LimitSettings {
        connections: 0,
        connections_per_address: 0,
        requests_per_second: 0,
        requests_burst: 0,
        joins_per_second: 0,
        joins_burst: 0,
        guesses_per_minute: 0,
        messages_per_second: 0,
        messages_burst: 0,
    };
}

/// Who is asking, as far as the network can tell: an IPv4 address, or the /64 that an IPv6 household has. Not printable.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Address(IpAddr);

impl Address {
    fn of(ip: IpAddr) -> Self {
        Address(match ip.to_canonical() {
            IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & !u128::from(u64::MAX)).into(),
            four => four,
        })
    }
}

/// Whose connection a request came over.
#[derive(Clone)]
pub(super) struct Peer {
    address: Address,
    place: Arc<Place>,
}

/// One open connection, counted until it is dropped.
pub(super) struct Place {
    limits: Arc<Limits>,
    address: Option<Address>,
    /// Behind a load balancer: the connection this socket came over, which counts by itself.
    connection: Option<Arc<Place>>,
}

/// A bucket for each of many, of whom at most [`ADDRESSES`] are remembered.
struct Buckets<K> {
    rate: Option<Rate>,
    known: Mutex<Known<K>>,
}

struct Known<K> {
    of: HashMap<K, Bucket>,
    /// What those share of whom there are too many.
    crowd: Bucket,
    swept_at: Instant,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(rate: Option<Rate>) -> Self {
        let now = Instant::now();
        Buckets { rate, known: Mutex::new(Known { of: HashMap::new(), crowd: Bucket::full(now), swept_at: now }) }
    }

    fn take(&self, key: K, now: Instant) -> Result<(), Duration> {
        self.with(key, now, Bucket::take).unwrap_or(Ok(()))
    }

    fn charge(&self, key: K, now: Instant) {
        self.with(key, now, Bucket::charge).unwrap_or_default();
    }

    fn wait(&self, key: &K, now: Instant) -> Option<Duration> {
        let rate = self.rate?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.of.get(key).and_then(|bucket| bucket.wait(rate, now))
    }

    fn with<T>(&self, key: K, now: Instant, act: impl FnOnce(&mut Bucket, Rate, Instant) -> T) -> Option<T> {
        let rate = self.rate?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Some(act(known.bucket(key, now), rate, now))
    }
}

impl<K: Eq + Hash> Known<K> {
    fn bucket(&mut self, key: K, now: Instant) -> &mut Bucket {
        if self.of.len() >= ADDRESSES && now.duration_since(self.swept_at) >= Duration::from_secs(1) {
            self.swept_at = now;
            self.of.retain(|_, bucket| !bucket.is_full(now));
        }
        if self.of.len() >= ADDRESSES && !self.of.contains_key(&key) {
            return &mut self.crowd;
        }
        self.of.entry(key).or_insert(Bucket::full(now))
    }
}

/// The limits of this node and where everybody stands.
pub(super) struct Limits {
    settings: LimitSettings,
    trusted_hops: usize,
    counts: Arc<Counts>,
    requests: Buckets<Address>,
    joins: Buckets<Address>,
    guesses: Buckets<Address>,
    connections: AtomicUsize,
    connected: Mutex<HashMap<Address, usize>>,
    /// Lines of the log, by what was refused.
    lines: [(Count, Seldom); 6],
}

impl Limits {
    pub fn new(settings: LimitSettings, trusted_hops: usize, counts: Arc<Counts>) -> Arc<Self> {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let guesses = settings.guesses_per_minute;
        let lines = [
            Count::ConnectionsRefused,
            Count::RequestsLimited,
            Count::JoinsLimited,
            Count::GuessesLimited,
            Count::MessagesLimited,
            Count::OriginsRefused,
        ];
        Arc::new(Limits {
            requests: Buckets::new(Rate::new(settings.requests_per_second, second, settings.requests_burst)),
            joins: Buckets::new(Rate::new(settings.joins_per_second, second, settings.joins_burst)),
            guesses: Buckets::new(Rate::new(guesses, minute, guesses)),
            connections: AtomicUsize::new(0),
            connected: Mutex::default(),
            lines: lines.map(|count| (count, Seldom::default())),
            settings,
            trusted_hops,
            counts,
        })
    }

    /// How many messages a socket may send.
    pub fn messages(&self) -> Option<Rate> {
        Rate::new(self.settings.messages_per_second, Duration::from_secs(1), self.settings.messages_burst)
    }

    /// Something was refused: counted, and told once in a while.
    pub fn refused(&self, what: Count) {
        self.counts.one(what);
        let line = self.lines.iter().find(|(count, _)| *count == what);
        if let Some(times) = line.and_then(|(_, seldom)| seldom.again(wall())) {
            tracing::warn!(limit = what.name(), times, "refused");
        }
    }

    /// A new connection; `None` when there is no room. Behind a load balancer its address says nothing.
    pub fn connect(self: &Arc<Self>, from: IpAddr) -> Option<Peer> {
        let address = Address::of(from);
        let counted = (self.trusted_hops == 0).then_some(address);
        let most = self.settings.connections;
        if self.connections.fetch_add(1, Ordering::Relaxed) >= most && most > 0 {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            self.refused(Count::ConnectionsRefused);
            return None;
        }
        // Made before the address is looked at: dropped again, it gives back what it has taken.
        let mut place = Place { limits: Arc::clone(self), address: None, connection: None };
        place.address = match counted.map(|address| self.count_in(address)) {
            Some(None) => return None,
            counted => counted.flatten(),
        };
        Some(Peer { address, place: Arc::new(place) })
    }

    /// What a socket holds for as long as it lives: the place of its connection, or behind a load balancer one for the
    /// address that it says.
    ///
    /// # Errors
    /// `RATE_LIMITED` beside the place when the address has too many.
    pub fn socket(self: &Arc<Self>, peer: &Peer, address: Address) -> (Arc<Place>, Result<(), Problem>) {
        let connection = Arc::clone(&peer.place);
        if self.trusted_hops == 0 {
            return (connection, Ok(()));
        }
        let Some(address) = self.count_in(address) else {
            return (connection, Err(too_many("connections from your network", Duration::from_secs(5))));
        };
        let limits = Arc::clone(self);
        (Arc::new(Place { limits, address: Some(address), connection: Some(connection) }), Ok(()))
    }

    fn count_in(&self, address: Address) -> Option<Address> {
        let most = self.settings.connections_per_address;
        {
            let mut connected = self.connected();
            let open = connected.entry(address).or_default();
            if most == 0 || *open < most {
                *open += 1;
                return Some(address);
            }
        }
        self.refused(Count::ConnectionsRefused);
        None
    }

    /// # Errors
    /// `RATE_LIMITED` with `retryAfterMs`.
    pub fn join(&self, address: Address, now: Instant) -> Result<(), Problem> {
        self.look(address, now)?;
        self.joins.take(address, now).map_err(|wait| {
            self.refused(Count::JoinsLimited);
            too_many("joins from your network", wait)
        })
    }

    /// Whether an address may look at sessions: not for a while after it has guessed too often.
    ///
    /// # Errors
    /// `RATE_LIMITED` with `retryAfterMs`.
    pub fn look(&self, address: Address, now: Instant) -> Result<(), Problem> {
        let Some(wait) = self.guesses.wait(&address, now) else { return Ok(()) };
        self.refused(Count::GuessesLimited);
        Err(too_many("unknown sessions or wrong codes from your network", wait))
    }

    /// Somebody asked for a session that never was, or gave a wrong access code.
    pub fn guessed(&self, address: Address, now: Instant) {
        self.counts.one(Count::Guesses);
        self.guesses.charge(address, now);
    }

    fn request(&self, address: Address, now: Instant) -> Result<(), Problem> {
        self.requests.take(address, now).map_err(|wait| {
            self.refused(Count::RequestsLimited);
            too_many("requests from your network", wait)
        })
    }

    /// Who is asking. Every trusted hop adds one address at the right end of `X-Forwarded-For`, so the entry that the
    /// outermost of them wrote is so many from the right; what stands left of it anybody may have written.
    pub fn address(&self, peer: &Peer, headers: &HeaderMap) -> Address {
        let Some(from_the_right) = self.trusted_hops.checked_sub(1) else { return peer.address };
        let lists = headers.get_all("x-forwarded-for").iter().rev();
        let mut entries = lists.flat_map(|list| list.to_str().unwrap_or_default().rsplit(','));
        entries.nth(from_the_right).and_then(ip).map_or(peer.address, Address::of)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn connected(&self) -> MutexGuard<'_, HashMap<Address, usize>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.connection.is_none() {
            self.limits.connections.fetch_sub(1, Ordering::Relaxed);
        }
        let Some(address) = self.address else { return };
        let mut connected = self.limits.connected();
        if let Some(open) = connected.get_mut(&address) {
            *open -= 1;
            if *open == 0 {
                connected.remove(&address);
            }
        }
    }
}

/// Whether an answer tells a guesser that the guess was wrong. An ended session was known to whoever asks for it.
pub(super) fn is_guess(problem: &Problem) -> bool {
    let Some(details) = &problem.details else { return false };
    match problem.code {
        ErrorCode::SessionNotFound => details["status"] == "unknown",
        ErrorCode::Forbidden => details["reason"] == "accessCode" && details["given"] == true,
        _ => false,
    }
}

/// Before every request: who asks, and not too often.
pub(super) async fn guard(State(house): State<Arc<House>>, mut request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>() else {
        tracing::error!("a request without a connection");
        return Refusal::from(super::internal()).into_response();
    };
    let (limits, address) = (&house.limits, house.limits.address(peer, request.headers()));
    request.extensions_mut().insert(address);
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
    if route.starts_with("/ws") || route.starts_with("/health/") {
        return next.run(request).await;
    }
    let names_session = route.starts_with("/sessions/{id}");
    let now = Instant::now();
    let allowed = limits.request(address, now);
    let allowed = allowed.and_then(|()| if names_session { limits.look(address, now) } else { Ok(()) });
    if let Err(problem) = allowed {
        return Refusal::from(problem).into_response();
    }
    let response = next.run(request).await;
    if names_session && response.extensions().get::<Refused>().is_some_and(|refused| refused.guess) {
        limits.guessed(address, Instant::now());
    }
    response
}

/// Tells a connection there is no room for it, without waiting for anything.
pub(super) fn turn_away(stream: TcpStream) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(NO_ROOM);
        let _ = stream.shutdown(Shutdown::Write);
    }
}

pub(super) fn too_many(what: &str, wait: Duration) -> Problem {
    let wait = (wait.as_millis() as u64).max(1);
    let message = format!("Too many {what}; try again in {} s", wait.div_ceil(1_000));
    Problem::new(ErrorCode::RateLimited, message).with(json!({ "retryAfterMs": wait }))
}

/// An entry of `X-Forwarded-For`; some proxies add the port.
fn ip(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let socket = || entry.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip());
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    entry.parse().ok().or_else(socket).or_else(bracketed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(change: impl FnOnce(&mut LimitSettings), trusted_hops: usize) -> Arc<Limits> {
        let mut settings = LimitSettings::OFF;
        change(&mut settings);
        Limits::new(settings, trusted_hops, Arc::default())
    }

    fn address(text: &str) -> Address {
        Address::of(text.parse().unwrap())
    }

    #[tokio::test]
    async fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let limits = limits(|settings| (settings.joins_per_second, settings.joins_burst) = (10, 5), 0);
        let mut now = Instant::now();
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..5 {
            limits.join(one, now).unwrap();
        }
        let problem = limits.join(one, now).unwrap_err();
        assert_eq!((problem.code, &problem.details.unwrap()["retryAfterMs"]), (ErrorCode::RateLimited, &json!(100)));
        limits.join(other, now).unwrap();
        now += Duration::from_millis(100);
        limits.join(one, now).unwrap();
        assert!(limits.join(one, now).is_err());
        now += Duration::from_secs(3_600);
        assert_eq!(
            (0..9).filter(|_| limits.join(one, now).is_ok()).count(),
            5,
            "an hour saves up no more than the burst"
        );
        assert_eq!(limits.counts.get(Count::JoinsLimited), 6);
    }

    #[tokio::test]
    async fn who_guesses_too_often_may_not_even_look_for_a_while() {
        let limits = limits(|settings| settings.guesses_per_minute = 60, 0);
        let mut now = Instant::now();
        let (guesser, honest) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..60 {
            limits.look(guesser, now).unwrap();
            limits.guessed(guesser, now);
        }
        assert!(limits.join(guesser, now).is_err(), "joins are looks");
        limits.look(honest, now).unwrap();
        // Guesses that were on their way all at once cost their time, but not for ever.
        for _ in 0..100_000 {
            limits.guessed(guesser, now);
        }
        now += Duration::from_secs(61);
        assert!(limits.look(guesser, now).is_ok());
        limits.guessed(guesser, now);
        assert!(limits.look(guesser, now).is_err(), "one a second from now on");
    }

    #[tokio::test]
    async fn a_flood_of_addresses_is_remembered_up_to_a_bound() {
        let limits = limits(|settings| (settings.requests_per_second, settings.requests_burst) = (1, 2), 0);
        let mut now = Instant::now();
        for n in 0..(ADDRESSES as u32 * 2) {
            let _ = limits.request(Address::of(std::net::Ipv4Addr::from_bits(n).into()), now);
        }
        let known = limits.requests.known.lock().unwrap().of.len();
        assert_eq!(known, ADDRESSES);
        assert!(limits.request(address("2001:db8::1"), now).is_err(), "newcomers share what is left");
        now += Duration::from_secs(5);
        limits.request(address("2001:db8::1"), now).unwrap();
        assert_eq!(limits.requests.known.lock().unwrap().of.len(), 1);
    }

    #[tokio::test]
    async fn connections_are_counted_by_address_and_in_all_until_they_end() {
        let limits = limits(|settings| (settings.connections, settings.connections_per_address) = (3, 2), 0);
        let from = |text: &str| limits.connect(text.parse().unwrap());
        let (one, _two) = (from("192.0.2.1").unwrap(), from("192.0.2.1").unwrap());
        assert!(from("192.0.2.1").is_none());
        let _three = from("192.0.2.2").unwrap();
        assert!(from("192.0.2.3").is_none());
        drop(one);
        assert!(from("192.0.2.1").is_some(), "and what was refused holds nothing");
        assert_eq!(limits.counts.get(Count::ConnectionsRefused), 2);
    }

    #[tokio::test]
    async fn the_address_is_the_one_the_outermost_trusted_hop_wrote() {
        let header = |lists: &[&str]| {
            let lists = lists.iter().map(|list| ("x-forwarded-for".parse().unwrap(), list.parse().unwrap()));
            lists.collect::<HeaderMap>()
        };
        let of = |hops: usize, lists: &[&str]| {
            let limits = limits(|_| {}, hops);
            let peer = limits.connect("10.0.0.9".parse().unwrap()).unwrap();
            limits.address(&peer, &header(lists)).0.to_string()
        };
        let forged = ["1.1.1.1, 2.2.2.2", "3.3.3.3"];
        assert_eq!(of(0, &forged), "10.0.0.9", "nobody is believed by default");
        assert_eq!(of(1, &forged), "3.3.3.3");
        assert_eq!(of(2, &forged), "2.2.2.2");
        assert_eq!(of(9, &forged), "10.0.0.9", "so many hops it did not come over");
        assert_eq!(of(1, &[]), "10.0.0.9");
        assert_eq!(of(1, &["1.1.1.1, unknown"]), "10.0.0.9");
        assert_eq!(of(1, &["198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(of(1, &["[2001:db8:1:2:3:4:5:6]:443"]), "2001:db8:1:2::");
        assert_eq!(of(1, &["2001:db8:1:2:3:4:5:6"]), "2001:db8:1:2::", "a household is one");
        assert_eq!(of(1, &["::ffff:198.51.100.7"]), "198.51.100.7");
    }

    #[tokio::test]
    async fn behind_a_load_balancer_sockets_are_counted_by_the_address_it_names() {
        let limits = limits(|settings| settings.connections_per_address = 1, 1);
        let peers: Vec<Peer> = (0..5).map(|_| limits.connect("10.0.0.9".parse().unwrap()).unwrap()).collect();
        let (held, admitted) = limits.socket(&peers[0], address("192.0.2.1"));
        assert!(admitted.is_ok());
        assert!(limits.socket(&peers[1], address("192.0.2.1")).1.is_err());
        assert!(limits.socket(&peers[1], address("192.0.2.2")).1.is_ok());
        drop(held);
        assert!(limits.socket(&peers[1], address("192.0.2.1")).1.is_ok());
        drop(peers);
        assert_eq!(limits.connections.load(Ordering::Relaxed), 0);
    }
}
