use std::path::Path;
use std::sync::Arc;

use onnxfix_ir::{Element, LoadOptions, Model, Tensor, Use, ValueId, load, text};

use onnxfix_passes::Patch;

use super::*;

fn fixture(name: &str) -> Subject {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models").join(name);
    let model = load(&path, &LoadOptions::default()).expect("a fixture").model;
    Subject { name: name.into(), model, file: Some(path) }
}

fn subject(name: &str, model: Model) -> Subject {
    Subject { name: name.into(), model, file: None }
}

fn parsed(text: &str) -> Model {
    text::parse(text).expect("a model in ONNX text")
}

#[track_caller]
fn report(before: &Subject, after: &Subject) -> Report {
    verify(before, after, &Options::default(), &|_| {}).expect("an answer")
}

/// A fixture against a copy of itself in which `change` planted a mistake.
#[track_caller]
fn mutant(name: &str, change: impl FnOnce(&mut Model)) -> Report {
    let before = fixture(name);
    let mut after = subject("mutant", before.model.clone());
    change(&mut after.model);
    report(&before, &after)
}

/// Says that a pass made a tensor, so that only the numbers can tell.
fn mark(tensor: &mut Tensor) {
    tensor.extra_mut().metadata.push((PROVENANCE.into(), "a-pass".into()));
}

/// Changes elements of an initializer.
fn change<T: Element>(
    model: &mut Model,
    value: ValueId,
    marked: bool,
    edit: impl FnOnce(&mut [T]),
) {
    let old = model[value].tensor().expect("an initializer").clone();
    let mut elements = old.elements::<T>().expect("of this type").into_owned();
    edit(&mut elements);
    let mut new = Tensor::new(&old.dims, elements);
    if marked {
        mark(&mut new);
    }
    model.set_tensor(value, Arc::new(new));
}

/// The weight of the first matrix product.
fn matrix(model: &Model) -> ValueId {
    let products = model
        .nodes(model.root())
        .filter(|&n| matches!(model[n].op().name.as_str(), "MatMul" | "Gemm"));
    products
        .filter_map(|n| model[n].input(1))
        .find(|&w| model[w].tensor().is_some())
        .expect("a product with a weight")
}

/// The table that the first input indexes.
fn vocabulary(model: &Model) -> ValueId {
    let Role::Ids { tables, .. } = &roles::analyse(model)[0].role else {
        panic!("the first input is ids")
    };
    model.value_named(model.root(), &tables[0].name).expect("the table")
}

const MODELS: [&str; 4] = [
    "deberta_v3_tiny.onnx",
    "deberta_v3_tiny_dynamo.onnx",
    "convbert_tiny.onnx",
    "convbert_tiny_mask_from_ids.onnx",
];

#[test]
fn a_model_equals_itself() {
    for name in MODELS {
        let report = mutant(name, |_| {});
        assert!(report.equal, "{}", report.text());
        assert!(
            report.outputs[0].spread > 0.5,
            "logits of {name} are too close for a relative measure to bite"
        );
    }
}

#[test]
fn inputs_are_known_by_what_is_done_with_them() {
    let roles = |name: &str| roles::analyse(&fixture(name).model);
    let ids = |input: &Input, rows: i64| input.range() == Some((0, rows - 1));

    let deberta = roles("deberta_v3_tiny.onnx");
    assert!(ids(&deberta[0], 1000) && deberta[1].role == Role::Mask, "{deberta:?}");
    let convbert = roles("convbert_tiny.onnx");
    assert!(
        ids(&convbert[0], 1000) && convbert[1].role == Role::Mask && ids(&convbert[2], 2),
        "{convbert:?}"
    );
    // No mask: the ids are compared with the padding id instead.
    let from_ids = roles("convbert_tiny_mask_from_ids.onnx");
    let Role::Ids { compared, .. } = &from_ids[0].role else { panic!("{from_ids:?}") };
    assert!(ids(&from_ids[0], 1000) && *compared == [0] && ids(&from_ids[1], 2), "{from_ids:?}");
}

