//! Made-up machines.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::npu_smi::tests::TABLE;

/// A root with files; those with a first line `#!` may be executed, those in /dev belong to one group only.
fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        add(root.path(), path, text);
    }
    root
}

fn add(root: &Path, path: &str, text: &str) {
    let file = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    let mode = match path {
        _ if text.starts_with("#!") => 0o755,
        _ if path.starts_with("/dev/") => 0o660,
        _ => 0o644,
    };
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
}

const HOME: &str = "/usr/local/Ascend/ascend-toolkit/latest";
const RUNTIME: &str = "Version=7.7.0.1.238\nversion_dir=8.1.RC1\nrequired_opp_abi_version=\">=6.3, <=7.7\"\nrequired_package_opp_version=\"7.7\"\n";
const STATUS: &str = "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t1000 ";

/// A machine with everything: driver, devices, toolkit, chips and Python.
fn whole() -> tempfile::TempDir {
    let python = "#!/bin/sh\necho 3.9.2\n";
    let smi =
        format!("#!/bin/sh\n/bin/cat <<'TABLE'\n{}TABLE\n", TABLE.replace("Warning", "OK     "));
    let root = root(&[
        ("/usr/local/Ascend/driver/version.info", "Version=23.0.5\nascendhal_version=7.35.19\n"),
        ("/usr/local/Ascend/driver/lib64/driver/libascend_hal.so", ""),
        ("/usr/local/Ascend/firmware/version.info", "Version=7.1.0.7.220\n"),
        ("/dev/davinci0", ""),
        ("/dev/davinci_manager", ""),
        ("/dev/devmm_svm", ""),
        ("/dev/hisi_hdc", ""),
        ("/usr/bin/python3", python),
        ("/usr/local/bin/npu-smi", &smi),
        ("/etc/group", "root:x:0:\nHwHiAiUser:x:1001:\n"),
    ]);
    let group = gid(root.path());
    add(root.path(), "/proc/self/status", &format!("{STATUS}{group}\n"));
    for (path, text) in [
        ("bin/atc", "#!/bin/sh\n"),
        ("ascend_toolkit_install.info", "version=8.1.RC1\n"),
        ("lib64/libascendcl.so", ""),
        ("opp/built-in/op_impl/ai_core/tbe/config/ascend310p/ops.json", ""),
        ("opp/version.info", "Version=7.7.0.1.238\n"),
        ("runtime/version.info", RUNTIME),
    ] {
        add(root.path(), &format!("{HOME}/{path}"), text);
    }
    root
}

/// The group of files that this test makes.
fn gid(root: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(root.join("dev/davinci0")).unwrap().gid()
}

fn machine(root: &tempfile::TempDir, more: &[(&str, &str)]) -> Machine {
    let path = ("PATH", "/usr/bin:/usr/local/bin");
    let all = [path].into_iter().chain(more.iter().copied());
    Machine::below(root.path(), all.map(|(k, v)| (k.to_owned(), v.to_owned())))
}

/// What is against a machine, as text.
fn against(root: &tempfile::TempDir, more: &[(&str, &str)]) -> String {
    let found = examine(&machine(root, more), &Questions::default());
    let bad = found.findings.iter().filter(|f| f.status >= Status::Warning);
    let lines = bad.map(|f| {
        assert!(f.cure.is_some(), "{f:?} has no cure");
        format!("{:?} {}: {}\n", f.status, f.check, f.what)
    });
    lines.collect::<Vec<_>>().concat()
}

