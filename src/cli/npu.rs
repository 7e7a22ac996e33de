//! The flags that say which NPUs to use, shared by commands.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use onnxfix_atc::OmHeader;
use onnxfix_npu::acl::{self, Gear, Runtime};
use onnxfix_npu::{NpuError, library};

use super::output::Output;
use super::progress::Progress;
use crate::classify::Npus;

/// Which devices.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Devices")]
pub(crate) struct Devices {
    /// Numbers of the devices, comma between them, or "all". One queue feeds them.
    #[arg(short, long, value_name = "N,..|all", default_value = "0")]
    device: String,

    /// The library (libascendcl.so) or its folder. ASCENDCL_LIB sets it too.
    #[arg(long, value_name = "FILE")]
    acl_lib: Option<PathBuf>,

    /// A configuration for AscendCL itself (JSON), for profiling and dumps.
    #[arg(long, alias = "acl_json_path", value_name = "FILE")]
    acl_json_path: Option<PathBuf>,
}

/// How many threads, for commands that run batches of files.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "Devices")]
pub(crate) struct Threads {
    /// Threads of each device, each with the model loaded once; on the CPU, threads in all.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: u32,
}

/// AscendCL, started, and the devices to use.
pub(crate) struct Session {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) devices: Vec<i32>,
}

impl Devices {
    /// Starts AscendCL. Where its folders are not on `LD_LIBRARY_PATH`, the program starts itself again first.
    ///
    /// # Errors
    /// When there is no library or no device.
    pub(crate) fn start(&self, out: &Output) -> Result<Session> {
        let asked = self.numbers()?;
        let library = library::find(self.acl_lib.as_deref())?;
        library::prepare(&library)?;
        out.keep_stdout().context("keep stdout for the result")?;
        let config = self.acl_json_path.as_deref();
        let runtime = Runtime::start(&library, config)?;
        let devices = match asked {
            Some(devices) => devices,
            None => (0..runtime.devices()?.cast_signed()).collect(),
        };
        Ok(Session { runtime, devices })
    }

    /// The devices; none for all there are.
    fn numbers(&self) -> Result<Option<Vec<i32>>> {
        if self.device == "all" {
            return Ok(None);
        }
        let number = |text: &str| match text.trim().parse::<i32>() {
            Ok(number @ 0..=255) => Ok(number),
            _ => bail!("--device {}: {text:?} is no number of a device (0 to 255)", self.device),
        };
        let mut numbers = self.device.split(',').map(number).collect::<Result<Vec<i32>>>()?;
        numbers.sort_unstable();
        let count = numbers.len();
        numbers.dedup();
        if numbers.len() < count {
            bail!("--device {}: a number is there twice", self.device);
        }
        Ok(Some(numbers))
    }
}

impl Session {
    /// What a classifier runs on.
    ///
    /// # Errors
    /// When the system refuses to listen to Ctrl-C.
    pub(crate) fn npus(&self) -> Result<Npus> {
        Ok(Npus {
            runtime: Arc::clone(&self.runtime),
            devices: self.devices.clone(),
            stop: interruptible()?,
        })
    }

    /// Ends AscendCL and says what could not be released, but for the call that failed already.
    pub(crate) fn finish(self, failed: Option<&acl::CallError>, out: &Output) {
        for error in self.runtime.finish() {
            if failed.is_none_or(|failed| (failed.call, failed.code) != (error.call, error.code)) {
                out.warn(&format!("while releasing: {error}"));
            }
        }
    }
}

/// The call of AscendCL that an error is about.
pub(crate) fn call(error: &anyhow::Error) -> Option<&acl::CallError> {
    error.chain().find_map(|e| e.downcast_ref::<NpuError>()).and_then(NpuError::call)
}

/// Looks at a compiled model before a device does.
///
/// # Errors
/// When it is not one, or not whole.
pub(crate) fn check_om(path: &std::path::Path) -> Result<()> {
    let header = OmHeader::read(path).with_context(|| path.display().to_string())?;
    if header.dynamic {
        bail!(
            "{}: was compiled for a range of shapes, which is not supported; compile it for fixed shapes or gears \
             (onnxfix atc --batch 1,8 or --dynamic-batch 1,8)",
            path.display()
        );
    }
    Ok(())
}

/// Reads `--dym-dims "a:1,256;b:1,256"`.
///
/// # Errors
/// When it is no list of names and numbers.
pub(crate) fn gear(batch: Option<u64>, dims: Option<&str>) -> Result<Option<Gear>> {
    match (batch, dims) {
        (Some(batch), _) => Ok(Some(Gear::Batch(batch))),
        (None, Some(text)) => {
            let shapes = onnxfix_passes::parse_input_shapes(text).context("--dym-dims")?;
            Ok(Some(Gear::Dims(shapes.into_iter().flat_map(|shape| shape.dims).collect())))
        }
        (None, None) => Ok(None),
    }
}

/// The flag that Ctrl-C sets; a second one ends the program at once.
///
/// # Errors
/// When the system refuses.
pub(crate) fn interruptible() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let failed = "listen to Ctrl-C";
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag unset.
        signal_hook::flag::register_conditional_shutdown(signal, 2, Arc::clone(&stop))
            .context(failed)?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).context(failed)?;
    }
    Ok(stop)
}

/// Tells how many batches are done, a few times a second.
pub(crate) fn count<'a>(progress: &'a Progress, what: &'a str) -> impl Fn(usize) + Sync + 'a {
    let shown = Mutex::new(Instant::now());
    move |done| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.elapsed() > Duration::from_millis(200) {
            *shown = Instant::now();
            progress.step(format!("{what}, {done} batches done"));
        }
    }
}
