//! The ordered table of passes, and a run over some of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashSet;
use onnxfix_ir::{GraphId, Model, Name, Node, NodeId};
use serde::Serialize;

use crate::passes::{
    bound_attention_mask, bound_constant_mask, canonicalise_gelu, canonicalise_layer_norm,
    canonicalise_reshapes, canonicalise_softmax, cast_inputs_to_int32, convert_opset,
    count_indices_from_front, decompose_batched_gather, decompose_einsum,
    decompose_gather_elements, decompose_span_convolution, decompose_trilu, decompose_unfold,
    eliminate_broadcast_expand, eliminate_common_subexpressions, eliminate_dead_nodes,
    eliminate_dropout, eliminate_duplicate_initializers, eliminate_identity,
    eliminate_nop_arithmetic, eliminate_nop_cast, eliminate_nop_concat, eliminate_nop_expand,
    eliminate_nop_gather, eliminate_nop_logic, eliminate_nop_pad, eliminate_nop_reshape,
    eliminate_nop_slice, eliminate_nop_split, eliminate_nop_transpose, eliminate_repeated_weights,
    eliminate_unit_axes, eliminate_unit_transpose, eliminate_unused_opsets, fix_input_shapes,
    flatten_linear_layers, fold_constants, fold_reshape_shape, fold_scale_into_weights, fuse_gelu,
    fuse_gemm, fuse_layer_norm, fuse_residual, fuse_skew, group_attention_by_cache, hoist_bias,
    infer_shapes, inline_constant_if, inline_functions, join_products, merge_bias_into_convolution,
    merge_casts, merge_qkv_projections, merge_reshapes, merge_reshapes_across_softmax,
    merge_reshapes_across_transpose, merge_skew_slices, merge_transposes,
    merge_transposes_across_concat, merge_transposes_across_reshape, name_nodes, narrow_bands,
    narrow_convolutions, narrow_doubles, narrow_integers, narrow_to_diagonal, narrow_to_used_rows,
    order_operands, pad_row_stride, reassociate_products, share_attention_mask,
    simplify_truth_values, sink_expands, sink_reshapes, sink_widening_casts,
    split_heads_from_batch, split_projections, widen_convolutions,
};
use crate::patch::node_name;
use crate::{
    Changed, CostModel, DimBinding, InputShape, MissAt, Note, PROVENANCE, Pass, PassCx, PassError,
};

