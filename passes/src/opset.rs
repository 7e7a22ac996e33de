//! Models from one version of ONNX's own operators to another: what each operator asks for, and how it is done.
//!
//! Where nothing about an operator differs between the versions in force, its nodes stay. Else the operator has a rule
//! here, or is in the way of the whole conversion. Rules go both ways: attributes become inputs and inputs attributes,
//! operators that came later are written in older ones.

use std::cell::RefCell;
use std::sync::Arc;

use onnxfix_ir::op::Arity;
use onnxfix_ir::{
    AttrValue, DataType, Dim, GraphId, Model, NodeId, Opset, Tensor, ValueId, op::normal_domain,
};

use crate::interval::Intervals;
use crate::matching::dtype as dtype_of;
use crate::patch::{PROVENANCE, apply, attrs};
use crate::rewrite::remove_dead;
use crate::{Changed, Miss, Operand, Patch, gelu, layer_norm};

/// Opsets that models are converted between.
pub(crate) const RANGE: std::ops::RangeInclusive<i64> = 7..=21;

/// The first opset in which axes may count from the back.
const NEGATIVE_AXES: i64 = 11;

/// Version of the file format that came with each opset (ONNX's Versioning.md).
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=8 => 3,
        9 => 4,
        10 => 5,
        11 => 6,
        12..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        _ => 10,
    }
}

/// Makes a model one of opset `to`; all of it or nothing. `spend` is asked before anything changes.
///
/// # Errors
/// Names the node that is in the way.
pub(crate) fn convert(
    model: &mut Model,
    to: i64,
    pass: &'static str,
    spend: impl FnOnce() -> bool,
) -> Result<Changed, String> {
    let root = model.root();
    let Some(from) = model.opset(root, "").filter(|&from| from != to) else {
        return Ok(Changed::No);
    };
    for opset in [from, to] {
        if !RANGE.contains(&opset) {
            let (oldest, newest) = (RANGE.start(), RANGE.end());
            return Err(format!(
                "models are converted between opsets {oldest} and {newest}, not {opset}"
            ));
        }
    }
    if let Some(function) = model.functions.first() {
        return Err(format!("function {:?} is not inlined", &*function.name));
    }
    let mut plan: Vec<(NodeId, Edit)> = Vec::new();
    let intervals = RefCell::new(None);
    for (node, n) in model.all_nodes().filter(|(_, n)| n.op().domain().is_empty()) {
        let at = At { m: model, node, from, to, intervals: &intervals };
        match at.edit().map_err(|why| format!("{}: {why}", model.describe(node)))? {
            Edit::Nothing => {}
            edit => plan.push((node, edit)),
        }
        debug_assert!(model.graph(n.graph()).is_some());
    }
    if !spend() {
        return Ok(Changed::No);
    }
    let mut converted = model.clone();
    set_version(&mut converted.opsets, to);
    let header = &mut converted.header;
    header.ir_version = header.ir_version.map(|version| version.max(ir_version(to)));
    for (node, edit) in plan {
        edit.make(&mut converted, node, pass)?;
    }
    *model = converted;
    Ok(Changed::Yes)
}

fn set_version(opsets: &mut [Opset], to: i64) {
    for opset in opsets {
        if normal_domain(opset.domain.as_deref().unwrap_or("")).is_empty() {
            opset.version = Some(to);
        }
    }
}

/// What is done to a node.
enum Edit {
    Nothing,
    /// Attributes and inputs change, the operator stays.
    Fields(Fields),
    /// Other nodes take its place.
    Patch(fn(&Model, NodeId) -> Result<Patch, Miss>),
}

/// Attributes and inputs to set, or to drop.
#[derive(Default)]
struct Fields {
    attrs: Vec<(&'static str, Option<AttrValue>)>,
    inputs: Vec<(usize, Option<Tensor>)>,
}

impl Fields {
    fn attr(&mut self, name: &'static str, value: impl Into<AttrValue>) {
        self.attrs.push((name, Some(value.into())));
    }

    fn no_attr(&mut self, name: &'static str) {
        self.attrs.push((name, None));
    }

    fn input(&mut self, slot: usize, tensor: Tensor) {
        self.inputs.push((slot, Some(tensor)));
    }

