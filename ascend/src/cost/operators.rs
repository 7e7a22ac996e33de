//! Which nodes ATC runs as one operator, and which cost nothing.

use std::collections::{HashMap, HashSet};

use onnxfix_ir::op::Class;
use onnxfix_ir::{DataType, Def, Model, NodeId, Tensor, ValueId};

/// Nodes that run as one operator.
#[derive(Debug)]
pub(super) struct Operator {
    /// The node that decides what the operator is; messages name the operator after it.
    pub(super) root: NodeId,
    /// All of its nodes, in the order of the graph.
    pub(super) nodes: Vec<NodeId>,
    /// What it is.
    pub(super) kind: Kind,
}

/// What an operator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What its root says. Nodes behind it are element-wise.
    Root,
    /// A layer normalization written out in steps that ATC recognises.
    LayerNorm,
    /// A GELU written out in steps that ATC recognises.
    Gelu,
}

/// The operators of a graph, in the order in which they run.
pub(super) struct Operators<'m> {
    m: &'m Model,
    pub(super) list: Vec<Operator>,
    /// Which values are known at compile time.
    constant: HashSet<ValueId>,
    /// The operator of a node that has one.
    owner: HashMap<NodeId, usize>,
}

/// Operators that only say differently how elements in memory are to be read.
const VIEWS: &[&str] = &["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"];

