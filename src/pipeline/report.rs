//! The table of a chain: accuracy and speed, published and ours.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use onnxfix_task::dataset::Split;
use serde::Serialize;
use serde_json::Value;

use super::config::{Config, Mode};
use super::run::{Chain, Ended};
use super::stages::Places;
use crate::report::Text;
use crate::whole::write_whole;

/// Batches of the table of the DeBERTa guide.
const BATCHES: [usize; 6] = [1, 4, 8, 16, 32, 64];

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// The model with its batch: `deberta bs8`.
    pub model: String,
    /// Samples of a run.
    pub batch: usize,
    /// Accuracy on each part of the data set, as the guide states it; none where it states none.
    pub published_accuracy: Vec<(Split, f64)>,
    /// Accuracy on each part of the data set.
    pub accuracy: Vec<(Split, f64)>,
    /// Samples per second, as the guide states it.
    pub published_fps: Option<f64>,
    /// Samples per second.
    pub fps: Option<f64>,
}

/// What a chain did, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The model's name.
    pub name: String,
    /// How much of the chain.
    pub mode: Mode,
    /// What ran the model: `tract on the CPU`, the chip's name, or `simulated device (NAME)`; none where nothing ran.
    pub device: Option<String>,
    /// The table.
    pub table: Vec<Cell>,
    /// What *predict* said.
    pub prediction: Option<Value>,
    /// The commands.
    pub steps: Vec<Chain>,
}

fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

impl Report {
    pub(super) fn new(
        config: &Config,
        mode: Mode,
        places: &Places<'_>,
        steps: Vec<Chain>,
    ) -> Report {
        let published: Vec<(Split, f64)> = config
            .task
            .splits()
            .iter()
            .filter_map(|(split, _)| Some((*split, config.task.published_accuracy(*split)?)))
            .collect();
        // Results of an earlier run do not count where this one did not get that far.
        let fresh = |name: &str| steps.iter().any(|s| s.name == name && s.ended != Ended::Failed);
        let batches: BTreeSet<usize> = BATCHES.into_iter().chain(config.batches.clone()).collect();
        let cell = |batch: usize| {
            let eval = json(&places.eval(batch).join("result.json"));
            let eval = eval.filter(|_| fresh(&format!("eval_bs{batch}")));
            let bench = json(&places.bench(batch)).filter(|_| fresh(&format!("bench_bs{batch}")));
            Cell {
                model: format!("{} bs{batch}", config.name),
                batch,
                published_accuracy: published.clone(),
                accuracy: eval.as_ref().map(accuracies).unwrap_or_default(),
                published_fps: config.published_fps.get(&batch.to_string()).copied(),
                fps: bench.as_ref().and_then(throughput),
            }
        };
        let ran_on = |batch: &usize| {
            let said = [
                (format!("bench_bs{batch}"), places.bench(*batch)),
                (format!("run_bs{batch}"), places.ran(*batch)),
                (format!("eval_bs{batch}"), places.eval(*batch).join("result.json")),
            ];
            said.into_iter().filter(|(step, _)| fresh(step)).find_map(|(_, path)| device(&path))
        };
        let device = config.batches.iter().find_map(ran_on);
        Report {
            name: config.name.clone(),
            mode,
            device,
            table: batches.into_iter().map(cell).collect(),
            prediction: json(&places.predict()).filter(|_| fresh("predict")),
            steps,
        }
    }

