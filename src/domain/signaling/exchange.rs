//! One attempt's talk over the signaling socket: an offer out, an answer and candidates in, in any order.
//!
//! Absent on purpose: the offer's making and the media; both belong to the WebRTC library.

use std::time::Duration;

use super::candidate::{Candidate, CandidatePolicy, Refusal};
use super::sdp::{Sdp, SdpRefused};
use super::{Parties, Received, Status};

/// How long a master may take to answer. Chrome takes 20 ms, the C SDK up to some seconds.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// More candidates than any honest peer has; the rest are refused.
pub const MAX_CANDIDATES: usize = 64;

/// What the socket's owner is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Set the remote description. Comes once, before any [`Step::Add`].
    SetAnswer(Sdp),
    /// Add a remote candidate, already checked.
    Add(Candidate),
    /// Count a candidate that was not taken.
    Refused(Refusal),
    /// Count a frame that was not for us.
    Ignored(Ignored),
    /// The service complained about a message of ours.
    Complaint(Status),
    /// The socket will close within a minute.
    GoAway,
    /// Relay credentials are about to end; the next attempt needs fresh ones.
    ReconnectIceServer,
    /// The attempt is over.
    Fail(ExchangeFailed),
}

/// Why a readable frame was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    #[error("from a sender who is not the master")]
    ForeignSender,
    #[error("for another client")]
    OtherRecipient,
    #[error("an offer; only viewers offer")]
    Offer,
    #[error("a second answer")]
    SecondAnswer,
    #[error("an answer before our offer")]
    EarlyAnswer,
    #[error("after the attempt was over")]
    Over,
}

/// Why an attempt ended in its talk.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ExchangeFailed {
    #[error("no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    NoAnswer,
    #[error("answer refused: {0}")]
    BadAnswer(#[from] SdpRefused),
    #[error("answer sends no audio")]
    AnswerWithoutMedia,
    #[error("the service refused the offer ({0})")]
    OfferRefused(String),
}

/// The viewer's side of one offer.
#[derive(Debug)]
pub struct Exchange {
    client_id: String,
    policy: CandidatePolicy,
    state: State,
    taken: usize,
}

#[derive(Debug)]
enum State {
    /// The offer is being made.
    Preparing {
        held: Vec<Candidate>,
    },
    Offered {
        deadline: Duration,
        held: Vec<Candidate>,
    },
    Answered {
        username_fragment: Option<String>,
    },
    Over,
}

impl Exchange {
    /// `client_id` is the one the socket was opened with; the offer carries it as its correlation id.
    pub fn new(client_id: impl Into<String>, policy: CandidatePolicy) -> Self {
        Exchange { client_id: client_id.into(), policy, state: State::Preparing { held: Vec::new() }, taken: 0 }
    }

    /// The offer left at `now`: the answer's time starts.
    pub fn offered(&mut self, now: Duration) {
        if let State::Preparing { held } = &mut self.state {
            self.state = State::Offered { deadline: now + ANSWER_TIMEOUT, held: std::mem::take(held) };
        }
    }

