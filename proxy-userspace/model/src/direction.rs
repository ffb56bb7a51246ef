//! The two directions of a connection.

/// The way bytes go, seen from the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the controller to the container.
    Up,
    /// From the container to the controller.
    Down,
}
