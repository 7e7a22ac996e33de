//! Operators with bodies. Their types follow from the bodies'; a body may hold anything, so none is pure.

use super::infer::{Inferred, merge, nothing, several};
use super::schema::{
    attr::{graph, int, ints},
    many, one, opt,
    sets::{BOOL, INT64, NO_TENSOR, OLD_ANY, STORED},
};
use super::{Class, InferCx, InferError, Operator, Types, normal_axis};
use crate::{Dim, TensorType, Type};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("If", &[1, 11, 13, 16, 19, 21, 23, 24, 25], branch)
        .params(&[one("cond", "", BOOL)], &[many("outputs", "", STORED)])
        .attrs(&[graph("else_branch").required(), graph("then_branch").required()])
        .class(Class::IMPURE),
    Operator::new("Loop", &[1, 11, 13, 16, 19, 21, 23, 24, 25], repeat)
        .params(
            &[opt("M", "", INT64), opt("cond", "", BOOL), many("v_initial", "", STORED)],
            &[many("v_final_and_scan_outputs", "", STORED)],
        )
        .attrs(&[graph("body").required()])
        .class(Class::IMPURE),
    Operator::new("Scan", &[8, 9, 11, 16, 19, 21, 23, 24, 25], scan)
        .params(
            &[many("initial_state_and_scan_inputs", "", STORED)],
            &[many("final_state_and_scan_outputs", "", STORED)],
        )
        .attrs(&[
            graph("body").required(),
            int("num_scan_inputs").required(),
            ints("scan_input_axes").since(9),
            ints("scan_input_directions").since(9),
            ints("scan_output_axes").since(9),
            ints("scan_output_directions").since(9),
            ints("directions").until(9),
        ])
        .class(Class::IMPURE),
    Operator::new("SequenceMap", &[17], sequence_map)
        .params(
            &[one("input_sequence", "S", NO_TENSOR), many("additional_inputs", "", OLD_ANY)],
            &[many("out_sequence", "", NO_TENSOR)],
        )
        .attrs(&[graph("body").required()])
        .class(Class::IMPURE),
];

fn body<'a>(cx: &InferCx<'a>, name: &str) -> Option<&'a Types> {
    cx.bodies.iter().find(|(body, _)| *body == *name).map(|(_, types)| types)
}

/// What a value is that is one of two.
fn either(a: &Type, b: &Type) -> Option<Type> {
    if a == b {
        return Some(a.clone());
    }
    let (a, b) = (a.as_tensor()?, b.as_tensor()?);
    if a.dtype != b.dtype {
        return None;
    }
    let shape = match (&a.shape, &b.shape) {
        (Some(a), Some(b)) if a.rank() == b.rank() => Some(
            a.0.iter()
                .zip(&b.0)
                .map(|(a, b)| if a.same(b) { a.clone() } else { Dim::Unknown })
                .collect(),
        ),
        _ => None,
    };
    Some(TensorType { dtype: a.dtype, shape }.into())
}

/// The type without its shape.
fn shapeless(ty: &Type) -> Option<Type> {
    ty.as_tensor().map(|ty| TensorType { dtype: ty.dtype, shape: None }.into())
}

fn branch(cx: &InferCx<'_>) -> Inferred {
    let (Some(then), Some(other)) = (body(cx, "then_branch"), body(cx, "else_branch")) else {
        return nothing(cx);
    };
    if then.len() != other.len() {
        return Err(InferError::new(format!(
            "branches give {} and {} outputs",
            then.len(),
            other.len()
        )));
    }
    several(cx, then.iter().zip(other).map(|(a, b)| either(a.as_ref()?, b.as_ref()?)))
}

/// Types of what a body carries from round to round, and whether they stay what they were at first.
///
/// A body was inferred from the types of the first round. Where it hands on the same types, they hold in every round;
/// where not, nobody knows how shapes go on, those of the other outputs included.
fn carried(
    cx: &InferCx<'_>,
    first_input: usize,
    types: &[Option<Type>],
) -> (Vec<Option<Type>>, bool) {
    let steady = types.iter().enumerate().all(|(i, ty)| {
        let open = |ty: &Type| {
            ty.as_tensor()
                .and_then(|ty| ty.shape.as_ref())
                .is_none_or(|s| s.0.contains(&Dim::Unknown))
        };
        ty.is_some()
            && ty.as_ref() == cx.input(first_input + i).ty
            && !ty.as_ref().is_some_and(open)
    });
    let types =
        types.iter().map(|ty| if steady { ty.clone() } else { shapeless(ty.as_ref()?) }).collect();
    (types, steady)
}