    fn no_input(&mut self, slot: usize) {
        self.inputs.push((slot, None));
    }
}

impl Edit {
    fn make(self, model: &mut Model, node: NodeId, pass: &'static str) -> Result<(), String> {
        match self {
            Edit::Nothing => Ok(()),
            Edit::Fields(fields) => {
                fields.make(model, node, pass);
                Ok(())
            }
            Edit::Patch(write) => {
                let patch = write(model, node).map_err(|miss| why(&miss))?;
                if let Some(why) = patch.obstacle(model) {
                    return Err(why.into());
                }
                let applied = apply(model, patch, pass)?;
                for value in applied.loosened {
                    remove_dead(model, value, &mut |_| {});
                }
                Ok(())
            }
        }
    }
}

fn why(miss: &Miss) -> String {
    match miss {
        Miss::Unmet(why) => why.to_string(),
        Miss::NoMatch => "its types or shapes are not known".into(),
    }
}

impl Fields {
    fn make(self, model: &mut Model, node: NodeId, pass: &'static str) {
        for (name, value) in self.attrs {
            match value {
                Some(value) => model.node_mut(node).attrs().set(name, value),
                None => {
                    model.node_mut(node).attrs().remove(name);
                }
            }
        }
        let graph = model[node].graph();
        for (slot, tensor) in self.inputs {
            let Some(tensor) = tensor else {
                if slot < model[node].inputs().len() {
                    model.set_input(node, slot, None);
                }
                continue;
            };
            let value = constant(model, graph, node, tensor, pass);
            while model[node].inputs().len() <= slot {
                let last = model[node].inputs().len();
                model.push_input(node, value);
                model.set_input(node, last, None);
            }
            model.set_input(node, slot, Some(value));
        }
        let used = model[node].inputs().iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        model.truncate_inputs(node, used);
    }
}

fn constant(
    model: &mut Model,
    graph: GraphId,
    node: NodeId,
    mut tensor: Tensor,
    pass: &'static str,
) -> ValueId {
    tensor.extra_mut().metadata.push((PROVENANCE.into(), pass.into()));
    let base = model[node].outputs().iter().flatten().next();
    let base = base.map_or_else(String::new, |&v| model[v].name().to_string());
    let name = model.fresh_name(&format!("{base}_const"));
    model.add_initializer(graph, name, Arc::new(tensor))
}

/// Operators of which nothing but types, attributes with a default and axes from the back changed between the versions
/// that are converted; where more did, there is a rule as well.
const PLAIN: &[&str] = &[
    "Abs",
    "Add",
    "ArgMax",
    "ArgMin",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Ceil",
    "Clip",
    "Compress",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "CumSum",
    "DepthToSpace",
    "Div",
    "Dropout",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "GRU",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gemm",
    "Greater",
    "GreaterOrEqual",
    "Hardmax",
    "Identity",
    "If",
    "IsInf",
    "IsNaN",
    "LRN",
    "LSTM",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "Loop",
    "MatMul",
    "Max",
    "Mean",
    "MeanVarianceNormalization",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "NonZero",
    "OneHot",
    "PRelu",
    "Pad",
    "Pow",
    "RNN",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Sigmoid",
    "Sign",
    "Size",
    "Slice",
    "Softmax",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "TopK",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// Attributes that came later or went, and the value with which they say nothing; none where every value does.
const NEUTRAL: &[(&str, Option<i64>)] = &[
    ("allowzero", Some(0)),
    ("batch_dims", Some(0)),
    ("largest", Some(1)),
    ("layout", Some(0)),
    ("noop_with_empty_axes", Some(0)),
    // Only 8-bit floats saturate, and their types came with the attribute.
    ("saturate", None),
    // What is drawn in training only.
    ("seed", None),
    ("select_last_index", Some(0)),
    ("sorted", None),
    ("spatial", Some(1)),
    ("start", Some(0)),
    ("training_mode", Some(0)),
];

/// The same for attributes that are words.
const NEUTRAL_WORDS: &[(&str, &str)] = &[("mode", "DCR"), ("reduction", "none")];

/// A node between two opsets.
#[derive(Clone, Copy)]
struct At<'m> {
    m: &'m Model,
    node: NodeId,
    from: i64,
    to: i64,
    /// What is known of integers, once something has asked.
    intervals: &'m RefCell<Option<Intervals>>,
}

type Rule = Result<(), String>;

impl At<'_> {
    /// Whether a change that came with `version` lies on the way down.
    fn leaves(&self, version: i64) -> bool {
        self.to < version && version <= self.from
    }

    /// Whether it lies on the way up.
    fn reaches(&self, version: i64) -> bool {
        self.from < version && version <= self.to
    }

    fn is(&self, op: &str) -> bool {
        self.m[self.node].op().is(op)
    }

    fn input(&self, slot: usize) -> Option<ValueId> {
        self.m[self.node].input(slot)
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.m[self.node].attrs.int(name)
    }

    /// The elements of an input that has to be constant, where there is one.
    fn ints(&self, slot: usize, what: &str) -> Result<Option<Vec<i64>>, String> {
        let Some(value) = self.input(slot) else { return Ok(None) };
        let ints = self.m.constant(value).and_then(|tensor| tensor.to_ints());
        ints.map(Some).ok_or_else(|| format!("its {what} are not constant"))
    }

    fn rank(&self) -> Result<i64, String> {
        let shape = self.input(0).and_then(|x| self.m[x].shape());
        shape.map(|shape| shape.rank() as i64).ok_or_else(|| "its rank is not known".into())
    }

