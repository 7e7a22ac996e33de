//! The commands of each stage.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use onnxfix_ir::LoadOptions;
use onnxfix_task::dataset;
use onnxfix_task::tokenizer;

use super::config::{Config, Mode, Stage};
use crate::source::read;
use crate::verify::token_inputs;

/// A command of a stage.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// Tells it from others, also as the name of its log: `optimize_bs8`.
    pub(super) name: String,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// What it reads: files and folders.
    pub(super) reads: Vec<PathBuf>,
    /// What has to be there when it is done.
    pub(super) writes: Vec<PathBuf>,
    /// Where what it prints goes, for those that print a result.
    pub(super) result: Option<PathBuf>,
}

/// A model of the chain: for a batch and, where there are several, a length.
#[derive(Debug, Clone, Copy)]
struct Variant {
    batch: usize,
    length: usize,
    alone: bool,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bs{}", self.batch)?;
        if self.alone { Ok(()) } else { write!(f, "_seq{}", self.length) }
    }
}

impl Step {
    fn of(stage: Stage, of: Option<String>) -> Step {
        let name = of.map_or(stage.to_string(), |of| format!("{stage}_{of}"));
        let (command, reads, writes) = (Vec::new(), Vec::new(), Vec::new());
        Step { name, command, reads, writes, result: None }
    }
}

/// The files of a chain.
pub(super) struct Places<'a> {
    config: &'a Config,
    mode: Mode,
    stages: Vec<Stage>,
    program: String,
}

impl<'a> Places<'a> {
    pub(super) fn new(config: &'a Config, mode: Mode, stages: Vec<Stage>, program: &Path) -> Self {
        Places { config, mode, stages, program: program.display().to_string() }
    }

    fn has(&self, stage: Stage) -> bool {
        self.stages.contains(&stage)
    }

    fn in_work(&self, name: impl AsRef<Path>) -> PathBuf {
        self.config.work.join(name)
    }

    fn model(&self) -> PathBuf {
        self.config.model.clone().unwrap_or_else(|| self.in_work("model.onnx"))
    }

    fn checkpoint(&self) -> PathBuf {
        self.in_work("train/best")
    }

    fn tokenizer(&self) -> PathBuf {
        let beside = || {
            let model = self.model();
            // The folder of a bare name is this one.
            let folder = model.parent().filter(|folder| !folder.as_os_str().is_empty());
            folder.unwrap_or(Path::new(".")).to_path_buf()
        };
        let given = self.config.tokenizer.clone();
        given.unwrap_or_else(|| if self.has(Stage::Export) { self.checkpoint() } else { beside() })
    }

    /// The models of a batch, one for each length.
    fn variants(&self, batch: usize) -> Vec<Variant> {
        let lengths = self.config.lengths();
        let alone = lengths.len() == 1;
        lengths.into_iter().map(|length| Variant { batch, length, alone }).collect()
    }

    /// The model of a batch that holds every sample.
    fn longest(&self, batch: usize) -> Variant {
        let length = self.config.length();
        Variant { batch, length, alone: self.config.lengths().len() == 1 }
    }

    fn optimized(&self, of: Variant) -> PathBuf {
        self.in_work(format!("model_{of}.opt.onnx"))
    }

    fn om(&self, of: Variant) -> PathBuf {
        self.in_work(format!("model_{of}.om"))
    }

    fn data(&self, batch: usize) -> PathBuf {
        self.in_work(format!("data_bs{batch}"))
    }

    fn results(&self, batch: usize) -> PathBuf {
        self.in_work(format!("results_bs{batch}/run"))
    }

    /// Where the result of *eval* is.
    pub(super) fn eval(&self, batch: usize) -> PathBuf {
        self.in_work(format!("eval_bs{batch}"))
    }

    /// What *run* printed.
    pub(super) fn ran(&self, batch: usize) -> PathBuf {
        self.in_work(format!("run_bs{batch}.json"))
    }

    /// What *bench* printed.
    pub(super) fn bench(&self, batch: usize) -> PathBuf {
        self.in_work(format!("bench_bs{batch}.json"))
    }

    /// What *predict* printed.
    pub(super) fn predict(&self) -> PathBuf {
        self.in_work("predict.json")
    }

    /// The model that runs: compiled where the chain compiles, else on the CPU.
    fn runs(&self, of: Variant) -> PathBuf {
        if self.has(Stage::Atc) { self.om(of) } else { self.optimized(of) }
    }

    /// A command of this program.
    fn own(&self, stage: Stage, of: Option<String>, words: &[&dyn Word]) -> Step {
        let mut step = Step::of(stage, of);
        step.command.push(self.program.clone());
        step.command.push("--quiet".to_owned());
        step.command.extend(words.iter().map(|word| word.text()));
        step.command.extend(self.config.args.get(&stage).into_iter().flatten().cloned());
        step
    }

