//! Protobuf: loaded, checked, stored, loaded, equal. Inputs are changed as messages, not as bytes, most of the time.
#![no_main]

use libfuzzer_sys::{fuzz_crossover, fuzz_mutator, fuzz_target, fuzzer_mutate};
use onnxfix_fuzz::mutate::{cross, mutate};
use onnxfix_fuzz::{is_thorough, properties};

fuzz_target!(|bytes: &[u8]| {
    if is_thorough(bytes) {
        properties::proto(bytes);
    } else {
        properties::proto_is_read(bytes);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match mutate(&data[..size], max_size, seed) {
        Some(new) => {
            data[..new.len()].copy_from_slice(&new);
            new.len()
        }
        None => fuzzer_mutate(data, size, max_size),
    }
});

fuzz_crossover!(|a: &[u8], b: &[u8], out: &mut [u8], seed: u32| {
    let new = cross(a, b, out.len(), seed).unwrap_or_default();
    out[..new.len()].copy_from_slice(&new);
    new.len()
});
