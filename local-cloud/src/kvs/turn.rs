//! A TURN server that refuses: one UDP socket which answers STUN Binding and turns every Allocate down.
//!
//! `GetIceServerConfig` has to name a server (the C SDK refuses an empty list), and on loopback nobody needs
//! a relay. So clients gather quickly: 401 with realm and nonce to the first Allocate, 508 (Insufficient
//! Capacity) to the authenticated one. Wire form: RFC 8489 and RFC 8656. Absent on purpose: relaying,
//! checking the password, TCP, TLS, FINGERPRINT.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use tokio::net::UdpSocket;

const COOKIE: u32 = 0x2112_A442;
const REALM: &[u8] = b"local-cloud";
const NONCE: &[u8] = b"local-cloud-nonce";
/// A STUN message longer than this is none of ours.
const MAX_DATAGRAM: usize = 1500;

const BINDING_REQUEST: u16 = 0x0001;
const ALLOCATE_REQUEST: u16 = 0x0003;
const SUCCESS: u16 = 0x0100;
const ERROR: u16 = 0x0110;
/// The two class bits: a request has neither.
const CLASS: u16 = 0x0110;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const REALM_ATTRIBUTE: u16 = 0x0014;
const NONCE_ATTRIBUTE: u16 = 0x0015;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;

/// Makes passwords that the responder can derive again from the user name alone.
#[derive(Clone)]
pub(super) struct Passwords(Arc<hmac::Key>);

impl Passwords {
    pub fn new() -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>())))
    }

    pub fn of(&self, username: &str) -> String {
        STANDARD.encode(hmac::sign(&self.0, username.as_bytes()).as_ref())
    }
}

/// Answers datagrams until it is dropped.
pub(super) async fn respond(socket: UdpSocket, passwords: Passwords) {
    let mut buffer = [0u8; MAX_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let Some(answer) = answer(&buffer[..length], from, &passwords) else {
                    tracing::debug!(turn.bytes = length, "datagram is no STUN request: ignored");
                    continue;
                };
                if let Err(error) = socket.send_to(&answer, from).await {
                    tracing::debug!(%error, "STUN answer could not be sent");
                }
            }
            // An ICMP "port unreachable" of an earlier answer surfaces here; the socket itself is well.
            Err(error) => {
                tracing::debug!(%error, "STUN socket could not be read");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// The answer to one datagram; `None` for anything but a well-formed STUN request.
fn answer(datagram: &[u8], from: SocketAddr, passwords: &Passwords) -> Option<Vec<u8>> {
    let request = Request::parse(datagram)?;
    let mut reply = Reply::new(&request);
    match request.kind {
        BINDING_REQUEST => reply.mapped_address(from),
        ALLOCATE_REQUEST if !request.has_integrity => {
            reply.error(401, "Unauthorized");
            reply.attribute(REALM_ATTRIBUTE, REALM);
            reply.attribute(NONCE_ATTRIBUTE, NONCE);
        }
        ALLOCATE_REQUEST => {
            reply.error(508, "Insufficient Capacity");
            reply.integrity(request.username, passwords);
        }
        _ => {
            reply.error(437, "Allocation Mismatch");
            reply.integrity(request.username, passwords);
        }
    }
    Some(reply.bytes)
}

struct Request<'a> {
    kind: u16,
    transaction: [u8; 12],
    username: &'a str,
    has_integrity: bool,
}

impl<'a> Request<'a> {
    fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, mut rest) = datagram.split_at_checked(20)?;
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let cookie = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if kind & 0xC000 != 0 || kind & CLASS != 0 || cookie != COOKIE || length != rest.len() || length % 4 != 0 {
            return None;
        }
        let mut request =
            Self { kind, transaction: header[8..20].try_into().ok()?, username: "", has_integrity: false };
        while let Some((head, tail)) = rest.split_at_checked(4) {
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let (value, _) = tail.split_at_checked(length)?;
            match u16::from_be_bytes([head[0], head[1]]) {
                USERNAME => request.username = std::str::from_utf8(value).ok()?,
                MESSAGE_INTEGRITY => request.has_integrity = true,
                _ => {}
            }
            rest = tail.get(length.next_multiple_of(4)..)?;
        }
        Some(request)
    }
}

struct Reply {
    bytes: Vec<u8>,
}

