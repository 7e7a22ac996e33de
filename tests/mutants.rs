//! Mistakes that a rewrite could make, planted into optimized models: `verify` must answer 1 to each.

mod common;

use std::sync::Arc;

use common::{Folder, fixture, input_shape};
use onnxfix_ir::{Element, Model, NewNode, NodeId, Tensor, Use, ValueId};
use onnxfix_passes::PROVENANCE;

/// A fixture, optimized for a batch of 3, with a mistake; what `verify --json` says, and its exit code.
#[track_caller]
fn verified(name: &str, mistake: impl FnOnce(&mut Model)) -> (serde_json::Value, i32) {
    let path = fixture(name);
    let folder = Folder::with(&path);
    let shape = format!("--input-shape={}", input_shape(&path, [3, 32]));
    folder.run_args(&["optimize", "model.onnx", &shape]).exits(0);
    let mut model = folder.load("model.opt.onnx");
    mistake(&mut model);
    folder.store("model.opt.onnx", &model);
    let ran = folder.run("verify --json");
    (ran.json(), ran.code())
}

/// The mistake shows in what the model computes, not only in its weights.
#[track_caller]
fn caught_by_numbers(name: &str, mistake: impl FnOnce(&mut Model)) {
    let (report, code) = verified(name, mistake);
    assert_eq!((code, &report["equal"]), (1, &false.into()), "{report:#}");
    assert_eq!(report["weights"]["changed"].as_array().map(Vec::len), Some(0), "{report:#}");
    assert_eq!(report["outputs"][0]["equal"], false, "{report:#}");
}

/// The nodes of an operator, in order.
fn nodes(model: &Model, op: &str) -> Vec<NodeId> {
    model.nodes(model.root()).filter(|&n| model[n].op().is(op)).collect()
}

fn input(model: &Model, name: &str) -> ValueId {
    model.value_named(model.root(), name).expect("an input of that name")
}

/// A constant as passes make them.
fn constant<T: Element>(model: &mut Model, dims: &[i64], elements: Vec<T>) -> ValueId {
    let mut tensor = Tensor::new(dims, elements);
    tensor.extra_mut().metadata.push((PROVENANCE.into(), "a-pass".into()));
    let name = model.fresh_name("planted");
    model.add_initializer(model.root(), name, Arc::new(tensor))
}

/// Lets the nodes that read `value` read what a new node makes of it.
fn reroute(model: &mut Model, value: ValueId, op: &str, with: &[ValueId], attrs: &[(&str, i64)]) {
    let uses = model[value].uses().to_vec();
    let root = model.root();
    let first = model
        .nodes(root)
        .find(|&n| uses.iter().any(|u| matches!(u, Use::Input { node, .. } if *node == n)));
    let name = model.fresh_name("planted");
    let inputs = [&[value], with].concat();
    let new =
        attrs.iter().fold(NewNode::new(op, &inputs, name), |new, &(name, n)| new.attr(name, n));
    let node = model.add_node(root, first, new);
    let made = model[node].output(0);
    for reader in uses {
        if let Use::Input { node, slot } = reader {
            model.set_input(node, slot as usize, made);
        }
    }
}

const MODELS: [&str; 3] =
    ["deberta_v3_tiny.onnx", "deberta_v3_tiny_dynamo.onnx", "convbert_tiny.onnx"];

#[test]
fn without_a_mistake_they_are_equal() {
    for name in MODELS {
        let (report, code) = verified(name, |_| {});
        assert_eq!((code, &report["equal"]), (0, &true.into()), "{report:#}");
    }
}

/// A caller's batch is many sequences; all of them are alike in a careless test.
#[test]
fn sequences_of_a_batch_that_change_places() {
    for name in MODELS {
        caught_by_numbers(name, |model| {
            let last = nodes(model, "Gemm").pop().expect("a classifier");
            let hidden = model[last].input(0).expect("has one");
            let order = constant(model, &[3], vec![0_i32, 2, 1]);
            reroute(model, hidden, "Gather", &[order], &[("axis", 0)]);
        });
    }
}

