//! Changes of a model that leave its bytes readable: plain changes of bytes rarely get past the first length.

use crate::message::{Kind, Message, SCHEMAS, Value};

/// Numbers at which something else begins: sizes of types, limits of integers, codes, alignments.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    13,
    14,
    16,
    20,
    21,
    22,
    127,
    128,
    1 << 10,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    1 << 40,
    (1 << 62) + 1,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX,
];

/// Random choices (SplitMix64), the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("is below a usize")
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())) }
    }

    fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next() >> self.below(64),
            _ => NUMBERS[self.below(NUMBERS.len())],
        }
    }
}

/// What there is to take from: messages and byte strings of one or two models.
#[derive(Default)]
struct Parts {
    messages: Vec<Message>,
    bytes: Vec<Vec<u8>>,
}

impl Parts {
    fn add(&mut self, model: &Message) {
        model.walk(&mut |message| {
            if self.messages.len() < 500 {
                self.messages.push(message.clone());
            }
            for (_, value) in &message.fields {
                if let Value::Bytes(bytes) = value {
                    self.bytes.push(bytes.clone());
                }
            }
        });
    }
}

/// A changed model; none when the bytes are no messages, when it is the turn of changes of bytes, or when the result is
/// too large.
#[must_use]
pub fn mutate(bytes: &[u8], max: usize, seed: u32) -> Option<Vec<u8>> {
    let mut random = Random(seed.into());
    if random.below(8) == 0 {
        return None;
    }
    let mut model = Message::model(bytes)?;
    let mut parts = Parts::default();
    parts.add(&model);
    for _ in 0..=random.below(4) {
        change(&mut model, &parts, &mut random);
    }
    Some(model.to_bytes()).filter(|new| new.len() <= max && !new.is_empty())
}

/// A model with parts of another one.
#[must_use]
pub fn cross(a: &[u8], b: &[u8], max: usize, seed: u32) -> Option<Vec<u8>> {
    let mut random = Random(seed.into());
    let (mut model, other) = (Message::model(a)?, Message::model(b)?);
    let mut parts = Parts::default();
    parts.add(&other);
    for _ in 0..=random.below(3) {
        insert_message(&mut model, &parts, &mut random);
    }
    Some(model.to_bytes()).filter(|new| new.len() <= max)
}

fn any_message<'a>(model: &'a mut Message, random: &mut Random) -> &'a mut Message {
    let mut count = 0;
    model.walk(&mut |_| count += 1);
    model.at(&mut random.below(count)).expect("there are as many messages")
}

fn change(model: &mut Message, parts: &Parts, random: &mut Random) {
    match random.below(8) {
        0 => return insert_message(model, parts, random),
        1 => return insert_field(model, parts, random),
        _ => {}
    }
    let message = any_message(model, random);
    if message.fields.is_empty() {
        return insert_field(model, parts, random);
    }
    let at = random.below(message.fields.len());
    match random.below(6) {
        0 => {
            message.fields.remove(at);
        }
        1 => {
            let again = message.fields[at].clone();
            message.fields.insert(random.below(message.fields.len() + 1), again);
        }
        2 => {
            let other = random.below(message.fields.len());
            message.fields.swap(at, other);
        }
        _ => change_value(&mut message.fields[at].1, parts, random),
    }
}

/// Gives a message of the model a field that another message of its type has, or a whole message where one may stand.
fn insert_message(model: &mut Message, parts: &Parts, random: &mut Random) {
    let Some(part) = random.pick(&parts.messages).cloned() else { return };
    let holds = |m: &Message| {
        SCHEMAS[m.schema].fields.iter().find(|f| f.kind == Kind::Message(part.schema))
    };
    let mut holders = Vec::new();
    let mut index = 0;
    model.walk(&mut |message| {
        holders.extend(holds(message).map(|field| (index, field.number)));
        index += 1;
    });
    let Some(&(mut holder, number)) = random.pick(&holders) else { return };
    let holder = model.at(&mut holder).expect("was walked");
    holder.fields.insert(random.below(holder.fields.len() + 1), (number, Value::Message(part)));
}

fn insert_field(model: &mut Message, parts: &Parts, random: &mut Random) {
    let message = any_message(model, random);
    let Some(field) = random.pick(&SCHEMAS[message.schema].fields) else { return };
    let mut value = match field.kind {
        Kind::Varint => Value::Varint(0),
        Kind::Fixed32 => Value::Fixed32([0; 4]),
        Kind::Fixed64 => Value::Fixed64([0; 8]),
        Kind::Bytes => Value::Bytes(Vec::new()),
        Kind::Message(schema) => {
            let same: Vec<&Message> =
                parts.messages.iter().filter(|m| m.schema == schema).collect();
            let empty = Message { schema, fields: Vec::new() };
            Value::Message(random.pick(&same).map_or(empty, |&m| m.clone()))
        }
    };
    change_value(&mut value, parts, random);
    message.fields.insert(random.below(message.fields.len() + 1), (field.number, value));
}

fn change_value(value: &mut Value, parts: &Parts, random: &mut Random) {
    match value {
        Value::Varint(n) => {
            *n = match random.below(3) {
                0 => n.wrapping_add(1),
                1 => n.wrapping_sub(1),
                _ => random.number(),
            }
        }
        Value::Fixed32(bytes) => {
            *bytes = *random.next().to_le_bytes().first_chunk().expect("4 of 8")
        }
        Value::Fixed64(bytes) => *bytes = random.next().to_le_bytes(),
        // Mostly names, and a name is of interest where another value has it.
        Value::Bytes(bytes) => match random.below(6) {
            0 => bytes.clear(),
            1 => bytes.push(random.next().to_le_bytes()[0]),
            2 => {
                bytes.pop();
            }
            3 if !bytes.is_empty() => {
                let at = random.below(bytes.len());
                bytes[at] = random.next().to_le_bytes()[0];
            }
            _ => bytes.clone_from(random.pick(&parts.bytes).unwrap_or(&Vec::new())),
        },
        Value::Message(message) => {
            let same: Vec<&Message> =
                parts.messages.iter().filter(|m| m.schema == message.schema).collect();
            if let Some(&other) = random.pick(&same) {
                message.clone_from(other);
            }
        }
    }
}
