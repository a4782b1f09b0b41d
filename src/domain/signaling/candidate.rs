//! One ICE candidate and the rule which of a stranger's candidates we send packets to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

/// A candidate as it travels. No `Display`, and `Debug` hides it: it is somebody's address.
#[derive(Clone, PartialEq, Eq)]
pub struct Candidate {
    /// `candidate:<foundation> <component> udp <priority> <address> <port> typ <type> …`
    pub line: String,
    pub mid: Option<String>,
    pub line_index: Option<u16>,
    pub username_fragment: Option<String>,
}

impl Candidate {
    pub(super) fn to_json(&self) -> Value {
        let mut json = json!({"candidate": self.line, "sdpMid": self.mid, "sdpMLineIndex": self.line_index});
        if let Some(fragment) = &self.username_fragment {
            json["usernameFragment"] = fragment.as_str().into();
        }
        json
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Candidate({} bytes)", self.line.len())
    }
}

/// Which remote candidates are taken. Whoever holds a session's channel can name any address and have us knock
/// there, so in production only addresses a speaker can truly have are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CandidatePolicy {
    /// 127.0.0.0/8 and ::1, for development and tests on one machine.
    pub allow_loopback: bool,
    /// RFC 1918, 100.64.0.0/10 and fc00::/7: the speaker is on our own network. Off in a VPC, where these are our
    /// own subnets; a speaker behind NAT still comes in by its reflexive or relayed candidate.
    pub allow_private: bool,
}

impl CandidatePolicy {
    pub const PRODUCTION: CandidatePolicy = CandidatePolicy { allow_loopback: false, allow_private: false };
    pub const LOCAL: CandidatePolicy = CandidatePolicy { allow_loopback: true, allow_private: true };

    /// Whether packets may be sent to the candidate in `line` (with or without `candidate:` or `a=candidate:`).
    ///
    /// # Errors
    /// The [`Refusal`] to count.
    pub fn check(&self, line: &str) -> Result<(), Refusal> {
        let line = line.trim();
        // What parts words for the library (any white space of Unicode) must part them here too, or the two would read
        // different addresses.
        if !line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(Refusal::Malformed);
        }
        let line = line.strip_prefix("a=").unwrap_or(line);
        let line = line.strip_prefix("candidate:").unwrap_or(line);
        let mut words = line.split_ascii_whitespace();
        let (Some(_), Some(_), Some(transport), Some(_), Some(address), Some(port), Some("typ"), Some(_)) = (
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
        ) else {
            return Err(Refusal::Malformed);
        };
        if !transport.eq_ignore_ascii_case("udp") {
            return Err(Refusal::NotUdp);
        }
        if !matches!(port.parse::<u16>(), Ok(1..)) {
            return Err(Refusal::Malformed);
        }
        let address: IpAddr = address.parse().map_err(|_| Refusal::HostName)?;
        self.check_address(address)
    }

    fn check_address(&self, address: IpAddr) -> Result<(), Refusal> {
        match address {
            IpAddr::V4(v4) => self.check_v4(v4),
            IpAddr::V6(v6) => match embedded_v4(v6) {
                Some(v4) => self.check_v4(v4),
                None => self.check_v6(v6),
            },
        }
    }

    fn check_v4(&self, a: Ipv4Addr) -> Result<(), Refusal> {
        let [first, second, ..] = a.octets();
        match () {
            _ if first == 0 => Err(Refusal::Unspecified),
            _ if a.is_loopback() && !self.allow_loopback => Err(Refusal::Loopback),
            _ if a.is_link_local() => Err(Refusal::LinkLocal),
            _ if a.is_multicast() || first >= 240 => Err(Refusal::Multicast),
            _ if (a.is_private() || first == 100 && second & 0xc0 == 64) && !self.allow_private => {
                Err(Refusal::Private)
            }
            _ => Ok(()),
        }
    }

    fn check_v6(&self, a: Ipv6Addr) -> Result<(), Refusal> {
        // Where AWS answers metadata requests over IPv6; a private address, but never a speaker's.
        const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
        match () {
            _ if a.is_unspecified() => Err(Refusal::Unspecified),
            _ if a.is_loopback() && !self.allow_loopback => Err(Refusal::Loopback),
            _ if a.is_unicast_link_local() => Err(Refusal::LinkLocal),
            _ if a.is_multicast() => Err(Refusal::Multicast),
            _ if a == METADATA => Err(Refusal::Metadata),
            _ if a.is_unique_local() && !self.allow_private => Err(Refusal::Private),
            _ => Ok(()),
        }
    }
}

