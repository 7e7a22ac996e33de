//! cast-inputs-to-int32

use onnxfix_ir::{Attr, Attrs, DataType, Model, NewNode, Type, Use, ValueId};

use crate::patch::PROVENANCE;
use crate::{Changed, Documented, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Makes int64 and uint64 inputs int32.
    ///
    /// ## Why ATC needs it
    /// The 310P has no 64-bit integers on its vector unit: what touches them falls to scalar loops or the AI CPU. Token
    /// ids, masks and segments fit 32 bits, and half the bytes go to the device.
    ///
    /// ## Before
    /// ```onnx
    /// g (int64[2] ids) => (int64[2] y) { y = Neg (ids) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (int32[2] ids) => (int64[2] y) {
    ///    ids_int64 = Cast <to: int = 7> (ids)
    ///    y = Neg (ids_int64)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The input is a tensor of int64 or uint64. Name and shape stay, outputs keep their type.
    /// - It is not an output at the same time, which would have to keep both types.
    /// - The model imports ONNX's own operators, of which Cast is one.
    ///
    /// ## Numerics
    /// Exact for values below 2³¹. Whoever feeds larger ids has to know: a note says which inputs changed.
    pub CastInputsToInt32 = "cast-inputs-to-int32", Legalise, Exact
}

impl Pass for CastInputsToInt32 {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let pass = self.info().name;
        let root = model.root();
        let mut narrowed: Vec<String> = Vec::new();
        for input in model[root].inputs().to_vec() {
            let Some(ty) = model[input].tensor_type().cloned() else { continue };
            if model.constant(input).is_some()
                || !matches!(ty.dtype, DataType::Int64 | DataType::Uint64)
            {
                continue;
            }
            let name = model[input].name().clone();
            if model.is_output(input) {
                cx.note(pass, format!("input {name} stays {}: it is an output as well", ty.dtype));
                continue;
            }
            if model.opset(root, "").is_none() {
                let why = "the model imports no operator set that has Cast";
                cx.note(pass, format!("input {name} stays {}: {why}", ty.dtype));
                continue;
            }
            if !cx.spend() {
                break;
            }
            narrowed.push(format!("{name} (was {})", ty.dtype));
            narrow(model, input, pass);
        }
        if !narrowed.is_empty() {
            let inputs = narrowed.join(", ");
            cx.note(pass, format!("inputs that are int32 now: {inputs}; feed values below 2^31"));
        }
        Ok((!narrowed.is_empty()).into())
    }
}

fn narrow(model: &mut Model, input: ValueId, pass: &'static str) {
    let Some(old) = model[input].tensor_type().cloned() else { return };
    let mut new = old.clone();
    new.dtype = DataType::Int32;
    model.set_type(input, Some(Type::Tensor(new)));
    if model[input].uses().is_empty() {
        return;
    }
    let root = model.root();
    let first = model.nodes(root).next();
    let name = model.fresh_name(&format!("{}_{}", model[input].name(), old.dtype));
    let mut cast = NewNode::new("Cast", &[], name.clone());
    cast.name = Some(name);
    cast.attrs = Attrs(vec![Attr::new("to", i64::from(old.dtype.code()))]);
    let node = model.add_node(root, first, cast);
    model.node_mut(node).metadata().push((PROVENANCE.into(), pass.into()));
    let Some(wide) = model[node].output(0) else { return };
    model.set_type(wide, Some(Type::Tensor(old)));
    debug_assert!(model[input].uses().iter().all(|u| matches!(u, Use::Input { .. })));
    model.replace_uses(input, wide);
    model.push_input(node, input);
}

#[cfg(test)]
mod tests {
    use onnxfix_ir::text::{parse, print_graph};

    use crate::{Options, Pipeline, run};

    #[test]
    fn a_model_without_onnx_operators_has_no_cast() {
        let text = "<ir_version: 8, opset_import: [\"ai.onnx.ml\" : 3]>
g (float[1,3] x, int64[1] i) => (float[1,1] y) {
   y = ai.onnx.ml.ArrayFeatureExtractor (x, i)
}
";
        let mut model = parse(text).expect("a model");
        let before = print_graph(&model, model.root());
        let pipeline = Pipeline::of(&["cast-inputs-to-int32"]).expect("a pass of the table");
        let options = Options { check_each: true, ..Options::default() };
        let report = run(&mut model, &pipeline, &options, &mut |_, _| {}).expect("a run");
        assert_eq!(print_graph(&model, model.root()), before);
        assert_eq!(
            report.notes[0].text,
            "input i stays int64: the model imports no operator set that has Cast"
        );
    }
}
