//! The upgrade package: its manifest, how it is built from a folder, and how it is opened safely.
//!
//! Called by the commands and the conductor; tells preflight and the upgrade runner what to examine and to run.
//! Nothing here starts anything: a package that is refused has not been written to disk.

pub mod build;
mod error;
mod folder;
pub mod limits;
pub mod manifest;
mod name;
mod open;
mod structure;

pub use crate::document::DocumentError;
pub use error::{DEFECTS, Defect, DefectRecord, PackageError};
pub use limits::Limits;
pub use manifest::{Action, Manifest, OnFailure, Rollback, RollbackAction, RollbackMethod, Step};
pub use open::{Package, PackageFile, open, open_any, open_bytes, open_folder};

/// Name of the manifest inside a package.
pub const MANIFEST: &str = "manifest.toml";

#[cfg(test)]
mod tests;