    fn edit(&self) -> Result<Edit, String> {
        let n = &self.m[self.node];
        let def = n.op().def.ok_or("the operator is not known")?;
        if let Some(write) = self.written_otherwise()? {
            let patch = write(self.m, self.node).map_err(|miss| why(&miss))?;
            return match patch.obstacle(self.m) {
                Some(why) => Err(why.into()),
                None => Ok(Edit::Patch(write)),
            };
        }
        let Some(since) = def.since(self.to) else {
            let first = def.versions.first().copied().unwrap_or_default();
            return Err(format!("the operator came with opset {first}"));
        };
        if def.since(self.from) == Some(since) || def.name == "LayerNormalization" {
            return Ok(Edit::Nothing);
        }
        let covered = !["Loop", "If"].contains(&def.name) || self.from.min(self.to) >= 11;
        if !PLAIN.contains(&def.name) || !covered {
            return Err(format!("there is no rule for the operator of opset {since}"));
        }
        self.types()?;
        let mut fields = Fields::default();
        self.rules(&mut fields)?;
        self.drop_neutral(&mut fields)?;
        self.lacks(&fields)?;
        if fields.attrs.is_empty() && fields.inputs.is_empty() {
            return Ok(Edit::Nothing);
        }
        Ok(Edit::Fields(fields))
    }

    /// How to write the node in operators of the older opset.
    #[expect(clippy::type_complexity, reason = "the function that writes it, or none")]
    fn written_otherwise(
        &self,
    ) -> Result<Option<fn(&Model, NodeId) -> Result<Patch, Miss>>, String> {
        Ok(match self.m[self.node].op().name.as_str() {
            "LayerNormalization" if self.leaves(layer_norm::SINCE) => {
                Some(|m, node| layer_norm::find(m, node)?.steps(m, node))
            }
            "Gelu" if self.leaves(gelu::SINCE) => {
                Some(|m, node| gelu::find(m, node)?.steps(m, node))
            }
            "HardSwish" if self.leaves(14) => Some(hard_swish),
            "GreaterOrEqual" | "LessOrEqual" if self.leaves(12) => {
                self.compares()?;
                Some(or_equal)
            }
            "CastLike" if self.leaves(15) => Some(cast_like),
            "Trilu" if self.leaves(14) => Some(triangle),
            "Scatter" if self.reaches(11) => Some(scatter),
            "ScatterElements" if self.leaves(11) => {
                let reduction = self.m[self.node].attrs.str("reduction");
                if reduction.is_some_and(|reduction| reduction != "none") {
                    return Err("its reduction came with opset 16".into());
                }
                if !self.counts_from_front(1) {
                    return Err("its indices may count from the back".into());
                }
                Some(scatter)
            }
            "Shape" if self.leaves(15) && self.is_partial_shape() => Some(partial_shape),
            "Softmax" | "LogSoftmax" | "Hardmax" if self.leaves(13) || self.reaches(13) => {
                match self.line_axis()? {
                    Some(_) => None,
                    None if self.leaves(13) => Some(softmax_at_the_end),
                    None => Some(softmax_of_rows),
                }
            }
            _ => None,
        })
    }

    /// Element types that the operator of the other opset does not take.
    fn types(&self) -> Rule {
        let n = &self.m[self.node];
        let Some(def) = n.op().def else { return Ok(()) };
        let sides = [(n.inputs(), def.inputs), (n.outputs(), def.outputs)];
        for (values, params) in sides {
            for (slot, value) in values.iter().enumerate() {
                let (Some(value), Some(param)) = (value, params.get(slot).or(params.last())) else {
                    continue;
                };
                let varies = slot == 0 || !param.var.is_empty() || def.name == "Pow";
                if !varies || param.types.is_empty() {
                    continue;
                }
                let Some(dtype) = self.m[*value].dtype() else {
                    return Err(format!("the type of {:?} is not known", self.m[*value].name()));
                };
                if let Some(version) = def.gains(dtype, self.to) {
                    return Err(format!("it takes {dtype} from opset {version} on"));
                }
            }
        }
        Ok(())
    }

    /// What changed for this operator beside types and attributes with a default.
    fn rules(&self, fields: &mut Fields) -> Rule {
        let name = self.m[self.node].op().name.as_str();
        match name {
            "Squeeze" | "Unsqueeze" | "ReduceSum" => self.axes(fields, 13)?,
            _ if name.starts_with("Reduce") => self.axes(fields, 18)?,
            "Split" => self.split(fields)?,
            "Slice" => self.slice(fields)?,
            "Pad" => self.pad(fields)?,
            "Clip" => self.clip(fields)?,
            "Dropout" => self.dropout(fields)?,
            "TopK" => self.top_k(fields)?,
            "BatchNormalization" => self.batch_norm()?,
            "Softmax" | "LogSoftmax" | "Hardmax" => {
                if let Some(axis) = self.line_axis()? {
                    fields.attr("axis", axis);
                }
            }
            "Reshape" => self.reshape(fields)?,
            "Gather" | "Compress" | "OneHot" => self.indices(fields)?,
            "Gemm" if self.leaves(11) && self.input(2).is_none() => {
                return Err("it needs a third input before opset 11".into());
            }
            "Pow" if self.leaves(12) => self.one_type("its exponent is of another type")?,
            "Max" | "Min" | "Mean" | "Sum" if self.leaves(8) => self.one_shape()?,
            "ScatterElements" | "ScatterND" if self.leaves(18) => {
                let reduction = self.m[self.node].attrs.str("reduction");
                if reduction.is_some_and(|r| r == "max" || r == "min") {
                    return Err("its reduction came with opset 18".into());
                }
            }
            _ => {}
        }
        if self.leaves(NEGATIVE_AXES) && !fields.attrs.iter().any(|(name, _)| *name == "axis") {
            match self.int("axis") {
                Some(axis) if axis < 0 => fields.attr("axis", axis + self.rank()?),
                _ => {}
            }
        }
        Ok(())
    }

