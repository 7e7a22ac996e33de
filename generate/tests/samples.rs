//! What is made is a model, it computes, and no operator is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use onnxfix_generate::{Choices, Machine, NOT_GENERATED, Recipe, histogram, is_left_out, sample};
use onnxfix_ir::{check, op};

/// Samples that are looked at: enough for each operator to be among them several times.
const CASES: u64 = 3000;

#[test]
fn samples_compute_and_every_operator_is_among_them() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let (mut refused, mut evaluated, mut unknown) = (0, 0, 0);
    for seed in 0..CASES {
        let (sample, making) = sample(&mut Choices::from_seed(seed), &Recipe::default());
        assert_eq!(making.wrong, None, "seed {seed}");
        assert_eq!(check(&sample.model).first().map(ToString::to_string), None, "seed {seed}");
        let mut machine = Machine::new(&sample.model);
        machine.run(&sample.feeds).unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
        evaluated += machine.evaluated;
        unknown += machine.unknown;
        refused += making.refused.len();
        for (op, n) in histogram(&sample.model) {
            *seen.entry(op).or_default() += n;
        }
    }
    let missing: Vec<&str> = op::all()
        .map(|op| op.name)
        .filter(|&name| !is_left_out(name) && !seen.contains_key(name))
        .collect();
    assert!(missing.is_empty(), "never made, and not in NOT_GENERATED either: {missing:?}");
    // Operands are chosen so that they fit, and most operators are evaluated.
    assert!(refused * 50 < evaluated, "{refused} of {evaluated} nodes refused their operands");
    assert!(unknown * 10 < evaluated, "{unknown} nodes beside {evaluated} are not evaluated");
}

#[test]
fn what_is_left_out_exists_and_is_left_out() {
    let names: BTreeSet<&str> = op::all().map(|op| op.name).collect();
    let left_out = NOT_GENERATED.iter().flat_map(|(_, names)| names.iter());
    let gone: Vec<&&str> = left_out.filter(|name| !names.contains(**name)).collect();
    assert!(gone.is_empty(), "not in the operator table: {gone:?}");
}

#[test]
fn bytes_make_samples_too() {
    for length in 0..200_u8 {
        let bytes: Vec<u8> = (0..length).map(|i| i.wrapping_mul(97).wrapping_add(length)).collect();
        let (sample, _) = sample(&mut Choices::from_bytes(&bytes), &Recipe::default());
        assert_eq!(check(&sample.model).first().map(ToString::to_string), None, "{length} bytes");
        Machine::new(&sample.model)
            .run(&sample.feeds)
            .unwrap_or_else(|stuck| panic!("{length} bytes: {stuck}"));
    }
}
