//! A stand-in for ATC, the compiler of Ascend's NPUs, for machines without CANN.
//!
//! It reads the flags that the simulated release has, refuses models for the reasons that the real one is known to refuse
//! them for, with the same codes in its own words, leaves the same files in the current folder, and packs the model as it
//! is into an `.om` file, which the stand-in for AscendCL runs. It compiles no kernels, and says so in all that it prints.
//! Its table of parsers is its own, so that it can contradict `onnxfix inspect`.
//!
//! Variables: `ASCEND_SIM_RELEASE` is the release to simulate (`8.1.RC1` unless set), `ASCEND_SIM_ATC_SECONDS` how long to
//! print dots, `ASCEND_SIM_ATC_FAULT` a [`Fault`] to show, behind an `@` the output that is meant: `killed@deberta_bs8`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that says what ATC says")]

mod compile;
mod flags;
mod fusion;
mod kernels;
mod log;
mod parsers;
mod release;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

pub use self::compile::{Problem, Request, problems};
pub use self::parsers::{is_registered, operators};
pub use self::release::Release;

/// A way to go wrong that has nothing to do with the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// All is well, but the exit code is 1.
    ExitCode,
    /// All is well, but the line that says so is missing.
    NoSuccessLine,
    /// All is well, but there is no file.
    NoFile,
    /// Half of the file is there.
    HalfFile,
    /// It ends by SIGABRT.
    Crash,
    /// It ends by SIGKILL, as when memory runs out.
    Killed,
    /// It never ends.
    Hang,
    /// Python lacks a module.
    NoPython,
    /// The model has parts that only run on this kind of host: another file name.
    HostBound,
}

impl Fault {
    fn of(text: &str) -> Option<Fault> {
        Some(match text {
            "exit-code" => Fault::ExitCode,
            "no-success-line" => Fault::NoSuccessLine,
            "no-file" => Fault::NoFile,
            "half-file" => Fault::HalfFile,
            "crash" => Fault::Crash,
            "killed" => Fault::Killed,
            "hang" => Fault::Hang,
            "no-python" => Fault::NoPython,
            "host-bound" => Fault::HostBound,
            _ => return None,
        })
    }
}

const FAILED: &str =
    "ATC run failed, Please check the detail log, Try 'atc --help' for more information";

/// Runs the program with its arguments and gives its exit code: 0, 255 for flags, 1 for models.
#[must_use]
pub fn main(arguments: &[String]) -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let named = variable("ASCEND_SIM_RELEASE");
    let Some(release) = Release::of(named.as_deref().unwrap_or("8.1.RC1")) else {
        eprintln!("simulated atc: ASCEND_SIM_RELEASE is none of {}", Release::NAMES.join(", "));
        return ExitCode::from(255);
    };
    println!("ATC start working now, please wait for a moment.");
    println!("(simulated ATC of CANN {}: no kernel is compiled)", release.name);
    if arguments.iter().any(|word| ["--help", "-h", "-help"].contains(&word.as_str())) {
        print!("{}", flags::help(&release));
        return ExitCode::SUCCESS;
    }
    let given = match flags::parse(arguments, &release) {
        Ok(given) => given,
        Err(flags::Refused::Unknown(what)) => {
            eprintln!("ERROR: {what}");
            println!(
                "{FAILED}\nE19999: Internal Error!\n        An unknown error occurred. Please check the log.\n"
            );
            return ExitCode::from(255);
        }
        Err(flags::Refused::Problem(problem)) => return fail(&release, &[problem], 255),
    };
    let fault = variable("ASCEND_SIM_ATC_FAULT").and_then(|text| {
        let (kind, only) =
            text.split_once('@').map_or((text.as_str(), None), |(k, o)| (k, Some(o)));
        let meant = only.is_none_or(|only| given.get("output").is_some_and(|o| o == only));
        Fault::of(kind).filter(|_| meant)
    });
    let seconds = variable("ASCEND_SIM_ATC_SECONDS").and_then(|text| text.parse().ok());
    dots(seconds.unwrap_or(0.0));
    match fault {
        Some(Fault::Crash) => std::process::abort(),
        Some(Fault::Killed) => kill(),
        Some(Fault::Hang) => loop {
            std::thread::sleep(Duration::from_mins(1));
        },
        Some(Fault::NoPython) => {
            let text = "Python module [decorator] cannot be imported: No module named 'decorator'";
            return fail(&release, &[Problem::error("E40020", text)], 1);
        }
        _ => {}
    }
    println!("...");
    compile(&given, &release, fault)
}

