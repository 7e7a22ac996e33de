//! merge-casts

use onnxfix_ir::{DataType, Model, NodeId};

use crate::matching::{dtype, input, output, producer};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Reads through a `Cast` that loses nothing, where another `Cast` or an index follows.
    ///
    /// ## Why ATC needs it
    /// Exporters cast int32 ids and masks to int64 and on to float. Each Cast is a kernel, on int64 a slow one, and
    /// int64 indices make gathers fall back to a scalar loop.
    ///
    /// ## Before
    /// ```onnx
    /// g (int32[2] x) => (float[2] y) {
    ///    w = Cast <to = 7> (x)
    ///    y = Cast <to = 1> (w)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (int32[2] x) => (float[2] y) { y = Cast <to = 1> (x) }
    /// ```
    ///
    /// ## Applies when
    /// - The first Cast keeps every value: to a wider integer or float of the same kind, or from bool to a number.
    /// - What follows is a Cast, or an operator that takes int32 indices as well and the value is its index.
    /// - A Cast that follows gives the same number from either type. What an integer makes of a float beyond its range
    ///   is open, while from an integer it keeps the low bits: int16 by way of float to uint8 stays.
    ///
    /// ## Numerics
    /// Exact.
    pub MergeCasts = "merge-casts", Simplify, Exact
}

impl Rewrite for MergeCasts {
    fn roots(&self) -> &'static [&'static str] {
        &["Cast", "Gather", "GatherElements", "ScatterElements", "OneHot"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let slot = match m[root].op().name.as_str() {
            "Cast" | "OneHot" => 0,
            _ => 1,
        };
        let wide = input(m, root, slot)?;
        let first = producer(m, wide, "Cast")?;
        let x = input(m, first, 0)?;
        let (from, through) = (dtype(m, x)?, dtype(m, wide)?);
        if !keeps_values(from, through) {
            return unmet(format!("the cast from {from} to {through} loses values"));
        }
        if m[root].op().is("Cast") {
            let to = dtype(m, output(m, root)?)?;
            if to == DataType::String {
                return unmet("the same number is written differently in another type");
            }
            if !converts_alike(from, through, to) {
                return unmet(format!(
                    "{to} may differ between numbers of {from} and of {through}"
                ));
            }
        } else if from != DataType::Int32 {
            return unmet(format!("{from} is no type of an index"));
        }
        let mut patch = Patch::new(m, root);
        patch.set_input(root, slot, x);
        Ok(patch)
    }
}

/// Whether a number of `from` comes out as `to` in the same way where it is held as a `through`, which keeps it.
fn converts_alike(from: DataType, through: DataType, to: DataType) -> bool {
    use DataType::{Bfloat16, Bool, Double, Float, Float16};
    // To a float the number is rounded once, and as a bool it is compared with 0.
    matches!(to, Bool | Float | Double | Float16 | Bfloat16)
        // Integers keep the low bits of either; a bool is 0 or 1.
        || (to.is_integer() && (through.is_integer() || from == Bool))
        || to == from
        || (to.is_integer() && keeps_values(from, to))
}

/// Whether every value of `from` is a value of `to`, and comes out of it as the same number.
pub(crate) fn keeps_values(from: DataType, to: DataType) -> bool {
    use DataType::{
        Bfloat16, Bool, Double, Float, Float16, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32,
        Uint64,
    };
    match from {
        Bool => to.is_integer() || matches!(to, Float | Double | Float16 | Bfloat16),
        Int8 => matches!(to, Int16 | Int32 | Int64 | Float | Double | Float16),
        Int16 => matches!(to, Int32 | Int64 | Float | Double),
        Int32 => matches!(to, Int64 | Double),
        Uint8 => matches!(
            to,
            Uint16 | Uint32 | Uint64 | Int16 | Int32 | Int64 | Float | Double | Float16
        ),
        Uint16 => matches!(to, Uint32 | Uint64 | Int32 | Int64 | Float | Double),
        Uint32 => matches!(to, Uint64 | Int64 | Double),
        Float16 | Bfloat16 => matches!(to, Float | Double),
        Float => to == Double,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten};

    #[test]
    fn stays_where_numbers_become_text() {
        check_skip(
            &MergeCasts,
            "g (float[2] x) => (string[2] y) { d = Cast <to = 11> (x)  y = Cast <to = 8> (d) }",
            "written differently",
        );
    }

    #[test]
    fn indices_are_read_as_int32() {
        let after = rewritten(
            &MergeCasts,
            "g (int32[2] x, float[9,4] w) => (float[2,4] y) { i = Cast <to = 7> (x)  y = Gather (w, i) }",
        );
        insta::assert_snapshot!(after, @r"
        g (int32[2] x, float[9,4] w) => (float[2,4] y) {
           y = Gather (w, x)
        }
        ");
    }

    #[test]
    fn stays_where_the_first_cast_loses_values() {
        check_skip(
            &MergeCasts,
            "g (float[2] x) => (float[2] y) { i = Cast <to = 6> (x)  y = Cast <to = 1> (i) }",
            "the cast from float to int32 loses values",
        );
    }

    #[test]
    fn stays_where_a_number_may_be_beyond_the_range_of_the_last_type() {
        for (from, through, to) in
            [("int16", "1", "2"), ("int16", "1", "3"), ("float16", "1", "6"), ("uint8", "1", "3")]
        {
            let text = format!(
                "g ({from}[2] x) => (y) {{ f = Cast <to: int = {through}> (x)  y = Cast <to: int = {to}> (f) }}"
            );
            check_skip(&MergeCasts, &text, "may differ");
        }
    }

    #[test]
    fn integers_by_way_of_a_float_that_fit_are_merged() {
        let after = rewritten(
            &MergeCasts,
            "g (uint8[2] x) => (int64[2] y) { f = Cast <to: int = 1> (x)  y = Cast <to: int = 7> (f) }",
        );
        insta::assert_snapshot!(after, @r"
        g (uint8[2] x) => (int64[2] y) {
           y = Cast <to: int = 7> (x)
        }
        ");
    }

    #[test]
    fn only_int32_is_an_index_everywhere() {
        check_skip(
            &MergeCasts,
            "g (bool[2] x, float[2] v) => (float[2,3] y) <int64 d = {3}> { i = Cast <to = 7> (x)  y = OneHot (i, d, v) }",
            "bool is no type of an index",
        );
    }
}
