//! Custom vocabularies by the JSON 1.1 calls of the Transcribe control plane, as far as streaming needs them.
//!
//! A vocabulary here may hold whole sentences: the talk's script. Ready at once. Absent: vocabularies from S3,
//! pronunciations, lists of vocabularies, updates (delete and create again).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

/// Vocabularies kept at once.
const MOST: usize = 100;
/// Bytes of all phrases of one vocabulary: a long talk's script.
const MOST_BYTES: usize = 1 << 20;

/// The vocabularies of one server.
#[derive(Default)]
pub(super) struct Vocabularies(Mutex<BTreeMap<String, Vocabulary>>);

#[derive(Clone)]
struct Vocabulary {
    language: String,
    modified: f64,
    phrases: Arc<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Call {
    vocabulary_name: String,
    language_code: Option<String>,
    phrases: Option<Vec<String>>,
}

/// Status, exception name and message.
type Problem = (StatusCode, &'static str, &'static str);

const NOT_FOUND: Problem = (
    StatusCode::BAD_REQUEST,
    "NotFoundException",
    "The requested vocabulary couldn't be found. Check the vocabulary name and try your request again.",
);
const CONFLICT: Problem = (
    StatusCode::BAD_REQUEST,
    "ConflictException",
    "The requested vocabulary name already exists. Use a different name for your vocabulary.",
);
const TOO_MANY: Problem =
    (StatusCode::BAD_REQUEST, "LimitExceededException", "local-cloud keeps 100 vocabularies of 1 MiB each");

impl Vocabularies {
    /// Puts a vocabulary in place, replacing one of the same name.
    pub(super) fn put(&self, name: &str, language: &str, phrases: Vec<String>) -> Result<(), Problem> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: usize = phrases.iter().map(String::len).sum();
        if bytes > MOST_BYTES || (all.len() >= MOST && !all.contains_key(name)) {
            return Err(TOO_MANY);
        }
        let modified = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let vocabulary = Vocabulary { language: language.to_owned(), modified, phrases: Arc::new(phrases) };
        all.insert(name.to_owned(), vocabulary);
        Ok(())
    }

    pub(super) fn remove(&self, name: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name).is_some()
    }

    /// The phrases a stream asks for by name; None when there is no such vocabulary.
    pub(super) fn phrases(&self, name: &str) -> Option<Arc<Vec<String>>> {
        self.find(name).map(|v| v.phrases)
    }

    /// One call; `operation` is the part of `x-amz-target` after the dot.
    pub(super) fn call(&self, operation: &str, body: &[u8]) -> Response {
        let problem = |(status, name, message): Problem| {
            let body = json!({ "__type": name, "Message": message }).to_string();
            let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amzn-errortype", name)];
            (status, headers, body).into_response()
        };
        match self.act(operation, body) {
            Ok(answer) => ([("content-type", "application/x-amz-json-1.1")], answer.to_string()).into_response(),
            Err(refused) => problem(refused),
        }
    }

    fn act(&self, operation: &str, body: &[u8]) -> Result<Value, Problem> {
        let bad = |message| (StatusCode::BAD_REQUEST, "BadRequestException", message);
        if !matches!(operation, "CreateVocabulary" | "GetVocabulary" | "DeleteVocabulary") {
            let message = "local-cloud knows CreateVocabulary, GetVocabulary and DeleteVocabulary";
            return Err((StatusCode::BAD_REQUEST, "UnknownOperationException", message));
        }
        let call: Call = serde_json::from_slice(body).map_err(|_| bad("The request is no JSON of this operation"))?;
        let name = call.vocabulary_name.as_str();
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 200 || !name.chars().all(named) {
            return Err(bad("A vocabulary name has 1 to 200 letters, digits, dots, dashes or underscores"));
        }
        match operation {
            "CreateVocabulary" => {
                let language = call.language_code.ok_or(bad("LanguageCode is missing"))?;
                let phrases = call.phrases.filter(|p| !p.is_empty()).ok_or(bad("Phrases are missing"))?;
                if self.find(name).is_some() {
                    return Err(CONFLICT);
                }
                self.put(name, &language, phrases)?;
                self.find(name).map(|v| v.describe(name)).ok_or(NOT_FOUND)
            }
            "GetVocabulary" => self.find(name).map(|v| v.describe(name)).ok_or(NOT_FOUND),
            _ => self.remove(name).then(|| json!({})).ok_or(NOT_FOUND),
        }
    }

    fn find(&self, name: &str) -> Option<Vocabulary> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl Vocabulary {
    fn describe(&self, name: &str) -> Value {
        json!({
            "VocabularyName": name,
            "LanguageCode": self.language,
            "VocabularyState": "READY",
            "LastModifiedTime": self.modified,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_is_made_described_and_deleted() {
        let all = Vocabularies::default();
        let create = br#"{"VocabularyName":"talk","LanguageCode":"en-US","Phrases":["movable type"]}"#;
        let made = all.act("CreateVocabulary", create).unwrap();
        assert_eq!(made["VocabularyState"], "READY");
        assert_eq!(all.act("CreateVocabulary", create).unwrap_err().1, "ConflictException");
        assert_eq!(*all.phrases("talk").unwrap(), ["movable type"]);
        let name = br#"{"VocabularyName":"talk"}"#;
        assert_eq!(all.act("GetVocabulary", name).unwrap()["LanguageCode"], "en-US");
        all.act("DeleteVocabulary", name).unwrap();
        assert_eq!(all.act("GetVocabulary", name).unwrap_err().1, "NotFoundException");
        assert!(all.phrases("talk").is_none());
    }

    #[test]
    fn wrong_calls_are_refused() {
        let all = Vocabularies::default();
        for (operation, body) in [
            ("ListVocabularies", "{}"),
            ("CreateVocabulary", "no json"),
            ("CreateVocabulary", r#"{"VocabularyName":"a b","LanguageCode":"en-US","Phrases":["x"]}"#),
            ("CreateVocabulary", r#"{"VocabularyName":"ab","Phrases":["x"]}"#),
            ("CreateVocabulary", r#"{"VocabularyName":"ab","LanguageCode":"en-US","Phrases":[]}"#),
        ] {
            assert_eq!(all.act(operation, body.as_bytes()).unwrap_err().0, StatusCode::BAD_REQUEST, "{body}");
        }
        assert!(all.put("big", "en-US", vec!["x".repeat(MOST_BYTES + 1)]).is_err());
    }
}
