//! Writing models: messages are laid out around the tensors, which are written from where they are.
//!
//! A file is written under a temporary name beside its place and renamed when it is complete, so its name never stands
//! for half a model, and a model may be stored over the file that it was loaded from. Nothing is forced to the disk:
//! after a power failure the old file or the new one may be there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use crate::external::parent;
use crate::piece::{PieceWriter, write_in_pieces};
use crate::place::Place;
use crate::proto::{
    self, AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
    ValueInfoProto,
};
use crate::rope::Rope;
use crate::{
    Attr, AttrValue, Attrs, Def, Dim, Function, GraphId, Model, Name, NodeId, Opset, Tensor,
    TensorData, TensorType, Type, ValueId,
};

/// The largest message that protobuf libraries read.
const MAX_MESSAGE: u64 = (1 << 31) - 1;
/// Smaller tensors stay in the model when others go to a file of their own.
const MIN_EXTERNAL: usize = 1024;
/// External tensors begin at multiples of this, so that each can be mapped on its own.
const ALIGNMENT: u64 = 4096;

/// How to write a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreOptions {
    /// Where the weights go.
    pub external_data: ExternalData,
}

/// Where the elements of large initializers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExternalData {
    /// Into the model, unless it gets too large for protobuf (2 GiB).
    #[default]
    Auto,
    /// Into a second file beside the model: those of 1 KiB and more. Its name, `MODEL.HASH.data`, follows from what is in
    /// it, so no model ever refers to a file that holds something else.
    Always,
    /// Into the model, whatever its size.
    Never,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Size of the model file.
    pub size: u64,
    /// The file with the elements of large initializers, and its size.
    pub data: Option<(PathBuf, u64)>,
    /// Files with the elements of earlier models of this name, which this one does not use. They stay, since another
    /// run may be about to use them.
    pub unused: Vec<PathBuf>,
}

/// Why a model cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The system refuses.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is a directory or has no file name that a model could refer to.
    #[error("{} does not name a file", .0.display())]
    NotAFile(PathBuf),
    /// The model does not fit into one protobuf message.
    #[error(
        "the model takes {size} bytes without external data, and one file holds at most {MAX_MESSAGE}"
    )]
    TooLarge {
        /// Size of the message.
        size: u64,
    },
    /// The model was loaded without its external data.
    #[error("{at}: the elements were not loaded")]
    NotLoaded {
        /// The tensor.
        at: Place,
    },
}

/// Writes a model to a file.
///
/// What cannot be replaced by another file, such as a pipe or `/dev/null`, is written to directly.
///
/// # Errors
/// When elements are not there, the model is too large, or the system refuses. A file that was at `path` is then still
/// as it was.
pub fn store(model: &Model, path: &Path, options: &StoreOptions) -> Result<Stored, StoreError> {
    all_loaded(model)?;
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        |source| StoreError::Io { path, source }
    };
    // A link stays a link: the file that it names is the one to replace.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| StoreError::NotAFile(path.clone()))?;
    let kind = fs::metadata(path).map(|m| m.file_type()).ok();
    if kind.is_some_and(|kind| kind.is_dir()) {
        return Err(StoreError::NotAFile(path.clone()));
    }
    let is_replaceable = kind.is_none_or(|kind| kind.is_file());
    // There is no folder for a second file beside a pipe.
    if !is_replaceable && options.external_data == ExternalData::Always {
        return Err(StoreError::NotAFile(path.clone()));
    }

    let cx = Cx { model, embed: true };
    let mut data = DataFile::default();
    let mut data_file: Option<(NewFile, PathBuf)> = None;
    let mut rope = Rope::default();
    if options.external_data != ExternalData::Always {
        rope = Rope::model(cx.model());
    }
    if options.external_data == ExternalData::Always
        || (options.external_data == ExternalData::Auto
            && rope.len() > MAX_MESSAGE
            && is_replaceable)
    {
        let mut proto = cx.model();
        proto.graph.iter_mut().for_each(|graph| data.take(graph));
        if !data.tensors.is_empty() {
            let plain = path.with_file_name(format!("{name}.data"));
            let mut hasher = blake3::Hasher::new();
            let file = NewFile::write(&plain, Some(&mut hasher), |out| data.write_to(out))
                .map_err(failed(&plain))?;
            let hash = hasher.finalize().to_hex();
            let location = format!("{name}.{}.data", &hash[..HASH_DIGITS]);
            proto.graph.iter_mut().for_each(|graph| locate(graph, &location));
            data_file = Some((file, path.with_file_name(location)));
        }
        rope = Rope::model(proto);
    }
    if rope.len() > MAX_MESSAGE {
        return Err(StoreError::TooLarge { size: rope.len() });
    }
    if !is_replaceable {
        let mut file = OpenOptions::new().write(true).open(path).map_err(failed(path))?;
        rope.write_to(&mut file).map_err(failed(path))?;
        return Ok(Stored { size: rope.len(), data: None, unused: Vec::new() });
    }
    let model_file =
        NewFile::write(path, None, |out| rope.write_to_file(out)).map_err(failed(path))?;
    // The data comes first: whenever the process ends, the model that is there has its own data beside it.
    let mut stored = Stored { size: rope.len(), data: None, unused: Vec::new() };
    if let Some((file, place)) = data_file {
        file.put_in_place(&place).map_err(failed(&place))?;
        stored.data = Some((place, data.len));
    }
    model_file.put_in_place(path).map_err(failed(path))?;
    stored.unused = data_files(path, name);
    stored.unused.retain(|file| stored.data.as_ref().is_none_or(|(used, _)| used != file));
    Ok(stored)
}

