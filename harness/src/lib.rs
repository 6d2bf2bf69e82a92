//! The rehearsal harness: plan, package, preflight, mirror, upgrade, recorder, proofs, conductor.
//!
//! `main.rs` is a table of commands over this library; integration tests drive the same functions.

pub mod actors;
pub mod bundle;
pub mod cli;
pub mod commands;
pub mod conductor;
pub mod derived;
pub mod document;
pub mod events;
pub mod fingerprint;
pub mod history;
pub mod http;
pub mod inventory;
pub mod lint;
pub mod mirror;
pub mod package;
pub mod plan;
pub mod preflight;
pub mod process;
pub mod progress;
pub mod proofs;
pub mod recorder;
pub mod roundtrip;
pub mod synthetic;
pub mod trace;
pub mod upgrade;
pub mod worker;
