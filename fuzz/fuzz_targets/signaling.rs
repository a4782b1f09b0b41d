//! What a stranger on the signaling channel may send: frames, descriptions, candidates. Nothing may panic, nothing that
//! the policy refuses may reach the WebRTC library, and an attempt's talk keeps its order.

#![no_main]

use std::io::Cursor;
use std::net::IpAddr;
use std::time::Duration;

use babelcast_domain::signaling::exchange::{Exchange, MAX_CANDIDATES, Step};
use babelcast_domain::signaling::{self, CandidatePolicy, MAX_FRAME, Message, Received, Sdp};
use libfuzzer_sys::fuzz_target;
use rtc_sdp::SessionDescription;

const CLIENT: &str = "viewer-1";

#[derive(Debug, arbitrary::Arbitrary)]
struct Input<'a> {
    local: bool,
    /// Whole frames, and contents that are framed as the service would.
    frames: Vec<Frame<'a>>,
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Frame<'a> {
    Raw(&'a str),
    Answer(&'a str),
    Description { lines: Vec<Line<'a>> },
    Candidate(&'a str),
    Address { address: IpAddr, port: u16 },
    Offered,
    Tick(u16),
}

/// Parts that make a description more or less whole.
#[derive(Debug, arbitrary::Arbitrary)]
enum Line<'a> {
    Version,
    Audio,
    Opus,
    Fingerprint,
    User,
    Password,
    Inactive,
    Candidate(IpAddr),
    Text(&'a str),
}

fuzz_target!(|input: Input<'_>| {
    let policy = if input.local { CandidatePolicy::LOCAL } else { CandidatePolicy::PRODUCTION };
    let mut exchange = Exchange::new(CLIENT, policy);
    let (mut now, mut answered, mut failed, mut added) = (Duration::ZERO, false, false, 0);
    for frame in &input.frames {
        let text = match frame {
            Frame::Raw(text) => Some((*text).to_owned()),
            Frame::Answer(sdp) => answer(sdp),
            Frame::Description { lines } => answer(&lines.iter().map(line).collect::<String>()),
            Frame::Candidate(candidate) => Some(framed_candidate(candidate)),
            Frame::Address { address, port } => {
                Some(framed_candidate(&format!("candidate:1 1 udp 1 {address} {port} typ host")))
            }
            Frame::Offered => {
                exchange.offered(now);
                None
            }
            Frame::Tick(ms) => {
                now += Duration::from_millis(u64::from(*ms));
                failed |= matches!(exchange.tick(now), Some(Step::Fail(_)));
                None
            }
        };
        let Some(Ok(received)) = text.map(|text| read(&text)) else { continue };
        for step in exchange.receive(received) {
            match step {
                Step::SetAnswer(sdp) => {
                    assert!(!answered && !failed, "one answer, while the attempt lives");
                    answered = true;
                    assert_eq!(sdp.check(), Ok(()));
                    candidates_of(&sdp).for_each(|line| allowed(&line, policy));
                }
                Step::Add(candidate) => {
                    assert!(answered, "no candidate before the answer");
                    allowed(&candidate.line, policy);
                    added += 1;
                    assert!(added <= MAX_CANDIDATES);
                }
                Step::Fail(_) => {
                    assert!(!failed && !answered, "it fails once");
                    failed = true;
                }
                _ => {}
            }
        }
    }
});

fn read(text: &str) -> Result<Received, signaling::FrameError> {
    let read = signaling::parse(text);
    assert!(read.is_err() || text.len() <= MAX_FRAME);
    if let Ok(Received::Answer { sdp, .. } | Received::Offer { sdp, .. }) = &read {
        description(sdp);
    }
    read
}

fn description(sdp: &Sdp) {
    let trickle = sdp.with_trickle();
    assert_eq!(trickle.with_trickle(), trickle, "said once");
    for policy in [CandidatePolicy::PRODUCTION, CandidatePolicy::LOCAL] {
        let (clean, _) = sdp.without_refused(&policy);
        assert_eq!(clean.without_refused(&policy), (clean.clone(), Vec::new()), "clean is clean");
        candidates_of(&clean).for_each(|line| allowed(&line, policy));
        assert_eq!(clean.username_fragment(), sdp.username_fragment());
        assert_eq!(clean.sends_media(), sdp.sends_media());
    }
    let _ = sdp.opus_payload_type();
}

/// The candidates as the WebRTC library reads them; it may read nothing at all.
fn candidates_of(sdp: &Sdp) -> impl Iterator<Item = String> {
    let read = SessionDescription::unmarshal(&mut Cursor::new(sdp.as_str().as_bytes())).ok();
    let all = read.into_iter().flat_map(|read| {
        let media = read.media_descriptions.into_iter().flat_map(|media| media.attributes);
        read.attributes.into_iter().chain(media)
    });
    all.filter(|attribute| attribute.is_ice_candidate()).filter_map(|attribute| attribute.value)
}

/// Says again, in other words, what a candidate may be; words are parted as the library parts them.
fn allowed(line: &str, policy: CandidatePolicy) {
    assert_eq!(CandidatePolicy::LOCAL.check(line), Ok(()), "who may from far may from near");
    assert_eq!(policy.check(line), Ok(()));
    let address: IpAddr = line.split_whitespace().nth(4).expect("an address").parse().expect("no names");
    let address = address.to_canonical();
    assert!(!address.is_unspecified() && !address.is_multicast());
    match address {
        IpAddr::V4(v4) => {
            assert!(!v4.is_link_local() && !v4.is_broadcast());
            assert!(policy.allow_loopback || !v4.is_loopback());
            assert!(policy.allow_private || !v4.is_private());
        }
        IpAddr::V6(v6) => {
            assert!(!v6.is_unicast_link_local());
            assert!(policy.allow_loopback || !v6.is_loopback());
            assert!(policy.allow_private || !v6.is_unique_local());
        }
    }
}

/// As the service passes a master's answer on: what is framed by us reads back as itself.
fn answer(sdp: &str) -> Option<String> {
    let sdp = Sdp::new(sdp);
    let text = signaling::frame(&Message::Answer(&sdp), Some(CLIENT), None).ok()?;
    let Ok(Received::Answer { sdp: back, .. }) = signaling::parse(&text) else { panic!("does not read back") };
    assert_eq!(back, sdp);
    Some(text)
}

fn framed_candidate(line: &str) -> String {
    let candidate =
        signaling::Candidate { line: line.to_owned(), mid: None, line_index: Some(0), username_fragment: None };
    signaling::frame(&Message::Candidate(&candidate), Some(CLIENT), None).unwrap_or_default()
}

fn line(line: &Line<'_>) -> String {
    match line {
        Line::Version => "v=0\r\n".to_owned(),
        Line::Audio => "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n".to_owned(),
        Line::Opus => "a=rtpmap:111 opus/48000/2\r\n".to_owned(),
        Line::Fingerprint => "a=fingerprint:sha-256 A2\r\n".to_owned(),
        Line::User => "a=ice-ufrag:abcd\r\n".to_owned(),
        Line::Password => "a=ice-pwd:0123456789012345678901\r\n".to_owned(),
        Line::Inactive => "a=inactive\r\n".to_owned(),
        Line::Candidate(address) => format!("a=candidate:1 1 udp 1 {address} 9 typ host\r\n"),
        Line::Text(text) => format!("{text}\n"),
    }
}
