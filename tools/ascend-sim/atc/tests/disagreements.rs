//! The simulated ATC against what `inspect` knows: two readings of the same sources.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ascend_sim_atc::{Release, Request, is_registered, operators, problems};
use onnxfix_ascend::facts::Facts;
use onnxfix_ascend::finding::Severity;
use onnxfix_ascend::inspect::inspect;
use onnxfix_ir::{LoadOptions, Model, infer, load};
use onnxfix_passes::{DimBinding, Options, PORTABLE_ONLY, Pipeline, run};

/// Operators of ONNX that one of the two tables has at an opset and the other has not.
#[test]
fn both_tables_of_parsers_agree() {
    let facts = Facts::find("Ascend310P3", "8.1").expect("facts");
    let ours = facts.parsers.registered.iter().flat_map(|r| &r.operators).cloned();
    let all: BTreeSet<String> = ours.chain(operators().map(str::to_owned)).collect();
    let mut disagreements = Vec::new();
    for operator in &all {
        for opset in 8..=18 {
            let mut ranges = facts.parsers.opsets(operator).into_iter();
            let ours = ranges.any(|[low, high]| (low..=high).contains(&opset));
            if ours != is_registered(operator, opset) {
                let who = if ours { "inspect" } else { "the stand-in" };
                disagreements.push(format!("{operator} at opset {opset}: only {who} has a parser"));
            }
        }
    }
    assert!(disagreements.is_empty(), "{disagreements:#?}");
}

/// The workspace's fixtures.
fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fixtures/models");
    let entries = std::fs::read_dir(folder).expect("the fixtures are there");
    let mut models: Vec<PathBuf> = entries.map(|e| e.expect("a readable folder").path()).collect();
    models.retain(|path| path.extension().is_some_and(|e| e == "onnx"));
    models.sort();
    assert!(!models.is_empty(), "there are fixtures");
    models
}

/// A model with fixed shapes, and the same optimized.
fn as_it_is_and_optimized(source: &Model) -> [Model; 2] {
    let pipelines = [Pipeline::of(&["fix-input-shapes"]), Pipeline::all().without(PORTABLE_ONLY)];
    let dims = vec![DimBinding { symbol: "seq".into(), value: 32 }];
    let dims = if has_dim(source, "seq") { dims } else { Vec::new() };
    [(None, 0), (Some(13), 1)].map(|(opset, which)| {
        let mut model = source.clone();
        let options =
            Options { static_shapes: true, opset, dims: dims.clone(), ..Options::default() };
        let pipeline = pipelines[which].as_ref().expect("passes");
        run(&mut model, pipeline, &options, &mut |_, _| ()).expect("it can be optimized");
        infer::infer(&mut model).expect("its shapes agree");
        model
    })
}

/// Fixtures, as they are and optimized: where the stand-in refuses one, `inspect` has an error for it, and the other way
/// round. What is optimized is refused by neither.
#[test]
fn both_refuse_the_same_models() {
    let facts = Facts::find("Ascend310P3", "8.1").expect("facts");
    let release = Release::of("8.1").expect("a release");
    let mut disagreements = Vec::new();
    for path in fixtures() {
        let source = load(&path, &LoadOptions::default()).expect("a model").model;
        for (mut model, which) in
            as_it_is_and_optimized(&source).into_iter().zip(["as it is", "optimized"])
        {
            let name = format!("{} {which}", path.display());
            let findings = inspect(&model, &facts);
            let ours: Vec<&str> =
                findings.iter().filter(|f| f.severity == Severity::Error).map(|f| f.code).collect();
            let (theirs, _) = problems(&mut model, &Request::default(), &release);
            if ours.is_empty() != theirs.is_empty() {
                disagreements
                    .push(format!("{name}: inspect {ours:?}, the stand-in {:?}", theirs.first()));
            }
            assert!(which == "as it is" || theirs.is_empty(), "{name}: {theirs:?}");
        }
    }
    assert!(disagreements.is_empty(), "{disagreements:#?}");
}

fn has_dim(model: &Model, symbol: &str) -> bool {
    let inputs = model[model.root()].inputs();
    let mut shapes = inputs.iter().filter_map(|&input| model[input].shape());
    shapes.any(|shape| shape.0.iter().any(|d| d.symbols().iter().any(|s| s.as_str() == symbol)))
}
