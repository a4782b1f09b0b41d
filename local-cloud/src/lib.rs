//! The AWS wire protocols babelcast needs, on loopback, backed by offline engines.

pub mod sigv4;
