//! What the inputs of a text model are, for those who fill them with a text's tokens.

use onnxfix_ir::{DataType, Model};

use super::roles::{self, Role};

/// An input of a text model.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenInput {
    /// Its name.
    pub name: String,
    /// Type of the elements.
    pub dtype: DataType,
    /// Its dimensions, none where they are open; none at all where the model does not say how many there are.
    pub dims: Option<Vec<Option<i64>>>,
    /// What it takes.
    pub takes: Takes,
}

/// What an input takes for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A row of a table with this many rows.
    Row(i64),
    /// 1 for a token, 0 for padding.
    Mask,
    /// An integer that the model does not use, or not in a way that tells what it is.
    Integer,
    /// Something else than tokens.
    Other,
}

/// Finds out what each input of a model takes, by what the model does with it.
#[must_use]
pub fn token_inputs(model: &Model) -> Vec<TokenInput> {
    let values = roles::inputs(model);
    let inputs = roles::analyse(model).into_iter().zip(values);
    inputs
        .map(|(input, value)| {
            let takes = match (input.range(), &input.role) {
                (Some((_, last)), _) => Takes::Row(last + 1),
                (None, Role::Mask) => Takes::Mask,
                (None, Role::Flags) => Takes::Integer,
                _ => Takes::Other,
            };
            let shape = model[value].shape();
            let dims = shape.map(|s| s.0.iter().map(onnxfix_ir::Dim::fixed).collect());
            TokenInput { name: input.name, dtype: input.dtype, dims, takes }
        })
        .collect()
}
