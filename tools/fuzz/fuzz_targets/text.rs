//! ONNX text: parsed, printed, parsed, equal.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| onnxfix_fuzz::properties::text(bytes));
