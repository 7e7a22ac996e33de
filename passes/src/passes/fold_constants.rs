//! fold-constants

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use onnxfix_ir::infer::{Known, evaluate_node};
use onnxfix_ir::op::EvalError;
use onnxfix_ir::{Def, GraphId, Model, Node, NodeId, SideTable, Tensor, Use, ValueId};
use smallvec::SmallVec;

use crate::key::{OpKey, intern_key};
use crate::patch::PROVENANCE;
use crate::{Changed, Documented, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Evaluates everything that does not depend on the inputs and stores the results as initializers.
    ///
    /// ## Why ATC needs it
    /// ATC folds little: of DeBERTa's position arithmetic (Sign, Log, Ceil, Abs, Where on int64) nothing, so it runs on
    /// the AI CPU for every sentence. Folded, the relative positions and the projected position tables are weights.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3] x) => (float[3,2] y) {
    ///    s = Shape (x)
    ///    back = Constant <value_ints: ints = [1, 0]> ()
    ///    w = Gather (s, back)
    ///    y = Reshape (x, w)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,3] x) => (float[3,2] y) <int64[2] w = {3, 2}> { y = Reshape (x, w) }
    /// ```
    ///
    /// ## Applies when
    /// - Every input of the node is constant, or it is a Shape or Size of a value whose dimensions are known.
    /// - The operator is pure and evaluated exactly; random operators never are.
    /// - The result is needed by a node that stays. What only feeds other constants is never stored, so a large
    ///   intermediate result costs nothing.
    /// - The model grows by at most `--fold-limit` (10 % of its size, at least 16 MiB) over the whole pipeline. Beyond
    ///   that the last nodes of a constant subgraph stay, and a note names them.
    ///
    /// ## Numerics
    /// The evaluator's own rounding: integers and moves exact, floats as exact as the operator's definition.
    pub FoldConstants = "fold-constants", Specialise, Relative(1e-6)
}

/// No intermediate result of folding may take more than this.
const EVAL_LIMIT: u64 = 512 << 20;

impl Pass for FoldConstants {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut sweep = Sweep::default();
        sweep.graph(model, model.root(), cx);
        if sweep.folded.is_empty() {
            return Ok(Changed::No);
        }
        let kept = choose(model, &sweep, cx);
        let mut changed = false;
        // The same tensor may be the result of many nodes: the first one's value serves them all.
        let mut firsts: HashMap<(GraphId, *const Tensor), ValueId> = HashMap::new();
        for value in kept {
            let Some(tensor) = sweep.known.get(model, value).cloned() else { continue };
            if !cx.spend() {
                break;
            }
            changed = true;
            let key = (model[value].graph(), Arc::as_ptr(&tensor));
            if let Some(&first) = firsts.get(&key) {
                model.replace_uses(value, first);
            } else {
                firsts.insert(key, value);
                let constant_node =
                    model.producer(value).is_some_and(|n| model[n].op().is("Constant"));
                let tensor = if constant_node { tensor } else { marked(&tensor) };
                model.make_initializer(value, tensor);
            }
        }
        remove_unused(model, &sweep);
        Ok(changed.into())
    }
}

/// The tensor with the name of this pass, as one that the source does not have.
fn marked(tensor: &Arc<Tensor>) -> Arc<Tensor> {
    let mut tensor = Tensor::clone(tensor);
    let metadata = &mut tensor.extra_mut().metadata;
    if !metadata.iter().any(|(k, _)| k == PROVENANCE) {
        metadata.push((PROVENANCE.into(), FoldConstants.info().name.into()));
    }
    Arc::new(tensor)
}

/// Nodes whose results are all known, and these results.
#[derive(Default)]
struct Sweep {
    known: Known,
    folded: SideTableSet,
    order: Vec<NodeId>,
    /// Results by operator, attributes and inputs: what is computed once per layer is computed once.
    results: HashMap<OpKey, Vec<Arc<Tensor>>>,
    /// Equal small tensors as one.
    interned: HashMap<Vec<u8>, Arc<Tensor>>,
}

#[derive(Default)]
struct SideTableSet(SideTable<Node, ()>, usize);

impl SideTableSet {
    fn insert(&mut self, node: NodeId) {
        if self.0.insert(node, ()).is_none() {
            self.1 += 1;
        }
    }
    fn contains(&self, node: NodeId) -> bool {
        self.0.contains(node)
    }
    fn is_empty(&self) -> bool {
        self.1 == 0
    }
}

impl Sweep {
    fn graph(&mut self, model: &Model, graph: GraphId, cx: &mut PassCx<'_>) {
        for node in model.nodes(graph) {
            self.node(model, node, cx);
            for (_, body) in model[node].attrs.graphs() {
                self.graph(model, body, cx);
            }
        }
    }

