//! The mirror in containers.
//!
//! [`engine`] speaks to the container engine; [`model`] closes a compose file towards outside; [`project`] is what of it
//! runs; [`database`], [`services`] and [`host`] are its parts as the rehearsal sees them; `outbound` writes down what they call outside; [`gateway`] is the program of
//! the one container that stands in two networks; [`compose`] joins them to a mirror.

pub mod compose;
pub mod database;
pub mod engine;
pub mod gateway;
pub mod host;
pub mod model;
mod outbound;
pub mod project;
pub mod services;
