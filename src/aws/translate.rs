//! One clause from one language into another, by Amazon Translate.

use super::{Clients, Failure};

/// Bytes of UTF-8 that the service takes at once. A clause is far shorter, so nothing is split here.
pub const MAX_TEXT: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    #[error("{0} bytes are too long for one translation, at most 10000")]
    TooLong(usize),
    #[error("no translation from {from} to {to}")]
    Unsupported { from: String, to: String },
    #[error("the glossary {0} does not exist")]
    NoGlossary(String),
    #[error("translation is throttled")]
    Throttled,
    #[error("translation is not allowed: {0}")]
    Denied(String),
    #[error("translation refused the request: {0}")]
    Refused(String),
    #[error("translation is unavailable: {0}")]
    Unavailable(String),
    #[error("translation did not come in time")]
    Timeout,
}

impl TranslateError {
    /// Whether the same clause may succeed later. The SDK's own quick retries have failed by then.
    pub fn retryable(&self) -> bool {
        match self {
            TranslateError::Throttled | TranslateError::Unavailable(_) | TranslateError::Timeout => true,
            TranslateError::TooLong(_)
            | TranslateError::Unsupported { .. }
            | TranslateError::NoGlossary(_)
            | TranslateError::Denied(_)
            | TranslateError::Refused(_) => false,
        }
    }
}

/// Translates `text`. Languages are the house's own codes, the recogniser's dialects included; two that are the same to
/// the service, and a text without a word, cost no call. `glossary` names a terminology of the account.
///
/// Takes at most `translate_timeout_ms`, retries included.
pub async fn translate(
    clients: &Clients,
    text: &str,
    from: &str,
    to: &str,
    glossary: Option<&str>,
) -> Result<String, TranslateError> {
    let (source, target) = (code(from), code(to));
    if source == target || text.trim().is_empty() {
        return Ok(text.to_owned());
    }
    if text.len() > MAX_TEXT {
        return Err(TranslateError::TooLong(text.len()));
    }
    let terminologies = glossary.map(|name| vec![name.to_owned()]);
    let request = clients.translate.translate_text().text(text).set_terminology_names(terminologies);
    let sent = request.source_language_code(source).target_language_code(target).send().await;
    match sent.map_err(Failure::from) {
        Ok(answer) => Ok(answer.translated_text),
        Err(Failure::Timeout) => Err(TranslateError::Timeout),
        Err(Failure::Unreachable(why)) => Err(TranslateError::Unavailable(why)),
        Err(Failure::Invalid(why)) => Err(TranslateError::Refused(why)),
        Err(Failure::Refused { code, message }) => Err(match code.as_str() {
            "UnsupportedLanguagePairException" => {
                TranslateError::Unsupported { from: from.to_owned(), to: to.to_owned() }
            }
            "ResourceNotFoundException" => TranslateError::NoGlossary(glossary.unwrap_or_default().to_owned()),
            "TextSizeLimitExceededException" => TranslateError::TooLong(text.len()),
            "TooManyRequestsException" | "ThrottlingException" | "LimitExceededException" => TranslateError::Throttled,
            "AccessDeniedException" | "UnrecognizedClientException" | "InvalidSignatureException" => {
                TranslateError::Denied(message)
            }
            "InvalidRequestException" | "ValidationException" | "DetectedLanguageLowConfidenceException" => {
                TranslateError::Refused(message)
            }
            _ => TranslateError::Unavailable(format!("{code} {message}")),
        }),
    }
}

