//! The declared messages are those of the `onnx` package: each field of its description, written alone, comes back as
//! the same bytes, which takes the right number, wire type, label and packing.

use std::collections::BTreeMap;

use onnxfix_ir::proto;
use prost::Message;

/// Decodes and encodes again.
type RoundTrip = fn(&[u8]) -> Option<Vec<u8>>;

fn round_trip<M: Message + Default>(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(M::decode(bytes).ok()?.encode_to_vec())
}

macro_rules! declared {
    ($($name:literal = $ty:ident,)*) => { &[$(($name, round_trip::<proto::$ty>)),*] };
}

const DECLARED: &[(&str, RoundTrip)] = declared! {
    "AttributeProto" = AttributeProto,
    "DeviceConfigurationProto" = DeviceConfigurationProto,
    "FunctionProto" = FunctionProto,
    "GraphProto" = GraphProto,
    "IntIntListEntryProto" = IntIntListEntryProto,
    "ModelProto" = ModelProto,
    "NodeDeviceConfigurationProto" = NodeDeviceConfigurationProto,
    "NodeProto" = NodeProto,
    "OperatorSetIdProto" = OperatorSetIdProto,
    "ShardedDimProto" = ShardedDimProto,
    "ShardingSpecProto" = ShardingSpecProto,
    "SimpleShardedDimProto" = SimpleShardedDimProto,
    "SparseTensorProto" = SparseTensorProto,
    "StringStringEntryProto" = StringStringEntryProto,
    "TensorAnnotation" = TensorAnnotation,
    "TensorProto" = TensorProto,
    "TensorProto.Segment" = Segment,
    "TensorShapeProto" = TensorShapeProto,
    "TensorShapeProto.Dimension" = Dimension,
    "TrainingInfoProto" = TrainingInfoProto,
    "TypeProto" = TypeProto,
    "TypeProto.Map" = TypeMap,
    "TypeProto.Opaque" = TypeOpaque,
    "TypeProto.Optional" = TypeOptional,
    "TypeProto.Sequence" = TypeSequence,
    "TypeProto.SparseTensor" = TypeSparseTensor,
    "TypeProto.Tensor" = TypeTensor,
    "ValueInfoProto" = ValueInfoProto,
};

struct Field {
    number: u8,
    name: &'static str,
    kind: &'static str,
    repeated: bool,
    packed: bool,
}

fn described() -> BTreeMap<&'static str, Vec<Field>> {
    let mut messages: BTreeMap<&str, Vec<Field>> = BTreeMap::new();
    for line in
        include_str!("../src/onnx_descriptor.txt").lines().filter(|line| !line.starts_with('#'))
    {
        let row: Vec<&str> = line.split(' ').collect();
        messages.entry(row[0]).or_default().push(Field {
            number: row[1].parse().expect("a number"),
            name: row[2],
            kind: row[3],
            repeated: row[4] == "repeated",
            packed: row.get(5) == Some(&"packed"),
        });
    }
    messages
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(u8::try_from(n).expect("7 bits"));
    bytes
}

/// Wire type, and values that only a field of this kind gives back.
fn values(kind: &str, messages: &BTreeMap<&str, Vec<Field>>) -> (u64, Vec<Vec<u8>>) {
    match kind {
        "int64" | "uint64" => (0, vec![varint(u64::MAX), varint(1 << 40), varint(0)]),
        "int32" | "enum" => (0, vec![varint(u64::MAX), varint(5), varint(0)]),
        "float" => (5, vec![1.5f32.to_le_bytes().to_vec(), vec![0; 4]]),
        "double" => (1, vec![1.5f64.to_le_bytes().to_vec(), vec![0; 8]]),
        "string" => (2, vec![b"x".to_vec(), vec![]]),
        "bytes" => (2, vec![vec![0xff], vec![]]),
        message => {
            let fields = &messages[message];
            let simple = |f: &&Field| !f.packed && !messages.contains_key(f.kind);
            let inner = |f: &Field| {
                field(f.number, values(f.kind, messages).0, &values(f.kind, messages).1[0])
            };
            (2, fields.iter().filter(simple).map(inner).chain([vec![]]).collect())
        }
    }
}

fn field(number: u8, wire: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = varint(u64::from(number) << 3 | wire);
    if wire == 2 {
        bytes.extend(varint(value.len() as u64));
    }
    bytes.extend(value);
    bytes
}

#[test]
fn every_message_is_declared() {
    let described: Vec<&str> = described().into_keys().collect();
    let declared: Vec<&str> = DECLARED.iter().map(|(name, _)| *name).collect();
    assert_eq!(declared, described);
}

#[test]
fn every_field_comes_back_as_it_was() {
    let messages = described();
    for (message, again) in DECLARED {
        for f in &messages[message] {
            let what = format!("{message}.{}", f.name);
            let (wire, values) = values(f.kind, &messages);
            if f.packed {
                let packed = field(f.number, 2, &values.concat());
                assert_eq!(again(&packed).as_ref(), Some(&packed), "{what}");
                continue;
            }
            for value in &values {
                // The empty value too: presence is kept.
                let once = field(f.number, wire, value);
                assert_eq!(again(&once).as_ref(), Some(&once), "{what}");
            }
            let (first, last) = (&values[0], &values[values.len() - 1]);
            let twice = [field(f.number, wire, first), field(f.number, wire, last)].concat();
            assert_eq!(
                again(&twice) == Some(twice),
                f.repeated,
                "{what} is repeated: {}",
                f.repeated
            );
        }
    }
}

#[test]
fn numbers_and_texts_have_their_width() {
    let messages = described();
    for (message, again) in DECLARED {
        for f in &messages[message] {
            let wide = field(f.number, 0, &varint(1 << 40));
            let not_utf8 = field(f.number, 2, &[0xff]);
            match f.kind {
                "int32" | "enum" => assert_ne!(again(&wide), Some(wide), "{message}.{}", f.name),
                "string" => assert_eq!(again(&not_utf8), None, "{message}.{}", f.name),
                _ => {}
            }
        }
    }
}
