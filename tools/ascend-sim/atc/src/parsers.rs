//! Which operators have an ONNX parser at which opsets.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    parser: Vec<Parsers>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parsers {
    opsets: Vec<[i64; 2]>,
    operators: Vec<String>,
}

static TABLE: LazyLock<BTreeMap<String, Vec<[i64; 2]>>> = LazyLock::new(|| {
    // Compiled in, and read by a test.
    let table: Table = toml::from_str(include_str!("../data/parsers.toml"))
        .unwrap_or(Table { parser: Vec::new() });
    let pairs = table.parser.into_iter().flat_map(|parsers| {
        let opsets = parsers.opsets;
        parsers.operators.into_iter().map(move |operator| (operator, opsets.clone()))
    });
    pairs.collect()
});

/// Whether an operator of ONNX's own domain is read in models of an opset.
#[must_use]
pub fn is_registered(operator: &str, opset: i64) -> bool {
    operator == "Constant"
        || TABLE
            .get(operator)
            .is_some_and(|ranges| ranges.iter().any(|[low, high]| (*low..=*high).contains(&opset)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        assert!(
            is_registered("LayerNormalization", 17) && !is_registered("LayerNormalization", 16)
        );
        assert!(is_registered("GreaterOrEqual", 8) && !is_registered("GreaterOrEqual", 11));
        assert!(!is_registered("Gelu", 18));
    }
}