#[test]
fn roles_follow_casts_offsets_and_computed_tables() {
    let model = parsed(
        r#"<ir_version: 8, opset_import: ["" : 13]>
        g (int64[B,S] words, float[B,S] bias, int64[B,S] mask, int64[B] lengths, float[B,S] data) => (float[B,S,S] y)
        <float[5,2] table = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, float[5,1] ones = {1, 1, 1, 1, 1}, int64 two = {2},
         float one = {1}>
        {
            shifted = Sub (words, two)  narrow = Cast <to = 6> (shifted)  rows = Mul (table, ones)
            x = Gather (rows, narrow)  xt = Transpose <perm = [0, 2, 1]> (x)  scores = MatMul (x, xt)
            float_mask = Cast <to = 1> (mask)  inverted = Sub (one, float_mask)
            a = Add (scores, inverted)  b = Add (a, bias)  p = Softmax <axis = -1> (b)
            d = Mul (p, data)  l = Cast <to = 1> (lengths)  y = Add (d, l)
        }"#,
    );
    let inputs = roles::analyse(&model);
    assert_eq!(inputs[0].range(), Some((2, 6)));
    let roles: Vec<&Role> = inputs[1..].iter().map(|i| &i.role).collect();
    assert_eq!(roles, [&Role::Bias, &Role::Mask, &Role::Flags, &Role::Data]);
}

#[test]
fn samples_have_every_kind_of_padding_and_both_ends_of_the_vocabulary() {
    let inputs = roles::analyse(&fixture("deberta_v3_tiny.onnx").model);
    for (batch, wanted) in [(1, 1), (3, 8), (8, 1)] {
        let samples = samples::generate(&inputs, &[vec![batch, 32], vec![batch, 32]], wanted, 7);
        let rows: Vec<_> = samples.iter().flat_map(|s| &s.rows).collect();
        assert!(
            rows.len() >= wanted.max(5) && rows.len() % usize::try_from(batch).expect("small") == 0
        );
        for kind in
            [samples::Kind::Full, samples::Kind::Right, samples::Kind::Left, samples::Kind::One]
        {
            assert!(rows.iter().any(|r| r.kind == kind && r.tokens.contains(&true)), "{kind:?}");
        }
        assert!(rows.iter().any(|r| !r.tokens.contains(&true)));
        let ids = samples::distinct(&samples, 0);
        assert!(ids.contains(&0) && ids.contains(&999));
    }
}

#[test]
fn one_changed_weight_is_caught() {
    for name in MODELS {
        let report = mutant(name, |m| {
            let weight = matrix(m);
            change::<f32>(m, weight, false, |w| w[17] += 1e-6);
        });
        assert!(!report.equal);
        let [Changed::Elements { difference, .. }] = &report.weights.changed[..] else {
            panic!("{}", report.text())
        };
        assert_eq!((difference.count, difference.first.len()), (1, 2));
    }
}

#[test]
fn one_changed_weight_that_a_pass_claims_is_caught_by_the_numbers() {
    for name in MODELS {
        let report = mutant(name, |m| {
            let weight = matrix(m);
            change::<f32>(m, weight, true, |w| w[17] += 1.0);
        });
        assert!(!report.equal && report.weights.changed.is_empty(), "{name}: {}", report.text());
    }
}

#[test]
fn the_last_row_of_an_embedding_is_caught() {
    for name in MODELS {
        let report = mutant(name, |m| {
            let table = vocabulary(m);
            change::<f32>(m, table, false, |w| *w.last_mut().expect("elements") += 1.0);
        });
        let [Changed::Elements { difference, .. }] = &report.weights.changed[..] else {
            panic!("{}", report.text())
        };
        assert_eq!(difference.first[0], 999, "{}", report.text());
        assert!(!report.outputs[0].equal, "the last row is among the samples as well");
    }
}

#[test]
fn a_constant_that_nobody_made_is_caught() {
    let report = mutant("deberta_v3_tiny.onnx", |m| {
        let weight = matrix(m);
        change::<f32>(m, weight, false, |_| {});
        // Another name and other elements: no constant of the source.
        let mut other = m[weight].tensor().expect("an initializer").as_ref().clone();
        mark(&mut other);
        let new = Tensor::new(&[2], vec![1.5_f32, 2.5]);
        m.add_initializer(m.root(), "smuggled".into(), Arc::new(new));
        m.set_tensor(weight, Arc::new(other));
    });
    assert!(
        matches!(&report.weights.changed[..], [Changed::Unknown { name, .. }] if name == "smuggled"),
        "{}",
        report.text()
    );
}

