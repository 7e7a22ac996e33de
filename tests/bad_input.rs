//! What cannot be done: exit code 2, a message that names the file and the place, and every file as it was before.

mod common;

use std::fs;

use common::{Folder, data, fixture};
use onnxfix_ir::{ExternalData, StoreOptions};

/// ConvBERT, open in batch and seq, as `model.onnx`, beside an output that is there already.
fn convbert() -> Folder {
    let folder = Folder::with(&fixture("convbert_tiny.onnx"));
    folder.write("out.onnx", "kept");
    folder
}

/// Runs the program; it must say these parts on stderr, nothing on stdout, and touch no file.
#[track_caller]
fn refused(folder: &Folder, args: &[&str], says: &[&str]) {
    let before = folder.files();
    let ran = folder.run_args(args).exits(2).says(says);
    assert_eq!(ran.out, "", "no result");
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    let after = folder.files();
    assert!(after == before, "{args:?} left {:?}", after.keys());
}

#[track_caller]
fn optimize_refused(folder: &Folder, args: &[&str], says: &[&str]) {
    refused(folder, &[&["optimize", "model.onnx", "-o", "out.onnx"], args].concat(), says);
}

/// Bytes without a pattern, the same each time.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn files_that_are_no_models() {
    let folder = convbert();
    let whole = folder.read("model.onnx");
    let cut = |percent: usize| whole[..whole.len() * percent / 100].to_vec();
    folder.write("empty.onnx", "");
    folder.write("text.onnx", "{\"a\": \"model\"}\n");
    folder.write("cut.onnx", cut(50));
    folder.write("start.onnx", cut(1));
    folder.write("end.onnx", cut(99));
    folder.write(
        "pointer.onnx",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    );
    fs::create_dir(folder.path("folder.onnx")).expect("a folder");
    for (file, why) in [
        ("empty.onnx", "is empty"),
        ("text.onnx", "is not an ONNX model: it is text"),
        ("cut.onnx", "ends at byte"),
        ("start.onnx", "ends at byte"),
        ("end.onnx", "ends at byte"),
        ("pointer.onnx", "it is a pointer of Git LFS"),
        ("folder.onnx", "is a directory"),
        ("missing.onnx", "no such file"),
        ("none/missing.onnx", "no such file"),
    ] {
        refused(&folder, &["optimize", file, "-o", "out.onnx"], &[file, why]);
        refused(&folder, &["verify", file, "--against", "model.onnx"], &[file, why]);
        refused(&folder, &["print", file], &[file, why]);
        refused(&folder, &["diff", "model.onnx", file], &[file, why]);
        refused(&folder, &["atc", file], &[file, why]);
    }
    for seed in 0..20 {
        folder.write("noise.onnx", noise(seed, 4000));
        refused(
            &folder,
            &["optimize", "noise.onnx", "-o", "out.onnx"],
            &["noise.onnx", "is not an ONNX model"],
        );
    }
}

/// Damage anywhere in the part that holds the nodes is found, or makes another model that is well formed. It is never
/// a crash.
#[test]
fn damaged_files_do_not_crash() {
    let folder = convbert();
    let whole = folder.read("model.onnx");
    // The nodes come first, the weights are the most of the file.
    for seed in 0..40 {
        let mut damaged = whole.clone();
        let at = usize::try_from(97 * seed * 13 % 60_000).expect("a small number");
        damaged[at..at + 3].copy_from_slice(&noise(seed, 3));
        folder.write("damaged.onnx", &damaged);
        let ran = folder.run("optimize damaged.onnx --dim seq=8 --dry-run --drop-unknown");
        assert!(
            !ran.err.contains("panicked") && !ran.err.contains("internal error"),
            "byte {at}: {}",
            ran.err
        );
        if ran.err.contains("onnxfix: ") {
            ran.exits(2).says(&["damaged.onnx"]);
        } else {
            ran.exits(0);
        }
    }
}

