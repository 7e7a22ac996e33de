//! ONNX text syntax.
//!
//! The syntax is ONNX's own (`docs/Syntax.md` of ONNX), so a text can be given to `onnx.parser` and what
//! `onnx.printer` prints can be read here, as long as it has not left elements out.
//!
//! What the syntax has no words for is lost in a text, and [`Mode::Full`] counts it in comments at the top:
//! documentation and metadata of graphs, nodes, values and tensors, documentation of attributes, quantisation
//! annotations, training information, device configurations, denotations of types.
//! These differences are lost without a word:
//! - between absent and empty: domains, names of graphs, operator sets without version;
//! - which field of a tensor held its elements, and segments; external data that was loaded is written as its place;
//! - how an unknown dimension was spelt (-1, an empty name, nothing);
//! - the bits of a NaN other than its sign;
//! - names of bodies, and of tensors in attributes, that are no identifiers;
//! - `value_info` without a name.
//!
//! Beyond ONNX's syntax, the elements of a float16 or bfloat16 tensor may be written by value when they have a point or
//! an exponent (integers are bit patterns), those of types of less than 8 bits as one integer each, and the name of a
//! body may be quoted. Lists of tensors, types and bodies are read and written; ONNX's parser takes them as empty.

mod build;
mod lex;
mod literal;
mod omit;
mod parse;
mod print;
mod tree;

#[cfg(test)]
mod tests;

pub use print::{Mode, PrintError, print, print_graph};

use build::Builder;
use lex::{Cursor, Parsed};
use parse::MODEL_KEYS;
use tree::HeaderText;

use crate::op::normal_domain;
use crate::{Model, Name, Opset};

/// Version of the file format for texts without header: it has functions and initializers that are not inputs.
const DEFAULT_IR_VERSION: i64 = 8;

/// Why a text is not a model, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was expected and what is there.
    pub message: String,
}

impl TextError {
    /// The message under the line of `text` that it speaks of, with a caret at the place.
    #[must_use]
    pub fn render(&self, text: &str) -> String {
        let TextError { line, column, message } = self;
        let source = text.split('\n').nth(line.saturating_sub(1)).unwrap_or("").trim_end();
        let margin = " ".repeat(line.to_string().len());
        // Tabs stay tabs, so that the caret stands below its place however wide they are.
        let indent: String = source
            .chars()
            .chain(std::iter::repeat(' '))
            .take(column - 1)
            .map(|c| if c == '\t' { c } else { ' ' })
            .collect();
        format!("{margin} |\n{line} | {source}\n{margin} | {indent}^ {message}")
    }
}

/// Reads a model: header, graph, functions.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(text: &str) -> Result<Model, TextError> {
    parse_with(text, |cursor| cursor.header(MODEL_KEYS)).map_err(|fail| fail.locate(text))
}

/// Reads a graph, and functions after it, that has no header: `opset` is the version of ONNX's own operator set.
/// Every other domain that a node of the graph names is imported in version 1.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse_graph(text: &str, opset: i64) -> Result<Model, TextError> {
    let header = HeaderText {
        header: crate::Header { ir_version: Some(DEFAULT_IR_VERSION), ..crate::Header::default() },
        overload: None,
        opsets: vec![Opset { domain: Some(Name::default()), version: Some(opset) }],
    };
    let mut model = parse_with(text, |_| Ok(header)).map_err(|fail| fail.locate(text))?;
    import_domains(&mut model);
    Ok(model)
}

fn parse_with<'t>(
    text: &'t str,
    header: impl FnOnce(&mut Cursor<'t>) -> Parsed<HeaderText>,
) -> Parsed<Model> {
    let mut cursor = Cursor::new(text);
    let mut model = Model::new();
    let header = header(&mut cursor)?;
    model.header = header.header;
    model.opsets = header.opsets;
    let graph = cursor.graph()?;
    let root = model.root();
    Builder::new(&mut model).graph(root, graph)?;
    while !cursor.is_end() {
        let function = cursor.function()?;
        Builder::new(&mut model).function(function)?;
    }
    Ok(model)
}

fn import_domains(model: &mut Model) {
    let mut missing: Vec<Name> = Vec::new();
    for (_, node) in model.all_nodes() {
        let domain = node.op().domain();
        let known = |opset: &Opset| normal_domain(opset.domain.as_deref().unwrap_or("")) == domain;
        if !model.opsets.iter().any(known) && !missing.iter().any(|m| *m == domain) {
            missing.push(domain.into());
        }
    }
    model
        .opsets
        .extend(missing.into_iter().map(|domain| Opset { domain: Some(domain), version: Some(1) }));
}
