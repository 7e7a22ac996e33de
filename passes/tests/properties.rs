//! Every pass keeps every promise on random models: see `property` for the promises, `generate` for the models.
//!
//! `ONNXFIX_CASES=100000 ONNXFIX_SEED=1 cargo test --release -p onnxfix-passes --test properties -- --nocapture` looks
//! at that many models from that seed on.

mod property;

use std::fmt::Write as _;

use onnxfix_generate::{Choices, Recipe, Sample, counted, sample, shrink};
use onnxfix_ir::infer::infer;
use onnxfix_ir::text::{Mode, parse, print};
use onnxfix_passes::PASSES;
use property::{Failure, Tally, holds};

/// Samples that a plain run looks at.
const CASES: u64 = 1200;

/// Passes that random models give nothing to do: every operator set that is imported is used.
const IDLE: &[&str] = &["eliminate-unused-opsets"];

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
#[expect(clippy::print_stderr, reason = "a long run says how much it looked at")]
fn every_pass_keeps_its_promises() {
    let (first, cases) = (setting("ONNXFIX_SEED", 0), setting("ONNXFIX_CASES", CASES));
    let mut tally = Tally::default();
    let mut failures: Vec<(Failure, String)> = Vec::new();
    let mut wrong = Vec::new();
    for seed in first..first + cases {
        let (sample, making) = sample(&mut Choices::from_seed(seed), &Recipe::default());
        if let Some(what) = making.wrong {
            wrong.push(format!("seed {seed}: inference and evaluation disagree: {what}"));
        }
        let Err(failure) = holds(&sample, &mut tally) else { continue };
        // One of a kind is enough to read.
        if !failures.iter().any(|(f, _)| f.of == failure.of && f.kind == failure.kind) {
            let text = told(seed, sample, &failure);
            failures.push((failure, text));
        }
    }
    eprintln!("{tally}");
    let texts: Vec<String> = wrong.into_iter().chain(failures.into_iter().map(|f| f.1)).collect();
    assert!(texts.is_empty(), "{}", texts.join("\n"));
    let idle: Vec<&str> = PASSES
        .iter()
        .map(|p| p.info().name)
        .filter(|&p| !IDLE.contains(&p) && !tally.changed.contains_key(p))
        .collect();
    assert!(cases < CASES || idle.is_empty(), "passes that never had anything to do: {idle:?}");
}

/// What random models found: the smallest graphs, each with what it is about in its first line.
#[test]
fn what_was_found_stays_found() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no file in {}", folder.display());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a text");
        let mut model = parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        infer(&mut model).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let held = holds(&counted(model), &mut Tally::default());
        held.unwrap_or_else(|failure| panic!("{}: {failure}", file.display()));
    }
}