#[test]
fn text_that_is_no_model() {
    let folder = convbert();
    fs::copy(folder.path("model.onnx"), folder.path("binary.onnxtxt")).expect("was written");
    refused(&folder, &["print", "binary.onnxtxt"], &["binary.onnxtxt", "is not ONNX text"]);
    folder.write("m.onnxtxt", "<ir_version: 8, opset_import: [\"\" : 13]>\ng (float[2] x) => (float[2] y) {\n   y = Relu (z)\n}\n");
    refused(
        &folder,
        &["optimize", "m.onnxtxt"],
        &["m.onnxtxt: line 3, column 14", "3 |    y = Relu (z)", "`z`"],
    );
}

#[test]
fn input_shapes_that_do_not_fit() {
    let folder = convbert();
    for (shape, says) in [
        (
            "words:1,32",
            &["model.onnx", "no input \"words\"", "its inputs are input_ids [batch,seq]"][..],
        ),
        (
            "input_ids:1,2,32",
            &["model.onnx", "\"input_ids\" has 2 dimensions [batch,seq]", "[1, 2, 32]"],
        ),
        ("input_ids:32", &["model.onnx", "\"input_ids\" has 2 dimensions [batch,seq]", "[32]"]),
        ("input_ids:1,0", &["--input-shape", "\"input_ids:1,0\"", "dimension of 0"]),
        ("input_ids:1,-1", &["--input-shape", "\"input_ids:1,-1\"", "dimension of -1"]),
        ("input_ids:1,99999999999999999999", &["--input-shape", "not a number"]),
        ("input_ids", &["--input-shape", "no ':'", "name:1,256"]),
        ("input_ids:a,b", &["--input-shape", "\"a\" is not a number"]),
        ("", &["--input-shape", "nothing in it"]),
        ("input_ids:1,32;input_ids:1,32", &["--input-shape", "\"input_ids\" is given two shapes"]),
        // A Reshape of the sequence does not go with these.
        (
            "input_ids:1,32;attention_mask:1,16;token_type_ids:1,32",
            &["model.onnx", "contradicts itself", "node \"/model/convbert"],
        ),
    ] {
        optimize_refused(&folder, &["--input-shape", shape], says);
    }
    let twice = ["--input-shape", "input_ids:1,32", "--shape", "input_ids:1,16"];
    optimize_refused(&folder, &twice, &["\"input_ids\" is given two shapes"]);
}

#[test]
fn dimensions_that_are_not_given_or_not_there() {
    let folder = convbert();
    // What is printed can be typed.
    optimize_refused(
        &folder,
        &[],
        &["model.onnx", "\"input_ids\" [batch,seq] is not fixed", "add --dim seq=128 "],
    );
    folder.run("optimize model.onnx --dim seq=128 --dry-run").exits(0);
    for (flag, says) in [
        ("--dim=words=3", &["model.onnx", "no dimension \"words\"", "batch, seq"][..]),
        ("--keep-dim=words", &["model.onnx", "no dimension \"words\"", "batch, seq"]),
        ("--dim=seq", &["--dim", "\"seq\"", "no '='"]),
        ("--dim=seq=0", &["--dim", "\"seq=0\"", "dimension of 0"]),
        ("--dim=seq=-3", &["--dim", "dimension of -3"]),
        ("--dim=seq=many", &["--dim", "\"many\" is not a number"]),
    ] {
        optimize_refused(&folder, &[flag], says);
    }
    optimize_refused(&folder, &["--dim=seq=8", "--dim=seq=9"], &["\"seq\"", "8", "9"]);
    optimize_refused(
        &folder,
        &["--dim=seq=8", "--input-shape=input_ids:1,9"],
        &["\"seq\"", "8", "9", "\"input_ids\""],
    );
}

