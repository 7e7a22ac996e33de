//! Predictions for `tools/bench/predict.py`, as JSON on stdout.
//!
//! `throughput points` predicts every point of `validation/published.toml`. `throughput serve` plans them, prints the
//! published times, and then answers each calibration that it reads from stdin (one JSON object a line) with the predicted
//! times. `throughput model FILE SEQ BATCH,BATCH...` predicts a model as it is and optimized. `throughput forms` compares
//! forms of one layer of DeBERTa. Wrong usage ends with a message and code 2.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onnxfix_ascend::cost::{Calibration, Plan, Prediction, Unit};
use onnxfix_ascend::platform::{self, Platform};
use onnxfix_ir::text::parse_graph;
use onnxfix_ir::{LoadOptions, Model, Tensor, TensorData, ValueId, load};
use onnxfix_passes::{CostModel, InputShape, Options, PORTABLE_ONLY, Pipeline, run};
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Batches of points that do not name theirs.
const BATCHES: &[u64] = &[1, 4, 8, 16, 32, 64];

#[derive(Deserialize)]
struct Published {
    model: Vec<PublishedModel>,
}

#[derive(Deserialize)]
struct PublishedModel {
    name: String,
    source: String,
    graph: String,
    optimize: bool,
    points: Vec<PublishedPoints>,
}

#[derive(Deserialize)]
struct PublishedPoints {
    seq: i64,
    #[serde(default)]
    batches: Option<Vec<u64>>,
    fps: Vec<f64>,
}

/// A published throughput.
#[derive(Serialize, Clone)]
struct Point {
    model: String,
    source: String,
    graph: String,
    seq: i64,
    batch: u64,
    published_us: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let chip = platform::find("Ascend310P3")?;
    let mut out = std::io::stdout().lock();
    match arguments[..] {
        ["points"] => {
            let planned = plan_points(chip)?;
            let rows: Vec<_> = planned.iter().map(|(point, plan)| row(point, plan)).collect();
            serde_json::to_writer(&mut out, &rows)?;
        }
        ["serve"] => {
            let planned = plan_points(chip)?;
            let points: Vec<&Point> = planned.iter().map(|(point, _)| point).collect();
            serde_json::to_writer(&mut out, &points)?;
            writeln!(out)?;
            out.flush()?;
            for line in std::io::stdin().lock().lines() {
                let calibration: Calibration = serde_json::from_str(&line?)?;
                let times: Vec<f64> =
                    planned.iter().map(|(_, plan)| plan.time(&calibration)).collect();
                serde_json::to_writer(&mut out, &times)?;
                writeln!(out)?;
                out.flush()?;
            }
        }
        ["model", file, seq, batches] => {
            let loaded = load(file.as_ref(), &LoadOptions::default())?.model;
            let mut rows = Vec::new();
            for batch in batches.split(',') {
                let (batch, seq): (u64, i64) = (batch.parse()?, seq.parse()?);
                for optimize in [false, true] {
                    let plan = Plan::new(&prepared(chip, &loaded, batch, seq, optimize)?, chip)?;
                    let summary = Summary::of(&plan.predict(Calibration::published()));
                    rows.push(serde_json::json!({"optimized": optimize, "batch": batch, "seq": seq, "is": summary}));
                }
            }
            serde_json::to_writer(&mut out, &rows)?;
        }
        ["forms"] => serde_json::to_writer(&mut out, &forms(chip)?)?,
        _ => return Err("usage: throughput points | serve | model FILE SEQ BATCHES | forms".into()),
    }
    Ok(())
}

/// What a table says of a prediction.
#[derive(Serialize)]
struct Summary {
    time: onnxfix_ascend::cost::Interval,
    fps: onnxfix_ascend::cost::Interval,
    gflop: f64,
    weight_megabytes: f64,
    /// Microseconds by unit.
    units: BTreeMap<String, f64>,
    /// Microseconds of starting operators, part of the above.
    starts: f64,
    operators: usize,
    layers: usize,
    /// Microseconds of each layer.
    by_layer: Vec<f64>,
    /// Microseconds by operator, the slowest first.
    slowest: Vec<(String, f64)>,
}

