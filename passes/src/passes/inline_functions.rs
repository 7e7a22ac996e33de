//! inline-functions

use onnxfix_ir::{Attrs, Model, NodeId, op};

use crate::{Changed, Documented, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Replaces a call of a model-local function by the function's nodes.
    ///
    /// ## Why ATC needs it
    /// Its ONNX parser knows operators, not functions; and no other pass sees through a call.
    ///
    /// ## Before
    /// ```onnx
    /// <ir_version: 8, opset_import: ["" : 13, "local" : 1]>
    /// g (float[2] x) => (float[2] y) { y = local.twice (x) }
    /// <domain: "local", opset_import: ["" : 13]>
    /// twice (a) => (b) { b = Add (a, a) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) { y = Add (x, x) }
    /// ```
    ///
    /// ## Applies when
    /// - The model defines a function of the node's domain, name and overload.
    /// - The function was written for the operator-set versions that the model imports.
    ///
    /// ## Numerics
    /// Exact.
    pub InlineFunctions = "inline-functions", Specialise, Exact
}

impl Pass for InlineFunctions {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        // A body may call further functions; ONNX forbids recursion, so the number of rounds is bounded by theirs.
        for _ in 0..=model.functions.len() {
            let mut found = false;
            for node in calls(model) {
                found |= inline(model, node, cx);
            }
            changed |= found;
            if !found {
                break;
            }
        }
        if changed && calls(model).is_empty() {
            for function in std::mem::take(&mut model.functions) {
                model.remove_graph(function.body);
            }
        }
        Ok(changed.into())
    }
}

/// Calls of functions outside of function bodies.
fn calls(model: &Model) -> Vec<NodeId> {
    if model.functions.is_empty() {
        return Vec::new();
    }
    let root = model.root();
    let callers = model.all_nodes().filter(|(_, n)| model.outermost(n.graph()) == root);
    callers.filter(|(id, _)| callee(model, *id).is_some()).map(|(id, _)| id).collect()
}

/// Position of the function that a node calls.
fn callee(model: &Model, node: NodeId) -> Option<usize> {
    let n = &model[node];
    model.functions.iter().position(|f| {
        f.name == n.op().name
            && op::normal_domain(f.domain.as_deref().unwrap_or("")) == n.op().domain()
            && f.overload.as_deref().unwrap_or("") == n.overload.as_deref().unwrap_or("")
    })
}

fn inline(model: &mut Model, node: NodeId, cx: &mut PassCx<'_>) -> bool {
    let Some(at) = callee(model, node) else { return false };
    let function = model.functions[at].clone();
    for opset in &function.opsets {
        let domain = op::normal_domain(opset.domain.as_deref().unwrap_or(""));
        match model.opset(model.root(), domain) {
            None => model.opsets.push(opset.clone()),
            Some(have) if Some(have) != opset.version => {
                let want = opset.version.unwrap_or(0);
                cx.note(
                    InlineFunctions.info().name,
                    format!("function {} stays: it was written for opset {want}, the model imports {have}", function.name),
                );
                return false;
            }
            Some(_) => {}
        }
    }
    if !cx.spend() {
        return false;
    }
    let mut call: Attrs = function.defaults.clone();
    for attr in &model[node].attrs.0 {
        call.set(&attr.name, attr.value.clone());
    }
    let args = model[node].inputs().to_vec();
    let graph = model[node].graph();
    let results = model.copy_body(function.body, graph, node, &args, &call);
    crate::replace_node(model, node, &results);
    true
}