/// Every pass, in the order in which pipelines run them.
pub static PASSES: &[&dyn Pass] = &[
    &fix_input_shapes::FixInputShapes,
    &inline_functions::InlineFunctions,
    &infer_shapes::InferShapes,
    &inline_constant_if::InlineConstantIf,
    &fold_constants::FoldConstants,
    &fold_reshape_shape::FoldReshapeShape,
    &cast_inputs_to_int32::CastInputsToInt32,
    &eliminate_identity::EliminateIdentity,
    &eliminate_dropout::EliminateDropout,
    &eliminate_nop_cast::EliminateNopCast,
    &eliminate_nop_reshape::EliminateNopReshape,
    &eliminate_nop_transpose::EliminateNopTranspose,
    &eliminate_nop_expand::EliminateNopExpand,
    &eliminate_nop_slice::EliminateNopSlice,
    &eliminate_nop_pad::EliminateNopPad,
    &eliminate_nop_concat::EliminateNopConcat,
    &eliminate_nop_split::EliminateNopSplit,
    &eliminate_nop_gather::EliminateNopGather,
    &eliminate_unit_transpose::EliminateUnitTranspose,
    &eliminate_nop_arithmetic::EliminateNopArithmetic,
    &eliminate_nop_logic::EliminateNopLogic,
    &sink_expands::SinkExpands,
    &eliminate_broadcast_expand::EliminateBroadcastExpand,
    &eliminate_repeated_weights::EliminateRepeatedWeights,
    &split_heads_from_batch::SplitHeadsFromBatch,
    &sink_widening_casts::SinkWideningCasts,
    &simplify_truth_values::SimplifyTruthValues,
    &merge_casts::MergeCasts,
    // In front of all that knows products.
    &decompose_einsum::DecomposeEinsum,
    &flatten_linear_layers::FlattenLinearLayers,
    &split_projections::SplitProjections,
    &hoist_bias::HoistBias,
    &sink_reshapes::SinkReshapes,
    &merge_reshapes::MergeReshapes,
    &merge_reshapes_across_softmax::MergeReshapesAcrossSoftmax,
    &merge_reshapes_across_transpose::MergeReshapesAcrossTranspose,
    &merge_transposes::MergeTransposes,
    &merge_transposes_across_reshape::MergeTransposesAcrossReshape,
    &merge_transposes_across_concat::MergeTransposesAcrossConcat,
    &eliminate_unit_axes::EliminateUnitAxes,
    &decompose_unfold::DecomposeUnfold,
    &decompose_span_convolution::DecomposeSpanConvolution,
    // Behind the span convolution, whose band is one of the products.
    &join_products::JoinProducts,
    // The bias first: behind a widened convolution stands a Reshape.
    &merge_bias_into_convolution::MergeBiasIntoConvolution,
    &widen_convolutions::WidenConvolutions,
    &decompose_gather_elements::DecomposeGatherElements,
    &share_attention_mask::ShareAttentionMask,
    &bound_attention_mask::BoundAttentionMask,
    &bound_constant_mask::BoundConstantMask,
    &fold_scale_into_weights::FoldScaleIntoWeights,
    // What is merged and stripped above no longer stands between the steps.
    &order_operands::OrderOperands,
    &fuse_layer_norm::FuseLayerNorm,
    &canonicalise_layer_norm::CanonicaliseLayerNorm,
    &fuse_gelu::FuseGelu,
    &canonicalise_gelu::CanonicaliseGelu,
    &fuse_gemm::FuseGemm,
    &eliminate_common_subexpressions::EliminateCommonSubexpressions,
    &narrow_to_used_rows::NarrowToUsedRows,
    &narrow_bands::NarrowBands,
    &narrow_to_diagonal::NarrowToDiagonal,
    &narrow_convolutions::NarrowConvolutions,
    &reassociate_products::ReassociateProducts,
    &fuse_skew::FuseSkew,
    &merge_skew_slices::MergeSkewSlices,
    &merge_qkv_projections::MergeQkvProjections,
    &group_attention_by_cache::GroupAttentionByCache,
    &fuse_residual::FuseResidual,
    &pad_row_stride::PadRowStride,
    &canonicalise_reshapes::CanonicaliseReshapes,
    &count_indices_from_front::CountIndicesFromFront,
    &decompose_batched_gather::DecomposeBatchedGather,
    &decompose_trilu::DecomposeTrilu,
    &canonicalise_softmax::CanonicaliseSoftmax,
    &narrow_integers::NarrowIntegers,
    &narrow_doubles::NarrowDoubles,
    // Behind all that makes nodes of the opset that the model has.
    &convert_opset::ConvertOpset,
    &eliminate_duplicate_initializers::EliminateDuplicateInitializers,
    &eliminate_dead_nodes::EliminateDeadNodes,
    &eliminate_unused_opsets::EliminateUnusedOpsets,
    &name_nodes::NameNodes,
];

/// Passes that only a compiler wants that computes in float16, has no 64-bit integers and looks for certain steps.
pub const NPU_ONLY: &[&str] = &[
    "bound-attention-mask",
    "bound-constant-mask",
    "canonicalise-gelu",
    "canonicalise-layer-norm",
    "canonicalise-reshapes",
    "canonicalise-softmax",
    "cast-inputs-to-int32",
    "count-indices-from-front",
    "decompose-batched-gather",
    "decompose-trilu",
    "group-attention-by-cache",
    "merge-qkv-projections",
    "merge-skew-slices",
    "name-nodes",
    "narrow-doubles",
    "narrow-integers",
    "sink-widening-casts",
];

/// Passes that leave a form which ATC does not look for.
pub const PORTABLE_ONLY: &[&str] = &[
    "eliminate-unit-axes",
    "fuse-gelu",
    "fuse-gemm",
    "fuse-layer-norm",
    "fuse-residual",
    "fuse-skew",
    "pad-row-stride",
];

