//! Weights by content: what no pass touched is, bit for bit, what the source has.
//!
//! Samples cannot show this. A model reads a few hundred rows of a table of 128,100, and a weight that is off by little
//! drowns in the tolerance of a comparison. So every constant of the optimized model is one of three things. It is equal
//! to the constant of the same name in the source, or, when the source has none of that name, to some constant of the
//! source; a pass may have put zeros behind the entries of an axis. Or a pass made it, and says so in the tensor's metadata: then the numbers decide, and where the source
//! computes a value of that name, the engine computes it too and compares every element. Anything else is a difference.

use std::collections::HashMap;
use std::sync::Arc;

use onnxfix_ir::{AttrValue, Model, Tensor, TensorData};
use onnxfix_passes::PROVENANCE;
use rayon::prelude::*;
use serde::Serialize;

use super::measure::{alike, position, spread};

/// How the constants of two models compare.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Weights {
    /// Constants that are equal to one of the source, bit for bit, perhaps with zeros behind.
    pub unchanged: usize,
    /// Bytes of those.
    pub unchanged_bytes: u64,
    /// Constants that passes made.
    pub made: usize,
    /// How many of them the engine recomputed from the source, element by element.
    pub recomputed: usize,
    /// Constants of the source that the optimized model does not have.
    pub gone: usize,
    /// Whether constants that are neither unchanged nor marked were let pass, because the model has no marks at all.
    pub unmarked: bool,
    /// Constants that are not what they should be.
    pub changed: Vec<Changed>,
}

/// A constant that is not what it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Changed {
    /// The source has a constant of this name, type and size with other elements, and no pass says that it made this one.
    Elements {
        /// Name of the constant.
        name: String,
        /// What differs.
        #[serde(flatten)]
        difference: Difference,
    },
    /// The engine computes other elements for it from the source.
    Recomputed {
        /// Name of the constant.
        name: String,
        /// What differs.
        #[serde(flatten)]
        difference: Difference,
    },
    /// Nothing in the source is equal to it, and no pass says that it made it.
    Unknown {
        /// Name of the constant.
        name: String,
        /// Type and dimensions.
        ty: String,
    },
}

/// Where two tensors of one size differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Position of the first element that differs.
    pub first: Vec<usize>,
    /// That element in the source.
    pub before: String,
    /// That element in the optimized model.
    pub after: String,
    /// How many elements differ.
    pub count: u64,
    /// Of how many.
    pub of: u64,
}

impl std::fmt::Display for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Changed::Elements { name, difference } => {
                write!(f, "{name:?} is not what the source has: {difference}")
            }
            Changed::Recomputed { name, difference } => {
                write!(f, "{name:?} is not what the source computes: {difference}")
            }
            Changed::Unknown { name, ty } => {
                write!(f, "{name:?} ({ty}) is neither in the source nor marked as made by a pass")
            }
        }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Difference { first, before, after, count, of } = self;
        let row = first
            .first()
            .filter(|_| first.len() > 1)
            .map(|r| format!(" (row {r})"))
            .unwrap_or_default();
        write!(
            f,
            "{count} of {of} elements differ, the first at {first:?}{row}: {before} became {after}"
        )
    }
}

/// A constant somewhere in a model.
struct Constant {
    name: String,
    tensor: Arc<Tensor>,
    marked: bool,
}

/// Fewer differing elements than this part of a tensor are no transformation of it.
const FEW: f64 = 0.01;

/// What comparing all constants found.
pub(super) struct Compared {
    pub(super) report: Weights,
    /// Names, in the source, of constants that the optimized model has too.
    pub(super) unchanged: Vec<String>,
    /// Names of constants that passes made.
    pub(super) made: Vec<String>,
}

/// Compares all constants.
pub(super) fn compare(before: &Model, after: &Model) -> Compared {
    let strict = after.all_nodes().any(|(_, n)| marked(&n.metadata));
    let (before, after) = (constants(before), constants(after));
    let strict = strict || after.iter().any(|c| c.marked);
    let source = Source::new(&before);
    let findings: Vec<Finding> = after.par_iter().map(|c| source.judge(c, strict)).collect();

    let mut weights = Weights { unmarked: !strict, ..Weights::default() };
    let (mut made, mut used) = (Vec::new(), vec![false; before.len()]);
    for (constant, finding) in after.iter().zip(findings) {
        match finding {
            Finding::Unchanged(of) => {
                weights.unchanged += 1;
                weights.unchanged_bytes += constant.tensor.byte_len();
                used[of] = true;
            }
            Finding::Made => {
                weights.made += 1;
                made.push(constant.name.clone());
            }
            Finding::Changed(changed) => weights.changed.push(changed),
        }
    }
    weights.gone = used.iter().filter(|used| !**used).count();
    let unchanged =
        before.into_iter().zip(used).filter(|(_, used)| *used).map(|(c, _)| c.name).collect();
    Compared { report: weights, unchanged, made }
}

