//! local-cloud from outside: real AWS SDK clients, real sockets on loopback.

mod harness;
mod issuer;
mod js;
mod kvs_calls;
mod kvs_faults;
mod kvs_signaling;
mod polly;
mod ports;
mod transcribe;
mod translate;
