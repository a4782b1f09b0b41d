//! The account's signaling channels: their records and states. Plain values; the time is passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::rates::Bucket;
use super::relay::{Order, Relay};
use crate::error::{AwsError, ErrorKind};

pub(super) const DEFAULT_TTL_SECONDS: u32 = 60;
const TTL_SECONDS: std::ops::RangeInclusive<u32> = 5..=120;
const MAX_CHANNELS: usize = 10_000;
pub(super) const MAX_TAGS: usize = 50;
const MAX_NAME: usize = 256;

pub(super) type Tags = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Active,
    Deleting,
}

impl Status {
    const fn name(self) -> &'static str {
        match self {
            Self::Creating => "CREATING",
            Self::Active => "ACTIVE",
            Self::Deleting => "DELETING",
        }
    }
}

#[derive(Debug)]
pub(super) struct Channel {
    pub name: String,
    pub arn: String,
    pub ttl_seconds: u32,
    pub tags: Tags,
    pub relay: Relay,
    pub connects: Bucket,
    version: u64,
    created_ms: u128,
    /// How much older it says it is than it is.
    pub backdated: Duration,
    active_at: Instant,
    gone_at: Option<Instant>,
}

impl Channel {
    pub fn status(&self, now: Instant) -> Status {
        match self.gone_at {
            Some(_) => Status::Deleting,
            None if now < self.active_at => Status::Creating,
            None => Status::Active,
        }
    }

    pub fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds.into())
    }

    /// `ChannelInfo` of the model. `CreationTime` is seconds since the epoch.
    pub fn info(&self, now: Instant) -> Value {
        json!({
            "ChannelARN": self.arn,
            "ChannelName": self.name,
            "ChannelStatus": self.status(now).name(),
            "ChannelType": "SINGLE_MASTER",
            "CreationTime": self.created_ms as f64 / 1000.0 - self.backdated.as_secs_f64(),
            "SingleMasterConfiguration": { "MessageTtlSeconds": self.ttl_seconds },
            "Version": self.version(),
        })
    }

    /// Opaque, alphanumeric, new after each update.
    fn version(&self) -> String {
        format!("V{:016X}", (self.created_ms as u64).rotate_left(20) ^ self.version)
    }
}

/// How a call names a channel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    Name(&'a str),
    Arn(&'a str),
}

#[derive(Debug)]
pub(super) struct Channels {
    by_name: BTreeMap<String, Channel>,
    arn_prefix: String,
    newest_ms: u128,
}

impl Channels {
    pub fn new(region: &str, account: &str) -> Self {
        let arn_prefix = format!("arn:aws:kinesisvideo:{region}:{account}:channel/");
        Self { by_name: BTreeMap::new(), arn_prefix, newest_ms: 0 }
    }

    /// Makes a channel that turns ACTIVE after `creating`; gives its ARN.
    pub fn create(
        &mut self,
        name: &str,
        ttl_seconds: u32,
        tags: Tags,
        creating: Duration,
        now: Instant,
    ) -> Result<String, AwsError> {
        check_name(name)?;
        check_ttl(ttl_seconds)?;
        check_tags(&tags)?;
        self.sweep(now);
        if self.by_name.contains_key(name) {
            let message = "The channel is already there or is being deleted";
            return Err(AwsError::new(ErrorKind::ResourceInUse, message));
        }
        if self.by_name.len() >= MAX_CHANNELS {
            return Err(AwsError::new(ErrorKind::AccountChannelLimitExceeded, "The account has 10000 channels"));
        }
        let epoch_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        // Two channels never share an ARN, not even one name created twice within a millisecond.
        self.newest_ms = epoch_ms.max(self.newest_ms + 1);
        let arn = format!("{}{name}/{}", self.arn_prefix, self.newest_ms);
        let channel = Channel {
            name: name.to_owned(),
            arn: arn.clone(),
            ttl_seconds,
            tags,
            relay: Relay::default(),
            connects: Bucket::default(),
            version: 1,
            created_ms: self.newest_ms,
            backdated: Duration::ZERO,
            active_at: now + creating,
            gone_at: None,
        };
        self.by_name.insert(name.to_owned(), channel);
        Ok(arn)
    }

    pub fn find(&mut self, which: Which<'_>, now: Instant) -> Result<&mut Channel, AwsError> {
        self.sweep(now);
        let name = match which {
            Which::Name(name) => {
                check_name(name)?;
                name
            }
            Which::Arn(arn) => channel_name_of(arn)?,
        };
        self.by_name
            .get_mut(name)
            .filter(|channel| match which {
                Which::Name(_) => true,
                Which::Arn(arn) => channel.arn == arn,
            })
            .ok_or_else(|| AwsError::new(ErrorKind::ResourceNotFound, "The channel does not exist"))
    }

