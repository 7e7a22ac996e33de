//! Constant tensors: views into the mapped file where possible, owned where computed.

use std::borrow::Cow;
use std::sync::Arc;

use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};

use crate::piece::{PIECE, PieceReader, aligned, differs_in, padded_rows, same_bytes};
use crate::{DataType, Name};

// `raw_data` is little-endian; so is every machine that this runs on or deploys to (x86-64, aarch64).
#[cfg(target_endian = "big")]
compile_error!("tensor data is read in place as little-endian");

/// A constant tensor, as an initializer or as an attribute holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Type of the elements.
    pub dtype: DataType,
    /// Dimensions; none for a scalar.
    pub dims: Vec<i64>,
    /// The elements.
    pub data: TensorData,
    /// What the file says beside the elements.
    pub extra: Option<Box<TensorExtra>>,
}

/// Fields of a `TensorProto` that say nothing about its elements.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TensorExtra {
    /// Name of a tensor that is not an initializer (an initializer's name is its value's).
    pub name: Option<Name>,
    /// Documentation.
    pub doc_string: Option<String>,
    /// Free key-value pairs; a pass that made the tensor leaves its name here.
    pub metadata: Vec<(String, String)>,
    /// `segment`: begin and end, deprecated and kept.
    pub segment: Option<(Option<i64>, Option<i64>)>,
    /// `data_location` was written although it is the default.
    pub explicit_location: bool,
    /// The file had neither `raw_data` nor typed data for this empty tensor, or an empty one of them.
    pub absent_data: bool,
    /// Entries of `external_data` although the elements are in the message.
    pub unused_external: Vec<(String, String)>,
}

/// Where the elements are. The field of the protobuf they came from is kept, so that storing gives an equal file.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// `raw_data`: packed little-endian elements, at any alignment.
    Raw(Bytes),
    /// `float_data`: float, or pairs of a complex64.
    Float(Arc<[f32]>),
    /// `int32_data`: every type of at most 32 bits but float and uint32, one element each (two for 4-bit types).
    Int32(Arc<[i32]>),
    /// `int64_data`.
    Int64(Arc<[i64]>),
    /// `double_data`: double, or pairs of a complex128.
    Double(Arc<[f64]>),
    /// `uint64_data`: uint32 and uint64.
    Uint64(Arc<[u64]>),
    /// `string_data`.
    String(Arc<[Bytes]>),
    /// In another file.
    External(Arc<External>),
}

/// A tensor's place in an external data file, and a view of it.
#[derive(Debug, Clone, PartialEq)]
pub struct External {
    /// Key-value pairs as in the file: `location`, `offset`, `length`, `checksum` and whatever else.
    pub entries: Vec<(String, String)>,
    /// The elements in the mapped file; `None` when the model was loaded without its external data.
    pub bytes: Option<Bytes>,
}

/// Why the elements of a tensor cannot be had.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The elements have another type.
    #[error("elements are {have}, not {want}")]
    DataType {
        /// Type asked for.
        want: DataType,
        /// Type of the tensor.
        have: DataType,
    },
    /// The model was loaded without external data.
    #[error("external data was not loaded")]
    NotLoaded,
    /// The data field does not go with the type, or there are too few or too many elements.
    #[error("holds {have} bytes of {dtype}, its dimensions need {need}")]
    Length {
        /// Type of the tensor.
        dtype: DataType,
        /// Bytes there are.
        have: u64,
        /// Bytes that the dimensions ask for.
        need: u64,
    },
    /// A dimension is negative or the number of elements overflows.
    #[error("dimensions {0:?} are not a size")]
    Dims(Vec<i64>),
}

/// A Rust type that holds elements of one [`DataType`].
pub trait Element: Copy + PartialEq + Send + Sync + 'static {
    /// The ONNX type.
    const DTYPE: DataType;
    /// Reads packed little-endian elements, in place where the alignment allows.
    fn from_raw(raw: &[u8]) -> Cow<'_, [Self]>;
    /// Packs elements without a copy.
    fn into_raw(elements: Vec<Self>) -> Bytes;
    /// Reads an element of `int32_data`.
    #[must_use]
    fn from_i32(_: i32) -> Option<Self> {
        None
    }
}

