//! The report as one page that stands on its own: no network, no other file.
//!
//! Everything but the graphs is in the page before its script runs. The graphs come as data; the script lays out and draws
//! what is looked at.

mod drawing;
mod layers;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};

use onnxfix_ascend::cost::{Interval, NodeCost, Prediction, Unit};
use onnxfix_ascend::finding::{Finding, Severity};
use onnxfix_passes::{PassInfo, PassStats, find};

pub use drawing::Drawing;
use drawing::Kind;
pub(crate) use drawing::layers_of;
pub(crate) use verify::verification_page;

use super::{Both, Report, Summary, bytes};

const CSS: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Rows of a table or chart that are open at once; the others are one click away.
const OPEN_ROWS: usize = 16;

impl Report {
    /// A page that stands on its own.
    #[must_use]
    pub fn html(&self) -> String {
        let mut page = Page::default();
        let name = self.model.file_name().unwrap_or_default().to_string_lossy();
        page.begin(&name);
        self.head(&mut page, &name);
        page.add("<main>\n");
        self.summary(&mut page);
        self.notes(&mut page);
        self.operators(&mut page);
        self.passes_table(&mut page);
        if let Some(findings) = &self.findings {
            page.findings(findings);
        }
        page.costs(&self.cost);
        if let Some(graphs) = &self.graphs {
            page.graphs(graphs);
        }
        self.verification(&mut page);
        page.add("</main>\n");
        if self.graphs.is_some() {
            page.add(format_args!("<script>\n{SCRIPT}</script>\n"));
        }
        page.add("</body>\n</html>\n");
        page.0
    }

    fn head(&self, page: &mut Page, name: &str) {
        let output = self
            .output
            .as_ref()
            .map_or_else(|| "nothing written (dry run)".into(), |p| p.display().to_string());
        page.add(format_args!(
            "<header>\n<p class=\"brand\">onnxfix {}</p>\n<h1>{}</h1>\n<p class=\"paths\"><code>{}</code> \
             <span aria-hidden=\"true\">→</span> <code>{}</code></p>\n<p class=\"badges\">",
            self.onnxfix,
            Text(name),
            Text(&self.model.display().to_string()),
            Text(&output),
        ));
        page.badge("", &format!("target {}", self.target));
        page.badge("", &format!("{:.2} s", self.seconds));
        match self.verify.as_ref().map(|report| report.equal) {
            Some(true) => page.badge("good", "verified equal on the CPU"),
            Some(false) => page.badge("bad", "differs from its source"),
            None => page.badge("", "not verified in this run"),
        }
        page.add("</p>\n<nav>");
        let sections = [
            ("summary", "Summary", true),
            ("operators", "Operators", true),
            ("passes", "Passes", true),
            ("findings", "Findings", self.findings.is_some()),
            ("cost", "Cost", self.cost.before.is_some() || self.cost.after.is_some()),
            ("graph", "Graph", self.graphs.is_some()),
            ("verify", "Verification", self.verify.is_some()),
        ];
        for (id, title, _) in sections.into_iter().filter(|(.., there)| *there) {
            page.add(format_args!("<a href=\"#{id}\">{title}</a>"));
        }
        page.add("</nav>\n</header>\n");
    }

