//! How long a model will take on a chip: a prediction from published figures, per node.
//!
//! The model is cut into the operators that ATC makes of it. Each gets the time of the unit that runs it or of the bytes
//! that it moves, whichever is longer, and the time that starting any operator takes. What a unit reaches of its peak is
//! the same for all models: a few numbers ([`Calibration`]) fitted to published throughputs on one chip.

mod cache;
mod layers;
mod operators;
mod work;

use std::sync::LazyLock;

use onnxfix_ir::infer::Contradiction;
use onnxfix_ir::{Model, NodeId, Place, ValueId};
use onnxfix_passes::{CostModel, Storage};
use serde::{Deserialize, Serialize};

use self::cache::Cache;
use self::operators::Operators;
use self::work::{AI_CPU_UNSURE, Work, Worker};
use crate::platform::{Platform, TILE};

/// Microseconds, with the interval that the model of the costs claims.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Interval {
    /// Hardly less than this.
    pub low: f64,
    /// The best guess.
    pub likely: f64,
    /// Hardly more than this.
    pub high: f64,
}

/// Which part of the chip runs a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Matrix products.
    Cube,
    /// Element-wise work, reductions, moves.
    Vector,
    /// One element after the other on an AI Core.
    Scalar,
    /// The processors beside the AI Cores.
    AiCpu,
    /// Nothing to do at run time.
    None,
}

/// The predicted time of one node, in microseconds.
///
/// ATC runs several nodes as one operator. One of them, the root, has its time; the others have none and say which one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeCost {
    /// Path of the node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Which layer of the encoder it belongs to, from 0; none before the first and behind the last.
    pub layer: Option<usize>,
    /// What runs it.
    pub unit: Unit,
    /// Computing.
    pub compute: f64,
    /// Moving bytes.
    pub memory: f64,
    /// Starting it.
    pub overhead: f64,
    /// All of it: computing goes on while bytes are moved, so the longer of the two, and the start.
    pub total: f64,
    /// Path of the node that this one runs together with, and that has the time of both.
    pub runs_with: Option<String>,
    /// Multiplications and additions of products.
    pub flops: f64,
    /// Bytes read from memory or written to it.
    pub memory_bytes: f64,
    /// Bytes read from the L2 cache or written to it.
    pub cache_bytes: f64,
}

/// The predicted time of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// The chip.
    pub soc: String,
    /// Samples in a batch.
    pub batch: u64,
    /// One run of the model.
    pub time: Interval,
    /// Samples per second.
    pub fps: Interval,
    /// Every node, in the order of the graph.
    pub nodes: Vec<NodeCost>,
    /// What the prediction takes for granted.
    pub assumptions: Vec<String>,
    /// Multiplications and additions of all products in one run.
    pub flops: f64,
    /// Bytes of the constants that are read, floats in 16 bits.
    pub weight_bytes: f64,
}

/// Why there is no prediction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CostError {
    /// Nothing can be counted where a dimension is not a number.
    #[error(
        "the shape of {value:?} is {shape}, not all numbers: fix the shapes of the inputs first"
    )]
    Shape {
        /// Name of the value.
        value: String,
        /// What is known of its shape.
        shape: String,
    },
    /// The shapes contradict each other.
    #[error("no shapes can be inferred: {0}")]
    Contradiction(#[from] Contradiction),
    /// What a body takes depends on the data.
    #[error(
        "{node} runs a body or a function, whose time depends on what is in it: inline it first"
    )]
    Body {
        /// The node.
        node: String,
    },
    /// A node lacks an input or an output that its operator has.
    #[error("{node} lacks an input or an output: check the model first")]
    Malformed {
        /// The node.
        node: String,
    },
}

/// What operators reach of the figures that are published of a chip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Part of the peak of the matrix units that products reach, padding counted as work.
    pub cube_efficiency: f64,
    /// Part of the bandwidth of memory, as all AI Cores together have it.
    pub memory_efficiency: f64,
    /// Part of the bandwidth of L2.
    pub cache_efficiency: f64,
    /// Vector instructions per cycle and unit.
    pub vector_efficiency: f64,
    /// Microseconds that starting an operator takes.
    pub overhead_us: f64,
    /// Cycles of an AI Core for an element that is moved by itself.
    pub scalar_cycles: f64,
    /// Microseconds that starting an operator on the AI CPUs takes. Not fitted: nothing is published that tells.
    pub ai_cpu_us: f64,
    /// Nanoseconds of one AI CPU for an element. Not fitted either.
    pub ai_cpu_ns: f64,
    /// The published time is hardly less than this part of the predicted one.
    pub low: f64,
    /// The published time is hardly more than this many times the predicted one.
    pub high: f64,
    /// What the numbers were fitted to, and how.
    pub source: String,
}

