//! From a command line and a model to an `.om`, or to the reasons why not.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use onnxfix_ir::{LoadOptions, Model, check, infer, load, write_to};
use onnxfix_passes::{InputShape, Options, Pipeline, run};

use crate::parsers::is_registered;
use crate::{Release, fusion, kernels};

/// Something that ATC says with a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `E16002`, `W11001`.
    pub code: String,
    /// What it says.
    pub text: String,
}

impl Problem {
    pub(crate) fn error(code: &str, text: &str) -> Problem {
        Problem { code: code.into(), text: text.into() }
    }
}

/// Chips that the simulated releases have platform files for.
const SOCS: [&str; 16] = [
    "Ascend310",
    "Ascend310P1",
    "Ascend310P3",
    "Ascend310P5",
    "Ascend310P7",
    "Ascend310B1",
    "Ascend310B2",
    "Ascend310B3",
    "Ascend310B4",
    "Ascend910A",
    "Ascend910ProA",
    "Ascend910B",
    "Ascend910B1",
    "Ascend910B2",
    "Ascend910B3",
    "Ascend910B4",
];

/// What is to be compiled.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The model's file.
    pub model: String,
    /// The result without `.om`.
    pub output: String,
    /// The chip.
    pub soc: String,
    /// `--input_shape`.
    pub input_shape: String,
    /// `--dynamic_batch_size`.
    pub gears: Vec<u64>,
}

impl Request {
    pub(crate) fn of(
        given: &BTreeMap<String, String>,
        release: &Release,
    ) -> Result<Request, Vec<Problem>> {
        let get = |flag: &str| given.get(flag).map_or("", String::as_str);
        let refuse = |code: &str, text: String| Err(vec![Problem::error(code, &text)]);
        if !["", "0"].contains(&get("mode")) {
            return refuse("E10055", format!("--mode={} is not simulated", get("mode")));
        }
        for flag in ["model", "soc_version", "output"] {
            if get(flag).is_empty() {
                return refuse("E10004", format!("--{flag} is empty"));
            }
        }
        if get("framework") != "5" {
            return refuse("E10007", "--framework must be 5 (ONNX) in the simulation".into());
        }
        let soc = get("soc_version");
        if !SOCS.contains(&soc) {
            let text =
                format!("--soc_version is {soc:?}, which is no chip of CANN {}", release.name);
            return refuse("E10001", text);
        }
        for flag in ["model", "output", "keep_dtype", "modify_mixlist", "fusion_switch_file"] {
            let allowed = |c: char| {
                c.is_ascii_alphanumeric()
                    || "_-./".contains(c)
                    || ('\u{4e00}'..='\u{9fff}').contains(&c)
            };
            if let Some(other) = get(flag).chars().find(|&c| !allowed(c)) {
                return refuse("E10001", format!("--{flag} has {other:?} in its path"));
            }
        }
        for flag in ["keep_dtype", "modify_mixlist", "fusion_switch_file"] {
            if !get(flag).is_empty() && !Path::new(get(flag)).is_file() {
                return refuse("E10410", format!("--{flag}: no file {}", get(flag)));
            }
        }
        if !["", "NCHW", "NCDHW", "ND"].contains(&get("input_format")) {
            return refuse("E10001", format!("--input_format is {:?}", get("input_format")));
        }
        if given.contains_key("precision_mode") && given.contains_key("precision_mode_v2") {
            return refuse(
                "E10056",
                "--precision_mode and --precision_mode_v2 exclude each other".into(),
            );
        }
        for flag in ["dynamic_dims", "dynamic_image_size", "input_shape_range"] {
            if given.contains_key(flag) {
                let both = given.contains_key("dynamic_batch_size");
                let code = if both { "E10009" } else { "E10055" };
                return refuse(
                    code,
                    format!("--{flag} is not simulated, or excludes another flag"),
                );
            }
        }
        let gears = get("dynamic_batch_size");
        let gears = gears.split(',').filter(|gear| !gear.is_empty()).map(str::parse);
        let Ok(gears) = gears.collect::<Result<Vec<u64>, _>>() else {
            return refuse("E10038", "--dynamic_batch_size has something else than numbers".into());
        };
        let own = |text: &str| text.to_owned();
        let (model, output, soc) = (own(get("model")), own(get("output")), own(soc));
        Ok(Request { model, output, soc, input_shape: own(get("input_shape")), gears })
    }
}

/// What comes of a model that is accepted.
pub(crate) struct Compiled {
    pub(crate) onnx: Vec<u8>,
    pub(crate) warnings: Vec<Problem>,
    fusions: BTreeMap<&'static str, usize>,
    operators: BTreeMap<String, usize>,
}

