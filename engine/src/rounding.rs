//! Float16 on a machine that has none of it: everything is computed in float32, and each value is rounded to float16
//! before anything reads it.
//!
//! So the numbers are those of a chip that stores float16 and sums in float32, as matrix units do. It is rounding that is
//! simulated, not a chip: inside of one operator (a softmax, a normalization) everything stays float32, float16 numbers
//! below 2⁻¹⁴ keep what digits they have, and the order of a sum is tract's.
//!
//! A value `v` of the file is what readers see: rounded. What is before the rounding is `v (float32)`, which nodes that
//! stay in float32 read where it was made by another such node, is an input or a constant.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tract_onnx::Onnx;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, attribute_proto::AttributeType,
    tensor_proto, type_proto,
};
use tract_onnx::prelude::{DatumType, Tensor as TractTensor};
use tract_onnx::tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp};
use tract_onnx::tract_hir::internal::{Expansion, InferenceModel, TractResult};
use tract_onnx::tract_hir::ops::element_wise::{
    ElementWiseIntoHir, ElementWiseOp as InferenceElementWise,
};

use super::weights::Weight;

/// The operator that rounds. No exporter writes it.
const ROUND: &str = "OnnxfixRoundToFloat16";
/// Attribute of [`ROUND`]: which value it rounds.
const SITE: &str = "site";
/// What is behind the name of a value before it was rounded.
const WIDE: &str = " (float32)";

/// Operators that only move elements: what they read is rounded already.
const MOVES: [&str; 13] = [
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// A value that was rounded to float16, and what came of it over all runs so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounded {
    /// Name of the value.
    pub value: String,
    /// Name of the node that makes it; that of its first output where it has none; empty for an input or a constant.
    pub node: String,
    /// Elements that were finite and are beyond ±65504, so that float16 makes infinity of them.
    pub overflowed: u64,
    /// Elements that were infinite in float32 already.
    pub infinite: u64,
    /// Elements that are no number.
    pub nan: u64,
    /// Elements other than 0 that float16 makes 0 of.
    pub vanished: u64,
    /// The largest finite magnitude before rounding.
    pub largest: f32,
}

/// What rounding did to one value.
#[derive(Debug, Default)]
pub(super) struct Counts {
    overflowed: AtomicU64,
    infinite: AtomicU64,
    nan: AtomicU64,
    vanished: AtomicU64,
    /// Bits of the largest magnitude: those of numbers that are not negative are ordered as the numbers are.
    largest: AtomicU32,
}

/// Values that are rounded, in the order of the graph.
#[derive(Debug, Default)]
pub(super) struct Sites(Vec<Site>);

#[derive(Debug)]
struct Site {
    value: String,
    node: String,
    counts: Vec<Arc<Counts>>,
}

impl Sites {
    pub(super) fn counted(&self) -> Vec<Rounded> {
        let one = |site: &Site| {
            let sum = |of: fn(&Counts) -> &AtomicU64| {
                site.counts.iter().map(|c| of(c).load(Ordering::Relaxed)).sum()
            };
            let largest = site.counts.iter().map(|c| c.largest.load(Ordering::Relaxed)).max();
            Rounded {
                value: site.value.clone(),
                node: site.node.clone(),
                overflowed: sum(|c| &c.overflowed),
                infinite: sum(|c| &c.infinite),
                nan: sum(|c| &c.nan),
                vanished: sum(|c| &c.vanished),
                largest: f32::from_bits(largest.unwrap_or(0)),
            }
        };
        self.0.iter().map(one).collect()
    }

    /// Finds the counters of the operators that the parser made.
    pub(super) fn find(&mut self, model: &InferenceModel) {
        for node in model.nodes() {
            let op = node.op_as::<Box<dyn Expansion>>();
            let op = op.and_then(|op| op.as_any().downcast_ref::<InferenceElementWise>());
            let Some(op) = op.and_then(|op| op.0.downcast_ref::<Round>()) else { continue };
            if let Some(site) = self.0.get_mut(op.site) {
                site.counts.push(Arc::clone(&op.counts));
            }
        }
    }

    fn add(&mut self, value: &str, node: &str) -> usize {
        let site = Site { value: value.to_owned(), node: node.to_owned(), counts: Vec::new() };
        self.0.push(site);
        self.0.len() - 1
    }
}

/// The name by which the file calls a value.
pub(super) fn name_in_file(name: &str) -> &str {
    name.strip_suffix(WIDE).unwrap_or(name)
}

