//! What an operator has to do, in units that do not depend on how well a chip does it.

use onnxfix_ir::{DataType, Model, NodeId, ValueId};

use super::cache::{Cache, Traffic};
use super::operators::{Kind, Operator, Operators, is_elementwise, is_half};
use super::{CostError, Unit};
use crate::platform::{Platform, TILE};

/// What an operator has to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Work {
    pub(super) unit: Unit,
    /// Products of two tiles of 16×16, padding included.
    pub(super) tiles: f64,
    /// Tiles of the result: no more cores than that can share the work.
    pub(super) blocks: f64,
    /// Elements that go through a vector unit, each counted once for every instruction.
    pub(super) lanes: f64,
    /// Elements that are moved one after the other.
    pub(super) scalars: f64,
    /// Elements that the AI CPUs work on.
    pub(super) ai_cpu: f64,
    /// Bytes read and written.
    pub(super) traffic: Traffic,
    /// Multiplications and additions of products, padding not included.
    pub(super) flops: f64,
    /// Whether it is one product for each of many matrices whose rows are no whole tiles, as attention has them where the
    /// length of the sequence is no multiple of 16.
    pub(super) is_ragged: bool,
    /// By which factor the time may be less; by which it may be more, up to [`AI_CPU_UNSURE`]. 1 where published figures
    /// say how much it is.
    pub(super) unsure: f64,
}

/// Elements gathered one by one: one sample has them, and its other batches are predicted well.
const GATHER_UNSURE: f64 = 2.0;
/// Nothing is published that tells how fast the AI CPUs are.
pub(super) const AI_CPU_UNSURE: f64 = 3.0;
/// A Gather of single elements is taken for as slow as `GatherElements`. No published figure has one, and a kernel that
/// used the vector units for it would take next to no time.
const SHORT_RUNS_UNSURE: f64 = 100.0;

/// Bytes of weights above which `GatherElements` goes to the AI CPUs unless it is along the last axis, with
/// [`GATHER_INDICES`] or more indices (`gather_elements.py` of CANN 8.1).
const GATHER_BYTES: f64 = 3000.0 * 1024.0;
/// See [`GATHER_BYTES`].
const GATHER_INDICES: f64 = 2048.0;
/// Bytes of a core's vector buffer that `GatherElements` leaves free.
const GATHER_RESERVE: f64 = 2048.0;
/// Bytes that a core moves at once. Shorter runs are moved element by element.
const MOVE: f64 = 32.0;
/// A vector unit gathers this many elements per cycle (one block of 32 bytes holds 16 of float16).
const GATHERED_PER_CYCLE: f64 = 8.0;

/// Operators that only the AI CPUs run, whatever the type (aic-ascend310p-ops-info.json of CANN 8.1).
const AI_CPU: &[&str] =
    &["ScatterElements", "Scatter", "IsNaN", "Xor", "NonZero", "Unique", "Trilu"];
/// Operators that the AI Cores do not run on int64.
const NOT_INT64: &[&str] = &["Expand", "Div", "Pow", "Mod", "Abs", "Neg", "Sign", "CumSum", "Pad"];
/// Operators that the AI Cores do not run on bool.
const NOT_BOOL: &[&str] = &["GatherElements", "Pad", "Where"];

/// Vector instructions per element, counted from the formulas; what an instruction takes is fitted.
fn instructions(op: &str) -> f64 {
    match op {
        "Div" | "Sqrt" | "Reciprocal" | "Exp" | "Log" => 4.0,
        "Pow" | "Tanh" | "Sigmoid" | "Sin" | "Cos" | "Gelu" => 8.0,
        "Erf" => 20.0,
        _ => 1.0,
    }
}
/// Maximum, difference, exponential, sum, quotient.
const SOFTMAX: f64 = 10.0;
/// Two sums, difference, square, quotient, scale, bias.
const LAYER_NORM: f64 = 10.0;
/// Turning tiles of 16×16.
const TURN: f64 = 2.0;

/// What the work of one model is asked of.
pub(super) struct Worker<'m> {
    pub(super) m: &'m Model,
    pub(super) operators: &'m Operators<'m>,
    pub(super) platform: &'m Platform,
    pub(super) cache: Cache,
}