#[test]
fn swapped_outputs_are_caught() {
    let model = |outputs: &str, body: &str| {
        parsed(&format!(
            r#"<ir_version: 8, opset_import: ["" : 13]> g (float[2,3] x) => ({outputs}) {{ {body} }}"#
        ))
    };
    let before =
        subject("before", model("float[2,3] a, float[2,3] b", "a = Relu (x)  b = Neg (x)"));
    let renamed =
        subject("after", model("float[2,3] b, float[2,3] a", "a = Relu (x)  b = Neg (x)"));
    assert!(matches!(report(&before, &renamed).interface[..], [Change::Outputs { .. }]));
    let swapped =
        subject("after", model("float[2,3] a, float[2,3] b", "a = Neg (x)  b = Relu (x)"));
    let report = report(&before, &swapped);
    assert!(
        report.interface.is_empty() && report.outputs.iter().all(|o| !o.equal),
        "{}",
        report.text()
    );
}

#[test]
fn another_type_of_an_output_is_caught() {
    let before = parsed(
        r#"<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (int64[2] y) { y = Cast <to = 7> (x) }"#,
    );
    let after = parsed(
        r#"<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (int32[2] y) { y = Cast <to = 6> (x) }"#,
    );
    let report = report(&subject("before", before), &subject("after", after));
    assert!(matches!(report.interface[..], [Change::DataType { .. }]), "{}", report.text());
}

/// Every float constant of one element, with the nodes that read it.
fn scalars(model: &Model) -> Vec<(ValueId, f64)> {
    let of = |v: ValueId| {
        let tensor = match model.producer(v) {
            Some(n) => model[n].attrs.tensor("value").cloned(),
            None => model[v].tensor().cloned(),
        }?;
        <[f64; 1]>::try_from(tensor.to_floats()?).ok().map(|[x]| (v, x))
    };
    model.all_values().filter_map(|(v, _)| of(v)).collect()
}

/// Replaces a constant of one element where a single node reads it, and says that a pass did.
fn replace_scalar(model: &mut Model, old: ValueId, user: Use, new: f32) {
    let dims = model.producer(old).map_or_else(Vec::new, |n| {
        model[n].attrs.tensor("value").map(|t| t.dims.clone()).unwrap_or_default()
    });
    let mut tensor = Tensor::new(&dims, vec![new]);
    mark(&mut tensor);
    let name = model.fresh_name("planted");
    let value = model.add_initializer(model.root(), name, Arc::new(tensor));
    let Use::Input { node, slot } = user else { panic!("read by a node") };
    model.set_input(node, slot as usize, Some(value));
}

#[test]
fn a_mask_of_zero_is_caught() {
    for name in MODELS {
        let report = mutant(name, |m| {
            let masks: Vec<_> =
                scalars(m).into_iter().filter(|&(_, x)| x <= -1e4).map(|(v, _)| v).collect();
            assert!(!masks.is_empty(), "{name} has a mask value");
            for mask in masks {
                for user in m[mask].uses().to_vec() {
                    replace_scalar(m, mask, user, 0.0);
                }
            }
        });
        assert!(!report.equal && report.weights.changed.is_empty(), "{name}: {}", report.text());
        assert!(report.first_difference.is_some(), "{}", report.text());
    }
}

#[test]
fn a_missing_scale_in_one_layer_is_caught() {
    for name in MODELS {
        let report = mutant(name, |m| {
            // The last division of anything by a number that is neither 2 nor the √2 of GELU.
            let is_scale = |m: &Model, user: &Use| match *user {
                Use::Input { node, .. } => matches!(m[node].op().name.as_str(), "Mul" | "Div"),
                Use::Output { .. } => false,
            };
            let odd = |x: f64| {
                x > 1.0 && x < 30.0 && ![2.0, 2.0_f64.sqrt()].iter().any(|y| (x - y).abs() < 1e-3)
            };
            let users = |v: ValueId| m[v].uses().iter().copied().find(|u| is_scale(m, u));
            let mut found = scalars(m)
                .into_iter()
                .filter(|&(_, x)| odd(x))
                .filter_map(|(v, _)| Some((v, users(v)?)));
            let (scale, user) = found.next_back().unwrap_or_else(|| panic!("{name} has a scale"));
            replace_scalar(m, scale, user, 1.0);
        });
        assert!(!report.equal, "{name}: {}", report.text());
    }
}