    /// As [`Self::find`], for calls that need an ACTIVE channel.
    pub fn find_active(&mut self, which: Which<'_>, now: Instant) -> Result<&mut Channel, AwsError> {
        let channel = self.find(which, now)?;
        match channel.status(now) {
            Status::Active => Ok(channel),
            Status::Creating => Err(AwsError::new(ErrorKind::ResourceInUse, "The channel is still being created")),
            Status::Deleting => Err(AwsError::new(ErrorKind::ResourceNotFound, "The channel is being deleted")),
        }
    }

    /// Closes the channel's sockets; the record is gone after `deleting`.
    pub fn delete(
        &mut self,
        which: Which<'_>,
        version: Option<&str>,
        deleting: Duration,
        now: Instant,
    ) -> Result<(), AwsError> {
        let channel = self.find_active(which, now)?;
        check_version(channel, version)?;
        channel.gone_at = Some(now + deleting);
        channel.relay.order_all(Order::Close("the channel is deleted"));
        self.sweep(now);
        Ok(())
    }

    pub fn update(
        &mut self,
        which: Which<'_>,
        version: &str,
        ttl_seconds: Option<u32>,
        now: Instant,
    ) -> Result<(), AwsError> {
        let channel = self.find_active(which, now)?;
        check_version(channel, Some(version))?;
        if let Some(ttl_seconds) = ttl_seconds {
            check_ttl(ttl_seconds)?;
            channel.ttl_seconds = ttl_seconds;
        }
        channel.version += 1;
        Ok(())
    }

