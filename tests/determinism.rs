//! The same input gives the same bytes, a second run changes nothing, and callers see what they saw before.

mod common;

use common::{Folder, TARGETS, fixture, fixtures, input_shape, interface, load, stem};

/// Optimizes `model.onnx` into a file.
fn optimize(folder: &Folder, model: &str, out: &str, flags: &[&str]) -> Vec<u8> {
    folder.run_args(&[&["optimize", model, "-o", out, "-q"], flags].concat()).exits(0);
    folder.read(out)
}

#[test]
fn a_second_run_gives_the_same_bytes() {
    for path in fixtures() {
        let shape = format!("--input-shape={}", input_shape(&path, [1, 32]));
        // Open dimensions are for targets that leave them open.
        for flags in [
            &["--target=ascend310p3", &shape][..],
            &["--target=portable", &shape],
            &["--target=portable"],
        ] {
            let folder = Folder::with(&path);
            let first = optimize(&folder, "model.onnx", "a.opt.onnx", flags);
            let name = format!("{} {flags:?}", stem(&path));
            assert!(
                optimize(&folder, "model.onnx", "b.opt.onnx", flags) == first,
                "{name}: of one source"
            );
            assert!(
                optimize(&folder, "a.opt.onnx", "c.onnx", &flags[..1]) == first,
                "{name}: of its result"
            );
            assert!(
                optimize(&folder, "a.opt.onnx", "a.opt.onnx", &flags[..1]) == first,
                "{name}: in its place"
            );
            folder.run("verify a.opt.onnx --samples 1").exits(0);
        }
    }
}

#[test]
fn threads_do_not_change_the_bytes() {
    let folder = Folder::with(&fixture("deberta_v3_tiny.onnx"));
    let outputs = ["1", "7"].map(|threads| {
        let mut command = folder.command(&["optimize", "model.onnx", "-q"]);
        assert!(
            command.env("RAYON_NUM_THREADS", threads).output().expect("starts").status.success()
        );
        folder.read("model.opt.onnx")
    });
    assert!(outputs[0] == outputs[1]);
}

#[test]
fn names_and_order_are_kept() {
    for path in fixtures() {
        let (inputs, outputs) = interface(&load(&path));
        let names = |typed: &[String]| {
            typed.iter().map(|t| t.split(' ').next().map(str::to_owned)).collect::<Vec<_>>()
        };
        let shape = format!("--input-shape={}", input_shape(&path, [2, 16]));
        for target in TARGETS {
            let folder = Folder::with(&path);
            optimize(&folder, "model.onnx", "o.onnx", &["--target", target, &shape]);
            let (new_inputs, new_outputs) = interface(&folder.load("o.onnx"));
            assert_eq!(
                (names(&new_inputs), names(&new_outputs)),
                (names(&inputs), names(&outputs)),
                "{target}"
            );
            let dtype = if target == "portable" { "int64[2,16]" } else { "int32[2,16]" };
            assert!(new_inputs.iter().all(|i| i.ends_with(dtype)), "{target}: {new_inputs:?}");
            assert!(
                new_outputs.iter().all(|o| o.contains(" float[2,")),
                "{target}: {new_outputs:?}"
            );
        }
        let folder = Folder::with(&path);
        optimize(&folder, "model.onnx", "o.onnx", &["--target=portable"]);
        assert_eq!(interface(&folder.load("o.onnx")), (inputs, outputs), "nothing was fixed");
    }
}

#[test]
fn a_model_in_the_place_of_its_source_says_so() {
    let path = fixture("deberta_v3_tiny.onnx");
    let folder = Folder::with(&path);
    optimize(&folder, "model.onnx", "model.onnx", &[]);
    assert_eq!(folder.files().len(), 1);
    folder.run("verify model.onnx").exits(2).says(&[
        "model.onnx",
        "took the place of its source",
        "--against",
    ]);
    folder.run_args(&["verify", "model.onnx", "--against", path.to_str().expect("UTF-8")]).exits(0);
    // Of the result in its place, nothing else is known either.
    optimize(&folder, "model.onnx", "later.onnx", &[]);
    folder.run("verify later.onnx").exits(2).says(&["took the place of its source"]);
}

#[test]
fn a_source_that_changed_is_not_compared_with() {
    let folder = Folder::with(&fixture("deberta_v3_tiny.onnx"));
    let original = folder.read("model.onnx");
    optimize(&folder, "model.onnx", "model.opt.onnx", &[]);

    // Another model of the same name, and the same model in a file of another size.
    let mut model = folder.load("model.onnx");
    model.header.producer_version = Some("other".into());
    folder.store("model.onnx", &model);
    let changed = ["model.onnx is not the file that the model was made from", "--against BEFORE"];
    folder.run("verify").exits(2).says(&changed);
    folder.write("model.onnx", [&original[..], b"x"].concat());
    folder.run("verify").exits(2).says(&["model.onnx"]);

    std::fs::remove_file(folder.path("model.onnx")).expect("was written");
    folder.run("verify").exits(2).says(&["model.onnx is not there", "--against BEFORE"]);
    folder.write("copy.onnx", &original);
    folder.run("verify --against copy.onnx").exits(0);
}

/// A download cache has links to files that are named by their hashes.
#[cfg(unix)]
#[test]
fn a_source_behind_a_link_is_recorded_by_the_name_of_the_link() {
    let folder = Folder::with(&fixture("deberta_v3_tiny.onnx"));
    std::fs::rename(folder.path("model.onnx"), folder.path("0badc0de")).expect("was written");
    std::os::unix::fs::symlink(folder.path("0badc0de"), folder.path("model.onnx")).expect("a link");
    optimize(&folder, "model.onnx", "model.opt.onnx", &[]);
    let verified = folder.run("verify").exits(0);
    assert!(
        verified.out.starts_with("equal      model.opt.onnx and model.onnx\n"),
        "{}",
        verified.out
    );
}

#[test]
fn metadata_can_be_left_out() {
    let folder = Folder::with(&fixture("deberta_v3_tiny.onnx"));
    optimize(&folder, "model.onnx", "with.onnx", &[]);
    optimize(&folder, "model.onnx", "without.onnx", &["--strip-metadata"]);
    let marked =
        |name: &str| folder.load(name).all_nodes().filter(|(_, n)| !n.metadata.is_empty()).count();
    assert!(marked("with.onnx") > 0);
    assert_eq!(marked("without.onnx"), 0);
    folder.run("verify without.onnx").exits(0);
}
