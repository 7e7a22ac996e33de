//! The few numbers that every comparison needs.

/// Largest minus smallest of the finite numbers; their magnitude where all are the same one; 0 where there are none.
pub(crate) fn spread(numbers: impl Iterator<Item = f64>) -> f64 {
    let finite = numbers.filter(|x| x.is_finite());
    let (low, high) =
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    match high - low {
        spread if spread > 0.0 => spread,
        _ if high.is_finite() => high.abs(),
        _ => 0.0,
    }
}

/// Whether both are the same number, the same infinity, or no number.
#[expect(clippy::float_cmp, reason = "what is exactly the same is what is asked")]
pub(super) fn alike(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

/// A flat position along every axis.
pub(super) fn position(mut at: usize, dims: &[i64]) -> Vec<usize> {
    let mut position = vec![0; dims.len()];
    for (p, &d) in position.iter_mut().zip(dims).rev() {
        let d = usize::try_from(d).unwrap_or(1).max(1);
        *p = at % d;
        at /= d;
    }
    position
}
