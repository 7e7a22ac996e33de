//! simplify-truth-values

use onnxfix_ir::{DataType, Model, NodeId, Tensor, ValueId};

use crate::matching::{dtype, input, is_reshape, output, producer, uniform, used_once};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Asks of integers only what a `Cast` to bool or a comparison asks of them.
    ///
    /// ## Why ATC needs it
    /// Masks come as integers that are multiplied, subtracted and cast back and forth before they are truth values, for
    /// every pair of tokens and in 64 bits, which is work for the AI CPU. The truth values themselves are enough.
    ///
    /// ## Before
    /// ```onnx
    /// g (int32[2,1] a, int32[1,3] b) => (bool[2,3] y) {
    ///    c = Cast <to = 7> (a)
    ///    d = Cast <to = 7> (b)
    ///    product = Mul (c, d)
    ///    y = Cast <to = 9> (product)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (int32[2,1] a, int32[1,3] b) => (bool[2,3] y) {
    ///    c = Cast <to: int = 7> (a)
    ///    d = Cast <to: int = 7> (b)
    ///    y_Cast = Cast <to: int = 9> (c)
    ///    y_Cast_1 = Cast <to: int = 9> (d)
    ///    y = And (y_Cast, y_Cast_1)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A Cast to bool reads a product of integers that cannot overflow: it is true where both are.
    /// - It reads a number minus an integer: it is true where they differ. A Cast to uint8 between the two does not
    ///   matter where the integer is a uint8 and the number 0 or 1.
    /// - It reads a Reshape, which can as well come behind it.
    /// - A comparison of an int32, cast to int64, with one number that int32 holds.
    ///
    /// ## Numerics
    /// Exact.
    pub SimplifyTruthValues = "simplify-truth-values", Simplify, Exact
}

impl Rewrite for SimplifyTruthValues {
    fn roots(&self) -> &'static [&'static str] {
        &["Cast", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        let mut patch = Patch::new(m, root);
        if !m[root].op().is("Cast") {
            return compared(m, root, patch);
        }
        if dtype(m, y)? != DataType::Bool {
            return Err(Miss::NoMatch);
        }
        let node = m.producer(x).ok_or(Miss::NoMatch)?;
        if is_reshape(m, node) {
            if !used_once(m, x) {
                return unmet("something else reads the reshape");
            }
            let def = m[node].op().def.ok_or(Miss::NoMatch)?;
            let cast = patch.cast(input(m, node, 0)?.into(), DataType::Bool);
            let rest = m[node].inputs()[1..].iter().flatten().map(|&v| Operand::from(v));
            let operands: Vec<Operand> = [cast].into_iter().chain(rest).collect();
            let reshaped = patch.node_with(def.name, &operands, m[node].attrs.clone());
            patch.replace(y, reshaped);
            return Ok(patch);
        }
        if m[node].op().is("Mul") && dtype(m, x)?.is_integer() {
            let (a, b) = (input(m, node, 0)?, input(m, node, 1)?);
            let wide = dtype(m, x)? == DataType::Int64;
            if !wide || bits(m, a).zip(bits(m, b)).is_none_or(|(a, b)| a + b > 63) {
                return unmet("the product may overflow");
            }
            let [a, b] = [a, b].map(|v| patch.cast(v.into(), DataType::Bool));
            let both = patch.node("And", &[a, b]);
            patch.replace(y, both);
            return Ok(patch);
        }
        // A Cast to uint8 in between wraps around.
        let wrapped = producer(m, x, "Cast").and_then(|cast| input(m, cast, 0));
        let difference =
            wrapped.ok().filter(|_| m[x].dtype() == Some(DataType::Uint8)).unwrap_or(x);
        let sub = producer(m, difference, "Sub")?;
        let (number, subtrahend) = (input(m, sub, 0)?, input(m, sub, 1)?);
        if !dtype(m, difference)?.is_integer() {
            return Err(Miss::NoMatch);
        }
        let uniform = uniform(m, number).ok_or(Miss::NoMatch)?;
        let (compared, number): (ValueId, Operand) = if difference == x {
            // Whatever wraps around, only equal integers differ by 0.
            (subtrahend, number.into())
        } else {
            let narrow = producer(m, subtrahend, "Cast").and_then(|cast| input(m, cast, 0));
            let byte = narrow.ok().filter(|&v| m[v].dtype() == Some(DataType::Uint8));
            // From 0 or 1 less than 256 is taken, so that only 0 becomes 0 again.
            let small =
                [0_u8, 1].into_iter().find(|&n| f64::from(n).to_bits() == uniform.to_bits());
            let (Some(byte), Some(small), Some(dims)) = (byte, small, m[number].dims()) else {
                return unmet("the difference may wrap around");
            };
            let len = usize::try_from(dims.iter().product::<i64>()).map_err(|_| Miss::NoMatch)?;
            (byte, patch.constant(Tensor::new(&dims, vec![small; len])))
        };
        // Equal takes all integers since opset 11.
        let old = !matches!(dtype(m, compared)?, DataType::Int32 | DataType::Int64);
        if old && m.opset(m[root].graph(), "").is_none_or(|version| version < 11) {
            return unmet("the opset is older than 11");
        }
        let equal = patch.node("Equal", &[compared.into(), number]);
        let differs = patch.node("Not", &[equal]);
        patch.replace(y, differs);
        Ok(patch)
    }
}

