"""An engine's whole way through the TensorRT backend: build, manifest, parity, load, run at several batches."""

import copy
import json

import pytest
import torch
from tensorrt_double.component import export, make_spec

from synthclone.engines.artifact import EngineError


def test_built_engine_runs_at_every_batch_of_its_range(build, load, inputs, reference, tmp_path):
    manifest = build()
    assert manifest["backend"] == "tensorrt"
    assert manifest["versions"] == {"tensorrt": "11.4.0.106"}
    assert set(manifest["files"]) == {"plan.trt", "tensorrt.json"}
    for point in ("minimum", "optimum", "maximum"):
        assert manifest["parity"][f"{point}_vs_reference"] < 1e-4
    assert json.loads((tmp_path / "engines/unet/manifest.json").read_text()) == json.loads(json.dumps(manifest))
    engine = load()
    for batch in (1, 2, 3, 6, 1):
        values = inputs(batch)
        torch.testing.assert_close(engine(**values), reference(values), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_outputs_of_calls_are_separate_and_those_of_steps_are_not(build, load, inputs, cuda_graphs):
    build()
    engine = load(cuda_graphs=cuda_graphs)
    first, second = engine(**inputs(2, seed=1)), engine(**inputs(2, seed=2))
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, engine(**inputs(2, seed=1)))
    kept = engine.step(**inputs(2, seed=1))
    assert engine.step(**inputs(2, seed=2)).data_ptr() == kept.data_ptr()
    assert torch.equal(kept, second)


def test_slices_and_transposed_inputs_are_taken(build, load, inputs, reference):
    build()
    engine, values = load(), inputs(3)
    odd = {name: torch.cat([value[:1], value])[1:] for name, value in values.items()}
    odd["latent"] = values["latent"].transpose(2, 3).contiguous().transpose(2, 3)
    assert odd["timestep"].data_ptr() % 64
    assert not odd["latent"].is_contiguous()
    torch.testing.assert_close(engine(**odd), reference(values), rtol=1e-4, atol=1e-5)


def test_a_call_is_ordered_against_the_callers_stream_and_never_waits(build, load, inputs):
    build()
    engine = load()
    lane = engine._lane
    for _ in range(3):
        engine(**inputs(2))
    assert lane.events == ["lane waits for caller", "caller waits for lane"] * 3
    assert lane.drains == 0


def test_the_narrowest_profile_that_fits_is_taken(build, load, inputs, reference, state):
    build(batch="1:4:64", batch_profiles=["1:1:1", "8:8:8"])
    engine = load()
    assert [engine._profile_for({"batch": batch}) for batch in (1, 2, 8, 9, 64)] == [1, 0, 2, 0, 0]
    for batch in (1, 8, 9, 64):
        values = inputs(batch)
        torch.testing.assert_close(engine(**values), reference(values), rtol=1e-4, atol=1e-5)
    assert set(engine._calls) == {0, 1, 2}


def test_options_reach_tensorrt_and_the_key(build, state):
    key = build()["key"]
    assert state.last_config.builder_optimization_level == 3
    options = {"workspace_bytes": 1 << 30, "optimization_level": 5, "tf32": True, "refittable": True}
    manifest = build(folder="other", hardware_compatibility="ampere_plus", **options)
    assert manifest["key"] != key
    assert manifest["options"]["optimization_level"] == 5
    config = state.last_config
    assert (config.builder_optimization_level, config._workspace_bytes) == (5, 1 << 30)
    assert sorted(flag.name for flag in config._flags) == ["REFIT", "TF32"]
    assert config.hardware_compatibility_level.name == "AMPERE_PLUS"


def test_precision_is_the_graph_s_own(build, load, component, state, tmp_path):
    half = copy.deepcopy(component.module).half()
    onnx = export(half, tmp_path / "half" / "model.onnx", torch.float16)
    with pytest.raises(EngineError, match="latent is HALF, but engine unet declares fp32; export the component in the"):
        build(onnx=onnx)
    manifest = build(onnx=onnx, precision="fp16")
    assert 1e-5 < manifest["parity"]["optimum_vs_reference"] < 1e-2
    values = make_spec(dtype="fp16").sample({"batch": 3}, seed=0)
    output = load()(**values)
    assert output.dtype is torch.float16
    with torch.inference_mode():
        expected = component.module(values["latent"].float(), values["timestep"], values["text"].float())
    torch.testing.assert_close(output.float(), expected, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimisation": 3}, "no option 'optimisation'; valid options: workspace_bytes, optimization_level"),
        ({"optimization_level": 9}, "optimization_level 9 is not one of 0, 1"),
        ({"workspace_bytes": 0}, "workspace_bytes 0 must be positive"),
        ({"hardware_compatibility": "all"}, "hardware_compatibility.*none.*same_compute_capability.*ampere_plus"),
        ({"batch_profiles": ["a"]}, "'a' is not MIN:OPT:MAX"),
        ({"batch_profiles": ["1:8:8"]}, "batch profile 1:8:8 is outside the engine's --batch 1:2:6"),
    ],
)
def test_wrong_options_are_named(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
