//! Elements of tensors as numbers in the text, both ways.
//!
//! Integers, bool and float8 types are written as integers, float16 and bfloat16 as the integers of their bit patterns:
//! so does ONNX. Types of less than 8 bits are written as the bytes they are packed into, because ONNX's own parser
//! copies the numbers into `int32_data` as they are.
//!
//! For people, half-precision floats are written by value, always with a point or an exponent, and packed types one
//! number per element. Both forms are read: a float16 with a point is a value, and the number of integers tells packed
//! bytes from elements.

use std::ops::RangeInclusive;

use bytes::Bytes;
use half::{bf16, f16};

use super::lex::{Cursor, Fail, Literal, Parsed, is_float_word};
use crate::{DataType, Tensor, TensorData, TensorError};

/// How elements are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As ONNX's parser takes them.
    Exact,
    /// For people.
    Readable,
}

/// Why the elements of a tensor cannot be written.
#[derive(Debug)]
pub(super) enum Unwritable {
    NotUtf8,
    Tensor(TensorError),
}

impl From<TensorError> for Unwritable {
    fn from(err: TensorError) -> Self {
        Unwritable::Tensor(err)
    }
}

/// A float, shortest such that reading it gives the same bits (of NaN only the sign is kept).
pub(super) fn float32(f: f32) -> String {
    tidy_float(f.is_nan(), f.is_sign_negative(), format!("{f:?}"))
}

fn float64(f: f64) -> String {
    tidy_float(f.is_nan(), f.is_sign_negative(), format!("{f:?}"))
}

fn tidy_float(nan: bool, negative: bool, debug: String) -> String {
    if nan {
        return if negative { "-nan".into() } else { "nan".into() };
    }
    // As an integer, negative zero would lose its sign in older parsers.
    match debug.strip_suffix(".0") {
        None | Some("-0") => debug,
        Some(integer) => integer.into(),
    }
}

/// A half-precision float by value: shortest, and never an integer.
fn half_float<T: Copy + PartialEq + Into<f64>>(half: T, from: fn(f64) -> T) -> String {
    let value: f64 = half.into();
    if value.is_nan() {
        return float64(value);
    }
    let shortest = (0..8).map(|digits| format!("{value:.digits$e}")).find_map(|text| {
        let rounded: f64 = text.parse().ok()?;
        (from(rounded) == half).then_some(rounded)
    });
    format!("{:?}", shortest.unwrap_or(value))
}

/// A string in quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// The elements with commas between them.
pub(super) fn write_elements(tensor: &Tensor, form: Form) -> Result<String, Unwritable> {
    tensor.check()?;
    if let TensorData::String(strings) = &tensor.data {
        let texts: Result<Vec<String>, Unwritable> =
            strings.iter().map(|s| write_string(s, form)).collect();
        return Ok(texts?.join(", "));
    }
    let raw = tensor.raw()?;
    Ok(match tensor.dtype {
        DataType::Float | DataType::Complex64 => join(&raw, |b| float32(f32::from_le_bytes(b))),
        DataType::Double | DataType::Complex128 => join(&raw, |b| float64(f64::from_le_bytes(b))),
        DataType::Float16 if form == Form::Readable => {
            join(&raw, |b| half_float(f16::from_le_bytes(b), f16::from_f64))
        }
        DataType::Bfloat16 if form == Form::Readable => {
            join(&raw, |b| half_float(bf16::from_le_bytes(b), bf16::from_f64))
        }
        DataType::Int8 => join(&raw, |b| i8::from_le_bytes(b).to_string()),
        DataType::Int16 => join(&raw, |b| i16::from_le_bytes(b).to_string()),
        DataType::Int32 => join(&raw, |b| i32::from_le_bytes(b).to_string()),
        DataType::Int64 => join(&raw, |b| i64::from_le_bytes(b).to_string()),
        dtype => match dtype.bits() {
            64 => join(&raw, |b| u64::from_le_bytes(b).to_string()),
            32 => join(&raw, |b| u32::from_le_bytes(b).to_string()),
            16 => join(&raw, |b| u16::from_le_bytes(b).to_string()),
            1..8 if form == Form::Readable => {
                let count = usize::try_from(tensor.len()?).unwrap_or(usize::MAX);
                unpack(&raw, dtype, count).join(", ")
            }
            _ => join(&raw, |b| u8::from_le_bytes(b).to_string()),
        },
    })
}

