//! What every pass owes every model, asked of one sample.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use onnxfix_generate::{Machine, Sample, Stuck, is_equal, is_near, show};
use onnxfix_ir::text::{Mode, parse, print, print_graph};
use onnxfix_ir::{
    DataType, LoadOptions, Model, Node, NodeId, Tensor, check, from_bytes, infer, to_proto,
    write_to,
};
use onnxfix_passes::{
    DimBinding, NPU_ONLY, Numerics, Options, PASSES, PORTABLE_ONLY, PROVENANCE, Pipeline, Report,
    Stop, find, run,
};

/// The opset that an NPU wants.
const NPU_OPSET: u64 = 13;

/// A pass or pipeline that does not do what it should.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// The pass, or the pipeline.
    pub(crate) of: String,
    /// What is wrong, in a word: shrinking keeps it.
    pub(crate) kind: &'static str,
    /// What is wrong.
    pub(crate) what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.of, self.kind, self.what)
    }
}

/// How much was looked at.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Runs that changed the model, by pass or pipeline.
    pub(crate) changed: BTreeMap<String, u64>,
    /// Nodes that the reference evaluator computed.
    pub(crate) evaluated: usize,
    /// Nodes that were taken for unknown functions.
    pub(crate) unknown: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} nodes evaluated, {} taken for unknown functions; changed by",
            self.evaluated, self.unknown
        )?;
        self.changed.iter().try_for_each(|(of, n)| writeln!(f, "{n:8} {of}"))
    }
}

/// Asks everything of every pass and of both pipelines.
pub(crate) fn holds(sample: &Sample, tally: &mut Tally) -> Result<(), Failure> {
    let input = |kind, what| Failure { of: "the sample".into(), kind, what };
    if let Some(broken) = check(&sample.model).first() {
        return Err(input("not well formed", broken.to_string()));
    }
    let mut machine = Machine::new(&sample.model);
    machine.run(&sample.feeds).map_err(|e| input("does not run", e.to_string()))?;
    tally.evaluated += machine.evaluated;
    tally.unknown += machine.unknown;
    for pass in PASSES {
        let pipeline = Pipeline::of(&[pass.info().name]).expect("a pass of the table");
        one(pass.info().name, &pipeline, false, Some(NPU_OPSET), sample, tally)?;
    }
    let npu = Pipeline::all().without(PORTABLE_ONLY).expect("passes of the table");
    one("the NPU's pipeline", &npu, true, Some(NPU_OPSET), sample, tally)?;
    let portable = Pipeline::all().without(NPU_ONLY).expect("passes of the table");
    one("the portable pipeline", &portable, false, None, sample, tally)?;
    stopped_early(&npu, sample)
}

/// A run that `--max-rewrites` stops leaves a model that computes the same.
fn stopped_early(pipeline: &Pipeline, sample: &Sample) -> Result<(), Failure> {
    let failure =
        |kind, what| Failure { of: "the NPU's pipeline, stopped early".into(), kind, what };
    let rewrites = 1 + sample.model.all_nodes().count() as u64 % 8;
    let mut model = sample.model.clone();
    let options = Options {
        dims: bindings(sample),
        static_shapes: true,
        opset: Some(NPU_OPSET),
        check_each: true,
        max_rewrites: Some(rewrites),
        ..Options::default()
    };
    let mut changed = false;
    let report = run(&mut model, pipeline, &options, &mut |_, _| changed = true)
        .map_err(|e| failure("stops", chain(&e)))?;
    if let Some(broken) = check(&model).first() {
        return Err(failure("leaves the model broken", broken.to_string()));
    }
    same_outputs(&sample.model, &model, sample, rounds(&report))
        .map_err(|(kind, what)| failure(kind, format!("{what}\n{}", text(&model))))
}

fn bindings(sample: &Sample) -> Vec<DimBinding> {
    sample.dims.iter().map(|(symbol, n)| DimBinding { symbol: symbol.clone(), value: *n }).collect()
}

/// One pass or pipeline; a panic is a failure like any other.
fn one(
    name: &str,
    pipeline: &Pipeline,
    static_shapes: bool,
    opset: Option<u64>,
    sample: &Sample,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let asked = AssertUnwindSafe(|| asked(name, pipeline, static_shapes, opset, sample, tally));
    catch_unwind(asked).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(Failure { of: name.to_owned(), kind: "panics", what: text.unwrap_or_default() })
    })
}

