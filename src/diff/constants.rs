//! Constants of two models, compared by content.
//!
//! A model has the same constant many times (zeros, shapes), so each is paired once: first with the constant of its name
//! and content, then with one of its content, then with the one of its name, and at last with the one that stands in its
//! place, once it is known which nodes belong together.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use half::{bf16, f16};
use onnxfix_ir::{
    AttrValue, DataType, Def, Element, Model, Name, Node, NodeId, Tensor, ValueId, proto,
};
use rayon::prelude::*;
use serde::Serialize;

/// How the constants of two models compare.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Constants {
    /// Constants of one name and content.
    pub same: usize,
    /// Bytes of those.
    pub same_bytes: u64,
    /// How many of them are a Constant node in one model and an initializer in the other.
    pub moved: usize,
    /// Constants of one content and two names.
    pub renamed: Vec<Renamed>,
    /// Constants of one name, or read in one place, and two contents.
    pub changed: Vec<ChangedConstant>,
    /// Constants that only the first model has, the largest first.
    pub removed: Vec<Constant>,
    /// Constants that only the second model has, the largest first.
    pub added: Vec<Constant>,
}

impl Constants {
    /// Whether nothing changed.
    pub(super) fn is_same(&self) -> bool {
        self.moved == 0
            && self.renamed.is_empty()
            && self.changed.is_empty()
            && self.removed.is_empty()
            && self.added.is_empty()
    }
}

/// A constant that only one model has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Constant {
    /// Name.
    pub name: String,
    /// Type and dimensions.
    #[serde(rename = "type")]
    pub ty: String,
    /// Bytes of its elements.
    pub bytes: u64,
    /// Whether another constant of the other model has its content.
    pub copy: bool,
}

/// A constant that is called otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Renamed {
    /// Name in the first model.
    pub before: String,
    /// Name in the second model.
    pub after: String,
    /// Type and dimensions.
    #[serde(rename = "type")]
    pub ty: String,
    /// Bytes of its elements.
    pub bytes: u64,
}

/// A constant with other content.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChangedConstant {
    /// Name in the first model.
    pub name: String,
    /// Name in the second model, where it is another one: the nodes that read both belong together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renamed: Option<String>,
    /// Type and dimensions in the first model.
    pub before: String,
    /// Type and dimensions in the second model.
    pub after: String,
    /// Which elements differ, where type and dimensions do not.
    pub elements: Option<Elements>,
}

/// Elements that differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Elements {
    /// How many.
    pub count: u64,
    /// Of how many.
    pub of: u64,
    /// Position of the first.
    pub first: Vec<u64>,
    /// The first in the first model.
    pub before: f64,
    /// The first in the second model.
    pub after: f64,
    /// The largest difference of two finite elements.
    pub largest: f64,
}

/// What stands for a constant where nodes are compared: constants that are paired have the same label, and so have all of
/// the same content.
#[derive(Debug, Default)]
pub(super) struct Labels {
    pub(super) before: HashMap<ValueId, usize>,
    pub(super) after: HashMap<ValueId, usize>,
}

/// A constant of a model.
struct Found {
    value: ValueId,
    name: Name,
    content: Content,
    is_node: bool,
}

#[derive(Clone)]
enum Content {
    Dense(Arc<Tensor>),
    Sparse(Arc<proto::SparseTensorProto>),
}

impl Content {
    /// What constants of the same content share, and others hardly do.
    fn key(&self) -> (i32, &[i64], u64) {
        match self {
            Content::Dense(t) => (t.dtype.code(), &t.dims, t.fingerprint()),
            Content::Sparse(s) => (-1, &s.dims, 0),
        }
    }

    fn same(&self, other: &Content) -> bool {
        match (self, other) {
            (Content::Dense(a), Content::Dense(b)) => Arc::ptr_eq(a, b) || a.same_content(b),
            (Content::Sparse(a), Content::Sparse(b)) => a == b,
            _ => false,
        }
    }

    fn ty(&self) -> String {
        match self {
            Content::Dense(t) => tensor_type(t),
            Content::Sparse(s) => format!("sparse{:?}", s.dims),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Content::Dense(t) => t.byte_len(),
            Content::Sparse(_) => 0,
        }
    }
}

