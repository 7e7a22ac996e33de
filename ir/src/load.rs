//! Reading models: a mapped file becomes protobuf messages that point into it, and those become a [`Model`].

use std::io;
use std::path::Path;

use bytes::Bytes;
use prost::Message as _;

use crate::build::build;
use crate::external::{DataFiles, ExternalError};
use crate::map::{self, Origin, Source};
use crate::place::Place;
use crate::proto::{ModelProto, TensorProto};
use crate::sort::Cycle;
use crate::wire::{self, Event, WireError};
use crate::{Model, Name, Tensor, TensorError};

/// How to read a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Drop fields that the format did not have when this program was made, with a warning. They are refused otherwise,
    /// because the stored model would lack what they say.
    pub drop_unknown: bool,
    /// Open the files that hold external data. Without it such tensors have no elements.
    pub external_data: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { drop_unknown: false, external_data: true }
    }
}

/// A model and what was noticed while it was read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// What was put right or left out.
    pub warnings: Vec<LoadWarning>,
    /// The files that the model's tensors are views of: the model's own first, then those of external data.
    pub sources: Vec<Source>,
}

/// Something that was put right or left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadWarning {
    /// Nodes were not in the order in which they can run.
    #[error("{graph}: the nodes were sorted, as some stood before what they read")]
    Sorted {
        /// The graph.
        graph: Place,
    },
    /// Initializers are inputs too, so that a caller may override them and nothing can be folded.
    #[error("{graph}: {count} initializers are inputs as well")]
    InitializerInputs {
        /// The graph.
        graph: Place,
        /// How many.
        count: usize,
    },
    /// A field that the program does not know was dropped.
    #[error(
        "dropped field {field} of {message}, which is unknown here: {count} times, first at {at}"
    )]
    UnknownField {
        /// Type of the message that has the field.
        message: &'static str,
        /// Number of the field.
        field: u32,
        /// How often it was seen.
        count: usize,
        /// Where it was seen first.
        at: String,
    },
    /// Two declarations of one value differ; the first one holds.
    #[error("{graph}: value {value:?} is declared twice, and not alike")]
    Redeclared {
        /// The graph.
        graph: Place,
        /// The value.
        value: Name,
    },
    /// The value of a body had the name of a value around it, and got another one.
    #[error("{graph}: value {old:?} hides one of a graph around it and was renamed {new:?}")]
    Renamed {
        /// The body.
        graph: Place,
        /// Name in the file.
        old: Name,
        /// Name in the model.
        new: Name,
    },
    /// An attribute has values besides the one that its type names.
    #[error(
        "{node}: attribute {attribute:?} has more than one value; the one of its type was kept"
    )]
    AttributeValues {
        /// The node.
        node: Place,
        /// The attribute.
        attribute: Name,
    },
}

/// Why a model cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// The path is a directory.
    #[error("is a directory, not a file")]
    Directory,
    /// The system refuses.
    #[error("the file cannot be read")]
    Io(#[source] io::Error),
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// The bytes are something else.
    #[error("is not an ONNX model: {why}")]
    NotOnnx {
        /// What speaks against it, and where.
        why: String,
    },
    /// The file begins like a model and was cut off.
    #[error("ends at byte {size} inside of {path}, {missing} bytes too early")]
    Ends {
        /// Where in the messages.
        path: String,
        /// Size of the file.
        size: usize,
        /// Bytes that are not there, at the least.
        missing: u64,
    },
    /// The file begins like a model and is garbled further on.
    #[error("is damaged at byte {at}, in {path}: {why}")]
    Malformed {
        /// Where in the messages.
        path: String,
        /// Where in the file.
        at: usize,
        /// What cannot be.
        why: String,
    },
    /// A message has a field that the program does not know, and that the stored model would lack.
    #[error(
        "field {field} of {message} is unknown, in {at}; --drop-unknown leaves such fields out"
    )]
    UnknownField {
        /// Type of the message.
        message: &'static str,
        /// Number of the field.
        field: u32,
        /// Where in the messages, and in the file.
        at: String,
    },
    /// Bodies or types are nested deeper than any program reads them.
    #[error("messages are nested more than 100 deep, in {path}")]
    TooDeep {
        /// Where in the messages.
        path: String,
    },
    /// The messages do not decode, although the bytes look like a model.
    #[error("is not a valid protobuf message")]
    Decode(#[from] prost::DecodeError),
    /// Something has no name or type and cannot do without.
    #[error("{at} has no {what}")]
    Absent {
        /// Where.
        at: Place,
        /// What is not there.
        what: &'static str,
    },
    /// A name is read that nothing defines.
    #[error("{at} reads {name:?}, which nothing defines")]
    Undefined {
        /// The reader.
        at: Place,
        /// The name.
        name: Name,
    },
    /// A name is defined twice.
    #[error("{graph}: {name:?} is defined twice: {first}, and {second}")]
    Duplicate {
        /// The graph.
        graph: Place,
        /// The name.
        name: Name,
        /// What defines it first.
        first: String,
        /// What defines it again.
        second: String,
    },
    /// Nodes need each other's results.
    #[error("{graph}: {source}")]
    Cycle {
        /// The graph.
        graph: Place,
        /// The nodes.
        source: Cycle,
    },
    /// An attribute's type is unknown, or it has no value of its type.
    #[error("{at}: {why}")]
    Attribute {
        /// The attribute.
        at: Place,
        /// What is wrong.
        why: String,
    },
    /// The element type has a code that the program does not know.
    #[error("{at} has elements of unknown type {code}")]
    ElementType {
        /// The tensor.
        at: Place,
        /// The code in the file.
        code: i32,
    },
    /// A tensor has elements in more than one field.
    #[error("{at} has its elements both in `{first}` and in `{second}`")]
    TensorFields {
        /// The tensor.
        at: Place,
        /// A field.
        first: &'static str,
        /// Another one.
        second: &'static str,
    },
    /// A tensor's elements do not go with its type and dimensions.
    #[error("{at} {source}")]
    Tensor {
        /// The tensor.
        at: Place,
        /// What is wrong.
        source: TensorError,
    },
    /// A tensor's elements are in another file and cannot be had.
    #[error("{at} has external data: {source}")]
    External {
        /// The tensor.
        at: Place,
        /// What is wrong.
        source: ExternalError,
    },
}

