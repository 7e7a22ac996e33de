//! The two tasks that the published models were made for, MNLI and SST-2: data sets, tokenizers, batches, labels, accuracy.
//!
//! Nothing here runs a model, prints, or uses the network.

pub mod dataset;
pub mod features;
pub mod labels;
pub mod metrics;
pub mod outputs;
pub mod prepare;
mod spm;
pub mod tokenizer;
