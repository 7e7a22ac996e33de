//! Random ONNX models that are well formed and compute, for tests of whatever reads or rewrites models.
//!
//! A [`Sample`] is a model with inputs for it. It is made by decisions ([`Choices`]) that come from a seed or from the
//! bytes of a fuzzer. Each node is computed as soon as it is made, so later operands fit what earlier ones are:
//! a Reshape gets as many elements as there are, a Gather indices that exist. The operator table says which operators
//! there are; those that are never made are listed with the reason in [`NOT_GENERATED`].
//!
//! [`Machine`] runs a model node by node on the reference evaluator, and [`shrink`] makes a sample that fails smaller.

mod bodies;
mod build;
mod choices;
mod data;
mod machine;
mod motifs;
mod ops;
mod shrink;

pub use choices::Choices;
pub use data::{DTYPES, is_equal, is_near, show};
pub use machine::{Machine, Stuck, Values};
pub use ops::{NOT_GENERATED, is_left_out};
pub use shrink::shrink;

use std::collections::BTreeMap;

use build::Builder;
use onnxfix_ir::infer::{forget_shapes, infer};
use onnxfix_ir::{
    Def, Dim, LoadOptions, Model, Name, Shape, Tensor, TensorType, Type, ValueId, to_proto,
};

/// A model, and inputs that it computes something from.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The model.
    pub model: Model,
    /// A tensor for each input, by name.
    pub feeds: Vec<(Name, Tensor)>,
    /// The number that each symbolic dimension of an input has in `feeds`.
    pub dims: Vec<(String, i64)>,
}

/// How a sample came about.
#[derive(Debug, Clone, Default)]
pub struct Making {
    /// Operators that refused the operands chosen for them, and what they said.
    pub refused: Vec<(String, String)>,
    /// What inference or evaluation got wrong on the way: a bug of one of them.
    pub wrong: Option<String>,
}

/// Which models are made.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The newest opset.
    pub newest_opset: i64,
    /// The most groups of nodes.
    pub size: usize,
    /// Only operators that the reference evaluator computes: what comes out can be compared with other engines.
    pub evaluated: bool,
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe { newest_opset: NEWEST, size: 10, evaluated: false }
    }
}

/// The newest opset that the table has.
const NEWEST: i64 = 28;

/// Makes a sample.
#[must_use]
pub fn sample(choices: &mut Choices<'_>, recipe: &Recipe) -> (Sample, Making) {
    let opsets: Vec<i64> =
        [13, 17, 11, 13, 18, 12, 10, 9, 7, 8, 14, 16, 20, 21, 22, 23, 24, 25, 26, 28]
            .into_iter()
            .filter(|&v| v <= recipe.newest_opset)
            .collect();
    let opset = *choices.pick(&opsets);
    let groups = 1 + choices.below(recipe.size);
    let mut b = Builder::new(choices, opset, recipe.evaluated);
    b.operand(DTYPES, 2);
    for _ in 0..groups {
        bodies::any(&mut b);
        if b.c.is_spent() {
            break;
        }
    }
    outputs(&mut b);
    let declared = b.c.below(4);
    let dims = symbolize(&mut b);
    let listed = std::mem::take(&mut b.listed);
    let Builder { mut model, feeds, refused, mut wrong, .. } = b;
    if declared > 0 {
        forget_shapes(&mut model);
        if let Err(e) = infer(&mut model) {
            wrong.get_or_insert(e.to_string());
        }
        if declared > 1 {
            let root = model.root();
            model.list_value_info(root);
        }
    }
    let model = reloaded(model, &listed);
    (Sample { model, feeds, dims }, Making { refused, wrong })
}

/// Chooses the outputs: mostly what nothing else reads.
fn outputs(b: &mut Builder<'_, '_>) {
    let root = b.model.root();
    let own: Vec<ValueId> =
        b.scope.iter().copied().filter(|&v| b.model[v].graph() == root).collect();
    let made: Vec<ValueId> = own.iter().copied().filter(|&v| b.producer(v).is_some()).collect();
    let mut chosen: Vec<ValueId> = Vec::new();
    for &value in made.iter().rev() {
        let wanted = if b.model[value].uses().is_empty() { 85 } else { 6 };
        if chosen.len() < 6 && b.c.chance(wanted) {
            chosen.push(value);
        }
    }
    // An input or an initializer may be an output besides.
    if b.c.chance(6) || (chosen.is_empty() && made.is_empty()) {
        let at = b.c.below(own.len());
        if !chosen.contains(&own[at]) {
            chosen.push(own[at]);
        }
    }
    if chosen.is_empty() {
        chosen.extend(made.last());
    }
    for value in chosen {
        b.model.add_output(root, value);
    }
}

/// Gives some dimensions of inputs a name.
fn symbolize(b: &mut Builder<'_, '_>) -> Vec<(String, i64)> {
    let mut dims: Vec<(String, i64)> = Vec::new();
    let root = b.model.root();
    if !b.c.chance(40) {
        return dims;
    }
    for input in b.model[root].inputs().to_vec() {
        let Some(ty) = b.model[input].tensor_type().cloned() else { continue };
        let Some(shape) = ty.shape else { continue };
        let named: Shape = shape
            .0
            .into_iter()
            .map(|dim| match dim.fixed() {
                // A dimension of 0 cannot be asked for by name.
                Some(n) if n > 0 && b.c.chance(50) => {
                    let name = format!("{}{n}", b.c.pick(&["N", "S"]));
                    if !dims.iter().any(|(d, _)| *d == name) {
                        dims.push((name.clone(), n));
                    }
                    Dim::Symbol(name.as_str().into())
                }
                _ => dim,
            })
            .collect();
        b.model.set_type(input, Some(Type::Tensor(TensorType::new(ty.dtype, named))));
    }
    dims
}

/// A sample of a model that is written down: each input counts up from -2 to 2, again and again.
///
/// # Panics
/// When the shape of an input is not fixed, or its elements are no numbers.
#[must_use]
pub fn counted(model: Model) -> Sample {
    let feeds = model[model.root()].inputs().iter().filter(|&&v| model.constant(v).is_none());
    let feeds = feeds.map(|&v| {
        let dims = model[v].dims().expect("a fixed shape");
        let dtype = model[v].dtype().expect("a type");
        (model[v].name().clone(), data::counted(dtype, &dims))
    });
    Sample { feeds: feeds.collect(), model, dims: Vec::new() }
}

/// The model as it comes from a file, with these initializers among the inputs, as in old files.
fn reloaded(model: Model, listed: &[ValueId]) -> Model {
    if listed.is_empty() {
        return model;
    }
    let mut proto = to_proto(&model);
    if let Some(graph) = &mut proto.graph {
        graph.input.extend(listed.iter().map(|&v| onnxfix_ir::value_to_proto(&model, v)));
    }
    match onnxfix_ir::from_proto(proto, None, &LoadOptions::default()) {
        Ok(loaded) => loaded.model,
        Err(_) => model,
    }
}

/// How often each operator is in a model, bodies included.
#[must_use]
pub fn histogram(model: &Model) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (_, node) in model.all_nodes() {
        *counts.entry(node.op().name.as_str().to_owned()).or_default() += 1;
    }
    counts
}

/// Whether a value is computed by a node.
#[must_use]
pub fn is_computed(model: &Model, value: ValueId) -> bool {
    matches!(model[value].def(), Def::Node { .. })
}
