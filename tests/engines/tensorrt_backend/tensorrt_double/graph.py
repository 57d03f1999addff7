"""The ONNX side of the double: types, inputs and outputs, weights taken out and put in, and plan bytes."""

import hashlib
import json

import onnx
from onnx import numpy_helper

from tensorrt_double.base import STATE, VERSION, Dims, IHostMemory
from tensorrt_double.enumerations import DataType

ELEMENTS = {1: DataType.FLOAT, 2: DataType.UINT8, 6: DataType.INT32, 7: DataType.INT64, 10: DataType.HALF}
ELEMENTS[16] = DataType.BF16
ITEM_BYTES = {DataType.FLOAT: 4, DataType.HALF: 2, DataType.BF16: 2, DataType.INT32: 4, DataType.INT64: 8}
ITEM_BYTES[DataType.UINT8] = 1
MAGIC = b"ptrt"


def data_type(value) -> DataType:
    return ELEMENTS[value.type.tensor_type.elem_type]


def shape(value) -> Dims:
    return Dims(dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim)


def weights(model) -> dict:
    """Initialisers by name, as arrays."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def with_weights(model, arrays) -> onnx.ModelProto:
    """The model with these initialisers instead of its own."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return changed


def is_weight(array) -> bool:
    """What a refit exchanges; integers are shapes and indices, which a built engine has folded in."""
    return array.dtype.kind not in "iub"


def encode(header: dict, model: onnx.ModelProto) -> IHostMemory:
    """A plan: marks of this TensorRT and GPU, the graph, and a checksum that finds truncation."""
    head = json.dumps({"version": VERSION, "gpu": STATE.gpu, **header}).encode()
    body = MAGIC + len(head).to_bytes(8, "little") + head + model.SerializeToString()
    return IHostMemory(body + hashlib.sha256(body).digest())


def decode(plan: bytes) -> tuple[dict, onnx.ModelProto] | str:
    """Header and graph, or why the plan is refused."""
    body, checksum = plan[:-32], plan[-32:]
    if body[:4] != MAGIC or hashlib.sha256(body).digest() != checksum:
        return "Serialization assertion failed: magic tag or checksum does not match"
    length = int.from_bytes(body[4:12], "little")
    header = json.loads(body[12 : 12 + length])
    if header["version"] != VERSION and not header["version_compatible"]:
        return f"Version tag does not match: serialized with {header['version']}, current {VERSION}"
    if header["gpu"] != STATE.gpu and header["hardware"] == 0:
        return f"generated on an incompatible device: {header['gpu']}, current {STATE.gpu}"
    return header, onnx.load_from_string(body[12 + length :])
