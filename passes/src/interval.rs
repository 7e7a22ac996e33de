//! Between which bounds the integers of a model lie, whatever is fed.
//!
//! An interval follows from the element type, the elements of a constant, the lengths of axes, and the interval of what an
//! operator reads. An index is bounded by what it is an index into: with another one the model would not run.

use onnxfix_ir::{DataType, GraphId, Model, NodeId, SideTable, Tensor, Use, Value, ValueId};

use crate::matching::{is_reshape, uniform};

/// The integers from `low` to `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) low: i128,
    pub(crate) high: i128,
}

/// An axis has less than 2³¹ entries: more would fit no device.
const LONGEST: Interval = Interval { low: 0, high: i32::MAX as i128 };
/// The largest constant that is read through.
const READ_LIMIT: u64 = 64 << 20;
/// The most steps from a value to where it is an index.
const DEPTH: usize = 6;
/// The most readers of a value that are asked.
const READERS: usize = 32;

impl Interval {
    pub(crate) fn new(a: i128, b: i128) -> Interval {
        Interval { low: a.min(b), high: a.max(b) }
    }

    /// What the type can hold; none for types that are neither integers of 8 bits or more nor bool.
    pub(crate) fn of(dtype: DataType) -> Option<Interval> {
        let signed = |bits: u32| Interval::new(-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1);
        let unsigned = |bits: u32| Interval::new(0, (1_i128 << bits) - 1);
        Some(match dtype {
            DataType::Bool => unsigned(1),
            DataType::Int8 => signed(8),
            DataType::Int16 => signed(16),
            DataType::Int32 => signed(32),
            DataType::Int64 => signed(64),
            DataType::Uint8 => unsigned(8),
            DataType::Uint16 => unsigned(16),
            DataType::Uint32 => unsigned(32),
            DataType::Uint64 => unsigned(64),
            _ => return None,
        })
    }

    /// Whether all of it lies within the other one.
    pub(crate) fn is_within(self, other: Interval) -> bool {
        other.low <= self.low && self.high <= other.high
    }