impl Compiled {
    /// Writes what ATC leaves in the current folder.
    pub(crate) fn write_side_files(&self) -> io::Result<()> {
        fs::write("fusion_result.json", fusion::result(&self.fusions))?;
        fs::create_dir_all("kernel_meta")?;
        for (operator, count) in &self.operators {
            let text = format!("{{\"simulated\": true, \"nodes\": {count}}}\n");
            fs::write(format!("kernel_meta/te_{}_simulated.json", operator.to_lowercase()), text)?;
        }
        Ok(())
    }
}

pub(crate) fn compile(request: &Request, release: &Release) -> Result<Compiled, Vec<Problem>> {
    let path = Path::new(&request.model);
    let refuse = |code: &str, text: String| vec![Problem::error(code, &text)];
    if !path.is_file() {
        return Err(refuse("E10410", format!("no file {}", request.model)));
    }
    let loaded = load(path, &LoadOptions { drop_unknown: true, ..LoadOptions::default() })
        .map_err(|error| refuse("E10041", format!("cannot load {}: {error}", request.model)))?;
    let mut model = loaded.model;
    let (errors, warnings) = problems(&mut model, request, release);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut onnx = Vec::new();
    write_to(&model, &mut onnx).map_err(|error| refuse("E13004", error.to_string()))?;
    let mut operators = BTreeMap::new();
    for (_, node) in model.all_nodes() {
        *operators.entry(node.op().name.as_str().to_owned()).or_default() += 1;
    }
    Ok(Compiled { onnx, warnings, fusions: fusion::count(&model), operators })
}

/// A part of the compilation: the errors that end it there.
type Stage<'a> = &'a dyn Fn(&mut Model) -> Vec<Problem>;

/// Errors and warnings about a model, in the order of ATC's stages: a stage that fails ends it. The model gets its shapes.
pub fn problems(
    model: &mut Model,
    request: &Request,
    release: &Release,
) -> (Vec<Problem>, Vec<Problem>) {
    let stages: [Stage<'_>; 4] = [
        &|model| graph(model, release),
        &|model| parse(model, release),
        &|model| inputs(model, request),
        &|model| shapes(model, request),
    ];
    for stage in stages {
        let errors = stage(model);
        if !errors.is_empty() {
            return (errors, Vec::new());
        }
    }
    kernels::check(model, &request.gears)
}

fn graph(model: &Model, release: &Release) -> Vec<Problem> {
    let root = &model[model.root()];
    let weights: Vec<_> = root.initializers().to_vec();
    let inputs = root.inputs().iter().filter(|input| !weights.contains(input)).count();
    if let Some(broken) = check(model).first() {
        return vec![Problem::error("E10041", &format!("the model is broken: {broken}"))];
    }
    for (kind, count) in [("input", inputs), ("output", root.outputs().len())] {
        if count == 0 {
            return vec![Problem::error("E16001", &format!("the model has no {kind}"))];
        }
    }
    let domains = model.opsets.len();
    if domains > 1 && !release.several_domains() {
        let text = format!("the model has [{domains}] [--domain_version] fields, one is allowed");
        return vec![Problem::error("E16005", &text)];
    }
    Vec::new()
}

fn parse(model: &Model, release: &Release) -> Vec<Problem> {
    let mut errors = Vec::new();
    for (id, node) in model.all_nodes() {
        let operator = node.op().name.as_str();
        let domain = node.op().domain();
        let opset = model.opset(node.graph(), domain).unwrap_or(0);
        let known =
            domain.is_empty() && opset <= release.max_opset() && is_registered(operator, opset);
        let name = model.describe(id);
        if !known {
            let domain = if domain.is_empty() { "ai.onnx" } else { domain };
            let text = format!("no parser for Op [{name}, optype [{domain}::{opset}::{operator}]]");
            errors.push(Problem::error(release.no_parser(), &text));
        } else if let Some(why) = refused_attribute(node) {
            errors.push(Problem::error("E11010", &format!("parsing {name} failed: {why}")));
        }
    }
    // Operators without a parser are what ends the stage first.
    errors.sort_by_key(|problem| problem.code == "E11010");
    errors
}

/// What the parser of an operator does not take.
fn refused_attribute(node: &onnxfix_ir::Node) -> Option<&'static str> {
    let op = node.op();
    if op.is("GatherND") && node.attrs.int("batch_dims").unwrap_or(0) != 0 {
        return Some("batch_dims is not 0");
    }
    if op.is("Clip")
        && node.inputs().len() < 2
        && node.attrs.float("min").is_none()
        && node.attrs.float("max").is_none()
    {
        return Some("neither min nor max");
    }
    None
}

