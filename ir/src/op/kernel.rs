//! What evaluations share: dispatch on element types, arithmetic by type, walks over strided elements.

use std::borrow::Cow;

use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};
use rayon::prelude::*;
use smallvec::{SmallVec, smallvec};

use super::{EvalCx, EvalError};
use crate::piece::{PieceReader, aligned};
use crate::{AttrValue, DataType, Element, Tensor, TensorData};

/// Runs `body` with `$T` as the Rust type of a tensor's elements; other types are unsupported.
macro_rules! with_type {
    (@ $dtype:expr, $T:ident, $body:expr, $($variant:ident = $ty:ty,)*) => {
        match $dtype {
            $($crate::DataType::$variant => {
                type $T = $ty;
                $body
            })*
            _ => Err($crate::op::EvalError::Unsupported("element type")),
        }
    };
    (floats, $dtype:expr, $T:ident => $body:expr) => {
        with_type!(@ $dtype, $T, $body, Float = f32, Double = f64, Float16 = half::f16, Bfloat16 = half::bf16,)
    };
    (ints, $dtype:expr, $T:ident => $body:expr) => {
        with_type!(@ $dtype, $T, $body,
            Int64 = i64, Int32 = i32, Int16 = i16, Int8 = i8, Uint64 = u64, Uint32 = u32, Uint16 = u16, Uint8 = u8,)
    };
    (numbers, $dtype:expr, $T:ident => $body:expr) => {
        with_type!(@ $dtype, $T, $body, Float = f32, Double = f64, Float16 = half::f16, Bfloat16 = half::bf16,
            Int64 = i64, Int32 = i32, Int16 = i16, Int8 = i8, Uint64 = u64, Uint32 = u32, Uint16 = u16, Uint8 = u8,)
    };
    (all, $dtype:expr, $T:ident => $body:expr) => {
        with_type!(@ $dtype, $T, $body, Float = f32, Double = f64, Float16 = half::f16, Bfloat16 = half::bf16,
            Int64 = i64, Int32 = i32, Int16 = i16, Int8 = i8, Uint64 = u64, Uint32 = u32, Uint16 = u16, Uint8 = u8,
            Bool = bool,)
    };
}
pub(super) use with_type;

/// Runs `body` with `$U` as a plain type of the size of one element: enough to move elements about.
macro_rules! with_unit {
    ($dtype:expr, $U:ident => $body:expr) => {
        match $dtype.bits() {
            8 => {
                type $U = u8;
                $body
            }
            16 => {
                type $U = u16;
                $body
            }
            32 => {
                type $U = u32;
                $body
            }
            64 => {
                type $U = u64;
                $body
            }
            128 => {
                type $U = u128;
                $body
            }
            _ => Err($crate::op::EvalError::Unsupported("strings and packed elements")),
        }
    };
}
pub(super) use with_unit;

/// Arithmetic as ONNX defines it: integers wrap around, 16-bit floats compute in float32 and round once.
pub(super) trait Number: Element + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    const FLOAT: bool;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Integers truncate; the caller keeps zero divisors out.
    fn div(self, other: Self) -> Self;
    /// Remainder with the sign of the dividend.
    fn rem(self, other: Self) -> Self;
    fn neg(self) -> Self;
    fn abs(self) -> Self;
    fn is_nan(self) -> bool;
    fn to_f64(self) -> f64;
    /// Rounds to nearest even; integers truncate and saturate.
    fn from_f64(x: f64) -> Self;

    fn is_zero(self) -> bool {
        self == Self::ZERO
    }
    /// Remainder with the sign of the divisor.
    fn modulo(self, other: Self) -> Self {
        let r = self.rem(other);
        if !r.is_zero() && (r < Self::ZERO) != (other < Self::ZERO) { r.add(other) } else { r }
    }
    /// -1, 0 or 1; NaN stays.
    fn signum(self) -> Self {
        if self > Self::ZERO {
            Self::ONE
        } else if self < Self::ZERO {
            Self::ZERO.sub(Self::ONE)
        } else if self.is_nan() {
            self
        } else {
            Self::ZERO
        }
    }
    /// The larger one; NaN if one is NaN.
    fn larger(self, other: Self) -> Self {
        if self.is_nan() || self > other { self } else { other }
    }
    /// The smaller one; NaN if one is NaN.
    fn smaller(self, other: Self) -> Self {
        if self.is_nan() || self < other { self } else { other }
    }
}

