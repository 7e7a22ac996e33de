//! The bytes of a model file, walked field by field without decoding them.
//!
//! The walk finds what decoding would drop or would not explain: unknown fields, the place where a file was cut off,
//! text that is not UTF-8. It reads tags and lengths and skips the contents, so its cost does not depend on the size
//! of the weights.

use std::fmt;
use std::sync::LazyLock;

use hashbrown::HashMap;

/// Messages may be nested this deep: more than any model needs, and little enough to be read recursively.
const MAX_DEPTH: usize = 100;

/// The fields that each message may have.
struct Message {
    name: &'static str,
    /// Indexed by field number.
    fields: Vec<Option<Field>>,
}

struct Field {
    name: &'static str,
    kind: Kind,
    repeated: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Varint,
    Fixed32,
    Fixed64,
    Bytes,
    Text,
    /// Index into [`MESSAGES`].
    Message(usize),
}

/// Every message of the format. The names and numbers are read from the description that a test compares the
/// declarations with, so the walk cannot know other fields than those.
static MESSAGES: LazyLock<Vec<Message>> =
    LazyLock::new(|| parse_descriptor(include_str!("onnx_descriptor.txt")));

fn parse_descriptor(text: &'static str) -> Vec<Message> {
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<Vec<&str>> = rows.map(|line| line.split(' ').collect()).collect();
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut messages: Vec<Message> = Vec::new();
    for row in &rows {
        numbers.entry(row[0]).or_insert_with(|| {
            messages.push(Message { name: row[0], fields: Vec::new() });
            messages.len() - 1
        });
    }
    for row in &rows {
        let kind = match row[3] {
            "int32" | "int64" | "uint64" | "enum" => Kind::Varint,
            "float" => Kind::Fixed32,
            "double" => Kind::Fixed64,
            "bytes" => Kind::Bytes,
            "string" => Kind::Text,
            message => Kind::Message(numbers[message]),
        };
        let fields = &mut messages[numbers[row[0]]].fields;
        let number: usize = row[1].parse().expect("a field number");
        if fields.len() <= number {
            fields.resize_with(number + 1, || None);
        }
        fields[number] = Some(Field { name: row[2], kind, repeated: row[4] == "repeated" });
    }
    messages
}

fn message(name: &str) -> usize {
    MESSAGES.iter().position(|m| m.name == name).expect("a message of the format")
}

/// What the walk comes across.
pub(crate) enum Event<'a> {
    /// A field that its message does not have.
    Unknown { message: &'static str, field: u32, at: &'a dyn Fn() -> String },
    /// Elements of a tensor: the bytes of `raw_data` or of packed numbers.
    Payload { start: usize, end: usize },
    /// An entry of `external_data` of a tensor.
    ExternalEntry { start: usize, end: usize },
}

/// Why the bytes are no messages of a model.
#[derive(Debug)]
pub(crate) enum WireError<E> {
    /// The data ends before the message does.
    Ends { path: String, missing: u64 },
    /// Something cannot be.
    Malformed { path: String, at: usize, why: String },
    /// Messages are nested deeper than anybody reads.
    TooDeep { path: String },
    /// The visitor stopped.
    Stopped(E),
}