impl Worker<'_> {
    /// What an operator has to do. Operators have to be asked for in the order in which they run.
    pub(super) fn work(&mut self, operator: &Operator) -> Result<Work, CostError> {
        let mut work = self.compute(operator)?;
        let (reads, writes) = self.operands(operator);
        for (value, bytes) in reads {
            let base = self.operators.base(value);
            let size = self.bytes(base).max(self.bytes(value));
            let traffic = self.cache.read(base, bytes, size);
            work.traffic.memory += traffic.memory;
            work.traffic.cache += traffic.cache;
        }
        for value in writes {
            let traffic = self.cache.write(value, self.bytes(value));
            work.traffic.memory += traffic.memory;
            work.traffic.cache += traffic.cache;
        }
        Ok(work)
    }

    /// Bytes of the constants of floats and integers that operators read.
    pub(super) fn weight_bytes(&self) -> f64 {
        let operators = &self.operators;
        let mut weights: Vec<ValueId> = operators
            .list
            .iter()
            .flat_map(|o| o.nodes.iter())
            .flat_map(|&node| self.m[node].inputs().iter().flatten().copied())
            .filter(|v| operators.is_constant(*v))
            .collect();
        weights.sort_unstable();
        weights.dedup();
        weights.into_iter().map(|v| self.bytes(v)).sum()
    }

    fn compute(&self, operator: &Operator) -> Result<Work, CostError> {
        let root = operator.root;
        let op = &self.m[root].op().name;
        let mut work = Work {
            unit: Unit::Vector,
            tiles: 0.0,
            blocks: 0.0,
            lanes: 0.0,
            scalars: 0.0,
            ai_cpu: 0.0,
            traffic: Traffic::default(),
            flops: 0.0,
            is_ragged: false,
            unsure: 1.0,
        };
        if self.is_on_ai_cpu(operator) {
            work.unit = Unit::AiCpu;
            work.unsure = AI_CPU_UNSURE;
            work.ai_cpu =
                operator.nodes.iter().map(|&n| self.elements_out(n).max(self.elements_in(n))).sum();
            return Ok(work);
        }
        match (operator.kind, &**op) {
            (Kind::LayerNorm, _) | (_, "LayerNormalization") => {
                work.lanes = LAYER_NORM * self.padded_rows(operator);
            }
            (Kind::Gelu, _) => work.lanes = instructions("Gelu") * self.elements_out(root),
            (_, "MatMul" | "Gemm") => self.product(root, &mut work)?,
            (_, "Conv") => self.convolution(root, &mut work)?,
            (_, "GatherElements") => self.gather_elements(root, &mut work)?,
            (_, "Gather" | "GatherND") => {
                work.lanes = self.elements_out(root);
                if self.gathered_run(root) < MOVE {
                    work.unit = Unit::Scalar;
                    work.unsure = SHORT_RUNS_UNSURE;
                    work.scalars = self.elements_out(root);
                }
            }
            (_, "Softmax" | "LogSoftmax") => work.lanes = SOFTMAX * self.padded_rows(operator),
            (_, "Transpose") => work.lanes = TURN * self.elements_out(root),
            _ if is_elementwise(self.m, root) => {}
            (_, name) if name.starts_with("Reduce") => work.lanes = self.elements_in(root),
            _ => work.lanes = self.elements_out(root),
        }
        if operator.kind == Kind::Root {
            let along = operator.nodes.iter().filter(|&&n| is_elementwise(self.m, n));
            let sum: f64 =
                along.map(|&n| self.elements_out(n) * instructions(&self.m[n].op().name)).sum();
            work.lanes += sum;
        }
        Ok(work)
    }

    /// Whether an operator is none that the AI Cores run on its types.
    fn is_on_ai_cpu(&self, operator: &Operator) -> bool {
        operator.nodes.iter().any(|&node| {
            let n = &self.m[node];
            let name = &*n.op().name;
            let reads =
                |dtype| n.inputs().iter().flatten().any(|&v| self.m[v].dtype() == Some(dtype));
            let first = n.input(0).and_then(|v| self.m[v].dtype());
            let chosen =
                if name == "Where" { n.input(1).and_then(|v| self.m[v].dtype()) } else { first };
            let gathers = name == "GatherElements" && self.gather_is_refused(node);
            n.op().def.is_none()
                || !n.op().domain().is_empty()
                || AI_CPU.contains(&name)
                || reads(DataType::Double)
                || (NOT_INT64.contains(&name) && chosen == Some(DataType::Int64))
                || (NOT_BOOL.contains(&name) && chosen == Some(DataType::Bool))
                || (["MatMul", "Gemm"].contains(&name) && !first.is_some_and(is_half))
                || gathers
        })
    }

    /// Whether `GatherElements` is along the last axis, the other axes equal, with rows that fit a core's buffer.
    fn gathers_in_rows(&self, node: NodeId) -> Option<bool> {
        let n = &self.m[node];
        let (data, index) = (n.input(0)?, n.input(1)?);
        let (from, to) = (self.m[data].dims()?, self.m[index].dims()?);
        let axis = n.attrs.int("axis").unwrap_or(0);
        let last = axis == -1 || axis + 1 == from.len() as i64;
        let (Some((&x, from)), Some((&i, to))) = (from.split_last(), to.split_last()) else {
            return None;
        };
        let (sx, si) = (self.element(data), self.element(index));
        // Rows are repeated until they end with a block of 32 bytes.
        let repeat = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
            .into_iter()
            .find(|k| (k * x as f64 * sx) % MOVE < 1.0 && (k * i as f64 * sx) % MOVE < 1.0)
            .unwrap_or(32.0);
        let needs = repeat * (x as f64 * sx + i as f64 * (sx + si));
        let fits = needs < self.platform.buffer_bytes as f64 - GATHER_RESERVE;
        Some(last && from == to && fits)
    }

    /// Whether the AI Core operator refuses a `GatherElements`.
    fn gather_is_refused(&self, node: NodeId) -> bool {
        let [data, index] = [self.m[node].input(0), self.m[node].input(1)];
        let (Some(data), Some(index)) = (data, index) else { return true };
        let large = self.bytes(data) >= GATHER_BYTES && self.elements(index) >= GATHER_INDICES;
        !self.gathers_in_rows(node).unwrap_or(false) && large
    }

    fn gather_elements(&self, node: NodeId, work: &mut Work) -> Result<(), CostError> {
        let index = self.input(node, 1)?;
        let data = self.input(node, 0)?;
        let count = self.elements(index);
        let vector = self.gathers_in_rows(node).unwrap_or(false)
            && self.m[index].dtype() == Some(DataType::Int32)
            && self.m[data].dtype().is_some_and(is_half);
        if vector {
            work.lanes = count * self.platform.vector_lanes as f64 / GATHERED_PER_CYCLE;
        } else {
            work.unit = Unit::Scalar;
            work.unsure = GATHER_UNSURE;
            work.scalars = count;
        }
        Ok(())
    }

    /// Bytes of one contiguous run that a Gather moves.
    fn gathered_run(&self, node: NodeId) -> f64 {
        let Some(data) = self.m[node].input(0) else { return MOVE };
        let Some(dims) = self.m[data].dims() else { return MOVE };
        let run = if self.m[node].op().is("Gather") {
            let axis = self.m[node].attrs.int("axis").unwrap_or(0);
            let axis = if axis < 0 { axis + dims.len() as i64 } else { axis };
            usize::try_from(axis).unwrap_or(0) + 1
        } else {
            let index = self.m[node].input(1).and_then(|v| self.m[v].dims()).unwrap_or_default();
            index.last().and_then(|&d| usize::try_from(d).ok()).unwrap_or(0)
        };
        dims.iter().skip(run).map(|&d| d as f64).product::<f64>() * self.element(data)
    }

    fn product(&self, node: NodeId, work: &mut Work) -> Result<(), CostError> {
        let n = &self.m[node];
        let (left, right, y) = (self.input(node, 0)?, self.input(node, 1)?, self.output(node)?);
        let (a, b) = (self.dims(left), self.dims(right));
        let turned = |name: &str| n.op().is("Gemm") && n.attrs.int(name) == Some(1);
        let size = |dims: &[f64], from_end: usize| match dims.len().checked_sub(from_end) {
            Some(at) => dims[at],
            None => 1.0,
        };
        let k = if turned("transA") { size(&a, 2) } else { size(&a, 1) };
        let columns = if b.len() < 2 { 1.0 } else { size(&b, 1) };
        let columns = if turned("transB") { size(&b, 2) } else { columns };
        let rows = self.elements(y) / columns.max(1.0);
        // One product of many rows where all share the second factor, else one for each matrix.
        let batch: f64 = b.iter().rev().skip(2).product();
        let batch = if b.len() > 2 { batch.max(1.0) } else { 1.0 };
        let batch = batch.min(rows.max(1.0));
        Worker::in_tiles(work, batch, rows / batch, k, columns);
        Ok(())
    }

    fn convolution(&self, node: NodeId, work: &mut Work) -> Result<(), CostError> {
        let (weight, y) = (self.input(node, 1)?, self.output(node)?);
        let (w, out) = (self.dims(weight), self.dims(y));
        let [channels, per_group, ref kernel @ ..] = w[..] else { return Ok(()) };
        let taps: f64 = kernel.iter().product();
        let groups = self.m[node].attrs.int("group").unwrap_or(1).max(1) as f64;
        let rows = self.elements(y) / out.get(1).copied().unwrap_or(1.0).max(1.0);
        // Channels are stored in blocks of 16; groups of fewer share one, with zeros for what is not theirs.
        let tile = TILE as f64;
        let shared = (tile / per_group.max(1.0)).floor().clamp(1.0, groups);
        let depth = taps * (shared * per_group / tile).ceil() * tile;
        Worker::in_tiles(work, groups / shared, rows, depth, shared * channels / groups);
        work.flops = 2.0 * self.elements(y) * per_group * taps;
        Ok(())
    }

    fn in_tiles(work: &mut Work, batch: f64, rows: f64, depth: f64, columns: f64) {
        let tiles = |n: f64| (n / TILE as f64).ceil();
        work.unit = Unit::Cube;
        work.blocks = batch * tiles(rows) * tiles(columns);
        work.tiles = work.blocks * tiles(depth);
        work.flops = 2.0 * batch * rows * depth * columns;
        work.is_ragged = batch > 1.0 && rows > TILE as f64 && rows % TILE as f64 > 0.0;
    }

    /// What an operator reads, with the bytes of it, and what it writes for others.
    fn operands(&self, operator: &Operator) -> (Vec<(ValueId, f64)>, Vec<ValueId>) {
        let inside = |v: ValueId| self.m.producer(v).is_some_and(|n| operator.nodes.contains(&n));
        let mut reads: Vec<(ValueId, f64)> = Vec::new();
        let mut writes = Vec::new();
        for &node in &operator.nodes {
            let n = &self.m[node];
            for &value in n.inputs().iter().flatten() {
                let value = self.read_through(value);
                if !inside(value) && !reads.iter().any(|(read, _)| *read == value) {
                    reads.push((value, self.bytes_read(node, value)));
                }
            }
            for &value in n.outputs().iter().flatten() {
                let outside = |n: NodeId| !operator.nodes.contains(&n);
                if self.m.is_output(value) || self.m.users(value).any(outside) {
                    writes.push(value);
                }
            }
        }
        (reads, writes)
    }

    /// The value itself, or what a Transpose that costs nothing turns.
    fn read_through(&self, value: ValueId) -> ValueId {
        if self.operators.is_constant(value) { value } else { self.operators.base(value) }
    }

    /// Bytes that a node reads of one of its inputs: a Gather and a Slice read what they give.
    fn bytes_read(&self, node: NodeId, value: ValueId) -> f64 {
        let n = &self.m[node];
        let all = self.bytes(value);
        let picks = ["Gather", "GatherND", "Slice"].iter().any(|op| n.op().is(op));
        let first = n.input(0).map(|v| self.read_through(v));
        match n.output(0) {
            Some(y) if picks && first == Some(value) => self.bytes(y).min(all),
            _ => all,
        }
    }

    /// Elements of what is normalized, each row filled up to whole blocks.
    fn padded_rows(&self, operator: &Operator) -> f64 {
        let last = operator.nodes.last().copied().unwrap_or(operator.root);
        let Some(y) = self.m[last].output(0) else { return 0.0 };
        let dims = self.dims(y);
        let block = MOVE / self.element(y);
        let axis = self.m[operator.root].attrs.int("axis").unwrap_or(-1);
        let at = if axis < 0 { axis + dims.len() as i64 } else { axis };
        let along = usize::try_from(at).ok().and_then(|at| dims.get(at)).copied().unwrap_or(1.0);
        if along < 1.0 {
            return 0.0;
        }
        self.elements(y) / along * (along / block).ceil() * block
    }

    fn elements_out(&self, node: NodeId) -> f64 {
        self.m[node].outputs().iter().flatten().map(|&v| self.elements(v)).sum()
    }

    fn elements_in(&self, node: NodeId) -> f64 {
        self.m[node].input(0).map_or(0.0, |v| self.elements(v))
    }

    fn elements(&self, value: ValueId) -> f64 {
        self.dims(value).iter().product()
    }

    fn dims(&self, value: ValueId) -> Vec<f64> {
        self.m[value].dims().unwrap_or_default().iter().map(|&d| d as f64).collect()
    }

    /// Bytes of one element as it is stored.
    fn element(&self, value: ValueId) -> f64 {
        match self.m[value].dtype() {
            Some(dtype) if is_half(dtype) => 2.0,
            Some(dtype) => dtype.bits() as f64 / 8.0,
            None => 2.0,
        }
    }

    fn bytes(&self, value: ValueId) -> f64 {
        self.elements(value) * self.element(value)
    }

    fn input(&self, node: NodeId, slot: usize) -> Result<ValueId, CostError> {
        let missing = || CostError::Malformed { node: self.m.describe(node) };
        self.m[node].input(slot).ok_or_else(missing)
    }

    fn output(&self, node: NodeId) -> Result<ValueId, CostError> {
        let missing = || CostError::Malformed { node: self.m.describe(node) };
        self.m[node].output(0).ok_or_else(missing)
    }
}
