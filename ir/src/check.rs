//! Is the model well formed? Every pass may count on these invariants, and has to leave them so:
//!
//! *Edges*
//! - Each input of a node and each output of a graph is listed once among the uses of the value it reads, and each use
//!   of a value is such an input or output. Nothing refers to what was removed.
//! - Each output of a node is defined by that node and slot, and is a value of the node's graph.
//! - Each input and initializer of a graph is listed by its graph, once, and a listed one is of that graph.
//! - The nodes of a graph form one list, as long as the graph says.
//! - A body belongs to the node whose attribute holds it. Each graph is the root, a body, or part of a function.
//! - The table of names counts each value.
//!
//! *Scopes*
//! - No two values of a graph have the same name, nor a value of a body and one of a graph around it. No name is empty.
//! - A node reads values of its graph or of graphs around it, each made before.
//! - An output of a graph is a value of that graph. Nothing reads a value that nothing defines.
//!
//! *Operators*
//! - For the domain of each node the model (or the function that the node is in) imports an operator set, and the
//!   operator is in that set, if the table knows it.
//! - A node has the inputs, outputs and attributes that its operator needs, and no more inputs and outputs than it has.
//! - The model states the version of its format, and imports an operator set.
//! - A node has an attribute once, a graph one version of each operator set, and the model one function of each name.
//! - Element types, as far as they are known, are among those the operator takes, and equal where it asks for that.
//!
//! *Constants*
//! - An initializer has the type of its tensor, and the tensor the size that its dimensions ask for.
//!
//! Whether declared types are the ones that inference finds is not looked at here.

use std::fmt;

use hashbrown::{HashMap, HashSet};

use crate::op::{Arity, Operator, Param, normal_domain};
use crate::{
    DataType, Def, GraphId, Model, Name, Node, NodeId, Place, SideTable, TensorError, TensorType,
    Type, Use, Value, ValueId,
};

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Broken {
    /// Where.
    pub place: Place,
    /// What.
    pub what: Violation,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl std::error::Error for Broken {}

/// How an invariant does not hold.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Two sides of an edge, or of a list and its members, contradict each other.
    #[error("{0}")]
    Edge(String),
    /// The value has no name.
    #[error("has no name")]
    NoName,
    /// The name is taken.
    #[error("the name {0:?} is that of another value in sight")]
    Hides(Name),
    /// The value is made later, or by the node itself.
    #[error("reads {0:?} before it is made")]
    Early(Name),
    /// The value's graph is not around the reader.
    #[error("reads {0:?} of a graph that is not around it")]
    OutOfScope(Name),
    /// The value has no definition.
    #[error("reads {0:?}, which nothing defines")]
    Undefined(Name),
    /// A graph gives out a value of another one.
    #[error("is {0:?} of another graph")]
    ForeignOutput(Name),
    /// The file would not say what it is, and no program would read it.
    #[error(
        "the model states no version of the format (ir_version) or imports no operator set (opset_import)"
    )]
    NoVersions,
    /// No operator set is imported for the domain.
    #[error("no operator set is imported for domain {0:?}")]
    NoOpset(String),
    /// The operator came later.
    #[error("{op} is not in opset {opset}")]
    NotInOpset {
        /// The operator.
        op: Name,
        /// The version that is imported.
        opset: i64,
    },
    /// More inputs or outputs than the operator has.
    #[error("has {have} {side}, {op} takes at most {most}")]
    TooMany {
        /// The operator.
        op: Name,
        /// Inputs or outputs.
        side: &'static str,
        /// Number there are.
        have: usize,
        /// Number there may be.
        most: usize,
    },
    /// An input or output that the operator needs is left out.
    #[error("lacks {side} `{param}` of {op}")]
    Lacks {
        /// The operator.
        op: Name,
        /// Input, output or attribute.
        side: &'static str,
        /// Its name in the operator's specification.
        param: &'static str,
    },
    /// Programs differ in which of the values they take.
    #[error("has attribute {0:?} twice")]
    AttributeTwice(Name),
    /// Programs differ in which of the versions they take.
    #[error("imports versions {first} and {second} of domain {domain:?}")]
    OpsetTwice {
        /// The domain.
        domain: String,
        /// A version.
        first: i64,
        /// Another one.
        second: i64,
    },
    /// Programs differ in which of the functions they call.
    #[error("has function {name:?} of domain {domain:?} twice")]
    FunctionTwice {
        /// Domain.
        domain: String,
        /// Name, with the overload where there is one.
        name: String,
    },
    /// The operator does not take such elements.
    #[error("{param} of {op} cannot be {have}")]
    ElementType {
        /// The operator.
        op: Name,
        /// Name of the parameter.
        param: &'static str,
        /// The element type.
        have: DataType,
    },
    /// Two parameters should have the same element type.
    #[error(
        "{first} of {op} is {first_type} and {second} is {second_type}, which should be the same"
    )]
    ElementTypes {
        /// The operator.
        op: Name,
        /// A parameter.
        first: &'static str,
        /// Its element type.
        first_type: DataType,
        /// Another parameter.
        second: &'static str,
        /// Its element type.
        second_type: DataType,
    },
    /// The type of an initializer is not the one of its tensor.
    #[error("is declared {declared}, its tensor is {tensor}")]
    InitializerType {
        /// Declared type.
        declared: Box<Type>,
        /// Type of the tensor.
        tensor: Box<Type>,
    },
    /// The elements of an initializer do not go with its dimensions.
    #[error("{0}")]
    Tensor(#[from] TensorError),
}

