//! From messages to the model: names become edges, and what the edges cannot say is kept beside them.
//!
//! A graph is built in two steps, so that a node may stand before what it reads: first everything that defines a name,
//! then everything that reads one. Bodies are built in the second step of the graph around them, whose names they see.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;

use crate::external::DataFiles;
use crate::load::{LoadError, LoadOptions, LoadWarning, Loaded};
use crate::place::Place;
use crate::proto::{
    self, AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
};
use crate::sort::sort;
use crate::store::{type_to_proto, value_to_proto};
use crate::{
    Attr, AttrValue, Attrs, DataType, Def, Dim, External, Function, GraphId, Header, Model, Name,
    NewNode, NodeId, Op, Opset, Shape, SideTable, Tensor, TensorData, TensorType, Type, Use, Value,
    ValueId,
};

/// Makes a model of its messages.
pub(crate) fn build(
    proto: ModelProto,
    files: DataFiles,
    options: &LoadOptions,
) -> Result<Loaded, LoadError> {
    let mut builder = Builder::new(files, options.external_data);
    builder.model(proto)?;
    Ok(Loaded { model: builder.model, warnings: builder.warnings, sources: builder.files.sources })
}

/// Makes a tensor of a message that stands alone.
pub(crate) fn tensor(proto: TensorProto) -> Result<Tensor, LoadError> {
    let at = Place::default().then("the tensor");
    Builder::new(DataFiles::default(), true).tensor(proto, at)
}

struct Builder {
    model: Model,
    warnings: Vec<LoadWarning>,
    files: DataFiles,
    load_external: bool,
    /// The names of the graph being built and of those around it, innermost last.
    scopes: Vec<HashMap<Name, ValueId>>,
    /// Values that have been declared by an input, an output or a `value_info`.
    declared: SideTable<Value, ()>,
}

/// A node whose inputs and attributes are still to be read.
struct Pending {
    node: NodeId,
    inputs: Vec<String>,
    attributes: Vec<AttributeProto>,
}

impl Builder {
    fn new(files: DataFiles, load_external: bool) -> Builder {
        Builder {
            model: Model::new(),
            warnings: Vec::new(),
            files,
            load_external,
            scopes: Vec::new(),
            declared: SideTable::new(),
        }
    }

    fn model(&mut self, proto: ModelProto) -> Result<(), LoadError> {
        self.model.header = Header {
            ir_version: proto.ir_version,
            producer_name: proto.producer_name,
            producer_version: proto.producer_version,
            domain: proto.domain,
            model_version: proto.model_version,
            doc_string: proto.doc_string,
            metadata: entries(proto.metadata_props),
            training_info: proto.training_info,
            configuration: proto.configuration,
        };
        self.model.opsets = opsets(proto.opset_import);
        let root = self.model.root();
        let graph =
            proto.graph.ok_or_else(|| LoadError::NotOnnx { why: "it has no graph".to_owned() })?;
        self.graph(root, graph)?;
        for function in proto.functions {
            self.function(function)?;
        }
        self.rename_hidden();
        Ok(())
    }

    fn function(&mut self, proto: proto::FunctionProto) -> Result<(), LoadError> {
        let body = self.model.add_graph(None);
        let at = || Place::default().then("function");
        let name = required(proto.name, at, "name")?;
        self.model.functions.push(Function {
            name,
            domain: proto.domain.map(Name::from),
            overload: proto.overload.map(Name::from),
            attributes: proto.attribute.into_iter().map(Name::from).collect(),
            defaults: Attrs::default(),
            opsets: opsets(proto.opset_import),
            body,
        });
        let at = self.model.functions.len() - 1;
        let defaults = self.attributes(None, body, proto.attribute_proto)?;
        self.model.functions[at].defaults = defaults;
        let named = |name| proto::ValueInfoProto { name: Some(name), ..Default::default() };
        // A function's inputs and outputs are names; their types, if any, are in its `value_info`.
        let graph = GraphProto {
            node: proto.node,
            doc_string: proto.doc_string,
            input: proto.input.into_iter().map(named).collect(),
            output: proto.output.into_iter().map(named).collect(),
            value_info: proto.value_info,
            metadata_props: proto.metadata_props,
            ..Default::default()
        };
        self.graph(body, graph)
    }

