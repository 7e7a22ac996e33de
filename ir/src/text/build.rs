//! Makes a model of what was read: resolves names, in bodies also those of the graphs around them.

use hashbrown::HashMap;

use super::lex::{Fail, Parsed};
use super::tree::{AttrText, AttrValueText, Declared, FunctionText, GraphText, Ident, NodeText};
use crate::model::Def;
use crate::{
    Attr, AttrValue, Attrs, Function, GraphId, Model, Name, NewNode, Op, Tensor, Type, ValueId,
    type_to_proto,
};

/// What a graph defines. Values are made when they are first read or defined, whichever comes first.
struct Scope {
    graph: GraphId,
    /// Every name that the graph defines, with its value once there is one.
    values: HashMap<Name, Option<ValueId>>,
}

/// Builds a model; `scopes` are the graphs that are being built, outermost first.
pub(super) struct Builder<'m> {
    model: &'m mut Model,
    scopes: Vec<Scope>,
}

impl<'m> Builder<'m> {
    pub(super) fn new(model: &'m mut Model) -> Builder<'m> {
        Builder { model, scopes: Vec::new() }
    }

    /// Fills an empty graph.
    pub(super) fn graph(&mut self, graph: GraphId, text: GraphText) -> Parsed<()> {
        *self.model.graph_mut(graph).name() = Some(text.name.clone());
        let values = defined_names(&text, &self.scopes)?;
        self.scopes.push(Scope { graph, values });
        let built = self.contents(text);
        self.scopes.pop();
        built
    }

    pub(super) fn function(&mut self, text: FunctionText) -> Parsed<()> {
        let body = self.model.add_graph(None);
        let FunctionText { header, attributes, defaults, graph } = text;
        let name = graph.name.clone();
        self.graph(body, graph)?;
        *self.model.graph_mut(body).name() = None;
        *self.model.graph_mut(body).doc_string() = header.header.doc_string;
        let defaults = self.attrs(defaults)?;
        self.model.functions.push(Function {
            name,
            domain: header.header.domain.map(Name::from),
            overload: header.overload,
            attributes,
            defaults,
            opsets: header.opsets,
            body,
        });
        Ok(())
    }

    fn contents(&mut self, text: GraphText) -> Parsed<()> {
        let GraphText { name: _, mut inputs, outputs, others, nodes } = text;
        let (mut initializers, infos): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|other| other.data.is_some());
        for declared in inputs.iter_mut().chain(&mut initializers) {
            if let Some(tensor) = declared.data.take() {
                self.initializer(declared, tensor);
            }
        }
        for input in inputs {
            self.input(input);
        }
        for node in nodes {
            self.node(node)?;
        }
        for output in outputs {
            let value = self.resolve(&output.name)?;
            self.declare(value, output.ty);
            let graph = self.graph_id();
            self.model.add_output(graph, value);
        }
        for info in infos {
            self.value_info(info);
        }
        Ok(())
    }

    fn scope(&mut self) -> &mut Scope {
        self.scopes.last_mut().expect("a graph is being built")
    }

    fn graph_id(&mut self) -> GraphId {
        self.scope().graph
    }

    fn initializer(&mut self, declared: &Declared, tensor: Tensor) {
        let value = self.own(&declared.name.name);
        self.model.define(value, Def::Initializer(tensor.into()));
    }

    /// An input; one that is an initializer too has a default.
    fn input(&mut self, input: Declared) {
        let (graph, name) = (self.graph_id(), input.name.name);
        if let Some(value) = self.scope().values.get(&name).copied().flatten() {
            self.model.list_input(graph, value);
            self.declare(value, input.ty);
        } else {
            let value = self.model.add_input(graph, name.clone(), input.ty);
            self.scope().values.insert(name, Some(value));
        }
    }

    /// The value of this name that the graph being built defines, made if it is not there yet.
    fn own(&mut self, name: &Name) -> ValueId {
        let graph = self.graph_id();
        if let Some(Some(value)) = self.scope().values.get(name) {
            return *value;
        }
        let value = self.model.add_missing(graph, name.clone());
        self.scope().values.insert(name.clone(), Some(value));
        value
    }

    /// The value that a name means here: the graph's own, or one of the graphs around it.
    fn resolve(&mut self, ident: &Ident) -> Parsed<ValueId> {
        let found = self
            .scopes
            .iter_mut()
            .rev()
            .find_map(|s| Some((s.graph, s.values.get_mut(&ident.name)?)));
        let Some((graph, value)) = found else {
            return Err(Fail::new(ident.at, format!("nothing defines `{}`", ident.name)));
        };
        Ok(*value.get_or_insert_with(|| self.model.add_missing(graph, ident.name.clone())))
    }