macro_rules! integers {
    ($($ty:ty, |$x:ident| $abs:expr, $f64:expr;)*) => {$(
        impl Number for $ty {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const FLOAT: bool = false;
            fn add(self, other: Self) -> Self { self.wrapping_add(other) }
            fn sub(self, other: Self) -> Self { self.wrapping_sub(other) }
            fn mul(self, other: Self) -> Self { self.wrapping_mul(other) }
            fn div(self, other: Self) -> Self { if other == 0 { 0 } else { self.wrapping_div(other) } }
            fn rem(self, other: Self) -> Self { if other == 0 { 0 } else { self.wrapping_rem(other) } }
            fn neg(self) -> Self { self.wrapping_neg() }
            fn abs(self) -> Self { let $x = self; $abs }
            fn is_nan(self) -> bool { false }
            fn to_f64(self) -> f64 { let $x = self; $f64 }
            fn from_f64(x: f64) -> Self { x as $ty }
        }
    )*};
}

macro_rules! real {
    ($($ty:ty)*) => {$(
        impl Number for $ty {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const FLOAT: bool = true;
            fn add(self, other: Self) -> Self { self + other }
            fn sub(self, other: Self) -> Self { self - other }
            fn mul(self, other: Self) -> Self { self * other }
            fn div(self, other: Self) -> Self { self / other }
            fn rem(self, other: Self) -> Self { self % other }
            fn neg(self) -> Self { -self }
            fn abs(self) -> Self { <$ty>::abs(self) }
            fn is_nan(self) -> bool { <$ty>::is_nan(self) }
            fn to_f64(self) -> f64 { self.into() }
            fn from_f64(x: f64) -> Self { x as $ty }
        }
    )*};
}

macro_rules! halves {
    ($($ty:ty)*) => {$(
        impl Number for $ty {
            const ZERO: Self = <$ty>::ZERO;
            const ONE: Self = <$ty>::ONE;
            const FLOAT: bool = true;
            fn add(self, other: Self) -> Self { <$ty>::from_f32(self.to_f32() + other.to_f32()) }
            fn sub(self, other: Self) -> Self { <$ty>::from_f32(self.to_f32() - other.to_f32()) }
            fn mul(self, other: Self) -> Self { <$ty>::from_f32(self.to_f32() * other.to_f32()) }
            fn div(self, other: Self) -> Self { <$ty>::from_f32(self.to_f32() / other.to_f32()) }
            fn rem(self, other: Self) -> Self { <$ty>::from_f32(self.to_f32() % other.to_f32()) }
            fn neg(self) -> Self { -self }
            fn abs(self) -> Self { if self.is_sign_negative() { -self } else { self } }
            fn is_nan(self) -> bool { <$ty>::is_nan(self) }
            fn to_f64(self) -> f64 { <$ty>::to_f64(self) }
            fn from_f64(x: f64) -> Self { <$ty>::from_f32(to_odd_f32(x)) }
        }
    )*};
}

/// The float32 towards zero, its last bit set when something was cut off. A second rounding, to 16 bits, then gives
/// what one rounding would have given: Boldo and Melquiond, "When double rounding is odd", 2005.
fn to_odd_f32(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    if back == x || x.is_nan() {
        return near;
    }
    let towards_zero = if back.abs() > x.abs() { near.to_bits() - 1 } else { near.to_bits() };
    f32::from_bits(towards_zero | 1)
}

integers! {
    i8, |x| x.wrapping_abs(), f64::from(x);
    i16, |x| x.wrapping_abs(), f64::from(x);
    i32, |x| x.wrapping_abs(), f64::from(x);
    i64, |x| x.wrapping_abs(), x as f64;
    u8, |x| x, f64::from(x);
    u16, |x| x, f64::from(x);
    u32, |x| x, f64::from(x);
    u64, |x| x, x as f64;
}
real! { f32 f64 }
halves! { f16 bf16 }

