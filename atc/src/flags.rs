//! Which flags a release of ATC has.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::AtcError;
use crate::toolkit::Toolkit;

/// The flags of one release of ATC, without dashes. ATC stops at a flag that it does not know, so nothing else is given to
/// it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    names: BTreeSet<String>,
}

impl Flags {
    /// Runs `atc --help` in the toolkit's environment.
    ///
    /// # Errors
    /// When it does not run, or prints no flags.
    pub fn ask(toolkit: &Toolkit) -> Result<Flags, AtcError> {
        let no_help = |what: String| AtcError::NoHelp { path: toolkit.atc.clone(), what };
        let output = Command::new(&toolkit.atc)
            .arg("--help")
            .envs(toolkit.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| no_help(format!("does not start: {error}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let flags = Flags::parse(&text);
        if flags.names.contains("model") && flags.names.contains("soc_version") {
            return Ok(flags);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let said = errors.lines().chain(text.lines()).rfind(|line| !line.trim().is_empty());
        let said = said.unwrap_or("nothing").trim();
        let likely = if said.contains("error while loading shared libraries") {
            "; the library of the toolkit or of the driver is not on LD_LIBRARY_PATH: run `source set_env.sh` of the \
             toolkit first (without a driver on this machine, add its devlib folder)"
        } else {
            "; is it an ATC at all? `onnxfix doctor` looks at the installation"
        };
        Err(no_help(format!("lists no flags, it says: {said}{likely}")))
    }

    /// The flags that a help text lists: words that begin a line with two dashes.
    #[must_use]
    pub fn parse(help: &str) -> Flags {
        let names = help.lines().filter_map(|line| {
            let word = line.trim_start().strip_prefix("--")?;
            let end =
                word.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(word.len());
            (end > 0).then(|| word[..end].to_owned())
        });
        Flags { names: names.collect() }
    }

    /// Flags by name, for command lines that no ATC checked.
    #[must_use]
    pub fn of(names: &[&str]) -> Flags {
        Flags { names: names.iter().map(|&name| name.to_owned()).collect() }
    }

    /// The flags that releases from 7.0 on have, as far as command lines made here use them.
    #[must_use]
    pub fn usual() -> Flags {
        Flags::of(&[
            "model",
            "output",
            "framework",
            "soc_version",
            "input_format",
            "input_shape",
            "dynamic_batch_size",
            "precision_mode",
            "precision_mode_v2",
            "keep_dtype",
            "op_select_implmode",
            "optypelist_for_implmode",
            "op_compiler_cache_mode",
            "op_compiler_cache_dir",
            "log",
        ])
    }

    /// Whether the release has a flag.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// All of them, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Flags that a description mentions are not flags that it describes.
    #[test]
    fn a_line_begins_with_its_flag() {
        let help = "usage: atc <args>\nexample: atc --model=m --mode=0\n\n  --model             Model file\n  \
                    --dynamic_batch_size Set batch. Not with --dynamic_dims\n     E.g.: \"--framework\"\n";
        let flags = Flags::parse(help);
        assert_eq!(flags.names().collect::<Vec<_>>(), ["dynamic_batch_size", "model"]);
    }
}