impl Summary {
    fn of(prediction: &Prediction) -> Summary {
        let (mut units, mut ops) = (BTreeMap::new(), BTreeMap::new());
        for node in prediction.nodes.iter().filter(|n| n.unit != Unit::None) {
            *units.entry(format!("{:?}", node.unit)).or_default() += node.total;
            *ops.entry(node.op.clone()).or_insert(0.0) += node.total;
        }
        let mut slowest: Vec<(String, f64)> = ops.into_iter().collect();
        slowest.sort_by(|a, b| b.1.total_cmp(&a.1));
        slowest.truncate(8);
        let nodes = prediction.nodes.iter();
        let layers = nodes.clone().filter_map(|n| n.layer).max().map_or(0, |last| last + 1);
        let of = |layer: usize| {
            nodes.clone().filter(|n| n.layer == Some(layer)).map(|n| n.total).sum::<f64>()
        };
        Summary {
            by_layer: (0..layers).map(of).collect(),
            time: prediction.time,
            fps: prediction.fps,
            gflop: prediction.flops / 1e9,
            weight_megabytes: prediction.weight_bytes / 1e6,
            units,
            starts: nodes.clone().map(|n| n.overhead).sum(),
            operators: nodes.clone().filter(|n| n.unit != Unit::None).count(),
            layers,
            slowest,
        }
    }
}

fn row(point: &Point, plan: &Plan) -> serde_json::Value {
    let prediction = plan.predict(Calibration::published());
    serde_json::json!({"point": point, "is": Summary::of(&prediction)})
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("validation")
}

/// The published points with their plans.
fn plan_points(chip: &Platform) -> Result<Vec<(Point, Plan)>> {
    let published: Published =
        toml::from_str(&std::fs::read_to_string(folder().join("published.toml"))?)?;
    let mut planned: Vec<(Point, Plan)> = Vec::new();
    // Samples that ran the same graph are planned one after the other, so that only one set of weights is in memory.
    let mut graphs: BTreeMap<&str, Vec<&PublishedModel>> = BTreeMap::new();
    for model in &published.model {
        graphs.entry(&model.graph).or_default().push(model);
    }
    for (graph, models) in graphs {
        let file = folder().join("graphs").join(format!("{graph}.onnx"));
        let graph = filled(&file)?;
        let mut plans: BTreeMap<(u64, i64), Plan> = BTreeMap::new();
        for model in models {
            for points in &model.points {
                let batches = points.batches.as_deref().unwrap_or(BATCHES);
                for (&batch, &fps) in batches.iter().zip(&points.fps) {
                    let plan = if let Some(plan) = plans.get(&(batch, points.seq)) {
                        plan.clone()
                    } else {
                        let prepared = prepared(chip, &graph, batch, points.seq, model.optimize)?;
                        Plan::new(&prepared, chip)?
                    };
                    plans.insert((batch, points.seq), plan.clone());
                    let point = Point {
                        model: model.name.clone(),
                        source: model.source.clone(),
                        graph: model.graph.clone(),
                        seq: points.seq,
                        batch,
                        published_us: batch as f64 * 1e6 / fps,
                    };
                    planned.push((point, plan));
                }
            }
        }
    }
    let order = |point: &Point| published.model.iter().position(|m| m.name == point.model);
    planned.sort_by_key(|(point, _)| order(point));
    Ok(planned)
}

/// A graph whose weights were left out, with random ones: passes merge what is equal, and drop zeros.
fn filled(file: &Path) -> Result<Model> {
    let options = LoadOptions { external_data: false, ..LoadOptions::default() };
    let mut model = load(file, &options)?.model;
    let mut state = 1_u64;
    let mut random = |tensor: &Tensor| -> Result<Option<Tensor>> {
        if !matches!(tensor.data, TensorData::External(_)) {
            return Ok(None);
        }
        let count = usize::try_from(tensor.dims.iter().product::<i64>())?;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        Ok(Some(Tensor::new(&tensor.dims, std::iter::repeat_with(&mut next).take(count).collect())))
    };
    let values: Vec<ValueId> = model.all_values().map(|(id, _)| id).collect();
    for value in values {
        if let Some(tensor) = model[value].tensor()
            && let Some(tensor) = random(tensor)?
        {
            model.set_tensor(value, Arc::new(tensor));
        }
    }
    let nodes: Vec<_> = model.all_nodes().map(|(id, _)| id).collect();
    for node in nodes {
        if let Some(tensor) = model[node].attrs.tensor("value").cloned()
            && let Some(tensor) = random(&tensor)?
        {
            model.node_mut(node).attrs().set("value", tensor);
        }
    }
    Ok(model)
}

/// The model with these shapes, optimized for the chip or as ATC would get it.
fn prepared(chip: &Platform, model: &Model, batch: u64, seq: i64, optimize: bool) -> Result<Model> {
    let mut model = model.clone();
    let inputs = model[model.root()].inputs().iter();
    let shapes = inputs
        .map(|&v| InputShape { name: model[v].name().to_string(), dims: vec![batch as i64, seq] })
        .collect();
    let pipeline = if optimize {
        Pipeline::all().without(PORTABLE_ONLY)?
    } else {
        Pipeline::of(&["fix-input-shapes", "infer-shapes", "inline-constant-if"])?
    };
    let opset = optimize.then_some(13);
    let costs: Option<Arc<dyn CostModel>> = Some(Arc::new(chip.clone()));
    let options = Options { shapes, static_shapes: true, opset, costs, ..Options::default() };
    let _report = run(&mut model, &pipeline, &options, &mut |_, _| {})?;
    Ok(model)
}

