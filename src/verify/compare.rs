//! How far the outputs of two models are apart.
//!
//! The measure is relative to the *spread* of an output: the largest minus the smallest number that the original gives,
//! over all samples with at least one token. A constant offset that all logits share must not hide a difference, so the
//! largest magnitude would be the wrong yardstick. Where the original gives one number only, that magnitude is used.

use onnxfix_ir::{DataType, Tensor};
use serde::Serialize;

use super::measure::{alike, position, spread};
use super::samples::Row;

/// Largest difference relative to the spread for outputs of this type, where the user gives none.
pub(super) fn default_rtol(dtype: DataType) -> f64 {
    match dtype {
        // Eleven bits of mantissa, and a few dozen layers that round.
        DataType::Float16 | DataType::Bfloat16 => 1e-2,
        _ => 1e-4,
    }
}

/// How one output compares over all samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Output {
    /// Name of the output.
    pub name: String,
    /// Element type.
    pub dtype: String,
    /// Dimensions in one run.
    pub dims: Vec<i64>,
    /// Largest difference of two elements; for integers and bools 1 where any differ.
    pub max_difference: f64,
    /// Largest minus smallest number of the original.
    pub spread: f64,
    /// `max_difference / spread`.
    pub relative: f64,
    /// Largest difference that passes.
    pub tolerance: f64,
    /// Smallest cosine between the two results of a sequence (of a run, where sequences cannot be told apart).
    pub cosine: f64,
    /// Along the last axis, where it has several elements: how often both have their largest element at the same place.
    pub argmax: Option<Agreement>,
    /// Elements that are NaN or infinite on one side and not, or not alike, on the other.
    pub not_finite: u64,
    /// Where the largest difference is.
    pub worst: Option<Element>,
    /// The same for sequences that are all padding, whose numbers have no meaning.
    pub padding: Option<Padding>,
    /// Whether everything above is within its limit.
    pub equal: bool,
}

/// How often two models agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// Times they agree.
    pub same: u64,
    /// Times they were asked.
    pub of: u64,
}

/// An element of an output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Element {
    /// Which run.
    pub run: usize,
    /// Position along every axis.
    pub at: Vec<usize>,
    /// What the original gives.
    pub before: f64,
    /// What the optimized model gives.
    pub after: f64,
}

/// Outputs of sequences that are all padding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Padding {
    /// Largest difference.
    pub max_difference: f64,
    /// Elements that are finite in the original only.
    pub not_finite: u64,
    /// Whether the difference counts.
    pub counts: bool,
}

/// The limits of a comparison.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rtol: Option<f64>,
    pub(super) atol: f64,
    /// Two largest values that are closer than this part of the spread are a tie.
    pub(super) tie: f64,
    /// Whether numbers at padding count: a sequence that is all padding, and padded positions of token-level outputs.
    pub(super) padding_counts: bool,
}

/// One output of one run, on both sides.
pub(super) struct Pair<'a> {
    pub(super) before: &'a Tensor,
    pub(super) after: &'a Tensor,
    pub(super) rows: &'a [Row],
}

