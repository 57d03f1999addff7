"""What a user reads when a build, a plan or a call is not as it should be."""

import dataclasses
import json
import subprocess
import sys

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from synthclone.engines import backend as backends
from synthclone.engines import device_stream
from synthclone.engines.artifact import EngineError


def test_without_tensorrt_the_extra_is_named():
    code = "from synthclone.engines.backend import find; find('tensorrt')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "backend tensorrt needs tensorrt; install it with `pip install synthclone[gpu]`" in run.stderr


def test_a_cpu_is_refused(build, monkeypatch):
    monkeypatch.delitem(device_stream.LANES, "cpu")
    with pytest.raises(ValueError, match="device cpu cannot run TensorRT engines; use --device cuda"):
        build()


def test_parser_errors_name_node_and_operator(build, state):
    state.unsupported = frozenset({"InstanceNormalization", "Conv"})
    with pytest.raises(EngineError, match=r"UNSUPPORTED_NODE at node \w+ \(operator Conv\): No importer"):
        build()


def test_unsupported_operators_are_found_before_the_parser_is_asked(build, tmp_path, state):
    node = helper.make_node("Det", ["latent"], ["noise"], name="determinant")
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 8, 8]) for name in ("latent", "noise")
    ]
    graph = helper.make_graph([node], "g", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(tmp_path / "m.onnx"))
    with pytest.raises(EngineError, match="operators that TensorRT does not take: Det at node determinant; export"):
        build(onnx=tmp_path / "m.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)]), str(tmp_path / "m.onnx"))
    with pytest.raises(EngineError, match="is at opset 24, but TensorRT takes opsets up to 23"):
        build(onnx=tmp_path / "m.onnx")
    assert state.builds == 0


def test_operators_inside_branches_and_other_domains_are_found(tmp_path):
    from synthclone.engines.onnx_operators import check_operators

    def branch(operator):
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        return helper.make_graph([helper.make_node(operator, ["x"], ["y"], name=f"in_{operator}")], "b", [], [out])

    condition = helper.make_node("If", ["c"], ["z"], then_branch=branch("Relu"), else_branch=branch("Unique"))
    foreign = helper.make_node("FusedConv", ["z"], ["w"], domain="com.microsoft", name="fused")
    inputs = [
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
    ]
    outputs = [helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])]
    graph = helper.make_graph([condition, foreign], "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(tmp_path / "m.onnx"))
    with pytest.raises(EngineError, match=r"Unique at node in_Unique; com.microsoft::FusedConv at node fused"):
        check_operators(tmp_path / "m.onnx")


def test_an_exported_graph_has_only_operators_of_the_list(component):
    from synthclone.engines.onnx_operators import check_operators, supported_operators

    check_operators(component.onnx)
    assert {"Conv", "MatMul", "Resize"} <= set(supported_operators())
    assert "Attention" not in supported_operators()


def change(component, tmp_path, edit):
    model = onnx.load(str(component.onnx))
    edit(model.graph)
    onnx.save(model, str(tmp_path / "changed.onnx"))
    return tmp_path / "changed.onnx"


def test_a_baked_batch_is_explained(build, component, tmp_path):
    def bake(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2

    with pytest.raises(
        EngineError, match=r"latent has shape \(2, 4, 8, 8\).*a sample of batch 2 \(a sample of batch 1"
    ):
        build(onnx=change(component, tmp_path, bake))


def test_other_inputs_and_types_are_explained(build, component, tmp_path):
    def retype(graph):
        graph.input[1].type.tensor_type.elem_type = TensorProto.INT32

    with pytest.raises(EngineError, match="timestep is INT32, but engine unet declares int64"):
        build(onnx=change(component, tmp_path, retype))

    def rename(graph):
        graph.input[1].name = "t"

    with pytest.raises(
        EngineError, match="has inputs latent, t, text, but engine unet declares latent, timestep, text"
    ):
        build(onnx=change(component, tmp_path, rename))


def test_memory_that_runs_out_in_a_build_names_the_range(build, state):
    state.gpu_bytes = 1000
    message = r"cannot be built: out of memory \(FAILED_ALLOCATION.*lower the maximum of --batch \(now 1:2:6\)"
    with pytest.raises(EngineError, match=message):
        build()
    state.gpu_bytes = 1 << 40
    with pytest.raises(EngineError, match=message):
        build(workspace_bytes=1000)


def test_memory_that_runs_out_in_a_call_names_the_range(build, load, inputs, monkeypatch):
    build()
    engine = load()

    def none_left(size_bytes):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. Of the GPU")

    monkeypatch.setattr(engine._lane, "block", none_left)
    with pytest.raises(EngineError, match=r"cannot run at batch 2: out of memory \(CUDA.*--batch \(now 1:2:6\)"):
        engine(**inputs(2))


def test_calls_outside_the_range_or_of_other_types_are_refused(build, load, inputs):
    build()
    engine = load()
    with pytest.raises(
        ValueError, match="batch 7 is outside the engine's range 1:2:6; build it again with a wider --batch"
    ):
        engine(**inputs(7))
    with pytest.raises(ValueError, match=r"latent is torch.float16, but must be torch.float32"):
        engine(**inputs(2) | {"latent": torch.zeros(2, 4, 8, 8).half()})
    with pytest.raises(ValueError, match="engine unet runs on cpu, but latent is on meta; move it there first"):
        engine(**inputs(2) | {"latent": torch.zeros(2, 4, 8, 8, device="meta")})


def test_tensorrt_s_own_refusal_of_a_shape_is_passed_on(build, load, inputs):
    build()
    engine = load()
    engine._plan.engine._header["profiles"][0]["latent"][2][0] = 4
    with pytest.raises(EngineError, match=r"cannot run at batch 5: INVALID_ARGUMENT: latent .* is outside profile"):
        engine(**inputs(5))
    engine(**inputs(4))


def test_an_output_larger_than_declared_is_refused_before_it_is_written(build, load, inputs):
    build()
    engine = load()
    wrong = dataclasses.replace(engine.spec.outputs[0], axes=("batch", 4, 8, 4))
    engine.spec = dataclasses.replace(engine.spec, outputs=(wrong,))
    with pytest.raises(EngineError, match=r"noise of shape \(2, 4, 8, 8\) at batch 2, but declares \(2, 4, 8, 4\)"):
        engine(**inputs(2))


def test_a_truncated_plan_is_refused(build, load, tmp_path):
    build()
    plan = tmp_path / "engines" / "unet" / "plan.trt"
    data = plan.read_bytes()
    plan.write_bytes(data[:-10])
    with pytest.raises(EngineError, match=r"plan.trt has \d+ bytes instead of .*build it again with `synthclone build"):
        load()
    plan.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(EngineError, match=r"plan.trt was changed after the build"):
        load()


def test_a_plan_that_tensorrt_refuses_is_explained(build, load, state):
    build()
    state.gpu = "NVIDIA Other"  # a manifest that was made to fit, say
    with pytest.raises(
        EngineError, match=r"cannot be loaded .*incompatible device: NVIDIA Double.*build it again with"
    ):
        load()


@pytest.fixture
def elsewhere(monkeypatch):
    """Pretend another GPU or TensorRT."""

    def run(name="NVIDIA H200", capability="9.0", version="11.4.0.106"):
        identity = {"type": "cuda", "name": name, "compute_capability": capability}
        monkeypatch.setattr(backends, "device_identity", lambda device: identity)
        monkeypatch.setattr(backends.find("tensorrt"), "versions", lambda: {"tensorrt": version})

    return run


def test_another_gpu_or_tensorrt_is_refused_unless_the_plan_is_compatible(build, load, elsewhere):
    elsewhere()
    build()
    build(folder="capable", hardware_compatibility="same_compute_capability")
    build(folder="ampere", hardware_compatibility="ampere_plus")
    elsewhere(name="NVIDIA H100")
    with pytest.raises(EngineError, match=r"built for type cuda, name NVIDIA H200, .*but here is .*NVIDIA H100"):
        load()
    load("capable")
    elsewhere(name="NVIDIA A100", capability="8.0")
    with pytest.raises(EngineError, match=r"compute_capability 9.0, but here is"):
        load("capable")
    load("ampere")
    elsewhere(name="Tesla T4", capability="7.5")
    with pytest.raises(EngineError, match="Tesla T4"):
        load("ampere")


def test_version_compatible_plans_run_later_and_only_when_trusted(build, load, elsewhere):
    elsewhere(version="11.4.0.106")
    build()
    build(folder="lasting", version_compatible=True)
    elsewhere(version="11.5.0.1")
    with pytest.raises(EngineError, match=r"built with tensorrt 11.4.0.106, but here is tensorrt 11.5.0.1"):
        load()
    with pytest.raises(EngineError, match=r"needs Runtime\(trust_plan=True\)"):
        load("lasting")
    load("lasting", trust_plan=True)
    for version in ("11.3.9.9", "12.0.0.0"):
        elsewhere(version=version)
        with pytest.raises(EngineError, match="but here is tensorrt"):
            load("lasting", trust_plan=True)


def test_a_manifest_says_all_this_in_plain_data(build, tmp_path):
    build()
    manifest = json.loads((tmp_path / "engines" / "unet" / "manifest.json").read_text())
    assert manifest["options"]["batch_profiles"] == []
    assert manifest["device"] == {"type": "cpu"}