/// How a layer of DeBERTa can be written.
#[derive(Clone, Copy)]
struct Form {
    /// Samples whose attention runs together; all of them where it is the batch.
    group: i64,
    /// One product for queries, keys and values.
    merged: bool,
    /// The skew by one Slice with steps instead of two without.
    one_slice: bool,
}

/// Predictions of one layer of DeBERTa-v3-base, 256 tokens, in several forms.
fn forms(chip: &Platform) -> Result<serde_json::Value> {
    let mut rows = Vec::new();
    for batch in [1, 4, 8, 16, 32, 64] {
        let plain = Form { group: batch, merged: false, one_slice: false };
        let mut variants = vec![
            ("two slices".to_owned(), plain),
            ("one slice".to_owned(), Form { one_slice: true, ..plain }),
            ("merged projections".to_owned(), Form { merged: true, ..plain }),
        ];
        let groups = [1, 2, 4, 8].into_iter().filter(|&group| group < batch);
        variants
            .extend(groups.map(|group| (format!("groups of {group}"), Form { group, ..plain })));
        for (name, form) in variants {
            let mut model = parse_graph(&layer(batch, form), 13).map_err(|e| e.to_string())?;
            // Reads the shapes that the text leaves out.
            onnxfix_ir::infer::infer(&mut model)?;
            let prediction = Plan::new(&model, chip)?.predict(Calibration::published());
            rows.push(
                serde_json::json!({"batch": batch, "form": name, "us": prediction.time.likely}),
            );
        }
    }
    Ok(rows.into())
}

