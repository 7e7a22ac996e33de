//! Loading and storing without changes gives an equal model.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use onnxfix_ir::proto::ModelProto;
use onnxfix_ir::{LoadOptions, load, to_proto};
use prost::Message as _;

/// The models of the repository, and those of the folder in `ONNXFIX_DATA`.
fn models() -> Vec<PathBuf> {
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models")];
    match std::env::var_os("ONNXFIX_DATA") {
        Some(dir) => dirs.push(Path::new(&dir).join("models")),
        None => eprintln!("skipped the large exports: ONNXFIX_DATA is not set"),
    }
    let files = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).expect("a folder of models"));
    let paths = files.map(|file| file.expect("a file").path());
    paths.filter(|path| path.extension().is_some_and(|e| e == "onnx")).collect()
}

#[test]
fn stored_messages_equal_the_loaded_ones() {
    for path in models() {
        let file = Bytes::from(std::fs::read(&path).expect("the model"));
        let loaded = load(&path, &LoadOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let before = ModelProto::decode(file).expect("a model");
        assert!(to_proto(&loaded.model) == before, "{}", path.display());
    }
}
