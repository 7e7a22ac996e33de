//! narrow-doubles

use hashbrown::HashSet;
use onnxfix_ir::{DataType, Model, NodeId, Tensor, Use, ValueId};

use crate::retype::{Retype, Slots, in_order, parts};
use crate::{Changed, Documented, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Computes in float32 where exporters compute in 64 bits.
    ///
    /// ## Why ATC needs it
    /// The 310P has no 64-bit floats: most operators of double have no kernel at all (EZ3003), the others run on the AI CPU. A
    /// number of `NumPy` in a model's code is enough to make a whole normalization double.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) <double root = {8.5}> {
    ///    d = Cast <to: int = 11> (x)
    ///    q = Div (d, root)
    ///    y = Cast <to: int = 1> (q)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) <float root_float = {8.5}> {
    ///    q = Div (x, root_float)
    ///    y = Cast <to: int = 1> (q)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The operator takes float32. Inputs and outputs of the model that are double stay so, by a Cast.
    /// - Nothing decides by the last bits of the number, now or after further operators: no comparison, rounding, largest
    ///   element, remainder or Cast to an integer, and nothing that the program does not know.
    /// - Every constant is one of float32 but for rounding: none is larger than 3.4e38, or so small that it would be 0.
    /// - There is more to do than to cast: moves alone stay where they would take more casts than they save.
    ///
    /// ## Numerics
    /// Rounded to 24 bits. What is beyond 3.4e38 on the way is infinite.
    pub NarrowDoubles = "narrow-doubles", Legalise, Relative(1e-6)
}

/// Operators that make a step of a small difference.
const DECIDING: &[&str] = &[
    "ArgMax",
    "ArgMin",
    "Bernoulli",
    "BitCast",
    "Ceil",
    "Equal",
    "Floor",
    "Greater",
    "GreaterOrEqual",
    "Hardmax",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "Mod",
    "NonZero",
    "OneHot",
    "Range",
    "Resize",
    "Round",
    "Shrink",
    "Sign",
    "ThresholdedRelu",
    "TopK",
    "Unique",
    "Upsample",
];

/// The elements as float32, where none becomes infinite or 0 thereby.
fn narrow(tensor: &Tensor) -> Option<Tensor> {
    if tensor.dtype != DataType::Double {
        return None;
    }
    let single = |x: f64| {
        #[expect(clippy::cast_possible_truncation, reason = "whether it fits is asked")]
        let y = x as f32;
        let is_lost = (x.is_finite() && y.is_infinite()) || (x != 0.0 && y == 0.0);
        (!is_lost).then_some(y)
    };
    let all: Option<Vec<f32>> = tensor.to_floats()?.into_iter().map(single).collect();
    Some(Tensor::new(&tensor.dims, all?))
}

fn is_double(m: &Model, value: ValueId) -> bool {
    m[value].dtype() == Some(DataType::Double)
}

/// Whether this is a Cast to a float.
fn is_cast_to_float(m: &Model, node: NodeId, slot: usize) -> bool {
    let to = m[node].output(0).and_then(|y| m[y].dtype());
    slot == 0 && m[node].op().is("Cast") && to.is_some_and(DataType::is_float)
}

impl Pass for NarrowDoubles {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let pass = self.info().name;
        let found = fitting(model, cx);
        let chosen: HashSet<NodeId> = found.iter().copied().collect();
        let all = retype(&chosen);
        let mut narrowed: HashSet<NodeId> = HashSet::new();
        for part in parts(model, found.into_iter()) {
            let moves = |&node: &NodeId| {
                let class = model[node].op().def.map(|def| def.class);
                model[node].op().is("Cast") || class.is_some_and(|class| class.movement)
            };
            if part.iter().all(moves) && !all.saves(model, &part) {
                cx.miss(model, pass, part[0], "it would take more casts than it saves");
            } else if cx.spend() {
                narrowed.extend(part);
            }
        }
        retype(&narrowed).make(model);
        Ok((!narrowed.is_empty()).into())
    }
}

fn retype(nodes: &HashSet<NodeId>) -> Retype<'_> {
    Retype {
        pass: NarrowDoubles.info().name,
        to: DataType::Float,
        nodes,
        takes_either: is_cast_to_float,
        constant: narrow,
        rounds: true,
    }
}

/// The nodes that can compute in float32, in order.
fn fitting(m: &Model, cx: &mut PassCx<'_>) -> Vec<NodeId> {
    let pass = NarrowDoubles.info().name;
    let mut exact: HashSet<ValueId> = HashSet::new();
    let mut fitting = Vec::new();
    // Backwards: readers first.
    for (node, _) in in_order(m).into_iter().rev() {
        let n = &m[node];
        let values = || n.inputs().iter().chain(n.outputs()).flatten().copied();
        if !values().any(|v| is_double(m, v)) {
            continue;
        }
        // The type of one that is cast to a float is not that of a result here.
        if is_cast_to_float(m, node, 0) && n.output(0).is_some_and(|y| !is_double(m, y)) {
            continue;
        }
        match fits(m, node, &exact) {
            Ok(()) => fitting.push(node),
            Err(why) => {
                cx.miss(m, pass, node, &why);
                exact.extend(n.inputs().iter().flatten().filter(|&&v| is_double(m, v)));
            }
        }
    }
    fitting.reverse();
    fitting
}

