//! What has to hold for any input whatever. `tests/regressions.rs` tries the inputs that once broke it, `tools/fuzz`
//! looks for new ones.

use onnxfix_ir::text::{self, Mode};
use onnxfix_ir::{
    LoadError, LoadOptions, Loaded, Model, check, from_bytes, infer, to_proto, write_to,
};
use prost::Message as _;

/// Tensors of more elements are not printed in full: it takes long and finds nothing more.
const LIMIT: u64 = 4096;

/// Bytes are a model or are refused with a message. A model is stored such that it loads again and is the same one.
pub fn proto(bytes: &[u8]) {
    let Some(loaded) = load(bytes) else { return };
    for warning in &loaded.warnings {
        assert!(!warning.to_string().is_empty());
    }
    let mut model = loaded.model;
    let findings = findings(&model);
    let stored = stored(&model);
    let again = load(&stored).expect("what was stored loads");
    assert!(self::stored(&again.model) == stored, "storing twice gives other bytes");
    assert_eq!(self::findings(&again.model), findings, "storing changes what is wrong");
    if findings.is_empty() {
        printed_is_read(&model);
        inferred_is_sound(&mut model);
    } else {
        print_all(&model);
    }
}

/// Bytes are a model, with which the checker finds something wrong or not, or are refused with a message.
pub fn proto_is_read(bytes: &[u8]) {
    if let Some(loaded) = load(bytes) {
        let _ = findings(&loaded.model);
    }
}

/// A text is a model or is refused with a message.
pub fn text_is_read(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text::parse(text) {
        Ok(model) => drop(findings(&model)),
        Err(err) => assert!(!err.render(text).is_empty()),
    }
}

/// A text is a model or is refused with a message. A model is printed such that it can be read again and is the same one,
/// and stored such that it loads.
pub fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut model = match text::parse(text) {
        Ok(model) => model,
        Err(err) => {
            assert!(!err.render(text).is_empty());
            return;
        }
    };
    let findings = findings(&model);
    if !findings.is_empty() {
        return print_all(&model);
    }
    printed_is_read(&model);
    let stored = stored(&model);
    let loaded = load(&stored).expect("what is well formed loads");
    assert_eq!(self::findings(&loaded.model), findings);
    assert!(self::stored(&loaded.model) == stored, "storing twice gives other bytes");
    inferred_is_sound(&mut model);
}

fn load(bytes: &[u8]) -> Option<Loaded> {
    let load = |drop_unknown| {
        let options = LoadOptions { drop_unknown, external_data: false };
        from_bytes(bytes.to_vec().into(), None, &options)
    };
    let loaded = match load(false) {
        Err(LoadError::UnknownField { .. }) => load(true),
        loaded => loaded,
    };
    loaded.inspect_err(|err| assert!(!err.to_string().is_empty())).ok()
}

/// What is wrong with a model, sorted: nodes may have been put in order.
fn findings(model: &Model) -> Vec<String> {
    let mut findings: Vec<String> = check(model).iter().map(ToString::to_string).collect();
    findings.sort();
    findings
}

/// The bytes of a model, which the program's own writer must write too, if it writes any.
fn stored(model: &Model) -> Vec<u8> {
    let bytes = to_proto(model).encode_to_vec();
    let mut written = Vec::new();
    if write_to(model, &mut written).is_ok() {
        assert!(written == bytes, "the writer does not write what prost does");
    }
    bytes
}

/// Models that are not well formed are printed too, to show what is wrong with them.
fn print_all(model: &Model) {
    // Only the absence of a panic counts: in full, something may be inexpressible.
    let _ = text::print(model, Mode::Full { limit: LIMIT });
    text::print(model, Mode::Brief).expect("a text for people leaves out what it cannot say");
    let _ = text::print_graph(model, model.root());
}

fn printed_is_read(model: &Model) {
    print_all(model);
    let Ok(printed) = text::print(model, Mode::Full { limit: LIMIT }) else { return };
    let again = text::parse(&printed).unwrap_or_else(|e| panic!("{}", e.render(&printed)));
    assert_eq!(findings(&again), Vec::<String>::new(), "{printed}");
    let twice = text::print(&again, Mode::Full { limit: LIMIT }).expect("was printed");
    // What a text cannot say is counted at its top, and gone from the text that comes after.
    let said = printed.lines().skip_while(|line| line.starts_with("# Left out"));
    assert_eq!(said.collect::<Vec<_>>(), twice.lines().collect::<Vec<_>>());
}

/// What inference finds out contradicts nothing, or it says so. It lets bodies contradict themselves.
fn inferred_is_sound(model: &mut Model) {
    if infer::infer(model).is_ok() && model.graphs().count() == 1 {
        assert_eq!(findings(model), Vec::<String>::new(), "inference broke the model");
    }
}
