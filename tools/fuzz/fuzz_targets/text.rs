//! ONNX text: parsed, printed, parsed, equal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onnxfix_fuzz::{is_thorough, properties};

fuzz_target!(|bytes: &[u8]| {
    if is_thorough(bytes) {
        properties::text(bytes);
    } else {
        properties::text_is_read(bytes);
    }
});
