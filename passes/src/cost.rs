//! What a pass asks that can leave the same numbers in several forms.

use std::fmt;

/// How long operators take on a target. Elements are those of float16.
pub trait CostModel: fmt::Debug + Send + Sync {
    /// Microseconds of a product of `batch` matrices of `rows`×`depth` with matrices of `depth`×`columns`, given in this
    /// order.
    fn product(&self, sizes: [u64; 4], at: Storage) -> f64;

    /// Microseconds of an operator that reads and writes so many elements, and computes next to nothing.
    fn copy(&self, read: u64, written: u64, at: Storage) -> f64;

    /// Elements that the cache holds which all cores share.
    fn cache(&self) -> u64;
}

/// Where the elements come from that an operator reads, and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// The cache that all cores share.
    Cache,
    /// Memory.
    Memory,
}

impl Storage {
    /// Where so many elements are when the next operator reads them.
    pub(crate) fn of(elements: u64, costs: &dyn CostModel) -> Storage {
        if elements <= costs.cache() { Storage::Cache } else { Storage::Memory }
    }
}

/// The share of the time that a form has to save at least: models of costs are no better, and what is rewritten for nothing
/// is harder to read.
pub(crate) const LEAST: f64 = 0.05;

/// Whether a form that takes `then` microseconds saves more than this share of `now`.
pub(crate) fn pays(now: f64, then: f64, share: f64) -> bool {
    then < now * (1.0 - share)
}
