//! Presigned signaling URLs (SigV4 in the query), as `KVS` wants them for its WebSocket.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use url::Url;

use super::causes;

/// The lifetime that the official JavaScript signer gives, one second under the service's tolerance.
pub const LIFETIME: Duration = Duration::from_secs(299);

/// A URL that opens a signaling socket for whoever holds it. It is a secret: no `Display`, and `Debug` names the host.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedUrl(String);

impl SignedUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.0.split('?').next().unwrap_or_default();
        write!(f, "SignedUrl({open}?...)")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("not a signaling endpoint (ws or wss, no query): {0}")]
    Endpoint(String),
    #[error("no credentials to sign with: {0}")]
    NoCredentials(String),
    #[error("the URL cannot be signed: {0}")]
    Unsignable(String),
}

/// Signs `endpoint` (`wss://v-1a2b3c4d.kinesisvideo...`; `ws`, port and path are kept) for [`LIFETIME`] from `now`.
/// A viewer has a `client_id`, a master none.
pub fn presign_wss(
    endpoint: &str,
    arn: &str,
    client_id: Option<&str>,
    credentials: &Credentials,
    region: &str,
    now: SystemTime,
) -> Result<SignedUrl, SignError> {
    let refused = || SignError::Endpoint(endpoint.chars().filter(|c| !c.is_control()).take(200).collect());
    let mut url = Url::parse(endpoint).map_err(|_| refused())?;
    let rest = match url.scheme() {
        "wss" | "ws" if url.query().is_none() && url.fragment().is_none() && url.username().is_empty() => {
            url.query_pairs_mut().append_pair("X-Amz-ChannelARN", arn);
            if let Some(client_id) = client_id {
                url.query_pairs_mut().append_pair("X-Amz-ClientId", client_id);
            }
            url.as_str().trim_start_matches(url.scheme())
        }
        _ => return Err(refused()),
    };

    let unsignable = |error: &dyn std::error::Error| SignError::Unsignable(causes(error));
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("kinesisvideo")
        .time(now)
        .settings(settings())
        .build()
        .map_err(|error| unsignable(&error))?
        .into();
    // The scheme is not part of the signature, and the signer knows HTTP only.
    let http_url = format!("https{rest}");
    let body = SignableBody::Bytes(b"");
    let request =
        SignableRequest::new("GET", &http_url, std::iter::empty(), body).map_err(|error| unsignable(&error))?;
    let (instructions, _) = sign(request, &params).map_err(|error| unsignable(&error))?.into_parts();
    let mut request = http::Request::get(&http_url).body(()).map_err(|error| unsignable(&error))?;
    instructions.apply_to_request_http1x(&mut request);
    let signed = request.uri().to_string();
    let rest = signed.strip_prefix("https").ok_or_else(refused)?;
    Ok(SignedUrl(format!("{}{rest}", url.scheme())))
}

fn settings() -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFETIME);
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kinesisvideo:us-east-1:123456789012:channel/session-blessed-covenant-420/1700000000123";
    const HOST: &str = "wss://v-1a2b3c4d.kinesisvideo.us-east-1.amazonaws.com";
    const TOKEN: Option<&str> = Some("IQoJb3JpZ2luX2VjE/+=dummyToken==");
    const VIEWER: Option<&str> = Some("server-viewer_1.x");

    /// The same five as the official JavaScript signer gives (KVS-PROTOCOL 2.2).
    #[test]
    fn signatures_equal_those_of_the_javascript_sdk() {
        let local = "wss://127.0.0.1:8443/kvs/signal";
        for (endpoint, client_id, token, signature) in [
            (HOST, None, TOKEN, "b9e7f1772223c909209b4377b1fd5ea2c313e5f6211bdd00ff2a80cb3f7fb24e"),
            (HOST, VIEWER, TOKEN, "f7eda5c197142e9e3bdba015c7735e05f8c24a2082cec81261e34de094982780"),
            (HOST, None, None, "0c77b83a619d9906a0be4bf53b1eff539e9c36e391cc0ed0b96450a49efd9a3c"),
            (HOST, VIEWER, None, "2388401f93b6ee50592da9f9ee2a8a2933335d05f5a7f85c515b61d98692e7cc"),
            (local, None, None, "2441c1562c8118efe73d14a3873db5ac35beac19fa43153339086bbab3aeec6d"),
        ] {
            let url = signed(endpoint, client_id, token);
            assert!(url.as_str().contains(&format!("X-Amz-Signature={signature}")), "{}", url.as_str());
        }
    }

    #[test]
    fn scheme_port_and_path_are_kept() {
        for endpoint in ["ws://127.0.0.1:9000/v", "wss://127.0.0.1:8443/kvs/signal"] {
            let url = signed(endpoint, VIEWER, None);
            assert!(url.as_str().starts_with(&format!("{endpoint}?X-Amz-")), "{}", url.as_str());
        }
        assert!(signed(HOST, None, None).as_str().starts_with(&format!("{HOST}/?X-Amz-ChannelARN=arn%3Aaws%3A")));
    }

    #[test]
    fn what_is_no_signaling_endpoint_is_refused() {
        for endpoint in
            ["", "https://host", "wss://host/?a=b", "wss://user@host/", "wss://", "host:443", "wss://host/#x"]
        {
            assert!(matches!(try_signed(endpoint, None, None), Err(SignError::Endpoint(_))), "{endpoint}");
        }
    }

    #[test]
    fn debug_shows_neither_signature_nor_token() {
        let shown = format!("{:?}", signed(HOST, VIEWER, TOKEN));
        assert_eq!(shown, format!("SignedUrl({HOST}/?...)"));
    }

    fn signed(endpoint: &str, client_id: Option<&str>, token: Option<&str>) -> SignedUrl {
        try_signed(endpoint, client_id, token).unwrap()
    }

    fn try_signed(endpoint: &str, client_id: Option<&str>, token: Option<&str>) -> Result<SignedUrl, SignError> {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let credentials = Credentials::new("AKIDEXAMPLE", secret, token.map(str::to_owned), None, "test");
        // 2025-01-02T03:04:05Z
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_787_045);
        presign_wss(endpoint, ARN, client_id, &credentials, "us-east-1", now)
    }
}
