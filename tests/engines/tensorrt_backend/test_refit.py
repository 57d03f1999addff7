"""New weights in a built engine, and the old ones back; plans without weights."""

import shutil

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

from synthclone.engines import artifact
from synthclone.engines.artifact import EngineError

CPU = torch.device("cpu")


@pytest.fixture
def refit(tmp_path):
    def run(weights, folder="unet", out=None):
        from synthclone.engines.tensorrt_refit import refit

        return refit(tmp_path / "engines" / folder, weights, device=CPU, out=out)

    return run


def test_tuned_weights_go_in_and_the_old_ones_come_back(build, load, refit, inputs, reference, component, state):
    original = build(refittable=True)
    builds = state.builds
    tuned = refit(component.tuned_onnx)
    assert tuned["key"] != original["key"]
    assert tuned["source"]["weights"] != "base"
    assert tuned["source"]["graph"] == "g"
    assert tuned["refit"] == {"weights": str(component.tuned_onnx), "from": original["key"]}
    assert tuned["parity"]["minimum_vs_reference"] < 1e-4
    values = inputs(3)
    torch.testing.assert_close(load()(**values), reference(values, component.tuned), rtol=1e-4, atol=1e-5)
    back = refit(component.onnx)
    assert back["key"] == original["key"]
    torch.testing.assert_close(load()(**values), reference(values), rtol=1e-4, atol=1e-5)
    assert state.builds == builds


def test_a_refitted_engine_can_go_elsewhere(build, load, refit, inputs, reference, component, tmp_path):
    build(refittable=True)
    refit(component.tuned_onnx, out=tmp_path / "engines" / "tuned")
    values = inputs(2)
    torch.testing.assert_close(load()(**values), reference(values), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(load("tuned")(**values), reference(values, component.tuned), rtol=1e-4, atol=1e-5)


def test_safetensors_change_the_initialisers_that_they_name(build, load, refit, inputs, reference, component, tmp_path):
    build(refittable=True)
    names = {tensor.name for tensor in onnx.load(str(component.onnx)).graph.initializer}
    state_dict = component.tuned.state_dict()
    partial = {name: state_dict[name].clone() for name in ("out.weight", "out.bias")}
    assert set(partial) <= names
    save_file(partial, tmp_path / "partial.safetensors")
    manifest = refit(tmp_path / "partial.safetensors")
    assert manifest["source"]["weights"] != "base"
    mixed = type(component.module)(0).eval()
    mixed.load_state_dict({**component.module.state_dict(), **partial})
    values = inputs(2)
    torch.testing.assert_close(load()(**values), reference(values, mixed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"other.weight": torch.zeros(3)}, "has no weights 'other.weight'; it has "),
        ({"out.bias": torch.zeros(3)}, "out.bias holds 3 values of torch.float32, but engine unet takes 4 of FLOAT"),
        ({"out.bias": torch.zeros(4).half()}, "out.bias holds 4 values of torch.float16"),
        ({"out.bias": torch.full((4,), torch.nan)}, "gives NaN or Inf"),
    ],
)
def test_wrong_safetensors_change_nothing(build, load, refit, inputs, reference, tmp_path, tensors, message):
    before = build(refittable=True)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match=message):
        refit(tmp_path / "wrong.safetensors")
    values = inputs(2)
    torch.testing.assert_close(load()(**values), reference(values), rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "engines").iterdir() if path.is_dir()) == ["unet"]
    assert before["key"]


def test_an_onnx_file_of_another_graph_is_refused(build, refit, component, tmp_path):
    build(refittable=True)
    model = onnx.load(str(component.onnx))
    model.graph.node[-1].attribute[0].CopyFrom(onnx.helper.make_attribute("group", 2))
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(EngineError, match=r"other.onnx has another graph than engine unet was built from"):
        refit(tmp_path / "other.onnx")


def test_only_refittable_engines_are_refitted(build, refit, component, tmp_path):
    build()
    with pytest.raises(EngineError, match="was not built refittable; build it again with `synthclone build --model M"):
        refit(component.tuned_onnx)
    build(refittable=True)
    with pytest.raises(ValueError, match=r"missing.onnx does not exist"):
        refit(tmp_path / "missing.onnx")
    (tmp_path / "weights.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"weights.ckpt is neither .onnx nor .safetensors"):
        refit(tmp_path / "weights.ckpt")


def open_at(folder):
    return artifact.open_engine(folder, device=CPU, make_module=lambda config: None)


def test_a_plan_without_weights_takes_them_from_its_onnx_file(build, load, inputs, reference, component, tmp_path):
    folder = tmp_path / "onnx"
    shutil.copytree(component.onnx.parent, folder)
    build(onnx=folder / "model.onnx", strip_weights=True)
    values = inputs(2)
    torch.testing.assert_close(load()(**values), reference(values), rtol=1e-4, atol=1e-5)
    moved = tmp_path.with_name(tmp_path.name + "_moved")
    tmp_path.rename(moved)
    torch.testing.assert_close(open_at(moved / "engines" / "unet")(**values), reference(values), rtol=1e-4, atol=1e-5)
    moved.rename(tmp_path)
    shutil.rmtree(folder)
    with pytest.raises(EngineError, match="the plan holds no weights, and the ONNX file to take them from is gone"):
        load()
    shutil.copytree(component.tuned_onnx.parent, folder)
    with pytest.raises(EngineError, match="are not the ones that it was built for; build it again with `synthclone"):
        load()


def test_a_refittable_plan_without_weights_takes_any(build, load, refit, inputs, reference, component, tmp_path):
    folder = tmp_path / "onnx"
    shutil.copytree(component.onnx.parent, folder)
    build(onnx=folder / "model.onnx", strip_weights=True, refittable=True)
    small = (tmp_path / "engines" / "unet" / "plan.trt").read_bytes()
    shutil.rmtree(folder)
    refit(component.tuned_onnx)
    values = inputs(2)
    torch.testing.assert_close(load()(**values), reference(values, component.tuned), rtol=1e-4, atol=1e-5)
    assert (tmp_path / "engines" / "unet" / "plan.trt").read_bytes() != small
    refit(component.onnx)
    torch.testing.assert_close(load()(**values), reference(values), rtol=1e-4, atol=1e-5)


def test_graphs_agree_and_weights_differ_by_digest(component):
    from synthclone.engines.onnx_digest import graph_digest, weights_digest

    assert graph_digest(component.onnx) == graph_digest(component.tuned_onnx)
    assert weights_digest(component.onnx) != weights_digest(component.tuned_onnx)


def test_the_command_refits(build, load, inputs, reference, component, tmp_path, capsys, monkeypatch):
    from synthclone.export import refit

    build(refittable=True)
    engine = tmp_path / "engines" / "unet"
    arguments = ["--engine", str(engine), "--weights", str(component.tuned_onnx), "--device", "cpu"]
    assert refit.command(arguments) == 0
    assert "with the weights of" in capsys.readouterr().out
    values = inputs(2)
    torch.testing.assert_close(load()(**values), reference(values, component.tuned), rtol=1e-4, atol=1e-5)
    assert refit.command(["--engine", str(tmp_path / "none"), *arguments[2:]]) == 2
    assert "holds no finished engine" in capsys.readouterr().err


def test_digest_sees_a_single_changed_value(component, tmp_path):
    from synthclone.engines.onnx_digest import weights_digest

    model = onnx.load(str(component.onnx))
    tensor = model.graph.initializer[0]
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, str(tmp_path / "changed.onnx"))
    assert weights_digest(tmp_path / "changed.onnx") != weights_digest(component.onnx)
