//! Files in places where others may write too: read without ever waiting, replaced as a whole, and locked. And what the
//! kernel tells in files about the machine.

mod boot;
pub mod lock_file;
pub mod mounts;
pub mod regular_file;
pub mod replace_file;

pub use boot::boot_id;
