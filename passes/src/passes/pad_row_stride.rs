//! pad-row-stride

use hashbrown::HashMap;
use onnxfix_ir::infer::evaluate;
use onnxfix_ir::{Dim, Model, NodeId, Tensor, ValueId};

use crate::matching::{dims, dtype, input, is_closed, is_computed, output, shape};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Widens the hidden layer between two products by zeros, where its rows get into each other's way in the cache of a
    /// CPU.
    ///
    /// ## Why ATC needs it
    /// It does not: an NPU takes matrices apart into tiles. The kernels of CPUs read a dozen rows of the left matrix side
    /// by side. The cache next to the core has as many sets as a page of 4096 bytes has lines, so rows a multiple of
    /// 4096 bytes apart all want the same set, which has room for 8 or 12 of them; 3072 and 4096 floats are such rows.
    /// One cache line more, and neighbours want neighbouring sets.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[16,2] x) => (float[16,3] y) <int64[2] s = {2, 1024}, int64[2] t = {1024, 3}> {
    ///    w = ConstantOfShape <value: tensor = float[1] {0.5}> (s)
    ///    v = ConstantOfShape <value: tensor = float[1] {0.25}> (t)
    ///    hidden = MatMul (x, w)
    ///    activated = Tanh (hidden)
    ///    y = MatMul (activated, v)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[16,2] x) => (float[16,3] y) <int64[2] s = {2, 1024}, int64[2] t = {1024, 3}, int64[4] y_const = {0, 0, 0, 16}, int64[4] y_const_1 = {0, 0, 16, 0}> {
    ///    w = ConstantOfShape <value: tensor = float[1] {0.5}> (s)
    ///    v = ConstantOfShape <value: tensor = float[1] {0.25}> (t)
    ///    y_Pad = Pad (w, y_const)
    ///    y_MatMul = MatMul (x, y_Pad)
    ///    y_Tanh = Tanh (y_MatMul)
    ///    y_Pad_1 = Pad (v, y_const_1)
    ///    y = MatMul (y_Tanh, y_Pad_1)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The rows that a product reads are a multiple of 4096 bytes long, and there are more than 8 of them, or nobody knows
    ///   how many.
    /// - Between them and products with constant matrices stand elementwise operators only, with each other, with constants
    ///   of one element, or with one constant for each column; nothing else reads what they make.
    /// - The matrix of the product is constant, too, and of zeros the operators make something finite.
    ///
    /// ## Numerics
    /// Exact in real numbers: zeros are added to each sum. A kernel may add the others in another order.
    pub PadRowStride = "pad-row-stride", Legalise, Relative(1e-6)
}

/// Bytes after which the sets of a first-level cache begin anew. It is indexed by the bits of an address that pages
/// leave alone, and pages are at least this large.
const WAY: u64 = 4096;
/// Bytes of a cache line, and of the widest registers.
const LINE: u64 = 64;
/// Lines that a set of such a cache holds at least.
const LINES: i64 = 8;
/// Operators between two products; a feed-forward layer has five.
const OPERATORS: usize = 32;

impl Rewrite for PadRowStride {
    fn roots(&self) -> &'static [&'static str] {
        &["Gemm", "MatMul"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        let matrix = Matrix::of(m, root)?;
        let width = matrix.dims[matrix.inner];
        let element = dtype(m, x)?.byte_len(1).filter(|&n| n > 0).ok_or(Miss::NoMatch)?;
        let stride = u64::try_from(width).map_err(|_| Miss::NoMatch)? * element;
        let is_turned = m[root].attrs.int("transA").unwrap_or(0) != 0;
        if stride == 0 || stride % WAY != 0 || is_turned {
            return Err(Miss::NoMatch);
        }
        let (_, front) = shape(m, x)?.0.split_last().ok_or(Miss::NoMatch)?;
        let rows = front.iter().map(Dim::fixed).try_fold(1_i64, |n, d| n.checked_mul(d?));
        if rows.is_some_and(|rows| rows <= LINES) {
            return unmet("so few rows do not get into each other's way");
        }
        let more = u32::try_from(LINE / element).map_err(|_| Miss::NoMatch)?;
        let mut hidden = Hidden { m, root, width, more, nodes: vec![root], padded: HashMap::new() };
        let mut patch = Patch::new(m, root);
        let mut operands = vec![hidden.pad(&mut patch, x)?.0];
        if !is_closed(m, &hidden.nodes, y) {
            return unmet("something else reads the hidden layer");
        }
        operands.push(hidden.wide(&mut patch, matrix.value, matrix.inner)?);
        operands.extend(m[root].input(2).map(Operand::from));
        let result = hidden.again(&mut patch, root, &operands)?;
        patch.replace(y, result);
        Ok(patch)
    }
}