/// Compares one output over all runs. Types and dimensions are equal already.
pub(super) fn compare(name: &str, pairs: &[Pair<'_>], limits: Limits) -> Output {
    let (dtype, dims) = pairs
        .first()
        .map_or((DataType::Float, Vec::new()), |p| (p.before.dtype, p.before.dims.clone()));
    let mut output = Output {
        name: name.to_owned(),
        dtype: dtype.to_string(),
        dims,
        max_difference: 0.0,
        spread: 0.0,
        relative: 0.0,
        tolerance: 0.0,
        cosine: 1.0,
        argmax: None,
        not_finite: 0,
        worst: None,
        padding: None,
        equal: true,
    };
    if !dtype.is_float() {
        exact(&mut output, pairs);
        return output;
    }
    let numbers: Vec<Numbers> =
        pairs.iter().map(|p| Numbers::new(p, limits.padding_counts)).collect();
    output.spread = spread(numbers.iter().flat_map(Numbers::real).map(|(_, before, _)| before));
    output.tolerance =
        limits.rtol.unwrap_or_else(|| default_rtol(dtype)) * output.spread + limits.atol;

    let mut agreement = Agreement { same: 0, of: 0 };
    for (run, n) in numbers.iter().enumerate() {
        for (at, before, after) in n.real() {
            let difference = (before - after).abs();
            if !(before.is_finite() && after.is_finite()) {
                let alike = alike(before, after);
                output.not_finite += u64::from(!alike);
                if !alike && output.worst.is_none() {
                    output.worst = Some(n.element(run, at));
                }
            } else if difference > output.max_difference {
                output.max_difference = difference;
                output.worst = Some(n.element(run, at));
            }
        }
        output.cosine = n.cosine().fold(output.cosine, f64::min);
        n.argmax(limits.tie * output.spread, &mut agreement);
        output.not_finite +=
            n.of(What::Skipped).filter(|(_, b, a)| b.is_finite() && !a.is_finite()).count() as u64;
        if n.has_padding() {
            let padding = output.padding.get_or_insert(Padding {
                max_difference: 0.0,
                not_finite: 0,
                counts: limits.padding_counts,
            });
            for (_, before, after) in n.padding() {
                let difference = (before - after).abs();
                if difference.is_finite() {
                    padding.max_difference = padding.max_difference.max(difference);
                }
                let lost =
                    if limits.padding_counts { !alike(before, after) } else { before.is_finite() };
                padding.not_finite += u64::from(!(before.is_finite() && after.is_finite()) && lost);
            }
        }
    }
    if output.spread > 0.0 {
        output.relative = output.max_difference / output.spread;
    }
    output.argmax = (agreement.of > 0).then_some(agreement);
    let padding = output.padding.as_ref();
    output.equal = output.max_difference <= output.tolerance
        && output.not_finite == 0
        && agreement.same == agreement.of
        && padding.is_none_or(|p| {
            p.not_finite == 0 && (!p.counts || p.max_difference <= output.tolerance)
        });
    output
}

/// Integers and bools: every bit counts.
fn exact(output: &mut Output, pairs: &[Pair<'_>]) {
    output.equal = pairs.iter().all(|p| p.before.same_content(p.after));
    output.max_difference = if output.equal { 0.0 } else { 1.0 };
    let different = pairs.iter().enumerate().find_map(|(run, p)| {
        let (before, after) = (p.before.to_ints()?, p.after.to_ints()?);
        let at = before.iter().zip(&after).position(|(b, a)| b != a)?;
        #[expect(clippy::cast_precision_loss, reason = "shown to people")]
        let (b, a) = (before[at] as f64, after[at] as f64);
        Some(Element { run, at: position(at, &p.before.dims), before: b, after: a })
    });
    output.worst = different;
}

/// What the numbers of a run mean, sequence by sequence.
struct Numbers {
    before: Vec<f64>,
    after: Vec<f64>,
    dims: Vec<i64>,
    /// Elements of one sequence.
    stride: usize,
    /// For every element of the sequences, whether it is compared as real, as padding, or not at all.
    what: Vec<What>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Real,
    /// The sequence is all padding.
    Padding,
    /// A padded position of a sequence with tokens, whose numbers may differ but must stay numbers.
    Skipped,
}

impl Numbers {
    fn new(pair: &Pair<'_>, padding_counts: bool) -> Numbers {
        let before = pair.before.to_floats().unwrap_or_default();
        let after = pair.after.to_floats().unwrap_or_default();
        let dims = pair.before.dims.clone();
        let batch = pair.rows.len();
        let is =
            |axis: usize, n: usize| dims.get(axis).is_some_and(|&d| usize::try_from(d) == Ok(n));
        let length = pair.rows.first().map_or(1, |r| r.tokens.len());
        // An output without the batch on its first axis cannot be taken apart: all of it counts.
        if batch == 0 || !is(0, batch) || !before.len().is_multiple_of(batch) {
            return Numbers {
                what: vec![What::Real; before.len()],
                stride: before.len(),
                before,
                after,
                dims,
            };
        }
        let stride = before.len() / batch;
        let by_position = length > 1 && is(1, length) && dims.len() > 1;
        let what = (0..before.len())
            .map(|i| {
                let row = &pair.rows[i / stride];
                let position = if by_position { (i % stride) / (stride / length) } else { 0 };
                match (row.is_real(), by_position && !row.tokens[position]) {
                    (false, _) => What::Padding,
                    (true, true) if !padding_counts => What::Skipped,
                    (true, _) => What::Real,
                }
            })
            .collect();
        Numbers { before, after, dims, stride, what }
    }

    fn of(&self, what: What) -> impl Iterator<Item = (usize, f64, f64)> {
        let all = self.before.iter().zip(&self.after).zip(&self.what).enumerate();
        all.filter(move |(_, (_, w))| **w == what).map(|(i, ((&b, &a), _))| (i, b, a))
    }

    fn real(&self) -> impl Iterator<Item = (usize, f64, f64)> {
        self.of(What::Real)
    }

    fn padding(&self) -> impl Iterator<Item = (usize, f64, f64)> {
        self.of(What::Padding)
    }

    fn has_padding(&self) -> bool {
        self.what.contains(&What::Padding)
    }

    fn element(&self, run: usize, at: usize) -> Element {
        Element {
            run,
            at: position(at, &self.dims),
            before: self.before[at],
            after: self.after[at],
        }
    }

    /// The cosine of every sequence that has a direction.
    fn cosine(&self) -> impl Iterator<Item = f64> {
        let sequences = (0..self.before.len().checked_div(self.stride).unwrap_or(0))
            .map(move |s| s * self.stride);
        sequences.filter_map(move |start| {
            let range = start..start + self.stride;
            let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
            for i in range.filter(|&i| self.what[i] == What::Real) {
                ab += self.before[i] * self.after[i];
                aa += self.before[i] * self.before[i];
                bb += self.after[i] * self.after[i];
            }
            // A sequence of zeros on both sides has no direction; one of zeros on one side is as far off as can be.
            match (aa > 0.0, bb > 0.0) {
                (false, false) => None,
                (true, true) => Some(ab / (aa.sqrt() * bb.sqrt())),
                _ => Some(0.0),
            }
        })
    }

    fn argmax(&self, tie: f64, agreement: &mut Agreement) {
        let classes = self.dims.last().and_then(|&d| usize::try_from(d).ok()).unwrap_or(0);
        if classes < 2 {
            return;
        }
        let rows = self.before.chunks_exact(classes).zip(self.after.chunks_exact(classes));
        for ((before, after), what) in rows.zip(self.what.chunks_exact(classes)) {
            if what[0] != What::Real || before.iter().chain(after).any(|x| x.is_nan()) {
                continue;
            }
            let (b, a) = (largest(before), largest(after));
            agreement.of += 1;
            agreement.same += u64::from(b == a || before[b] - before[a] <= tie);
        }
    }
}

pub(super) fn largest(row: &[f64]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &x)| if x > row[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::samples::Kind;

    const LIMITS: Limits = Limits { rtol: None, atol: 0.0, tie: 1e-6, padding_counts: true };

    fn rows(kinds: &[Kind]) -> Vec<Row> {
        kinds.iter().map(|&kind| Row { kind, tokens: vec![kind != Kind::Padding; 4] }).collect()
    }

    fn of(before: &[f32], after: &[f32], kinds: &[Kind], limits: Limits) -> Output {
        let dims =
            [kinds.len(), before.len() / kinds.len()].map(|n| i64::try_from(n).expect("small"));
        let (before, after) =
            (Tensor::new(&dims, before.to_vec()), Tensor::new(&dims, after.to_vec()));
        compare("y", &[Pair { before: &before, after: &after, rows: &rows(kinds) }], limits)
    }

    #[test]
    fn the_limit_is_relative_to_the_spread_not_to_the_magnitude() {
        let full = [Kind::Full];
        assert!(of(&[1000.0, 1001.0], &[1000.0, 1001.0], &full, LIMITS).equal);
        let output = of(&[1000.0, 1001.0], &[1000.0, 1001.01], &full, LIMITS);
        assert!(!output.equal && output.worst.is_some_and(|w| w.at == [0, 1]));
    }

    #[test]
    fn a_flipped_argmax_is_a_difference_within_the_limit() {
        let output = of(
            &[0.0, 0.00001, 1.0, -1.0],
            &[0.00002, 0.0, 1.0, -1.0],
            &[Kind::Full, Kind::Right],
            LIMITS,
        );
        assert!(output.max_difference < output.tolerance);
        assert_eq!(output.argmax, Some(Agreement { same: 1, of: 2 }));
        assert!(!output.equal);
    }

    #[test]
    fn not_a_number_equals_only_itself() {
        let nan = f32::NAN;
        assert!(of(&[nan, 1.0, 0.0], &[nan, 1.0, 0.0], &[Kind::Full], LIMITS).equal);
        assert_eq!(of(&[0.5, 1.0, 0.0], &[nan, 1.0, 0.0], &[Kind::Full], LIMITS).not_finite, 1);
        assert_eq!(
            of(&[f32::INFINITY, 1.0], &[f32::NEG_INFINITY, 1.0], &[Kind::Full], LIMITS).not_finite,
            1
        );
    }

    #[test]
    fn a_sequence_of_padding_counts_only_where_the_target_says_so() {
        let kinds = [Kind::Full, Kind::Padding];
        let (before, after) = ([0.0, 1.0, 0.5, 0.2], [0.0, 1.0, 0.7, 0.1]);
        assert!(!of(&before, &after, &kinds, LIMITS).equal);
        let lenient = Limits { padding_counts: false, ..LIMITS };
        let output = of(&before, &after, &kinds, lenient);
        assert!(output.equal, "{output:?}");
        assert!(!of(&before, &[0.0, 1.0, f32::NAN, 0.1], &kinds, lenient).equal);
    }
}
