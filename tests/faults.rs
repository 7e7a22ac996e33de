//! What goes wrong around the program: it is killed, the disk is full, files change under it, two runs meet. A model is
//! whole or absent at any time, and an exit code of 0 means the right bytes.
#![cfg(unix)]

mod common;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::Folder;
use onnxfix_ir::{
    DataType, Dim, ExternalData, Model, NewNode, Opset, Shape, StoreOptions, Tensor, TensorData,
    TensorType, Type, store,
};

/// A chain of Adds of constants with that many elements each. No two constants are alike.
fn chain(nodes: usize, elements: usize) -> Model {
    let mut model = Model::new();
    model.header.ir_version = Some(8);
    model.opsets = vec![Opset { domain: Some("".into()), version: Some(13) }];
    let root = model.root();
    *model.graph_mut(root).name() = Some("g".into());
    let shape = Shape([Dim::Fixed(elements as i64)].into_iter().collect());
    let ty = || Some(Type::Tensor(TensorType::new(DataType::Float, shape.clone())));
    let mut last = model.add_input(root, "x".into(), ty());
    for i in 0..nodes {
        let raw = (0..elements).flat_map(|e| ((e % 251 + i * 7) as f32).to_le_bytes());
        let data = TensorData::Raw(raw.collect::<Vec<u8>>().into());
        let dims = vec![elements as i64];
        let tensor = Tensor { dtype: DataType::Float, dims, data, extra: None };
        let w = model.add_initializer(root, format!("w{i}").into(), Arc::new(tensor));
        let add = NewNode::new("Add", &[last, w], format!("v{i}").into());
        let node = model.add_node(root, None, add);
        last = model[node].outputs()[0].expect("an output");
    }
    model.set_type(last, ty());
    model.add_output(root, last);
    model
}

/// 32 MB of weights as `model.onnx`, and the bytes that it is optimized to.
fn large() -> (Folder, Vec<u8>) {
    let folder = Folder::new();
    folder.store("model.onnx", &chain(8, 1 << 20));
    folder.run("optimize model.onnx -o out.onnx -q").exits(0);
    let expected = folder.read("out.onnx");
    (folder, expected)
}

fn names(folder: &Folder) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder.path("."))
        .expect("a folder")
        .map(|f| f.expect("a file").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

fn is_temporary(name: &str) -> bool {
    name.starts_with(".out.onnx.tmp-")
}

#[test]
fn killed_at_any_moment() {
    let (folder, expected) = large();
    let start = Instant::now();
    folder.run("optimize model.onnx -o out.onnx -q").exits(0);
    let whole = start.elapsed();
    let (mut old, mut new) = (0, 0);
    for i in 0..16 {
        folder.write("out.onnx", "old");
        let mut child = folder
            .command(&["optimize", "model.onnx", "-o", "out.onnx", "-q"])
            .stdout(Stdio::null())
            .spawn()
            .expect("the program starts");
        thread::sleep(whole * i / 14);
        child.kill().expect("our child");
        child.wait().expect("our child");
        match folder.read("out.onnx") {
            bytes if bytes == b"old" => old += 1,
            bytes => {
                assert!(bytes == expected, "{} bytes that are neither", bytes.len());
                new += 1;
            }
        }
    }
    assert!(old > 0, "no run was killed before its end; {new} were after it");
    // What may remain is a temporary file, and it is in nobody's way.
    let rest: Vec<String> = names(&folder).into_iter().filter(|n| !is_temporary(n)).collect();
    assert_eq!(rest, ["model.onnx", "out.onnx"]);
    folder.run("optimize model.onnx -o out.onnx -q").exits(0);
    assert!(folder.read("out.onnx") == expected);
}

/// A file may not get larger than 1 MiB: the disk is full.
#[test]
fn a_full_disk_leaves_the_old_file_and_no_other() {
    let (folder, _) = large();
    folder.write("out.onnx", "old");
    let script = "trap '' XFSZ; ulimit -f 2048; exec \"$0\" optimize model.onnx -o out.onnx";
    let (code, err) = folder.shell(script);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("write out.onnx") && err.contains("too large"), "{err}");
    assert_eq!(folder.read("out.onnx"), b"old");
    assert_eq!(names(&folder), ["model.onnx", "out.onnx"]);
}

