//! What is published of a chip: cores, clock, caches, bandwidths.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// The files of `data/soc`, in the order in which they are listed.
static FILES: &[&str] = &[
    include_str!("../data/soc/ascend310.toml"),
    include_str!("../data/soc/ascend310b1.toml"),
    include_str!("../data/soc/ascend310p1.toml"),
    include_str!("../data/soc/ascend310p3.toml"),
    include_str!("../data/soc/ascend310p5.toml"),
    include_str!("../data/soc/ascend310p7.toml"),
    include_str!("../data/soc/ascend910b3.toml"),
];

/// Side of the square tiles that the matrix unit multiplies, one such product per cycle, of float16 elements.
pub const TILE: u64 = 16;

/// The figures of one chip (not of a card, which may have two).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// Name as `--soc_version` of ATC wants it, such as `Ascend310P3`.
    pub name: String,
    /// Where the figures come from.
    pub source: String,
    /// AI Cores. Each has a matrix unit that multiplies two 16×16 tiles of float16 per cycle.
    pub ai_cores: u64,
    /// Cores beside these that have a vector unit alone.
    pub vector_cores: u64,
    /// Vector units that element-wise work is spread over.
    pub vector_units: u64,
    /// Elements of float16 that a vector unit takes per cycle.
    pub vector_lanes: u64,
    /// Clock of the AI Cores, in MHz.
    pub clock_mhz: f64,
    /// Bytes of the cache that all cores share.
    pub l2_bytes: u64,
    /// Bytes of memory, where published.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Bytes of a core's own buffer for vectors (UB).
    pub buffer_bytes: u64,
    /// Processors beside the AI Cores that run what these cannot.
    pub ai_cpus: u64,
    /// Bytes that one AI Core gets from memory per cycle.
    pub memory_bytes_per_cycle: f64,
    /// Bytes that one AI Core gets from L2 per cycle.
    pub l2_bytes_per_cycle: f64,
}

/// Why there is no platform.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// No published figures are known of that chip.
    #[error("no figures of {name:?} are known; there are {}", .known.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A file is not TOML, lacks an entry, or has one too many.
    #[error("not a platform file: {0}")]
    Syntax(String),
    /// A figure makes no sense.
    #[error("not a platform file: {entry} is {value}, and has to be greater than 0")]
    Figure {
        /// Name of the entry.
        entry: &'static str,
        /// Its value.
        value: f64,
    },
}

/// Every platform whose figures come with the program.
///
/// # Panics
/// Never: a test reads every file.
#[must_use]
pub fn all() -> &'static [Platform] {
    static ALL: LazyLock<Vec<Platform>> = LazyLock::new(|| {
        let read = |text: &&str| Platform::parse(text).expect("a test reads every file");
        FILES.iter().map(read).collect()
    });
    &ALL
}

/// The platform of that name, upper and lower case alike, with or without `Ascend` in front.
///
/// # Errors
/// When there is none; the message lists those there are.
pub fn find(name: &str) -> Result<&'static Platform, PlatformError> {
    let short = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.strip_prefix("ascend").map(str::to_owned).unwrap_or(name)
    };
    all().iter().find(|p| short(&p.name) == short(name)).ok_or_else(|| PlatformError::Unknown {
        name: name.to_owned(),
        known: all().iter().map(|p| p.name.clone()).collect(),
    })
}

impl Platform {
    /// Reads a platform file: TOML with the fields of this type as entries.
    ///
    /// # Errors
    /// When an entry is missing, misspelt, or no positive number; the message says which and where.
    pub fn parse(text: &str) -> Result<Platform, PlatformError> {
        let platform: Platform = toml::from_str(text)
            .map_err(|e| PlatformError::Syntax(e.to_string().trim().to_owned()))?;
        let figures = [
            ("ai_cores", platform.ai_cores as f64),
            ("vector_units", platform.vector_units as f64),
            ("vector_lanes", platform.vector_lanes as f64),
            ("clock_mhz", platform.clock_mhz),
            ("l2_bytes", platform.l2_bytes as f64),
            ("buffer_bytes", platform.buffer_bytes as f64),
            ("ai_cpus", platform.ai_cpus as f64),
            ("memory_bytes_per_cycle", platform.memory_bytes_per_cycle),
            ("l2_bytes_per_cycle", platform.l2_bytes_per_cycle),
        ];
        // Not a number is not greater than 0 either.
        match figures.into_iter().find(|(_, value)| !(*value > 0.0 && value.is_finite())) {
            Some((entry, value)) => Err(PlatformError::Figure { entry, value }),
            None => Ok(platform),
        }
    }

    /// Operations of float16 products per second at the best: two for each multiply-add.
    #[must_use]
    pub fn peak_flops(&self) -> f64 {
        (2 * TILE.pow(3) * self.ai_cores) as f64 * self.clock_mhz * 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_platform_and_names_its_source() {
        let names: Vec<&str> = all().iter().map(|p| p.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "Ascend310",
                "Ascend310B1",
                "Ascend310P1",
                "Ascend310P3",
                "Ascend310P5",
                "Ascend310P7",
                "Ascend910B3"
            ]
        );
        assert!(all().iter().all(|p| p.source.contains(&p.name)));
        // The 70 TFLOPS that the card is sold with.
        let p3 = find("310p3").expect("a platform").peak_flops();
        assert!((p3 - 69.5e12).abs() < 0.1e12, "{p3}");
    }

    #[test]
    fn an_unknown_chip_is_an_error_that_lists_the_known_ones() {
        let err = find("Ascend310P").expect_err("no such chip").to_string();
        assert!(
            err.contains("\"Ascend310P\"") && err.contains("Ascend310P3, Ascend310P5"),
            "{err}"
        );
    }

    #[test]
    fn errors_of_a_file_name_the_entry() {
        let good = FILES[3];
        let error = |text: &str| Platform::parse(text).expect_err("an error").to_string();
        let missing = error(&good.replace("ai_cpus = 16\n", ""));
        assert!(missing.contains("missing field `ai_cpus`"), "{missing}");
        let extra = error(&good.replace("ai_cpus", "ai_cpu"));
        assert!(extra.contains("unknown field `ai_cpu`") && extra.contains("line"), "{extra}");
        let zero = error(&good.replace("clock_mhz = 1060", "clock_mhz = 0"));
        assert_eq!(zero, "not a platform file: clock_mhz is 0, and has to be greater than 0");
        assert!(error("ai_cores = many").contains("not a platform file"));
    }
}
