//! `run` and `bench` on the simulated device: models on files, what is said when something fails, and what is kept.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use ascend_sim_om::Description;
use common::{Folder, fixture, reviews};
use serde_json::{Map, Value};

/// The folder of the simulated library, which is built first. Building both takes the features that the program has, so that
/// the CPU engine is not compiled once more.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_onnxfix")).parent().expect("a folder");
        let done = Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "-p", "onnxfix", "-p", "ascend-sim-acl"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", folder.parent().expect("a folder"))
            .status()
            .expect("cargo");
        assert!(done.success(), "the simulated library is built");
        folder.to_path_buf()
    })
}

/// The simulated ATC, which is built first.
fn stand_in() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "-p", "ascend-sim-atc"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", library().parent().expect("a folder"))
        .status();
    assert!(built.expect("cargo").success(), "the simulated ATC is built");
    library().join("atc")
}

/// A fixture, optimized for a batch and compiled: `model.opt.onnx`, `model_bs2.om`.
fn compiled(batch: u32) -> Folder {
    let folder = Folder::with(&fixture("deberta_v3_tiny.onnx"));
    compile(&folder, batch);
    folder
}

fn compile(folder: &Folder, batch: u32) {
    let shape = format!("input_ids:{batch},32;attention_mask:{batch},32");
    let optimized = folder.onnxfix(&["optimize", "model.onnx", "--input-shape", &shape]);
    assert!(optimized.status.success(), "{}", said(&optimized));
    let description =
        Description { name: "model".into(), soc: "Ascend310P3".into(), ..Description::default() };
    let onnx = folder.read("model.opt.onnx");
    let om = folder.path(&format!("model_bs{batch}.om"));
    ascend_sim_om::write(&om, &description, &onnx).expect("a file");
}

/// Samples as `ais_bench` takes them: a folder for each input with a file for each sample. `model.opt.onnx` takes int32.
fn samples(folder: &Folder, count: usize, wide: bool) {
    for (input, of) in [("input_ids", 90), ("attention_mask", 1)] {
        std::fs::create_dir_all(folder.path(&format!("in/{input}"))).expect("a folder");
        for sample in 0..count {
            let number = |at: usize| match input {
                "input_ids" => i64::try_from((sample * 31 + at * 7) % of).expect("small"),
                _ => i64::from(at < 32 - sample),
            };
            let bytes: Vec<u8> = (0..32)
                .flat_map(|at| {
                    if wide {
                        number(at).to_le_bytes().to_vec()
                    } else {
                        i32::try_from(number(at)).expect("small").to_le_bytes().to_vec()
                    }
                })
                .collect();
            folder.write(&format!("in/{input}/s_{sample}.bin"), bytes);
        }
    }
}

trait Onnxfix {
    fn command(&self, arguments: &[&str]) -> Command;
    fn onnxfix(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program runs")
    }
    /// With the simulated library, and a report of what was done to it.
    fn on_npu(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output;
    fn report(&self) -> Value;
}

impl Onnxfix for Folder {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxfix"));
        command.args(arguments).current_dir(self.path("")).stdin(Stdio::null());
        command
    }

