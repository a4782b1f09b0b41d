//! A session description, as far as the viewer and the master must look into it before they trust it.
//!
//! Absent on purpose: a full SDP parser. The WebRTC library has one; this bounds and cleans what it is given.

use std::fmt;

use super::candidate::{CandidatePolicy, Refusal};

/// Longest description taken. [`super::MAX_PAYLOAD`] base64 characters cannot carry more than 7.5 kB.
const MAX_BYTES: usize = 8_192;

/// Sections of an offer of somebody who wants to hear us: sound, pictures, data.
const MAX_SECTIONS: usize = 3;

/// A session description. No `Display`, and `Debug` hides it: it holds addresses and passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Sdp(String);

impl Sdp {
    pub fn new(text: impl Into<String>) -> Self {
        Sdp(text.into())
    }

    /// The text, for the wire and the WebRTC library only.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks that this can be the other side of an audio-only Opus call, cheaply, before a library sees it.
    ///
    /// # Errors
    /// [`SdpRefused`] with what is missing or too much.
    pub fn check(&self) -> Result<(), SdpRefused> {
        if self.0.len() > MAX_BYTES {
            return Err(SdpRefused::TooLong);
        }
        if !self.0.starts_with("v=0") {
            return Err(SdpRefused::NotSdp);
        }
        let mut media = self.lines().filter_map(|line| line.strip_prefix("m="));
        let audio = media.next().ok_or(SdpRefused::NoAudio)?;
        if media.next().is_some() {
            return Err(SdpRefused::TooManyMedia);
        }
        let mut words = audio.split_ascii_whitespace();
        let (Some("audio"), Some(port)) = (words.next(), words.next()) else { return Err(SdpRefused::NoAudio) };
        if port == "0" || self.has("a=inactive") {
            return Err(SdpRefused::NoAudio);
        }
        if self.opus_payload_type().is_none() {
            return Err(SdpRefused::NoOpus);
        }
        if !self.lines().any(|line| line.starts_with("a=fingerprint:")) {
            return Err(SdpRefused::NoFingerprint);
        }
        let credentials = ["a=ice-ufrag:", "a=ice-pwd:"];
        if credentials.iter().any(|key| !self.lines().any(|line| line.len() > key.len() && line.starts_with(key))) {
            return Err(SdpRefused::NoIce);
        }
        Ok(())
    }

    /// Checks that this can be the offer of somebody who wants to hear us: as [`Sdp::check`], but pictures and data may
    /// be asked for behind the sound, as players do; they are not answered.
    ///
    /// # Errors
    /// [`SdpRefused`].
    pub fn check_listener(&self) -> Result<(), SdpRefused> {
        if self.0.len() > MAX_BYTES {
            return Err(SdpRefused::TooLong);
        }
        if self.lines().filter(|line| line.starts_with("m=")).count() > MAX_SECTIONS {
            return Err(SdpRefused::TooManyMedia);
        }
        let mut sections = 0;
        let sound = self.lines().take_while(|line| {
            sections += usize::from(line.starts_with("m="));
            sections < 2
        });
        let sound = Sdp(sound.fold(String::with_capacity(self.0.len()), |text, line| text + line + "\r\n"));
        sound.check()?;
        if sound.has("a=sendonly") { Err(SdpRefused::SendOnly) } else { Ok(()) }
    }

