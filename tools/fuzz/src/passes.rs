//! The pipeline on models that come from nowhere.

use onnxfix_ir::{check, text};
use onnxfix_passes::{Options, PassError, Pipeline, run as run_passes};

/// Runs every pass on a text that is a well-formed model.
///
/// # Panics
/// When a pass breaks the model.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(model) = text::parse(text) else { return };
    if !check(&model).is_empty() {
        return;
    }
    for static_shapes in [true, false] {
        let mut model = model.clone();
        let options = Options { static_shapes, check_each: true, ..Options::default() };
        match run_passes(&mut model, &Pipeline::all(), &options, &mut |_, _| ()) {
            Ok(_) => assert_eq!(check(&model).first().map(ToString::to_string), None),
            Err(err @ PassError::Broken { .. }) => panic!("{err}"),
            Err(err) => assert!(!err.to_string().is_empty()),
        }
    }
}
