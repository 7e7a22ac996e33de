//! Runs the program in folders that last for one test.

#![allow(dead_code, reason = "each test file uses some of them")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use onnxfix_ir::{LoadOptions, Model, StoreOptions, ValueId};
use tempfile::TempDir;

/// The targets that there are.
pub(crate) const TARGETS: [&str; 2] = ["ascend310p3", "portable"];

/// The models of `fixtures/models`, in the order of their names.
pub(crate) fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models");
    let entries = fs::read_dir(folder).expect("the fixtures are there");
    let mut models: Vec<PathBuf> = entries.map(|e| e.expect("a readable folder").path()).collect();
    models.retain(|path| path.extension().is_some_and(|e| e == "onnx"));
    models.sort();
    assert!(!models.is_empty(), "there are fixtures");
    models
}

/// A fixture by its file name.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models").join(name)
}

/// Sentences written for the tests, with what they say of a film.
const REVIEWS: &str = "sentence\tlabel
a warm and funny film that never loses its charm\t1
the plot is dull and the jokes are awful\t0
one of the best performances of the year\t1
a tedious , pointless mess\t0
an enjoyable and moving story\t1
";

/// A folder with reviews, and the trained model with its words and labels.
pub(crate) fn reviews() -> Folder {
    let trained = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trained/convbert_sst2");
    let folder = Folder::with(&trained.join("model.onnx"));
    for name in ["vocab.txt", "config.json"] {
        fs::copy(trained.join(name), folder.path(name)).expect("the fixture is there");
    }
    folder.write("dev.tsv", REVIEWS);
    folder
}

/// Name of a model file without its extension.
pub(crate) fn stem(path: &Path) -> String {
    path.file_stem().expect("a file name").to_string_lossy().into_owned()
}

/// A model of the data folder, if that folder is there: next to the checkout, or where `ONNXFIX_DATA` says.
pub(crate) fn data(path: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let folder = std::env::var_os("ONNXFIX_DATA").map_or_else(beside, PathBuf::from);
    let path = folder.join(path);
    if !path.exists() {
        #[expect(clippy::print_stderr, reason = "says that something was not tested")]
        {
            eprintln!(
                "skipped: {} is not there; ONNXFIX_DATA names the data folder",
                path.display()
            );
        }
        return None;
    }
    Some(path)
}

/// A model, read as the program reads it.
#[track_caller]
pub(crate) fn load(path: &Path) -> Model {
    onnxfix_ir::load(path, &LoadOptions::default()).expect("a model").model
}

/// Inputs with their types, and outputs with theirs: `input_ids int64[batch,32]`.
pub(crate) fn interface(model: &Model) -> (Vec<String>, Vec<String>) {
    let root = &model[model.root()];
    let typed = |ids: &[ValueId]| {
        ids.iter()
            .map(|&v| format!("{} {}", model[v].name(), model[v].ty.as_ref().expect("a type")))
            .collect()
    };
    (typed(root.inputs()), typed(root.outputs()))
}

/// `--input-shape` for a fixture, all of whose inputs have one shape: `input_ids:1,32;attention_mask:1,32`.
pub(crate) fn input_shape(model: &Path, shape: [u32; 2]) -> String {
    let model = load(model);
    let one = |&v: &ValueId| format!("{}:{},{}", model[v].name(), shape[0], shape[1]);
    model[model.root()].inputs().iter().map(one).collect::<Vec<_>>().join(";")
}

/// A folder in which the program runs.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// An empty one.
    pub(crate) fn new() -> Folder {
        Folder(TempDir::new().expect("a temporary folder"))
    }

    /// One with a fixture as `model.onnx`.
    pub(crate) fn with(fixture: &Path) -> Folder {
        let folder = Folder::new();
        fs::copy(fixture, folder.path("model.onnx")).expect("the fixture is there");
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a script of the shell, to which the program is `$0`: its exit code, and what it said on stderr.
    pub(crate) fn shell(&self, script: &str) -> (Option<i32>, String) {
        let done = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_onnxfix")])
            .current_dir(self.0.path())
            .output()
            .expect("a shell");
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    }

    #[track_caller]
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).expect("the folder can be written to");
    }

    pub(crate) fn load(&self, name: &str) -> Model {
        load(&self.path(name))
    }

    pub(crate) fn store(&self, name: &str, model: &Model) {
        onnxfix_ir::store(model, &self.path(name), &StoreOptions::default()).expect("a model");
    }

    /// Every file below the folder with its bytes.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.0.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("a readable folder").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name =
                        path.strip_prefix(self.0.path()).expect("is below").to_string_lossy();
                    files.insert(name.into_owned(), fs::read(&path).expect("a file"));
                }
            }
        }
        files
    }

    /// Runs the program on a line of arguments, as a shell without quotes would.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.run_args(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[track_caller]
    pub(crate) fn run_args(&self, args: &[&str]) -> Ran {
        Self::ran(self.command(args), args)
    }

    /// Runs a command of this program.
    #[track_caller]
    pub(crate) fn ran(mut command: Command, args: &[&str]) -> Ran {
        let done = command.output().expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("says UTF-8");
        let code = done.status.code().unwrap_or_else(|| panic!("{args:?}: {}", done.status));
        Ran { args: args.join(" "), code, out: text(done.stdout), err: text(done.stderr) }
    }

    /// The program in this folder, ready to start.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxfix"));
        command
            .args(args)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .env_remove("ONNXFIX_LOG");
        command
    }
}

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Ran {
    args: String,
    code: i32,
    /// What stood on stdout.
    pub(crate) out: String,
    /// What stood on stderr.
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn code(&self) -> i32 {
        self.code
    }

    /// Fails unless the program ended with this code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "onnxfix {}\n{}{}", self.args, self.out, self.err);
        self
    }

    /// Fails unless stderr holds all of these.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Ran {
        for part in parts {
            assert!(self.err.contains(part), "onnxfix {}\nno {part:?} in: {}", self.args, self.err);
        }
        self
    }

    /// stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|e| panic!("onnxfix {}: {e}: {}", self.args, self.out))
    }
}
