//! The command line of a compilation.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::toolkit::Toolkit;
use crate::{AtcError, Flags, Machine};

/// What numbers the compiled model computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Everything in float16, ATC's own choice for inference.
    #[default]
    Fp16,
    /// float16, but some operators as the model has them.
    Fp16Keep,
    /// float16 where ATC's lists think it harmless.
    Mixed,
    /// As the model has it, which is float32. A 310P multiplies matrices of float32 in its vector units, many times slower.
    Fp32,
}

impl Precision {
    /// All of them, as users type them.
    pub const NAMES: [&str; 4] = ["fp16", "fp16+keep", "mixed", "fp32"];

    /// Name as users type it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The flag of a release, `--precision_mode_v2` where it has that one. Both say the same (documentation of ATC's flags);
    /// none where a release has neither, whose choice is float16.
    fn flag(self, flags: &Flags) -> Result<Option<(&'static str, &'static str)>, AtcError> {
        let (newer, older) = match self {
            Precision::Fp16 | Precision::Fp16Keep => ("fp16", "force_fp16"),
            Precision::Mixed => ("mixed_float16", "allow_mix_precision"),
            Precision::Fp32 => ("origin", "must_keep_origin_dtype"),
        };
        if flags.has("precision_mode_v2") {
            Ok(Some(("precision_mode_v2", newer)))
        } else if flags.has("precision_mode") {
            Ok(Some(("precision_mode", older)))
        } else if self == Precision::Fp16 {
            Ok(None)
        } else {
            let needed_for = format!("precision {self}");
            Err(AtcError::NoFlag { flag: "precision_mode".into(), needed_for })
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Precision, String> {
        match text {
            "fp16" => Ok(Precision::Fp16),
            "fp16+keep" => Ok(Precision::Fp16Keep),
            "mixed" => Ok(Precision::Mixed),
            "fp32" => Ok(Precision::Fp32),
            _ => Err(format!("one of {} is wanted", Precision::NAMES.join(", "))),
        }
    }
}

/// An input and its dimensions; -1 where gears choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Name of the input.
    pub name: String,
    /// Its dimensions.
    pub dims: Vec<i64>,
}

/// A compilation.
#[derive(Debug, Clone)]
pub struct Job {
    /// The name of the result without `.om`: `deberta_bs8`.
    pub name: String,
    /// File name of the model in the work folder.
    pub model: String,
    /// The chip, as `--soc_version` spells it: `Ascend310P3`.
    pub soc: String,
    /// All inputs.
    pub inputs: Vec<Shape>,
    /// Sizes of the batch to choose from when the model runs; none for a model of one size.
    pub gears: Vec<u64>,
    /// What it computes with.
    pub precision: Precision,
    /// Nodes that keep their type under [`Precision::Fp16Keep`].
    pub keep: Vec<String>,
    /// Whether the model has a GELU, whose fast kernel has to be asked for.
    pub gelu: bool,
    /// The level of ATC's log.
    pub log: String,
    /// Flags of the user's own, which take the place of those made here.
    pub extra: Vec<String>,
    /// How many processes compile operators side by side; none leaves it to the environment, or to ATC, which takes 8.
    pub compilers: Option<usize>,
}

/// A command to run in a folder of its own: ATC writes `fusion_result.json`, `kernel_meta` and more into the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// ATC.
    pub program: PathBuf,
    /// Its arguments. Files in them are names in the folder.
    pub arguments: Vec<String>,
    /// Variables beyond those of this process.
    pub environment: Vec<(String, String)>,
    /// The script that sets most of those.
    pub set_env: Option<PathBuf>,
    /// Files that have to be in the folder first: name and content.
    pub files: Vec<(String, String)>,
    /// The result's name in the folder, without `.om`.
    pub output: String,
}

/// The list of nodes of [`Job::keep`], in the work folder.
const KEEP: &str = "keep_dtype.cfg";