/// Lets `Bytes` own a vector of numbers.
struct Numbers<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for Numbers<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

macro_rules! elements {
    ($($ty:ty = $dtype:ident, |$i:ident| $from:expr;)*) => {$(
        impl Element for $ty {
            const DTYPE: DataType = DataType::$dtype;
            fn from_raw(raw: &[u8]) -> Cow<'_, [Self]> {
                match bytemuck::try_cast_slice(raw) {
                    Ok(elements) => Cow::Borrowed(elements),
                    // A mapped file does not align its tensors.
                    Err(_) => Cow::Owned(aligned(raw)),
                }
            }
            fn into_raw(elements: Vec<Self>) -> Bytes {
                Bytes::from_owner(Numbers(elements))
            }
            fn from_i32($i: i32) -> Option<Self> {
                $from
            }
        }
    )*};
}

// `int32_data` holds small integers by value and 16-bit floats by bit pattern; truncation takes the low bits of both.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the low bits are what the format defines"
)]
mod element_impls {
    use super::{Bytes, Cow, DataType, Element, Numbers, aligned, bf16, f16};
    elements! {
        f32 = Float, |_i| None;
        f64 = Double, |_i| None;
        i8 = Int8, |i| Some(i as i8);
        i16 = Int16, |i| Some(i as i16);
        i32 = Int32, |i| Some(i);
        i64 = Int64, |_i| None;
        u8 = Uint8, |i| Some(i as u8);
        u16 = Uint16, |i| Some(i as u16);
        u32 = Uint32, |_i| None;
        u64 = Uint64, |_i| None;
        f16 = Float16, |i| Some(f16::from_bits(i as u16));
        bf16 = Bfloat16, |i| Some(bf16::from_bits(i as u16));
    }
}

impl Element for bool {
    const DTYPE: DataType = DataType::Bool;
    fn from_raw(raw: &[u8]) -> Cow<'_, [Self]> {
        Cow::Owned(raw.iter().map(|&b| b != 0).collect())
    }
    fn into_raw(elements: Vec<Self>) -> Bytes {
        elements.into_iter().map(u8::from).collect::<Vec<u8>>().into()
    }
    fn from_i32(i: i32) -> Option<Self> {
        Some(i != 0)
    }
}

impl Tensor {
    /// A tensor of `elements`, whose number must be the product of `dims`.
    ///
    /// # Panics
    /// When it is not: the caller computed both.
    #[must_use]
    pub fn new<T: Element>(dims: &[i64], elements: Vec<T>) -> Tensor {
        assert_eq!(dims.iter().product::<i64>(), elements.len() as i64, "elements of {dims:?}");
        Tensor {
            dtype: T::DTYPE,
            dims: dims.to_vec(),
            data: TensorData::Raw(T::into_raw(elements)),
            extra: None,
        }
    }

    /// A tensor of rank 0.
    #[must_use]
    pub fn scalar<T: Element>(element: T) -> Tensor {
        Tensor::new(&[], vec![element])
    }

    /// A tensor of floats that are all `x`, rounded to the type; none for a type that is no float of 16 bits or more.
    #[must_use]
    pub fn filled(dtype: DataType, dims: &[i64], x: f64) -> Option<Tensor> {
        let size = usize::try_from(dims.iter().product::<i64>()).ok()?;
        Some(match dtype {
            #[expect(clippy::cast_possible_truncation, reason = "rounded to the type")]
            DataType::Float => Tensor::new(dims, vec![x as f32; size]),
            DataType::Double => Tensor::new(dims, vec![x; size]),
            DataType::Float16 => Tensor::new(dims, vec![f16::from_f64(x); size]),
            DataType::Bfloat16 => Tensor::new(dims, vec![bf16::from_f64(x); size]),
            _ => return None,
        })
    }