/// On chips of which no throughput was fitted, the interval is wider by this factor.
const OTHER_CHIP: f64 = 1.5;
/// Where sequences are no whole tiles, the time may be more by this factor: with 70 tokens, `RoBERTa` takes 1.5 to 3 times
/// what it would be predicted to take.
const RAGGED: f64 = 3.0;
/// The chip whose published throughputs were fitted.
const FITTED: &str = "Ascend310P3";

impl Calibration {
    /// The numbers that come with the program.
    ///
    /// # Panics
    /// Never: a test reads the file.
    #[must_use]
    pub fn published() -> &'static Calibration {
        static FILE: &str = include_str!("../data/calibration.toml");
        static READ: LazyLock<Calibration> =
            LazyLock::new(|| toml::from_str(FILE).expect("a test reads the file"));
        &READ
    }
}

/// Predicts how long a model takes whose shapes are all numbers.
///
/// # Errors
/// When a shape is not known, or a node has a body.
pub fn predict(model: &Model, platform: &Platform) -> Result<Prediction, CostError> {
    Ok(Plan::new(model, platform)?.predict(Calibration::published()))
}

/// What a model has to do on a chip, before anything is said about how fast that is.
///
/// It is made once where a model is predicted with several calibrations.
#[derive(Debug, Clone)]
pub struct Plan {
    platform: Platform,
    batch: u64,
    weight_bytes: f64,
    nodes: Vec<Planned>,
}

/// A node, with the work of its operator where it is the root of one.
#[derive(Debug, Clone)]
struct Planned {
    path: String,
    op: String,
    layer: Option<usize>,
    work: Option<Work>,
    runs_with: Option<String>,
}

impl Plan {
    /// Plans a model whose shapes are all numbers.
    ///
    /// # Errors
    /// As [`predict`].
    pub fn new(model: &Model, platform: &Platform) -> Result<Plan, CostError> {
        let mut inferred = model.clone();
        onnxfix_ir::infer::infer(&mut inferred)?;
        let m = &inferred;
        for node in m.nodes(m.root()) {
            let calls = |f: &onnxfix_ir::Function| f.name == m[node].op().name;
            if m[node].attrs.graphs().next().is_some() || m.functions.iter().any(calls) {
                return Err(CostError::Body { node: m.describe(node) });
            }
            let values = m[node].inputs().iter().chain(m[node].outputs()).flatten();
            values.copied().try_for_each(|value| has_numbers(m, value))?;
        }
        let operators = Operators::of(m);
        let cache = Cache::new(platform.l2_bytes);
        let mut worker = Worker { m, operators: &operators, platform, cache };
        let mut works: Vec<Option<Work>> = Vec::new();
        for operator in &operators.list {
            works.push(Some(worker.work(operator)?));
        }
        let weight_bytes = worker.weight_bytes();
        let layers = layers::of(m, &operators);
        let path = |node: NodeId| Place::node(m, node).to_string();
        let nodes = m.nodes(m.root()).map(|node| {
            let owner = operators.owner(node).map(|at| (at, operators.list[at].root));
            let is_root = owner.is_some_and(|(_, root)| root == node);
            Planned {
                path: path(node),
                op: m[node].op().to_string(),
                layer: layers.get(&node).copied(),
                work: owner.filter(|_| is_root).and_then(|(at, _)| works[at].take()),
                runs_with: owner.filter(|_| !is_root).map(|(_, root)| path(root)),
            }
        });
        let first = m[m.root()].inputs().iter().find_map(|&v| m[v].dims()?.first().copied());
        Ok(Plan {
            platform: platform.clone(),
            batch: first.and_then(|d| u64::try_from(d).ok()).unwrap_or(1).max(1),
            weight_bytes,
            nodes: nodes.collect(),
        })
    }