    /// When [`Exchange::tick`] has something to say.
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Offered { deadline, .. } => Some(deadline),
            _ => None,
        }
    }

    /// Ends the attempt if the answer is overdue at `now`.
    pub fn tick(&mut self, now: Duration) -> Option<Step> {
        match self.state {
            State::Offered { deadline, .. } if now >= deadline => {
                self.state = State::Over;
                Some(Step::Fail(ExchangeFailed::NoAnswer))
            }
            _ => None,
        }
    }

    /// Takes one frame; what is to be done comes back in order.
    pub fn receive(&mut self, frame: Received) -> Vec<Step> {
        match frame {
            Received::GoAway => vec![Step::GoAway],
            Received::ReconnectIceServer => vec![Step::ReconnectIceServer],
            Received::Empty => vec![],
            Received::Status(status) => self.status(status),
            Received::Offer { .. } => vec![Step::Ignored(Ignored::Offer)],
            Received::EndOfCandidates { from } => self.foreign(&from).map(Step::Ignored).into_iter().collect(),
            Received::Candidate { candidate, from } => match self.foreign(&from) {
                Some(ignored) => vec![Step::Ignored(ignored)],
                None => self.candidate(candidate).into_iter().collect(),
            },
            Received::Answer { sdp, from } => match self.foreign(&from) {
                Some(ignored) => vec![Step::Ignored(ignored)],
                None => self.answer(&sdp),
            },
        }
    }

    /// A viewer hears from the master only, and the service puts no sender on a master's messages.
    fn foreign(&self, from: &Parties) -> Option<Ignored> {
        if from.sender.is_some() {
            return Some(Ignored::ForeignSender);
        }
        from.recipient.as_ref().is_some_and(|to| *to != self.client_id).then_some(Ignored::OtherRecipient)
    }

    fn status(&mut self, status: Status) -> Vec<Step> {
        let failed = status.code.as_deref().is_some_and(|code| code != "200");
        let ours = status.correlation_id.as_deref() == Some(self.client_id.as_str());
        if failed && ours && matches!(self.state, State::Offered { .. }) {
            self.state = State::Over;
            let kind = status.error_type.clone().unwrap_or_else(|| status.code.clone().unwrap_or_default());
            return vec![Step::Complaint(status), Step::Fail(ExchangeFailed::OfferRefused(kind))];
        }
        vec![Step::Complaint(status)]
    }

    fn candidate(&mut self, candidate: Candidate) -> Option<Step> {
        if matches!(self.state, State::Over) {
            return Some(Step::Ignored(Ignored::Over));
        }
        if let Err(refusal) = self.policy.check(&candidate.line) {
            return Some(Step::Refused(refusal));
        }
        if self.taken >= MAX_CANDIDATES {
            return Some(Step::Refused(Refusal::TooMany));
        }
        self.taken += 1;
        match &mut self.state {
            State::Preparing { held } | State::Offered { held, .. } => {
                held.push(candidate);
                None
            }
            State::Answered { username_fragment } => Some(matched(candidate, username_fragment.as_deref())),
            State::Over => None,
        }
    }

    fn answer(&mut self, sdp: &Sdp) -> Vec<Step> {
        let held = match &mut self.state {
            State::Offered { held, .. } => std::mem::take(held),
            State::Preparing { .. } => return vec![Step::Ignored(Ignored::EarlyAnswer)],
            State::Answered { .. } => return vec![Step::Ignored(Ignored::SecondAnswer)],
            State::Over => return vec![Step::Ignored(Ignored::Over)],
        };
        let fault = match sdp.check() {
            Err(refused) => Some(ExchangeFailed::BadAnswer(refused)),
            Ok(()) if !sdp.sends_media() => Some(ExchangeFailed::AnswerWithoutMedia),
            Ok(()) => None,
        };
        if let Some(fault) = fault {
            self.state = State::Over;
            return vec![Step::Fail(fault)];
        }
        let (clean, refusals) = sdp.without_refused(&self.policy);
        let username_fragment = clean.username_fragment().map(str::to_owned);
        let mut steps: Vec<Step> = refusals.into_iter().map(Step::Refused).collect();
        steps.push(Step::SetAnswer(clean));
        steps.extend(held.into_iter().map(|candidate| matched(candidate, username_fragment.as_deref())));
        self.state = State::Answered { username_fragment };
        steps
    }
}

