//! The crate on the simulated device: what comes out, what is left behind, and what is said when something fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use ascend_sim_om::Description;
use onnxfix_ir::text;
use tempfile::TempDir;

/// The folder of what cargo built, with the simulated library. Building that takes the features that the whole program has, so
/// that it does not compile the CPU engine once more.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().expect("this test");
        let folder = test.ancestors().nth(2).expect("target/release").to_path_buf();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let library: &[&str] = &["-p", "onnxfix", "-p", "ascend-sim-acl"];
        for what in [library, &["-p", "onnxfix-npu", "--example", "run-om"]] {
            let done = Command::new(&cargo)
                .args(["build", "--release", "--quiet"])
                .args(what)
                .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
                .env("CARGO_TARGET_DIR", folder.parent().expect("target"))
                .status()
                .expect("cargo");
            assert!(done.success(), "{what:?} are built");
        }
        folder
    })
}

/// A model and what ran it.
struct Bench {
    folder: TempDir,
}

const DOUBLE: &str = "<ir_version: 8, opset_import: [\"\" : 13]>
g (int32[4,8] x) => (float[4,8] y, int32[4,8] z) { c = Cast <to: int = 1> (x)  y = Add (c, c)  z = Neg (x) }";

const OPEN: &str = "<ir_version: 8, opset_import: [\"\" : 13]>
g (int32[batch,8] x) => (float[batch,8] y) { c = Cast <to: int = 1> (x)  y = Add (c, c) }";

impl Bench {
    fn new(model: &str, soc: &str, gears: &[u64]) -> Bench {
        let folder = TempDir::new().expect("a folder");
        let model = text::parse(model).unwrap_or_else(|e| panic!("{}", e.render(model)));
        let mut onnx = Vec::new();
        onnxfix_ir::write_to(&model, &mut onnx).expect("a model");
        let description =
            Description { soc: soc.into(), gears: gears.to_vec(), ..Description::default() };
        ascend_sim_om::write(&folder.path().join("model.om"), &description, &onnx).expect("a file");
        Bench { folder }
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join("model.om")
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new("timeout");
        command
            .arg("60")
            .arg(built().join("examples/run-om"))
            .arg(built().join("libascendcl.so"))
            .arg(self.model())
            .args(arguments)
            .env("ASCEND_SIM_REPORT", self.folder.path().join("report.json"))
            .envs(variables.iter().copied());
        command.output().expect("the example runs")
    }

    /// What the device has to say of its caller.
    fn report(&self) -> serde_json::Value {
        let text = std::fs::read_to_string(self.folder.path().join("report.json"));
        serde_json::from_str(&text.expect("a report")).expect("JSON")
    }

