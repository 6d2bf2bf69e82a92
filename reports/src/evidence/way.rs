//! Two ways back from the same upgraded state, side by side.
//!
//! The harness tells the [`OtherWay`]; renderings print [`Evidence::ways`], in which the way that was taken under traffic stands first.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DataEvidence, Evidence, LedgerEvidence, ResidueEvidence, RollbackEvidence, SchemaEvidence};

/// Another way back, taken after the proofs of the first, from the upgraded state with what its clients had written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OtherWay {
    /// Which, and how it ended.
    pub rollback: RollbackEvidence,
    /// Why it could not be taken; absent when it was. The rest is empty then.
    pub not_taken: Option<String>,
    /// Schema, held against the same state before the upgrade.
    pub schema: SchemaEvidence,
    /// The tables that the workload leaves alone.
    pub data: DataEvidence,
    /// Effects outside the database.
    pub residue: ResidueEvidence,
    /// The writes that were acknowledged until the copy of the upgraded state was begun.
    pub ledger: LedgerEvidence,
}

/// What is known of one way back; a part is absent where it was not proven.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'evidence> {
    pub(crate) rollback: &'evidence RollbackEvidence,
    /// Whether clients were served meanwhile.
    pub(crate) under_traffic: bool,
    pub(crate) not_taken: Option<&'evidence str>,
    pub(crate) schema: Option<&'evidence SchemaEvidence>,
    pub(crate) data: Option<&'evidence DataEvidence>,
    pub(crate) residue: Option<&'evidence ResidueEvidence>,
    pub(crate) ledger: Option<&'evidence LedgerEvidence>,
}

impl Evidence {
    /// Both ways back, the one under traffic first; none where only one was rehearsed.
    pub(crate) fn ways(&self) -> Option<[Way<'_>; 2]> {
        let other = self.other_way.as_ref()?;
        let first = Way {
            rollback: self.rollback.as_ref()?,
            under_traffic: true,
            not_taken: None,
            schema: self.schema.as_ref(),
            data: self.data.as_ref(),
            residue: self.residue.as_ref(),
            ledger: self.ledger.as_ref(),
        };
        let taken = other.not_taken.is_none();
        let other = Way {
            rollback: &other.rollback,
            under_traffic: false,
            not_taken: other.not_taken.as_deref(),
            schema: taken.then_some(&other.schema),
            data: taken.then_some(&other.data),
            residue: taken.then_some(&other.residue),
            ledger: taken.then_some(&other.ledger),
        };
        Some([first, other])
    }
}