fn write_string(bytes: &[u8], form: Form) -> Result<String, Unwritable> {
    match (std::str::from_utf8(bytes), form) {
        (Ok(text), _) => Ok(quoted(text)),
        (Err(_), Form::Readable) => Ok(quoted(&String::from_utf8_lossy(bytes))),
        (Err(_), Form::Exact) => Err(Unwritable::NotUtf8),
    }
}

fn join<const N: usize>(raw: &[u8], write: impl Fn([u8; N]) -> String) -> String {
    let (elements, _) = raw.as_chunks::<N>();
    elements.iter().map(|&bytes| write(bytes)).collect::<Vec<_>>().join(", ")
}

/// Elements of less than 8 bits, low bits first.
fn unpack(raw: &[u8], dtype: DataType, count: usize) -> Vec<String> {
    let width = usize::try_from(dtype.bits()).unwrap_or(8);
    let bits: Vec<bool> =
        raw.iter().flat_map(|byte| (0..8).map(move |b| byte >> b & 1 == 1)).collect();
    let is_signed = *int_range(dtype).start() < 0;
    let element = |bits: &[bool]| {
        let unsigned = bits.iter().rev().fold(0, |n: i64, &bit| n << 1 | i64::from(bit));
        let is_negative = is_signed && bits.last() == Some(&true);
        (if is_negative { unsigned - (1 << width) } else { unsigned }).to_string()
    };
    bits.chunks(width).take(count).map(element).collect()
}

/// Packs elements of less than 8 bits, low bits first.
fn pack(elements: &[i128], dtype: DataType) -> Vec<u8> {
    let bits: Vec<bool> =
        elements.iter().flat_map(|e| (0..dtype.bits()).map(move |b| e >> b & 1 == 1)).collect();
    bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |n, &bit| n << 1 | u8::from(bit))).collect()
}

/// The integers that an element of this type may be written as.
fn int_range(dtype: DataType) -> RangeInclusive<i128> {
    use DataType::{Int2, Int4, Int8, Int16, Int32, Int64};
    let bits = dtype.bits();
    match dtype {
        Int2 | Int4 | Int8 | Int16 | Int32 | Int64 => -(1 << (bits - 1))..=(1 << (bits - 1)) - 1,
        _ => 0..=(1 << bits) - 1,
    }
}

/// A number as a float of one width; infinity only where it is written as such.
pub(super) fn parse_float<F: std::str::FromStr + Into<f64> + Copy>(
    at: usize,
    text: &str,
) -> Parsed<F> {
    let unfit = |why: &str| Fail::new(at, format!("{text} {why}"));
    let value: F = text.parse().map_err(|_| unfit("is not a number"))?;
    if value.into().is_infinite() && !is_float_word(text.trim_start_matches('-')) {
        return Err(unfit("is too large for its type"));
    }
    Ok(value)
}

/// Reads the elements between braces, the opening one taken already.
pub(super) fn read_tensor(
    cursor: &mut Cursor<'_>,
    dtype: DataType,
    dims: Vec<i64>,
) -> Parsed<Tensor> {
    let at = cursor.at();
    let data = match dtype {
        DataType::String => {
            let strings = cursor.list("}", Cursor::string)?;
            TensorData::String(strings.into_iter().map(Bytes::from).collect())
        }
        _ if dtype.bits() < 8 => TensorData::Raw(read_packed(cursor, dtype, &dims)?.into()),
        _ => {
            let mut raw = Vec::new();
            cursor.list("}", |cursor| read_element(cursor, dtype, &mut raw))?;
            TensorData::Raw(raw.into())
        }
    };
    let tensor = Tensor { dtype, dims, data, extra: None };
    tensor.check().map_err(|err| Fail::new(at, count_message(&tensor, &err)))?;
    Ok(tensor)
}

