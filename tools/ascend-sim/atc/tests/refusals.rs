//! The program, on the smallest models of the failures that users report most.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use onnxfix_ir::{StoreOptions, store, text};

const FLAGS: &str =
    "--framework=5 --model=m.onnx --output=m --soc_version=Ascend310P3 --input_format=ND";

/// Runs the program on a graph of opset 13 in a folder of its own.
fn atc_with(graph: &str, flags: &str, variables: &[(&str, &str)]) -> (Output, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = if graph.starts_with('<') {
        graph.to_owned()
    } else {
        format!("<ir_version: 8, opset_import: [\"\" : 13]>\n{graph}")
    };
    let model = text::parse(&model).unwrap_or_else(|error| panic!("{}", error.render(&model)));
    store(&model, &folder.path().join("m.onnx"), &StoreOptions::default()).expect("a model");
    let output = Command::new(env!("CARGO_BIN_EXE_atc"))
        .args(FLAGS.split(' ').chain(flags.split(' ').filter(|flag| !flag.is_empty())))
        .current_dir(folder.path())
        .env("ASCEND_PROCESS_LOG_PATH", folder.path().join("log"))
        .env_remove("ASCEND_SIM_RELEASE")
        .envs(variables.iter().copied())
        .output()
        .expect("the program starts");
    (output, folder)
}

fn atc(graph: &str, flags: &str) -> (Output, tempfile::TempDir) {
    atc_with(graph, flags, &[])
}

/// The codes that it prints.
fn codes(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let code = |line: &str| line.split_once(':').map(|(code, _)| code.to_owned());
    text.lines().filter_map(code).filter(|c| c.len() == 6 && c.starts_with(['E', 'W'])).collect()
}

const RELU: &str = "g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }";

#[test]
fn a_good_model_becomes_an_om() {
    let (output, folder) = atc(RELU, "--input_shape=x:2,3 --precision_mode_v2=fp16");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("ATC run success") && text.contains("simulated"), "{text}");
    let om = ascend_sim_om::read(&folder.path().join("m.om")).expect("an .om");
    assert_eq!(
        (om.description.soc.as_str(), om.description.release.as_str()),
        ("Ascend310P3", "8.1.RC1")
    );
    assert!(folder.path().join("fusion_result.json").is_file());
    assert!(folder.path().join("kernel_meta").is_dir());
}

#[test]
fn gears_need_an_open_batch() {
    let graph = "g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }";
    let (output, folder) = atc(graph, "--input_shape=x:-1,3 --dynamic_batch_size=1,4");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let om = ascend_sim_om::read(&folder.path().join("m.om")).expect("an .om");
    assert_eq!(om.description.gears, [1, 4]);
    for (flags, code) in [
        ("--input_shape=x:2,3 --dynamic_batch_size=1,4", "E10031"),
        ("--input_shape=x:-1,3 --dynamic_batch_size=4", "E10035"),
        ("--input_shape=x:-1,3 --dynamic_batch_size=4,4", "E10039"),
        ("--input_shape=x:-1,-1 --dynamic_batch_size=1,4", "E10018"),
        ("--input_shape=x:-1,3 --dynamic_batch_size=1,4 --dynamic_dims=1;4", "E10009"),
    ] {
        assert_eq!(codes(&atc(graph, flags).0)[0], code, "{flags}");
    }
}

