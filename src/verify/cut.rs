//! Cuts the part out of two models in which they differ.
//!
//! Both come from one pipeline, the second with one rewrite more, so all nodes but a few are the same on both sides: by
//! operator, attributes and the names of what they read and make. Those few, and as many of their readers as wanted, become
//! a model of their own. Whatever they read that depends on the inputs becomes an input, constants come along.

use std::collections::{BTreeSet, HashMap, HashSet};

use onnxfix_ir::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use onnxfix_ir::{LoadOptions, Model, TensorType, Type, from_proto, to_proto, type_to_proto};

/// Two models, as lists of nodes with what is alike in both.
pub(super) struct Pair {
    before: Side,
    after: Side,
}

/// Which nodes are cut out, and what goes in and comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region {
    before: BTreeSet<usize>,
    after: BTreeSet<usize>,
    /// Values that depend on the inputs of the whole model and that nodes of the region read.
    pub(super) inputs: Vec<String>,
    /// Values of the region that both models have and that nodes behind it read.
    pub(super) outputs: Vec<String>,
}

struct Side {
    proto: ModelProto,
    /// The node that makes each value.
    makers: HashMap<String, usize>,
    /// Values that depend on an input, other than by its shape.
    varying: HashSet<String>,
    /// Nodes that the other side does not have.
    changed: BTreeSet<usize>,
    /// For each of the others, where the other side has it.
    same: HashMap<usize, usize>,
}

impl Pair {
    /// Compares two models node by node.
    pub(super) fn new(before: &Model, after: &Model) -> Pair {
        let (mut b, mut a) = (Side::new(before), Side::new(after));
        let moved = constants_that_differ(&b, &a);
        let alike = |node: &NodeProto| -> Option<usize> {
            let made = node.output.iter().find(|name| !name.is_empty())?;
            let other = *a.makers.get(made)?;
            let same = bare(node) == bare(&a.nodes()[other]);
            (same && !reads(node).any(|name| moved.contains(name))).then_some(other)
        };
        let found: Vec<Option<usize>> = b.nodes().iter().map(alike).collect();
        for (at, other) in found.into_iter().enumerate() {
            match other {
                Some(other) => {
                    b.same.insert(at, other);
                    a.same.insert(other, at);
                }
                None => {
                    b.changed.insert(at);
                }
            }
        }
        a.changed = (0..a.nodes().len()).filter(|at| !a.same.contains_key(at)).collect();
        Pair { before: b, after: a }
    }

    /// Names of the nodes that only one of the models has: before, after.
    pub(super) fn changed(&self) -> (Vec<String>, Vec<String>) {
        let names =
            |side: &Side| side.changed.iter().map(|&at| describe(&side.nodes()[at])).collect();
        (names(&self.before), names(&self.after))
    }

    /// How many nodes the larger of the two has.
    pub(super) fn len(&self) -> usize {
        self.before.nodes().len().max(self.after.nodes().len())
    }

    /// The changed nodes, and so many steps of what reads them.
    pub(super) fn region(&self, steps: usize) -> Region {
        let (mut before, mut after) = (self.before.changed.clone(), self.after.changed.clone());
        for _ in 0..steps {
            let (more_before, more_after) =
                (self.before.readers(&before), self.after.readers(&after));
            before.extend(more_after.iter().filter_map(|at| self.after.same.get(at)));
            after.extend(more_before.iter().filter_map(|at| self.before.same.get(at)));
            before.extend(more_before);
            after.extend(more_after);
        }
        let (b, a) = (self.before.cut(&mut before), self.after.cut(&mut after));
        let made = |side: &Side, nodes: &BTreeSet<usize>| -> HashSet<String> {
            let made = nodes.iter().flat_map(|&at| side.nodes()[at].output.iter());
            made.filter(|name| !name.is_empty()).cloned().collect()
        };
        let (made_before, made_after) = (made(&self.before, &before), made(&self.after, &after));
        // What is an input on one side and made in the region of the other is an output of neither.
        let inputs: Vec<String> = b.union(&a).cloned().collect();
        let mut outputs: Vec<String> = made_before
            .intersection(&made_after)
            .filter(|name| {
                self.after.is_read_outside(name, &after)
                    || self.before.is_read_outside(name, &before)
            })
            .filter(|name| self.before.varying.contains(*name) && !inputs.contains(name))
            .cloned()
            .collect();
        outputs.sort();
        Region { before, after, inputs, outputs }
    }

    /// The region of both models, with these types of its inputs and outputs; else why it is no model.
    pub(super) fn cut(
        &self,
        region: &Region,
        inputs: &[TensorType],
        outputs: &[TensorType],
    ) -> Result<(Model, Model), String> {
        let one = |side: &Side, nodes| side.model(nodes, region, inputs, outputs);
        Ok((one(&self.before, &region.before)?, one(&self.after, &region.after)?))
    }
}

