"""ONNX Runtime: what the providers are told, and graphs that name files outside their own folder."""

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from synthclone.engines import backend, onnxruntime_backend
from synthclone.engines.artifact import EngineError
from synthclone.engines.backend import Runtime, Source
from synthclone.engines.onnx_safety import check_external_data
from synthclone.engines.onnxruntime_options import OnnxRuntimeOptions, missing_provider, providers
from synthclone.engines.spec import AxisRange, EngineSpec, TensorSpec

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)
SPEC = EngineSpec(
    name="toy",
    inputs=(TensorSpec(name="x", dtype="fp16", axes=("batch", 4)), TensorSpec(name="t", dtype="fp32", axes=("batch",))),
    outputs=(TensorSpec(name="y", dtype="fp16", axes=("batch", 4)),),
    ranges={"batch": AxisRange(minimum=1, optimum=3, maximum=6)},
)


def add_graph(folder, location="model.onnx.data", write=True):
    """y = x + w, with w in an external file."""
    if write:
        (folder / location).write_bytes(bytes(16))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "toy", value[:1], value[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def test_cuda_is_told_what_was_asked_for(tmp_path):
    options = OnnxRuntimeOptions(convolution_search="heuristic", tf32=True)
    ((name, told),) = providers(options, SPEC, CUDA, tmp_path, stream=4711, cuda_graphs=True)
    assert name == "CUDAExecutionProvider"
    assert told["device_id"] == "1"
    assert told["user_compute_stream"] == "4711"
    assert told["cudnn_conv_algo_search"] == "HEURISTIC"
    assert (told["use_tf32"], told["enable_cuda_graph"]) == ("1", "1")
    ((_, plain),) = providers(OnnxRuntimeOptions(), SPEC, CUDA, tmp_path)
    assert plain["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert (plain["use_tf32"], plain["enable_cuda_graph"]) == ("0", "0")


def test_tensorrt_stands_before_cuda_and_keeps_its_engines_in_the_plan(tmp_path):
    options = OnnxRuntimeOptions(gpu_provider="tensorrt")
    (first, told), (second, behind) = providers(options, SPEC, CUDA, tmp_path, stream=7, cuda_graphs=True)
    assert (first, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert told["trt_engine_cache_path"] == str(tmp_path)
    assert told["trt_profile_min_shapes"] == "x:1x4,t:1"
    assert told["trt_profile_opt_shapes"] == "x:3x4,t:3"
    assert told["trt_profile_max_shapes"] == "x:6x4,t:6"
    assert (told["trt_fp16_enable"], told["trt_bf16_enable"], told["trt_cuda_graph_enable"]) == ("1", "0", "1")
    assert (told["user_compute_stream"], behind["user_compute_stream"], behind["enable_cuda_graph"]) == ("7", "7", "0")


def test_a_cpu_has_one_provider_and_no_tensorrt(tmp_path):
    assert providers(OnnxRuntimeOptions(), SPEC, CPU, tmp_path) == [("CPUExecutionProvider", {})]
    with pytest.raises(ValueError, match="gpu_provider tensorrt needs --device cuda"):
        providers(OnnxRuntimeOptions(gpu_provider="tensorrt"), SPEC, CPU, tmp_path)


def test_wrong_options_name_the_valid_ones():
    with pytest.raises(ValueError, match="gpu_provider 'rocm' is not one of cuda, tensorrt"):
        OnnxRuntimeOptions(gpu_provider="rocm")
    with pytest.raises(ValueError, match="convolution_search 'best' is not one of exhaustive, heuristic, default"):
        OnnxRuntimeOptions(convolution_search="best")
    with pytest.raises(ValueError, match="no option 'speed'"):
        backend.make_options(onnxruntime_backend, "onnxruntime", {"speed": 1})


def test_a_missing_provider_is_named(tmp_path):
    wanted = providers(OnnxRuntimeOptions(gpu_provider="tensorrt"), SPEC, CUDA, tmp_path)
    assert missing_provider(wanted, ["CUDAExecutionProvider", "CPUExecutionProvider"]) == "TensorrtExecutionProvider"
    assert missing_provider(wanted[1:], ["CUDAExecutionProvider"]) is None


def test_weights_beside_the_graph_are_taken(tmp_path):
    check_external_data(add_graph(tmp_path))


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("/etc/hostname", "is an absolute path"),
        ("C:\\weights", "is an absolute path"),
        ("../secret", "leaves the model's folder"),
        ("weights/../../secret", "leaves the model's folder"),
        ("..\\secret", "leaves the model's folder"),
    ],
)
def test_weights_elsewhere_are_refused_before_loading(tmp_path, location, reason, monkeypatch):
    path = add_graph(tmp_path, location, write=False)
    monkeypatch.setattr(onnxruntime_backend.onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=reason) as error:
        onnxruntime_backend.load(tmp_path, SPEC, CPU, lambda config: None, Runtime())
    assert repr(location) in str(error.value)
    source = Source(module=torch.nn.Identity(), config={}, precision="fp32", onnx=path)
    with pytest.raises(ValueError, match=reason):
        onnxruntime_backend.build(SPEC, source, tmp_path, CPU, OnnxRuntimeOptions())


def test_a_symbolic_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").write_bytes(bytes(16))
    folder = tmp_path / "model"
    folder.mkdir()
    path = add_graph(folder, "model.onnx.data", write=False)
    (folder / "model.onnx.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"model\.onnx\.data', which is a symbolic link"):
        check_external_data(path)


def test_a_constant_inside_a_sub_graph_is_seen_too(tmp_path):
    path = add_graph(tmp_path)
    model = onnx.load(str(path), load_external_data=False)
    outside = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/dev/zero")
    inner = helper.make_graph([helper.make_node("Constant", [], ["z"], value=outside)], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["q"], then_branch=inner, else_branch=inner))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="/dev/zero"):
        check_external_data(path)


def test_a_graph_that_onnx_runtime_refuses_is_told_in_one_line(tmp_path):
    path = add_graph(tmp_path)
    model = onnx.load(str(path), load_external_data=False)
    model.graph.node[0].op_type = "NoSuchOperator"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "options.json").write_text("{}")
    with pytest.raises(EngineError, match="NoSuchOperator") as error:
        onnxruntime_backend.load(tmp_path, SPEC, CPU, lambda config: None, Runtime())
    assert "\n" not in str(error.value)