    fn on_npu(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = self.command(arguments);
        command
            .env("ASCENDCL_LIB", library())
            .env("ASCEND_SIM_REPORT", self.path("report.json"))
            .envs(variables.iter().copied());
        command.output().expect("the program runs")
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&self.read("report.json")).expect("JSON")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn assert_released(folder: &Folder) {
    let report = folder.report();
    assert_eq!(
        (&report["leaks"], &report["violations"]),
        (&Value::Object(Map::default()), &Value::Array(vec![]))
    );
}

const RUN: [&str; 7] =
    ["run", "model_bs2.om", "--input", "in", "--output", "out", "--output-dirname"];

#[test]
fn a_compiled_model_gives_what_the_cpu_engine_gives() {
    let folder = compiled(2);
    // Three samples fill a batch and a half; their 64-bit ids become 32-bit ones.
    samples(&folder, 3, true);
    let on_npu =
        folder.on_npu(&[&RUN[..], &["npu", "--json", "--bin-dtype", "int64"]].concat(), &[]);
    assert!(on_npu.status.success(), "{}", said(&on_npu));
    assert_released(&folder);
    let cpu = ["run", "model.opt.onnx", "--input", "in", "--bin-dtype", "int64", "--output", "out"];
    let cpu = [&cpu[..], &["--output-dirname", "cpu"]].concat();
    let on_cpu = folder.onnxfix(&cpu);
    assert!(on_cpu.status.success(), "{}", said(&on_cpu));
    for sample in 0..3 {
        let of = |device: &str| folder.read(&format!("out/{device}/s_{sample}_0.bin"));
        assert_eq!(of("npu").len(), 12, "three logits");
        assert_eq!(of("npu"), of("cpu"), "sample {sample}");
    }
    assert!(!folder.path("out/npu/s_3_0.bin").exists(), "what filled up the batch is not written");

    // What AscendCL prints does not spoil the result, which is the summary beside the folder.
    let summary: Value = serde_json::from_str(&printed(&on_npu)).expect("JSON and nothing else");
    let written: Value =
        serde_json::from_slice(&folder.read("out/npu_summary.json")).expect("JSON");
    assert_eq!(summary, written);
    assert!(said(&on_npu).contains("[sim]"));
    assert_eq!(summary["device"], "simulated device (Ascend310P3-sim)");
    assert_eq!(summary["throughput"], Value::Null);
    assert_eq!(summary["NPU_compute_time"]["count"], 2);
    assert_eq!(summary["npu_compute_time_list"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        summary["filesinfo"]["s_1"],
        serde_json::json!({
            "infiles": ["in/input_ids/s_1.bin", "in/attention_mask/s_1.bin"],
            "outfiles": ["out/npu/s_1_0.bin"],
        })
    );
}

/// The whole way: compiled for every batch from one source, timed, run on files, and compared with the CPU engine.
#[test]
fn every_batch_of_one_source_gives_what_the_cpu_engine_gives() {
    const BATCHES: [u32; 6] = [1, 4, 8, 16, 32, 64];
    let all = BATCHES.map(|n| n.to_string()).join(",");
    let folder = Folder::with(&fixture("deberta_v3_tiny.onnx"));
    samples(&folder, 10, false);
    let atc = ["atc", "model.onnx", "--soc", "Ascend310P3", "--batch", &all, "--atc"];
    let atc = folder.onnxfix(&[&atc[..], &[&stand_in().to_string_lossy()]].concat());
    assert!(atc.status.success(), "{}", said(&atc));

    let bench =
        folder.on_npu(&["bench", "model.onnx", "--batch", &all, "--loop", "2", "--json"], &[]);
    assert!(bench.status.success(), "{}", said(&bench));
    assert_released(&folder);
    let table: Value = serde_json::from_str(&printed(&bench)).expect("JSON");
    assert_eq!(table["models"].as_array().map(Vec::len), Some(BATCHES.len()));
    for row in table["models"].as_array().expect("rows") {
        assert_eq!(row["fps"], Value::Null, "a simulated device has no speed");
        assert!(row["predicted_fps"]["likely"].as_f64().is_some_and(|fps| fps > 0.0), "{row}");
    }

    for batch in BATCHES {
        let name = format!("bs{batch}");
        let om = format!("model_{name}.om");
        let files = ["--input", "in", "--output", "out", "--output-dirname"];
        let run = folder.on_npu(&[&["run", &om], &files[..], &[&name]].concat(), &[]);
        assert!(run.status.success(), "{}", said(&run));
        assert_released(&folder);
        let shape = format!("input_ids:{batch},32;attention_mask:{batch},32");
        let optimized = folder.onnxfix(&["optimize", "model.onnx", "--input-shape", &shape]);
        assert!(optimized.status.success(), "{}", said(&optimized));
        let cpu = format!("cpu{batch}");
        let run = folder.onnxfix(&[&["run", "model.opt.onnx"], &files[..], &[&cpu]].concat());
        assert!(run.status.success(), "{}", said(&run));
        for sample in 0..10 {
            let of = |run: &str| folder.read(&format!("out/{run}/s_{sample}_0.bin"));
            assert_eq!(of(&name), of(&cpu), "batch {batch}, sample {sample}");
        }
    }
}

#[test]
fn the_lines_are_those_of_ais_bench() {
    let folder = compiled(2);
    let output = folder.on_npu(
        &["run", "model_bs2.om", "--loop", "3", "--blocking", "--display-all-summary"],
        &[],
    );
    let lines: Vec<String> =
        printed(&output).lines().map(|l| l.split(" = ").next().unwrap_or(l).to_owned()).collect();
    assert_eq!(
        lines[0],
        "[INFO] simulated device (Ascend310P3-sim): its times say nothing about an NPU"
    );
    assert_eq!(lines[2], "[INFO] H2D_latency (ms): min");
    assert_eq!(lines[3], "[INFO] NPU_compute_time (ms): min");
    assert_eq!(lines[4], "[INFO] D2H_latency (ms): min");
    assert!(
        lines[5].starts_with("[INFO] throughput 1000*batchsize.mean(2)/NPU_compute_time.mean("),
        "{}",
        lines[5]
    );
    assert!(lines[5].ends_with(": –"), "{}", lines[5]);
}

#[test]
fn a_table_of_batches_has_dashes_for_a_simulated_device() {
    let folder = compiled(1);
    compile(&folder, 4);
    let arguments = [
        "bench",
        "model.onnx",
        "--batch",
        "1,4",
        "--loop",
        "2",
        "--published",
        "deberta-v3-base",
        "--report",
        "page.html",
    ];
    let output = folder.on_npu(&arguments, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_released(&folder);
    let table = printed(&output);
    let row = table.lines().find(|line| line.contains("model_bs4.om")).expect("a row");
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[1..7], ["4", "4×32", "–", "–", "–", "–"], "{table}");
    assert!(table.contains("simulated device (Ascend310P3-sim), 2 runs of each batch"), "{table}");
    assert!(String::from_utf8_lossy(&folder.read("page.html")).contains("simulated device"));
    let missing = folder.on_npu(&["bench", "model.onnx", "--batch", "1,8"], &[]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(said(&missing).contains(
        "model_bs8.om is not there; compile it first: onnxfix atc model.onnx --batch 1,8"
    ));
}

#[test]
fn a_device_that_is_lost_leaves_what_was_finished() {
    let folder = compiled(2);
    samples(&folder, 12, false);
    let output = folder
        .on_npu(&[&RUN[..], &["lost"]].concat(), &[("ASCEND_SIM_FAULT", "execute:507010@5+")]);
    assert_eq!(output.status.code(), Some(2));
    let error = said(&output);
    assert!(error.contains("batches are finished, results in out/lost"), "{error}");
    assert_eq!(error.matches("507010 (ACL_ERROR_RT_LOST_HEARTBEAT)").count(), 1, "{error}");
    assert_released(&folder);
    let summary: Value =
        serde_json::from_slice(&folder.read("out/lost_summary.json")).expect("JSON");
    let kept = summary["filesinfo"].as_object().expect("files").len();
    // One run warmed up; of the three that came after it, all are kept.
    assert_eq!((kept, &summary["batches_finished"]), (6, &Value::from(3)));
    assert_eq!(std::fs::read_dir(folder.path("out/lost")).expect("the folder").count(), kept);
}

#[test]
fn ctrl_c_finishes_what_is_in_hand() {
    let folder = compiled(2);
    samples(&folder, 400, false);
    let mut command = folder.command(&[&RUN[..], &["early"]].concat());
    command
        .env("ASCENDCL_LIB", library())
        .env("ASCEND_SIM_REPORT", folder.path("report.json"))
        .env("ASCEND_SIM_DELAY", "execute:20")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("the program runs");
    let results = folder.path("out/early");
    while std::fs::read_dir(&results).map_or(0, Iterator::count) < 4 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill").success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(
        said(&output).contains("of 200 batches are finished, results in out/early: interrupted"),
        "{}",
        said(&output)
    );
    assert_released(&folder);
    let summary: Value =
        serde_json::from_slice(&folder.read("out/early_summary.json")).expect("JSON");
    let kept = std::fs::read_dir(&results).expect("the folder").count();
    assert_eq!(summary["filesinfo"].as_object().map(serde_json::Map::len), Some(kept));
}

#[test]
fn what_cannot_run_is_refused_by_name() {
    let folder = compiled(2);
    samples(&folder, 2, false);
    let truncated = &folder.read("model_bs2.om")[..1000];
    folder.write("truncated.om", truncated);
    for (arguments, want) in [
        (
            &["run", "model_bs2.om", "--profiler", "1"][..],
            "--profiler is not supported: AscendCL's own configuration does it",
        ),
        (
            &["run", "model_bs2.om", "--dymShape", "a:1"],
            "--dymShape is not supported: models with open shapes are not run",
        ),
        (&["run", "truncated.om"], "truncated.om: it is truncated: it should have"),
        (
            &["run", "model.onnx", "--dym-batch", "2"],
            "--dym-batch chooses a gear of a compiled model",
        ),
        (
            &["run", "model_bs2.om", "--dym-batch", "2"],
            "the model was compiled for one size and has no gears",
        ),
        (&["run", "model_bs2.om", "--device", "1"], "there is no device 1; there are 1, from 0"),
        (&["run", "model_bs2.om", "--device", "0,0"], "--device 0,0: a number is there twice"),
        (
            &["run", "model_bs2.om", "--input", "in/input_ids"],
            "do not go with the 2 inputs input_ids, attention_mask",
        ),
        (
            &["run", "model_bs2.om", "--acl-lib", "nowhere"],
            "libascendcl.so was not found; looked at nowhere",
        ),
        (&["bench", "model_bs2.om", "model.onnx"], "do not compare"),
    ] {
        let output = folder.on_npu(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(said(&output).contains(want), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn two_programs_use_a_device_at_a_time() {
    let folder = compiled(2);
    samples(&folder, 8, false);
    let start = |name: &str| {
        let mut command = folder.command(&[&RUN[..], &[name]].concat());
        command.env("ASCENDCL_LIB", library()).stderr(Stdio::piped()).stdout(Stdio::null());
        command.spawn().expect("the program runs")
    };
    let both = ["a", "b"].map(start);
    for child in both {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(folder.read("out/a/s_7_0.bin"), folder.read("out/b/s_7_0.bin"));
}

/// Nobody has sourced `set_env.sh`, and the library needs another one, from a folder that only `LD_LIBRARY_PATH` can tell of.
#[test]
fn the_program_finds_what_the_library_needs() {
    let folder = compiled(2);
    let plugins = folder.path("cann/lib64/plugin/nnengine");
    std::fs::create_dir_all(&plugins).expect("a folder");
    std::fs::copy(library().join("libascendcl.so"), plugins.join("libneeded.so")).expect("a copy");
    folder.write("empty.c", "");
    let linked = Command::new("gcc")
        .args([
            "-shared",
            "-o",
            "cann/lib64/libascendcl.so",
            "empty.c",
            "-Wl,--no-as-needed",
            "-lneeded",
        ])
        .arg("-L")
        .arg(&plugins)
        .current_dir(folder.path(""))
        .output();
    let Ok(linked) = linked else {
        #[expect(clippy::print_stderr, reason = "says that something was not tested")]
        {
            eprintln!("skipped: there is no gcc");
        }
        return;
    };
    assert!(linked.status.success(), "{}", said(&linked));
    let run = |started_again: bool| {
        let mut command = folder.command(&["run", "model_bs2.om"]);
        command.env("ASCEND_HOME_PATH", folder.path("cann")).env_remove("LD_LIBRARY_PATH");
        if started_again {
            command.env("ONNXFIX_STARTED_AGAIN", "1");
        }
        command.output().expect("the program runs")
    };
    let output = run(false);
    assert!(output.status.success(), "{}", said(&output));
    assert!(printed(&output).contains("NPU_compute_time"));
    // Without it, the loader would not find that library: so it is this that helped.
    let output = run(true);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("libneeded.so: cannot open shared object file"),
        "{}",
        said(&output)
    );
}

/// Gears of dimensions: two lengths in one compiled model, each with what the CPU engine gives for it.
#[test]
fn a_gear_of_dimensions_gives_what_the_cpu_engine_gives() {
    let folder = Folder::with(&fixture("convbert_tiny.onnx"));
    let dims = [16, 32].map(|length| [2, length].repeat(3)).to_vec();
    let description = Description { soc: "Ascend310P3".into(), dims, ..Description::default() };
    ascend_sim_om::write(&folder.path("model.om"), &description, &folder.read("model.onnx"))
        .expect("a file");
    let made_up = ["--pure-data-type", "random", "-o", "out", "--output-dirname"];
    for length in [16, 32] {
        let gear = ["input_ids", "attention_mask", "token_type_ids"]
            .map(|name| format!("{name}:2,{length}"))
            .join(";");
        let npu = ["run", "model.om", "--dym-dims", &gear];
        let npu = folder.on_npu(&[&npu[..], &made_up, &["npu"]].concat(), &[]);
        assert!(npu.status.success(), "{}", said(&npu));
        assert_released(&folder);
        let cpu = ["run", "model.onnx", "--input-shape", &gear];
        let cpu = folder.onnxfix(&[&cpu[..], &made_up, &["cpu"]].concat());
        assert!(cpu.status.success(), "{}", said(&cpu));
        let of = |device: &str| folder.read(&format!("out/{device}/pure_infer_data_0.bin"));
        assert_eq!(of("npu"), of("cpu"), "length {length}");
    }
    let other =
        ["run", "model.om", "--dym-dims", "input_ids:2,8;attention_mask:2,8;token_type_ids:2,8"];
    let other = folder.on_npu(&other, &[]);
    assert_eq!(other.status.code(), Some(2));
    assert!(said(&other).contains("is none of the model's gears"), "{}", said(&other));
}

/// Two lengths, each compiled and run for itself: the answers are those of the CPU, and the order that of the data set.
#[test]
fn texts_of_two_lengths_are_answered_as_on_the_cpu() {
    let folder = reviews();
    let atc = ["atc", "model.onnx", "--soc", "Ascend310P3", "--batch", "2", "--buckets", "8,16"];
    let atc = folder.onnxfix(&[&atc[..], &["--atc", &stand_in().to_string_lossy()]].concat());
    assert!(atc.status.success(), "{}", said(&atc));
    let prepare = ["prepare", "sst2", "--data", "dev.tsv", "--model", "model.onnx", "-o", "pre"];
    let wide = ["--batch", "2", "--max-length", "16", "--buckets", "8"];
    let prepared = folder.onnxfix(&[&prepare[..], &wide].concat());
    assert!(prepared.status.success(), "{}", said(&prepared));
    let cpu = folder.onnxfix(&["eval", "model.onnx", "--data", "pre", "-o", "cpu"]);
    assert!(cpu.status.success(), "{}", said(&cpu));

    let models = ["model_bs2_seq16.om", "model_bs2_seq8.om"];
    let against = ["--against", "cpu/result.json", "--json"];
    let prepared = [&["eval"], &models[..], &["--data", "pre"], &against].concat();
    let tokens = ["--task", "sst2", "--data", "dev.tsv"];
    let tokens = [&["eval"], &models[..], &tokens, &against].concat();
    let run = [&["run"], &models[..], &["--input", "pre", "-o", "out", "--json"]].concat();
    let ran = folder.on_npu(&run, &[]);
    assert!(ran.status.success(), "{}", said(&ran));
    let ran: Value = serde_json::from_str(&printed(&ran)).expect("JSON");
    assert_eq!((&ran["samples"], &ran["end_to_end"]), (&5.into(), &Value::Null));
    // What the guides' runner would have written, too.
    let files = [&["eval", "--outputs", "out", "--data", "pre"], &against[..]].concat();
    for command in [prepared, tokens, files] {
        let eval = folder.on_npu(&command, &[]);
        assert!(eval.status.success(), "{command:?}: {}", said(&eval));
        let result: Value = serde_json::from_str(&printed(&eval)).expect("JSON");
        assert_eq!(result["differences"], Value::Array(vec![]));
        assert_eq!(result["splits"][0]["answers"], serde_json::json!([1, 0, 1, 0, 1]));
        assert_eq!(result["splits"][0]["time"], Value::Null, "a simulated device has no speed");
        if command.contains(&"--outputs") {
            continue;
        }
        assert_eq!(result["device"], "simulated device (Ascend310P3-sim)");
        assert_released(&folder);
    }
    let one = folder.on_npu(&["predict", "model_bs2_seq8.om", "a warm and funny film"], &[]);
    assert!(printed(&one).starts_with("label_id: 1, prob: 0."), "{}", said(&one));

    let wrong = folder.on_npu(&["run", "model_bs2_seq8.om", "--input", "pre"], &[]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(said(&wrong).contains("no model takes samples of 16 tokens"), "{}", said(&wrong));
    assert_released(&folder);
}

/// The examples as they are, but for the data, which are small: from the model to the table of the guides.
#[test]
fn both_example_chains_run_on_the_simulated_device() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let chain = |folder: &Folder, example: &str, settings: &[&str]| {
        let place = |name: &str| folder.path(name).to_string_lossy().into_owned();
        let atc = format!("args.atc=[\"--atc\",{:?}]", stand_in().to_string_lossy());
        let own = [
            format!("data={}", place("")),
            format!("model={}", place("model.onnx")),
            format!("tokenizer={}", place("vocab.txt")),
            format!("work={}", place("work")),
            atc,
        ];
        let file = examples.join(example).to_string_lossy().into_owned();
        let mut args = vec!["pipeline", &file, "--json"];
        for setting in own.iter().map(String::as_str).chain(settings.iter().copied()) {
            args.extend(["--set", setting]);
        }
        let ran = folder.on_npu(&args, &[]);
        assert!(ran.status.success(), "{}{}", said(&ran), printed(&ran));
        serde_json::from_str::<Value>(&printed(&ran)).expect("JSON")
    };
    let simulated = Value::from("simulated device (Ascend310P3-sim)");

    let folder = reviews();
    let report = chain(&folder, "convbert_sst2.toml", &["batches=[1,2]", "max_length=32"]);
    assert_eq!(report["device"], simulated);
    for row in report["table"].as_array().expect("rows") {
        let measured = row["batch"].as_u64().is_some_and(|batch| batch <= 2);
        let accuracy =
            if measured { serde_json::json!([["dev", 1.0]]) } else { Value::Array(vec![]) };
        assert_eq!((&row["accuracy"], &row["fps"]), (&accuracy, &Value::Null));
    }
    let page = String::from_utf8(folder.read("work/report/report.html")).expect("text");
    assert!(page.contains("simulated device (Ascend310P3-sim)"));

    let folder = Folder::with(&fixture("deberta_v3_tiny.onnx"));
    folder.write(
        "vocab.txt",
        "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\na\ncat\nsleeps\nruns\nfast\n",
    );
    let header = "genre\tsentence1\tsentence2\tgold_label\n";
    let rows = "fiction\tthe cat sleeps\ta cat runs\tcontradiction\ntravel\ta cat\tthe cat\tneutral\n\
                fiction\tthe cat runs fast and the cat sleeps fast and a cat runs\tthe cat runs\tentailment\n";
    for name in ["dev_matched.tsv", "dev_mismatched.tsv"] {
        folder.write(name, format!("{header}{rows}"));
    }
    let stages = r#"stages=["optimize","verify","prepare","atc","run","eval","predict","bench"]"#;
    let settings = [stages, "batches=[1,4]", "max_length=32", "buckets=[12]"];
    let report = chain(&folder, "deberta_mnli.toml", &settings);
    assert_eq!(report["device"], simulated);
    let first = &report["table"][0];
    assert_eq!(first["published_fps"], 4.06);
    let splits: Vec<&Value> =
        first["accuracy"].as_array().expect("both").iter().map(|s| &s[0]).collect();
    assert_eq!(splits, ["match", "mismatch"]);
    assert_eq!(first["accuracy"], report["table"][1]["accuracy"], "batches do not change answers");
    // Both lengths have a model, and each has samples.
    assert!(folder.path("work/model_bs4_seq12.om").is_file());
    assert!(folder.path("work/results_bs4/run/mismatch/32/input_0_0.bin").is_file());
}
