//! Samples that the user has.

use onnxfix_ir::Tensor;

use super::roles::{Input, Role};
use super::samples::{self, Kind, Numbers, Row, Sample};

/// What to run, in place of generated samples.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// For every run a tensor for every input, with the dimensions that [`super::slots`] says.
    pub runs: Vec<Vec<Tensor>>,
    /// For every run what its sequences are called.
    pub names: Vec<Vec<String>>,
}

/// The samples, with what the model takes for padding.
pub(super) fn samples(given: &Given, inputs: &[Input], dims: &[Vec<i64>]) -> Option<Vec<Sample>> {
    let (batch, length) = samples::extent(inputs, dims);
    let one = |tensors: &Vec<Tensor>| {
        let feeds = tensors.iter().map(Numbers::of).collect::<Option<Vec<Numbers>>>()?;
        let rows = (0..batch).map(|row| describe(inputs, &feeds, row, batch, length)).collect();
        Some(Sample { feeds, rows })
    };
    given.runs.iter().map(one).collect()
}

/// Where the tokens of a sequence are: where its mask says so, else where its ids are no padding.
fn describe(inputs: &[Input], feeds: &[Numbers], row: usize, batch: usize, length: usize) -> Row {
    let of = |numbers: &Numbers, is: &dyn Fn(f64) -> bool| -> Option<Vec<bool>> {
        let all: Vec<bool> = match numbers {
            #[expect(clippy::cast_precision_loss, reason = "ids and masks are small")]
            Numbers::Ints(v) => v.iter().map(|&i| is(i as f64)).collect(),
            Numbers::Floats(v) => v.iter().map(|&x| is(x)).collect(),
        };
        // Of a mask with more axes nothing is known here.
        (all.len() == batch * length).then(|| all[row * length..(row + 1) * length].to_vec())
    };
    let pairs = || inputs.iter().zip(feeds);
    let by_mask = pairs().find_map(|(input, numbers)| match input.role {
        Role::Mask => of(numbers, &|x| x != 0.0),
        Role::Bias => of(numbers, &|x| x > -1.0),
        _ => None,
    });
    let by_ids = || {
        pairs().find_map(|(input, numbers)| match &input.role {
            #[expect(clippy::cast_precision_loss, reason = "ids are small")]
            Role::Ids { compared, .. } if !compared.is_empty() => {
                of(numbers, &|x| compared.iter().all(|&padding| (x - padding as f64).abs() > 0.5))
            }
            _ => None,
        })
    };
    let tokens = by_mask.or_else(by_ids).unwrap_or_else(|| vec![true; length]);
    Row { kind: kind(&tokens), tokens }
}

fn kind(tokens: &[bool]) -> Kind {
    match tokens.iter().filter(|&&token| token).count() {
        0 if tokens.is_empty() => Kind::Full,
        0 => Kind::Padding,
        n if n == tokens.len() => Kind::Full,
        1 if tokens[0] => Kind::One,
        _ if tokens[0] => Kind::Right,
        _ => Kind::Left,
    }
}