/// A fixture, optimized for a static shape by all passes but the one that changes what a sample of padding gives.
fn optimized(name: &str, shape: &[i64]) -> (Subject, Subject) {
    let pipeline = onnxfix_passes::Pipeline::all().without(&["bound-attention-mask"]);
    optimized_by(name, shape, &pipeline.expect("a pass of the table"))
}

fn optimized_by(
    name: &str,
    shape: &[i64],
    pipeline: &onnxfix_passes::Pipeline,
) -> (Subject, Subject) {
    let before = fixture(name);
    let mut after = subject("optimized", before.model.clone());
    let inputs =
        roles::inputs(&before.model).into_iter().map(|v| before.model[v].name().to_string());
    let shapes = inputs.map(|name| InputShape { name, dims: shape.to_vec() }).collect();
    let options = onnxfix_passes::Options {
        shapes,
        static_shapes: true,
        ..onnxfix_passes::Options::default()
    };
    onnxfix_passes::run(&mut after.model, pipeline, &options, &mut |_, _| {}).expect("optimizes");
    (before, after)
}

#[test]
fn optimized_models_are_equal() {
    for (name, shape) in [("deberta_v3_tiny.onnx", [3, 32]), ("convbert_tiny_dynamo.onnx", [3, 16])]
    {
        let (before, after) = optimized(name, &shape);
        let report = report(&before, &after);
        assert!(report.equal, "{}", report.text());
        assert!(
            report
                .inputs
                .iter()
                .all(|i| !matches!(i.meaning, Meaning::Ids { compared: false, .. }))
        );
        assert_eq!(report.inputs[0].after, "int32");
    }
}

fn folding() -> onnxfix_passes::Pipeline {
    onnxfix_passes::Pipeline::of(&["fix-input-shapes", "infer-shapes", "fold-constants"])
        .expect("passes")
}

#[test]
fn what_was_folded_is_recomputed() {
    let (before, after) = optimized_by("deberta_v3_tiny.onnx", &[1, 32], &folding());
    let report = report(&before, &after);
    assert!(report.equal && report.weights.recomputed > 3, "{}", report.text());
}

#[test]
fn a_folded_constant_with_another_element_is_caught() {
    let (before, mut after) = optimized_by("deberta_v3_tiny.onnx", &[1, 32], &folding());
    let model = &mut after.model;
    let gather = model
        .all_nodes()
        .find(|(_, n)| n.op().is("GatherElements"))
        .map(|(_, n)| n.input(1).expect("indices"));
    let indices = gather.expect("the relative positions");
    let last = |indices: &mut [i64]| *indices.last_mut().expect("elements") -= 1;
    match model[indices].dtype() {
        Some(DataType::Int64) => change::<i64>(model, indices, true, last),
        _ => change::<i32>(model, indices, true, |v| *v.last_mut().expect("elements") -= 1),
    }
    let report = report(&before, &after);
    let [Changed::Recomputed { difference, .. }] = &report.weights.changed[..] else {
        panic!("{}", report.text())
    };
    assert_eq!(difference.count, 1);
}

#[test]
fn weights_that_only_got_zeros_are_unchanged() {
    let numbers =
        |from: i32| (from..from + 1024).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let graph = format!(
        "g (float[16,1] x) => (float[16,1] y) <float[1,1024] w = {{{}}}, float[1024,1] v = {{{}}}> {{
            h = MatMul (x, w)  y = MatMul (h, v)
         }}",
        numbers(1),
        numbers(2),
    );
    let before = text::parse_graph(&graph, 17).expect("a graph");
    let mut after = before.clone();
    let pad =
        onnxfix_passes::Pipeline::of(&["infer-shapes", "pad-row-stride", "eliminate-dead-nodes"])
            .expect("passes");
    let options = onnxfix_passes::Options::default();
    onnxfix_passes::run(&mut after, &pad, &options, &mut |_, _| {}).expect("optimizes");
    let found = weights::compare(&before, &after).report;
    assert_eq!((found.unchanged, found.made, found.gone), (2, 0, 0));
    let (w, _) = after.all_values().find(|(_, v)| v.tensor().is_some()).expect("a weight");
    change::<f32>(&mut after, w, true, |all| *all.last_mut().expect("elements") = 1.0);
    let found = weights::compare(&before, &after).report;
    assert_eq!((found.unchanged, found.made, found.gone), (1, 1, 1));
}

