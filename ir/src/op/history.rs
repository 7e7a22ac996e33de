//! Which element types came to operators after opset 7.
//!
//! The table of each family has the types of the newest version. Here is what older ones did not take, for the operators
//! that models are converted with.

use super::Operator;
use super::schema::types;
use crate::DataType;

/// Version, the types it brought to parameters whose type may vary, and operators.
type Gain = (i64, &'static [DataType], &'static [&'static str]);

/// Beside these, each operator that has a version 13 got bfloat16 with it.
static GAINS: &[Gain] = &[
    (
        9,
        types!(Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Uint32 Uint64 Complex64 Complex128),
        &["Constant", "Flatten"],
    ),
    (9, types!(Uint8 Int8 Uint16 Int16 Int32 Int64 Uint32 Uint64), &["Greater", "Less"]),
    (9, types!(Int32 Int64 Uint32 Uint64), &["Gemm", "MatMul", "PRelu"]),
    (9, types!(String), &["Cast"]),
    (11, types!(Float Uint8 Int8 Uint16 Int16 Float16 Double Uint32 Uint64), &["Equal"]),
    (11, types!(Uint8 Int8 Uint16 Int16 Int32 Int64 Uint32 Uint64), &["Pad", "TopK"]),
    (12, types!(Uint8 Int8 Uint16 Int16 Int32 Int64 Uint32 Uint64), &["Clip", "Max", "Min", "Pow"]),
    (12, types!(Uint8 Int8), &["ReduceMax", "ReduceMin"]),
    (13, types!(String Bool Complex64 Complex128), &["Pad"]),
    (14, types!(Bfloat16), &["BatchNormalization"]),
    (14, types!(Float16 Bfloat16), &["CumSum"]),
    (14, types!(Int8 Int16 Int32 Int64), &["Relu"]),
    (14, types!(Uint8 Int8 Uint16 Int16), &["Add", "Div", "Mul", "Sub"]),
    (15, types!(Bfloat16), &["Pow"]),
    (
        16,
        types!(Bfloat16),
        &["GreaterOrEqual", "If", "LeakyRelu", "LessOrEqual", "Loop", "PRelu", "Where"],
    ),
    (
        19,
        types!(Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz),
        &["Cast", "CastLike", "Constant", "Identity", "If", "Loop", "Reshape", "Shape", "Size"],
    ),
    (19, types!(String), &["Equal"]),
    (
        20,
        types!(Float16 Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz),
        &["IsInf"],
    ),
    (
        20,
        types!(Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz),
        &["ConstantOfShape"],
    ),
    (20, types!(Bool), &["ReduceMax", "ReduceMin"]),
    (20, types!(Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz), &["IsNaN"]),
    (
        21,
        types!(Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4),
        &["Flatten", "Pad", "Squeeze", "Transpose", "Unsqueeze"],
    ),
    (
        21,
        types!(Uint4 Int4),
        &[
            "Cast",
            "CastLike",
            "Constant",
            "ConstantOfShape",
            "Identity",
            "If",
            "Loop",
            "Reshape",
            "Shape",
            "Size",
        ],
    ),
];

impl Operator {
    /// The opset with which parameters whose type may vary began to take this element type, if that was after
    /// `opset`. Known for the operators that [`GAINS`] is about, from opset 7 to 21.
    #[must_use]
    pub fn gains(&self, dtype: DataType, opset: i64) -> Option<i64> {
        let listed = GAINS.iter().filter(|(_, types, operators)| {
            types.contains(&dtype) && operators.contains(&self.name)
        });
        let bfloat16 = dtype == DataType::Bfloat16 && self.versions.contains(&13);
        let versions = listed.map(|gain| gain.0).chain(bfloat16.then_some(13));
        versions.filter(|&version| version > opset).max()
    }
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::*;

    #[test]
    fn a_type_comes_with_a_version_of_the_operator_and_stays() {
        for &(version, types, operators) in GAINS {
            for name in operators {
                let op = find("", name).unwrap();
                assert!(op.versions.contains(&version), "{name} has no version {version}");
                for dtype in types {
                    let takes = |p: &super::super::Param| p.types.contains(dtype);
                    let known = op.inputs.iter().chain(op.outputs).any(takes) || *name == "If";
                    assert!(known, "{name} does not take {dtype}");
                }
            }
        }
    }

    #[test]
    fn the_last_gain_counts() {
        let gains = |name, dtype, opset| find("", name).unwrap().gains(dtype, opset);
        assert_eq!(gains("Pow", DataType::Bfloat16, 12), Some(15));
        assert_eq!(gains("Add", DataType::Bfloat16, 13), None);
        assert_eq!(gains("Add", DataType::Bfloat16, 12), Some(13));
    }
}
