//! Element types, dimensions, shapes and the types of values.

use std::fmt;

use smallvec::SmallVec;

use crate::{Dim, Name};

macro_rules! data_types {
    ($($variant:ident = $code:literal, $text:literal, $bits:literal;)*) => {
        /// Type of a tensor's elements (`TensorProto.DataType`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DataType {
            $(#[doc = concat!("`", $text, "`, code ", stringify!($code), ".")] $variant = $code,)*
        }

        impl DataType {
            /// Every element type.
            pub const ALL: &[DataType] = &[$(DataType::$variant,)*];

            /// The type with this code in `TensorProto.DataType`; none for 0 (undefined) and for unknown codes.
            #[must_use]
            pub fn from_code(code: i32) -> Option<DataType> {
                match code { $($code => Some(DataType::$variant),)* _ => None }
            }

            /// Code in `TensorProto.DataType`.
            #[must_use]
            pub fn code(self) -> i32 {
                self as i32
            }

            /// Name in ONNX's text syntax.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(DataType::$variant => $text,)* }
            }

            /// The type with this name in ONNX's text syntax.
            #[must_use]
            pub fn from_name(name: &str) -> Option<DataType> {
                match name { $($text => Some(DataType::$variant),)* _ => None }
            }

            /// Bits of one element in `raw_data`; 0 for strings, which have no fixed size.
            #[must_use]
            pub fn bits(self) -> u64 {
                match self { $(DataType::$variant => $bits,)* }
            }
        }
    };
}

data_types! {
    Float = 1, "float", 32;
    Uint8 = 2, "uint8", 8;
    Int8 = 3, "int8", 8;
    Uint16 = 4, "uint16", 16;
    Int16 = 5, "int16", 16;
    Int32 = 6, "int32", 32;
    Int64 = 7, "int64", 64;
    String = 8, "string", 0;
    Bool = 9, "bool", 8;
    Float16 = 10, "float16", 16;
    Double = 11, "double", 64;
    Uint32 = 12, "uint32", 32;
    Uint64 = 13, "uint64", 64;
    Complex64 = 14, "complex64", 64;
    Complex128 = 15, "complex128", 128;
    Bfloat16 = 16, "bfloat16", 16;
    Float8E4m3fn = 17, "float8e4m3fn", 8;
    Float8E4m3fnuz = 18, "float8e4m3fnuz", 8;
    Float8E5m2 = 19, "float8e5m2", 8;
    Float8E5m2fnuz = 20, "float8e5m2fnuz", 8;
    Uint4 = 21, "uint4", 4;
    Int4 = 22, "int4", 4;
    Float4E2m1 = 23, "float4e2m1", 4;
    Float8E8m0 = 24, "float8e8m0", 8;
    Uint2 = 25, "uint2", 2;
    Int2 = 26, "int2", 2;
    Float6E2m3 = 27, "float6e2m3", 6;
    Float6E3m2 = 28, "float6e3m2", 6;
}

impl DataType {
    /// Bytes that `count` elements take in `raw_data`, packed types rounded up; none on overflow and for strings.
    #[must_use]
    pub fn byte_len(self, count: u64) -> Option<u64> {
        if self == DataType::String {
            return None;
        }
        Some(count.checked_mul(self.bits())?.div_ceil(8))
    }

    /// Whether this is one of the float types.
    #[must_use]
    pub fn is_float(self) -> bool {
        use DataType::{
            Bfloat16, Double, Float, Float4E2m1, Float6E2m3, Float6E3m2, Float8E4m3fn,
            Float8E4m3fnuz, Float8E5m2, Float8E5m2fnuz, Float8E8m0, Float16,
        };
        matches!(
            self,
            Float
                | Double
                | Float16
                | Bfloat16
                | Float8E4m3fn
                | Float8E4m3fnuz
                | Float8E5m2
                | Float8E5m2fnuz
                | Float4E2m1
                | Float6E2m3
                | Float6E3m2
                | Float8E8m0
        )
    }