    /// Microseconds of one run with these numbers, and nothing else.
    #[must_use]
    pub fn time(&self, calibration: &Calibration) -> f64 {
        let works = self.nodes.iter().filter_map(|node| node.work.as_ref());
        works.map(|work| Times::of(work, &self.platform, calibration).total()).sum()
    }

    /// Predicts with these numbers.
    #[must_use]
    pub fn predict(&self, calibration: &Calibration) -> Prediction {
        let nodes: Vec<NodeCost> =
            self.nodes.iter().map(|node| cost(node, &self.platform, calibration)).collect();
        let sum = |of: &dyn Fn(&NodeCost) -> f64| nodes.iter().map(of).sum::<f64>();
        let likely = sum(&|n| n.total);
        let wider = if self.platform.name == FITTED { 1.0 } else { OTHER_CHIP };
        let works = || self.nodes.iter().filter_map(|n| n.work.as_ref());
        let is_ragged = works().any(|work| work.is_ragged);
        let slow = if is_ragged { calibration.high.max(RAGGED) } else { calibration.high };
        let mut time = Interval { low: 0.0, likely, high: 0.0 };
        for (node, work) in
            self.nodes.iter().zip(&nodes).filter_map(|(n, c)| Some((c, n.work.as_ref()?)))
        {
            let is_known = work.unsure <= 1.0;
            time.low += node.total * if is_known { calibration.low } else { 1.0 / work.unsure };
            time.high += node.total * if is_known { slow } else { work.unsure.min(AI_CPU_UNSURE) };
        }
        (time.low, time.high) = (time.low / wider, time.high * wider);
        let per_second = |us: f64| if us > 0.0 { self.batch as f64 * 1e6 / us } else { 0.0 };
        Prediction {
            soc: self.platform.name.clone(),
            batch: self.batch,
            time,
            fps: Interval {
                low: per_second(time.high),
                likely: per_second(time.likely),
                high: per_second(time.low),
            },
            assumptions: assumptions(&self.platform, &nodes, is_ragged),
            flops: sum(&|n| n.flops),
            weight_bytes: self.weight_bytes,
            nodes,
        }
    }
}

/// Bytes of an element of float16.
const HALF: u64 = 2;

/// What a pass asks that has a choice between forms, by the published calibration.
impl CostModel for Platform {
    fn product(&self, [batch, rows, depth, columns]: [u64; 4], at: Storage) -> f64 {
        let tiles = |n: u64| n.div_ceil(TILE) as f64;
        let blocks = batch as f64 * tiles(rows) * tiles(columns);
        let elements = batch * (rows * depth + depth * columns + rows * columns);
        let mut work = moved(HALF * elements, at);
        (work.unit, work.tiles, work.blocks) = (Unit::Cube, blocks * tiles(depth), blocks);
        Times::of(&work, self, Calibration::published()).total()
    }

    fn copy(&self, read: u64, written: u64, at: Storage) -> f64 {
        let mut work = moved(HALF * (read + written), at);
        work.lanes = written as f64;
        Times::of(&work, self, Calibration::published()).total()
    }

    fn cache(&self) -> u64 {
        self.l2_bytes / HALF
    }
}

/// Work that is nothing but moving bytes.
fn moved(bytes: u64, at: Storage) -> Work {
    let bytes = bytes as f64;
    let traffic = match at {
        Storage::Memory => cache::Traffic { memory: bytes, cache: 0.0 },
        Storage::Cache => cache::Traffic { memory: 0.0, cache: bytes },
    };
    Work {
        unit: Unit::Vector,
        tiles: 0.0,
        blocks: 0.0,
        lanes: 0.0,
        scalars: 0.0,
        ai_cpu: 0.0,
        traffic,
        flops: 0.0,
        is_ragged: false,
        unsure: 1.0,
    }
}

/// The time of a node.
fn cost(node: &Planned, platform: &Platform, calibration: &Calibration) -> NodeCost {
    let mut cost = NodeCost {
        node: node.path.clone(),
        op: node.op.clone(),
        layer: node.layer,
        unit: Unit::None,
        compute: 0.0,
        memory: 0.0,
        overhead: 0.0,
        total: 0.0,
        runs_with: node.runs_with.clone(),
        flops: 0.0,
        memory_bytes: 0.0,
        cache_bytes: 0.0,
    };
    let Some(work) = &node.work else { return cost };
    let times = Times::of(work, platform, calibration);
    cost.unit = work.unit;
    cost.compute = times.compute;
    cost.memory = times.memory;
    cost.overhead = times.overhead;
    cost.total = times.total();
    cost.flops = work.flops;
    cost.memory_bytes = work.traffic.memory;
    cost.cache_bytes = work.traffic.cache;
    cost
}