#[cfg(target_os = "linux")]
#[test]
fn results_that_cannot_be_written() {
    let folder = Folder::new();
    folder.store("model.onnx", &chain(2, 4));
    let script = "trap '' XFSZ; ulimit -f 2; exec \"$0\" optimize model.onnx --report report.html";
    let (code, err) = folder.shell(script);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("write report.html") && err.contains("too large"), "{err}");
    assert_eq!(names(&folder), ["model.onnx", "model.opt.onnx"]);
    let full = File::options().write(true).open("/dev/full").expect("a device");
    let printed = folder.command(&["print", "model.onnx"]).stdout(full).output().expect("starts");
    assert_eq!(printed.status.code(), Some(2), "{printed:?}");
    folder.run("optimize model.onnx -o /dev/full").exits(2).says(&["/dev/full", "No space left"]);
}

#[test]
fn a_read_only_output_stays() {
    let folder = Folder::new();
    folder.store("model.onnx", &chain(2, 4));
    folder.write("out.onnx", "kept");
    let read_only = fs::Permissions::from_mode(0o444);
    fs::set_permissions(folder.path("out.onnx"), read_only).expect("a file of ours");
    folder.run("optimize model.onnx -o out.onnx").exits(2).says(&["out.onnx", "is read-only"]);
    assert_eq!(folder.read("out.onnx"), b"kept");
}