#[test]
fn flags_that_make_no_sense() {
    let folder = convbert();
    for (flag, value, why) in [
        ("--fold-limit", "much", "a percentage such as 10%"),
        ("--fold-limit", "-1%", "a percentage such as 10%"),
        ("--fold-limit", "NaN", "a percentage such as 10%"),
        ("--max-rewrites", "-1", "invalid"),
        ("--target", "ascend", "ascend310p3"),
        ("--passes", "", "there is no pass \"\""),
    ] {
        let flag_value = format!("{flag}={value}");
        optimize_refused(&folder, &["--dim=seq=8", &flag_value], &[why]);
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let folder = convbert();
    fs::create_dir(folder.path("folder")).expect("a folder");
    let optimize = |out| ["optimize", "model.onnx", "--dim=seq=8", "-o", out];
    refused(&folder, &optimize("none/out.onnx"), &["none/out.onnx", "no folder none"]);
    refused(&folder, &optimize("folder"), &["folder", "is a directory"]);
    refused(&folder, &optimize("."), &["is a directory"]);
    refused(&folder, &optimize("model.onnx/out.onnx"), &["no folder model.onnx"]);
    refused(&folder, &optimize("new/"), &["new/", "is a directory"]);
    refused(&folder, &optimize("out.onnxtxt"), &["out.onnxtxt", "end in .onnx"]);
    refused(&folder, &optimize(""), &["--output"]);
}

#[cfg(unix)]
#[test]
fn a_folder_that_is_read_only() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = convbert();
    fs::create_dir(folder.path("locked")).expect("a folder");
    folder.write("locked/out.onnx", "kept");
    fs::set_permissions(folder.path("locked"), fs::Permissions::from_mode(0o555))
        .expect("a folder of ours");
    if fs::write(folder.path("locked/probe"), "").is_ok() {
        #[expect(clippy::print_stderr, reason = "says that something was not tested")]
        {
            eprintln!("skipped: root may write to every folder");
        }
        return;
    }
    let args = ["optimize", "model.onnx", "--dim=seq=8", "-o", "locked/out.onnx"];
    refused(&folder, &args, &["locked/out.onnx", "ermission denied"]);
}

/// Where [`external`] has its weights.
const DATA: &str = "model.onnx.01ec8a5142df8357.data";

/// `model.onnx` with its weights in [`DATA`].
fn external() -> Folder {
    let folder = Folder::new();
    let weights: Vec<String> = (0..512).map(|n| n.to_string()).collect();
    let text = format!(
        r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[2,512] x) => (float[2,512] y) <float[512] w = {{ {} }}> {{ y = Mul (x, w) }}"#,
        weights.join(", ")
    );
    let model = onnxfix_ir::text::parse(&text).expect("a model");
    let options = StoreOptions { external_data: ExternalData::Always };
    let stored = onnxfix_ir::store(&model, &folder.path("model.onnx"), &options).expect("a model");
    assert_eq!(stored.data.map(|(path, _)| path), Some(folder.path(DATA)));
    folder.write("out.onnx", "kept");
    folder
}

/// Lets the model say that its weights are somewhere else. Both names have one length, so nothing else changes.
fn relocate(folder: &Folder, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = folder.read("model.onnx");
    let at = bytes
        .windows(from.len())
        .position(|w| w == from.as_bytes())
        .expect("the model names its data");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    folder.write("model.onnx", bytes);
}

#[test]
fn external_data_is_read() {
    let folder = external();
    folder.run("optimize model.onnx").exits(0);
    // What it reads has to be there, what it wrote needs nothing beside it.
    fs::rename(folder.path(DATA), folder.path("moved")).expect("was written");
    folder.run("print model.opt.onnx").exits(0);
    fs::rename(folder.path("moved"), folder.path(DATA)).expect("was moved");
    folder.run("verify model.opt.onnx").exits(0);
}

