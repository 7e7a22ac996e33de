//! inline-functions

use hashbrown::HashMap;
use onnxfix_ir::{Attrs, GraphId, Model, NodeId, op};

use crate::{Changed, Documented, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Replaces a call of a model-local function by the function's nodes.
    ///
    /// ## Why ATC needs it
    /// Its ONNX parser knows operators, not functions; and no other pass sees through a call.
    ///
    /// ## Before
    /// ```onnx
    /// <ir_version: 8, opset_import: ["" : 13, "local" : 1]>
    /// g (float[2] x) => (float[2] y) { y = local.twice (x) }
    /// <domain: "local", opset_import: ["" : 13]>
    /// twice (a) => (b) { b = Add (a, a) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) { y = Add (x, x) }
    /// ```
    ///
    /// ## Applies when
    /// - The model defines a function of the node's domain, name and overload.
    /// - The function was written for the operator-set versions that the model imports.
    /// - What all calls come to is not too large: functions that call each other twice and twice again fill any memory.
    ///
    /// ## Numerics
    /// Exact.
    pub InlineFunctions = "inline-functions", Specialise, Exact
}

/// The most nodes that all calls together may come to.
const MAX_NODES: u64 = 1 << 20;
/// Bodies within bodies that calls may come to: readers of the format follow 100 messages, and a body takes three.
const MAX_DEPTH: u32 = 24;
/// Functions that call functions, one within the other: they are looked at recursively.
const MAX_CALLS: u32 = 256;

impl Pass for InlineFunctions {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let callees = Callees::of(model);
        if callees.0.is_empty() {
            return Ok(Changed::No);
        }
        let mut sizes = Sizes { model, callees: &callees, done: HashMap::new(), calls: 0 };
        let size = sizes.graph(model.root());
        if size.is_none_or(|size| size.nodes > MAX_NODES || size.depth > MAX_DEPTH) {
            let why = match size {
                None => "a function calls itself, or calls are nested too deep".to_owned(),
                Some(Size { nodes, depth }) => {
                    format!("the calls come to {nodes} nodes, {depth} bodies deep")
                }
            };
            cx.note(InlineFunctions.info().name, format!("the functions stay: {why}"));
            return Ok(Changed::No);
        }
        let mut changed = false;
        // Functions call each other, and never themselves, so the number of rounds is bounded by theirs.
        loop {
            let mut found = false;
            for node in calls(model, &callees) {
                found |= inline(model, node, &callees, cx);
            }
            changed |= found;
            if !found {
                break;
            }
        }
        if changed && calls(model, &callees).is_empty() {
            for function in std::mem::take(&mut model.functions) {
                model.remove_graph(function.body);
            }
        }
        Ok(changed.into())
    }
}

/// The functions of a model by domain, name and overload: their positions.
struct Callees(HashMap<(String, String, String), usize>);

impl Callees {
    fn of(model: &Model) -> Callees {
        let text = |name: Option<&str>| name.unwrap_or("").to_owned();
        let key = |f: &onnxfix_ir::Function| {
            let domain = op::normal_domain(f.domain.as_deref().unwrap_or("")).to_owned();
            (domain, f.name.to_string(), text(f.overload.as_deref()))
        };
        // The first of a name holds.
        let all = model.functions.iter().enumerate().rev();
        Callees(all.map(|(at, f)| (key(f), at)).collect())
    }

    /// Position of the function that a node calls.
    fn get(&self, model: &Model, node: NodeId) -> Option<usize> {
        let n = &model[node];
        let overload = n.overload.as_deref().unwrap_or("").to_owned();
        self.0.get(&(n.op().domain().to_owned(), n.op().name.to_string(), overload)).copied()
    }
}

/// What a graph comes to once all calls in it are inlined.
#[derive(Debug, Clone, Copy)]
struct Size {
    nodes: u64,
    /// Bodies within bodies.
    depth: u32,
}

struct Sizes<'a> {
    model: &'a Model,
    callees: &'a Callees,
    /// Sizes of functions by position; none while they are looked at, and for those that call themselves.
    done: HashMap<usize, Option<Size>>,
    /// Functions that are being looked at.
    calls: u32,
}