    /// A script of `tools/`.
    fn script(&self, stage: Stage, path: &str, words: &[&dyn Word]) -> Step {
        let mut step = Step::of(stage, None);
        let script = self.config.tools.join(path);
        step.command = vec![self.config.python.text(), script.text()];
        step.command.extend(words.iter().map(|word| word.text()));
        step.command.extend(self.config.args.get(&stage).into_iter().flatten().cloned());
        step.reads.push(script);
        step
    }

    /// The commands of a stage. What earlier stages wrote is there.
    pub(super) fn steps(&self, stage: Stage) -> Result<Vec<Step>> {
        let batches = self.config.batches.iter().copied();
        let variants = batches.clone().flat_map(|batch| self.variants(batch));
        match stage {
            Stage::Train => Ok(vec![self.train()]),
            Stage::Export => Ok(vec![self.export()]),
            Stage::Optimize => {
                let names = self.input_names()?;
                Ok(variants.map(|of| self.optimize(of, &names)).collect())
            }
            Stage::Verify => Ok(variants.map(|of| self.verify(of)).collect()),
            Stage::Prepare => batches.map(|batch| self.prepare(batch)).collect(),
            Stage::Atc => Ok(variants.map(|of| self.atc(of)).collect()),
            Stage::Run => Ok(batches.map(|batch| self.run(batch)).collect()),
            Stage::Eval => Ok(batches.map(|batch| self.evaluate(batch)).collect()),
            Stage::Predict => Ok(vec![self.ask()]),
            Stage::Bench => Ok(batches.map(|batch| self.measure(batch)).collect()),
        }
    }

