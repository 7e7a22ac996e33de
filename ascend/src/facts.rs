//! What chips and CANN releases take: data files, compiled in, and files of the user's own in their place.
//!
//! `data/parsers.toml` has the operators that ATC can read, `data/cann/` what differs between releases, `data/chip/` what
//! the kernels of a chip compute. Each file names its source and says whether that source is explicit (`confirmed`).

use onnxfix_ir::DataType;
use serde::Deserialize;

use crate::platform::{self, Platform, PlatformError};

/// A release line of CANN.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cann {
    /// Major and minor version: "7.0".
    pub line: String,
    /// The lowest and the highest opset it takes.
    pub opsets: [i64; 2],
    /// Whether a model may import more than one operator set.
    pub several_domains: bool,
    /// Whether ATC clips constants that do not fit float16.
    pub clips_constants: bool,
    /// Whether Gather takes negative indices.
    pub negative_gather_index: bool,
    /// Whether the source says so.
    pub confirmed: bool,
    /// Where this is from.
    pub source: String,
}

/// What the kernels of a family of chips compute.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chip {
    /// Name of the family: "310P".
    pub family: String,
    /// Its chips, as `--soc_version` of ATC spells them.
    pub chips: Vec<String>,
    /// The family whose kernels are taken for this one's.
    #[serde(default)]
    pub like: Option<String>,
    /// Whether it computes in bfloat16.
    pub bfloat16: bool,
    /// Whether it computes in float64.
    pub float64: bool,
    /// Most axes of a tensor.
    #[serde(default = "eight")]
    pub max_rank: usize,
    /// Bytes of a row of values, result and indices that `GatherElements` gathers by vectors.
    #[serde(default)]
    pub gather_elements_row: u64,
    /// Bytes of data from which on `GatherElements` along another axis goes to the AI CPU.
    #[serde(default)]
    pub gather_elements_data: u64,
    /// Indices from which on it does.
    #[serde(default)]
    pub gather_elements_indices: u64,
    /// Element types by operator.
    #[serde(default)]
    pub kernels: Vec<Kernel>,
    /// Operators that ATC computes itself where all inputs are constant.
    #[serde(default)]
    pub folds: Vec<String>,
    /// Where `folds` is from.
    #[serde(default)]
    pub folds_source: String,
    /// The CANN line that `kernels` is of.
    #[serde(default)]
    pub cann: String,
    /// Whether the source says so.
    pub confirmed: bool,
    /// Where this is from.
    pub source: String,
}

fn eight() -> usize {
    8
}

/// Element types that AI Cores compute an operator in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Operators of ONNX.
    pub operators: Vec<String>,
    /// The input whose type decides.
    #[serde(default)]
    pub input: usize,
    /// Types, by their names in ONNX text; none where no AI Core has the operator.
    pub types: Vec<String>,
}

/// The operators that ATC reads.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parsers {
    /// Operators with the opsets of the models in which they may be.
    pub registered: Vec<Registration>,
    /// Where this is from.
    pub source: String,
}

/// Operators that are read in models of some opsets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The lowest and the highest opset.
    pub opsets: [i64; 2],
    /// Operators of ONNX's own domain.
    pub operators: Vec<String>,
}

/// Everything that is known of one chip under one CANN release.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The chip, as ATC spells it.
    pub soc: String,
    /// Its family.
    pub chip: Chip,
    /// The release.
    pub cann: Cann,
    /// The operators that ATC reads.
    pub parsers: Parsers,
    /// Figures of the chip that times are predicted from, where they are known.
    pub platform: Option<Platform>,
}

/// Why there are no facts.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// No chip is called so.
    #[error("no chip is called {soc:?}; known are {known}")]
    Soc {
        /// What was asked for.
        soc: String,
        /// The names there are.
        known: String,
    },
    /// No release line is called so.
    #[error("CANN {cann:?} is not known; known are {known}")]
    Cann {
        /// What was asked for.
        cann: String,
        /// The lines there are.
        known: String,
    },
    /// A file of facts cannot be read.
    #[error("the facts in {file} cannot be read")]
    File {
        /// Name of the file.
        file: String,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// The figures of a chip are incomplete.
    #[error("the table \"platform\" of {file} cannot be used")]
    Platform {
        /// Name of the file.
        file: String,
        /// What is wrong.
        source: PlatformError,
    },
    /// A type that ONNX does not have.
    #[error("{file} names the element type {name:?}, which ONNX does not have")]
    Type {
        /// Name of the file.
        file: String,
        /// The type.
        name: String,
    },
}

/// Facts of the user's own, each in the place of what is compiled in.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    cann: Option<Cann>,
    chip: Option<Chip>,
    parsers: Option<Parsers>,
    platform: Option<toml::Table>,
}

macro_rules! data {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../data/", $name)))),*] };
}