/// Digits of the hash in the name of a file with external data.
const HASH_DIGITS: usize = 16;

/// The files beside `path` that were written for a model of that name.
fn data_files(path: &Path, name: &str) -> Vec<PathBuf> {
    let is_ours = |file: &str| {
        let hash = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
        let hash = hash.and_then(|rest| rest.strip_suffix(".data"));
        hash.is_some_and(|h| h.len() == HASH_DIGITS && h.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let Ok(folder) = fs::read_dir(parent(path)) else { return Vec::new() };
    let files = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<PathBuf> =
        files.filter(|file| is_ours(file)).map(|file| path.with_file_name(file)).collect();
    found.sort();
    found
}

/// Writes a model as one message.
///
/// # Errors
/// When elements are not there (as [`io::ErrorKind::InvalidInput`]), or the writer refuses.
pub fn write_to(model: &Model, mut out: impl Write) -> io::Result<()> {
    all_loaded(model).map_err(|err| io::Error::new(io::ErrorKind::InvalidInput, err))?;
    Rope::model(Cx { model, embed: true }.model()).write_to(&mut out)
}

fn all_loaded(model: &Model) -> Result<(), StoreError> {
    let is_there =
        |tensor: &Tensor| !matches!(&tensor.data, TensorData::External(e) if e.bytes.is_none());
    for (_, value) in model.all_values() {
        if !value.tensor().is_none_or(|t| is_there(t)) {
            let at = Place::graph(model, value.graph())
                .then(format!("initializer {:?}", &**value.name()));
            return Err(StoreError::NotLoaded { at });
        }
    }
    let are_there = |attrs: &Attrs| {
        attrs.0.iter().all(|attr| match &attr.value {
            AttrValue::Tensor(t) => is_there(t),
            AttrValue::Tensors(tensors) => tensors.iter().all(|t| is_there(t)),
            _ => true,
        })
    };
    if let Some((id, _)) = model.all_nodes().find(|(_, node)| !are_there(&node.attrs)) {
        return Err(StoreError::NotLoaded { at: Place::node(model, id) });
    }
    if let Some(f) = model.functions.iter().find(|f| !are_there(&f.defaults)) {
        return Err(StoreError::NotLoaded { at: Place::graph(model, f.body) });
    }
    Ok(())
}

/// Tensors on their way to a file beside the model.
#[derive(Default)]
struct DataFile {
    tensors: Vec<(u64, Bytes)>,
    len: u64,
}

impl DataFile {
    /// Takes the elements out of the large initializers of a graph and its bodies.
    fn take(&mut self, graph: &mut GraphProto) {
        for tensor in &mut graph.initializer {
            let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() >= MIN_EXTERNAL) else {
                continue;
            };
            let offset = self.len.next_multiple_of(ALIGNMENT);
            let entry = |key: &str, value: String| (key.to_owned(), value);
            tensor.external_data = entries(&[
                entry("offset", offset.to_string()),
                entry("length", raw.len().to_string()),
            ]);
            tensor.data_location = Some(1);
            self.len = offset + raw.len() as u64;
            self.tensors.push((offset, raw));
        }
        let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
        for body in attributes.flat_map(|a| a.g.as_deref_mut().into_iter().chain(&mut a.graphs)) {
            self.take(body);
        }
    }

    fn write_to(&self, out: &mut PieceWriter) -> io::Result<()> {
        let mut at = 0;
        for (offset, bytes) in &self.tensors {
            io::copy(&mut io::repeat(0).take(offset - at), out)?;
            out.write_bytes(bytes)?;
            at = offset + bytes.len() as u64;
        }
        Ok(())
    }
}

/// Says where the elements are that [`DataFile::take`] took.
fn locate(graph: &mut GraphProto, location: &str) {
    let taken = |t: &&mut TensorProto| t.external_data.first().is_some_and(is_offset);
    for tensor in graph.initializer.iter_mut().filter(taken) {
        let entry = ("location".to_owned(), location.to_owned());
        tensor.external_data.splice(0..0, entries(&[entry]));
    }
    let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    for body in attributes.flat_map(|a| a.g.as_deref_mut().into_iter().chain(&mut a.graphs)) {
        locate(body, location);
    }
}

fn is_offset(entry: &StringStringEntryProto) -> bool {
    entry.key.as_deref() == Some("offset")
}

/// A complete file under a temporary name, which goes away unless it is put in place.
struct NewFile {
    temporary: PathBuf,
}

impl NewFile {
    /// Writes a file that is to stand at `path` or beside it.
    fn write(
        path: &Path,
        hasher: Option<&mut blake3::Hasher>,
        write: impl FnOnce(&mut PieceWriter) -> io::Result<()>,
    ) -> io::Result<NewFile> {
        let (file, temporary) = create_beside(path)?;
        let new = NewFile { temporary };
        // Who could not read the old file shall not read the new one. Some file systems have no permissions to set.
        if let Ok(old) = fs::metadata(path) {
            let _ = file.set_permissions(old.permissions());
        }
        write_in_pieces(file, hasher, write)?;
        Ok(new)
    }

    fn put_in_place(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.temporary, path)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After the rename there is nothing of that name, and when removing fails there is nothing to be done.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// A new file in the folder of `path`, with the permissions of any new file.
fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let process = std::process::id();
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = parent(path).join(format!(".{name}.tmp-{process}-{number:04x}"));
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            // A process of this number may have been killed here before.
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return opened.map(|file| (file, temporary)),
        }
    }
}