/// Looks for invariants that do not hold, in a time linear in the model's nodes.
///
/// Where edges are broken the rest is not looked at, as it walks along them.
#[must_use]
pub fn check(model: &Model) -> Vec<Broken> {
    let mut checker = Checker { model, found: Vec::new() };
    checker.lists();
    if checker.found.is_empty() {
        checker.edges();
    }
    if checker.found.is_empty() {
        checker.names();
        checker.order();
        checker.opsets();
        checker.functions();
        checker.operators();
        checker.initializers();
    }
    checker.found
}

struct Checker<'a> {
    model: &'a Model,
    found: Vec<Broken>,
}

impl<'a> Checker<'a> {
    fn report(&mut self, place: Place, what: Violation) {
        self.found.push(Broken { place, what });
    }

    /// The place of a value: where it is defined.
    fn value_place(&self, value: ValueId) -> Place {
        let v = &self.model[value];
        let graph = match self.model.graphs.get(v.graph) {
            Some(_) => Place::graph(self.model, v.graph),
            None => Place::default().then("removed graph"),
        };
        graph.then(format!("value {:?}", &*v.name))
    }

    fn edge(&mut self, place: Place, what: impl Into<String>) {
        self.report(place, Violation::Edge(what.into()));
    }

    /// Lists of nodes, owners of bodies: what places are made of.
    fn lists(&mut self) {
        let model = self.model;
        // No names here: a description would walk along the very links that are checked.
        let place = |what: fmt::Arguments<'_>| Place::default().then(what.to_string());
        let mut listed = 0;
        for (id, graph) in model.graphs.iter() {
            let (mut prev, mut next, mut len) = (None, graph.first, 0);
            while let Some(node) = next {
                let Some(n) = model.nodes.get(node).filter(|n| n.graph == id && n.prev == prev)
                else {
                    break;
                };
                (prev, next, len) = (Some(node), n.next, len + 1);
                if len > graph.len {
                    break;
                }
            }
            if next.is_some() || prev != graph.last || len != graph.len {
                self.edge(place(format_args!("{id:?}")), "the list of nodes is broken");
            }
            listed += len;
        }
        if listed != model.nodes.len() {
            self.edge(Place::default().then("model"), "a node is in no graph");
        }
        let mut owned: HashMap<GraphId, Option<NodeId>> = HashMap::new();
        let default_bodies =
            model.functions.iter().flat_map(|f| f.defaults.graphs().map(|(_, g)| g));
        let outermost = model.root.into_iter().chain(model.functions.iter().map(|f| f.body));
        let unowned = outermost.chain(default_bodies).map(|g| (g, None));
        let bodies = model
            .nodes
            .iter()
            .flat_map(|(id, n)| n.attrs.graphs().map(move |(_, g)| (g, Some(id))));
        for (graph, owner) in unowned.chain(bodies) {
            if model.graphs.get(graph).is_none_or(|g| g.owner != owner)
                || owned.insert(graph, owner).is_some()
            {
                self.edge(
                    place(format_args!("{graph:?}")),
                    "the body belongs to another node, or to none",
                );
            }
        }
        for (id, _) in model.graphs.iter() {
            if !owned.contains_key(&id) {
                self.edge(place(format_args!("{id:?}")), "the graph belongs to nothing");
            }
        }
    }

