//! A model as text.

use std::borrow::Cow;

use super::lex::{is_float_word, is_identifier};
use super::literal::{Form, Unwritable, float32, quoted, write_elements};
use super::parse::{attr_type_name, is_type_word};
use crate::model::Def;
use crate::{
    Attr, AttrValue, DataType, Dim, Function, GraphId, Model, Name, Node, NodeId, Opset, Shape,
    Tensor, TensorData, TensorError, TensorType, Type, Value, ValueId, type_from_proto,
};

/// Key of the node metadata that names the pass that made the node.
const PROVENANCE: &str = "onnxfix.pass";
/// Spaces per level.
const INDENT: usize = 3;
/// Elements that a tensor may have to be written out for people.
const BRIEF_LIMIT: u64 = 16;
/// Elements that a tensor may have to be written out in a single graph.
const GRAPH_LIMIT: u64 = 64;

/// How a model is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Can be read again. Tensors of more than `limit` elements are refused.
    Full {
        /// The most elements that a tensor may have.
        limit: u64,
    },
    /// For people: large tensors by size and hash, types and passes as comments. Cannot be read again.
    Brief,
}

/// Why a model cannot be printed such that it can be read again.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PrintError {
    /// A tensor has more elements than the limit.
    #[error("{place} has {elements} elements, more than the limit of {limit}")]
    TooLarge {
        /// The initializer or attribute.
        place: String,
        /// How many elements it has.
        elements: u64,
        /// How many it may have.
        limit: u64,
    },
    /// A tensor's data and dimensions do not go together.
    #[error("{place}")]
    Tensor {
        /// The initializer or attribute.
        place: String,
        /// What is wrong with it.
        #[source]
        source: TensorError,
    },
    /// The syntax has no words for it, and without it the model means something else.
    #[error("{place}: ONNX text cannot express {what}")]
    Inexpressible {
        /// Where it is.
        place: String,
        /// What it is.
        what: &'static str,
    },
}

/// Prints a model.
///
/// # Errors
/// In [`Mode::Full`], the first thing that could not be read again.
pub fn print(model: &Model, mode: Mode) -> Result<String, PrintError> {
    let style = match mode {
        Mode::Full { limit } => Style::Full { limit },
        Mode::Brief => Style::Brief,
    };
    let mut printer = Printer::new(model, style);
    printer.model();
    match printer.refused {
        None => Ok(printer.out),
        Some(refused) => Err(refused),
    }
}

/// Prints one graph, without header and node names: what tests compare.
///
/// Half-precision floats are written by value, tensors of more than 64 elements by size and hash.
#[must_use]
pub fn print_graph(model: &Model, graph: GraphId) -> String {
    let mut printer = Printer::new(model, Style::Graph);
    printer.graph(graph, None);
    printer.out.push('\n');
    printer.out
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Full { limit: u64 },
    Brief,
    Graph,
}

impl Style {
    fn is_full(self) -> bool {
        matches!(self, Style::Full { .. })
    }

    fn limit(self) -> u64 {
        match self {
            Style::Full { limit } => limit,
            Style::Brief => BRIEF_LIMIT,
            Style::Graph => GRAPH_LIMIT,
        }
    }

    fn form(self) -> Form {
        if self.is_full() { Form::Exact } else { Form::Readable }
    }
}

struct Printer<'m> {
    model: &'m Model,
    style: Style,
    out: String,
    level: usize,
    /// The first thing that cannot be said; printing goes on without it.
    refused: Option<PrintError>,
}

impl<'m> Printer<'m> {
    fn new(model: &'m Model, style: Style) -> Printer<'m> {
        Printer { model, style, out: String::new(), level: 0, refused: None }
    }

    fn refuse(&mut self, error: PrintError) {
        if self.style.is_full() && self.refused.is_none() {
            self.refused = Some(error);
        }
    }

    fn inexpressible(&mut self, place: &str, what: &'static str) {
        self.refuse(PrintError::Inexpressible { place: place.to_owned(), what });
    }

    fn push(&mut self, text: &str) {
        self.out.push_str(text);
    }

    fn new_line(&mut self) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', self.level * INDENT));
    }

    /// Items with `, ` between them.
    fn list<T>(&mut self, items: impl IntoIterator<Item = T>, mut item: impl FnMut(&mut Self, T)) {
        for (i, each) in items.into_iter().enumerate() {
            if i > 0 {
                self.push(", ");
            }
            item(self, each);
        }
    }

