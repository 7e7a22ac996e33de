//! AscendCL, the C interface of Huawei's NPUs, loaded when the program runs.
//!
//! Nothing of CANN is needed to build this crate: types, values and signatures are declared here, from the public
//! documentation and headers (CANN 8.1.RC1; hicann/ge and hicann/runtime, 2026), and [`Api::load`] looks the functions up in
//! `libascendcl.so`. What only some releases have is an [`Option`]. [`search`] knows where the library usually is.
//!
//! Names are those of C, so that CANN's own documentation can be read with it. Sizes are in bytes, times in the units that
//! their items name. Every function is unsafe: the library trusts its caller. `onnxfix-npu` wraps them into types that
//! cannot be used wrongly.
#![expect(
    non_camel_case_types,
    non_snake_case,
    unsafe_code,
    reason = "names as in C, which is called here"
)]

mod codes;
mod error;
mod functions;
mod header;
pub mod search;
mod types;

pub use codes::{CODES, Code, code};
pub use error::Error;
pub use functions::{Api, FUNCTIONS, Function, LoadError};
pub use header::{Check, check, header};
pub use types::*;
