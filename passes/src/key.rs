//! Keys under which equal nodes and equal tensors meet.

use onnxfix_ir::{AttrValue, Model, NodeId, Tensor, ValueId};
use smallvec::SmallVec;

/// Operator, attributes and inputs of a pure node: nodes with equal keys compute the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct OpKey {
    op: &'static str,
    outputs: usize,
    inputs: SmallVec<[usize; 3]>,
    attrs: Vec<u8>,
}

impl OpKey {
    /// The key of a node, each input given by what `id` makes of it (never 0); none where equal keys would prove
    /// nothing.
    pub(crate) fn new(model: &Model, node: NodeId, id: impl Fn(ValueId) -> usize) -> Option<OpKey> {
        let n = &model[node];
        let def = n.op().def?;
        if !def.class.pure || n.attrs.graphs().next().is_some() {
            return None;
        }
        let mut inputs: SmallVec<[usize; 3]> =
            n.inputs().iter().map(|v| v.map_or(0, &id)).collect();
        if is_commutative(def.name) {
            inputs.sort_unstable();
        }
        // A left-out input at the end is no input.
        while inputs.last() == Some(&0) {
            inputs.pop();
        }
        let mut sorted: Vec<_> = n.attrs.0.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let mut attrs = Vec::new();
        for attr in sorted {
            attrs.extend_from_slice(attr.name.as_bytes());
            attrs.push(0);
            push_value(&mut attrs, &attr.value)?;
        }
        let outputs = n.outputs().iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        Some(OpKey { op: def.name, outputs, inputs, attrs })
    }
}

/// Operators whose inputs may change places without changing a bit of the result.
fn is_commutative(op: &str) -> bool {
    matches!(
        op,
        "Add" | "Mul" | "And" | "Or" | "Xor" | "Equal" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor"
    )
}

fn push_value(key: &mut Vec<u8>, value: &AttrValue) -> Option<()> {
    let mut list = |code: u8, parts: &mut dyn Iterator<Item = Vec<u8>>| {
        key.push(code);
        for part in parts {
            key.extend((part.len() as u64).to_le_bytes());
            key.extend(part);
        }
        key.push(0xff);
    };
    match value {
        AttrValue::Float(f) => list(1, &mut std::iter::once(f.to_bits().to_le_bytes().to_vec())),
        AttrValue::Int(i) => list(2, &mut std::iter::once(i.to_le_bytes().to_vec())),
        AttrValue::String(s) => list(3, &mut std::iter::once(s.to_vec())),
        AttrValue::Tensor(t) => {
            let hash = content_hash(t)?;
            list(4, &mut std::iter::once(hash.to_vec()));
        }
        AttrValue::Floats(v) => list(5, &mut v.iter().map(|f| f.to_bits().to_le_bytes().to_vec())),
        AttrValue::Ints(v) => list(6, &mut v.iter().map(|i| i.to_le_bytes().to_vec())),
        AttrValue::Strings(v) => list(7, &mut v.iter().map(|s| s.to_vec())),
        // Types, references, sparse tensors: too rare to compare.
        _ => return None,
    }
    Some(())
}

/// Hash of type, dimensions and elements.
pub(crate) fn content_hash(tensor: &Tensor) -> Option<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&tensor.dtype.code().to_le_bytes());
    // The rank keeps dimensions apart from elements: int64[0] {} and int64 {0} have the same bytes behind it.
    hasher.update(&(tensor.dims.len() as u64).to_le_bytes());
    for d in &tensor.dims {
        hasher.update(&d.to_le_bytes());
    }
    hasher.update(&tensor.raw().ok()?);
    Some(*hasher.finalize().as_bytes())
}

/// Type, dimensions and elements of a tensor small enough to be compared as a whole.
pub(crate) fn intern_key(tensor: &Tensor) -> Option<Vec<u8>> {
    const SMALL: usize = 4096;
    let raw = tensor.raw().ok()?;
    if raw.len() > SMALL {
        return None;
    }
    let mut key = Vec::with_capacity(raw.len() + 16);
    key.extend(tensor.dtype.code().to_le_bytes());
    key.extend((tensor.dims.len() as u64).to_le_bytes());
    key.extend(tensor.dims.iter().flat_map(|d| d.to_le_bytes()));
    key.extend_from_slice(&raw);
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_are_no_elements() {
        let (scalar, empty) = (Tensor::scalar(0_i64), Tensor::ints(&[]));
        assert_ne!(content_hash(&scalar), content_hash(&empty));
        assert_ne!(intern_key(&scalar), intern_key(&empty));
    }
}
