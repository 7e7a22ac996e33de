//! What fuzzing found stays found: `tests/regressions/` holds one small input for each fault, and inputs that reach every
//! part of the readers.

use std::fs;
use std::path::Path;

#[expect(unreachable_pub, reason = "tools/fuzz uses them too")]
mod properties;

fn replay(folder: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions").join(folder);
    let mut count = 0;
    for file in fs::read_dir(&folder).expect("a folder of inputs") {
        let path = file.expect("a file").path();
        let bytes = fs::read(&path).expect("a file");
        let held = std::panic::catch_unwind(|| property(&bytes));
        assert!(held.is_ok(), "{} does not hold", path.display());
        count += 1;
    }
    assert!(count > 0, "{} has inputs", folder.display());
}

#[test]
fn models_in_protobuf() {
    replay("proto", properties::proto_is_read);
    replay("proto", properties::proto);
}

#[test]
fn models_in_text() {
    replay("text", properties::text_is_read);
    replay("text", properties::text);
}