/// Microseconds that an operator takes.
struct Times {
    compute: f64,
    memory: f64,
    overhead: f64,
}

impl Times {
    fn of(work: &Work, platform: &Platform, calibration: &Calibration) -> Times {
        let cores = platform.ai_cores as f64;
        let lanes = (platform.vector_lanes * platform.vector_units) as f64;
        let cube = work.tiles / cores.min(work.blocks.max(1.0)) / calibration.cube_efficiency;
        let vector = work.lanes / lanes / calibration.vector_efficiency;
        let scalar = work.scalars / cores * calibration.scalar_cycles;
        let ai_cpu = work.ai_cpu / platform.ai_cpus as f64 * calibration.ai_cpu_ns / 1e3;
        let cycles_per_us = platform.clock_mhz;
        let per_us = |bytes_per_cycle: f64| cycles_per_us * cores * bytes_per_cycle;
        let memory = per_us(platform.memory_bytes_per_cycle) * calibration.memory_efficiency;
        let cache = per_us(platform.l2_bytes_per_cycle) * calibration.cache_efficiency;
        Times {
            compute: (cube + vector + scalar) / cycles_per_us + ai_cpu,
            memory: work.traffic.memory / memory + work.traffic.cache / cache,
            overhead: match work.unit {
                Unit::AiCpu => calibration.ai_cpu_us,
                _ => calibration.overhead_us,
            },
        }
    }

    /// Computing goes on while bytes are moved.
    fn total(&self) -> f64 {
        self.compute.max(self.memory) + self.overhead
    }
}

/// Fails where a dimension is not a number.
fn has_numbers(m: &Model, value: ValueId) -> Result<(), CostError> {
    if m[value].dims().is_some() {
        return Ok(());
    }
    let shape = match (&m[value].ty, m[value].shape()) {
        (_, Some(shape)) => shape.to_string(),
        (Some(ty), None) => ty.to_string(),
        (None, None) => "unknown".to_owned(),
    };
    Err(CostError::Shape { value: m[value].name().to_string(), shape })
}

fn assumptions(platform: &Platform, nodes: &[NodeCost], is_ragged: bool) -> Vec<String> {
    let calibration = Calibration::published();
    let mut said = vec![
        format!("The figures of {} are those of {}.", platform.name, platform.source),
        "Nothing was run on a device: what operators reach of these figures was fitted to published throughputs on \
         Ascend310P3, and the interval is the error for models that were left out of the fit."
            .to_owned(),
        "Floats are stored and computed in float16 (ATC's default), and shapes are static.".to_owned(),
        "ATC runs as one operator: a product with its bias, a chain of element-wise nodes, a layer normalization and \
         a GELU in the steps that it recognises. Reshapes, and Transposes of axes of length 1 or of the last two axes \
         before a product, cost nothing."
            .to_owned(),
        "A tensor is read from L2 if it was used last before as many bytes of others as L2 holds, else from memory."
            .to_owned(),
        "Copies between host and device are not counted, as ais_bench does not count them either.".to_owned(),
    ];
    if platform.name != FITTED {
        said.push(format!(
            "No throughput on {} was compared; the interval is wider by {OTHER_CHIP}.",
            platform.name
        ));
    }
    if is_ragged {
        said.push(format!(
            "The length of the sequence is no multiple of {TILE}. That takes up to {RAGGED} times longer than is \
             predicted, as published figures of RoBERTa with 70 tokens show; a multiple of {TILE} is better."
        ));
    }
    let share = |unit: Unit| nodes.iter().filter(|n| n.unit == unit).map(|n| n.total).sum::<f64>();
    let total: f64 = nodes.iter().map(|n| n.total).sum();
    let percent = |us: f64| if total > 0.0 { 100.0 * us / total } else { 0.0 };
    if share(Unit::Scalar) > 0.0 {
        said.push(format!(
            "Elements that are gathered one by one take {:.0} cycles each, fitted to one published figure of a \
             GatherElements with int64 indices; they are {:.0} % of the time. Other operators that move single elements \
             are taken for as slow and may be much faster.",
            calibration.scalar_cycles,
            percent(share(Unit::Scalar))
        ));
    }
    if share(Unit::AiCpu) > 0.0 {
        said.push(format!(
            "Nothing is published of how fast the AI CPUs are; {} µs per operator and {} ns per element are a guess \
             for {:.0} % of the time, which may be {AI_CPU_UNSURE} times less or more.",
            calibration.ai_cpu_us,
            calibration.ai_cpu_ns,
            percent(share(Unit::AiCpu))
        ));
    }
    said
}

