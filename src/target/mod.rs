//! What the optimized model is for.

use clap::ValueEnum;
use onnxfix_passes::{PASSES, PassError, Pipeline};

/// A target, which decides what must hold afterwards and which passes help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// Ascend 310P3, compiled by ATC: static shapes, int32 inputs.
    #[value(name = "ascend310p3")]
    Ascend310P3,
    /// Any ONNX runtime: no type of an input or output changes, shapes may stay symbolic.
    #[value(name = "portable")]
    Portable,
}

/// Passes that only a compiler without 64-bit integers wants.
const NPU_ONLY: &[&str] = &["cast-inputs-to-int32", "sink-widening-casts"];

impl Target {
    /// Whether every dimension must be a number.
    #[must_use]
    pub fn static_shapes(self) -> bool {
        self == Target::Ascend310P3
    }

    /// The passes for this target, in order.
    ///
    /// # Errors
    /// Never, unless the lists here name a pass that is gone.
    pub fn pipeline(self) -> Result<Pipeline, PassError> {
        match self {
            Target::Ascend310P3 => Ok(Pipeline::all()),
            Target::Portable => Pipeline::all().without(NPU_ONLY),
        }
    }

    /// Whether a pass belongs to this target's pipeline.
    #[must_use]
    pub fn uses(self, pass: &str) -> bool {
        PASSES.iter().any(|p| p.info().name == pass) && (self == Target::Ascend310P3 || !NPU_ONLY.contains(&pass))
    }

    /// Name as users type it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Target::Ascend310P3 => "ascend310p3",
            Target::Portable => "portable",
        }
    }
}