    /// Items on a line each, between `<` and `>`.
    fn block<T>(&mut self, items: Vec<T>, mut item: impl FnMut(&mut Self, T)) {
        self.push("<");
        self.level += 1;
        for (i, each) in items.into_iter().enumerate() {
            if i > 0 {
                self.push(",");
            }
            self.new_line();
            item(self, each);
        }
        self.level -= 1;
        self.new_line();
        self.push(">");
    }

    /// A name, quoted unless it is an identifier.
    fn name(&mut self, name: &str) {
        self.push(&quotable(name));
    }

    /// A name that the syntax does not let quote.
    fn bare(&mut self, name: &str, place: &str, what: &'static str) {
        if !is_identifier(name) {
            self.inexpressible(place, what);
        }
        self.push(name);
    }

    fn model(&mut self) {
        match self.style {
            Style::Brief => {
                self.push("# Brief: for reading only. Large tensors are left out, so this text cannot be parsed.\n");
            }
            _ => self.omissions(),
        }
        self.header();
        self.graph(self.model.root(), None);
        self.out.push('\n');
        for function in &self.model.functions {
            self.function(function);
            self.out.push('\n');
        }
    }

    /// Comments on what the syntax has no words for.
    fn omissions(&mut self) {
        for (what, count) in super::omit::omissions(self.model) {
            self.push(&format!("# Left out: {count} {what}\n"));
        }
    }

    fn header(&mut self) {
        let header = &self.model.header;
        let mut entries = Vec::new();
        entries.extend(header.ir_version.map(|v| format!("ir_version: {v}")));
        if !self.model.opsets.is_empty() {
            entries.push(opset_import(&self.model.opsets));
        }
        let texts = [
            ("producer_name", &header.producer_name),
            ("producer_version", &header.producer_version),
            ("domain", &header.domain),
        ];
        entries.extend(texts.into_iter().filter_map(|(key, text)| key_text(key, text.as_deref())));
        entries.extend(header.model_version.map(|v| format!("model_version: {v}")));
        entries.extend(key_text("doc_string", header.doc_string.as_deref()));
        if !header.metadata.is_empty() {
            entries.push(format!("metadata_props: {}", string_pairs(&header.metadata)));
        }
        self.header_block(entries);
    }

    fn header_block(&mut self, entries: Vec<String>) {
        if !entries.is_empty() {
            self.block(entries, |p, entry| p.push(&entry));
            self.out.push('\n');
        }
    }

    fn function(&mut self, function: &Function) {
        let body = &self.model[function.body];
        let mut entries = Vec::new();
        entries.extend(key_text("domain", function.domain.as_deref()));
        entries.extend(key_text("overload", function.overload.as_deref()));
        if !function.opsets.is_empty() {
            entries.push(opset_import(&function.opsets));
        }
        entries.extend(key_text("doc_string", body.doc_string.as_deref()));
        self.header_block(entries);
        self.name(&function.name);
        self.push(" ");
        if !function.attributes.is_empty() || !function.defaults.0.is_empty() {
            let place = format!("function `{}`", function.name);
            self.push("<");
            self.list(&function.attributes, |p, name| p.name(name));
            if !function.attributes.is_empty() && !function.defaults.0.is_empty() {
                self.push(", ");
            }
            self.list(&function.defaults.0, |p, attr| p.attr(attr, &place));
            self.push("> ");
        }
        self.signature(body.inputs(), body.outputs(), false);
        self.others(function.body);
        self.nodes(function.body);
    }

    /// A graph; `fallback` is the name of a body whose own name cannot stand there.
    fn graph(&mut self, graph: GraphId, fallback: Option<&str>) {
        let g = &self.model[graph];
        let name = g.name.as_deref().unwrap_or("");
        match fallback {
            Some(fallback) if !is_body_name(name) => {
                self.push(if is_body_name(fallback) { fallback } else { "body" });
            }
            _ => self.name(name),
        }
        self.push(" ");
        self.signature(g.inputs(), g.outputs(), true);
        self.others(graph);
        self.nodes(graph);
    }

    fn signature(&mut self, inputs: &[ValueId], outputs: &[ValueId], typed: bool) {
        self.push("(");
        self.list(inputs, |p, &value| p.declared(value, typed));
        self.push(") => (");
        self.list(outputs, |p, &value| p.declared(value, typed));
        self.push(") ");
    }

