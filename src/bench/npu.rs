//! How long compiled models take on an NPU, batch by batch, beside what others have published and what is predicted.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, bail};
use onnxfix_ascend::cost::{Interval, predict};
use onnxfix_ascend::facts::Facts;
use onnxfix_ascend::published::PublishedModel;
use onnxfix_ir::LoadOptions;
use onnxfix_npu::acl::{Gear, Runtime};
use onnxfix_npu::summary::{Figures, Stats};
use onnxfix_npu::{Flow, Plan, device_name};
use onnxfix_passes::{InputShape, Options};
use onnxfix_samples::Slot;
use serde::Serialize;

use crate::record::Record;
use crate::run::{PureData, Source, run_compiled};
use crate::source::read;
use crate::target::{Target, toolkit};

/// How to time compiled models.
#[derive(Debug, Clone)]
pub struct Timer<'a> {
    /// AscendCL.
    pub runtime: &'a Arc<Runtime>,
    /// The devices, one queue for all.
    pub devices: &'a [i32],
    /// Threads of each.
    pub threads: usize,
    /// Runs that count.
    pub runs: usize,
    /// Runs of each thread before those that count.
    pub warmups: usize,
    /// Whose published figures to set beside them.
    pub published: Option<&'static PublishedModel>,
}

/// The times of a compiled model.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The model.
    pub model: String,
    /// Samples of a run.
    pub batch: u64,
    /// Dimensions of the first input.
    pub dims: Vec<i64>,
    /// Milliseconds of a run as the host sees it, blocking, copies left out: `ais_bench`'s way.
    pub compute: Option<Stats>,
    /// Samples per second as `ais_bench` counts them; none on a simulated device.
    pub fps: Option<f64>,
    /// Samples per second with copies, which overlap; none on a simulated device.
    pub end_to_end_fps: Option<f64>,
    /// Samples per second that others have published.
    pub published_fps: Option<f64>,
    /// Samples per second that are predicted for the chip.
    pub predicted_fps: Option<Interval>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct NpuReport {
    /// The chip; a simulated one says so.
    pub device: String,
    /// Whether the chip is made up, and its times say nothing.
    pub simulated: bool,
    /// Runs of each model.
    pub runs: usize,
    /// The models, in the order in which they were given.
    pub models: Vec<Row>,
    /// Where published figures are from.
    pub published: Option<String>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// The compiled models of some batch sizes that belong to one model: `deberta.onnx`, `deberta.opt.onnx` and
/// `deberta_bs8.om` all stand for `deberta_bs1.om`, `deberta_bs4.om` and so on in the same folder.
///
/// # Errors
/// When one of them is not there.
pub fn of_batches(model: &Path, batches: &[u64]) -> Result<Vec<PathBuf>> {
    let stem = model.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = stem.strip_suffix(".opt").unwrap_or(&stem);
    let stem = match stem.rsplit_once("_bs") {
        Some((name, batch)) if batch.parse::<u64>().is_ok() => name,
        _ => stem,
    };
    let mut paths = Vec::with_capacity(batches.len());
    for batch in batches {
        // What depends on the machine that it was compiled on has a longer name.
        let names = ["", "_linux_x86_64", "_linux_aarch64"]
            .map(|tail| model.with_file_name(format!("{stem}_bs{batch}{tail}.om")));
        let Some(path) = names.iter().find(|path| path.is_file()) else {
            let all: Vec<String> = batches.iter().map(ToString::to_string).collect();
            bail!(
                "{} is not there; compile it first: onnxfix atc {} --batch {}",
                names[0].display(),
                model.display(),
                all.join(",")
            )
        };
        paths.push(path.clone());
    }
    Ok(paths)
}

/// Times compiled models one after the other.
///
/// # Errors
/// When one cannot be run; the others are not timed then.
pub fn time(
    models: &[PathBuf],
    timer: &Timer<'_>,
    stop: &AtomicBool,
    progress: &dyn Fn(String),
) -> Result<NpuReport> {
    let soc = timer.runtime.soc()?;
    let simulated = onnxfix_npu::is_simulated(&soc);
    let chip = soc.strip_suffix("-sim").unwrap_or(&soc).to_owned();
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    for path in models {
        let name = path.display().to_string();
        progress(format!("time {name}"));
        let mut seen = Vec::new();
        let mut figures = |flow| -> Result<(Figures, u64)> {
            let plan = Plan {
                model: path,
                devices: timer.devices.to_vec(),
                threads: timer.threads,
                gear: None::<Gear>,
                warmups: timer.warmups,
                repeats: 1,
                flow,
            };
            let zeros = Source::Made { data: PureData::Zero, batches: timer.runs, target: None };
            let report = run_compiled(timer.runtime, &plan, &zeros, None, stop, &|_| ())?;
            seen.clone_from(&report.inputs);
            let complete = report.is_complete();
            match report.ran.failure {
                Some(failure) => Err(failure.into()),
                None if !complete => bail!("interrupted"),
                None => Ok((report.figures, report.batch)),
            }
        };
        let failed = || format!("time {name}");
        let (blocking, batch) = figures(Flow::Blocking).with_context(failed)?;
        let (overlapped, _) = figures(Flow::Overlapped).with_context(failed)?;
        let dims = seen.first().map(|slot: &Slot| slot.dims.clone()).unwrap_or_default();
        let seq = dims.get(1).and_then(|&seq| u64::try_from(seq).ok());
        let predicted_fps = match predicted(path, &seen, &chip) {
            Ok(interval) => Some(interval),
            Err(error) => {
                notes.push(format!("{name}: no prediction: {error:#}"));
                None
            }
        };
        rows.push(Row {
            model: name,
            batch,
            dims,
            compute: blocking.compute,
            fps: blocking.throughput,
            end_to_end_fps: overlapped.end_to_end,
            published_fps: timer.published.and_then(|model| model.fps(seq?, batch)),
            predicted_fps,
        });
    }
    let published = timer.published.filter(|_| rows.iter().any(|row| row.published_fps.is_some()));
    let published = published.map(|model| {
        format!(
            "{} on an Ascend310P3 with CANN {}: Ascend/ModelZoo-PyTorch, ACL_PyTorch/{}",
            model.name, model.cann, model.source
        )
    });
    let device = device_name(&soc);
    Ok(NpuReport { device, simulated, runs: timer.runs, models: rows, published, notes })
}

/// Samples per second that the model of the costs says of the ONNX model that a file was compiled from, optimized for the
/// shapes that it takes.
fn predicted(om: &Path, inputs: &[Slot], chip: &str) -> Result<Interval> {
    let manifest = om.with_extension("om.json");
    let text = std::fs::read_to_string(&manifest)
        .with_context(|| format!("{} does not say what it was made from", manifest.display()))?;
    let manifest: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{}", manifest.display()))?;
    let Some(source) = manifest["source"]["path"].as_str() else {
        bail!("its manifest names no source");
    };
    let beside = om.with_file_name(source);
    let source = if beside.is_file() { beside } else { PathBuf::from(source) };
    let options = LoadOptions { drop_unknown: true, ..LoadOptions::default() };
    let mut model = read(&source, &options)?.model;
    if let Some(record) = Record::of(&model) {
        let earlier = record.source(&source);
        if earlier.is_file() {
            model = read(&earlier, &options)?.model;
        }
    }
    let cann = toolkit::version(None);
    let facts = Facts::find(chip, &cann)?;
    let Some(platform) = &facts.platform else { bail!("no figures of {chip} are known") };
    let target = Target::Ascend310P3;
    let shape = |slot: &Slot| InputShape { name: slot.name.clone(), dims: slot.dims.clone() };
    let shapes = inputs.iter().map(shape).collect();
    let options = Options { shapes, ..target.options(&facts.cann) };
    onnxfix_passes::run(&mut model, &target.pipeline()?, &options, &mut |_, _| ())?;
    Ok(predict(&model, platform)?.fps)
}

impl NpuReport {
    /// The table for people.
    #[must_use]
    pub fn text(&self) -> String {
        let head = [
            "model",
            "batch",
            "input",
            "median",
            "p99",
            "fps",
            "end to end",
            "published",
            "predicted",
        ];
        let mut rows: Vec<[String; 9]> = vec![head.map(str::to_owned)];
        let ms = |ms: Option<f64>| ms.map_or("–".to_owned(), |ms| format!("{ms:.2} ms"));
        let fps = |fps: Option<f64>| fps.map_or("–".to_owned(), |fps| format!("{fps:.1}"));
        for row in &self.models {
            let dims: Vec<String> = row.dims.iter().map(ToString::to_string).collect();
            let measured = row.compute.filter(|_| !self.simulated);
            let predicted = row.predicted_fps.map_or("–".to_owned(), |p| {
                format!("{:.0} ({:.0} to {:.0})", p.likely, p.low, p.high)
            });
            rows.push([
                row.model.clone(),
                row.batch.to_string(),
                dims.join("×"),
                ms(measured.map(|stats| stats.median)),
                ms(measured.map(|stats| stats.p99)),
                fps(row.fps),
                fps(row.end_to_end_fps),
                fps(row.published_fps),
                predicted,
            ]);
        }
        let mut text = super::aligned(&rows);
        let _ = writeln!(text, "{}, {} runs of each batch", self.device, self.runs);
        if self.simulated {
            let _ =
                writeln!(text, "a simulated device has no speed: what was measured is left out");
        }
        if let Some(published) = &self.published {
            let _ = writeln!(text, "published: {published}");
        }
        text
    }

    /// A page with the table and a plot of samples per second by batch size.
    #[must_use]
    pub fn html(&self) -> String {
        super::page::page(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(simulated: bool) -> NpuReport {
        let row = |batch, fps: f64| Row {
            model: format!("m_bs{batch}.om"),
            batch,
            dims: vec![batch.cast_signed(), 256],
            compute: Stats::of([1.0, 2.0].into_iter()),
            fps: (!simulated).then_some(fps),
            end_to_end_fps: (!simulated).then_some(fps * 0.9),
            published_fps: Some(4.5),
            predicted_fps: Some(Interval { low: 100.0, likely: 200.0, high: 300.0 }),
        };
        NpuReport {
            device: if simulated { "simulated device (Ascend310P3-sim)" } else { "Ascend310P3" }
                .into(),
            simulated,
            runs: 20,
            models: vec![row(1, 150.0), row(8, 250.0)],
            published: Some("DeBERTa-v3-base".into()),
            notes: Vec::new(),
        }
    }

    #[test]
    fn measured_figures_stand_beside_published_and_predicted_ones() {
        assert_eq!(
            report(false).text(),
            "model     batch  input   median      p99    fps  end to end  published         predicted\n\
             m_bs1.om      1  1×256  1.50 ms  1.99 ms  150.0       135.0        4.5  200 (100 to 300)\n\
             m_bs8.om      8  8×256  1.50 ms  1.99 ms  250.0       225.0        4.5  200 (100 to 300)\n\
             Ascend310P3, 20 runs of each batch\n\
             published: DeBERTa-v3-base\n"
        );
    }

    #[test]
    fn a_simulated_device_has_dashes() {
        let text = report(true).text();
        assert!(text.contains("8×256       –    –    –           –        4.5  200"), "{text}");
        assert!(!text.contains("1.50 ms") && !text.contains("250.0"), "{text}");
        assert!(text.contains("simulated device (Ascend310P3-sim)"));
        let page = report(true).html();
        assert!(page.contains("simulated device") && !page.contains("250.0"), "{page}");
    }

    #[test]
    fn batches_are_found_by_the_name_of_their_model() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["deberta_bs1.om", "deberta_bs8_linux_aarch64.om"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        for name in ["deberta.onnx", "deberta.opt.onnx", "deberta_bs1.om"] {
            let found = of_batches(&folder.path().join(name), &[1, 8]).unwrap();
            let found: Vec<_> = found.iter().map(|p| p.file_name().unwrap().to_owned()).collect();
            assert_eq!(found, ["deberta_bs1.om", "deberta_bs8_linux_aarch64.om"]);
        }
        let error = of_batches(&folder.path().join("deberta.onnx"), &[4]).unwrap_err().to_string();
        assert!(error.contains("deberta_bs4.om is not there; compile it first"), "{error}");
    }
}
