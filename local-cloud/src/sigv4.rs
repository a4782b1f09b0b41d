//! Verification of AWS Signature Version 4, the server's side.
//!
//! Both forms the AWS clients use: the `Authorization` header (REST calls) and the presigned query
//! (`X-Amz-Signature`, KVS signaling sockets and Transcribe WebSockets). Absent on purpose: signing (that
//! is `aws-sigv4`'s work), SigV4A, chunked S3 bodies, and any look at *who* signs: every access key id is
//! accepted, the one secret decides.
//!
//! The path may have been signed as sent (the KVS JS and C signers) or percent-encoded once more (the AWS
//! SDKs, for every service but S3); either is accepted. They differ only for paths with special characters.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use http::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// How far a signing time may lie from ours, as at AWS.
pub const MAX_SKEW: Duration = Duration::from_secs(5 * 60);
/// Longest life of a presigned URL, seconds (one week).
pub const MAX_EXPIRES: u64 = 604_800;
/// SHA-256 of the empty string: the payload hash of bodyless and presigned requests.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const UNRESERVED_AND_SLASH: &AsciiSet = &UNRESERVED.remove(b'/');

/// What a good signature tells: enough to go on with a chain of signed frames.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified {
    /// The derived key of this scope (32 bytes).
    pub signing_key: Vec<u8>,
    /// `yyyymmdd/region/service/aws4_request`
    pub scope: String,
    /// The request's own signature, lower-case hex: the seed of an event stream's chain.
    pub signature_hex: String,
}

impl Verified {
    /// Third part of the scope: the service the request was signed for.
    pub fn service(&self) -> &str {
        self.scope.split('/').nth(2).unwrap_or_default()
    }
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verified").field("scope", &self.scope).finish_non_exhaustive()
    }
}

/// Why a signature is refused. The words of `Expired` and `NotYetCurrent` are those AWS clients look for
/// before they correct their clock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("Missing Authentication Token")]
    Missing,
    #[error("the request's signature lacks {0}")]
    Incomplete(&'static str),
    #[error("the request's {0} is not in the form AWS asks for")]
    Malformed(&'static str),
    #[error("the signed header {0:?} is not in the request")]
    HeaderAbsent(String),
    #[error("Signature expired: {0}")]
    Expired(String),
    #[error("Signature not yet current: {0}")]
    NotYetCurrent(String),
    #[error(
        "The request signature we calculated does not match the signature you provided. \
         Check your AWS Secret Access Key and signing method."
    )]
    Mismatch,
}

/// Checks the `Authorization` header form.
///
/// `path_and_query` is the request target as received; `headers` must hold `host` (under HTTP/2 the caller
/// puts `:authority` there); `payload_sha256_hex` is the hash of the body or the literal the service uses
/// instead. The signing time is not compared with a clock: [`check_skew`] does that.
pub fn verify_headers(
    secret: &str,
    method: &str,
    path_and_query: &str,
    headers: &HeaderMap,
    payload_sha256_hex: &str,
) -> Result<Verified, SignatureError> {
    let authorization = header(headers, "authorization").ok_or(SignatureError::Missing)?;
    let fields = authorization
        .trim()
        .strip_prefix(ALGORITHM)
        .filter(|rest| rest.starts_with(' '))
        .ok_or(SignatureError::Malformed("Authorization algorithm"))?;
    let mut credential = None;
    let mut signed_headers = None;
    let mut signature = None;
    for field in fields.split(',') {
        match field.trim().split_once('=') {
            Some(("Credential", value)) => credential = Some(value),
            Some(("SignedHeaders", value)) => signed_headers = Some(value),
            Some(("Signature", value)) => signature = Some(value),
            _ => return Err(SignatureError::Malformed("Authorization header")),
        }
    }
    let date = header(headers, "x-amz-date").ok_or(SignatureError::Incomplete("X-Amz-Date"))?;
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    Request {
        method,
        path,
        query: canonical_query(query, None),
        headers,
        payload: payload_sha256_hex,
        date,
        credential: credential.ok_or(SignatureError::Incomplete("Credential"))?,
        signed_headers: signed_headers.ok_or(SignatureError::Incomplete("SignedHeaders"))?,
        signature: signature.ok_or(SignatureError::Incomplete("Signature"))?,
    }
    .verify(secret)
}