fn inputs(model: &Model, request: &Request) -> Vec<Problem> {
    let one = |code: &str, text: String| vec![Problem::error(code, &text)];
    let given = match request_shapes(request) {
        Ok(given) => given,
        Err(why) => return one("E10002", why),
    };
    let root = &model[model.root()];
    let mut open = 0;
    for shape in &given {
        let Some(value) = model.value_named(model.root(), &shape.name) else {
            return one(
                "E10016",
                format!("Op [{}] in [--input_shape] is not in the model", shape.name),
            );
        };
        if !root.inputs().contains(&value) || root.initializers().contains(&value) {
            return one("E10017", format!("Op [{}] in [--input_shape] is no input", shape.name));
        }
        let rank = model[value].shape().map(onnxfix_ir::Shape::rank);
        if rank.is_some_and(|rank| rank != shape.dims.len()) {
            let (given, wanted) = (shape.dims.len(), rank.unwrap_or(0));
            return one(
                "E10049",
                format!("[{given}] axes in [--input_shape], [{wanted}] in the model"),
            );
        }
        for (axis, &dim) in shape.dims.iter().enumerate() {
            match dim {
                -1 if request.gears.is_empty() => {
                    return one(
                        "E10011",
                        "an open dimension without gears is not simulated".into(),
                    );
                }
                -1 if axis > 0 => {
                    return one("E10018", format!("axis {axis} of {} is open", shape.name));
                }
                -1 => open += 1,
                1.. => {}
                _ => return one("E10011", format!("a dimension of {} is {dim}", shape.name)),
            }
        }
    }
    gears(&request.gears, open)
}

fn gears(gears: &[u64], open: usize) -> Vec<Problem> {
    let mut distinct = gears.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let (code, text) = match gears.len() {
        0 => return Vec::new(),
        _ if open == 0 => ("E10031", "no input has an open first axis"),
        1 => ("E10035", "1 gear, and 2 is the least"),
        101.. => ("E10036", "more than 100 gears"),
        _ if gears.contains(&0) => ("E10038", "a gear is 0"),
        n if n != distinct.len() => ("E10039", "a gear is there twice"),
        _ => return Vec::new(),
    };
    vec![Problem::error(code, text)]
}

/// `--input_shape`: names, a colon, dimensions by commas, -1 for an open one; inputs by semicolons.
fn request_shapes(request: &Request) -> Result<Vec<InputShape>, String> {
    let parts = request.input_shape.split(';').filter(|part| !part.is_empty());
    let shape = |part: &str| {
        let (name, dims) = part.rsplit_once(':').ok_or_else(|| format!("{part:?} has no colon"))?;
        if name.is_empty() || name.contains(':') {
            return Err(format!("{part:?} has no name, or a name with a colon"));
        }
        let dims = dims.split(',').filter(|dim| !dim.is_empty());
        let dims = dims.map(|dim| dim.parse().map_err(|_| format!("{dim:?} is no dimension")));
        Ok(InputShape { name: name.to_owned(), dims: dims.collect::<Result<_, String>>()? })
    };
    parts.map(shape).collect()
}

/// Gives the inputs their shapes and everything else its own.
fn shapes(model: &mut Model, request: &Request) -> Vec<Problem> {
    let refuse = |why: String| vec![Problem::error("E14001", &format!("shapes: {why}"))];
    let shapes = match request_shapes(request) {
        Ok(shapes) => shapes,
        Err(why) => return refuse(why),
    };
    // What is open stays as the model has it.
    let fixed = shapes.into_iter().filter(|shape| !shape.dims.contains(&-1)).collect();
    let options = Options { shapes: fixed, static_shapes: false, ..Options::default() };
    let fix =
        Pipeline::of(&["fix-input-shapes"]).and_then(|p| run(model, &p, &options, &mut |_, _| ()));
    if let Err(error) = fix {
        return refuse(error.to_string());
    }
    if let Err(error) = infer::infer(model) {
        return refuse(error.to_string());
    }
    let root = &model[model.root()];
    let open = root.inputs().iter().find(|&&input| model[input].dims().is_none());
    match open {
        Some(&input) if request.gears.is_empty() => refuse(format!(
            "input {:?} has no fixed shape, which is not simulated",
            model[input].name()
        )),
        _ => Vec::new(),
    }
}