    /// Drops attributes that say nothing and are not in the other opset.
    fn drop_neutral(&self, fields: &mut Fields) -> Rule {
        let n = &self.m[self.node];
        let Some(def) = n.op().def else { return Ok(()) };
        for attr in &n.attrs.0 {
            let in_force = |d: &&onnxfix_ir::op::AttrDef| {
                attr.name == *d.name && d.since <= self.to && self.to < d.until
            };
            let decided = fields.attrs.iter().any(|(name, _)| attr.name == **name);
            if decided || def.attrs.iter().any(|d| in_force(&d)) {
                continue;
            }
            let number = NEUTRAL.iter().find(|(name, _)| attr.name == **name);
            let word = NEUTRAL_WORDS.iter().find(|(name, _)| attr.name == **name);
            let neutral = match (&attr.value, number, word) {
                (AttrValue::Int(i), Some((name, value)), _) => {
                    value.is_none_or(|value| value == *i).then_some(*name)
                }
                (AttrValue::String(s), _, Some((name, value))) => {
                    (**s == *value.as_bytes()).then_some(*name)
                }
                _ => None,
            };
            match neutral {
                Some(name) => fields.no_attr(name),
                None => return Err(format!("its {} is not in opset {}", attr.name, self.to)),
            }
        }
        Ok(())
    }

    /// Whether the node would have inputs that the other opset does not know, or lack some that it needs.
    fn lacks(&self, fields: &Fields) -> Rule {
        let n = &self.m[self.node];
        let Some(def) = n.op().def else { return Ok(()) };
        for (slot, param) in def.inputs.iter().enumerate() {
            let set = fields.inputs.iter().rev().find(|(at, _)| *at == slot);
            let has = set.map_or(self.input(slot).is_some(), |(_, tensor)| tensor.is_some());
            if has && param.since > self.to {
                return Err(format!(
                    "its {} is an input from opset {} on",
                    param.name, param.since
                ));
            }
            if !has && param.arity == Arity::One && param.since <= self.to {
                return Err(format!("it needs {}, which it does not have", param.name));
            }
        }
        Ok(())
    }

    /// Axes that are an attribute until `version` and then the second input.
    fn axes(&self, fields: &mut Fields, version: i64) -> Rule {
        let reduces = !self.is("Squeeze") && !self.is("Unsqueeze");
        if self.reaches(version) {
            if let Some(axes) = self.m[self.node].attrs.ints("axes") {
                fields.no_attr("axes");
                if !axes.is_empty() {
                    fields.input(1, Tensor::ints(axes));
                }
            }
            return Ok(());
        }
        let axes = if self.from < version {
            self.m[self.node].attrs.ints("axes").map(<[i64]>::to_vec)
        } else if self.leaves(version) {
            self.ints(1, "axes")?
        } else {
            return Ok(());
        };
        let none = axes.as_ref().is_none_or(Vec::is_empty);
        if none && reduces && self.int("noop_with_empty_axes") == Some(1) {
            return Err("it does nothing without axes".into());
        }
        if self.leaves(version) {
            fields.no_input(1);
            fields.no_attr("noop_with_empty_axes");
        }
        let Some(mut axes) = axes.filter(|_| !none) else { return Ok(()) };
        if self.leaves(NEGATIVE_AXES) && axes.iter().any(|&axis| axis < 0) {
            let added = if self.is("Unsqueeze") { axes.len() as i64 } else { 0 };
            let rank = self.rank()? + added;
            axes.iter_mut().filter(|axis| **axis < 0).for_each(|axis| *axis += rank);
        }
        if self.leaves(version) || self.leaves(NEGATIVE_AXES) {
            fields.attr("axes", axes);
        }
        Ok(())
    }

    fn split(&self, fields: &mut Fields) -> Rule {
        let outputs = self.m[self.node].outputs().len() as i64;
        let lengths = if self.from < 13 {
            self.m[self.node].attrs.ints("split").map(<[i64]>::to_vec)
        } else if self.leaves(13) {
            self.ints(1, "lengths")?
        } else {
            None
        };
        let has_lengths = lengths.is_some() || self.input(1).is_some();
        if let Some(lengths) = lengths {
            if self.reaches(13) {
                fields.no_attr("split");
                fields.input(1, Tensor::ints(&lengths));
            } else if self.leaves(13) {
                fields.no_input(1);
                fields.attr("split", lengths);
            }
        }
        if self.reaches(18) && !has_lengths {
            fields.attr("num_outputs", outputs);
        }
        if !self.leaves(18) {
            return Ok(());
        }
        fields.no_attr("num_outputs");
        if has_lengths {
            return Ok(());
        }
        // The parts are equal up to opset 17; later ones may end with a shorter one.
        let axis = self.int("axis").unwrap_or(0);
        let rank = self.rank()?;
        let axis = usize::try_from(if axis < 0 { axis + rank } else { axis });
        let length = self.input(0).and_then(|x| self.m[x].shape()?.0.get(axis.ok()?)?.fixed());
        let length = length.ok_or("the length that it splits is not known")?;
        let parts = self.int("num_outputs").unwrap_or(outputs);
        if parts <= 0 || parts != outputs {
            return Err("its num_outputs is not the number of its outputs".into());
        }
        if length % parts != 0 {
            let part = length / parts + 1;
            let lengths = (0..parts).map(|i| (length - i * part).clamp(0, part));
            let lengths: Vec<i64> = lengths.collect();
            if self.to < 13 {
                fields.attr("split", lengths);
            } else {
                fields.input(1, Tensor::ints(&lengths));
            }
        }
        Ok(())
    }

