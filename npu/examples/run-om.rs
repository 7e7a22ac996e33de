//! The smallest program on this crate: runs a compiled model on numbers that it makes up.
//!
//! `run-om LIBRARY MODEL [BATCHES [overlapped|blocking [DEVICES [THREADS [BATCH]]]]]` prints a checksum of each batch's outputs,
//! how long a batch took, and how much memory that took. Exit code 2 if something failed.
#![expect(clippy::print_stderr, reason = "a program for a terminal")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use onnxfix_npu::acl::{Gear, Runtime, divert_stdout};
use onnxfix_npu::{Flow, Interface, NpuError, Plan, Work, WorkError, run};

/// Batches whose bytes are their number, and the sums of what comes out.
struct Numbers {
    batches: usize,
    sums: Mutex<Vec<(usize, u64)>>,
}

impl Work for Numbers {
    fn batches(&self) -> usize {
        self.batches
    }

    fn fill(&self, batch: usize, inputs: &mut [&mut [u8]]) -> Result<(), WorkError> {
        for input in inputs {
            // Small integers, which are small floats as well.
            input.fill(0);
            input.iter_mut().step_by(4).for_each(|byte| *byte = batch.to_le_bytes()[0] % 100);
        }
        Ok(())
    }

    fn take(&self, batch: usize, outputs: &[&[u8]]) -> Result<(), WorkError> {
        let sum =
            outputs.iter().flat_map(|output| output.iter()).map(|&byte| u64::from(byte)).sum();
        self.sums.lock().map_err(|e| e.to_string())?.push((batch, sum));
        Ok(())
    }
}

/// Work that is looked at after the run.
struct Lent<'a>(&'a Numbers);

impl Work for Lent<'_> {
    fn batches(&self) -> usize {
        self.0.batches()
    }

    fn fill(&self, batch: usize, inputs: &mut [&mut [u8]]) -> Result<(), WorkError> {
        self.0.fill(batch, inputs)
    }

    fn take(&self, batch: usize, outputs: &[&[u8]]) -> Result<(), WorkError> {
        self.0.take(batch, outputs)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let get = |at: usize, default: &str| arguments.get(at).map_or(default, |a| a).to_owned();
    let number = |at: usize, default: usize| get(at, "").parse().unwrap_or(default);
    let flow = match get(3, "overlapped").as_str() {
        "blocking" => Flow::Blocking,
        _ => Flow::Overlapped,
    };
    let model = get(1, "model.om");
    let plan = Plan {
        model: Path::new(&model),
        devices: (0..i32::try_from(number(4, 1)).unwrap_or(1)).collect(),
        threads: number(5, 1),
        gear: get(6, "").parse().ok().map(Gear::Batch),
        warmups: 1,
        repeats: 1,
        flow,
    };
    let numbers = Numbers { batches: number(2, 3), sums: Mutex::default() };
    let Ok(mut stdout) = divert_stdout() else { return ExitCode::from(2) };
    match ran(Path::new(&get(0, "libascendcl.so")), &plan, &numbers) {
        Ok(micros) => {
            let mut sums = numbers.sums.into_inner().unwrap_or_default();
            sums.sort_unstable();
            sums.truncate(20);
            let text = format!(
                "{sums:?}\n{micros:.1} microseconds for a batch\n{} kB of memory at most\n",
                peak().unwrap_or(0)
            );
            let _ended = std::io::Write::write_all(&mut stdout, text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::from(2)
        }
    }
}

/// The most memory that this process had, in kB (Linux).
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Microseconds of a batch.
fn ran(library: &Path, plan: &Plan<'_>, numbers: &Numbers) -> Result<f64, NpuError> {
    let runtime = Runtime::start(library, None)?;
    let prepare = |_: &Interface| Ok::<_, NpuError>(Lent(numbers));
    let outcome =
        runtime.soc().and_then(|_| run(&runtime, plan, prepare, &AtomicBool::new(false), &|_| ()));
    let failed = match &outcome {
        Ok(ran) => ran.failure.as_ref(),
        Err(error) => Some(error),
    };
    let said = failed.and_then(NpuError::call).map(|call| (call.call, call.code));
    for error in runtime.finish() {
        if said != Some((error.call, error.code)) {
            eprintln!("while releasing: {error}");
        }
    }
    let ran = outcome?;
    match ran.failure {
        Some(failure) => Err(failure),
        None => Ok(ran.seconds * 1e6 / ran.finished.max(1) as f64),
    }
}
