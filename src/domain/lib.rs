//! Values and state machines.
