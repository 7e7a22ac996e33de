//! From a file to what tract can parse.
//!
//! The model stays as it is but for this. Calls of the model's own functions become the functions' bodies, by ONNX's
//! definition of a call. External data are read into their tensors. Typed data of unsigned tensors, which tract looks
//! for in the wrong field, become raw data. And what tract would only trip over later gets an error that names it: operators it lacks, values that nothing
//! defines, operators of other domains that merely share a name with one of ONNX's.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;

use tract_onnx::Onnx;
use tract_onnx::pb::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
    tensor_proto, type_proto,
};
use tract_onnx::prelude::Framework;

use super::weights::{self, Weight};
use super::{EngineError, Missing, Source, external};

/// Operators of `com.microsoft` that tract implements under their own name.
const MICROSOFT: [&str; 5] =
    ["BiasGelu", "FastGelu", "Gelu", "QuickGelu", "SkipLayerNormalization"];

/// Functions may call functions; only a cycle goes deeper than this.
const DEPTH: usize = 100;

/// Decodes the model, external data included, but for weights that are read later.
pub(super) fn decode(
    onnx: &Onnx,
    source: Source<'_>,
) -> Result<(ModelProto, Vec<Weight>), EngineError> {
    let not_a_model =
        |e: tract_onnx::prelude::TractError| EngineError::Decode { reason: format!("{e:#}") };
    match source {
        Source::File(path) => {
            File::open(path)
                .map_err(|source| EngineError::Read { path: path.to_owned(), source })?;
            let (mut model, weights) = match weights::decode(onnx, path) {
                Some(decoded) => decoded,
                None => (onnx.proto_model_for_path(path).map_err(not_a_model)?, Vec::new()),
            };
            model.graph.iter_mut().try_for_each(|graph| external::load(graph, path))?;
            Ok((model, weights))
        }
        Source::Bytes(mut bytes) => {
            Ok((onnx.proto_model_for_read(&mut bytes).map_err(not_a_model)?, Vec::new()))
        }
    }
}

/// Makes the model fit for tract's parser, or says why it cannot be.
pub(super) fn prepare(onnx: &Onnx, model: &mut ModelProto) -> Result<(), EngineError> {
    inline_functions(model)?;
    let Some(graph) = &mut model.graph else {
        return Err(EngineError::Decode { reason: "there is no graph".to_owned() });
    };
    let mut missing = BTreeMap::new();
    find_missing(onnx, graph, &mut missing);
    if !missing.is_empty() {
        return Err(EngineError::Operators { missing: missing.into_values().collect() });
    }
    undefined_output(graph)?;
    repack(graph);
    Ok(())
}

fn normal_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

fn bodies(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs))
}

fn find_missing(onnx: &Onnx, graph: &GraphProto, missing: &mut BTreeMap<String, Missing>) {
    for node in &graph.node {
        let domain = normal_domain(&node.domain);
        let ours = match domain {
            "" => true,
            "com.microsoft" => MICROSOFT.contains(&&*node.op_type),
            _ => false,
        };
        if !ours || !onnx.op_register.0.contains_key(&node.op_type) {
            let op = if domain.is_empty() {
                node.op_type.clone()
            } else {
                format!("{domain}.{}", node.op_type)
            };
            let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
            let node = name.cloned().unwrap_or_default();
            missing.entry(op.clone()).or_insert(Missing { op, node, count: 0 }).count += 1;
        }
        for body in bodies(node) {
            find_missing(onnx, body, missing);
        }
    }
}

fn undefined_output(graph: &GraphProto) -> Result<(), EngineError> {
    let inputs = graph.input.iter().map(|i| &i.name);
    let constants = graph.initializer.iter().map(|t| &t.name);
    let made = graph.node.iter().flat_map(|n| &n.output);
    let defined: HashSet<&String> = inputs.chain(constants).chain(made).collect();
    match graph.output.iter().find(|o| !defined.contains(&o.name)) {
        Some(output) => Err(EngineError::Undefined { name: output.name.clone() }),
        None => Ok(()),
    }
}

/// Whether an output is declared as float16.
pub(super) fn is_half(output: &ValueInfoProto) -> bool {
    let value = output.r#type.as_ref().and_then(|t| t.value.as_ref());
    matches!(value, Some(type_proto::Value::TensorType(t))
        if t.elem_type == tensor_proto::DataType::Float16 as i32)
}

/// Moves `uint64_data` to `raw_data`.
fn repack(graph: &mut GraphProto) {
    let in_nodes = graph.node.iter_mut().flat_map(|n| &mut n.attribute);
    for attribute in in_nodes {
        for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            repack(body);
        }
        attribute.t.iter_mut().chain(&mut attribute.tensors).for_each(repack_tensor);
    }
    graph.initializer.iter_mut().for_each(repack_tensor);
}

fn repack_tensor(tensor: &mut TensorProto) {
    let width = match tensor_proto::DataType::try_from(tensor.data_type) {
        Ok(tensor_proto::DataType::Uint32) => 4,
        Ok(tensor_proto::DataType::Uint64) => 8,
        _ => return,
    };
    if !tensor.uint64_data.is_empty() {
        let numbers = std::mem::take(&mut tensor.uint64_data);
        tensor.raw_data =
            numbers.iter().flat_map(|n| n.to_le_bytes().into_iter().take(width)).collect();
    }
}

