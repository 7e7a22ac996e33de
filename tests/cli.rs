//! The command line, as users type it.

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use common::{Folder, fixture};

/// A small model that is open in its first dimension and has something to fold, to merge and to keep.
const SMALL: &str = r#"<ir_version: 8, opset_import: ["" : 13]>
g (float[batch,6] x) => (float[batch,3,2] y) <float[6] w = {1, 2, 3, 4, 5, 6}, int64[3] a = {-1, 2, 3}, int64[3] b = {-1, 3, 2}> {
   i = Identity (x)
   s = Mul (i, w)
   r = Reshape (s, a)
   y = Reshape (r, b)
}
"#;

fn deberta() -> Folder {
    Folder::with(&fixture("deberta_v3_tiny.onnx"))
}

fn small() -> Folder {
    let folder = Folder::new();
    folder.write("small.onnxtxt", SMALL);
    folder
}

#[test]
fn three_lines_are_enough() {
    let folder = deberta();
    let optimized =
        folder.run("optimize model.onnx").exits(0).says(&["int32 now: input_ids (was int64)"]);
    assert!(optimized.out.starts_with("model.onnx → model.opt.onnx\n"), "{}", optimized.out);
    assert_eq!(folder.files().keys().collect::<Vec<_>>(), ["model.onnx", "model.opt.onnx"]);

    let verified = folder.run("verify").exits(0);
    assert!(
        verified.out.starts_with("equal      model.opt.onnx and model.onnx\n"),
        "{}",
        verified.out
    );
    assert_eq!(verified.err, "", "the answer is the result");

    let command = "atc --framework=5 --model=model_bs1.opt.onnx --output=model_bs1 --soc_version=Ascend310P3 \
                   --input_format=ND --input_shape=\"input_ids:1,32;attention_mask:1,32\"";
    let atc = folder.run("atc --soc Ascend310P3 --dry-run").exits(0);
    assert!(atc.out.contains(command), "{}", atc.out);
}