/// The constant matrix that a node multiplies by.
struct Matrix {
    value: ValueId,
    dims: [i64; 2],
    /// The axis that the sums run over; the other one has the columns of the product.
    inner: usize,
}

impl Matrix {
    fn of(m: &Model, node: NodeId) -> Result<Matrix, Miss> {
        let n = &m[node];
        if !n.op().is("Gemm") && !n.op().is("MatMul") {
            return Err(Miss::NoMatch);
        }
        let value = input(m, node, 1)?;
        let &[rows, columns] = dims(m, value)?.as_slice() else { return Err(Miss::NoMatch) };
        if !is_computed(m, value) {
            return Err(Miss::NoMatch);
        }
        let inner = usize::from(n.attrs.int("transB").unwrap_or(0) != 0);
        Ok(Matrix { value, dims: [rows, columns], inner })
    }
}

/// What stands between the two products, as it is found.
struct Hidden<'m> {
    m: &'m Model,
    root: NodeId,
    width: i64,
    /// Columns that are added.
    more: u32,
    nodes: Vec<NodeId>,
    /// The wide form of each value, and what its new columns hold.
    padded: HashMap<ValueId, (Operand, Tensor)>,
}

impl Hidden<'_> {
    /// The value with more columns, and what these hold.
    fn pad(&mut self, patch: &mut Patch, value: ValueId) -> Result<(Operand, Tensor), Miss> {
        if let Some(padded) = self.padded.get(&value) {
            return Ok(padded.clone());
        }
        let m = self.m;
        let Some(node) = m.producer(value).filter(|_| self.nodes.len() <= OPERATORS) else {
            return unmet(format!("{:?} is no hidden layer of a few operators", m[value].name()));
        };
        let n = &m[node];
        let is_wide = shape(m, value)?.0.last().and_then(Dim::fixed) == Some(self.width);
        if !is_wide || n.graph() != m[self.root].graph() || n.outputs().len() != 1 {
            return unmet(format!("{} does not keep the columns", m.describe(node)));
        }
        self.nodes.push(node);
        let padded = if n.op().def.is_some_and(|def| def.class.elementwise) {
            self.elementwise(patch, node)?
        } else if let Ok(matrix) = Matrix::of(m, node) {
            self.product(patch, node, &matrix)?
        } else {
            return unmet(format!("{} makes the rows", m.describe(node)));
        };
        self.padded.insert(value, padded.clone());
        Ok(padded)
    }

    /// The product that makes the hidden layer.
    fn product(
        &self,
        patch: &mut Patch,
        node: NodeId,
        matrix: &Matrix,
    ) -> Result<(Operand, Tensor), Miss> {
        let (m, columns) = (self.m, 1 - matrix.inner);
        let wide = self.wide(patch, matrix.value, columns)?;
        let mut operands = vec![input(m, node, 0)?.into(), wide];
        if let Some(bias) = m[node].input(2) {
            operands.push(self.columns(patch, bias)?);
        }
        Ok((self.again(patch, node, &operands)?, self.zero(input(m, node, 0)?)?))
    }

    fn elementwise(&mut self, patch: &mut Patch, node: NodeId) -> Result<(Operand, Tensor), Miss> {
        let m = self.m;
        let (mut operands, mut columns) = (Vec::new(), Vec::new());
        for &slot in m[node].inputs() {
            let x = slot.ok_or(Miss::NoMatch)?;
            let (operand, column) = match m.constant(x) {
                None => self.pad(patch, x)?,
                Some(one) if one.dims.iter().all(|&d| d == 1) => (x.into(), Tensor::clone(one)),
                Some(_) => (self.columns(patch, x)?, self.zero(x)?),
            };
            operands.push(operand);
            columns.push(column);
        }
        let columns: Vec<Option<&Tensor>> = columns.iter().map(Some).collect();
        let made = evaluate(m, node, &columns, LINE).ok().flatten().and_then(|mut all| all.pop());
        let is_finite =
            |t: &Tensor| t.to_floats().is_none_or(|all| all.iter().all(|x| x.is_finite()));
        match made.filter(is_finite) {
            Some(made) => Ok((self.again(patch, node, &operands)?, made)),
            None => unmet(format!("{} may make something infinite of zeros", m.describe(node))),
        }
    }

    /// A constant with one element for each column, with zeros for more.
    fn columns(&self, patch: &mut Patch, value: ValueId) -> Result<Operand, Miss> {
        let last = self.m.constant(value).and_then(|t| t.dims.split_last());
        match last {
            Some((&width, front)) if width == self.width && front.iter().all(|&d| d == 1) => {
                self.wide(patch, value, front.len())
            }
            _ => unmet(format!("{:?} is not one constant for each column", self.m[value].name())),
        }
    }

    /// A constant with zeros behind the columns, which are on this axis. It is made at once: what folding may add to the
    /// model can be used up, and weights would be widened again in each run.
    fn wide(&self, patch: &mut Patch, value: ValueId, axis: usize) -> Result<Operand, Miss> {
        let Some(tensor) = self.m.constant(value) else {
            let rank = dims(self.m, value)?.len();
            return Ok(patch.pad(value.into(), rank, axis, (0, self.more.into())));
        };
        match tensor.padded(axis, self.more) {
            Ok(wide) => Ok(patch.constant(wide)),
            Err(why) => unmet(format!("{:?}: {why}", self.m[value].name())),
        }
    }

    /// One zero of the value's type.
    fn zero(&self, value: ValueId) -> Result<Tensor, Miss> {
        Tensor::filled(dtype(self.m, value)?, &[1], 0.0).ok_or(Miss::NoMatch)
    }

    /// The node once more, with these operands.
    fn again(
        &self,
        patch: &mut Patch,
        node: NodeId,
        operands: &[Operand],
    ) -> Result<Operand, Miss> {
        let n = &self.m[node];
        let def = n.op().def.ok_or(Miss::NoMatch)?;
        Ok(patch.node_with(def.name, operands, n.attrs.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::PadRowStride;
    use crate::testing::{check_skip, computed, operators, untouched};

    /// A feed-forward layer of 16 rows and 1024 hidden columns, which are 4096 bytes.
    fn graph(inputs: &str, hidden: &str, outputs: &str) -> String {
        let bias = ["2"; 1024].join(", ");
        format!(
            "g ({inputs}) => (float[16,3] y{outputs}) <
                int64[2] s = {{2, 1024}}, int64[2] t = {{1024, 3}}, int64[2] all = {{16, 1024}},
                float[1024] b = {{{bias}}}, float[1] half = {{0.5}}, float[3] shift = {{1, 2, 3}}
             > {{
                w = ConstantOfShape <value: tensor = float[1] {{0.25}}> (s)
                v = ConstantOfShape <value: tensor = float[1] {{0.5}}> (t)
                p = Gemm (x, w, b)
                {hidden}
             }}"
        )
    }

    #[test]
    fn what_gates_and_shifts_is_widened_with_it() {
        let gated = "q = MatMul (x, w)  g = Sigmoid (p)  h = Mul (g, q)  i = Add (h, b)  j = Mul (i, half)  y = Gemm (j, v, shift)";
        assert_eq!(
            operators(&PadRowStride, &graph("float[16,2] x", gated, "")),
            "ConstantOfShape ConstantOfShape Pad Gemm Sigmoid Pad MatMul Mul Add Mul Pad Gemm"
        );
    }

    #[test]
    fn numbers_stay() {
        let hidden = "g = Erf (p)  h = Mul (g, p)  vt = Transpose (v)  z = Gemm <transB: int = 1> (h, vt, shift)  y = Identity (z)";
        let rows = (0..32).map(|i| i * 7 % 11).map(|n| n.to_string()).collect::<Vec<_>>();
        let text = graph("", hidden, "")
            .replace("int64[2] s", &format!("float[16,2] x = {{{}}}, int64[2] s", rows.join(", ")));
        assert_eq!(computed(None, &text), computed(Some(&PadRowStride), &text));
    }

    #[test]
    fn look_alikes_stay() {
        let inputs = "float[16,2] x, float[16,1024] given, float[16,1] one, float[1024,3] m";
        for (hidden, outputs, why) in [
            ("a = Tanh (p)  y = MatMul (a, v)", ", float[16,1024] a", "something else reads"),
            ("a = Add (p, given)  y = MatMul (a, v)", "", "no hidden layer of a few operators"),
            ("a = Mul (p, one)  y = MatMul (a, v)", "", "no hidden layer of a few operators"),
            ("a = Softmax (p)  y = MatMul (a, v)", "", "makes the rows"),
            ("a = Log (p)  y = MatMul (a, v)", "", "may make something infinite"),
            ("a = Div (p, b)  y = MatMul (a, v)", "", "may make something infinite"),
            (
                "q = Gemm (x, w, given)  a = Add (p, q)  y = MatMul (a, v)",
                "",
                "one constant for each",
            ),
        ] {
            check_skip(&PadRowStride, &graph(inputs, hidden, outputs), why);
        }
        untouched(&PadRowStride, &graph(inputs, "a = Tanh (p)  y = MatMul (a, m)", ""));
        let few = graph("float[8,2] x", "y = MatMul (p, v)", "").replace("[16,3]", "[8,3]");
        check_skip(&PadRowStride, &few, "so few rows");
    }
}
