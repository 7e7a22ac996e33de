//! The flags that say shapes, shared by commands.

use anyhow::{Context as _, Result};
use onnxfix_passes::{Options, ShapeError, parse_dim, parse_input_shapes};

/// Shapes of inputs.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Shapes")]
pub(crate) struct Shapes {
    /// Shapes of inputs, in ATC's syntax: "ids:1,256;mask:1,256". May be repeated.
    #[arg(long = "input-shape", alias = "shape", value_name = "NAME:DIMS")]
    input_shape: Vec<String>,

    /// Number for a symbolic dimension, by its name in the model: seq=256. May be repeated.
    #[arg(long = "dim", value_name = "SYMBOL=N")]
    dim: Vec<String>,

    /// Symbolic dimension that stays symbolic. May be repeated.
    #[arg(long = "keep-dim", value_name = "SYMBOL")]
    keep_dim: Vec<String>,
}

impl Shapes {
    /// Reads the flags into a pipeline's options.
    ///
    /// # Errors
    /// Names the part that cannot be read.
    pub(crate) fn apply(&self, options: &mut Options) -> Result<()> {
        for text in &self.input_shape {
            for shape in parse_input_shapes(text).context("--input-shape")? {
                if options.shapes.iter().any(|s| s.name == shape.name) {
                    return Err(ShapeError::Twice(shape.name)).context("--input-shape");
                }
                options.shapes.push(shape);
            }
        }
        options.dims =
            self.dim.iter().map(|d| parse_dim(d)).collect::<Result<_, _>>().context("--dim")?;
        options.keep_dims.clone_from(&self.keep_dim);
        Ok(())
    }
}