impl Side {
    fn new(model: &Model) -> Side {
        let proto = to_proto(model);
        let mut side = Side {
            proto,
            makers: HashMap::new(),
            varying: HashSet::new(),
            changed: BTreeSet::new(),
            same: HashMap::new(),
        };
        let constants: HashSet<String> =
            side.initializers().filter_map(|t| t.name.clone()).collect();
        let inputs = side.proto.graph.iter().flat_map(|graph| &graph.input);
        let names = inputs.filter_map(|input| input.name.clone());
        let mut varying: HashSet<String> = names.filter(|name| !constants.contains(name)).collect();
        let mut makers = HashMap::new();
        for (at, node) in side.nodes().iter().enumerate() {
            // The inputs of a part have fixed shapes, and the engine wants to know what is computed from shapes.
            let asks = matches!(node.op_type.as_deref(), Some("Shape" | "Size"));
            let varies = !asks && reads(node).any(|name| varying.contains(name));
            for name in node.output.iter().filter(|name| !name.is_empty()) {
                makers.insert(name.clone(), at);
                if varies {
                    varying.insert(name.clone());
                }
            }
        }
        (side.makers, side.varying) = (makers, varying);
        side
    }

    fn nodes(&self) -> &[NodeProto] {
        self.proto.graph.as_ref().map_or(&[], |graph| &graph.node)
    }

    fn initializers(&self) -> impl Iterator<Item = &TensorProto> {
        self.proto.graph.iter().flat_map(|graph| &graph.initializer)
    }

    /// The nodes that read what these make.
    fn readers(&self, nodes: &BTreeSet<usize>) -> BTreeSet<usize> {
        let made: HashSet<&String> = nodes
            .iter()
            .flat_map(|&at| &self.nodes()[at].output)
            .filter(|n| !n.is_empty())
            .collect();
        let reads_made = |node: &NodeProto| reads(node).any(|name| made.contains(name));
        self.nodes().iter().enumerate().filter(|(_, n)| reads_made(n)).map(|(at, _)| at).collect()
    }

    fn is_read_outside(&self, name: &str, nodes: &BTreeSet<usize>) -> bool {
        let outside = self.nodes().iter().enumerate().filter(|(at, _)| !nodes.contains(at));
        let mut outputs = self.proto.graph.iter().flat_map(|graph| &graph.output);
        outputs.any(|o| o.name.as_deref() == Some(name))
            || outside.into_iter().any(|(_, node)| reads(node).any(|read| read == name))
    }

    /// Adds to the nodes what computes constants for them; the varying values that they read from elsewhere.
    fn cut(&self, nodes: &mut BTreeSet<usize>) -> BTreeSet<String> {
        let mut inputs = BTreeSet::new();
        let mut stack: Vec<usize> = nodes.iter().copied().collect();
        while let Some(at) = stack.pop() {
            for name in reads(&self.nodes()[at]) {
                let maker = self.makers.get(name).copied();
                if maker.is_some_and(|maker| nodes.contains(&maker)) {
                    continue;
                }
                if self.varying.contains(name) {
                    inputs.insert(name.clone());
                } else if let Some(maker) = maker {
                    nodes.insert(maker);
                    stack.push(maker);
                }
            }
        }
        inputs
    }

    fn model(
        &self,
        nodes: &BTreeSet<usize>,
        region: &Region,
        inputs: &[TensorType],
        outputs: &[TensorType],
    ) -> Result<Model, String> {
        let kept: Vec<NodeProto> = nodes.iter().map(|&at| self.nodes()[at].clone()).collect();
        let wanted: HashSet<&String> = kept.iter().flat_map(reads).collect();
        let declare = |names: &[String], types: &[TensorType]| {
            names
                .iter()
                .zip(types)
                .map(|(name, ty)| onnxfix_ir::proto::ValueInfoProto {
                    name: Some(name.clone()),
                    r#type: Some(type_to_proto(&Type::Tensor(ty.clone()))),
                    ..Default::default()
                })
                .collect::<Vec<_>>()
        };
        let is_wanted =
            |tensor: &&TensorProto| tensor.name.as_ref().is_some_and(|n| wanted.contains(n));
        let initializer = self.initializers().filter(is_wanted).cloned().collect();
        let graph = GraphProto {
            name: Some("cut".into()),
            input: declare(&region.inputs, inputs),
            output: declare(&region.outputs, outputs),
            initializer,
            node: kept,
            ..GraphProto::default()
        };
        let proto = ModelProto {
            ir_version: self.proto.ir_version,
            opset_import: self.proto.opset_import.clone(),
            functions: self.proto.functions.clone(),
            graph: Some(graph),
            ..ModelProto::default()
        };
        let loaded = from_proto(proto, None, &LoadOptions::default()).map_err(|e| e.to_string())?;
        match onnxfix_ir::check(&loaded.model).first() {
            None => Ok(loaded.model),
            Some(broken) => Err(broken.to_string()),
        }
    }
}