#[test]
fn an_id_that_is_never_looked_up() {
    for name in MODELS {
        caught_by_numbers(name, |model| {
            let (ids, most) = (input(model, "input_ids"), constant(model, &[1], vec![998_i32]));
            reroute(model, ids, "Min", &[most], &[]);
        });
    }
}

#[test]
fn a_mask_that_is_not_read() {
    for name in MODELS {
        caught_by_numbers(name, |model| {
            let (mask, ones) =
                (input(model, "attention_mask"), constant(model, &[3, 32], vec![1_i32; 96]));
            for reader in model[mask].uses().to_vec() {
                if let Use::Input { node, slot } = reader {
                    model.set_input(node, slot as usize, Some(ones));
                }
            }
        });
    }
}

#[test]
fn a_last_position_that_nothing_attends_to() {
    for name in MODELS {
        caught_by_numbers(name, |model| {
            let mut all_but_last = vec![1_i32; 32];
            all_but_last[31] = 0;
            let (mask, factor) =
                (input(model, "attention_mask"), constant(model, &[1, 32], all_but_last));
            reroute(model, mask, "Mul", &[factor], &[]);
        });
    }
}

#[test]
fn inputs_that_change_places() {
    caught_by_numbers("convbert_tiny.onnx", |model| {
        let (mask, types) = (input(model, "attention_mask"), input(model, "token_type_ids"));
        let (of_mask, of_types) = (model[mask].uses().to_vec(), model[types].uses().to_vec());
        for (readers, new) in [(of_mask, types), (of_types, mask)] {
            for reader in readers {
                if let Use::Input { node, slot } = reader {
                    model.set_input(node, slot as usize, Some(new));
                }
            }
        }
    });
}

#[test]
fn a_residual_that_is_its_own_branch() {
    for name in MODELS {
        caught_by_numbers(name, |model| {
            let computed = |v: Option<ValueId>| v.is_some_and(|v| model.producer(v).is_some());
            let mut sums = nodes(model, "Add").into_iter();
            let sum = sums
                .rfind(|&n| model[n].inputs().iter().all(|&v| computed(v)))
                .expect("a residual");
            let branch = model[sum].input(0);
            model.set_input(sum, 1, branch);
        });
    }
}

#[test]
fn a_softmax_over_another_axis() {
    for name in MODELS {
        caught_by_numbers(name, |model| {
            let softmax = nodes(model, "Softmax").pop().expect("attention");
            // Of the last two axes: both are as long as the sequence.
            model.node_mut(softmax).attrs().set("axis", -2_i64);
        });
    }
}

/// Half the digits: more than float32 rounding, and far too little to change a label.
#[test]
fn a_value_that_went_through_16_bits() {
    for name in MODELS {
        caught_by_numbers(name, |model| {
            let last = nodes(model, "Gemm").pop().expect("a classifier");
            let hidden = model[last].input(0).expect("has one");
            reroute(model, hidden, "Cast", &[], &[("to", 1)]);
            reroute(model, hidden, "Cast", &[], &[("to", 10)]);
        });
    }
}

/// No sample need read either of the two.
#[test]
fn rows_of_a_table_that_change_places() {
    for name in MODELS {
        let (report, code) = verified(name, |model| {
            let table = nodes(model, "Gather").into_iter().find_map(|n| {
                let table = model[n].input(0)?;
                (model[table].dims()?.first() == Some(&1000)).then_some(table)
            });
            let table = table.expect("the embeddings of 1000 tokens");
            let tensor = model[table].tensor().expect("an initializer");
            let mut rows = tensor.elements::<f32>().expect("floats").into_owned();
            let width = rows.len() / 1000;
            let (head, tail) = rows.split_at_mut(702 * width);
            head[701 * width..].swap_with_slice(&mut tail[..width]);
            let tensor = Tensor::new(&tensor.dims, rows);
            model.set_tensor(table, Arc::new(tensor));
        });
        assert_eq!((code, &report["equal"]), (1, &false.into()), "{report:#}");
        let changed = &report["weights"]["changed"][0];
        assert_eq!(
            (&changed["why"], &changed["first"][0]),
            (&"elements".into(), &701.into()),
            "{report:#}"
        );
    }
}
