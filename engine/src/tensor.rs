//! Tensors and element types, there and back.

use onnxfix_ir::{DataType, Tensor};
use tract_onnx::prelude::{DatumType, TVec, Tensor as TractTensor};
use tract_onnx::tract_hir::internal::TractResult;

use super::EngineError;

/// Types with the same memory on both sides.
const TYPES: [(DataType, DatumType); 12] = [
    (DataType::Float, DatumType::F32),
    (DataType::Double, DatumType::F64),
    (DataType::Float16, DatumType::F16),
    (DataType::Int8, DatumType::I8),
    (DataType::Int16, DatumType::I16),
    (DataType::Int32, DatumType::I32),
    (DataType::Int64, DatumType::I64),
    (DataType::Uint8, DatumType::U8),
    (DataType::Uint16, DatumType::U16),
    (DataType::Uint32, DatumType::U32),
    (DataType::Uint64, DatumType::U64),
    (DataType::Bool, DatumType::Bool),
];

pub(super) fn to_datum_type(dtype: DataType) -> Result<DatumType, EngineError> {
    let found = TYPES.iter().find(|(ours, _)| *ours == dtype);
    found
        .map(|(_, theirs)| *theirs)
        .ok_or_else(|| EngineError::DataType { dtype: dtype.to_string() })
}

pub(super) fn from_datum_type(dtype: DatumType) -> Result<DataType, EngineError> {
    if dtype == DatumType::TDim {
        // tract's type for numbers that come from shapes. ONNX has int64 there.
        return Ok(DataType::Int64);
    }
    let found = TYPES.iter().find(|(_, theirs)| *theirs == dtype);
    found
        .map(|(ours, _)| *ours)
        .ok_or_else(|| EngineError::DataType { dtype: format!("{dtype:?}") })
}

pub(super) fn to_shape(dims: &[i64]) -> Result<TVec<usize>, EngineError> {
    let shape = dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>();
    shape.ok_or_else(|| EngineError::Dims { dims: dims.to_vec() })
}

/// A tensor for an input that the plan takes as `takes`.
pub(super) fn to_tract(tensor: &Tensor, takes: DatumType) -> Result<TractTensor, EngineError> {
    let raw = tensor
        .raw()
        .map_err(|e| EngineError::DataType { dtype: format!("{} ({e})", tensor.dtype) })?;
    let copy = || -> TractResult<TractTensor> {
        let shape: Vec<usize> =
            tensor.dims.iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>()?;
        let dtype = to_datum_type(tensor.dtype)?;
        let mut copy = TractTensor::zero_dt(dtype, &shape)?;
        let mut view = copy.try_as_plain_ram_mut()?;
        let bytes = view.as_bytes_mut();
        if dtype == DatumType::Bool {
            // Any byte but 0 is true in a file; in memory only 1 is.
            for (to, &from) in bytes.iter_mut().zip(raw.iter()) {
                *to = u8::from(from != 0);
            }
        } else {
            bytes.copy_from_slice(&raw);
        }
        Ok(if takes == dtype { copy } else { copy.cast_to_dt(takes)?.into_owned() })
    };
    copy().map_err(|e| EngineError::refused("feed", &e))
}

/// An output as the type that the model declares for it.
pub(super) fn from_tract(tensor: &TractTensor, dtype: DataType) -> Result<Tensor, EngineError> {
    let copy = || -> TractResult<Tensor> {
        let plain = tensor.cast_to_dt(to_datum_type(dtype)?)?;
        let dims: Vec<i64> =
            plain.shape().iter().map(|&d| i64::try_from(d)).collect::<Result<_, _>>()?;
        let bytes = plain.try_as_plain_ram()?.as_bytes().to_vec();
        Ok(Tensor::from_raw(dtype, &dims, bytes.into())?)
    };
    copy().map_err(|e| EngineError::refused("read the outputs of", &e))
}
