//! ONNX text: a well-formed model goes through all passes, each patch is checked, and nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| onnxfix_fuzz::passes::run(bytes));
