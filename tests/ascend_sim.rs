//! The simulated ATC against what `inspect` knows: two readings of the same sources.

mod common;

use std::collections::BTreeSet;

use ascend_sim_atc::{Release, Request, is_registered, operators, problems};
use common::{fixtures, load, stem};
use onnxfix_ascend::facts::Facts;
use onnxfix_ascend::finding::Severity;
use onnxfix_ascend::inspect::inspect;
use onnxfix_ir::infer;
use onnxfix_passes::{Options, Pipeline, run};

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

/// Models, as they are and optimized: where ATC refuses one, `inspect` has an error for it, and the other way round.
#[test]
fn both_refuse_the_same_models() {
    let facts = Facts::find("Ascend310P3", "8.1").expect("facts");
    let release = Release::of("8.1").expect("a release");
    let mut disagreements = Vec::new();
    for path in fixtures() {
        let source = load(&path);
        for optimized in [false, true] {
            let mut model = source.clone();
            let options = Options {
                static_shapes: true,
                opset: optimized.then_some(13),
                dims: [("seq", 32), ("sequence", 32)]
                    .iter()
                    .filter(|(symbol, _)| has_dim(&source, symbol))
                    .map(|(symbol, value)| onnxfix_passes::DimBinding {
                        symbol: (*symbol).into(),
                        value: *value,
                    })
                    .collect(),
                ..Options::default()
            };
            let pipeline = if optimized {
                onnxfix::target::Target::Ascend310P3.pipeline()
            } else {
                Pipeline::of(&["fix-input-shapes"])
            };
            run(&mut model, &pipeline.expect("passes"), &options, &mut |_, _| ())
                .expect("optimized");
            infer::infer(&mut model).expect("types");
            let ours = inspect(&model, &facts).iter().any(|f| f.severity == Severity::Error);
            let theirs = !problems(&mut model, &Request::default(), &release).0.is_empty();
            if ours != theirs {
                disagreements.push(format!(
                    "{} optimized: {optimized}; inspect refuses: {ours}",
                    stem(&path)
                ));
            }
            assert!(
                !optimized || !theirs,
                "{}: the stand-in refuses the optimized model",
                stem(&path)
            );
        }
    }
    assert!(disagreements.is_empty(), "{disagreements:#?}");
}

fn has_dim(model: &onnxfix_ir::Model, symbol: &str) -> bool {
    let inputs = model[model.root()].inputs();
    let mut shapes = inputs.iter().filter_map(|&input| model[input].shape());
    shapes.any(|shape| shape.0.iter().any(|d| d.symbols().iter().any(|s| s.as_str() == symbol)))
}