    fn summary(&self, page: &mut Page) {
        let (b, a) = (&self.before, &self.after);
        page.section("summary", "Summary");
        page.add("<div class=\"tiles\">\n");
        page.tile("nodes", &b.nodes.to_string(), &a.nodes.to_string());
        page.tile("kinds of operators", &b.ops.len().to_string(), &a.ops.len().to_string());
        page.tile("constants", &b.constants.to_string(), &a.constants.to_string());
        page.tile("bytes of constants", &bytes(b.constant_bytes), &bytes(a.constant_bytes));
        if let (Some(b), Some(a)) = (&self.cost.before, &self.cost.after) {
            page.tile("predicted time", &ms(b.time.likely), &ms(a.time.likely));
        }
        if let Some(Both { before, after }) = &self.findings {
            let bad = |findings: &[Finding]| {
                findings.iter().filter(|f| f.severity > Severity::Note).count().to_string()
            };
            page.tile("errors and warnings", &bad(before), &bad(after));
        }
        page.add("</div>\n<div class=\"scroll\"><table>\n<thead><tr><th></th><th>before</th><th>after</th></tr></thead>\n<tbody>\n");
        for (what, b, a) in [("inputs", &b.inputs, &a.inputs), ("outputs", &b.outputs, &a.outputs)]
        {
            page.add(format_args!(
                "<tr><th scope=\"row\">{what}</th><td>{}</td><td>{}</td></tr>\n",
                Lines(b),
                Lines(a)
            ));
        }
        page.add("</tbody></table></div>\n</section>\n");
    }

    fn notes(&self, page: &mut Page) {
        if self.passes.notes.is_empty() && self.load_warnings.is_empty() {
            return;
        }
        page.section("notes", "Notes");
        page.add("<ul class=\"notes\">\n");
        for warning in &self.load_warnings {
            page.add(format_args!("<li class=\"warning\">{}</li>\n", Text(warning)));
        }
        for note in &self.passes.notes {
            let class = if note.warning { "warning" } else { "note" };
            let (pass, text) = (note.pass, Text(&note.text));
            page.add(format_args!("<li class=\"{class}\"><code>{pass}</code> {text}</li>\n"));
        }
        page.add("</ul>\n</section>\n");
    }

    fn operators(&self, page: &mut Page) {
        let (b, a) = (&self.before, &self.after);
        let count = |s: &Summary, op: &str| s.ops.get(op).copied().unwrap_or(0);
        let mut ops: Vec<&String> = b.ops.keys().chain(a.ops.keys()).collect();
        ops.sort_unstable();
        ops.dedup();
        ops.sort_by_key(|op| std::cmp::Reverse(count(b, op).max(count(a, op))));
        let most = ops.first().map_or(1, |op| count(b, op).max(count(a, op)));
        page.section("operators", "Operators");
        page.add(
            "<p class=\"legend\"><span class=\"key\"><span class=\"swatch was\"></span>before</span> <span class=\"key\"><span class=\"swatch is\"></span>after</span></p>\n",
        );
        page.folded(&ops, "operators", "<div class=\"bars\">\n", "</div>\n", |page, op| {
            let (b, a) = (count(b, op), count(a, op));
            let share = |n: usize| 100.0 * n as f64 / most as f64;
            let gone = if a == 0 { " gone" } else { "" };
            page.add(format_args!(
                "<div class=\"bar{gone}\"><span class=\"op\"><i class=\"dot {}\"></i>{}</span>\
                 <span class=\"track\"><span class=\"was\" style=\"width:{:.2}%\"></span>\
                 <span class=\"is\" style=\"width:{:.2}%\"></span></span>\
                 <span class=\"counts\">{b} → {a}</span></div>\n",
                Kind::of(op).class(),
                Text(op),
                share(b),
                share(a),
            ));
        });
        page.add("</section>\n");
    }

