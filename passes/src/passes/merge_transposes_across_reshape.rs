//! merge-transposes-across-reshape

use onnxfix_ir::{Model, NodeId};

use crate::matching::{dims, input, is_reshape, output, perm, producer, used_once};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Makes one `Transpose` of two with a `Reshape` between them that only joins or splits axes.
    ///
    /// ## Why ATC needs it
    /// Each Transpose copies the tensor in an unfriendly order. Exported attention transposes heads, joins them with the
    /// batch, and transposes again; an unfold does the same with its windows.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3,4,5] x) => (float[8,5,3] y) <int64[3] s = {8, 3, 5}> {
    ///    t = Transpose <perm: ints = [0, 2, 1, 3]> (x)
    ///    r = Reshape (t, s)
    ///    y = Transpose <perm: ints = [0, 2, 1]> (r)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,3,4,5] x) => (float[8,5,3] y) <int64[3] y_const = {8, 5, 3}> {
    ///    y_Transpose = Transpose <perm: ints = [0, 2, 3, 1]> (x)
    ///    y = Reshape (y_Transpose, y_const)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - Shapes are static, no dimension is 0, and both shapes of the Reshape split into common factors.
    /// - Nothing else reads what is between the two.
    ///
    /// ## Numerics
    /// Exact.
    pub MergeTransposesAcrossReshape = "merge-transposes-across-reshape", Simplify, Exact
}

impl Rewrite for MergeTransposesAcrossReshape {
    fn roots(&self) -> &'static [&'static str] {
        &["Transpose"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (joined, y) = (input(m, root, 0)?, output(m, root)?);
        let reshape = m.producer(joined).filter(|&n| is_reshape(m, n)).ok_or(Miss::NoMatch)?;
        let turned = input(m, reshape, 0)?;
        let first = producer(m, turned, "Transpose")?;
        let x = input(m, first, 0)?;
        if !used_once(m, joined) || !used_once(m, turned) {
            return unmet("something else reads what is between the transposes");
        }
        let (from, a, b, to) = (dims(m, x)?, dims(m, turned)?, dims(m, joined)?, dims(m, y)?);
        let Some(factors) = common_factors(&a, &b) else {
            return unmet("the reshape does more than join and split axes");
        };
        let (inner, outer) = (perm(m, first, a.len()), perm(m, root, b.len()));
        // The factors in the order of `x`, and of the result.
        let mut at_x: Vec<usize> = (0..factors.len()).collect();
        at_x.sort_by_key(|&f| inner.get(factors[f].a).copied().unwrap_or(0));
        let mut at_y: Vec<usize> = (0..factors.len()).collect();
        at_y.sort_by_key(|&f| outer.iter().position(|&p| p == factors[f].b as i64));
        let split: Vec<i64> = at_x.iter().map(|&f| factors[f].len).collect();
        let moved: Vec<i64> = at_y.iter().map(|&f| factors[f].len).collect();
        let order: Vec<i64> = at_y
            .iter()
            .filter_map(|f| at_x.iter().position(|x| x == f))
            .map(|i| i as i64)
            .collect();
        let mut patch = Patch::new(m, root);
        let mut result = x.into();
        if split != from.as_slice() {
            result = patch.reshape(result, &split);
        }
        if !order.is_sorted() {
            result = patch.transpose(result, &order);
        }
        if moved != to.as_slice() {
            result = patch.reshape(result, &to);
        }
        patch.replace(y, result);
        Ok(patch)
    }
}

/// A part of an axis on both sides of a Reshape.
struct Factor {
    a: usize,
    b: usize,
    len: i64,
}

/// The factors that the axes of both shapes are products of, in order; none when an axis is cut across another.
fn common_factors(a: &[i64], b: &[i64]) -> Option<Vec<Factor>> {
    if a.contains(&0) || b.contains(&0) {
        return None;
    }
    let mut factors = Vec::new();
    let (mut i, mut j) = (0, 0);
    let (mut left, mut right) = (a.first().copied(), b.first().copied());
    while let (Some(x), Some(y)) = (left, right) {
        // An axis of length 1 on one side only is no factor.
        if x == 1 && y != 1 && a[i] == 1 {
            i += 1;
            left = a.get(i).copied();
            continue;
        }
        if y == 1 && x != 1 && b[j] == 1 {
            j += 1;
            right = b.get(j).copied();
            continue;
        }
        let len = x.min(y);
        if x % len != 0 || y % len != 0 {
            return None;
        }
        factors.push(Factor { a: i, b: j, len });
        let advance = |rest: i64, i: &mut usize, of: &[i64]| {
            if rest > 1 {
                return Some(rest);
            }
            *i += 1;
            of.get(*i).copied()
        };
        left = advance(x / len, &mut i, a);
        right = advance(y / len, &mut j, b);
    }
    let ones = |of: &[i64], i: usize| of.get(i..).is_none_or(|rest| rest.iter().all(|&d| d == 1));
    (ones(a, i) && ones(b, j)).then_some(factors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten};

    #[test]
    fn a_split_goes_before_the_transpose() {
        let after = rewritten(
            &MergeTransposesAcrossReshape,
            "g (float[6,5] x) => (float[2,5,3] y) <int64[3] s = {5, 2, 3}>
             { t = Transpose <perm = [1, 0]> (x)  r = Reshape (t, s)  y = Transpose <perm = [1, 0, 2]> (r) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[6,5] x) => (float[2,5,3] y) <
           int64[3] s = {5, 2, 3},
           int64[3] y_const = {2, 3, 5}
        > {
           y_Reshape = Reshape (x, y_const)
           y = Transpose <perm: ints = [0, 2, 1]> (y_Reshape)
        }
        ");
    }

    #[test]
    fn axes_cut_across_stay() {
        check_skip(
            &MergeTransposesAcrossReshape,
            "g (float[4,3] x) => (float[6,2] y) <int64[2] s = {2, 6}>
             { t = Transpose (x)  r = Reshape (t, s)  y = Transpose (r) }",
            "more than join and split",
        );
    }
}
