//! Data sets, accuracy and predictions, as users ask for them, on the trained model of `fixtures/`.

mod common;

use common::{data, reviews};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn files_are_those_of_the_model_and_results_count() {
    let folder = reviews();
    folder.run("-q optimize model.onnx -o m.onnx --input-shape input_ids:2,32;attention_mask:2,32;token_type_ids:2,32").exits(0);
    folder.run("prepare sst2 --data dev.tsv --model m.onnx --batch 2 -o pre").exits(0);
    let files = folder.files();
    // Two rows of 32 numbers of 32 bits, since an NPU takes no others.
    for name in ["input_ids", "attention_mask", "token_type_ids"] {
        assert_eq!(files[&format!("pre/dev/{name}/input_2.bin")].len(), 2 * 32 * 4, "{name}");
    }
    assert!(!files.contains_key("pre/dev/input_ids/input_3.bin"));

    let on_files = folder.run("eval m.onnx --data pre -o from_files --json").exits(0);
    let from_files = json(&on_files.out);
    let split = &from_files["splits"][0];
    assert_eq!(split["answers"], serde_json::json!([1, 0, 1, 0, 1]));
    assert_eq!((&split["eval_samples"], &split["correct"]), (&Value::from(5), &Value::from(5)));
    let text = String::from_utf8(folder.read("from_files/eval_bs2_dev.txt")).unwrap();
    assert_eq!(text, "accuracy = 1.0\neval_samples = 5\n");

    // What a runner writes: a file for each batch, in a folder with the time of the run.
    let logits = [[-1.0_f32, 1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0], [-1.0, 1.0, 9.0, 0.0]];
    std::fs::create_dir_all(folder.path("out/2026_01_02-03_04_05")).unwrap();
    for (i, batch) in logits.iter().enumerate() {
        let bytes: Vec<u8> = batch.iter().flat_map(|x| x.to_le_bytes()).collect();
        folder.write(&format!("out/2026_01_02-03_04_05/input_{i}_0.bin"), bytes);
    }
    let other =
        folder.run("eval --outputs out --data pre --against from_files/result.json").exits(1);
    assert!(other.out.contains("dev: accuracy 0.8000, 4 of 5"), "{}", other.out);
    assert!(other.out.contains("1 answered otherwise\n  dev line 5: positive, there negative"));
}

/// The types of the files are in the manifest, whatever the model takes; and an engine that gives up is told in one line.
#[test]
fn files_of_32_bits_go_into_a_model_of_64() {
    let folder = reviews();
    let prepare =
        "prepare sst2 --data dev.tsv --tokenizer . --batch 2 --max-length 32 --element int32";
    folder
        .run(&format!("{prepare} --inputs input_ids,attention_mask,token_type_ids -o pre"))
        .exits(0);
    folder.run("run model.onnx --input pre -o out").exits(0);
    let counted = folder.run("eval --outputs out --data pre --json").exits(0);
    let answers = json(&counted.out)["splits"][0]["answers"].clone();
    assert_eq!(answers, serde_json::json!([1, 0, 1, 0, 1]));

    let shape =
        |n| format!("--input-shape input_ids:{n},32;attention_mask:{n},32;token_type_ids:{n},32");
    let narrow = folder.run(&format!("run model.onnx --input pre/dev {}", shape(2))).exits(2);
    assert!(narrow.err.contains("say --bin-dtype int32"), "{}", narrow.err);
    folder.write("far.bin", 8001_i64.to_le_bytes().repeat(32));
    let far = format!("run model.onnx --input far.bin,far.bin,far.bin {}", shape(1));
    let far = folder.run(&far).exits(2);
    assert!(far.err.contains("tract failed") && !far.err.contains("panicked"), "{}", far.err);
}

