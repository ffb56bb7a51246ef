//! Files in places where others may write too: read without ever waiting, replaced as a whole, and locked.

pub mod lock_file;
pub mod regular_file;
pub mod replace_file;