/// Checks the presigned query form with an empty body, its `X-Amz-Expires` (1 s to a week) and the skew.
pub fn verify_query(
    secret: &str,
    method: &str,
    path_and_query: &str,
    headers: &HeaderMap,
    now: SystemTime,
) -> Result<Verified, SignatureError> {
    let (path, query) = path_and_query.split_once('?').ok_or(SignatureError::Missing)?;
    let parameter = |name: &'static str| query_parameter(query, name);
    let signature = parameter("X-Amz-Signature").ok_or(SignatureError::Missing)?;
    if parameter("X-Amz-Algorithm").ok_or(SignatureError::Incomplete("X-Amz-Algorithm"))? != ALGORITHM {
        return Err(SignatureError::Malformed("X-Amz-Algorithm"));
    }
    let credential = parameter("X-Amz-Credential").ok_or(SignatureError::Incomplete("X-Amz-Credential"))?;
    let date = parameter("X-Amz-Date").ok_or(SignatureError::Incomplete("X-Amz-Date"))?;
    let signed_headers = parameter("X-Amz-SignedHeaders").ok_or(SignatureError::Incomplete("X-Amz-SignedHeaders"))?;
    let expires = parameter("X-Amz-Expires").ok_or(SignatureError::Incomplete("X-Amz-Expires"))?;
    let expires: u64 = expires
        .parse()
        .ok()
        .filter(|seconds| (1..=MAX_EXPIRES).contains(seconds))
        .ok_or(SignatureError::Malformed("X-Amz-Expires"))?;
    let verified = Request {
        method,
        path,
        query: canonical_query(query, Some("X-Amz-Signature")),
        headers,
        payload: EMPTY_SHA256,
        date: &date,
        credential: &credential,
        signed_headers: &signed_headers,
        signature: &signature,
    }
    .verify(secret)?;
    let signed_at = parse_date(&date).ok_or(SignatureError::Malformed("X-Amz-Date"))?;
    if signed_at + Duration::from_secs(expires) < now {
        return Err(SignatureError::Expired(format!("{date} was valid for {expires} s")));
    }
    if signed_at > now + MAX_SKEW {
        return Err(SignatureError::NotYetCurrent(format!("{date} is more than 5 min ahead")));
    }
    Ok(verified)
}

/// Compares `x-amz-date` with `now`, 5 minutes either way.
pub fn check_skew(headers: &HeaderMap, now: SystemTime) -> Result<(), SignatureError> {
    let date = header(headers, "x-amz-date").ok_or(SignatureError::Incomplete("X-Amz-Date"))?;
    let signed_at = parse_date(date).ok_or(SignatureError::Malformed("X-Amz-Date"))?;
    if signed_at + MAX_SKEW < now {
        return Err(SignatureError::Expired(format!("{date} is now earlier than 5 min ago")));
    }
    if signed_at > now + MAX_SKEW {
        return Err(SignatureError::NotYetCurrent(format!("{date} is more than 5 min ahead")));
    }
    Ok(())
}

/// SHA-256 as lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The decoded value of a query parameter, first one of that exact name; `+` is a plus, as in SigV4.
pub fn query_parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode_str(key).decode_utf8_lossy() == name)
            .then(|| percent_decode_str(value).decode_utf8_lossy().into_owned())
    })
}

struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: String,
    headers: &'a HeaderMap,
    payload: &'a str,
    date: &'a str,
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl Request<'_> {
    fn verify(&self, secret: &str) -> Result<Verified, SignatureError> {
        let (_key_id, scope) = self.credential.split_once('/').ok_or(SignatureError::Malformed("Credential"))?;
        let parts: Vec<&str> = scope.split('/').collect();
        let [day, region, service, "aws4_request"] = parts[..] else {
            return Err(SignatureError::Malformed("Credential"));
        };
        if parse_date(self.date).is_none() || !self.date.starts_with(day) || day.len() != 8 {
            return Err(SignatureError::Malformed("X-Amz-Date"));
        }
        let given = unhex(self.signature).ok_or(SignatureError::Malformed("Signature"))?;
        let header_block = self.header_block()?;
        let key = signing_key(secret, day, region, service);
        let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let path = if self.path.is_empty() { "/" } else { self.path };
        let encoded_again = utf8_percent_encode(path, UNRESERVED_AND_SLASH).to_string();
        let matches = [path, encoded_again.as_str()].iter().any(|path| {
            let canonical = format!(
                "{}\n{path}\n{}\n{header_block}\n{}\n{}",
                self.method, self.query, self.signed_headers, self.payload
            );
            let to_sign = format!("{ALGORITHM}\n{}\n{scope}\n{}", self.date, sha256_hex(canonical.as_bytes()));
            hmac::verify(&hmac_key, to_sign.as_bytes(), &given).is_ok()
        });
        if !matches {
            return Err(SignatureError::Mismatch);
        }
        Ok(Verified { signing_key: key, scope: scope.to_owned(), signature_hex: hex(&given) })
    }

    /// `name:value\n` of every signed header; `host` must be among them. Under HTTP/2 the JS SDK signs it by its
    /// other name, `:authority`, which a header map cannot hold.
    fn header_block(&self) -> Result<String, SignatureError> {
        let mut block = String::new();
        let mut host_signed = false;
        for name in self.signed_headers.split(';') {
            let names_host = matches!(name, "host" | ":authority");
            host_signed |= names_host;
            let mut values = Vec::new();
            for value in self.headers.get_all(if names_host { "host" } else { name }) {
                let value = String::from_utf8_lossy(value.as_bytes());
                values.push(value.split_ascii_whitespace().collect::<Vec<_>>().join(" "));
            }
            if values.is_empty() {
                return Err(SignatureError::HeaderAbsent(name.escape_debug().take(64).collect()));
            }
            block.push_str(name);
            block.push(':');
            block.push_str(&values.join(","));
            block.push('\n');
        }
        if host_signed { Ok(block) } else { Err(SignatureError::Malformed("SignedHeaders (host must be signed)")) }
    }
}

fn canonical_query(query: &str, without: Option<&str>) -> String {
    let again = |text: &str| utf8_percent_encode_bytes(&percent_decode_str(text).collect::<Vec<u8>>());
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (again(name), again(value)))
        .filter(|(name, _)| Some(name.as_str()) != without)
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn utf8_percent_encode_bytes(bytes: &[u8]) -> String {
    percent_encoding::percent_encode(bytes, UNRESERVED).to_string()
}

