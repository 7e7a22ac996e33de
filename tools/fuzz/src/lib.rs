//! What the fuzz targets share: properties, the message tree, its mutations.

pub mod message;
pub mod mutate;
pub mod passes;

/// Whether an input gets everything that has to hold and not only the reader: one of sixteen, always the same ones, so
/// that the reader sees many more inputs in the same time. A new feature of the reader goes into the corpus either way.
pub fn is_thorough(bytes: &[u8]) -> bool {
    let sum = bytes.iter().fold(0u32, |sum, &b| sum.wrapping_mul(31).wrapping_add(u32::from(b)));
    // The upper bits depend on all bytes.
    sum.wrapping_mul(0x9e37_79b9) >> 28 == 0
}

#[path = "../../../ir/tests/properties/mod.rs"]
pub mod properties;