#[test]
fn verify_answers_by_its_exit_code() {
    let folder = deberta();
    folder.run("optimize model.onnx --verify").exits(0);
    // The other classifier has other weights, the other inputs are other inputs.
    folder
        .run_args(&["verify", "model.opt.onnx", "--against", path(&fixture("convbert_tiny.onnx"))])
        .exits(1);
    folder
        .run("verify model.opt.onnx --against gone.onnx")
        .exits(2)
        .says(&["gone.onnx", "no such file"]);
    folder.run("verify model.onnx").exits(2).says(&["records no source", "--against BEFORE"]);
    folder.run("verify model.opt.onnx --rtol=-1").exits(2).says(&["--rtol -1"]);
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn quiet_leaves_stderr_empty_and_stdout_the_same() {
    let folder = deberta();
    let (loud, quiet) =
        (folder.run("optimize model.onnx").exits(0), folder.run("optimize model.onnx -q").exits(0));
    assert!(!loud.err.is_empty());
    assert_eq!(quiet.err, "");
    // All but the line that has the seconds.
    let result = |out: &str| {
        out.lines().filter(|l| !l.contains(" s, ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(result(&quiet.out), result(&loud.out));
    let failed = folder.run("optimize gone.onnx -q").exits(2).says(&["gone.onnx"]);
    assert_eq!(failed.out, "", "no result");
}

#[test]
fn verbose_lists_the_passes_on_stderr() {
    let folder = small();
    let ran = folder.run("optimize small.onnxtxt --dry-run -v").exits(0).says(&["merge-reshapes"]);
    assert!(!ran.err.contains('\u{1b}'), "colours are for terminals: {}", ran.err);
    assert!(!ran.out.contains("merge-reshapes"));
}

#[test]
fn a_model_not_named_is_the_only_one() {
    let folder = deberta();
    for command in ["verify", "atc"] {
        let hint = format!("onnxfix {command} MODEL");
        folder.run(command).exits(2).says(&["no *.opt.onnx", "onnxfix optimize MODEL", &hint]);
    }
    folder.run("optimize model.onnx").exits(0);
    folder.run("optimize model.onnx -o other.opt.onnx").exits(0);
    for command in ["verify", "atc"] {
        folder
            .run(command)
            .exits(2)
            .says(&["several", "name one of: model.opt.onnx, other.opt.onnx"]);
    }
}

#[test]
fn a_record_leads_from_one_folder_to_another() {
    let folder = deberta();
    std::fs::create_dir(folder.path("out")).expect("a folder");
    folder.run("optimize model.onnx -o out/model.opt.onnx").exits(0);
    folder.run("verify out/model.opt.onnx").exits(0);
    let within = Folder::new();
    folder.run_args(&["verify", path(&folder.path("out/model.opt.onnx"))]).exits(0);
    // A run in a third folder finds the source by the place of the model, not by its own.
    within.run_args(&["verify", path(&folder.path("out/model.opt.onnx"))]).exits(0);
}

#[test]
fn an_unknown_pass_is_an_error_with_a_hint() {
    let folder = small();
    let hint = "did you mean merge-reshapes?";
    for flag in ["--passes", "--skip-passes", "--skip", "--why-not", "--print-after"] {
        folder.run(&format!("optimize small.onnxtxt {flag} merge-reshape")).exits(2).says(&[hint]);
    }
    folder.run("passes --explain merge-reshape").exits(2).says(&[hint]);
    assert_eq!(folder.files().len(), 1, "nothing was written");
}

#[test]
fn passes_can_be_chosen() {
    let folder = small();
    let count = |flags: &str, op: &str| {
        let ran = folder.run(&format!("optimize small.onnxtxt --dry-run --json {flags}")).exits(0);
        ran.json()["after"]["ops"][op].as_u64().unwrap_or(0)
    };
    assert_eq!((count("", "Reshape"), count("", "Identity")), (1, 0));
    assert_eq!(count("--skip-passes merge-reshapes", "Reshape"), 2);
    assert_eq!(count("--passes eliminate-identity", "Reshape"), 2);
    assert_eq!(count("--passes eliminate-identity", "Identity"), 0);
    assert_eq!(count("--max-rewrites 0", "Identity"), 1);
    folder
        .run("optimize small.onnxtxt --dry-run --max-rewrites 1")
        .exits(0)
        .says(&["stopped after 1 rewrites"]);
}

#[test]
fn an_opset_can_be_asked_for() {
    let folder = small();
    let opset = |flags: &str| {
        folder.run(&format!("optimize small.onnxtxt -o o.onnx {flags}")).exits(0);
        let model = folder.load("o.onnx");
        model.opset(model.root(), "")
    };
    assert_eq!(opset("--target portable"), Some(13));
    assert_eq!(opset("--target portable --opset 18"), Some(18));
    assert_eq!(opset("--opset 11"), Some(11));
    folder.run("optimize small.onnxtxt --opset 22").exits(2).says(&["22 is not in 7..=21"]);
    for (flag, pass) in [("--skip-passes", "convert-opset"), ("--passes", "merge-reshapes")] {
        let needs = format!("--opset 11 needs the pass convert-opset, which {flag} leaves out");
        let command = format!("optimize small.onnxtxt --opset 11 {flag} {pass}");
        folder.run(&command).exits(2).says(&[&needs]);
    }
}

#[test]
fn a_node_in_the_way_of_the_opset_is_named() {
    let folder = Folder::new();
    let text = r#"<ir_version: 8, opset_import: ["" : 18]>
g (float[2] x) => (float[2] y) { y = Mish (x) }
"#;
    folder.write("m.onnxtxt", text);
    folder
        .run("optimize m.onnxtxt")
        .exits(0)
        .says(&["warning: the model stays at opset 18 instead of 13: \"y\" (Mish)"]);
}

#[test]
fn why_not_names_the_condition() {
    let folder = Folder::new();
    folder.write(
        "m.onnxtxt",
        r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[4] x) => (float[4] y) { i = Cast <to: int = 6> (x)  y = Cast <to: int = 1> (i) }"#,
    );
    let ran = folder.run("optimize m.onnxtxt --dry-run --why-not merge-casts").exits(0);
    ran.says(&["merge-casts at ", "the cast from float to int32 loses values"]);
    let ran = folder.run("optimize m.onnxtxt --dry-run --why-not merge-transposes").exits(0);
    ran.says(&["merge-transposes found no place where only a condition failed"]);
}

#[test]
fn print_after_prints_the_model_of_that_moment() {
    let folder = small();
    let ran =
        folder.run("optimize small.onnxtxt --dry-run --print-after eliminate-identity").exits(0);
    assert!(ran.out.starts_with("# Brief") && !ran.out.contains("Identity"), "{}", ran.out);
    assert_eq!(ran.out.matches("Reshape (").count(), 2, "merge-reshapes comes later: {}", ran.out);
    let ran =
        folder.run("optimize small.onnxtxt --dry-run --print-after decompose-unfold").exits(0);
    assert_eq!(ran.says(&["decompose-unfold changed nothing"]).out, "");
    // Both want stdout.
    folder
        .run("optimize small.onnxtxt --print-after decompose-unfold --json")
        .exits(2)
        .says(&["--json"]);
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = deberta();
    let before = folder.files();
    let ran = folder.run("optimize model.onnx --dry-run").exits(0);
    assert!(ran.out.starts_with("model.onnx → (dry run, nothing written)\n"), "{}", ran.out);
    assert_eq!(folder.files(), before);
    folder.run("optimize model.onnx --dry-run --verify").exits(2).says(&["--dry-run", "--verify"]);
}

#[test]
fn reports_are_json_or_html() {
    let folder = deberta();
    folder.run("optimize model.onnx --report x.json --verify").exits(0);
    let json: serde_json::Value = serde_json::from_slice(&folder.read("x.json")).expect("JSON");
    assert_eq!(json["schema"], "onnxfix.optimize/1");
    assert_eq!((&json["model"], &json["output"]), (&"model.onnx".into(), &"model.opt.onnx".into()));
    assert_eq!(json["verify"]["equal"], true);

    folder.run("optimize model.onnx --report x.html").exits(0);
    let html = String::from_utf8(folder.read("x.html")).expect("UTF-8");
    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"));
    assert!(html.contains("<code>fold-constants</code>"), "the passes are listed");
    for outside in ["http:", "https:", " src=", "<link", "<img", "@import", "url("] {
        assert!(!html.contains(outside), "{outside} in a page that stands on its own");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_refused_before_work() {
    let folder = deberta();
    folder.run("optimize model.onnx --report x.txt").exits(2).says(&["x.txt", ".json or .html"]);
    folder
        .run("optimize model.onnx --report none/x.json")
        .exits(2)
        .says(&["none/x.json", "no folder none"]);
    assert_eq!(folder.files().len(), 1, "the model was not written either");
}

#[test]
fn json_is_one_document() {
    let folder = deberta();
    let optimized = folder.run("optimize model.onnx --json --verify").exits(0).json();
    assert_eq!(
        (&optimized["schema"], &optimized["verify"]["equal"]),
        (&"onnxfix.optimize/1".into(), &true.into())
    );
    assert!(optimized["before"]["nodes"].as_u64() > optimized["after"]["nodes"].as_u64());
    assert_eq!(folder.run("verify --json").exits(0).json()["equal"], true);
    let passes = folder.run("passes --json").exits(0).json();
    assert!(passes.as_array().expect("a list").iter().any(|p| p["name"] == "merge-reshapes"));
    assert_eq!(
        folder.run("passes --json --explain merge-reshapes").exits(0).json()["name"],
        "merge-reshapes"
    );
}

#[test]
fn diff_answers_by_its_exit_code() {
    let folder = deberta();
    folder.run("optimize model.onnx -q").exits(0);
    let same = folder.run("diff model.onnx model.onnx").exits(0);
    assert!(same.out.starts_with("same       model.onnx and model.onnx ("), "{}", same.out);
    let differ = folder.run("diff model.onnx model.opt.onnx").exits(1);
    for part in [
        "differ     model.onnx and model.opt.onnx\n",
        "input      input_ids: int64[batch,32] → int32[1,32]\n",
        "file       metadata onnxfix.target: none → ascend310p3\n",
        "Unsqueeze 71→0",
        "more; --all shows them\n",
    ] {
        assert!(differ.out.contains(part), "no {part:?} in {}", differ.out);
    }
    let all = folder.run("diff model.onnx model.opt.onnx --all").exits(1).out;
    assert!(!all.contains("--all") && all.len() > differ.out.len());
    let json = folder.run("diff model.onnx model.opt.onnx --json").exits(1).json();
    assert_eq!((&json["schema"], &json["same"]), (&"onnxfix.diff/1".into(), &false.into()));
    assert_eq!(json["inputs"][0]["after"], "int32[1,32]");
    folder.run("diff model.onnx").exits(2).says(&["<AFTER>"]);
}

#[test]
fn models_are_timed_in_turn() {
    let folder = deberta();
    folder.run("optimize model.onnx -o model.opt.onnx -q").exits(0);
    let report = folder.run("bench model.onnx model.opt.onnx --loop 3 --json").exits(0).json();
    let (first, second) = (&report["models"][0], &report["models"][1]);
    assert_eq!(second["seconds"].as_array().map(Vec::len), Some(3));
    assert_eq!((&first["ratio"], &first["difference"]), (&1.0.into(), &0.0.into()));
    assert!(second["difference"].as_f64().is_some_and(|share| share < 1e-5), "{second}");
    let small = small();
    let table = small.run("bench small.onnxtxt --dim batch=4 --loop 1 --warmup-count 0").exits(0);
    assert!(table.out.contains("small.onnxtxt    4×6"), "{}", table.out);
    small
        .run("bench small.onnxtxt --dim seq=4")
        .exits(2)
        .says(&["no model has an input with that dimension"]);
}

#[test]
fn passes_are_listed_and_explained() {
    let folder = Folder::new();
    let list = folder.run("passes").exits(0).out;
    for pass in onnxfix_passes::PASSES {
        let name = pass.info().name;
        assert!(list.contains(&format!("  {name} ")), "{name} is not in the list");
        let page = folder.run(&format!("passes --explain {name}")).exits(0).out;
        assert!(page.starts_with(&format!("# {name}\n")) && page.contains("## Before"), "{page}");
    }
}

#[test]
fn completions_know_the_commands() {
    let bash = Folder::new().run("completions bash").exits(0).out;
    assert!(["optimize", "verify", "--input-shape"].iter().all(|word| bash.contains(word)));
    Folder::new().run("completions tcsh").exits(2).says(&["tcsh", "bash"]);
}

#[test]
fn printed_text_can_be_read_again() {
    let folder = small();
    let full = folder.run("print --full small.onnxtxt").exits(0).out;
    folder.write("again.onnxtxt", &full);
    assert_eq!(folder.run("print --full again.onnxtxt").exits(0).out, full);
    folder.run("optimize again.onnxtxt").exits(0);
    assert!(folder.path("again.opt.onnx").exists());

    let brief = folder.run("print small.onnxtxt").exits(0).out;
    assert!(brief.lines().next().is_some_and(|first| first.starts_with("# Brief")), "{brief}");
    let folder = deberta();
    let refused = folder.run("print --full model.onnx").exits(2);
    refused.says(&["word_embeddings.weight", "48000 elements", "--limit"]);
    folder.run("print --full --limit 100000 model.onnx").exits(0);
}

#[test]
fn a_reader_that_stops_is_no_error() {
    let folder = deberta();
    let mut command = folder.command(&["print", "model.onnx"]);
    let mut program =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut first = String::new();
    // The reader goes out of scope after one line of far more than a pipe holds.
    BufReader::with_capacity(64, program.stdout.take().expect("a pipe"))
        .read_line(&mut first)
        .expect("a line");
    let done = program.wait_with_output().expect("ends");
    assert!(first.starts_with("# Brief"), "{first}");
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn help_names_the_exit_codes_and_where_to_start() {
    let folder = Folder::new();
    let help = folder.run("--help").exits(0).out;
    for part in
        ["Exit codes:", "  2  it could not run", "onnxfix optimize model.onnx\n  onnxfix verify"]
    {
        assert!(help.contains(part), "{help}");
    }
    for command in ["optimize", "verify", "diff", "print", "passes", "atc", "doctor", "completions"]
    {
        let lines = folder.run(&format!("{command} --help")).exits(0).out;
        assert!(
            lines.contains(&format!("Usage: onnxfix {command}"))
                && lines.lines().all(|l| l.chars().count() <= 100)
        );
    }
    folder.run("").exits(2).says(&["Usage: onnxfix"]);
    folder.run("optimise model.onnx").exits(2).says(&["optimise", "optimize"]);
}
