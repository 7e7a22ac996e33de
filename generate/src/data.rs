//! Tensors made of decisions, and what equal tensors are.

use half::{bf16, f16};
use onnxfix_ir::{DataType, Element, Tensor};

use crate::Choices;

/// The element types of generated values. Strings and the types below 8 bits have no place here: hardly an operator
/// computes with them.
pub const DTYPES: &[DataType] = &[
    DataType::Float,
    DataType::Int64,
    DataType::Int32,
    DataType::Bool,
    DataType::Float16,
    DataType::Double,
    DataType::Uint8,
    DataType::Int8,
    DataType::Bfloat16,
    DataType::Uint64,
    DataType::Uint32,
    DataType::Int16,
    DataType::Uint16,
];

/// Number of elements.
pub(crate) fn volume(dims: &[i64]) -> usize {
    usize::try_from(dims.iter().product::<i64>()).unwrap_or(0)
}

/// Elements that count up from -2 to 2, again and again; those of unsigned types and bools from 0.
pub(crate) fn counted(dtype: DataType, dims: &[i64]) -> Tensor {
    let ups = (0..volume(dims)).map(|i| i as i64 % 5);
    match dtype {
        DataType::Bool => from_ints(dtype, dims, &ups.map(|n| n % 2).collect::<Vec<_>>()),
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 | DataType::Uint64 => {
            from_ints(dtype, dims, &ups.collect::<Vec<_>>())
        }
        _ if dtype.is_float() => {
            from_floats(dtype, dims, &ups.map(|n| n as f64 - 2.0).collect::<Vec<_>>())
        }
        _ => from_ints(dtype, dims, &ups.map(|n| n - 2).collect::<Vec<_>>()),
    }
}

/// A tensor of small numbers, in which a number is rarely special: NaN, an infinity, a zero with a sign, the largest.
/// `tame` has none of these.
pub(crate) fn random(c: &mut Choices<'_>, dtype: DataType, dims: &[i64], tame: bool) -> Tensor {
    let special = !tame && c.chance(8);
    let floats = |c: &mut Choices<'_>| -> Vec<f64> {
        const SPECIAL: [f64; 8] =
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, 1e30, 6e4, 1e-8];
        let one = |c: &mut Choices<'_>| {
            if special && c.chance(20) {
                *c.pick(&SPECIAL)
            } else {
                c.between(-12, 16) as f64 / 4.0
            }
        };
        (0..volume(dims)).map(|_| one(c)).collect()
    };
    let ints = |c: &mut Choices<'_>, low: i64| -> Vec<i64> {
        const SPECIAL: [i64; 6] = [i64::MAX, i64::MIN, i32::MAX as i64, -1, 255, 1 << 33];
        let one = |c: &mut Choices<'_>| {
            if special && c.chance(20) { *c.pick(&SPECIAL) } else { c.between(low, 7) }
        };
        (0..volume(dims)).map(|_| one(c)).collect()
    };
    let of = |numbers: Vec<f64>| from_floats(dtype, dims, &numbers);
    match dtype {
        DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16 => {
            of(floats(c))
        }
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 | DataType::Uint64 => {
            from_ints(dtype, dims, &ints(c, 0))
        }
        DataType::Bool => {
            let bools = (0..volume(dims)).map(|_| c.below(2) as i64).collect::<Vec<_>>();
            from_ints(dtype, dims, &bools)
        }
        _ => from_ints(dtype, dims, &ints(c, -4)),
    }
}

/// The tensor of these numbers, rounded to a float type.
pub(crate) fn from_floats(dtype: DataType, dims: &[i64], numbers: &[f64]) -> Tensor {
    #[expect(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
    match dtype {
        DataType::Double => Tensor::new(dims, numbers.to_vec()),
        DataType::Float16 => Tensor::new(dims, numbers.iter().map(|&x| f16::from_f64(x)).collect()),
        DataType::Bfloat16 => {
            Tensor::new(dims, numbers.iter().map(|&x| bf16::from_f64(x)).collect())
        }
        DataType::Float => Tensor::new(dims, numbers.iter().map(|&x| x as f32).collect()),
        _ => from_ints(dtype, dims, &numbers.iter().map(|&x| x as i64).collect::<Vec<_>>()),
    }
}

