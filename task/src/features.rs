//! Rows of numbers that models take: which input holds what, lengths, batches.

use onnxfix_ir::DataType;
use serde::{Deserialize, Serialize};

use crate::tokenizer::Tokens;

/// What an input of a model holds for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holds {
    /// The token's id; the padding id behind the last.
    Ids,
    /// 1 for a token, 0 for padding.
    Mask,
    /// 1 in the second text of a pair, else 0.
    Segments,
}

impl Holds {
    /// What inputs of a name hold in every export that is known; none where the name does not tell.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Holds> {
        match name {
            "input_ids" | "ids" => Some(Holds::Ids),
            "input_mask" | "attention_mask" | "mask" => Some(Holds::Mask),
            "token_type_ids" | "segment_ids" | "type_ids" => Some(Holds::Segments),
            _ => None,
        }
    }
}

/// The type of the numbers. Files hold them with the lowest byte first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// 32-bit signed integers: what the DeBERTa sample and models for an NPU take.
    Int32,
    /// 64-bit signed integers: what exporters write.
    Int64,
}

impl Element {
    /// The type of tensors of such numbers.
    #[must_use]
    pub fn dtype(self) -> DataType {
        match self {
            Element::Int32 => DataType::Int32,
            Element::Int64 => DataType::Int64,
        }
    }

    /// Bytes of a number.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Element::Int32 => 4,
            Element::Int64 => 8,
        }
    }
}

/// An input to fill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Its name, which is also the name of its folder.
    pub name: String,
    /// What it holds.
    pub holds: Holds,
    /// In which type.
    pub element: Element,
}

/// The samples of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Tokens of a row.
    pub length: usize,
    /// Positions of the samples in the data set, in their order.
    pub samples: Vec<u32>,
}

/// Sorts samples into the shortest length that holds them; lengths that nothing goes into are left out.
///
/// `lengths` has to be in ascending order; what is longer than the last goes there and must be cut before.
#[must_use]
pub fn buckets(tokens: &[Tokens], lengths: &[usize]) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> =
        lengths.iter().map(|&length| Bucket { length, samples: Vec::new() }).collect();
    for (sample, tokens) in (0..).zip(tokens) {
        let fits = lengths.partition_point(|&length| length < tokens.ids.len());
        if let Some(bucket) = buckets.get_mut(fits.min(lengths.len() - 1)) {
            bucket.samples.push(sample);
        }
    }
    buckets.retain(|bucket| !bucket.samples.is_empty());
    buckets
}

/// The numbers of one batch for one input: `batch` rows of `length`, row after row.
///
/// Rows behind the last sample are all 0, the mask too, as the sample's own preparation pads its last batch; ids have the
/// padding id there, which is 0 in both published vocabularies.
#[must_use]
pub fn fill(
    tokens: &[Tokens],
    samples: &[u32],
    (batch, length): (usize, usize),
    input: &Input,
    pad: u32,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(batch * length * input.element.size());
    let mut push = |number: u32| match input.element {
        // An id beyond 31 bits would need a table that fits no device.
        Element::Int32 => bytes.extend(number.to_le_bytes()),
        Element::Int64 => bytes.extend(u64::from(number).to_le_bytes()),
    };
    let filler = if input.holds == Holds::Ids { pad } else { 0 };
    for row in 0..batch {
        let tokens = samples.get(row).and_then(|&sample| tokens.get(sample as usize));
        let tokens = tokens.map_or(&[][..], |tokens| match input.holds {
            Holds::Ids | Holds::Mask => &tokens.ids[..],
            Holds::Segments => &tokens.segments[..],
        });
        let used = tokens.len().min(length);
        for &number in &tokens[..used] {
            push(if input.holds == Holds::Mask { 1 } else { number });
        }
        for _ in used..length {
            push(filler);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32]) -> Tokens {
        Tokens { ids: ids.to_vec(), segments: vec![0; ids.len()], cut: false }
    }

    #[test]
    fn samples_go_to_the_shortest_length_that_fits() {
        let lengths = [1, 4, 3, 2, 4].map(|n| tokens(&vec![7; n]));
        let found = buckets(&lengths, &[2, 3, 4]);
        assert_eq!(
            found,
            [
                Bucket { length: 2, samples: vec![0, 3] },
                Bucket { length: 3, samples: vec![2] },
                Bucket { length: 4, samples: vec![1, 4] },
            ]
        );
        assert_eq!(buckets(&lengths[..1], &[2, 3]).len(), 1);
    }

    #[test]
    fn a_batch_is_filled_up_to_its_length_and_its_rows() {
        let all = [
            Tokens { ids: vec![5, 6, 7], segments: vec![0, 0, 1], cut: false },
            Tokens { ids: vec![8], segments: vec![0], cut: false },
        ];
        let filled = |holds, element| {
            let input = Input { name: "x".to_owned(), holds, element };
            fill(&all, &[1, 0], (3, 4), &input, 9)
        };
        let numbers = |bytes: &[u8]| -> Vec<i32> {
            bytes.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let ids = filled(Holds::Ids, Element::Int32);
        assert_eq!(numbers(&ids), [8, 9, 9, 9, 5, 6, 7, 9, 9, 9, 9, 9]);
        let mask = filled(Holds::Mask, Element::Int32);
        assert_eq!(numbers(&mask), [1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0]);
        let segments = filled(Holds::Segments, Element::Int64);
        assert_eq!(segments.len(), 3 * 4 * 8);
        assert_eq!(segments[6 * 8..7 * 8], 1_i64.to_le_bytes());
    }
}
