//! What is made is a model, it computes, and no operator is forgotten.

use std::collections::BTreeMap;

use onnxfix_generate::{Choices, Machine, Recipe, histogram, is_left_out, sample};
use onnxfix_ir::{check, op};

#[test]
fn samples_are_sound() {
    let n = std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(3000u64);
    let mut refused: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let (mut evaluated, mut unknown) = (0, 0);
    let mut wrongs: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..n {
        let (sample, making) = sample(&mut Choices::from_seed(seed), &Recipe::default());
        if let Some(w) = making.wrong {
            wrongs.entry(format!("making: {w}")).or_insert(seed);
        }
        let broken = check(&sample.model);
        if let Some(b) = broken.first() {
            wrongs.entry(format!("broken: {b}")).or_insert(seed);
            continue;
        }
        let mut machine = Machine::new(&sample.model);
        if let Err(e) = machine.run(&sample.feeds) {
            wrongs.entry(format!("run: {e}")).or_insert(seed);
        }
        evaluated += machine.evaluated;
        unknown += machine.unknown;
        for (op, why) in making.refused {
            let e = refused.entry(op).or_default();
            e.0 += 1;
            e.1 = why;
        }
        for (op, n) in histogram(&sample.model) {
            *seen.entry(op).or_default() += n;
        }
    }
    println!("evaluated {evaluated} unknown {unknown}");
    for (w, seed) in &wrongs {
        println!("WRONG {seed}: {w}");
    }
    for (op, (n, why)) in &refused {
        println!("{op}: refused {n} of {}: {why}", n + seen.get(op).unwrap_or(&0));
    }
    for op in op::all().filter(|op| !is_left_out(op.name) && !seen.contains_key(op.name)) {
        println!("UNSEEN {}", op.name);
    }
}