/// Attributes as evaluation reads them: one whose value only the function around the node knows is unsupported.
impl<'a> EvalCx<'a> {
    fn known(&self, name: &str) -> Result<Option<&'a AttrValue>, EvalError> {
        match self.node.attrs.get(name) {
            Some(AttrValue::Ref(..)) => {
                Err(EvalError::Unsupported("an attribute of the function around the node"))
            }
            other => Ok(other),
        }
    }

    /// An integer attribute.
    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64, EvalError> {
        match self.known(name)? {
            None => Ok(default),
            Some(AttrValue::Int(i)) => Ok(*i),
            Some(_) => Err(EvalError::invalid(format!("attribute {name} is not an integer"))),
        }
    }

    /// A float attribute.
    pub(super) fn float(&self, name: &str, default: f32) -> Result<f64, EvalError> {
        match self.known(name)? {
            None => Ok(f64::from(default)),
            Some(AttrValue::Float(f)) => Ok(f64::from(*f)),
            Some(_) => Err(EvalError::invalid(format!("attribute {name} is not a float"))),
        }
    }

    /// A list of integers.
    pub(super) fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, EvalError> {
        match self.known(name)? {
            None => Ok(None),
            Some(AttrValue::Ints(ints)) => Ok(Some(ints)),
            Some(_) => {
                Err(EvalError::invalid(format!("attribute {name} is not a list of integers")))
            }
        }
    }

    /// A string attribute.
    pub(super) fn str(&self, name: &str, default: &'static str) -> Result<&'a str, EvalError> {
        match self.known(name)? {
            None => Ok(default),
            Some(AttrValue::String(s)) => std::str::from_utf8(s)
                .map_err(|_| EvalError::invalid(format!("attribute {name} is not UTF-8"))),
            Some(_) => Err(EvalError::invalid(format!("attribute {name} is not a string"))),
        }
    }

    /// An input of integers: a shape, axes, bounds.
    pub(super) fn int_input(&self, slot: usize) -> Result<Vec<i64>, EvalError> {
        let tensor = self.input(slot)?;
        tensor.check()?;
        tensor.to_ints().ok_or_else(|| EvalError::invalid(format!("input {slot} has no integers")))
    }

    /// The same of an input that may be left out.
    pub(super) fn opt_int_input(&self, slot: usize) -> Result<Option<Vec<i64>>, EvalError> {
        self.get(slot).map(|_| self.int_input(slot)).transpose()
    }
}

/// Numbers along the axes of a tensor.
pub(super) type Axes<T> = SmallVec<[T; 6]>;

/// Dimensions as sizes. They were checked: a negative one counts as 0.
pub(super) fn sizes(dims: &[i64]) -> Axes<usize> {
    dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect()
}

/// Number of elements of axes this long. Beside an empty axis the others may be as long as they like.
pub(super) fn area(dims: &[usize]) -> usize {
    if dims.contains(&0) { 0 } else { dims.iter().fold(1, |n, &d| n.saturating_mul(d)) }
}

/// A tensor without elements.
pub(super) fn empty(dtype: DataType, dims: &[i64]) -> Tensor {
    from_units::<u8>(dtype, dims, Vec::new())
}

/// Distances, in elements, between neighbours along each axis of packed elements.
pub(super) fn strides(dims: &[usize]) -> Axes<isize> {
    let mut strides: Axes<isize> = smallvec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        // Only the strides of an empty tensor can be too large, and nobody walks it.
        strides[axis - 1] = strides[axis].saturating_mul(dims[axis] as isize);
    }
    strides
}

/// Strides of packed elements with these dimensions, seen as broadcast to `rank` axes: 0 where they repeat.
pub(super) fn broadcast_strides(dims: &[usize], rank: usize) -> Axes<isize> {
    let mut all: Axes<isize> = smallvec![0; rank.saturating_sub(dims.len())];
    all.extend(strides(dims).into_iter().zip(dims).map(|(s, &d)| if d == 1 { 0 } else { s }));
    all
}

/// A walk over several strided tensors at once, row by row.
///
/// Axes of length 1 are dropped and neighbours joined where all tensors allow it, so rows are as long as they can be.
pub(super) struct Walk<const K: usize> {
    dims: Axes<usize>,
    strides: Axes<[isize; K]>,
    start: [isize; K],
    /// Elements of one row.
    pub(super) len: usize,
    /// Stride of each tensor within a row.
    pub(super) step: [isize; K],
}

impl<const K: usize> Walk<K> {
    /// Walks all indices below `dims`, each tensor from `start` on.
    pub(super) fn new(dims: &[usize], strides: [&[isize]; K], start: [isize; K]) -> Walk<K> {
        let mut walk =
            Walk { dims: Axes::new(), strides: Axes::new(), start, len: 1, step: [0; K] };
        if dims.contains(&0) {
            // Nothing to walk; the other axes may be too long to multiply.
            walk.len = 0;
            return walk;
        }
        for (axis, &dim) in dims.iter().enumerate() {
            let stride = std::array::from_fn(|k| strides[k][axis]);
            if dim == 1 {
                continue;
            }
            if let (Some(last_dim), Some(last)) = (walk.dims.last_mut(), walk.strides.last_mut())
                && (0..K).all(|k| last[k] == stride[k] * dim as isize)
            {
                *last_dim *= dim;
                *last = stride;
            } else {
                walk.dims.push(dim);
                walk.strides.push(stride);
            }
        }
        if let (Some(dim), Some(stride)) = (walk.dims.pop(), walk.strides.pop()) {
            walk.len = dim;
            walk.step = stride;
        }
        walk
    }

