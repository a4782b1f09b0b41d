//! How a session comes into the world: checked, named, given a channel and a record, or leaving nothing behind.

use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::counts::Count;
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::{SessionId, SpeakerId};
use babelcast_domain::language::Language;
use babelcast_domain::record::{Change, EndReason, SessionRecord, SignalingEndpoints, Status};
use babelcast_domain::wire::CreateSession;

use tokio::time::Instant;

use crate::aws::kvs::{self, KvsError, Role};
use crate::store::{Expected, StoreError};

use super::sessions::Sessions;
use super::{sweep, task};

/// Names tried before giving up; each has some 900 × 10⁶ forms.
const NAME_ATTEMPTS: usize = 8;
/// How long and how often it is tried to end a record that may have been written.
const UNDO_WITHIN: Duration = Duration::from_secs(15 * 60);
const UNDO_FIRST: Duration = Duration::from_millis(500);
const UNDO_LONGEST: Duration = Duration::from_secs(30);

impl Sessions {
    /// Opens a session: its signaling channel is ACTIVE when this returns, and if anything fails nothing is left behind.
    pub async fn create(
        self: &Arc<Self>,
        speaker: &SpeakerId,
        request: CreateSession,
    ) -> Result<SessionRecord, Problem> {
        request.check()?;
        let (source, targets) = self.languages(&request)?;
        self.charge_creation(speaker).await?;
        let now = self.clock.now();
        let open = self.store.count_open(speaker, now.wall).await.map_err(|error| self.store_failed(&error))?;
        if open >= self.settings.sessions_per_speaker {
            return Err(Problem::new(
                ErrorCode::RateLimited,
                format!("you have {open} open sessions, which is the most allowed; end one first"),
            )
            .with(serde_json::json!({ "retryAfterMs": 60_000, "limit": self.settings.sessions_per_speaker })));
        }
        for _ in 0..NAME_ATTEMPTS {
            let id = new_id();
            let channel = match self.open_channel(&id).await {
                Ok(channel) => channel,
                Err(KvsError::InUse) => continue,
                Err(error) => return Err(self.kvs_failed(&error)),
            };
            let endpoints = match kvs::endpoints(&self.clients, &channel.arn, Role::Master).await {
                Ok(endpoints) => endpoints,
                Err(error) => {
                    self.delete_channel(&channel.arn).await;
                    return Err(self.kvs_failed(&error));
                }
            };
            let record = self.new_record(id, speaker, &request, (&source, &targets), &channel, endpoints);
            match self.store.create(&record).await {
                Ok(()) => {
                    self.counts.one(Count::SessionsCreated);
                    self.start(&record);
                    return Ok(record);
                }
                Err(StoreError::Exists) => self.delete_channel(&channel.arn).await,
                Err(error) => {
                    self.delete_channel(&channel.arn).await;
                    self.undo(record.session_id);
                    return Err(self.store_failed(&error));
                }
            }
        }
        Err(Problem::new(ErrorCode::Internal, "no free session name was found; try again"))
    }

    /// A dialect the recogniser knows for the source, and targets that are offered.
    fn languages(&self, request: &CreateSession) -> Result<(Language, Option<Vec<Language>>), Problem> {
        let sources: Vec<Language> = self.catalogue.sources().cloned().collect();
        let source = Language::parse(&request.source_language).ok().filter(|one| self.catalogue.dialect(one).is_some());
        let source = source.ok_or_else(|| unsupported(&request.source_language, &sources))?;
        let targets = request.target_languages.as_ref().map(|asked| self.targets(&source, asked)).transpose()?;
        Ok((source, targets))
    }

    /// An allow-list of languages that are offered.
    pub(super) fn targets(&self, source: &Language, asked: &[String]) -> Result<Vec<Language>, Problem> {
        let mut targets = Vec::new();
        for one in asked {
            let known = Language::parse(one).ok().filter(|one| self.catalogue.targets().contains(one) || one == source);
            let known = known.ok_or_else(|| unsupported(one, self.catalogue.targets()))?;
            if !targets.contains(&known) {
                targets.push(known);
            }
        }
        Ok(targets)
    }

    /// A store that did not answer may have written the record all the same: it is ended as soon as the store says so,
    /// because an open session that nobody has counts against its speaker.
    fn undo(self: &Arc<Self>, id: SessionId) {
        let sessions = Arc::clone(self);
        let work = async move {
            let (mut pause, until) = (UNDO_FIRST, Instant::now() + UNDO_WITHIN);
            while Instant::now() < until {
                let (now, expected) = (sessions.clock.now().wall, Expected::default());
                match sessions.store.change(&id, now, expected, &Change::Ended(EndReason::Failed)).await {
                    Err(error) if error.retryable() => sessions.counts.one(Count::StoreErrors),
                    // Ended now, ended before, or never there.
                    _ => return,
                }
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
                pause = (pause * 2).min(UNDO_LONGEST);
            }
            tracing::error!(session.id = %id, "a record that may exist without a session could not be ended; its TTL will");
        };
        let mut undoing = self.undoing();
        while undoing.try_join_next().is_some() {}
        task::join(&mut undoing, work);
    }

    async fn open_channel(&self, id: &SessionId) -> Result<kvs::Channel, KvsError> {
        let expires = self.clock.now().wall.plus(self.settings.session_ttl).as_secs().to_string();
        let tags = [(sweep::OURS, self.settings.channel_tag.as_str()), (sweep::EXPIRES, expires.as_str())];
        kvs::create_channel(&self.clients, &id.channel_name(), self.settings.message_ttl, &tags).await
    }

    fn new_record(
        &self,
        id: SessionId,
        speaker: &SpeakerId,
        request: &CreateSession,
        (source, targets): (&Language, &Option<Vec<Language>>),
        channel: &kvs::Channel,
        endpoints: kvs::Endpoints,
    ) -> SessionRecord {
        let now = self.clock.now().wall;
        SessionRecord {
            kvs_stream_name: request.recording.then(|| id.channel_name()),
            session_id: id,
            speaker_id: speaker.clone(),
            title: request.title.clone(),
            source_language: source.clone(),
            target_languages: targets.clone(),
            quality_tier: request.quality_tier,
            status: Status::Active,
            end_reason: None,
            speaker_kvs_connected: false,
            kvs_channel_arn: channel.arn.clone(),
            kvs_channel_name: channel.name.clone(),
            kvs_signaling_endpoints: SignalingEndpoints { wss: endpoints.wss, https: endpoints.https },
            glossary: request.glossary.clone(),
            vocabulary: request.vocabulary.clone(),
            created_at: now,
            updated_at: now,
            expires_at: now.plus(self.settings.session_ttl).as_secs(),
            access_code: request.access_code.clone(),
            private_transcript: request.private_transcript,
            version: 1,
            first_audio_at: None,
            lease_owner: Some(self.node.clone()),
            lease_until: Some(now.plus(self.settings.lease.lasts)),
            fence: 1,
        }
    }
}

fn unsupported(asked: &str, offered: &[Language]) -> Problem {
    let asked: String = asked.chars().filter(|c| !c.is_control()).take(35).collect();
    Problem::unsupported_language(&asked, offered)
}

/// `adjective-noun-number`.
fn new_id() -> SessionId {
    loop {
        let words = petname::petname(2, "-");
        let number = rand::Rng::random_range(&mut rand::rng(), 100..1000);
        if let Some(id) = words.and_then(|words| SessionId::parse(&format!("{words}-{number}")).ok()) {
            return id;
        }
    }
}
