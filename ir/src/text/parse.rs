//! The grammar: text to [`tree`](super::tree).

use std::sync::Arc;

use bytes::Bytes;

use super::lex::{Cursor, Fail, Literal, Parsed, is_float_word, parse_int};
use super::literal::{parse_float, read_tensor};
use super::tree::{
    AttrText, AttrValueText, Declared, FunctionText, GraphText, HeaderText, Ident, NodeText,
};
use crate::{
    AttrValue, DataType, Dim, External, Name, Opset, Shape, Tensor, TensorData, TensorExtra,
    TensorType, Type, type_to_proto,
};

/// Words that begin a type that is not a tensor.
const TYPE_WORDS: &[&str] = &["seq", "map", "optional", "sparse_tensor", "opaque"];

/// The attribute types that single values have: codes in `AttributeProto.AttributeType`.
const FLOAT: i32 = 1;
const INT: i32 = 2;
const STRING: i32 = 3;
const TENSOR: i32 = 4;
const GRAPH: i32 = 5;
const SPARSE_TENSOR: i32 = 11;
const TYPE_PROTO: i32 = 13;
/// What a reference says of the type of what it refers to.
const UNDEFINED: i32 = 0;

/// Names of the attribute types, in the order of their codes from 1.
const ATTR_TYPES: &[&str] = &[
    "float",
    "int",
    "string",
    "tensor",
    "graph",
    "floats",
    "ints",
    "strings",
    "tensors",
    "graphs",
    "sparse_tensor",
    "sparse_tensors",
    "type_proto",
    "type_protos",
];

/// Whether a word begins a type, so that a value of that name and of no type needs quotes.
pub(super) fn is_type_word(word: &str) -> bool {
    TYPE_WORDS.contains(&word) || DataType::from_name(word).is_some()
}

/// What an attribute value turned out to be, before lists are joined.
enum Single {
    Int(i64),
    Float(f32),
    String(Bytes),
    Tensor(Arc<Tensor>),
    Type(Type),
    Graph(Box<GraphText>),
    Ref(Name),
}

impl Single {
    /// Code of the attribute type.
    fn code(&self) -> i32 {
        match self {
            Single::Ref(_) => UNDEFINED,
            Single::Float(_) => FLOAT,
            Single::Int(_) => INT,
            Single::String(_) => STRING,
            Single::Tensor(_) => TENSOR,
            Single::Graph(_) => GRAPH,
            Single::Type(_) => TYPE_PROTO,
        }
    }
}

/// The name of an attribute type by its code.
pub(super) fn attr_type_name(code: i32) -> Option<&'static str> {
    ATTR_TYPES.get(usize::try_from(code).ok()?.checked_sub(1)?).copied()
}

/// The type of the elements of a list type.
fn element_code(code: i32) -> Option<i32> {
    match code {
        6..=10 => Some(code - 5),
        12 | 14 => Some(code - 1),
        _ => None,
    }
}

/// Keys of a model's header.
pub(super) const MODEL_KEYS: &[&str] = &[
    "ir_version",
    "opset_import",
    "producer_name",
    "producer_version",
    "domain",
    "model_version",
    "doc_string",
    "metadata_props",
];

/// Keys of a function's header.
const FUNCTION_KEYS: &[&str] = &["domain", "overload", "opset_import", "doc_string"];