    fn graph(&mut self, graph: GraphId, proto: GraphProto) -> Result<(), LoadError> {
        let mut fields = self.model.graph_mut(graph);
        *fields.name() = proto.name.map(Name::from);
        *fields.doc_string() = proto.doc_string;
        *fields.metadata() = entries(proto.metadata_props);
        *fields.quantization() = proto.quantization_annotation;
        // A declaration without a type says nothing of a function's input that `value_info` could contradict.
        let is_function = self.model.functions.iter().any(|f| f.body == graph);

        self.scopes.push(HashMap::new());
        self.initializers(graph, proto.initializer, proto.sparse_initializer)?;
        self.inputs(graph, proto.input, is_function)?;
        let pending = proto
            .node
            .into_iter()
            .map(|node| self.node(graph, node))
            .collect::<Result<Vec<_>, _>>()?;

        for Pending { node, inputs, attributes } in pending {
            for (slot, name) in (0u32..).zip(inputs) {
                let use_ = Use::Input { node, slot };
                let value = if name.is_empty() { None } else { Some(self.resolve(use_, name)?) };
                self.model.attach_input(node, value);
            }
            *self.model.node_mut(node).attrs() = self.attributes(Some(node), graph, attributes)?;
        }
        for (slot, info) in (0u32..).zip(proto.output) {
            let use_ = Use::Output { graph, slot };
            let name = required(info.name.clone(), || Place::reader(&self.model, use_), "name")?;
            let value = self.resolve(use_, name.as_str().to_owned())?;
            self.model.add_output(graph, value);
            // A value of a graph around this one is declared there.
            if !is_function && self.model[value].graph() == graph {
                self.declare(graph, value, info);
            }
        }
        for info in proto.value_info {
            let name = info.name.as_deref().unwrap_or("");
            let value = match self.scopes.last().and_then(|scope| scope.get(name)) {
                Some(&value) => value,
                None => self.model.add_missing(graph, name.into()),
            };
            self.declare(graph, value, info);
            self.model.graph_mut(graph).value_info().push(value);
        }
        self.scopes.pop();

        match sort(&mut self.model, graph) {
            Ok(false) => Ok(()),
            Ok(true) => {
                self.warnings.push(LoadWarning::Sorted { graph: Place::graph(&self.model, graph) });
                Ok(())
            }
            Err(source) => {
                Err(LoadError::Cycle { graph: Place::graph(&self.model, graph), source })
            }
        }
    }

    fn initializers(
        &mut self,
        graph: GraphId,
        dense: Vec<TensorProto>,
        sparse: Vec<proto::SparseTensorProto>,
    ) -> Result<(), LoadError> {
        for (i, mut tensor) in dense.into_iter().enumerate() {
            let place = || Place::graph(&self.model, graph).then(format!("initializer {i}"));
            let name = required(tensor.name.take(), place, "name")?;
            let at = Place::graph(&self.model, graph).then(format!("initializer {:?}", &*name));
            let tensor = self.tensor(tensor, at)?;
            let value = self.model.add_initializer(graph, name, Arc::new(tensor));
            self.bind(graph, value)?;
        }
        for (i, tensor) in sparse.into_iter().enumerate() {
            let place = || Place::graph(&self.model, graph).then(format!("sparse initializer {i}"));
            let name = tensor.values.as_ref().and_then(|v| v.name.clone());
            let name = required(name, place, "name")?;
            let code = tensor.values.as_ref().and_then(|v| v.data_type).unwrap_or(0);
            let dtype = DataType::from_code(code)
                .ok_or_else(|| LoadError::ElementType { at: place(), code })?;
            let ty = Type::Sparse(TensorType::new(dtype, Shape::fixed(&tensor.dims)));
            let value = self.model.add_missing(graph, name);
            self.model.define(value, Def::Sparse(Arc::new(tensor)));
            self.model.set_type(value, Some(ty));
            self.bind(graph, value)?;
        }
        Ok(())
    }