    fn passes_table(&self, page: &mut Page) {
        let passes = &self.passes;
        let changed = |p: &&PassStats| p.rewrites > 0 || self.ops_by_pass.contains_key(p.pass);
        let (fired, idle): (Vec<&PassStats>, Vec<&PassStats>) =
            passes.passes.iter().partition(changed);
        let longest = fired.iter().map(|p| p.time.as_secs_f64()).fold(f64::MIN_POSITIVE, f64::max);
        page.section("passes", "Passes");
        page.add(format_args!(
            "<p>{} of {} passes changed something, in {} sweeps over all of them. In the order in which they run; \
             open one for its reason.</p>\n",
            fired.len(),
            passes.passes.len(),
            passes.sweeps
        ));
        page.add(
            "<div class=\"scroll\"><table class=\"passes\">\n<thead><tr><th>pass</th><th class=\"n\">rewrites</th>\
             <th class=\"n\">nodes</th><th>operators</th><th class=\"n\">time</th></tr></thead>\n<tbody>\n",
        );
        for pass in fired {
            let none = BTreeMap::new();
            let ops = self.ops_by_pass.get(pass.pass).unwrap_or(&none);
            let seconds = pass.time.as_secs_f64();
            page.add("<tr><td>");
            page.pass_page(pass.pass);
            page.add(format_args!(
                "</td><td class=\"n\" data-label=\"rewrites\">{}</td><td class=\"n\" data-label=\"nodes\">{}</td>\
                 <td class=\"ops\">{}</td><td class=\"n time\" data-label=\"time\"><span class=\"meter\" style=\"width:{:.1}%\"></span>{}</td></tr>\n",
                pass.rewrites,
                Signed(ops.values().sum()),
                Deltas(ops),
                100.0 * seconds / longest,
                ms(seconds * 1e6),
            ));
        }
        page.add("</tbody></table></div>\n");
        if !idle.is_empty() {
            let names: Vec<String> =
                idle.iter().map(|p| format!("<code>{}</code>", p.pass)).collect();
            page.add(format_args!(
                "<details class=\"more\"><summary>{} found nothing to do</summary><p class=\"names\">{}</p></details>\n",
                idle.len(),
                names.join(" ")
            ));
        }
        page.add("</section>\n");
    }

    fn verification(&self, page: &mut Page) {
        let Some(report) = &self.verify else { return };
        page.comparison(report);
    }
}

/// A page that is being written.
#[derive(Default)]
struct Page(String);

impl Page {
    fn add(&mut self, text: impl Display) {
        // Writing to a String cannot fail.
        let _ok = write!(self.0, "{text}");
    }

    fn section(&mut self, id: &str, title: &str) {
        self.add(format_args!("<section id=\"{id}\">\n<h2>{title}</h2>\n"));
    }

    fn badge(&mut self, class: &str, text: &str) {
        self.add(format_args!("<span class=\"badge {class}\">{}</span> ", Text(text)));
    }

    fn tile(&mut self, what: &str, before: &str, after: &str) {
        self.add(format_args!(
            "<div class=\"tile\"><span class=\"what\">{what}</span><span class=\"after\">{after}</span>\
             <span class=\"before\">was {before}</span></div>\n"
        ));
    }

    /// Items between `open` and `close`, the first ones in sight and the others folded.
    fn folded<T>(
        &mut self,
        items: &[T],
        what: &str,
        open: &str,
        close: &str,
        mut item: impl FnMut(&mut Page, &T),
    ) {
        // One or two folded rows would hide less than the line that says so takes.
        let first = if items.len() > OPEN_ROWS + 2 { OPEN_ROWS } else { items.len() };
        let (first, rest) = items.split_at(first);
        self.add(open);
        for one in first {
            item(self, one);
        }
        self.add(close);
        if !rest.is_empty() {
            self.add(format_args!(
                "<details class=\"more\"><summary>{} more {what}</summary>\n{open}",
                rest.len()
            ));
            for one in rest {
                item(self, one);
            }
            self.add(format_args!("{close}</details>\n"));
        }
    }

    /// Name, summary and reason of a pass.
    fn pass_page(&mut self, name: &str) {
        let Ok(pass) = find(name) else {
            self.add(format_args!("<code>{}</code>", Text(name)));
            return;
        };
        let info = pass.info();
        self.add(format_args!(
            "<details><summary><code>{name}</code> <span class=\"summary\">{}</span></summary>\
             <p>{}</p><p class=\"dim\">Group: {}. Numerics: {}.</p></details>",
            Marked(&info.summary()),
            Marked(&why(info)),
            info.group,
            info.numerics
        ));
    }