impl Cursor<'_> {
    /// A header between `<` and `>`, when there is one.
    pub(super) fn header(&mut self, keys: &[&str]) -> Parsed<HeaderText> {
        let mut header = HeaderText::default();
        if self.take("<") {
            self.list(">", |cursor| cursor.header_entry(keys, &mut header))?;
        }
        Ok(header)
    }

    fn header_entry(&mut self, keys: &[&str], text: &mut HeaderText) -> Parsed<()> {
        let at = self.at();
        let key = self.identifier("a key of the header, such as `opset_import`")?;
        if !keys.contains(&key) {
            return Err(Fail::new(
                at,
                format!("expected one of {}, found `{key}`", keys.join(", ")),
            ));
        }
        self.expect(":")?;
        let header = &mut text.header;
        match key {
            "ir_version" => header.ir_version = Some(self.int("a version")?),
            "model_version" => header.model_version = Some(self.int("a version")?),
            "producer_name" => header.producer_name = Some(self.string()?),
            "producer_version" => header.producer_version = Some(self.string()?),
            "domain" => header.domain = Some(self.string()?),
            "doc_string" => header.doc_string = Some(self.string()?),
            "metadata_props" => header.metadata = self.string_pairs()?,
            "overload" => text.overload = Some(self.string()?.into()),
            _ => text.opsets = self.opsets()?,
        }
        Ok(())
    }

    fn opsets(&mut self) -> Parsed<Vec<Opset>> {
        self.expect("[")?;
        self.list("]", |cursor| {
            let domain = Some(cursor.string()?.into());
            cursor.expect(":")?;
            Ok(Opset { domain, version: Some(cursor.int("a version")?) })
        })
    }

    fn string_pairs(&mut self) -> Parsed<Vec<(String, String)>> {
        self.expect("[")?;
        self.list("]", Cursor::string_pair)
    }

    fn string_pair(&mut self) -> Parsed<(String, String)> {
        let key = self.string()?;
        self.expect(":")?;
        Ok((key, self.string()?))
    }

    /// A graph: name, inputs, outputs, `value_info` and initializers, nodes.
    pub(super) fn graph(&mut self) -> Parsed<GraphText> {
        let name = self.name("the name of a graph")?.into();
        let inputs =
            if self.take("(") { self.list(")", |c| c.declared(true))? } else { Vec::new() };
        self.graph_from_arrow(name, inputs, true)
    }

    fn graph_from_arrow(
        &mut self,
        name: Name,
        inputs: Vec<Declared>,
        may_have_initializers: bool,
    ) -> Parsed<GraphText> {
        self.expect("=>")?;
        self.expect("(")?;
        let outputs = self.list(")", |c| c.declared(false))?;
        let others = if self.take("<") {
            self.list(">", |c| c.declared(may_have_initializers))?
        } else {
            Vec::new()
        };
        self.expect("{")?;
        let mut nodes = Vec::new();
        while !self.take("}") {
            if self.is_end() {
                return self.unexpected("a node or `}`");
            }
            nodes.push(self.node()?);
        }
        Ok(GraphText { name, inputs, outputs, others, nodes })
    }

    /// A function with the header before it.
    pub(super) fn function(&mut self) -> Parsed<FunctionText> {
        let header = self.header(FUNCTION_KEYS)?;
        let name = self.name("the name of a function")?.into();
        let mut attributes = Vec::new();
        let mut defaults = Vec::new();
        if self.take("<") {
            self.list(">", |cursor| {
                let name = cursor.name("the name of an attribute")?.into();
                if matches!(cursor.peek(), Some(':' | '=')) {
                    defaults.push(cursor.attr_after_name(name)?);
                } else {
                    attributes.push(name);
                }
                Ok(())
            })?;
        }
        self.expect("(")?;
        let inputs = self.list(")", |c| c.declared(false))?;
        let mut graph = self.graph_from_arrow(name, inputs, false)?;
        // A function's inputs and outputs are names only; types said there are entries of `value_info`.
        let typed = graph.inputs.iter_mut().chain(&mut graph.outputs).filter_map(|declared| {
            let name = Ident { name: declared.name.name.clone(), at: declared.name.at };
            Some(Declared { ty: Some(declared.ty.take()?), name, data: None })
        });
        let typed: Vec<Declared> = typed.collect();
        graph.others.splice(0..0, typed);
        Ok(FunctionText { header, attributes, defaults, graph })
    }

    /// A value with its type, if it says one, and its data, if it may have any and does.
    fn declared(&mut self, may_have_data: bool) -> Parsed<Declared> {
        let type_at = self.at();
        let ty = if self.peek_identifier().is_some_and(is_type_word) {
            Some(self.value_type()?)
        } else {
            None
        };
        let name = self.ident("the name of a value")?;
        if name.name.is_empty() {
            return Err(Fail::new(name.at, "expected the name of a value, found an empty string"));
        }
        let data = if may_have_data && self.take("=") {
            Some(self.tensor_data(ty.as_ref(), type_at)?)
        } else {
            None
        };
        Ok(Declared { ty, name, data })
    }

    fn ident(&mut self, what: &str) -> Parsed<Ident> {
        let at = self.at();
        Ok(Ident { name: self.name(what)?.into(), at })
    }

    pub(super) fn value_type(&mut self) -> Parsed<Type> {
        let at = self.at();
        let word = self.identifier("a type")?;
        if let Some(dtype) = DataType::from_name(word) {
            return Ok(Type::Tensor(TensorType { dtype, shape: self.shape()? }));
        }
        if !TYPE_WORDS.contains(&word) {
            return Err(Fail::new(at, format!("`{word}` is not a type")));
        }
        self.expect("(")?;
        let ty = match word {
            "seq" => Type::Sequence(Box::new(self.nested(Cursor::value_type)?)),
            "optional" => Type::Optional(Box::new(self.nested(Cursor::value_type)?)),
            "map" => {
                let key = self.data_type()?;
                self.expect(",")?;
                Type::Map(key, Box::new(self.nested(Cursor::value_type)?))
            }
            "sparse_tensor" => {
                Type::Sparse(TensorType { dtype: self.data_type()?, shape: self.shape()? })
            }
            _ => self.opaque()?,
        };
        self.expect(")")?;
        Ok(ty)
    }

    fn data_type(&mut self) -> Parsed<DataType> {
        let at = self.at();
        let word = self.identifier("an element type")?;
        DataType::from_name(word)
            .ok_or_else(|| Fail::new(at, format!("`{word}` is not an element type")))
    }

    /// Domain and name, both optional; a domain only before a name.
    fn opaque(&mut self) -> Parsed<Type> {
        if self.peek() == Some(')') {
            return Ok(Type::Opaque(Name::default(), Name::default()));
        }
        let first = self.dotted("a name")?;
        if !self.take(",") {
            return Ok(Type::Opaque(Name::default(), first.into()));
        }
        Ok(Type::Opaque(first.into(), self.identifier("a name")?.into()))
    }

    fn dotted(&mut self, what: &str) -> Parsed<String> {
        let mut name = self.identifier(what)?.to_owned();
        while self.take(".") {
            name.push('.');
            name.push_str(self.identifier(what)?);
        }
        Ok(name)
    }

    /// No brackets: a scalar. Empty brackets: not even the rank is known.
    fn shape(&mut self) -> Parsed<Option<Shape>> {
        if !self.take("[") {
            return Ok(Some(Shape::default()));
        }
        let dims = self.list("]", Cursor::dim)?;
        Ok(if dims.is_empty() { None } else { Some(dims.into_iter().collect()) })
    }

    fn dim(&mut self) -> Parsed<Dim> {
        match self.peek() {
            Some('?') => {
                self.expect("?")?;
                Ok(Dim::Unknown)
            }
            // Writers say "not known" in several ways.
            Some('-' | '0'..='9') => {
                let dim = self.int("a whole number")?;
                Ok(if dim < 0 { Dim::Unknown } else { Dim::Fixed(dim) })
            }
            _ => {
                let name = self.name("a dimension")?;
                Ok(if name.is_empty() { Dim::Unknown } else { Dim::named(&name) })
            }
        }
    }

    /// What stands behind a tensor's type and name: elements, or where they are.
    fn tensor_data(&mut self, ty: Option<&Type>, type_at: usize) -> Parsed<Tensor> {
        let ty = ty.and_then(Type::as_tensor);
        let dims = ty.and_then(|ty| ty.shape.as_ref()?.dims());
        let (Some(ty), Some(dims)) = (ty, dims) else {
            return Err(Fail::new(
                type_at,
                "a tensor with elements needs an element type and fixed dimensions",
            ));
        };
        if self.take("{") {
            return read_tensor(self, ty.dtype, dims.to_vec());
        }
        if self.peek() != Some('[') {
            return self.unexpected("`{` with elements or `[` with the place of external data");
        }
        let entries = self.string_pairs()?;
        let data = TensorData::External(Arc::new(External { entries, bytes: None }));
        let tensor = Tensor { dtype: ty.dtype, dims: dims.to_vec(), data, extra: None };
        tensor.check().map_err(|err| Fail::new(type_at, err.to_string()))?;
        Ok(tensor)
    }

    fn node(&mut self) -> Parsed<NodeText> {
        let name = self.node_name()?;
        let outputs = self.idents('=')?;
        self.expect("=")?;
        let (domain, op) = self.op()?;
        let overload =
            if self.take(":") { Some(self.identifier("an overload")?.into()) } else { None };
        let mut attrs = self.attrs()?;
        self.expect("(")?;
        let inputs = self.idents(')')?;
        self.expect(")")?;
        // Attributes stand before or after the inputs.
        if attrs.is_empty() {
            attrs = self.attrs()?;
        }
        Ok(NodeText { name, outputs, domain, op, overload, attrs, inputs })
    }

    fn node_name(&mut self) -> Parsed<Option<Name>> {
        if !self.take("[") {
            return Ok(None);
        }
        let name =
            if self.peek() == Some(']') { String::new() } else { self.name("the name of a node")? };
        self.expect("]")?;
        Ok(Some(name.into()))
    }

    /// Names up to `end`, which is not taken. An empty one stands for an input or output that is left out; it is
    /// written `""`, or as nothing before a comma.
    fn idents(&mut self, end: char) -> Parsed<Vec<Ident>> {
        let mut idents = Vec::new();
        while self.peek() != Some(end) {
            if self.peek() == Some(',') {
                idents.push(Ident { name: Name::default(), at: self.at() });
            } else {
                idents.push(self.ident("the name of a value")?);
            }
            if !self.take(",") {
                break;
            }
        }
        Ok(idents)
    }

    fn op(&mut self) -> Parsed<(Option<Name>, Name)> {
        let path = self.dotted("an operator")?;
        Ok(match path.rsplit_once('.') {
            Some((domain, op)) => (Some(domain.into()), op.into()),
            None => (None, path.into()),
        })
    }

    fn attrs(&mut self) -> Parsed<Vec<AttrText>> {
        let mut attrs: Vec<AttrText> = Vec::new();
        if self.take("<") {
            self.list(">", |cursor| {
                let at = cursor.at();
                let name: Name = cursor.identifier("the name of an attribute")?.into();
                if attrs.iter().any(|attr| attr.name == name) {
                    return Err(Fail::new(at, format!("attribute `{name}` is given twice")));
                }
                attrs.push(cursor.attr_after_name(name)?);
                Ok(())
            })?;
        }
        Ok(attrs)
    }

    fn attr_after_name(&mut self, name: Name) -> Parsed<AttrText> {
        let code = if self.take(":") { Some(self.attr_type()?) } else { None };
        self.expect("=")?;
        let at = self.at();
        let value = if self.take("[") {
            let element = match code {
                Some(code) => Some(element_code(code).ok_or_else(|| mismatch(at, code, "a list"))?),
                None => None,
            };
            let items = self.list("]", |cursor| Ok((cursor.at(), cursor.attr_value(element)?)))?;
            join(at, code, items)?
        } else {
            let single = self.attr_value(code.filter(|&code| element_code(code).is_none()))?;
            match (single, code) {
                (Single::Ref(name), code) => {
                    AttrValueText::Plain(AttrValue::Ref(name, code.unwrap_or(UNDEFINED)))
                }
                (single, Some(code)) if code != single.code() => {
                    return Err(mismatch(at, code, "a single value"));
                }
                (Single::Graph(graph), _) => AttrValueText::Graph(graph),
                (single, _) => AttrValueText::Plain(plain(single)),
            }
        };
        Ok(AttrText { name, value })
    }

    fn attr_type(&mut self) -> Parsed<i32> {
        let at = self.at();
        let word = self.identifier("an attribute type")?;
        match (1..).zip(ATTR_TYPES).find(|(_, name)| **name == word) {
            Some((code, _)) => Ok(code),
            None => Err(Fail::new(at, format!("`{word}` is not an attribute type"))),
        }
    }

    /// One value; `expected` is its type as far as the text says it.
    fn attr_value(&mut self, expected: Option<i32>) -> Parsed<Single> {
        let at = self.at();
        let single = self.any_attr_value(expected)?;
        match expected {
            Some(code) if single.code() != UNDEFINED && single.code() != code => {
                Err(mismatch(at, code, attr_type_name(single.code()).unwrap_or("something else")))
            }
            _ => Ok(single),
        }
    }

    fn any_attr_value(&mut self, expected: Option<i32>) -> Parsed<Single> {
        let at = self.at();
        if self.take("@") {
            return Ok(Single::Ref(self.name("the name of an attribute")?.into()));
        }
        match self.peek_identifier() {
            Some(word) if is_type_word(word) => return self.tensor_or_type(),
            Some(word) if !is_float_word(word) => {
                return Ok(Single::Graph(Box::new(self.nested(Cursor::graph)?)));
            }
            // Names of bodies are identifiers in ONNX's own parser; a string is nothing else where a graph is due.
            None if expected == Some(GRAPH) && self.peek() == Some('"') => {
                return Ok(Single::Graph(Box::new(self.nested(Cursor::graph)?)));
            }
            _ => {}
        }
        Ok(match self.literal("the value of an attribute")? {
            Literal::String(text) => Single::String(Bytes::from(text)),
            Literal::Float(text) => Single::Float(parse_float(at, text)?),
            Literal::Int(text) if expected == Some(FLOAT) => Single::Float(parse_float(at, text)?),
            Literal::Int(text) => Single::Int(parse_int(at, text)?),
        })
    }

    /// A type, or a tensor when a name or elements stand behind the type.
    fn tensor_or_type(&mut self) -> Parsed<Single> {
        let at = self.at();
        let ty = self.value_type()?;
        let is_tensor =
            matches!(self.peek(), Some('{' | '=' | '"')) || self.peek_identifier().is_some();
        if !is_tensor {
            return Ok(Single::Type(ty));
        }
        let name = match self.peek() {
            Some('{' | '=') => None,
            _ => Some(self.name("the name of a tensor")?.into()),
        };
        self.take("=");
        let mut tensor = self.tensor_data(Some(&ty), at)?;
        if name.is_some() {
            tensor.extra = Some(Box::new(TensorExtra { name, ..TensorExtra::default() }));
        }
        Ok(Single::Tensor(Arc::new(tensor)))
    }
}

