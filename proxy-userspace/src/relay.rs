//! Moves bytes between the controller's connection and the container's: the paths and the choice between them.

pub mod sock;
