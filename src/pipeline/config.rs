//! The file that tells what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use onnxfix_task::dataset::Task;
use serde::{Deserialize, Serialize};

/// A step of the chain, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Trains or fine-tunes with `tools/train/train.py`.
    Train,
    /// Exports with `tools/export/export.py`.
    Export,
    /// `onnxfix optimize`, for each batch.
    Optimize,
    /// `onnxfix verify`, for each batch.
    Verify,
    /// `onnxfix prepare`, for each batch, with the inputs of the optimized model.
    Prepare,
    /// `onnxfix atc`, for each batch.
    Atc,
    /// `onnxfix run` on the prepared files, for each batch.
    Run,
    /// `onnxfix eval`, for each batch.
    Eval,
    /// `onnxfix predict` on one text.
    Predict,
    /// `onnxfix bench`, for each batch: on an NPU where the chain compiles, else on the CPU.
    Bench,
}

impl Stage {
    /// All, in their order.
    pub const ALL: [Stage; 10] = [
        Stage::Train,
        Stage::Export,
        Stage::Optimize,
        Stage::Verify,
        Stage::Prepare,
        Stage::Atc,
        Stage::Run,
        Stage::Eval,
        Stage::Predict,
        Stage::Bench,
    ];

    /// The name in the file, on the command line and in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Train => "train",
            Stage::Export => "export",
            Stage::Optimize => "optimize",
            Stage::Verify => "verify",
            Stage::Prepare => "prepare",
            Stage::Atc => "atc",
            Stage::Run => "run",
            Stage::Eval => "eval",
            Stage::Predict => "predict",
            Stage::Bench => "bench",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How much of the chain: the names are those of the published test chain of ConvBERT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A few steps of training, a few samples.
    LiteTrainLiteInfer,
    /// No training, all samples.
    WholeInfer,
    /// All of both.
    WholeTrainWholeInfer,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 3] =
        [Mode::LiteTrainLiteInfer, Mode::WholeInfer, Mode::WholeTrainWholeInfer];

    /// The name in the file and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::LiteTrainLiteInfer => "lite_train_lite_infer",
            Mode::WholeInfer => "whole_infer",
            Mode::WholeTrainWholeInfer => "whole_train_whole_infer",
        }
    }

    /// Steps of training and samples of each part, where they are few.
    #[must_use]
    pub fn few(self) -> Option<(usize, usize)> {
        (self == Mode::LiteTrainLiteInfer).then_some((20, 64))
    }
}

/// What to do with which model. Paths are relative to the file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The model's name in the report.
    pub name: String,
    /// The data set.
    pub task: Task,
    /// Folder of the data set.
    pub data: PathBuf,
    /// The model to begin with; what *export* writes where it is missing.
    pub model: Option<PathBuf>,
    /// The tokenizer; that beside the model, or of the training, where it is missing.
    pub tokenizer: Option<PathBuf>,
    /// Folder for all that is written.
    pub work: PathBuf,
    /// How much of it.
    #[serde(default = "default_mode")]
    pub mode: Mode,
    /// The stages that run; all where it is missing, but for training and export where there is a `model`.
    pub stages: Option<Vec<Stage>>,
    /// Batches.
    #[serde(default = "default_batches")]
    pub batches: Vec<usize>,
    /// Tokens of a sample; what the published model takes where it is missing.
    pub max_length: Option<usize>,
    /// Shorter lengths, each with a model of its own: a sample runs in the shortest that holds it.
    #[serde(default)]
    pub buckets: Vec<usize>,
    /// Chip to compile for.
    #[serde(default = "default_soc")]
    pub soc: String,
    /// Text for *predict*: one, or a pair.
    #[serde(default)]
    pub text: Vec<String>,
    /// Labels in the order of the model's outputs.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Frames per second that the guide of the published model states, by batch.
    #[serde(default)]
    pub published_fps: BTreeMap<String, f64>,
    /// Python with what the scripts of `tools/` need.
    #[serde(default = "default_python")]
    pub python: PathBuf,
    /// Folder of the scripts.
    #[serde(default = "default_tools")]
    pub tools: PathBuf,
    /// Further arguments for the commands of a stage.
    #[serde(default)]
    pub args: BTreeMap<Stage, Vec<String>>,
}

fn default_mode() -> Mode {
    Mode::WholeInfer
}

fn default_batches() -> Vec<usize> {
    vec![1]
}

fn default_soc() -> String {
    "Ascend310P3".to_owned()
}

fn default_python() -> PathBuf {
    PathBuf::from("python3")
}

fn default_tools() -> PathBuf {
    PathBuf::from("../tools")
}

/// Why the file tells nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// It says something that cannot be.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        why: String,
    },
}