/// Walks the messages of a model file and calls `visit` for each event.
pub(crate) fn walk<E>(
    bytes: &[u8],
    visit: &mut dyn FnMut(Event<'_>) -> Result<(), E>,
) -> Result<(), WireError<E>> {
    let mut walker = Walker {
        bytes,
        visit,
        trail: Trail { bytes, steps: Vec::new() },
        tensor: message("TensorProto"),
    };
    walker.message(message("ModelProto"), 0, u64::MAX).map(|_| ())
}

/// What speaks against these bytes being a model, judged by the outermost message only.
///
/// A file that was cut off passes, if it began like a model: the walk tells where it ends.
pub(crate) fn recognise(bytes: &[u8]) -> Result<(), String> {
    let model = &MESSAGES[message("ModelProto")];
    let mut seen: Vec<&str> = Vec::new();
    let mut ir_version = 0;
    let mut pos = 0;
    while pos < bytes.len() {
        let start = pos;
        let no_model = |why: &str| Err(not_a_model(bytes, &format!("{why} at byte {start}")));
        let begun = seen.contains(&"ir_version") || seen.contains(&"graph");
        let Some((field, wire)) = tag(bytes, &mut pos) else {
            return if begun { Ok(()) } else { no_model("there is no field") };
        };
        let known = model.fields.get(field as usize).and_then(Option::as_ref);
        if known.is_some_and(|f| !f.fits(wire)) {
            return if begun { Ok(()) } else { no_model("a field has the wrong type") };
        }
        let value = pos;
        if !skip(bytes, &mut pos, wire) {
            let is_cut = begun && known.is_some();
            return if is_cut { Ok(()) } else { no_model("a field reaches past the end") };
        }
        if let Some(known) = known {
            seen.push(known.name);
            if known.name == "ir_version" {
                ir_version = varint(bytes, &mut { value }).unwrap_or(0);
            }
        }
    }
    // Operator sets are imported since version 3 of the format.
    let needed: &[_] = if ir_version < 3 {
        &["ir_version", "graph"]
    } else {
        &["ir_version", "graph", "opset_import"]
    };
    match needed.iter().find(|field| !seen.contains(field)) {
        Some(field) => Err(not_a_model(bytes, &format!("there is no `{field}`"))),
        None => Ok(()),
    }
}

/// Names what users have taken for a model; else says what is wrong with the bytes.
fn not_a_model(bytes: &[u8], why: &str) -> String {
    let start = &bytes[..bytes.len().min(256)];
    // The cut at 256 bytes may go through a character.
    let text = std::str::from_utf8(start)
        .map_or_else(|e| if e.error_len().is_none() { e.valid_up_to() } else { 0 }, str::len);
    let is_text = text > 0 && start[..text].iter().all(|&b| b >= b' ' || b.is_ascii_whitespace());
    if start.starts_with(b"version https://git-lfs") {
        "it is a pointer of Git LFS to the file, not the file".to_owned()
    } else if start.starts_with(b"PK\x03\x04") {
        "it is a zip archive".to_owned()
    } else if is_text {
        format!("it is text ({why})")
    } else {
        why.to_owned()
    }
}

impl Field {
    /// Whether a value may be written with this wire type; a list of numbers may be packed or not.
    fn fits(&self, wire: u8) -> bool {
        let packed = self.repeated && wire == 2;
        match self.kind {
            Kind::Varint => wire == 0 || packed,
            Kind::Fixed64 => wire == 1 || packed,
            Kind::Fixed32 => wire == 5 || packed,
            Kind::Bytes | Kind::Text | Kind::Message(_) => wire == 2,
        }
    }
}

/// A message that the walk is in.
struct Step {
    field: &'static Field,
    index: u32,
    start: usize,
}

/// The messages that the walk is in, outermost first.
struct Trail<'a> {
    bytes: &'a [u8],
    steps: Vec<Step>,
}

struct Walker<'a, E> {
    bytes: &'a [u8],
    visit: &'a mut dyn FnMut(Event<'_>) -> Result<(), E>,
    trail: Trail<'a>,
    tensor: usize,
}