/// Makes the parser know the operator that rounds.
pub(super) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert(ROUND, |_, node| {
        let site = node.attribute.iter().find(|a| a.name == SITE).map_or(0, |a| a.i);
        let round = Round { site: usize::try_from(site)?, counts: Arc::default() };
        Ok((ElementWiseOp(Box::new(round), None).into_hir(), Vec::new()))
    });
}

/// Lets a model round every float that it computes, is given or has as a constant. Nodes of the names in `keep` stay in
/// float32; they read rounded what others made.
pub(super) fn insert(model: &mut ModelProto, weights: &mut [Weight], keep: &[String]) -> Sites {
    let keep: HashSet<&str> = keep.iter().map(String::as_str).collect();
    let mut sites = Sites::default();
    if let Some(graph) = &mut model.graph {
        widen(graph);
        insert_into(graph, weights, &keep, &mut sites, true);
    }
    sites
}

/// What one weight becomes when it is read: none where a node of the graph rounds it.
pub(super) type Rounder = Option<Arc<Counts>>;

/// A weight as the model computes with it.
pub(super) fn weight(tensor: TractTensor, rounder: &Rounder) -> TractResult<TractTensor> {
    if !matches!(tensor.datum_type(), DatumType::F32 | DatumType::F16) {
        return Ok(tensor);
    }
    let mut tensor = tensor.cast_to_dt(DatumType::F32)?.into_owned();
    if let Some(counts) = rounder {
        round_all(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?, counts);
    }
    Ok(tensor)
}

/// What others than the kept nodes read: a constant that only nodes in float32 read never becomes a float16. None where there
/// are bodies, which may read anything.
fn read_rounded(graph: &GraphProto, kept: &dyn Fn(&NodeProto) -> bool) -> Option<HashSet<String>> {
    let mut attributes = graph.node.iter().flat_map(|n| &n.attribute);
    if attributes.any(|a| a.g.is_some() || !a.graphs.is_empty()) {
        return None;
    }
    let nodes = graph.node.iter().filter(|n| !kept(n)).flat_map(|n| n.input.iter().cloned());
    Some(nodes.chain(graph.output.iter().map(|o| o.name.clone())).collect())
}

fn insert_into(
    graph: &mut GraphProto,
    weights: &mut [Weight],
    keep: &HashSet<&str>,
    sites: &mut Sites,
    outermost: bool,
) {
    let kept = |node: &NodeProto| !node.name.is_empty() && keep.contains(node.name.as_str());
    let mut wide: HashSet<String> = HashSet::new();
    let read_wide: HashSet<String> =
        graph.node.iter().filter(|n| kept(n)).flat_map(|n| n.input.iter().cloned()).collect();
    let read_rounded = read_rounded(graph, &kept);
    let is_rounded = |name: &str| read_rounded.as_ref().is_none_or(|read| read.contains(name));
    let mut nodes = Vec::with_capacity(2 * graph.node.len());

    let constants: HashSet<String> = graph.initializer.iter().map(|t| t.name.clone()).collect();
    for input in &mut graph.input {
        if outermost && is_float(input) && !constants.contains(&input.name) {
            let name = input.name.clone();
            input.name += WIDE;
            nodes.push(round(&name, "", sites));
            wide.insert(name);
        }
    }
    for tensor in &mut graph.initializer {
        let listed = graph.input.iter().any(|input| input.name == tensor.name);
        if tensor.data_type != tensor_proto::DataType::Float as i32 {
            continue;
        }
        if read_wide.contains(&tensor.name) && !listed {
            let name = tensor.name.clone();
            tensor.name += WIDE;
            if is_rounded(&name) {
                nodes.push(round(&name, "", sites));
            }
            wide.insert(name);
        } else {
            let site = sites.add(&tensor.name, "");
            sites.0[site].counts.push(Arc::new(round_tensor(tensor)));
        }
    }
    for weight in weights {
        let is_float = [tensor_proto::DataType::Float, tensor_proto::DataType::Float16]
            .iter()
            .any(|&float| weight.proto.data_type == float as i32);
        if is_float && read_wide.contains(&weight.name) {
            let name = weight.name.clone();
            weight.name += WIDE;
            if is_rounded(&name) {
                nodes.push(round(&name, "", sites));
            }
            wide.insert(name);
        } else if is_float {
            let site = sites.add(&weight.name, "");
            let counts = Arc::default();
            sites.0[site].counts.push(Arc::clone(&counts));
            weight.rounder = Some(counts);
        }
    }
    for mut node in std::mem::take(&mut graph.node) {
        let is_kept = kept(&node);
        if is_kept {
            for input in node.input.iter_mut().filter(|name| wide.contains(*name)) {
                *input += WIDE;
            }
        }
        for attribute in &mut node.attribute {
            for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                insert_into(body, &mut [], keep, sites, false);
            }
        }
        let mut after = Vec::new();
        let constant = node.attribute.iter_mut().find_map(|a| a.t.as_mut()).filter(|t| {
            node.op_type == "Constant" && t.data_type == tensor_proto::DataType::Float as i32
        });
        let is_read_wide = node.output.iter().any(|name| read_wide.contains(name));
        if let Some(tensor) = constant.filter(|_| !is_read_wide) {
            let value = node.output.first().map_or("", String::as_str);
            let site = sites.add(value, &node.name);
            sites.0[site].counts.push(Arc::new(round_tensor(tensor)));
        } else if !MOVES.contains(&node.op_type.as_str()) || is_kept {
            let maker = if node.name.is_empty() {
                node.output.first().cloned().unwrap_or_default()
            } else {
                node.name.clone()
            };
            if node.name.is_empty() {
                // tract would name it after an output, which another node has the name of from here on.
                node.name.clone_from(&maker);
            }
            for output in node.output.iter_mut().filter(|name| !name.is_empty()) {
                let name = output.clone();
                *output += WIDE;
                after.push(round(&name, &maker, sites));
                if is_kept {
                    wide.insert(name);
                }
            }
        }
        nodes.push(node);
        nodes.append(&mut after);
    }
    graph.node = nodes;
}