    fn declared(&mut self, value: ValueId, typed: bool) {
        let value = &self.model[value];
        match declared_type(value).filter(|_| typed) {
            Some(ty) => {
                self.value_type(&ty, &format!("value `{}`", value.name()));
                self.push(" ");
                self.name(value.name());
            }
            // Without a type before it, a word that begins a type would be read as one.
            None if is_type_word(value.name()) => self.push(&quoted(value.name())),
            None => self.name(value.name()),
        }
    }

    /// Initializers and `value_info`. People see types beside the nodes instead.
    fn others(&mut self, graph: GraphId) {
        let g = &self.model[graph];
        let infos = if self.style == Style::Brief { &[] } else { g.value_info.as_slice() };
        // A declaration without a name is of nothing, and a pass may have removed a value that the list still names.
        let named =
            |&&value: &&ValueId| self.model.value(value).is_some_and(|v| !v.name().is_empty());
        let infos = infos.iter().filter(named);
        let initializers = g.initializers().iter().map(|&value| (value, true));
        let all: Vec<(ValueId, bool)> =
            initializers.chain(infos.map(|&value| (value, false))).collect();
        if !all.is_empty() {
            self.block(all, |p, (value, is_initializer)| {
                if is_initializer { p.initializer(value) } else { p.declared(value, true) }
            });
            self.push(" ");
        }
    }

    fn initializer(&mut self, value: ValueId) {
        let value = &self.model[value];
        let place = format!("initializer `{}`", value.name());
        let Def::Initializer(tensor) = value.def() else {
            self.inexpressible(&place, "a sparse tensor");
            self.push("sparse_tensor ");
            self.name(value.name());
            return self.push(" = {…}");
        };
        self.tensor_type(tensor);
        self.push(" ");
        self.name(value.name());
        self.push(" = ");
        self.tensor_data(tensor, &place);
    }

    fn nodes(&mut self, graph: GraphId) {
        self.push("{");
        self.level += 1;
        for node in self.model.nodes(graph) {
            self.new_line();
            self.node(node);
        }
        self.level -= 1;
        self.new_line();
        self.push("}");
    }

    fn node(&mut self, id: NodeId) {
        let node = &self.model[id];
        let place = self.model.describe(id);
        if let (Style::Full { .. }, Some(name)) = (self.style, &node.name) {
            self.push("[");
            self.name(name);
            self.push("] ");
        }
        self.slots(node.outputs());
        self.push(if node.outputs().is_empty() { "= " } else { " = " });
        self.op(node, &place);
        let has_body = node.attrs.0.iter().any(|attr| !attr.value.graphs().is_empty());
        if !has_body {
            self.attrs(node, &place);
        }
        self.push(" (");
        self.slots(node.inputs());
        self.push(")");
        if has_body {
            self.attrs(node, &place);
        }
        if self.style == Style::Brief {
            self.comment(node);
        }
    }

    fn slots(&mut self, values: &[Option<ValueId>]) {
        self.list(values, |p, value| match value {
            Some(value) => p.name(p.model[*value].name()),
            None => p.push("\"\""),
        });
    }

    fn op(&mut self, node: &Node, place: &str) {
        let op = node.op();
        if let Some(domain) = op.domain.as_ref().filter(|domain| !domain.is_empty()) {
            if !is_dotted(domain) {
                self.inexpressible(place, "this domain");
            }
            self.push(domain);
            self.push(".");
        }
        self.bare(&op.name, place, "this operator type");
        if let Some(overload) = node.overload.as_ref().filter(|overload| !overload.is_empty()) {
            self.push(":");
            self.bare(overload, place, "this overload");
        }
    }

    /// Types of the outputs, and the pass that made the node.
    fn comment(&mut self, node: &Node) {
        let types: Vec<_> =
            node.outputs().iter().flatten().map(|&v| self.model[v].ty.as_ref()).collect();
        let mut parts = Vec::new();
        if types.iter().any(Option::is_some) {
            let text = |ty: Option<&Type>| ty.map_or_else(|| "?".into(), Type::to_string);
            parts.push(types.iter().copied().map(text).collect::<Vec<_>>().join(", "));
        }
        let pass = node.metadata.iter().find(|(key, _)| key == PROVENANCE);
        parts.extend(pass.map(|(_, pass)| format!("by {pass}")));
        if !parts.is_empty() {
            self.push("  # ");
            self.push(&parts.join(" ").replace('\n', " "));
        }
    }

    fn attrs(&mut self, node: &Node, place: &str) {
        if !node.attrs.0.is_empty() {
            self.push(" <");
            self.list(&node.attrs.0, |p, attr| p.attr(attr, place));
            self.push(">");
        }
    }