/// Type and dimensions as ONNX text writes them.
pub(super) fn tensor_type(tensor: &Tensor) -> String {
    let dims: Vec<String> = tensor.dims.iter().map(ToString::to_string).collect();
    if dims.is_empty() {
        tensor.dtype.to_string()
    } else {
        format!("{}[{}]", tensor.dtype, dims.join(","))
    }
}

/// The value that a Constant node gives, if the node says it in numbers.
pub(super) fn constant_output(node: &Node) -> Option<(ValueId, Arc<Tensor>)> {
    if !node.op().is("Constant") {
        return None;
    }
    let tensor = node.attrs.0.iter().find_map(|attr| {
        Some(match &attr.value {
            AttrValue::Tensor(tensor) => Arc::clone(tensor),
            AttrValue::Int(i) => Arc::new(Tensor::scalar(*i)),
            AttrValue::Float(x) => Arc::new(Tensor::scalar(*x)),
            AttrValue::Ints(ints) => Arc::new(Tensor::ints(ints)),
            AttrValue::Floats(xs) => Arc::new(Tensor::new(&[xs.len() as i64], xs.clone())),
            _ => return None,
        })
    })?;
    Some((node.output(0)?, tensor))
}

fn constants(model: &Model) -> Vec<Found> {
    let mut found = Vec::new();
    for (value, v) in model.all_values() {
        let (content, is_node) = match v.def() {
            Def::Initializer(tensor) => (Content::Dense(Arc::clone(tensor)), false),
            Def::Sparse(sparse) => (Content::Sparse(Arc::clone(sparse)), false),
            &Def::Node { node, .. } => match constant_output(&model[node as NodeId]) {
                Some((_, tensor)) => (Content::Dense(tensor), true),
                None => continue,
            },
            _ => continue,
        };
        found.push(Found { value, name: v.name().clone(), content, is_node });
    }
    found
}

/// A number for each constant, the same for two exactly when their content is.
fn classes(contents: &[&Content]) -> Vec<usize> {
    let keys: Vec<_> = contents.par_iter().map(|content| content.key()).collect();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of = HashMap::new();
    for (i, key) in keys.into_iter().enumerate() {
        let group = *group_of.entry(key).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(i);
    }
    // The first of its content stands for all of them. The largest are compared first, so that no core waits for one.
    groups.sort_by_key(|group| std::cmp::Reverse(contents[group[0]].bytes()));
    let pairs: Vec<(usize, usize)> = groups
        .into_par_iter()
        .with_max_len(1)
        .flat_map_iter(|group| {
            let mut firsts: Vec<usize> = Vec::new();
            let class = |i: usize| {
                let same = firsts.iter().copied().find(|&j| contents[j].same(contents[i]));
                (
                    i,
                    same.unwrap_or_else(|| {
                        firsts.push(i);
                        i
                    }),
                )
            };
            group.into_iter().map(class).collect::<Vec<_>>()
        })
        .collect();
    let mut classes = vec![0; contents.len()];
    for (i, class) in pairs {
        classes[i] = class;
    }
    classes
}

/// The constants of two models with those that belong together, as places in both lists.
pub(super) struct Paired {
    before: Vec<Found>,
    after: Vec<Found>,
    /// A number for each content.
    of_before: Vec<usize>,
    of_after: Vec<usize>,
    pairing: Pairing,
    equal: Vec<(usize, usize)>,
    renamed: Vec<(usize, usize)>,
    changed: Vec<(usize, usize)>,
}