    #[track_caller]
    fn assert_clean(&self, what: &str) {
        let report = self.report();
        assert_eq!(report["leaks"], serde_json::json!({}), "{what}: something is left behind");
        assert_eq!(report["violations"], serde_json::json!([]), "{what}: against the rules");
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn both_ways_to_run_give_the_same_and_leave_nothing_behind() {
    let bench = Bench::new(DOUBLE, "Ascend310P3", &[]);
    // 32 bytes of value n make floats of 2n and integers of -n.
    let mut printed = Vec::new();
    for flow in ["overlapped", "blocking"] {
        let output = bench.run(&["7", flow], &[]);
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        printed.push(text.lines().next().expect("sums").to_owned());
        bench.assert_clean(flow);
    }
    assert_eq!(printed[0], printed[1]);
    // The bytes of 2.0 are 0, 0, 0, 64 and those of -1 are 255 each: 32 · (64 + 4 · 255).
    assert!(printed[0].starts_with("[(0, 0), (1, 34688), "), "{}", printed[0]);
}

#[test]
fn devices_and_threads_share_one_queue() {
    let bench = Bench::new(DOUBLE, "Ascend310P3", &[]);
    let alone = bench.run(&["20"], &[]);
    let shared = bench.run(&["20", "overlapped", "3", "2"], &[("ASCEND_SIM_DEVICES", "3")]);
    assert!(shared.status.success(), "{}", said(&shared));
    bench.assert_clean("three devices");
    let sums =
        |output: &Output| String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned);
    assert_eq!(sums(&alone), sums(&shared));
    assert_eq!(bench.report()["calls"]["aclmdlLoadFromFile"], 6);
}

#[test]
fn stages_overlap() {
    let bench = Bench::new(DOUBLE, "Ascend310P3", &[]);
    // Two outputs and one input: 6, 5 and 3 milliseconds for the stages of a batch.
    let delays = [("ASCEND_SIM_DELAY", "execute:5,copy:3")];
    let micros = |flow: &str| {
        let output = bench.run(&["40", flow], &delays);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().nth(1).expect("a time").to_owned();
        line.split(' ').next().and_then(|n| n.parse::<f64>().ok()).expect("a number")
    };
    let (overlapped, blocking) = (micros("overlapped"), micros("blocking"));
    assert!(blocking > 14_000.0, "{blocking}");
    assert!(overlapped < 0.75 * blocking, "{overlapped} against {blocking}");
}

/// What the program itself needs for a batch, where the device needs no time: its copies are of 128 and 256 bytes.
#[test]
fn a_batch_takes_microseconds_and_no_memory() {
    let bench = Bench::new(DOUBLE, "Ascend310P3", &[]);
    let numbers = |batches: &str, flow: &str| {
        let output = bench.run(&[batches, flow], &[("ASCEND_SIM_EXECUTE", "none")]);
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = |line: usize| {
            let first = text.lines().nth(line).and_then(|line| line.split(' ').next());
            first.and_then(|n| n.parse::<f64>().ok()).expect("a number")
        };
        (number(1), number(2))
    };
    for flow in ["overlapped", "blocking"] {
        let few = numbers("1000", flow);
        let many = numbers("11000", flow);
        #[expect(clippy::print_stderr, reason = "the figures that it is about")]
        {
            eprintln!("{flow}: {} µs, {} kB more for 10,000 batches", many.0, many.1 - few.1);
        }
        // Other tests run beside this one; alone, it is a tenth of that.
        assert!(many.0 < 300.0, "{flow}: {} microseconds", many.0);
        // 12 bytes of times and 16 of sums for each.
        assert!(many.1 - few.1 < 2048.0, "{flow}: {} kB and {} kB", few.1, many.1);
    }
}

#[test]
fn a_gear_is_chosen_or_the_largest_is() {
    let bench = Bench::new(OPEN, "Ascend310P3", &[1, 4]);
    let first = |arguments: &[&str]| {
        let output = bench.run(arguments, &[]);
        bench.assert_clean("gears");
        (said(&output), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // 8 elements of 2.0 in a sample.
    assert!(first(&["2", "overlapped", "1", "1", "1"]).1.starts_with("[(0, 0), (1, 512)]"));
    assert!(first(&["2"]).1.starts_with("[(0, 0), (1, 2048)]"));
    assert!(
        first(&["2", "blocking", "1", "1", "3"])
            .0
            .contains("batch size 3 is none of the model's gears [1, 4]")
    );
}

#[test]
fn wrong_models_and_scarce_memory_are_said_clearly() {
    for (soc, variables, want) in [
        (
            "Ascend910B3",
            vec![],
            "507008 (ACL_ERROR_RT_SOC_VERSION): the model was compiled for another chip",
        ),
        (
            "Ascend310P3",
            vec![("ASCEND_SIM_MEMORY", "400")],
            "207001 (ACL_ERROR_RT_MEMORY_ALLOCATION)",
        ),
        ("Ascend310P3", vec![("ASCEND_SIM_DEVICES", "0")], "207004 (ACL_ERROR_RT_NO_DEVICE)"),
    ] {
        let bench = Bench::new(DOUBLE, soc, &[]);
        let output = bench.run(&[], &variables);
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains(want), "{}", said(&output));
        bench.assert_clean(want);
    }
    let bench = Bench::new(DOUBLE, "Ascend310P3", &[]);
    let output = bench.run(&["3", "overlapped", "2"], &[]);
    assert!(said(&output).contains("there is no device 1; there are 1"), "{}", said(&output));
    let mut bytes = std::fs::read(bench.model()).expect("the model");
    *bytes.last_mut().expect("a byte") ^= 1;
    std::fs::write(bench.model(), bytes).expect("written");
    let output = bench.run(&[], &[]);
    assert!(said(&output).contains("the file is corrupt"), "{}", said(&output));
    bench.assert_clean("corrupt");
}

#[test]
fn a_failure_on_the_way_is_said_of_its_batch() {
    let bench = Bench::new(DOUBLE, "Ascend310P3", &[]);
    for (flow, fault) in [("overlapped", "execute:507015@5"), ("blocking", "execute:507015@5")] {
        let output = bench.run(&["9", flow], &[("ASCEND_SIM_FAULT", fault)]);
        // The first run warms up.
        assert!(said(&output).contains("run batch 3 on device 0"), "{}", said(&output));
        bench.assert_clean(flow);
    }
}

/// A program in C, compiled with gcc against the declarations of `ascendcl-sys`, meets the same library.
#[test]
fn a_c_program_agrees_on_the_interface() {
    let bench = Bench::new(DOUBLE, "Ascend310P3", &[]);
    let folder = bench.folder.path();
    std::fs::write(folder.join("ascendcl.h"), ascendcl_sys::header()).expect("written");
    let (library, program) = (built().join("libascendcl.so"), folder.join("minimal"));
    let compiled = Command::new("gcc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Wno-strict-prototypes", "-Werror", "-I"])
        .arg(folder)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/minimal.c"))
        .arg(&library)
        .arg("-o")
        .arg(&program)
        .output();
    let Ok(compiled) = compiled else {
        #[expect(clippy::print_stderr, reason = "says that something was not tested")]
        {
            eprintln!("skipped: there is no gcc");
        }
        return;
    };
    assert!(compiled.status.success(), "{}", said(&compiled));
    let ran = Command::new(&program)
        .arg(bench.model())
        .env("LD_LIBRARY_PATH", built())
        .env("ASCEND_SIM_REPORT", folder.join("report.json"))
        .output()
        .expect("it runs");
    assert!(ran.status.success(), "{}", said(&ran));
    bench.assert_clean("C");
}

/// Every call that a run makes fails once, in turn: it is reported once, nothing is left behind, nothing waits for ever.
#[test]
fn every_call_may_fail() {
    let bench = Bench::new(OPEN, "Ascend310P3", &[1, 4]);
    let (mut faults, mut reported, mut leaked, mut hung) = (0, 0, 0, 0);
    let mut wrong = Vec::new();
    for flow in ["overlapped", "blocking"] {
        let arguments = ["6", flow, "1", "1", "4"];
        assert!(bench.run(&arguments, &[]).status.success());
        let calls = bench.report()["calls"].clone();
        for (call, count) in calls.as_object().expect("calls") {
            let count = count.as_u64().expect("a number");
            for turn in 1..=count {
                let fault = format!("{call}:599999@{turn}");
                let output = bench.run(&arguments, &[("ASCEND_SIM_FAULT", &fault)]);
                let text = said(&output);
                faults += 1;
                let code = output.status.code();
                if code == Some(124) {
                    hung += 1;
                    wrong.push(format!("{fault}: hung"));
                    continue;
                }
                let report = bench.report();
                if report["leaks"] != serde_json::json!({})
                    || report["violations"] != serde_json::json!([])
                {
                    leaked += 1;
                    wrong.push(format!("{fault}: {} {}", report["leaks"], report["violations"]));
                }
                let times = text.matches(&format!("{call} failed with 599999")).count()
                    + text.matches(&format!("{call}: made to fail")).count();
                let task = text.matches("failed with 599999").count();
                let is_task = matches!(call.as_str(), "copy" | "execute");
                // A null has no code, and a code comes with the library's words.
                let of_call = times == 2 || (times == 1 && task == 0);
                let once = if is_task { task == 1 } else { of_call };
                if once && code.is_some() {
                    reported += 1;
                } else {
                    wrong.push(format!("{fault}: said {times} times, exit code {code:?}\n{text}"));
                }
            }
        }
    }
    #[expect(clippy::print_stderr, reason = "the figures of the matrix")]
    {
        eprintln!("{faults} faults: {reported} reported once, {leaked} leaked, {hung} hung");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