    fn inputs(
        &mut self,
        graph: GraphId,
        inputs: Vec<proto::ValueInfoProto>,
        is_function: bool,
    ) -> Result<(), LoadError> {
        let mut both = 0;
        for (i, info) in inputs.into_iter().enumerate() {
            let place = || Place::graph(&self.model, graph).then(format!("input {i}"));
            let name = required(info.name.clone(), place, "name")?;
            let bound = self.scopes.last().and_then(|scope| scope.get(&name)).copied();
            let value = match bound {
                Some(value)
                    if self.model[value].tensor().is_some() && !self.model.is_input(value) =>
                {
                    self.model.list_input(graph, value);
                    both += 1;
                    value
                }
                _ => {
                    let value = self.model.add_input(graph, name, None);
                    self.bind(graph, value)?;
                    value
                }
            };
            if !is_function {
                self.declare(graph, value, info);
            }
        }
        // Before version 4 of the format every initializer had to be an input.
        if both > 0 && self.model.header.ir_version >= Some(4) {
            let graph = Place::graph(&self.model, graph);
            self.warnings.push(LoadWarning::InitializerInputs { graph, count: both });
        }
        Ok(())
    }

    /// Makes a node with its outputs; inputs and attributes come when all names are known.
    fn node(&mut self, graph: GraphId, proto: NodeProto) -> Result<Pending, LoadError> {
        let place = || {
            let name =
                proto.name.as_deref().or(proto.output.first().map(String::as_str)).unwrap_or("");
            Place::graph(&self.model, graph).then(format!("node {name:?}"))
        };
        let op_type = required(proto.op_type.clone(), place, "operator type")?;
        let output = |name: String| if name.is_empty() { None } else { Some(Name::from(name)) };
        let node = self.model.add_node(
            graph,
            None,
            NewNode {
                op: Op::new(proto.domain.map(Name::from), op_type),
                name: proto.name.map(Name::from),
                inputs: Vec::new(),
                outputs: proto.output.into_iter().map(output).collect(),
                attrs: Attrs::default(),
            },
        );
        let mut fields = self.model.node_mut(node);
        *fields.doc_string() = proto.doc_string;
        *fields.metadata() = entries(proto.metadata_props);
        *fields.overload() = proto.overload.map(Name::from);
        *fields.device_configurations() = proto.device_configurations;
        for slot in 0..self.model[node].outputs().len() {
            if let Some(value) = self.model[node].output(slot) {
                self.bind(graph, value)?;
            }
        }
        Ok(Pending { node, inputs: proto.input, attributes: proto.attribute })
    }

    /// Puts a value's name into the scope of its graph.
    fn bind(&mut self, graph: GraphId, value: ValueId) -> Result<(), LoadError> {
        let name = self.model[value].name().clone();
        let Some(scope) = self.scopes.last_mut() else { return Ok(()) };
        let Some(first) = scope.insert(name.clone(), value) else { return Ok(()) };
        let describe = |value: ValueId| match *self.model[value].def() {
            Def::Node { node, slot } => format!("output {slot} of {}", self.model.describe(node)),
            Def::Initializer(_) | Def::Sparse(_) => "an initializer".to_owned(),
            Def::Input => "an input".to_owned(),
            Def::Missing => "nothing".to_owned(),
        };
        Err(LoadError::Duplicate {
            graph: Place::graph(&self.model, graph),
            name,
            first: describe(first),
            second: describe(value),
        })
    }

    /// The value of this name in the graph being built or the nearest one around it.
    fn resolve(&self, use_: Use, name: String) -> Result<ValueId, LoadError> {
        let found = self.scopes.iter().rev().find_map(|scope| scope.get(name.as_str()));
        found.copied().ok_or_else(|| LoadError::Undefined {
            at: Place::reader(&self.model, use_),
            name: name.into(),
        })
    }

