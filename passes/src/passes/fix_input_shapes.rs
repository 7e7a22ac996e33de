//! fix-input-shapes

use hashbrown::HashMap;
use onnxfix_ir::infer::forget_shapes;
use onnxfix_ir::{Dim, Model, Name, Shape, TensorType, Type, ValueId};

use crate::{Changed, Documented, InputShape, Pass, PassCx, PassError, ShapeError, declare_pass};

declare_pass! {
    /// Gives the model's inputs the dimensions that the user asked for.
    ///
    /// ## Why ATC needs it
    /// Static shapes are what the compiler tiles, fuses and plans memory for; a dimension left open costs a compilation
    /// per gear or falls back to slow kernels. Everything that computes shapes becomes constant afterwards.
    ///
    /// ## Before
    /// ```onnx
    /// g (int64[batch,8] ids) => (int64[batch,8] y) { y = Neg (ids) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (int64[1,8] ids) => (int64[] y) { y = Neg (ids) }
    /// ```
    ///
    /// ## Applies when
    /// - `--input-shape` or `--dim` names an input or a symbol; a symbol fixed at one input is fixed at all of them.
    /// - Under a target with static shapes, a first dimension that is not given becomes 1. Any other is an error.
    /// - A declared number may be overridden, with a warning.
    ///
    /// ## Numerics
    /// Exact: only types change. Shapes that the file declares for computed values are dropped and inferred anew.
    pub FixInputShapes = "fix-input-shapes", Specialise, Exact
}

impl Pass for FixInputShapes {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let name = self.info().name;
        let root = model.root();
        let mut changed = false;
        if model[root].inputs().iter().any(|&v| model.constant(v).is_some()) && cx.spend() {
            let n = model.unlist_initializers(root);
            // Before version 4 of the format, every initializer had to be an input too.
            model.header.ir_version = model.header.ir_version.map(|v| v.max(4));
            cx.warn(
                name,
                format!("{n} initializers were listed as inputs; they are constants now"),
            );
            changed = true;
        }
        let inputs: Vec<ValueId> = model[root].inputs().to_vec();
        if cx.first_sweep {
            check_names(model, &inputs, cx)?;
        }
        let symbols = bind_symbols(model, &inputs, cx)?;
        let mut fixed: Vec<(ValueId, Shape)> = Vec::new();
        let mut ones: Vec<(Dim, Vec<Name>)> = Vec::new();
        for &input in &inputs {
            if let Some(shape) = fixed_shape(model, input, &symbols, &mut ones, cx)? {
                fixed.push((input, shape));
            }
        }
        for (dim, inputs) in ones {
            let inputs: Vec<&str> = inputs.iter().map(Name::as_str).collect();
            let inputs = inputs.join(", ");
            cx.note(name, format!("dimension 0 ({dim}) of {inputs} is not given and is 1 now"));
        }
        if fixed.is_empty() || !cx.spend() {
            return Ok(changed.into());
        }
        for (input, shape) in fixed {
            let Some(ty) = model[input].tensor_type() else { continue };
            let ty = TensorType::new(ty.dtype, shape);
            model.set_type(input, Some(Type::Tensor(ty)));
        }
        forget_shapes(model);
        Ok(Changed::Yes)
    }
}

/// What the user names must be there.
fn check_names(model: &Model, inputs: &[ValueId], cx: &PassCx<'_>) -> Result<(), ShapeError> {
    for given in &cx.options.shapes {
        if !inputs.iter().any(|&v| *model[v].name() == *given.name) {
            let inputs: Vec<String> = inputs.iter().map(|&v| declared(model, v)).collect();
            return Err(ShapeError::NoInput {
                name: given.name.clone(),
                inputs: inputs.join(", "),
            });
        }
    }
    let symbols = symbols_of(model, inputs);
    let bound = cx.options.dims.iter().map(|d| &d.symbol);
    for symbol in bound.chain(&cx.options.keep_dims) {
        if !symbols.iter().any(|s| s.as_str() == symbol) {
            let symbols = if symbols.is_empty() {
                "none".into()
            } else {
                symbols.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
            };
            return Err(ShapeError::NoSymbol { symbol: symbol.clone(), symbols });
        }
    }
    Ok(())
}

fn symbols_of(model: &Model, inputs: &[ValueId]) -> Vec<Name> {
    let mut symbols: Vec<Name> = Vec::new();
    for dim in inputs.iter().filter_map(|&v| model[v].shape()).flat_map(|s| &s.0) {
        for symbol in dim.symbols() {
            if !symbols.contains(&symbol) {
                symbols.push(symbol);
            }
        }
    }
    symbols
}

fn declared(model: &Model, input: ValueId) -> String {
    match model[input].shape() {
        Some(shape) => format!("{} {shape}", model[input].name()),
        None => model[input].name().to_string(),
    }
}

fn given<'a>(cx: &PassCx<'a>, name: &str) -> Option<&'a InputShape> {
    cx.options.shapes.iter().find(|s| s.name == name)
}