    fn slice(&self, fields: &mut Fields) -> Rule {
        let attrs = &self.m[self.node].attrs;
        if self.reaches(10) {
            for (slot, name) in [(1, "starts"), (2, "ends"), (3, "axes")] {
                if let Some(ints) = attrs.ints(name) {
                    fields.no_attr(name);
                    fields.input(slot, Tensor::ints(ints));
                }
            }
            return Ok(());
        }
        if !self.leaves(NEGATIVE_AXES) && !self.leaves(10) {
            return Ok(());
        }
        let mut axes = self.ints(3, "axes")?;
        if axes.as_ref().is_some_and(|axes| axes.iter().any(|&axis| axis < 0)) {
            let rank = self.rank()?;
            axes.iter_mut().flatten().filter(|axis| **axis < 0).for_each(|axis| *axis += rank);
        }
        if !self.leaves(10) {
            if let Some(axes) = axes {
                fields.input(3, Tensor::ints(&axes));
            }
            return Ok(());
        }
        if self.ints(4, "steps")?.is_some_and(|steps| steps.iter().any(|&step| step != 1)) {
            return Err("its steps came with opset 10".into());
        }
        let starts = self.ints(1, "starts")?.unwrap_or_default();
        let ends = self.ints(2, "ends")?.unwrap_or_default();
        (1..5).for_each(|slot| fields.no_input(slot));
        fields.attr("starts", starts);
        fields.attr("ends", ends);
        if let Some(axes) = axes {
            fields.attr("axes", axes);
        }
        Ok(())
    }

    fn pad(&self, fields: &mut Fields) -> Rule {
        let attrs = &self.m[self.node].attrs;
        let mode = attrs.str("mode").unwrap_or("constant");
        // Other modes do not look at the value, and some engines take any value for this mode.
        let fills = mode == "constant";
        if mode == "wrap" && self.leaves(19) {
            return Err("its mode came with opset 19".into());
        }
        if self.reaches(11) {
            let pads = attrs.ints("pads").ok_or("it has no pads")?;
            fields.no_attr("pads");
            fields.input(1, Tensor::ints(pads));
            if let Some(value) = attrs.float("value") {
                fields.no_attr("value");
                if fills {
                    fields.input(2, self.number(f64::from(value))?);
                }
            }
            return Ok(());
        }
        let over_axes = self.leaves(18) && self.input(3).is_some();
        if !over_axes && !self.leaves(11) {
            return Ok(());
        }
        let mut pads = self.ints(1, "pads")?.ok_or("it has no pads")?;
        if over_axes {
            let axes = self.ints(3, "axes")?.unwrap_or_default();
            let rank = self.rank()?;
            let mut full = vec![0; usize::try_from(2 * rank).unwrap_or(0)];
            for (i, &axis) in axes.iter().enumerate() {
                let axis = if axis < 0 { axis + rank } else { axis };
                for (side, &pad) in [pads.get(i), pads.get(i + axes.len())].iter().enumerate() {
                    let at = usize::try_from(axis + rank * side as i64).ok();
                    let place = at.and_then(|at| full.get_mut(at));
                    *place.ok_or("its axes are outside of its rank")? =
                        *pad.ok_or("it has fewer pads than axes")?;
                }
            }
            fields.no_input(3);
            pads = full;
        }
        if !self.leaves(11) {
            fields.input(1, Tensor::ints(&pads));
            return Ok(());
        }
        fields.no_input(1);
        fields.no_input(2);
        fields.attr("pads", pads);
        if fills && let Some(value) = self.float(2, "constant_value")? {
            fields.attr("value", value);
        }
        Ok(())
    }

    fn clip(&self, fields: &mut Fields) -> Rule {
        for (slot, name) in [(1, "min"), (2, "max")] {
            if self.reaches(11) {
                if let Some(bound) = self.m[self.node].attrs.float(name) {
                    fields.no_attr(name);
                    fields.input(slot, self.number(f64::from(bound))?);
                }
            } else if self.leaves(11)
                && let Some(bound) = self.float(slot, name)?
            {
                fields.no_input(slot);
                fields.attr(name, bound);
            }
        }
        Ok(())
    }

