//! Where decisions come from: a seed, or the bytes of a fuzzer.

/// A sequence of decisions. The same source gives the same ones on every machine.
#[derive(Debug, Clone)]
pub struct Choices<'a>(Source<'a>);

#[derive(Debug, Clone)]
enum Source<'a> {
    Seed(u64),
    Bytes(&'a [u8]),
}

impl<'a> Choices<'a> {
    /// Endless decisions that depend on the seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Choices<'static> {
        Choices(Source::Seed(seed))
    }

    /// One or two bytes per decision. Where they end, every further decision is the first of those there are.
    #[must_use]
    pub fn from_bytes(bytes: &'a [u8]) -> Choices<'a> {
        Choices(Source::Bytes(bytes))
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        match &mut self.0 {
            Source::Seed(state) => usize::try_from(next(state) % n as u64).unwrap_or(0),
            Source::Bytes(bytes) => {
                let width = if n > 256 { 2 } else { 1 };
                let (taken, rest) = bytes.split_at(width.min(bytes.len()));
                *bytes = rest;
                taken.iter().fold(0, |all, &b| all << 8 | usize::from(b)) % n
            }
        }
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below(usize::try_from(high - low + 1).unwrap_or(1)) as i64
    }

    /// True in `percent` of 100 cases; never where the bytes have ended.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) + percent >= 100
    }

    /// One of several.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }

    /// Whether a fuzzer's bytes have been used up: what follows is no decision any more.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        matches!(self.0, Source::Bytes([]))
    }
}

/// `SplitMix64`: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
