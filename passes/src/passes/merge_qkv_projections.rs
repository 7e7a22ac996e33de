//! merge-qkv-projections

use onnxfix_ir::{Model, NodeId, Tensor, ValueId};

use crate::cost::pays;
use crate::matching::{Projection, dims_of_elements, dtype, input, output, producer, used_once};
use crate::{CostModel, Miss, Patch, Rewrite, Storage, declare_pass, unmet};

declare_pass! {
    /// Projects to queries, keys and values by one product and takes it apart.
    ///
    /// ## Why ATC needs it
    /// One large product starts once and keeps all cores at work where three small ones do not; but taking it apart is a
    /// copy. For the sizes of base models that costs more than it saves on a 310P, for small models and short
    /// sequences it may not: the target says.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[3,2] x) => (float[3,1] q, float[3,2] k) <
    ///    float[2,1] a = {1, 2}, float[2,2] b = {3, 4, 5, 6}, float[1] c = {7}, float[2] d = {8, 9}
    /// > {
    ///    xa = MatMul (x, a)
    ///    q = Add (xa, c)
    ///    xb = MatMul (x, b)
    ///    k = Add (xb, d)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[3,2] x) => (float[3,1] q, float[3,2] k) <
    ///    float[2,3] xa_const = {1, 3, 4, 2, 5, 6}, float[3] xa_const_1 = {7, 8, 9}, int64[2] xa_const_2 = {1, 2}
    /// > {
    ///    xa_MatMul = MatMul (x, xa_const)
    ///    xa_Add = Add (xa_MatMul, xa_const_1)
    ///    q, k = Split <axis: int = -1> (xa_Add, xa_const_2)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - Two or more products of one value with constant matrices of two dimensions, all with a constant bias for each
    ///   column or all without; nothing reads a product in front of its bias.
    /// - On the target one product and a copy take less time, by a quarter: Ascend's own rewriting rules take such products
    ///   apart.
    ///
    /// ## Numerics
    /// Exact: the same dot products. A library may add them in another order where the matrix is wider.
    pub MergeQkvProjections = "merge-qkv-projections", Simplify, Relative(1e-6)
}

/// The share of the time that one product has to save. It is more than costs are uncertain by, since practice speaks against
/// it: Ascend's own rewriting rules take merged projections apart (`SplitQKVMatmul` of msit).
const SAVED: f64 = 0.25;

/// The projections of a value.
struct Projections {
    x: ValueId,
    /// Each with its result and its number of columns.
    parts: Vec<(Projection, ValueId, i64)>,
}

impl Projections {
    fn of(m: &Model, root: NodeId) -> Result<Projections, Miss> {
        let x = input(m, root, 0)?;
        let mut parts = Vec::new();
        for user in m.users(x) {
            let is_first = m[user].op().is("MatMul") && m[user].input(0) == Some(x);
            if !is_first || m[user].graph() != m[root].graph() {
                continue;
            }
            let product = output(m, user)?;
            let with_bias = m.users(product).next().filter(|&n| m[n].op().is("Add"));
            let with_bias = with_bias.filter(|_| used_once(m, product)).map(|n| output(m, n));
            let biased = with_bias.transpose()?.and_then(|y| Some((Projection::of(m, y).ok()?, y)));
            let found = match biased {
                Some(biased) => Some(biased),
                None => Projection::of(m, product).ok().map(|plain| (plain, product)),
            };
            let Some((part, y)) = found.filter(|(p, _)| p.x == x) else { continue };
            let columns = dims_of_elements(m, part.matrix)?[1];
            // A value may be both operands of a product, and then uses it twice.
            if !parts.iter().any(|(_, other, _)| *other == y) {
                parts.push((part, y, columns));
            }
        }
        let same = |(part, ..): &(Projection, ValueId, i64)| {
            part.bias.is_some() == parts[0].0.bias.is_some()
                && dtype(m, part.matrix).ok() == dtype(m, parts[0].0.matrix).ok()
        };
        if parts.len() < 2 {
            return Err(Miss::NoMatch);
        }
        if !parts.iter().all(same) {
            return unmet("some projections have a bias and some have none");
        }
        // The new nodes stand at the first product, so that whatever reads a result comes later.
        let products: Vec<NodeId> =
            parts.iter().filter_map(|(_, y, _)| product_of(m, *y)).collect();
        if m.nodes(m[root].graph()).find(|node| products.contains(node)) != Some(root) {
            return Err(Miss::NoMatch);
        }
        Ok(Projections { x, parts })
    }
}

fn product_of(m: &Model, y: ValueId) -> Option<NodeId> {
    let maker = m.producer(y)?;
    if m[maker].op().is("MatMul") {
        return Some(maker);
    }
    (0..2).find_map(|slot| producer(m, input(m, maker, slot).ok()?, "MatMul").ok())
}