    fn edges(&mut self) {
        let model = self.model;
        let mut uses: HashSet<Use> = HashSet::new();
        let mut names: HashMap<&Name, u32> = HashMap::new();
        let mut listed: HashSet<ValueId> = HashSet::new();
        for (id, graph) in model.graphs.iter() {
            for &value in &graph.initializers {
                let fits = |v: &Value| {
                    v.graph == id && matches!(v.def, Def::Initializer(_) | Def::Sparse(_))
                };
                if !model.values.get(value).is_some_and(fits) || !listed.insert(value) {
                    self.edge(Place::graph(model, id), "the list of initializers is broken");
                }
            }
            let mut inputs: HashSet<ValueId> = HashSet::new();
            for &value in &graph.inputs {
                let fits = |v: &Value| {
                    v.graph == id
                        && (matches!(v.def, Def::Input) || matches!(v.def, Def::Initializer(_)))
                };
                if !model.values.get(value).is_some_and(fits) || !inputs.insert(value) {
                    self.edge(Place::graph(model, id), "the list of inputs is broken");
                }
            }
            listed.extend(inputs);
        }
        for (id, value) in model.values.iter() {
            *names.entry(&value.name).or_default() += 1;
            if model.graphs.get(value.graph).is_none() {
                self.edge(self.value_place(id), "its graph was removed");
            }
            let is_defined = match value.def {
                Def::Node { node, slot } => {
                    let outputs = model.nodes.get(node).map(|n| &n.outputs);
                    outputs.and_then(|o| o.get(slot as usize)) == Some(&Some(id))
                }
                Def::Input | Def::Initializer(_) | Def::Sparse(_) => listed.contains(&id),
                Def::Missing => true,
            };
            if !is_defined {
                self.edge(self.value_place(id), "what it says defines it does not");
            }
            for &use_ in &value.uses {
                let read = match use_ {
                    Use::Input { node, slot } => model
                        .nodes
                        .get(node)
                        .and_then(|n| n.inputs.get(slot as usize).copied().flatten()),
                    Use::Output { graph, slot } => {
                        model.graphs.get(graph).and_then(|g| g.outputs.get(slot as usize).copied())
                    }
                };
                if read != Some(id) || !uses.insert(use_) {
                    self.edge(self.value_place(id), format!("is not read by {use_:?}"));
                }
            }
        }
        for (id, node) in model.nodes.iter() {
            for slot in
                (0u32..).zip(&node.inputs).filter(|(_, v)| v.is_some()).map(|(slot, _)| slot)
            {
                let read_here = Use::Input { node: id, slot };
                if !uses.contains(&read_here) {
                    self.edge(
                        Place::node(model, id).then(format!("input {slot}")),
                        "its value lists no such use",
                    );
                }
            }
            for (slot, value) in
                (0u32..).zip(&node.outputs).filter_map(|(slot, v)| Some((slot, (*v)?)))
            {
                let fits =
                    |v: &Value| v.graph == node.graph && v.def == Def::Node { node: id, slot };
                if !model.values.get(value).is_some_and(fits) {
                    self.edge(
                        Place::node(model, id).then(format!("output {slot}")),
                        "its value has another origin",
                    );
                }
            }
        }
        for (graph, g) in model.graphs.iter() {
            for (slot, _) in (0u32..).zip(&g.outputs) {
                if !uses.contains(&Use::Output { graph, slot }) {
                    let place = Place::graph(model, graph).then(format!("output {slot}"));
                    self.edge(place, "its value lists no such use");
                }
            }
        }
        let counted = names.len() == model.names.len()
            && names.iter().all(|(n, c)| model.names.get(*n) == Some(c));
        if !counted {
            self.edge(
                Place::default().then("model"),
                "the table of names is not that of the values",
            );
        }
    }

    /// Values of one name that can be confused.
    fn names(&mut self) {
        let mut by_graph: HashMap<GraphId, Vec<ValueId>> = HashMap::new();
        // A leftover of `value_info` has a name that nothing can read.
        for (id, value) in self.model.values.iter().filter(|(_, v)| v.def != Def::Missing) {
            by_graph.entry(value.graph).or_default().push(id);
        }
        let outermost: Vec<GraphId> =
            self.model.graphs.iter().filter(|(_, g)| g.owner.is_none()).map(|(id, _)| id).collect();
        for graph in outermost {
            self.names_in(graph, &by_graph, &mut HashSet::new());
        }
    }