    fn join(self, other: Interval) -> Interval {
        Interval { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// What is in both, or this one where nothing is.
    fn meet(self, other: Interval) -> Interval {
        let (low, high) = (self.low.max(other.low), self.high.min(other.high));
        if low <= high { Interval { low, high } } else { self }
    }

    fn magnitude(self) -> i128 {
        self.low.saturating_abs().max(self.high.saturating_abs())
    }

    /// The least interval with what the function makes of each pair of ends.
    fn ends(self, other: Interval, f: impl Fn(i128, i128) -> i128) -> Interval {
        let (a, b) = (f(self.low, other.low), f(self.low, other.high));
        let (c, d) = (f(self.high, other.low), f(self.high, other.high));
        Interval { low: a.min(b).min(c).min(d), high: a.max(b).max(c).max(d) }
    }

    fn times(self, n: i128) -> Interval {
        Interval::new(self.low.saturating_mul(n), self.high.saturating_mul(n))
    }
}

/// The intervals of all integers that a model computes.
pub(crate) struct Intervals {
    known: SideTable<Value, Interval>,
}

impl Intervals {
    pub(crate) fn of(m: &Model) -> Intervals {
        let mut intervals = Intervals { known: SideTable::new() };
        for graph in m.graphs().filter(|&graph| m[graph].owner().is_none()) {
            intervals.walk(m, graph);
        }
        intervals
    }

    fn walk(&mut self, m: &Model, graph: GraphId) {
        for node in m.nodes(graph) {
            for (_, body) in m[node].attrs.graphs() {
                self.walk(m, body);
            }
            for slot in 0..m[node].outputs().len() {
                let Some(y) = m[node].output(slot) else { continue };
                let Some(all) = m[y].dtype().and_then(Interval::of) else { continue };
                // What leaves the type wraps around, to anything.
                let made = self.made(m, node, slot).filter(|made| made.is_within(all));
                // Powers may be computed in floats, where those that wrap around are anything else.
                let as_index =
                    if m[node].op().is("Pow") { all } else { as_index(m, y, DEPTH, all) };
                self.known.insert(y, made.unwrap_or(all).meet(as_index));
            }
        }
    }

    /// The interval of a value of integers or bools.
    pub(crate) fn get(&mut self, m: &Model, value: ValueId) -> Option<Interval> {
        if let Some(&known) = self.known.get(value) {
            return Some(known);
        }
        let all = Interval::of(m[value].dtype()?)?;
        let found = match m.constant(value) {
            Some(tensor) => elements(tensor).unwrap_or(all),
            None => as_index(m, value, DEPTH, all),
        };
        self.known.insert(value, found);
        Some(found)
    }

    /// What an operator makes, before it wraps around; none where nothing is known.
    fn made(&mut self, m: &Model, node: NodeId, slot: usize) -> Option<Interval> {
        let n = &m[node];
        let def = n.op().def.filter(|def| def.domain.is_empty())?;
        let y = n.output(slot)?;
        let mut at = |slot: usize| self.get(m, n.input(slot)?);
        Some(match def.name {
            "Add" => at(0)?.ends(at(1)?, i128::saturating_add),
            "Sub" => at(0)?.ends(at(1)?, i128::saturating_sub),
            "Mul" => at(0)?.ends(at(1)?, i128::saturating_mul),
            "Div" => quotient(at(0)?, at(1)?),
            "Mod" => remainder(at(0)?, at(1)?, n.attrs.int("fmod") == Some(1)),
            "Pow" => power(at(0)?, uniform(m, n.input(1)?)?)?,
            "Neg" => at(0)?.times(-1),
            "Abs" => {
                let x = at(0)?;
                let low = if x.low <= 0 && x.high >= 0 { 0 } else { x.low.abs().min(x.high.abs()) };
                Interval { low, high: x.magnitude() }
            }
            "Sign" => Interval { low: at(0)?.low.signum(), high: at(0)?.high.signum() },
            "Max" | "Min" => {
                let larger = def.name == "Max";
                let mut all = n.inputs().iter().flatten().map(|&v| self.get(m, v));
                let first = all.next()??;
                all.try_fold(first, |a, b| {
                    let b = b?;
                    let of = |x: i128, y: i128| if larger { x.max(y) } else { x.min(y) };
                    Some(Interval { low: of(a.low, b.low), high: of(a.high, b.high) })
                })?
            }
            "Clip" => {
                let mut x = at(0)?;
                if n.input(1).is_some() {
                    let least = at(1)?;
                    x = Interval { low: x.low.max(least.low), high: x.high.max(least.high) };
                }
                if n.input(2).is_some() {
                    let most = at(2)?;
                    x = Interval { low: x.low.min(most.low), high: x.high.min(most.high) };
                }
                x
            }
            "Where" => at(1)?.join(at(2)?),
            "Concat" => {
                let mut all = n.inputs().iter().flatten().map(|&v| self.get(m, v));
                let first = all.next()??;
                all.try_fold(first, |a, b| Some(a.join(b?)))?
            }
            "Pad" => match n.input(2) {
                Some(_) => at(0)?.join(at(2)?),
                None if n.attrs.float("value").is_some_and(|v| v != 0.0) => return None,
                None => at(0)?.join(Interval::new(0, 0)),
            },
            "Trilu" => at(0)?.join(Interval::new(0, 0)),
            "ScatterElements" | "ScatterND"
                if n.attrs.str("reduction").is_none_or(|reduction| reduction == "none") =>
            {
                at(0)?.join(at(2)?)
            }
            "ReduceMax" | "ReduceMin" if terms(m, node)? > 0 => at(0)?,
            "ReduceSum" => at(0)?.times(terms(m, node)?),
            "ReduceProd" if at(0)?.is_within(Interval::new(0, 1)) => Interval::new(0, 1),
            "CumSum" => {
                let axis = m.constant(n.input(1)?)?.to_ints()?;
                let sum = at(0)?.times(length(m, n.input(0)?, *axis.first()?)?.high);
                sum.join(Interval::new(0, 0))
            }
            "Range" => at(0)?.join(at(1)?),
            "OneHot" => at(2)?,
            "ArgMax" | "ArgMin" => {
                indices(length(m, n.input(0)?, n.attrs.int("axis").unwrap_or(0))?)
            }
            "TopK" if slot == 1 => {
                indices(length(m, n.input(0)?, n.attrs.int("axis").unwrap_or(-1))?)
            }
            "NonZero" | "Shape" => {
                let x = n.input(0)?;
                let rank = m[x].shape()?.rank() as i64;
                let lengths = (0..rank).filter_map(|axis| length(m, x, axis));
                let all = lengths.reduce(Interval::join).unwrap_or(LONGEST);
                if def.name == "Shape" { all } else { indices(all) }
            }
            "Size" => {
                let dims = m[n.input(0)?].dims()?;
                let size = dims.iter().fold(1_i128, |size, &d| size.saturating_mul(d.into()));
                Interval::new(size, size)
            }
            "ConstantOfShape" => match n.attrs.tensor("value") {
                Some(tensor) => elements(tensor)?,
                None => return None,
            },
            "EyeLike" => Interval::new(0, 1),
            // What a float becomes that is out of bounds is open.
            "Cast" => at(0)?.in_type(m[y].dtype()?),
            "TopK" => at(0)?,
            _ if def.class.movement => at(0)?,
            _ => return None,
        })
    }
}

impl Interval {
    fn in_type(self, dtype: DataType) -> Interval {
        let all = Interval::of(dtype).unwrap_or(self);
        match dtype {
            DataType::Bool => Interval {
                low: i128::from(self.low > 0 || self.high < 0),
                high: i128::from((self.low, self.high) != (0, 0)),
            },
            _ if self.is_within(all) => self,
            _ => all,
        }
    }
}

fn indices(length: Interval) -> Interval {
    Interval { low: 0, high: (length.high - 1).max(0) }
}

/// The least and the largest element.
fn elements(tensor: &Tensor) -> Option<Interval> {
    if tensor.byte_len() > READ_LIMIT {
        return None;
    }
    let ints = tensor.to_ints()?;
    let (low, high) = (ints.iter().min()?, ints.iter().max()?);
    Some(Interval { low: (*low).into(), high: (*high).into() })
}

/// The length of an axis.
fn length(m: &Model, value: ValueId, axis: i64) -> Option<Interval> {
    let shape = m[value].shape()?;
    let axis = onnxfix_ir::op::normal_axis(axis, shape.rank()).ok()?;
    let fixed = shape.0.get(axis)?.fixed();
    Some(fixed.map_or(LONGEST, |n| Interval::new(n.into(), n.into())))
}

/// How many elements a reduction makes one of.
fn terms(m: &Model, node: NodeId) -> Option<i128> {
    let count = |v: ValueId| {
        let dims = m[v].dims()?;
        Some(dims.iter().fold(1_i128, |size, &d| size.saturating_mul(d.into())))
    };
    count(m[node].input(0)?)?.checked_div(count(m[node].output(0)?)?)
}

/// Quotients, rounded towards 0. No integer is divided by 0.
fn quotient(x: Interval, by: Interval) -> Interval {
    if by.low > 0 {
        return x.ends(by, |x, by| x / by);
    }
    Interval { low: -x.magnitude(), high: x.magnitude() }
}

/// Remainders: of the divisor's sign, or of the dividend's as C's `fmod`.
fn remainder(x: Interval, by: Interval, fmod: bool) -> Interval {
    let most = (by.magnitude() - 1).max(0);
    if fmod {
        let most = most.min(x.magnitude());
        return Interval {
            low: if x.low < 0 { -most } else { 0 },
            high: if x.high > 0 { most } else { 0 },
        };
    }
    Interval { low: if by.low < 0 { -most } else { 0 }, high: if by.high > 0 { most } else { 0 } }
}

/// Whole powers of integers.
fn power(x: Interval, exponent: f64) -> Option<Interval> {
    if exponent.fract() != 0.0 || !(0.0..=64.0).contains(&exponent) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 64")]
    let exponent = exponent as u32;
    let largest = x.magnitude().max(1).saturating_pow(exponent);
    Some(Interval { low: if x.low < 0 { -largest } else { 0 }, high: largest })
}

/// What a value may be as an index into what has so many entries: it counts from the back where it is negative.
fn as_index(m: &Model, value: ValueId, depth: usize, all: Interval) -> Interval {
    let mut found = all;
    if depth == 0 || m[value].dims().is_some_and(|dims| dims.contains(&0)) {
        return found;
    }
    for reader in m[value].uses().iter().take(READERS) {
        let Use::Input { node, slot } = *reader else { continue };
        let n = &m[node];
        // A node of a body may never run.
        if n.graph() != m[value].graph() {
            continue;
        }
        let (Some(x), Some(y)) = (n.input(0), n.output(0)) else { continue };
        if slot == 1 && (n.op().is("Gather") || n.op().is("GatherElements")) {
            let has_elements =
                m[x].shape().is_some_and(|shape| shape.0.iter().all(|d| d.fixed() != Some(0)));
            let length = length(m, x, n.attrs.int("axis").unwrap_or(0));
            if let Some(length) = length.filter(|_| has_elements) {
                found = found.meet(Interval { low: -length.high, high: length.high - 1 });
            }
        } else if slot == 0 {
            let widens = n.op().is("Cast")
                && m[y].dtype().and_then(Interval::of).is_some_and(|to| all.is_within(to));
            let keeps =
                is_reshape(m, node) || ["Transpose", "Identity"].iter().any(|op| n.op().is(op));
            if (widens || keeps) && m[y].dtype().is_some_and(DataType::is_integer) {
                found = found.meet(as_index(m, y, depth - 1, found));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Interval, Intervals};
    use crate::testing::model;

    /// The interval of `y`, which these nodes make.
    #[track_caller]
    fn of(nodes: &str) -> (i128, i128) {
        let text = format!(
            "g (bool[2,3] b, uint8[2,3] u, int32[2,3] i, int64[2] l, float[2,5] f) => (y) <
   int64 one = {{1}}, int64 two = {{2}}, int64 minus = {{-3}}, int64[2] few = {{-1, 4}}
> {{ n = Cast <to = 7> (b)  w = Cast <to = 7> (u)  {nodes} }}"
        );
        let m = model(&text);
        let y = m[m.root()].outputs()[0];
        let Interval { low, high } = Intervals::of(&m).get(&m, y).expect("integers");
        (low, high)
    }

    #[test]
    fn what_operators_make_lies_between_its_ends() {
        for (nodes, low, high) in [
            ("y = Sub (n, two)", -2, -1),
            ("y = Mul (w, minus)", -765, 0),
            ("y = Div (w, minus)", -255, 255),
            ("y = Div (w, two)", 0, 127),
            ("y = Mod (w, minus)", -2, 0),
            ("y = Mod <fmod = 1> (w, minus)", 0, 2),
            ("y = Pow (w, two)", 0, 65_025),
            ("a = Sub (n, two)  y = Abs (a)", 1, 2),
            ("a = Sub (n, two)  y = Neg (a)", 1, 2),
            ("a = Sub (n, two)  y = Sign (a)", -1, -1),
            ("y = Clip (w, two)", 2, 255),
            ("y = Clip (w, , two)", 0, 2),
            ("y = Max (n, minus)", 0, 1),
            ("y = Min (n, minus)", -3, -3),
            ("y = Where (b, w, minus)", -3, 255),
            ("a = Cast <to = 9> (two)  y = Cast <to = 7> (a)", 1, 1),
            ("y = Range (minus, two, one)", -3, 2),
        ] {
            assert_eq!(of(nodes), (low, high), "{nodes}");
        }
    }

    #[test]
    fn lengths_of_axes_bound_counts_and_places() {
        for (nodes, low, high) in [
            ("y = ReduceSum (n)", 0, 6),
            ("y = CumSum (n, one)", 0, 3),
            ("y = ArgMax <axis = 1> (f)", 0, 4),
            ("v, y = TopK <axis = 1> (f, k)", 0, 4),
            ("y = Shape (f)", 2, 5),
            ("y = Size (f)", 10, 10),
            ("y = NonZero (f)", 0, 4),
            ("y = Gather (l, few_)", -(1 << 63), (1 << 63) - 1),
        ] {
            let made =
                "k = Constant <value = int64[1] {1}> ()  few_ = Constant <value = int64[1] {1}> ()";
            assert_eq!(of(&format!("{made}  {nodes}")), (low, high), "{nodes}");
        }
    }

    #[test]
    fn what_wraps_around_may_be_anything() {
        assert_eq!(of("y = Mul (i, i)"), (-(1 << 31), (1 << 31) - 1));
        assert_eq!(of("y = Neg (l)"), (-(1 << 63), (1 << 63) - 1));
        assert_eq!(of("y = Cast <to = 3> (u)"), (-128, 127));
    }

    #[test]
    fn an_index_is_bounded_by_what_it_is_an_index_into() {
        let by_table = "t = Gather (f, y)";
        assert_eq!(of(&format!("y = Identity (l)  {by_table}")), (-2, 1));
        assert_eq!(
            of("y = Identity (l)  a = Neg (y)  t = Gather (f, a)"),
            (-(1 << 63), (1 << 63) - 1)
        );
        // The branch may never be taken.
        let branch = "y = Identity (l)  c = Constant <value = bool {1}> ()
z = If (c) <then_branch = t () => (float[2,5] p) { p = Gather (f, y) }, else_branch = e () => (float[2,5] q) { q = Relu (f) }>";
        assert_eq!(of(branch), (-(1 << 63), (1 << 63) - 1));
    }
}
