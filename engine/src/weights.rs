//! Large weights on a way of their own, from the file into the tensors that tract computes with.
//!
//! tract's reader copies a weight twice before it is used: into the message that it decodes, and from there into a
//! tensor. For a base-size model that is over a gigabyte that the system has to clear first. So the file is decoded without
//! the bytes of its large initializers, and once tract has read the graph, each of them is read from the file into its
//! place. The messages are cut by their lengths alone; what is in them is decoded by tract's reader.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use tract_onnx::Onnx;
use tract_onnx::pb::{ModelProto, TensorProto, tensor_proto};
use tract_onnx::prelude::{Framework as _, OutletId, Tensor as TractTensor};
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::internal::{InferenceFact, InferenceModel};

use super::{EngineError, rounding, tensor};

/// Initializers with fewer bytes stay in the message.
const LARGE: u64 = 64 << 10;

/// An initializer whose bytes are still in the file.
#[derive(Debug)]
pub(super) struct Weight {
    pub(super) name: String,
    pub(super) proto: TensorProto,
    /// How it is rounded, if it is.
    pub(super) rounder: rounding::Rounder,
    at: u64,
    len: u64,
}

/// Decodes a file but for the bytes of large initializers. None where the file is not built as expected: tract's own
/// reader then says what is wrong with it.
pub(super) fn decode(onnx: &Onnx, path: &Path) -> Option<(ModelProto, Vec<Weight>)> {
    let file = File::open(path).ok()?;
    let end = file.metadata().ok()?.len();
    let mut cutter = Cutter { file: BufReader::new(file), at: 0, cut: Vec::new() };
    let rest = cutter.model(end).ok()?;
    let mut model = onnx.proto_model_for_read(&mut rest.as_slice()).ok()?;
    let graph = model.graph.as_mut()?;
    let declared: HashSet<String> =
        graph.input.iter().chain(&graph.output).map(|v| v.name.clone()).collect();
    let mut weights = Vec::new();
    let mut kept = Vec::with_capacity(graph.initializer.len());
    let mut cut = cutter.cut.into_iter().peekable();
    for (index, mut proto) in std::mem::take(&mut graph.initializer).into_iter().enumerate() {
        let Some((_, at, len)) = cut.next_if(|(of, ..)| *of == index) else {
            kept.push(proto);
            continue;
        };
        let weight =
            Weight { name: proto.name.clone(), proto: proto.clone(), rounder: None, at, len };
        // tract wants to find in the graph what is an input or an output as well; other types of data it reads itself.
        if declared.contains(&weight.name) || weight.tensor_type().is_none() {
            proto.raw_data = vec![0; usize::try_from(len).ok()?];
            let file = cutter.file.get_mut();
            file.seek(SeekFrom::Start(at)).ok()?;
            file.read_exact(&mut proto.raw_data).ok()?;
            kept.push(proto);
        } else {
            weights.push(weight);
        }
    }
    graph.initializer = kept;
    Some((model, weights))
}

impl Weight {
    /// The type that tract has for it, where the elements have the same bytes there.
    fn tensor_type(&self) -> Option<tract_onnx::prelude::DatumType> {
        use tensor_proto::DataType as Proto;
        use tract_onnx::prelude::DatumType;
        match Proto::try_from(self.proto.data_type).ok()? {
            Proto::Float => Some(DatumType::F32),
            Proto::Float16 => Some(DatumType::F16),
            Proto::Double => Some(DatumType::F64),
            Proto::Int32 => Some(DatumType::I32),
            Proto::Int64 => Some(DatumType::I64),
            _ => None,
        }
    }

    fn read(&self, path: &Path) -> Result<TractTensor, EngineError> {
        let failed = |source| EngineError::Read { path: path.to_owned(), source };
        let dtype = self
            .tensor_type()
            .ok_or_else(|| EngineError::DataType { dtype: self.proto.data_type.to_string() })?;
        let shape = tensor::to_shape(&self.proto.dims)?;
        let size = shape.iter().try_fold(dtype.size_of() as u64, |n, &d| n.checked_mul(d as u64));
        if size != Some(self.len) {
            let reason = format!(
                "initializer {:?} has {} bytes for {:?}",
                self.name, self.len, self.proto.dims
            );
            return Err(EngineError::Decode { reason });
        }
        let refused = |e| EngineError::refused("read", &e);
        let mut read = TractTensor::zero_dt(dtype, &shape).map_err(refused)?;
        let mut file = File::open(path).map_err(failed)?;
        file.seek(SeekFrom::Start(self.at)).map_err(failed)?;
        let mut view = read.try_as_plain_ram_mut().map_err(refused)?;
        file.read_exact(view.as_bytes_mut()).map_err(failed)?;
        Ok(read)
    }
}