/// Passes that wait until those before them find nothing more, stage by stage: what they do for one place hides that it is
/// like the others.
const LATE: &[&[&str]] = &[
    &["narrow-bands", "narrow-convolutions", "narrow-to-diagonal", "narrow-to-used-rows"],
    &["reassociate-products", "fuse-skew", "fuse-residual", "canonicalise-reshapes"],
    // Forms of whole layers: those of attention are chosen by what they cost, and a hidden layer has only the rows that count.
    &["merge-skew-slices", "merge-qkv-projections", "group-attention-by-cache", "pad-row-stride"],
    // Others know masks by the 64 bits they are computed in, and what goes needs no name.
    &["name-nodes", "narrow-integers"],
];

/// The stage in which a pass begins to run.
fn stage(pass: &dyn Pass) -> usize {
    LATE.iter().position(|late| late.contains(&pass.info().name)).map_or(0, |at| at + 1)
}

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Shapes of inputs, by name.
    pub shapes: Vec<InputShape>,
    /// Numbers for symbolic dimensions, by symbol.
    pub dims: Vec<DimBinding>,
    /// Symbolic dimensions that stay symbolic.
    pub keep_dims: Vec<String>,
    /// Whether every dimension must become a number: the target compiles static shapes.
    pub static_shapes: bool,
    /// The version of ONNX's own operators that the model shall have; none leaves it as it is.
    pub opset: Option<u64>,
    /// How many percent of its size the model may grow by folding.
    pub fold_limit: f64,
    /// Stop after this many rewrites.
    pub max_rewrites: Option<u64>,
    /// Collect why this pass did not fire.
    pub why_not: Option<String>,
    /// What operators cost on the target. Without it passes that have a choice leave the form that they are for.
    pub costs: Option<Arc<dyn CostModel>>,
    /// Check the whole model after every single patch: for tests and for hunting bugs.
    pub check_each: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            shapes: Vec::new(),
            dims: Vec::new(),
            keep_dims: Vec::new(),
            static_shapes: false,
            opset: None,
            fold_limit: 10.0,
            max_rewrites: None,
            why_not: None,
            costs: None,
            check_each: false,
        }
    }
}

/// Which passes a run uses, in the order of [`PASSES`].
#[derive(Clone)]
pub struct Pipeline(Vec<&'static dyn Pass>);

impl Pipeline {
    /// Every pass.
    #[must_use]
    pub fn all() -> Pipeline {
        Pipeline(PASSES.to_vec())
    }

    /// These passes, in the order of the table whatever order they are named in.
    ///
    /// # Errors
    /// When there is no pass of one of these names.
    pub fn of(names: &[impl AsRef<str>]) -> Result<Pipeline, PassError> {
        for name in names {
            find(name.as_ref())?;
        }
        Ok(Pipeline(
            PASSES
                .iter()
                .copied()
                .filter(|p| names.iter().any(|n| n.as_ref() == p.info().name))
                .collect(),
        ))
    }

    /// Without these passes.
    ///
    /// # Errors
    /// When there is no pass of one of these names.
    pub fn without(mut self, names: &[impl AsRef<str>]) -> Result<Pipeline, PassError> {
        for name in names {
            find(name.as_ref())?;
        }
        self.0.retain(|p| !names.iter().any(|n| n.as_ref() == p.info().name));
        Ok(self)
    }

    /// With a pass that is not in the table, behind all others of its run.
    #[must_use]
    pub fn with(mut self, pass: &'static dyn Pass) -> Pipeline {
        self.0.push(pass);
        self
    }

    /// The passes.
    #[must_use]
    pub fn passes(&self) -> &[&'static dyn Pass] {
        &self.0
    }
}

/// The pass of that name.
///
/// # Errors
/// When there is none.
pub fn find(name: &str) -> Result<&'static dyn Pass, PassError> {
    PASSES
        .iter()
        .copied()
        .find(|p| p.info().name == name)
        .ok_or_else(|| PassError::Unknown { name: name.into(), near: nearest(name) })
}

/// The name that is a few edits away, if one is.
fn nearest(name: &str) -> Option<&'static str> {
    let names = PASSES.iter().map(|p| p.info().name);
    let (distance, near) = names.map(|n| (edits(name, n), n)).min()?;
    (distance <= name.len().max(near.len()) / 3).then_some(near)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Why a pipeline stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// A whole sweep changed nothing.
    Converged,
    /// The last sweep allowed still changed something.
    SweepLimit,
    /// `--max-rewrites` was reached.
    FuelSpent,
}

