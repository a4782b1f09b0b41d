//! local-cloud

pub mod engine;
//pub mod transcribe;
pub mod wer;