    fn node(&mut self, model: &Model, node: NodeId, cx: &mut PassCx<'_>) {
        let constant = |v: &ValueId| self.known.get(model, *v).is_some();
        let n = &model[node];
        let reads_shape = n.op().is("Shape") || n.op().is("Size");
        if !reads_shape && !n.inputs().iter().flatten().all(constant) {
            return;
        }
        // A key by the inputs' addresses; the tensors live in `known`, so no address is used twice.
        let key =
            if reads_shape { None } else { OpKey::new(model, node, |v| self.address(model, v)) };
        let results = match key.as_ref().and_then(|k| self.results.get(k)) {
            Some(results) => results.clone(),
            None => match evaluate_node(model, node, &self.known, EVAL_LIMIT) {
                Ok(Some(tensors)) => tensors.into_iter().map(|t| self.intern(t)).collect(),
                Ok(None) => return,
                Err(EvalError::TooLarge(dims)) => {
                    let at = model.describe(node);
                    cx.note(
                        FoldConstants.info().name,
                        format!("{at} stays: its result of {dims:?} is too large to fold"),
                    );
                    return;
                }
                Err(why) => {
                    tracing::debug!(node = %model.describe(node), %why, "not folded");
                    return;
                }
            },
        };
        for (value, tensor) in n.outputs().iter().zip(&results) {
            if let Some(value) = *value {
                self.known.insert(value, tensor.clone());
            }
        }
        if let Some(key) = key {
            self.results.insert(key, results);
        }
        self.folded.insert(node);
        self.order.push(node);
    }

    fn address(&self, model: &Model, value: ValueId) -> usize {
        self.known.get(model, value).map_or(0, |t| Arc::as_ptr(t).addr())
    }

    fn intern(&mut self, tensor: Tensor) -> Arc<Tensor> {
        match intern_key(&tensor) {
            Some(key) => self.interned.entry(key).or_insert_with(|| Arc::new(tensor)).clone(),
            None => Arc::new(tensor),
        }
    }
}

/// The values that become initializers, in order.
fn choose(model: &Model, sweep: &Sweep, cx: &mut PassCx<'_>) -> Vec<ValueId> {
    let mut needed: Vec<ValueId> = Vec::new();
    for &node in &sweep.order {
        needed.extend(
            model[node].outputs().iter().flatten().filter(|&&v| is_read_outside(model, sweep, v)),
        );
    }
    // Small results first, so that one large one does not use up what many small ones need.
    let size = |v: &ValueId| sweep.known.get(model, *v).map_or(0, |t| t.byte_len());
    needed.sort_by_key(size);
    let mut budget = cx.fold_budget.saturating_add(freed(model, sweep));
    let start = budget;
    let mut kept: Vec<ValueId> = Vec::new();
    let mut paid: HashSet<*const Tensor> = HashSet::new();
    let mut seen: SideTable<onnxfix_ir::Value, ()> = SideTable::new();
    let mut stays: Vec<(NodeId, u64)> = Vec::new();
    let mut stack: Vec<ValueId> = needed.into_iter().rev().collect();
    while let Some(value) = stack.pop() {
        if seen.insert(value, ()).is_some() {
            continue;
        }
        let (Some(node), Some(tensor)) = (model.producer(value), sweep.known.get(model, value))
        else {
            continue;
        };
        if !sweep.folded.contains(node) {
            continue;
        }
        let moved = model[node].op().is("Constant");
        let cost = if moved || paid.contains(&Arc::as_ptr(tensor)) { 0 } else { tensor.byte_len() };
        // A graph output is given by a node: a constant that is an output itself is more than many readers expect.
        if model.is_output(value) || cost > budget {
            if cost > budget {
                stays.push((node, cost));
            }
            stack.extend(model[node].inputs().iter().flatten().copied());
            continue;
        }
        budget -= cost;
        paid.insert(Arc::as_ptr(tensor));
        kept.push(value);
    }
    cx.fold_budget = cx.fold_budget.saturating_sub(start.saturating_sub(budget));
    if !stays.is_empty() {
        let bytes: u64 = stays.iter().map(|(_, b)| b).sum();
        let (first, rest) = (model.describe(stays[0].0), stays.len() - 1);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        cx.note(
            FoldConstants.info().name,
            format!(
                "{first}{more} stays unfolded: the results would add {} MB to the model; --fold-limit allows more",
                bytes.div_ceil(1_000_000)
            ),
        );
    }
    kept
}

/// Whether a value is read by a node that is not folded, or is an output.
fn is_read_outside(model: &Model, sweep: &Sweep, value: ValueId) -> bool {
    model[value].uses().iter().any(|u| match u {
        Use::Input { node, .. } => !sweep.folded.contains(*node),
        Use::Output { .. } => true,
    })
}

/// Bytes of initializers that only folded nodes read.
fn freed(model: &Model, sweep: &Sweep) -> u64 {
    let read_inside = |v: ValueId| {
        !model[v].uses().is_empty()
            && !is_read_outside(model, sweep, v)
            && matches!(model[v].def(), Def::Initializer(_))
    };
    model
        .all_values()
        .filter(|&(id, _)| read_inside(id))
        .filter_map(|(_, v)| v.tensor())
        .map(|t| t.byte_len())
        .sum()
}

/// Removes folded nodes that nothing reads any more, backwards.
fn remove_unused(model: &mut Model, sweep: &Sweep) {
    for &node in sweep.order.iter().rev() {
        let Some(n) = model.node(node) else { continue };
        let outputs: SmallVec<[ValueId; 1]> = n.outputs().iter().flatten().copied().collect();
        if outputs.iter().all(|&v| model[v].uses().is_empty()) {
            model.remove_node(node);
        }
    }
}