/// What one pass did in a run.
#[derive(Debug, Clone, Serialize)]
pub struct PassStats {
    /// Name of the pass.
    pub pass: &'static str,
    /// Rewrites it made, over all sweeps.
    pub rewrites: u64,
    /// Time it took, over all sweeps.
    #[serde(serialize_with = "as_seconds")]
    pub time: Duration,
}

fn as_seconds<S: serde::Serializer>(time: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64(time.as_secs_f64())
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Why it stopped.
    pub stop: Stop,
    /// Sweeps over the pipeline, the last of which changed nothing unless it says otherwise.
    pub sweeps: u32,
    /// Each pass in order.
    pub passes: Vec<PassStats>,
    /// Things the user should know.
    pub notes: Vec<Note>,
    /// Why the pass that was asked about did not fire.
    pub misses: Vec<MissAt>,
}

/// Is told of each pass that changed the model, right after it.
pub type Observer<'a> = &'a mut dyn FnMut(&'static str, &Model);

/// Sweeps a run makes at most. Ten are usual: most passes make room for others, and some wait for all of them.
const MAX_SWEEPS: u32 = 32;

/// Runs the passes over and over until none of them changes anything.
///
/// # Errors
/// When a pass cannot do what it is for, or broke the model; the model is then of no use.
pub fn run(
    model: &mut Model,
    pipeline: &Pipeline,
    options: &Options,
    observer: Observer<'_>,
) -> Result<Report, PassError> {
    // A limit of 0 is meant literally.
    let floor = if options.fold_limit > 0.0 { FOLD_FLOOR } else { 0.0 };
    let budget = (model_bytes(model) as f64 * options.fold_limit / 100.0).max(floor);
    let mut cx = PassCx {
        options,
        first_sweep: true,
        settled: false,
        postponed: false,
        notes: Vec::new(),
        misses: Vec::new(),
        rewrites: 0,
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a size in bytes"
        )]
        fold_budget: budget as u64,
    };
    let passes = pipeline.passes();
    let mut stats: Vec<PassStats> = passes
        .iter()
        .map(|p| PassStats { pass: p.info().name, rewrites: 0, time: Duration::ZERO })
        .collect();
    let mut stop = Stop::SweepLimit;
    let mut sweeps = 0;
    // Nobody waits for passes that are not there.
    let mut stages: Vec<usize> = passes.iter().map(|pass| stage(*pass)).collect();
    stages.sort_unstable();
    stages.dedup();
    let mut stages = stages.into_iter();
    let mut now = stages.next().unwrap_or(0);
    cx.settled = stages.len() == 0;
    while sweeps < MAX_SWEEPS && stop == Stop::SweepLimit {
        sweeps += 1;
        cx.postponed = false;
        let mut quiet = true;
        for (pass, stats) in passes.iter().zip(&mut stats) {
            let name = pass.info().name;
            if stage(*pass) > now {
                continue;
            }
            let _span = tracing::info_span!("pass", name).entered();
            let (start, before) = (Instant::now(), cx.rewrites);
            let changed = pass.run(model, &mut cx)?;
            stats.time += start.elapsed();
            stats.rewrites += cx.rewrites - before;
            if changed == Changed::Yes {
                quiet = false;
                observer(name, model);
                check_after(model, name, &cx)?;
            }
        }
        cx.first_sweep = false;
        if options.max_rewrites.is_some_and(|max| cx.rewrites >= max) {
            stop = Stop::FuelSpent;
        } else if quiet && !cx.postponed {
            match stages.next() {
                Some(next) => {
                    now = next;
                    cx.settled = stages.len() == 0;
                }
                None => stop = Stop::Converged,
            }
        }
    }
    if stop == Stop::SweepLimit {
        cx.warn(
            "pipeline",
            format!("still changing after {MAX_SWEEPS} sweeps: please report this model"),
        );
    }
    allow_initializers(model);
    name_nodes(model);
    Ok(Report { stop, sweeps, passes: stats, notes: cx.notes, misses: cx.misses })
}