fn asked(
    name: &str,
    pipeline: &Pipeline,
    static_shapes: bool,
    opset: Option<u64>,
    sample: &Sample,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let failure = |kind, what: String| Failure { of: name.to_owned(), kind, what };
    let options = Options {
        dims: if static_shapes { bindings(sample) } else { Vec::new() },
        static_shapes,
        opset,
        check_each: true,
        ..Options::default()
    };
    let mut model = sample.model.clone();
    let mut changed = false;
    let report = run(&mut model, pipeline, &options, &mut |_, _| changed = true)
        .map_err(|e| failure("stops", chain(&e)))?;
    if report.stop != Stop::Converged {
        return Err(failure("does not converge", format!("{:?}", report.stop)));
    }
    if !changed {
        return Ok(());
    }
    *tally.changed.entry(name.to_owned()).or_default() += 1;
    if let Some(broken) = check(&model).first() {
        return Err(failure("leaves the model broken", broken.to_string()));
    }
    let once = text(&model);
    let options = Options { dims: Vec::new(), ..options };
    run(&mut model, pipeline, &options, &mut |_, _| {})
        .map_err(|e| failure("stops the second time", chain(&e)))?;
    if text(&model) != once {
        return Err(failure(
            "changes the model the second time",
            format!("\n{once}\n{}", text(&model)),
        ));
    }
    same_outputs(&sample.model, &model, sample, rounds(&report))
        .map_err(|(kind, what)| failure(kind, format!("{what}\n{once}")))?;
    if let Err(e) = infer::infer(&mut model.clone()) {
        return Err(failure("leaves a contradiction", format!("{e}\n{once}")));
    }
    stored(&model).map_err(|what| failure("is stored as another model", what))?;
    let parsed =
        parse(&once).map_err(|e| failure("is printed as no model", format!("{e}\n{once}")))?;
    if print_graph(&parsed, parsed.root()) != print_graph(&model, model.root()) {
        return Err(failure("is printed as another model", format!("{once}\n{}", text(&parsed))));
    }
    Ok(())
}

/// The error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn text(model: &Model) -> String {
    print(model, Mode::Full { limit: 1 << 20 }).unwrap_or_else(|e| e.to_string())
}

/// Both models give equal outputs, and the types in the second one are those of its values.
fn same_outputs(
    before: &Model,
    after: &Model,
    sample: &Sample,
    rounds: Rounding,
) -> Result<(), (&'static str, String)> {
    // Exact passes do not keep the sign of a zero, which a division makes an infinity of: then zeros have none.
    compare(before, after, sample, rounds, false)
        .or_else(|first| compare(before, after, sample, rounds, true).map_err(|_| first))
}

fn compare(
    before: &Model,
    after: &Model,
    sample: &Sample,
    rounds: Rounding,
    plain_zeros: bool,
) -> Result<(), (&'static str, String)> {
    let stuck = |e| match e {
        Stuck::Refused(what) => ("gives a model that refuses its inputs", what),
        Stuck::Wrong(what) => ("leaves wrong types", what),
    };
    let mut first = Machine::new(before).with_plain_zeros(plain_zeros);
    let want = first.run(&sample.feeds).map_err(stuck)?;
    let rounded = rounds != Rounding::No;
    let reference = if rounded { reference(&first, before, after) } else { HashMap::new() };
    let mut second = Machine::new(after).with_plain_zeros(plain_zeros).with_reference(reference);
    let have = second.run(&sample.feeds).map_err(stuck)?;
    if want.len() != have.len() {
        return Err((
            "changes the number of outputs",
            format!("{} and {}", want.len(), have.len()),
        ));
    }
    let names = before[before.root()].outputs().iter().zip(after[after.root()].outputs());
    for ((want, have), (&a, &b)) in want.iter().zip(&have).zip(names) {
        if before[a].name() != after[b].name() {
            return Err(("changes the name of an output", before[a].name().to_string()));
        }
        let numbers = || {
            let of_model = before.all_values().filter_map(|(v, _)| before.constant(v));
            first.values.values().chain(of_model)
        };
        let is_rounded = |want: &Tensor, have: &Tensor| {
            is_near(want, have)
                || squares_overflow(numbers(), rounds)
                || cancels(want, have, numbers())
                || (takes_logarithms(before) && cancels(&exp(want), &exp(have), numbers()))
        };
        let as_single = || is_rounded(&single(want), &single(have));
        let same = is_equal(want, have)
            || (rounded && is_rounded(want, have))
            || (rounds == Rounding::Single && as_single());
        if !same {
            return Err((
                "changes the numbers",
                format!("{} was {} and is {}", before[a].name(), show(want), show(have)),
            ));
        }
    }
    Ok(())
}

