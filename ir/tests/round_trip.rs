//! Loading and storing without changes gives an equal model.

mod common;

use bytes::Bytes;
use onnxfix_ir::proto::{
    AttributeProto, DeviceConfigurationProto, Dimension, DimensionValue, FunctionProto, GraphProto,
    ModelProto, NodeDeviceConfigurationProto, NodeProto, OperatorSetIdProto, Segment,
    SparseTensorProto, StringStringEntryProto, TensorAnnotation, TensorProto, TensorShapeProto,
    TrainingInfoProto, TypeMap, TypeOpaque, TypeOptional, TypeProto, TypeProtoValue, TypeSequence,
    TypeSparseTensor, TypeTensor, ValueInfoProto,
};
use onnxfix_ir::{LoadOptions, check, from_bytes, load, to_proto, write_to};
use proptest::prelude::*;
use prost::Message as _;

#[test]
fn stored_messages_equal_the_loaded_ones() {
    for path in common::models() {
        let file = Bytes::from(std::fs::read(&path).expect("the model"));
        let loaded = load(&path, &LoadOptions::default())
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let before = ModelProto::decode(file).expect("a model");
        assert!(to_proto(&loaded.model) == before, "{}", path.display());
    }
}

proptest! {
    #[test]
    fn any_model_comes_back_equal(choices in prop::collection::vec(any::<u8>(), 0..600)) {
        let before = Choices { bytes: choices.into_iter(), names: 0 }.model();
        let loaded = from_bytes(before.encode_to_vec().into(), None, &LoadOptions::default());
        let loaded = loaded.unwrap_or_else(|err| panic!("{err}\n{before:#?}"));
        prop_assert_eq!(&loaded.warnings, &[]);
        let broken: Vec<String> = check(&loaded.model).iter().map(ToString::to_string).collect();
        prop_assert_eq!(broken, Vec::<String>::new());
        prop_assert_eq!(&to_proto(&loaded.model), &before);
        let mut written = Vec::new();
        write_to(&loaded.model, &mut written).expect("memory");
        prop_assert_eq!(written, before.encode_to_vec());
    }
}

/// Makes a model by random choices; when they run out, the simplest ones are taken.
struct Choices {
    bytes: std::vec::IntoIter<u8>,
    names: u32,
}

