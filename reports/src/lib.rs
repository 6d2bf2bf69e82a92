//! The bundle model of a rehearsal and everything that is a pure function of it.
//!
//! `workloads` and `harness` produce [`event::Event`]s; this crate folds them into [`evidence::Evidence`],
//! judges the evidence against limits ([`judge`]), and renders the result. No async runtime, no clock, no
//! network: equal input gives equal bytes.

pub mod check;
pub mod compare;
pub mod docs;
pub mod event;
pub mod evidence;
pub mod figures;
pub mod finding;
pub mod hazard;
pub mod judge;
pub mod latency;
pub mod lock;
pub mod phase;
pub mod render;
pub mod report;
pub mod roundtrip;
#[cfg(test)]
mod sample;
pub mod sql;
pub mod trace;
pub mod traffic;
