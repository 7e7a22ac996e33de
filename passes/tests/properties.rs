//! Every pass keeps every promise on random models: see `property` for the promises, `generate` for the models.
//!
//! `ONNXFIX_CASES=100000 ONNXFIX_SEED=1 cargo test --release -p onnxfix-passes --test properties -- --nocapture` looks
//! at that many models from that seed on.

mod property;

use std::fmt::Write as _;

use onnxfix_generate::{Choices, Recipe, Sample, sample, shrink};
use onnxfix_ir::text::{Mode, print};
use property::{Failure, Tally, holds};

/// Samples that a plain run looks at.
const CASES: u64 = 2000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// The smallest sample that fails alike, as text.
fn told(seed: u64, sample: Sample, failure: &Failure) -> String {
    let alike = |s: &Sample| {
        holds(s, &mut Tally::default()).is_err_and(|f| f.of == failure.of && f.kind == failure.kind)
    };
    let small = shrink(sample, &alike);
    let failure = holds(&small, &mut Tally::default()).expect_err("shrinking keeps the failure");
    let mut text = format!("seed {seed}: {failure}\nof\n");
    text += &print(&small.model, Mode::Full { limit: 1 << 20 }).unwrap_or_else(|e| e.to_string());
    for (name, tensor) in &small.feeds {
        let _ = writeln!(text, "# {name} = {}", onnxfix_generate::show(tensor));
    }
    text
}

#[test]
fn every_pass_keeps_its_promises() {
    let (first, cases) = (setting("ONNXFIX_SEED", 0), setting("ONNXFIX_CASES", CASES));
    let mut tally = Tally::default();
    let mut seen: Vec<(String, &str)> = Vec::new();
    let mut failures = String::new();
    for seed in first..first + cases {
        let (sample, _) = sample(&mut Choices::from_seed(seed), &Recipe::default());
        if let Err(failure) = holds(&sample, &mut tally) {
            if seen.iter().any(|(of, kind)| *of == failure.of && *kind == failure.kind) {
                continue;
            }
            seen.push((failure.of.clone(), failure.kind));
            failures += &told(seed, sample, &failure);
        }
    }
    println!("{tally:?}");
    println!("{failures}");
    assert!(failures.is_empty());
}