/// The messages of a model. Elements of tensors that are raw bytes are shared, not copied.
#[must_use]
pub fn to_proto(model: &Model) -> ModelProto {
    Cx { model, embed: false }.model()
}

/// The declaration of a value.
#[must_use]
pub fn value_to_proto(model: &Model, value: ValueId) -> ValueInfoProto {
    let value = &model[value];
    let mut proto = ValueInfoProto {
        name: Some(value.name().as_str().to_owned()),
        r#type: value.ty.as_ref().map(type_to_proto),
        ..ValueInfoProto::default()
    };
    if let Some(extra) = value.extra.as_deref() {
        proto.doc_string.clone_from(&extra.doc_string);
        proto.metadata_props = entries(&extra.metadata);
        if extra.type_proto.is_some() {
            proto.r#type.clone_from(&extra.type_proto);
        }
    }
    proto
}

/// What the messages are made of.
#[derive(Clone, Copy)]
struct Cx<'a> {
    model: &'a Model,
    /// Whether elements that came from other files go into the messages.
    embed: bool,
}

impl Cx<'_> {
    fn model(self) -> ModelProto {
        let header = &self.model.header;
        ModelProto {
            ir_version: header.ir_version,
            opset_import: opsets(&self.model.opsets),
            producer_name: header.producer_name.clone(),
            producer_version: header.producer_version.clone(),
            domain: header.domain.clone(),
            model_version: header.model_version,
            doc_string: header.doc_string.clone(),
            graph: Some(self.graph(self.model.root())),
            metadata_props: entries(&header.metadata),
            training_info: header.training_info.clone(),
            functions: self.model.functions.iter().map(|f| self.function(f)).collect(),
            configuration: header.configuration.clone(),
        }
    }

    fn function(self, function: &Function) -> proto::FunctionProto {
        let body = &self.model[function.body];
        let name = |&value: &ValueId| self.model[value].name().as_str().to_owned();
        proto::FunctionProto {
            name: Some(function.name.as_str().to_owned()),
            input: body.inputs().iter().map(name).collect(),
            output: body.outputs().iter().map(name).collect(),
            attribute: function.attributes.iter().map(|a| a.as_str().to_owned()).collect(),
            attribute_proto: function.defaults.0.iter().map(|a| self.attribute(a)).collect(),
            node: self.model.nodes(function.body).map(|n| self.node(n)).collect(),
            doc_string: body.doc_string.clone(),
            opset_import: opsets(&function.opsets),
            domain: text(function.domain.as_ref()),
            overload: text(function.overload.as_ref()),
            value_info: self.value_infos(function.body),
            metadata_props: entries(&body.metadata),
        }
    }

    fn graph(self, id: GraphId) -> GraphProto {
        let graph = &self.model[id];
        let mut initializer = Vec::new();
        let mut sparse_initializer = Vec::new();
        for &value in graph.initializers() {
            let name = self.model[value].name().as_str().to_owned();
            match self.model[value].def() {
                Def::Initializer(t) => {
                    initializer.push(TensorProto { name: Some(name), ..self.tensor(t) });
                }
                Def::Sparse(sparse) => {
                    let mut sparse = proto::SparseTensorProto::clone(sparse);
                    sparse.values.get_or_insert_default().name = Some(name);
                    sparse_initializer.push(sparse);
                }
                Def::Input | Def::Node { .. } | Def::Missing => {}
            }
        }
        let info = |&value: &ValueId| value_to_proto(self.model, value);
        GraphProto {
            node: self.model.nodes(id).map(|n| self.node(n)).collect(),
            name: text(graph.name.as_ref()),
            initializer,
            sparse_initializer,
            doc_string: graph.doc_string.clone(),
            input: graph.inputs().iter().map(info).collect(),
            output: graph.outputs().iter().map(info).collect(),
            value_info: self.value_infos(id),
            quantization_annotation: graph.quantization.clone(),
            metadata_props: entries(&graph.metadata),
        }
    }

    fn value_infos(self, graph: GraphId) -> Vec<ValueInfoProto> {
        // A pass may have removed a value that the list still names.
        let live = |&&value: &&ValueId| self.model.value(value).is_some();
        self.model[graph]
            .value_info
            .iter()
            .filter(live)
            .map(|&value| value_to_proto(self.model, value))
            .collect()
    }

    fn node(self, id: NodeId) -> NodeProto {
        let node = &self.model[id];
        let name = |&value: &Option<ValueId>| match value {
            Some(value) => self.model[value].name().as_str().to_owned(),
            None => String::new(),
        };
        NodeProto {
            input: node.inputs().iter().map(name).collect(),
            output: node.outputs().iter().map(name).collect(),
            name: text(node.name.as_ref()),
            op_type: Some(node.op().name.as_str().to_owned()),
            domain: text(node.op().domain.as_ref()),
            overload: text(node.overload.as_ref()),
            attribute: node.attrs.0.iter().map(|a| self.attribute(a)).collect(),
            doc_string: node.doc_string.clone(),
            metadata_props: entries(&node.metadata),
            device_configurations: node.device_configurations.clone(),
        }
    }

    fn attribute(self, attr: &Attr) -> AttributeProto {
        let mut proto = AttributeProto {
            name: Some(attr.name.as_str().to_owned()),
            doc_string: attr.doc_string.clone(),
            r#type: Some(attr.value.type_code()).filter(|&code| code != 0),
            ..AttributeProto::default()
        };
        match &attr.value {
            AttrValue::Float(f) => proto.f = Some(*f),
            AttrValue::Int(i) => proto.i = Some(*i),
            AttrValue::String(s) => proto.s = Some(s.clone()),
            AttrValue::Tensor(t) => proto.t = Some(self.tensor(t)),
            AttrValue::Graph(body) => proto.g = Some(Box::new(self.graph(*body))),
            AttrValue::Sparse(sparse) => {
                proto.sparse_tensor = Some(proto::SparseTensorProto::clone(sparse));
            }
            AttrValue::Type(ty) => proto.tp = Some(ty.clone()),
            AttrValue::Floats(floats) => proto.floats.clone_from(floats),
            AttrValue::Ints(ints) => proto.ints.clone_from(ints),
            AttrValue::Strings(strings) => proto.strings.clone_from(strings),
            AttrValue::Tensors(tensors) => {
                proto.tensors = tensors.iter().map(|t| self.tensor(t)).collect();
            }
            AttrValue::Graphs(bodies) => {
                proto.graphs = bodies.iter().map(|&body| self.graph(body)).collect();
            }
            AttrValue::Sparses(sparses) => proto.sparse_tensors.clone_from(sparses),
            AttrValue::Types(types) => proto.type_protos.clone_from(types),
            AttrValue::Ref(of, _) => proto.ref_attr_name = Some(of.as_str().to_owned()),
        }
        proto
    }

    fn tensor(self, tensor: &Tensor) -> TensorProto {
        let mut proto = TensorProto {
            dims: tensor.dims.clone(),
            data_type: Some(tensor.dtype.code()),
            ..TensorProto::default()
        };
        match &tensor.data {
            TensorData::Raw(raw) => proto.raw_data = Some(raw.clone()),
            TensorData::Float(v) => proto.float_data = v.to_vec(),
            TensorData::Int32(v) => proto.int32_data = v.to_vec(),
            TensorData::Int64(v) => proto.int64_data = v.to_vec(),
            TensorData::Double(v) => proto.double_data = v.to_vec(),
            TensorData::Uint64(v) => proto.uint64_data = v.to_vec(),
            TensorData::String(v) => proto.string_data = v.to_vec(),
            TensorData::External(external) if self.embed => {
                proto.raw_data.clone_from(&external.bytes);
            }
            TensorData::External(external) => {
                proto.external_data = entries(&external.entries);
                proto.data_location = Some(1);
            }
        }
        if let Some(extra) = tensor.extra.as_deref() {
            proto.name = text(extra.name.as_ref());
            proto.doc_string.clone_from(&extra.doc_string);
            proto.metadata_props = entries(&extra.metadata);
            proto.segment = extra.segment.map(|(begin, end)| proto::Segment { begin, end });
            if extra.explicit_location {
                proto.data_location = Some(0);
            }
            if extra.absent_data {
                proto.raw_data = None;
            }
            proto.external_data.extend(entries(&extra.unused_external));
        }
        proto
    }
}

