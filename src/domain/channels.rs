//! The signaling channels of one language: ten viewers each, so further ones are opened when needed and closed when
//! nobody is left.
//!
//! A listener first gets a place, then a signed address that leads to it; one that does not come in time loses it.
//! Places are given in the channel with the lowest number, so that the others become empty again.

use std::collections::BTreeMap;
use std::time::Duration;

/// Viewers of a channel: the service's own limit.
pub const VIEWERS: usize = 10;

/// From the address to the viewer's connection.
pub const COME_WITHIN: Duration = Duration::from_secs(60);

/// How long an empty channel is kept, for whoever comes back.
pub const EMPTY_FOR: Duration = Duration::from_secs(30);

/// Where a listener is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Channel `n` is there.
    In(usize),
    /// Channel `n` is being opened.
    Wait(usize),
    /// Channel `n` is to be opened, and [`Channels::opened`] or [`Channels::refused`] to be told.
    Open(usize),
    /// As many listeners as all the channels take.
    Full,
}

#[derive(Debug, PartialEq, Eq)]
enum Viewer {
    Expected { until: Duration },
    Here,
}

#[derive(Debug, Default)]
struct Channel {
    open: bool,
    viewers: BTreeMap<String, Viewer>,
    /// Since when it is open and empty.
    empty: Option<Duration>,
}

/// The channels of a language. `now` is the monotonic clock; listeners are known by the client id they will connect
/// with.
#[derive(Debug)]
pub struct Channels {
    most: usize,
    channels: BTreeMap<usize, Channel>,
}

impl Channels {
    /// At most so many channels at once.
    pub fn new(most: usize) -> Self {
        Channels { most, channels: BTreeMap::new() }
    }

    /// Gives a listener a place; the one it has, if it asks again.
    pub fn place(&mut self, now: Duration, client: &str) -> Place {
        self.expire(now);
        let known = self.channels.iter().find(|(_, channel)| channel.viewers.contains_key(client));
        let room = || self.channels.iter().find(|(_, channel)| channel.viewers.len() < VIEWERS);
        let (number, fresh) = match known.or_else(room) {
            Some((number, _)) => (*number, false),
            None => match (0..self.most).find(|number| !self.channels.contains_key(number)) {
                Some(number) => (number, true),
                None => return Place::Full,
            },
        };
        let channel = self.channels.entry(number).or_default();
        channel.empty = None;
        let viewer = channel.viewers.entry(client.to_owned()).or_insert(Viewer::Here);
        // One that is here and asks again is about to come anew.
        *viewer = Viewer::Expected { until: now + COME_WITHIN };
        match (channel.open, fresh) {
            (true, _) => Place::In(number),
            (false, true) => Place::Open(number),
            (false, false) => Place::Wait(number),
        }
    }

    /// The channel is there.
    pub fn opened(&mut self, now: Duration, number: usize) {
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.open = true;
            channel.empty = channel.viewers.is_empty().then_some(now);
        }
    }

    /// The channel could not be opened, or is lost with everybody in it.
    pub fn refused(&mut self, number: usize) {
        self.channels.remove(&number);
    }

    /// A viewer has connected, expected or not.
    pub fn connected(&mut self, number: usize, client: &str) {
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.empty = None;
            channel.viewers.insert(client.to_owned(), Viewer::Here);
        }
    }

    /// A viewer has gone.
    pub fn gone(&mut self, now: Duration, number: usize, client: &str) {
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.viewers.remove(client);
            channel.rest(now);
        }
    }

    /// The channels that are to be closed now: they are forgotten. To be called at [`Channels::deadline`].
    pub fn tick(&mut self, now: Duration) -> Vec<usize> {
        self.expire(now);
        let over = |channel: &Channel| channel.empty.is_some_and(|since| now >= since + EMPTY_FOR);
        let closing: Vec<usize> = self.channels.iter().filter(|(_, c)| over(c)).map(|(number, _)| *number).collect();
        self.channels.retain(|_, channel| !over(channel));
        closing
    }

    /// When [`Channels::tick`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        let viewers = self.channels.values().flat_map(|channel| channel.viewers.values());
        let expected = viewers.filter_map(|viewer| match viewer {
            Viewer::Expected { until } => Some(*until),
            Viewer::Here => None,
        });
        let empty = self.channels.values().filter_map(|channel| channel.empty.map(|since| since + EMPTY_FOR));
        expected.chain(empty).min()
    }

    /// Channels there are, and listeners with a place in them.
    pub fn size(&self) -> (usize, usize) {
        (self.channels.len(), self.channels.values().map(|channel| channel.viewers.len()).sum())
    }

    fn expire(&mut self, now: Duration) {
        for channel in self.channels.values_mut() {
            channel.viewers.retain(|_, viewer| !matches!(viewer, Viewer::Expected { until } if *until <= now));
            channel.rest(now);
        }
    }
}

