//! The engine that really listens: PocketSphinx with its US English model, both Debian packages.
//!
//! Accuracy is that of a free offline model of 2015: about every fifth word of a professional reader is wrong, more of
//! others; a vocabulary made from the talk's script brings it to a few percent. It gives no punctuation and no
//! capitals; a capital at the beginning and a full stop at the end of an utterance are added here because the
//! translation behind it needs them, and names are written as the vocabulary writes them. Deliberately absent:
//! pronunciations for words outside the dictionary (they are dropped from a vocabulary, and counted in the log).

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::endpoint::{Endpointer, FRAME, Turn};
use super::gain::{Gain, mean_square};
use super::pocketsphinx_ffi::{Decoder, Segment, Sphinx};
use super::{EngineError, Hypothesis, Opening, RATE, Recogniser, Word, ms};
use super::{arpa, casing};

/// What brings the libraries and the model on Debian.
const PACKAGES: &str = "libpocketsphinx3 pocketsphinx-en-us";
/// Where Debian and a build from source put the model.
const MODEL_PLACES: [&str; 2] = ["/usr/share/pocketsphinx/model/en-us", "/usr/local/share/pocketsphinx/model/en-us"];
/// Weight of a vocabulary's model beside the general one; anything from 0.3 to 0.85 measured the same.
const VOCABULARY_WEIGHT: f32 = 0.7;
/// Samples after which an utterance is cut even in the midst of speech (12 s), and the stretch before that in which the
/// cut is looked for (from 9.5 s to 11.7 s).
const CAP: usize = 12 * RATE as usize;
const CUT: std::ops::Range<usize> = CAP - 40_000..CAP - 4_800;

/// What the decoder takes for a voice before it knows the stream's: the mean cepstrum of seven speakers at the level
/// [`Gain`] makes. The model's own belongs to a quieter recording, and costs the first sentence of every stream half of
/// its words (107 s of single sentences: 41 % word error rate with it, 21 % with this).
const MEAN_CEPSTRUM: &str = "56,0,0,7,-8,-1,-8,0.5,-1,0,-1,0,1";

/// The engine: the loaded libraries, and a decoder kept ready because loading one takes up to a second.
pub struct PocketSphinx {
    ready: Mutex<Receiver<Result<Decoder, EngineError>>>,
}

impl PocketSphinx {
    /// Loads the libraries and begins to load the first decoder. `model` is the directory that holds `en-us/`,
    /// `en-us.lm.bin` and `cmudict-en-us.dict`; None searches the usual places.
    pub fn start(model: Option<&Path>) -> Result<Arc<PocketSphinx>, EngineError> {
        let absent = |what: String| EngineError::NotInstalled { what, packages: PACKAGES };
        let sphinx = Sphinx::load().map_err(|e| absent(format!("libpocketsphinx.so.3 ({e})")))?;
        let files = find_model(model).ok_or_else(|| absent("the en-us model".to_owned()))?;
        // A rendezvous: the loader holds one finished decoder until a stream takes it, then loads the next. It ends
        // when the engine is dropped and nobody can take any more.
        let (ready, take) = sync_channel(0);
        std::thread::Builder::new()
            .name("decoder-loader".to_owned())
            .spawn(move || while ready.send(load(&sphinx, &files)).is_ok() {})
            .map_err(EngineError::Thread)?;
        Ok(Arc::new(PocketSphinx { ready: Mutex::new(take) }))
    }

    pub(super) fn open(&self, opening: &Opening) -> Result<Ear, EngineError> {
        let next = self.ready.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let mut decoder = next.map_err(|_| EngineError::Failed("the decoder loader is gone"))??;
        let phrases = opening.vocabulary.as_deref().map_or(&[][..], Vec::as_slice);
        mix_in(&mut decoder, phrases)?;
        Ok(Ear {
            decoder,
            names: casing::names(phrases),
            endpointer: Endpointer::new(),
            gain: Gain::default(),
            heard: 0,
            utterance: 0,
            open: None,
        })
    }
}

/// The model's three files: acoustic model, language model, dictionary.
fn find_model(given: Option<&Path>) -> Option<[PathBuf; 3]> {
    let places = given.map_or_else(|| MODEL_PLACES.iter().map(PathBuf::from).collect(), |p| vec![p.to_owned()]);
    places
        .into_iter()
        .map(|p| [p.join("en-us"), p.join("en-us.lm.bin"), p.join("cmudict-en-us.dict")])
        .find(|files| files.iter().all(|f| f.exists()))
}

/// The model's feature settings with [`MEAN_CEPSTRUM`] in place of its own. The library reads them from a file only,
/// which also wins over its arguments.
fn features(hmm: &Path) -> std::io::Result<TemporaryFile> {
    let own = std::fs::read_to_string(hmm.join("feat.params"))?;
    let kept = own.lines().filter(|line| !line.starts_with("-cmninit"));
    let lines: Vec<String> = kept.map(str::to_owned).chain([format!("-cmninit {MEAN_CEPSTRUM}\n")]).collect();
    TemporaryFile::write(lines.join("\n").as_bytes())
}

