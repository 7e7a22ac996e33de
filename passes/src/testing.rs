//! What the tests of passes share. Each helper parses a graph, runs one pass with every check switched on, and prints.

use std::sync::Arc;

use onnxfix_ir::text::{parse, parse_graph, print_graph};
use onnxfix_ir::{Model, check};

use crate::{CostModel, Options, Pass, Pipeline, Report, Storage, run};

/// The opset of graphs without a header.
const OPSET: i64 = 13;

/// The model of a text that is a whole model or only a graph.
pub(crate) fn model(text: &str) -> Model {
    let parsed =
        if text.trim_start().starts_with('<') { parse(text) } else { parse_graph(text, OPSET) };
    let mut model = parsed.unwrap_or_else(|e| panic!("{e}\n{text}"));
    onnxfix_ir::infer::infer(&mut model).expect("a consistent graph");
    let broken: Vec<String> = check(&model).iter().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "before the pass: {broken:?}");
    model
}

fn run_one(pass: &'static dyn Pass, model: &mut Model, options: &Options) -> Report {
    let pipeline = Pipeline::of(&[pass.info().name]).expect("a pass of the table");
    run(model, &pipeline, options, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"))
}

/// The model after the pass; a second run must change nothing.
#[track_caller]
pub(crate) fn after(pass: &'static dyn Pass, text: &str) -> Model {
    let mut model = model(text);
    let options = Options { check_each: true, ..Options::default() };
    let _report = run_one(pass, &mut model, &options);
    let once = print_graph(&model, model.root());
    let _again = run_one(pass, &mut model, &options);
    assert_eq!(print_graph(&model, model.root()), once, "a second run changed something");
    model
}

/// The graph after the pass; a second run must change nothing.
#[track_caller]
pub(crate) fn rewritten(pass: &'static dyn Pass, text: &str) -> String {
    let model = after(pass, text);
    print_graph(&model, model.root())
}

/// The operators after the pass, in order.
#[track_caller]
pub(crate) fn operators(pass: &'static dyn Pass, text: &str) -> String {
    let model = after(pass, text);
    let names = model.nodes(model.root()).map(|node| model[node].op().to_string());
    names.collect::<Vec<_>>().join(" ")
}

/// The pass must not fire, without a reason worth telling.
#[track_caller]
pub(crate) fn untouched(pass: &'static dyn Pass, text: &str) {
    let before = model(text);
    assert_eq!(rewritten(pass, text), print_graph(&before, before.root()));
}

/// The pass must not fire, and must say why.
#[track_caller]
pub(crate) fn check_skip(pass: &'static dyn Pass, text: &str, why: &str) {
    let mut model = model(text);
    let before = print_graph(&model, model.root());
    let options = Options {
        check_each: true,
        why_not: Some(pass.info().name.to_owned()),
        ..Options::default()
    };
    let report = run_one(pass, &mut model, &options);
    assert_eq!(print_graph(&model, model.root()), before, "the pass fired");
    let reasons: Vec<&str> = report.misses.iter().map(|m| m.why.as_str()).collect();
    assert!(reasons.iter().any(|r| r.contains(why)), "reasons: {reasons:?}");
}

/// The elements of what a graph of constants gives out through an Identity, perhaps after a pass.
#[track_caller]
pub(crate) fn computed(pass: Option<&'static dyn Pass>, text: &str) -> Vec<f64> {
    let mut model = model(text);
    if let Some(pass) = pass {
        let report = run_one(pass, &mut model, &Options { check_each: true, ..Options::default() });
        assert!(report.passes[0].rewrites > 0, "the pass did nothing");
    }
    let fold = crate::pipeline::find("fold-constants").expect("a pass of the table");
    let _report = run_one(fold, &mut model, &Options::default());
    let y = model[model.root()].outputs()[0];
    let constant = model.producer(y).and_then(|identity| model[identity].input(0));
    let tensor = constant.and_then(|v| model.constant(v)).expect("a constant");
    tensor.to_floats().expect("floats")
}

/// Costs that a test makes up, in microseconds: of each operator, of each multiplication, of each element read or written
/// from memory; and how many elements the cache holds, from which they cost nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Costs {
    pub(crate) start: f64,
    pub(crate) multiplied: f64,
    pub(crate) moved: f64,
    pub(crate) cache: u64,
}

impl CostModel for Costs {
    fn product(&self, [batch, rows, depth, columns]: [u64; 4], at: Storage) -> f64 {
        let elements = batch * (rows * depth + depth * columns + rows * columns);
        let multiplied = (batch * rows * depth * columns) as f64 * self.multiplied;
        multiplied + self.copy(elements, 0, at)
    }

    fn copy(&self, read: u64, written: u64, at: Storage) -> f64 {
        let moved = if at == Storage::Memory { self.moved } else { 0.0 };
        self.start + (read + written) as f64 * moved
    }

    fn cache(&self) -> u64 {
        self.cache
    }
}

/// The operators after the pass where it asks what its form costs, or why it did not fire.
#[track_caller]
pub(crate) fn chosen(pass: &'static dyn Pass, text: &str, costs: Costs) -> Result<String, String> {
    let mut model = model(text);
    let options = Options {
        check_each: true,
        why_not: Some(pass.info().name.to_owned()),
        costs: Some(Arc::new(costs)),
        ..Options::default()
    };
    let report = run_one(pass, &mut model, &options);
    if report.passes[0].rewrites == 0 {
        return Err(report.misses.first().map(|m| m.why.clone()).unwrap_or_default());
    }
    let names = model.nodes(model.root()).map(|node| model[node].op().to_string());
    Ok(names.collect::<Vec<_>>().join(" "))
}
