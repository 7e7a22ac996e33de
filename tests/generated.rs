//! Random models in the CPU engine: tract, which shares no code with the passes or their evaluator, gets the same
//! outputs before and after the pipeline of each target.
//!
//! `ONNXFIX_CASES` and `ONNXFIX_SEED` say how many models, and from which seed on.

use onnxfix::engine::{Engine, InputSpec, Lowering, Request, Source};
use onnxfix::target::Target;
use onnxfix_ascend::facts::release;
use onnxfix_generate::{Choices, Recipe, Sample, is_equal, sample, show};
use onnxfix_ir::text::{Mode, print};
use onnxfix_ir::{AttrValue, DataType, Model, Tensor, write_to};
use onnxfix_passes::{DimBinding, Options, run};

/// Samples that a plain run looks at.
const CASES: u64 = 400;

/// The newest opset that tract reads without complaint.
const NEWEST_OPSET: i64 = 18;

/// The largest difference, relative to the largest number of an output: a pass may change the order of nothing, but
/// folding rounds in another engine than tract does.
const TOLERANCE: f64 = 1e-4;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// The outputs of a model in tract, or why it gives none. Inputs that became int32 are fed as such.
fn outputs(model: &Model, sample: &Sample) -> Result<Vec<Tensor>, String> {
    let mut specs = Vec::new();
    let mut tensors = Vec::new();
    for &input in model[model.root()].inputs() {
        if model.constant(input).is_some() {
            continue;
        }
        let name = model[input].name();
        let (_, tensor) =
            sample.feeds.iter().find(|(n, _)| n == name).ok_or("an input is not fed")?;
        let tensor = match (model[input].dtype(), tensor.to_ints()) {
            (Some(DataType::Int32), Some(ints)) => {
                let narrow: Option<Vec<i32>> =
                    ints.iter().map(|&i| i32::try_from(i).ok()).collect();
                Tensor::new(&tensor.dims, narrow.ok_or("an input is too large for int32")?)
            }
            _ => tensor.clone(),
        };
        specs.push(InputSpec {
            name: name.to_string(),
            dtype: tensor.dtype,
            dims: tensor.dims.clone(),
        });
        tensors.push(tensor);
    }
    let mut bytes = Vec::new();
    write_to(model, &mut bytes).map_err(|e| e.to_string())?;
    let request = Request {
        source: Source::Bytes(&bytes),
        inputs: &specs,
        outputs: &[],
        lowering: Lowering::Plain,
        keep: &[],
    };
    Engine::load(&request).and_then(|engine| engine.run(&tensors)).map_err(|e| e.to_string())
}

fn agree(a: &Tensor, b: &Tensor) -> bool {
    let (Some(x), Some(y)) = (a.to_floats(), b.to_floats()) else { return is_equal(a, b) };
    let largest = x.iter().filter(|x| x.is_finite()).fold(1e-3, |m: f64, x| m.max(x.abs()));
    // Float16 has eleven bits.
    let tolerance = if a.dtype == DataType::Float16 { 4e-3 } else { TOLERANCE };
    let close = |(x, y): (&f64, &f64)| {
        x.total_cmp(y).is_eq() || (x.is_nan() && y.is_nan()) || (x - y).abs() <= tolerance * largest
    };
    a.dtype == b.dtype && a.dims == b.dims && x.iter().zip(&y).all(close)
}

/// Whether tract can be asked: it has its own idea of bodies, of Celu and of integers beyond 32 bits, and
/// drawn numbers differ in each run.
fn is_for_tract(model: &Model) -> bool {
    let other = ["Bernoulli", "Multinomial", "If", "Loop", "Scan", "Celu"];
    let known = |name: &str| !name.starts_with("Random") && !other.contains(&name);
    let narrow =
        |t: &Tensor| t.to_ints().is_none_or(|all| all.iter().all(|&i| i32::try_from(i).is_ok()));
    model.all_nodes().all(|(_, n)| {
        let attrs =
            n.attrs.0.iter().all(|a| !matches!(&a.value, AttrValue::Tensor(t) if !narrow(t)));
        attrs && n.op().def.is_none_or(|def| known(def.name))
    }) && model.all_values().all(|(_, v)| v.tensor().is_none_or(|t| narrow(t)))
}

#[test]
#[expect(clippy::print_stderr, reason = "says how much was looked at")]
fn tract_computes_the_same_before_and_after() {
    let (first, cases) = (setting("ONNXFIX_SEED", 0), setting("ONNXFIX_CASES", CASES));
    let recipe = Recipe { newest_opset: NEWEST_OPSET, ..Recipe::default() };
    let (mut compared, mut refused_before, mut refused_after) = (0u32, 0u32, 0u32);
    let mut failures = Vec::new();
    // tract panics on what it does not take; the engine makes an error of it.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for seed in first..first + cases {
        let (sample, _) = sample(&mut Choices::from_seed(seed), &recipe);
        if !is_for_tract(&sample.model) {
            continue;
        }
        let Ok(want) = outputs(&sample.model, &sample) else {
            refused_before += 1;
            continue;
        };
        let cann = release("7.0").expect("a release of the table");
        for target in [Target::Ascend310P3, Target::Portable] {
            let dims = sample
                .dims
                .iter()
                .map(|(symbol, n)| DimBinding { symbol: symbol.clone(), value: *n });
            let options = Options {
                dims: if target.static_shapes() { dims.collect() } else { Vec::new() },
                static_shapes: target.static_shapes(),
                opset: target.opset(&cann),
                ..Options::default()
            };
            let mut model = sample.model.clone();
            let pipeline = target.pipeline().expect("a pipeline");
            run(&mut model, &pipeline, &options, &mut |_, _| {}).expect("a run");
            let Ok(have) = outputs(&model, &sample) else {
                refused_after += 1;
                continue;
            };
            compared += 1;
            for (want, have) in want.iter().zip(&have) {
                if !agree(want, have) {
                    let text = |m| {
                        print(m, Mode::Full { limit: 1 << 20 }).unwrap_or_else(|e| e.to_string())
                    };
                    failures.push(format!(
                        "seed {seed} for {}: {} became {}\n{}\nafter\n{}",
                        target.name(),
                        show(want),
                        show(have),
                        text(&sample.model),
                        text(&model)
                    ));
                    break;
                }
            }
        }
    }
    eprintln!(
        "{compared} pairs compared; tract took {refused_before} samples not before, {refused_after} not after"
    );
    std::panic::set_hook(hook);
    assert!(u64::from(compared) > cases / 3, "tract takes too few of the samples");
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures[..failures.len().min(3)].join("\n")
    );
}
