//! What differs between the releases that can be simulated.

/// A release of CANN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Its name: `8.1.RC1`.
    pub name: &'static str,
    /// Major and minor version.
    pub line: (u32, u32),
}

impl Release {
    /// All that can be simulated, oldest first.
    pub const NAMES: [&str; 7] =
        ["5.1.RC2", "6.0.1", "6.3.RC2", "7.0.0", "8.0.RC2", "8.1.RC1", "8.5.0"];

    /// A release by its name or its line: `8.1`.
    #[must_use]
    pub fn of(name: &str) -> Option<Release> {
        let name = Self::NAMES.into_iter().find(|full| {
            full.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })?;
        Some(Release { name, line: line(name)? })
    }

    /// The highest opset that it reads.
    #[must_use]
    pub fn max_opset(&self) -> i64 {
        if self.line >= (7, 0) { 18 } else { 13 }
    }

    /// Whether a model may import more than one operator set.
    #[must_use]
    pub fn several_domains(&self) -> bool {
        self.line >= (8, 5)
    }

    /// The code of an operator without a parser.
    #[must_use]
    pub fn no_parser(&self) -> &'static str {
        if self.line >= (8, 5) { "E16002" } else { "E19010" }
    }

    /// Whether messages name their process and time.
    pub(crate) fn names_process(&self) -> bool {
        self.line >= (8, 0)
    }
}

/// Major and minor version at the start of a text.
pub(crate) fn line(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map_while(|part| part.parse().ok());
    Some((numbers.next()?, numbers.next().unwrap_or(0)))
}