#[test]
fn swapped_position_tables_are_caught() {
    let (before, mut after) = optimized("deberta_v3_tiny.onnx", &[1, 32]);
    let model = &mut after.model;
    let tables: Vec<NodeId> = model
        .nodes(model.root())
        .filter(|&n| model[n].op().is("MatMul"))
        .filter(|&n| {
            model[n].input(1).is_some_and(|t| model[t].tensor().is_some_and(|t| t.dims.len() == 3))
        })
        .collect();
    let (a, b) = (tables[0], tables[1]);
    let (of_a, of_b) = (model[a].input(1), model[b].input(1));
    model.set_input(a, 1, of_b);
    model.set_input(b, 1, of_a);
    let report = report(&before, &after);
    assert!(report.weights.changed.is_empty() && !report.outputs[0].equal, "{}", report.text());
    let first = report.first_difference.expect("the first product");
    assert!(first.node.contains("layer.0/attention"), "{first}");
}

#[test]
fn a_dropped_tap_of_an_unfold_is_caught() {
    let pipeline = onnxfix_passes::Pipeline::all().without(&["decompose-span-convolution"]);
    let pipeline = pipeline.expect("a pass of the table");
    let (before, mut after) = optimized_by("convbert_tiny_dynamo.onnx", &[1, 16], &pipeline);
    let model = &mut after.model;
    let unfold = |n: NodeId| {
        model[n].op().is("Concat") && made_by(model, n).as_deref() == Some("decompose-unfold")
    };
    let concat = model.nodes(model.root()).find(|&n| unfold(n)).expect("an unfold");
    // The last tap is the one before it instead.
    let last = model[concat].inputs().len() - 1;
    let other = model[concat].input(last - 1);
    model.set_input(concat, last, other);
    let report = report(&before, &after);
    assert!(report.weights.changed.is_empty() && !report.outputs[0].equal, "{}", report.text());
    // The windows have no name in the source; the first value that has one is what is made of them.
    let first = report.first_difference.expect("the windows in another shape");
    assert!(first.pass.is_some() && first.last_equal.is_some(), "{first}");
}

#[test]
fn a_batch_written_into_the_source_is_run_in_parts() {
    let of = |batch: &str| {
        parsed(&format!(
            r#"<ir_version: 8, opset_import: ["" : 13]> g (float[{batch},2] x) => (float[{batch},2] y) {{ y = Relu (x) }}"#
        ))
    };
    let report = report(&subject("before", of("1")), &subject("after", of("3")));
    assert!(
        report.equal && report.notes.iter().any(|n| n.contains("took 3 runs")),
        "{}",
        report.text()
    );
    assert_eq!(report.outputs[0].dims, [3, 2]);
}

