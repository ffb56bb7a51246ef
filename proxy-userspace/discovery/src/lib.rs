//! Which containers run on this node, how to get at them, and which ports listen in them.
//!
//! - [`events`]: what is told of containers, ports and connections; carries ids and values.
//! - [`container`]: the containers, and the resolvers that find them.
//! - [`ports`]: what listens, as the kernel tells and as dumps show.
//!
//! Containers and ports know the events and not each other; whoever composes them joins the two.

pub mod container;
pub mod events;
pub mod ports;
