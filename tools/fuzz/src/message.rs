//! Protobuf messages as a tree that can be changed anywhere and written again with the lengths that it then has.

use std::sync::LazyLock;

/// Deeper messages are left as bytes; the loader refuses them at 100.
const MAX_DEPTH: usize = 110;

/// A message type of the format.
#[derive(Debug)]
pub struct Schema {
    /// Name, such as `NodeProto`.
    pub name: &'static str,
    /// The fields that it may have.
    pub fields: Vec<FieldSchema>,
}

/// A field of a message type.
#[derive(Debug)]
pub struct FieldSchema {
    /// Number on the wire.
    pub number: u64,
    /// What it holds.
    pub kind: Kind,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An integer.
    Varint,
    /// A float.
    Fixed32,
    /// A double.
    Fixed64,
    /// Bytes or text.
    Bytes,
    /// A message: index into [`SCHEMAS`].
    Message(usize),
}

/// Every message type, `ModelProto` among them.
pub static SCHEMAS: LazyLock<Vec<Schema>> = LazyLock::new(|| {
    let rows: Vec<Vec<&str>> = include_str!("../../../ir/src/onnx_descriptor.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(' ').collect())
        .collect();
    let mut names: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    names.dedup();
    let field = |row: &Vec<&str>| FieldSchema {
        number: row[1].parse().expect("a field number"),
        kind: match row[3] {
            "int32" | "int64" | "uint64" | "enum" => Kind::Varint,
            "float" => Kind::Fixed32,
            "double" => Kind::Fixed64,
            "bytes" | "string" => Kind::Bytes,
            message => Kind::Message(
                names.iter().position(|name| *name == message).expect("a message of the format"),
            ),
        },
    };
    let fields = |name| rows.iter().filter(|row| row[0] == name).map(field).collect();
    names.iter().map(|&name| Schema { name, fields: fields(name) }).collect()
});

/// A message: its type and its fields in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Index into [`SCHEMAS`].
    pub schema: usize,
    /// Number and value of each field.
    pub fields: Vec<(u64, Value)>,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An integer.
    Varint(u64),
    /// Four bytes.
    Fixed32([u8; 4]),
    /// Eight bytes.
    Fixed64([u8; 8]),
    /// Bytes, text, packed numbers, or a message that cannot be read.
    Bytes(Vec<u8>),
    /// A message.
    Message(Message),
}

impl Message {
    /// A model, if the bytes are fields at all.
    #[must_use]
    pub fn model(bytes: &[u8]) -> Option<Message> {
        let model = SCHEMAS.iter().position(|s| s.name == "ModelProto")?;
        Message::read(model, bytes, MAX_DEPTH)
    }

    fn read(schema: usize, mut bytes: &[u8], depth: usize) -> Option<Message> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = read_varint(&mut bytes)?;
            let value = match key & 7 {
                0 => Value::Varint(read_varint(&mut bytes)?),
                1 => Value::Fixed64(*take(&mut bytes, 8)?.first_chunk()?),
                5 => Value::Fixed32(*take(&mut bytes, 4)?.first_chunk()?),
                2 => {
                    let len = usize::try_from(read_varint(&mut bytes)?).ok()?;
                    let content = take(&mut bytes, len)?;
                    let known = SCHEMAS[schema].fields.iter().find(|f| f.number == key >> 3);
                    let inner = match known.map(|f| f.kind) {
                        Some(Kind::Message(inner)) if depth > 0 => {
                            Message::read(inner, content, depth - 1)
                        }
                        _ => None,
                    };
                    inner.map_or_else(|| Value::Bytes(content.to_vec()), Value::Message)
                }
                _ => return None,
            };
            fields.push((key >> 3, value));
        }
        Some(Message { schema, fields })
    }

    /// The message as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in &self.fields {
            let key = |wire| number << 3 | wire;
            let mut sized = |bytes: &[u8]| {
                write_varint(key(2), &mut out);
                write_varint(bytes.len() as u64, &mut out);
                out.extend_from_slice(bytes);
            };
            match value {
                Value::Bytes(bytes) => sized(bytes),
                Value::Message(message) => sized(&message.to_bytes()),
                Value::Varint(n) => {
                    write_varint(key(0), &mut out);
                    write_varint(*n, &mut out);
                }
                Value::Fixed32(bytes) => {
                    write_varint(key(5), &mut out);
                    out.extend_from_slice(bytes);
                }
                Value::Fixed64(bytes) => {
                    write_varint(key(1), &mut out);
                    out.extend_from_slice(bytes);
                }
            }
        }
        out
    }

    /// Calls `visit` for this message and every one within.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Message)) {
        visit(self);
        for (_, value) in &self.fields {
            if let Value::Message(inner) = value {
                inner.walk(visit);
            }
        }
    }

    /// The message that `walk` comes to after `index` others.
    pub fn at(&mut self, index: &mut usize) -> Option<&mut Message> {
        if *index == 0 {
            return Some(self);
        }
        *index -= 1;
        self.fields.iter_mut().find_map(|(_, value)| match value {
            Value::Message(inner) => inner.at(index),
            _ => None,
        })
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}

fn write_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}
