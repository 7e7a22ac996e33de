//! narrow-integers

use hashbrown::{HashMap, HashSet};
use onnxfix_ir::{DataType, Model, NodeId, Tensor, ValueId};

use crate::interval::{Interval, Intervals};
use crate::retype::{Retype, Slots, in_order, parts};
use crate::{Changed, Documented, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Computes in int32 what is known to fit, where exporters compute in 64 bits.
    ///
    /// ## Why ATC needs it
    /// The vector unit has no 64-bit integers: Div, Mod, Pow, Neg, Abs, Sign, Expand, Pad and `CumSum` of int64 go to the AI CPU,
    /// with older releases others too, and an index of int64 makes `GatherElements` a scalar loop.
    ///
    /// ## Before
    /// ```onnx
    /// g (bool[1,8] shown, float[9,4] w) => (float[1,8,4] y) <int64 one = {1}, int64 three = {3}> {
    ///    n = Cast <to: int = 7> (shown)
    ///    far = Mul (n, three)
    ///    place = Add (far, one)
    ///    y = Gather (w, place)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (bool[1,8] shown, float[9,4] w) => (float[1,8,4] y) <int32 three_int32 = {3}, int32 one_int32 = {1}> {
    ///    n = Cast <to: int = 6> (shown)
    ///    far = Mul (n, three_int32)
    ///    place = Add (far, one_int32)
    ///    y = Gather (w, place)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - Everything that the node reads and makes in 64 bits (or uint32) is known to lie within int32: by the elements of
    ///   constants, by lengths of axes, by what bools, narrower integers and positions can be, and what operators make of
    ///   that. Token ids and places are known by the tables that they are an index of: with others the model would not run.
    /// - An int32 input that is an index of nothing, such as a mask, may be anything that int32 holds: its square stays.
    /// - An axis has less than 2³¹ entries.
    /// - The casts where int32 meets the rest are fewer than those it saves, or as many and something is computed between, or
    ///   one of the operators that need the AI CPU is. What ONNX wants as int64 (shapes, pads, results) keeps its type by such a Cast.
    /// - What shapes are computed with stays: that is done before a model runs.
    /// - The operator takes int32 in the model's opset.
    ///
    /// ## Numerics
    /// Exact.
    pub NarrowIntegers = "narrow-integers", Legalise, Exact
}

/// Operators that compute integers from integers of one type, as far as they have an evaluation to prove it by.
const COMPUTE: &[&str] = &[
    "Abs",
    "Add",
    "ArgMax",
    "ArgMin",
    "Clip",
    "CumSum",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "NonZero",
    "OneHot",
    "Pow",
    "Range",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "Sign",
    "Sub",
    "Where",
];

/// Operators that move elements or make some.
const MOVE: &[&str] = &[
    "Cast",
    "Concat",
    "ConstantOfShape",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Pad",
    "Reshape",
    "ScatterElements",
    "ScatterND",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
];

/// What the AI CPU does in 64 bits: the types that the AI Core kernels of a 310P list for CANN 8.1.
const SLOW: &[&str] = &[
    "Abs",
    "CumSum",
    "Div",
    "Expand",
    "Mod",
    "Neg",
    "Pad",
    "Pow",
    "ReduceMin",
    "ReduceProd",
    "Sign",
];

/// Whether the integers of a type are wider than the target has.
fn is_wide(dtype: DataType) -> bool {
    matches!(dtype, DataType::Int64 | DataType::Uint64 | DataType::Uint32)
}

/// Whether an input is an index or a depth, of int32 as well as of int64.
fn is_index(m: &Model, node: NodeId, slot: usize) -> bool {
    let is = |op: &str| m[node].op().is(op);
    match slot {
        0 => is("OneHot"),
        1 => ["Gather", "GatherElements", "ScatterElements", "OneHot"].into_iter().any(is),
        _ => false,
    }
}

/// The elements as int32, where all of them are.
fn narrow(tensor: &Tensor) -> Option<Tensor> {
    if !is_wide(tensor.dtype) {
        return None;
    }
    let ints = tensor.to_ints()?;
    let small: Result<Vec<i32>, _> = ints.into_iter().map(i32::try_from).collect();
    Some(Tensor::new(&tensor.dims, small.ok()?))
}

impl Pass for NarrowIntegers {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let pass = self.info().name;
        let candidates = candidates(model);
        let mut changed = Changed::No;
        let mut narrowed: HashSet<NodeId> = HashSet::new();
        if !candidates.is_empty() {
            let mut intervals = Intervals::of(model);
            let shapes = shape_arithmetic(model);
            let mut fit: HashSet<NodeId> = HashSet::new();
            for &node in &candidates {
                match fits(model, node, &mut intervals, &shapes) {
                    Ok(()) => {
                        fit.insert(node);
                    }
                    Err(why) => cx.miss(model, pass, node, &why),
                }
            }
            let retype = retype(&fit);
            let fitting = candidates.iter().copied().filter(|node| fit.contains(node));
            for part in parts(model, fitting) {
                let is_slow = |&node: &NodeId| SLOW.iter().any(|op| model[node].op().is(op));
                if !part.iter().any(is_slow) && !retype.saves(model, &part) {
                    let why = "it would take more casts than it saves";
                    cx.miss(model, pass, part[0], why);
                } else if cx.spend() {
                    narrowed.extend(part);
                }
            }
        }
        if !narrowed.is_empty() {
            retype(&narrowed).make(model);
            changed = Changed::Yes;
        }
        if narrow_indices(model, cx) {
            changed = Changed::Yes;
        }
        Ok(changed)
    }
}

