//! Compiling with ATC, where ATC is the stand-in of `tools/ascend-sim`.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use common::{Folder, Ran, fixture};
use serde_json::Value;

/// The stand-in, built with the cargo that builds this test, into the same folder.
static ATC: LazyLock<PathBuf> = LazyLock::new(|| {
    let program = Path::new(env!("CARGO_BIN_EXE_onnxfix"));
    let target = program.ancestors().nth(2).expect("a target folder");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--package", "ascend-sim-atc", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo starts");
    assert!(built.success(), "the stand-in is built");
    target.join("release/atc")
});

/// Runs `onnxfix atc` with the stand-in, which gets these variables.
#[track_caller]
fn atc_with(folder: &Folder, line: &str, variables: &[(&str, &str)]) -> Ran {
    let atc = ATC.to_string_lossy();
    let args: Vec<&str> =
        ["atc", "--atc", &atc].into_iter().chain(line.split_whitespace()).collect();
    let mut command = folder.command(&args);
    command.env_remove("ASCEND_SIM_ATC_FAULT").env_remove("ASCEND_SIM_RELEASE");
    command.envs(variables.iter().copied());
    Folder::ran(command, &args)
}

#[track_caller]
fn atc(folder: &Folder, line: &str) -> Ran {
    atc_with(folder, line, &[])
}

fn deberta() -> Folder {
    let folder = Folder::new();
    std::fs::copy(fixture("deberta_v3_tiny.onnx"), folder.path("deberta.onnx")).expect("a fixture");
    folder
}

