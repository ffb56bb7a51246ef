//! The `portsplice` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    portsplice::cli::main()
}