fn retype(nodes: &HashSet<NodeId>) -> Retype<'_> {
    Retype {
        pass: NarrowIntegers.info().name,
        to: DataType::Int32,
        nodes,
        takes_either: |m, node, slot| m[node].op().is("Cast") || is_index(m, node, slot),
        rounds: false,
        constant: narrow,
    }
}

/// The nodes of the root graph and of bodies that compute in a wide type, in order.
fn candidates(m: &Model) -> Vec<NodeId> {
    let is_candidate = |&node: &NodeId| {
        let n = &m[node];
        let listed = COMPUTE.iter().chain(MOVE).any(|op| n.op().is(op));
        let wide = |v: ValueId| m[v].dtype().is_some_and(is_wide);
        listed && Slots::of(m, node).is_some_and(|slots| slots.values(m, node).any(wide))
    };
    in_order(m).into_iter().map(|(node, _)| node).filter(is_candidate).collect()
}

/// Values that are computed from the dimensions of tensors and from constants alone.
fn shape_arithmetic(m: &Model) -> HashSet<ValueId> {
    let mut found = HashSet::new();
    for (node, _) in in_order(m) {
        let n = &m[node];
        // These make something else of it.
        let leaves = ["Range", "ConstantOfShape", "Expand"].iter().any(|op| n.op().is(op));
        let mut read = n.inputs().iter().flatten().filter(|&&v| m.constant(v).is_none()).peekable();
        let is_shape = n.op().is("Shape")
            || n.op().is("Size")
            || (!leaves && read.peek().is_some() && read.all(|v| found.contains(v)));
        if is_shape {
            found.extend(n.outputs().iter().flatten().copied());
        }
    }
    found
}

/// Whether a node can compute in int32, or why not.
fn fits(
    m: &Model,
    node: NodeId,
    intervals: &mut Intervals,
    shapes: &HashSet<ValueId>,
) -> Result<(), String> {
    let n = &m[node];
    let (Some(slots), Some(def)) = (Slots::of(m, node), n.op().def) else {
        return Err("the operator is unknown".into());
    };
    let opset = m.opset(n.graph(), "").unwrap_or(0);
    if let Some(version) = def.gains(DataType::Int32, opset) {
        return Err(format!("it takes int32 from opset {version} on"));
    }
    let bounds = Interval::of(DataType::Int32).ok_or("int32 has no bounds")?;
    let mut read = slots.inputs.iter().filter_map(|&slot| n.input(slot));
    if read.any(|v| shapes.contains(&v)) && !n.op().is("Range") {
        return Err("it computes with shapes".into());
    }
    for v in slots.values(m, node) {
        if !m[v].dtype().is_some_and(is_wide) {
            return Err(format!("the type of {:?} is another one", m[v].name()));
        }
        let name = m[v].name();
        match intervals.get(m, v) {
            Some(found) if found.is_within(bounds) => {}
            Some(found) => {
                return Err(format!(
                    "{name:?} may be beyond int32: it lies between {} and {}",
                    found.low, found.high
                ));
            }
            None => return Err(format!("nothing is known of the numbers in {name:?}")),
        }
    }
    Ok(())
}