    /// A 1-D int64 tensor, as shapes, axes and bounds are.
    #[must_use]
    pub fn ints(elements: &[i64]) -> Tensor {
        Tensor::new(&[elements.len() as i64], elements.to_vec())
    }

    /// A tensor of any type from packed little-endian elements.
    ///
    /// # Errors
    /// When the length does not go with `dims`.
    pub fn from_raw(dtype: DataType, dims: &[i64], raw: Bytes) -> Result<Tensor, TensorError> {
        let tensor = Tensor { dtype, dims: dims.to_vec(), data: TensorData::Raw(raw), extra: None };
        tensor.check()?;
        Ok(tensor)
    }

    /// The same elements under other dimensions, whose product must be the same.
    #[must_use]
    pub fn reshaped(&self, dims: &[i64]) -> Tensor {
        Tensor { dtype: self.dtype, dims: dims.to_vec(), data: self.data.clone(), extra: None }
    }

    /// The tensor with `count` zeros behind the entries of an axis. Its elements have whole bytes, and it has some.
    ///
    /// # Errors
    /// As [`Tensor::raw`]; when it has no elements, or none of whole bytes; when the axis is not there.
    pub fn padded(&self, axis: usize, count: u32) -> Result<Tensor, TensorError> {
        let wrong_dims = || TensorError::Dims(self.dims.clone());
        if !self.dtype.bits().is_multiple_of(8) {
            return Err(TensorError::DataType { want: DataType::Uint8, have: self.dtype });
        }
        let raw = self.raw()?;
        let size = |dims: &[i64]| usize::try_from(dims.iter().product::<i64>()).unwrap_or(0);
        let (front, rest) = self.dims.split_at_checked(axis).ok_or_else(wrong_dims)?;
        let entries = rest.first().and_then(|&n| usize::try_from(n).ok()).ok_or_else(wrong_dims)?;
        let row =
            raw.len().checked_div(size(front)).filter(|&row| row > 0).ok_or_else(wrong_dims)?;
        let zeros = row / entries * count as usize;
        let mut dims = self.dims.clone();
        dims[axis] += i64::from(count);
        Tensor::from_raw(self.dtype, &dims, padded_rows(&raw, row, row + zeros).into())
    }

    /// Number of elements.
    ///
    /// # Errors
    /// When a dimension is negative or the product overflows.
    pub fn len(&self) -> Result<u64, TensorError> {
        let product =
            self.dims.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
        product.ok_or_else(|| TensorError::Dims(self.dims.clone()))
    }

