//! What proves, or disproves, that rollback brings everything back, beside the fingerprints.
//!
//! Each proof takes a state before and a state after and names the differences; the conductor decides when.

pub mod compat;
pub mod data;
pub mod dependents;
pub mod invariants;
pub mod ledger;
pub mod residue;