impl Config {
    /// Reads a file. Each of `settings` replaces one of the file's: `batches=[1,8]`, `args.atc=["--keep"]`; what is no value of
    /// TOML is text.
    ///
    /// # Errors
    /// When it cannot be read, or it or a setting says something that cannot be.
    pub fn open(path: &Path, settings: &[String]) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Io { path: path.to_path_buf(), source })?;
        let malformed = |why: String| ConfigError::Malformed { path: path.to_path_buf(), why };
        let told = |e: toml::de::Error| malformed(e.to_string().trim_end().to_owned());
        let mut config: Config = if settings.is_empty() {
            // Read at once, errors have line and column.
            toml::from_str(&text).map_err(told)?
        } else {
            let mut table: toml::Table = toml::from_str(&text).map_err(told)?;
            for setting in settings {
                set(&mut table, setting).map_err(malformed)?;
            }
            let from_table = |e: toml::de::Error| malformed(format!("with its settings: {e}"));
            table.try_into().map_err(from_table)?
        };
        let base = path.parent().unwrap_or(Path::new(""));
        let from_here = |path: &mut PathBuf| *path = base.join(&path);
        for path in [&mut config.data, &mut config.work, &mut config.tools] {
            from_here(path);
        }
        config.model.iter_mut().chain(&mut config.tokenizer).for_each(from_here);
        // A bare name is looked for on PATH.
        if config.python.components().count() > 1 {
            from_here(&mut config.python);
        }
        if config.batches.is_empty() || config.batches.contains(&0) {
            return Err(malformed("batches: at least one, and each at least 1".to_owned()));
        }
        let longest = config.length();
        if config.buckets.iter().any(|&length| length == 0 || length > longest) {
            return Err(malformed(format!("buckets: lengths from 1 to max_length, {longest}")));
        }
        if config.text.len() > 2 {
            return Err(malformed("text: one text, or two for a pair".to_owned()));
        }
        let stages = config.chosen(config.mode);
        let makes_model = stages.contains(&Stage::Export);
        if config.model.is_some() == makes_model {
            let why = if makes_model {
                "model is given, and the stage export makes another one; leave one of them out"
            } else {
                "no model: give one, or let the stage export make it"
            };
            return Err(malformed(why.to_owned()));
        }
        Ok(config)
    }

    /// The stages of a mode, in their order.
    #[must_use]
    pub fn chosen(&self, mode: Mode) -> Vec<Stage> {
        let wanted = |stage: &Stage| match &self.stages {
            Some(stages) => stages.contains(stage),
            None => !matches!(stage, Stage::Train | Stage::Export) || self.model.is_none(),
        };
        let trains = mode != Mode::WholeInfer;
        Stage::ALL
            .into_iter()
            .filter(|stage| wanted(stage) && (trains || *stage != Stage::Train))
            .collect()
    }

    /// The most tokens of a sample.
    #[must_use]
    pub fn length(&self) -> usize {
        self.max_length.unwrap_or(self.task.max_length())
    }

    /// All lengths that samples have, ascending.
    #[must_use]
    pub fn lengths(&self) -> Vec<usize> {
        let all: BTreeSet<usize> = self.buckets.iter().copied().chain([self.length()]).collect();
        all.into_iter().collect()
    }
}

/// Puts a setting such as `args.atc=["--keep"]` in the place of what the file says.
fn set(table: &mut toml::Table, setting: &str) -> Result<(), String> {
    let (key, text) =
        setting.split_once('=').ok_or_else(|| format!("--set {setting}: no KEY=VALUE"))?;
    let parsed = toml::from_str::<toml::Table>(&format!("value = {text}"));
    let value = parsed.ok().and_then(|mut table| table.remove("value"));
    let value = value.unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let mut place = table;
    let mut path = key.split('.').peekable();
    while let Some(name) = path.next() {
        if path.peek().is_none() {
            place.insert(name.to_owned(), value);
            return Ok(());
        }
        let inner = place.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        place = inner
            .as_table_mut()
            .ok_or_else(|| format!("--set {setting}: {name} has no settings within"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, text).unwrap();
        Config::open(&path, &[])
    }

    const LEAST: &str = "name = \"x\"\ntask = \"sst2\"\ndata = \"d\"\nwork = \"w\"\n";

    #[test]
    fn a_model_or_its_export_is_needed_and_not_both() {
        let found = read(&format!("{LEAST}model = \"m.onnx\"\n")).unwrap();
        assert_eq!(found.chosen(Mode::WholeTrainWholeInfer)[0], Stage::Optimize);
        assert_eq!(found.length(), 128);
        assert!(found.model.unwrap().is_absolute());
        let exported = read(LEAST).unwrap();
        assert_eq!(exported.chosen(Mode::WholeInfer)[0], Stage::Export);
        assert_eq!(exported.chosen(Mode::LiteTrainLiteInfer)[0], Stage::Train);
        for wrong in ["stages = [\"optimize\"]\n", "model = \"m\"\nstages = [\"export\"]\n"] {
            assert!(matches!(read(&format!("{LEAST}{wrong}")), Err(ConfigError::Malformed { .. })));
        }
    }

    #[test]
    fn what_it_does_not_know_is_named_with_its_line() {
        let error = read(&format!("{LEAST}batch = 1\n")).unwrap_err().to_string();
        assert!(error.contains("line 5") && error.contains("unknown field `batch`"), "{error}");
    }

    #[test]
    fn settings_replace_what_the_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, format!("{LEAST}model = \"m\"\n[args]\natc = [\"--log\"]\n"))
            .unwrap();
        let with = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|&s| s.to_owned()).collect();
            Config::open(&path, &settings)
        };
        let config =
            with(&["batches=[1, 8]", "model=n=1.onnx", "args.atc=[]", "buckets=[64]"]).unwrap();
        assert_eq!((&config.batches[..], config.lengths()), (&[1, 8][..], vec![64, 128]));
        assert_eq!(config.model.unwrap(), folder.path().join("n=1.onnx"));
        assert!(config.args[&Stage::Atc].is_empty());
        for (wrong, said) in [
            ("batches", "no KEY=VALUE"),
            ("name.x=1", "name has no settings within"),
            ("batch=1", "unknown field `batch`"),
            ("buckets=[129]", "lengths from 1 to max_length, 128"),
        ] {
            let error = with(&[wrong]).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn the_examples_can_be_read() {
        for name in ["convbert_sst2.toml", "deberta_mnli.toml"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
            Config::open(&path, &[]).unwrap();
        }
    }
}
