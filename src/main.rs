//! The `pc-switcher` program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pc_switcher::cli::main().into()
}