    /// The payload type that stands for Opus here.
    pub fn opus_payload_type(&self) -> Option<u8> {
        self.lines().find_map(|line| {
            let (number, codec) = line.strip_prefix("a=rtpmap:")?.split_once(' ')?;
            let opus = codec.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("opus/"));
            if opus { number.parse().ok().filter(|n| *n < 128) } else { None }
        })
    }

    /// The ICE name of the sender; a candidate that names another belongs to another negotiation.
    pub fn username_fragment(&self) -> Option<&str> {
        self.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:"))
    }

    /// Whether the sender says its media flows towards us (no direction means both ways).
    pub fn sends_media(&self) -> bool {
        !self.has("a=recvonly") && !self.has("a=inactive")
    }

    /// The same without the candidates `policy` refuses, and why each was refused.
    pub fn without_refused(&self, policy: &CandidatePolicy) -> (Sdp, Vec<Refusal>) {
        let mut refusals = Vec::new();
        let kept = self.lines().filter(|line| {
            let verdict = candidate_of(line).map_or(Ok(()), |candidate| policy.check(&candidate));
            verdict.map_err(|refusal| refusals.push(refusal)).is_ok()
        });
        let text = kept.fold(String::with_capacity(self.0.len()), |text, line| text + line + "\r\n");
        (Sdp(text), refusals)
    }

    /// The same with `a=ice-options:trickle` at session level: without it the C SDK's master gathers for up to ten
    /// seconds before it answers.
    pub fn with_trickle(&self) -> Sdp {
        let says_so =
            |line: &str| line.strip_prefix("a=ice-options:").is_some_and(|options| options.contains("trickle"));
        if self.lines().any(says_so) {
            return self.clone();
        }
        let session = self.0.find("\nm=").map_or(self.0.len(), |at| at + 1);
        let (head, media) = self.0.split_at(session);
        let end = if head.is_empty() || head.ends_with('\n') { "" } else { "\r\n" };
        Sdp(format!("{head}{end}a=ice-options:trickle\r\n{media}"))
    }

    /// The lines, whatever ends them and stands around them: the library skips a stray CR at a line's beginning, and
    /// what it would read we must have seen.
    fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty())
    }

    fn has(&self, wanted: &str) -> bool {
        self.lines().any(|line| line == wanted)
    }
}

/// The candidate in a line, as leniently as the library finds one: it takes `a= candidate:` too.
fn candidate_of(line: &str) -> Option<String> {
    let (key, value) = line.strip_prefix("a=")?.split_once(':')?;
    key.trim().eq_ignore_ascii_case("candidate").then(|| format!("candidate:{value}"))
}

impl fmt::Debug for Sdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sdp({} bytes)", self.0.len())
    }
}