    fn dropout(&self, fields: &mut Fields) -> Rule {
        let reads_mask = self.m[self.node].output(1).is_some_and(|v| !self.m[v].uses().is_empty());
        if reads_mask && (self.leaves(12) || self.reaches(12)) {
            return Err("its mask is read".into());
        }
        if self.leaves(12) {
            let trains = self.ints(2, "training mode")?.is_some_and(|mode| mode != [0]);
            if trains {
                return Err("it is in training mode".into());
            }
            if let Some(ratio) = self.float(1, "ratio")? {
                fields.attr("ratio", ratio);
            }
            fields.no_input(1);
            fields.no_input(2);
        } else if self.reaches(12)
            && let Some(ratio) = self.m[self.node].attrs.float("ratio")
        {
            fields.no_attr("ratio");
            fields.input(1, Tensor::scalar(ratio));
        }
        Ok(())
    }

    fn top_k(&self, fields: &mut Fields) -> Rule {
        if self.reaches(10) {
            let k = self.int("k").ok_or("it has no k")?;
            fields.no_attr("k");
            fields.input(1, Tensor::ints(&[k]));
        } else if self.leaves(10) {
            let k = self.ints(1, "numbers")?;
            let Some([k]) = k.as_deref() else { return Err("its K is not one number".into()) };
            fields.no_input(1);
            fields.attr("k", *k);
        }
        Ok(())
    }

    fn batch_norm(&self) -> Rule {
        let more = self.m[self.node].outputs().iter().skip(1).flatten();
        if (self.leaves(14) || self.reaches(14)) && more.count() > 0 {
            return Err("it gives out its statistics".into());
        }
        if self.leaves(15) { self.one_type("its inputs are of several types") } else { Ok(()) }
    }

    fn reshape(&self, fields: &mut Fields) -> Rule {
        if self.leaves(14) && self.int("allowzero") == Some(1) {
            if self.ints(1, "dimensions")?.unwrap_or_default().contains(&0) {
                return Err("it makes a dimension 0".into());
            }
            fields.no_attr("allowzero");
        }
        Ok(())
    }

    /// Whether no element of an input is negative, whatever is fed.
    fn counts_from_front(&self, slot: usize) -> bool {
        let mut intervals = self.intervals.borrow_mut();
        let intervals = intervals.get_or_insert_with(|| Intervals::of(self.m));
        self.input(slot).and_then(|v| intervals.get(self.m, v)).is_some_and(|all| all.low >= 0)
    }

    /// Indices, which may count from the back from opset 11 on.
    fn indices(&self, fields: &mut Fields) -> Rule {
        if self.is("OneHot") {
            // A negative one set nothing before, and sets a place from the back since.
            let crosses = self.leaves(NEGATIVE_AXES) || self.reaches(NEGATIVE_AXES);
            if crosses && !self.counts_from_front(0) {
                return Err("its indices may count from the back".into());
            }
            return Ok(());
        }
        if !self.leaves(NEGATIVE_AXES) || self.is("Compress") || self.counts_from_front(1) {
            return Ok(());
        }
        let Some(indices) = self.input(1) else { return Ok(()) };
        let ints = self.m.constant(indices).and_then(|tensor| tensor.to_ints());
        if !self.is("Gather") || ints.is_none() {
            return Err("its indices may count from the back".into());
        }
        let (Some(mut ints), Some(tensor)) = (ints, self.m.constant(indices)) else {
            return Ok(());
        };
        if ints.iter().all(|&i| i >= 0) {
            return Ok(());
        }
        let axis = self.int("axis").unwrap_or(0);
        let axis = usize::try_from(if axis < 0 { axis + self.rank()? } else { axis });
        let length = self.input(0).and_then(|x| self.m[x].shape()?.0.get(axis.ok()?)?.fixed());
        let length = length.ok_or("its indices count from the back of an unknown length")?;
        ints.iter_mut().filter(|i| **i < 0).for_each(|i| *i += length);
        fields.input(1, Tensor::new(&tensor.dims, ints));
        Ok(())
    }

    fn one_type(&self, why: &str) -> Rule {
        let mut types = self.m[self.node].inputs().iter().flatten().map(|&v| self.m[v].dtype());
        let first = types.next().flatten();
        if first.is_some() && types.all(|dtype| dtype == first) { Ok(()) } else { Err(why.into()) }
    }

    fn one_shape(&self) -> Rule {
        let inputs: Vec<ValueId> = self.m[self.node].inputs().iter().flatten().copied().collect();
        let same = inputs.windows(2).all(|pair| {
            crate::matching::same_shape(self.m, pair[0], pair[1]).is_ok_and(|same| same)
        });
        if same { Ok(()) } else { Err("it broadcasts, as it could from opset 8 on".into()) }
    }

    /// Whether the operators that stand for a comparison take its types.
    fn compares(&self) -> Rule {
        let dtype = self.input(0).and_then(|x| self.m[x].dtype());
        let dtype = dtype.ok_or("its types are not known")?;
        for name in ["Equal", "Greater", "Less"] {
            let def = onnxfix_ir::op::find("", name).ok_or("the operator is not known")?;
            if let Some(version) = def.gains(dtype, self.to) {
                return Err(format!("{name} takes {dtype} from opset {version} on"));
            }
        }
        Ok(())
    }