    /// Gives a value the type and the other fields of its declaration.
    fn declare(&mut self, graph: GraphId, value: ValueId, info: proto::ValueInfoProto) {
        if self.declared.insert(value, ()).is_some() {
            if value_to_proto(&self.model, value) != info {
                let name = self.model[value].name().clone();
                self.warnings.push(LoadWarning::Redeclared {
                    graph: Place::graph(&self.model, graph),
                    value: name,
                });
            }
            return;
        }
        // A constant has the type of its elements, whatever else the file says of it.
        if matches!(self.model[value].def(), Def::Input | Def::Node { .. } | Def::Missing) {
            self.model.set_type(value, info.r#type.as_ref().and_then(type_from_proto));
        }
        let as_known = self.model[value].ty.as_ref().map(type_to_proto);
        let doc_string = info.doc_string;
        let metadata = entries(info.metadata_props);
        let type_proto = info.r#type.filter(|ty| Some(ty) != as_known.as_ref());
        if doc_string.is_some() || !metadata.is_empty() || type_proto.is_some() {
            *self.model.extra_mut(value) = crate::ValueExtra { doc_string, metadata, type_proto };
        }
    }

    fn attributes(
        &mut self,
        node: Option<NodeId>,
        graph: GraphId,
        protos: Vec<AttributeProto>,
    ) -> Result<Attrs, LoadError> {
        protos.into_iter().map(|proto| self.attribute(node, graph, proto)).collect()
    }

    fn attribute(
        &mut self,
        node: Option<NodeId>,
        graph: GraphId,
        mut proto: AttributeProto,
    ) -> Result<Attr, LoadError> {
        let holder = |model: &Model| match node {
            Some(node) => Place::node(model, node),
            None => Place::graph(model, graph),
        };
        let name = required(proto.name.take(), || holder(&self.model).then("attribute"), "name")?;
        let at = |model: &Model| holder(model).then(format!("attribute {:?}", &*name));
        let doc_string = proto.doc_string.take();
        let present = present(&proto);
        // The oldest files give no type: then it is the one of the value.
        let code = match proto.r#type.filter(|&code| code != 0) {
            Some(code) => code,
            None => present.first().copied().unwrap_or(0),
        };
        if let Some(of) = proto.ref_attr_name.take().filter(|of| !of.is_empty()) {
            return Ok(Attr {
                name,
                value: AttrValue::Ref(of.into(), proto.r#type.unwrap_or(0)),
                doc_string,
            });
        }
        if present.iter().any(|&other| other != code) {
            self.warnings.push(LoadWarning::AttributeValues {
                node: holder(&self.model),
                attribute: name.clone(),
            });
        }
        let no_value = |model: &Model| LoadError::Absent { at: at(model), what: "value" };
        // Some writers leave out numbers that are 0 and strings that are empty.
        let value = match code {
            1 => AttrValue::Float(proto.f.unwrap_or(0.0)),
            2 => AttrValue::Int(proto.i.unwrap_or(0)),
            3 => AttrValue::String(proto.s.unwrap_or_default()),
            4 => {
                let tensor = proto.t.ok_or_else(|| no_value(&self.model))?;
                AttrValue::Tensor(Arc::new(self.tensor(tensor, at(&self.model))?))
            }
            5 => {
                let body = proto.g.ok_or_else(|| no_value(&self.model))?;
                AttrValue::Graph(self.body(node, *body)?)
            }
            6 => AttrValue::Floats(proto.floats),
            7 => AttrValue::Ints(proto.ints),
            8 => AttrValue::Strings(proto.strings),
            9 => {
                let at = at(&self.model);
                let tensors =
                    proto.tensors.into_iter().map(|t| Ok(Arc::new(self.tensor(t, at.clone())?)));
                AttrValue::Tensors(tensors.collect::<Result<_, LoadError>>()?)
            }
            10 => {
                let bodies = proto.graphs.into_iter().map(|body| self.body(node, body));
                AttrValue::Graphs(bodies.collect::<Result<_, _>>()?)
            }
            11 => AttrValue::Sparse(Box::new(
                proto.sparse_tensor.ok_or_else(|| no_value(&self.model))?,
            )),
            12 => AttrValue::Sparses(proto.sparse_tensors),
            13 => AttrValue::Type(proto.tp.ok_or_else(|| no_value(&self.model))?),
            14 => AttrValue::Types(proto.type_protos),
            0 => return Err(no_value(&self.model)),
            code => {
                let why = format!("its type has the unknown code {code}");
                return Err(LoadError::Attribute { at: at(&self.model), why });
            }
        };
        Ok(Attr { name, value, doc_string })
    }

    fn body(&mut self, owner: Option<NodeId>, proto: GraphProto) -> Result<GraphId, LoadError> {
        let body = self.model.add_graph(owner);
        self.graph(body, proto)?;
        Ok(body)
    }

    fn tensor(&mut self, mut proto: TensorProto, at: Place) -> Result<Tensor, LoadError> {
        let code = proto.data_type.unwrap_or(0);
        let Some(dtype) = DataType::from_code(code) else {
            return Err(LoadError::ElementType { at, code });
        };
        let mut tensor =
            Tensor { dtype, dims: proto.dims, data: TensorData::Raw(Bytes::new()), extra: None };
        let elements =
            tensor.len().map_err(|source| LoadError::Tensor { at: at.clone(), source })?;

        let mut fields: Vec<(&'static str, TensorData)> = Vec::new();
        if let Some(raw) = proto.raw_data {
            fields.push(("raw_data", TensorData::Raw(raw)));
        }
        if !proto.float_data.is_empty() {
            fields.push(("float_data", TensorData::Float(proto.float_data.into())));
        }
        if !proto.int32_data.is_empty() {
            fields.push(("int32_data", TensorData::Int32(proto.int32_data.into())));
        }
        if !proto.int64_data.is_empty() {
            fields.push(("int64_data", TensorData::Int64(proto.int64_data.into())));
        }
        if !proto.double_data.is_empty() {
            fields.push(("double_data", TensorData::Double(proto.double_data.into())));
        }
        if !proto.uint64_data.is_empty() {
            fields.push(("uint64_data", TensorData::Uint64(proto.uint64_data.into())));
        }
        if !proto.string_data.is_empty() {
            fields.push(("string_data", TensorData::String(proto.string_data.into())));
        }
        let is_external = proto.data_location == Some(1);
        let mut external = entries(proto.external_data);
        if is_external {
            let entries = std::mem::take(&mut external);
            let bytes = if self.load_external {
                let need = dtype.byte_len(elements).unwrap_or(0);
                let found = self.files.bytes(&entries, need);
                Some(found.map_err(|source| LoadError::External { at: at.clone(), source })?)
            } else {
                None
            };
            fields.push((
                "external_data",
                TensorData::External(Arc::new(External { entries, bytes })),
            ));
        }
        let absent_data = fields.is_empty() && dtype != DataType::String;
        match fields.len() {
            0 if dtype == DataType::String => tensor.data = TensorData::String(Arc::new([])),
            0 => {}
            1 => tensor.data = fields.remove(0).1,
            _ => {
                return Err(LoadError::TensorFields {
                    at,
                    first: fields[0].0,
                    second: fields[1].0,
                });
            }
        }
        tensor.check().map_err(|source| LoadError::Tensor { at, source })?;

        let extra = crate::TensorExtra {
            name: proto.name.take().map(Name::from),
            doc_string: proto.doc_string,
            metadata: entries(proto.metadata_props),
            segment: proto.segment.map(|s| (s.begin, s.end)),
            explicit_location: proto.data_location == Some(0),
            absent_data,
            unused_external: external,
        };
        if extra != crate::TensorExtra::default() {
            tensor.extra = Some(Box::new(extra));
        }
        Ok(tensor)
    }

    /// Renames values of bodies that have the name of a value around them: it would be taken for that one as soon as
    /// a node of the body reads that one.
    fn rename_hidden(&mut self) {
        let bodies: Vec<GraphId> =
            self.model.graphs().filter(|&g| self.model[g].owner().is_some()).collect();
        if bodies.is_empty() {
            return;
        }
        let defined = |(_, v): &(ValueId, &Value)| !matches!(v.def(), Def::Missing);
        let mut names: HashMap<Name, Vec<GraphId>> = HashMap::new();
        for (_, value) in self.model.all_values().filter(defined) {
            names.entry(value.name().clone()).or_default().push(value.graph());
        }
        let is_hiding = |value: &Value| {
            let around = |&other: &GraphId| {
                other != value.graph() && self.model.is_within(value.graph(), other)
            };
            names.get(value.name()).is_some_and(|graphs| graphs.iter().any(around))
        };
        let hiding: Vec<ValueId> = self
            .model
            .all_values()
            .filter(defined)
            .filter(|(_, v)| is_hiding(v))
            .map(|(id, _)| id)
            .collect();
        for value in hiding {
            let old = self.model[value].name().clone();
            let new = self.model.fresh_name(&old);
            self.model.rename(value, new.clone());
            let graph = Place::graph(&self.model, self.model[value].graph());
            self.warnings.push(LoadWarning::Renamed { graph, old, new });
        }
    }
}

fn required(
    name: Option<String>,
    at: impl FnOnce() -> Place,
    what: &'static str,
) -> Result<Name, LoadError> {
    match name.filter(|name| !name.is_empty()) {
        Some(name) => Ok(name.into()),
        None => Err(LoadError::Absent { at: at(), what }),
    }
}

fn entries(props: Vec<StringStringEntryProto>) -> Vec<(String, String)> {
    props.into_iter().map(|p| (p.key.unwrap_or_default(), p.value.unwrap_or_default())).collect()
}

fn opsets(imports: Vec<proto::OperatorSetIdProto>) -> Vec<Opset> {
    imports
        .into_iter()
        .map(|o| Opset { domain: o.domain.map(Name::from), version: o.version })
        .collect()
}

/// Codes of the types whose fields hold something.
fn present(proto: &AttributeProto) -> Vec<i32> {
    let fields = [
        (1, proto.f.is_some()),
        (2, proto.i.is_some()),
        (3, proto.s.is_some()),
        (4, proto.t.is_some()),
        (5, proto.g.is_some()),
        (6, !proto.floats.is_empty()),
        (7, !proto.ints.is_empty()),
        (8, !proto.strings.is_empty()),
        (9, !proto.tensors.is_empty()),
        (10, !proto.graphs.is_empty()),
        (11, proto.sparse_tensor.is_some()),
        (12, !proto.sparse_tensors.is_empty()),
        (13, proto.tp.is_some()),
        (14, !proto.type_protos.is_empty()),
    ];
    fields.into_iter().filter(|(_, there)| *there).map(|(code, _)| code).collect()
}

/// What a type message says, as far as [`Type`] can say it; none when the element type is undefined or unknown.
#[must_use]
pub fn type_from_proto(proto: &proto::TypeProto) -> Option<Type> {
    use proto::TypeProtoValue as V;
    let tensor = |code: Option<i32>, shape: Option<&proto::TensorShapeProto>| {
        let dtype = DataType::from_code(code?)?;
        Some(TensorType { dtype, shape: shape.map(shape_from_proto) })
    };
    Some(match proto.value.as_ref()? {
        V::TensorType(t) => Type::Tensor(tensor(t.elem_type, t.shape.as_ref())?),
        V::SparseTensorType(t) => Type::Sparse(tensor(t.elem_type, t.shape.as_ref())?),
        V::SequenceType(s) => Type::Sequence(Box::new(type_from_proto(s.elem_type.as_deref()?)?)),
        V::OptionalType(o) => Type::Optional(Box::new(type_from_proto(o.elem_type.as_deref()?)?)),
        V::MapType(m) => {
            let key = DataType::from_code(m.key_type?)?;
            Type::Map(key, Box::new(type_from_proto(m.value_type.as_deref()?)?))
        }
        V::OpaqueType(o) => {
            let name = |n: &Option<String>| Name::from(n.as_deref().unwrap_or(""));
            Type::Opaque(name(&o.domain), name(&o.name))
        }
    })
}

fn shape_from_proto(proto: &proto::TensorShapeProto) -> Shape {
    let dim = |d: &proto::Dimension| match &d.value {
        // Writers say "not known" in several ways.
        Some(proto::DimensionValue::DimValue(n)) if *n >= 0 => Dim::Fixed(*n),
        Some(proto::DimensionValue::DimParam(name)) if !name.is_empty() => Dim::named(name),
        _ => Dim::Unknown,
    };
    proto.dim.iter().map(dim).collect()
}