/// Whether what differs is what rounding left of larger numbers of the run, which cancel in the outputs.
fn cancels<'t>(
    want: &Tensor,
    have: &Tensor,
    numbers: impl Iterator<Item = &'t Arc<Tensor>>,
) -> bool {
    let epsilon = match want.dtype {
        DataType::Double => f64::EPSILON,
        DataType::Float => f64::from(f32::EPSILON),
        DataType::Float16 => 1e-3,
        DataType::Bfloat16 => 8e-3,
        _ => return false,
    };
    // Of numbers that are larger by far everything would be the rounding.
    let of = |t: &Arc<Tensor>| t.to_floats().unwrap_or_default().into_iter().map(f64::abs);
    let largest = numbers.flat_map(of).filter(|&x| x <= 1e3).fold(0.0, f64::max);
    let (Some(want), Some(have)) = (want.to_floats(), have.to_floats()) else { return false };
    want.iter().zip(&have).all(|(a, b)| {
        a.total_cmp(b).is_eq() || a.is_nan() || (a - b).abs() <= 8.0 * epsilon * largest
    })
}

/// Whether some output may be a logarithm: of a sum that cancels, it is that of the rounding.
fn takes_logarithms(model: &Model) -> bool {
    const LOGARITHMS: [&str; 3] = ["Log", "ReduceLogSum", "ReduceLogSumExp"];
    model.all_nodes().any(|(_, node)| LOGARITHMS.iter().any(|&op| node.op().is(op)))
}

/// What a tensor is the logarithm of.
fn exp(tensor: &Tensor) -> Tensor {
    #[expect(clippy::cast_possible_truncation, reason = "as the tensor's own numbers are stored")]
    let floats = |all: Vec<f64>| all.into_iter().map(|x| x.exp() as f32).collect();
    match (tensor.dtype, tensor.to_floats()) {
        (DataType::Double, Some(all)) => {
            Tensor::new(&tensor.dims, all.into_iter().map(f64::exp).collect())
        }
        (DataType::Float, Some(all)) => Tensor::new(&tensor.dims, floats(all)),
        _ => tensor.clone(),
    }
}

/// Whether the square of some number is none of its type, so that a normalization in steps is not one in one.
fn squares_overflow<'t>(
    mut numbers: impl Iterator<Item = &'t Arc<Tensor>>,
    rounds: Rounding,
) -> bool {
    let is_large = |tensor: &Arc<Tensor>| {
        let limit = match tensor.dtype {
            DataType::Float16 => 255.0,
            DataType::Double if rounds != Rounding::Single => 1e154,
            _ => 1e19,
        };
        let floats = tensor.to_floats().unwrap_or_default();
        floats.iter().any(|x| x.is_finite() && x.abs() > limit)
    };
    numbers.any(is_large)
}

/// How far what passes did may change the last bits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rounding {
    No,
    /// Those of the numbers' own type.
    Own,
    /// Those that double has more than float.
    Single,
}

fn rounds(report: &Report) -> Rounding {
    let mut made = report.passes.iter().filter(|p| p.rewrites > 0).map(|p| p.pass);
    if made.clone().any(|pass| pass == "narrow-doubles") {
        return Rounding::Single;
    }
    if made.any(may_round) { Rounding::Own } else { Rounding::No }
}

/// A tensor with floats where it has doubles.
fn single(tensor: &Tensor) -> Tensor {
    #[expect(clippy::cast_possible_truncation, reason = "that is what the pass does")]
    let narrow = |all: Vec<f64>| all.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    match tensor.to_floats().filter(|_| tensor.dtype == DataType::Double) {
        Some(all) => Tensor::new(&tensor.dims, narrow(all)),
        None => tensor.clone(),
    }
}

fn may_round(pass: &str) -> bool {
    find(pass).is_ok_and(|pass| matches!(pass.info().numerics, Numerics::Relative(_)))
}

/// What the original gives for the nodes of passes that may round otherwise, by the name of what they make.
fn reference(run: &Machine<'_>, before: &Model, after: &Model) -> HashMap<NodeId, Arc<Tensor>> {
    let values = run.values.iter().map(|(&value, tensor)| (before[value].name(), tensor));
    let values: HashMap<_, _> = values.collect();
    let made = |(id, node): (NodeId, &Node)| {
        let by = node.metadata.iter().any(|(key, pass)| key == PROVENANCE && may_round(pass));
        let y = after[id].output(0)?;
        let tensor = values.get(after[y].name()).filter(|_| by)?;
        let narrowed =
            tensor.dtype == DataType::Double && after[y].dtype() == Some(DataType::Float);
        Some((id, if narrowed { Arc::new(single(tensor)) } else { Arc::clone(tensor) }))
    };
    after.all_nodes().filter_map(made).collect()
}

/// The model comes back from its file as it was.
fn stored(model: &Model) -> Result<(), String> {
    let mut file = Vec::new();
    write_to(model, &mut file).map_err(|e| e.to_string())?;
    let loaded = from_bytes(file.into(), None, &LoadOptions::default()).map_err(|e| chain(&e))?;
    if to_proto(&loaded.model) == to_proto(model) { Ok(()) } else { Err(text(&loaded.model)) }
}
