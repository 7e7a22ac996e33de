//! Elements of shape operands while some dimensions are names: `Concat(Shape(x)[0], -1, 768)` is `{batch, -1, 768}`.
//!
//! Only integers and truth values in at most one axis count, and few of them: what exporters compute shapes with.

use smallvec::SmallVec;

use crate::infer::Known;
use crate::op::{EvalCx, NodeCx, Operator, Param, product};
use crate::{DataType, Dim, Model, NodeId, Shape, Tensor, ValueId};

/// Lists longer than this are no shape operands.
const MAX_LEN: usize = 64;

/// The elements of a node's outputs as far as they follow from names; nothing where the operator computes otherwise.
pub(crate) fn evaluate(model: &Model, node: NodeId, known: &Known) -> Option<Vec<Vec<Dim>>> {
    let n = &model[node];
    let op = n.op();
    let def = op.def.filter(|def| def.domain.is_empty() && def.class.pure)?;
    let version = model.opset(n.graph(), def.domain)?;
    if op.is("Shape") || op.is("Size") {
        let shape = model[n.input(0)?].shape()?;
        let node = NodeCx { attrs: &n.attrs, version, outputs: 1 };
        return Some(vec![if op.is("Size") {
            vec![product(&shape.0)]
        } else {
            part_of_shape(&node, shape)
        }]);
    }
    // Without a name in it, a list is a constant, and those are evaluated as such.
    if !n.inputs().iter().flatten().any(|&v| known.names(v).is_some()) {
        return None;
    }
    if def.class.movement {
        let node_cx = NodeCx { attrs: &n.attrs, version, outputs: n.outputs().len() };
        return moved(model, node, def, node_cx, known);
    }
    let list = |slot: usize| known.elements(model, n.input(slot)?);
    let numbers = || -> Option<Vec<Vec<Dim>>> {
        n.inputs().iter().map(|&v| known.elements(model, v?)).collect()
    };
    Some(vec![match op.name.as_str() {
        "Cast" => cast(&n.attrs.int("to")?, &list(0)?)?,
        "Neg" => list(0)?.iter().map(|d| Dim::Fixed(0).minus(d)).collect(),
        "Abs" => list(0)?.iter().map(|d| only_if(d.is_natural(), d.clone())).collect(),
        "Not" => list(0)?.iter().map(|d| Dim::Fixed(1).minus(d)).collect(),
        "Add" | "Sum" => folded(numbers()?, Dim::plus)?,
        "Sub" => folded(numbers()?, Dim::minus)?,
        "Mul" | "And" => folded(numbers()?, Dim::times)?,
        "Max" | "Or" => folded(numbers()?, Dim::max)?,
        "Min" => folded(numbers()?, Dim::min)?,
        "Div" => folded(numbers()?, quotient)?,
        "Mod" if n.attrs.int("fmod").unwrap_or(0) == 0 => {
            folded(numbers()?, |a, b| a.minus(&quotient(a, b).times(b)))?
        }
        "Equal" => folded(numbers()?, equal)?,
        "Greater" => folded(numbers()?, |a, b| less(b, a))?,
        "Less" => folded(numbers()?, less)?,
        "GreaterOrEqual" => folded(numbers()?, |a, b| Dim::Fixed(1).minus(&less(a, b)))?,
        "LessOrEqual" => folded(numbers()?, |a, b| Dim::Fixed(1).minus(&less(b, a)))?,
        "Where" => chosen(&list(0)?, &list(1)?, &list(2)?)?,
        "ReduceProd" => reduced(model, node, &list(0)?, Dim::Fixed(1), Dim::times)?,
        "ReduceSum" => reduced(model, node, &list(0)?, Dim::Fixed(0), Dim::plus)?,
        _ => return None,
    }])
}

/// The dimensions that Shape gives.
fn part_of_shape(node: &NodeCx<'_>, shape: &Shape) -> Vec<Dim> {
    let range = crate::op::shape_range(node, shape.rank());
    shape.0[range].iter().map(|d| only_if(!d.is_open(), d.clone())).collect()
}

fn only_if(condition: bool, dim: Dim) -> Dim {
    if condition { dim } else { Dim::Unknown }
}

