//! The sample whose throughput says most: DeBERTa as it was exported, whose gathers take nearly all of the time.

use std::path::Path;

use onnxfix_ascend::cost::{Unit, predict};
use onnxfix_ascend::platform;
use onnxfix_ir::{LoadOptions, load};
use onnxfix_passes::{InputShape, Options, Pipeline, run};

#[test]
fn deberta_as_exported_is_as_slow_as_published() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("validation/graphs/deberta-v3-base.onnx");
    // Its weights were left out, and nothing needs them.
    let options = LoadOptions { external_data: false, ..LoadOptions::default() };
    let graph = load(&file, &options).expect("a model").model;
    let p3 = platform::find("Ascend310P3").expect("a platform");
    for (batch, published) in [(1, 4.055), (4, 4.692), (32, 4.619)] {
        let mut model = graph.clone();
        let shape = |name: &str| InputShape { name: name.to_owned(), dims: vec![batch, 256] };
        let shapes = ["input_ids", "input_mask"].map(shape).to_vec();
        let options = Options { shapes, static_shapes: true, ..Options::default() };
        let pipeline = Pipeline::of(&["fix-input-shapes", "infer-shapes"]).expect("passes");
        run(&mut model, &pipeline, &options, &mut |_, _| {}).expect("a run");
        let prediction = predict(&model, p3).expect("a prediction");
        let ratio = prediction.fps.likely / published;
        assert!((0.8..1.25).contains(&ratio), "batch {batch}: {ratio}");
        let gathers = prediction.nodes.iter().filter(|n| n.op == "GatherElements");
        let share = gathers.clone().map(|n| n.total).sum::<f64>() / prediction.time.likely;
        assert!(share > 0.9, "batch {batch}: {share}");
        // In every layer, one is along the last axis, which the AI Cores take.
        let inner = gathers.filter(|n| n.layer.is_some());
        let units = |unit: Unit| inner.clone().filter(|n| n.unit == unit).count();
        assert_eq!((units(Unit::Scalar), units(Unit::AiCpu)), (12, 12));
        assert_eq!(prediction.nodes.iter().filter_map(|n| n.layer).max(), Some(11));
    }
}