/// Whether a node can compute in float32, or why not.
fn fits(m: &Model, node: NodeId, exact: &HashSet<ValueId>) -> Result<(), String> {
    let n = &m[node];
    let def = n.op().def.filter(|def| def.class.pure && def.eval.is_some());
    let (Some(def), Some(slots)) = (def, Slots::of(m, node)) else {
        return Err("nothing is known of what it does with the number".into());
    };
    if DECIDING.contains(&def.name) {
        return Err("it decides by the last bits of the number".into());
    }
    let opset = m.opset(n.graph(), "").unwrap_or(0);
    if let Some(version) = def.gains(DataType::Float, opset) {
        return Err(format!("it takes float from opset {version} on"));
    }
    let all = || n.inputs().iter().chain(n.outputs()).flatten().copied();
    let mut of_slots = slots.values(m, node);
    if !of_slots.all(|v| is_double(m, v))
        || all().filter(|&v| is_double(m, v)).count() != slots.values(m, node).count()
    {
        return Err("some of what it reads or makes is of another type".into());
    }
    let of_body = |reader: &Use| matches!(reader, Use::Output { graph, .. } if *graph != m.root());
    for y in n.outputs().iter().flatten() {
        if exact.contains(y) || m[*y].uses().iter().any(of_body) {
            return Err(format!("something decides by the last bits of {:?}", m[*y].name()));
        }
    }
    for v in n.inputs().iter().flatten().filter(|&&v| is_double(m, v)) {
        if m.constant(*v).is_some_and(|tensor| narrow(tensor).is_none()) {
            return Err(format!("float has no number for one in {:?}", m[*v].name()));
        }
    }
    if n.attrs.tensor("value").is_some_and(|tensor| narrow(tensor).is_none()) {
        return Err("float has no number for its value".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::NarrowDoubles;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn doubles_of_the_interface_stay() {
        assert_snapshot!(rewritten(&NarrowDoubles, "
g (double[2,3] x, double[3] w) => (double[2,3] y, double[2,3] z) <double[1,3] c = {0.1, 1, 2}> {
   a = Add (x, c)  y = Sqrt (a)  b = Mul (y, w)  z = Neg (b)
}"), @r"
        g (double[2,3] x, double[3] w) => (double[2,3] y, double[2,3] z) <
           double[1,3] c = {0.1, 1, 2},
           float[1,3] c_float = {0.1, 1, 2}
        > {
           x_float = Cast <to: int = 1> (x)
           a = Add (x_float, c_float)
           y_float = Sqrt (a)
           y = Cast <to: int = 11> (y_float)
           w_float = Cast <to: int = 1> (w)
           b = Mul (y_float, w_float)
           z_float = Neg (b)
           z = Cast <to: int = 11> (z_float)
        }
        ");
    }

    #[test]
    fn what_decides_by_the_last_bits_keeps_all_of_them() {
        for (nodes, why) in [
            (
                "d = Cast <to = 11> (x)  h = Mul (d, two)  y = Floor (h)",
                "decides by the last bits of \"h\"",
            ),
            (
                "d = Cast <to = 11> (x)  h = Mul (d, two)  i = Cast <to = 7> (h)  y = Cast <to = 11> (i)",
                "decides by the last bits of \"h\"",
            ),
            ("d = Cast <to = 11> (x)  y = Mul (d, huge)", "no number for one in \"huge\""),
            ("d = Cast <to = 11> (x)  y = Add (d, tiny)", "no number for one in \"tiny\""),
        ] {
            let text = format!(
                "g (float[1] x) => (double[1] y) <double two = {{2}}, double huge = {{1e300}}, double tiny = {{1e-300}}> {{ {nodes} }}"
            );
            check_skip(&NarrowDoubles, &text, why);
        }
    }

    #[test]
    fn bits_that_are_read_as_another_type_stay() {
        let text = "<ir_version: 13, opset_import: [\"\" : 26]>\n\
                    g (double[1] x) => (int64[1] y) { h = Add (x, x)  y = BitCast <to = 7> (h) }";
        check_skip(&NarrowDoubles, text, "decides by the last bits of \"h\"");
    }

    #[test]
    fn casts_and_moves_alone_stay() {
        untouched(&NarrowDoubles, "g (float[2] x) => (double[2] y) { y = Cast <to = 11> (x) }");
        check_skip(
            &NarrowDoubles,
            "g (double[2,3] x) => (double[3,2] y) { y = Transpose (x) }",
            "more casts than it saves",
        );
    }
}