    fn node(&mut self, text: NodeText) -> Parsed<()> {
        let inputs = text
            .inputs
            .iter()
            .map(|ident| self.resolve_optional(ident))
            .collect::<Parsed<Vec<_>>>()?;
        let attrs = self.attrs(text.attrs)?;
        let graph = self.graph_id();
        let op = Op::new(text.domain, text.op);
        let node = self.model.add_node(
            graph,
            None,
            NewNode { op, name: text.name, inputs, outputs: Vec::new(), attrs },
        );
        *self.model.node_mut(node).overload() = text.overload;
        for output in text.outputs {
            let value = (!output.name.is_empty()).then(|| self.own(&output.name));
            self.model.attach_output(node, value);
        }
        Ok(())
    }

    fn resolve_optional(&mut self, ident: &Ident) -> Parsed<Option<ValueId>> {
        if ident.name.is_empty() { Ok(None) } else { self.resolve(ident).map(Some) }
    }

    fn attrs(&mut self, texts: Vec<AttrText>) -> Parsed<Attrs> {
        texts.into_iter().map(|attr| self.attr(attr)).collect::<Parsed<Vec<Attr>>>().map(Attrs)
    }

    fn attr(&mut self, text: AttrText) -> Parsed<Attr> {
        let value = match text.value {
            AttrValueText::Plain(value) => value,
            AttrValueText::Graph(body) => AttrValue::Graph(self.body(*body)?),
            AttrValueText::Graphs(bodies) => AttrValue::Graphs(
                bodies.into_iter().map(|body| self.body(body)).collect::<Parsed<_>>()?,
            ),
        };
        Ok(Attr { name: text.name, value, doc_string: None })
    }

    fn body(&mut self, text: GraphText) -> Parsed<GraphId> {
        let body = self.model.add_graph(None);
        self.graph(body, text)?;
        Ok(body)
    }

    /// Gives a value its declared type. The first declaration holds, and a constant has the type of its elements.
    fn declare(&mut self, value: ValueId, ty: Option<Type>) {
        let Some(ty) = ty else { return };
        match &self.model[value].ty {
            None => {
                self.model.set_type(value, Some(ty));
            }
            Some(own) if *own != ty && self.model[value].tensor().is_some() => {
                self.model.extra_mut(value).type_proto = Some(type_to_proto(&ty));
            }
            Some(_) => {}
        }
    }

    /// A name that nothing defines stays as a leftover.
    fn value_info(&mut self, info: Declared) {
        let graph = self.graph_id();
        let name = info.name.name;
        let value = match self.scope().values.get(&name) {
            Some(_) => self.own(&name),
            None => self.model.add_missing(graph, name),
        };
        self.declare(value, info.ty);
        self.model.graph_mut(graph).value_info().push(value);
    }
}

/// Every name that a graph defines. An initializer may bear an input's name: it is the input's default.
fn defined_names(text: &GraphText, around: &[Scope]) -> Parsed<HashMap<Name, Option<ValueId>>> {
    let mut inputs = HashMap::new();
    for input in &text.inputs {
        define(&mut inputs, &input.name, around)?;
    }
    let mut rest = HashMap::new();
    for initializer in
        text.inputs.iter().chain(&text.others).filter(|declared| declared.data.is_some())
    {
        define(&mut rest, &initializer.name, around)?;
    }
    for output in
        text.nodes.iter().flat_map(|node| &node.outputs).filter(|output| !output.name.is_empty())
    {
        if inputs.contains_key(&output.name) {
            return Err(defined_twice(output));
        }
        define(&mut rest, output, around)?;
    }
    inputs.extend(rest);
    Ok(inputs)
}

fn define(
    names: &mut HashMap<Name, Option<ValueId>>,
    ident: &Ident,
    around: &[Scope],
) -> Parsed<()> {
    // Within the body the name would mean another value than around it.
    if around.iter().any(|scope| scope.values.contains_key(&ident.name)) {
        return Err(Fail::new(
            ident.at,
            format!("`{}` is defined by a graph around this one, too", ident.name),
        ));
    }
    match names.insert(ident.name.clone(), None) {
        None => Ok(()),
        Some(_) => Err(defined_twice(ident)),
    }
}

fn defined_twice(ident: &Ident) -> Fail {
    Fail::new(ident.at, format!("`{}` is defined twice", ident.name))
}