#[test]
fn a_whole_machine_is_healthy() {
    let root = whole();
    let found = examine(&machine(&root, &[]), &Questions::default());
    assert!(found.is_healthy(), "{}", found.text());
    insta::assert_snapshot!(found.text(), @r"
    ok       driver       23.0.5 (/usr/local/Ascend/driver)
    ok       firmware     7.1.0.7.220
    ok       device files /dev/davinci0 and what they share, open for this user
    ok       chip         NPU 0 chip 0: Ascend310P3, health OK, 42 °C, 1074 of 21534 MB in use
    ok       chip         NPU 5 chip 0: Ascend310P3, health OK, 51 °C, 1852 of 44280 MB in use
    ok       chip         NPU 5 chip 1: Ascend310P3, health OK, 50 °C, 1852 of 43693 MB in use
    ok       toolkit      8.1.RC1 (/usr/local/Ascend/ascend-toolkit/latest, usual place)
    ok       packages     opp 7.7.0.1.238, runtime 7.7.0.1.238
    ok       operators    for ascend310p
    note     environment  set_env.sh was not sourced; onnxfix gives it to ATC itself
    ok       AscendCL     /usr/local/Ascend/ascend-toolkit/latest/lib64/libascendcl.so
    note     libraries    /usr/local/Ascend/driver/lib64/driver is not on LD_LIBRARY_PATH; onnxfix adds it for itself
    ok       python       3.9.2 (/usr/bin/python3)
    compile  yes
    run      yes
    ");
}

#[test]
fn an_empty_machine_lacks_everything_and_a_compiler_needs_no_npu() {
    let root = root(&[]);
    let found = examine(&machine(&root, &[]), &Questions::default());
    assert_eq!((found.compile, found.run), (Some(false), Some(false)));
    let whole = whole();
    for gone in ["usr/local/Ascend/driver", "dev", "usr/local/bin"] {
        fs::remove_dir_all(whole.path().join(gone)).unwrap();
    }
    let found = examine(&machine(&whole, &[]), &Questions::default());
    assert_eq!((found.compile, found.run), (Some(true), Some(false)), "{}", found.text());
    let compile = Questions { purpose: Some(Purpose::Compile), ..Questions::default() };
    let found = examine(&machine(&whole, &[]), &compile);
    assert!(found.is_healthy() && found.run.is_none(), "{}", found.text());
}

#[test]
fn a_runtime_only_runs() {
    let root = whole();
    fs::remove_file(root.path().join(&HOME[1..]).join("bin/atc")).unwrap();
    let found = examine(&machine(&root, &[]), &Questions::default());
    assert_eq!((found.compile, found.run), (Some(false), Some(true)), "{}", found.text());
}

#[test]
fn a_user_outside_of_the_group() {
    let root = whole();
    add(root.path(), "/proc/self/status", &STATUS.replace("1000 ", "1000"));
    // The tests' own user may be that very one.
    let text = fs::read_to_string(root.path().join("proc/self/status")).unwrap();
    add(root.path(), "/proc/self/status", &text.replace("1000", "4242"));
    let found = against(&root, &[]);
    assert!(
        found.starts_with(
            "Problem device files: this user may not open /dev/davinci0, /dev/davinci_manager"
        ),
        "{found}"
    );
}

#[test]
fn chips_that_are_not_well() {
    let root = whole();
    let smi = TABLE.replace("1852 / 43693", "43000 / 43693");
    add(
        root.path(),
        "/usr/local/bin/npu-smi",
        &format!("#!/bin/sh\n/bin/cat <<'TABLE'\n{smi}TABLE\n"),
    );
    insta::assert_snapshot!(against(&root, &[]), @r"
    Warning chip: NPU 5 chip 0: Ascend310P3, health Warning, 51 °C, 1852 of 44280 MB in use
    Warning chip: NPU 5 chip 1: Ascend310P3, health Warning, 50 °C, 43000 of 43693 MB in use
    Warning chip memory: NPU 5 chip 1: Ascend310P3 has 693 MB free
    ");
    add(
        root.path(),
        "/usr/local/bin/npu-smi",
        "#!/bin/sh\necho 'dcmi module initialize failed. ret is -8005'\n",
    );
    assert_eq!(against(&root, &[]), "Problem npu-smi: npu-smi info shows no chip\n");
}

#[test]
fn mixed_releases_and_stand_ins_on_the_library_path() {
    let root = whole();
    let old = "/usr/local/Ascend/ascend-toolkit/6.0.1";
    add(root.path(), &format!("{old}/lib64/x.so"), "");
    add(root.path(), &format!("{old}/ascend_toolkit_install.info"), "version=6.0.1\n");
    add(root.path(), &format!("{HOME}/devlib/libascendcl.so"), "");
    let path = format!("{old}/lib64:{HOME}/devlib:{HOME}/lib64");
    insta::assert_snapshot!(against(&root, &[("LD_LIBRARY_PATH", &path)]), @r"
    Problem libraries: LD_LIBRARY_PATH mixes releases: 6.0.1 (/usr/local/Ascend/ascend-toolkit/6.0.1/lib64), 8.1.RC1 (/usr/local/Ascend/ascend-toolkit/latest/devlib)
    Problem AscendCL: /usr/local/Ascend/ascend-toolkit/latest/devlib/libascendcl.so is a stand-in for compiling programs; running with it gives error 100039
    ");
}

#[test]
fn packages_of_different_releases() {
    let root = whole();
    add(root.path(), &format!("{HOME}/opp/version.info"), "Version=7.6.0.1\n");
    assert_eq!(
        against(&root, &[]),
        "Problem packages: of different releases: runtime wants opp 7.7, which is 7.6.0.1\n"
    );
}

#[test]
fn what_atc_needs() {
    let root = whole();
    add(root.path(), "/usr/bin/python3", "#!/bin/sh\nprintf '3.6.9\\ndecorator\\nsympy\\n'\n");
    fs::remove_dir_all(root.path().join(&HOME[1..]).join("opp/built-in")).unwrap();
    insta::assert_snapshot!(against(&root, &[("ASCEND_HOME_PATH", "/gone")]), @r"
    Problem operators: no chip has operators in /usr/local/Ascend/ascend-toolkit/latest/opp/built-in/op_impl/ai_core/tbe/config
    Problem environment: ASCEND_HOME_PATH is /gone, which is not there
    Warning python: 3.6.9 (/usr/bin/python3): ATC is for 3.7.5 to 3.11
    Problem python: it lacks decorator, sympy
    ");
}

#[test]
fn models_against_what_is_here() {
    let root = whole();
    let path = root.path().join("m.om");
    let description = ascend_sim_om::Description {
        soc: "Ascend310P1".into(),
        release: "5.1.0".into(),
        ..Default::default()
    };
    ascend_sim_om::write(&path, &description, b"x").unwrap();
    let questions = Questions { models: vec![path.clone()], ..Questions::default() };
    let found = examine(&machine(&root, &[]), &questions);
    let shown = path.display().to_string();
    let said: Vec<String> = found
        .findings
        .iter()
        .filter(|f| f.check == "model")
        .map(|f| f.what.replace(&shown, "m.om"))
        .collect();
    assert_eq!(
        said,
        [
            "m.om is for Ascend310P1, and this machine has Ascend310P3",
            "m.om was compiled with operators 5.1.0, and this runtime takes >=6.3, <=7.7",
        ]
    );
    assert_eq!((found.compile, found.run), (Some(true), Some(false)));
}