impl Command {
    /// The command for a compilation, with the flags that this release has.
    ///
    /// # Errors
    /// When a name cannot be said in ATC's syntax, or the release lacks a flag that is needed.
    pub fn new(job: &Job, toolkit: &Toolkit, flags: &Flags) -> Result<Command, AtcError> {
        let mut files = Vec::new();
        let output = file_name(&job.name);
        let mut made: Vec<(&str, String)> = vec![
            ("framework", "5".into()),
            ("model", job.model.clone()),
            ("output", output.clone()),
            ("soc_version", job.soc.clone()),
            ("input_format", "ND".into()),
            ("input_shape", input_shape(&job.inputs)?),
        ];
        if !job.gears.is_empty() {
            let gears: Vec<String> = job.gears.iter().map(ToString::to_string).collect();
            made.push(("dynamic_batch_size", gears.join(",")));
        }
        if let Some((flag, value)) = job.precision.flag(flags)? {
            made.push((flag, value.into()));
        }
        if job.precision == Precision::Fp16Keep {
            let flag = "keep_dtype".to_owned();
            if !flags.has(&flag) {
                return Err(AtcError::NoFlag { flag, needed_for: job.precision.to_string() });
            }
            made.push(("keep_dtype", KEEP.into()));
            files.push((KEEP.into(), job.keep.join("\n") + "\n"));
        }
        // The default kernel of a GELU is the precise one; the fast one is what Huawei's own BERT samples ask for.
        if job.gelu && flags.has("op_select_implmode") && flags.has("optypelist_for_implmode") {
            made.push(("op_select_implmode", "high_performance".into()));
            made.push(("optypelist_for_implmode", "Gelu".into()));
        }
        if flags.has("op_compiler_cache_mode") {
            made.push(("op_compiler_cache_mode", "enable".into()));
        }
        if flags.has("log") {
            made.push(("log", job.log.clone()));
        }

        let own: Vec<&str> = job.extra.iter().filter_map(|flag| name_of(flag)).collect();
        if let Some(unknown) = own.iter().find(|flag| !flags.has(flag)) {
            let needed_for = "the command line".to_owned();
            return Err(AtcError::NoFlag { flag: (*unknown).to_owned(), needed_for });
        }
        let precisions = ["precision_mode", "precision_mode_v2"];
        // The two flags of precision exclude each other.
        let own_precision = own.iter().any(|own| precisions.contains(own));
        let replaced =
            |flag: &str| own.contains(&flag) || (own_precision && precisions.contains(&flag));
        made.retain(|(flag, _)| !replaced(flag));
        let arguments = made.into_iter().map(|(flag, value)| format!("--{flag}={value}"));
        let mut environment = toolkit.environment.clone();
        if let Some(compilers) = job.compilers {
            environment.push(("TE_PARALLEL_COMPILER".into(), compilers.to_string()));
        }
        Ok(Command {
            program: toolkit.atc.clone(),
            arguments: arguments.chain(job.extra.iter().cloned()).collect(),
            environment,
            set_env: toolkit.set_env.clone(),
            files,
            output,
        })
    }

    /// The command as one types it, in a folder that has the files.
    #[must_use]
    pub fn line(&self) -> String {
        let mut words = Vec::new();
        if let Some(script) = &self.set_env {
            words.push(format!("source {} &&", shell_word(&script.display().to_string())));
        } else {
            let own = self.environment.iter().filter(|(key, _)| key != "TE_PARALLEL_COMPILER");
            words.extend(own.map(|(key, value)| format!("{key}={}", shell_word(value))));
        }
        words.push(shell_word(&self.program.display().to_string()));
        words.extend(self.arguments.iter().map(|word| shell_word(word)));
        words.join(" ")
    }
}

/// The flag's name in `--name=value`.
fn name_of(argument: &str) -> Option<&str> {
    argument.strip_prefix("--").map(|flag| flag.split('=').next().unwrap_or(flag))
}

/// The inputs in ATC's syntax. A scalar has nothing behind its colon.
fn input_shape(inputs: &[Shape]) -> Result<String, AtcError> {
    let shape = |input: &Shape| {
        if let Some(character) = input.name.chars().find(|c| [':', ';', ','].contains(c)) {
            return Err(AtcError::Name { name: input.name.clone(), character });
        }
        let dims: Vec<String> = input.dims.iter().map(ToString::to_string).collect();
        Ok(format!("{}:{}", input.name, dims.join(",")))
    };
    Ok(inputs.iter().map(shape).collect::<Result<Vec<_>, _>>()?.join(";"))
}

/// A name that ATC takes for a file: letters, digits, `_`, `-`, `.` and Chinese characters; all else becomes `_`.
#[must_use]
pub fn file_name(name: &str) -> String {
    let allowed = |c: char| {
        c.is_ascii_alphanumeric() || "_-.".contains(c) || ('\u{4e00}'..='\u{9fff}').contains(&c)
    };
    name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// A word as a shell reads it back.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    // Only the value of a flag is quoted, as people write it.
    match word.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") && flag.chars().all(plain) => {
            format!("{flag}={}", quoted(value))
        }
        _ => quoted(word),
    }
}

fn quoted(text: &str) -> String {
    if text.contains(['"', '$', '`', '\\', '!']) {
        format!("'{}'", text.replace('\'', r"'\''"))
    } else {
        format!("\"{text}\"")
    }
}

/// Memory that one ATC takes beside four times the model's weights, in bytes: users report failures of base-size models
/// below 8 GB of memory, and of models of 6 GB in 24 GB (inferred).
const ATC_MEMORY: u64 = 4 << 30;