    fn names_in(
        &mut self,
        graph: GraphId,
        by_graph: &HashMap<GraphId, Vec<ValueId>>,
        seen: &mut HashSet<&'a Name>,
    ) {
        let model = self.model;
        let mut added = Vec::new();
        for &value in by_graph.get(&graph).into_iter().flatten() {
            let name = &model[value].name;
            if name.is_empty() {
                self.report(self.value_place(value), Violation::NoName);
            } else if seen.insert(name) {
                added.push(name);
            } else {
                self.report(self.value_place(value), Violation::Hides(name.clone()));
            }
        }
        for node in model.nodes(graph) {
            for (_, body) in model[node].attrs.graphs() {
                self.names_in(body, by_graph, seen);
            }
        }
        for name in added {
            seen.remove(name);
        }
    }

    /// Readers and what they read.
    fn order(&mut self) {
        let model = self.model;
        let mut position: SideTable<Node, usize> = SideTable::new();
        for graph in model.graphs() {
            for (i, node) in model.nodes(graph).enumerate() {
                position.insert(node, i);
            }
        }
        for (id, node) in model.nodes.iter() {
            for (slot, value) in
                (0u32..).zip(&node.inputs).filter_map(|(slot, v)| Some((slot, (*v)?)))
            {
                let v = &model[value];
                let name = v.name.clone();
                let what = match (model.ancestor_in(id, v.graph), &v.def) {
                    (_, Def::Missing) => Violation::Undefined(name),
                    (None, _) => Violation::OutOfScope(name),
                    (Some(reader), Def::Node { node, .. })
                        if position.get(*node) >= position.get(reader) =>
                    {
                        Violation::Early(name)
                    }
                    (Some(_), _) => continue,
                };
                self.report(Place::reader(model, Use::Input { node: id, slot }), what);
            }
        }
        for (id, graph) in model.graphs.iter() {
            for (slot, &value) in (0u32..).zip(&graph.outputs) {
                let v = &model[value];
                let what = match v.def {
                    Def::Missing => Violation::Undefined(v.name.clone()),
                    _ if v.graph != id => Violation::ForeignOutput(v.name.clone()),
                    _ => continue,
                };
                self.report(Place::reader(model, Use::Output { graph: id, slot }), what);
            }
        }
    }

    /// The versions that a model must state, and one version of each domain.
    fn opsets(&mut self) {
        let model = self.model;
        // Operator sets came with version 3 of the format.
        let states = |ir_version: i64| ir_version < 3 || !model.opsets.is_empty();
        if let Some(root) = model.root.filter(|_| !model.header.ir_version.is_some_and(states)) {
            self.report(Place::graph(model, root), Violation::NoVersions);
        }
        let functions = model.functions.iter().map(|f| (f.body, &f.opsets));
        for (graph, opsets) in
            model.root.map(|root| (root, &model.opsets)).into_iter().chain(functions)
        {
            let mut versions: HashMap<&str, i64> = HashMap::new();
            for opset in opsets {
                let domain = normal_domain(opset.domain.as_deref().unwrap_or(""));
                let second = opset.version.unwrap_or(0);
                let first = *versions.entry(domain).or_insert(second);
                if first != second {
                    let domain = domain.to_owned();
                    let what = Violation::OpsetTwice { domain, first, second };
                    self.report(Place::graph(model, graph), what);
                }
            }
        }
    }

    /// One function of each name.
    fn functions(&mut self) {
        let mut seen = HashSet::new();
        for f in &self.model.functions {
            let overload = f.overload.as_deref().unwrap_or("");
            let domain = normal_domain(f.domain.as_deref().unwrap_or(""));
            if !seen.insert((domain, f.name.as_str(), overload)) {
                let colon = if overload.is_empty() { "" } else { ":" };
                let name = format!("{}{colon}{overload}", f.name);
                let what = Violation::FunctionTwice { domain: domain.to_owned(), name };
                self.report(Place::default().then("model"), what);
            }
        }
    }

