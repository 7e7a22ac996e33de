//! Attributes of two nodes.

use std::hash::{Hash, Hasher};

use onnxfix_ir::{Attr, AttrValue, Attrs, Tensor};

use super::Change;
use super::constants::tensor_type;

/// Longer texts are cut where people read them.
const SHOWN: usize = 60;

/// Whether both say the same. Bodies count as the same: their nodes are compared one by one.
fn same(a: &AttrValue, b: &AttrValue) -> bool {
    let tensors = |a: &Tensor, b: &Tensor| a.same_content(b);
    let bits = |xs: &[f32]| xs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    match (a, b) {
        // A NaN is like itself.
        (AttrValue::Float(a), AttrValue::Float(b)) => a.to_bits() == b.to_bits(),
        (AttrValue::Floats(a), AttrValue::Floats(b)) => bits(a) == bits(b),
        (AttrValue::Tensor(a), AttrValue::Tensor(b)) => tensors(a, b),
        (AttrValue::Tensors(a), AttrValue::Tensors(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| tensors(a, b))
        }
        (AttrValue::Graph(_), AttrValue::Graph(_)) => true,
        (AttrValue::Graphs(a), AttrValue::Graphs(b)) => a.len() == b.len(),
        (a, b) => a == b,
    }
}

/// What differs, by name.
pub(super) fn compare(before: &Attrs, after: &Attrs) -> Vec<Change> {
    let change = |name: &str| {
        let (b, a) = (before.get(name), after.get(name));
        let equal = matches!((b, a), (Some(b), Some(a)) if same(b, a));
        let what = format!("attribute {name}");
        (!equal).then(|| Change { what, before: b.map(shown), after: a.map(shown) })
    };
    let new = after.0.iter().filter(|attr| before.get(&attr.name).is_none());
    before.0.iter().chain(new).filter_map(|attr| change(&attr.name)).collect()
}

/// Adds attributes to a hash, whatever their order; bodies by no more than that they are there.
pub(super) fn hash(attrs: &Attrs, state: &mut impl Hasher) {
    let mut sorted: Vec<&Attr> = attrs.0.iter().collect();
    sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for Attr { name, value, .. } in sorted {
        name.hash(state);
        value.type_code().hash(state);
        match value {
            AttrValue::Float(x) => x.to_bits().hash(state),
            AttrValue::Int(i) => i.hash(state),
            AttrValue::String(s) => s.hash(state),
            AttrValue::Tensor(t) => (t.dtype, &t.dims, t.fingerprint()).hash(state),
            AttrValue::Floats(xs) => xs.iter().for_each(|x| x.to_bits().hash(state)),
            AttrValue::Ints(ints) => ints.hash(state),
            AttrValue::Strings(strings) => strings.hash(state),
            // The rest is rare, and what is paired is compared.
            _ => {}
        }
    }
}

/// A value for people.
fn shown(value: &AttrValue) -> String {
    let list = |items: Vec<String>| format!("[{}]", items.join(","));
    let text = |s: &[u8]| format!("{:?}", String::from_utf8_lossy(s));
    let full = match value {
        AttrValue::Float(x) => x.to_string(),
        AttrValue::Int(i) => i.to_string(),
        AttrValue::String(s) => text(s),
        AttrValue::Tensor(t) => match (t.to_ints(), t.to_floats()) {
            (Some(ints), _) if ints.len() <= 8 => format!("{} {ints:?}", tensor_type(t)),
            (_, Some(floats)) if floats.len() <= 8 => format!("{} {floats:?}", tensor_type(t)),
            _ => tensor_type(t),
        },
        AttrValue::Floats(xs) => list(xs.iter().map(ToString::to_string).collect()),
        AttrValue::Ints(ints) => list(ints.iter().map(ToString::to_string).collect()),
        AttrValue::Strings(strings) => list(strings.iter().map(|s| text(s)).collect()),
        AttrValue::Tensors(tensors) => list(tensors.iter().map(|t| tensor_type(t)).collect()),
        AttrValue::Graph(_) => "a body".into(),
        AttrValue::Graphs(bodies) => format!("{} bodies", bodies.len()),
        AttrValue::Ref(name, _) => format!("@{name}"),
        AttrValue::Sparse(_) | AttrValue::Sparses(_) => "sparse".into(),
        AttrValue::Type(_) | AttrValue::Types(_) => "a type".into(),
        _ => "something else".into(),
    };
    if full.chars().count() <= SHOWN {
        return full;
    }
    full.chars().take(SHOWN).chain(['…']).collect()
}