/// Raises the format's version where passes made initializers: before version 4, each had to be an input as well.
fn allow_initializers(model: &mut Model) {
    let unlisted =
        |g: GraphId| model[g].initializers().iter().any(|&v| !model[g].inputs().contains(&v));
    if model.header.ir_version.is_some_and(|version| version < 4) && model.graphs().any(unlisted) {
        model.header.ir_version = Some(4);
    }
}

/// Names what passes made after its first output. Values change names meanwhile, and ATC wants names of nodes unique.
fn name_nodes(model: &mut Model) {
    let is_made = |node: &Node| node.metadata.iter().any(|(key, _)| key == PROVENANCE);
    let (made, found): (Vec<NodeId>, Vec<NodeId>) =
        model.all_nodes().map(|(id, _)| id).partition(|&id| is_made(&model[id]));
    let mut taken: HashSet<Name> = found.iter().filter_map(|&id| model[id].name.clone()).collect();
    for id in made {
        let Some(&first) = model[id].outputs().iter().flatten().next() else { continue };
        let base = node_name(model[first].name());
        let numbered = (1..).map(|n| Name::from(format!("{base}_{n}").as_str()));
        let name =
            std::iter::once(base.clone()).chain(numbered).find(|name| taken.insert(name.clone()));
        *model.node_mut(id).name() = name;
    }
}

fn check_after(model: &Model, pass: &'static str, cx: &PassCx<'_>) -> Result<(), PassError> {
    if !cx.options.check_each {
        return Ok(());
    }
    match onnxfix_ir::check(model).first() {
        None => Ok(()),
        Some(first) => Err(PassError::Broken {
            pass,
            rewrite: cx.rewrites,
            node: "the end of the pass".into(),
            broken: first.to_string(),
        }),
    }
}

/// Bytes by which any model may grow: a few index tables, which no file notices.
const FOLD_FLOOR: f64 = (16 << 20) as f64;

/// Bytes of all constants.
fn model_bytes(model: &Model) -> u64 {
    let initializers = model.all_values().filter_map(|(_, v)| v.tensor());
    let attributes =
        model.all_nodes().flat_map(|(_, n)| n.attrs.0.iter()).filter_map(|a| match &a.value {
            onnxfix_ir::AttrValue::Tensor(t) => Some(t),
            _ => None,
        });
    initializers.chain(attributes).map(|t| t.byte_len()).sum()
}

#[cfg(test)]
mod tests {
    use onnxfix_ir::text::{parse, parse_graph, print_graph};

    use super::*;
    use crate::testing::model;