fn signing_key(secret: &str, day: &str, region: &str, service: &str) -> Vec<u8> {
    let mac =
        |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let day_key = mac(format!("AWS4{secret}").as_bytes(), day);
    mac(&mac(&mac(&day_key, region), service), "aws4_request")
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `yyyymmddThhmmssZ` as a time. The day count is Howard Hinnant's `days_from_civil`, for years from 1970.
fn parse_date(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = bytes.get(from..to)?;
        digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted_year / 400, shifted_year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468;
    Some(UNIX_EPOCH + Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60 + second))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly 64 hex digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut out = [0u8; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{
        PayloadChecksumKind, SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
    };
    use aws_sigv4::sign::v4;
    use proptest::prelude::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const HOST: &str = "v-1a2b3c4d.kinesisvideo.us-east-1.amazonaws.com";
    const ARN: &str =
        "arn%3Aaws%3Akinesisvideo%3Aus-east-1%3A123456789012%3Achannel%2Fsession-blessed-covenant-420%2F1700000000123";

    fn host(name: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("host", name.parse().expect("a host"));
        headers
    }

    fn at(date: &str) -> SystemTime {
        parse_date(date).expect("a date")
    }

    fn url(path: &str, client: &str, token: bool, signature: &str) -> String {
        let client = if client.is_empty() { String::new() } else { format!("&X-Amz-ClientId={client}") };
        let token =
            if token { "&X-Amz-Security-Token=IQoJb3JpZ2luX2VjE%2F%2B%3DdummyToken%3D%3D" } else { Default::default() };
        format!(
            "{path}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-ChannelARN={ARN}{client}&X-Amz-Credential=AKIDEXAMPLE%2F20250102\
             %2Fus-east-1%2Fkinesisvideo%2Faws4_request&X-Amz-Date=20250102T030405Z&X-Amz-Expires=299{token}\
             &X-Amz-Signature={signature}&X-Amz-SignedHeaders=host"
        )
    }

    const VIEWER: &str = "server-viewer_1.x";
    const VIEWER_SIGNATURE: &str = "2388401f93b6ee50592da9f9ee2a8a2933335d05f5a7f85c515b61d98692e7cc";

    #[test]
    fn the_five_urls_signed_by_the_js_client_are_accepted() {
        let cases = [
            ("/", HOST, "", true, "b9e7f1772223c909209b4377b1fd5ea2c313e5f6211bdd00ff2a80cb3f7fb24e"),
            ("/", HOST, VIEWER, true, "f7eda5c197142e9e3bdba015c7735e05f8c24a2082cec81261e34de094982780"),
            ("/", HOST, "", false, "0c77b83a619d9906a0be4bf53b1eff539e9c36e391cc0ed0b96450a49efd9a3c"),
            ("/", HOST, VIEWER, false, VIEWER_SIGNATURE),
            (
                "/kvs/signal",
                "127.0.0.1:8443",
                "",
                false,
                "2441c1562c8118efe73d14a3873db5ac35beac19fa43153339086bbab3aeec6d",
            ),
        ];
        for (path, name, client, token, signature) in cases {
            let verified =
                verify_query(SECRET, "GET", &url(path, client, token, signature), &host(name), at("20250102T030530Z"))
                    .expect("a good signature");
            assert_eq!(verified.scope, "20250102/us-east-1/kinesisvideo/aws4_request");
            assert_eq!(verified.service(), "kinesisvideo");
            assert_eq!(verified.signature_hex, signature);
            assert_eq!(verified.signing_key.len(), 32);
        }
    }

    #[test]
    fn a_changed_secret_host_path_parameter_or_method_is_refused() {
        let now = at("20250102T030530Z");
        let good = url("/", VIEWER, false, VIEWER_SIGNATURE);
        let verdict =
            |secret, method, target: &str, name| verify_query(secret, method, target, &host(name), now).map(|_| ());
        assert_eq!(verdict(SECRET, "GET", &good, HOST), Ok(()));
        assert_eq!(verdict("other", "GET", &good, HOST), Err(SignatureError::Mismatch));
        assert_eq!(verdict(SECRET, "POST", &good, HOST), Err(SignatureError::Mismatch));
        assert_eq!(verdict(SECRET, "GET", &good, "elsewhere"), Err(SignatureError::Mismatch));
        assert_eq!(verdict(SECRET, "GET", &good.replace("/?", "/m?"), HOST), Err(SignatureError::Mismatch));
        assert_eq!(verdict(SECRET, "GET", &good.replace("viewer_1", "viewer_2"), HOST), Err(SignatureError::Mismatch));
        assert_eq!(verdict(SECRET, "GET", &format!("{good}&extra=1"), HOST), Err(SignatureError::Mismatch));
        let unsigned = good.replace("X-Amz-Signature", "X-Amz-Nothing");
        assert_eq!(verdict(SECRET, "GET", &unsigned, HOST), Err(SignatureError::Missing));
    }

    #[test]
    fn the_clock_decides_about_old_and_future_urls() {
        let target = url("/", VIEWER, false, VIEWER_SIGNATURE);
        let verdict = |date| verify_query(SECRET, "GET", &target, &host(HOST), at(date)).map(|_| ());
        assert_eq!(verdict("20250102T030904Z"), Ok(()));
        assert!(matches!(verdict("20250102T030905Z"), Err(SignatureError::Expired(_))));
        assert_eq!(verdict("20250102T025905Z"), Ok(()));
        assert!(matches!(verdict("20250102T025904Z"), Err(SignatureError::NotYetCurrent(_))));
    }

    #[test]
    fn dates_are_read_to_the_second() {
        assert_eq!(parse_date("19700101T000000Z"), Some(UNIX_EPOCH));
        assert_eq!(parse_date("20250102T030405Z"), Some(UNIX_EPOCH + Duration::from_secs(1_735_787_045)));
        assert_eq!(parse_date("20240229T235959Z"), Some(UNIX_EPOCH + Duration::from_secs(1_709_251_199)));
        for bad in ["", "20250102", "20251302T030405Z", "2025-102T030405Z", "20250102T030405+", "20250102T250405Z"] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }

    /// What aws-sigv4 puts into the request, as header map and target.
    fn signed_by_sdk(
        method: &str,
        uri: &str,
        body: &[u8],
        settings: SigningSettings,
        time: SystemTime,
    ) -> (HeaderMap, String) {
        let identity = Credentials::new("AKIDEXAMPLE", SECRET, Some("a token/+=".into()), None, "test").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("eu-central-1")
            .name("transcribe")
            .time(time)
            .settings(settings)
            .build()
            .expect("all parameters given")
            .into();
        let sent = [("content-type", "application/json"), ("x-amz-spaced", "  a   b ")];
        let request = SignableRequest::new(method, uri, sent.into_iter(), SignableBody::Bytes(body)).expect("signable");
        let (instructions, _signature) = sign(request, &params).expect("signed").into_parts();
        let mut http_request = http::Request::builder().method(method).uri(uri).body(()).expect("a request");
        instructions.apply_to_request_http1x(&mut http_request);
        let host_name = http_request.uri().authority().expect("absolute").as_str().to_owned();
        let headers = http_request.headers_mut();
        headers.insert("host", host_name.parse().expect("a host"));
        for (name, value) in sent {
            headers.insert(name, value.parse().expect("a value"));
        }
        let target = http_request.uri().path_and_query().expect("a target").as_str().to_owned();
        (http_request.headers().clone(), target)
    }

    #[test]
    fn header_signatures_of_the_rust_signer_are_accepted_and_bound_to_the_body() {
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let body = br#"{"ChannelName":"s"}"#;
        let now = at("20261121T000347Z");
        let uri = "http://127.0.0.1:4566/tags/arn%3Aaws%3Ax?b=2&a=%20x&a=1&flag";
        let (headers, target) = signed_by_sdk("POST", uri, body, settings, now);
        let verified = verify_headers(SECRET, "POST", &target, &headers, &sha256_hex(body)).expect("good");
        assert_eq!(verified.scope, "20261121/eu-central-1/transcribe/aws4_request");
        let other = verify_headers(SECRET, "POST", &target, &headers, &sha256_hex(b"{}"));
        assert_eq!(other, Err(SignatureError::Mismatch));
        assert_eq!(check_skew(&headers, now + MAX_SKEW), Ok(()));
        assert!(check_skew(&headers, now + MAX_SKEW + Duration::from_secs(1)).is_err());
        let mut without = headers.clone();
        without.remove("x-amz-security-token");
        let absent = verify_headers(SECRET, "POST", &target, &without, &sha256_hex(body));
        assert_eq!(absent, Err(SignatureError::HeaderAbsent("x-amz-security-token".into())));
    }

    #[test]
    fn the_js_sdk_over_http2_signs_the_authority() {
        // Captured from @aws-sdk/client-kinesis-video 3.1115.0 with NodeHttp2Handler.
        let mut headers = host("127.0.0.1:46715");
        let hash = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        for (name, value) in [
            ("amz-sdk-invocation-id", "434e77a9-badc-4d65-8dfe-5f3f92b6d14d"),
            ("amz-sdk-request", "attempt=1; max=3"),
            ("content-length", "2"),
            ("content-type", "application/json"),
            ("x-amz-content-sha256", hash),
            ("x-amz-date", "20261121T035502Z"),
            ("x-amz-user-agent", "aws-sdk-js/3.1115.0"),
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=AK/20261121/us-east-1/kinesisvideo/aws4_request, \
                 SignedHeaders=:authority;amz-sdk-invocation-id;amz-sdk-request;content-length;content-type;\
                 x-amz-content-sha256;x-amz-date;x-amz-user-agent, \
                 Signature=0a2f863a08e5cbda0259565a93466cc898d6be7db3d87a00161e7ef2f0a2ad6c",
            ),
        ] {
            headers.insert(name, value.parse().expect("a value"));
        }
        let verdict = verify_headers("s3cr3t/+", "POST", "/listSignalingChannels", &headers, hash);
        assert_eq!(
            verdict.map(|verified| verified.scope).as_deref(),
            Ok("20261121/us-east-1/kinesisvideo/aws4_request")
        );
    }

    #[test]
    fn the_reasons_of_refused_headers_are_told_apart() {
        let verdict = |authorization: Option<&str>| {
            let mut headers = host("h");
            headers.insert("x-amz-date", "20250102T030405Z".parse().expect("a value"));
            if let Some(text) = authorization {
                headers.insert("authorization", text.parse().expect("a value"));
            }
            verify_headers(SECRET, "POST", "/", &headers, EMPTY_SHA256).map(|_| ())
        };
        assert_eq!(verdict(None), Err(SignatureError::Missing));
        assert!(matches!(verdict(Some("Bearer x")), Err(SignatureError::Malformed(_))));
        assert!(matches!(verdict(Some("AWS4-HMAC-SHA256 Credential=a/b")), Err(SignatureError::Incomplete(_))));
        let unsigned_host = format!(
            "AWS4-HMAC-SHA256 Credential=A/20250102/r/s/aws4_request, SignedHeaders=x-amz-date, Signature={}",
            "0".repeat(64)
        );
        assert!(matches!(verdict(Some(&unsigned_host)), Err(SignatureError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn every_presigned_query_of_the_rust_signer_is_accepted(
            client in "[a-zA-Z0-9_.~ /+=&%-]{0,40}", path in "(/[a-zA-Z0-9_.~-]{1,8}){0,3}", seconds in 1u64..=604_800,
        ) {
            let mut settings = SigningSettings::default();
            settings.signature_location = SignatureLocation::QueryParams;
            settings.expires_in = Some(Duration::from_secs(seconds));
            settings.excluded_headers = Some(vec!["content-type".into(), "x-amz-spaced".into()]);
            let now = at("20261121T000347Z");
            let client = utf8_percent_encode(&client, UNRESERVED);
            let uri = format!("http://127.0.0.1:4566{path}?X-Amz-ClientId={client}");
            // The signer normalises dot segments away; the wire then carries what it signed elsewhere.
            prop_assume!(!path.split('/').any(|part| part == "." || part == ".."));
            let (headers, target) = signed_by_sdk("GET", &uri, b"", settings, now);
            prop_assert!(verify_query(SECRET, "GET", &target, &headers, now).is_ok(), "{}", target);
        }

        #[test]
        fn no_target_or_header_makes_the_verifier_panic(target in ".{0,200}", authorization in "[ -~]{0,200}", date in "[ -~]{0,20}") {
            let mut headers = host("h");
            headers.insert("authorization", authorization.parse().expect("printable"));
            headers.insert("x-amz-date", date.parse().expect("printable"));
            prop_assert!(verify_headers(SECRET, "GET", &target, &headers, EMPTY_SHA256).is_err());
            prop_assert!(verify_query(SECRET, "GET", &target, &headers, SystemTime::now()).is_err());
        }
    }
}
