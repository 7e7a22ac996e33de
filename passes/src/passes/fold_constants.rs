//! fold-constants

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use onnxfix_ir::infer::{evaluate, known_shape};
use onnxfix_ir::op::EvalError;
use onnxfix_ir::{
    Def, GraphId, Model, Node, NodeId, SideTable, Tensor, TensorType, Use, Value, ValueId,
};
use rayon::prelude::*;
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
    /// - It does not only repeat its input many times; such nodes wait for the second sweep, since another pass may make
    ///   do with the input.
    /// - The result is needed by a node that stays. What only feeds other constants is never stored, so a large
    ///   intermediate result costs nothing in the file, and memory only until the nodes that read it are evaluated.
    /// - The model grows by at most `--fold-limit` (10 % of its size, at least 16 MiB) over the whole pipeline. Beyond
    ///   that the last nodes of a constant subgraph stay, and a note names them.
    ///
    /// ## Numerics
    /// The evaluator's own rounding: integers and moves exact, floats as exact as the operator's definition.
    pub FoldConstants = "fold-constants", Specialise, Relative(1e-6)
}

/// No intermediate result of folding may take more than this.
const EVAL_LIMIT: u64 = 512 << 20;
/// The intermediate results that are there at once may not take more than this.
const EVAL_TOTAL: u64 = 4 << 30;