#[test]
fn every_reported_failure_has_its_code() {
    let several = "<ir_version: 8, opset_import: [\"\" : 13, \"com.microsoft\" : 1]>\n";
    let opset = |n: i64| format!("<ir_version: 8, opset_import: [\"\" : {n}]>\n");
    let relu = RELU.to_owned();
    let cases: Vec<(String, &str, &str)> = vec![
        // Optimizers for other runtimes leave imports (lijiaqi0612/UIE-ACL-310 issue 2).
        (format!("{several}{RELU}"), "", "E16005"),
        // An operator without a parser (Ascend/ModelZoo-PyTorch issue 6), and one beyond the highest opset.
        (format!("{}g (float[2] x) => (float[2] y) {{ y = Gelu (x) }}", opset(20)), "", "E19010"),
        (format!("{}{RELU}", opset(19)), "", "E19010"),
        // Names and ranks of inputs (ultralytics issue 14183).
        (relu.clone(), "--input_shape=images:2,3", "E10016"),
        (relu.clone(), "--input_shape=x:2,3,4", "E10049"),
        (relu.clone(), "--input_shape=x:2,0", "E10011"),
        (relu.clone(), "--input_shape=2,3", "E10002"),
        (relu.clone(), "--soc_version=Ascend310P", "E10001"),
        (relu.clone(), "--keep_dtype=gone.cfg", "E10410"),
        (relu.clone(), "--output=a+b", "E10001"),
        (relu.clone(), "--precision_mode=fp16", "E10001"),
        // Doubles that an exporter left.
        ("g (double[2] x) => (double[2] y) { y = Relu (x) }".into(), "", "EZ3003"),
        // A strided Slice between gears (Tlntin/qwen-ascend-llm issue 11).
        (
            "g (float[N,8] x) => (float[N,4] y) <int64[1] s = {0}, int64[1] e = {8}, int64[1] a = {1}, int64[1] t = {2}> \
             { y = Slice (x, s, e, a, t) }"
                .into(),
            "--input_shape=x:-1,8 --dynamic_batch_size=1,4",
            "E20001",
        ),
        // Integers of 64 bits on the AI CPU.
        (
            "g (int64[2] x) => (int64[2] y) <int64[1] d = {2}> { y = Div (x, d) }".into(),
            "",
            "W11001",
        ),
        ("g (float[2] x) => (float[2] y) { y = Clip (x) }".into(), "", "E11010"),
    ];
    for (graph, flags, code) in cases {
        let (output, folder) = atc(&graph, flags);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            codes(&output).first().map(String::as_str),
            Some(code),
            "{graph} {flags}\n{said}"
        );
        let refused = code.starts_with('E');
        assert_eq!(output.status.success(), !refused, "{said}");
        assert_eq!(folder.path().join("m.om").exists(), !refused);
        assert_eq!(has_log(&folder.path().join("log")), refused);
    }
}

fn has_log(folder: &Path) -> bool {
    fs::read_dir(folder.join("debug/plog")).is_ok_and(|mut files| files.next().is_some())
}

#[test]
fn a_truncated_model_is_refused() {
    let (_, folder) = atc(RELU, "");
    let whole = fs::read(folder.path().join("m.onnx")).expect("the model");
    fs::write(folder.path().join("m.onnx"), &whole[..whole.len() / 2]).expect("half of it");
    let output = Command::new(env!("CARGO_BIN_EXE_atc"))
        .args(FLAGS.split(' '))
        .current_dir(folder.path())
        .env("ASCEND_PROCESS_LOG_PATH", folder.path().join("log"))
        .output()
        .expect("the program starts");
    assert_eq!(codes(&output), ["E10041"]);
}

#[test]
fn releases_differ() {
    let release = |name| [("ASCEND_SIM_RELEASE", name)];
    let first = |flags: &str, name| {
        let (output, _) = atc_with(RELU, flags, &release(name));
        (output.status.success(), String::from_utf8_lossy(&output.stderr).trim().to_owned())
    };
    let unknown = "ERROR: unknown command line flag 'precision_mode_v2'";
    assert_eq!(first("--precision_mode_v2=fp16", "6.0.1"), (false, unknown.into()));
    assert_eq!(first("--precision_mode=force_fp16", "6.0.1"), (true, String::new()));
    let opset_17 = format!("<ir_version: 8, opset_import: [\"\" : 17]>\n{RELU}");
    let with = |name| codes(&atc_with(&opset_17, "", &release(name)).0);
    assert_eq!((with("6.3"), with("7.0")), (vec!["E19010".to_owned()], vec![]));
}

#[test]
fn faults_are_shown_for_the_output_that_is_meant() {
    let with = |fault| atc_with(RELU, "", &[("ASCEND_SIM_ATC_FAULT", fault)]);
    let (output, folder) = with("exit-code");
    assert_eq!(output.status.code(), Some(1));
    assert!(folder.path().join("m.om").exists());
    assert!(!with("no-file@m").1.path().join("m.om").exists());
    assert!(with("no-file@other").1.path().join("m.om").exists());
    assert_eq!(with("killed").0.status.code(), None);
    let bound = format!("m_linux_{}.om", std::env::consts::ARCH);
    assert!(with("host-bound").1.path().join(bound).exists());
}
