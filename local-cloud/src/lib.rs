//! The AWS wire protocols babelcast needs, on loopback, backed by offline engines.

pub mod error;
pub mod issuer;
pub mod kvs;
pub mod sigv4;
