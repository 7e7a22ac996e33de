//! Input shapes as users write them, and what can be wrong with them.

use serde::Serialize;

/// Shape of one input: `input_ids:1,256`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputShape {
    /// Name of the input.
    pub name: String,
    /// Dimensions, all positive.
    pub dims: Vec<i64>,
}

/// A number for a symbolic dimension: `seq=256`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DimBinding {
    /// The symbol as the model writes it.
    pub symbol: String,
    /// The number, positive.
    pub value: i64,
}

/// Shapes that cannot be read, or do not go with the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// Not of the form `name:1,256`.
    #[error(
        "cannot read {text:?}: {why}; an input shape is written name:1,256 and several are joined by ';'"
    )]
    Syntax {
        /// The part that cannot be read.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not of the form `seq=256`.
    #[error("cannot read {text:?}: {why}; a dimension is written symbol=256")]
    DimSyntax {
        /// What was typed.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// One input was given two shapes.
    #[error("input {0:?} is given two shapes")]
    Twice(String),
    /// The model has no such input.
    #[error("the model has no input {name:?}; its inputs are {inputs}")]
    NoInput {
        /// What the user typed.
        name: String,
        /// The inputs there are, with shapes.
        inputs: String,
    },
    /// The model has no such symbolic dimension.
    #[error("the model has no dimension {symbol:?}; its symbolic dimensions are {symbols}")]
    NoSymbol {
        /// What the user typed.
        symbol: String,
        /// The symbols there are.
        symbols: String,
    },
    /// The number of dimensions differs.
    #[error("input {name:?} has {want} dimensions {declared}, but {have} were given: {given}")]
    Rank {
        /// The input.
        name: String,
        /// Rank in the model.
        want: usize,
        /// Shape in the model.
        declared: String,
        /// Rank given.
        have: usize,
        /// Shape given.
        given: String,
    },
    /// One symbol would have two values.
    #[error("dimension {symbol:?} would be {first} for {first_at} and {second} for {second_at}")]
    Conflict {
        /// The symbol.
        symbol: String,
        /// One value.
        first: i64,
        /// Where it comes from.
        first_at: String,
        /// The other value.
        second: i64,
        /// Where it comes from.
        second_at: String,
    },
    /// A dimension that the target needs is not given.
    #[error(
        "dimension {dim} of input {name:?} {declared} is not fixed, and the target needs static shapes: add {flag}"
    )]
    NotGiven {
        /// The input.
        name: String,
        /// Position of the dimension.
        dim: usize,
        /// Shape in the model.
        declared: String,
        /// The flag that says it.
        flag: String,
    },
}

/// Reads shapes in ATC's syntax, `input_ids:1,256;input_mask:1,256`; also `name:[1,256]` and `name:1x256`.
/// A scalar input is written `name:`.
///
/// # Errors
/// Names the part that cannot be read.
pub fn parse_input_shapes(text: &str) -> Result<Vec<InputShape>, ShapeError> {
    let syntax = |part: &str, why: String| ShapeError::Syntax { text: part.into(), why };
    let parts: Vec<&str> = text.split(';').map(str::trim).filter(|p| !p.is_empty()).collect();
    if parts.is_empty() {
        return Err(syntax(text, "there is nothing in it".into()));
    }
    let mut shapes: Vec<InputShape> = Vec::new();
    for part in parts {
        // Names may hold colons, dimensions do not.
        let Some((name, dims)) = part.rsplit_once(':') else {
            return Err(syntax(part, "there is no ':' between name and dimensions".into()));
        };
        if name.is_empty() {
            return Err(syntax(part, "the name is empty".into()));
        }
        let dims = dims.trim().trim_start_matches('[').trim_end_matches(']');
        let separator = if dims.contains(',') { ',' } else { 'x' };
        let dims = dims
            .split(separator)
            .map(str::trim)
            .filter(|d| !(d.is_empty() && dims.is_empty()))
            .map(|d| positive(d).map_err(|why| syntax(part, why)))
            .collect::<Result<Vec<i64>, _>>()?;
        if shapes.iter().any(|s| s.name == name) {
            return Err(ShapeError::Twice(name.into()));
        }
        shapes.push(InputShape { name: name.into(), dims });
    }
    Ok(shapes)
}

/// Reads `symbol=256`.
///
/// # Errors
/// When it has another form.
pub fn parse_dim(text: &str) -> Result<DimBinding, ShapeError> {
    let syntax = |why: String| ShapeError::DimSyntax { text: text.into(), why };
    let Some((symbol, value)) = text.rsplit_once('=') else {
        return Err(syntax("there is no '=' between symbol and number".into()));
    };
    let value = positive(value.trim()).map_err(syntax)?;
    Ok(DimBinding { symbol: symbol.trim().into(), value })
}

fn positive(text: &str) -> Result<i64, String> {
    match text.parse::<i64>() {
        Ok(n) if n > 0 => Ok(n),
        Ok(n) => Err(format!("a dimension of {n} is not possible, dimensions are at least 1")),
        Err(_) => Err(format!("{text:?} is not a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_syntaxes_in_use() {
        for text in ["a:1,2;b:3", "a:[1,2];b:[3]", "a:1x2 ; b:3;"] {
            let shapes = parse_input_shapes(text).expect(text);
            assert_eq!(
                shapes.iter().map(|s| s.dims.clone()).collect::<Vec<_>>(),
                [vec![1, 2], vec![3]]
            );
        }
        assert_eq!(parse_input_shapes("t:0:1,2").expect("colon in the name")[0].name, "t:0");
        assert!(parse_input_shapes("scalar:").expect("scalar")[0].dims.is_empty());
    }

    #[test]
    fn says_what_cannot_be_read() {
        for (text, why) in [
            ("ids", "no ':'"),
            (":1,2", "name is empty"),
            ("ids:1,0", "dimension of 0"),
            ("ids:1,-2", "dimension of -2"),
            ("ids:1,,2", "\"\" is not a number"),
            ("ids:one", "\"one\" is not a number"),
            ("", "nothing in it"),
            ("a:1;a:2", "two shapes"),
        ] {
            let err = parse_input_shapes(text).expect_err(text).to_string();
            assert!(err.contains(why), "{text}: {err}");
        }
    }
}
