//! The page of each pass, in the CPU engine: what stands under Before computes what the pass makes of it.

use onnxfix::target::Target;
use onnxfix::verify::{Options as VerifyOptions, Subject, TARGET, verify};
use onnxfix_ir::Model;
use onnxfix_ir::text::{parse, parse_graph};
use onnxfix_passes::{Options, PASSES, Pipeline, run};

fn model(text: &str) -> Model {
    let parsed =
        if text.trim_start().starts_with('<') { parse(text) } else { parse_graph(text, 13) };
    parsed.unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn examples_compute_the_same() {
    for pass in PASSES {
        let info = pass.info();
        let before = model(&info.example("Before").expect("every page has a Before"));
        let mut after = before.clone();
        let options = Options { static_shapes: true, opset: Some(13), ..Options::default() };
        // Types have to be there for the pass to fire.
        let pipeline = Pipeline::of(&["infer-shapes", info.name]).expect("passes of the table");
        run(&mut after, &pipeline, &options, &mut |_, _| {})
            .unwrap_or_else(|e| panic!("{}: {e}", info.name));
        // Samples that are all padding count where the pass is used for every target.
        let target =
            if Target::Portable.uses(info.name) { Target::Portable } else { Target::Ascend310P3 };
        after.header.metadata.push((TARGET.into(), target.name().into()));
        let subject = |name: &str, model| Subject { name: name.into(), model, file: None };
        let (before, after) = (subject("before", before), subject("after", after));
        let report = verify(&before, &after, &VerifyOptions::default(), &|_| {})
            .unwrap_or_else(|e| panic!("{}: {:#}", info.name, anyhow::Error::from(e)));
        assert!(report.equal, "{}:\n{}", info.name, report.text());
    }
}
