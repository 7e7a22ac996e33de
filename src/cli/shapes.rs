//! The flags that say shapes, shared by commands.

use anyhow::{Context as _, Result, bail};
use onnxfix_passes::{DimBinding, InputShape, Options, ShapeError, parse_dim, parse_input_shapes};

use crate::verify::Subject;

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

    /// Reads the flags for a command that runs these models. Every symbol that the user names must be a dimension of an
    /// input, and models run with numbers.
    ///
    /// # Errors
    /// Names the flag that is wrong.
    pub(crate) fn numbers(
        &self,
        command: &str,
        models: &[&Subject],
    ) -> Result<(Vec<InputShape>, Vec<DimBinding>)> {
        let mut given = Options::default();
        self.apply(&mut given)?;
        if let Some(symbol) = given.keep_dims.first() {
            bail!(
                "--keep-dim {symbol}: {command} runs the models, so every dimension is a number; use --dim {symbol}=N"
            );
        }
        let has = |s: &Subject, symbol: &str| {
            let mut shapes =
                s.model[s.model.root()].inputs().iter().filter_map(|&v| s.model[v].shape());
            shapes.any(|shape| {
                shape.0.iter().any(|d| d.symbols().iter().any(|name| name.as_str() == symbol))
            })
        };
        let unknown = |d: &&DimBinding| !models.iter().any(|model| has(model, &d.symbol));
        match given.dims.iter().find(unknown) {
            Some(unknown) => {
                bail!("--dim {}: no model has an input with that dimension", unknown.symbol)
            }
            None => Ok((given.shapes, given.dims)),
        }
    }
}