/// The IPv4 address an IPv6 one stands for: mapped, compatible, NAT64 and 6to4 all reach it.
fn embedded_v4(a: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = a.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// Why a candidate was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("not a candidate line")]
    Malformed,
    #[error("a host name; names are never resolved")]
    HostName,
    #[error("not UDP")]
    NotUdp,
    #[error("a loopback address")]
    Loopback,
    #[error("a link-local or metadata address")]
    LinkLocal,
    #[error("a metadata address")]
    Metadata,
    #[error("a multicast, broadcast or reserved address")]
    Multicast,
    #[error("an unspecified address")]
    Unspecified,
    #[error("an address of a private network")]
    Private,
    #[error("more candidates than any peer has")]
    TooMany,
    #[error("a candidate of another negotiation")]
    Foreign,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(address: &str) -> String {
        format!("candidate:1 1 UDP 2122194687 {address} 38332 typ host generation 0")
    }

    #[test]
    fn addresses_no_speaker_can_have_are_refused() {
        for (address, refusal) in [
            ("127.0.0.1", Refusal::Loopback),
            ("::1", Refusal::Loopback),
            ("::ffff:127.0.0.1", Refusal::Loopback),
            ("64:ff9b::7f00:1", Refusal::Loopback),
            ("2002:7f00:1::", Refusal::Loopback),
            ("169.254.169.254", Refusal::LinkLocal),
            ("169.254.170.2", Refusal::LinkLocal),
            ("::ffff:169.254.169.254", Refusal::LinkLocal),
            ("fe80::1", Refusal::LinkLocal),
            ("fd00:ec2::254", Refusal::Metadata),
            ("224.0.0.251", Refusal::Multicast),
            ("255.255.255.255", Refusal::Multicast),
            ("ff02::fb", Refusal::Multicast),
            ("0.0.0.0", Refusal::Unspecified),
            ("::", Refusal::Unspecified),
            ("10.0.0.7", Refusal::Private),
            ("172.31.22.1", Refusal::Private),
            ("100.64.0.1", Refusal::Private),
            ("fd12::1", Refusal::Private),
            ("3f6a8c1e-8a3e.local", Refusal::HostName),
            ("example.com", Refusal::HostName),
            ("127.1", Refusal::HostName),
        ] {
            assert_eq!(CandidatePolicy::PRODUCTION.check(&line(address)), Err(refusal), "{address}");
        }
        for address in ["203.0.113.9", "2001:db8::1", "::ffff:203.0.113.9"] {
            assert_eq!(CandidatePolicy::PRODUCTION.check(&line(address)), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_laptop_may_allow_itself() {
        for address in ["127.0.0.1", "::1", "192.168.1.5"] {
            assert_eq!(CandidatePolicy::LOCAL.check(&line(address)), Ok(()), "{address}");
        }
        assert_eq!(CandidatePolicy::LOCAL.check(&line("169.254.169.254")), Err(Refusal::LinkLocal));
    }

    #[test]
    fn tcp_and_nonsense_are_refused() {
        let tcp = "candidate:1 1 tcp 1518214911 203.0.113.9 9 typ host tcptype active";
        assert_eq!(CandidatePolicy::LOCAL.check(tcp), Err(Refusal::NotUdp));
        for text in
            ["", "candidate:", "candidate:1 1 udp 1 203.0.113.9 0 typ host", "a=candidate:1 1 udp 1 203.0.113.9"]
        {
            assert_eq!(CandidatePolicy::LOCAL.check(text), Err(Refusal::Malformed), "{text}");
        }
    }

    #[test]
    fn a_line_that_two_readers_would_part_differently_is_refused() {
        for space in ["\u{a0}", "\u{2003}", "\u{b}", "\t"] {
            let hidden = ["1", "1", "udp", "1", "169.254.169.254", "80", "typ", "host"].join(space);
            let line = format!("candidate:{hidden} 1 udp 1 203.0.113.9 9 typ host");
            assert_eq!(CandidatePolicy::LOCAL.check(&line), Err(Refusal::Malformed), "{space:?}");
        }
    }

    #[test]
    fn a_candidate_does_not_show_its_address() {
        let candidate = Candidate { line: line("203.0.113.9"), mid: None, line_index: None, username_fragment: None };
        assert!(!format!("{candidate:?}").contains("203.0"));
    }

    proptest! {
        #[test]
        fn no_line_panics(text in ".{0,200}") {
            let _ = CandidatePolicy::PRODUCTION.check(&text);
        }

        #[test]
        fn what_production_takes_is_global_unicast(bits in any::<u32>()) {
            let a = Ipv4Addr::from_bits(bits);
            if CandidatePolicy::PRODUCTION.check(&line(&a.to_string())).is_ok() {
                prop_assert!(!(a.is_loopback() || a.is_private() || a.is_link_local() || a.is_multicast()));
                prop_assert!(!(a.is_unspecified() || a.is_broadcast()));
            }
        }
    }
}