impl Channel {
    fn rest(&mut self, now: Duration) {
        if self.open && self.viewers.is_empty() && self.empty.is_none() {
            self.empty = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: Duration = Duration::ZERO;

    #[test]
    fn viewer_eleven_opens_the_next_channel_and_the_last_place_is_the_last() {
        let mut channels = Channels::new(2);
        assert_eq!(channels.place(T, "0"), Place::Open(0));
        assert_eq!(channels.place(T, "1"), Place::Wait(0));
        channels.opened(T, 0);
        for n in 2..10 {
            assert_eq!(channels.place(T, &n.to_string()), Place::In(0));
        }
        assert_eq!(channels.place(T, "10"), Place::Open(1));
        assert_eq!(channels.place(T, "0"), Place::In(0), "who asks again keeps its place");
        for n in 11..20 {
            assert_eq!(channels.place(T, &n.to_string()), Place::Wait(1));
        }
        assert_eq!(channels.place(T, "20"), Place::Full);
        channels.connected(0, "3");
        channels.gone(T, 0, "3");
        assert_eq!(channels.place(T, "20"), Place::In(0));
    }

    #[test]
    fn who_does_not_come_loses_its_place_and_an_empty_channel_is_closed() {
        let mut channels = Channels::new(1);
        channels.place(T, "a");
        channels.opened(T, 0);
        channels.place(T, "b");
        channels.connected(0, "b");
        assert_eq!(channels.deadline(), Some(COME_WITHIN));
        assert_eq!((channels.tick(COME_WITHIN), channels.size()), (vec![], (1, 1)));
        channels.gone(COME_WITHIN, 0, "b");
        let end = COME_WITHIN + EMPTY_FOR;
        assert_eq!((channels.deadline(), channels.tick(COME_WITHIN)), (Some(end), vec![]));
        assert_eq!((channels.tick(end), channels.size(), channels.deadline()), (vec![0], (0, 0), None));
    }

    #[test]
    fn a_channel_that_is_refused_is_asked_for_anew() {
        let mut channels = Channels::new(3);
        channels.place(T, "a");
        channels.refused(0);
        assert_eq!(channels.place(T, "a"), Place::Open(0));
    }

    proptest! {
        #[test]
        fn no_channel_has_more_than_ten_and_in_the_end_nothing_is_left(
            moves in prop::collection::vec((0u8..6, 0usize..4, 0u8..40, 0u64..40), 0..200),
        ) {
            let mut channels = Channels::new(3);
            let mut now = T;
            let mut opening = Vec::new();
            for (kind, number, client, seconds) in moves {
                now += Duration::from_secs(seconds);
                let client = client.to_string();
                match kind {
                    0 | 1 => if let Place::Open(number) = channels.place(now, &client) { opening.push(number) },
                    2 => if let Some(number) = opening.pop() { channels.opened(now, number) },
                    3 => if let Some(number) = opening.pop() { channels.refused(number) },
                    4 => if channels.channels.get(&number).is_some_and(|c| c.viewers.contains_key(&client)) {
                        channels.connected(number, &client);
                    },
                    _ => channels.gone(now, number, &client),
                }
                prop_assert!(channels.channels.values().all(|channel| channel.viewers.len() <= VIEWERS));
                let mut all: Vec<&String> = channels.channels.values().flat_map(|c| c.viewers.keys()).collect();
                let count = all.len();
                all.sort();
                all.dedup();
                prop_assert_eq!(all.len(), count, "nobody has two places");
            }
            opening.drain(..).for_each(|number| channels.opened(now, number));
            for number in 0..3 {
                (0..40).for_each(|client| channels.gone(now, number, &client.to_string()));
            }
            channels.tick(now);
            while let Some(deadline) = channels.deadline() {
                prop_assert!(deadline > now);
                now = deadline;
                channels.tick(now);
            }
            prop_assert_eq!(channels.size(), (0, 0));
        }
    }
}