/// Makes constant indices int32; says whether there were any.
fn narrow_indices(model: &mut Model, cx: &mut PassCx<'_>) -> bool {
    let shapes = shape_arithmetic(model);
    let none = HashSet::new();
    let retype = retype(&none);
    let mut made: HashMap<ValueId, Option<ValueId>> = HashMap::new();
    let mut changed = false;
    for (node, _) in in_order(model) {
        let of_shapes = model[node].input(0).is_some_and(|x| shapes.contains(&x));
        if !is_index(model, node, 1) || model[node].op().is("OneHot") || of_shapes {
            continue;
        }
        let Some(index) = model[node].input(1) else { continue };
        let Some(tensor) = model.constant(index).cloned() else { continue };
        let graph = model[index].graph();
        let small = match made.get(&index) {
            Some(&small) => small,
            None if narrow(&tensor).is_some() && cx.spend() => {
                retype.constant(model, graph, index, &tensor)
            }
            None => None,
        };
        made.insert(index, small);
        if small.is_some() {
            model.set_input(node, 1, small);
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::NarrowIntegers;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn positions_from_a_mask_are_counted_in_32_bits() {
        assert_snapshot!(rewritten(&NarrowIntegers, "
g (int32[1,8] ids, float[99,4] words, float[11,4] places) => (float[1,8,4] w, float[1,8,4] p) <int64 pad = {1}, int64 axis = {1}> {
   i = Cast <to = 7> (ids)  w = Gather (words, i)
   e = Equal (i, pad)  s = Not (e)  m = Cast <to = 7> (s)
   n = CumSum (m, axis)  o = Mul (n, m)  place = Add (o, pad)  p = Gather (places, place)
}"), @r"
        g (int32[1,8] ids, float[99,4] words, float[11,4] places) => (float[1,8,4] w, float[1,8,4] p) <
           int64 pad = {1},
           int64 axis = {1},
           int32 pad_int32 = {1}
        > {
           w = Gather (words, ids)
           e = Equal (ids, pad_int32)
           s = Not (e)
           m = Cast <to: int = 6> (s)
           n = CumSum (m, axis)
           o = Mul (n, m)
           place = Add (o, pad_int32)
           p = Gather (places, place)
        }
        ");
    }

    #[test]
    fn what_needs_int64_gets_it_back() {
        assert_snapshot!(rewritten(&NarrowIntegers, "
g (float[2,5] x, int64[3,4] t) => (int64[2] y, int64[2,4] z, float[2,5] v) <int64 two = {2}, int64[1] axes = {1}> {
   a = ArgMax <axis = 1, keepdims = 0> (x)  b = Mod (a, two)  y = Abs (b)
   z = Gather (t, y)
   c = Unsqueeze (y, axes)  v = GatherND <batch_dims = 0> (x, c)
}"), @r"
        g (float[2,5] x, int64[3,4] t) => (int64[2] y, int64[2,4] z, float[2,5] v) <
           int64 two = {2},
           int64[1] axes = {1},
           int32 two_int32 = {2}
        > {
           a = ArgMax <axis: int = 1, keepdims: int = 0> (x)
           a_int32 = Cast <to: int = 6> (a)
           b = Mod (a_int32, two_int32)
           y_int32 = Abs (b)
           y = Cast <to: int = 7> (y_int32)
           z = Gather (t, y_int32)
           c = Unsqueeze (y_int32, axes)
           c_int64 = Cast <to: int = 7> (c)
           v = GatherND <batch_dims: int = 0> (x, c_int64)
        }
        ");
    }

    #[test]
    fn an_index_of_constants_is_int32_once() {
        assert_snapshot!(rewritten(&NarrowIntegers, "
g (float[4,4] x) => (float[2,4] y, float[4,2] z) <int64[2] i = {-1, 0}> { y = Gather (x, i)  z = Gather <axis = 1> (x, i) }"), @r"
        g (float[4,4] x) => (float[2,4] y, float[4,2] z) <
           int64[2] i = {-1, 0},
           int32[2] i_int32 = {-1, 0}
        > {
           y = Gather (x, i_int32)
           z = Gather <axis: int = 1> (x, i_int32)
        }
        ");
    }

    #[test]
    fn a_place_of_a_table_bounds_what_is_computed_with_it() {
        assert_snapshot!(rewritten(&NarrowIntegers, "
g (int32[2] x, float[9,1] w) => (int64[2] y, float[2,1] e) {
   i = Cast <to = 7> (x)  e = Gather (w, i)  s = Mul (i, i)  n = Neg (s)  y = Sub (n, i)
}"), @r"
        g (int32[2] x, float[9,1] w) => (int64[2] y, float[2,1] e) {
           e = Gather (w, x)
           s = Mul (x, x)
           n = Neg (s)
           y_int32 = Sub (n, x)
           y = Cast <to: int = 7> (y_int32)
        }
        ");
    }

    #[test]
    fn numbers_that_may_be_beyond_32_bits_stay_and_are_named() {
        for (nodes, why) in [
            (
                "i = Cast <to = 7> (x)  y = Mul (i, i)",
                r#""y" may be beyond int32: it lies between"#,
            ),
            ("i = Cast <to = 7> (x)  y = Add (i, huge)", r#""huge" may be beyond int32"#),
            ("y = Neg (z)", r#""z" may be beyond int32"#),
            ("i = Cast <to = 7> (f)  y = Abs (i)", r#""i" may be beyond int32"#),
            ("s = Shape (f)  y = Add (s, s)", "computes with shapes"),
            ("a = ArgMax (f)  y = Max (a, a)", "more casts than it saves"),
        ] {
            let text = format!(
                "g (int32[1] x, int64[1] z, float[1] f) => (int64[1] y) <int64 huge = {{4294967296}}> {{ {nodes} }}"
            );
            check_skip(&NarrowIntegers, &text, why);
        }
    }

    #[test]
    fn an_opset_that_has_no_int32_there_keeps_int64() {
        check_skip(
            &NarrowIntegers,
            "<ir_version: 4, opset_import: [\"\" : 8]>
g (bool[1] x) => (bool[1] y) { i = Cast <to = 7> (x)  y = Less (i, i) }",
            "it takes int32 from opset 9 on",
        );
    }

    #[test]
    fn a_cast_that_would_only_move_stays() {
        untouched(&NarrowIntegers, "g (int32[2] x) => (int64[2] y) { y = Cast <to = 7> (x) }");
    }
}