/// Everything that makes a node what it is: all but its name and who made it.
fn bare(node: &NodeProto) -> NodeProto {
    NodeProto { name: None, doc_string: None, metadata_props: Vec::new(), ..node.clone() }
}

/// The values that a node reads, those that its bodies take from outside among them.
fn reads(node: &NodeProto) -> impl Iterator<Item = &String> {
    let mut names: Vec<&String> = node.input.iter().filter(|name| !name.is_empty()).collect();
    let bodies = node.attribute.iter().flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs));
    for body in bodies {
        // What a body makes itself has a name of its own, which nothing outside has.
        names.extend(body.node.iter().flat_map(|node| reads(node).collect::<Vec<_>>()));
        names.extend(body.output.iter().filter_map(|output| output.name.as_ref()));
    }
    names.into_iter()
}

fn describe(node: &NodeProto) -> String {
    let op = node.op_type.as_deref().unwrap_or("?");
    let name = node.name.as_deref().filter(|name| !name.is_empty());
    match name.or(node.output.first().map(String::as_str)) {
        Some(name) => format!("{op} {name:?}"),
        None => op.to_owned(),
    }
}

/// Constants of one name that have other elements on the other side, or that one side lacks.
fn constants_that_differ(before: &Side, after: &Side) -> HashSet<String> {
    let of = |side: &Side| -> HashMap<String, TensorProto> {
        let named = |t: &TensorProto| {
            Some((t.name.clone()?, TensorProto { metadata_props: Vec::new(), ..t.clone() }))
        };
        side.initializers().filter_map(named).collect()
    };
    let (before, after) = (of(before), of(after));
    let differs = |name: &&String| before.get(*name) != after.get(*name);
    before.keys().chain(after.keys()).filter(differs).cloned().collect()
}

#[cfg(test)]
mod tests {
    use onnxfix_ir::{DataType, Shape, text};

    use super::*;

    const BEFORE: &str = r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}>
        { a = Relu (x)  c = Neg (w)  b = Add (a, c)  d = Neg (b)  y = Abs (d) }"#;

    #[test]
    fn what_changed_is_cut_out_with_its_constants() {
        let after = BEFORE.replace("b = Add (a, c)", "t = Sub (a, c)  b = Identity (t)");
        let parse = |model: &str| text::parse(model).expect("a model");
        let pair = Pair::new(&parse(BEFORE), &parse(&after));
        let region = pair.region(0);
        assert_eq!((region.inputs.join(" "), region.outputs.join(" ")), ("a".into(), "b".into()));
        let ty = TensorType { dtype: DataType::Float, shape: Some(Shape::fixed(&[2])) };
        let (before, after) = pair
            .cut(&region, std::slice::from_ref(&ty), std::slice::from_ref(&ty))
            .expect("well formed");
        assert_eq!((before[before.root()].len(), after[after.root()].len()), (2, 3));
        assert_eq!(pair.region(1).outputs, ["d"]);
        assert_eq!(pair.changed().0, [r#"Add "b""#]);
    }

    #[test]
    fn what_is_computed_from_shapes_comes_along() {
        let model = |op: &str| {
            let body =
                format!("a = Relu (x) s = Shape (a) t = Expand (w, s) b = {op} (a, t) y = Abs (b)");
            let head = "<ir_version: 8, opset_import: [\"\" : 13]>";
            let text =
                format!("{head} g (float[2] x) => (float[2] y) <float[1] w = {{1}}> {{ {body} }}");
            text::parse(&text).expect("a model")
        };
        let region = Pair::new(&model("Add"), &model("Sub")).region(0);
        assert_eq!((region.inputs.join(" "), region.outputs.join(" ")), ("a".into(), "b".into()));
        assert_eq!(region.before.len(), 3);
    }

    #[test]
    fn a_constant_with_other_elements_changes_what_reads_it() {
        let parse = |model: &str| text::parse(model).expect("a model");
        let pair = Pair::new(&parse(BEFORE), &parse(&BEFORE.replace("{1, 2}", "{1, 3}")));
        assert_eq!(pair.changed().1, [r#"Neg "c""#]);
        assert_eq!(pair.region(1).outputs, ["b"]);
    }
}