/// The number of each symbol, where the user's flags say one and only one.
fn bind_symbols(
    model: &Model,
    inputs: &[ValueId],
    cx: &mut PassCx<'_>,
) -> Result<HashMap<String, Option<i64>>, ShapeError> {
    let mut symbols: HashMap<String, Option<i64>> = HashMap::new();
    for dim in &cx.options.dims {
        if let Some(Some(first)) = symbols.insert(dim.symbol.clone(), Some(dim.value))
            && first != dim.value
        {
            return Err(ShapeError::Conflict {
                symbol: dim.symbol.clone(),
                first,
                first_at: "one --dim".into(),
                second: dim.value,
                second_at: "another".into(),
            });
        }
    }
    for &input in inputs {
        let value = &model[input];
        let (Some(given), Some(shape)) = (given(cx, value.name()), value.shape()) else { continue };
        if given.dims.len() != shape.rank() {
            return Err(ShapeError::Rank {
                name: given.name.clone(),
                want: shape.rank(),
                declared: shape.to_string(),
                have: given.dims.len(),
                given: format!("{:?}", given.dims),
            });
        }
        for (dim, &n) in shape.0.iter().zip(&given.dims) {
            let Dim::Symbol(symbol) = dim else { continue };
            if let Some(by_flag) =
                cx.options.dims.iter().find(|d| d.symbol == symbol.as_str() && d.value != n)
            {
                return Err(ShapeError::Conflict {
                    symbol: symbol.to_string(),
                    first: by_flag.value,
                    first_at: "--dim".into(),
                    second: n,
                    second_at: format!("input {:?}", given.name),
                });
            }
            // Some exporters write one symbol, such as -1, for dimensions that differ: then it says nothing.
            let entry = symbols.entry(symbol.to_string()).or_insert(Some(n));
            if let Some(first) = *entry
                && first != n
            {
                *entry = None;
                let name = FixInputShapes.info().name;
                let why = format!("dimension {symbol} is {first} and {n} by --input-shape");
                cx.note(name, format!("{why}, so it is not applied to other inputs"));
            }
        }
    }
    Ok(symbols)
}

/// The new shape of an input, if it changes; `ones` gathers first dimensions that become 1 because nothing was said.
fn fixed_shape(
    model: &Model,
    input: ValueId,
    symbols: &HashMap<String, Option<i64>>,
    ones: &mut Vec<(Dim, Vec<Name>)>,
    cx: &mut PassCx<'_>,
) -> Result<Option<Shape>, ShapeError> {
    let pass = FixInputShapes.info().name;
    let value = &model[input];
    let name = value.name().clone();
    let given = given(cx, &name);
    let Some(shape) = value.shape() else {
        return Ok(given.filter(|_| value.tensor_type().is_some()).map(|g| Shape::fixed(&g.dims)));
    };
    let mut new = shape.clone();
    for (i, dim) in new.0.iter_mut().enumerate() {
        let wanted = match (given, &*dim) {
            (Some(given), _) => Some(given.dims[i]),
            (None, open) => open.replace_symbols(&|s| symbols.get(s).copied().flatten()).fixed(),
        };
        let kept = dim.symbols().iter().any(|s| cx.options.keep_dims.iter().any(|k| **k == **s));
        match (wanted, &*dim) {
            (Some(n), Dim::Fixed(old)) if *old != n => {
                cx.warn(
                    pass,
                    format!("input {name}: dimension {i} is declared {old} and is {n} now"),
                );
                *dim = Dim::Fixed(n);
            }
            (Some(n), _) => *dim = Dim::Fixed(n),
            (None, Dim::Fixed(_)) => {}
            (None, _) if kept || !cx.options.static_shapes => {}
            (None, open) if i == 0 => {
                match ones.iter_mut().find(|(dim, _)| dim == open) {
                    Some((_, inputs)) => inputs.push(name.clone()),
                    None => ones.push((open.clone(), vec![name.clone()])),
                }
                *dim = Dim::Fixed(1);
            }
            (None, open) => {
                let flag = match open {
                    Dim::Symbol(s) if symbols.get(s.as_str()) != Some(&None) => {
                        format!("--dim {s}=128")
                    }
                    _ => {
                        let dims: Vec<String> = shape
                            .0
                            .iter()
                            .enumerate()
                            .map(|(i, d)| {
                                d.fixed().unwrap_or(if i == 0 { 1 } else { 128 }).to_string()
                            })
                            .collect();
                        format!("--input-shape \"{name}:{}\"", dims.join(","))
                    }
                };
                return Err(ShapeError::NotGiven {
                    name: name.to_string(),
                    dim: i,
                    declared: shape.to_string(),
                    flag: format!("{flag} (with the number that you want)"),
                });
            }
        }
    }
    Ok((new != *shape).then_some(new))
}

#[cfg(test)]
mod tests {
    use onnxfix_ir::text::print_graph;

    use crate::testing::model;
    use crate::{Options, Pipeline, run};

    #[test]
    fn scalars_of_a_body_stay_declared() {
        let mut model = model(
            "g (int64 n, bool go, float[N] x) => (float[N] y) {
               y = Loop (n, go, x) <body: graph = b (int64 i, bool c, float[N] a) => (bool d, float[N] z) {
                  d = Identity (c)  z = Neg (a) }> }",
        );
        let pipeline = Pipeline::of(&["fix-input-shapes"]).expect("a pass of the table");
        let options = Options { static_shapes: true, ..Options::default() };
        run(&mut model, &pipeline, &options, &mut |_, _| {}).expect("a run");
        let text = print_graph(&model, model.root());
        assert!(text.contains("b (int64 i, bool c, float[] a)"), "{text}");
    }
}