/// The message of a type.
#[must_use]
pub fn type_to_proto(ty: &Type) -> proto::TypeProto {
    use proto::TypeProtoValue as V;
    let inner = |ty: &Type| Some(Box::new(type_to_proto(ty)));
    let value = match ty {
        Type::Tensor(TensorType { dtype, shape }) => V::TensorType(proto::TypeTensor {
            elem_type: Some(dtype.code()),
            shape: shape.as_ref().map(shape_to_proto),
        }),
        Type::Sparse(TensorType { dtype, shape }) => V::SparseTensorType(proto::TypeSparseTensor {
            elem_type: Some(dtype.code()),
            shape: shape.as_ref().map(shape_to_proto),
        }),
        Type::Sequence(ty) => {
            V::SequenceType(Box::new(proto::TypeSequence { elem_type: inner(ty) }))
        }
        Type::Optional(ty) => {
            V::OptionalType(Box::new(proto::TypeOptional { elem_type: inner(ty) }))
        }
        Type::Map(key, ty) => V::MapType(Box::new(proto::TypeMap {
            key_type: Some(key.code()),
            value_type: inner(ty),
        })),
        Type::Opaque(domain, name) => V::OpaqueType(proto::TypeOpaque {
            domain: Some(domain.as_str().to_owned()),
            name: Some(name.as_str().to_owned()),
        }),
    };
    proto::TypeProto { value: Some(value), denotation: None }
}

fn shape_to_proto(shape: &crate::Shape) -> proto::TensorShapeProto {
    let dim = |d: &Dim| proto::Dimension {
        value: match d {
            Dim::Fixed(n) => Some(proto::DimensionValue::DimValue(*n)),
            Dim::Symbol(_) | Dim::Expr(_) => Some(proto::DimensionValue::DimParam(d.to_string())),
            Dim::Unknown => None,
        },
        denotation: None,
    };
    proto::TensorShapeProto { dim: shape.0.iter().map(dim).collect() }
}

fn entries(pairs: &[(String, String)]) -> Vec<StringStringEntryProto> {
    let entry = |(key, value): &(String, String)| StringStringEntryProto {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    pairs.iter().map(entry).collect()
}

fn opsets(opsets: &[Opset]) -> Vec<proto::OperatorSetIdProto> {
    opsets
        .iter()
        .map(|o| proto::OperatorSetIdProto { domain: text(o.domain.as_ref()), version: o.version })
        .collect()
}

fn text(name: Option<&Name>) -> Option<String> {
    name.map(|name| name.as_str().to_owned())
}
