//! The part of a page that compares two models: charts as they stand, without a script.

use super::{CSS, Page, Text};
use crate::verify::{Half, Layers, Points, Report, Trouble};

/// Size of a chart in its own units, and the margins that its axes take.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 36.0;
const MARGIN: f64 = 14.0;

/// Powers of ten that the chart of errors begins and ends with.
const LOWEST: f64 = -9.0;
const HIGHEST: f64 = 1.0;

/// A page of its own for a comparison.
pub(crate) fn verification_page(report: &Report) -> String {
    let mut page = Page::default();
    page.begin(&report.after);
    page.add(format_args!(
        "<header>\n<p class=\"brand\">onnxfix {}</p>\n<h1>{}</h1>\n<p class=\"paths\">compared with <code>{}</code></p>\n\
         <p class=\"badges\">",
        env!("CARGO_PKG_VERSION"),
        Text(&report.after),
        Text(&report.before),
    ));
    let (class, verdict) =
        if report.equal { ("good", "equal on the CPU") } else { ("bad", "different") };
    page.badge(class, verdict);
    if let Some(target) = &report.target {
        page.badge("", &format!("target {target}"));
    }
    page.add("</p>\n</header>\n<main>\n");
    page.comparison(report);
    page.add("</main>\n</body>\n</html>\n");
    page.0
}