type Functions = HashMap<(String, String), FunctionProto>;

fn inline_functions(model: &mut ModelProto) -> Result<(), EngineError> {
    if model.functions.is_empty() {
        return Ok(());
    }
    let version = |opsets: &[tract_onnx::pb::OperatorSetIdProto]| {
        opsets.iter().find(|o| normal_domain(&o.domain).is_empty()).map(|o| o.version)
    };
    let of_model = version(&model.opset_import);
    let mut functions = Functions::new();
    for function in std::mem::take(&mut model.functions) {
        let of_function = version(&function.opset_import);
        let domain = normal_domain(function.domain.as_deref().unwrap_or_default()).to_owned();
        let key = (domain, function.name.clone().unwrap_or_default());
        let name = if key.0.is_empty() { key.1.clone() } else { format!("{}.{}", key.0, key.1) };
        // tract reads every node by the model's version.
        if of_function.is_some() && of_function != of_model {
            return Err(EngineError::Function {
                name,
                why: "imports another version of ONNX's operators than the model",
            });
        }
        if functions.insert(key, function).is_some() {
            return Err(EngineError::Function { name, why: "has overloads" });
        }
    }
    let mut calls = 0;
    match &mut model.graph {
        Some(graph) => inline_into(&mut graph.node, &functions, &mut calls, 0),
        None => Ok(()),
    }
}

fn inline_into(
    nodes: &mut Vec<NodeProto>,
    functions: &Functions,
    calls: &mut usize,
    depth: usize,
) -> Result<(), EngineError> {
    for mut node in std::mem::take(nodes) {
        for attribute in &mut node.attribute {
            for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                inline_into(&mut body.node, functions, calls, depth)?;
            }
        }
        match functions.get(&(normal_domain(&node.domain).to_owned(), node.op_type.clone())) {
            None => nodes.push(node),
            Some(_) if depth == DEPTH => {
                return Err(EngineError::Function { name: node.op_type, why: "calls itself" });
            }
            Some(function) => {
                *calls += 1;
                let mut body = expand(&node, function, *calls)?;
                inline_into(&mut body, functions, calls, depth + 1)?;
                nodes.append(&mut body);
            }
        }
    }
    Ok(())
}

/// The nodes that do what one call of a function does.
fn expand(
    call: &NodeProto,
    function: &FunctionProto,
    number: usize,
) -> Result<Vec<NodeProto>, EngineError> {
    let prefix = format!("{}/call{number}/", call.op_type);
    // An argument that the call leaves out has no name inside either.
    let arguments = call.input.iter().map(String::as_str).chain(std::iter::repeat(""));
    let renamed: HashMap<&str, &str> =
        function.input.iter().map(String::as_str).zip(arguments).collect();
    let rename = |name: &mut String| {
        if let Some(argument) = renamed.get(name.as_str()) {
            (*argument).clone_into(name);
        } else if !name.is_empty() {
            name.insert_str(0, &prefix);
        }
    };
    let mut nodes = function.node.clone();
    for node in &mut nodes {
        bind(node, call, function, &prefix, &rename)?;
    }
    for (inner, outer) in
        function.output.iter().zip(&call.output).filter(|(_, outer)| !outer.is_empty())
    {
        let mut inner = inner.clone();
        rename(&mut inner);
        nodes.push(NodeProto {
            op_type: "Identity".to_owned(),
            name: outer.clone(),
            input: vec![inner],
            output: vec![outer.clone()],
            ..NodeProto::default()
        });
    }
    Ok(nodes)
}

fn bind(
    node: &mut NodeProto,
    call: &NodeProto,
    function: &FunctionProto,
    prefix: &str,
    rename: &impl Fn(&mut String),
) -> Result<(), EngineError> {
    if !node.name.is_empty() {
        node.name.insert_str(0, prefix);
    }
    node.input.iter_mut().chain(&mut node.output).for_each(rename);
    let mut attributes = Vec::with_capacity(node.attribute.len());
    for mut attribute in std::mem::take(&mut node.attribute) {
        if !attribute.ref_attr_name.is_empty() {
            let reference = &attribute.ref_attr_name;
            match call.attribute.iter().find(|a| a.name == *reference) {
                Some(given) => {
                    attributes.push(AttributeProto { name: attribute.name, ..given.clone() });
                }
                // One that the call leaves out is left out inside too.
                None if function.attribute.contains(reference) => {}
                None => {
                    let name = call.op_type.clone();
                    return Err(EngineError::Function {
                        name,
                        why: "has attributes with defaults",
                    });
                }
            }
            continue;
        }
        for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            body.input.iter_mut().chain(&mut body.output).for_each(|v| rename(&mut v.name));
            body.initializer.iter_mut().for_each(|t| rename(&mut t.name));
            for inner in &mut body.node {
                bind(inner, call, function, prefix, rename)?;
            }
        }
        attributes.push(attribute);
    }
    node.attribute = attributes;
    Ok(())
}