    /// A float32 that an input is, where there is the input.
    fn float(&self, slot: usize, what: &str) -> Result<Option<f32>, String> {
        let Some(value) = self.input(slot) else { return Ok(None) };
        let floats = self.m.constant(value).and_then(|tensor| tensor.to_floats());
        let Some([x]) = floats.as_deref() else {
            return Err(format!("its {what} is not constant"));
        };
        #[expect(clippy::cast_possible_truncation, reason = "whether it fits is asked")]
        let narrow = *x as f32;
        if f64::from(narrow).total_cmp(x).is_ne() {
            return Err(format!("its {what} is no float of 32 bits"));
        }
        Ok(Some(narrow))
    }

    /// A number of the node's own type.
    fn number(&self, x: f64) -> Result<Tensor, String> {
        let dtype = self.input(0).and_then(|v| self.m[v].dtype());
        dtype
            .and_then(|dtype| Tensor::filled(dtype, &[], x))
            .ok_or_else(|| "its type is not known".into())
    }

    fn is_partial_shape(&self) -> bool {
        self.int("end").is_some() || self.int("start").is_some_and(|start| start != 0)
    }

    /// The axis along which the node works in the other opset; none where there is no such axis.
    ///
    /// Until opset 13 all axes from `axis` on are one line, afterwards the one axis is.
    fn line_axis(&self) -> Result<Option<i64>, String> {
        let default = if self.from < 13 { 1 } else { -1 };
        let axis = self.int("axis").unwrap_or(default);
        if !self.leaves(13) && !self.reaches(13) {
            return Ok(None);
        }
        let rank = self.rank()?;
        let axis = if axis < 0 { axis + rank } else { axis };
        let shape = self.input(0).and_then(|x| self.m[x].shape()).ok_or("its rank is not known")?;
        let at = usize::try_from(axis).ok().filter(|&at| at < shape.rank());
        let at = at.ok_or("its axis is behind the last one")?;
        let long = |i: &usize| shape.0[*i].fixed() != Some(1);
        let line: Vec<usize> = (at..shape.rank()).filter(long).collect();
        let along = match line[..] {
            [] => Some(axis),
            [one] if self.reaches(13) => Some(one as i64),
            [one] if one == at => Some(axis),
            _ => None,
        };
        Ok(along.map(|axis| if self.to < NEGATIVE_AXES { axis } else { axis - rank }))
    }
}

fn first_input(m: &Model, node: NodeId) -> Result<ValueId, Miss> {
    m[node].input(0).ok_or(Miss::NoMatch)
}

/// `x · max(0, min(1, x/6 + ½))`
fn hard_swish(m: &Model, node: NodeId) -> Result<Patch, Miss> {
    let (x, y) = (first_input(m, node)?, crate::matching::output(m, node)?);
    if dtype_of(m, x)? == onnxfix_ir::DataType::Double {
        return crate::unmet("a sixth as an attribute has 32 bits, the operator 64");
    }
    let mut patch = Patch::new(m, node);
    let sixth = AttrValue::Float(1.0 / 6.0);
    let gate = patch.node_with(
        "HardSigmoid",
        &[x.into()],
        attrs([("alpha", sixth), ("beta", AttrValue::Float(0.5))]),
    );
    let product = patch.node("Mul", &[x.into(), gate]);
    patch.replace(y, product);
    Ok(patch)
}

/// `a > b or a = b`, which unlike `not a < b` is false for NaN.
fn or_equal(m: &Model, node: NodeId) -> Result<Patch, Miss> {
    let (a, y) = (first_input(m, node)?, crate::matching::output(m, node)?);
    let b = m[node].input(1).ok_or(Miss::NoMatch)?;
    let strict = if m[node].op().is("GreaterOrEqual") { "Greater" } else { "Less" };
    let mut patch = Patch::new(m, node);
    let strict = patch.node(strict, &[a.into(), b.into()]);
    let equal = patch.node("Equal", &[a.into(), b.into()]);
    let either = patch.node("Or", &[strict, equal]);
    patch.replace(y, either);
    Ok(patch)
}

/// A Trilu as a choice by a constant triangle.
pub(crate) fn triangle(m: &Model, node: NodeId) -> Result<Patch, Miss> {
    let (x, y) = (first_input(m, node)?, crate::matching::output(m, node)?);
    let dtype = dtype_of(m, x)?;
    let mut patch = Patch::new(m, node);
    let diagonal = match m[node].input(1) {
        None => Some(0),
        Some(k) => m.constant(k).and_then(|tensor| tensor.to_ints()?.first().copied()),
    };
    let Some(diagonal) = diagonal else { return crate::unmet("its diagonal is not constant") };
    let shape = &crate::matching::shape(m, x)?.0;
    let last: Vec<i64> = shape.iter().rev().take(2).filter_map(Dim::fixed).collect();
    let &[columns, rows] = last.as_slice() else {
        return crate::unmet("the last two dimensions are not static");
    };
    let select = onnxfix_ir::op::find("", "Where").ok_or(Miss::NoMatch)?;
    if let Some(version) = select.gains(dtype, patch.opset()) {
        return crate::unmet(format!("Where takes {dtype} from opset {version} on"));
    }
    let is_upper = m[node].attrs.int("upper").unwrap_or(1) != 0;
    let is_kept = |row: i64, column: i64| {
        let at = (column - row).cmp(&diagonal);
        if is_upper { at.is_ge() } else { at.is_le() }
    };
    let kept: Vec<bool> = (0..rows)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| is_kept(row, column))
        .collect();
    let kept = patch.constant(Tensor::new(&[rows, columns], kept));
    let result = if dtype == DataType::Bool {
        patch.node("And", &[x.into(), kept])
    } else {
        let bytes = dtype.byte_len(1).and_then(|bytes| usize::try_from(bytes).ok());
        let zero = vec![0; bytes.ok_or(Miss::NoMatch)?];
        let zero = Tensor::from_raw(dtype, &[], zero.into()).map_err(|_| Miss::NoMatch)?;
        let zero = patch.constant(zero);
        patch.node("Where", &[kept, x.into(), zero])
    };
    patch.replace(y, result);
    Ok(patch)
}