fn om(folder: &Folder, name: &str) -> ascend_sim_om::Om {
    ascend_sim_om::read(&folder.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Names of the files in a folder.
fn names(folder: &Folder) -> Vec<String> {
    folder.files().into_keys().collect()
}

/// The shape of the first input of a compiled model.
fn shape(om: &ascend_sim_om::Om) -> String {
    let model = onnxfix_ir::from_bytes(om.onnx.clone(), None, &onnxfix_ir::LoadOptions::default());
    let model = model.expect("the model inside").model;
    let input = model[model.root()].inputs()[0];
    model[input].ty.as_ref().expect("a type").to_string()
}

#[test]
fn six_batches_from_one_source() {
    let folder = deberta();
    let ran = atc(&folder, "deberta.onnx --soc Ascend310P3 --batch 1,4,8,16,32,64").exits(0);
    for batch in [1, 4, 8, 16, 32, 64] {
        let om = om(&folder, &format!("deberta_bs{batch}.om"));
        assert_eq!(shape(&om), format!("int32[{batch},32]"));
        assert_eq!(om.description.soc, "Ascend310P3");
        assert!(ran.out.contains(&format!("deberta_bs{batch}.om (")), "{}", ran.out);
    }
    // Written so that ATC finds them: five normalizations, a GELU in each of two layers and one in the pooler.
    assert!(ran.out.contains("3 GeluONNXFusionPass, 5 LayerNormONNXFusionPass"), "{}", ran.out);
    assert!(ran.out.ends_with("simulated ATC: no kernel was compiled\n"), "{}", ran.out);
    // Nothing else: the model, and an .om with its record for each batch.
    assert_eq!(names(&folder).len(), 13, "{:?}", names(&folder));
    let record: Value = serde_json::from_slice(&folder.read("deberta_bs8.om.json")).expect("JSON");
    assert_eq!(record["inputs"][0]["shape"], serde_json::json!([8, 32]));
    assert_eq!(record["atc"]["simulated"], true);
    assert_eq!(record["source"]["path"], "deberta.onnx");
}

#[test]
fn an_optimized_model_leads_to_its_source() {
    let folder = deberta();
    folder.run("optimize deberta.onnx --dim batch=3").exits(0);
    // Without a batch it is that of the optimized model.
    atc(&folder, "").exits(0);
    assert_eq!(shape(&om(&folder, "deberta_bs3.om")), "int32[3,32]");
    atc(&folder, "deberta.opt.onnx --batch 2 -o two.om").exits(0);
    assert_eq!(shape(&om(&folder, "two.om")), "int32[2,32]");
    // A length that the source does not have goes together with a batch that it leaves open.
    let shorter = "input_ids:1,12;attention_mask:1,12";
    folder
        .run(&format!("optimize deberta.onnx -o short.opt.onnx --input-shape {shorter}"))
        .exits(0);
    atc(&folder, "short.opt.onnx --batch 4 -o short.om").exits(0);
    assert_eq!(shape(&om(&folder, "short.om")), "int32[4,12]");
    folder.write("deberta.onnx", b"something else");
    atc(&folder, "deberta.opt.onnx").exits(2).says(&["the source of deberta.opt.onnx"]);
    std::fs::remove_file(folder.path("deberta.onnx")).expect("it is there");
    atc(&folder, "deberta.opt.onnx").exits(2).says(&["the source of deberta.opt.onnx is gone"]);
}

#[test]
fn gears_and_buckets() {
    let folder = deberta();
    atc(&folder, "deberta.onnx --dynamic-batch 1,4,8").exits(0);
    let dynamic = om(&folder, "deberta_dyn.om");
    assert_eq!(dynamic.description.gears, [1, 4, 8]);
    assert_eq!(shape(&dynamic), "int32[batch,32]");

    let folder = Folder::new();
    std::fs::copy(fixture("convbert_tiny.onnx"), folder.path("convbert.onnx")).expect("a fixture");
    atc(&folder, "convbert.onnx --batch 8 --buckets 16,32").exits(0);
    assert_eq!(shape(&om(&folder, "convbert_bs8_seq16.om")), "int32[8,16]");
    assert_eq!(shape(&om(&folder, "convbert_bs8_seq32.om")), "int32[8,32]");
    atc(&folder, "convbert.onnx --batch 8").exits(2).says(&["--dim seq="]);
}

#[test]
fn a_refusal_is_explained_and_the_others_stay() {
    let folder = deberta();
    let fault = [("ASCEND_SIM_ATC_FAULT", "no-python@deberta_bs4")];
    let ran = atc_with(&folder, "deberta.onnx --batch 1,4 --soc Ascend310P3", &fault).exits(1);
    assert!(folder.path("deberta_bs1.om").exists() && !folder.path("deberta_bs4.om").exists());
    for part in [
        "failed     deberta_bs4: ATC ended with exit code 1",
        "E40020",
        "means    Python is missing, too old, or lacks a module",
        "cure ",
        "log      [ERROR] GE(",
        "command ",
        "kept     deberta_bs4.atc.log",
    ] {
        assert!(
            ran.out
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .contains(&part.split_whitespace().collect::<Vec<_>>().join(" ")),
            "no {part:?} in {}",
            ran.out
        );
    }
    let ran = atc_with(&folder, "deberta.onnx --batch 1,4 --json", &fault).exits(1);
    let report: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(report["models"][1]["messages"][0]["code"], "E40020");
    assert_eq!(report["models"][1]["messages"][0]["explanation"]["confirmed"], true);
}

#[test]
fn only_code_line_and_file_together_are_a_success() {
    for (fault, why) in [
        ("exit-code", "exit code 1"),
        ("no-success-line", "did not say"),
        ("no-file", "wrote no .om file"),
        ("half-file", "truncated"),
        ("crash", "signal 6"),
        ("killed", "memory runs out"),
    ] {
        let folder = deberta();
        let ran = atc_with(&folder, "deberta.onnx", &[("ASCEND_SIM_ATC_FAULT", fault)]).exits(1);
        assert!(ran.out.contains(why), "{fault}: {}", ran.out);
        assert!(
            !names(&folder)
                .iter()
                .any(|name| std::path::Path::new(name).extension().is_some_and(|e| e == "om")),
            "{fault}"
        );
    }
    let folder = deberta();
    atc_with(&folder, "deberta.onnx", &[("ASCEND_SIM_ATC_FAULT", "host-bound")]).exits(0);
    assert!(folder.path(&format!("deberta_bs1_linux_{}.om", std::env::consts::ARCH)).exists());
}

#[test]
fn old_releases_get_what_they_know() {
    let folder = deberta();
    let old = [("ASCEND_SIM_RELEASE", "6.0.1")];
    let ran = atc_with(&folder, "deberta.onnx --dry-run", &old).exits(0);
    assert!(ran.out.contains("--precision_mode=force_fp16"), "{}", ran.out);
    let ran = atc_with(&folder, "deberta.onnx --dry-run", &[]).exits(0);
    assert!(ran.out.contains("--precision_mode_v2=fp16"), "{}", ran.out);
    atc_with(&folder, "deberta.onnx --cann 6.0", &old).exits(0);
    atc(&folder, "deberta.onnx -- --no_such_flag=1").exits(2).says(&["no --no_such_flag"]);
}

#[test]
fn a_dry_run_prints_what_one_can_type() {
    let folder = deberta();
    let ran = folder
        .run("atc deberta.onnx --batch 1,4 --soc Ascend310P3 --dry-run --atc /nowhere/atc")
        .exits(2)
        .says(&["/nowhere/atc is not an executable file"]);
    assert_eq!(ran.out, "");
    let ran = atc(&folder, "deberta.onnx --batch 4 --soc Ascend310P3 --dry-run").exits(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("onnxfix optimize deberta.onnx --cann "), "{}", lines[0]);
    assert!(
        lines[1].contains("--input_shape=\"input_ids:4,32;attention_mask:4,32\""),
        "{}",
        lines[1]
    );
    assert_eq!(names(&folder), ["deberta.onnx"]);
    // A shell takes both lines as they are.
    let script = ran.out.replace("onnxfix optimize", "\"$0\" optimize");
    let (code, err) = folder.shell(&script);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(shape(&om(&folder, "deberta_bs4.om")), "int32[4,32]");
}

#[test]
fn names_that_atc_does_not_take_are_no_hindrance() {
    let folder = Folder::new();
    std::fs::copy(fixture("deberta_v3_tiny.onnx"), folder.path("my model+v1.onnx"))
        .expect("a fixture");
    let atc = ATC.to_string_lossy();
    folder.run_args(&["atc", "my model+v1.onnx", "--atc", &atc]).exits(0);
    assert!(folder.path("my model+v1_bs1.om").exists(), "{:?}", names(&folder));
}

#[test]
fn work_folders_are_kept_where_that_is_wanted() {
    let folder = deberta();
    atc(&folder, "deberta.onnx --keep --precision fp16+keep").exits(0);
    for file in ["deberta_bs1.opt.onnx", "fusion_result.json", "output.txt", "keep_dtype.cfg"] {
        assert!(folder.path("deberta_bs1.atc").join(file).exists(), "{file}: {:?}", names(&folder));
    }
}

/// Makes a program of a script.
fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a program");
}

/// ATC starts in the environment of its toolkit's script, whose release decides what the models are optimized for.
#[test]
fn a_toolkit_brings_its_environment_and_its_release() {
    let folder = deberta();
    let home = folder.path("cann");
    let needs = "[ \"$ASCEND_OPP_PATH\" = /somewhere/opp ] || { echo no environment; exit 9; }";
    script(&home.join("bin/atc"), &format!("{needs}\nexec {} \"$@\"", ATC.display()));
    folder.write("cann/set_env.sh", "export ASCEND_OPP_PATH=/somewhere/opp\n");
    folder.write("cann/version.info", "version=6.0.1\n");
    let args = ["atc", "deberta.onnx", "--soc", "Ascend310P3", "--json"];
    let mut command = folder.command(&args);
    command.env("ASCEND_TOOLKIT_HOME", &home).env("ASCEND_SIM_RELEASE", "6.0.1");
    let ran = Folder::ran(command, &args).exits(0);
    let report: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(report["cann"], "6.0.1");
    let command = report["models"][0]["command"].as_str().expect("a command");
    assert!(command.starts_with("source ") && command.contains("cann/set_env.sh &&"), "{command}");
}

/// A folder for `PATH` with an `npu-smi` that shows these chips.
fn npu_smi(folder: &Folder, chips: &[&str]) -> String {
    let row = |(i, chip): (usize, _)| {
        format!(
            "| {i}   {chip} | OK | 15.8  42  0 / 0 |\n| 0   {i} | 0000:8{i}:00.0 | 0  1074 / 21534 |\n"
        )
    };
    let rows = chips.iter().enumerate().map(row).collect::<Vec<_>>().concat();
    let path = folder.path("npu-smi");
    script(&path, &format!("cat <<'END'\n{rows}END"));
    format!("{}:/usr/bin:/bin", path.parent().expect("a folder").display())
}

#[test]
fn the_chip_is_that_of_the_machine() {
    let folder = deberta();
    let path = npu_smi(&folder, &["310P1", "310P1"]);
    atc_with(&folder, "deberta.onnx", &[("PATH", &path)]).exits(0);
    assert_eq!(om(&folder, "deberta_bs1.om").description.soc, "Ascend310P1");
    let path = npu_smi(&folder, &["310P1", "310P3"]);
    atc_with(&folder, "deberta.onnx", &[("PATH", &path)])
        .exits(2)
        .says(&["choose one with --soc: Ascend310P1, Ascend310P3"]);
}

#[test]
fn a_doctor_answers_by_the_exit_code() {
    let folder = deberta();
    let root = folder.path("root").display().to_string();
    let ran = folder.run_args(&["doctor", "--root", &root, "--json"]).exits(1);
    let found: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((found["compile"].as_bool(), found["run"].as_bool()), (Some(false), Some(false)));
    for finding in found["findings"].as_array().expect("findings") {
        assert!(finding["status"] != "problem" || finding["cure"].is_string(), "{finding}");
    }
    let model = ["doctor", "--root", &root, "--for", "run", "deberta.onnx"];
    let ran = folder.run_args(&model).exits(1);
    assert!(ran.out.contains("deberta.onnx: it does not begin with \"IMOD\""), "{}", ran.out);
}

/// Failures that users report, as their smallest graphs: each is explained by the pass that removes it, and with that pass
/// there is none.
#[test]
fn a_refusal_names_the_pass_that_helps() {
    let graph = |imports: &str, graph: &str| {
        format!("<ir_version: 8, opset_import: [{imports}]>\n{graph}\n")
    };
    let plain = "\"\" : 13";
    let cases = [
        // Imports that an optimizer for another runtime left (lijiaqi0612/UIE-ACL-310 issue 2).
        (
            graph(
                "\"\" : 13, \"com.microsoft\" : 1",
                "g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }",
            ),
            "eliminate-unused-opsets",
            "E16005",
        ),
        // Doubles that an exporter left.
        (
            graph(
                plain,
                "g (float[2,3] x) => (float[2,3] y) { d = Cast <to: int = 11> (x) e = Sin (d) y = Cast <to: int = 1> (e) }",
            ),
            "narrow-doubles",
            "EZ3003",
        ),
        // Gathering by pairs within each sample.
        (
            graph(
                plain,
                "g (float[2,3] x, int32[2,1] i) => (float[2] y) { j = Cast <to: int = 7> (i) y = GatherND <batch_dims: int = 1> (x, j) }",
            ),
            "decompose-batched-gather",
            "E11010",
        ),
    ];
    for (graph, pass, code) in cases {
        let folder = Folder::new();
        folder.write("m.onnxtxt", &graph);
        let soc = "--soc Ascend310P3";
        atc(&folder, &format!("m.onnxtxt {soc}")).exits(0);
        let ran = atc(&folder, &format!("m.onnxtxt {soc} --skip-passes {pass} --json")).exits(1);
        let report: Value = serde_json::from_str(&ran.out).expect("JSON");
        let said = &report["models"][0]["messages"][0];
        assert_eq!(said["code"], code, "{said}");
        let passes = said["explanation"]["passes"].as_array().expect("passes");
        assert!(passes.iter().any(|named| named == pass), "{code}: {passes:?}");
    }
}

#[test]
fn codes_are_explained_without_a_model() {
    let folder = Folder::new();
    let ran = folder.run("atc --explain e16005").exits(0);
    assert!(ran.out.contains("eliminate-unused-opsets"), "{}", ran.out);
    folder.write("log.txt", "ATC run failed\nE10016: Op [a] in [--input_shape] is not there\n");
    let ran = folder.run("atc --explain log.txt --json").exits(0);
    let said: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(said[0]["explanation"]["means"], "a name is not an input of the model");
    folder.run("atc --explain E1").exits(2).says(&["neither a code such as E16005 nor a file"]);
}