fn compile(given: &BTreeMap<String, String>, release: &Release, fault: Option<Fault>) -> ExitCode {
    let request = match Request::of(given, release) {
        Ok(request) => request,
        Err(problems) => return fail(release, &problems, 255),
    };
    let compiled = match compile::compile(&request, release) {
        Ok(compiled) => compiled,
        Err(problems) => return fail(release, &problems, 1),
    };
    let arch = std::env::consts::ARCH;
    let name = match fault {
        Some(Fault::HostBound) => format!("{}_linux_{arch}.om", request.output),
        _ => format!("{}.om", request.output),
    };
    let command = std::iter::once("atc".to_owned())
        .chain(given.iter().map(|(flag, value)| format!("--{flag}={value}")));
    let description = ascend_sim_om::Description {
        name: Path::new(&request.output).file_name().unwrap_or_default().to_string_lossy().into(),
        soc: request.soc.clone(),
        release: release.name.to_owned(),
        command: command.collect::<Vec<_>>().join(" "),
        gears: request.gears.clone(),
        dims: Vec::new(),
    };
    if fault != Some(Fault::NoFile)
        && let Err(error) = ascend_sim_om::write(Path::new(&name), &description, &compiled.onnx)
    {
        return fail(
            release,
            &[Problem::error("E13004", &format!("cannot write {name}: {error}"))],
            1,
        );
    }
    if fault == Some(Fault::HalfFile) {
        let whole = std::fs::read(&name).unwrap_or_default();
        let _left_whole = std::fs::write(&name, &whole[..whole.len() / 2]);
    }
    if let Err(error) = compiled.write_side_files() {
        return fail(release, &[Problem::error("E13004", &format!("side files: {error}"))], 1);
    }
    if fault != Some(Fault::NoSuccessLine) {
        println!("ATC run success, welcome to the next use.");
    }
    for warning in &compiled.warnings {
        println!("{}", log::said(warning, release));
    }
    ExitCode::from(u8::from(fault == Some(Fault::ExitCode)))
}

/// Says why it failed, on stdout as ATC does, and in the log.
fn fail(release: &Release, problems: &[Problem], code: u8) -> ExitCode {
    println!("{FAILED}");
    if let Some((first, rest)) = problems.split_first() {
        println!("{}", log::said(first, release));
        println!("        Solution: (simulated) none.");
        println!("        TraceBack (most recent call last):");
        // Problems of one code are one message; the others are named in its trace.
        for problem in rest.iter().filter(|problem| problem.code == first.code) {
            println!("        {}", problem.text);
        }
        println!("        simulated compilation failed.[FUNC:compile][FILE:simulated][LINE:1]");
        let mut last = &first.code;
        for problem in rest.iter().filter(|problem| problem.code != first.code) {
            if problem.code != *last {
                println!("{}", log::said(problem, release));
            }
            last = &problem.code;
        }
    }
    log::write(problems);
    ExitCode::from(code)
}

fn dots(seconds: f64) {
    let steps = if seconds > 0.0 { 10 } else { 0 };
    for _ in 0..steps {
        print!(".");
        let _nobody_reads = std::io::stdout().flush();
        std::thread::sleep(Duration::from_secs_f64(seconds.min(3600.0) / 10.0));
    }
}

fn kill() {
    let _sent = std::process::Command::new("kill")
        .args(["-KILL", &std::process::id().to_string()])
        .status();
    std::thread::sleep(Duration::from_secs(10));
}
