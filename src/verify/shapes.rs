//! The dimensions that both models are run with.

use onnxfix_ir::{Dim, Model};

use super::{InputError, Options, interface};

/// Batch for models that leave it open. Two, so that a mix-up of sequences shows.
const BATCH: i64 = 2;
/// Any other dimension that is left open.
const LENGTH: i64 = 16;

/// The dimensions of every input, and what the user should know about them.
pub(super) fn resolve(
    before: &Model,
    after: &Model,
    options: &Options,
) -> Result<(Vec<Vec<i64>>, Vec<String>), InputError> {
    let pairs = interface::same_inputs(before, after).unwrap_or_default();
    let exists = |name: &str| pairs.iter().any(|&(b, _)| before[b].name() == name);
    if let Some(shape) = options.shapes.iter().find(|s| !exists(&s.name)) {
        return Err(InputError::NoInput(shape.name.clone()));
    }
    let (mut all, mut notes) = (Vec::new(), Vec::new());
    for (b, a) in pairs {
        let name = before[b].name().to_string();
        if before[b].dtype().is_none() || after[a].dtype().is_none() {
            return Err(InputError::Undeclared { name, what: "type" });
        }
        let given = options.shapes.iter().find(|s| s.name == name).map(|s| &s.dims);
        let declared = match (after[a].shape().or(before[b].shape()), given) {
            (Some(shape), _) => shape.clone(),
            (None, Some(given)) => onnxfix_ir::Shape::unknown(given.len()),
            (None, None) => return Err(InputError::Undeclared { name, what: "rank" }),
        };
        let contradicts = |given: &Vec<i64>| {
            given.len() != declared.rank()
                || declared.0.iter().zip(given).any(|(d, &g)| d.fixed().is_some_and(|d| d != g))
        };
        if let Some(given) = given.filter(|g| contradicts(g)) {
            let (declared, given) = (declared.to_string(), format!("{given:?}"));
            return Err(InputError::Shape { name, declared, given });
        }
        let of_source = before[b].shape().filter(|s| s.rank() == declared.rank());
        let mut dims = Vec::with_capacity(declared.rank());
        for (axis, dim) in declared.0.iter().enumerate() {
            let number =
                |symbol: &str| options.dims.iter().find(|d| d.symbol == symbol).map(|d| d.value);
            let bound = |dim: &Dim| dim.replace_symbols(&number).fixed();
            let source = of_source.map(|s| &s.0[axis]);
            let known = dim.fixed().or(given.map(|g| g[axis])).or_else(|| bound(dim));
            let known = known.or_else(|| source.and_then(|d| d.fixed().or_else(|| bound(d))));
            dims.push(known.unwrap_or_else(|| {
                let tried = if axis == 0 { BATCH } else { LENGTH };
                let note = match dim {
                    Dim::Symbol(symbol) => {
                        format!("dimension {symbol:?} is open; {tried} was tried")
                    }
                    _ => format!("axis {axis} of {name:?} is open; {tried} was tried"),
                };
                if !notes.contains(&note) {
                    notes.push(note);
                }
                tried
            }));
        }
        all.push(dims);
    }
    Ok((all, notes))
}
