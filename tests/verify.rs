//! `onnxfix verify` beyond equal or not: float16, values along the way, samples and results from files, bisection, pages.

mod common;

use std::sync::Arc;

use common::{Folder, fixture};
use onnxfix_ir::Tensor;
use onnxfix_samples::{Format, write};

const RELU: &str = r#"<ir_version: 8, opset_import: ["" : 13]> g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }"#;

fn save(folder: &Folder, name: &str, dims: &[i64], numbers: &[f32]) {
    let path = folder.path(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    write(&path, &Tensor::new(dims, numbers.to_vec()), Format::Npy).expect("a file");
}

#[test]
fn float16_flags_a_mask_of_the_smallest_number_and_not_ours() {
    let folder = Folder::with(&fixture("deberta_v3_tiny.onnx"));
    let raw = folder.run("verify model.onnx --against model.onnx --fp16 --json").exits(1).json();
    assert_eq!((&raw["half"]["clean"], &raw["outputs"][0]["equal"]), (&false.into(), &true.into()));
    let largest = raw["half"]["overflows"][0]["largest"].as_f64().expect("a number");
    assert!(largest > 3e38, "{largest}");
    let not_numbers = raw["half"]["not_numbers"].as_array().expect("a list");
    assert!(!not_numbers.is_empty(), "infinity times 0 is no number");

    folder.run("optimize model.onnx --dim batch=1").exits(0);
    let ours = folder.run("verify --fp16 --json").exits(0).json();
    assert_eq!(ours["half"]["clean"], true, "{ours:#}");
    let relative = ours["half"]["outputs"][0]["relative"].as_f64().expect("a number");
    assert!(relative > 1e-6, "it is rounded: {relative}");
    let text = folder.run("verify --fp16").exits(0).out;
    assert!(text.contains("a simulation of rounding, not of a device"), "{text}");
}

#[test]
fn nodes_that_stay_in_float32_do_not_overflow() {
    let folder = Folder::new();
    folder.write(
        "m.onnxtxt",
        r#"<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y)
        <float large = {1000000}, float small = {0.0000001}>
        { [up] t = Mul (x, large)  [down] y = Mul (t, small) }"#,
    );
    let line = "verify m.onnxtxt --against m.onnxtxt --fp16 --json";
    let report = folder.run(line).exits(1).json();
    let overflows = report["half"]["overflows"].as_array().expect("a list").len();
    assert_eq!(overflows, 1, "the constant; what it makes is infinite already: {report:#}");
    folder.write("keep.txt", "up\ndown\n");
    let report = folder.run(&format!("{line} --keep-dtype keep.txt")).exits(0).json();
    assert_eq!(report["half"]["kept"], 2);
}

#[test]
fn values_along_the_way_are_compared_where_it_is_cheap() {
    let folder = Folder::with(&fixture("convbert_tiny.onnx"));
    folder.run("optimize model.onnx --dim batch=2 --dim seq=32").exits(0);
    let report = folder.run("verify --json").exits(0).json();
    let values = report["layers"]["values"].as_array().expect("a list");
    assert!(values.len() > 10 && report["layers"]["first_beyond"].is_null(), "{report:#}");
    assert!(folder.run("verify --layers=none --json").exits(0).json()["layers"].is_null());
}

#[test]
fn samples_and_results_come_from_files() {
    let folder = Folder::new();
    folder.write("m.onnxtxt", RELU);
    // Three samples, two of which fit a run: the last run is filled up.
    for (name, x) in [("a", [1.0, -1.0, 2.0]), ("b", [0.5, 0.0, -3.0]), ("c", [-1.0, 4.0, -2.0])] {
        save(&folder, &format!("in/{name}.npy"), &[1, 3], &x);
        save(&folder, &format!("out/{name}_0.npy"), &[1, 3], &x.map(|x: f32| x.max(0.0)));
    }
    let line = "verify m.onnxtxt --input in --expect out";
    let said = folder.run(line).exits(0).out;
    assert!(said.contains("2 with 4 sequences") && said.contains("from files"), "{said}");
    folder.run("verify m.onnxtxt --against m.onnxtxt --input in").exits(0);

    save(&folder, "out/c_0.npy", &[1, 3], &[0.0, 4.5, 0.0]);
    let report = folder.run(&format!("{line} --json")).exits(1).json();
    assert_eq!(report["points"][0]["worst"][0]["what"], "c", "{report:#}");

    std::fs::remove_file(folder.path("out/c_0.npy")).expect("is there");
    folder.run(line).exits(2).says(&["--expect", "c_0.npy"]);
    folder.run("verify m.onnxtxt --input nothing --expect out").exits(2).says(&["nothing"]);
}

#[test]
fn bisection_says_when_no_pass_is_to_blame() {
    let folder = Folder::with(&fixture("deberta_v3_tiny.onnx"));
    folder.run("optimize model.onnx --dim batch=1").exits(0);
    folder.run("verify --bisect").exits(0).says(&["no output does"]);
    let mut model = folder.load("model.opt.onnx");
    let classifier = model.nodes(model.root()).filter(|&n| model[n].op().is("Gemm")).last();
    let id = model[classifier.expect("a classifier")].input(1).expect("a weight");
    let weight = model[id].tensor().expect("a constant").clone();
    let halved: Vec<f32> =
        weight.elements::<f32>().expect("floats").iter().map(|x| 0.5 * x).collect();
    model.set_tensor(id, Arc::new(Tensor::new(&weight.dims, halved)));
    folder.store("model.opt.onnx", &model);
    let said = folder.run("verify --bisect").exits(1).out;
    assert!(said.contains("make no difference of"), "{said}");
    assert!(!folder.path("model.opt.bisect").exists());
}

#[test]
fn the_page_of_a_comparison_has_its_charts() {
    let folder = Folder::with(&fixture("deberta_v3_tiny.onnx"));
    folder.run("optimize model.onnx --dim batch=1").exits(0);
    folder.run("verify --fp16 --report page.html").exits(0);
    let page = String::from_utf8(folder.read("page.html")).expect("UTF-8");
    for part in ["Error by depth", "In float16", "before and after", "furthest off", "<circle"] {
        assert!(page.contains(part), "no {part:?}");
    }
    assert!(!page.contains("<script"), "nothing on this page needs one");
    folder.run("verify --report page.txt").exits(2).says(&["must end in .json or .html"]);
}
