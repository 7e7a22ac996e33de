use std::path::{Path, PathBuf};
use std::time::Duration;

use onnxfix_ir::{LoadOptions, load, text};
use onnxfix_passes::{Note, Options, Report as Passes, Stop, run};

use super::*;
use crate::report::Tally;
use crate::target::Target;

/// A report with everything in it that a page can show.
fn report() -> Report {
    let model = |body: &str| {
        let header = "<ir_version: 8, opset_import: [\"\" : 13]>";
        text::parse(&format!("{header} g (float[2,3] x) => (float[2,3] y) {{ {body} }}"))
            .expect("a model")
    };
    let before = model("i = Identity (x) [\"a <b> & \\\"c\\\"\"] h = Relu (i) y = Relu (h)");
    let after = model("h = Relu (x) y = Relu (h)");
    let mut tally = Tally::new(&before);
    tally.see("eliminate-identity", &after);
    let stats = |pass, rewrites| PassStats { pass, rewrites, time: Duration::from_micros(1500) };
    let passes = Passes {
        stop: Stop::Converged,
        sweeps: 2,
        passes: vec![stats("eliminate-identity", 1), stats("merge-casts", 0)],
        notes: vec![Note { pass: "fix-input-shapes", text: "1 < 2".into(), warning: true }],
        misses: Vec::new(),
    };
    let (b, a) = (Summary::of(&before), Summary::of(&after));
    let mut report = Report::new(PathBuf::from("in/m.onnx"), "ascend310p3", b, a, passes);
    report.ops_by_pass = tally.finish();
    report.graphs = Some(Both { before: Drawing::of(&before), after: Drawing::of(&after) });
    report.findings = Some(Both { before: vec![finding()], after: Vec::new() });
    report.cost = Both { before: Some(prediction(4000.0)), after: Some(prediction(1000.0)) };
    report
}

fn finding() -> Finding {
    Finding {
        code: "dynamic-shape",
        severity: Severity::Error,
        at: (0..6).map(|i| format!("node {i}")).collect(),
        what: "An input has no fixed shape.".into(),
        why: "ATC compiles <static> shapes.".into(),
        source: "a manual, 3.2".into(),
        confirmed: false,
        pass: Some("fix-input-shapes"),
    }
}

fn prediction(time: f64) -> Prediction {
    let interval = |x: f64| Interval { low: 0.8 * x, likely: x, high: 1.5 * x };
    let node = |layer, unit, share: f64| NodeCost {
        node: format!("\"node {share}\""),
        op: "MatMul".into(),
        layer,
        unit,
        compute: share * time / 2.0,
        memory: share * time / 2.0,
        overhead: 0.0,
        total: share * time,
        runs_with: None,
        flops: 0.0,
        memory_bytes: 0.0,
        cache_bytes: 0.0,
    };
    Prediction {
        soc: "Ascend310P3".into(),
        batch: 1,
        time: interval(time),
        fps: interval(1e6 / time),
        nodes: vec![
            node(None, Unit::Vector, 0.1),
            node(Some(0), Unit::Cube, 0.6),
            node(Some(0), Unit::AiCpu, 0.3),
        ],
        assumptions: vec!["one stream".into()],
        flops: 0.0,
        weight_bytes: 0.0,
    }
}

/// What is wrong with how elements are nested, quoted and closed.
fn malformed(html: &str) -> Option<String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html.strip_prefix("<!doctype html>")?;
    while let Some(at) = rest.find('<') {
        let Some(end) = rest[at..].find('>') else { return Some("a tag without end".into()) };
        let tag = &rest[at + 1..at + end];
        rest = &rest[at + end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Some(format!("</{name}> closes nothing, in front of {rest:.40}"));
            }
            continue;
        }
        let name = tag.split_whitespace().next().unwrap_or("");
        let quotes = tag.matches('"').count();
        if quotes % 2 != 0 || quotes / 2 != tag.matches('=').count().min(quotes / 2) {
            return Some(format!("<{tag}> is not quoted"));
        }
        if !tag.ends_with('/') {
            open.push(name.trim_end_matches('/'));
        }
        if ["script", "style"].contains(&name) {
            rest = &rest[rest.find(&format!("</{name}>")).unwrap_or(0)..];
        }
    }
    open.pop().map(|name| format!("<{name}> is not closed"))
}

#[test]
fn a_page_is_well_formed_and_stands_on_its_own() {
    let html = report().html();
    assert_eq!(malformed(&html), None);
    for outside in ["http:", "https:", " src=", "<link", "<img", "@import", "url(", "fetch("] {
        assert!(!html.contains(outside), "{outside} in a page that stands on its own");
    }
    let links = html.split("href=").skip(1);
    assert!(links.into_iter().all(|link| link.starts_with("\"#")), "links lead into the page");
    assert!(html.contains("a <b> & \\\"c\\\"".replace('<', "\\u003c").as_str()), "names in data");
}

#[test]
fn a_page_has_what_the_report_has() {
    let html = report().html();
    for part in [
        "<span class=\"what\">nodes</span><span class=\"after\">2</span><span class=\"before\">was 3</span>",
        "was 4.00 ms",
        "Removes <code>Identity</code>.</span></summary><p>It does not, but an Identity",
        "<span class=\"delta\">Identity <span class=\"less\">−1</span></span>",
        "1 found nothing to do</summary><p class=\"names\"><code>merge-casts</code>",
        "<li class=\"warning\"><code>fix-input-shapes</code> 1 &lt; 2</li>",
        "<li class=\"error\">",
        "ATC compiles &lt;static&gt; shapes.",
        "and 2 more.",
        "<b>1.00 ms</b> <span class=\"dim\">(800 µs to 1.50 ms)</span>",
        "<span class=\"op\">outside of layers</span>",
        "<span class=\"op\">layer 0</span>",
        "3.60 ms → 900 µs",
    ] {
        assert!(html.contains(part), "{part} is not in {html}");
    }
}

#[test]
fn a_page_without_findings_costs_and_graphs_has_no_place_for_them() {
    let mut report = report();
    (report.findings, report.graphs, report.cost) = (None, None, Both::default());
    let html = report.html();
    assert_eq!(malformed(&html), None);
    for id in ["findings", "cost", "graph"] {
        assert!(!html.contains(&format!("#{id}\"")) && !html.contains(&format!("id=\"{id}\"")));
    }
    assert!(!html.contains("<script"));
}

/// The fixtures have two layers, whichever exporter wrote them and whatever passes did.
#[test]
fn layers_are_found() {
    for fixture in
        ["deberta_v3_tiny", "deberta_v3_tiny_dynamo", "convbert_tiny", "convbert_tiny_opset11"]
    {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = path.join("fixtures/models").join(fixture).with_extension("onnx");
        let mut model = load(&path, &LoadOptions::default()).expect("a fixture").model;
        let raw = Drawing::of(&model).layer_sizes();
        // The others leave the length of sequences open, which the NPU does not.
        let fixed = fixture == "deberta_v3_tiny";
        let target = if fixed { Target::Ascend310P3 } else { Target::Portable };
        let options = Options { static_shapes: fixed, ..Options::default() };
        let pipeline = target.pipeline().expect("passes of the table");
        run(&mut model, &pipeline, &options, &mut |_, _| {}).expect("a run");
        let sizes = Drawing::of(&model).layer_sizes();
        assert_eq!((raw.len(), sizes.len()), (2, 2), "{fixture}: {raw:?}, {sizes:?}");
        assert!(sizes.iter().all(|&n| n > 30), "{fixture}: {sizes:?}");
    }
}