/// Reads the weights, as float32 where `widen` says so, and puts each in the place of the input that tract took its name
/// for.
pub(super) fn place(
    model: &mut InferenceModel,
    weights: &[Weight],
    path: &Path,
    widen: bool,
    outlet: impl Fn(&str) -> Option<OutletId>,
) -> Result<(), EngineError> {
    let refused = |e| EngineError::refused("read", &e);
    // A weight that nothing reads has no place.
    let used: Vec<(&Weight, OutletId)> =
        weights.iter().filter_map(|weight| Some((weight, outlet(&weight.name)?))).collect();
    let read = used.par_iter().map(|(weight, _)| {
        let tensor = weight.read(path)?;
        if widen { rounding::weight(tensor, &weight.rounder).map_err(refused) } else { Ok(tensor) }
    });
    let read = read.collect::<Result<Vec<TractTensor>, EngineError>>()?;
    for ((_, outlet), tensor) in used.iter().zip(read) {
        let tensor = Arc::new(tensor);
        let fact = InferenceFact::try_from(&tensor).map_err(refused)?;
        model.nodes[outlet.node].op = Box::new(Const::new(tensor).map_err(refused)?);
        model.set_outlet_fact(*outlet, fact).map_err(refused)?;
    }
    let placed: HashSet<OutletId> = used.iter().map(|&(_, outlet)| outlet).collect();
    let inputs = model.input_outlets().map_err(refused)?;
    let inputs: Vec<OutletId> = inputs.iter().filter(|i| !placed.contains(i)).copied().collect();
    model.set_input_outlets(&inputs).map_err(refused)
}

/// Fields of the messages on the way to an initializer's bytes, by ONNX's `onnx.proto`.
const GRAPH: u64 = 7;
const INITIALIZER: u64 = 5;
const RAW_DATA: u64 = 9;

// How a field is written, by the protobuf encoding: a number, a length and as many bytes, or a number of fixed size.
const VARINT: u64 = 0;
const EIGHT: u64 = 1;
const BYTES: u64 = 2;
const FOUR: u64 = 5;

struct Cutter {
    file: BufReader<File>,
    at: u64,
    /// For each initializer that was cut its position among the initializers, and where its bytes are.
    cut: Vec<(usize, u64, u64)>,
}

impl Cutter {
    /// The model's message without the bytes of large initializers.
    fn model(&mut self, end: u64) -> io::Result<Vec<u8>> {
        let (mut out, mut graphs) = (Vec::new(), 0);
        while self.at < end {
            let (tag, number) = self.field()?;
            if tag == (GRAPH << 3 | BYTES) {
                graphs += 1;
                let graph = self.graph(self.at + number)?;
                append(&mut out, tag, &graph);
            } else {
                self.pass(tag, number, &mut out)?;
            }
        }
        // Several of them would be merged, and the positions would be those of another list.
        if graphs == 1 { Ok(out) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn graph(&mut self, end: u64) -> io::Result<Vec<u8>> {
        let (mut out, mut index) = (Vec::new(), 0);
        while self.at < end {
            let (tag, number) = self.field()?;
            if tag == (INITIALIZER << 3 | BYTES) {
                let tensor = self.tensor(index, self.at + number)?;
                append(&mut out, tag, &tensor);
                index += 1;
            } else {
                self.pass(tag, number, &mut out)?;
            }
        }
        if self.at == end { Ok(out) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn tensor(&mut self, index: usize, end: u64) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while self.at < end {
            let (tag, number) = self.field()?;
            if tag == (RAW_DATA << 3 | BYTES) && number >= LARGE {
                if self.cut.last().is_some_and(|&(of, ..)| of == index) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                self.cut.push((index, self.at, number));
                self.file.seek_relative(i64::try_from(number).map_err(io::Error::other)?)?;
                self.at += number;
            } else {
                self.pass(tag, number, &mut out)?;
            }
        }
        if self.at == end { Ok(out) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Reads the head of a field: its tag, and the number behind it, which is how many bytes follow or the field itself.
    fn field(&mut self) -> io::Result<(u64, u64)> {
        let tag = self.varint()?;
        match tag & 7 {
            VARINT | BYTES => Ok((tag, self.varint()?)),
            EIGHT => Ok((tag, 8)),
            FOUR => Ok((tag, 4)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Copies a field as it is.
    fn pass(&mut self, tag: u64, number: u64, out: &mut Vec<u8>) -> io::Result<()> {
        varint(out, tag);
        if matches!(tag & 7, VARINT | BYTES) {
            varint(out, number);
        }
        if tag & 7 == VARINT { Ok(()) } else { self.copy(number, out) }
    }

    fn varint(&mut self) -> io::Result<u64> {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let mut byte = [0];
            self.file.read_exact(&mut byte)?;
            self.at += 1;
            value |= u64::from(byte[0] & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
            shift += 7;
            if shift > 63 {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }

    fn copy(&mut self, len: u64, out: &mut Vec<u8>) -> io::Result<()> {
        let copied = (&mut self.file).take(len).read_to_end(out)?;
        self.at += copied as u64;
        if copied as u64 == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn append(out: &mut Vec<u8>, tag: u64, message: &[u8]) {
    varint(out, tag);
    varint(out, message.len() as u64);
    out.extend_from_slice(message);
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