/// Elements are followed through every operator that moves them by giving it their places instead.
fn moved(
    model: &Model,
    node: NodeId,
    def: &Operator,
    node_cx: NodeCx<'_>,
    known: &Known,
) -> Option<Vec<Vec<Dim>>> {
    let n = &model[node];
    let moves = |slot: usize| {
        let param: Option<&Param> = def.inputs.get(slot).or(def.inputs.last());
        param.is_some_and(|p| {
            !p.var.is_empty() && def.outputs.first().is_some_and(|o| o.var == p.var)
        })
    };
    // Place 0 stands for the zeros that Pad makes up.
    let mut elements = vec![Dim::Fixed(0)];
    let mut tensors: SmallVec<[Option<Tensor>; 4]> = SmallVec::new();
    for (slot, &value) in n.inputs().iter().enumerate() {
        tensors.push(match value {
            None => None,
            Some(v) if moves(slot) => {
                let list = known.elements(model, v)?;
                let first = elements.len() as i64;
                let places: Vec<i64> = (first..first + list.len() as i64).collect();
                elements.extend(list);
                Some(Tensor::ints(&places).reshaped(&model[v].shape()?.dims()?))
            }
            Some(v) => Some(Tensor::clone(known.get(model, v)?)),
        });
    }
    let inputs: SmallVec<[Option<&Tensor>; 4]> = tensors.iter().map(Option::as_ref).collect();
    let limit = (MAX_LEN * size_of::<i64>()) as u64;
    let outputs = (def.eval?)(&EvalCx { node: node_cx, inputs: &inputs, limit }).ok()?;
    outputs
        .iter()
        .map(|places| {
            let place = |i: &i64| elements.get(usize::try_from(*i).ok()?).cloned();
            places.to_ints()?.iter().map(place).collect()
        })
        .collect()
}

/// Whole numbers keep their value in wide types; a truth value is whether it is 0.
fn cast(to: &i64, list: &[Dim]) -> Option<Vec<Dim>> {
    match DataType::from_code(i32::try_from(*to).ok()?)? {
        DataType::Int64 | DataType::Int32 => Some(list.to_vec()),
        DataType::Bool => {
            Some(list.iter().map(|d| Dim::Fixed(1).minus(&equal(d, &Dim::Fixed(0)))).collect())
        }
        _ => None,
    }
}

/// ONNX rounds towards zero, a [`Dim`] downwards: the same for what is not negative.
fn quotient(a: &Dim, b: &Dim) -> Dim {
    only_if(a.is_natural() && b.is_natural(), a.over(b))
}

fn equal(a: &Dim, b: &Dim) -> Dim {
    match (a.minus(b), b.minus(a)) {
        (Dim::Fixed(0), _) => Dim::Fixed(1),
        (d, e) if Dim::Fixed(1).at_most(&d) || Dim::Fixed(1).at_most(&e) => Dim::Fixed(0),
        _ => Dim::Unknown,
    }
}

fn less(a: &Dim, b: &Dim) -> Dim {
    if Dim::Fixed(1).at_most(&b.minus(a)) {
        Dim::Fixed(1)
    } else if b.at_most(a) {
        Dim::Fixed(0)
    } else {
        Dim::Unknown
    }
}

fn chosen(conditions: &[Dim], yes: &[Dim], no: &[Dim]) -> Option<Vec<Dim>> {
    let len = conditions.len().max(yes.len()).max(no.len());
    let at = |list: &[Dim], i: usize| list.get(if list.len() == 1 { 0 } else { i }).cloned();
    (0..len)
        .map(|i| {
            let (yes, no) = (at(yes, i)?, at(no, i)?);
            Some(match at(conditions, i)? {
                Dim::Fixed(0) => no,
                Dim::Fixed(_) => yes,
                _ => only_if(yes.same(&no), yes),
            })
        })
        .collect()
}

/// Element by element over lists that broadcast.
fn folded(lists: Vec<Vec<Dim>>, f: impl Fn(&Dim, &Dim) -> Dim) -> Option<Vec<Dim>> {
    let mut lists = lists.into_iter();
    let first = lists.next()?;
    lists.try_fold(first, |a, b| {
        let len = match (a.len(), b.len()) {
            (1, n) | (n, 1) => n,
            (m, n) if m == n => n,
            _ => return None,
        };
        let at = |list: &[Dim], i: usize| list[if list.len() == 1 { 0 } else { i }].clone();
        Some((0..len).map(|i| f(&at(&a, i), &at(&b, i))).collect())
    })
}

/// A reduction to one element.
fn reduced(
    model: &Model,
    node: NodeId,
    list: &[Dim],
    start: Dim,
    f: impl Fn(&Dim, &Dim) -> Dim,
) -> Option<Vec<Dim>> {
    let one = model[model[node].output(0)?].shape()?.len() == Some(1);
    one.then(|| vec![list.iter().fold(start, |a, b| f(&a, b))])
}

impl Known {
    /// The elements of an integer value as far as they are known: numbers, names, expressions.
    pub(crate) fn elements(&self, model: &Model, value: ValueId) -> Option<Vec<Dim>> {
        if let Some(names) = self.names(value) {
            return Some(names.to_vec());
        }
        let tensor = self.get(model, value).filter(|t| is_list(&t.dims))?;
        Some(tensor.to_ints()?.into_iter().map(Dim::Fixed).collect())
    }
}

/// Whether a tensor of these dimensions is short and has at most one axis.
fn is_list(dims: &[i64]) -> bool {
    match dims {
        [] => true,
        [n] => usize::try_from(*n).is_ok_and(|n| n <= MAX_LEN),
        _ => false,
    }
}

