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
        if slot == 1 && from != DataType::Int32 {
            return unmet(format!("{from} is no type of an index"));
        }
        if m[root].op().is("Cast") && output_is_string(m, root) {
            return unmet("the same number is written differently in another type");
        }
        let mut patch = Patch::new(m, root);
        patch.set_input(root, slot, x);
        Ok(patch)
    }
}

fn output_is_string(m: &Model, node: NodeId) -> bool {
    output(m, node).is_ok_and(|y| m[y].dtype() == Some(DataType::String))
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
}