    fn attr(&mut self, attr: &Attr, place: &str) {
        self.bare(&attr.name, place, "this name of an attribute");
        match attr_type_name(attr.value.type_code()) {
            Some(ty) => self.push(&format!(": {ty} = ")),
            None => self.push(" = "),
        }
        let place = format!("attribute `{}` of {place}", attr.name);
        match &attr.value {
            AttrValue::Float(f) => self.push(&float32(*f)),
            AttrValue::Int(i) => self.push(&i.to_string()),
            AttrValue::String(s) => self.string(s, &place),
            AttrValue::Tensor(t) => self.attr_tensor(t, &place),
            AttrValue::Graph(g) => self.graph(*g, Some(&attr.name)),
            AttrValue::Type(ty) => self.attr_type(ty, &place),
            AttrValue::Ref(name, _) => {
                self.push("@");
                self.name(name);
            }
            AttrValue::Sparse(_) => {
                self.inexpressible(&place, "a sparse tensor");
                self.push("…");
            }
            list => {
                self.push("[");
                self.attr_list(list, &attr.name, &place);
                self.push("]");
            }
        }
    }

    fn attr_list(&mut self, value: &AttrValue, name: &str, place: &str) {
        match value {
            AttrValue::Floats(floats) => self.list(floats, |p, f| p.push(&float32(*f))),
            AttrValue::Ints(ints) => self.list(ints, |p, i| p.push(&i.to_string())),
            AttrValue::Strings(strings) => self.list(strings, |p, s| p.string(s, place)),
            AttrValue::Tensors(tensors) => self.list(tensors, |p, t| p.attr_tensor(t, place)),
            AttrValue::Graphs(graphs) => self.list(graphs, |p, g| p.graph(*g, Some(name))),
            AttrValue::Types(types) => self.list(types, |p, ty| p.attr_type(ty, place)),
            AttrValue::Sparses(tensors) if tensors.is_empty() => {}
            _ => {
                self.inexpressible(place, "sparse tensors");
                self.push("…");
            }
        }
    }

    fn string(&mut self, bytes: &[u8], place: &str) {
        if std::str::from_utf8(bytes).is_err() {
            self.inexpressible(place, "bytes that are not UTF-8");
        }
        self.push(&quoted(&String::from_utf8_lossy(bytes)));
    }

    fn attr_type(&mut self, ty: &crate::proto::TypeProto, place: &str) {
        let Some(ty) = type_from_proto(ty) else {
            self.inexpressible(place, "this type");
            return self.push("…");
        };
        self.value_type(&ty, place);
    }

    fn attr_tensor(&mut self, tensor: &Tensor, place: &str) {
        self.tensor_type(tensor);
        self.push(" ");
        let name = tensor.extra.as_ref().and_then(|extra| extra.name.as_deref());
        if let Some(name) = name.filter(|name| is_identifier(name)) {
            self.push(name);
            self.push(" ");
        }
        if matches!(tensor.data, TensorData::External(_)) {
            self.push("= ");
        }
        self.tensor_data(tensor, place);
    }

    fn tensor_type(&mut self, tensor: &Tensor) {
        self.element_type(tensor.dtype, Some(&Shape::fixed(&tensor.dims)));
    }

    fn tensor_data(&mut self, tensor: &Tensor, place: &str) {
        let elements = match tensor.len() {
            Ok(elements) => elements,
            Err(source) => return self.broken_tensor(place, source),
        };
        match &tensor.data {
            TensorData::External(external) if self.style.is_full() => {
                self.push(&string_pairs(&external.entries));
            }
            _ if elements > self.style.limit() => {
                let limit = self.style.limit();
                self.refuse(PrintError::TooLarge { place: place.to_owned(), elements, limit });
                self.push(&summary(tensor));
            }
            _ => match write_elements(tensor, self.style.form()) {
                Ok(elements) => self.push(&format!("{{{elements}}}")),
                Err(Unwritable::NotUtf8) => self.inexpressible(place, "bytes that are not UTF-8"),
                Err(Unwritable::Tensor(TensorError::NotLoaded)) => self.push(&summary(tensor)),
                Err(Unwritable::Tensor(source)) => self.broken_tensor(place, source),
            },
        }
    }

    fn broken_tensor(&mut self, place: &str, source: TensorError) {
        self.push(&format!("{{… {source}}}"));
        self.refuse(PrintError::Tensor { place: place.to_owned(), source });
    }

