//! The axes of a value, followed up through Transposes and Reshapes to the value that its elements were made as.

use onnxfix_ir::{Model, ValueId};

use crate::matching::{dims, dims_of_elements, input, is_reshape, perm, used_once};
use crate::{Miss, unmet};

/// A value and one that it is a rearrangement of, both seen as axes of the same parts: a Reshape from 12 to 3·4 cuts the
/// axis of 12 into parts of 3 and 4, and a Transpose puts them in another order.
pub(crate) struct Trace {
    /// The value reached so far.
    pub(crate) value: ValueId,
    /// Length of each part, never 1.
    pub(crate) len: Vec<i64>,
    /// The parts as they stand in the value where the trace began, the outermost first.
    pub(crate) below: Vec<usize>,
    /// The parts as they stand in the value reached.
    pub(crate) above: Vec<usize>,
    /// Whether something else reads a value on the way, the first and the last one included.
    pub(crate) shared: bool,
}

impl Trace {
    /// Begins at a value, which has elements.
    pub(crate) fn new(m: &Model, value: ValueId) -> Result<Trace, Miss> {
        let len: Vec<i64> = dims_of_elements(m, value)?.into_iter().filter(|&d| d > 1).collect();
        let parts: Vec<usize> = (0..len.len()).collect();
        Ok(Trace { value, len, below: parts.clone(), above: parts, shared: !used_once(m, value) })
    }

    /// Goes behind all Transposes and Reshapes.
    pub(crate) fn climb(&mut self, m: &Model) -> Result<(), Miss> {
        while let Some(node) = m.producer(self.value) {
            if m[node].op().is("Transpose") {
                let to = dims(m, self.value)?;
                let perm = perm(m, node, to.len());
                let groups = self.cut_above(&to)?;
                let from = |axis: i64| perm.iter().position(|&p| p == axis);
                self.above =
                    (0..to.len() as i64).filter_map(from).flat_map(|i| groups[i].clone()).collect();
            } else if !is_reshape(m, node) {
                return Ok(());
            }
            self.value = input(m, node, 0)?;
            self.shared |= !used_once(m, self.value);
        }
        Ok(())
    }

    /// The parts of each axis, when the value reached is seen under these dimensions.
    pub(crate) fn cut_above(&mut self, dims: &[i64]) -> Result<Vec<Vec<usize>>, Miss> {
        self.cut(dims, |trace| &trace.above)
    }

    /// The parts of each axis, when the value where the trace began is seen under these dimensions.
    pub(crate) fn cut_below(&mut self, dims: &[i64]) -> Result<Vec<Vec<usize>>, Miss> {
        self.cut(dims, |trace| &trace.below)
    }

    fn cut(
        &mut self,
        dims: &[i64],
        parts: impl Fn(&Trace) -> &Vec<usize>,
    ) -> Result<Vec<Vec<usize>>, Miss> {
        let mut groups = Vec::with_capacity(dims.len());
        let mut next = 0;
        for &dim in dims {
            let (mut group, mut rest) = (Vec::new(), dim);
            while rest > 1 {
                let Some(&part) = parts(self).get(next) else { return Err(Miss::NoMatch) };
                let len = self.len[part];
                if len > rest && len % rest == 0 {
                    self.split(part, rest);
                } else if rest % len != 0 {
                    return unmet("a reshape does more than join and split axes");
                }
                rest /= self.len[part];
                group.push(part);
                next += 1;
            }
            groups.push(group);
        }
        if next == parts(self).len() { Ok(groups) } else { Err(Miss::NoMatch) }
    }

    /// Cuts a part in two, the outer one of this length.
    fn split(&mut self, part: usize, outer: i64) {
        let inner = self.len.len();
        self.len.push(self.len[part] / outer);
        self.len[part] = outer;
        for order in [&mut self.below, &mut self.above] {
            if let Some(at) = order.iter().position(|&p| p == part) {
                order.insert(at + 1, inner);
            }
        }
    }
}