/// Why a description is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SdpRefused {
    #[error("not a session description")]
    NotSdp,
    #[error("session description of more than {MAX_BYTES} bytes")]
    TooLong,
    #[error("session description without a usable audio section")]
    NoAudio,
    #[error("session description with more than one media section")]
    TooManyMedia,
    #[error("session description that wants to send only")]
    SendOnly,
    #[error("session description without Opus")]
    NoOpus,
    #[error("session description without a certificate fingerprint")]
    NoFingerprint,
    #[error("session description without ICE credentials")]
    NoIce,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111 63\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:3N13\r\na=ice-pwd:7u6UpEI0CQS23IXxLsh9Hvfr\r\n\
        a=fingerprint:sha-256 A2:F2\r\na=setup:active\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\n\
        a=rtpmap:111 opus/48000/2\r\na=rtpmap:63 red/48000/2\r\n\
        a=candidate:1 1 udp 2122194687 203.0.113.9 38332 typ host\r\n\
        a=candidate:2 1 udp 2122194687 127.0.0.1 38333 typ host\r\n\
        a=candidate:3 1 tcp 1518214911 203.0.113.9 9 typ host tcptype active\r\n";

    #[test]
    fn chromes_answer_passes() {
        let answer = Sdp::new(ANSWER);
        assert_eq!(answer.check(), Ok(()));
        assert_eq!(answer.opus_payload_type(), Some(111));
        assert_eq!(answer.username_fragment(), Some("3N13"));
        assert!(answer.sends_media());
    }

    #[test]
    fn hostile_descriptions_are_refused_by_name() {
        let many = ANSWER.to_owned() + &"m=video 9 UDP/TLS/RTP/SAVPF 96\r\n".repeat(200);
        for (text, refused) in [
            ("hello".to_owned(), SdpRefused::NotSdp),
            (String::new(), SdpRefused::NotSdp),
            (many, SdpRefused::TooManyMedia),
            (ANSWER.to_owned() + &"a".repeat(MAX_BYTES), SdpRefused::TooLong),
            (ANSWER.replace("m=audio", "m=video"), SdpRefused::NoAudio),
            (ANSWER.replace("m=audio 9", "m=audio 0"), SdpRefused::NoAudio),
            (ANSWER.replace("sendonly", "inactive"), SdpRefused::NoAudio),
            (ANSWER.replace("opus", "speex"), SdpRefused::NoOpus),
            (ANSWER.replace("a=fingerprint", "a=thumb"), SdpRefused::NoFingerprint),
            (ANSWER.replace("a=ice-ufrag", "a=no"), SdpRefused::NoIce),
        ] {
            assert_eq!(Sdp::new(text).check(), Err(refused));
        }
    }

    #[test]
    fn a_listener_may_ask_for_pictures_behind_the_sound() {
        let offer = ANSWER.replace("sendonly", "recvonly");
        let video = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=sendonly\r\na=inactive\r\n";
        let check = |text: &str| Sdp::new(text).check_listener();
        assert_eq!((check(&offer), check(&(offer.clone() + video))), (Ok(()), Ok(())));
        assert_eq!(check(&(offer.clone() + &video.repeat(3))), Err(SdpRefused::TooManyMedia));
        assert_eq!(check(ANSWER), Err(SdpRefused::SendOnly));
        assert_eq!(check(&offer.replace("recvonly", "inactive")), Err(SdpRefused::NoAudio));
        assert_eq!(
            check(&offer.replace("m=audio", &format!("{video}m=audio"))),
            Err(SdpRefused::NoAudio),
            "sound first"
        );
        assert_eq!(check(&(offer + &"a".repeat(MAX_BYTES))), Err(SdpRefused::TooLong));
    }

    #[test]
    fn refused_candidates_are_cut_out_of_the_description() {
        let (clean, refusals) = Sdp::new(ANSWER).without_refused(&CandidatePolicy::PRODUCTION);
        assert_eq!(refusals, [Refusal::Loopback, Refusal::NotUdp]);
        assert!(clean.as_str().contains("203.0.113.9 38332") && !clean.as_str().contains("38333"));
        assert_eq!(clean.check(), Ok(()));
    }

    #[test]
    fn no_spelling_hides_a_candidate_from_the_policy() {
        for hidden in ["\ra=candidate:", "a= candidate:", "a=\u{a0}candidate:", "\ra=\tcandidate:", "a=x\ra=candidate:"]
        {
            let sdp = Sdp::new(ANSWER.to_owned() + hidden + "9 1 udp 1 169.254.169.254 80 typ host\r\n");
            let (clean, refusals) = sdp.without_refused(&CandidatePolicy::LOCAL);
            assert_eq!(refusals, [Refusal::NotUdp, Refusal::LinkLocal], "{hidden:?}");
            assert!(!clean.as_str().contains("169.254"), "{hidden:?}");
        }
    }

    #[test]
    fn trickle_is_said_once_before_the_media() {
        let once = Sdp::new(ANSWER).with_trickle();
        assert_eq!(once.as_str().matches("a=ice-options:trickle\r\n").count(), 1);
        assert!(once.as_str().find("trickle") < once.as_str().find("m=audio"));
        assert_eq!(once.with_trickle(), once);
        assert_eq!(Sdp::new("v=0").with_trickle().as_str(), "v=0\r\na=ice-options:trickle\r\n");
    }

    #[test]
    fn a_description_does_not_show_its_password() {
        assert_eq!(format!("{:?}", Sdp::new(ANSWER)), format!("Sdp({} bytes)", ANSWER.len()));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(v=0|m=|a=|rtpmap:|candidate:|opus/|[ -~\r\n]|.){0,80}") {
            let sdp = Sdp::new(text);
            let _ = (sdp.check(), sdp.check_listener(), sdp.opus_payload_type(), sdp.with_trickle());
            let _ = sdp.without_refused(&CandidatePolicy::PRODUCTION);
        }
    }
}