    fn value_type(&mut self, ty: &Type, place: &str) {
        match ty {
            Type::Tensor(TensorType { dtype, shape }) => self.element_type(*dtype, shape.as_ref()),
            Type::Sparse(TensorType { dtype, shape }) => {
                self.push("sparse_tensor(");
                self.element_type(*dtype, shape.as_ref());
                self.push(")");
            }
            Type::Sequence(inner) => self.wrapped_type("seq(", inner, place),
            Type::Optional(inner) => self.wrapped_type("optional(", inner, place),
            Type::Map(key, inner) => self.wrapped_type(&format!("map({key}, "), inner, place),
            Type::Opaque(domain, name) => self.opaque_type(domain, name, place),
        }
    }

    fn wrapped_type(&mut self, before: &str, inner: &Type, place: &str) {
        self.push(before);
        self.value_type(inner, place);
        self.push(")");
    }

    fn opaque_type(&mut self, domain: &Name, name: &Name, place: &str) {
        let expressible = match (domain.is_empty(), name.is_empty()) {
            (true, true) => true,
            (true, false) => is_dotted(name),
            (false, _) => is_dotted(domain) && is_identifier(name),
        };
        if !expressible {
            self.inexpressible(place, "this opaque type");
        }
        let comma = if domain.is_empty() { "" } else { "," };
        self.push(&format!("opaque({domain}{comma}{name})"));
    }

    fn element_type(&mut self, dtype: DataType, shape: Option<&Shape>) {
        self.push(dtype.name());
        let Some(shape) = shape else { return self.push("[]") };
        if shape.rank() > 0 {
            let dims: Vec<Cow<'_, str>> = shape.0.iter().map(dim).collect();
            self.push(&format!("[{}]", dims.join(",")));
        }
    }
}

/// The type that a value is declared with, which for a constant may say less than the type of its elements.
fn declared_type(value: &Value) -> Option<Cow<'_, Type>> {
    let declared = value
        .extra
        .as_ref()
        .filter(|_| value.tensor().is_some())
        .and_then(|extra| extra.type_proto.as_ref());
    match declared.and_then(type_from_proto) {
        Some(ty) => Some(Cow::Owned(ty)),
        None => value.ty.as_ref().map(Cow::Borrowed),
    }
}

fn dim(dim: &Dim) -> Cow<'_, str> {
    match dim {
        Dim::Fixed(n) => n.to_string().into(),
        Dim::Symbol(name) => quotable(name),
        Dim::Expr(expr) => quoted(&expr.to_string()).into(),
        Dim::Unknown => "?".into(),
    }
}

fn quotable(name: &str) -> Cow<'_, str> {
    if is_identifier(name) { name.into() } else { quoted(name).into() }
}

fn is_dotted(name: &str) -> bool {
    name.split('.').all(is_identifier)
}

/// Whether a body can bear the name: not quoted, and nothing else that an attribute can be.
fn is_body_name(name: &str) -> bool {
    // ONNX's parser takes the letters before an underscore for a float.
    let letters = name.split('_').next().unwrap_or(name);
    is_identifier(name) && !is_type_word(name) && !is_float_word(letters)
}

fn key_text(key: &str, text: Option<&str>) -> Option<String> {
    Some(format!("{key}: {}", quoted(text?)))
}

fn opset_import(opsets: &[Opset]) -> String {
    let import = |opset: &Opset| {
        let domain = quoted(opset.domain.as_deref().unwrap_or(""));
        format!("{domain} : {}", opset.version.unwrap_or(0))
    };
    format!("opset_import: [{}]", opsets.iter().map(import).collect::<Vec<_>>().join(", "))
}

fn string_pairs(pairs: &[(String, String)]) -> String {
    let pair = |(key, value): &(String, String)| format!("{}: {}", quoted(key), quoted(value));
    format!("[{}]", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
}

/// A tensor by size and hash.
fn summary(tensor: &Tensor) -> String {
    let size = byte_size(tensor.byte_len());
    let hash = match (&tensor.data, tensor.raw()) {
        (TensorData::String(strings), _) => {
            let mut hasher = blake3::Hasher::new();
            for string in strings.iter() {
                hasher.update(&(string.len() as u64).to_le_bytes()).update(string);
            }
            hasher.finalize()
        }
        (_, Ok(raw)) => blake3::Hasher::new().update_rayon(&raw).finalize(),
        (_, Err(_)) => return format!("{{… {size}, not loaded}}"),
    };
    format!("{{… {size}, blake3 {}}}", &hash.to_hex()[..8])
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn byte_size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    let number = format!("{size:.2}");
    format!("{} {}", number.trim_end_matches('0').trim_end_matches('.'), units[unit])
}
