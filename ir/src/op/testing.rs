//! A node for tests: given inputs or their types, it is inferred and evaluated, and both must agree.

use super::{EvalCx, EvalError, InferCx, Input, NodeCx, Types, find};
use crate::{
    Attr, AttrValue, Attrs, DataType, Dim, Element, Name, Shape, Tensor, TensorType, Type,
};

/// One node.
pub(super) struct Case {
    op: &'static str,
    version: i64,
    outputs: usize,
    attrs: Attrs,
    inputs: Vec<Option<(Type, Option<Tensor>)>>,
    bodies: Vec<(Name, Types)>,
}

impl Case {
    pub(super) fn new(op: &'static str) -> Case {
        Case {
            op,
            version: 21,
            outputs: 1,
            attrs: Attrs::default(),
            inputs: Vec::new(),
            bodies: Vec::new(),
        }
    }

    pub(super) fn opset(mut self, version: i64) -> Case {
        self.version = version;
        self
    }

    pub(super) fn outputs(mut self, outputs: usize) -> Case {
        self.outputs = outputs;
        self
    }

    pub(super) fn attr(mut self, name: &str, value: impl Into<AttrValue>) -> Case {
        self.attrs.0.push(Attr::new(name, value));
        self
    }

    pub(super) fn ints(self, name: &str, ints: &[i64]) -> Case {
        self.attr(name, ints)
    }

    /// A constant input.
    pub(super) fn input(mut self, tensor: Tensor) -> Case {
        self.inputs.push(Some((Type::tensor(tensor.dtype, &tensor.dims), Some(tensor))));
        self
    }

    /// An input that is left out.
    pub(super) fn absent(mut self) -> Case {
        self.inputs.push(None);
        self
    }

    /// An input of which only the type is known: numbers, names, `?`.
    pub(super) fn typed(mut self, dtype: DataType, dims: &str) -> Case {
        let shape: Shape = dims
            .split(',')
            .filter(|d| !d.is_empty())
            .map(|d| match (d, d.parse::<i64>()) {
                (_, Ok(n)) => Dim::Fixed(n),
                ("?", _) => Dim::Unknown,
                (name, _) => Dim::Symbol(name.into()),
            })
            .collect();
        self.inputs.push(Some((TensorType::new(dtype, shape).into(), None)));
        self
    }

    /// A body with outputs of these types.
    pub(super) fn body(mut self, name: &str, outputs: &[Type]) -> Case {
        self.bodies.push((name.into(), outputs.iter().cloned().map(Some).collect()));
        self
    }

    fn node(&self) -> NodeCx<'_> {
        NodeCx { attrs: &self.attrs, version: self.version, outputs: self.outputs }
    }

    fn types(&self) -> Result<Types, String> {
        let inputs: Vec<Input<'_>> = self
            .inputs
            .iter()
            .map(|input| match input {
                Some((ty, tensor)) => {
                    Input { present: true, ty: Some(ty), tensor: tensor.as_ref(), names: None }
                }
                None => Input::default(),
            })
            .collect();
        let op = find("", self.op).expect("the operator is in the table");
        (op.infer)(&InferCx { node: self.node(), inputs: &inputs, bodies: &self.bodies })
            .map_err(|err| err.0)
    }

    /// The outputs' types as text.
    #[track_caller]
    pub(super) fn infer(&self) -> String {
        let types = self.types().expect("the node is sound");
        let text: Vec<String> = types
            .iter()
            .map(|ty| ty.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string))
            .collect();
        text.join(" ")
    }

    /// What contradicts itself.
    #[track_caller]
    pub(super) fn infer_err(&self) -> String {
        self.types().expect_err("the node contradicts itself")
    }

    pub(super) fn try_run(&self) -> Result<Vec<Tensor>, EvalError> {
        let inputs: Vec<Option<&Tensor>> = self
            .inputs
            .iter()
            .map(|input| input.as_ref().and_then(|(_, tensor)| tensor.as_ref()))
            .collect();
        let eval =
            find("", self.op).and_then(|op| op.eval).expect("the operator has an evaluation");
        eval(&EvalCx { node: self.node(), inputs: &inputs, limit: 1 << 30 })
    }

    /// The outputs, each of the type that was inferred.
    #[track_caller]
    pub(super) fn run(&self) -> Vec<Tensor> {
        let outputs = self.try_run().expect("the node can be evaluated");
        let types = self.types().expect("the node is sound");
        assert_eq!(outputs.len(), types.len(), "number of outputs");
        for (tensor, ty) in outputs.iter().zip(&types) {
            tensor.check().expect("data and dimensions go together");
            let Some(Type::Tensor(ty)) = ty else { continue };
            assert_eq!(tensor.dtype, ty.dtype);
            let Some(shape) = &ty.shape else { continue };
            let fits = shape.rank() == tensor.dims.len()
                && shape.0.iter().zip(&tensor.dims).all(|(d, &n)| d.fixed().is_none_or(|d| d == n));
            assert!(fits, "{:?} was inferred to be {shape}", tensor.dims);
        }
        outputs
    }
}

pub(super) fn f32s(dims: &[i64], elements: &[f32]) -> Tensor {
    Tensor::new(dims, elements.to_vec())
}

pub(super) fn ints(elements: &[i64]) -> Tensor {
    Tensor::ints(elements)
}

pub(super) fn bools(elements: &[bool]) -> Tensor {
    Tensor::new(&[elements.len() as i64], elements.to_vec())
}

pub(super) fn scalar<T: Element>(element: T) -> Tensor {
    Tensor::scalar(element)
}

/// 0, 1, 2, … as float32.
pub(super) fn iota(dims: &[i64]) -> Tensor {
    let n: i64 = dims.iter().product();
    Tensor::new(dims, (0..n).map(|i| i as f32).collect())
}
