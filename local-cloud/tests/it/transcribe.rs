//! Transcribe behind the shared ports, plain and TLS, with its frames signed by the SDK.

use aws_sdk_transcribestreaming::config::{BehaviorVersion, Region};
use aws_sdk_transcribestreaming::primitives::Blob;
use aws_sdk_transcribestreaming::types::{
    AudioEvent, AudioStream, LanguageCode, MediaEncoding, TranscriptResultStream,
};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use local_cloud::engine::Engine;
use local_cloud::engine::scripted::{Script, Scripted};
use local_cloud::{LocalCloud, transcribe};

use crate::harness::{PATIENCE, SECRET, browser, credentials, start, trusting};

async fn cloud() -> LocalCloud {
    let script = Script::of(&[(0, 800, "Good evening.")]);
    start(|settings| {
        let engine = Engine::Scripted(std::sync::Arc::new(Scripted::same(script)));
        settings.transcribe = Some(transcribe::Settings::new(engine));
    })
    .await
}

/// Two seconds of silence in, the text of the final out; the error's code when refused.
async fn transcribe(cloud: &LocalCloud, endpoint: &str, secret: &str) -> Result<String, String> {
    let config = aws_sdk_transcribestreaming::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials(secret))
        .http_client(trusting(cloud))
        .endpoint_url(endpoint)
        .build();
    let chunk = || Ok(AudioStream::AudioEvent(AudioEvent::builder().audio_chunk(Blob::new(vec![0u8; 3200])).build()));
    let audio = futures_util::stream::iter((0..20).map(move |_| chunk()));
    let asked = aws_sdk_transcribestreaming::Client::from_conf(config)
        .start_stream_transcription()
        .language_code(LanguageCode::EnUs)
        .media_encoding(MediaEncoding::Pcm)
        .media_sample_rate_hertz(16_000)
        .audio_stream(audio.into());
    let code = |error: &dyn ProvideErrorMetadata| error.code().unwrap_or("no code").to_owned();
    let mut events = asked.send().await.map_err(|error| code(&error))?.transcript_result_stream;
    let mut text = String::new();
    while let Some(event) =
        tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time").map_err(|error| code(&error))?
    {
        let TranscriptResultStream::TranscriptEvent(event) = event else { continue };
        for result in event.transcript.as_ref().map_or(&[][..], |transcript| transcript.results()) {
            if !result.is_partial() {
                text.push_str(result.alternatives()[0].transcript().unwrap_or_default());
            }
        }
    }
    Ok(text)
}

#[tokio::test]
async fn the_sdk_streams_over_both_ports_with_every_frame_signed() {
    let cloud = cloud().await;
    for endpoint in [cloud.http_url(), cloud.https_url()] {
        assert_eq!(transcribe(&cloud, &endpoint, SECRET).await.as_deref(), Ok("Good evening."), "{endpoint}");
    }
}

#[tokio::test]
async fn a_wrong_secret_gets_no_stream() {
    let cloud = cloud().await;
    let refused = transcribe(&cloud, &cloud.http_url(), "wrong").await;
    assert_eq!(refused, Err("InvalidSignatureException".into()));
}

#[tokio::test]
async fn vocabularies_share_the_json_path_and_need_a_signature() {
    let cloud = cloud().await;
    let request = browser().post(cloud.http_url()).header("x-amz-target", "Transcribe.CreateVocabulary").body("{}");
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.headers()["x-amzn-errortype"], "MissingAuthenticationTokenException");
}