/// How many compilations to run side by side: as many as memory and cores allow, at most `jobs`. A model counts with
/// `model_bytes`.
#[must_use]
pub fn default_jobs(machine: &Machine, jobs: usize, model_bytes: u64) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let available = machine.read(Path::new("/proc/meminfo")).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    let by_memory = available.map_or(1, |kib| {
        let fitting =
            kib.saturating_mul(1024) / ATC_MEMORY.saturating_add(model_bytes.saturating_mul(4));
        usize::try_from(fitting).unwrap_or(usize::MAX)
    });
    // One ATC keeps several cores busy while it compiles operators, and one while it optimizes the graph.
    by_memory.min(cores.div_ceil(2)).clamp(1, jobs.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolkit() -> Toolkit {
        Toolkit {
            atc: "/opt/cann/bin/atc".into(),
            home: Some("/opt/cann".into()),
            version: None,
            found_by: "PATH",
            environment: vec![("ASCEND_OPP_PATH".into(), "/opt/cann/opp".into())],
            set_env: Some("/opt/cann/set_env.sh".into()),
        }
    }

    fn job() -> Job {
        let input = |name: &str| Shape { name: name.into(), dims: vec![8, 128] };
        Job {
            name: "deberta_bs8".into(),
            model: "deberta_bs8.opt.onnx".into(),
            soc: "Ascend310P3".into(),
            inputs: vec![input("input_ids"), input("attention_mask")],
            gears: Vec::new(),
            precision: Precision::Fp16,
            keep: Vec::new(),
            gelu: true,
            log: "error".into(),
            extra: Vec::new(),
            compilers: Some(4),
        }
    }

    #[test]
    fn a_line_to_paste() {
        let command = Command::new(&job(), &toolkit(), &Flags::usual()).unwrap();
        insta::assert_snapshot!(command.line().replace(" --", "\n --"), @r#"
        source /opt/cann/set_env.sh && /opt/cann/bin/atc
         --framework=5
         --model=deberta_bs8.opt.onnx
         --output=deberta_bs8
         --soc_version=Ascend310P3
         --input_format=ND
         --input_shape="input_ids:8,128;attention_mask:8,128"
         --precision_mode_v2=fp16
         --op_select_implmode=high_performance
         --optypelist_for_implmode=Gelu
         --op_compiler_cache_mode=enable
         --log=error
        "#);
    }

    #[test]
    fn an_old_release_gets_only_flags_that_it_has() {
        let old = Flags::of(&[
            "framework",
            "model",
            "output",
            "soc_version",
            "input_format",
            "input_shape",
            "precision_mode",
        ]);
        let mixed = Job { precision: Precision::Mixed, ..job() };
        let command = Command::new(&mixed, &toolkit(), &old).unwrap();
        assert_eq!(command.arguments.last().unwrap(), "--precision_mode=allow_mix_precision");
        let keep = Job { precision: Precision::Fp16Keep, ..job() };
        let error = Command::new(&keep, &toolkit(), &old).unwrap_err().to_string();
        assert_eq!(error, "this ATC has no --keep_dtype, which fp16+keep needs");
    }

    #[test]
    fn flags_of_the_user_take_the_place_of_ours() {
        let extra = vec!["--log=debug".into(), "--precision_mode=force_fp32".into()];
        let command = Command::new(&Job { extra, ..job() }, &toolkit(), &Flags::usual()).unwrap();
        let all = command.arguments.join(" ");
        assert!(all.ends_with("--log=debug --precision_mode=force_fp32"), "{all}");
        assert!(!all.contains("--log=error") && !all.contains("precision_mode_v2"), "{all}");
        let extra = vec!["--fast".into()];
        let error = Command::new(&Job { extra, ..job() }, &toolkit(), &Flags::usual()).unwrap_err();
        assert_eq!(error.to_string(), "this ATC has no --fast, which the command line needs");
    }

    #[test]
    fn names_that_atc_cannot_read() {
        let inputs = vec![Shape { name: "ids:0".into(), dims: vec![1] }];
        let error =
            Command::new(&Job { inputs, ..job() }, &toolkit(), &Flags::usual()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "input \"ids:0\": ATC's --input_shape takes no name with ':'; rename the input"
        );
        assert_eq!(file_name("my model+v2 模型.x"), "my_model_v2_模型.x");
    }

    #[test]
    fn words_survive_a_shell() {
        for word in ["a b", "it's", "$HOME", "--x=a;b", "", "a\"b", "back\\slash", "`id`", "!x"] {
            let text = format!("printf %s {}", shell_word(word));
            let out = std::process::Command::new("bash").args(["-c", &text]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), word);
        }
    }
}