/// Reads the model file at `path`, which is mapped: tensors are views into it.
///
/// # Errors
/// When there is no model, or the model contradicts itself.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let (bytes, source) = map_file(path)?;
    let origin = Origin::of(&bytes);
    let mut loaded = read(bytes, DataFiles::beside(path), options)?;
    // The walk came by every tensor, and the system maps much around each place that is looked at.
    if let Some(origin) = origin {
        origin.release();
    }
    loaded.sources.insert(0, source);
    Ok(loaded)
}

/// Reads a model from memory; external data is looked for in `dir`.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(
    bytes: Bytes,
    dir: Option<&Path>,
    options: &LoadOptions,
) -> Result<Loaded, LoadError> {
    read(bytes, dir.map(DataFiles::within).unwrap_or_default(), options)
}

/// Makes a model of its messages; external data is looked for in `dir`.
///
/// # Errors
/// As [`load`].
pub fn from_proto(
    proto: ModelProto,
    dir: Option<&Path>,
    options: &LoadOptions,
) -> Result<Loaded, LoadError> {
    build(proto, dir.map(DataFiles::within).unwrap_or_default(), options)
}

/// Reads one tensor from the bytes of a `TensorProto`, as the files of the ONNX project's test sets have it. Its elements
/// have to be in the message.
///
/// # Errors
/// When the bytes are no such message, or the tensor contradicts itself.
pub fn tensor_from_bytes(bytes: Bytes) -> Result<Tensor, LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    crate::build::tensor(TensorProto::decode(bytes)?)
}

fn read(bytes: Bytes, files: DataFiles, options: &LoadOptions) -> Result<Loaded, LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    wire::recognise(&bytes).map_err(|why| LoadError::NotOnnx { why })?;
    let mut warnings = unknown_fields(&bytes, options.drop_unknown)?;
    let mut loaded = build(ModelProto::decode(bytes)?, files, options)?;
    warnings.append(&mut loaded.warnings);
    loaded.warnings = warnings;
    Ok(loaded)
}

/// Looks for fields that decoding would drop without a word.
fn unknown_fields(bytes: &[u8], drop: bool) -> Result<Vec<LoadWarning>, LoadError> {
    let mut dropped: Vec<LoadWarning> = Vec::new();
    let walked = wire::walk(bytes, &mut |event| {
        let Event::Unknown { message, field, at } = event else { return Ok(()) };
        if !drop {
            return Err(LoadError::UnknownField { message, field, at: at() });
        }
        let same = |w: &&mut LoadWarning| matches!(w, LoadWarning::UnknownField { message: m, field: f, .. } if *m == message && *f == field);
        match dropped.iter_mut().find(same) {
            Some(LoadWarning::UnknownField { count, .. }) => *count += 1,
            _ => dropped.push(LoadWarning::UnknownField { message, field, count: 1, at: at() }),
        }
        Ok(())
    });
    match walked {
        Ok(()) => Ok(dropped),
        Err(err) => Err(wire_error(err, bytes.len())),
    }
}

/// Maps a file.
pub(crate) fn map_file(path: &Path) -> Result<(Bytes, Source), LoadError> {
    let (bytes, source) = map::map(path).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => LoadError::Missing,
        io::ErrorKind::IsADirectory => LoadError::Directory,
        _ => LoadError::Io(err),
    })?;
    if bytes.is_empty() { Err(LoadError::Empty) } else { Ok((bytes, source)) }
}

/// The error of a walk through a file of that size.
pub(crate) fn wire_error(err: WireError<LoadError>, size: usize) -> LoadError {
    match err {
        WireError::Stopped(err) => err,
        WireError::Ends { path, missing } => LoadError::Ends { path, size, missing },
        WireError::Malformed { path, at, why } => LoadError::Malformed { path, at, why },
        WireError::TooDeep { path } => LoadError::TooDeep { path },
    }
}
