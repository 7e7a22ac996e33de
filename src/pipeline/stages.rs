//! The commands of each stage.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use onnxfix_ir::LoadOptions;
use onnxfix_task::dataset;
use onnxfix_task::prepare::Manifest;
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

impl Step {
    fn of(stage: Stage, batch: Option<usize>) -> Step {
        let name = batch.map_or(stage.to_string(), |batch| format!("{stage}_bs{batch}"));
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
        let beside = || self.model().parent().map_or_else(PathBuf::new, Path::to_path_buf);
        let given = self.config.tokenizer.clone();
        given.unwrap_or_else(|| if self.has(Stage::Export) { self.checkpoint() } else { beside() })
    }

    fn optimized(&self, batch: usize) -> PathBuf {
        self.in_work(format!("model_bs{batch}.opt.onnx"))
    }

    fn om(&self, batch: usize) -> PathBuf {
        self.in_work(format!("model_bs{batch}.om"))
    }

    fn data(&self, batch: usize) -> PathBuf {
        self.in_work(format!("data_bs{batch}"))
    }

    fn results(&self, batch: usize) -> PathBuf {
        self.in_work(format!("results_bs{batch}"))
    }

    /// Where the result of *eval* is.
    pub(super) fn eval(&self, batch: usize) -> PathBuf {
        self.in_work(format!("eval_bs{batch}"))
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
    fn runs(&self, batch: usize) -> PathBuf {
        if self.has(Stage::Atc) { self.om(batch) } else { self.optimized(batch) }
    }

    /// A command of this program.
    fn own(&self, stage: Stage, batch: Option<usize>, words: &[&dyn Word]) -> Step {
        let mut step = Step::of(stage, batch);
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
        match stage {
            Stage::Train => Ok(vec![self.train()]),
            Stage::Export => Ok(vec![self.export()]),
            Stage::Optimize => {
                let names = self.input_names()?;
                Ok(batches.map(|batch| self.optimize(batch, &names)).collect())
            }
            Stage::Verify => Ok(batches.map(|batch| self.verify(batch)).collect()),
            Stage::Prepare => batches.map(|batch| self.prepare(batch)).collect(),
            Stage::Atc => Ok(batches.map(|batch| self.atc(batch)).collect()),
            Stage::Run => {
                let steps: Result<Vec<Vec<Step>>> = batches.map(|batch| self.run(batch)).collect();
                Ok(steps?.into_iter().flatten().collect())
            }
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

    fn optimize(&self, batch: usize, names: &[String]) -> Step {
        let (model, out) = (self.model(), self.optimized(batch));
        let length = self.config.length();
        let shapes: Vec<String> =
            names.iter().map(|name| format!("{name}:{batch},{length}")).collect();
        let words: [&dyn Word; 6] =
            [&"optimize", &model, &"-o", &out, &"--input-shape", &shapes.join(";")];
        let mut step = self.own(Stage::Optimize, Some(batch), &words);
        step.reads.push(model);
        step.writes.push(out);
        step
    }

    fn verify(&self, batch: usize) -> Step {
        let (after, before) = (self.optimized(batch), self.model());
        let words: [&dyn Word; 5] = [&"verify", &after, &"--against", &before, &"--json"];
        let mut step = self.own(Stage::Verify, Some(batch), &words);
        step.reads.extend([after, before]);
        step.result = Some(self.in_work(format!("verify_bs{batch}.json")));
        step
    }

    fn prepare(&self, batch: usize) -> Result<Step> {
        let (data, tokenizer) = (self.config.data.clone(), self.tokenizer());
        let (model, out) = (self.optimized(batch), self.data(batch));
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
        let limit = self.mode.few().map(|(_, samples)| samples);
        if let Some(limit) = &limit {
            words.extend([&"--limit" as &dyn Word, limit]);
        }
        let mut step = self.own(Stage::Prepare, Some(batch), &words);
        let found = dataset::find(self.config.task, &data).context("data")?;
        step.reads.extend(found.into_iter().map(|(_, path)| path));
        step.reads.extend(tokenizer::file(&tokenizer).ok());
        step.reads.push(model);
        step.writes.push(out.join(onnxfix_task::prepare::MANIFEST));
        Ok(step)
    }

    fn atc(&self, batch: usize) -> Step {
        let (model, om) = (self.optimized(batch), self.om(batch));
        let words: [&dyn Word; 8] =
            [&"atc", &model, &"--batch", &batch, &"--soc", &self.config.soc, &"--output", &om];
        let mut step = self.own(Stage::Atc, Some(batch), &words);
        step.reads.push(model);
        step.writes.push(om);
        step
    }

    /// A run for each part of the data set: their results are told apart by folder.
    fn run(&self, batch: usize) -> Result<Vec<Step>> {
        let (model, data) = (self.runs(batch), self.data(batch));
        let manifest = Manifest::open(&data)?;
        let mut steps = Vec::new();
        for split in &manifest.splits {
            for part in &split.parts {
                let folder = data.join(&part.folder);
                let inputs: Vec<String> =
                    manifest.inputs.iter().map(|i| folder.join(&i.name).text()).collect();
                let out = self.results(batch).join(&part.folder);
                let words: [&dyn Word; 9] = [
                    &"run",
                    &model,
                    &"--input",
                    &inputs.join(","),
                    &"--output",
                    &out,
                    &"--output-dirname",
                    &"run",
                    &"--json",
                ];
                let mut step = self.own(Stage::Run, Some(batch), &words);
                let folder = part.folder.replace('/', "_");
                step.name = format!("{}_{folder}", step.name);
                step.reads.extend([model.clone(), data.join(onnxfix_task::prepare::MANIFEST)]);
                step.writes.push(out.join("run"));
                step.result = Some(self.in_work(format!("{}.json", step.name)));
                steps.push(step);
            }
        }
        Ok(steps)
    }

    fn evaluate(&self, batch: usize) -> Step {
        let (data, out) = (self.data(batch), self.eval(batch));
        let (model, results) = (self.runs(batch), self.results(batch));
        let labels = self.config.labels.join(",");
        let mut words: Vec<&dyn Word> = vec![&"eval"];
        if self.has(Stage::Run) {
            words.extend([&"--outputs" as &dyn Word, &results]);
        } else {
            words.push(&model);
        }
        words.extend([&"--data" as &dyn Word, &data, &"--output", &out]);
        if !labels.is_empty() {
            words.extend([&"--labels" as &dyn Word, &labels]);
        }
        let mut step = self.own(Stage::Eval, Some(batch), &words);
        step.reads.push(data.join(onnxfix_task::prepare::MANIFEST));
        step.reads.push(if self.has(Stage::Run) { results } else { model });
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
        let model = self.runs(batch);
        // The guides time 20 runs on an NPU; on a CPU that would take long.
        let runs = if self.has(Stage::Atc) { "20" } else { "5" };
        let words: [&dyn Word; 5] = [&"bench", &model, &"--loop", &runs, &"--json"];
        let mut step = self.own(Stage::Bench, Some(batch), &words);
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
