//! Servers that write in every way, clients that read in every way, over every path.
//!
//! Each test is one server; all clients use it at once.

mod addresses;
mod made;
mod real;
mod server_variants;
mod stalls;
