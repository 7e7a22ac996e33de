//! The comparison with headers, on headers that are right and on some that are not.

use std::path::Path;
use std::process::{Command, Output};

/// Compares with this crate's own header, changed.
fn compare(from: &str, to: &str) -> Option<(bool, String)> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("acl")).expect("a folder");
    let header = ascendcl_sys::header();
    assert!(header.contains(from), "{from:?} is there to be changed");
    let at = folder.path().join("acl/acl.h");
    std::fs::write(at, header.replacen(from, to, 1)).expect("written");
    let check = ascendcl_sys::check(&|name| header.contains(name));
    std::fs::write(folder.path().join("check.c"), check.program).expect("written");
    let program = folder.path().join("check");
    let gcc = |folder: &Path| -> Option<Output> {
        let mut gcc = Command::new("gcc");
        gcc.arg("-w").arg("-I").arg(folder).arg(folder.join("check.c"));
        gcc.arg("-o").arg(folder.join("check")).output().ok()
    };
    let built = gcc(folder.path())?;
    if !built.status.success() {
        return Some((false, String::from_utf8_lossy(&built.stderr).into_owned()));
    }
    let ran = Command::new(program).output().expect("it runs");
    Some((ran.status.success(), String::from_utf8_lossy(&ran.stdout).into_owned()))
}

#[test]
fn a_header_that_differs_is_noticed() {
    for (from, to, want) in [
        ("", "", "0 differ"),
        ("ACL_INT32 = 3", "ACL_INT32 = 5", "ACL_INT32: 5 in the header, 3 here"),
        (
            "size_t dimCount;",
            "int32_t dimCount;",
            "sizeof aclmdlIODims.dimCount: 4 in the header, 8 here",
        ),
        ("char name[128]", "char name[256]", "sizeof aclmdlIODims: 1288 in the header, 1160 here"),
        ("ACL_EVENT_TIME_LINE 8", "ACL_EVENT_TIME_LINE 4", "ACL_EVENT_TIME_LINE: 4"),
        (
            "ACL_ERROR_RT_SOC_VERSION 507008",
            "ACL_ERROR_RT_SOC_VERSION 1",
            "ACL_ERROR_RT_SOC_VERSION: 1",
        ),
        ("int32_t aclrtFree(void*)", "int32_t aclrtFree(void*, int)", "conflicting types for"),
    ] {
        let Some((same, said)) = compare(from, to) else {
            #[expect(clippy::print_stderr, reason = "says that something was not tested")]
            {
                eprintln!("skipped: there is no gcc");
            }
            return;
        };
        assert_eq!(same, from.is_empty(), "{from}: {said}");
        assert!(said.contains(want), "{from}: {said}");
    }
}