    fn findings(&mut self, Both { before, after }: &Both<Vec<Finding>>) {
        self.section("findings", "What the target says to it");
        self.add("<div class=\"pair\">\n");
        for (title, findings) in [("before", before), ("after", after)] {
            let mut sorted: Vec<&Finding> = findings.iter().collect();
            sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
            self.add(format_args!("<div><h3>{title}</h3>\n"));
            if sorted.is_empty() {
                self.add("<p class=\"dim\">Nothing.</p>\n");
            }
            self.folded(&sorted, "findings", "<ul class=\"findings\">\n", "</ul>\n", |page, f| {
                page.finding(f);
            });
            self.add("</div>\n");
        }
        self.add("</div>\n</section>\n");
    }

    fn finding(&mut self, finding: &Finding) {
        const PLACES: usize = 4;
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        self.add(format_args!(
            "<li class=\"{severity}\"><span class=\"severity\">{severity}</span> <code>{}</code> {}\
             <details><summary>why, and where</summary><p>{}</p>",
            finding.code,
            Text(&finding.what),
            Text(&finding.why)
        ));
        if let Some(pass) = finding.pass {
            self.add(format_args!("<p>Mended by <code>{pass}</code>.</p>"));
        }
        if !finding.at.is_empty() {
            let places: Vec<String> = finding
                .at
                .iter()
                .take(PLACES)
                .map(|p| format!("<code>{}</code>", Text(p)))
                .collect();
            let more = finding.at.len().saturating_sub(PLACES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            self.add(format_args!("<p class=\"names\">At {}{more}.</p>", places.join(" ")));
        }
        let how = if finding.confirmed { "" } else { " (concluded, not stated there)" };
        self.add(format_args!(
            "<p class=\"dim\">Source: {}{how}</p></details></li>\n",
            Text(&finding.source)
        ));
    }

    fn costs(&mut self, Both { before, after }: &Both<Option<Prediction>>) {
        let there: Vec<(&str, &Prediction)> = [("before", before), ("after", after)]
            .into_iter()
            .filter_map(|(title, prediction)| Some((title, prediction.as_ref()?)))
            .collect();
        let Some((_, last)) = there.last() else { return };
        self.section("cost", "Predicted cost");
        self.add(
            "<div class=\"scroll\"><table>\n<thead><tr><th></th><th class=\"n\">one run</th><th class=\"n\">samples per \
             second</th><th>chip</th></tr></thead>\n<tbody>\n",
        );
        for (title, p) in &there {
            self.add(format_args!(
                "<tr><th scope=\"row\">{title}</th><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td>{}, batch {}</td></tr>\n",
                Range(&p.time, ms),
                Range(&p.fps, |fps| format!("{fps:.0}")),
                Text(&p.soc),
                p.batch
            ));
        }
        self.add("</tbody></table></div>\n<p class=\"legend\">");
        for (class, name) in UNITS.map(|(_, class, name)| (class, name)) {
            self.add(format_args!(
                "<span class=\"key\"><span class=\"swatch {class}\"></span>{name}</span> "
            ));
        }
        self.add("</p>\n");
        self.cost_chart(&there);
        self.dearest(last);
        self.add("<details class=\"more\"><summary>What the prediction takes for granted</summary><ul>\n");
        for assumption in &last.assumptions {
            self.add(format_args!("<li>{}</li>\n", Text(assumption)));
        }
        self.add("</ul></details>\n</section>\n");
    }

    /// Time of each layer, a bar for each model, cut into the units that it is spent in.
    fn cost_chart(&mut self, predictions: &[(&str, &Prediction)]) {
        let layers: Vec<BTreeMap<Option<usize>, BTreeMap<Unit, f64>>> =
            predictions.iter().map(|(_, p)| by_layer(&p.nodes)).collect();
        let all = layers.iter().flat_map(BTreeMap::values);
        let most = all.map(|units| units.values().sum()).fold(f64::MIN_POSITIVE, f64::max);
        let mut keys: Vec<Option<usize>> =
            layers.iter().flat_map(BTreeMap::keys).copied().collect();
        keys.sort_unstable();
        keys.dedup();
        self.add("<div class=\"bars cost\">\n");
        for key in keys {
            let label = key.map_or_else(|| "outside of layers".into(), |l| format!("layer {l}"));
            self.add(format_args!(
                "<div class=\"bar\"><span class=\"op\">{label}</span><span class=\"track\">"
            ));
            for ((title, _), layers) in predictions.iter().zip(&layers) {
                self.add(format_args!("<span class=\"stack {title}\">"));
                for (unit, time) in layers.get(&key).into_iter().flatten() {
                    let (class, name) = unit_names(*unit);
                    self.add(format_args!(
                        "<span class=\"{class}\" style=\"width:{:.2}%\" title=\"{title}: {name} {}\"></span>",
                        100.0 * time / most,
                        ms(*time)
                    ));
                }
                self.add("</span>");
            }
            let sum = |layers: &BTreeMap<_, BTreeMap<Unit, f64>>| {
                layers.get(&key).map_or_else(|| "–".into(), |units| ms(units.values().sum()))
            };
            let sums: Vec<String> = layers.iter().map(sum).collect();
            self.add(format_args!(
                "</span><span class=\"counts\">{}</span></div>\n",
                sums.join(" → ")
            ));
        }
        self.add("</div>\n");
    }

    /// The nodes that take most of the time.
    fn dearest(&mut self, prediction: &Prediction) {
        const SHOWN: usize = 10;
        let mut nodes: Vec<&NodeCost> = prediction.nodes.iter().collect();
        nodes.sort_by(|a, b| b.total.total_cmp(&a.total));
        self.add(
            "<h3>The dearest nodes after all passes</h3>\n<div class=\"scroll\"><table>\n<thead><tr><th>node</th><th>operator</th>\
             <th>unit</th><th class=\"n\">computing</th><th class=\"n\">moving</th><th class=\"n\">starting</th>\
             <th class=\"n\">all</th></tr></thead>\n<tbody>\n",
        );
        for node in nodes.into_iter().take(SHOWN) {
            self.add(format_args!(
                "<tr><td class=\"path\"><code>{}</code></td><td>{}</td><td>{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
                Text(&node.node),
                Text(&node.op),
                unit_names(node.unit).1,
                ms(node.compute),
                ms(node.memory),
                ms(node.overhead),
                ms(node.total)
            ));
        }
        self.add("</tbody></table></div>\n");
    }

    fn graphs(&mut self, graphs: &Both<Drawing>) {
        self.section("graph", "Graph");
        self.add("<p class=\"legend\">");
        for (_, class, name) in Kind::ALL {
            self.add(format_args!(
                "<span class=\"key\"><span class=\"swatch {class}\"></span>{name}</span> "
            ));
        }
        self.add(
            "</p>\n<p class=\"dim\">Drag to move; click and scroll, or pinch, to zoom; point at a node for its types. A dot says that a \
             constant is read; a dashed node belongs to another part.</p>\n\
             <noscript><p class=\"warning\">Drawing the graph needs JavaScript.</p></noscript>\n<div class=\"pair graphs\">\n",
        );
        for title in ["before", "after"] {
            self.add(format_args!(
                "<figure class=\"graph\" data-side=\"{title}\"><figcaption><b>{title}</b> \
                 <label>part <select></select></label>\
                 <span class=\"zoom\"><button type=\"button\" data-zoom=\"in\" aria-label=\"zoom in\">+</button>\
                 <button type=\"button\" data-zoom=\"out\" aria-label=\"zoom out\">−</button>\
                 <button type=\"button\" data-zoom=\"fit\">fit</button></span></figcaption>\
                 <svg role=\"img\" aria-label=\"graph {title}\" tabindex=\"0\"></svg></figure>\n"
            ));
        }
        self.add("</div>\n<div id=\"tip\" hidden=\"hidden\"></div>\n<script type=\"application/json\" id=\"graphs\">");
        // A type or a name must not end the element. The data is made of numbers and texts, so there is no error.
        let data = serde_json::to_string(graphs).unwrap_or_else(|_| "null".into());
        self.add(data.replace('<', "\\u003c"));
        self.add("</script>\n</section>\n");
    }
}

/// The section of a pass's page that says what it is good for, as one paragraph.
fn why(info: &PassInfo) -> String {
    let section = info.doc.split("## Why ATC needs it\n").nth(1).unwrap_or("");
    let section = section.split("\n ## ").next().unwrap_or("");
    section.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Units with their classes and names.
const UNITS: [(Unit, &str, &str); 5] = [
    (Unit::Cube, "cube", "matrix unit"),
    (Unit::Vector, "vector", "vector unit"),
    (Unit::Scalar, "scalar", "one by one"),
    (Unit::AiCpu, "aicpu", "AI CPU"),
    (Unit::None, "none", "nothing"),
];

fn unit_names(unit: Unit) -> (&'static str, &'static str) {
    UNITS.iter().find(|(u, ..)| *u == unit).map_or(("none", ""), |&(_, class, name)| (class, name))
}

fn by_layer(nodes: &[NodeCost]) -> BTreeMap<Option<usize>, BTreeMap<Unit, f64>> {
    let mut layers: BTreeMap<_, BTreeMap<_, f64>> = BTreeMap::new();
    for node in nodes {
        *layers.entry(node.layer).or_default().entry(node.unit).or_default() += node.total;
    }
    layers
}

/// Microseconds for people.
fn ms(microseconds: f64) -> String {
    match microseconds {
        us if us >= 1e6 => format!("{:.2} s", us / 1e6),
        us if us >= 1e4 => format!("{:.1} ms", us / 1e3),
        us if us >= 1e3 => format!("{:.2} ms", us / 1e3),
        us if us >= 10.0 => format!("{us:.0} µs"),
        us => format!("{us:.1} µs"),
    }
}

/// Text of an element or attribute.
pub(crate) struct Text<'a>(pub(crate) &'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                // Names may hold what no page may.
                c if c.is_control() && c != '\n' && c != '\t' => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Text with code between backticks, as pages of passes have.
struct Marked<'a>(&'a str);

impl Display for Marked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.0.split('`').enumerate() {
            if i % 2 == 1 {
                write!(f, "<code>{}</code>", Text(part))?;
            } else {
                Text(part).fmt(f)?;
            }
        }
        Ok(())
    }
}

