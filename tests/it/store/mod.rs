//! The store: one suite of behaviour over every form of it, faults on the wire, and two replicas at odds.
//!
//! DynamoDB is moto's server in a process of its own (tests/dynamodb.py), and besides whatever `BABELCAST_TEST_DYNAMODB`
//! names: an `http://` endpoint is asked with made-up credentials, an `https://` one with those of the environment.

pub mod bench;
mod faults;
mod history;
pub mod proxy;
mod suite;
mod tables;