/// A candidate that names another negotiation's ICE user would only make the agent knock in vain.
fn matched(candidate: Candidate, username_fragment: Option<&str>) -> Step {
    match (candidate.username_fragment.as_deref(), username_fragment) {
        (Some(theirs), Some(ours)) if theirs != ours => Step::Refused(Refusal::Foreign),
        _ => Step::Add(candidate),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWER: &str = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=ice-ufrag:3N13\r\na=ice-pwd:secret\r\n\
        a=fingerprint:sha-256 A2\r\na=sendonly\r\na=rtpmap:111 opus/48000/2\r\n";

    fn candidate(address: &str, user: Option<&str>) -> Received {
        let line = format!("candidate:1 1 udp 1 {address} 5000 typ host");
        let candidate =
            Candidate { line, mid: Some("0".into()), line_index: Some(0), username_fragment: user.map(str::to_owned) };
        Received::Candidate { candidate, from: Parties::default() }
    }

    fn answer() -> Received {
        Received::Answer { sdp: Sdp::new(ANSWER), from: Parties::default() }
    }

    fn offered() -> Exchange {
        let mut exchange = Exchange::new("srv-a-1", CandidatePolicy::PRODUCTION);
        exchange.offered(Duration::ZERO);
        exchange
    }

    #[test]
    fn candidates_before_the_answer_wait_for_it() {
        let mut exchange = offered();
        assert_eq!(exchange.receive(candidate("203.0.113.1", None)), []);
        let steps = exchange.receive(answer());
        assert!(matches!(steps[..], [Step::SetAnswer(_), Step::Add(_)]), "{steps:?}");
        assert!(matches!(exchange.receive(candidate("203.0.113.2", Some("3N13")))[..], [Step::Add(_)]));
    }

    #[test]
    fn foreign_and_refused_candidates_are_counted_not_added() {
        let mut exchange = offered();
        exchange.receive(candidate("203.0.113.1", Some("other")));
        let steps = exchange.receive(answer());
        assert!(matches!(steps[..], [Step::SetAnswer(_), Step::Refused(Refusal::Foreign)]), "{steps:?}");
        assert_eq!(exchange.receive(candidate("127.0.0.1", None)), [Step::Refused(Refusal::Loopback)]);
        for from in [
            Parties { sender: Some("viewer-7".into()), recipient: None },
            Parties { sender: None, recipient: Some("srv-b-1".into()) },
        ] {
            let frame = Received::Answer { sdp: Sdp::new(ANSWER), from };
            assert!(matches!(exchange.receive(frame)[..], [Step::Ignored(_)]));
        }
    }

    #[test]
    fn a_missing_answer_ends_the_attempt_after_five_seconds() {
        let mut exchange = offered();
        assert_eq!(exchange.tick(Duration::from_millis(4_999)), None);
        assert_eq!(exchange.deadline(), Some(ANSWER_TIMEOUT));
        assert_eq!(exchange.tick(ANSWER_TIMEOUT), Some(Step::Fail(ExchangeFailed::NoAnswer)));
        assert_eq!(exchange.receive(answer()), [Step::Ignored(Ignored::Over)]);
    }

    #[test]
    fn an_answer_that_is_no_sdp_fails_at_once() {
        let frame = Received::Answer { sdp: Sdp::new("please"), from: Parties::default() };
        let failed = Step::Fail(ExchangeFailed::BadAnswer(SdpRefused::NotSdp));
        assert_eq!(offered().receive(frame), [failed]);
    }

    #[test]
    fn a_refused_offer_is_not_waited_for() {
        let mut exchange = offered();
        let status = Status { correlation_id: Some("srv-a-1".into()), code: Some("400".into()), ..Status::default() };
        let steps = exchange.receive(Received::Status(status));
        assert!(
            matches!(&steps[..], [Step::Complaint(_), Step::Fail(ExchangeFailed::OfferRefused(code))] if code == "400")
        );
    }

    fn any_frame() -> impl Strategy<Value = Option<Received>> {
        prop_oneof![
            Just(None),
            Just(Some(answer())),
            Just(Some(Received::Answer { sdp: Sdp::new("no"), from: Parties::default() })),
            Just(Some(candidate("203.0.113.1", None))),
            Just(Some(candidate("203.0.113.2", Some("other")))),
            Just(Some(candidate("10.0.0.1", None))),
            Just(Some(Received::GoAway)),
            Just(Some(Received::Empty)),
        ]
    }

    proptest! {
        /// Any order, any repetition: the answer is set at most once, no candidate goes before it, and after a
        /// failure nothing is touched.
        #[test]
        fn frames_in_any_order_keep_the_rules(
            frames in prop::collection::vec(any_frame(), 0..40),
            offer_at in 0usize..5,
        ) {
            let mut exchange = Exchange::new("srv-a-1", CandidatePolicy::PRODUCTION);
            let (mut answers, mut failed) = (0, false);
            for (i, frame) in frames.into_iter().enumerate() {
                let now = Duration::from_millis(i as u64 * 400);
                if i == offer_at {
                    exchange.offered(now);
                }
                let steps = match frame {
                    Some(frame) => exchange.receive(frame),
                    None => exchange.tick(now).into_iter().collect(),
                };
                for step in steps {
                    match step {
                        Step::SetAnswer(_) => {
                            prop_assert!(!failed);
                            answers += 1;
                        }
                        Step::Add(_) => prop_assert!(answers == 1 && !failed),
                        Step::Fail(_) => {
                            prop_assert!(!failed && answers == 0);
                            failed = true;
                        }
                        _ => {}
                    }
                }
            }
            prop_assert!(answers <= 1);
        }
    }
}