    /// Up to `max` channels whose names begin with `prefix` and come after `after`; with the name to go on from.
    pub fn list(&mut self, prefix: &str, after: &str, max: usize, now: Instant) -> (Vec<Value>, Option<String>) {
        self.sweep(now);
        let mut matching = self
            .by_name
            .values()
            .filter(|channel| channel.name.starts_with(prefix) && channel.name.as_str() > after)
            .peekable();
        let mut page = Vec::new();
        let mut last = None;
        while let Some(channel) = matching.next_if(|_| page.len() < max) {
            page.push(channel.info(now));
            last = Some(channel.name.clone());
        }
        let more = matching.peek().is_some();
        (page, last.filter(|_| more))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Channel> {
        self.by_name.values_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.by_name.values()
    }

    fn sweep(&mut self, now: Instant) {
        self.by_name.retain(|_, channel| channel.gone_at.is_none_or(|gone_at| gone_at > now));
    }
}

pub(super) fn check_tags(tags: &Tags) -> Result<(), AwsError> {
    if tags.len() > MAX_TAGS {
        return Err(AwsError::new(ErrorKind::TagsPerResourceExceededLimit, "A channel has at most 50 tags"));
    }
    let bad = |text: &str, max: usize| text.chars().count() > max;
    match tags.iter().any(|(key, value)| key.is_empty() || bad(key, 128) || bad(value, 256)) {
        true => Err(AwsError::invalid("A tag has a key of 1 to 128 and a value of at most 256 characters")),
        false => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), AwsError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    match (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(good) {
        true => Ok(()),
        false => Err(AwsError::invalid("ChannelName must be 1 to 256 of [a-zA-Z0-9_.-]")),
    }
}

fn check_ttl(seconds: u32) -> Result<(), AwsError> {
    match TTL_SECONDS.contains(&seconds) {
        true => Ok(()),
        false => Err(AwsError::invalid("MessageTtlSeconds must be 5 to 120")),
    }
}

fn check_version(channel: &Channel, version: Option<&str>) -> Result<(), AwsError> {
    match version {
        Some(version) if version != channel.version() => {
            Err(AwsError::new(ErrorKind::VersionMismatch, "CurrentVersion is not the channel's version"))
        }
        Some(_) | None => Ok(()),
    }
}

/// The channel name inside an ARN of the model's pattern.
fn channel_name_of(arn: &str) -> Result<&str, AwsError> {
    let malformed = || AwsError::invalid("ChannelARN is not the ARN of a signaling channel");
    let mut parts = arn.splitn(6, ':');
    let head: Vec<&str> = parts.by_ref().take(5).collect();
    let resource = parts.next().ok_or_else(malformed)?;
    let mut path = resource.split('/');
    match (head.as_slice(), path.next(), path.next(), path.next(), path.next()) {
        (["arn", _, "kinesisvideo", _, _], Some("channel"), Some(name), Some(made), None)
            if !made.is_empty() && made.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            check_name(name)?;
            Ok(name)
        }
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels() -> Channels {
        Channels::new("us-east-1", "123456789012")
    }

    fn create(channels: &mut Channels, name: &str, now: Instant) -> String {
        channels.create(name, 60, Tags::new(), Duration::ZERO, now).expect("created")
    }

    #[test]
    fn a_channel_is_creating_then_active_then_deleting_then_gone() {
        let (mut channels, now) = (channels(), Instant::now());
        let second = Duration::from_secs(1);
        let arn = channels.create("s", 60, Tags::new(), second, now).expect("created");
        assert_eq!(channels.find(Which::Arn(&arn), now).expect("there").status(now), Status::Creating);
        assert_eq!(channels.find_active(Which::Name("s"), now).expect_err("early").kind, ErrorKind::ResourceInUse);
        let later = now + second;
        assert!(channels.find_active(Which::Name("s"), later).is_ok());
        channels.delete(Which::Arn(&arn), None, second, later).expect("deleted");
        assert_eq!(channels.find(Which::Name("s"), later).expect("still listed").status(later), Status::Deleting);
        let again = channels.create("s", 60, Tags::new(), Duration::ZERO, later);
        assert_eq!(again.expect_err("in use").kind, ErrorKind::ResourceInUse);
        let gone = channels.find(Which::Name("s"), later + second).expect_err("gone");
        assert_eq!(gone.kind, ErrorKind::ResourceNotFound);
    }

    #[test]
    fn a_recreated_channel_has_another_arn() {
        let (mut channels, now) = (channels(), Instant::now());
        let first = create(&mut channels, "s", now);
        channels.delete(Which::Arn(&first), None, Duration::ZERO, now).expect("deleted");
        let second = create(&mut channels, "s", now);
        assert_ne!(first, second);
        assert!(channels.find(Which::Arn(&first), now).is_err());
    }

    #[test]
    fn an_update_changes_the_version_and_needs_the_current_one() {
        let (mut channels, now) = (channels(), Instant::now());
        let arn = create(&mut channels, "s", now);
        let version = channels.find(Which::Arn(&arn), now).expect("there").version();
        assert!((1..=64).contains(&version.len()) && version.bytes().all(|b| b.is_ascii_alphanumeric()));
        channels.update(Which::Arn(&arn), &version, Some(10), now).expect("updated");
        let stale = channels.update(Which::Arn(&arn), &version, Some(20), now).expect_err("stale");
        assert_eq!(stale.kind, ErrorKind::VersionMismatch);
        assert_eq!(channels.find(Which::Arn(&arn), now).expect("there").ttl_seconds, 10);
    }

    #[test]
    fn lists_come_in_pages() {
        let (mut channels, now) = (channels(), Instant::now());
        for name in ["a1", "b1", "b2", "b3"] {
            create(&mut channels, name, now);
        }
        let (page, next) = channels.list("b", "", 2, now);
        assert_eq!((page.len(), next.as_deref()), (2, Some("b2")));
        let (page, next) = channels.list("b", "b2", 2, now);
        assert_eq!((page[0]["ChannelName"].as_str(), next), (Some("b3"), None));
    }

    #[test]
    fn bad_names_arns_ttls_and_tags_are_refused() {
        let (mut channels, now) = (channels(), Instant::now());
        for name in ["", "a b", "a/b", &"x".repeat(257)] {
            assert_eq!(check_name(name).expect_err("bad").kind, ErrorKind::InvalidArgument);
        }
        for arn in [
            "",
            "s",
            "arn:aws:kinesisvideo:r:1:stream/s/1",
            "arn:aws:kinesisvideo:r:1:channel/s",
            "arn:aws:kinesisvideo:r:1:channel/s/x",
        ] {
            assert_eq!(channels.find(Which::Arn(arn), now).expect_err("bad").kind, ErrorKind::InvalidArgument, "{arn}");
        }
        for ttl in [4, 121] {
            assert!(channels.create("s", ttl, Tags::new(), Duration::ZERO, now).is_err());
        }
        let many: Tags = (0..=MAX_TAGS).map(|n| (format!("k{n}"), String::new())).collect();
        assert_eq!(check_tags(&many).expect_err("too many").kind, ErrorKind::TagsPerResourceExceededLimit);
    }
}
