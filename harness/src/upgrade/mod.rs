//! How the steps of an upgrade run: inside the mirror, never on the machine that rehearses.

pub mod config;
pub mod control;
pub mod host;
pub mod local_host;
pub mod relay;
pub mod sandbox;
pub mod script_host;
pub mod shim;
pub mod steps;
