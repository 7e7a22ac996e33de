use onnxfix_ir::{DataType, ExternalData, StoreOptions, Tensor, store, text, write_to};

use super::*;

fn bytes(model: &str) -> Vec<u8> {
    let model = text::parse(model).expect("a model in ONNX text");
    let mut bytes = Vec::new();
    write_to(&model, &mut bytes).expect("memory");
    bytes
}

fn spec(name: &str, dtype: DataType, dims: &[i64]) -> InputSpec {
    InputSpec { name: name.into(), dtype, dims: dims.to_vec() }
}

fn load(bytes: &[u8], inputs: &[InputSpec]) -> Result<Engine, EngineError> {
    let source = Source::Bytes(bytes);
    Engine::load(&Request { source, inputs, outputs: &[], lowering: Lowering::Kernels, keep: &[] })
}

fn error(bytes: &[u8], inputs: &[InputSpec]) -> String {
    load(bytes, inputs).expect_err("the engine refuses").to_string()
}

/// Runs with one float input `x`.
fn run(model: &str, x: &Tensor) -> Vec<Tensor> {
    let engine = load(&bytes(model), &[spec("x", x.dtype, &x.dims)]).expect("loads");
    engine.run(std::slice::from_ref(x)).expect("runs")
}

#[test]
fn shapes_are_those_of_the_request_not_of_the_file() {
    let model = r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[1,2] x) => (float[1,2] y) { y = Relu (x) }"#;
    let x = Tensor::new(&[3, 2], vec![-1.0_f32, 1.0, 2.0, -2.0, 3.0, 4.0]);
    assert_eq!(run(model, &x)[0], Tensor::new(&[3, 2], vec![0.0_f32, 1.0, 2.0, 0.0, 3.0, 4.0]));
}

#[test]
fn stale_shapes_of_values_are_ignored() {
    let model = r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[N] x) => (float[7] y) <float[7] a> { a = Relu (x)  y = Neg (a) }"#;
    let x = Tensor::new(&[2], vec![1.0_f32, -1.0]);
    assert_eq!(run(model, &x)[0], Tensor::new(&[2], vec![-1.0_f32, -0.0]));
}

#[test]
fn numbers_of_a_shape_come_out_as_int64() {
    let model = r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[N,M] x) => (int64[2] y) { y = Shape (x) }"#;
    assert_eq!(run(model, &Tensor::new(&[2, 3], vec![0.0_f32; 6]))[0], Tensor::ints(&[2, 3]));
}

#[test]
fn a_strided_slice_behind_a_reshape_runs() {
    // tract's optimiser fails here: the reason why it is not used.
    let model = r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[1,2,2] x) => (float[1,2,2] y)
        <float[1,2,5] t = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, int64[3] shape = {1, 5, 2}, int64[1] start = {1},
         int64[1] end = {4}, int64[1] axis = {1}, int64[1] step = {2}>
        { a = MatMul (x, t)  b = Reshape (a, shape)  y = Slice (b, start, end, axis, step) }"#;
    let x = Tensor::new(&[1, 2, 2], vec![1.0_f32, 0.0, 0.0, 1.0]);
    assert_eq!(run(model, &x)[0], Tensor::new(&[1, 2, 2], vec![3.0_f32, 4.0, 7.0, 8.0]));
}

#[test]
fn calls_of_functions_become_their_bodies() {
    let model = r#"<ir_version: 8, opset_import: ["" : 13, "my" : 1]>
        g (float[2] x) => (float[2] y) { t = my.Twice <slope = 0.5> (x)  y = my.Twice <slope = 0.25> (t) }
        <domain: "my", opset_import: ["" : 13, "my" : 1]>
        Twice <slope> (a) => (c) { b = my.Leaky <slope: float = @slope> (a)  c = Add (b, b) }
        <domain: "my", opset_import: ["" : 13]>
        Leaky <slope> (a) => (b) { b = LeakyRelu <alpha: float = @slope> (a) }"#;
    let x = Tensor::new(&[2], vec![1.0_f32, -1.0]);
    assert_eq!(run(model, &x)[0], Tensor::new(&[2], vec![4.0_f32, -0.5]));
}

