//! What people run, and the real clients it is made of: they know a deployment by its URL and nothing else.

pub mod client;
pub mod listen;
pub mod speaker;