/// Whether the list fits the type of the value that it belongs to.
pub(crate) fn belongs(model: &Model, value: ValueId, list: &[Dim]) -> bool {
    let Some(ty) = model[value].tensor_type() else { return false };
    let dims = ty.shape.as_ref().and_then(Shape::dims);
    (ty.dtype.is_integer() || ty.dtype == DataType::Bool)
        && dims
            .is_some_and(|dims| is_list(&dims) && dims.iter().product::<i64>() == list.len() as i64)
}

#[cfg(test)]
mod tests {
    use crate::infer::infer;
    use crate::text::parse;

    /// Checks what is inferred of the output `y` of a graph over `ids`, an int64 `[batch,seq]`.
    #[track_caller]
    fn check_output(body: &str, becomes: &str) {
        let text = format!(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (int64[batch,seq] ids, float[batch,seq,768] x) => (y) {{
                s = Shape (ids)
                zero = Constant <value_ints: ints = [0]> ()
                one = Constant <value_ints: ints = [1]> ()
                all = Constant <value_ints: ints = [9223372036854775807]> ()
                minus = Constant <value_ints: ints = [-1]> ()
                batch1 = Slice (s, zero, one)
                seq1 = Slice (s, one, all)
                i0 = Constant <value_int: int = 0> ()
                i1 = Constant <value_int: int = 1> ()
                batch = Gather (s, i0)
                seq = Gather (s, i1)
                {body}
            }}"#
        );
        let mut model = parse(&text).expect("reads");
        infer(&mut model).expect("does not contradict itself");
        let y = model[model.root()].outputs()[0];
        let ty = model[y].ty.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
        assert_eq!(ty, becomes, "{body}");
    }

    #[test]
    fn computed_shapes_keep_their_names() {
        for (body, becomes) in [
            (
                "t = Concat <axis = 0> (batch1, seq1, minus)  y = Reshape (x, t)",
                "float[batch,seq,768]",
            ),
            (
                "w = Constant <value_ints: ints = [12, 64]> () t = Concat <axis = 0> (batch1, minus, w)  y = Reshape (x, t)",
                "float[batch,seq,12,64]",
            ),
            (
                "n = Mul (batch1, seq1) t = Concat <axis = 0> (n, minus)  y = Reshape (x, t)",
                "float[batch*seq,768]",
            ),
            (
                "b = Unsqueeze (batch, zero) q = Unsqueeze (seq, zero) t = Concat <axis = 0> (q, b) y = Expand (i1, t)",
                "int64[seq,batch]",
            ),
            ("y = Range (i0, seq, i1)", "int64[seq]"),
            ("n = Sub (seq, i1) y = Range (i0, n, i1)", "int64[max(0, seq - 1)]"),
            ("y = ConstantOfShape (s)", "float[batch,seq]"),
            ("y = Tile (ids, s)", "int64[batch*batch,seq*seq]"),
            (
                "p = Concat <axis = 0> (zero, one, zero, one) y = Pad (ids, p)",
                "int64[batch,seq + 2]",
            ),
            ("y = Slice (ids, zero, seq1, minus)", "int64[batch,seq]"),
            (
                "two = Add (one, one) h = Div (seq1, two) t = Concat <axis = 0> (batch1, h) y = ConstantOfShape (t)",
                "float[batch,(seq//2)]",
            ),
            (
                "two = Add (one, one) h = Mod (seq1, two) y = ConstantOfShape (h)",
                "float[seq - 2*(seq//2)]",
            ),
            ("n = ReduceProd <keepdims = 1> (s) y = ConstantOfShape (n)", "float[batch*seq]"),
            (
                "z = Size (x) n = Unsqueeze (z, zero) y = ConstantOfShape (n)",
                "float[768*batch*seq]",
            ),
            ("m = Max (batch1, seq1) y = ConstantOfShape (m)", "float[max(batch, seq)]"),
            ("y = Concat <axis = 1> (ids, ids)", "int64[batch,2*seq]"),
            // What is left of the slice may be nothing, and then any number of elements is right.
            ("r = Slice (x, one, all) y = Reshape (r, zero)", "float[max(0, batch - 1)]"),
        ] {
            check_output(body, becomes);
        }
    }

    #[test]
    fn conditions_on_names_are_decided_where_they_can_be() {
        for (body, becomes) in [
            // A dimension is never -1: what exporters write around Expand.
            (
                "c = Equal (s, minus) ones = ConstantOfShape <value: tensor = int64[1] {1}> (s) t = Where (c, minus, s) y = ConstantOfShape (t)",
                "float[batch,seq]",
            ),
            (
                "n = Add (seq1, one) c = Less (seq1, n) t = Where (c, n, seq1) y = ConstantOfShape (t)",
                "float[seq + 1]",
            ),
            (
                "c = Equal (seq1, batch1) t = Where (c, one, seq1) y = ConstantOfShape (t)",
                "float[?]",
            ),
            (
                "c = Equal (seq1, batch1) d = Not (c) e = Cast <to = 7> (d) y = ConstantOfShape (e)",
                "float[?]",
            ),
        ] {
            check_output(body, becomes);
        }
    }
}