#[test]
fn a_model_that_the_engine_cannot_run_is_not_verified() {
    let model = parsed(
        r#"<ir_version: 8, opset_import: ["" : 13, "acme" : 1]>
        g (float[2] x) => (float[2] y) { y = acme.Relu (x) }"#,
    );
    let subject = subject("model", model);
    let error = verify(&subject, &subject, &Options::default(), &|_| {}).expect_err("no answer");
    assert_eq!(error.to_string(), r#"not verified: the source "model" cannot be run on the CPU"#);
}

#[test]
fn the_json_says_what_the_text_says() {
    let report = mutant("deberta_v3_tiny.onnx", |m| {
        let table = vocabulary(m);
        change::<f32>(m, table, false, |w| *w.last_mut().expect("elements") += 1.0);
    });
    let json = serde_json::to_value(&report).expect("serialises");
    assert_eq!(json["equal"], false);
    assert_eq!(json["weights"]["changed"][0]["why"], "elements");
    assert_eq!(json["weights"]["changed"][0]["first"][0], 999);
    assert_eq!(json["inputs"][0]["is"], "ids");
    assert!(report.text().starts_with("DIFFERENT"));
}

#[test]
fn relative_positions_off_by_one_are_caught() {
    let (before, mut after) = optimized("deberta_v3_tiny.onnx", &[1, 32]);
    let model = &mut after.model;
    // The slice that skews the scores of 32 rows and 64 columns begins one element too early.
    let bounds = |n: NodeId, slot| {
        model[n].input(slot).and_then(|v: ValueId| model[v].tensor()).and_then(|t| t.to_ints())
    };
    let is_skew =
        |n: &NodeId| bounds(*n, 1) == Some(vec![31]) && bounds(*n, 2) == Some(vec![31 + 32 * 63]);
    let skews: Vec<NodeId> = model.nodes(model.root()).filter(is_skew).collect();
    assert_eq!(skews.len(), 4);
    for skew in skews {
        for (slot, bound) in [(1, 30), (2, 30 + 32 * 63)] {
            let mut shifted = Tensor::ints(&[bound]);
            mark(&mut shifted);
            // A name that the source does not have: nothing to recompute, only the numbers can tell.
            let name = model.fresh_name("planted");
            let value = model.add_initializer(model.root(), name, Arc::new(shifted));
            model.set_input(skew, slot, Some(value));
        }
    }
    let report = report(&before, &after);
    assert!(report.weights.changed.is_empty() && !report.outputs[0].equal, "{}", report.text());
}

#[test]
fn sixteen_bits_show_a_mask_that_overflows() {
    let half = |name: &str| {
        let subject = fixture(name);
        let options = Options { half: true, ..Options::default() };
        let report = verify(&subject, &subject, &options, &|_| {}).expect("an answer");
        assert!(report.outputs[0].equal, "{}", report.text());
        report
    };
    // The mask of this export is the smallest float32, minus infinity in 16 bits: padding attends to nothing at all.
    let report = half("deberta_v3_tiny.onnx");
    let half = report.half.as_ref().expect("asked for");
    assert!(!report.equal && !half.clean && half.overflows[0].largest > 1e38, "{}", report.text());
}

/// A mistake in the shape of a pass: the error function is not the hyperbolic tangent, though they look alike.
struct ReplaceErf;

impl onnxfix_passes::Documented for ReplaceErf {
    fn info(&self) -> &'static onnxfix_passes::PassInfo {
        static INFO: onnxfix_passes::PassInfo = onnxfix_passes::PassInfo {
            name: "replace-erf",
            group: onnxfix_passes::Group::Simplify,
            numerics: onnxfix_passes::Numerics::Exact,
            doc: "Replaces an Erf by a Tanh.",
        };
        &INFO
    }
}