/// Amazon Translate's code: the base language, except where it tells regions apart.
fn code(language: &str) -> &str {
    match language {
        "zh-TW" | "zh-HK" | "zh-MO" => "zh-TW",
        chinese if chinese.starts_with("zh-Hant") => "zh-TW",
        kept @ ("pt-PT" | "fr-CA" | "es-MX" | "fa-AF") => kept,
        _ => match language.split('-').next().unwrap_or(language) {
            "fil" => "tl",
            "nb" | "nn" => "no",
            base => base,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use local_cloud::translate::{Chaos, EngineSettings, Fault, Scripted, Settings as CloudSettings, Translate};

    use super::super::Settings;
    use super::super::fake::{self, Fake};
    use super::*;

    #[test]
    fn recogniser_dialects_map_to_the_codes_of_the_service() {
        for (language, expected) in [
            ("en-US", "en"),
            ("en", "en"),
            ("zh-CN", "zh"),
            ("zh-Hans", "zh"),
            ("zh-TW", "zh-TW"),
            ("zh-HK", "zh-TW"),
            ("zh-Hant-TW", "zh-TW"),
            ("pt-BR", "pt"),
            ("pt-PT", "pt-PT"),
            ("fr-CA", "fr-CA"),
            ("fr-FR", "fr"),
            ("es-MX", "es-MX"),
            ("es-US", "es"),
            ("fa-AF", "fa-AF"),
            ("tl-PH", "tl"),
            ("fil-PH", "tl"),
            ("nb", "no"),
            ("ca-valencia", "ca"),
        ] {
            assert_eq!(code(language), expected, "{language}");
        }
    }

    #[tokio::test]
    async fn a_clause_is_translated() {
        let (cloud, clients, _fake) = cloud(Settings::default()).await;
        let text = "Grüße 😀 \"you\"";
        assert_eq!(translate(&clients, text, "en-US", "pt-BR", None).await.unwrap(), format!("[pt] {text}"));
        assert_eq!(cloud.traffic()["pt"].requests, 1);
    }

    #[tokio::test]
    async fn what_needs_no_translation_costs_no_call() {
        let (cloud, clients, _fake) = cloud(Settings::default()).await;
        for (text, from, to) in
            [("same", "en-US", "en"), ("same", "en-GB", "en-US"), (" ", "en", "es"), ("", "en", "es")]
        {
            assert_eq!(translate(&clients, text, from, to, None).await.unwrap(), text);
        }
        assert!(cloud.traffic().is_empty());
    }

    #[tokio::test]
    async fn what_cannot_work_is_told_and_not_retried() {
        let (cloud, clients, _fake) = cloud(Settings::default()).await;
        let (from, to) = ("en", "tlh");
        let error = translate(&clients, "hi", from, to, None).await.unwrap_err();
        assert_eq!(error, TranslateError::Unsupported { from: from.to_owned(), to: to.to_owned() });
        let error = translate(&clients, "hi", "en", "es", Some("names")).await.unwrap_err();
        assert_eq!(error, TranslateError::NoGlossary("names".to_owned()));
        let long = "é".repeat(5_001);
        let error = translate(&clients, &long, "en", "es", None).await.unwrap_err();
        assert_eq!(error, TranslateError::TooLong(10_002));
        assert!(!error.retryable());
        assert!(cloud.traffic().is_empty());
    }

    #[tokio::test]
    async fn a_passing_fault_is_retried_unnoticed() {
        for fault in [Fault::TooManyRequests, Fault::InternalServer, Fault::ServiceUnavailable] {
            let (cloud, clients, _fake) = cloud(Settings::default()).await;
            cloud.set_chaos(Chaos { fail_next: 2, fault, ..Chaos::default() });
            assert_eq!(translate(&clients, "hi", "en", "es", None).await.unwrap(), "[es] hi", "{fault:?}");
            assert_eq!(cloud.traffic()["es"].requests, 3);
        }
    }

    #[tokio::test]
    async fn a_lasting_fault_is_told_by_its_kind() {
        let (cloud, clients, _fake) = cloud(Settings::default()).await;
        cloud.set_chaos(Chaos { error_rate: 1.0, fault: Fault::TooManyRequests, ..Chaos::default() });
        let error = translate(&clients, "hi", "en", "es", None).await.unwrap_err();
        assert_eq!(error, TranslateError::Throttled);
        assert_eq!(cloud.traffic()["es"].requests, 3);
        cloud.set_chaos(Chaos { error_rate: 1.0, fault: Fault::ServiceUnavailable, ..Chaos::default() });
        let error = translate(&clients, "hi", "en", "es", None).await.unwrap_err();
        assert!(matches!(error, TranslateError::Unavailable(_)) && error.retryable(), "{error:?}");
    }

    #[tokio::test]
    async fn a_silent_service_is_given_up_in_time() {
        let settings = Settings { translate_attempt_timeout_ms: 150, translate_timeout_ms: 400, ..Settings::default() };
        let (cloud, clients, _fake) = cloud(settings).await;
        cloud.set_chaos(Chaos { hang: true, ..Chaos::default() });
        let before = Instant::now();
        let error = translate(&clients, "hi", "en", "es", None).await.unwrap_err();
        assert_eq!(error, TranslateError::Timeout);
        assert!(before.elapsed() < Duration::from_secs(10));
        assert!(cloud.traffic()["es"].requests >= 2, "a second attempt after the first timeout");
    }

    #[tokio::test]
    async fn nobody_listening_is_unavailable() {
        let clients = fake::clients("http://127.0.0.1:1", Settings::default()).await;
        let error = translate(&clients, "hi", "en", "es", None).await.unwrap_err();
        assert!(matches!(error, TranslateError::Unavailable(_)), "{error:?}");
    }

    async fn cloud(settings: Settings) -> (Arc<Translate>, Clients, Fake) {
        let engine = EngineSettings::Scripted(Scripted::default());
        let cloud = Arc::new(Translate::new(&CloudSettings { engine }).unwrap());
        let fake = Fake::serve(Arc::clone(&cloud).router()).await;
        let clients = fake.clients(settings).await;
        (cloud, clients, fake)
    }
}