fn load(sphinx: &Arc<Sphinx>, [hmm, lm, dict]: &[PathBuf; 3]) -> Result<Decoder, EngineError> {
    let features = features(hmm).map_err(EngineError::Model)?;
    let (hmm, lm, dict) = (hmm.to_string_lossy(), lm.to_string_lossy(), dict.to_string_lossy());
    let features = features.0.to_string_lossy();
    let arguments = [
        "local-cloud",
        "-hmm",
        &hmm,
        "-featparams",
        &features,
        "-lm",
        &lm,
        "-dict",
        &dict,
        // Costs up to 1.8 s at the end of an utterance and gains nothing with the general model.
        "-fwdflat",
        "no",
        // Our own voice detector decides; the library's would also break the word times.
        "-remove_silence",
        "no",
    ];
    Decoder::load(sphinx, &arguments).ok_or(EngineError::Failed("the decoder refused its models"))
}

/// Builds the phrases' language model and mixes it with the general one.
fn mix_in(decoder: &mut Decoder, phrases: &[String]) -> Result<(), EngineError> {
    let mut sentences = arpa::sentences(phrases);
    let mut dropped = BTreeSet::new();
    for sentence in &mut sentences {
        sentence.retain(|word| {
            let known = decoder.knows(word);
            if !known {
                dropped.insert(word.clone());
            }
            known
        });
    }
    if !dropped.is_empty() {
        tracing::info!(dropped = dropped.len(), "vocabulary words without a known pronunciation are left out");
    }
    let Some(model) = arpa::arpa(&sentences) else { return Ok(()) };
    let file = TemporaryFile::write(model.as_bytes()).map_err(EngineError::Vocabulary)?;
    decoder.mix(&file.0.to_string_lossy(), VOCABULARY_WEIGHT).ok_or(EngineError::Failed("the vocabulary was refused"))
}

/// A file that only this process reads, gone when dropped: the library takes models by file name only.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn write(bytes: &[u8]) -> std::io::Result<TemporaryFile> {
        let name = format!("local-cloud-{}-{:016x}", std::process::id(), rand::random::<u64>());
        let file = TemporaryFile(std::env::temp_dir().join(name));
        std::fs::OpenOptions::new().write(true).create_new(true).open(&file.0)?.write_all(bytes)?;
        Ok(file)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            tracing::warn!(error = %e, "a temporary file stays behind");
        }
    }
}

/// One stream's recogniser.
pub(super) struct Ear {
    decoder: Decoder,
    /// How the vocabulary writes its names.
    names: BTreeMap<String, String>,
    endpointer: Endpointer,
    gain: Gain,
    /// Samples.
    heard: u64,
    utterance: u64,
    open: Option<Open>,
}

/// The utterance being heard.
struct Open {
    /// Its first sample's place in the stream.
    begin: u64,
    /// Its samples as the decoder got them.
    audio: Vec<i16>,
    /// It goes on where the cap cut the one before, so it begins without a capital.
    continues: bool,
}

impl Ear {
    fn begin(&mut self, begin: u64, continues: bool) -> Result<(), EngineError> {
        self.decoder.start().ok_or(EngineError::Failed("no utterance could begin"))?;
        self.open = Some(Open { begin, audio: Vec::with_capacity(CAP), continues });
        Ok(())
    }

    fn speech(&mut self, samples: &[i16]) -> Result<(), EngineError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.audio.extend_from_slice(samples);
        self.decoder.process(samples).ok_or(EngineError::Failed("the decoder refused audio"))
    }

    /// Closes the open utterance. With `cut`, its words beyond that sample are left for the next one.
    fn end(&mut self, cut: bool) -> Result<Option<Hypothesis>, EngineError> {
        let Some(open) = self.open.take() else { return Ok(None) };
        self.decoder.end().ok_or(EngineError::Failed("the utterance could not end"))?;
        let mut segments = self.decoder.segments();
        let mut rest = Vec::new();
        if cut {
            let at = cut_place(&segments, &open.audio);
            segments.retain(|s| (s.first + s.last) * 80 < at as u64);
            rest.extend_from_slice(&open.audio[at..]);
        }
        let mut words = words(&segments, &open, &self.names);
        for (word, segment) in words.iter_mut().zip(segments.iter().filter(|s| is_word(&s.word))) {
            word.confidence = Some(segment.confidence);
        }
        if !cut && let Some(end) = words.last().map(|w| w.end_ms) {
            words.push(Word::punctuation(".", end));
        }
        let hypothesis = self.hypothesis(words, true);
        self.utterance += u64::from(hypothesis.is_some());
        if cut {
            self.begin(open.begin + (open.audio.len() - rest.len()) as u64, hypothesis.is_some() || open.continues)?;
            self.speech(&rest)?;
        }
        Ok(hypothesis)
    }

    fn partial(&mut self) -> Option<Hypothesis> {
        let open = self.open.as_ref()?;
        let words = words(&self.decoder.segments(), open, &self.names);
        self.hypothesis(words, false)
    }

    fn hypothesis(&self, words: Vec<Word>, is_final: bool) -> Option<Hypothesis> {
        let (utterance, at_ms) = (self.utterance, ms(self.heard));
        (!words.is_empty()).then_some(Hypothesis { utterance, at_ms, words, is_final })
    }
}