impl Choices {
    fn up_to(&mut self, n: u8) -> u8 {
        self.bytes.next().unwrap_or(0) % (n + 1)
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.up_to(2) == 1).then(|| make(self))
    }

    fn some<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.up_to(2)).map(|_| make(self)).collect()
    }

    fn text(&mut self) -> String {
        ["", "a", "grüße"][self.up_to(2) as usize].to_owned()
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("v{}", self.names)
    }

    fn number(&mut self) -> i64 {
        [0, 1, -1, i64::MAX][self.up_to(3) as usize]
    }

    fn entry(&mut self) -> StringStringEntryProto {
        StringStringEntryProto { key: Some(self.text()), value: Some(self.text()) }
    }

    fn model(&mut self) -> ModelProto {
        let opset = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.into()),
            version: Some(version),
        };
        let mut graph = self.graph(2, &[]);
        graph.sparse_initializer = self.some(|c| SparseTensorProto {
            values: Some(TensorProto {
                name: Some(c.name()),
                data_type: Some(1),
                ..TensorProto::default()
            }),
            indices: c.maybe(Self::tensor),
            dims: vec![1],
        });
        ModelProto {
            ir_version: Some(12),
            opset_import: vec![opset("", 20), opset("custom", 1)],
            producer_name: self.maybe(Self::text),
            producer_version: self.maybe(Self::text),
            domain: self.maybe(Self::text),
            model_version: self.maybe(Self::number),
            doc_string: self.maybe(Self::text),
            graph: Some(graph),
            metadata_props: self.some(Self::entry),
            training_info: self.some(|c| TrainingInfoProto {
                initialization: c.maybe(|c| c.graph(0, &[])),
                update_binding: c.some(Self::entry),
                ..TrainingInfoProto::default()
            }),
            functions: self.some(Self::function),
            configuration: self.some(|c| DeviceConfigurationProto {
                name: c.maybe(Self::text),
                num_devices: c.maybe(|_| 2),
                device: c.some(Self::text),
            }),
        }
    }

    fn function(&mut self) -> FunctionProto {
        let graph = self.graph(1, &[]);
        let names =
            |infos: &[ValueInfoProto]| infos.iter().filter_map(|v| v.name.clone()).collect();
        let mut opset_import = vec![OperatorSetIdProto { domain: None, version: Some(20) }];
        opset_import.push(OperatorSetIdProto { domain: Some("custom".into()), version: Some(1) });
        FunctionProto {
            name: Some(self.name()),
            input: names(&graph.input),
            // A function has no initializers.
            output: graph
                .node
                .iter()
                .flat_map(|n| n.output.clone())
                .filter(|n| !n.is_empty())
                .take(1)
                .collect(),
            attribute: self.some(Self::text),
            attribute_proto: self.some(|c| c.attribute(0, &[])),
            node: graph
                .node
                .into_iter()
                .map(|n| NodeProto { input: vec![], attribute: vec![], ..n })
                .collect(),
            doc_string: self.maybe(Self::text),
            opset_import,
            domain: self.maybe(|_| "custom".into()),
            overload: self.maybe(Self::text),
            value_info: graph.input.into_iter().take(1).collect(),
            metadata_props: self.some(Self::entry),
        }
    }

    /// A graph that may read `outer`, with bodies up to this depth.
    fn graph(&mut self, depth: u8, outer: &[String]) -> GraphProto {
        let initializer = self.some(|c| TensorProto { name: Some(c.name()), ..c.tensor() });
        let input = self.some(|c| c.value(None));
        let mut readable = outer.to_vec();
        readable.extend(initializer.iter().filter_map(|t| t.name.clone()));
        readable.extend(input.iter().filter_map(|v| v.name.clone()));
        let mut value_info: Vec<ValueInfoProto> = self.some(|c| c.value(None));
        let mut own = Vec::new();
        let node: Vec<NodeProto> = (0..self.up_to(4))
            .map(|_| {
                let node = self.node(depth, &readable);
                let made = node.output.iter().filter(|n| !n.is_empty()).cloned();
                own.extend(made.clone());
                readable.extend(made);
                node
            })
            .collect();
        let listed: Vec<String> = own.iter().filter(|_| self.up_to(1) == 1).cloned().collect();
        let (listed, rest): (Vec<String>, Vec<String>) =
            own.into_iter().partition(|n| listed.contains(n));
        value_info.extend(rest.into_iter().map(|n| self.value(Some(n))));
        GraphProto {
            output: listed.into_iter().map(|n| self.value(Some(n))).collect(),
            node,
            name: self.maybe(Self::text),
            initializer,
            sparse_initializer: vec![],
            doc_string: self.maybe(Self::text),
            input,
            value_info,
            quantization_annotation: self.some(|c| TensorAnnotation {
                tensor_name: c.maybe(Self::text),
                quant_parameter_tensor_names: c.some(Self::entry),
            }),
            metadata_props: self.some(Self::entry),
        }
    }

    fn node(&mut self, depth: u8, readable: &[String]) -> NodeProto {
        let input = self.some(|c| match c.up_to(3) {
            0 => String::new(),
            n => readable.get(readable.len().wrapping_sub(n as usize)).cloned().unwrap_or_default(),
        });
        let output = self.some(|c| if c.up_to(4) == 1 { String::new() } else { c.name() });
        NodeProto {
            input,
            output,
            name: self.maybe(Self::text),
            op_type: Some("Op".into()),
            domain: Some("custom".into()),
            overload: self.maybe(Self::text),
            attribute: self.some(|c| c.attribute(depth, readable)),
            doc_string: self.maybe(Self::text),
            metadata_props: self.some(Self::entry),
            device_configurations: self.some(|c| NodeDeviceConfigurationProto {
                configuration_id: c.maybe(Self::text),
                ..NodeDeviceConfigurationProto::default()
            }),
        }
    }

    fn attribute(&mut self, depth: u8, readable: &[String]) -> AttributeProto {
        let code = 1 + self.up_to(14);
        let mut a = AttributeProto {
            name: Some(self.name()),
            doc_string: self.maybe(Self::text),
            r#type: Some(i32::from(code)),
            ..AttributeProto::default()
        };
        let bytes = |c: &mut Self| Bytes::from(vec![0xff; c.up_to(3) as usize]);
        match code {
            1 => a.f = Some(0.5),
            2 => a.i = Some(self.number()),
            3 => a.s = Some(bytes(self)),
            4 => a.t = Some(self.tensor()),
            5 if depth > 0 => a.g = Some(Box::new(self.graph(depth - 1, readable))),
            6 => a.floats = self.some(|_| 0.5),
            7 => a.ints = self.some(Self::number),
            8 => a.strings = self.some(bytes),
            9 => a.tensors = self.some(Self::tensor),
            10 if depth > 0 => a.graphs = self.some(|c| c.graph(depth - 1, readable)),
            11 => a.sparse_tensor = Some(SparseTensorProto::default()),
            12 => a.sparse_tensors = self.some(|_| SparseTensorProto::default()),
            13 => a.tp = Some(Box::new(self.ty(2))),
            14 => a.type_protos = self.some(|c| c.ty(2)),
            _ => {
                a.r#type = Some(2);
                a.ref_attr_name = Some("outer".into());
            }
        }
        a
    }

    fn value(&mut self, name: Option<String>) -> ValueInfoProto {
        ValueInfoProto {
            name: Some(name.unwrap_or_else(|| self.name())),
            r#type: self.maybe(|c| c.ty(2)),
            doc_string: self.maybe(Self::text),
            metadata_props: self.some(Self::entry),
        }
    }

    fn ty(&mut self, depth: u8) -> TypeProto {
        use TypeProtoValue as V;
        let elem_type = self.maybe(|c| i32::from(c.up_to(40)));
        let value = self.maybe(|c| match c.up_to(5) {
            1 if depth > 0 => V::SequenceType(Box::new(TypeSequence {
                elem_type: c.maybe(|c| Box::new(c.ty(depth - 1))),
            })),
            2 if depth > 0 => V::OptionalType(Box::new(TypeOptional {
                elem_type: c.maybe(|c| Box::new(c.ty(depth - 1))),
            })),
            3 if depth > 0 => {
                let value_type = c.maybe(|c| Box::new(c.ty(depth - 1)));
                V::MapType(Box::new(TypeMap { key_type: elem_type, value_type }))
            }
            4 => {
                V::OpaqueType(TypeOpaque { domain: c.maybe(Self::text), name: c.maybe(Self::text) })
            }
            5 => V::SparseTensorType(TypeSparseTensor { elem_type, shape: c.maybe(Self::shape) }),
            _ => V::TensorType(TypeTensor { elem_type, shape: c.maybe(Self::shape) }),
        });
        TypeProto { value, denotation: self.maybe(Self::text) }
    }

    fn shape(&mut self) -> TensorShapeProto {
        let dim = |c: &mut Self| Dimension {
            value: match c.up_to(2) {
                0 => None,
                1 => Some(DimensionValue::DimValue(c.number())),
                _ => Some(DimensionValue::DimParam(c.text())),
            },
            denotation: c.maybe(Self::text),
        };
        TensorShapeProto { dim: self.some(dim) }
    }

    fn tensor(&mut self) -> TensorProto {
        let mut t = TensorProto {
            name: self.maybe(Self::text),
            doc_string: self.maybe(Self::text),
            metadata_props: self.some(Self::entry),
            segment: self
                .maybe(|c| Segment { begin: c.maybe(Self::number), end: c.maybe(Self::number) }),
            data_location: self.maybe(|_| 0),
            dims: vec![2],
            ..TensorProto::default()
        };
        t.data_type = Some(match self.up_to(8) {
            0 => {
                t.dims = vec![3, 0];
                t.raw_data = self.maybe(|_| Bytes::new());
                7
            }
            1 => {
                t.float_data = vec![1.0, -0.0];
                1
            }
            2 => {
                t.int32_data = vec![1, 0];
                10
            }
            3 => {
                t.int64_data = vec![-1, 0];
                7
            }
            4 => {
                t.double_data = vec![1.0, 2.0];
                11
            }
            5 => {
                t.uint64_data = vec![1, u64::MAX];
                13
            }
            6 => {
                t.string_data = vec![Bytes::new(), Bytes::from_static(b"\xff")];
                8
            }
            7 => {
                t.dims = vec![2048];
                t.raw_data = Some(vec![1; 8192].into());
                1
            }
            _ => {
                t.raw_data = Some(vec![1, 2].into());
                9
            }
        });
        t
    }
}
