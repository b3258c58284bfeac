//! The `pc-switcher` program: everything is in the library.

use std::process::ExitCode;

/// musl's own allocator gives large buffers back to the kernel each time: a first copy took a third more CPU time.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pc_switcher::cli::main().into()
}
