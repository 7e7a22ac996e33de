//! What comes out of the fixtures: one page each, to be read when a pass changes it.

mod common;

use std::fmt::Write as _;

use common::{Folder, TARGETS, fixtures, input_shape, stem};
use onnxfix_ir::{Model, NodeId};
use onnxfix_passes::PROVENANCE;
use serde_json::Value;

/// Operators that compute shapes, positions and masks from shapes: constant once shapes are.
const OF_SHAPES: &[&str] = &[
    "Shape",
    "Size",
    "Range",
    "ConstantOfShape",
    "NonZero",
    "If",
    "Loop",
    "Sign",
    "Log",
    "Ceil",
    "Abs",
    "Tile",
    "Expand",
];

/// The essence of a report: everything but times, sizes and names of files.
fn page(report: &Value) -> String {
    let mut page = String::new();
    let (before, after) = (&report["before"], &report["after"]);
    for count in ["nodes", "constants"] {
        // Writing to a String cannot fail.
        let _ok = writeln!(page, "{count} {} → {}", before[count], after[count]);
    }
    for names in ["inputs", "outputs"] {
        for name in after[names].as_array().expect("a list") {
            let _ok = writeln!(page, "{names} {}", name.as_str().expect("text"));
        }
    }
    let rows = |title: &str, rows: &mut dyn Iterator<Item = (String, u64)>| {
        rows.fold(format!("{title}\n"), |text, (name, count)| {
            text + &format!("   {count:>4} {name}\n")
        })
    };
    let ops = after["ops"].as_object().expect("a table");
    page += &rows(
        "operators",
        &mut ops.iter().map(|(op, n)| (op.clone(), n.as_u64().expect("a number"))),
    );
    let passes = report["passes"].as_array().expect("a list").iter();
    let counts = passes.map(|p| {
        (p["pass"].as_str().expect("text").to_owned(), p["rewrites"].as_u64().expect("a number"))
    });
    page + &rows("rewrites", &mut counts.filter(|(_, n)| *n > 0))
}

/// Optimizes every fixture for a target and a shape: its name, the report, and the model that was written.
fn optimized(target: &str, shape: [u32; 2]) -> impl Iterator<Item = (String, Value, Model)> {
    fixtures().into_iter().map(move |path| {
        let folder = Folder::with(&path);
        let shape = input_shape(&path, shape);
        let args = [
            "optimize",
            "model.onnx",
            "-o",
            "o.onnx",
            "--json",
            "--target",
            target,
            "--input-shape",
            &shape,
        ];
        let report = folder.run_args(&args).exits(0).json();
        (stem(&path), report, folder.load("o.onnx"))
    })
}

/// Fails unless the file declares a shape of numbers for each value of the model.
#[track_caller]
fn assert_static(name: &str, model: &Model) {
    for (_, value) in model.all_values().filter(|(_, v)| v.tensor().is_none()) {
        assert!(value.dims().is_some(), "{name}: {} is {:?}", value.name(), value.ty);
    }
}

#[track_caller]
fn assert_no_shape_arithmetic(name: &str, model: &Model) {
    let left: Vec<String> = model
        .all_nodes()
        .filter(|(_, n)| OF_SHAPES.iter().any(|op| n.op().is(op)))
        .map(|(id, _)| model.describe(id))
        .collect();
    assert!(left.is_empty(), "{name}: {left:?}");
}

#[test]
fn pages() {
    for target in TARGETS {
        for (name, report, model) in optimized(target, [1, 32]) {
            insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
                insta::assert_snapshot!(format!("{name}.{target}"), page(&report));
            });
            assert_static(&name, &model);
            assert_no_shape_arithmetic(&name, &model);
            assert_eq!(report["stop"], "converged", "{name}");
        }
    }
}

#[test]
fn batches_leave_no_shape_arithmetic_either() {
    for target in TARGETS {
        for (name, report, model) in optimized(target, [3, 32]) {
            let name = format!("{name} for {target}");
            assert_static(&name, &model);
            assert_no_shape_arithmetic(&name, &model);
            assert_eq!(report["stop"], "converged", "{name}");
            let dtype = if target == "portable" { "int64" } else { "int32" };
            for input in report["after"]["inputs"].as_array().expect("a list") {
                assert!(
                    input.as_str().is_some_and(|i| i.ends_with(&format!(" {dtype}[3,32]"))),
                    "{name}: {input}"
                );
            }
        }
    }
}

/// What one model's exports of different exporters and opsets become is the same, and of the opset that ATC takes.
#[test]
fn exporters_do_not_matter() {
    let groups: [&[&str]; 2] = [
        &["deberta_v3_tiny", "deberta_v3_tiny_dynamic", "deberta_v3_tiny_dynamo"],
        &["convbert_tiny", "convbert_tiny_dynamo", "convbert_tiny_opset11"],
    ];
    let found: Vec<(String, Value, Model)> = optimized("ascend310p3", [2, 32]).collect();
    for (name, _, model) in &found {
        assert_eq!(model.opset(model.root(), ""), Some(13), "{name}");
    }
    for group in groups {
        let ops = |name: &str| {
            let of = found.iter().find(|(n, ..)| n == name).expect("a fixture");
            of.1["after"]["ops"].clone()
        };
        for name in group {
            assert_eq!(ops(name), ops(group[0]), "{name}");
        }
    }
}

/// Both exporters write a window of 9 as a Gather by a matrix of positions; what is left of it is a matrix in bands.
#[test]
fn windows_are_bands() {
    for target in TARGETS {
        for (name, _, model) in
            optimized(target, [2, 32]).filter(|(name, ..)| name.starts_with("convbert"))
        {
            let nine_slices = |id: NodeId| {
                let makers = model[id].inputs().iter().map(|v| v.and_then(|v| model.producer(v)));
                let slices =
                    makers.filter(|n| n.is_some_and(|n| model[n].op().is("Slice"))).count();
                model[id].op().is("Concat") && slices == 9
            };
            let is_band = |id: NodeId| {
                let by = |(key, pass): &(String, String)| {
                    key == PROVENANCE && pass == "decompose-span-convolution"
                };
                model[id].op().is("Pad") && model[id].metadata.iter().any(by)
            };
            let by_matrix = |id: NodeId| {
                let index = model[id].input(1).and_then(|v| model.constant(v));
                model[id].op().is("Gather") && index.is_some_and(|i| i.dims.len() == 2)
            };
            let count =
                |of: &dyn Fn(NodeId) -> bool| model.all_nodes().filter(|&(id, _)| of(id)).count();
            assert_eq!(count(&nine_slices), 0, "{name} for {target}");
            assert_eq!(count(&by_matrix), 0, "{name} for {target}");
            // The last layer's is narrowed to one row.
            assert_eq!(count(&is_band), 1, "{name} for {target}");
        }
    }
}
