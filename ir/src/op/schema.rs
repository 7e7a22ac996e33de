//! Words for the tables of the families: sets of element types, parameters, attributes.

use super::{Arity, AttrDef, Param};
use crate::DataType;

/// A set of element types, in the order of their codes.
macro_rules! types {
    ($($ty:ident)*) => { &[$($crate::DataType::$ty),*] };
}
pub(super) use types;

/// Type sets that several operators share.
pub(super) mod sets {
    use super::DataType;

    pub(crate) const FLOAT: &[DataType] = types!(Float);
    pub(crate) const UINT8: &[DataType] = types!(Uint8);
    pub(crate) const INT32: &[DataType] = types!(Int32);
    pub(crate) const INT64: &[DataType] = types!(Int64);
    pub(crate) const BOOL: &[DataType] = types!(Bool);
    pub(crate) const STRING: &[DataType] = types!(String);
    /// What counts and points: lengths, axes, indices.
    pub(crate) const INDEX: &[DataType] = types!(Int32 Int64);
    pub(crate) const BYTES: &[DataType] = types!(Uint8 Int8);
    pub(crate) const INTS: &[DataType] = types!(Uint8 Int8 Uint16 Int16 Int32 Int64 Uint32 Uint64);
    pub(crate) const FLOATS: &[DataType] = types!(Float Float16 Double Bfloat16);
    /// The floats of at most 32 bits.
    pub(crate) const SMALL_FLOATS: &[DataType] = types!(Float Float16 Bfloat16);
    pub(crate) const FLOATS_AND_FLOAT8: &[DataType] =
        types!(Float Float16 Double Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz);
    /// Floats and signed integers.
    pub(crate) const SIGNED: &[DataType] =
        types!(Float Int8 Int16 Int32 Int64 Float16 Double Bfloat16);
    pub(crate) const NUMBERS: &[DataType] =
        types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 Float16 Double Uint32 Uint64 Bfloat16);
    /// Numbers without bfloat16, as some operators of opset 9 still have it.
    pub(crate) const OLD_NUMBERS: &[DataType] =
        types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 Float16 Double Uint32 Uint64);
    /// Numbers without the integers of 8 and 16 bits.
    pub(crate) const WIDE_NUMBERS: &[DataType] =
        types!(Float Int32 Int64 Float16 Double Uint32 Uint64 Bfloat16);
    pub(crate) const NUMBERS_AND_BOOL: &[DataType] = types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 Bool Float16 Double Uint32 Uint64 Bfloat16);
    pub(crate) const QUANTIZED: &[DataType] =
        types!(Uint8 Int8 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz);
    /// Every type of opset 1.
    pub(crate) const OLD_ANY: &[DataType] = types!(
        Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Complex64 Complex128
    );
    /// Every type of opset 13.
    pub(crate) const ANY: &[DataType] = types!(
        Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Complex64 Complex128 Bfloat16
    );
    /// Every type of opset 25.
    pub(crate) const STORED: &[DataType] = types!(
        Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Complex64 Complex128
        Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Float8E8m0 Uint2 Int2
    );
    /// Every type that there is.
    pub(crate) const ALL: &[DataType] = DataType::ALL;
    /// No tensor: the parameter is a sequence or an optional value.
    pub(crate) const NO_TENSOR: &[DataType] = &[];
}

/// A parameter that occurs once. An empty `var` ties its type to no other parameter.
pub(super) const fn one(
    name: &'static str,
    var: &'static str,
    types: &'static [DataType],
) -> Param {
    Param { name, var, types, arity: Arity::One, since: 1 }
}

/// A parameter that may be left out.
pub(super) const fn opt(
    name: &'static str,
    var: &'static str,
    types: &'static [DataType],
) -> Param {
    Param { name, var, types, arity: Arity::Optional, since: 1 }
}

/// A parameter that occurs any number of times.
pub(super) const fn many(
    name: &'static str,
    var: &'static str,
    types: &'static [DataType],
) -> Param {
    Param { name, var, types, arity: Arity::Variadic, since: 1 }
}

impl Param {
    /// The parameter came with this opset version; before it was absent or an attribute.
    pub(super) const fn since(mut self, version: i64) -> Param {
        self.since = version;
        self
    }
}

impl AttrDef {
    const fn new(name: &'static str, type_code: i32) -> AttrDef {
        AttrDef { name, type_code, required: false, since: 1, until: i64::MAX }
    }

    /// A node must have it.
    pub(super) const fn required(mut self) -> AttrDef {
        self.required = true;
        self
    }

    /// The attribute came with this opset version.
    pub(super) const fn since(mut self, version: i64) -> AttrDef {
        self.since = version;
        self
    }

    /// The attribute went with this opset version.
    pub(super) const fn until(mut self, version: i64) -> AttrDef {
        self.until = version;
        self
    }
}

/// Attributes by type.
pub(super) mod attr {
    use super::AttrDef;

    macro_rules! kinds {
        ($($kind:ident = $code:literal;)*) => {$(
            pub(crate) const fn $kind(name: &'static str) -> AttrDef {
                AttrDef::new(name, $code)
            }
        )*};
    }

    kinds! {
        float = 1;
        int = 2;
        string = 3;
        tensor = 4;
        graph = 5;
        floats = 6;
        ints = 7;
        strings = 8;
        sparse_tensor = 11;
        type_proto = 13;
    }
}