/// Oldest first.
const CANN: &[(&str, &str)] = data![
    "cann/5.1.toml",
    "cann/6.0.toml",
    "cann/6.3.toml",
    "cann/7.0.toml",
    "cann/8.0.toml",
    "cann/8.1.toml",
    "cann/8.5.toml",
];
const CHIPS: &[(&str, &str)] =
    data!["chip/310p.toml", "chip/310.toml", "chip/310b.toml", "chip/910b.toml"];
const PARSERS: (&str, &str) = ("parsers.toml", include_str!("../data/parsers.toml"));

fn read<'a, T: Deserialize<'a>>(file: &str, text: &'a str) -> Result<T, FactsError> {
    toml::from_str(text)
        .map_err(|source| FactsError::File { file: file.to_owned(), source: Box::new(source) })
}

/// The release lines of CANN, oldest first.
///
/// # Errors
/// Never, unless a file that is compiled in is broken.
pub fn releases() -> Result<Vec<Cann>, FactsError> {
    CANN.iter().map(|(file, text)| read(file, text)).collect()
}

/// The families of chips.
///
/// # Errors
/// Never, unless a file that is compiled in is broken.
pub fn chips() -> Result<Vec<Chip>, FactsError> {
    let mut chips: Vec<Chip> =
        CHIPS.iter().map(|(file, text)| read(file, text)).collect::<Result<_, _>>()?;
    for at in 0..chips.len() {
        let like = chips[at].like.clone();
        if let Some(like) = chips.iter().find(|chip| Some(&chip.family) == like.as_ref()).cloned() {
            chips[at].borrow_from(like);
        }
    }
    Ok(chips)
}

impl Chip {
    /// Takes over what is not known of this family.
    fn borrow_from(&mut self, other: Chip) {
        self.max_rank = other.max_rank;
        self.gather_elements_row = other.gather_elements_row;
        self.gather_elements_data = other.gather_elements_data;
        self.gather_elements_indices = other.gather_elements_indices;
        self.kernels = other.kernels;
        self.folds = other.folds;
        self.folds_source = other.folds_source;
        self.cann = other.cann;
    }

    /// The kernels of an operator, where it is in the table.
    #[must_use]
    pub fn kernel(&self, operator: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.operators.iter().any(|op| op == operator))
    }
}

impl Kernel {
    /// Whether an AI Core computes in this type.
    #[must_use]
    pub fn takes(&self, dtype: DataType) -> bool {
        self.types.iter().any(|name| name == dtype.name())
    }
}

impl Parsers {
    /// The opsets of models in which ATC reads this operator, in order.
    #[must_use]
    pub fn opsets(&self, operator: &str) -> Vec<[i64; 2]> {
        let of = |r: &&Registration| r.operators.iter().any(|op| op == operator);
        let mut opsets: Vec<[i64; 2]> =
            self.registered.iter().filter(of).map(|r| r.opsets).collect();
        opsets.sort_unstable();
        opsets
    }
}

impl Facts {
    /// What is known of a chip under a release. Case and a missing "Ascend" do not matter; of a release the first two
    /// numbers count, and a newer one than is known is taken for the newest.
    ///
    /// # Errors
    /// When the chip or the release is not known.
    pub fn find(soc: &str, cann: &str) -> Result<Facts, FactsError> {
        Facts::with(soc, cann, Own::default(), None)
    }

    /// As [`Facts::find`], with a file whose tables `cann`, `chip`, `parsers` and `platform` stand for those that are compiled in. A
    /// chip that only the file knows needs its table there.
    ///
    /// # Errors
    /// As [`Facts::find`], or when the file cannot be read.
    pub fn find_with(soc: &str, cann: &str, file: &str, text: &str) -> Result<Facts, FactsError> {
        let mut own: Own = read(file, text)?;
        if let Some(chip) = &mut own.chip {
            let like = chips()?.into_iter().find(|c| Some(&c.family) == chip.like.as_ref());
            if let Some(like) = like {
                chip.borrow_from(like);
            }
            let types = chip.kernels.iter().flat_map(|kernel| &kernel.types);
            if let Some(name) = types.into_iter().find(|name| DataType::from_name(name).is_none()) {
                return Err(FactsError::Type { file: file.to_owned(), name: name.clone() });
            }
        }
        let figures = own.platform.take().map(|table| Platform::parse(&table.to_string()));
        let figures = figures.transpose();
        let figures =
            figures.map_err(|source| FactsError::Platform { file: file.to_owned(), source })?;
        Facts::with(soc, cann, own, figures)
    }