/// The tensor of these integers, their low bits where the type has fewer.
///
/// # Panics
/// For types outside of [`DTYPES`].
pub(crate) fn from_ints(dtype: DataType, dims: &[i64], ints: &[i64]) -> Tensor {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the low bits are wanted"
    )]
    match dtype {
        DataType::Int64 => Tensor::new(dims, ints.to_vec()),
        DataType::Int32 => Tensor::new(dims, ints.iter().map(|&i| i as i32).collect()),
        DataType::Int16 => Tensor::new(dims, ints.iter().map(|&i| i as i16).collect()),
        DataType::Int8 => Tensor::new(dims, ints.iter().map(|&i| i as i8).collect()),
        DataType::Uint64 => Tensor::new(dims, ints.iter().map(|&i| i as u64).collect()),
        DataType::Uint32 => Tensor::new(dims, ints.iter().map(|&i| i as u32).collect()),
        DataType::Uint16 => Tensor::new(dims, ints.iter().map(|&i| i as u16).collect()),
        DataType::Uint8 => Tensor::new(dims, ints.iter().map(|&i| i as u8).collect()),
        DataType::Bool => Tensor::new(dims, ints.iter().map(|&i| i != 0).collect()),
        _ => from_floats(dtype, dims, &ints.iter().map(|&i| i as f64).collect::<Vec<_>>()),
    }
}

/// The bytes of the elements with one NaN and one zero: exact passes keep all else.
///
/// # Panics
/// When the tensor has no bytes: a string, or one whose file was not loaded.
#[must_use]
pub(crate) fn canonical(tensor: &Tensor) -> Vec<u8> {
    fn each<T: Element + PartialOrd>(tensor: &Tensor, zero: T, nan: T) -> Vec<u8> {
        let elements = tensor.elements::<T>().expect("elements of that type");
        let plain = |&x: &T| match x.partial_cmp(&x) {
            None => nan,
            Some(_) if x == zero => zero,
            Some(_) => x,
        };
        T::into_raw(elements.iter().map(plain).collect()).to_vec()
    }
    match tensor.dtype {
        DataType::Float => each(tensor, 0.0, f32::NAN),
        DataType::Double => each(tensor, 0.0, f64::NAN),
        DataType::Float16 => each(tensor, f16::ZERO, f16::NAN),
        DataType::Bfloat16 => each(tensor, bf16::ZERO, bf16::NAN),
        _ => tensor.raw().expect("elements of a fixed size").into_owned(),
    }
}

/// Whether type, dimensions and elements are equal, as exact passes keep them: a NaN is a NaN, a zero has no sign.
#[must_use]
pub fn is_equal(a: &Tensor, b: &Tensor) -> bool {
    a.dtype == b.dtype && a.dims == b.dims && canonical(a) == canonical(b)
}

/// Whether type and dimensions are equal, and elements but for what rounding in another order changes, relative to the
/// largest of them. Where `a` is not a number, as of infinite intermediates, `b` may be one.
#[must_use]
pub fn is_near(a: &Tensor, b: &Tensor) -> bool {
    if a.dtype != b.dtype || a.dims != b.dims {
        return false;
    }
    let share = match a.dtype {
        DataType::Double => 1e-9,
        DataType::Float => 1e-4,
        DataType::Float16 => 1e-2,
        DataType::Bfloat16 => 5e-2,
        _ => return is_equal(a, b),
    };
    let (Some(a), Some(b)) = (a.to_floats(), b.to_floats()) else { return false };
    let largest = a.iter().filter(|x| x.is_finite()).fold(0.0_f64, |m, x| m.max(x.abs()));
    let near = |(x, y): (&f64, &f64)| {
        x.partial_cmp(y).is_some_and(std::cmp::Ordering::is_eq)
            || x.is_nan()
            || (x - y).abs() <= share * largest
    };
    a.iter().zip(&b).all(near)
}

/// The elements as text, as many as fit a line.
#[must_use]
pub fn show(tensor: &Tensor) -> String {
    let numbers: Vec<String> = match tensor.to_floats() {
        Some(floats) => floats.iter().take(24).map(ToString::to_string).collect(),
        None => {
            tensor.to_ints().unwrap_or_default().iter().take(24).map(ToString::to_string).collect()
        }
    };
    format!("{}{:?} {{{}}}", tensor.dtype, tensor.dims, numbers.join(", "))
}
