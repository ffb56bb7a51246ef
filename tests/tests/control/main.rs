//! The control socket: each method, each mistake, and clients of every kind.

mod clients;
mod commands;
mod hidden;
mod lists;
mod registering;