fn marked(metadata: &[(String, String)]) -> bool {
    metadata.iter().any(|(key, _)| key == PROVENANCE)
}

enum Finding {
    /// Equal to this constant of the source.
    Unchanged(usize),
    Made,
    Changed(Changed),
}

struct Source<'a> {
    constants: &'a [Constant],
    by_name: HashMap<&'a str, Vec<usize>>,
    by_type: HashMap<(i32, &'a [i64]), Vec<usize>>,
}

impl<'a> Source<'a> {
    fn new(constants: &'a [Constant]) -> Source<'a> {
        let (mut by_name, mut by_type) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (i, constant) in constants.iter().enumerate() {
            by_name.entry(constant.name.as_str()).or_default().push(i);
            by_type
                .entry((constant.tensor.dtype.code(), constant.tensor.dims.as_slice()))
                .or_default()
                .push(i);
        }
        Source { constants, by_name, by_type }
    }

    fn judge(&self, constant: &Constant, strict: bool) -> Finding {
        let tensor = &constant.tensor;
        let of_name = self.by_name.get(constant.name.as_str()).map_or(&[][..], Vec::as_slice);
        // Bodies and functions may repeat a name, so there can be several.
        if let Some(&equal) = of_name.iter().find(|&&i| same(&self.constants[i].tensor, tensor)) {
            return Finding::Unchanged(equal);
        }
        if constant.marked {
            return self.padded(tensor).map_or(Finding::Made, Finding::Unchanged);
        }
        let name = || constant.name.clone();
        if let Some(difference) =
            of_name.iter().find_map(|&i| difference(&self.constants[i].tensor, tensor))
        {
            #[expect(clippy::cast_precision_loss, reason = "a share needs no more")]
            let few = (difference.count as f64) < FEW * difference.of as f64;
            // Without marks there is no telling a transformed tensor from a damaged one, but by how much of it changed.
            if strict || few {
                return Finding::Changed(Changed::Elements { name: name(), difference });
            }
            return Finding::Made;
        }
        let of_type = self.by_type.get(&(tensor.dtype.code(), tensor.dims.as_slice()));
        match of_type.and_then(|of| of.iter().find(|&&i| same(&self.constants[i].tensor, tensor))) {
            Some(&equal) => Finding::Unchanged(equal),
            None if strict => {
                let ty = format!("{}{:?}", tensor.dtype, tensor.dims);
                Finding::Changed(Changed::Unknown { name: name(), ty })
            }
            None => Finding::Made,
        }
    }

    /// The constant of the source that this one is, but for zeros behind the entries of one axis.
    fn padded(&self, tensor: &Tensor) -> Option<usize> {
        self.by_type.iter().find_map(|(&(dtype, dims), of)| {
            let axis =
                (dtype == tensor.dtype.code()).then(|| shorter_axis(dims, &tensor.dims))??;
            of.iter().copied().find(|&i| is_padded(&self.constants[i].tensor, tensor, axis))
        })
    }
}

/// The only axis on which `long` is longer than `short`.
fn shorter_axis(short: &[i64], long: &[i64]) -> Option<usize> {
    let axis = short.iter().zip(long).position(|(s, l)| s != l)?;
    let alike = short.len() == long.len() && short[axis + 1..] == long[axis + 1..];
    (alike && short[axis] < long[axis]).then_some(axis)
}

/// Whether `long` has the entries of `short` on an axis, and zeros behind them.
fn is_padded(short: &Tensor, long: &Tensor, axis: usize) -> bool {
    let count: i64 = long.dims[..axis].iter().product();
    let (Ok(short), Ok(long), Ok(count)) = (short.raw(), long.raw(), usize::try_from(count)) else {
        return false;
    };
    // Bytes of the entries for one place on the axes before; elements of less than a byte may share one.
    let entries =
        |bytes: &[u8]| bytes.len().checked_div(count).filter(|each| each * count == bytes.len());
    let (Some(before @ 1..), Some(after)) = (entries(&short), entries(&long)) else { return false };
    short.chunks_exact(before).zip(long.chunks_exact(after)).all(|(short, long)| {
        let (entries, rest) = long.split_at(before);
        entries == short && rest.iter().all(|&byte| byte == 0)
    })
}

fn same(a: &Arc<Tensor>, b: &Arc<Tensor>) -> bool {
    Arc::ptr_eq(a, b) || a.same_content(b)
}

/// Every constant: initializers, and tensors that nodes hold as attributes.
fn constants(model: &Model) -> Vec<Constant> {
    let of_tensor = |tensor: &Tensor| tensor.extra.as_ref().is_some_and(|e| marked(&e.metadata));
    let mut constants = Vec::new();
    for (_, value) in model.all_values() {
        if let Some(tensor) = value.tensor() {
            let (name, marked) = (value.name().to_string(), of_tensor(tensor));
            constants.push(Constant { name, tensor: Arc::clone(tensor), marked });
        }
    }
    for (id, node) in model.all_nodes() {
        let of_node = marked(&node.metadata);
        for attr in &node.attrs.0 {
            let name = || match node.output(0) {
                Some(y) if node.op().is("Constant") => model[y].name().to_string(),
                _ => format!("{} {}", model.describe(id), attr.name),
            };
            let mut push = |tensor: Arc<Tensor>| {
                let marked = of_node || of_tensor(&tensor);
                constants.push(Constant { name: name(), tensor, marked });
            };
            match &attr.value {
                AttrValue::Tensor(tensor) => push(Arc::clone(tensor)),
                AttrValue::Tensors(tensors) => tensors.iter().for_each(|t| push(Arc::clone(t))),
                // The short forms of Constant, which an initializer may replace.
                AttrValue::Int(i) if node.op().is("Constant") => push(Arc::new(Tensor::scalar(*i))),
                AttrValue::Float(f) if node.op().is("Constant") => {
                    push(Arc::new(Tensor::scalar(*f)));
                }
                AttrValue::Ints(ints) if node.op().is("Constant") => {
                    push(Arc::new(Tensor::ints(ints)));
                }
                AttrValue::Floats(floats) if node.op().is("Constant") => {
                    if let Ok(len) = i64::try_from(floats.len()) {
                        push(Arc::new(Tensor::new(&[len], floats.clone())));
                    }
                }
                _ => {}
            }
        }
    }
    constants
}

/// Where two tensors of one type and size differ; none when they differ in more than elements, or not at all.
fn difference(before: &Tensor, after: &Tensor) -> Option<Difference> {
    if before.dtype != after.dtype
        || before.dims != after.dims
        || matches!(before.data, TensorData::String(_))
    {
        return None;
    }
    let (b, a) = (before.raw().ok()?, after.raw().ok()?);
    let width = usize::try_from(before.dtype.bits().div_ceil(8)).ok()?.max(1);
    let differs: Vec<usize> = (0..b.len() / width)
        .filter(|&i| b[i * width..(i + 1) * width] != a[i * width..(i + 1) * width])
        .collect();
    let first = *differs.first()?;
    Some(Difference {
        first: position(first, &before.dims),
        before: shown(before, first),
        after: shown(after, first),
        count: differs.len() as u64,
        of: (b.len() / width) as u64,
    })
}

/// Compares what a pass computed with what the engine computes from the source. Integers may have got narrower; floats
/// may differ by the rounding of a matrix product, relative to the spread of the tensor.
pub(super) fn recomputed(name: &str, before: &Tensor, after: &Tensor) -> Option<Changed> {
    const ROUNDING: f64 = 1e-5;
    let changed = |difference| Some(Changed::Recomputed { name: name.to_owned(), difference });
    let dims = |t: &Tensor| format!("{}{:?}", t.dtype, t.dims);
    if before.dims != after.dims {
        let of = after.len().unwrap_or(0);
        return changed(Difference {
            first: Vec::new(),
            before: dims(before),
            after: dims(after),
            count: of,
            of,
        });
    }
    let differs: Vec<usize> = if let (Some(b), Some(a)) = (before.to_ints(), after.to_ints()) {
        (0..b.len()).filter(|&i| a[i] != b[i]).collect()
    } else {
        let (b, a) = (before.to_floats()?, after.to_floats()?);
        let limit = ROUNDING * spread(b.iter().copied());
        let close = |b: f64, a: f64| alike(b, a) || (b - a).abs() <= limit;
        (0..b.len()).filter(|&i| !close(b[i], a[i])).collect()
    };
    let first = *differs.first()?;
    changed(Difference {
        first: position(first, &before.dims),
        before: shown(before, first),
        after: shown(after, first),
        count: differs.len() as u64,
        of: after.len().unwrap_or(0),
    })
}

fn shown(tensor: &Tensor, at: usize) -> String {
    // A float32 has fewer digits than the float64 it fits into.
    if let Ok(elements) = tensor.elements::<f32>() {
        return elements.get(at).map(|x| format!("{x:e}")).unwrap_or_default();
    }
    let ints = || tensor.to_ints().and_then(|v| v.get(at).map(i64::to_string));
    let floats = || tensor.to_floats().and_then(|v| v.get(at).map(|x| format!("{x:e}")));
    ints().or_else(floats).unwrap_or_else(|| "?".to_owned())
}
