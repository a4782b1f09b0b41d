//! Transcribe streaming from outside: the official SDK, and frames signed by hand, over real sockets on loopback.
#![allow(clippy::unwrap_used)] // a test's helpers may fail the test

mod chaos;
mod harness;
mod limits;
mod protocol;
mod recognition;
