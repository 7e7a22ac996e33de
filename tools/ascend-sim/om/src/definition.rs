//! The model's definition: the messages of `ge_ir.proto` as far as they say how a model was compiled.

use std::collections::BTreeMap;

use prost::Message as _;

use crate::OmError;

/// How a model was compiled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Name of the model: the file's, without its ending.
    pub name: String,
    /// The chip, as `--soc_version` of ATC spells it: `Ascend310P3`.
    pub soc: String,
    /// The release of CANN that the stand-in simulated: `8.1.RC1`.
    pub release: String,
    /// The command line of the compiler.
    pub command: String,
    /// Batch sizes that one can choose from when the model runs (`--dynamic_batch_size`), in the order of the flag. None
    /// for a model of one size.
    pub gears: Vec<u64>,
    /// The dimensions of all inputs, one behind the other, for each size that one can choose from (`--dynamic_dims`). None
    /// where batch sizes, or nothing, are chosen from.
    pub dims: Vec<Vec<i64>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ModelDef {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    custom_version: String,
    #[prost(btree_map = "string, message", tag = "11")]
    attr: BTreeMap<String, AttrDef>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AttrDef {
    #[prost(oneof = "Value", tags = "1, 2, 3, 5")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(message, tag = "1")]
    List(ListValue),
    #[prost(bytes, tag = "2")]
    Text(Vec<u8>),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(bool, tag = "5")]
    Bool(bool),
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListValue {
    #[prost(int64, repeated, tag = "3")]
    ints: Vec<i64>,
}

/// The attribute that tells the stand-in's files from ATC's.
const SIMULATED: &str = "simulated";
/// The attributes of the gears, which ATC keeps in the graph.
const GEARS: &str = "dynamic_batch_size";
const DIMS: &str = "dynamic_dims";
const RANK: &str = "dynamic_dims_rank";

pub(crate) fn encode(description: &Description, weights: usize) -> Vec<u8> {
    let text = |text: &str| Value::Text(text.as_bytes().to_vec());
    let gears = description.gears.iter().map(|&gear| gear.cast_signed()).collect();
    let attributes = [
        ("soc_version", text(&description.soc)),
        ("atc_version", text(&description.release)),
        ("atc_cmdline", text(&description.command)),
        ("framework_type", text("5")),
        ("weight_size", Value::Int(i64::try_from(weights).unwrap_or(i64::MAX))),
        (SIMULATED, Value::Bool(true)),
        (GEARS, Value::List(ListValue { ints: gears })),
        (DIMS, Value::List(ListValue { ints: description.dims.concat() })),
        (RANK, Value::Int(description.dims.first().map_or(0, Vec::len) as i64)),
    ];
    let model = ModelDef {
        name: description.name.clone(),
        custom_version: description.release.clone(),
        attr: attributes.map(|(name, v)| (name.into(), AttrDef { value: Some(v) })).into(),
    };
    model.encode_to_vec()
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Description, OmError> {
    let model = ModelDef::decode(bytes)
        .map_err(|error| OmError::Corrupt(format!("the model's definition: {error}")))?;
    let get = |name: &str| model.attr.get(name).and_then(|attribute| attribute.value.as_ref());
    if get(SIMULATED) != Some(&Value::Bool(true)) {
        return Err(OmError::NotSimulated);
    }
    let text = |name: &str| match get(name) {
        Some(Value::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    };
    let gears = match get(GEARS) {
        Some(Value::List(list)) => list.ints.iter().map(|gear| gear.cast_unsigned()).collect(),
        _ => Vec::new(),
    };
    let dims = match (get(DIMS), get(RANK)) {
        (Some(Value::List(list)), Some(&Value::Int(rank @ 1..))) => {
            let rank = usize::try_from(rank).unwrap_or(usize::MAX);
            list.ints.chunks(rank).map(<[i64]>::to_vec).collect()
        }
        _ => Vec::new(),
    };
    Ok(Description {
        dims,
        soc: text("soc_version"),
        release: text("atc_version"),
        command: text("atc_cmdline"),
        gears,
        name: model.name,
    })
}
