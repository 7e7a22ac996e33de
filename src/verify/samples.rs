//! Inputs that exercise a model: ids from the whole vocabulary, every kind of padding, all segments.

use std::collections::HashSet;

use onnxfix_ir::{DataType, Element, Tensor};

use super::roles::{Input, Role};

/// What a sequence looks like. The first five are always among the samples, whatever number is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// No padding; holds the first and the last row of the vocabulary.
    Full,
    /// Padding behind the tokens.
    Right,
    /// Padding before the tokens.
    Left,
    /// A single token.
    One,
    /// Nothing but padding.
    Padding,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Full => "no padding",
            Kind::Right => "padded right",
            Kind::Left => "padded left",
            Kind::One => "one token",
            Kind::Padding => "all padding",
        })
    }
}

const KINDS: [Kind; 5] = [Kind::Full, Kind::Right, Kind::Left, Kind::One, Kind::Padding];

/// Numbers of one run: for every input its elements, wide enough for any type; and what each sequence of the batch is.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) feeds: Vec<Numbers>,
    pub(super) rows: Vec<Row>,
}

/// A sequence of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) kind: Kind,
    /// Which positions hold tokens.
    pub(super) tokens: Vec<bool>,
}

impl Row {
    /// Whether there is a token at all.
    pub(super) fn is_real(&self) -> bool {
        self.kind != Kind::Padding
    }
}

/// Elements of an input, before they get its element type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Numbers {
    Ints(Vec<i64>),
    Floats(Vec<f64>),
}

impl Numbers {
    /// The elements of a tensor.
    pub(super) fn of(tensor: &Tensor) -> Option<Numbers> {
        if tensor.dtype.is_float() {
            tensor.to_floats().map(Numbers::Floats)
        } else {
            tensor.to_ints().map(Numbers::Ints)
        }
    }

    /// The elements as a tensor of a type that a model declares.
    pub(super) fn tensor(&self, dtype: DataType, dims: &[i64]) -> Option<Tensor> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "samples are small numbers"
        )]
        let (ints, floats): (Vec<i64>, Vec<f64>) = match self {
            Numbers::Ints(v) => (v.clone(), v.iter().map(|&i| i as f64).collect()),
            Numbers::Floats(v) => (v.iter().map(|&f| f as i64).collect(), v.clone()),
        };
        match dtype {
            #[expect(clippy::cast_possible_truncation, reason = "rounds to the nearest")]
            DataType::Float => Some(Tensor::new(dims, floats.iter().map(|&x| x as f32).collect())),
            DataType::Double => Some(Tensor::new(dims, floats)),
            DataType::Float16 => {
                Some(Tensor::new(dims, floats.iter().map(|&x| half::f16::from_f64(x)).collect()))
            }
            DataType::Bool => Some(Tensor::new(dims, ints.iter().map(|&i| i != 0).collect())),
            DataType::Int64 => narrow::<i64>(dims, &ints),
            DataType::Int32 => narrow::<i32>(dims, &ints),
            DataType::Int16 => narrow::<i16>(dims, &ints),
            DataType::Int8 => narrow::<i8>(dims, &ints),
            DataType::Uint64 => narrow::<u64>(dims, &ints),
            DataType::Uint32 => narrow::<u32>(dims, &ints),
            DataType::Uint16 => narrow::<u16>(dims, &ints),
            DataType::Uint8 => narrow::<u8>(dims, &ints),
            _ => None,
        }
    }
}

/// Integers as a tensor of their declared type; none where one does not fit.
fn narrow<T: Element + TryFrom<i64>>(dims: &[i64], ints: &[i64]) -> Option<Tensor> {
    let elements = ints.iter().map(|&i| T::try_from(i).ok()).collect::<Option<Vec<T>>>()?;
    Some(Tensor::new(dims, elements))
}

