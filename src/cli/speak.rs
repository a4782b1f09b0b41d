//! `babelcast speak`: a speaker in a terminal. A real client: HTTP for the session, WebRTC MASTER for the voice.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::ids::SessionId;
use babelcast_domain::signaling::CandidatePolicy;
use babelcast_domain::wire::CreateSession;
use tokio::time::{Instant, timeout};
use url::Url;

use super::client::ClientError;
use super::speaker::SpeakerClient;
use super::stop_signal;
use crate::media::IceServer;
use crate::media::master::{Access, Master, MasterError, MasterEvent, Settings};
use crate::media::socket::{TlsError, tls};
use crate::media::wav::{Recording, WavError};
use crate::web::Token;

/// Loss the encoder prepares for with forward error correction, percent.
const EXPECTED_LOSS: u8 = 10;
/// How long babelcast may take to come for the voice.
const VIEWER_WITHIN: Duration = Duration::from_secs(30);

/// Speak a recording into a session, as a browser would its microphone
#[derive(Debug, Clone, clap::Args)]
pub struct SpeakArgs {
    /// The session; without it a new one is made, and ended when the recording is over
    pub session: Option<String>,
    /// The recording: a WAV file of any rate
    #[arg(long)]
    pub file: PathBuf,
    /// Where babelcast runs
    #[arg(long, env = "BABELCAST_URL", default_value = "http://127.0.0.1:8080")]
    pub url: Url,
    /// The speaker's access token
    #[arg(long, env = "BABELCAST_TOKEN", hide_env_values = true)]
    pub token: Option<Token>,
    /// The language spoken, for a new session
    #[arg(long, default_value = "en")]
    pub from: String,
    /// Name of a Transcribe vocabulary, for a new session
    #[arg(long)]
    pub vocabulary: Option<String>,
    /// Say it again and again until Ctrl-C
    #[arg(long)]
    pub repeat: bool,
    /// PEM file of a certificate to trust besides the machine's, such as local-cloud's
    #[arg(long, value_name = "FILE")]
    pub extra_root: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum SpeakError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Wav(#[from] WavError),
    #[error("{}{}", .0, certificate_hint(.0))]
    Master(#[from] MasterError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no token: give --token or set BABELCAST_TOKEN (`babelcast local` prints one)")]
    NoToken,
    #[error("`{0}` is not a session id such as `blessed-covenant-420`")]
    NotASession(String),
    #[error("{file}: {error}", file = .file.display())]
    ExtraRoot { file: PathBuf, error: std::io::Error },
    #[error("babelcast did not come for the voice within {} s; is the session's server running?", VIEWER_WITHIN.as_secs())]
    NoViewer,
}

fn certificate_hint(error: &MasterError) -> &'static str {
    let unknown = error.to_string().contains("UnknownIssuer");
    if unknown { "; a development certificate is trusted with --extra-root FILE" } else { "" }
}

/// Puts a speaker on the air: the channel's access is fetched anew for every opening of the signaling socket.
pub async fn on_air(
    client: &SpeakerClient,
    id: &SessionId,
    rate: u32,
    extra_root: Option<&[u8]>,
) -> Result<Master, SpeakError> {
    let settings =
        Settings { tls: tls(extra_root)?, policy: CandidatePolicy::LOCAL, rate, expected_loss: EXPECTED_LOSS };
    let (client, id) = (client.clone(), Arc::new(id.clone()));
    let access = move || {
        let (client, id) = (client.clone(), Arc::clone(&id));
        async move {
            let connection =
                client.connection(&id).await.map_err(|error| Box::new(error) as Box<dyn Error + Send + Sync>)?;
            let server = |server: babelcast_domain::wire::IceServerView| IceServer {
                urls: server.urls,
                username: server.username.unwrap_or_default(),
                credential: server.credential.unwrap_or_default(),
            };
            let ice_servers = connection.ice_servers.into_iter().map(server).collect();
            Ok(Access { url: connection.signaling_url, ice_servers })
        }
    };
    Ok(Master::connect(access, settings).await?)
}

/// Waits until somebody hears the speaker; answers with the moment capture time 0 was sent.
pub async fn heard(master: &mut Master) -> Result<Instant, SpeakError> {
    match timeout(VIEWER_WITHIN, master.wait_for_viewer()).await {
        Ok(result) => Ok(result?.1),
        Err(_) => Err(SpeakError::NoViewer),
    }
}

/// Speaks until the recording is over or Ctrl-C. What happens is told on stderr.
pub async fn run(args: SpeakArgs) -> Result<(), SpeakError> {
    if args.token.is_none() {
        return Err(SpeakError::NoToken);
    }
    let recording = Recording::read(&args.file)?;
    let extra_root = match &args.extra_root {
        Some(file) => {
            let read = std::fs::read(file);
            Some(read.map_err(|error| SpeakError::ExtraRoot { file: file.clone(), error })?)
        }
        None => None,
    };
    let client = SpeakerClient::new(args.url.clone(), args.token.clone())?;
    let (id, own) = match &args.session {
        Some(text) => (SessionId::parse(text).map_err(|_| SpeakError::NotASession(text.clone()))?, false),
        None => (create(&client, &args).await?, true),
    };
    let spoken = broadcast(&client, &id, &recording, &args, extra_root.as_deref()).await;
    // Also after a failure: an open session is one of the few a speaker may have.
    let ended = if own { client.end(&id).await } else { client.set_kvs_connected(&id, false).await.map(|_| ()) };
    spoken?;
    ended?;
    if own {
        eprintln!("session {id} ended");
    }
    Ok(())
}

/// From the signaling socket to the last word, or to Ctrl-C, which is a good end.
async fn broadcast(
    client: &SpeakerClient,
    id: &SessionId,
    recording: &Recording,
    args: &SpeakArgs,
    extra_root: Option<&[u8]>,
) -> Result<(), SpeakError> {
    eprintln!("listen with: babelcast listen {id} --to es --url {}", args.url);
    let opening = async {
        let mut master = on_air(client, id, recording.rate, extra_root).await?;
        client.set_kvs_connected(id, true).await?;
        heard(&mut master).await?;
        Ok::<Master, SpeakError>(master)
    };
    let mut master = tokio::select! {
        opened = opening => opened?,
        () = stop_signal() => return Ok(()),
    };
    eprintln!("on the air: {} ({:.0} s)", args.file.display(), recording.duration().as_secs_f32());
    let spoken = tokio::select! {
        spoken = speak(&mut master, recording, args.repeat) => spoken,
        () = stop_signal() => Ok(()),
    };
    master.close().await;
    spoken
}

async fn create(client: &SpeakerClient, args: &SpeakArgs) -> Result<SessionId, SpeakError> {
    let request = CreateSession { vocabulary: args.vocabulary.clone(), ..CreateSession::new(args.from.as_str()) };
    let view = client.create(&request).await?;
    eprintln!("session {} is open", view.session_id);
    Ok(view.session_id)
}

async fn speak(master: &mut Master, recording: &Recording, repeat: bool) -> Result<(), SpeakError> {
    // A second of silence lets the recogniser see where the last sentence ends.
    let tail = vec![0; recording.rate as usize];
    loop {
        // A second at a time, so that news is told while it is new.
        for second in recording.samples.chunks(recording.rate as usize).chain([tail.as_slice()]) {
            master.play(second).await?;
            tell_news(master).await;
        }
        if !repeat {
            return Ok(());
        }
    }
}

async fn tell_news(master: &mut Master) {
    while let Ok(Some(event)) = timeout(Duration::ZERO, master.next()).await {
        match event {
            MasterEvent::SignalingClosed => eprintln!("signaling closed; the voice goes on"),
            MasterEvent::OfferRefused { reason, .. } => eprintln!("a viewer was refused: {reason}"),
            MasterEvent::ViewerGone { .. } => eprintln!("babelcast hung up; it comes back by itself"),
            MasterEvent::ViewerConnected { .. } | MasterEvent::FirstPacket { .. } | MasterEvent::SignalingReopened => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_recording_is_named() {
        let error = Recording::read("no/such.wav".as_ref()).map_err(SpeakError::from).unwrap_err();
        assert!(error.to_string().starts_with("no/such.wav: "), "{error}");
    }
}