fn mismatch(at: usize, code: i32, found: &str) -> Fail {
    let expected = attr_type_name(code).unwrap_or("undefined");
    Fail::new(at, format!("expected an attribute of type {expected}, found {found}"))
}

fn plain(single: Single) -> AttrValue {
    match single {
        Single::Int(i) => AttrValue::Int(i),
        Single::Float(f) => AttrValue::Float(f),
        Single::String(s) => AttrValue::String(s),
        Single::Tensor(t) => AttrValue::Tensor(t),
        Single::Type(ty) => AttrValue::Type(Box::new(type_to_proto(&ty))),
        Single::Ref(name) => AttrValue::Ref(name, UNDEFINED),
        Single::Graph(_) => unreachable!("bodies are told apart before"),
    }
}

/// A list of values of one type as one attribute.
fn join(at: usize, code: Option<i32>, items: Vec<(usize, Single)>) -> Parsed<AttrValueText> {
    let code = match (code.and_then(element_code), items.first()) {
        (Some(code), _) => code,
        (None, Some((_, first))) => first.code(),
        (None, None) => return Err(Fail::new(at, "an empty list needs a type, such as `: ints`")),
    };
    let (mut ints, mut floats, mut strings) = (Vec::new(), Vec::new(), Vec::new());
    let (mut tensors, mut types, mut graphs) = (Vec::new(), Vec::new(), Vec::new());
    for (at, item) in items {
        if item.code() == UNDEFINED {
            return Err(Fail::new(at, "a list cannot hold a reference"));
        }
        if item.code() != code {
            return Err(mismatch(
                at,
                code,
                attr_type_name(item.code()).unwrap_or("something else"),
            ));
        }
        match item {
            Single::Int(i) => ints.push(i),
            Single::Float(f) => floats.push(f),
            Single::String(s) => strings.push(s),
            Single::Tensor(t) => tensors.push(t),
            Single::Type(ty) => types.push(type_to_proto(&ty)),
            Single::Graph(graph) => graphs.push(*graph),
            Single::Ref(_) => {}
        }
    }
    Ok(AttrValueText::Plain(match code {
        FLOAT => AttrValue::Floats(floats),
        INT => AttrValue::Ints(ints),
        STRING => AttrValue::Strings(strings),
        TENSOR => AttrValue::Tensors(tensors),
        GRAPH => return Ok(AttrValueText::Graphs(graphs)),
        SPARSE_TENSOR => AttrValue::Sparses(Vec::new()),
        _ => AttrValue::Types(types),
    }))
}
