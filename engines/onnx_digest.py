"""Two digests of an ONNX file: of its graph without the weights' values, and of the values.

Two files with the same graph digest differ in their weights at most, so the weights of one fit an engine built from the
other. Names of files and lines that exporters note in metadata do not count.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

VALUE_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
NOTES = ("metadata_props", "doc_string")


def graph_digest(path: Path) -> str:
    """sha256 of the graph: nodes, types, names, and each initialiser's name, type and dimensions."""
    model = onnx.load(str(path), load_external_data=False)
    for field in ("producer_name", "producer_version", *NOTES):
        model.ClearField(field)
    for tensor in model.graph.initializer:
        for field in (*VALUE_FIELDS, *NOTES, "external_data", "data_location"):
            tensor.ClearField(field)
    model.graph.ClearField("value_info")  # shapes that the exporter inferred: they follow from the rest
    items = [model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.functions]
    for item in [*items, *(node for function in model.functions for node in function.node)]:
        for field in NOTES:
            if field in item.DESCRIPTOR.fields_by_name:
                item.ClearField(field)
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def weights_digest(path: Path) -> str:
    """sha256 of the initialisers' names, types, dimensions and values, one at a time to save memory."""
    digest = hashlib.sha256()
    for tensor in initializers(path):
        digest.update(repr((tensor.name, tensor.data_type, tuple(tensor.dims))).encode())
        digest.update(onnx.numpy_helper.to_array(tensor).tobytes())
        tensor.Clear()
    return digest.hexdigest()


def initializers(path: Path) -> Iterator[onnx.TensorProto]:
    """The initialisers by name, each with its values read in."""
    model = onnx.load(str(path), load_external_data=False)
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(path.parent))
        yield tensor