impl Rewrite for MergeQkvProjections {
    fn roots(&self) -> &'static [&'static str] {
        &["MatMul"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let Projections { x, parts } = Projections::of(m, root)?;
        let matrices: Vec<ValueId> = parts.iter().map(|(p, ..)| p.matrix).collect();
        let biases: Option<Vec<ValueId>> = parts.iter().map(|(p, ..)| p.bias).collect();
        let mut patch = Patch::new(m, root);
        let matrix = patch.constant(side_by_side(m, &matrices)?);
        let mut product = patch.node("MatMul", &[x.into(), matrix]);
        if let Some(biases) = biases {
            let bias = patch.constant(side_by_side(m, &biases)?);
            product = patch.node("Add", &[product, bias]);
        }
        let columns: Vec<i64> = parts.iter().map(|&(.., columns)| columns).collect();
        let taken = patch.split(product, -1, &columns);
        for ((_, y, _), part) in parts.iter().zip(taken) {
            patch.replace(*y, part);
        }
        Ok(patch)
    }

    fn choose(&self, m: &Model, root: NodeId, costs: &dyn CostModel) -> Result<Patch, Miss> {
        let Projections { x, parts } = Projections::of(m, root)?;
        let of_x = dims_of_elements(m, x)?;
        let [front @ .., depth] = &of_x[..] else { return Err(Miss::NoMatch) };
        let rows: u64 = front.iter().map(|d| d.unsigned_abs()).product();
        let columns = || parts.iter().map(|(.., columns)| columns.unsigned_abs());
        let product =
            |columns| costs.product([1, rows, depth.unsigned_abs(), columns], Storage::Memory);
        let apart: f64 = columns().map(product).sum();
        let all = columns().sum::<u64>();
        let made = rows * all;
        let merged = product(all) + costs.copy(made, made, Storage::of(made, costs));
        if !pays(apart, merged, SAVED) {
            return unmet(format!(
                "one product would take {merged:.1} µs and {} take {apart:.1} µs",
                parts.len()
            ));
        }
        self.try_rewrite(m, root)
    }
}

/// Constants of one type and of one or two dimensions, joined along the last one.
fn side_by_side(m: &Model, parts: &[ValueId]) -> Result<Tensor, Miss> {
    let tensors = parts.iter().map(|&v| m.constant(v).ok_or(Miss::NoMatch));
    let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
    let packed = tensors.iter().map(|t| t.raw().map_err(|_| Miss::NoMatch));
    let packed = packed.collect::<Result<Vec<_>, _>>()?;
    let (first, mut dims) = (&tensors[0], tensors[0].dims.clone());
    let rows = if dims.len() == 2 { usize::try_from(dims[0]).unwrap_or(0) } else { 1 };
    if let Some(last) = dims.last_mut() {
        *last = tensors.iter().filter_map(|t| t.dims.last()).sum();
    }
    let mut joined = Vec::with_capacity(packed.iter().map(|p| p.len()).sum());
    for row in 0..rows {
        for part in &packed {
            let width = part.len() / rows;
            joined.extend_from_slice(&part[row * width..][..width]);
        }
    }
    Tensor::from_raw(first.dtype, &dims, joined.into()).map_err(|_| Miss::NoMatch)
}

#[cfg(test)]
mod tests {
    use super::MergeQkvProjections;
    use crate::testing::{Costs, check_skip, chosen, untouched};

    fn graph(nodes: &str) -> String {
        format!(
            "g (float[3,2] x, float[2,1] w) => (float[3,1] q, float[3,2] k) <float[2,1] a = {{1, 2}}, float[2,2] b = {{3, 4, 5, 6}}, float[2] d = {{8, 9}}> {{ {nodes} }}"
        )
    }

    #[test]
    fn what_has_no_like_stays() {
        untouched(&MergeQkvProjections, &graph("q = MatMul (x, w)  k = MatMul (x, b)"));
        untouched(
            &MergeQkvProjections,
            &graph("q = MatMul (x, a)  y = Relu (x)  k = MatMul (y, b)"),
        );
        check_skip(
            &MergeQkvProjections,
            &graph("q = MatMul (x, a)  y = MatMul (x, b)  k = Add (y, d)"),
            "some projections have a bias",
        );
    }

    #[test]
    fn the_target_decides() {
        let three = graph("q = MatMul (x, a)  k = MatMul (x, b)  v = MatMul (x, b)");
        let slow_starts = Costs { start: 9.0, ..Costs::default() };
        assert!(chosen(&MergeQkvProjections, &three, slow_starts).is_ok());
        let slow_copies = Costs { moved: 1.0, ..Costs::default() };
        let why = chosen(&MergeQkvProjections, &three, slow_copies).expect_err("stays");
        assert_eq!(why, "one product would take 61.0 µs and 3 take 43.0 µs");
    }
}