/// Makes at least `wanted` sequences, in as many batches as that takes. `dims` has the dimensions of every input.
pub(super) fn generate(
    inputs: &[Input],
    dims: &[Vec<i64>],
    wanted: usize,
    seed: u64,
) -> Vec<Sample> {
    let (batch, length) = extent(inputs, dims);
    let padded = inputs.iter().any(|i| match &i.role {
        Role::Mask | Role::Bias => true,
        Role::Ids { compared, .. } => !compared.is_empty(),
        Role::Flags | Role::Data => false,
    });
    // Without padding every sequence is like the others.
    let kinds = if padded && length > 1 { KINDS.len() } else { 1 };
    let runs = wanted.max(kinds).div_ceil(batch);
    let mut random = Random::new(seed);
    let mut decks: Vec<Deck> = inputs.iter().map(|i| Deck::new(i, &mut random)).collect();
    (0..runs)
        .map(|run| {
            let rows: Vec<Row> = (0..batch)
                .map(|r| {
                    let kind = KINDS[(run * batch + r) % kinds];
                    Row { kind, tokens: tokens(kind, length, &mut random) }
                })
                .collect();
            let one = |((input, dims), deck): ((&Input, &Vec<i64>), &mut Deck)| {
                fill(input, dims, deck, &rows, &mut random)
            };
            let feeds = inputs.iter().zip(dims).zip(&mut decks).map(one).collect();
            Sample { feeds, rows }
        })
        .collect()
}

/// Sequences of a run, and positions of a sequence: the first and last dimension of the ids, else of the mask.
pub(super) fn extent(inputs: &[Input], dims: &[Vec<i64>]) -> (usize, usize) {
    let ids =
        inputs.iter().zip(dims).find(|(i, d)| matches!(i.role, Role::Ids { .. }) && !d.is_empty());
    let mask = || {
        inputs
            .iter()
            .zip(dims)
            .find(|(i, d)| matches!(i.role, Role::Mask | Role::Bias) && !d.is_empty())
    };
    let any = || inputs.iter().zip(dims).find(|(_, d)| d.len() > 1);
    let size = |d: i64| usize::try_from(d).unwrap_or(0).max(1);
    match ids.or_else(mask).or_else(any) {
        Some((_, d)) if d.len() == 1 => (1, size(d[0])),
        Some((Input { role: Role::Data | Role::Flags, .. }, d)) => (size(d[0]), 1),
        Some((_, d)) => (size(d[0]), size(d[d.len() - 1])),
        None => (1, 1),
    }
}

fn tokens(kind: Kind, length: usize, random: &mut Random) -> Vec<bool> {
    // A padded sequence has at least one token and at least one padding.
    let some = 1 + random.below(length.saturating_sub(1).max(1));
    (0..length)
        .map(|at| match kind {
            Kind::Full => true,
            Kind::Right => at < some,
            Kind::Left => at >= length - some.min(length),
            Kind::One => at == 0,
            Kind::Padding => false,
        })
        .collect()
}

/// Ids in random order without repetition, until all were dealt.
struct Deck {
    order: Vec<i64>,
    at: usize,
    range: (i64, i64),
    padding: i64,
}

impl Deck {
    fn new(input: &Input, random: &mut Random) -> Deck {
        let range = input.range().unwrap_or((0, 1));
        let range = (range.0.max(0), range.1.max(0));
        let padding = match &input.role {
            Role::Ids { compared, .. } => {
                compared.iter().copied().find(|c| (range.0..=range.1).contains(c))
            }
            _ => None,
        };
        let padding = padding.unwrap_or(range.0);
        let mut order: Vec<i64> = (range.0..=range.1).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i + 1));
        }
        Deck { order, at: 0, range, padding }
    }

    /// An id that is not padding, unless there is no other.
    fn deal(&mut self) -> i64 {
        for _ in 0..2 {
            let id = self.order[self.at];
            self.at = (self.at + 1) % self.order.len();
            if id != self.padding {
                return id;
            }
        }
        self.padding
    }
}

/// Tables of so few rows hold types of segments: they come in stretches, as a tokeniser writes them.
const SEGMENTS: i64 = 16;

