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
    #[serde(default)]
    operators: Vec<String>,
    #[serde(default)]
    own: Vec<String>,
}

/// An operator's opsets, and whether it is one of ONNX.
type Registered = BTreeMap<String, (Vec<[i64; 2]>, bool)>;

static TABLE: LazyLock<Registered> = LazyLock::new(|| {
    // Compiled in, and read by a test.
    let table: Table = toml::from_str(include_str!("../data/parsers.toml"))
        .unwrap_or(Table { parser: Vec::new() });
    let mut registered = Registered::new();
    for Parsers { opsets, operators, own } in table.parser {
        registered.extend(operators.into_iter().map(|name| (name, (opsets.clone(), true))));
        registered.extend(own.into_iter().map(|name| (name, (opsets.clone(), false))));
    }
    registered
});

/// The operators of ONNX that are registered at any opset.
pub fn operators() -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(|(_, (_, of_onnx))| *of_onnx).map(|(name, _)| name.as_str())
}

/// Whether an operator of ONNX's own domain is read in models of an opset.
#[must_use]
pub fn is_registered(operator: &str, opset: i64) -> bool {
    let within = |(opsets, _): &(Vec<[i64; 2]>, bool)| {
        opsets.iter().any(|[low, high]| (*low..=*high).contains(&opset))
    };
    operator == "Constant" || TABLE.get(operator).is_some_and(within)
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