impl Page {
    /// The head of a document, up to its body.
    pub(super) fn begin(&mut self, name: &str) {
        self.add(format_args!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
             script-src 'unsafe-inline'\"/>\n\
             <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>onnxfix: {}</title>\n<style>\n{CSS}</style>\n\
             </head>\n<body>\n",
            Text(name)
        ));
    }

    /// What a comparison found.
    pub(super) fn comparison(&mut self, report: &Report) {
        self.section("verify", "Compared with the source");
        self.add(format_args!("<pre class=\"scroll\">{}</pre>\n", Text(&report.text())));
        if let Some(layers) = report.layers.as_ref().filter(|layers| !layers.values.is_empty()) {
            self.errors_by_depth(layers);
        }
        if let Some(half) = &report.half {
            self.half(half);
        }
        for points in report.points.iter().filter(|points| !points.pairs.is_empty()) {
            self.scatter(points);
            self.worst_samples(points);
        }
        self.add("</section>\n");
    }

    fn errors_by_depth(&mut self, layers: &Layers) {
        let deepest = layers.values.iter().map(|v| v.depth).max().unwrap_or(1).max(1) as f64;
        let x = |depth: usize| LEFT + (WIDTH - LEFT - MARGIN) * depth as f64 / deepest;
        let y = |share: f64| {
            let power = if share > 0.0 { share.log10().clamp(LOWEST, HIGHEST) } else { LOWEST };
            vertical((power - LOWEST) / (HIGHEST - LOWEST))
        };
        self.add("<h3>Error by depth</h3>\n<p class=\"dim\">Each point is a value that both models compute: its largest difference \
                  relative to its spread, over the number of nodes on the longest way to it. What is equal to the last bit lies on \
                  the ground line; pale points are values across which passes moved a factor or a sum, so that only what is made \
                  from them is the same.</p>\n");
        self.open_chart("error by depth", "errors");
        for power in [-8, -6, -4, -2, 0] {
            let at = y(10_f64.powi(power));
            self.line((LEFT, at), (WIDTH - MARGIN, at), "grid");
            self.label((LEFT - 6.0, at + 4.0), "end", &format!("1e{power}"));
        }
        let limit = y(layers.limit);
        self.line((LEFT, limit), (WIDTH - MARGIN, limit), "limit");
        self.label((WIDTH - MARGIN, limit - 4.0), "end", "limit");
        let mut borders: Vec<(usize, usize)> = Vec::new();
        for value in &layers.values {
            if let Some(layer) = value.layer
                && borders.iter().all(|&(known, _)| known != layer)
            {
                borders.push((layer, value.depth));
            }
        }
        for (layer, depth) in &borders {
            self.line((x(*depth), MARGIN), (x(*depth), HEIGHT - BOTTOM), "layer");
            if borders.len() <= 16 || layer % 4 == 0 {
                self.label((x(*depth) + 2.0, HEIGHT - BOTTOM + 14.0), "start", &layer.to_string());
            }
        }
        self.label((LEFT, HEIGHT - 4.0), "start", "layer, by depth");
        for value in &layers.values {
            let class = match value {
                value if value.moved => "moved",
                value if layers.is_beyond(value) => "beyond",
                _ => "",
            };
            let share = if value.not_finite > 0 { f64::INFINITY } else { value.relative };
            let shown =
                format!("{}\n{} of the spread {:.3}", value.node, short(share), value.spread);
            self.point((x(value.depth), y(share)), class, &shown);
        }
        self.close_chart();
        let mut worst: Vec<_> = layers.values.iter().filter(|value| !value.moved).collect();
        worst.sort_by(|a, b| {
            b.not_finite.cmp(&a.not_finite).then(b.relative.total_cmp(&a.relative))
        });
        self.add("<details class=\"more\"><summary>The values that are furthest off</summary><div class=\"scroll\"><table>\n\
                  <thead><tr><th class=\"n\">depth</th><th class=\"n\">layer</th><th>node</th><th>pass</th>\
                  <th class=\"n\">of spread</th><th class=\"n\">max |Δ|</th></tr></thead>\n<tbody>\n");
        for value in worst.into_iter().take(20) {
            self.add(format_args!(
                "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"path\"><code>{}</code></td><td>{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
                value.depth,
                value.layer.map_or_else(|| "–".to_owned(), |layer| layer.to_string()),
                Text(&value.node),
                Text(value.pass.as_deref().unwrap_or("")),
                short(value.relative),
                short(value.max_difference),
            ));
        }
        self.add("</tbody></table></div></details>\n");
    }

    fn half(&mut self, half: &Half) {
        self.add("<h3>In float16</h3>\n<p>");
        if half.clean {
            self.badge("good", "nothing overflows, and the outputs stay within the limit");
        } else {
            self.badge("bad", "float16 does not hold what the model computes");
        }
        self.add(format_args!("</p>\n<p class=\"dim\">{}.</p>\n", Text(half.note)));
        let all: Vec<(&str, &Trouble)> = [
            ("beyond ±65504", &half.overflows),
            ("no number", &half.not_numbers),
            ("infinite in float32", &half.infinite),
        ]
        .into_iter()
        .flat_map(|(what, troubles)| troubles.iter().map(move |trouble| (what, trouble)))
        .collect();
        if all.is_empty() {
            return;
        }
        let open = "<div class=\"scroll\"><table>\n<thead><tr><th>what</th><th>value</th><th>made by</th>\
                    <th class=\"n\">elements</th><th class=\"n\">largest</th></tr></thead>\n<tbody>\n";
        self.folded(&all, "values", open, "</tbody></table></div>\n", |page, (what, trouble)| {
            page.add(format_args!(
                "<tr><td>{what}</td><td class=\"path\"><code>{}</code></td><td class=\"path\"><code>{}</code></td>\
                 <td class=\"n\">{}</td><td class=\"n\">{:.3e}</td></tr>\n",
                Text(&trouble.value),
                Text(trouble.node.as_deref().unwrap_or("constant or input")),
                trouble.elements,
                trouble.largest,
            ));
        });
    }

    fn scatter(&mut self, points: &Points) {
        let all = || points.pairs.iter().flat_map(|&(b, a)| [b, a]);
        let (low, high) =
            (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
        let extent = if high > low { high - low } else { 1.0 };
        let share = |n: f64| (n - low) / extent;
        let x = |n: f64| LEFT + (WIDTH - LEFT - MARGIN) * share(n);
        let y = |n: f64| vertical(share(n));
        self.add(format_args!(
            "<h3>Numbers of <code>{}</code>, before and after</h3>\n<p class=\"dim\">On the line both models give the same.</p>\n",
            Text(&points.output)
        ));
        self.open_chart("outputs before and after", "scatter");
        self.line((LEFT, vertical(0.0)), (WIDTH - MARGIN, vertical(0.0)), "grid");
        self.line((LEFT, vertical(0.0)), (LEFT, MARGIN), "grid");
        self.line((x(low), y(low)), (x(high), y(high)), "limit");
        for n in [low, f64::midpoint(low, high), high] {
            self.label((LEFT - 6.0, y(n) + 4.0), "end", &format!("{n:.2}"));
            self.label((x(n), HEIGHT - BOTTOM + 14.0), "middle", &format!("{n:.2}"));
        }
        self.label((WIDTH - MARGIN, HEIGHT - 4.0), "end", "before");
        self.label((LEFT + 8.0, MARGIN + 4.0), "start", "after");
        for &(before, after) in &points.pairs {
            self.point((x(before), y(after)), "", &format!("{before:e} became {after:e}"));
        }
        self.close_chart();
    }

    fn worst_samples(&mut self, points: &Points) {
        self.add("<h3>The samples that are furthest off</h3>\n<div class=\"scroll\"><table>\n<thead><tr><th class=\"n\">run</th>\
                  <th>sample</th><th class=\"n\">max |Δ|</th><th class=\"n\">of spread</th><th class=\"n\">largest number at</th>\
                  </tr></thead>\n<tbody>\n");
        for sample in &points.worst {
            let largest = match sample.largest {
                Some((before, after)) if before == after => before.to_string(),
                Some((before, after)) => format!("{before} → {after}"),
                None => "–".to_owned(),
            };
            self.add(format_args!(
                "<tr><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{largest}</td></tr>\n",
                sample.run,
                Text(&sample.what),
                short(sample.max_difference),
                short(sample.relative),
            ));
        }
        self.add("</tbody></table></div>\n");
    }

    fn open_chart(&mut self, what: &str, class: &str) {
        self.add(format_args!(
            "<figure class=\"chart\"><svg class=\"{class}\" role=\"img\" aria-label=\"{what}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\">\n"
        ));
    }

    fn close_chart(&mut self) {
        self.add("</svg></figure>\n");
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        self.add(format_args!(
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>\n",
            from.0, from.1, to.0, to.1
        ));
    }

    fn label(&mut self, (x, y): (f64, f64), anchor: &str, text: &str) {
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{anchor}\">{}</text>\n",
            Text(text)
        ));
    }

    fn point(&mut self, (x, y): (f64, f64), class: &str, what: &str) {
        self.add(format_args!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"><title>{}</title></circle>\n",
            Text(what)
        ));
    }
}

/// The place on the vertical axis of a share of it.
fn vertical(share: f64) -> f64 {
    HEIGHT - BOTTOM - (HEIGHT - BOTTOM - MARGIN) * share
}

fn short(number: f64) -> String {
    if number == 0.0 { "0".to_owned() } else { format!("{number:.1e}") }
}
