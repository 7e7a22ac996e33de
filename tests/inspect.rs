//! `onnxfix inspect`, as users type it.

mod common;

use common::{Folder, data, fixture, fixtures, input_shape};

fn codes(folder: &Folder, command: &str, exit: i32) -> Vec<String> {
    let json = folder.run(&format!("{command} --json")).exits(exit).json();
    let findings = json["findings"].as_array().expect("a list");
    findings.iter().map(|f| f["code"].as_str().expect("a code").to_owned()).collect()
}

#[test]
fn what_optimize_writes_has_no_faults() {
    for path in fixtures() {
        let folder = Folder::with(&path);
        let shape = input_shape(&path, [1, 32]);
        folder
            .run_args(&["optimize", "model.onnx", "--cann", "5.1", "--input-shape", &shape])
            .exits(0);
        let command = "inspect model.opt.onnx --soc Ascend310P3 --cann 5.1";
        let said = folder.run(command);
        assert_eq!(said.code(), 0, "{}: {}{}", path.display(), said.out, said.err);
    }
}

#[test]
fn a_raw_deberta_has_the_faults_it_is_known_for() {
    let folder = Folder::with(&fixture("deberta_v3_tiny.onnx"));
    let found = codes(&folder, "inspect model.onnx --soc 310P3 --cann 5.1", 1);
    for code in ["gather-elements", "int64", "foldable", "mask", "float16-overflow", "open-shape"] {
        assert!(found.iter().any(|f| f == code), "{code}: {found:?}");
    }
}

#[test]
fn microsofts_deberta_has_them_too() {
    let Some(path) = data("models/msdeberta_tiny_ts12.onnx") else { return };
    let folder = Folder::with(&path);
    let found = codes(&folder, "inspect model.onnx --soc Ascend310P3 --cann 5.1", 1);
    for code in ["gather-elements", "foldable", "mask"] {
        assert!(found.iter().any(|f| f == code), "{code}: {found:?}");
    }
}

#[test]
fn running_the_model_tells_what_float16_cannot_hold() {
    let folder = Folder::new();
    let text = r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[1,4] x) => (float[1,4] y) <float[4] big = {60000, 60000, 60000, 60000}> {
            [first] s = Mul (x, big)
            [second] d = Mul (s, big)
            [third] y = Div (d, big)
        }"#;
    folder.write("m.onnxtxt", text);
    let command = "inspect m.onnxtxt --samples 2 --keep-dtype keep.txt";
    folder.run(command).exits(1);
    let kept = String::from_utf8(folder.read("keep.txt")).expect("text");
    assert!(kept.lines().any(|line| line == "second"), "{kept:?}");
    assert!(codes(&folder, command, 1).contains(&"range-overflow".to_owned()));
}

#[test]
fn wrong_words_are_named() {
    let folder = Folder::with(&fixture("convbert_tiny.onnx"));
    for (flags, told) in [
        ("--soc Ascend310P", "no chip is called \"Ascend310P\"; known are Ascend310P1"),
        ("--cann four", "CANN \"four\" is not known; known are 5.1"),
        ("--target-file none.toml", "--target-file none.toml"),
        ("--input-shape other:1,2", "other"),
        ("--keep-dtype keep.txt", "--samples"),
    ] {
        folder.run(&format!("inspect model.onnx {flags}")).exits(2).says(&[told]);
    }
}

#[test]
fn the_graph_can_be_drawn() {
    let folder = Folder::with(&fixture("convbert_tiny.onnx"));
    folder.run("inspect model.onnx --dot graph.dot").exits(1);
    let drawn = String::from_utf8(folder.read("graph.dot")).expect("text");
    assert!(drawn.starts_with("digraph {") && drawn.contains("Softmax"));
}
