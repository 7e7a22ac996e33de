//! Makes a sample smaller while something keeps being true of it.
//!
//! Works on messages, in which a node is only a few names: outputs are dropped, what a node computes becomes an input or
//! a constant, a node is replaced by one of its operands, symbols become numbers.

use std::collections::{HashMap, HashSet};

use onnxfix_ir::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use onnxfix_ir::{
    Def, LoadOptions, Model, Name, Tensor, Type, ValueId, check, from_proto, to_proto,
    type_to_proto,
};

use crate::{Machine, Sample};

/// The smallest sample found that still fails.
#[must_use]
pub fn shrink(sample: Sample, fails: &dyn Fn(&Sample) -> bool) -> Sample {
    let mut best = sample;
    // Each accepted step makes the sample smaller, so this ends.
    // What nothing reads goes along, unless it is what fails.
    while let Some(smaller) = steps(&best).iter().find_map(|step| {
        [true, false]
            .into_iter()
            .find_map(|tidy| rebuilt(&best, step, tidy).filter(|next| fails(next)))
    }) {
        best = smaller;
    }
    best
}

/// One way to make a sample smaller.
enum Step {
    /// Drop this output of the model.
    DropOutput(usize),
    /// Drop a node that nothing reads.
    DropNode(String),
    /// Make the outputs of a node inputs of the model.
    Feed(String),
    /// Make the outputs of a node constants.
    Fix(String),
    /// Read an operand of a node instead of its only output.
    Bypass(String, String),
    /// Give the inputs the numbers that they are fed with.
    ForgetSymbols,
    /// Forget what is said of computed values.
    ForgetTypes,
    /// Make an input a constant.
    FixInput(String),
}

fn steps(sample: &Sample) -> Vec<Step> {
    let proto = to_proto(&sample.model);
    let Some(graph) = &proto.graph else { return Vec::new() };
    let mut steps = Vec::new();
    if graph.output.len() > 1 {
        steps.extend((0..graph.output.len()).map(Step::DropOutput));
    }
    let values = computed(sample);
    let mut read = HashSet::new();
    collect_reads(graph, &mut read);
    let mut bodies = vec![graph];
    while let Some(body) = bodies.pop() {
        for node in &body.node {
            bodies.extend(node.attribute.iter().filter_map(|a| a.g.as_deref()));
            let Some(output) = node.output.first() else { continue };
            if !node.output.iter().any(|o| read.contains(o)) {
                steps.push(Step::DropNode(output.clone()));
            }
            // A Constant is as small as it gets.
            if node.input.is_empty() {
                continue;
            }
            steps.push(Step::Feed(output.clone()));
            steps.push(Step::Fix(output.clone()));
            steps.extend(bypasses(node, &values));
        }
    }
    steps.extend(
        proto.functions.iter().flat_map(|f| &f.node).flat_map(|node| bypasses(node, &values)),
    );
    if !sample.dims.is_empty() {
        steps.push(Step::ForgetSymbols);
    }
    if !graph.value_info.is_empty() {
        steps.push(Step::ForgetTypes);
    }
    steps.extend(graph.input.iter().filter_map(|v| v.name.clone()).map(Step::FixInput));
    steps
}

/// The operands of a node that could stand for its only output.
fn bypasses(node: &NodeProto, values: &HashMap<String, Tensor>) -> Vec<Step> {
    let [output] = &node.output[..] else { return Vec::new() };
    let Some(made) = values.get(output) else { return Vec::new() };
    let alike = |name: &&String| {
        values.get(*name).is_some_and(|t| t.dtype == made.dtype && t.dims == made.dims)
    };
    node.input.iter().filter(alike).map(|x| Step::Bypass(output.clone(), x.clone())).collect()
}