/// Pairs the constants of two models by content and name.
pub(super) fn pair(before: &Model, after: &Model) -> (Labels, Paired) {
    let (before, after) = (constants(before), constants(after));
    let contents: Vec<&Content> = before.iter().chain(&after).map(|c| &c.content).collect();
    let mut of_before = classes(&contents);
    // No class has this number, nor one behind it.
    let fresh = of_before.len();
    let of_after = of_before.split_off(before.len());

    let mut pairing = Pairing::new(before.len(), after.len());
    let by_name = |c: &Found| c.name.clone();
    let equal = pairing
        .pair(|i| (of_before[i], by_name(&before[i])), |i| (of_after[i], by_name(&after[i])));
    let renamed = pairing.pair(|i| of_before[i], |i| of_after[i]);
    let changed = pairing.pair(|i| by_name(&before[i]), |i| by_name(&after[i]));

    let mut labels = Labels {
        before: before.iter().zip(&of_before).map(|(c, &class)| (c.value, class)).collect(),
        after: after.iter().zip(&of_after).map(|(c, &class)| (c.value, class)).collect(),
    };
    for (n, &(b, a)) in changed.iter().enumerate() {
        labels.before.insert(before[b].value, fresh + n);
        labels.after.insert(after[a].value, fresh + n);
    }
    let paired = Paired { before, after, of_before, of_after, pairing, equal, renamed, changed };
    (labels, paired)
}

impl Paired {
    /// Pairs constants that nodes which belong together read in the same place, where neither has a counterpart yet and
    /// both have one type and size. Gives those that are paired now.
    pub(super) fn pair_by_reader(
        &mut self,
        candidates: Vec<(ValueId, ValueId)>,
    ) -> Vec<(ValueId, ValueId)> {
        let places = |all: &[Found]| -> HashMap<ValueId, usize> {
            all.iter().enumerate().map(|(i, c)| (c.value, i)).collect()
        };
        let (of_before, of_after) = (places(&self.before), places(&self.after));
        let mut found = Vec::new();
        for (before, after) in candidates {
            let (Some(&b), Some(&a)) = (of_before.get(&before), of_after.get(&after)) else {
                continue;
            };
            let free = !self.pairing.before[b] && !self.pairing.after[a];
            if free && self.before[b].content.ty() == self.after[a].content.ty() {
                (self.pairing.before[b], self.pairing.after[a]) = (true, true);
                self.changed.push((b, a));
                found.push((before, after));
            }
        }
        found
    }

    /// Compares what is paired, and lists what is not.
    pub(super) fn compare(self) -> Constants {
        let Paired { before, after, of_before, of_after, pairing, equal, renamed, changed } = self;
        let mut result = Constants::default();
        for &(b, a) in &equal {
            result.same += 1;
            result.same_bytes += before[b].content.bytes();
            result.moved += usize::from(before[b].is_node != after[a].is_node);
        }
        for &(b, a) in &renamed {
            let content = &before[b].content;
            result.renamed.push(Renamed {
                before: before[b].name.to_string(),
                after: after[a].name.to_string(),
                ty: content.ty(),
                bytes: content.bytes(),
            });
        }
        result.renamed.sort_by_key(|c| std::cmp::Reverse(c.bytes));
        let compared = changed.par_iter().map(|&(b, a)| ChangedConstant {
            name: before[b].name.to_string(),
            renamed: Some(&after[a].name)
                .filter(|&n| *n != before[b].name)
                .map(ToString::to_string),
            before: before[b].content.ty(),
            after: after[a].content.ty(),
            elements: elements(&before[b].content, &after[a].content),
        });
        result.changed = compared.collect();
        result.removed = alone(&before, &of_before, &pairing.before, &of_after);
        result.added = alone(&after, &of_after, &pairing.after, &of_before);
        result
    }
}

/// The constants without counterpart, the largest first.
fn alone(all: &[Found], of: &[usize], paired: &[bool], others: &[usize]) -> Vec<Constant> {
    let others: HashSet<usize> = others.iter().copied().collect();
    let rest = (0..all.len()).filter(|&i| !paired[i]);
    let mut alone: Vec<Constant> = rest
        .map(|i| Constant {
            name: all[i].name.to_string(),
            ty: all[i].content.ty(),
            bytes: all[i].content.bytes(),
            copy: others.contains(&of[i]),
        })
        .collect();
    alone.sort_by_key(|c| std::cmp::Reverse(c.bytes));
    alone
}

/// Which constants have their counterpart.
struct Pairing {
    before: Vec<bool>,
    after: Vec<bool>,
}