impl Recogniser for Ear {
    fn hear(&mut self, samples: &[i16]) -> Result<Vec<Hypothesis>, EngineError> {
        self.heard += samples.len() as u64;
        let mut hypotheses = Vec::new();
        for turn in self.endpointer.push(samples) {
            match turn {
                Turn::Begin(at) => self.begin(at, false)?,
                Turn::Speech { mut frame, voiced } => {
                    if voiced {
                        self.gain.learn(&frame);
                    }
                    self.gain.apply(&mut frame);
                    self.speech(&frame)?;
                }
                Turn::End => hypotheses.extend(self.end(false)?),
            }
        }
        if self.open.as_ref().is_some_and(|o| o.audio.len() >= CAP) {
            hypotheses.extend(self.end(true)?);
        }
        hypotheses.extend(self.partial());
        Ok(hypotheses)
    }

    fn finish(&mut self) -> Result<Vec<Hypothesis>, EngineError> {
        Ok(self.end(false)?.into_iter().collect())
    }
}

/// Where to cut an over-long utterance: the quietest border between words near its end, else the quietest frame.
fn cut_place(segments: &[Segment], audio: &[i16]) -> usize {
    let loudness = |at: usize| mean_square(&audio[at.saturating_sub(FRAME)..(at + FRAME).min(audio.len())]);
    let quietest = |places: Vec<usize>| {
        places.into_iter().filter(|at| CUT.contains(at)).min_by(|a, b| loudness(*a).total_cmp(&loudness(*b)))
    };
    let middle = |s: &Segment| (s.first + s.last) as usize * 80;
    let borders = segments.iter().map(|s| if is_word(&s.word) { s.first as usize * 160 } else { middle(s) });
    quietest(borders.collect()).or_else(|| quietest(CUT.step_by(FRAME).collect())).unwrap_or(audio.len())
}

fn words(segments: &[Segment], open: &Open, names: &BTreeMap<String, String>) -> Vec<Word> {
    let at = |frame: u64| ms(open.begin) + frame * 10;
    let mut words: Vec<Word> = segments
        .iter()
        .filter(|s| is_word(&s.word))
        .map(|s| Word::spoken(written(&s.word, names), at(s.first), at(s.last + 1)))
        .collect();
    if let Some(first) = words.first_mut().filter(|_| !open.continues) {
        first.text = capital(&first.text);
    }
    words
}

/// Neither a silence (`<sil>`), nor a noise (`[NOISE]`, `++BREATH++`).
fn is_word(segment: &str) -> bool {
    !segment.starts_with(['<', '[', '+'])
}

/// A dictionary word as one writes it: without the mark of its pronunciation, `the(2)`.
fn written(word: &str, names: &BTreeMap<String, String>) -> String {
    let word = word.split('(').next().unwrap_or(word);
    if let Some(name) = names.get(word) {
        return name.clone();
    }
    if word == "i" || word.starts_with("i'") { capital(word) } else { word.to_owned() }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(word: &str, first: u64, last: u64) -> Segment {
        Segment { word: word.to_owned(), first, last, confidence: 1.0 }
    }

    #[test]
    fn marks_of_the_dictionary_and_noises_are_not_words() {
        let segments = ["<s>", "the(2)", "[NOISE]", "i'm", "++BREATH++", "<sil>", "i"].map(|w| segment(w, 0, 9));
        let names = BTreeMap::new();
        let mut open = Open { begin: 16_000, audio: Vec::new(), continues: false };
        let text = |open: &Open| words(&segments, open, &names).into_iter().map(|w| w.text).collect::<Vec<_>>();
        assert_eq!(text(&open), ["The", "I'm", "I"]);
        assert_eq!(words(&segments, &open, &names)[0].end_ms, 1_100);
        open.continues = true;
        assert_eq!(text(&open), ["the", "I'm", "I"]);
        let names = BTreeMap::from([("mainz".to_owned(), "Mainz".to_owned())]);
        assert_eq!(words(&[segment("mainz(2)", 0, 9)], &open, &names)[0].text, "Mainz");
    }

    #[test]
    fn a_long_utterance_is_cut_at_its_quietest_border_between_words() {
        let mut audio = vec![8_000i16; CAP];
        audio[160_000..164_000].fill(10);
        audio[165_000..165_100].fill(0);
        let words = [segment("one", 0, 900), segment("two", 1_010, 1_050), segment("three", 1_100, 1_199)];
        assert_eq!(cut_place(&words, &audio), 1_010 * 160, "not in the quieter middle of a word");
        let cut = cut_place(&words[..1], &audio);
        assert!((160_000..164_000).contains(&cut), "without a border the quietest frame: {cut}");
    }

    #[test]
    fn a_missing_model_names_the_packages() {
        let error = PocketSphinx::start(Some(Path::new("no-such-model"))).err().unwrap();
        assert!(error.to_string().contains("libpocketsphinx3 pocketsphinx-en-us"), "{error}");
    }
}