#[test]
fn external_data_that_is_missing_or_short() {
    let folder = external();
    folder.write(DATA, [0; 100]);
    optimize_refused(
        &folder,
        &[],
        &[&format!("{DATA} has 100 bytes"), "2048", "initializer \"w\""],
    );
    fs::remove_file(folder.path(DATA)).expect("was written");
    optimize_refused(&folder, &[], &[DATA, "o such file", "initializer \"w\""]);
    refused(&folder, &["print", "model.onnx"], &[DATA, "o such file"]);
}

/// Or a model could show any file of the user, or send it away within the optimized model.
#[test]
fn external_data_outside_of_the_folder() {
    let outside = Folder::new();
    outside.write("secret.bin", [7; 4096]);
    let folder = external();
    for folders in ["../", "/tmp/", "in/../../"] {
        let location = &format!("{folders:x<width$}", width = DATA.len());
        relocate(&folder, DATA, location);
        optimize_refused(
            &folder,
            &[],
            &[location, "outside of the model's folder", "initializer \"w\""],
        );
        relocate(&folder, location, DATA);
    }
    #[cfg(unix)]
    {
        fs::remove_file(folder.path(DATA)).expect("was written");
        std::os::unix::fs::symlink(outside.path("secret.bin"), folder.path(DATA)).expect("a link");
        optimize_refused(&folder, &[], &[DATA, "outside of the model's folder"]);
    }
}

/// Two mistakes of converters: the message says where, and which shapes contradict each other.
#[test]
fn models_that_contradict_themselves() {
    for (file, says) in [
        ("paddle_nhwc_conv.onnx", ["node \"Conv.0\" (Conv)", "[1,1,32,64]", "[64,1,1,9]"]),
        ("paddle_unfold_pad_w.onnx", ["node \"MatMul.5\" (MatMul)", "[576,16,9]", "[64,9,1]"]),
    ] {
        let Some(path) = data(&format!("models/broken/{file}")) else { return };
        let folder = Folder::with(&path);
        folder.write("out.onnx", "kept");
        let shapes = "--input-shape=input_ids:1,32;token_type_ids:1,32";
        optimize_refused(&folder, &[shapes], &["model.onnx", says[0], says[1], says[2]]);
    }
}

/// What would take gigabytes stays in the graph, and nothing of that size is asked for: the address space is limited.
#[cfg(unix)]
#[test]
fn constants_that_are_too_large_to_fold() {
    let folder = Folder::new();
    folder.write(
        "m.onnxtxt",
        r#"<ir_version: 8, opset_import: ["" : 13]>
g (float x) => (float[N] y0, float[N] y1, float[N] y2, float[N] y3, float[N] y4, float[N] y5, float[N] y6)
<int64[1] huge = {1099511627776}, int64[2] most = {4611686018427387904, 4}, int64 zero = {0}, int64 one = {1},
 int64 end = {1099511627776}, float unit = {1.0}, float[1] row = {1.0}, int64[2] pads = {0, 1099511627776},
 float[2] off_on = {0.0, 1.0}, int64[1] index = {3},
 int64[2] tall = {1000000, 1}, int64[2] wide = {1, 1000000}>
{
   a = ConstantOfShape (huge)
   y0 = Add (x, a)
   b = Expand (unit, most)
   y1 = Add (x, b)
   c = Tile (row, huge)
   y2 = Add (x, c)
   d = Range (zero, end, one)
   d1 = Cast <to = 1> (d)
   y3 = Add (x, d1)
   e = Pad (row, pads)
   y4 = Add (x, e)
   f = OneHot (index, end, off_on)
   y5 = Add (x, f)
   i = ConstantOfShape (tall)
   j = ConstantOfShape (wide)
   k = MatMul (i, j)
   y6 = Add (x, k)
}
"#,
    );
    let script = "ulimit -v 3000000; exec \"$0\" optimize m.onnxtxt --target portable";
    let (code, err) = folder.shell(script);
    assert_eq!(code, Some(0), "{err}");
    // The Expand and the product are not constant any more: another pass moved the sum before the one and into the other.
    assert_eq!(err.matches("too large to fold").count(), 5, "{err}");
}
