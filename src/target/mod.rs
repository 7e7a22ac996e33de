//! What the optimized model is for.

pub mod toolkit;

use std::sync::Arc;

use clap::ValueEnum;
use onnxfix_ascend::facts::Cann;
use onnxfix_ascend::platform;
use onnxfix_passes::{CostModel, NPU_ONLY, Options, PASSES, PORTABLE_ONLY, PassError, Pipeline};

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

impl Target {
    /// Whether every dimension must be a number.
    #[must_use]
    pub fn static_shapes(self) -> bool {
        self == Target::Ascend310P3
    }

    /// The opset that the target wants under a release of CANN; none where the model's own is as good.
    #[must_use]
    pub fn opset(self, cann: &Cann) -> Option<u64> {
        match self {
            // Every CANN from 5 on has all operators registered for it.
            Target::Ascend310P3 => Some(cann.opsets[1].min(13).unsigned_abs()),
            Target::Portable => None,
        }
    }

    /// What pipelines are told for this target under a release of CANN.
    #[must_use]
    pub fn options(self, cann: &Cann) -> Options {
        Options {
            static_shapes: self.static_shapes(),
            opset: self.opset(cann),
            costs: self.costs(),
            ..Options::default()
        }
    }

    /// The chip that the result is for, as ATC spells it.
    #[must_use]
    pub fn soc(self) -> Option<&'static str> {
        match self {
            Target::Ascend310P3 => Some("Ascend310P3"),
            Target::Portable => None,
        }
    }

    /// What operators cost on the target, for passes that leave one of several forms.
    #[must_use]
    pub fn costs(self) -> Option<Arc<dyn CostModel>> {
        let platform = platform::find(self.soc()?).ok()?;
        Some(Arc::new(platform.clone()))
    }

    /// The passes for this target, in order.
    ///
    /// # Errors
    /// Never, unless the lists here name a pass that is gone.
    pub fn pipeline(self) -> Result<Pipeline, PassError> {
        Pipeline::all().without(self.left_out())
    }

    /// Whether a pass belongs to this target's pipeline.
    #[must_use]
    pub fn uses(self, pass: &str) -> bool {
        PASSES.iter().any(|p| p.info().name == pass) && !self.left_out().contains(&pass)
    }

    /// Passes that are not for this target.
    fn left_out(self) -> &'static [&'static str] {
        match self {
            Target::Ascend310P3 => PORTABLE_ONLY,
            Target::Portable => NPU_ONLY,
        }
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
