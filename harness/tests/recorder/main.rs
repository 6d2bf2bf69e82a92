//! The lock recorder against a real PostgreSQL: what it measures is compared with what the clients saw.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

mod attempts;
mod cluster;
mod holds;
mod order;
mod sessions;
mod stage;
