//! The `bearerd` program: everything is in the library, under [`bearerd::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    bearerd::cli::main(std::env::args_os())
}
