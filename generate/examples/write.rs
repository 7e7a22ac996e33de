//! Writes samples for other engines: `write DIR FIRST COUNT` makes `SEED.onnx` and `SEED.data.onnx` for COUNT seeds.
//!
//! Every value that a node of the main graph computes is an output. The second file has the inputs and what the
//! reference evaluator computes from them as initializers, named `feed NAME` and `want NAME`.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use onnxfix_generate::{Choices, Machine, Recipe, sample};
use onnxfix_ir::{Def, Model, ValueId, write_to};

/// The newest opset that ONNX Runtime takes without complaint.
const NEWEST_OPSET: i64 = 23;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, first, count] = &args[..] else {
        return Err("usage: write DIR FIRST COUNT".into());
    };
    let (folder, first, count): (&Path, u64, u64) =
        (Path::new(folder), first.parse()?, count.parse()?);
    let recipe = Recipe { newest_opset: NEWEST_OPSET, evaluated: true, ..Recipe::default() };
    for seed in first..first + count {
        let (mut sample, _) = sample(&mut Choices::from_seed(seed), &recipe);
        let root = sample.model.root();
        let computed: Vec<ValueId> = sample
            .model
            .all_values()
            .filter(|(_, v)| v.graph() == root && matches!(v.def(), Def::Node { .. }))
            .map(|(id, _)| id)
            .collect();
        for value in computed {
            if !sample.model.is_output(value) {
                sample.model.add_output(root, value);
            }
        }
        let mut machine = Machine::new(&sample.model);
        let Ok(outputs) = machine.run(&sample.feeds) else { continue };
        let mut data = Model::new();
        for (name, tensor) in &sample.feeds {
            data.add_initializer(
                data.root(),
                format!("feed {name}").into(),
                Arc::new(tensor.clone()),
            );
        }
        for (&value, tensor) in sample.model[root].outputs().iter().zip(outputs) {
            let name = sample.model[value].name();
            data.add_initializer(data.root(), format!("want {name}").into(), tensor);
        }
        write_to(&sample.model, File::create(folder.join(format!("{seed}.onnx")))?)?;
        write_to(&data, File::create(folder.join(format!("{seed}.data.onnx")))?)?;
    }
    Ok(())
}
