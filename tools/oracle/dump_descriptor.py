#!/usr/bin/env python3
"""Writes the fields of every ONNX message, as the `onnx` package describes them, one a line.

    pip install onnx
    dump_descriptor.py > ir/src/onnx_descriptor.txt

Columns: message, field number, field name, type (an enumeration is `enum`, a message its name), label, and `packed`
for numbers that are written packed, or the name of the field's `oneof`.
"""
import onnx
from google.protobuf.descriptor import FieldDescriptor as F

SCALARS = {
    F.TYPE_FLOAT: "float", F.TYPE_DOUBLE: "double", F.TYPE_INT32: "int32", F.TYPE_INT64: "int64",
    F.TYPE_UINT64: "uint64", F.TYPE_STRING: "string", F.TYPE_BYTES: "bytes", F.TYPE_ENUM: "enum",
}  # fmt: skip


def messages(descriptors):
    for message in descriptors:
        yield message
        yield from messages(message.nested_types)


def short(message):
    return message.full_name.removeprefix("onnx.")


def main():
    file = onnx.ModelProto.DESCRIPTOR.file
    print(f"# {file.name} of onnx {onnx.__version__}, IR version {onnx.IR_VERSION}, by tools/oracle/dump_descriptor.py")
    for message in sorted(messages(file.message_types_by_name.values()), key=short):
        for field in sorted(message.fields, key=lambda f: f.number):
            kind = SCALARS.get(field.type) or short(field.message_type)
            label = "repeated" if field.is_repeated else "optional"
            rest = ["packed"] if field.is_packed else [field.containing_oneof.name] if field.containing_oneof else []
            print(short(message), field.number, field.name, kind, label, *rest)


if __name__ == "__main__":
    main()