#[test]
fn chosen_values_are_returned_instead_of_the_outputs() {
    let bytes = bytes(
        r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[2] x) => (float[2] y) { a = Relu (x)  y = Neg (a) }"#,
    );
    let (inputs, outputs) = ([spec("x", DataType::Float, &[2])], ["a".to_owned()]);
    let request = Request {
        source: Source::Bytes(&bytes),
        inputs: &inputs,
        outputs: &outputs,
        lowering: Lowering::Plain,
        keep: &[],
    };
    let engine = Engine::load(&request).expect("loads");
    assert_eq!(engine.outputs()[0].name, "a");
    let x = Tensor::new(&[2], vec![1.0_f32, -1.0]);
    assert_eq!(engine.run(&[x]).expect("runs")[0], Tensor::new(&[2], vec![1.0_f32, 0.0]));
}

#[test]
fn what_is_missing_is_named() {
    let unknown = bytes(
        r#"<ir_version: 8, opset_import: ["" : 13, "acme" : 1]>
        g (float[2] x) => (float[2] y) { [first] a = acme.Relu (x)  b = acme.Relu (a)  y = Neg (b) }"#,
    );
    let x = [spec("x", DataType::Float, &[2])];
    assert_eq!(error(&unknown, &x), r#"the CPU engine lacks acme.Relu (node "first" and 1 more)"#);

    let relu = bytes(
        r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[2] x) => (float[2] y) { y = Relu (x) }"#,
    );
    assert_eq!(error(&relu, &[]), r#"the model has an input "x", and no shape was given for it"#);
    let two = [x[0].clone(), spec("z", DataType::Float, &[2])];
    assert_eq!(error(&relu, &two), r#"the model has no input "z""#);
    assert_eq!(error(b"not a model", &x).split(':').next(), Some("not an ONNX model"));
}

#[test]
fn a_node_that_cannot_be_is_named() {
    let model = bytes(
        r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[2,3] x) => (float[2] y) { [bad] y = MatMul (x, x) }"#,
    );
    let message = error(&model, &[spec("x", DataType::Float, &[2, 3])]);
    assert!(message.starts_with(r#"tract cannot prepare the model at node "bad""#), "{message}");
}

#[test]
fn tensors_that_do_not_fit_the_plan_are_refused() {
    let model = bytes(
        r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[2] x) => (float[2] y) { y = Relu (x) }"#,
    );
    let engine = load(&model, &[spec("x", DataType::Float, &[2])]).expect("loads");
    assert!(matches!(engine.run(&[]), Err(EngineError::Count { want: 1, have: 0 })));
    assert!(matches!(engine.run(&[Tensor::ints(&[1, 2])]), Err(EngineError::Feed { .. })));
}

/// A model in a folder of links, as download caches make them, with its data beside the real file.
#[cfg(unix)]
#[test]
fn external_data_are_found_beside_the_link_and_beside_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for dir in ["blobs", "links"] {
        std::fs::create_dir(at(dir)).expect("a folder");
    }
    let elements = (0..256).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
    let model = text::parse(&format!(
        r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[256] x) => (float[256] y) <float[256] w = {{{elements}}}> {{ y = Add (x, w) }}"#
    ));
    let options = StoreOptions { external_data: ExternalData::Always };
    let model = model.expect("a model in ONNX text");
    let stored = store(&model, &at("blobs/model.onnx"), &options).expect("stored");
    let (data, _) = stored.data.expect("elements of their own");
    let name = data.file_name().expect("a file").to_owned();
    std::fs::rename(&data, at("blobs/weights")).expect("renamed");
    std::os::unix::fs::symlink(at("blobs/model.onnx"), at("links/model.onnx")).expect("linked");

    let path = at("links/model.onnx");
    let inputs = [spec("x", DataType::Float, &[256])];
    let request = Request {
        source: Source::File(&path),
        inputs: &inputs,
        outputs: &[],
        lowering: Lowering::Kernels,
        keep: &[],
    };
    let missing = Engine::load(&request).expect_err("no data yet").to_string();
    assert!(missing.starts_with(r#"external data of tensor "w" cannot be read"#), "{missing}");

    std::os::unix::fs::symlink(at("blobs/weights"), at("links").join(name)).expect("linked");
    let engine = Engine::load(&request).expect("loads");
    let y = engine.run(&[Tensor::new(&[256], vec![0.5_f32; 256])]).expect("runs").remove(0);
    assert_eq!(y.to_floats().map(|y| (y[0], y[255])), Some((0.5, 255.5)));
}

/// A file with a weight of 128 KiB, `w`, of which every element is `element`; `y = MatMul (x, w)`.
fn with_large_weight(folder: &Path, element: f32) -> std::path::PathBuf {
    let mut model = text::parse(
        r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float[1,2] x) => (float[1,N] y) <float[1] none = {1}> { [product] y = MatMul (x, none) }"#,
    )
    .expect("a model in ONNX text");
    let (root, tensor) = (model.root(), Tensor::new(&[2, 16384], vec![element; 32768]));
    let weight = model.add_initializer(root, "w".into(), Arc::new(tensor));
    let product = model.nodes(root).next().expect("a node");
    model.set_input(product, 1, Some(weight));
    model.remove_dead_initializers(root);
    let path = folder.join("m.onnx");
    store(&model, &path, &StoreOptions::default()).expect("a file");
    path
}

fn load_file(path: &Path, lowering: Lowering, keep: &[String]) -> Result<Engine, EngineError> {
    let inputs = [spec("x", DataType::Float, &[1, 2])];
    Engine::load(&Request {
        source: Source::File(path),
        inputs: &inputs,
        outputs: &[],
        lowering,
        keep,
    })
}

#[test]
fn a_large_weight_goes_from_the_file_into_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = with_large_weight(folder.path(), 0.5);
    let engine = load_file(&path, Lowering::Kernels, &[]).expect("loads");
    let y = engine.run(&[Tensor::new(&[1, 2], vec![1.0_f32, 2.0])]).expect("runs");
    assert_eq!(y[0], Tensor::new(&[1, 16384], vec![1.5_f32; 16384]));

    // A file that ends within the weight is refused, by whatever reader sees it.
    let bytes = std::fs::read(&path).expect("the file");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("a file");
    let error = load_file(&path, Lowering::Kernels, &[]).expect_err("it is cut off");
    assert!(matches!(error, EngineError::Decode { .. }), "{error}");
}