    fn with(
        soc: &str,
        cann: &str,
        own: Own,
        figures: Option<Platform>,
    ) -> Result<Facts, FactsError> {
        let same = |name: &str| {
            name.eq_ignore_ascii_case(soc)
                || name.strip_prefix("Ascend").is_some_and(|n| n.eq_ignore_ascii_case(soc))
        };
        let mut all = chips()?;
        if let Some(chip) = own.chip {
            all.insert(0, chip);
        }
        let found =
            all.iter().find_map(|chip| Some((chip, chip.chips.iter().find(|name| same(name))?)));
        let Some((chip, name)) = found else {
            let known: Vec<&str> =
                all.iter().flat_map(|chip| &chip.chips).map(String::as_str).collect();
            return Err(FactsError::Soc { soc: soc.to_owned(), known: known.join(", ") });
        };
        let cann = match own.cann {
            Some(cann) => cann,
            None => release(cann)?,
        };
        let parsers = match own.parsers {
            Some(parsers) => parsers,
            None => read(PARSERS.0, PARSERS.1)?,
        };
        let platform = figures.or_else(|| platform::find(name).ok().cloned());
        Ok(Facts { soc: name.clone(), chip: chip.clone(), cann, parsers, platform })
    }
}

/// The release line that a version is of: 7.0.1 is of 7.0, 8.0.RC3 of 8.0, and what is newer than all of the newest.
///
/// # Errors
/// When it is no version, or older than all.
pub fn release(version: &str) -> Result<Cann, FactsError> {
    let number = |text: &str| {
        let mut parts = text.split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
            (Some(Ok(major)), None) => Some((major, 0)),
            _ => None,
        }
    };
    let all = releases()?;
    let known = || all.iter().map(|cann| cann.line.as_str()).collect::<Vec<_>>().join(", ");
    let unknown = || FactsError::Cann { cann: version.to_owned(), known: known() };
    let wanted = number(version).ok_or_else(unknown)?;
    // What a release between two of the table takes is what the older one took.
    let older = |cann: &&Cann| number(&cann.line).is_some_and(|line| line <= wanted);
    all.iter().rev().find(older).cloned().ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_can_be_read_and_names_types_and_operators_that_exist() {
        let parsers: Parsers = read(PARSERS.0, PARSERS.1).expect("compiled in");
        let known = |op: &String| assert!(onnxfix_ir::op::find("", op).is_some(), "{op}");
        parsers.registered.iter().flat_map(|r| &r.operators).for_each(known);
        for chip in chips().expect("compiled in") {
            assert!(!chip.kernels.is_empty(), "{}", chip.family);
            chip.folds.iter().for_each(known);
            for kernel in &chip.kernels {
                kernel.operators.iter().for_each(known);
                let unknown = kernel.types.iter().find(|t| DataType::from_name(t).is_none());
                assert_eq!(unknown, None, "{:?}", kernel.operators);
            }
        }
        assert!(releases().expect("compiled in").iter().all(|cann| !cann.source.is_empty()));
    }

    #[test]
    fn chips_and_releases_are_found_however_they_are_written() {
        for (soc, cann, want) in [
            ("Ascend310P3", "7.0", ("Ascend310P3", "7.0")),
            ("310p3", "7.0.1", ("Ascend310P3", "7.0")),
            ("ascend910b4", "8.0.RC3", ("Ascend910B4", "8.0")),
            ("Ascend310P1", "9.2", ("Ascend310P1", "8.5")),
            ("Ascend310", "6", ("Ascend310", "6.0")),
        ] {
            let facts = Facts::find(soc, cann).expect("known");
            assert_eq!((facts.soc.as_str(), facts.cann.line.as_str()), want);
        }
        let told = |soc, cann| Facts::find(soc, cann).expect_err("unknown").to_string();
        insta::assert_snapshot!(told("Ascend310P", "7.0"), @r#"
        no chip is called "Ascend310P"; known are Ascend310P1, Ascend310P3, Ascend310P5, Ascend310P7, Ascend310, Ascend310B1, Ascend310B2, Ascend310B3, Ascend310B4, Ascend910B1, Ascend910B2, Ascend910B3, Ascend910B4
        "#);
        insta::assert_snapshot!(told("Ascend310P3", "four"), @r#"
        CANN "four" is not known; known are 5.1, 6.0, 6.3, 7.0, 8.0, 8.1, 8.5
        "#);
        insta::assert_snapshot!(told("Ascend310P3", "4.9"), @r#"
        CANN "4.9" is not known; known are 5.1, 6.0, 6.3, 7.0, 8.0, 8.1, 8.5
        "#);
    }

    #[test]
    fn a_file_of_the_users_stands_for_what_is_compiled_in() {
        let own = r#"
            [chip]
            family = "test"
            chips = ["Ascend999"]
            like = "310P"
            bfloat16 = true
            float64 = false
            confirmed = true
            source = "a test"
        "#;
        let facts = Facts::find_with("Ascend999", "7.0", "own.toml", own).expect("a good file");
        assert!(facts.chip.bfloat16 && facts.chip.kernel("MatMul").is_some());
        let broken = Facts::find_with("Ascend999", "7.0", "own.toml", "[chip]\nfamily = 1");
        assert_eq!(broken.expect_err("broken").to_string(), "the facts in own.toml cannot be read");
    }
}
