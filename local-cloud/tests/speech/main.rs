//! Transcribe streaming from outside: the official SDK, and frames signed by hand, over real sockets on loopback.

mod chaos;
mod harness;
mod limits;
mod protocol;
mod recognition;