    fn family(&self) -> &'static str {
        match self.config.task {
            dataset::Task::Mnli => "deberta-v3",
            dataset::Task::Sst2 => "convbert",
        }
    }

    fn train(&self) -> Step {
        let out = self.in_work("train");
        let mut step = self.script(
            Stage::Train,
            "train/train.py",
            &[&"--model", &self.family(), &"--data", &self.config.data, &"-o", &out],
        );
        if let Some((steps, _)) = self.mode.few() {
            let few = format!("--max_steps {steps} --logging_steps 5 --save_steps {steps}");
            step.command.extend(few.split(' ').map(str::to_owned));
        }
        step.reads.push(self.config.data.clone());
        step.writes = vec![self.checkpoint().join("config.json")];
        step
    }

    fn export(&self) -> Step {
        let model = self.model();
        let words: [&dyn Word; 6] =
            [&"--model", &self.family(), &"--checkpoint", &self.checkpoint(), &"-o", &model];
        // What is exported is what was trained, unless the file says otherwise.
        let own_weights = self.config.args.get(&Stage::Export).is_some_and(|args| {
            let weights = ["--checkpoint", "--init_model", "--init-model", "--pdparams", "--size"];
            args.iter().any(|a| weights.contains(&a.as_str()))
        });
        let mut step = if own_weights {
            self.script(
                Stage::Export,
                "export/export.py",
                &[words[0], words[1], words[4], words[5]],
            )
        } else {
            let mut step = self.script(Stage::Export, "export/export.py", &words);
            step.reads.push(self.checkpoint());
            step
        };
        step.writes = vec![model];
        step
    }

    fn optimize(&self, of: Variant, names: &[String]) -> Step {
        let (model, out) = (self.model(), self.optimized(of));
        let Variant { batch, length, .. } = of;
        let shapes: Vec<String> =
            names.iter().map(|name| format!("{name}:{batch},{length}")).collect();
        let words: [&dyn Word; 6] =
            [&"optimize", &model, &"-o", &out, &"--input-shape", &shapes.join(";")];
        let mut step = self.own(Stage::Optimize, Some(of.to_string()), &words);
        step.reads.push(model);
        step.writes.push(out);
        step
    }

    fn verify(&self, of: Variant) -> Step {
        let (after, before) = (self.optimized(of), self.model());
        let words: [&dyn Word; 5] = [&"verify", &after, &"--against", &before, &"--json"];
        let mut step = self.own(Stage::Verify, Some(of.to_string()), &words);
        step.reads.extend([after, before]);
        step.result = Some(self.in_work(format!("verify_{of}.json")));
        step
    }

    fn prepare(&self, batch: usize) -> Result<Step> {
        let (data, tokenizer) = (self.config.data.clone(), self.tokenizer());
        let (model, out) = (self.optimized(self.longest(batch)), self.data(batch));
        let mut words: Vec<&dyn Word> = vec![
            &"prepare",
            &self.config.task,
            &"--data",
            &data,
            &"--tokenizer",
            &tokenizer,
            &"--model",
            &model,
            &"--batch",
            &batch,
            &"--output",
            &out,
        ];
        let buckets: Vec<String> = self.config.buckets.iter().map(usize::to_string).collect();
        let buckets = buckets.join(",");
        if !buckets.is_empty() {
            words.extend([&"--buckets" as &dyn Word, &buckets]);
        }
        let limit = self.mode.few().map(|(_, samples)| samples);
        if let Some(limit) = &limit {
            words.extend([&"--limit" as &dyn Word, limit]);
        }
        let mut step = self.own(Stage::Prepare, Some(format!("bs{batch}")), &words);
        let found = dataset::find(self.config.task, &data).context("data")?;
        step.reads.extend(found.into_iter().map(|(_, path)| path));
        step.reads.extend(tokenizer::file(&tokenizer).ok());
        step.reads.push(model);
        step.writes.push(out.join(onnxfix_task::prepare::MANIFEST));
        Ok(step)
    }

    fn atc(&self, of: Variant) -> Step {
        let (model, om) = (self.optimized(of), self.om(of));
        let words: [&dyn Word; 8] =
            [&"atc", &model, &"--batch", &of.batch, &"--soc", &self.config.soc, &"--output", &om];
        let mut step = self.own(Stage::Atc, Some(of.to_string()), &words);
        step.reads.push(model);
        step.writes.push(om);
        step
    }

    /// A run on all parts of the data set, each length on its model.
    fn run(&self, batch: usize) -> Step {
        let (data, out) = (self.data(batch), self.in_work(format!("results_bs{batch}")));
        let models: Vec<PathBuf> =
            self.variants(batch).into_iter().map(|of| self.runs(of)).collect();
        let mut words: Vec<&dyn Word> = vec![&"run"];
        words.extend(models.iter().map(|model| model as &dyn Word));
        words.extend([&"--input" as &dyn Word, &data, &"--output", &out]);
        words.extend([&"--output-dirname" as &dyn Word, &"run", &"--json"]);
        let name = format!("bs{batch}");
        let mut step = self.own(Stage::Run, Some(name), &words);
        step.reads = models;
        step.reads.push(data.join(onnxfix_task::prepare::MANIFEST));
        step.writes.push(self.results(batch));
        step.result = Some(self.ran(batch));
        step
    }

    fn evaluate(&self, batch: usize) -> Step {
        let (data, out) = (self.data(batch), self.eval(batch));
        let results = self.results(batch);
        let models: Vec<PathBuf> =
            self.variants(batch).into_iter().map(|of| self.runs(of)).collect();
        let labels = self.config.labels.join(",");
        let mut words: Vec<&dyn Word> = vec![&"eval"];
        if self.has(Stage::Run) {
            words.extend([&"--outputs" as &dyn Word, &results]);
        } else {
            words.extend(models.iter().map(|model| model as &dyn Word));
        }
        words.extend([&"--data" as &dyn Word, &data, &"--output", &out]);
        if !labels.is_empty() {
            words.extend([&"--labels" as &dyn Word, &labels]);
        }
        let mut step = self.own(Stage::Eval, Some(format!("bs{batch}")), &words);
        step.reads.push(data.join(onnxfix_task::prepare::MANIFEST));
        step.reads.extend(if self.has(Stage::Run) { vec![results] } else { models });
        step.writes.push(out.join("result.json"));
        step
    }

    fn ask(&self) -> Step {
        let (model, tokenizer) = (self.model(), self.tokenizer());
        let mut words: Vec<&dyn Word> = vec![&"predict", &model];
        match &self.config.text[..] {
            [] => {}
            [text] => words.push(text),
            [text, pair, ..] => words.extend([text as &dyn Word, &"--pair", pair]),
        }
        words.extend([&"--tokenizer" as &dyn Word, &tokenizer, &"--json"]);
        let mut step = self.own(Stage::Predict, None, &words);
        step.reads.extend(tokenizer::file(&tokenizer).ok());
        step.reads.push(model);
        step.result = Some(self.predict());
        step
    }

    fn measure(&self, batch: usize) -> Step {
        let model = self.runs(self.longest(batch));
        // The guides time 20 runs on an NPU; on a CPU that would take long.
        let runs = if self.has(Stage::Atc) { "20" } else { "5" };
        let words: [&dyn Word; 5] = [&"bench", &model, &"--loop", &runs, &"--json"];
        let mut step = self.own(Stage::Bench, Some(format!("bs{batch}")), &words);
        step.reads.push(model);
        step.result = Some(self.bench(batch));
        step
    }

    fn input_names(&self) -> Result<Vec<String>> {
        let model = self.model();
        let input = read(&model, &LoadOptions { drop_unknown: true, external_data: false })?;
        let names: Vec<String> =
            token_inputs(&input.model).into_iter().map(|input| input.name).collect();
        if names.is_empty() {
            bail!("{} has no inputs", model.display());
        }
        Ok(names)
    }
}

/// A word of a command line.
trait Word {
    fn text(&self) -> String;
}

impl Word for &str {
    fn text(&self) -> String {
        (*self).to_owned()
    }
}

impl Word for String {
    fn text(&self) -> String {
        self.clone()
    }
}

impl Word for PathBuf {
    fn text(&self) -> String {
        self.display().to_string()
    }
}

impl Word for usize {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Word for dataset::Task {
    fn text(&self) -> String {
        self.to_string()
    }
}