    fn operators(&mut self) {
        let model = self.model;
        let functions: HashSet<(&str, &str)> = model
            .functions
            .iter()
            .map(|f| (normal_domain(f.domain.as_deref().unwrap_or("")), f.name.as_str()))
            .collect();
        let mut versions: HashMap<(GraphId, &str), Option<i64>> = HashMap::new();
        for (id, node) in model.nodes.iter() {
            let mut attributes = HashSet::new();
            for attr in node.attrs.0.iter().filter(|attr| !attributes.insert(&attr.name)) {
                self.report(Place::node(model, id), Violation::AttributeTwice(attr.name.clone()));
            }
            let domain = node.op.domain();
            let version = *versions
                .entry((node.graph, domain))
                .or_insert_with(|| model.opset(node.graph, domain));
            let Some(version) = version else {
                self.report(Place::node(model, id), Violation::NoOpset(domain.to_owned()));
                continue;
            };
            // A function of the model takes the place of the operator of that name.
            let Some(def) =
                node.op.def.filter(|_| !functions.contains(&(domain, node.op.name.as_str())))
            else {
                continue;
            };
            if def.since(version).is_none() {
                let op = node.op.name.clone();
                self.report(Place::node(model, id), Violation::NotInOpset { op, opset: version });
                continue;
            }
            let mut wrong = Vec::new();
            signature(node, def, version, &mut wrong);
            element_types(model, node, def, version, &mut wrong);
            for what in wrong {
                self.report(Place::node(model, id), what);
            }
        }
    }

    fn initializers(&mut self) {
        for (id, value) in self.model.values.iter() {
            let Some(tensor) = value.tensor() else { continue };
            let of_tensor =
                Type::Tensor(TensorType::new(tensor.dtype, crate::Shape::fixed(&tensor.dims)));
            if let Some(declared) = value.ty.clone().filter(|ty| *ty != of_tensor) {
                self.report(
                    self.value_place(id),
                    Violation::InitializerType {
                        declared: declared.into(),
                        tensor: of_tensor.into(),
                    },
                );
            }
            if let Err(err) = tensor.check() {
                self.report(self.value_place(id), err.into());
            }
        }
    }
}

/// Number of inputs and outputs, and what of them and the attributes has to be there.
fn signature(node: &Node, def: &Operator, version: i64, wrong: &mut Vec<Violation>) {
    let op = || node.op.name.clone();
    let sides = [
        ("inputs", "input", def.inputs, &node.inputs[..]),
        ("outputs", "output", def.outputs, &node.outputs),
    ];
    for (plural, side, params, values) in sides {
        let params: Vec<&Param> = params.iter().filter(|p| p.since <= version).collect();
        let is_variadic = params.last().is_some_and(|p| p.arity == Arity::Variadic);
        if !is_variadic && values.len() > params.len() {
            wrong.push(Violation::TooMany {
                op: op(),
                side: plural,
                have: values.len(),
                most: params.len(),
            });
        }
        for (slot, param) in params.iter().enumerate().filter(|(_, p)| p.arity == Arity::One) {
            // Only inputs are needed: an output that nobody reads may be left without a name.
            if side == "input" && values.get(slot).copied().flatten().is_none() {
                wrong.push(Violation::Lacks { op: op(), side, param: param.name });
            }
        }
    }
    for attr in def.attrs.iter().filter(|a| a.required && a.since <= version && version < a.until) {
        if node.attrs.get(attr.name).is_none() {
            wrong.push(Violation::Lacks { op: op(), side: "attribute", param: attr.name });
        }
    }
}

/// The first thing that is wrong with the element types of a node's inputs and outputs, as far as they are known.
pub(crate) fn element_type_violation(model: &Model, node: NodeId) -> Option<Violation> {
    let n = &model[node];
    let def = n.op.def?;
    let mut wrong = Vec::new();
    element_types(model, n, def, model.opset(n.graph, def.domain)?, &mut wrong);
    wrong.into_iter().next()
}

/// Element types of inputs and outputs, as far as they are known.
fn element_types(
    model: &Model,
    node: &Node,
    def: &Operator,
    version: i64,
    wrong: &mut Vec<Violation>,
) {
    let op = || node.op.name.clone();
    let mut bound: Vec<(&Param, DataType)> = Vec::new();
    for (params, values) in [(def.inputs, &node.inputs[..]), (def.outputs, &node.outputs)] {
        // Variadic parameters may be of different types; what binds them is not in the table.
        let params = params.iter().filter(|p| p.since <= version && p.arity != Arity::Variadic);
        for (param, value) in params.zip(values) {
            let Some(have) = value.and_then(|v| model[v].dtype()) else { continue };
            if !param.types.is_empty() && !param.types.contains(&have) {
                wrong.push(Violation::ElementType { op: op(), param: param.name, have });
            }
            if param.var.is_empty() {
                continue;
            }
            match bound.iter().find(|(p, _)| p.var == param.var) {
                Some(&(first, first_type)) if first_type != have => {
                    wrong.push(Violation::ElementTypes {
                        op: op(),
                        first: first.name,
                        first_type,
                        second: param.name,
                        second_type: have,
                    });
                }
                Some(_) => {}
                None => bound.push((param, have)),
            }
        }
    }
}