#[test]
fn half_rounds_inputs_weights_and_what_nodes_make_but_not_sums() {
    let folder = tempfile::tempdir().expect("a folder");
    // 0.1 is 0.0999755859375 in float16.
    let path = with_large_weight(folder.path(), 0.1);
    let run = |keep: &[String]| {
        let engine = load_file(&path, Lowering::Half, keep).expect("loads");
        let y = engine.run(&[Tensor::new(&[1, 2], vec![2049.0_f32, 1.0])]).expect("runs");
        (y[0].to_floats().expect("floats")[0], engine.rounded())
    };
    let (y, rounded) = run(&[]);
    // 2049 becomes 2048; 2048.0 · w + w = 204.85, which float16 knows in steps of 1/8.
    assert!((y - 204.875).abs() < 1e-9, "{y}");
    let names: Vec<&str> = rounded.iter().map(|r| r.value.as_str()).collect();
    assert_eq!(names, ["x", "w", "y"]);
    // The node stays in float32, with its weight and its input; what it gives is stored in float16 all the same.
    let (y, _) = run(&["product".to_owned()]);
    assert!((y - 205.0).abs() < 1e-9, "{y}");
}

#[test]
fn half_counts_what_float16_cannot_hold() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = with_large_weight(folder.path(), 60000.0);
    let engine = load_file(&path, Lowering::Half, &[]).expect("loads");
    let y = engine.run(&[Tensor::new(&[1, 2], vec![1.0_f32, 1.0])]).expect("runs");
    assert!(y[0].to_floats().expect("floats")[0].is_infinite());
    let last = engine.rounded().pop().expect("the output");
    assert_eq!((last.overflowed, last.node.as_str()), (16384, "product"));
    assert!((last.largest - 120_000.0).abs() < 1.0, "{}", last.largest);
}

#[test]
fn half_adds_in_float32_what_a_model_stores_in_float16() {
    let bytes = bytes(
        r#"<ir_version: 8, opset_import: ["" : 13]>
        g (float16[4] x) => (float16[1] y) <int64[1] axis = {0}> { y = ReduceSum <keepdims = 1> (x, axis) }"#,
    );
    let x: Vec<half::f16> = [2048.0, 1.0, 1.0, 1.0].map(half::f16::from_f32).to_vec();
    let inputs = [spec("x", DataType::Float16, &[4])];
    let source = Source::Bytes(&bytes);
    let request =
        Request { source, inputs: &inputs, outputs: &[], lowering: Lowering::Half, keep: &[] };
    let engine = Engine::load(&request).expect("loads");
    let y = engine.run(&[Tensor::new(&[4], x)]).expect("runs");
    // In float16 each 1 would be lost: 2048 + 1 is 2048.
    assert_eq!(y[0], Tensor::new(&[1], vec![half::f16::from_f32(2052.0)]));
}
