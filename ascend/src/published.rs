//! Throughputs that others have published of the chip 310P3, from `validation/published.toml`.

use std::sync::LazyLock;

use serde::Deserialize;

/// A model with published throughputs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PublishedModel {
    /// Its name.
    pub name: String,
    /// The folder of the public repository Ascend/ModelZoo-PyTorch, under `ACL_PyTorch`, whose README has the figures.
    pub source: String,
    /// The release of CANN that it ran with.
    pub cann: String,
    /// Which of `validation/graphs` it is: `deberta-v3-base`.
    pub graph: String,
    points: Vec<Points>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Points {
    seq: u64,
    #[serde(default)]
    batches: Option<Vec<u64>>,
    fps: Vec<f64>,
}

/// Batches of points that do not name theirs.
const BATCHES: [u64; 6] = [1, 4, 8, 16, 32, 64];

impl PublishedModel {
    /// Samples per second with so many samples in a batch and tokens in a sample, if published.
    #[must_use]
    pub fn fps(&self, seq: u64, batch: u64) -> Option<f64> {
        let points = self.points.iter().find(|points| points.seq == seq)?;
        let batches = points.batches.as_deref().unwrap_or(&BATCHES);
        let at = batches.iter().position(|&b| b == batch)?;
        points.fps.get(at).copied()
    }
}

/// Every model with published throughputs.
///
/// # Panics
/// Never: a test reads the file.
#[must_use]
pub fn published() -> &'static [PublishedModel] {
    #[derive(Deserialize)]
    struct File {
        model: Vec<PublishedModel>,
    }
    static READ: LazyLock<Vec<PublishedModel>> = LazyLock::new(|| {
        let text = include_str!("../validation/published.toml");
        toml::from_str::<File>(text).expect("a test reads the file").model
    });
    &READ
}

/// The model that a name speaks of: `deberta_v3_base.onnx` has the words of `deberta-v3-base` in a row.
#[must_use]
pub fn named(name: &str) -> Option<&'static PublishedModel> {
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.map(str::to_ascii_lowercase).collect()
    };
    let name = words(name);
    published().iter().find(|model| {
        let graph = words(&model.graph);
        name.windows(graph.len()).any(|part| part == graph)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_sequence_and_batch() {
        let deberta = named("exports/DeBERTa_v3_base.opt.onnx").unwrap();
        assert_eq!((&*deberta.source, deberta.fps(256, 8)), ("contrib/nlp/deberta", Some(4.639)));
        assert_eq!((deberta.fps(128, 8), deberta.fps(256, 2)), (None, None));
        assert_eq!(named("convbert_base"), None, "is no bert-base");
        assert_eq!(named("albert-base").map(|model| &*model.graph), Some("albert-base"));
    }
}
