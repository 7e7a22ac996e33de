//! What the fuzz targets share: properties, the message tree, its mutations.

pub mod message;
pub mod mutate;
pub mod passes;

#[path = "../../../ir/tests/properties/mod.rs"]
pub mod properties;