/// One code to a line.
struct Lines<'a>(&'a [String]);

impl Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.0.iter().enumerate() {
            write!(f, "{}<code>{}</code>", if i == 0 { "" } else { "<br/>" }, Text(item))?;
        }
        Ok(())
    }
}

/// A change of a number.
struct Signed(i64);

impl Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            n if n > 0 => write!(f, "<span class=\"more\">+{n}</span>"),
            n => write!(f, "<span class=\"less\">−{}</span>", n.unsigned_abs()),
        }
    }
}

/// The largest changes of the numbers of operators.
struct Deltas<'a>(&'a BTreeMap<String, i64>);

impl Display for Deltas<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        let mut ops: Vec<(&String, i64)> = self.0.iter().map(|(op, &n)| (op, n)).collect();
        ops.sort_by_key(|&(_, n)| std::cmp::Reverse(n.unsigned_abs()));
        for (op, n) in ops.iter().take(SHOWN) {
            write!(f, "<span class=\"delta\">{} {}</span> ", Text(op), Signed(*n))?;
        }
        if ops.len() > SHOWN {
            write!(f, "<span class=\"dim\">and {} more</span>", ops.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// The best guess with the interval around it.
struct Range<'a>(&'a Interval, fn(f64) -> String);

impl Display for Range<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range(Interval { low, likely, high }, show) = self;
        let (low, likely, high) = (show(*low), show(*likely), show(*high));
        write!(f, "<b>{likely}</b> <span class=\"dim\">({low} to {high})</span>")
    }
}
