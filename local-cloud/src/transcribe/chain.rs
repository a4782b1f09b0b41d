//! The chain of signatures over a stream's frames: each frame's signature covers the one before it, the first one covers
//! the request's own. Source: the AWS SDKs for Rust and JavaScript (`AWS4-HMAC-SHA256-PAYLOAD`).

use aws_lc_rs::{constant_time, hmac};
use aws_smithy_eventstream::frame::write_headers_to;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};

use super::frames::header;
use crate::sigv4::{self, Verified};

/// Where in the chain a stream is.
pub(super) struct Chain {
    key: hmac::Key,
    scope: String,
    prior: String,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum ChainError {
    #[error("a frame lacks its signature or its date")]
    Unsigned,
    #[error(
        "The request signature we calculated does not match the signature you provided. \
         Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
}

impl Chain {
    /// The chain that begins with a verified request.
    pub(super) fn new(request: Verified) -> Chain {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &request.signing_key);
        Chain { key, scope: request.scope, prior: request.signature_hex }
    }

    /// Checks the next frame and moves on to it.
    pub(super) fn verify(&mut self, frame: &Message) -> Result<(), ChainError> {
        let (Some(HeaderValue::ByteArray(signature)), Some(HeaderValue::Timestamp(date))) =
            (header(frame, ":chunk-signature"), header(frame, ":date"))
        else {
            return Err(ChainError::Unsigned);
        };
        let mut signed_header = Vec::new();
        write_headers_to(&[Header::new(":date", HeaderValue::Timestamp(*date))], &mut signed_header)
            .map_err(|_| ChainError::Unsigned)?;
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{}\n{}\n{}",
            whole_seconds(*date).ok_or(ChainError::Unsigned)?,
            self.scope,
            self.prior,
            sigv4::sha256_hex(&signed_header),
            sigv4::sha256_hex(frame.payload())
        );
        let expected = hmac::sign(&self.key, text.as_bytes());
        constant_time::verify_slices_are_equal(expected.as_ref(), signature).map_err(|_| ChainError::Mismatch)?;
        self.prior = sigv4::hex(expected.as_ref());
        Ok(())
    }
}

/// `yyyymmddThhmmssZ`.
fn whole_seconds(date: DateTime) -> Option<String> {
    let text = DateTime::from_secs(date.secs()).fmt(Format::DateTime).ok()?;
    Some(text.replace(['-', ':'], ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_cut_to_whole_seconds() {
        let date = DateTime::from_millis(1_630_094_902_999);
        assert_eq!(whole_seconds(date).as_deref(), Some("20210827T200822Z"));
    }

    #[test]
    fn a_frame_without_signature_breaks_the_chain() {
        let request = Verified {
            signing_key: vec![1; 32],
            scope: "20210827/us-east-1/transcribe/aws4_request".to_owned(),
            signature_hex: "00".repeat(32),
        };
        let mut chain = Chain::new(request);
        assert_eq!(chain.verify(&Message::new("audio")), Err(ChainError::Unsigned));
        let signed = Message::new("audio")
            .add_header(Header::new(":chunk-signature", HeaderValue::ByteArray(vec![0; 32].into())))
            .add_header(Header::new(":date", HeaderValue::Timestamp(DateTime::from_secs(1_630_094_902))));
        assert_eq!(chain.verify(&signed), Err(ChainError::Mismatch));
    }
}