/// Bits of the largest magnitude that a value of integers can have.
fn bits(m: &Model, value: ValueId) -> Option<u32> {
    let of = |v: ValueId| match m[v].dtype()? {
        DataType::Bool => Some(1),
        DataType::Uint8 | DataType::Int8 => Some(8),
        DataType::Uint16 | DataType::Int16 => Some(16),
        DataType::Int32 => Some(31),
        DataType::Uint32 => Some(32),
        _ => None,
    };
    let mut v = value;
    loop {
        let node = m.producer(v)?;
        let x = m[node].input(0)?;
        if m[node].op().is("Cast") {
            return of(x);
        }
        if !is_reshape(m, node) {
            return None;
        }
        v = x;
    }
}

/// A comparison in the type that the integers had.
fn compared(m: &Model, root: NodeId, mut patch: Patch) -> Result<Patch, Miss> {
    let (a, b, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
    let (wide, number, first) = match (uniform(m, a), uniform(m, b)) {
        (None, Some(_)) => (a, b, true),
        (Some(_), None) => (b, a, false),
        _ => return Err(Miss::NoMatch),
    };
    let cast = producer(m, wide, "Cast")?;
    let x = input(m, cast, 0)?;
    if dtype(m, wide)? != DataType::Int64 || dtype(m, x)? != DataType::Int32 {
        return Err(Miss::NoMatch);
    }
    let tensor = m.constant(number).ok_or(Miss::NoMatch)?;
    let ints = tensor.to_ints().ok_or(Miss::NoMatch)?;
    let Ok(small) = ints.iter().map(|&i| i32::try_from(i)).collect::<Result<Vec<i32>, _>>() else {
        return unmet("int32 does not hold the number");
    };
    let number = patch.constant(Tensor::new(&tensor.dims, small));
    let operands = if first { [x.into(), number] } else { [number, x.into()] };
    let def = m[root].op().def.ok_or(Miss::NoMatch)?;
    let result = patch.node(def.name, &operands);
    patch.replace(y, result);
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::SimplifyTruthValues;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn one_minus_a_byte_is_not_zero_where_the_byte_is_not_one() {
        assert_snapshot!(rewritten(&SimplifyTruthValues, "
g (uint8[2] x) => (bool[2] y) <int64 one = {1}> {
   wide = Cast <to = 7> (x)  left = Sub (one, wide)  byte = Cast <to = 2> (left)  y = Cast <to = 9> (byte)
}"), @r"
        g (uint8[2] x) => (bool[2] y) <
           int64 one = {1},
           uint8 y_const = {1}
        > {
           y_Equal = Equal (x, y_const)
           y = Not (y_Equal)
        }
        ");
    }

    #[test]
    fn a_difference_of_integers_is_0_where_they_are_equal() {
        assert_snapshot!(rewritten(&SimplifyTruthValues, "
g (int64[1] x) => (bool[2] y) <int64[2] one = {1, 1}> { left = Sub (one, x)  y = Cast <to = 9> (left) }"), @r"
        g (int64[1] x) => (bool[2] y) <
           int64[2] one = {1, 1}
        > {
           y_Equal = Equal (x, one)
           y = Not (y_Equal)
        }
        ");
    }

    #[test]
    fn int32_is_compared_as_int32() {
        assert_snapshot!(rewritten(&SimplifyTruthValues, "
g (int32[2] x) => (bool[2] y) <int64 pad = {0}> { wide = Cast <to = 7> (x)  y = Equal (wide, pad) }"), @r"
        g (int32[2] x) => (bool[2] y) <
           int64 pad = {0},
           int32 y_const = {0}
        > {
           y = Equal (x, y_const)
        }
        ");
    }

    #[test]
    fn a_reshape_can_wait() {
        assert_snapshot!(rewritten(&SimplifyTruthValues, "
g (int32[2] x) => (bool[1,2] y) <int64[1] axes = {0}> { r = Unsqueeze (x, axes)  y = Cast <to = 9> (r) }"), @r"
        g (int32[2] x) => (bool[1,2] y) <
           int64[1] axes = {0}
        > {
           y_Cast = Cast <to: int = 9> (x)
           y = Unsqueeze (y_Cast, axes)
        }
        ");
    }

    #[test]
    fn look_alikes_stay() {
        for (inputs, nodes, why) in [
            ("int32[2] a, int32[2] b", "p = Mul (a, b)  y = Cast <to = 9> (p)", "may overflow"),
            (
                "int64[2] a",
                "d = Sub (one, a)  b = Cast <to = 2> (d)  y = Cast <to = 9> (b)",
                "may wrap around",
            ),
            ("int32[2] a", "w = Cast <to = 7> (a)  y = Equal (w, huge)", "int32 does not hold"),
        ] {
            check_skip(
                &SimplifyTruthValues,
                &format!(
                    "g ({inputs}) => (bool[2] y) <int64 one = {{1}}, int64 huge = {{4294967296}}> {{ {nodes} }}"
                ),
                why,
            );
        }
        untouched(
            &SimplifyTruthValues,
            "g (float[2] a, float[2] b) => (bool[2] y) { p = Mul (a, b)  y = Cast <to = 9> (p) }",
        );
    }
}
