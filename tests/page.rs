//! The page of a report in a browser: its script runs to the end and draws every part of both graphs.
//!
//! Skipped where there is no Chromium; `CHROMIUM` names one that is not on the path.

mod common;

use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Folder, fixture};

/// What loading a page may take. The whole graph of a base-size model is laid out meanwhile.
const LIMIT: Duration = Duration::from_mins(1);

fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let on_path = || std::env::split_paths(&paths).flat_map(|dir| names.map(|name| dir.join(name)));
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let found = named.or_else(|| on_path().find(|path| path.is_file()));
    if found.is_none() {
        #[expect(clippy::print_stderr, reason = "says that something was not tested")]
        {
            eprintln!("skipped: there is no Chromium; CHROMIUM names one");
        }
    }
    found
}

/// The document as it is when the script of the page has run.
#[track_caller]
fn document(chromium: &PathBuf, folder: &Folder, page: &str) -> String {
    let out = File::create(folder.path("dom.html")).expect("a file");
    let mut browser = Command::new(chromium)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"])
        .arg(format!("--user-data-dir={}", folder.path("profile").display()))
        .arg("--dump-dom")
        .arg(format!("file://{}#draw-all", folder.path(page).display()))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::null())
        .spawn()
        .expect("a browser");
    let start = Instant::now();
    while browser.try_wait().expect("a process").is_none() {
        if start.elapsed() > LIMIT {
            browser.kill().expect("a process");
            panic!("the browser has not finished {page} after {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    String::from_utf8(folder.read("dom.html")).expect("UTF-8")
}

#[track_caller]
fn is_drawn(document: &str) {
    let attribute = |name: &str| document.split(&format!("{name}=\"")).nth(1)?.split('"').next();
    assert_eq!(attribute("data-error"), None);
    let drawn = attribute("data-drawn").expect("the script ran to its end");
    let drawn: Vec<u32> = drawn.split(' ').map(|n| n.parse().expect("a number")).collect();
    assert!(drawn.len() == 2 && drawn.iter().all(|&n| n > 0), "elements drawn: {drawn:?}");
}

#[test]
fn the_script_of_a_page_runs() {
    let Some(chromium) = chromium() else { return };
    for name in ["deberta_v3_tiny.onnx", "convbert_tiny_dynamo.onnx"] {
        let folder = Folder::with(&fixture(name));
        folder.run("optimize model.onnx --target portable --dry-run --report page.html").exits(0);
        is_drawn(&document(&chromium, &folder, "page.html"));
    }
}

#[test]
fn the_page_of_a_comparison_is_a_document_without_a_script() {
    let Some(chromium) = chromium() else { return };
    let folder = Folder::with(&fixture("deberta_v3_tiny.onnx"));
    folder.run("optimize model.onnx --dim batch=2").exits(0);
    let report = folder.run("verify --fp16 --report page.html --json").exits(0).json();
    let count = |of: &serde_json::Value| of.as_array().map_or(0, Vec::len);
    let points = count(&report["layers"]["values"]) + count(&report["points"][0]["pairs"]);
    let document = document(&chromium, &folder, "page.html");
    assert!(points > 20 && document.matches("<circle").count() == points, "{points} points");
    assert!(document.trim_end().ends_with("</html>"), "the browser found an error");
}

/// A model of 16 layers with 300 nodes each.
fn deep() -> String {
    let mut nodes = String::new();
    let mut x = "x".to_owned();
    for layer in 0..16 {
        let name = |part: &str| format!("encoder_layer_{layer}_{part}");
        let (q, k, s) = (name("q"), name("k"), name("s"));
        writeln!(nodes, "{q} = Relu ({x}) {k} = Tanh ({x}) {s} = Mul ({q}, {k})").expect("text");
        let mut last = name("softmax");
        writeln!(nodes, "{last} = Softmax ({s})").expect("text");
        for step in 0..295 {
            let next = name(&format!("step_{step}"));
            let other = if step % 20 == 0 { &x } else { &last };
            writeln!(nodes, "{next} = Add ({last}, {other})").expect("text");
            last = next;
        }
        let sum = name("sum");
        writeln!(nodes, "{sum} = Add ({x}, {last})").expect("text");
        x = sum;
    }
    format!(
        "<ir_version: 8, opset_import: [\"\" : 13]>\n\
         g (float[2,3] x) => (float[2,3] y) {{ {nodes} y = Identity ({x}) }}"
    )
}

#[test]
fn a_page_of_thousands_of_nodes_is_small_and_drawn_in_time() {
    let folder = Folder::new();
    folder.write("deep.onnxtxt", deep());
    let line = "optimize deep.onnxtxt --dry-run --passes eliminate-identity --report page.html";
    folder.run(line).exits(0);
    assert!(folder.read("page.html").len() < 1_500_000);
    if let Some(chromium) = chromium() {
        is_drawn(&document(&chromium, &folder, "page.html"));
    }
}