/// What GE evaluates at compile time when all inputs are constant: the host kernels of CANN 8.1
/// (`host_cpu_kernel.json`) and its own kernels, by their ONNX names. Logarithms, signs, comparisons by Less and Clip
/// are not among them.
const FOLDED: &[&str] = &[
    "Add",
    "Cast",
    "Concat",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Expand",
    "Gather",
    "Gemm",
    "Greater",
    "GreaterOrEqual",
    "MatMul",
    "Mul",
    "Neg",
    "Pad",
    "Range",
    "ReduceProd",
    "Reshape",
    "Slice",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// How far `√2` may be off for ATC to take a division by it for a part of a GELU.
const SQRT_2_TOLERANCE: f64 = 1e-5;

impl<'m> Operators<'m> {
    pub(super) fn of(m: &'m Model) -> Operators<'m> {
        let mut found =
            Operators { m, list: Vec::new(), constant: HashSet::new(), owner: HashMap::new() };
        for (id, value) in m.all_values() {
            if matches!(value.def(), Def::Initializer(_)) {
                found.constant.insert(id);
            }
        }
        let nodes: Vec<NodeId> = m.nodes(m.root()).collect();
        for &node in &nodes {
            if found.is_folded(node) {
                found.constant.extend(m[node].outputs().iter().flatten());
            }
        }
        for &node in &nodes {
            if let Some(operator) = found.layer_norm(node).or_else(|| found.gelu(node)) {
                found.push(operator);
            }
        }
        for &node in &nodes {
            if found.owner.contains_key(&node) || found.is_free(node) {
                continue;
            }
            match found.joins(node) {
                Some(at) => {
                    found.list[at].nodes.push(node);
                    found.owner.insert(node, at);
                }
                None => {
                    found.push(Operator { root: node, nodes: vec![node], kind: Kind::Root });
                }
            }
        }
        let position: HashMap<NodeId, usize> =
            nodes.iter().enumerate().map(|(at, &node)| (node, at)).collect();
        for operator in &mut found.list {
            operator.nodes.sort_unstable_by_key(|node| position[node]);
        }
        // An operator runs when the last of its inputs is there.
        found.list.sort_by_key(|o| o.nodes.last().map(|node| position[node]));
        for (at, operator) in found.list.iter().enumerate() {
            found.owner.extend(operator.nodes.iter().map(|&node| (node, at)));
        }
        found
    }

    /// The operator that a node is part of; none where it costs nothing.
    pub(super) fn owner(&self, node: NodeId) -> Option<usize> {
        self.owner.get(&node).copied()
    }

    /// Whether a value is known at compile time.
    pub(super) fn is_constant(&self, value: ValueId) -> bool {
        self.constant.contains(&value)
    }

    /// The value whose memory a value is a view of.
    pub(super) fn base(&self, mut value: ValueId) -> ValueId {
        while let Some(node) = self.m.producer(value)
            && !self.is_constant(value)
            && self.is_free(node)
            && let Some(from) = self.m[node].input(0)
        {
            value = from;
        }
        value
    }

    fn push(&mut self, operator: Operator) {
        self.owner.extend(operator.nodes.iter().map(|&node| (node, self.list.len())));
        self.list.push(operator);
    }

    /// Whether the compiler evaluates a node.
    fn is_folded(&self, node: NodeId) -> bool {
        let n = &self.m[node];
        let op = n.op();
        if !op.domain().is_empty() {
            return false;
        }
        match &*op.name {
            "Constant" | "Shape" | "Size" => true,
            name => {
                FOLDED.contains(&name) && n.inputs().iter().flatten().all(|v| self.is_constant(*v))
            }
        }
    }

    /// Whether a node costs nothing: it is evaluated at compile time, or gives its input another shape alone.
    fn is_free(&self, node: NodeId) -> bool {
        let m = self.m;
        let n = &m[node];
        if !n.op().domain().is_empty() {
            return false;
        }
        if n.outputs().iter().flatten().all(|v| self.is_constant(*v)) {
            return true;
        }
        let dtypes = || Some((m[n.input(0)?].dtype()?, m[n.output(0)?].dtype()?));
        match &*n.op().name {
            // Floats of every width are stored in 16 bits.
            "Cast" => {
                dtypes().is_some_and(|(from, to)| from == to || (is_half(from) && is_half(to)))
            }
            "Transpose" => self.is_view(node) || self.is_read_turned(node),
            "Expand" | "Slice" | "Pad" | "Tile" | "Concat" | "Split" => {
                n.outputs().len() == 1
                    && n.input(0).is_some_and(|x| {
                        n.output(0)
                            .is_some_and(|y| m[x].dims().is_some() && m[x].dims() == m[y].dims())
                    })
            }
            name => VIEWS.contains(&name),
        }
    }

    /// Whether a Transpose moves axes of length 1 alone.
    fn is_view(&self, node: NodeId) -> bool {
        let n = &self.m[node];
        let Some(dims) = n.input(0).and_then(|x| self.m[x].dims()) else { return false };
        let perm = perm(self.m, node, dims.len());
        let long: Vec<usize> =
            perm.into_iter().filter(|&axis| dims.get(axis).is_some_and(|&d| d != 1)).collect();
        long.is_sorted()
    }

    /// Whether a Transpose swaps the last two axes for products alone, which read either order.
    fn is_read_turned(&self, node: NodeId) -> bool {
        let n = &self.m[node];
        let Some(y) = n.output(0) else { return false };
        let Some(rank) = self.m[y].dims().map(|dims| dims.len()) else { return false };
        let mut swapped: Vec<usize> = (0..rank).collect();
        if rank < 2 {
            return false;
        }
        swapped.swap(rank - 2, rank - 1);
        let mut users = self.m.users(y).peekable();
        perm(self.m, node, rank) == swapped
            && !self.m.is_output(y)
            && users.peek().is_some()
            && users.all(|user| self.m[user].op().is("MatMul"))
    }

    /// The operator whose kernel takes an element-wise node along: a product takes its bias, and element-wise nodes
    /// take each other.
    fn joins(&self, node: NodeId) -> Option<usize> {
        let m = self.m;
        let y = m[node].output(0)?;
        if !is_elementwise(m, node) || m[node].outputs().len() != 1 {
            return None;
        }
        let candidates = m[node].inputs().iter().flatten().filter_map(|&x| {
            let at = self.owner(m.producer(x)?)?;
            let same = m[x].dims().is_some() && m[x].dims() == m[y].dims();
            (same && self.is_private(x)).then_some((x, at))
        });
        let takes = |(x, at): (ValueId, usize)| {
            let operator = &self.list[at];
            if operator.kind != Kind::Root {
                return None;
            }
            if is_product(m, operator.root) {
                return (operator.nodes.len() == 1 && self.is_bias(node, x)).then_some(at);
            }
            operator.nodes.iter().all(|&n| is_elementwise(m, n)).then_some(at)
        };
        candidates.filter_map(takes).max()
    }

    /// Whether a node adds a constant with one element for each column.
    fn is_bias(&self, node: NodeId, x: ValueId) -> bool {
        let n = &self.m[node];
        let others = n.inputs().iter().flatten().filter(|v| **v != x);
        n.op().is("Add")
            && others.into_iter().all(|&v| {
                let columns = self.m[x].dims().and_then(|dims| dims.last().copied());
                let dims = self.m[v].dims().unwrap_or_default();
                let line =
                    dims.last().copied() == columns && dims.iter().rev().skip(1).all(|&d| d == 1);
                self.is_constant(v) && line
            })
    }

    /// Whether one node alone reads a value.
    fn is_private(&self, value: ValueId) -> bool {
        self.m[value].uses().len() == 1 && !self.m.is_output(value)
    }

    /// The layer normalization whose quotient `div` is, as ATC's `LayerNormONNXFusionPass` wants it: one difference with
    /// two readers, its square by Pow, scalars as constants.
    fn layer_norm(&self, div: NodeId) -> Option<Operator> {
        let m = self.m;
        let [centered, deviation] = self.operands(div, "Div")?;
        let sqrt = self.producer(deviation, "Sqrt")?;
        let moved = self.producer(m[sqrt].input(0)?, "Add")?;
        let variance = self.producer(m[moved].input(0)?, "ReduceMean")?;
        let square = self.producer(m[variance].input(0)?, "Pow")?;
        let sub = self.producer(centered, "Sub")?;
        let mean = self.producer(m[sub].input(1)?, "ReduceMean")?;
        let strict = m[square].input(0)? == centered
            && m[mean].input(0) == m[sub].input(0)
            && m[centered].uses().len() == 2
            && self.number(m[square].input(1)?).is_some_and(|e| (e - 2.0).abs() < f64::EPSILON)
            && self.number(m[moved].input(1)?).is_some_and(|e| e <= 0.1);
        let inner = [mean, square, variance, moved, sqrt];
        let closed = inner.iter().all(|&n| m[n].output(0).is_some_and(|v| self.is_private(v)));
        if !strict || !closed {
            return None;
        }
        let mut nodes = vec![mean, sub, square, variance, moved, sqrt, div];
        for op in ["Mul", "Add"] {
            let y = m[*nodes.last()?].output(0)?;
            let next = m.users(y).next().filter(|&n| self.is_private(y) && m[n].op().is(op));
            match next {
                Some(next) if m[next].inputs().iter().flatten().any(|v| self.is_constant(*v)) => {
                    nodes.push(next);
                }
                _ => break,
            }
        }
        Some(Operator { root: div, nodes, kind: Kind::LayerNorm })
    }

    /// The GELU around an Erf or a Tanh, in the steps that ATC's `GeluONNXFusionPass` and `GeluFusionPass` want.
    fn gelu(&self, bend: NodeId) -> Option<Operator> {
        let m = self.m;
        let argument = m[bend].input(0)?;
        let (x, mut nodes) = if m[bend].op().is("Erf") {
            let [x, root] = self.operands(m.producer(argument)?, "Div")?;
            let root = self.number(root)?;
            if (root - std::f64::consts::SQRT_2).abs() > SQRT_2_TOLERANCE {
                return None;
            }
            (x, vec![m.producer(argument)?, bend])
        } else if m[bend].op().is("Tanh") {
            let scaled = self.producer(argument, "Mul")?;
            let sum = self.producer(self.variable(scaled)?, "Add")?;
            let [x, cubic] = self.operands(sum, "Add")?;
            let factor = self.producer(cubic, "Mul")?;
            let cube = self.producer(self.variable(factor)?, "Pow")?;
            let power = self.number(m[cube].input(1)?)?;
            if m[cube].input(0)? != x || (power - 3.0).abs() > f64::EPSILON {
                return None;
            }
            (x, vec![cube, factor, sum, scaled, bend])
        } else {
            return None;
        };
        let (mut y, mut by_x) = (m[bend].output(0)?, false);
        // Behind it are the sum with 1 and the products with x and with one half, in either order.
        for op in ["Add", "Mul", "Mul"] {
            let next = m.users(y).next().filter(|&n| self.is_private(y) && m[n].op().is(op))?;
            let other = *m[next].inputs().iter().flatten().find(|v| **v != y)?;
            nodes.push(next);
            y = m[next].output(0)?;
            by_x |= other == x;
            if other == x || self.number(other).is_some() {
                continue;
            }
            let half = self.producer(other, "Mul")?;
            if self.variable(half)? != x {
                return None;
            }
            by_x = true;
            nodes.push(half);
            break;
        }
        by_x.then_some(Operator { root: bend, nodes, kind: Kind::Gelu })
    }

    fn operands(&self, node: NodeId, op: &str) -> Option<[ValueId; 2]> {
        let n = &self.m[node];
        (n.op().is(op)).then_some([n.input(0)?, n.input(1)?])
    }

    fn producer(&self, value: ValueId, op: &str) -> Option<NodeId> {
        self.m.producer(value).filter(|&n| self.m[n].op().is(op))
    }

    /// The input of a binary node that is no constant, where the other one is a number.
    fn variable(&self, node: NodeId) -> Option<ValueId> {
        let [a, b] = [self.m[node].input(0)?, self.m[node].input(1)?];
        match (self.number(a), self.number(b)) {
            (None, Some(_)) => Some(a),
            (Some(_), None) => Some(b),
            _ => None,
        }
    }

    /// The one element of a constant.
    fn number(&self, value: ValueId) -> Option<f64> {
        let attribute = |node: NodeId| {
            let attrs = &self.m[node].attrs;
            let one = attrs.float("value_float").map(f64::from);
            one.or_else(|| only(attrs.tensor("value")?))
        };
        match self.m.constant(value) {
            Some(tensor) => only(tensor),
            None => attribute(self.producer(value, "Constant")?),
        }
    }
}

/// The element of a tensor of one float.
fn only(tensor: &Tensor) -> Option<f64> {
    // A weight is not read through to see that it is none.
    if tensor.byte_len() > 8 {
        return None;
    }
    match tensor.to_floats()?[..] {
        [x] => Some(x),
        _ => None,
    }
}

/// Whether a type is stored in 16 bits, as ATC's default `force_fp16` does with floats.
pub(super) fn is_half(dtype: DataType) -> bool {
    matches!(dtype, DataType::Float | DataType::Float16)
}

/// Whether the matrix units run a node.
pub(super) fn is_product(m: &Model, node: NodeId) -> bool {
    ["MatMul", "Gemm", "Conv"].iter().any(|op| m[node].op().is(op))
}

pub(super) fn is_elementwise(m: &Model, node: NodeId) -> bool {
    let class: Option<Class> = m[node].op().def.map(|def| def.class);
    class.is_some_and(|class| class.elementwise)
}

/// The permutation of a Transpose, written out.
fn perm(m: &Model, node: NodeId, rank: usize) -> Vec<usize> {
    match m[node].attrs.ints("perm") {
        Some(perm) => perm.iter().filter_map(|&axis| usize::try_from(axis).ok()).collect(),
        None => (0..rank).rev().collect(),
    }
}
