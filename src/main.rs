//! The `onnxfix` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    onnxfix::cli::main()
}