    /// Whether a dimension is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// Bytes that the elements take, packed; for strings the sum of their lengths.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        match &self.data {
            TensorData::String(strings) => strings.iter().map(|s| s.len() as u64).sum(),
            _ => self.len().ok().and_then(|n| self.dtype.byte_len(n)).unwrap_or(0),
        }
    }

    /// Whether data and dimensions go together. Everything that loads calls this once; what computes need not.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), TensorError> {
        let n = self.len()?;
        let dtype = self.dtype;
        let need = dtype.byte_len(n).ok_or_else(|| TensorError::Dims(self.dims.clone()));
        let length = |have: u64, need: u64| {
            if have == need { Ok(()) } else { Err(TensorError::Length { dtype, have, need }) }
        };
        // Typed fields count elements; the message counts bytes, so both sides are scaled alike.
        let scaled = |have: usize, per: u64| {
            let need_elements = n.saturating_mul(per);
            if have as u64 == need_elements {
                Ok(())
            } else {
                let size = dtype.bits().max(8) / 8;
                Err(TensorError::Length {
                    dtype,
                    have: have as u64 * size,
                    need: need_elements.saturating_mul(size),
                })
            }
        };
        let wrong_field =
            || Err(TensorError::Length { dtype, have: 0, need: need.clone().unwrap_or(0) });
        match &self.data {
            TensorData::Raw(raw) => length(raw.len() as u64, need?),
            TensorData::External(e) => match &e.bytes {
                Some(raw) => length(raw.len() as u64, need?),
                None => Ok(()),
            },
            TensorData::Float(v) => match dtype {
                DataType::Float => scaled(v.len(), 1),
                DataType::Complex64 => scaled(v.len(), 2),
                _ => wrong_field(),
            },
            TensorData::Double(v) => match dtype {
                DataType::Double => scaled(v.len(), 1),
                DataType::Complex128 => scaled(v.len(), 2),
                _ => wrong_field(),
            },
            TensorData::Int64(v) if dtype == DataType::Int64 => scaled(v.len(), 1),
            TensorData::Uint64(v) if matches!(dtype, DataType::Uint32 | DataType::Uint64) => {
                scaled(v.len(), 1)
            }
            TensorData::Int32(v) => match dtype.bits() {
                // Packed types put the elements of one byte into one entry.
                bits @ (2 | 4) => {
                    let need = n.div_ceil(8 / bits);
                    length(v.len() as u64, need)
                }
                6 | 8 | 16 => scaled(v.len(), 1),
                32 if dtype == DataType::Int32 => scaled(v.len(), 1),
                _ => wrong_field(),
            },
            TensorData::String(v) if dtype == DataType::String => {
                if v.len() as u64 == n {
                    Ok(())
                } else {
                    Err(TensorError::Length { dtype, have: v.len() as u64, need: n })
                }
            }
            _ => wrong_field(),
        }
    }

    /// The elements, borrowed where they stand in memory as they are.
    ///
    /// # Errors
    /// When the tensor has another type, its external data was not loaded, or its length is wrong.
    pub fn elements<T: Element>(&self) -> Result<Cow<'_, [T]>, TensorError> {
        if self.dtype != T::DTYPE {
            return Err(TensorError::DataType { want: T::DTYPE, have: self.dtype });
        }
        self.check()?;
        if let TensorData::Int32(v) = &self.data
            && let Some(elements) = v.iter().map(|&i| T::from_i32(i)).collect::<Option<Vec<T>>>()
        {
            return Ok(Cow::Owned(elements));
        }
        Ok(match self.raw()? {
            Cow::Borrowed(raw) => T::from_raw(raw),
            Cow::Owned(raw) => Cow::Owned(T::from_raw(&raw).into_owned()),
        })
    }

    /// The packed little-endian elements, whichever field they are stored in.
    ///
    /// # Errors
    /// For strings, and when the external data was not loaded.
    pub fn raw(&self) -> Result<Cow<'_, [u8]>, TensorError> {
        Ok(match &self.data {
            TensorData::Raw(raw) => Cow::Borrowed(raw),
            TensorData::External(e) => {
                Cow::Borrowed(e.bytes.as_ref().ok_or(TensorError::NotLoaded)?)
            }
            TensorData::Float(v) => Cow::Borrowed(bytemuck::cast_slice(v)),
            TensorData::Double(v) => Cow::Borrowed(bytemuck::cast_slice(v)),
            TensorData::Int64(v) => Cow::Borrowed(bytemuck::cast_slice(v)),
            TensorData::Uint64(v) if self.dtype == DataType::Uint32 => {
                // The high half of each entry is unused.
                Cow::Owned(v.iter().flat_map(|&n| n.to_le_bytes().into_iter().take(4)).collect())
            }
            TensorData::Uint64(v) => Cow::Borrowed(bytemuck::cast_slice(v)),
            TensorData::Int32(v) if self.dtype.bits() == 6 => Cow::Owned(pack_sixes(v)),
            TensorData::Int32(v) => {
                let width = usize::try_from(self.dtype.bits().div_ceil(8)).unwrap_or(4);
                Cow::Owned(
                    v.iter().flat_map(|&n| n.to_le_bytes().into_iter().take(width)).collect(),
                )
            }
            TensorData::String(_) => {
                return Err(TensorError::DataType {
                    want: DataType::Uint8,
                    have: DataType::String,
                });
            }
        })
    }

    /// The packed elements as shared bytes: no copy when the file has them packed.
    ///
    /// # Errors
    /// As [`Tensor::raw`].
    pub fn to_bytes(&self) -> Result<Bytes, TensorError> {
        match &self.data {
            TensorData::Raw(raw) => Ok(raw.clone()),
            TensorData::External(e) => e.bytes.clone().ok_or(TensorError::NotLoaded),
            _ => self.raw().map(|raw| Bytes::from(raw.into_owned())),
        }
    }

    /// The elements of an integer or bool tensor as int64; none for other types or when a uint64 does not fit.
    #[must_use]
    pub fn to_ints(&self) -> Option<Vec<i64>> {
        fn widen<T: Element + Into<i64>>(t: &Tensor) -> Option<Vec<i64>> {
            Some(t.elements::<T>().ok()?.iter().map(|&e| e.into()).collect())
        }
        match self.dtype {
            DataType::Int64 => Some(self.elements::<i64>().ok()?.into_owned()),
            DataType::Int32 => widen::<i32>(self),
            DataType::Int16 => widen::<i16>(self),
            DataType::Int8 => widen::<i8>(self),
            DataType::Uint8 => widen::<u8>(self),
            DataType::Uint16 => widen::<u16>(self),
            DataType::Uint32 => widen::<u32>(self),
            DataType::Bool => widen::<bool>(self),
            DataType::Uint64 => {
                self.elements::<u64>().ok()?.iter().map(|&e| i64::try_from(e).ok()).collect()
            }
            _ => None,
        }
    }

    /// The elements of a float tensor as float64; none for other types.
    #[must_use]
    pub fn to_floats(&self) -> Option<Vec<f64>> {
        fn widen<T: Element + Into<f64>>(t: &Tensor) -> Option<Vec<f64>> {
            Some(t.elements::<T>().ok()?.iter().map(|&e| e.into()).collect())
        }
        match self.dtype {
            DataType::Float => widen::<f32>(self),
            DataType::Double => widen::<f64>(self),
            DataType::Float16 => widen::<f16>(self),
            DataType::Bfloat16 => widen::<bf16>(self),
            _ => None,
        }
    }

    /// Whether both have the same type, dimensions and elements, bit for bit, whatever field holds them.
    #[must_use]
    pub fn same_content(&self, other: &Tensor) -> bool {
        if self.dtype != other.dtype || self.dims != other.dims {
            return false;
        }
        if let (TensorData::String(a), TensorData::String(b)) = (&self.data, &other.data) {
            return a == b;
        }
        match (self.raw(), other.raw()) {
            (Ok(a), Ok(b)) => same_bytes(&a, &b),
            _ => false,
        }
    }

    /// Shows the packed elements of two tensors of one type and size to `each`, piece by piece, so that neither has to be
    /// in memory. A piece has whole elements, but for those of less than a byte.
    ///
    /// # Errors
    /// As [`Tensor::raw`], and when the tensors differ in their length.
    pub fn side_by_side(
        &self,
        other: &Tensor,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), TensorError> {
        let (a, b) = (self.raw()?, other.raw()?);
        if a.len() != b.len() {
            let (have, need) = (b.len() as u64, a.len() as u64);
            return Err(TensorError::Length { dtype: other.dtype, have, need });
        }
        let _none_stops_it = differs_in(&a, &b, |a, b| {
            each(a, b);
            false
        });
        Ok(())
    }

    /// A number that tensors of the same content share and others of the same dimensions hardly do. All bytes of a
    /// small tensor count and a few of a large one: most weights of a transformer have equal dimensions, and reading
    /// all of them to find that they differ would take most of a run.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        const SMALL: usize = 4096;
        const POINTS: usize = 16;
        const POINT: usize = 8;
        // FNV-1a.
        let add = |hash: u64, bytes: &[u8]| {
            bytes.iter().fold(hash, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
        };
        let start = 0xcbf2_9ce4_8422_2325;
        let Ok(bytes) = self.raw() else { return start };
        let mut reader = PieceReader::new(&bytes);
        if bytes.len() <= SMALL {
            return add(start, reader.read(0, bytes.len()));
        }
        let step = bytes.len() / POINTS;
        (0..POINTS).fold(start, |hash, i| add(hash, reader.read(i * step, POINT)))
    }

    /// The largest absolute value of float32 or float64 elements; infinities count, what is no number does not. 0 where
    /// there are none, nothing for other types. Large tensors are read piece by piece, so they do not stay in memory.
    #[must_use]
    pub fn max_abs(&self) -> Option<f64> {
        let size = match self.dtype {
            DataType::Float => 4,
            DataType::Double => 8,
            _ => return None,
        };
        let bytes = self.raw().ok()?;
        let mut reader = PieceReader::new(&bytes);
        let whole = bytes.len() - bytes.len() % size;
        let mut most = 0.0_f64;
        for start in (0..whole).step_by(PIECE) {
            let piece = reader.read(start, PIECE.min(whole - start));
            most = most.max(if self.dtype == DataType::Float {
                // Without their sign, the bits of floats are in the order of the floats, and what is no number comes
                // last.
                let bits = piece.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b) & 0x7fff_ffff);
                let infinity = f32::INFINITY.to_bits();
                let bits = bits.map(|b| if b > infinity { 0 } else { b });
                f64::from(f32::from_bits(bits.fold(0, u32::max)))
            } else {
                let numbers = piece.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b).abs());
                numbers.fold(0.0, f64::max)
            });
        }
        Some(most)
    }

    /// The fields beside the elements, made when there are none.
    pub fn extra_mut(&mut self) -> &mut TensorExtra {
        self.extra.get_or_insert_default()
    }
}

