"""Every exported graph of the embedded generator: operators that TensorRT takes, clean, the same result at opset 23."""

import collections

import onnx
import pytest
import torch
from support import DIGITS_MODEL

from synthclone.engines import parity
from synthclone.engines.onnx_operators import check_operators
from synthclone.engines.onnx_reference import OnnxReference
from synthclone.engines.spec import AxisRange
from synthclone.export import checkpoint as checkpoints
from synthclone.export import components, graph
from synthclone.export.sizes import parse_sizes

BATCH = AxisRange.parse("1:2:3")


def export(folder, name, precision="fp32", opset=20, sizes=None):
    """Export a component; returns its spec, its module and the file."""
    checkpoint = checkpoints.find(str(DIGITS_MODEL))
    spec = components.engine_specs(checkpoint, precision, BATCH, sizes)[name]
    module = components.load_module(checkpoint, name)
    request = graph.GraphRequest(spec=spec, precision=precision, checkpoint_key="k", opset=opset)
    graph.export_onnx(module, request, folder / name)
    return spec, module, folder / name / "model.onnx"


def operators(path):
    return collections.Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)


def check_parity(spec, module, path, sizes):
    inputs = list(spec.sample(sizes, seed=3).values())
    with torch.inference_mode():
        expected = module(*(value.float() if value.dtype is torch.float16 else value for value in inputs))
    return parity.relative_error(OnnxReference(path, spec)(*inputs), expected)


@pytest.mark.parametrize("name", components.ENGINES)
def test_graphs_of_the_engines_are_clean_and_within_tensorrts_operators(engines, name):
    path = engines / "onnx" / f"{name}-fp32" / "model.onnx"
    check_operators(path)
    found = operators(path)
    assert not set(found) & {"Identity", "Constant", "Dropout"}
    model = onnx.load(str(path), load_external_data=False)
    used = {value for node in model.graph.node for value in node.input} | {item.name for item in model.graph.output}
    assert all(set(node.output) & used for node in model.graph.node)
    assert {item.name for item in model.graph.initializer} <= used
    assert {entry.domain for entry in model.opset_import} == {""}


@pytest.mark.parametrize("name", components.ENGINES)
def test_fp16_graphs_are_fp16_and_within_tensorrts_operators(tmp_path, name):
    spec, module, path = export(tmp_path, name, "fp16")
    check_operators(path)
    types = {tensor.data_type for tensor in onnx.load(str(path)).graph.initializer if len(tensor.dims) > 1}
    types -= {onnx.TensorProto.BOOL, onnx.TensorProto.INT64}  # the text encoder's causal mask, and shapes
    assert types <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.FLOAT16 in types
    assert check_parity(spec, module, path, {"batch": 2}) < parity.TOLERANCE["fp16"]


def test_opset_23_says_the_same_in_fewer_nodes(engines, tmp_path):
    spec, module, path = export(tmp_path, "unet", opset=23)
    found, before = operators(path), operators(engines / "onnx" / "unet-fp32" / "model.onnx")
    assert found["Attention"] == 20 and found["GroupNormalization"] == 39
    assert not found["Softmax"] and not found["InstanceNormalization"]
    assert found.total() < 0.75 * before.total()
    check_operators(path)
    assert check_parity(spec, module, path, {"batch": 2}) < parity.TOLERANCE["fp32"]


@pytest.mark.parametrize("name", ["unet", "vae_decoder"])
def test_one_graph_for_several_sizes(tmp_path, name):
    spec, module, path = export(tmp_path, name, sizes=parse_sizes(None, "64:64:128", "64:128:128"))
    check_operators(path)
    model = onnx.load(str(path), load_external_data=False)
    dims = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 4, "height/8", "width/8"]
    for height, width in ((64, 64), (128, 64), (64, 128), (128, 128)):
        sizes = {"batch": 2, "height": height, "width": width}
        assert check_parity(spec, module, path, sizes) < parity.TOLERANCE["fp32"], sizes