/// One layer as ONNX text. Weights are written as what the compiler would compute, since their elements do not matter.
fn layer(batch: i64, form: Form) -> String {
    const HEADS: i64 = 12;
    const WIDTH: i64 = 64;
    const TOKENS: i64 = 256;
    let (hidden, rows) = (HEADS * WIDTH, batch * TOKENS);
    let distances = 2 * TOKENS + i64::from(form.one_slice);
    let group = form.group;
    let mut weights = vec![
        format!("int64[4] split = {{{batch}, {TOKENS}, {HEADS}, {WIDTH}}}"),
        format!("int64[2] rows = {{{rows}, {hidden}}}"),
        "float two = {2}, float eps = {1e-7}, float root = {1.41421354}, float one = {1}, float half = {0.5}"
            .to_owned(),
        "int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i3 = {3}".to_owned(),
        format!("int64[4] odd = {{{group}, {HEADS}, {}, {TOKENS}}}", 2 * TOKENS + 1),
        format!("int64[3] flat = {{{group}, {HEADS}, {}}}", 2 * TOKENS * TOKENS),
        format!("int64[4] skewed = {{{group}, {HEADS}, {TOKENS}, {}}}", 2 * TOKENS - 1),
        format!("int64[1] tokens = {{{TOKENS}}}, int64[1] first = {{{}}}", TOKENS - 1),
        format!("int64[1] last = {{{}}}, int64[1] ends = {{{}}}", TOKENS - 1 + TOKENS * (2 * TOKENS - 1), 2 * TOKENS),
    ];
    let mut floats = vec![
        ("Wo", vec![hidden, hidden]),
        ("bo", vec![hidden]),
        ("A1", vec![1, HEADS, WIDTH, distances]),
        ("A2", vec![1, HEADS, WIDTH, distances]),
        ("W1", vec![hidden, 4 * hidden]),
        ("b1", vec![4 * hidden]),
        ("W2", vec![4 * hidden, hidden]),
        ("b2", vec![hidden]),
    ];
    floats.extend(["g1", "h1", "g2", "h2"].map(|norm| (norm, vec![hidden])));
    let mut body: Vec<String> = Vec::new();
    if form.merged {
        floats.extend([("W", vec![hidden, 3 * hidden]), ("b", vec![3 * hidden])]);
        weights.push(format!("int64[3] parts = {{{hidden}, {hidden}, {hidden}}}"));
        body.push(
            "m = MatMul (x, W)  mb = Add (m, b)  qb, kb, vb = Split <axis = 1> (mb, parts)"
                .to_owned(),
        );
    } else {
        for (p, [weight, bias]) in [("q", ["Wq", "bq"]), ("k", ["Wk", "bk"]), ("v", ["Wv", "bv"])] {
            floats.extend([(weight, vec![hidden, hidden]), (bias, vec![hidden])]);
            body.push(format!("{p} = MatMul (x, W{p})  {p}b = Add ({p}, b{p})"));
        }
    }
    for p in ["q", "k", "v"] {
        body.push(format!(
            "{p}4 = Reshape ({p}b, split)  {p}h = Transpose <perm = [0, 2, 1, 3]> ({p}4)"
        ));
    }
    let mut contexts = Vec::new();
    for at in 0..batch / group {
        let all = group == batch;
        if !all {
            weights.push(format!(
                "int64[1] from{at} = {{{}}}, int64[1] to{at} = {{{}}}",
                at * group,
                (at + 1) * group
            ));
        }
        let part = |value: &str| format!("{value}{at}g = Slice ({value}, from{at}, to{at}, i0)");
        let name = |value: &str| if all { value.to_owned() } else { format!("{value}{at}g") };
        if !all {
            body.extend(["qh", "kh", "vh", "mask"].map(part));
        }
        let (q, k, v, mask) = (name("qh"), name("kh"), name("vh"), name("mask"));
        body.push(format!(
            "kt{at} = Transpose <perm = [0, 1, 3, 2]> ({k})  s{at} = MatMul ({q}, kt{at})"
        ));
        body.push(format!("c{at} = MatMul ({q}, A1)  p{at} = MatMul ({k}, A2)"));
        body.push(format!("{}  {}", skew(&format!("c{at}"), form), skew(&format!("p{at}"), form)));
        body.push(format!("pt{at} = Transpose <perm = [0, 1, 3, 2]> (p{at}s)"));
        body.push(format!(
            "u{at} = Add (s{at}, c{at}s)  w{at} = Add (u{at}, pt{at})  z{at} = Add (w{at}, {mask})"
        ));
        body.push(format!("a{at} = Softmax <axis = -1> (z{at})  o{at} = MatMul (a{at}, {v})"));
        contexts.push(format!("o{at}"));
    }
    let context = if contexts.len() == 1 {
        contexts[0].clone()
    } else {
        body.push(format!("o = Concat <axis = 0> ({})", contexts.join(", ")));
        "o".to_owned()
    };
    body.push(format!("ot = Transpose <perm = [0, 2, 1, 3]> ({context})  of = Reshape (ot, rows)"));
    body.push("d = MatMul (of, Wo)  db = Add (d, bo)  r1 = Add (db, x)".to_owned());
    body.push(behind_attention());
    for (name, dims) in floats {
        let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
        weights.push(format!("int64[{}] size{name} = {{{}}}", dims.len(), dims.join(", ")));
        body.insert(0, format!("{name} = ConstantOfShape (size{name})"));
    }
    format!(
        "layer (float[{rows},{hidden}] x, float[{batch},1,1,{TOKENS}] mask) => (float[{rows},{hidden}] y)\n<{}>\n{{ {} }}",
        weights.join(", "),
        body.join("\n")
    )
}

/// What of a layer follows the first residual sum.
fn behind_attention() -> String {
    let norm = |x: &str, y: &str, n: u8| {
        format!(
            "m{n} = ReduceMean <axes = [-1]> ({x})  e{n} = Sub ({x}, m{n})  e{n}q = Pow (e{n}, two)  \
             v{n} = ReduceMean <axes = [-1]> (e{n}q)  v{n}e = Add (v{n}, eps)  v{n}r = Sqrt (v{n}e)  \
             n{n} = Div (e{n}, v{n}r)  n{n}g = Mul (n{n}, g{n})  {y} = Add (n{n}g, h{n})"
        )
    };
    [
        norm("r1", "x1", 1),
        "f = MatMul (x1, W1)  fb = Add (f, b1)  fd = Div (fb, root)  fe = Erf (fd)".to_owned(),
        "fo = Add (fe, one)  fm = Mul (fb, fo)  fg = Mul (fm, half)".to_owned(),
        "l = MatMul (fg, W2)  lb = Add (l, b2)  r2 = Add (lb, x1)".to_owned(),
        norm("r2", "y", 2),
    ]
    .join("\n")
}

/// What makes scores by position of products with one column for each distance.
fn skew(y: &str, form: Form) -> String {
    if form.one_slice {
        format!("{y}r = Reshape ({y}, odd)  {y}s = Slice ({y}r, i1, ends, i2, i2)")
    } else {
        format!(
            "{y}f = Reshape ({y}, flat)  {y}c = Slice ({y}f, first, last, i2)  \
             {y}r = Reshape ({y}c, skewed)  {y}s = Slice ({y}r, i0, tokens, i3)"
        )
    }
}