    /// Whether every command is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.steps.iter().all(|step| step.ended != Ended::Failed)
    }

    /// Writes `report.json` and `report.html` to a folder.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("write {}", folder.display()))?;
        write_whole(&folder.join("report.json"), serde_json::to_string_pretty(self)?.as_bytes())?;
        write_whole(&folder.join("report.html"), self.html().as_bytes())
    }

    /// The table and the commands as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            let ended = match step.ended {
                Ended::Done => "done",
                Ended::UpToDate => "up to date",
                Ended::Failed => "failed",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<22} {ended:<10} {:8.1} s", step.name, step.seconds);
        }
        if let Some(failed) = self.steps.iter().find(|s| s.ended == Ended::Failed) {
            let _ = writeln!(text, "{} failed; see {}", failed.name, failed.log.display());
        }
        text.push('\n');
        let rows: Vec<[String; 5]> =
            std::iter::once(HEADER.map(str::to_owned)).chain(self.rows()).collect();
        let widths: Vec<usize> = (0..5)
            .map(|at| rows.iter().map(|r| r[at].chars().count()).max().unwrap_or(0))
            .collect();
        for row in &rows {
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(text, "{cell:<width$}  ");
            }
            while text.ends_with(' ') {
                text.pop();
            }
            text.push('\n');
        }
        if let Some(device) = &self.device {
            let _ = writeln!(text, "\nours: {device}");
        }
        text
    }

    fn rows(&self) -> impl Iterator<Item = [String; 5]> + '_ {
        let percent = |all: &[(Split, f64)]| {
            let one = |(split, share): &(Split, f64)| format!("{split} {:.2}%", 100.0 * share);
            all.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let dash = |text: String| if text.is_empty() { "–".to_owned() } else { text };
        let fps = move |fps: Option<f64>| fps.map_or("–".to_owned(), |f| format!("{f:.2}"));
        self.table.iter().map(move |cell| {
            [
                cell.model.clone(),
                dash(percent(&cell.published_accuracy)),
                dash(percent(&cell.accuracy)),
                fps(cell.published_fps),
                fps(cell.fps),
            ]
        })
    }

    fn html(&self) -> String {
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{0}</title>\n<style>\
             body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}}\
             table{{border-collapse:collapse;margin:1rem 0}}td,th{{border-bottom:1px solid #ccc;padding:.3rem .8rem;text-align:left}}\
             code{{font-size:13px;overflow-wrap:anywhere}}.failed{{color:#b00020}}</style>\n<h1>{0}</h1>\n\
             <p>Mode {1}; ours ran on: {2}. A dash is a cell that nobody measured.</p>\n",
            Text(&self.name),
            self.mode.name(),
            Text(self.device.as_deref().unwrap_or("nothing"))
        );
        page.push_str("<table><tr>");
        for name in HEADER {
            let _ = write!(page, "<th>{}</th>", Text(name));
        }
        page.push_str("</tr>\n");
        for row in self.rows() {
            page.push_str("<tr>");
            for cell in row {
                let _ = write!(page, "<td>{}</td>", Text(&cell));
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</table>\n<table><tr><th>Step</th><th>Ended</th><th>Seconds</th><th>Command</th></tr>\n");
        for step in &self.steps {
            let (class, ended) = match step.ended {
                Ended::Done => ("", "done"),
                Ended::UpToDate => ("", "up to date"),
                Ended::Failed => (" class=\"failed\"", "failed"),
            };
            let _ = writeln!(
                page,
                "<tr{class}><td>{}</td><td>{ended}</td><td>{:.1}</td><td><code>{}</code></td></tr>",
                Text(&step.name),
                step.seconds,
                Text(&step.command)
            );
        }
        page.push_str("</table>\n</html>\n");
        page
    }
}

/// The columns of the table of the DeBERTa guide.
const HEADER: [&str; 5] =
    ["Model", "Published accuracy", "Our accuracy", "Published fps", "Our fps"];

/// The accuracies of a `result.json`.
fn accuracies(result: &Value) -> Vec<(Split, f64)> {
    let one = |split: &Value| {
        let name = serde_json::from_value(split.get("split")?.clone()).ok()?;
        Some((name, split.get("accuracy")?.as_f64()?))
    };
    result.get("splits").and_then(Value::as_array).into_iter().flatten().filter_map(one).collect()
}

/// What ran a model, as the result of a command says.
fn device(path: &Path) -> Option<String> {
    let result = json(path)?;
    let runs = result.get("runs").and_then(|runs| runs.get(0)).unwrap_or(&result);
    let device = runs.get("device").and_then(Value::as_str).map(str::to_owned);
    device.or_else(|| Some(format!("{} on the CPU", runs.get("engine")?.as_str()?)))
}

/// Samples per second in what `onnxfix bench` printed; none on a simulated device, whose times mean nothing.
fn throughput(result: &Value) -> Option<f64> {
    result.get("models")?.get(0)?.get("fps")?.as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let cell = |batch, accuracy, fps| Cell {
            model: format!("<x> bs{batch}"),
            batch,
            published_accuracy: vec![(Split::Match, 0.9046), (Split::Mismatch, 0.9071)],
            accuracy,
            published_fps: Some(4.06),
            fps,
        };
        let report = Report {
            name: "<x>".to_owned(),
            mode: Mode::WholeInfer,
            device: Some("tract on the CPU".to_owned()),
            table: vec![cell(1, vec![(Split::Match, 0.5)], Some(123.456)), cell(4, vec![], None)],
            prediction: None,
            steps: Vec::new(),
        };
        insta::assert_snapshot!(report.text(), @r"

        Model    Published accuracy             Our accuracy  Published fps  Our fps
        <x> bs1  match 90.46%, mismatch 90.71%  match 50.00%  4.06           123.46
        <x> bs4  match 90.46%, mismatch 90.71%  –             4.06           –

        ours: tract on the CPU
        ");
        assert!(report.html().contains("<td>&lt;x&gt; bs4</td>"));
    }

    #[test]
    fn a_simulated_device_has_no_throughput() {
        let of = |text: &str| throughput(&serde_json::from_str(text).unwrap());
        assert_eq!(of(r#"{"models": [{"fps": 7.5}]}"#), Some(7.5));
        assert_eq!(of(r#"{"simulated": true, "models": [{"fps": null}]}"#), None);
    }
}