fn cast_like(m: &Model, node: NodeId) -> Result<Patch, Miss> {
    let (x, y) = (first_input(m, node)?, crate::matching::output(m, node)?);
    let like = m[node].input(1).ok_or(Miss::NoMatch)?;
    let mut patch = Patch::new(m, node);
    let cast = patch.cast(x.into(), dtype_of(m, like)?);
    patch.replace(y, cast);
    Ok(patch)
}

/// The two names of one operator, to and fro.
fn scatter(m: &Model, node: NodeId) -> Result<Patch, Miss> {
    let y = crate::matching::output(m, node)?;
    let mut operands = Vec::with_capacity(3);
    for slot in 0..3 {
        operands.push(crate::matching::input(m, node, slot)?.into());
    }
    let axis = m[node].attrs.int("axis").unwrap_or(0);
    let rank = crate::matching::shape(m, first_input(m, node)?)?.rank() as i64;
    let axis = if axis < 0 { axis + rank } else { axis };
    let name = if m[node].op().is("Scatter") { "ScatterElements" } else { "Scatter" };
    let mut patch = Patch::new(m, node);
    let scattered = patch.node_with(name, &operands, attrs([("axis", axis.into())]));
    patch.replace(y, scattered);
    Ok(patch)
}

fn partial_shape(m: &Model, node: NodeId) -> Result<Patch, Miss> {
    let (x, y) = (first_input(m, node)?, crate::matching::output(m, node)?);
    let start = m[node].attrs.int("start").unwrap_or(0);
    let end = m[node].attrs.int("end").unwrap_or(i64::MAX);
    let mut patch = Patch::new(m, node);
    let shape = patch.node("Shape", &[x.into()]);
    let part = patch.slice(shape, 0, start, end);
    patch.replace(y, part);
    Ok(patch)
}

/// The old form works on rows, from an axis on, so this axis goes to the end and back.
fn softmax_at_the_end(m: &Model, node: NodeId) -> Result<Patch, Miss> {
    let (x, y) = (first_input(m, node)?, crate::matching::output(m, node)?);
    let rank = crate::matching::shape(m, x)?.rank() as i64;
    let axis = m[node].attrs.int("axis").unwrap_or(-1).rem_euclid(rank.max(1));
    let last = rank - 1;
    let there: Vec<i64> = (0..rank).filter(|&a| a != axis).chain([axis]).collect();
    let back: Vec<i64> = (0..axis).chain([last]).chain(axis..last).collect();
    let mut patch = Patch::new(m, node);
    let x = patch.transpose(x.into(), &there);
    let op = softmax_name(m, node);
    let rows = patch.node_with(op, &[x], attrs([("axis", last.into())]));
    let rows = patch.transpose(rows, &back);
    patch.replace(y, rows);
    Ok(patch)
}

/// The new form works along one axis, so all axes of a line become one.
fn softmax_of_rows(m: &Model, node: NodeId) -> Result<Patch, Miss> {
    let (x, y) = (first_input(m, node)?, crate::matching::output(m, node)?);
    let rank = crate::matching::shape(m, x)?.rank() as i64;
    let axis = m[node].attrs.int("axis").unwrap_or(1);
    let axis = if axis < 0 { axis + rank } else { axis };
    let mut patch = Patch::new(m, node);
    let flat = patch.node_with("Flatten", &[x.into()], attrs([("axis", axis.into())]));
    let op = softmax_name(m, node);
    let rows = patch.node_with(op, &[flat], attrs([("axis", (-1).into())]));
    let result: Operand = match m[x].dims() {
        Some(dims) if !dims.contains(&0) => patch.reshape(rows, &dims),
        _ if m[x].shape().is_some_and(|s| s.0.iter().all(|d| d.fixed() != Some(0))) => {
            let shape = patch.node("Shape", &[x.into()]);
            patch.node("Reshape", &[rows, shape])
        }
        _ => return crate::unmet("it has no elements"),
    };
    patch.replace(y, result);
    Ok(patch)
}

fn softmax_name(m: &Model, node: NodeId) -> &'static str {
    let names = ["Softmax", "LogSoftmax", "Hardmax"];
    names.into_iter().find(|name| m[node].op().is(name)).unwrap_or("Softmax")
}
