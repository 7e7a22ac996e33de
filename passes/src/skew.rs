//! The band of a product by distance, as *decompose-gather-elements* leaves it, and its tighter forms.

use onnxfix_ir::{Model, NodeId, ValueId};

use crate::matching::{
    Dims, Slice, dims, dims_of_elements, input, is_reshape, output, producer, sliced, used_once,
};
use crate::{Miss, Operand, Patch, unmet};

/// `y[i, j] = (left · table)[i, n - 1 - i + j]`, by two slices of the product.
pub(crate) struct Skew {
    pub(crate) left: ValueId,
    /// Its last axis has `2n` columns, of which the last is not read.
    pub(crate) table: ValueId,
    /// Axes of the product before its last two.
    pub(crate) front: Dims,
    /// Rows of the product, and columns of the band.
    pub(crate) n: i64,
    pub(crate) y: ValueId,
    table_rank: i64,
}

impl Skew {
    /// The skew that ends with the Slice `root`; nothing else reads what is on the way.
    pub(crate) fn of(m: &Model, root: NodeId) -> Result<Skew, Miss> {
        let (columns, y) = (sliced(m, root)?, output(m, root)?);
        let (cut, seen) = (reshape_of(m, columns.x)?, dims(m, columns.x)?);
        let piece = sliced(m, producer(m, cut, "Slice")?)?;
        let product = reshape_of(m, piece.x)?;
        let node = producer(m, product, "MatMul")?;
        let of_product = dims_of_elements(m, product)?;
        let [front @ .., n, width] = &of_product[..] else { return Err(Miss::NoMatch) };
        let (n, width) = (*n, *width);
        let flat: Vec<i64> = front.iter().copied().chain([n * width]).collect();
        let shorter: Vec<i64> = front.iter().copied().chain([n, width - 1]).collect();
        let axis = front.len();
        let is_skew = width == 2 * n
            && dims(m, piece.x)?[..] == flat
            && seen[..] == shorter
            && piece == Slice { x: piece.x, axis, start: n - 1, len: n * (width - 1), step: 1 }
            && columns == Slice { x: columns.x, axis: axis + 1, start: 0, len: n, step: 1 };
        if !is_skew {
            return Err(Miss::NoMatch);
        }
        if [product, piece.x, cut, columns.x].into_iter().any(|v| !used_once(m, v)) {
            return unmet("something else reads the product");
        }
        let (left, table) = (input(m, node, 0)?, input(m, node, 1)?);
        let table_rank = dims(m, table)?.len() as i64;
        Ok(Skew { left, table, front: front.into(), n, y, table_rank })
    }

    /// The product with one column more in front, whose view with rows of `n` has the band in every second row, from row 1
    /// on; and the axis of these rows.
    pub(crate) fn rows(&self, patch: &mut Patch) -> (Operand, i64) {
        let last = self.table_rank - 1;
        let first = patch.slice(self.table.into(), last, 0, 1);
        let table = patch.concat(&[first, self.table.into()], last);
        let product = patch.node("MatMul", &[self.left.into(), table]);
        let view: Vec<i64> = self.front.iter().copied().chain([2 * self.n + 1, self.n]).collect();
        (patch.reshape(product, &view), self.front.len() as i64)
    }
}

fn reshape_of(m: &Model, value: ValueId) -> Result<ValueId, Miss> {
    let node = m.producer(value).filter(|&n| is_reshape(m, n)).ok_or(Miss::NoMatch)?;
    input(m, node, 0)
}