impl Sizes<'_> {
    /// None when a function calls itself, or calls are nested too deep to follow.
    fn graph(&mut self, graph: GraphId) -> Option<Size> {
        let mut todo = vec![(graph, 0)];
        let mut sum = Size { nodes: 0, depth: 0 };
        while let Some((graph, depth)) = todo.pop() {
            sum.depth = sum.depth.max(depth);
            for node in self.model.nodes(graph) {
                todo.extend(self.model[node].attrs.graphs().map(|(_, body)| (body, depth + 1)));
                let callee = match self.callees.get(self.model, node) {
                    Some(at) => self.function(at)?,
                    None => Size { nodes: 1, depth: 0 },
                };
                sum.nodes = sum.nodes.saturating_add(callee.nodes);
                sum.depth = sum.depth.max(depth + callee.depth);
            }
        }
        Some(sum)
    }

    fn function(&mut self, at: usize) -> Option<Size> {
        if let Some(&size) = self.done.get(&at) {
            return size;
        }
        self.done.insert(at, None);
        if self.calls == MAX_CALLS {
            return None;
        }
        self.calls += 1;
        let size = self.graph(self.model.functions[at].body);
        self.calls -= 1;
        self.done.insert(at, size);
        size
    }
}

/// Calls of functions outside of function bodies.
fn calls(model: &Model, callees: &Callees) -> Vec<NodeId> {
    let root = model.root();
    let callers = model.all_nodes().filter(|(_, n)| model.outermost(n.graph()) == root);
    callers.filter(|(id, _)| callees.get(model, *id).is_some()).map(|(id, _)| id).collect()
}

fn inline(model: &mut Model, node: NodeId, callees: &Callees, cx: &mut PassCx<'_>) -> bool {
    let Some(at) = callees.get(model, node) else { return false };
    let function = model.functions[at].clone();
    for opset in &function.opsets {
        let domain = op::normal_domain(opset.domain.as_deref().unwrap_or(""));
        match model.opset(model.root(), domain) {
            None => model.opsets.push(opset.clone()),
            Some(have) if Some(have) != opset.version => {
                let want = opset.version.unwrap_or(0);
                cx.note(
                    InlineFunctions.info().name,
                    format!("function {} stays: it was written for opset {want}, the model imports {have}", function.name),
                );
                return false;
            }
            Some(_) => {}
        }
    }
    if !cx.spend() {
        return false;
    }
    let mut call: Attrs = function.defaults.clone();
    for attr in &model[node].attrs.0 {
        call.set(&attr.name, attr.value.clone());
    }
    let args = model[node].inputs().to_vec();
    let graph = model[node].graph();
    let results = model.copy_body(function.body, graph, node, &args, &call);
    crate::replace_node(model, node, &results);
    true
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use crate::{Options, Pipeline, run};

    /// A graph that calls `local.f0`, and these functions.
    fn stays(functions: &str, why: &str) {
        let header = r#"<ir_version: 8, opset_import: ["" : 13, "local" : 1]>"#;
        let text = format!("{header} g (x) => (y) {{ y = local.f0 (x) }} {functions}");
        let mut model = onnxfix_ir::text::parse(&text).expect("a model");
        let pipeline = Pipeline::of(&["inline-functions"]).expect("a pass");
        let report = run(&mut model, &pipeline, &Options::default(), &mut |_, _| ()).expect("runs");
        assert_eq!(model.nodes(model.root()).count(), 1);
        assert!(report.notes[0].text.contains(why), "{}", report.notes[0].text);
    }

    fn function(name: &str, body: &str) -> String {
        let imports = r#"opset_import: ["" : 13, "local" : 1]"#;
        format!("<domain: \"local\", {imports}> {name} (a) => (c) {{ {body} }}\n")
    }

    #[test]
    fn functions_that_call_themselves() {
        stays(&function("f0", "c = local.f0 (a)"), "a function calls itself");
        let two = function("f0", "c = local.f1 (a)") + &function("f1", "c = local.f0 (a)");
        stays(&two, "a function calls itself");
    }

    /// 40 functions, each of which calls the next one twice.
    #[test]
    fn functions_that_fill_any_memory() {
        let mut functions = function("f40", "c = Relu (a)");
        for i in 0..40 {
            let body = format!("b = local.f{next} (a) c = local.f{next} (b)", next = i + 1);
            let _ = write!(functions, "{}", function(&format!("f{i}"), &body));
        }
        stays(&functions, "the calls come to 1099511627776 nodes");
    }

    #[test]
    fn functions_that_call_each_other_in_a_long_chain() {
        let mut functions = function("f10000", "c = Relu (a)");
        for i in 0..10_000 {
            functions += &function(&format!("f{i}"), &format!("c = local.f{} (a)", i + 1));
        }
        stays(&functions, "calls are nested too deep");
    }
}
