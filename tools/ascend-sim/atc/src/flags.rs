//! Flags: which the release has, and what they may be.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::release::line;
use crate::{Problem, Release};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    flag: Vec<Flag>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Flag {
    names: Vec<String>,
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    values: Vec<String>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    // Compiled in, and read by a test.
    toml::from_str(include_str!("../data/flags.toml")).unwrap_or(Table { flag: Vec::new() })
});

impl Flag {
    fn is_in(&self, release: &Release) -> bool {
        let version = |text: &Option<String>| text.as_deref().and_then(line);
        version(&self.since).is_none_or(|since| release.line >= since)
            && version(&self.until).is_none_or(|until| release.line <= until)
    }
}

/// The flag of a name in a release.
fn find(name: &str, release: &Release) -> Option<&'static Flag> {
    TABLE.flag.iter().find(|flag| flag.is_in(release) && flag.names.iter().any(|n| n == name))
}

/// What `--help` prints.
pub(crate) fn help(release: &Release) -> String {
    let mut text = String::from("usage: atc <args>\nflags of the simulated release:\n");
    for flag in TABLE.flag.iter().filter(|flag| flag.is_in(release)) {
        for name in &flag.names {
            // Writing to a text does not fail.
            let _ = writeln!(text, "  --{name:<28} {}", flag.values.join(", "));
        }
    }
    text
}

/// Why a command line is refused.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It cannot be read, which ATC says on stderr.
    Unknown(String),
    /// A value that a flag may not have.
    Problem(Problem),
}

/// Reads a command line: `--flag=value` or `--flag value`, with one dash or two, and `-` for `_` in names.
pub(crate) fn parse(
    arguments: &[String],
    release: &Release,
) -> Result<BTreeMap<String, String>, Refused> {
    let mut given = BTreeMap::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            return Err(Refused::Unknown(format!("Non-option parameter: {word}")));
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let name = name.replace('-', "_");
        let Some(flag) = find(&name, release) else {
            return Err(Refused::Unknown(format!("unknown command line flag '{name}'")));
        };
        let Some(value) = value.or_else(|| words.next().cloned()) else {
            return Err(Refused::Unknown(format!("flag '--{name}' is missing its argument")));
        };
        if !flag.values.is_empty() && !flag.values.contains(&value) {
            let code = if name == "log" { "E10010" } else { "E10001" };
            let text =
                format!("--{name} is {value:?}, which is none of {}", flag.values.join(", "));
            return Err(Refused::Problem(Problem::error(code, &text)));
        }
        given.insert(name, value);
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str, release: &str) -> Result<BTreeMap<String, String>, Refused> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(&words, &Release::of(release).unwrap())
    }

    #[test]
    fn every_spelling() {
        let given = parsed("--model=a -output b --soc-version=c", "8.1").unwrap();
        assert_eq!(
            given.into_iter().map(|(k, v)| k + &v).collect::<String>(),
            "modelaoutputbsoc_versionc"
        );
    }

    #[test]
    fn a_flag_comes_with_its_release() {
        assert!(parsed("--precision_mode_v2=fp16", "7.0").is_ok());
        let Err(Refused::Unknown(what)) = parsed("--precision_mode_v2=fp16", "6.0") else {
            panic!()
        };
        assert_eq!(what, "unknown command line flag 'precision_mode_v2'");
        assert!(help(&Release::of("5.1").unwrap()).contains("--auto_tune_mode"));
        assert!(!help(&Release::of("6.0").unwrap()).contains("--auto_tune_mode"));
    }
}