    /// Calls `f` with the place where each row begins, in order.
    pub(super) fn rows(&self, mut f: impl FnMut([isize; K])) {
        if self.len == 0 || self.dims.contains(&0) {
            return;
        }
        let mut at = self.start;
        let mut index: Axes<usize> = smallvec![0; self.dims.len()];
        loop {
            f(at);
            let mut axis = self.dims.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                let (dim, stride) = (self.dims[axis], self.strides[axis]);
                index[axis] += 1;
                if index[axis] < dim {
                    (0..K).for_each(|k| at[k] += stride[k]);
                    break;
                }
                index[axis] = 0;
                (0..K).for_each(|k| at[k] -= stride[k] * (dim as isize - 1));
            }
        }
    }
}

/// `f` of every pair of elements that broadcast together, in the order of the walk.
///
/// `f` is called through a pointer: constants are small beside weights, and one loop per operator and type took most of
/// the crate's build time.
pub(super) fn zip<A: Copy, B: Copy, R>(
    walk: &Walk<2>,
    a: &[A],
    b: &[B],
    size: usize,
    f: &dyn Fn(A, B) -> R,
) -> Vec<R> {
    let mut out = Vec::with_capacity(size);
    let len = walk.len;
    walk.rows(|[i, j]| {
        let (i, j) = (i as usize, j as usize);
        match walk.step {
            [1, 1] => out.extend(a[i..i + len].iter().zip(&b[j..j + len]).map(|(&x, &y)| f(x, y))),
            [1, 0] => out.extend(a[i..i + len].iter().map(|&x| f(x, b[j]))),
            [0, 1] => out.extend(b[j..j + len].iter().map(|&y| f(a[i], y))),
            [s, t] => out.extend((0..len).map(|k| f(a[i + k * s as usize], b[j + k * t as usize]))),
        }
    });
    out
}

/// As [`zip`], for packed elements of tensors of the same dimensions: piece by piece on all cores, and what is a view of
/// a mapped file is read from it, so that no large input is in memory as a whole.
pub(super) fn zip_packed<A: Element, B: Element, R: Element>(
    a: &[u8],
    b: &[u8],
    f: &(dyn Fn(A, B) -> R + Sync),
) -> Vec<R> {
    const STEP: usize = 1 << 16;
    let size = a.len() / size_of::<A>();
    let (first_a, first_b) = (
        A::from_raw(&a[..size_of::<A>().min(a.len())]),
        B::from_raw(&b[..size_of::<B>().min(b.len())]),
    );
    let (Some(&x), Some(&y)) = (first_a.first(), first_b.first()) else { return Vec::new() };
    let mut out = vec![f(x, y); size];
    let readers = || (PieceReader::new(a), PieceReader::new(b));
    out.par_chunks_mut(STEP).enumerate().for_each_init(readers, |(xs, ys), (i, out)| {
        let (start, len) = (i * STEP, out.len());
        let xs = A::from_raw(xs.read(start * size_of::<A>(), len * size_of::<A>()));
        let ys = B::from_raw(ys.read(start * size_of::<B>(), len * size_of::<B>()));
        for ((out, &x), &y) in out.iter_mut().zip(xs.iter()).zip(ys.iter()) {
            *out = f(x, y);
        }
    });
    out
}

/// `f` of every element, called through a pointer as in [`zip`].
pub(super) fn map<A: Copy, R>(a: &[A], f: &dyn Fn(A) -> R) -> Vec<R> {
    a.iter().map(|&x| f(x)).collect()
}

/// Lets `Bytes` own a vector of plain elements.
struct Owner<U>(Vec<U>);

impl<U: Pod> AsRef<[u8]> for Owner<U> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// A tensor of moved elements.
pub(super) fn from_units<U: Pod + Send + Sync>(
    dtype: DataType,
    dims: &[i64],
    units: Vec<U>,
) -> Tensor {
    Tensor {
        dtype,
        dims: dims.to_vec(),
        data: TensorData::Raw(Bytes::from_owner(Owner(units))),
        extra: None,
    }
}

/// Packed elements as plain units, in place where the alignment allows.
pub(super) fn units<U: Pod>(raw: &[u8]) -> Cow<'_, [U]> {
    match bytemuck::try_cast_slice(raw) {
        Ok(units) => Cow::Borrowed(units),
        Err(_) => Cow::Owned(aligned(raw)),
    }
}