fn is_float(input: &tract_onnx::pb::ValueInfoProto) -> bool {
    let value = input.r#type.as_ref().and_then(|t| t.value.as_ref());
    matches!(value, Some(type_proto::Value::TensorType(t))
        if t.elem_type == tensor_proto::DataType::Float as i32)
}

/// The node that rounds `value (float32)` to `value`.
fn round(value: &str, maker: &str, sites: &mut Sites) -> NodeProto {
    let site = sites.add(value, maker);
    NodeProto {
        op_type: ROUND.to_owned(),
        name: format!("{ROUND}/{site}"),
        input: vec![format!("{value}{WIDE}")],
        output: vec![value.to_owned()],
        attribute: vec![AttributeProto {
            name: SITE.to_owned(),
            r#type: AttributeType::Int as i32,
            i: site as i64,
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    }
}

fn round_tensor(tensor: &mut TensorProto) -> Counts {
    let counts = Counts::default();
    if tensor.raw_data.is_empty() {
        round_all(&mut tensor.float_data, &counts);
        return counts;
    }
    let mut floats: Vec<f32> = Vec::new();
    for bytes in tensor.raw_data.chunks_mut(4 * CHUNK) {
        floats.clear();
        floats.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
        round_all(&mut floats, &counts);
        for (bytes, float) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&floats) {
            *bytes = float.to_le_bytes();
        }
    }
    counts
}

/// Turns float16 into float32 wherever a model declares it: what is rounded after every node is what it stored in
/// float16, and sums keep their digits.
fn widen(graph: &mut GraphProto) {
    let half = tensor_proto::DataType::Float16 as i32;
    let single = tensor_proto::DataType::Float as i32;
    for input in &mut graph.input {
        let value = input.r#type.as_mut().and_then(|t| t.value.as_mut());
        if let Some(type_proto::Value::TensorType(t)) = value
            && t.elem_type == half
        {
            t.elem_type = single;
        }
    }
    graph.initializer.iter_mut().for_each(widen_tensor);
    for node in &mut graph.node {
        for attribute in &mut node.attribute {
            let is_type = matches!(attribute.name.as_str(), "to" | "dtype");
            if is_type && attribute.i == i64::from(half) {
                attribute.i = i64::from(single);
            }
            attribute.t.iter_mut().chain(&mut attribute.tensors).for_each(widen_tensor);
            attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(widen);
        }
    }
}

fn widen_tensor(tensor: &mut TensorProto) {
    if tensor.data_type != tensor_proto::DataType::Float16 as i32 {
        return;
    }
    tensor.data_type = tensor_proto::DataType::Float as i32;
    let bits: Vec<u16> = if tensor.raw_data.is_empty() {
        // The format keeps the 16 bits in the lower half of an integer.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the lower half is what is there"
        )]
        std::mem::take(&mut tensor.int32_data).into_iter().map(|n| n as u16).collect()
    } else {
        tensor.raw_data.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect()
    };
    tensor.raw_data = bits
        .into_iter()
        .flat_map(|bits| half::f16::from_bits(bits).to_f32().to_le_bytes())
        .collect();
}

#[derive(Debug, Clone)]
struct Round {
    site: usize,
    counts: Arc<Counts>,
}

