//! What is heard becomes what is shown: source captions at once, clauses by way of the tracks.

use crate::counts::Count;
use crate::language::Language;
use crate::time::Now;
use crate::track::{Ask, segment_id};
use crate::utterance::{Transcript, Understood};
use crate::wire::{Caption, CaptionMode, ServerMessage};

use super::{Effect, Session, To, outage};

impl Session {
    pub(super) fn tell(&mut self, now: Now, understood: Vec<Understood>, out: &mut Vec<Effect>) {
        for one in understood {
            match one {
                Understood::Repeated => out.push(Effect::Count(Count::ResultsRepeated, 1)),
                Understood::Transcript(transcript) => self.show_source(&transcript, out),
                Understood::Clause(clause) => {
                    out.push(Effect::Count(Count::CharactersSpoken, clause.text.chars().count() as u64));
                    let languages: Vec<Language> = self.tracks.keys().cloned().collect();
                    for language in languages {
                        let mut asks = Vec::new();
                        if let Some(track) = self.tracks.get_mut(&language) {
                            track.push(now.mono, clause.clone(), &mut asks);
                        }
                        self.obey(&language, asks, out);
                    }
                }
            }
        }
        if !self.utterances.has_orphans() {
            self.orphans_until = None;
        }
    }

    fn show_source(&mut self, transcript: &Transcript, out: &mut Vec<Effect>) {
        let caption = |text: &str| Caption {
            segment_id: segment_id(transcript.segment),
            revision: transcript.revision,
            is_final: transcript.is_final,
            language: self.source.clone(),
            text: text.to_owned(),
            stable_chars: transcript.stable.chars().count(),
            start_ms: transcript.start.as_millis(),
            end_ms: transcript.end.as_millis(),
            heard_at: self.heard_at(transcript.end.as_millis()),
            source_language: None,
            source_text: None,
            untranslated: false,
        };
        let (revision, end) = (caption(&transcript.text), caption(&transcript.stable));
        self.shown.insert(self.source.clone());
        if transcript.is_final {
            let message = ServerMessage::Transcription(revision);
            out.push(Effect::Append { to: To::Language(self.source.clone()), message });
            return;
        }
        out.push(Effect::Show { mode: CaptionMode::Raw, caption: revision });
        if transcript.grew {
            out.push(Effect::Show { mode: CaptionMode::Stable, caption: end });
        }
    }

    pub(super) fn obey(&mut self, language: &Language, asks: Vec<Ask>, out: &mut Vec<Effect>) {
        let to = || To::Language(language.clone());
        for ask in asks {
            match ask {
                Ask::Translate { job, text } => {
                    out.push(Effect::Count(Count::CharactersTranslated, text.chars().count() as u64));
                    out.push(Effect::Translate { language: language.clone(), job, text });
                }
                Ask::Show(mut caption) => {
                    self.shown.insert(language.clone());
                    caption.heard_at = self.heard_at(caption.end_ms);
                    if caption.is_final {
                        out.push(Effect::Append { to: to(), message: ServerMessage::Transcription(caption) });
                    } else {
                        out.push(Effect::Show { mode: CaptionMode::Raw, caption: caption.clone() });
                        out.push(Effect::Show { mode: CaptionMode::Stable, caption });
                    }
                }
                Ask::Untranslated => out.push(Effect::Count(Count::CaptionsUntranslated, 1)),
                Ask::Outage(true) => {
                    let why =
                        "Translation does not answer; captions are shown in the speaker's language until it is back";
                    out.push(Effect::Tell { to: to(), message: outage("translate", why) });
                }
                Ask::Outage(false) => {}
            }
        }
    }
}