    /// The page of a pass is its first test: what stands under Before becomes what stands under After.
    #[test]
    fn pages_are_true() {
        let mut wrong: Vec<String> = Vec::new();
        for pass in PASSES {
            let info = pass.info();
            let before =
                info.example("Before").unwrap_or_else(|| panic!("{} has no Before", info.name));
            let after =
                info.example("After").unwrap_or_else(|| panic!("{} has no After", info.name));
            let mut model = model(&before);
            let options = Options {
                static_shapes: true,
                opset: Some(13),
                check_each: true,
                ..Options::default()
            };
            let pipeline = Pipeline::of(&[info.name]).expect("a pass of the table");
            run(&mut model, &pipeline, &options, &mut |_, _| {})
                .unwrap_or_else(|e| panic!("{}: {e}", info.name));
            // What the pass no longer needs is removed by another one.
            let root = model.root();
            model.remove_dead_initializers(root);
            let parsed = if after.trim_start().starts_with('<') {
                parse(&after)
            } else {
                parse_graph(&after, 13)
            };
            let expected = parsed.unwrap_or_else(|e| panic!("{}: After: {e}", info.name));
            let (have, want) = (print_graph(&model, root), print_graph(&expected, expected.root()));
            if have != want {
                wrong.push(format!(
                    "the page of {} says\n{want}and the pass gives\n{have}",
                    info.name
                ));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn pages_are_whole() {
        for pass in PASSES {
            let info = pass.info();
            for heading in ["Why ATC needs it", "Before", "After", "Applies when", "Numerics"] {
                assert!(
                    info.doc.contains(&format!("## {heading}\n")),
                    "{} has no {heading}",
                    info.name
                );
            }
            assert!(
                info.summary().ends_with('.') || info.summary().ends_with(':'),
                "{}",
                info.summary()
            );
        }
    }

    #[test]
    fn names_are_orders_and_unique() {
        let mut names: Vec<&str> = PASSES.iter().map(|p| p.info().name).collect();
        assert!(
            names.iter().all(|n| n
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PASSES.len());
    }

    #[test]
    fn a_misspelt_name_is_an_error_with_a_hint() {
        let err = Pipeline::of(&["fold-constant"]).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(err.contains("did you mean fold-constants?"), "{err}");
        let err =
            Pipeline::all().without(&["xyz"]).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(!err.contains("did you mean"), "{err}");
    }

    #[test]
    fn a_fold_limit_of_zero_is_meant_literally() {
        let text = "g (float[4] x) => (float[4] y) <int64[1] four = {4}> { c = ConstantOfShape (four)  y = Add (x, c) }";
        let nodes = |fold_limit| {
            let mut model = model(text);
            let options = Options { fold_limit, ..Options::default() };
            let pipeline = Pipeline::of(&["fold-constants"]).expect("a pass of the table");
            run(&mut model, &pipeline, &options, &mut |_, _| {}).expect("a run");
            model[model.root()].len()
        };
        assert_eq!((nodes(10.0), nodes(0.0)), (1, 2));
    }

    #[test]
    fn an_old_file_gets_the_version_that_new_initializers_need() {
        let version = |nodes: &str| {
            let header = "<ir_version: 3, opset_import: [\"\" : 9]>";
            let mut model =
                parse(&format!("{header} g (float[1] x) => (float[1] y) {{ {nodes} }}"))
                    .expect("a model");
            run(&mut model, &Pipeline::all(), &Options::default(), &mut |_, _| {}).expect("a run");
            model.header.ir_version
        };
        let constant = "c = Constant <value: tensor = float[1] {2}> ()  y = Add (x, c)";
        assert_eq!((version(constant), version("y = Relu (x)")), (Some(4), Some(3)));
    }

    #[test]
    fn what_is_random_or_unknown_is_neither_folded_nor_merged() {
        let twice = [
            "a = RandomUniformLike (w)  b = RandomUniformLike (w)",
            "a = RandomNormal <shape: ints = [2]> ()  b = RandomNormal <shape: ints = [2]> ()",
            "a = Bernoulli (w)  b = Bernoulli (w)",
            "a = Dropout (w, half, on)  b = Dropout (w, half, on)",
            "a = other.Made (w)  b = other.Made (w)",
        ];
        for nodes in twice {
            let text = format!(
                "<ir_version: 8, opset_import: [\"\" : 15, \"other\" : 1]>
g () => (float[2] y) <float[2] w = {{0.5, 0.5}}, float half = {{0.5}}, bool on = {{1}}> {{ {nodes}  y = Sub (a, b) }}"
            );
            let mut model = parse(&text).expect("a model");
            run(&mut model, &Pipeline::all(), &Options::default(), &mut |_, _| {}).expect("a run");
            assert_eq!(model[model.root()].len(), 3, "{nodes}");
        }
    }

    #[test]
    fn a_clip_that_its_opset_lacks_for_integers_is_folded_away() {
        let text = "<ir_version: 7, opset_import: [\"\" : 11]>
g (float[2,3] x) => (float[3,2] y) <int64 low = {0}, int64 high = {9}, int64[2] swapped = {1, 0}> {
   s = Shape (x)  c = Clip (s, low, high)  t = Gather (c, swapped)  y = Reshape (x, t) }";
        let mut model = parse(text).expect("a model");
        run(&mut model, &Pipeline::all(), &Options::default(), &mut |_, _| {}).expect("a run");
        assert_eq!(model[model.root()].len(), 1);
    }

    #[test]
    fn fuel_stops_the_run() {
        let mut model = model(
            "g (float[2] x) => (float[2] y) { a = Identity (x)  b = Identity (a)  y = Relu (b) }",
        );
        let options = Options { max_rewrites: Some(1), ..Options::default() };
        let pipeline = Pipeline::of(&["eliminate-identity"]).expect("a pass of the table");
        let report = run(&mut model, &pipeline, &options, &mut |_, _| {}).expect("a run");
        assert_eq!((report.stop, model[model.root()].len()), (Stop::FuelSpent, 2));
    }
}