fn count_message(tensor: &Tensor, err: &TensorError) -> String {
    let have = match &tensor.data {
        TensorData::String(strings) => strings.len() as u64,
        TensorData::Raw(raw) => raw.len() as u64 * 8 / tensor.dtype.bits().max(1),
        _ => return err.to_string(),
    };
    match tensor.len() {
        Ok(need) => format!("expected {need} elements, found {have}"),
        Err(err) => err.to_string(),
    }
}

fn read_element(cursor: &mut Cursor<'_>, dtype: DataType, raw: &mut Vec<u8>) -> Parsed<()> {
    let at = cursor.at();
    let expected = format!("an element of type {dtype}");
    let unfit = |found: &str| Fail::new(at, format!("expected {expected}, found {found}"));
    match (dtype, cursor.literal(&expected)?) {
        (_, Literal::String(_)) => return Err(unfit("a string")),
        (DataType::Float | DataType::Complex64, Literal::Int(n) | Literal::Float(n)) => {
            raw.extend(parse_float::<f32>(at, n)?.to_le_bytes());
        }
        (DataType::Double | DataType::Complex128, Literal::Int(n) | Literal::Float(n)) => {
            raw.extend(parse_float::<f64>(at, n)?.to_le_bytes());
        }
        (DataType::Float16, Literal::Float(n)) => {
            raw.extend(f16::from_f64(parse_float(at, n)?).to_le_bytes());
        }
        (DataType::Bfloat16, Literal::Float(n)) => {
            raw.extend(bf16::from_f64(parse_float(at, n)?).to_le_bytes());
        }
        (_, Literal::Float(n)) => return Err(unfit(n)),
        (_, Literal::Int(n)) => {
            let value = read_int(at, n, dtype, &int_range(dtype))?;
            let width = usize::try_from(dtype.bits() / 8).unwrap_or(0);
            raw.extend(value.to_le_bytes().iter().take(width));
        }
    }
    Ok(())
}

fn read_int(
    at: usize,
    digits: &str,
    dtype: DataType,
    range: &RangeInclusive<i128>,
) -> Parsed<i128> {
    let value = digits.parse().ok().filter(|value| range.contains(value));
    value.ok_or_else(|| Fail::new(at, format!("{digits} is not in the range of {dtype}")))
}

/// Elements of less than 8 bits: one integer per element, or the bytes that they are packed into.
fn read_packed(cursor: &mut Cursor<'_>, dtype: DataType, dims: &[i64]) -> Parsed<Vec<u8>> {
    let start = cursor.at();
    let expected = format!("an element of type {dtype}");
    let numbers = cursor.list("}", |cursor| match (cursor.at(), cursor.literal(&expected)?) {
        (at, Literal::Int(digits)) => Ok((at, digits)),
        (at, _) => Err(Fail::new(at, format!("expected {expected}"))),
    })?;
    let count = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
    let bytes = count.and_then(|n| dtype.byte_len(n));
    let have = Some(numbers.len() as u64);
    let read = |range: &RangeInclusive<i128>| -> Parsed<Vec<i128>> {
        numbers.iter().map(|&(at, digits)| read_int(at, digits, dtype, range)).collect()
    };
    let elements = || Ok(pack(&read(&int_range(dtype))?, dtype));
    let packed = || Ok(read(&(0..=255))?.iter().map(|n| n.to_le_bytes()[0]).collect());
    // A single element and the byte that holds it are written alike, except that an element may be negative.
    match (have == count, have == bytes) {
        (true, true) => packed().or_else(|_: Fail| elements()),
        (true, false) => elements(),
        (false, true) => packed(),
        (false, false) => {
            let need = count.map_or_else(|| "fewer".into(), |n| n.to_string());
            Err(Fail::new(start, format!("expected {need} elements, found {}", numbers.len())))
        }
    }
}