/// Elements of 6 bits, one in each entry, behind each other without a gap: the lowest bits of the first byte come first.
fn pack_sixes(entries: &[i32]) -> Vec<u8> {
    let mut bytes = vec![0; (entries.len() * 6).div_ceil(8)];
    for (i, entry) in entries.iter().enumerate() {
        let (byte, shift) = (i * 6 / 8, i * 6 % 8);
        let element = u16::from(entry.to_le_bytes()[0] & 0x3f) << shift;
        // Where an element ends in its own byte, the next one may not be there.
        for (packed, part) in bytes[byte..].iter_mut().zip(element.to_le_bytes()) {
            *packed |= part;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Tensor, TensorData};
    use crate::DataType;

    #[test]
    fn the_largest_magnitude_leaves_out_what_is_no_number() {
        let of =
            |elements: &[f32]| Tensor::new(&[elements.len() as i64], elements.to_vec()).max_abs();
        assert_eq!(of(&[1.0, -3.5, f32::NAN]), Some(3.5));
        assert_eq!(of(&[1.0, f32::NEG_INFINITY]), Some(f64::INFINITY));
        assert_eq!(of(&[]), Some(0.0));
        assert_eq!(Tensor::new(&[2], vec![-2.0_f64, 1.0]).max_abs(), Some(2.0));
        assert_eq!(Tensor::new(&[1], vec![1_i32]).max_abs(), None);
    }

    #[test]
    fn zeros_stand_behind_the_entries_of_an_axis() {
        let tensor = Tensor::new(&[2, 2], vec![1_i32, 2, 3, 4]);
        let wide = |axis| tensor.padded(axis, 1).ok().and_then(|t| t.to_ints());
        assert_eq!(wide(0), Some(vec![1, 2, 3, 4, 0, 0]));
        assert_eq!(wide(1), Some(vec![1, 2, 0, 3, 4, 0]));
        assert_eq!(wide(2), None);
        assert!(Tensor::new::<f32>(&[0, 2], vec![]).padded(0, 1).is_err());
    }

    #[test]
    fn elements_of_six_bits_are_packed() {
        let data = TensorData::Int32(Arc::new([0, 8, 8, 0, 16]));
        let tensor = Tensor { dtype: DataType::Float6E2m3, dims: vec![5], data, extra: None };
        tensor.check().expect("one entry for each element");
        assert_eq!(&*tensor.raw().expect("bytes"), [0, 130, 0, 16]);
    }
}
