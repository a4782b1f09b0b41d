//! local-cloud

pub mod translate;