/// The packed elements of a tensor whose length goes with its dimensions.
pub(super) fn checked_raw(tensor: &Tensor) -> Result<Cow<'_, [u8]>, EvalError> {
    tensor.check()?;
    Ok(tensor.raw()?)
}

/// The elements of `tensor` seen through other strides: any transposition, repetition, step or part of it.
/// Output axis `i` is `seen[i]` elements long and steps `strides[i]` elements of the input, from `start` on.
/// `dims` are the output's dimensions, with as many elements as `seen`.
pub(super) fn view(
    cx: &EvalCx<'_>,
    tensor: &Tensor,
    dims: &[i64],
    seen: &[usize],
    strides: &[isize],
    start: usize,
) -> Result<Tensor, EvalError> {
    /// Below this, a copy is better than to keep the whole input alive.
    const SHARE: usize = 1 << 12;

    let dtype = tensor.dtype;
    if !matches!(dtype.bits(), 8 | 16 | 32 | 64 | 128) {
        return Err(EvalError::Unsupported("strings and packed elements"));
    }
    let size = cx.size(dtype, dims)?;
    let raw = checked_raw(tensor)?;
    let walk = Walk::new(seen, [strides], [start as isize]);
    if walk.dims.is_empty()
        && walk.step == [1]
        && let Some(bytes) = shared_bytes(tensor)
    {
        let width = (dtype.bits() / 8) as usize;
        if size * width >= SHARE {
            let bytes = bytes.slice(start * width..(start + size) * width);
            return Ok(Tensor {
                dtype,
                dims: dims.to_vec(),
                data: TensorData::Raw(bytes),
                extra: None,
            });
        }
    }
    with_unit!(dtype, U => Ok(from_units(dtype, dims, walk_units::<U>(&units(&raw), &walk, size))))
}

/// The buffer that holds the packed elements, where there is one.
fn shared_bytes(tensor: &Tensor) -> Option<&Bytes> {
    match &tensor.data {
        TensorData::Raw(bytes) => Some(bytes),
        TensorData::External(external) => external.bytes.as_ref(),
        _ => None,
    }
}

/// The elements in the order of the walk.
fn walk_units<U: Pod>(from: &[U], walk: &Walk<1>, size: usize) -> Vec<U> {
    if walk.step[0] != 1
        && walk.step[0] != 0
        && let Some(near) = walk.strides.iter().position(|&[s]| s == 1)
    {
        return transpose_units(from, walk, near, size);
    }
    let mut out = Vec::with_capacity(size);
    let len = walk.len;
    walk.rows(|[at]| {
        let at = at as usize;
        match walk.step {
            [1] => out.extend_from_slice(&from[at..at + len]),
            [0] => out.extend(std::iter::repeat_n(from[at], len)),
            [step] => out.extend((0..len as isize).map(|k| from[at.wrapping_add_signed(k * step)])),
        }
    });
    out
}

/// The same where neighbours of the input lie along the axis `near` and not along the last:
/// squares that fit the cache, so that each line of memory is fetched once.
fn transpose_units<U: Pod>(from: &[U], walk: &Walk<1>, near: usize, size: usize) -> Vec<U> {
    /// Lines a power of two apart share the few places that a cache has for them; eight fit.
    const SIDE: usize = 8;

    let mut out = vec![U::zeroed(); size];
    let mut dims = walk.dims.clone();
    let height = dims[near];
    dims.push(walk.len);
    let to = strides(&dims);
    let down = to[near] as usize;
    let across = walk.step[0];
    // The outer axes, without the two of the squares.
    dims[near] = 1;
    dims.pop();
    let outer_from: Axes<isize> = walk.strides.iter().map(|&[s]| s).collect();
    let outer = Walk::new(&dims, [&outer_from, &to[..dims.len()]], [walk.start[0], 0]);
    let mut square = |at: usize, to: usize| {
        for top in (0..height).step_by(SIDE) {
            for left in (0..walk.len).step_by(SIDE) {
                let width = SIDE.min(walk.len - left);
                for y in top..height.min(top + SIDE) {
                    let begin = to + y * down + left;
                    let mut source = at.wrapping_add(y).wrapping_add_signed(left as isize * across);
                    for unit in &mut out[begin..begin + width] {
                        *unit = from[source];
                        source = source.wrapping_add_signed(across);
                    }
                }
            }
        }
    };
    outer.rows(|[at, to]| {
        (0..outer.len as isize).for_each(|k| {
            square((at + k * outer.step[0]) as usize, (to + k * outer.step[1]) as usize);
        });
    });
    out
}