#[cfg(test)]
mod tests {
    use onnxfix_ir::text::parse_graph;

    use super::*;
    use crate::platform;

    /// A graph as text. A constant written without elements has zeros.
    fn model(text: &str) -> Model {
        let text = &with_zeros(text);
        parse_graph(text, 13).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    /// Writes ` = {0, ..}` behind `zeros float[2,3] w`.
    fn with_zeros(text: &str) -> String {
        let mut parts = text.split("zeros ");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find([',', '>'].as_slice()).map_or(0, |_| {
                let close = part.find(']').unwrap_or(0);
                close + part[close..].find([',', '>']).unwrap_or(0)
            });
            let dims = &part[part.find('[').unwrap_or(0) + 1..part.find(']').unwrap_or(0)];
            let count: usize = dims.split(',').map(|d| d.parse().unwrap_or(1)).product();
            let zeros = vec!["0"; count].join(", ");
            out += &[&part[..end], " = {", &zeros, "}", &part[end..]].concat();
        }
        out
    }

    fn p3() -> &'static Platform {
        platform::find("Ascend310P3").expect("a platform")
    }

    /// Everything at its peak and without a start, so that figures can be counted by hand.
    fn ideal() -> Calibration {
        Calibration {
            cube_efficiency: 1.0,
            memory_efficiency: 1.0,
            cache_efficiency: 1.0,
            vector_efficiency: 1.0,
            overhead_us: 0.0,
            scalar_cycles: 100.0,
            ai_cpu_us: 50.0,
            ai_cpu_ns: 16.0,
            ..Calibration::published().clone()
        }
    }

    #[track_caller]
    fn nodes(text: &str) -> Vec<NodeCost> {
        let plan = Plan::new(&model(text), p3()).unwrap_or_else(|e| panic!("{e}"));
        plan.predict(&ideal()).nodes
    }

    #[track_caller]
    fn is_close(have: f64, want: f64) {
        assert!((have - want).abs() <= 1e-9 * want.abs(), "{have}, not {want}");
    }

    /// The operators that run, each as its root and how many nodes are in it.
    #[track_caller]
    fn operators(text: &str) -> Vec<(String, usize)> {
        let nodes = nodes(text);
        let roots = nodes.iter().filter(|n| n.unit != Unit::None);
        let with = |root: &NodeCost| {
            nodes.iter().filter(|n| n.runs_with.as_deref() == Some(&root.node)).count()
        };
        roots.map(|root| (root.op.clone(), 1 + with(root))).collect()
    }

    #[test]
    fn a_product_is_counted_in_whole_tiles() {
        let product = &nodes(
            "g (float[256,768] x, float[768,768] w) => (float[256,768] y) { y = MatMul (x, w) }",
        )[0];
        // 16·48·48 tiles on eight cores at 1060 MHz.
        is_close(product.compute, 16.0 * 48.0 * 48.0 / 8.0 / 1060.0);
        // Both factors come from memory and the result stays in L2.
        is_close(product.memory_bytes, 2.0 * (256.0 * 768.0 + 768.0 * 768.0));
        is_close(product.cache_bytes, 2.0 * 256.0 * 768.0);
        is_close(
            product.memory,
            product.memory_bytes / (17.0 * 8.0 * 1060.0)
                + product.cache_bytes / (114.0 * 8.0 * 1060.0),
        );
        is_close(product.flops, 2.0 * 256.0 * 768.0 * 768.0);
        assert_eq!(product.unit, Unit::Cube);
    }

    #[test]
    fn padding_is_work_and_few_tiles_keep_cores_idle() {
        let text = "g (float[9,1] x, float[1,9] w) => (float[9,9] y) { y = MatMul (x, w) }";
        // One tile, one core.
        is_close(nodes(text)[0].compute, 1.0 / 1060.0);
        // Twelve products of 64×9 with 9×1: four tiles each.
        let text =
            "g (float[12,64,9] x, float[12,9,1] w) => (float[12,64,1] y) { y = MatMul (x, w) }";
        is_close(nodes(text)[0].compute, 12.0 * 4.0 / 8.0 / 1060.0);
    }

    #[test]
    fn a_depthwise_convolution_shares_blocks_of_sixteen_channels() {
        let text = "g (float[1,768,1,128] x, float[768,1,1,9] w) => (float[1,768,1,128] y)
{ y = Conv <group = 768, pads = [0, 4, 0, 4]> (x, w) }";
        // 48 blocks of channels, 8 tiles of places, 9 taps.
        is_close(nodes(text)[0].compute, 48.0 * 8.0 * 9.0 / 8.0 / 1060.0);
        is_close(nodes(text)[0].flops, 2.0 * 128.0 * 768.0 * 9.0);
    }

    #[test]
    fn views_are_free() {
        let text = "g (float[2,1,8] x) => (float[1,16] y) <int64[2] s = {1, 16}> {
   a = Transpose <perm = [1, 0, 2]> (x)  b = Identity (a)  c = Cast <to: int = 10> (b)  y = Reshape (c, s) }";
        assert!(nodes(text).iter().all(|n| n.unit == Unit::None && n.total < f64::EPSILON));
        assert_eq!(
            operators("g (float[2,8] x) => (float[8,2] y) { y = Transpose (x) }"),
            [("Transpose".to_owned(), 1)]
        );
    }

    #[test]
    fn a_factor_is_read_in_either_order() {
        let turned = "g (float[4,16,32] x, float[4,16,32] k) => (float[4,16,16] y)
{ t = Transpose <perm = [0, 2, 1]> (k)  y = MatMul (x, t) }";
        assert_eq!(operators(turned), [("MatMul".to_owned(), 1)]);
        // Something else needs it turned.
        let read = turned
            .replace("y = MatMul (x, t)", "r = Relu (t)  u = Reshape (r, s)  y = MatMul (x, t)");
        let read = read.replace("y)\n", "y, float[4,512] u) <int64[2] s = {4, 512}>\n");
        assert_eq!(operators(&read).len(), 3);
    }

    #[test]
    fn int64_indices_are_gathered_one_by_one() {
        let gather = |index: &str| {
            nodes(&format!(
                "g (float[12,256,512] x, {index}[12,256,256] i) => (float[12,256,256] y) {{ y = GatherElements <axis = -1> (x, i) }}"
            ))
            .remove(0)
        };
        let count = 12.0 * 256.0 * 256.0;
        assert_eq!(gather("int64").unit, Unit::Scalar);
        is_close(gather("int64").compute, count * 100.0 / 8.0 / 1060.0);
        assert_eq!(gather("int32").unit, Unit::Vector);
        is_close(gather("int32").compute, count / 8.0 / 8.0 / 1060.0);
        // Not along the last axis, three million bytes and two thousand indices: the AI CPUs.
        let text = "g (float[12,512,256] x, int32[12,256,256] i) => (float[12,256,256] y) { y = GatherElements <axis = 1> (x, i) }";
        assert_eq!(nodes(text)[0].unit, Unit::AiCpu);
    }

    #[test]
    fn what_the_ai_cores_lack_runs_beside_them() {
        let abs = |dtype: &str| {
            nodes(&format!("g ({dtype}[256,256] x) => ({dtype}[256,256] y) {{ y = Abs (x) }}"))
                .remove(0)
        };
        assert_eq!((abs("int64").unit, abs("int32").unit), (Unit::AiCpu, Unit::Vector));
        // 65536 elements on 16 processors, 16 ns each.
        is_close(abs("int64").compute, 65.536);
        is_close(abs("int64").overhead, 50.0);
        is_close(abs("int32").compute, 65536.0 / 1024.0 / 1060.0);
    }

    #[test]
    fn what_is_constant_is_computed_before() {
        let text = "g (float[8] x) => (float[8] y) <zeros float[8] a, zeros float[8] b> { c = Mul (a, b)  d = Log (c)  e = Add (d, b)  y = Add (x, e) }";
        // GE does not fold logarithms, nor what reads them.
        assert_eq!(operators(text), [("Log".to_owned(), 3)]);
        is_close(nodes(text)[0].total, 0.0);
    }

    #[test]
    fn a_product_takes_its_bias_and_element_wise_nodes_take_each_other() {
        let text = "g (float[32,64] x, float[32,16] r) => (float[32,16] y) <zeros float[64,16] w, zeros float[16] b, float c = {2}> {
   p = MatMul (x, w)  q = Add (p, b)  s = Mul (q, c)  t = Add (s, r)  y = Relu (t) }";
        assert_eq!(operators(text), [("MatMul".to_owned(), 2), ("Mul".to_owned(), 3)]);
        // A second reader needs the value itself.
        let read_twice = text.replace("t = Add (s, r)", "t = Add (s, s)");
        assert_eq!(operators(&read_twice)[1..], [("Mul".to_owned(), 1), ("Add".to_owned(), 2)]);
    }

    const NORM: &str = "g (float[32,64] x) => (float[32,64] y) <float two = {2}, float e = {1e-7}, zeros float[64] g, zeros float[64] b> {
   m = ReduceMean <axes = [-1]> (x)  c = Sub (x, m)  q = Pow (c, two)  v = ReduceMean <axes = [-1]> (q)  w = Add (v, e)
   s = Sqrt (w)  d = Div (c, s)  k = Mul (d, g)  y = Add (k, b) }";

    #[test]
    fn a_layer_normalization_is_one_operator_where_atc_sees_it() {
        assert_eq!(operators(NORM), [("Div".to_owned(), 9)]);
        assert!(operators(&NORM.replace("Pow (c, two)", "Mul (c, c)")).len() > 1);
    }

    #[test]
    fn a_gelu_is_one_operator_where_atc_sees_it() {
        let text = "g (float[32,64] x) => (float[32,64] y) <float r = {1.41421354}, float o = {1}, float h = {0.5}> {
   a = Div (x, r)  e = Erf (a)  p = Add (e, o)  m = Mul (x, p)  y = Mul (m, h) }";
        assert_eq!(operators(text), [("Erf".to_owned(), 5)]);
        is_close(nodes(text)[1].compute, 8.0 * 2048.0 / 1024.0 / 1060.0);
        // Without the pattern the same nodes are a chain, with an Erf of its own.
        let other = text.replace("r = {1.41421354}", "r = {0.70710677}").replace("Div", "Mul");
        is_close(nodes(&other)[0].compute, (4.0 + 20.0) * 2048.0 / 1024.0 / 1060.0);
    }

    #[test]
    fn l2_holds_what_was_used_last() {
        // Each has four million bytes: three of them and the result fit, nine do not.
        let relu = |n: usize| {
            let shape = "float[1024,2048]";
            let step = |i: usize| format!("  a{i} = Relu (a{})  t{i} = Softmax (a{i})", i - 1);
            let chain = (1..n).map(step).collect::<Vec<_>>().concat();
            nodes(&format!(
                "g ({shape} x) => ({shape} y) {{ a0 = Softmax (x) {chain}  y = Add (x, a{}) }}",
                n - 1
            ))
        };
        let last =
            |nodes: &[NodeCost]| nodes.iter().rfind(|n| n.op == "Add").map(|n| n.memory_bytes);
        assert_eq!((last(&relu(1)), last(&relu(4))), (Some(0.0), Some(4.0 * 1024.0 * 1024.0)));
    }

    #[test]
    fn open_shapes_and_bodies_are_errors_that_say_what_to_do() {
        let error = |text: &str| predict(&model(text), p3()).expect_err("an error").to_string();
        let open = error("g (float[N,8] x) => (float[N,8] y) { y = Relu (x) }");
        assert_eq!(
            open,
            "the shape of \"x\" is [N,8], not all numbers: fix the shapes of the inputs first"
        );
        let body = error(
            "g (bool c, float[8] x) => (float[8] y) { y = If (c) <then_branch: graph = t () => (float[8] a) { a = Relu (x) }, else_branch: graph = e () => (float[8] b) { b = Neg (x) }> }",
        );
        assert!(body.contains("inline it first"), "{body}");
    }

    #[test]
    fn layers_are_cut_where_one_value_carries_all() {
        let block = |n: usize| {
            format!(
                "q{n} = MatMul (x{n}, w)  k{n} = MatMul (x{n}, w)  v{n} = MatMul (x{n}, w)  t{n} = Transpose (k{n})
   s{n} = MatMul (q{n}, t{n})  z{n} = Add (s{n}, mask)  p{n} = Softmax (z{n})  o{n} = MatMul (p{n}, v{n})
   d{n} = MatMul (o{n}, w)  r{n} = Add (d{n}, x{n})  x{} = LayerNormalization (r{n}, g)",
                n + 1
            )
        };
        let text = format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> g (int32[32] i, float[32] m) => (float[1,64] y)
<zeros float[100,64] e, zeros float[64,64] w, zeros float[64] g, int64[1] first = {{0}}> {{
   x0 = Gather (e, i)  mask = Neg (m)  {} {} {}  c = Gather (x3, first)  y = MatMul (c, w) }}",
            block(0),
            block(1),
            block(2)
        );
        let m = onnxfix_ir::text::parse(&with_zeros(&text)).expect("a model");
        let nodes = predict(&m, p3()).expect("a prediction").nodes;
        let layers: Vec<Option<usize>> = nodes.iter().map(|n| n.layer).collect();
        let of = |layer: usize| std::iter::repeat_n(Some(layer), 11);
        let want: Vec<_> = [None, None]
            .into_iter()
            .chain(of(0))
            .chain(of(1))
            .chain(of(2))
            .chain([None, None])
            .collect();
        assert_eq!(layers, want);
    }

    #[test]
    fn sums_intervals_and_assumptions_go_together() {
        let m = model(
            "g (float[4,256] x) => (float[4,256] y) <zeros int64[4,256] i> { e = Exp (x)  y = GatherElements <axis = 1> (e, i) }",
        );
        let prediction = predict(&m, p3()).expect("a prediction");
        let total: f64 = prediction.nodes.iter().map(|n| n.total).sum();
        is_close(prediction.time.likely, total);
        assert!(prediction.time.low < total && total < prediction.time.high);
        is_close(prediction.fps.likely, 4e6 / total);
        assert!(
            prediction.fps.low < prediction.fps.likely
                && prediction.fps.likely < prediction.fps.high
        );
        assert!(prediction.assumptions.iter().any(|a| a.contains("gathered one by one")));
        // Elsewhere nothing was compared.
        let other =
            predict(&m, platform::find("310P1").expect("a platform")).expect("a prediction");
        assert!(
            other.time.high / other.time.likely
                > prediction.time.high / prediction.time.likely - 1e-9
        );
        assert!(
            other
                .assumptions
                .iter()
                .any(|a| a.contains("No throughput on Ascend310P1 was compared"))
        );
    }

    #[test]
    fn sequences_that_are_no_whole_tiles_are_pointed_out() {
        let attention = |seq: i64| {
            let m = model(&format!(
                "g (float[12,{seq},64] q, float[12,64,{seq}] k) => (float[12,{seq},{seq}] s) {{ s = MatMul (q, k) }}"
            ));
            let prediction = predict(&m, p3()).expect("a prediction");
            let said = prediction.assumptions.iter().any(|a| a.contains("no multiple of 16"));
            (said, prediction.time.high / prediction.time.likely)
        };
        let (whole, ragged) = (attention(64), attention(70));
        assert!(!whole.0 && ragged.0 && ragged.1 > whole.1 && ragged.1 > 2.9);
    }

    #[test]
    fn a_product_alone_can_be_asked_for() {
        let product = |at| p3().product([12, 256, 64, 256], at);
        let (near, far) = (product(Storage::Cache), product(Storage::Memory));
        assert!(near <= far && near > 0.0);
        let text = "g (float[12,256,64] x, float[12,64,256] w) => (float[12,256,256] y) { y = MatMul (x, w) }";
        let whole = predict(&model(text), p3()).expect("a prediction").time.likely;
        assert!(near <= whole && whole <= far + 1e-9);
    }

    #[test]
    fn a_slice_takes_as_long_as_a_copy_from_memory_or_from_the_cache() {
        let text = "g (float[12,512,256] x) => (float[12,256,256] y) <int64[1] b = {0}, int64[1] e = {256}, int64[1] one = {1}> { y = Slice (x, b, e, one) }";
        let whole = predict(&model(text), p3()).expect("a prediction").time.likely;
        let elements = 12 * 256 * 256;
        let copy = |at| p3().copy(elements, elements, at);
        // What is written may stay in the cache.
        assert!(copy(Storage::Cache) < whole && whole < copy(Storage::Memory), "{whole}");
    }
}
