//! Traffic models and pumps.
//!
//! `harness::conductor` starts [`clock`]-timed traffic from a workload file and moves it from phase to phase;
//! the result is plain data of `fulldress_reports::traffic`.

mod answer;
mod arrivals;
pub mod check;
pub mod clock;
mod connection;
pub mod driver;
mod extract;
mod feeder;
pub mod file;
mod http;
mod lanes;
pub mod pacer;
pub mod recording;
pub mod schedule;
pub mod sql;
mod template;
mod timeline;
pub mod traffic;
mod users;
mod wire;
pub mod worker;

pub use connection::{Target, TargetError};