impl<E> Walker<'_, E> {
    /// Walks one message from `start` to `end`, which may lie behind the end of the data.
    fn message(&mut self, number: usize, start: usize, end: u64) -> Result<usize, WireError<E>> {
        let message = &MESSAGES[number];
        let mut counts = [0u32; 32];
        let mut pos = start;
        while (pos as u64) < end && (pos < self.bytes.len() || !self.trail.steps.is_empty()) {
            let at = pos;
            let Some((field, wire)) = tag(self.bytes, &mut pos) else {
                return Err(self.broken(at, end, "there is no field"));
            };
            let Some(known) = message.fields.get(field as usize).and_then(Option::as_ref) else {
                let trail = &self.trail;
                let path = || format!("{trail} at byte {at}");
                let event = Event::Unknown { message: message.name, field, at: &path };
                (self.visit)(event).map_err(WireError::Stopped)?;
                if !skip(self.bytes, &mut pos, wire) || pos as u64 > end {
                    return Err(self.broken(
                        at,
                        end,
                        &format!("field {field} is unknown and cannot be skipped"),
                    ));
                }
                continue;
            };
            if !known.fits(wire) {
                return Err(self.broken(
                    at,
                    end,
                    &format!("field `{}` has wire type {wire}", known.name),
                ));
            }
            let index = &mut counts[field as usize % 32];
            let step = Step { field: known, index: *index, start: pos };
            *index += 1;
            if wire != 2 {
                self.trail.steps.push(step);
                if !skip(self.bytes, &mut pos, wire) || pos as u64 > end {
                    return Err(self.broken(
                        at,
                        end,
                        "a number reaches past the end of its message",
                    ));
                }
                self.trail.steps.pop();
                continue;
            }
            let Some(len) = varint(self.bytes, &mut pos) else {
                return Err(self.broken(at, end, "a length is too long"));
            };
            let content_end = (pos as u64).saturating_add(len);
            self.trail.steps.push(Step { start: pos, ..step });
            if content_end > end {
                return Err(self.broken(
                    at,
                    end,
                    "it reaches past the end of the message around it",
                ));
            }
            pos = self.content(number, known, pos, content_end)?;
            self.trail.steps.pop();
        }
        Ok(pos)
    }

    /// Walks or skips the content of a field; returns where it ends.
    fn content(
        &mut self,
        message: usize,
        field: &Field,
        start: usize,
        end: u64,
    ) -> Result<usize, WireError<E>> {
        if let Kind::Message(inner) = field.kind {
            if self.trail.steps.len() > MAX_DEPTH {
                return Err(WireError::TooDeep { path: self.trail.to_string() });
            }
            let stop = self.message(inner, start, end)?;
            if message == self.tensor && field.name == "external_data" {
                (self.visit)(Event::ExternalEntry { start, end: stop })
                    .map_err(WireError::Stopped)?;
            }
            return Ok(stop);
        }
        let Some(stop) = usize::try_from(end).ok().filter(|&end| end <= self.bytes.len()) else {
            return Err(WireError::Ends {
                path: self.trail.to_string(),
                missing: end - self.bytes.len() as u64,
            });
        };
        if field.kind == Kind::Text && std::str::from_utf8(&self.bytes[start..stop]).is_err() {
            let why = "the text is not UTF-8".to_owned();
            return Err(WireError::Malformed { path: self.trail.to_string(), at: start, why });
        }
        // Every field of a tensor that is long and no text holds elements.
        if message == self.tensor && field.kind != Kind::Text {
            (self.visit)(Event::Payload { start, end: stop }).map_err(WireError::Stopped)?;
        }
        Ok(stop)
    }

    /// The error at a place where no field can be read: the data ends there, or it is garbled.
    fn broken(&self, at: usize, end: u64, why: &str) -> WireError<E> {
        let size = self.bytes.len();
        // A tag has at most 5 bytes, a length or number 10: nearer to the end, one may be cut off.
        if end > size as u64 && at + 15 > size && self.cut_off(at) {
            let missing = if end == u64::MAX { 1 } else { end - size as u64 };
            return WireError::Ends { path: self.trail.to_string(), missing };
        }
        WireError::Malformed { path: self.trail.to_string(), at, why: why.to_owned() }
    }

    /// Whether reading a tag and what follows it at `at` runs into the end of the data.
    fn cut_off(&self, at: usize) -> bool {
        let mut pos = at;
        let bytes = self.bytes;
        match tag(bytes, &mut pos) {
            None => bytes[at..].iter().all(|b| b & 0x80 != 0),
            Some((_, 0 | 2)) => bytes[pos..].iter().all(|b| b & 0x80 != 0),
            Some((_, wire)) => pos + if wire == 1 { 8 } else { 4 } > bytes.len(),
        }
    }
}

impl Trail<'_> {
    /// The `name` of the message at `start`, if it comes before the end of the data.
    fn name(&self, message: usize, start: usize) -> Option<&str> {
        let mut pos = start;
        // The walk may stand in the message, so its fields up to here are sound; a wrong turn ends soon.
        for _ in 0..1000 {
            let (field, wire) = tag(self.bytes, &mut pos)?;
            let field = MESSAGES[message].fields.get(field as usize)?.as_ref()?;
            let value = pos;
            if !skip(self.bytes, &mut pos, wire) || !field.fits(wire) {
                return None;
            }
            if field.name == "name" {
                let mut start = value;
                varint(self.bytes, &mut start)?;
                return std::str::from_utf8(&self.bytes[start..pos]).ok();
            }
        }
        None
    }
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("model")?;
        for step in &self.steps {
            write!(f, ".{}", step.field.name)?;
            if step.field.repeated {
                write!(f, "[{}]", step.index)?;
            }
            if let Kind::Message(message) = step.field.kind
                && let Some(name) = self.name(message, step.start)
            {
                write!(f, " {name:?}")?;
            }
        }
        Ok(())
    }
}

/// Reads a number; none when it is longer than 64 bits or the data ends.
fn varint(bytes: &[u8], pos: &mut usize) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*pos)?;
        *pos += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Reads field number and wire type; none when there is no such thing. Groups are older than the format.
fn tag(bytes: &[u8], pos: &mut usize) -> Option<(u32, u8)> {
    let start = *pos;
    let read = varint(bytes, pos).and_then(|key| {
        let field = u32::try_from(key >> 3).ok().filter(|&f| f != 0 && f < 1 << 29)?;
        let wire = (key & 7) as u8;
        matches!(wire, 0 | 1 | 2 | 5).then_some((field, wire))
    });
    if read.is_none() {
        *pos = start;
    }
    read
}

/// Goes past a value; false when it does not end within the data.
fn skip(bytes: &[u8], pos: &mut usize, wire: u8) -> bool {
    let len = match wire {
        0 => return varint(bytes, pos).is_some(),
        1 => Some(8),
        2 => varint(bytes, pos).and_then(|len| usize::try_from(len).ok()),
        _ => Some(4),
    };
    match len.and_then(|len| pos.checked_add(len)).filter(|&end| end <= bytes.len()) {
        Some(end) => {
            *pos = end;
            true
        }
        None => false,
    }
}