impl Reply {
    /// A success; [`Self::error`] makes it an error.
    fn new(request: &Request<'_>) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&(request.kind | SUCCESS).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&COOKIE.to_be_bytes());
        bytes.extend_from_slice(&request.transaction);
        Self { bytes }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len()).expect("our attributes are short");
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.set_length(0);
    }

    fn set_length(&mut self, still_to_come: usize) {
        let length = u16::try_from(self.bytes.len() - 20 + still_to_come).expect("our messages are short");
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
    }

    fn error(&mut self, code: u16, reason: &str) {
        let kind = u16::from_be_bytes([self.bytes[0], self.bytes[1]]) | ERROR;
        self.bytes[..2].copy_from_slice(&kind.to_be_bytes());
        let mut value = vec![0, 0, (code / 100) as u8, (code % 100) as u8];
        value.extend_from_slice(reason.as_bytes());
        self.attribute(ERROR_CODE, &value);
    }

    fn mapped_address(&mut self, from: SocketAddr) {
        let port = from.port() ^ (COOKIE >> 16) as u16;
        let mut mask = COOKIE.to_be_bytes().to_vec();
        mask.extend_from_slice(&self.bytes[8..20]);
        let (family, address) = match from.ip() {
            IpAddr::V4(address) => (1u8, address.octets().to_vec()),
            IpAddr::V6(address) => (2u8, address.octets().to_vec()),
        };
        let mut value = vec![0, family];
        value.extend_from_slice(&port.to_be_bytes());
        value.extend(address.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
        self.attribute(XOR_MAPPED_ADDRESS, &value);
    }

    /// MESSAGE-INTEGRITY with the long-term key of this user, as clients that authenticated expect it.
    fn integrity(&mut self, username: &str, passwords: &Passwords) {
        let realm = String::from_utf8_lossy(REALM);
        let key = Md5::digest(format!("{username}:{realm}:{}", passwords.of(username)));
        self.set_length(24);
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
        let tag = hmac::sign(&key, &self.bytes);
        self.attribute(MESSAGE_INTEGRITY, tag.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let head = Request { kind, transaction: *b"transactions", username: "", has_integrity: false };
        let mut message = Reply::new(&head);
        message.bytes[..2].copy_from_slice(&kind.to_be_bytes());
        for (kind, value) in attributes {
            message.attribute(*kind, value);
        }
        message.bytes
    }

    fn from() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 32853))
    }

    #[test]
    fn binding_tells_the_mapped_address() {
        // The address and port of RFC 5769's sample response, section 2.2.
        let reply = answer(&request(BINDING_REQUEST, &[]), from(), &Passwords::new()).expect("an answer");
        assert_eq!(reply[..2], [0x01, 0x01]);
        assert_eq!(reply[8..20], *b"transactions");
        assert_eq!(reply[20..], [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
    }

    #[test]
    fn allocate_is_asked_for_credentials_and_then_refused() {
        let passwords = Passwords::new();
        let first = answer(&request(ALLOCATE_REQUEST, &[]), from(), &passwords).expect("an answer");
        assert_eq!(first[..2], [0x01, 0x13]);
        assert_eq!(first[24..28], [0, 0, 4, 1]);
        let attributes: &[(u16, &[u8])] = &[(USERNAME, b"1700000000:viewer"), (MESSAGE_INTEGRITY, &[0; 20])];
        let second = answer(&request(ALLOCATE_REQUEST, attributes), from(), &passwords).expect("an answer");
        assert_eq!(second[..2], [0x01, 0x13]);
        assert_eq!(second[24..28], [0, 0, 5, 8]);
        let (signed, tag) = second.split_at(second.len() - 24);
        assert_eq!(tag[..4], [0, 8, 0, 20]);
        let key = Md5::digest(format!("1700000000:viewer:local-cloud:{}", passwords.of("1700000000:viewer")));
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
        assert!(hmac::verify(&key, signed, &tag[4..]).is_ok());
    }

    #[test]
    fn indications_and_strangers_get_no_answer() {
        let passwords = Passwords::new();
        assert_eq!(answer(&request(0x0011, &[]), from(), &passwords), None);
        assert_eq!(answer(b"GET / HTTP/1.1\r\n\r\n--", from(), &passwords), None);
        assert_eq!(answer(&request(BINDING_REQUEST, &[])[..19], from(), &passwords), None);
    }

    proptest! {
        #[test]
        fn no_datagram_makes_the_responder_panic(
            kind in any::<u16>(), body in proptest::collection::vec(any::<u8>(), 0..120), whole in any::<bool>(),
        ) {
            let mut datagram = request(kind & 0x3EEF, &[]);
            datagram.extend_from_slice(&body);
            let length = u16::try_from(body.len()).expect("short");
            datagram[2..4].copy_from_slice(&length.to_be_bytes());
            let _ = answer(if whole { &datagram } else { &body }, from(), &Passwords::new());
        }
    }
}
