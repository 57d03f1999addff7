"""ONNX Runtime: what the providers are told, rows and kept inputs on a CPU, graphs that name files outside their folder."""

import dataclasses

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from synthclone.engines import backend, onnxruntime_backend, onnxruntime_session
from synthclone.engines.artifact import EngineError
from synthclone.engines.backend import Runtime, Source
from synthclone.engines.onnx_safety import check_external_data
from synthclone.engines.onnx_split import split
from synthclone.engines.onnxruntime_options import OnnxRuntimeOptions, missing_provider, providers
from synthclone.engines.spec import AxisRange, EngineSpec, TensorSpec
from synthclone.export.graph import GraphRequest, export_onnx

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
    (tmp_path / "options.json").write_text("{}")
    monkeypatch.setattr(onnxruntime_session.onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("loaded"))
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


def test_a_graph_that_onnx_runtime_cannot_run_is_told_in_one_line(tmp_path):
    """A product over a width that only the weights know."""
    engine = loaded(tmp_path, spec=dataclasses.replace(STEPS, inputs=(*STEPS.inputs[:2], wide_text(7))))
    with pytest.raises(EngineError, match="engine steps failed in ONNX Runtime") as error:
        engine(**engine.spec.sample({"batch": 2}, seed=0))
    assert "\n" not in str(error.value)


class Steps(torch.nn.Module):
    """A U-Net in small: something of the text alone, something of both, and a constant that both parts need."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.keys, self.out = torch.nn.Linear(5, 6), torch.nn.Linear(6, 6)

    def forward(self, latent, time, text):
        keys = torch.tanh(self.keys(text))
        return self.out(latent * keys.mean(1) + torch.sin(time)[:, None]) * keys.amax(1)


def wide_text(width):
    return TensorSpec(name="text", dtype="fp32", axes=("batch", 3, width), kept=True)


STEPS = EngineSpec(
    name="steps",
    inputs=(
        TensorSpec(name="latent", dtype="fp32", axes=("batch", 6)),
        TensorSpec(name="time", dtype="fp32", axes=("batch",)),
        wide_text(5),
    ),
    outputs=(TensorSpec(name="y", dtype="fp32", axes=("batch", 6)),),
    ranges={"batch": AxisRange(minimum=1, optimum=4, maximum=9)},
)


def loaded(folder, spec=STEPS, cores=3):
    """An engine of `Steps`, and the folder of its plan."""
    request = GraphRequest(spec=STEPS, precision="fp32", checkpoint_key="none")
    export_onnx(Steps(), request, folder / "onnx")
    source = Source(module=Steps(), config={}, precision="fp32", onnx=folder / "onnx" / "model.onnx")
    (folder / "plan").mkdir()
    onnxruntime_backend.build(STEPS, source, folder / "plan", CPU, OnnxRuntimeOptions())
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        return onnxruntime_backend.load(folder / "plan", spec, CPU, lambda config: None, Runtime())
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", params=[1, 3])
def steps(tmp_path_factory, request):
    return loaded(tmp_path_factory.mktemp("steps"), cores=request.param)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 9])
def test_rows_shared_out_give_what_pytorch_gives(steps, batch):
    inputs = steps.spec.sample({"batch": batch}, seed=batch)
    with torch.inference_mode():
        torch.testing.assert_close(steps(**inputs), Steps()(*inputs.values()), rtol=0, atol=1e-6)
        inputs["latent"] = inputs["latent"].t().contiguous().t()  # not contiguous
        torch.testing.assert_close(steps(**inputs), Steps()(*inputs.values()), rtol=0, atol=1e-6)


def test_what_hangs_on_the_text_alone_is_computed_once(steps, monkeypatch):
    computed = []
    compute = type(steps)._compute
    monkeypatch.setattr(type(steps), "_compute", lambda self, *rest: computed.append(1) or compute(self, *rest))

    def parts_computed(**inputs):
        computed.clear()
        torch.testing.assert_close(steps(**inputs), Steps()(*inputs.values()), rtol=0, atol=1e-6)
        return len(computed)

    first, second = (steps.spec.sample({"batch": 6}, seed=seed) for seed in (1, 2))
    shares = steps.num_cores
    with torch.no_grad():
        assert parts_computed(**first) == shares
        assert parts_computed(**first | {"latent": second["latent"]}) == 0
        assert parts_computed(**second) == shares
        first_again = {**second, "text": first["text"].clone()}
        assert parts_computed(**first_again) == shares  # equal values, another tensor
        assert parts_computed(**first_again) == 0
        first_again["text"][3] += 1  # the same tensor, other values
        assert parts_computed(**first_again) == shares
        fewer = {name: value[:2] for name, value in first_again.items()}
        assert parts_computed(**fewer) == min(2, shares)


def test_the_split_plan_has_each_product_once(tmp_path):
    loaded(tmp_path)
    plan = tmp_path / "plan"
    assert sorted(path.name for path in plan.glob("*.onnx")) == ["kept.onnx", "rest.onnx"]
    kept, rest = (onnx.load(str(plan / f"{name}.onnx"), load_external_data=False).graph for name in ("kept", "rest"))
    assert [value.name for value in kept.input] == ["text"]
    assert [value.name for value in rest.input][:2] == ["latent", "time"]
    assert {value.name for value in rest.input[2:]} == {value.name for value in kept.output}
    operators = [[node.op_type for node in graph.node] for graph in (kept, rest)]
    assert "Tanh" in operators[0] and "Tanh" not in operators[1]
    assert "Sin" in operators[1] and "Sin" not in operators[0]
    weights = [{tensor.name for tensor in graph.initializer if len(tensor.dims) == 2} for graph in (kept, rest)]
    assert weights[0] and weights[1] and not weights[0] & weights[1]


def test_nothing_to_keep_is_not_split(tmp_path):
    path = add_graph(tmp_path)
    assert not split(path, []) and not split(path, ["y"])
    assert [found.name for found in tmp_path.glob("*.onnx")] == ["model.onnx"]


def test_a_border_inside_a_sub_graph_is_seen(tmp_path):
    """The branches of an If read what hangs on the kept input from outside."""
    value = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("t", "x", "y")}
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    branches = {
        f"{name}_branch": helper.make_graph([helper.make_node(op, ["x", "k"], ["z"])], name, [], [value["y"]])
        for name, op in (("then", "Add"), ("else", "Sub"))
    }
    for branch in branches.values():
        branch.output[0].name = "z"
    nodes = [helper.make_node("Neg", ["t"], ["k"]), helper.make_node("If", ["flag"], ["y"], **branches)]
    graph = helper.make_graph(nodes, "branches", [value["t"], value["x"], flag], [value["y"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert split(tmp_path / "model.onnx", ["t"])
    rest = onnx.load(str(tmp_path / "rest.onnx")).graph
    assert [value.name for value in rest.input] == ["x", "flag", "k"]
    assert [node.op_type for node in rest.node] == ["If"]
