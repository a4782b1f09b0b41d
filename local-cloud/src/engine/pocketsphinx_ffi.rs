//! The few C functions of PocketSphinx 0.8 that are needed, found at run time, behind safe types.
//!
//! Loading at run time keeps the build free of the library, and lets the binary say what to install. Every `unsafe` of
//! the engine is here.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use libloading::Library;

type Pointer = *mut c_void;

/// Defines the table of C functions and how it is filled.
macro_rules! functions {
    ($($library:ident: { $($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)* })*) => {
        struct Functions { $($($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*)* }

        impl Functions {
            fn find($($library: &Library),*) -> Result<Functions, libloading::Error> {
                // SAFETY: names and signatures are those of sphinxbase/pocketsphinx 0.8 (5prealpha), whose .so.3 is
                // what `Sphinx::load` opens; the pointers live in `Sphinx` beside the libraries they point into.
                unsafe { Ok(Functions { $($($name: *$library.get(concat!(stringify!($name), "\0").as_bytes())?,)*)* }) }
            }
        }
    };
}

functions! {
    base: {
        err_set_callback: fn(Pointer, Pointer);
        err_set_logfp: fn(Pointer);
        cmd_ln_parse_r: fn(Pointer, Pointer, i32, *mut *mut c_char, i32) -> Pointer;
        cmd_ln_free_r: fn(Pointer) -> c_int;
        ckd_free: fn(Pointer);
        logmath_exp: fn(Pointer, c_int) -> f64;
        ngram_model_read: fn(Pointer, *const c_char, c_int, Pointer) -> Pointer;
        ngram_model_set_init: fn(Pointer, *mut Pointer, *mut *mut c_char, *const f32, i32) -> Pointer;
        ngram_model_free: fn(Pointer) -> c_int;
    }
    sphinx: {
        ps_args: fn() -> Pointer;
        ps_init: fn(Pointer) -> Pointer;
        ps_free: fn(Pointer) -> c_int;
        ps_get_config: fn(Pointer) -> Pointer;
        ps_get_logmath: fn(Pointer) -> Pointer;
        ps_get_lm: fn(Pointer, *const c_char) -> Pointer;
        ps_set_lm: fn(Pointer, *const c_char, Pointer) -> c_int;
        ps_set_search: fn(Pointer, *const c_char) -> c_int;
        ps_lookup_word: fn(Pointer, *const c_char) -> Pointer;
        ps_start_utt: fn(Pointer) -> c_int;
        ps_process_raw: fn(Pointer, *const i16, usize, c_int, c_int) -> c_int;
        ps_end_utt: fn(Pointer) -> c_int;
        ps_seg_iter: fn(Pointer, *mut i32) -> Pointer;
        ps_seg_next: fn(Pointer) -> Pointer;
        ps_seg_word: fn(Pointer) -> *const c_char;
        ps_seg_frames: fn(Pointer, *mut c_int, *mut c_int);
        ps_seg_prob: fn(Pointer, *mut i32, *mut i32, *mut i32) -> i32;
    }
}

/// ARPA text, of the library's file types.
const NGRAM_ARPA: c_int = 1;

/// The loaded libraries.
pub(super) struct Sphinx {
    functions: Functions,
    _libraries: [Library; 2],
}

impl Sphinx {
    /// Opens the libraries and silences their own logging.
    pub(super) fn load() -> Result<Arc<Sphinx>, libloading::Error> {
        // SAFETY: both are plain C libraries without initialisers that depend on the state of this process.
        let (base, sphinx) = unsafe { (Library::new("libsphinxbase.so.3")?, Library::new("libpocketsphinx.so.3")?) };
        let functions = Functions::find(&base, &sphinx)?;
        // SAFETY: null means no messages and no print of the configuration. Both are global and always the same.
        unsafe {
            (functions.err_set_callback)(null_mut(), null_mut());
            (functions.err_set_logfp)(null_mut());
        }
        Ok(Arc::new(Sphinx { functions, _libraries: [base, sphinx] }))
    }
}

/// One word of a segmentation. Frames are of 10 ms and count from the utterance's start.
pub(super) struct Segment {
    pub word: String,
    pub first: u64,
    pub last: u64,
    /// Posterior probability; meaningful after the utterance's end only.
    pub confidence: f32,
}

/// A decoder. One thread at a time may use it.
pub(super) struct Decoder {
    sphinx: Arc<Sphinx>,
    decoder: Pointer,
}

// SAFETY: a decoder keeps no thread-local state, and shares nothing writable with other decoders (checked by running
// four at once, reference SPEECH.md A.1); `&mut self` keeps it to one thread at a time.
unsafe impl Send for Decoder {}

impl Decoder {
    /// Loads the models named by `arguments` (`-hmm`, path, ...). Takes 0.3 to 1 s. None when the library refuses them.
    pub(super) fn load(sphinx: &Arc<Sphinx>, arguments: &[&str]) -> Option<Decoder> {
        let owned: Vec<CString> = arguments.iter().map(|a| CString::new(*a).ok()).collect::<Option<_>>()?;
        let mut argv: Vec<*mut c_char> = owned.iter().map(|a| a.as_ptr().cast_mut()).collect();
        let f = &sphinx.functions;
        // SAFETY: argv holds valid C strings for the whole call and the library copies what it keeps. The decoder
        // retains the configuration, so ours is released in either case.
        let decoder = unsafe {
            let config = (f.cmd_ln_parse_r)(null_mut(), (f.ps_args)(), argv.len() as i32, argv.as_mut_ptr(), 1);
            if config.is_null() {
                return None;
            }
            let decoder = (f.ps_init)(config);
            (f.cmd_ln_free_r)(config);
            decoder
        };
        (!decoder.is_null()).then(|| Decoder { sphinx: sphinx.clone(), decoder })
    }

    /// Mixes the ARPA model in the file `path` with the present one and switches to the mixture.
    pub(super) fn mix(&mut self, path: &str, weight: f32) -> Option<()> {
        let path = CString::new(path).ok()?;
        let f = &self.sphinx.functions;
        // SAFETY: the decoder is valid and between utterances. `ngram_model_set_init` and `ps_set_lm` retain what they
        // are given (sphinxbase since 2013), so our own references are released; the general model is the decoder's.
        unsafe {
            let config = (f.ps_get_config)(self.decoder);
            let general = (f.ps_get_lm)(self.decoder, c"_default".as_ptr());
            let own = (f.ngram_model_read)(config, path.as_ptr(), NGRAM_ARPA, (f.ps_get_logmath)(self.decoder));
            if general.is_null() || own.is_null() {
                return None;
            }
            let names = [c"general".as_ptr().cast_mut(), c"own".as_ptr().cast_mut()];
            let (mut models, mut names, weights) = ([general, own], names, [1.0 - weight, weight]);
            let mixed = (f.ngram_model_set_init)(config, models.as_mut_ptr(), names.as_mut_ptr(), weights.as_ptr(), 2);
            (f.ngram_model_free)(own);
            if mixed.is_null() {
                return None;
            }
            let set = (f.ps_set_lm)(self.decoder, c"mixed".as_ptr(), mixed);
            (f.ngram_model_free)(mixed);
            (set == 0 && (f.ps_set_search)(self.decoder, c"mixed".as_ptr()) == 0).then_some(())
        }
    }

    /// Whether the pronouncing dictionary has the word.
    pub(super) fn knows(&self, word: &str) -> bool {
        let Ok(word) = CString::new(word) else { return false };
        // SAFETY: the answer is null or a string of the library's allocator, which its own `ckd_free` takes back.
        unsafe {
            let phones = (self.sphinx.functions.ps_lookup_word)(self.decoder, word.as_ptr());
            (self.sphinx.functions.ckd_free)(phones);
            !phones.is_null()
        }
    }

    /// Begins an utterance. None when the library refuses (one is open already).
    pub(super) fn start(&mut self) -> Option<()> {
        // SAFETY: the decoder is valid as long as `self`.
        (unsafe { (self.sphinx.functions.ps_start_utt)(self.decoder) } >= 0).then_some(())
    }

    /// Decodes 16 kHz samples of the open utterance.
    pub(super) fn process(&mut self, samples: &[i16]) -> Option<()> {
        // SAFETY: pointer and length are those of a live slice, which the call only reads.
        let done =
            unsafe { (self.sphinx.functions.ps_process_raw)(self.decoder, samples.as_ptr(), samples.len(), 0, 0) };
        (done >= 0).then_some(())
    }

    /// Ends the utterance and decides its best path.
    pub(super) fn end(&mut self) -> Option<()> {
        // SAFETY: the decoder is valid as long as `self`.
        (unsafe { (self.sphinx.functions.ps_end_utt)(self.decoder) } >= 0).then_some(())
    }

    /// The best path until now, silences and noises included.
    pub(super) fn segments(&mut self) -> Vec<Segment> {
        let f = &self.sphinx.functions;
        let mut segments = Vec::new();
        // SAFETY: the iterator is valid until `ps_seg_next` returns null, at which point the library has freed it, and
        // it is always walked to that end. `ps_seg_word` gives a string that lives as long as the dictionary.
        unsafe {
            let logmath = (f.ps_get_logmath)(self.decoder);
            let mut segment = (f.ps_seg_iter)(self.decoder, null_mut());
            while !segment.is_null() {
                let (mut first, mut last) = (0, 0);
                (f.ps_seg_frames)(segment, &mut first, &mut last);
                let posterior = (f.ps_seg_prob)(segment, null_mut(), null_mut(), null_mut());
                let word = (f.ps_seg_word)(segment);
                if !word.is_null() {
                    segments.push(Segment {
                        word: CStr::from_ptr(word).to_string_lossy().into_owned(),
                        first: u64::try_from(first).unwrap_or(0),
                        last: u64::try_from(last).unwrap_or(0),
                        confidence: (f.logmath_exp)(logmath, posterior).clamp(0.0, 1.0) as f32,
                    });
                }
                segment = (f.ps_seg_next)(segment);
            }
        }
        // The library counts frames over all utterances, and every path begins with this one's first frame.
        let start = segments.first().map_or(0, |s| s.first);
        for segment in &mut segments {
            (segment.first, segment.last) = (segment.first.saturating_sub(start), segment.last.saturating_sub(start));
        }
        segments
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: the only reference, released once.
        unsafe { (self.sphinx.functions.ps_free)(self.decoder) };
    }
}