/// The elements of every value of the sample, by name.
fn computed(sample: &Sample) -> HashMap<String, Tensor> {
    let mut machine = Machine::new(&sample.model);
    // What was computed before it got stuck is of use too.
    let _outputs = machine.run(&sample.feeds);
    let name = |model: &Model, v: ValueId| model[v].name().as_str().to_owned();
    let mut all: HashMap<String, Tensor> =
        machine.values.iter().map(|(&v, t)| (name(&sample.model, v), Tensor::clone(t))).collect();
    for (id, value) in sample.model.all_values() {
        if let Def::Initializer(tensor) = value.def() {
            all.insert(name(&sample.model, id), Tensor::clone(tensor));
        }
    }
    all
}

/// The sample after a step; none where that is no model.
fn rebuilt(sample: &Sample, step: &Step, tidy: bool) -> Option<Sample> {
    let mut proto = to_proto(&sample.model);
    let mut feeds = sample.feeds.clone();
    let mut dims = sample.dims.clone();
    let values = computed(sample);
    let graph = proto.graph.as_mut()?;
    match step {
        Step::DropOutput(at) => {
            graph.output.remove(*at);
        }
        Step::DropNode(output) => {
            take_node(graph, output)?;
        }
        Step::ForgetTypes => graph.value_info.clear(),
        Step::ForgetSymbols => {
            for input in &mut graph.input {
                let tensor = feeds
                    .iter()
                    .find(|(n, _)| Some(n.as_str()) == input.name.as_deref())
                    .map(|(_, t)| t)?;
                input.r#type = Some(type_to_proto(&Type::tensor(tensor.dtype, &tensor.dims)));
            }
            graph.value_info.clear();
            graph.output.iter_mut().for_each(|o| o.r#type = None);
            dims.clear();
        }
        Step::FixInput(name) => {
            let at = graph.input.iter().position(|v| v.name.as_deref() == Some(name.as_str()))?;
            if graph.output.iter().any(|o| o.name.as_deref() == Some(name.as_str())) {
                return None;
            }
            graph.input.remove(at);
            let at = feeds.iter().position(|(n, _)| n.as_str() == name)?;
            let (_, tensor) = feeds.remove(at);
            graph.initializer.push(constant(name, &tensor)?);
        }
        Step::Bypass(output, operand) => {
            if take_node(graph, output).is_some() {
                rename(graph, output, operand);
            } else {
                let makes = |n: &NodeProto| n.output.contains(output);
                let function = proto.functions.iter_mut().find(|f| f.node.iter().any(makes))?;
                if function.output.contains(output) {
                    return None;
                }
                function.node.retain(|n| !makes(n));
                function.node.iter_mut().for_each(|n| rename_in_node(n, output, operand));
            }
        }
        Step::Feed(output) => {
            for name in take_node(graph, output)? {
                let tensor = values.get(&name)?;
                graph.input.push(ValueInfoProto {
                    name: Some(name.clone()),
                    r#type: Some(type_to_proto(&Type::tensor(tensor.dtype, &tensor.dims))),
                    ..ValueInfoProto::default()
                });
                feeds.push((Name::from(name.as_str()), tensor.clone()));
            }
        }
        Step::Fix(output) => {
            for name in take_node(graph, output)? {
                graph.initializer.push(constant(&name, values.get(&name)?)?);
            }
        }
    }
    if tidy {
        drop_unread(&mut proto);
    }
    let graph = proto.graph.as_ref()?;
    let named: HashSet<&str> = graph.input.iter().filter_map(|v| v.name.as_deref()).collect();
    feeds.retain(|(name, _)| named.contains(name.as_str()));
    let model = from_proto(proto, None, &LoadOptions::default()).ok()?.model;
    // A symbol that is gone cannot be asked for.
    let inputs = model[model.root()].inputs().to_vec();
    let has = |symbol: &str| {
        inputs
            .iter()
            .filter_map(|&v| model[v].shape())
            .any(|s| s.0.iter().any(|d| d.to_string() == symbol))
    };
    dims.retain(|(symbol, _)| has(symbol));
    check(&model).is_empty().then_some(Sample { model, feeds, dims })
}

fn constant(name: &str, tensor: &Tensor) -> Option<TensorProto> {
    Some(TensorProto {
        name: Some(name.into()),
        dims: tensor.dims.clone(),
        data_type: Some(tensor.dtype.code()),
        raw_data: Some(tensor.to_bytes().ok()?),
        ..TensorProto::default()
    })
}

/// Takes out the node that makes a value; its outputs.
fn take_node(graph: &mut GraphProto, output: &str) -> Option<Vec<String>> {
    let makes = |outputs: &[String]| outputs.iter().any(|o| o == output);
    if let Some(at) = graph.node.iter().position(|n| makes(&n.output)) {
        return Some(graph.node.remove(at).output.into_iter().filter(|o| !o.is_empty()).collect());
    }
    let bodies =
        graph.node.iter_mut().flat_map(|n| &mut n.attribute).filter_map(|a| a.g.as_deref_mut());
    bodies.into_iter().find_map(|body| {
        // An output of a body is made in it.
        if body.output.iter().any(|o| o.name.as_deref() == Some(output)) {
            None
        } else {
            take_node(body, output)
        }
    })
}

/// Makes whatever reads `old` read `new`, in bodies as well.
fn rename(graph: &mut GraphProto, old: &str, new: &str) {
    graph.node.iter_mut().for_each(|node| rename_in_node(node, old, new));
    graph
        .output
        .iter_mut()
        .filter(|o| o.name.as_deref() == Some(old))
        .for_each(|o| o.name = Some(new.into()));
}

fn rename_in_node(node: &mut NodeProto, old: &str, new: &str) {
    node.input.iter_mut().filter(|i| *i == old).for_each(|i| new.clone_into(i));
    node.attribute.iter_mut().filter_map(|a| a.g.as_deref_mut()).for_each(|g| rename(g, old, new));
}

fn drop_unread(proto: &mut ModelProto) {
    let Some(graph) = &mut proto.graph else { return };
    loop {
        let mut read = HashSet::new();
        collect_reads(graph, &mut read);
        let nodes = graph.node.len();
        graph.node.retain(|n| n.output.iter().any(|o| read.contains(o)));
        graph.initializer.retain(|t| t.name.as_ref().is_some_and(|n| read.contains(n)));
        graph.input.retain(|v| v.name.as_ref().is_some_and(|n| read.contains(n)));
        if graph.node.len() == nodes {
            break;
        }
    }
    let mut made: HashSet<String> = graph.node.iter().flat_map(|n| n.output.clone()).collect();
    made.extend(graph.input.iter().filter_map(|v| v.name.clone()));
    graph.value_info.retain(|v| v.name.as_ref().is_some_and(|n| made.contains(n)));
    let called: HashSet<String> = graph.node.iter().filter_map(|n| n.op_type.clone()).collect();
    proto.functions.retain(|f| f.name.as_ref().is_some_and(|n| called.contains(n)));
    for function in &mut proto.functions {
        let mut nodes = usize::MAX;
        while nodes != function.node.len() {
            nodes = function.node.len();
            let mut read: HashSet<String> = function.output.iter().cloned().collect();
            function.node.iter().for_each(|n| collect_reads_of(n, &mut read));
            function.node.retain(|n| n.output.iter().any(|o| read.contains(o)));
        }
    }
}

fn collect_reads_of(node: &NodeProto, read: &mut HashSet<String>) {
    read.extend(node.input.iter().cloned());
    node.attribute.iter().filter_map(|a| a.g.as_deref()).for_each(|g| collect_reads(g, read));
}

fn collect_reads(graph: &GraphProto, read: &mut HashSet<String>) {
    graph.node.iter().for_each(|node| collect_reads_of(node, read));
    read.extend(graph.output.iter().filter_map(|o| o.name.clone()));
}
