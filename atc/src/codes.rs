//! What the codes of ATC's messages mean, and what helps.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::Message;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Codes {
    explanation: Vec<Entry>,
    family: Vec<Family>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    codes: Vec<String>,
    #[serde(default)]
    contains: Vec<String>,
    #[serde(flatten)]
    explanation: Explanation,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    prefix: String,
    means: String,
}

/// What a message means for a model that this program compiles.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Explanation {
    /// What happened.
    pub means: String,
    /// Its usual cause.
    pub cause: String,
    /// What helps.
    pub cure: String,
    /// Passes that remove the cause.
    #[serde(default)]
    pub passes: Vec<String>,
    /// Flags that have to do with it.
    #[serde(default)]
    pub flags: Vec<String>,
    /// Where this is from.
    pub source: String,
    /// Whether the source says so; it is inferred otherwise.
    pub confirmed: bool,
}

static CODES: LazyLock<Codes> = LazyLock::new(|| {
    // The file is compiled in and a test reads it, so that this cannot fail in the field.
    toml::from_str(include_str!("../data/codes.toml"))
        .unwrap_or(Codes { explanation: Vec::new(), family: Vec::new() })
});

/// What is known of a message: the entry of its code whose texts it has, else the general one.
#[must_use]
pub fn explain(message: &Message) -> Option<&'static Explanation> {
    let trace = message.trace.iter().map(String::as_str);
    let text: String = std::iter::once(message.text.as_str())
        .chain(message.cause.as_deref())
        .chain(trace)
        .flat_map(|text| [text, "\n"])
        .collect::<String>()
        .to_lowercase();
    let applies = |entry: &&Entry| {
        entry.codes.contains(&message.code)
            && (entry.contains.is_empty()
                || entry.contains.iter().any(|part| text.contains(&part.to_lowercase())))
    };
    CODES.explanation.iter().find(applies).map(|entry| &entry.explanation)
}

/// What codes of this kind are about: "the parser of ONNX models".
#[must_use]
pub fn family(code: &str) -> Option<&'static str> {
    CODES.family.iter().find(|f| code.starts_with(&f.prefix)).map(|f| f.means.as_str())
}

/// All codes that have an explanation.
pub fn explained() -> impl Iterator<Item = (&'static str, &'static Explanation)> {
    CODES
        .explanation
        .iter()
        .flat_map(|entry| entry.codes.iter().map(|code| (code.as_str(), &entry.explanation)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_messages;

    #[test]
    fn the_file_is_read_and_its_passes_exist() {
        let codes: Result<Codes, _> = toml::from_str(include_str!("../data/codes.toml"));
        codes.unwrap();
        assert!(explained().count() > 100);
        for (code, explanation) in explained() {
            for pass in &explanation.passes {
                onnxfix_passes::find(pass).unwrap_or_else(|error| panic!("{code}: {error}"));
            }
        }
    }

    #[test]
    fn a_text_narrows_a_code() {
        let means = |output: &str| &explain(&parse_messages(output)[0]).unwrap().means;
        assert_eq!(
            means("E10001: Value [x] for parameter [--soc_version] is invalid."),
            "the chip's name is none that this release compiles for"
        );
        assert_eq!(
            means("E10001: Value [x] for parameter [--mode] is invalid."),
            "a flag is missing or has a value that it must not have"
        );
        assert_eq!(
            means(
                "E20001: Failed to compile Op [s].\n  TraceBack\n  No module named 'decorator'\n"
            ),
            "the Python that compiles kernels lacks a module"
        );
    }

    #[test]
    fn an_unknown_code_has_a_family() {
        assert_eq!(explain(&parse_messages("E10099: x")[0]), None);
        assert_eq!(family("E10099"), Some("a flag or its value"));
        assert_eq!(family("E19099"), Some("the graph engine"));
    }
}