    /// Whether this is a signed or unsigned integer type (bool is not).
    #[must_use]
    pub fn is_integer(self) -> bool {
        use DataType::{
            Int2, Int4, Int8, Int16, Int32, Int64, Uint2, Uint4, Uint8, Uint16, Uint32, Uint64,
        };
        matches!(
            self,
            Int2 | Int4
                | Int8
                | Int16
                | Int32
                | Int64
                | Uint2
                | Uint4
                | Uint8
                | Uint16
                | Uint32
                | Uint64
        )
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The dimensions of a tensor of known rank.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub SmallVec<[Dim; 4]>);

impl Shape {
    /// A shape of known numbers.
    #[must_use]
    pub fn fixed(dims: &[i64]) -> Shape {
        Shape(dims.iter().map(|&d| Dim::Fixed(d)).collect())
    }

    /// A shape of this rank with nothing known about its dimensions.
    #[must_use]
    pub fn unknown(rank: usize) -> Shape {
        Shape((0..rank).map(|_| Dim::Unknown).collect())
    }

    /// Number of dimensions.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// All dimensions as numbers, when all are known.
    #[must_use]
    pub fn dims(&self) -> Option<SmallVec<[i64; 4]>> {
        self.0.iter().map(Dim::fixed).collect()
    }

    /// Number of elements, when all dimensions are known and the product fits.
    #[must_use]
    pub fn len(&self) -> Option<i64> {
        self.0.iter().try_fold(1i64, |n, d| n.checked_mul(d.fixed()?))
    }

    /// Whether the number of elements is known to be zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.contains(&Dim::Fixed(0))
    }
}

impl FromIterator<Dim> for Shape {
    fn from_iter<I: IntoIterator<Item = Dim>>(dims: I) -> Self {
        Shape(dims.into_iter().collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{dim}")?;
        }
        f.write_str("]")
    }
}

/// Element type and shape of a tensor; no shape means that even the rank is unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Type of the elements.
    pub dtype: DataType,
    /// Shape, if at least the rank is known.
    pub shape: Option<Shape>,
}

impl TensorType {
    /// A tensor of known shape.
    #[must_use]
    pub fn new(dtype: DataType, shape: Shape) -> TensorType {
        TensorType { dtype, shape: Some(shape) }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shape {
            None => write!(f, "{}[]", self.dtype),
            Some(shape) if shape.rank() == 0 => write!(f, "{}", self.dtype),
            Some(shape) => write!(f, "{}{shape}", self.dtype),
        }
    }
}

/// What a value holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Type {
    /// A dense tensor.
    Tensor(TensorType),
    /// A sparse tensor.
    Sparse(TensorType),
    /// A list of values of one type.
    Sequence(Box<Type>),
    /// A map from a scalar to a value.
    Map(DataType, Box<Type>),
    /// A value or nothing.
    Optional(Box<Type>),
    /// A type of a custom domain: domain and name.
    Opaque(Name, Name),
}

impl Type {
    /// A dense tensor of known shape.
    #[must_use]
    pub fn tensor(dtype: DataType, dims: &[i64]) -> Type {
        Type::Tensor(TensorType::new(dtype, Shape::fixed(dims)))
    }

    /// The tensor type, if this is a dense tensor.
    #[must_use]
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(ty) => Some(ty),
            _ => None,
        }
    }
}

impl From<TensorType> for Type {
    fn from(ty: TensorType) -> Self {
        Type::Tensor(ty)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(ty) => write!(f, "{ty}"),
            Type::Sparse(ty) => write!(f, "sparse_tensor({ty})"),
            Type::Sequence(ty) => write!(f, "seq({ty})"),
            Type::Map(key, ty) => write!(f, "map({key}, {ty})"),
            Type::Optional(ty) => write!(f, "optional({ty})"),
            Type::Opaque(domain, name) => write!(f, "opaque({domain:?}, {name:?})"),
        }
    }
}