impl PartialEq for Round {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.counts, &other.counts)
    }
}

impl Eq for Round {}

impl ElementWiseMiniOp for Round {
    fn name(&self) -> String {
        ROUND.to_owned()
    }

    fn eval_in_place(&self, t: &mut TractTensor, _: Option<DatumType>) -> TractResult<()> {
        // Whatever is no float passes: whether a value is one is known only now.
        if t.datum_type() == DatumType::F32 {
            round_all(t.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?, &self.counts);
        }
        Ok(())
    }
}

/// Elements between two updates of the counters, and as many as fit the first cache.
const CHUNK: usize = 4096;

fn round_all(numbers: &mut [f32], counts: &Counts) {
    for chunk in numbers.chunks_mut(CHUNK) {
        let (mut overflowed, mut infinite, mut nan, mut vanished, mut largest) = (0, 0, 0, 0, 0);
        for x in chunk {
            let magnitude = x.to_bits() & !SIGN;
            let rounded = to_half(*x);
            let after = rounded.to_bits() & !SIGN;
            let finite = magnitude < INFINITE;
            overflowed += u32::from(finite && after == INFINITE);
            infinite += u32::from(magnitude == INFINITE);
            nan += u32::from(magnitude > INFINITE);
            vanished += u32::from(magnitude != 0 && after == 0);
            largest = largest.max(if finite { magnitude } else { 0 });
            *x = rounded;
        }
        for (counter, n) in [
            (&counts.overflowed, overflowed),
            (&counts.infinite, infinite),
            (&counts.nan, nan),
            (&counts.vanished, vanished),
        ] {
            if n > 0 {
                counter.fetch_add(u64::from(n), Ordering::Relaxed);
            }
        }
        counts.largest.fetch_max(largest, Ordering::Relaxed);
    }
}

const SIGN: u32 = 1 << 31;
/// Bits of infinity; those of what is no number are above.
const INFINITE: u32 = 0x7f80_0000;
/// Bits of 2⁻¹⁴, the smallest float16 with all its digits.
const NORMAL: u32 = 0x3880_0000;
/// Bits of 2¹⁶, the first that is too large for float16.
const TOO_LARGE: u32 = 0x4780_0000;
/// Digits that a float32 has and a float16 has not.
const DROPPED: u32 = 13;

/// The nearest float16, the even one of two: by IEEE 754, without branches, so that the compiler makes vectors of it.
#[inline]
fn to_half(x: f32) -> f32 {
    let (sign, magnitude) = (x.to_bits() & SIGN, x.to_bits() & !SIGN);
    let odd = (magnitude >> DROPPED) & 1;
    let halfway = (1 << (DROPPED - 1)) - 1;
    let normal = magnitude.wrapping_add(halfway + odd) & !((1 << DROPPED) - 1);
    // A float32 between ½ and 1 counts in steps of 2⁻²⁴, as float16 does below 2⁻¹⁴.
    let small = ((f32::from_bits(magnitude) + 0.5) - 0.5).to_bits();
    let rounded = if magnitude < NORMAL { small } else { normal };
    let bounded = if rounded >= TOO_LARGE { INFINITE } else { rounded };
    f32::from_bits(sign | if magnitude > INFINITE { magnitude } else { bounded })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_as_the_type_itself_does() {
        // Every 64-th float32 below the first exponent that is too large, and what is around the borders.
        let borders = [NORMAL, TOO_LARGE, INFINITE, 0x477f_f000, 0x3300_0000, 0x3280_0000];
        let around = borders.iter().flat_map(|&b| b - 3..=b + 3);
        for bits in (0..0x4800_0000_u32).step_by(64).chain(around) {
            for bits in [bits, bits | SIGN] {
                let x = f32::from_bits(bits);
                let (ours, theirs) = (to_half(x), half::f16::from_f32(x).to_f32());
                assert!(
                    ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                    "{x:e}: {ours:e} {theirs:e}"
                );
            }
        }
    }

    #[test]
    fn counts_what_is_lost() {
        let counts = Counts::default();
        let mut numbers = [1.0, 70000.0, -1e9, f32::INFINITY, f32::NAN, 1e-9, 0.0, 65519.0];
        round_all(&mut numbers, &counts);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!(
            [of(&counts.overflowed), of(&counts.infinite), of(&counts.nan), of(&counts.vanished)],
            [2, 1, 1, 1]
        );
        assert_eq!(f32::from_bits(counts.largest.into_inner()).to_bits(), 1e9_f32.to_bits());
        assert_eq!(numbers[7].to_bits(), 65504_f32.to_bits());
    }
}
