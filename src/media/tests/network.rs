//! A bad network between viewer and master: a UDP proxy that both take for the other, and that loses packets of
//! every kind, STUN and DTLS too. This kernel has no netem.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[derive(Clone, Debug)]
pub struct Network {
    percent: u32,
    burst: u32,
    seed: u64,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    swallow: AtomicBool,
    viewer_port: AtomicU16,
}

impl Network {
    pub fn losing(percent: u32) -> Network {
        Network { percent, burst: 1, seed: 1, state: Arc::default() }
    }

    /// The same share of loss, in runs of this many packets.
    pub fn in_bursts_of(self, burst: u32) -> Network {
        Network { burst, ..self }
    }

    /// Other losses of the same share.
    pub fn by_dice(self, seed: u64) -> Network {
        Network { seed, ..self }
    }

    pub fn swallow_all(&self, swallow: bool) {
        self.state.swallow.store(swallow, Ordering::Relaxed);
    }

    /// The offer with the proxy's address in place of the viewer's.
    pub fn between(&self, offer: &str) -> String {
        let line = offer.lines().find(|line| line.starts_with("a=candidate:") && line.contains(" 127.0.0.1 ")).unwrap();
        let port: u16 = line.split_whitespace().nth(5).unwrap().parse().unwrap();
        self.state.viewer_port.store(port, Ordering::Relaxed);
        let proxy = UdpSocket::bind("127.0.0.1:0").unwrap();
        let shown = line.replace(&format!(" {port} "), &format!(" {} ", proxy.local_addr().unwrap().port()));
        let network = self.clone();
        std::thread::spawn(move || network.run(&proxy, ([127, 0, 0, 1], port).into()));
        format!("{}{shown}\r\n", Self::hide(offer))
    }

    /// A description without candidates: its sender is met only where it is seen from.
    pub fn hide(sdp: &str) -> String {
        sdp.lines()
            .filter(|line| !line.starts_with("a=candidate:"))
            .fold(String::new(), |text, line| text + line + "\r\n")
    }

    /// Sends so many packets of garbage to the viewer, over a second or so.
    pub async fn flood(&self, packets: u32) {
        let port = self.state.viewer_port.load(Ordering::Relaxed);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut dice = StdRng::seed_from_u64(1);
        for n in 0..packets {
            // The first byte decides whether it is taken for STUN, DTLS or RTP.
            let mut packet: Vec<u8> = (0..dice.random_range(1..200)).map(|_| dice.random()).collect();
            packet[0] = [0, 22, 128, 144][n as usize % 4];
            let _ = socket.send_to(&packet, ("127.0.0.1", port));
            if n % 20 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    fn run(&self, proxy: &UdpSocket, viewer: SocketAddr) {
        proxy.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (mut dice, mut losing) = (StdRng::seed_from_u64(self.seed), 0);
        let (mut master, mut packet) = (None, [0; 2_000]);
        while let Ok((length, from)) = proxy.recv_from(&mut packet) {
            // The master's sockets on other interfaces would need a mapping each, as in a real NAT; one is enough.
            if from != viewer && *master.get_or_insert(from) != from {
                continue;
            }
            let to = if from == viewer { master } else { Some(viewer) };
            if losing == 0 && dice.random_range(0..100 * self.burst) < self.percent {
                losing = self.burst;
            }
            if losing > 0 {
                losing -= 1;
            } else if let Some(to) = to
                && !self.state.swallow.load(Ordering::Relaxed)
            {
                let _ = proxy.send_to(&packet[..length], to);
            }
        }
    }
}