/// As `cp` does: who could not read the old model shall not read the new one.
#[test]
fn permissions_of_the_output_stay() {
    let folder = Folder::new();
    folder.store("model.onnx", &chain(2, 4));
    folder.write("out.onnx", "old");
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(folder.path("out.onnx"), private).expect("a file of ours");
    folder.run("optimize model.onnx -o out.onnx").exits(0);
    let mode = fs::metadata(folder.path("out.onnx")).expect("was written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// As `cp` does: the file that the link names is replaced, and the link stays.
#[test]
fn an_output_that_is_a_link() {
    let folder = Folder::new();
    folder.store("model.onnx", &chain(2, 4));
    fs::create_dir(folder.path("real")).expect("a folder");
    folder.write("real/out.onnx", "old");
    symlink("real/out.onnx", folder.path("out.onnx")).expect("a link");
    folder.run("optimize model.onnx -o out.onnx").exits(0);
    assert!(fs::symlink_metadata(folder.path("out.onnx")).expect("a link").is_symlink());
    folder.load("real/out.onnx");
}

/// Whichever way the input is spelt as output, it is read to its end before it is replaced.
#[test]
fn an_output_that_is_the_input() {
    for (out, other) in [
        ("model.onnx", None),
        ("./folder/../model.onnx", None),
        ("soft.onnx", Some("model.onnx")),
        ("hard.onnx", Some("hard.onnx")),
    ] {
        let folder = Folder::new();
        folder.store("model.onnx", &chain(3, 1 << 16));
        let before = folder.read("model.onnx");
        fs::create_dir(folder.path("folder")).expect("a folder");
        symlink("model.onnx", folder.path("soft.onnx")).expect("a link");
        fs::hard_link(folder.path("model.onnx"), folder.path("hard.onnx")).expect("a link");
        folder.run_args(&["optimize", "model.onnx", "-o", out]).exits(0);
        let written = other.unwrap_or("model.onnx");
        assert_eq!(folder.load(written).all_nodes().count(), 3, "{out}");
        // A hard link is a name of its own: the other name keeps the old model.
        let kept = if written == "hard.onnx" { "model.onnx" } else { "hard.onnx" };
        assert!(folder.read(kept) == before, "{out}");
        let temporary = names(&folder).into_iter().find(|n| n.starts_with('.'));
        assert_eq!(temporary, None, "{out}");
    }
}

#[test]
fn an_output_that_is_the_input_and_has_data_beside_it() {
    let folder = Folder::new();
    let options = StoreOptions { external_data: ExternalData::Always };
    let model = chain(3, 1 << 12);
    store(&model, &folder.path("model.onnx"), &options).expect("a model");
    let data: Vec<String> = names(&folder).into_iter().filter(|n| n != "model.onnx").collect();
    let before = folder.read(&data[0]);
    folder.run("optimize model.onnx -o model.onnx").exits(0);
    assert!(folder.read(&data[0]) == before, "what the model no longer needs is not touched");
    fs::remove_file(folder.path(&data[0])).expect("was there");
    let weight = |model: &Model| {
        let all: Vec<_> = model.all_values().filter_map(|(_, v)| v.tensor().cloned()).collect();
        all.iter().map(|t| t.raw().expect("floats").to_vec()).collect::<Vec<_>>()
    };
    assert!(weight(&folder.load("model.onnx")) == weight(&model));
}

#[test]
fn runs_that_write_one_file() {
    let (folder, ascend) = large();
    folder.run("optimize model.onnx -o out.onnx --target portable -q").exits(0);
    let portable = folder.read("out.onnx");
    assert!(portable != ascend, "the record names the target");
    let args = |i: usize| {
        ["optimize", "model.onnx", "-o", "out.onnx", "-q", "--target", common::TARGETS[i % 2]]
    };
    let start = |i| folder.command(&args(i)).stdout(Stdio::null()).spawn().expect("starts");
    let runs: Vec<Child> = (0..4).map(start).collect();
    for mut run in runs {
        assert!(run.wait().expect("our child").success());
        let now = folder.read("out.onnx");
        assert!(now == ascend || now == portable);
    }
    assert_eq!(names(&folder), ["model.onnx", "out.onnx"]);
}

/// A run that has read its model and waits, as nobody reads the text that it prints before it writes.
struct Waiting {
    folder: Folder,
    child: Child,
}

impl Waiting {
    fn start() -> Waiting {
        let folder = Folder::new();
        folder.store("model.onnx", &chain(3000, 64));
        folder.write("out.onnx", "old");
        let args = ["optimize", "model.onnx", "-o", "out.onnx", "--print-after", "infer-shapes"];
        let mut child = folder
            .command(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut first = [0];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("a text");
        Waiting { folder, child }
    }

    /// Lets it go on; it must end with code 2 and say this, and the output must be the old one.
    #[track_caller]
    fn ends_refused(mut self, says: &str) {
        let mut text = String::new();
        self.child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("UTF-8");
        assert!(text.len() > 1 << 16, "more than a pipe holds, or it did not wait");
        let done = self.child.wait_with_output().expect("our child");
        let err = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{}: {err}", done.status);
        assert!(err.contains(says), "{err}");
        assert_eq!(self.folder.read("out.onnx"), b"old");
    }
}

#[test]
fn an_input_that_is_truncated_meanwhile() {
    let run = Waiting::start();
    let file = File::options().write(true).open(run.folder.path("model.onnx")).expect("a file");
    file.set_len(10_000).expect("a file of ours");
    run.ends_refused("model.onnx");
}

#[test]
fn an_input_that_is_written_to_meanwhile() {
    let run = Waiting::start();
    let mut file = File::options().write(true).open(run.folder.path("model.onnx")).expect("a file");
    let bytes = run.folder.read("model.onnx");
    // A clock may be as coarse as 10 ms.
    thread::sleep(Duration::from_millis(20));
    file.write_all(&bytes).expect("a file of ours");
    run.ends_refused("model.onnx changed while it was being read");
}

/// The file that was mapped has another name by now, so that only touching its bytes tells.
#[cfg(target_os = "linux")]
#[test]
fn a_mapped_part_that_is_gone() {
    let run = Waiting::start();
    let (model, moved) = (run.folder.path("model.onnx"), run.folder.path("moved.onnx"));
    let modified = fs::metadata(&model).and_then(|m| m.modified()).expect("a time");
    fs::rename(&model, &moved).expect("a file of ours");
    fs::copy(&moved, &model).expect("a file of ours");
    let copy = File::options().write(true).open(&model).expect("a file");
    copy.set_modified(modified).expect("a file of ours");
    File::options().write(true).open(&moved).and_then(|f| f.set_len(100)).expect("a file of ours");
    run.ends_refused("it was truncated while it was being read");
}