fn fill(
    input: &Input,
    dims: &[i64],
    deck: &mut Deck,
    rows: &[Row],
    random: &mut Random,
) -> Numbers {
    let count = usize::try_from(dims.iter().product::<i64>()).unwrap_or(0);
    let length = rows.first().map_or(1, |r| r.tokens.len());
    // Elements of one sequence; its positions are the last axis.
    let stride = (count / rows.len().max(1)).max(1);
    let by_row =
        dims.first().is_some_and(|&d| usize::try_from(d) == Ok(rows.len())) || rows.len() == 1;
    let by_position = by_row
        && stride.is_multiple_of(length)
        && dims.last().is_some_and(|&d| usize::try_from(d) == Ok(length));
    let row = |i: usize| &rows[(i / stride).min(rows.len() - 1)];
    let is_token = |i: usize| !by_position || row(i).tokens[i % length];
    match &input.role {
        Role::Data => Numbers::Floats((0..count).map(|_| random.normal()).collect()),
        Role::Bias => {
            Numbers::Floats((0..count).map(|i| if is_token(i) { 0.0 } else { -10_000.0 }).collect())
        }
        Role::Mask => Numbers::Ints((0..count).map(|i| i64::from(is_token(i))).collect()),
        Role::Flags if by_row && stride == 1 && length > 1 && input.dtype.is_integer() => {
            let tokens = |i| row(i).tokens.iter().filter(|&&t| t).count();
            Numbers::Ints((0..count).map(|i| i64::try_from(tokens(i)).unwrap_or(0)).collect())
        }
        Role::Flags => Numbers::Ints((0..count).map(|_| i64::from(random.below(2) == 1)).collect()),
        Role::Ids { .. } if deck.range.1 - deck.range.0 < SEGMENTS => {
            segments(deck.range, count, stride, is_token, random)
        }
        Role::Ids { .. } => {
            let mut ids: Vec<i64> =
                (0..count).map(|i| if is_token(i) { deck.deal() } else { deck.padding }).collect();
            for (r, _) in
                rows.iter().enumerate().filter(|(_, row)| row.kind == Kind::Full && length > 1)
            {
                let first = random.below(length);
                let last = (first + 1 + random.below(length - 1)) % length;
                if let Some(ids) = ids.get_mut(r * stride..(r + 1) * stride) {
                    (ids[first], ids[last]) = deck.range;
                }
            }
            Numbers::Ints(ids)
        }
    }
}

fn segments(
    (low, high): (i64, i64),
    count: usize,
    stride: usize,
    is_token: impl Fn(usize) -> bool,
    random: &mut Random,
) -> Numbers {
    let mut ids = Vec::with_capacity(count);
    let kinds = usize::try_from(high - low + 1).unwrap_or(1);
    while ids.len() < count {
        // Random borders between the segments; some of them may be empty.
        let mut borders: Vec<usize> = (1..kinds).map(|_| random.below(stride + 1)).collect();
        borders.sort_unstable();
        for at in 0..stride.min(count - ids.len()) {
            let segment = borders.iter().filter(|&&b| b <= at).count();
            let segment = i64::try_from(segment).unwrap_or(0);
            ids.push(if is_token(ids.len()) { low + segment } else { low });
        }
    }
    Numbers::Ints(ids)
}

/// How many different values the samples feed to each input.
pub(super) fn distinct(samples: &[Sample], input: usize) -> HashSet<i64> {
    let ints = samples.iter().filter_map(|s| match &s.feeds[input] {
        Numbers::Ints(v) => Some(v.iter().copied()),
        Numbers::Floats(_) => None,
    });
    ints.flatten().collect()
}

/// How many different patterns of padding the samples have.
pub(super) fn patterns(samples: &[Sample]) -> usize {
    samples.iter().flat_map(|s| &s.rows).map(|r| &r.tokens).collect::<HashSet<_>>().len()
}

/// `SplitMix64`: a few lines, the same numbers on every machine, and good enough to draw test inputs.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is small against 2⁶⁴, so that the bias of the remainder does not matter.
    fn below(&mut self, n: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is below a usize")]
        let drawn = (self.next() % n.max(1) as u64) as usize;
        drawn
    }

    /// A number from the standard normal distribution, by the Box–Muller transform.
    pub(super) fn normal(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
        let mut uniform = || ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let (radius, angle) = (uniform(), uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }
}