/// The type of what rounds give, one above the other along `axis`.
fn stacked(
    ty: Option<&Type>,
    steady: bool,
    axis: i64,
    rounds: &Dim,
) -> Result<Option<Type>, InferError> {
    let Some(Type::Tensor(ty)) = ty else { return Ok(None) };
    let shape = match &ty.shape {
        Some(shape) if steady => {
            let mut shape = shape.clone();
            let axis = normal_axis(axis, shape.rank() + 1)?;
            shape.0.insert(axis, rounds.clone());
            Some(shape)
        }
        _ => None,
    };
    Ok(Some(TensorType { dtype: ty.dtype, shape }.into()))
}

fn repeat(cx: &InferCx<'_>) -> Inferred {
    // The body takes the round, the condition and what is carried; it gives the condition, that, and more.
    let count = cx.inputs.len().saturating_sub(2);
    let Some([_condition, rest @ ..]) = body(cx, "body").map(|types| &types[..]) else {
        return nothing(cx);
    };
    if rest.len() < count {
        return Err(InferError::new(format!(
            "a body with {} outputs carries {count} values",
            rest.len() + 1
        )));
    }
    let (kept, more) = rest.split_at(count);
    let (mut types, steady) = carried(cx, 2, kept);
    for ty in more {
        types.push(stacked(ty.as_ref(), steady, 0, &Dim::Unknown)?);
    }
    several(cx, types)
}

fn scan(cx: &InferCx<'_>) -> Inferred {
    let (Some(types), Some(scanned)) = (body(cx, "body"), cx.attrs.int("num_scan_inputs")) else {
        return nothing(cx);
    };
    // Until opset 9 there was a batch axis, and lengths.
    if cx.version < 9 {
        return nothing(cx);
    }
    let count = usize::try_from(scanned).ok().and_then(|n| cx.inputs.len().checked_sub(n));
    let Some(count) = count.filter(|&n| n <= types.len()) else {
        return Err(InferError::new(format!(
            "{scanned} of {} inputs are scanned",
            cx.inputs.len()
        )));
    };
    let (kept, more) = types.split_at(count);
    let (mut all, steady) = carried(cx, 0, kept);
    let axis = |name: &str, i: usize| {
        cx.attrs.ints(name).and_then(|axes| axes.get(i).copied()).unwrap_or(0)
    };
    // As many rounds as the scanned inputs are long.
    let mut rounds = Dim::Unknown;
    for i in 0..cx.inputs.len() - count {
        let Some(shape) = cx.shape(count + i) else { continue };
        let at = normal_axis(axis("scan_input_axes", i), shape.rank())?;
        rounds = merge(&rounds, &shape.0[at]).ok_or_else(|| {
            InferError::new(format!(
                "scanned inputs are {rounds} and {} long: {shape}",
                shape.0[at]
            ))
        })?;
    }
    for (i, ty) in more.iter().enumerate() {
        all.push(stacked(ty.as_ref(), steady, axis("scan_output_axes", i), &rounds)?);
    }
    several(cx, all)
}

fn sequence_map(cx: &InferCx<'_>) -> Inferred {
    let Some(types) = body(cx, "body") else { return nothing(cx) };
    // Elements of a sequence may differ in shape.
    several(cx, types.iter().map(|ty| Some(Type::Sequence(Box::new(shapeless(ty.as_ref()?)?)))))
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Case, ints, scalar};
    use crate::{DataType, Type};

    fn float(dims: &[i64]) -> Type {
        Type::tensor(DataType::Float, dims)
    }

    #[test]
    fn branches_may_differ() {
        let branches = |a: &[i64], b: &[i64]| {
            Case::new("If")
                .input(scalar(true))
                .body("then_branch", &[float(a)])
                .body("else_branch", &[float(b)])
                .infer()
        };
        assert_eq!(branches(&[2, 3], &[2, 3]), "float[2,3]");
        assert_eq!(branches(&[2, 3], &[2, 4]), "float[2,?]");
        assert_eq!(branches(&[2, 3], &[3]), "float[]");
    }

    #[test]
    fn loops_that_grow_have_no_shape() {
        let turn = |out: &[i64]| {
            let case = Case::new("Loop")
                .outputs(2)
                .input(ints(&[4]))
                .input(scalar(true))
                .typed(DataType::Float, "2");
            case.body("body", &[Type::tensor(DataType::Bool, &[]), float(out), float(&[3])]).infer()
        };
        assert_eq!(turn(&[2]), "float[2] float[?,3]");
        assert_eq!(turn(&[4]), "float[] float[]");
    }

    #[test]
    fn scans_stack() {
        let case =
            Case::new("Scan").outputs(2).attr("num_scan_inputs", 1_i64).typed(DataType::Float, "2");
        let case = case.typed(DataType::Float, "N,5").body("body", &[float(&[2]), float(&[3])]);
        assert_eq!(case.ints("scan_output_axes", &[1]).infer(), "float[2] float[3,N]");
    }
}
