//! Which operators the simulated chip has no kernel for, or a slow one.
//!
//! For the 310P, after the lists of kernels of CANN 8.1.RC1 (operator information for ascend310p): where AI Cores do not
//! take a type, ATC warns (W11001) if the AI CPU does, and refuses (EZ3003) if nothing does.

use std::collections::BTreeSet;

use onnxfix_ir::{DataType, Model, Node, NodeId, ValueId};

use crate::Problem;

/// Operators whose AI Core kernels do not take 64-bit integers.
const NO_INT64: [&str; 9] = ["Div", "Expand", "Pad", "CumSum", "Pow", "Mod", "Abs", "Neg", "Sign"];
/// Operators without any AI Core kernel.
const AI_CPU: [&str; 4] = ["ScatterElements", "IsNaN", "Xor", "NonZero"];
/// Bytes of data and number of indices from which on a `GatherElements` along another axis goes to the AI CPU.
const GATHER: (i64, i64) = (3000 * 1024, 2048);

/// Errors and warnings about the operators of a model whose types are known.
pub(crate) fn check(model: &Model, gears: &[u64]) -> (Vec<Problem>, Vec<Problem>) {
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    let constant = constants(model);
    for (id, node) in model.all_nodes() {
        if constant.contains(&id) {
            continue;
        }
        let name = model.describe(id);
        let operator = node.op().name.as_str();
        let types = || {
            let values = node.inputs().iter().chain(node.outputs()).copied().flatten();
            values.filter_map(|value| model[value].dtype())
        };
        if types().any(|dtype| dtype == DataType::Double) {
            let text =
                format!("no kernel and no engine for {name}, optype [{operator}] with DT_DOUBLE");
            errors.push(Problem::error("EZ3003", &text));
        } else if operator == "Trilu" {
            errors.push(Problem::error("EZ3003", &format!("no kernel for {name}, optype [Trilu]")));
        } else if strided(model, node) && !gears.is_empty() {
            let gear = gears.len() - 1;
            let text = format!(
                "no kernel for {name}_ascend_mbatch_batch_{gear}. (optype: [StridedSliceD])"
            );
            errors.push(Problem::error("E20001", &text));
        } else if is_slow(model, node) {
            let text = format!("Op [{name}] runs on the AI CPU, not on AI Cores (simulated)");
            warnings.push(Problem::error("W11001", &text));
        }
    }
    (errors, warnings)
}

fn is_slow(model: &Model, node: &Node) -> bool {
    let operator = node.op().name.as_str();
    let dtype = |slot: usize| node.input(slot).and_then(|value| model[value].dtype());
    AI_CPU.contains(&operator)
        || (NO_INT64.contains(&operator) && dtype(0) == Some(DataType::Int64))
        || (operator == "Where" && dtype(1) == Some(DataType::Bool))
        || (operator == "Pad" && dtype(0) == Some(DataType::Bool))
        || (operator == "Slice" && steps(model, node).iter().any(|&step| step < 0))
        || (operator == "GatherElements" && gathers_badly(model, node))
}

/// Whether a Slice leaves elements out between those that it takes.
fn strided(model: &Model, node: &Node) -> bool {
    node.op().is("Slice") && steps(model, node).iter().any(|step| step.abs() > 1)
}

fn steps(model: &Model, node: &Node) -> Vec<i64> {
    node.input(4).and_then(|v| model.constant(v)).and_then(|t| t.to_ints()).unwrap_or_default()
}

/// Whether a `GatherElements` is too large for the AI Cores: along its last axis, with all other axes alike, it never is.
fn gathers_badly(model: &Model, node: &Node) -> bool {
    let dims = |slot: usize| node.input(slot).and_then(|value| model[value].dims());
    let (Some(data), Some(indices)) = (dims(0), dims(1)) else { return false };
    let (Ok(rank), axis) = (i64::try_from(data.len()), node.attrs.int("axis").unwrap_or(0)) else {
        return false;
    };
    let last = (axis + 1 == rank || axis == -1)
        && data.iter().rev().skip(1).eq(indices.iter().rev().skip(1));
    let dtype = node.input(0).and_then(|value| model[value].dtype());
    let bytes = i64::from(dtype.map_or(32, |d| u8::try_from(d.bits()).unwrap_or(64))) / 8;
    !last
        && data.iter().product::<i64>().saturating_mul(bytes) >= GATHER.0
        && indices.iter().product::<i64>() >= GATHER.1
}

/// Nodes that read constants only, which are computed before kernels are chosen.
fn constants(model: &Model) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::new();
    for (id, node) in model.all_nodes() {
        let is_constant = |value: ValueId| {
            model.constant(value).is_some()
                || model.producer(value).is_some_and(|p| found.contains(&p))
        };
        let shapes_only = node.op().is("Shape");
        if shapes_only || node.inputs().iter().copied().flatten().all(is_constant) {
            found.insert(id);
        }
    }
    found
}
