//! The page of a benchmark on an NPU: the table, and samples per second by batch size.

use std::fmt::Write as _;

use super::npu::{NpuReport, Row};
use crate::report::Text;

/// Width and height of the plot, and the room around it for its axes.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const ROOM: f64 = 56.0;

/// A line of the plot.
struct Line {
    name: &'static str,
    colour: &'static str,
    of: fn(&Row) -> Option<f64>,
}

const LINES: [Line; 4] = [
    Line { name: "measured (ais_bench's way)", colour: "#1f6feb", of: |row| row.fps },
    Line { name: "measured, end to end", colour: "#8250df", of: |row| row.end_to_end_fps },
    Line { name: "published", colour: "#bc4c00", of: |row| row.published_fps },
    Line { name: "predicted", colour: "#1a7f37", of: |row| row.predicted_fps.map(|p| p.likely) },
];

/// The page, which needs nothing beside it.
pub(super) fn page(report: &NpuReport) -> String {
    let mut out = String::from(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>onnxfix bench</title>\n<style>body{font:15px/1.5 \
         system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}td,th{padding:.2rem .8rem;text-align:right}\
         td:first-child,th:first-child{text-align:left}svg{max-width:100%}</style>\n<h1>Samples per second by batch size</h1>\n",
    );
    let _ = writeln!(out, "<p>{}, {} runs of each batch.</p>", Text(&report.device), report.runs);
    if report.simulated {
        out += "<p>A simulated device has no speed: what was measured is left out.</p>\n";
    }
    out += &plot(&report.models);
    out += "<table><tr><th>model<th>batch<th>median<th>fps<th>end to end<th>published<th>predicted</tr>\n";
    let number = |n: Option<f64>| n.map_or("–".to_owned(), |n| format!("{n:.1}"));
    for row in &report.models {
        let median = row.compute.filter(|_| !report.simulated);
        let _ = writeln!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            Text(&row.model),
            row.batch,
            median.map_or("–".to_owned(), |stats| format!("{:.2} ms", stats.median)),
            number(row.fps),
            number(row.end_to_end_fps),
            number(row.published_fps),
            row.predicted_fps.map_or("–".to_owned(), |p| format!(
                "{:.0} ({:.0} to {:.0})",
                p.likely, p.low, p.high
            )),
        );
    }
    out += "</table>\n";
    for text in
        report.published.iter().map(|p| format!("Published: {p}")).chain(report.notes.clone())
    {
        let _ = writeln!(out, "<p>{}</p>", Text(&text));
    }
    out + "</html>\n"
}

/// One line for each kind of figure; batch sizes have equal distances, since they double.
fn plot(rows: &[Row]) -> String {
    let all = LINES.iter().flat_map(|line| rows.iter().filter_map(line.of));
    let highs = rows.iter().filter_map(|row| row.predicted_fps.map(|p| p.high));
    let top = all.chain(highs).fold(0.0, f64::max);
    if top <= 0.0 || rows.is_empty() {
        return String::new();
    }
    let x = |at: usize| ROOM + at as f64 * (WIDTH - 2.0 * ROOM) / (rows.len().max(2) - 1) as f64;
    let y = |fps: f64| HEIGHT - ROOM - fps / top * (HEIGHT - 2.0 * ROOM);
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"samples per second by batch size\">\n"
    );
    let base = HEIGHT - ROOM;
    let _ = writeln!(
        out,
        "<path d=\"M{ROOM} {ROOM}V{base}H{}\" fill=\"none\" stroke=\"#888\"/>",
        WIDTH - ROOM
    );
    for part in [0.0, 0.5, 1.0] {
        let fps = top * part;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" font-size=\"12\" text-anchor=\"end\">{fps:.0}</text>",
            ROOM - 6.0,
            y(fps) + 4.0
        );
    }
    for (at, row) in rows.iter().enumerate() {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" font-size=\"12\" text-anchor=\"middle\">{}</text>",
            x(at),
            base + 18.0,
            row.batch
        );
        // The interval of the prediction.
        if let Some(p) = row.predicted_fps {
            let _ = writeln!(
                out,
                "<path d=\"M{:.1} {:.1}V{:.1}\" stroke=\"#1a7f37\" stroke-opacity=\".35\" stroke-width=\"6\"/>",
                x(at),
                y(p.low),
                y(p.high)
            );
        }
    }
    let mut legend = 0.0;
    for line in &LINES {
        let points: Vec<String> = rows
            .iter()
            .enumerate()
            .filter_map(|(at, row)| Some(format!("{:.1},{:.1}", x(at), y((line.of)(row)?))))
            .collect();
        if points.is_empty() {
            continue;
        }
        let (points, colour) = (points.join(" "), line.colour);
        let _ = writeln!(
            out,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        );
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" font-size=\"12\" fill=\"{colour}\">{}</text>",
            ROOM + 8.0,
            18.0 + legend,
            line.name
        );
        legend += 14.0;
    }
    out + "</svg>\n"
}