impl onnxfix_passes::Rewrite for ReplaceErf {
    fn roots(&self) -> &'static [&'static str] {
        &["Erf"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, onnxfix_passes::Miss> {
        let (x, y) = (m[root].input(0), m[root].output(0));
        let (Some(x), Some(y)) = (x, y) else { return Err(onnxfix_passes::Miss::NoMatch) };
        let mut patch = Patch::new(m, root);
        let tanh = patch.node("Tanh", &[x.into()]);
        patch.replace(y, tanh);
        Ok(patch)
    }
}

/// What the passes of the NPU make of a model with the wrong one among them.
fn remade(source: &Model, most: Option<u64>) -> Result<bisect::Made, String> {
    let target = crate::target::Target::Ascend310P3;
    let pipeline = target.pipeline().expect("passes").with(&ReplaceErf);
    let dim = |symbol: &str, value| DimBinding { symbol: symbol.into(), value };
    let options = onnxfix_passes::Options {
        static_shapes: true,
        opset: Some(13),
        dims: vec![dim("batch", 1)],
        max_rewrites: most,
        ..Default::default()
    };
    let mut model = source.clone();
    let made = onnxfix_passes::run(&mut model, &pipeline, &options, &mut |_, _| {});
    let made = made.map_err(|e| e.to_string())?;
    let rewrites = made.passes.iter().map(|p| (p.pass.to_owned(), p.rewrites)).collect();
    Ok(bisect::Made { model, rewrites })
}

#[test]
fn a_wrong_pass_is_found_and_the_nodes_that_show_it() {
    let before = fixture("deberta_v3_tiny.onnx");
    let after = subject("after", remade(&before.model, None).expect("runs").model);
    let report = report(&before, &after);
    assert!(!report.equal, "{}", report.text());
    let layers = layers_of_all(&before, &after);
    assert!(layers.first_beyond.is_some(), "{}", layers.text());

    let run = report.outputs[0].worst.as_ref().expect("a difference").run;
    let start = std::time::Instant::now();
    let (found, case) =
        bisect::bisect(&before, &after, &Options::default(), &[run], &remade, &|_| {})
            .expect("runs");
    assert!(start.elapsed() < std::time::Duration::from_mins(2), "{:?}", start.elapsed());
    let culprit = found.culprit.as_ref().expect("a culprit");
    assert_eq!(culprit.pass, "replace-erf", "{}", found.text());
    assert!(culprit.removed.iter().any(|node| node.starts_with("Erf")), "{culprit:?}");
    assert_eq!(found.contradictions, Vec::<u64>::new());
    assert!(found.rewrites > 200 && found.tried.len() < 24, "{}", found.text());

    // One node that became another, and the pass alone does it again.
    let facts = found.case.as_ref().expect("a case");
    assert_eq!(facts.nodes, (1, 1), "{}", found.text());
    let case = case.expect("a case");
    let mut again = case.before.clone();
    let wrong = onnxfix_passes::Pipeline::of(&[""; 0]).expect("none").with(&ReplaceErf);
    onnxfix_passes::run(&mut again, &wrong, &onnxfix_passes::Options::default(), &mut |_, _| {})
        .expect("runs");
    assert!(bisect::shows(&case, &again, &Options::default()).expect("runs"));
    assert!(!bisect::shows(&case, &case.before, &Options::default()).expect("runs"));

    // And `verify` says so of the files that are written.
    let given = Given {
        runs: vec![case.inputs.iter().map(|(_, tensor)| tensor.clone()).collect()],
        names: vec![vec!["case".into()]],
    };
    let options = Options { given: Some(given), ..Options::default() };
    let (before, after) = (subject("before", case.before), subject("after", case.after));
    let report = verify(&before, &after, &options, &|_| {}).expect("an answer");
    assert!(!report.outputs[0].equal, "{}", report.text());
}

fn layers_of_all(before: &Subject, after: &Subject) -> Layers {
    let options = Options { layers: Which::All, ..Options::default() };
    verify(before, after, &options, &|_| {}).expect("an answer").layers.expect("asked for")
}

#[test]
fn without_its_weights_a_model_still_fails() {
    let before = fixture("deberta_v3_tiny.onnx");
    let bare = subject("bare", bisect::without_weights(&before.model, 1));
    let same = |value: ValueId, model: &Model| {
        model[value]
            .tensor()
            .is_some_and(|t| t.same_content(before.model[value].tensor().expect("one")))
    };
    assert!(!same(matrix(&before.model), &bare.model), "weights are others");
    let (found, case) =
        bisect::bisect(&bare, &bare, &Options::default(), &[0], &remade, &|_| {}).expect("runs");
    assert_eq!(found.culprit.expect("a culprit").pass, "replace-erf");
    assert!(case.is_some());
}

#[test]
fn a_model_that_was_changed_later_is_not_the_fault_of_a_pass() {
    let before = fixture("deberta_v3_tiny.onnx");
    let right = |source: &Model, most: Option<u64>| {
        let mut made = remade(source, Some(0))?;
        made.rewrites = vec![("none".into(), most.unwrap_or(8))];
        Ok(made)
    };
    let (found, case) =
        bisect::bisect(&before, &before, &Options::default(), &[0], &right, &|_| {}).expect("runs");
    assert!(found.culprit.is_none() && case.is_none());
    assert!(found.notes[0].contains("make no difference"), "{:?}", found.notes);
}
