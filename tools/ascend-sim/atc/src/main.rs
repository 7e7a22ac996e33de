//! The program `atc` of the simulation.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ascend_sim_atc::main(&arguments)
}