#[test]
fn lengths_do_not_change_answers() {
    let folder = reviews();
    let eval = |more: &str| {
        let ran = folder.run(&format!("eval model.onnx --task sst2 --data . --json {more}"));
        json(&ran.exits(0).out)["splits"][0]["answers"].clone()
    };
    assert_eq!(eval("--max-length 64"), eval("--max-length 64 --buckets 8,16 --batch 2"));
    folder
        .run("prepare sst2 --data . --model model.onnx --max-length 64 --buckets 8,16 -o pre")
        .exits(0);
    let on_files = json(&folder.run("eval model.onnx --data pre --json").exits(0).out);
    assert_eq!(on_files["splits"][0]["answers"], eval("--max-length 64"));
    // With half the digits the answers are the same on sentences as plain as these.
    assert_eq!(eval("--max-length 64 --half"), eval("--max-length 64"));
}

#[test]
fn the_order_of_labels_is_the_models() {
    let folder = reviews();
    folder.write("config.json", r#"{"id2label": {"0": "positive", "1": "negative"}}"#);
    let turned = folder.run("eval model.onnx --task sst2 --data . --json").exits(0);
    assert_eq!(json(&turned.out)["splits"][0]["correct"], 0);
    let said = "eval model.onnx --task sst2 --data . --labels negative,positive --json";
    assert_eq!(json(&folder.run(said).exits(0).out)["splits"][0]["correct"], 5);
    folder
        .run("eval model.onnx --task mnli --data . --labels a,b,c")
        .exits(2)
        .says(&["--labels: mnli has the labels contradiction, neutral, entailment"]);
}

#[test]
fn predictions_are_printed_as_the_guide_prints_them() {
    let folder = reviews();
    let one = folder.run_args(&["predict", "model.onnx", "a warm and funny film"]).exits(0).out;
    let prob: f32 = one.trim().strip_prefix("label_id: 1, prob: ").unwrap().parse().unwrap();
    assert!((0.5..=1.0).contains(&prob), "{one}");

    let none = folder.run("predict model.onnx").exits(0).out;
    let sentence = "the problem , it is with most of these things , is the script .";
    assert!(none.starts_with(&format!("text: {sentence}, label_id: 0, prob: 0.")), "{none}");

    folder.write("lines.txt", "a warm and funny film\nit is awful\n");
    let many = folder.run("predict model.onnx --file lines.txt --npy npy --json").exits(0);
    let many = json(&many.out);
    assert_eq!((&many[0]["label"], &many[1]["label"]), (&"positive".into(), &"negative".into()));
    let files = folder.files();
    assert!(files["npy/label_id.npy"].ends_with(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert!(files.contains_key("npy/prob.npy"));
}

#[test]
fn odd_lines_are_named_and_not_dropped_in_silence() {
    let folder = reviews();
    folder.write(
        "dev.tsv",
        b"sentence\tlabel\n\"quoted\t1\n\nbad \xff\t0\ntwo\ttabs\t1\n".as_slice(),
    );
    let line = "prepare sst2 --data . --tokenizer vocab.txt -o pre";
    folder.run(line).exits(2).says(&[
        "1 of 3 lines are no samples (line 5: 3 cells, and the header has 2)",
        "--skip-odd-lines",
    ]);
    assert!(!folder.path("pre").exists());
    folder.run(&format!("{line} --skip-odd-lines")).exits(0).says(&[
        "line 2: a quote begins a cell",
        "line 3: blank",
        "line 4: bytes that are no UTF-8",
        "warning: ./dev.tsv: line 5: 3 cells",
    ]);
    let manifest = json(&String::from_utf8(folder.read("pre/manifest.json")).unwrap());
    assert_eq!(manifest["splits"][0]["lines"], serde_json::json!([2, 4]));
    assert_eq!(manifest["splits"][0]["odd"].as_array().unwrap().len(), 4);
}

#[test]
fn genres_have_an_accuracy_each() {
    let folder = reviews();
    let header = "genre\tsentence1\tsentence2\tgold_label\n";
    let rows = "fiction\ta\tb\tneutral\ntravel\tc\td\tentailment\nfiction\te\tf\t-\n";
    folder.write("dev_matched.tsv", format!("{header}{rows}"));
    std::fs::create_dir(folder.path("out")).unwrap();
    for i in 0..3 {
        let bytes: Vec<u8> = [0.0_f32, 1.0, 0.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        folder.write(&format!("out/input_{i}_0.bin"), bytes);
    }
    folder.run("eval --task mnli --data dev_matched.tsv --outputs out -o r").exits(0);
    let text = String::from_utf8(folder.read("r/eval_bs1_match.txt")).unwrap();
    let want = "accuracy = 0.5\naccuracy_fiction = 1.0\naccuracy_travel = 0.0\neval_samples = 2\n";
    assert_eq!(text, want);
}

#[test]
fn what_is_missing_is_said() {
    let folder = reviews();
    std::fs::remove_file(folder.path("vocab.txt")).unwrap();
    folder
        .run("predict model.onnx")
        .exits(2)
        .says(&["no tokenizer beside the model; name one with --tokenizer"]);
    folder.run("eval model.onnx --data .").exits(2).says(&["--task: . is not prepared"]);
    folder.run("eval --data .").exits(2).says(&["<MODEL>"]);
}

#[test]
fn a_chain_goes_on_where_it_broke() {
    let folder = reviews();
    let config = r#"
name = "convbert"
task = "sst2"
data = "dev.tsv"
model = "model.onnx"
work = "work"
stages = ["optimize", "verify", "prepare", "eval", "predict"]
batches = [1, 2]
max_length = 32
labels = ["positive"]
"#;
    folder.write("chain.toml", config);
    let broken = folder.run("pipeline chain.toml").exits(1);
    assert!(broken.out.contains("eval_bs1 failed; see"), "{}", broken.out);
    let log = String::from_utf8(folder.read("work/logs/eval_bs1.log")).unwrap();
    assert!(log.contains("--labels: sst2 has the labels negative, positive"), "{log}");

    folder.write("chain.toml", config.replace("[\"positive\"]", "[]"));
    let report = json(&folder.run("pipeline chain.toml --json").exits(0).out);
    let ended = |name: &str| {
        let steps = report["steps"].as_array().unwrap();
        steps.iter().find(|s| s["name"] == name).unwrap()["ended"].clone()
    };
    assert_eq!((ended("prepare_bs2"), ended("eval_bs2")), ("up_to_date".into(), "done".into()));
    let first = &report["table"][0];
    assert_eq!(first["accuracy"], serde_json::json!([["dev", 1.0]]));
    assert_eq!(first["fps"], Value::Null);
    assert_eq!(report["prediction"][0]["label_id"], 0);
    let results = String::from_utf8(folder.read("work/results.log")).unwrap();
    assert_eq!(results.matches("Run failed with command - ").count(), 1);
    assert!(String::from_utf8(folder.read("work/report/report.html")).unwrap().contains("Our fps"));
}

#[test]
fn the_trained_model_is_as_accurate_as_its_readme_says() {
    let Some(sst2) = data("data/sst2") else { return };
    let folder = reviews();
    let sst2 = sst2.join("dev.tsv");
    let eval = |more: &str| {
        let mut args =
            vec!["eval", "model.onnx", "--task", "sst2", "--data", sst2.to_str().unwrap()];
        args.extend(["--json", "--batch", "8"]);
        args.extend(more.split_whitespace());
        let split = json(&folder.run_args(&args).exits(0).out)["splits"][0].clone();
        assert_eq!(split["eval_samples"], 872);
        split["correct"].as_u64().unwrap()
    };
    assert_eq!(eval("--max-length 128"), 720);
    // Convolutions see how much padding there is, so with less of it a few sentences are answered otherwise.
    assert!(eval("--max-length 64 --buckets 16,32").abs_diff(720) <= 4);
}