impl Pass for FoldConstants {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        cx.retract(self.info().name);
        let mut sweep = Sweep::new(model, cx.first_sweep);
        sweep.run(cx);
        cx.postponed |= sweep.postponed;
        let folded = sweep.folded_nodes();
        if folded.is_empty() {
            return Ok(Changed::No);
        }
        let kept = sweep.choose(&folded, cx);
        let kept: Vec<(ValueId, usize, Arc<Tensor>)> = kept
            .into_iter()
            .filter_map(|(value, number)| Some((value, number, sweep.tensor(number)?)))
            .collect();
        let mut changed = false;
        // The same tensor may be the result of many nodes: the first one's value serves them all.
        let mut firsts: HashMap<(GraphId, usize), ValueId> = HashMap::new();
        for (value, number, tensor) in kept {
            if !cx.spend() {
                break;
            }
            changed = true;
            let key = (model[value].graph(), number);
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
        remove_unused(model, &folded);
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

/// Nodes evaluated side by side. It says how many intermediate results may live at once, and the order in which results
/// are found, so it does not depend on the number of cores.
const ROUND: usize = 16;
/// Evaluating less than this, in bytes of inputs and outputs, takes less time than waking another core.
const PARALLEL: u64 = 256 << 10;
/// Operators that repeat their input.
const REPEATING: &[&str] = &["Expand", "Tile"];
/// Repeating less than this costs nothing.
const SMALL_REPEAT: u64 = 64 << 10;
/// Smaller results stay in memory: keeping them costs less than computing one of them again.
const SMALL: u64 = 4096;

/// A result that was computed, whichever values have it.
struct Computed {
    /// Gone when every node that reads it has been evaluated. In the rare case that it is needed after all it is
    /// computed again.
    tensor: Option<Arc<Tensor>>,
    bytes: u64,
    /// Uses by nodes that are not folded, or not yet, and by outputs of graphs.
    readers: usize,
    /// The node that gives it, and which of its outputs it is.
    made_by: (NodeId, usize),
}

/// The evaluation of all nodes whose inputs are constant.
///
/// A node is ready once all its inputs are known. Of the ready nodes the first ones in the order of the graph are
/// evaluated side by side, so that one chain of large results is done with before the next one begins.
struct Sweep<'m> {
    model: &'m Model,
    /// Every node in the order of its graph, bodies behind their node.
    nodes: Vec<NodeId>,
    /// Position in `nodes`.
    position: SideTable<Node, usize>,
    /// How many inputs of a node are not known yet.
    waits: SideTable<Node, usize>,
    ready: BinaryHeap<Reverse<usize>>,
    computed: Vec<Computed>,
    /// Bytes of the results that are there.
    live: u64,
    /// Which result a value has.
    number: SideTable<Value, usize>,
    folded: SideTable<Node, ()>,
    /// Whether repeating an input waits for the next sweep.
    repeats_wait: bool,
    /// Whether that happened.
    postponed: bool,
    /// Results by operator, attributes and inputs: what is computed once per layer is computed once.
    results: HashMap<OpKey, SmallVec<[usize; 1]>>,
    /// Equal small tensors as one.
    interned: HashMap<Vec<u8>, usize>,
}

/// A node to be evaluated.
struct Job {
    node: NodeId,
    key: Option<OpKey>,
    inputs: SmallVec<[Option<Arc<Tensor>>; 4]>,
}

impl Job {
    fn evaluate(&self, model: &Model, limit: u64) -> Result<Option<Vec<Tensor>>, EvalError> {
        let inputs: SmallVec<[Option<&Tensor>; 4]> =
            self.inputs.iter().map(Option::as_deref).collect();
        evaluate(model, self.node, &inputs, limit)
    }
}

impl<'m> Sweep<'m> {
    fn new(model: &'m Model, repeats_wait: bool) -> Sweep<'m> {
        let mut nodes = Vec::new();
        list(model, model.root(), &mut nodes);
        let mut sweep = Sweep {
            model,
            nodes,
            position: SideTable::new(),
            waits: SideTable::new(),
            ready: BinaryHeap::new(),
            computed: Vec::new(),
            live: 0,
            number: SideTable::new(),
            folded: SideTable::new(),
            repeats_wait,
            postponed: false,
            results: HashMap::new(),
            interned: HashMap::new(),
        };
        for (at, &node) in sweep.nodes.iter().enumerate() {
            let unknown = |v: &&ValueId| model.constant(**v).is_none();
            let waits = match known_shape(model, node) {
                Some(_) => 0,
                None => model[node].inputs().iter().flatten().filter(unknown).count(),
            };
            sweep.position.insert(node, at);
            sweep.waits.insert(node, waits);
            if waits == 0 {
                sweep.ready.push(Reverse(at));
            }
        }
        sweep
    }

    fn run(&mut self, cx: &mut PassCx<'_>) {
        while !self.ready.is_empty() {
            let jobs = self.next_jobs();
            let model = self.model;
            let room = EVAL_TOTAL.saturating_sub(self.live) / jobs.len().max(1) as u64;
            let limit = room.min(EVAL_LIMIT);
            let work: u64 = jobs.iter().map(|job| self.work(job)).sum();
            let results: Vec<_> = if jobs.len() > 1 && work >= PARALLEL {
                jobs.par_iter().map(|job| job.evaluate(model, limit)).collect()
            } else {
                jobs.iter().map(|job| job.evaluate(model, limit)).collect()
            };
            for (Job { node, key, .. }, result) in jobs.into_iter().zip(results) {
                match result {
                    Ok(Some(tensors)) => self.store(node, key, tensors),
                    Ok(None) => {}
                    Err(EvalError::TooLarge(dims)) => {
                        let at = model.describe(node);
                        cx.note(
                            FoldConstants.info().name,
                            format!("{at} stays: its result of {dims:?} is too large to fold"),
                        );
                    }
                    Err(why) => {
                        tracing::debug!(node = %model.describe(node), %why, "not folded");
                    }
                }
            }
        }
    }

    /// The first nodes that are ready and have to be evaluated.
    fn next_jobs(&mut self) -> Vec<Job> {
        let mut jobs: Vec<Job> = Vec::new();
        let mut again = Vec::new();
        while let Some(Reverse(at)) = self.ready.pop() {
            let node = self.nodes[at];
            if let Some(shape) = known_shape(self.model, node) {
                self.store(node, None, vec![shape]);
                continue;
            }
            if self.repeats_wait && self.repeats(node) {
                self.postponed = true;
                continue;
            }
            // What a Constant holds may be large, and looking for equal ones is the business of another pass.
            let key = if self.model[node].op().is("Constant") { None } else { self.key(node) };
            if let Some(results) = key.as_ref().and_then(|key| self.results.get(key)) {
                let results = results.clone();
                self.fold(node, &results);
                continue;
            }
            if key.is_some() && jobs.iter().any(|job| job.key == key) {
                again.push(Reverse(at));
                continue;
            }
            if let Some(inputs) = self.inputs(node) {
                jobs.push(Job { node, key, inputs });
            }
            if jobs.len() == ROUND {
                break;
            }
        }
        self.ready.extend(again);
        jobs
    }

    /// Whether all that a node does is to repeat its input until it takes much memory.
    fn repeats(&self, node: NodeId) -> bool {
        let n = &self.model[node];
        let repeated = || {
            let [x, y] = [n.input(0)?, n.output(0)?].map(|v| bytes(self.model[v].tensor_type()?));
            Some(y? > x?.max(SMALL_REPEAT))
        };
        REPEATING.iter().any(|op| n.op().is(op)) && repeated() == Some(true)
    }

    /// A key that equal computations share; none where equal keys would prove nothing.
    fn key(&self, node: NodeId) -> Option<OpKey> {
        // Results are odd and initializers even, and none is 0.
        OpKey::new(self.model, node, |v| match self.number.get(v) {
            Some(&number) => 2 * number + 1,
            None => 2 * v.index() + 2,
        })
    }

    /// The elements of a node's inputs.
    fn inputs(&mut self, node: NodeId) -> Option<SmallVec<[Option<Arc<Tensor>>; 4]>> {
        let slots = self.model[node].inputs().iter();
        slots.map(|slot| slot.map_or(Some(None), |v| self.elements(v).map(Some))).collect()
    }

    fn elements(&mut self, value: ValueId) -> Option<Arc<Tensor>> {
        match self.number.get(value) {
            Some(&number) => self.tensor(number),
            None => self.model.constant(value).cloned(),
        }
    }

    /// The tensor of a result; computed again where it is gone.
    fn tensor(&mut self, number: usize) -> Option<Arc<Tensor>> {
        let mut again: Vec<usize> = Vec::new();
        let mut stack = vec![number];
        while let Some(&top) = stack.last() {
            if self.computed[top].tensor.is_some() {
                stack.pop();
                continue;
            }
            let (node, slot) = self.computed[top].made_by;
            let read = self.model[node].inputs().iter().flatten();
            let read = read.filter_map(|&v| self.number.get(v).copied());
            let gone: Vec<usize> = read.filter(|&n| self.computed[n].tensor.is_none()).collect();
            if gone.is_empty() {
                let job = Job { node, key: None, inputs: self.inputs(node)? };
                let result = job.evaluate(self.model, EVAL_LIMIT).ok()??.into_iter().nth(slot)?;
                self.live += result.byte_len();
                self.computed[top].tensor = Some(Arc::new(result));
                again.push(top);
            } else {
                stack.extend(gone);
            }
        }
        let tensor = self.computed[number].tensor.clone();
        for number in again {
            self.free_unless_read(number);
        }
        tensor
    }

    /// Bytes that a job reads and, as far as inference knows, writes.
    fn work(&self, job: &Job) -> u64 {
        let read = job.inputs.iter().flatten().map(|t| t.byte_len());
        let outputs = self.model[job.node].outputs().iter().flatten();
        let written = outputs.filter_map(|&v| bytes(self.model[v].tensor_type()?));
        read.chain(written).fold(0, u64::saturating_add)
    }

    /// Notes the results of a node.
    fn store(&mut self, node: NodeId, key: Option<OpKey>, tensors: Vec<Tensor>) {
        let numbers: SmallVec<[usize; 1]> = tensors
            .into_iter()
            .enumerate()
            .map(|(slot, tensor)| self.intern(tensor, (node, slot)))
            .collect();
        self.fold(node, &numbers);
        if let Some(key) = key {
            self.results.insert(key, numbers);
        }
    }

    fn intern(&mut self, tensor: Tensor, made_by: (NodeId, usize)) -> usize {
        let next = self.computed.len();
        if let Some(key) = intern_key(&tensor) {
            let number = *self.interned.entry(key).or_insert(next);
            if number < next {
                return number;
            }
        }
        let bytes = tensor.byte_len();
        self.live += bytes;
        self.computed.push(Computed { tensor: Some(Arc::new(tensor)), bytes, readers: 0, made_by });
        next
    }

    /// Gives a node's outputs their results, frees what no other node reads, and finds out which nodes are ready now.
    fn fold(&mut self, node: NodeId, numbers: &[usize]) {
        self.folded.insert(node, ());
        let n = &self.model[node];
        for (value, &number) in n.outputs().iter().zip(numbers) {
            let Some(value) = *value else { continue };
            self.number.insert(value, number);
            // A Shape may be folded before what it reads is computed.
            let folded =
                |u: &&Use| matches!(u, Use::Input { node, .. } if self.folded.contains(*node));
            let uses = self.model[value].uses();
            let readers = uses.len() - uses.iter().filter(folded).count();
            self.computed[number].readers += readers;
            for user in self.model.users(value) {
                // Shapes of known dimensions wait for nothing.
                if let Some(waits) = self.waits.get_mut(user).filter(|waits| **waits > 0) {
                    *waits -= 1;
                    if *waits == 0 {
                        self.ready.extend(self.position.get(user).map(|&at| Reverse(at)));
                    }
                }
            }
        }
        let read: SmallVec<[usize; 4]> =
            n.inputs().iter().flatten().filter_map(|&v| self.number.get(v).copied()).collect();
        for &number in &read {
            self.computed[number].readers -= 1;
        }
        for &number in read.iter().chain(numbers) {
            self.free_unless_read(number);
        }
    }

    fn free_unless_read(&mut self, number: usize) {
        let computed = &mut self.computed[number];
        if computed.readers == 0 && computed.bytes > SMALL && computed.tensor.take().is_some() {
            self.live -= computed.bytes;
        }
    }

    /// The folded nodes in the order of the graph.
    fn folded_nodes(&self) -> Vec<NodeId> {
        self.nodes.iter().copied().filter(|&node| self.folded.contains(node)).collect()
    }

    /// The values that become initializers with their results, in order.
    fn choose(&self, folded: &[NodeId], cx: &mut PassCx<'_>) -> Vec<(ValueId, usize)> {
        let model = self.model;
        let outputs = folded.iter().flat_map(|&node| model[node].outputs().iter().flatten());
        let mut needed: Vec<ValueId> =
            outputs.copied().filter(|&v| self.is_read_outside(v)).collect();
        // Small results first, so that one large one does not use up what many small ones need.
        needed.sort_by_key(|&v| self.number.get(v).map_or(0, |&n| self.computed[n].bytes));
        let mut budget = cx.fold_budget.saturating_add(self.freed());
        let start = budget;
        let mut kept: Vec<(ValueId, usize)> = Vec::new();
        let mut paid: HashSet<usize> = HashSet::new();
        let mut seen: SideTable<Value, ()> = SideTable::new();
        let mut stays: Vec<(NodeId, u64)> = Vec::new();
        let mut stack: Vec<ValueId> = needed.into_iter().rev().collect();
        while let Some(value) = stack.pop() {
            if seen.insert(value, ()).is_some() {
                continue;
            }
            let (Some(node), Some(&number)) = (model.producer(value), self.number.get(value))
            else {
                continue;
            };
            let moved = model[node].op().is("Constant");
            let cost =
                if moved || paid.contains(&number) { 0 } else { self.computed[number].bytes };
            // A graph output is given by a node: a constant that is an output itself is more than many readers
            // expect.
            if model.is_output(value) || cost > budget {
                if cost > budget {
                    stays.push((node, cost));
                }
                stack.extend(model[node].inputs().iter().flatten().copied());
                continue;
            }
            budget -= cost;
            paid.insert(number);
            kept.push((value, number));
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
    fn is_read_outside(&self, value: ValueId) -> bool {
        self.model[value].uses().iter().any(|u| match u {
            Use::Input { node, .. } => !self.folded.contains(*node),
            Use::Output { .. } => true,
        })
    }

    /// Bytes of initializers that only folded nodes read.
    fn freed(&self) -> u64 {
        let read_inside = |(id, v): &(ValueId, &Value)| {
            !v.uses().is_empty()
                && matches!(v.def(), Def::Initializer(_))
                && !self.is_read_outside(*id)
        };
        let tensors = self.model.all_values().filter(read_inside).filter_map(|(_, v)| v.tensor());
        tensors.map(|t| t.byte_len()).sum()
    }
}

/// Bytes that the elements take, where the shape is static.
fn bytes(ty: &TensorType) -> Option<u64> {
    ty.dtype.byte_len(u64::try_from(ty.shape.as_ref()?.len()?).ok()?)
}

/// The nodes of a graph in order, those of bodies behind the node that they belong to.
fn list(model: &Model, graph: GraphId, nodes: &mut Vec<NodeId>) {
    for node in model.nodes(graph) {
        nodes.push(node);
        for (_, body) in model[node].attrs.graphs() {
            list(model, body, nodes);
        }
    }
}

/// Removes folded nodes that nothing reads any more, backwards.
fn remove_unused(model: &mut Model, folded: &[NodeId]) {
    for &node in folded.iter().rev() {
        let Some(n) = model.node(node) else { continue };
        let outputs: SmallVec<[ValueId; 1]> = n.outputs().iter().flatten().copied().collect();
        if outputs.iter().all(|&v| model[v].uses().is_empty()) {
            model.remove_node(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use onnxfix_ir::text::print_graph;

    use crate::testing::model;
    use crate::{Options, Pipeline, run};

    /// The sum of the first element of every initializer that the pass leaves, and the graph without its initializers.
    fn folded(text: &str) -> (f32, Vec<String>) {
        let mut model = model(text);
        let options = Options { check_each: true, ..Options::default() };
        let pipeline = Pipeline::of(&["fold-constants"]).expect("a pass of the table");
        run(&mut model, &pipeline, &options, &mut |_, _| {}).expect("a run");
        let ops = model.nodes(model.root()).map(|n| model[n].op().to_string()).collect();
        let root = model.root();
        model.remove_dead_initializers(root);
        let initializers = model[root].initializers().iter();
        let first =
            |v: &onnxfix_ir::ValueId| Some(*model.constant(*v)?.elements::<f32>().ok()?.first()?);
        (initializers.filter_map(first).sum(), ops)
    }

    /// `c` takes more than the model may grow by, so `b` is stored, which nothing needed any more.
    #[test]
    fn what_is_needed_after_all_is_computed_again() {
        let (sum, ops) = folded(
            "g (float[1] x) => (float[6000000] y) <int64[1] n = {3000000}> {
                a = ConstantOfShape <value: tensor = float[1] {2}> (n)
                t = Neg (a)
                b = Neg (t)
                c = Concat <axis: int = 0> (b, b)
                y = Add (c, x)
            }",
        );
        assert_eq!((sum, ops), (2.0, vec!["Concat".to_owned(), "Add".to_owned()]));
    }

    /// A pass behind folding may make do with what is repeated; where none does, the next sweep folds it.
    #[test]
    fn what_only_repeats_is_folded_in_the_second_sweep() {
        let text = "g (float[300,300] x) => (float[300,300] y) <float[300] row = {0, ...}, int64[2] to = {300, 300}> {
            all = Expand (row, to)  y = Add (x, all)
        }";
        let mut model = model(&text.replace("0, ...", &vec!["0"; 300].join(", ")));
        let pipeline = Pipeline::of(&["fold-constants"]).expect("a pass of the table");
        let report =
            run(&mut model, &pipeline, &Options::default(), &mut |_, _| {}).expect("a run");
        assert_eq!((model[model.root()].len(), report.sweeps), (1, 3));
    }

    /// More nodes than are evaluated side by side, of which many compute the same.
    #[test]
    fn what_many_nodes_compute_alike_is_stored_once() {
        let nodes = (0..40).map(|i| {
            let before = if i == 0 { "x".to_owned() } else { format!("y{}", i - 1) };
            format!("a{i} = Neg (w)  b{i} = Exp (a{i})  y{i} = Add ({before}, b{i})  ")
        });
        let nodes = nodes.collect::<Vec<_>>().concat();
        let mut model = model(&format!(
            "g (float[2] x) => (float[2] y39) <float[2] w = {{0, 0}}> {{ {nodes} }}"
        ));
        let pipeline = Pipeline::of(&["fold-constants"]).expect("a pass of the table");
        run(&mut model, &pipeline, &Options::default(), &mut |_, _| {}).expect("a run");
        let root = model.root();
        model.remove_dead_initializers(root);
        let text = print_graph(&model, root);
        assert!(text.contains("<\n   float[2] b0 = {1, 1}\n> {"), "{text}");
        assert_eq!(model[root].len(), 40);
    }
}