impl Pairing {
    fn new(before: usize, after: usize) -> Pairing {
        Pairing { before: vec![false; before], after: vec![false; after] }
    }

    /// Pairs those that are left and have the same key, in their order.
    fn pair<K: std::hash::Hash + Eq>(
        &mut self,
        before: impl Fn(usize) -> K,
        after: impl Fn(usize) -> K,
    ) -> Vec<(usize, usize)> {
        let mut waiting: HashMap<K, VecDeque<usize>> = HashMap::new();
        for i in (0..self.after.len()).filter(|&i| !self.after[i]) {
            waiting.entry(after(i)).or_default().push_back(i);
        }
        let mut pairs = Vec::new();
        for b in (0..self.before.len()).filter(|&i| !self.before[i]) {
            if let Some(a) = waiting.get_mut(&before(b)).and_then(VecDeque::pop_front) {
                pairs.push((b, a));
            }
        }
        for &(b, a) in &pairs {
            self.before[b] = true;
            self.after[a] = true;
        }
        pairs
    }
}

/// Which elements of two constants differ; none where they have not the same type and size, or are no numbers.
fn elements(before: &Content, after: &Content) -> Option<Elements> {
    let (Content::Dense(before), Content::Dense(after)) = (before, after) else { return None };
    if before.dtype != after.dtype || before.dims != after.dims {
        return None;
    }
    match before.dtype {
        DataType::Float => numbers::<f32>(before, after, f64::from),
        DataType::Double => numbers::<f64>(before, after, |x| x),
        DataType::Float16 => numbers::<f16>(before, after, f64::from),
        DataType::Bfloat16 => numbers::<bf16>(before, after, f64::from),
        DataType::Int64 => numbers::<i64>(before, after, |i| i as f64),
        DataType::Int32 => numbers::<i32>(before, after, f64::from),
        DataType::Int16 => numbers::<i16>(before, after, f64::from),
        DataType::Int8 => numbers::<i8>(before, after, f64::from),
        DataType::Uint64 => numbers::<u64>(before, after, |i| i as f64),
        DataType::Uint32 => numbers::<u32>(before, after, f64::from),
        DataType::Uint16 => numbers::<u16>(before, after, f64::from),
        DataType::Uint8 => numbers::<u8>(before, after, f64::from),
        DataType::Bool => numbers::<bool>(before, after, |b| f64::from(u8::from(b))),
        _ => None,
    }
}

fn numbers<T: Element>(before: &Tensor, after: &Tensor, wide: fn(T) -> f64) -> Option<Elements> {
    let mut found = Elements {
        count: 0,
        of: before.len().ok()?,
        first: Vec::new(),
        before: 0.0,
        after: 0.0,
        largest: 0.0,
    };
    let (mut start, mut first) = (0, None);
    let compared = before.side_by_side(after, |b, a| {
        let size = size_of::<T>();
        if b != a {
            // Bits decide, so that a NaN is like itself and -0 is not like 0.
            let (ours, theirs) = (T::from_raw(b), T::from_raw(a));
            let bits = b.chunks_exact(size).zip(a.chunks_exact(size));
            for (i, (bits, (&x, &y))) in bits.zip(ours.iter().zip(theirs.iter())).enumerate() {
                if bits.0 == bits.1 {
                    continue;
                }
                let (x, y) = (wide(x), wide(y));
                found.count += 1;
                if (x - y).is_finite() {
                    found.largest = found.largest.max((x - y).abs());
                }
                if first.is_none() {
                    first = Some(start + i as u64);
                    (found.before, found.after) = (x, y);
                }
            }
        }
        start += (b.len() / size) as u64;
    });
    compared.ok()?;
    found.first = position(first?, &before.dims);
    Some(found)
}

/// Where an element is, by its number.
fn position(mut at: u64, dims: &[i64]) -> Vec<u64> {
    let mut position: Vec<u64> = dims
        .iter()
        .rev()
        .map(|&d| {
            let d = d.unsigned_abs().max(1);
            let index = at % d;
            at /= d;
            index
        })
        .collect();
    position.reverse();
    position
}
