"""`export/build.py` on the embedded generator: parity, no-op second build, resumption, batch over 63, bad input."""

import json
import shutil
import subprocess
import sys
import time

import pytest
import torch
from support import DIGITS_MODEL, ROOT, run_command

from synthclone.engines import artifact
from synthclone.engines.spec import AxisRange
from synthclone.export import checkpoint as checkpoints
from synthclone.export import components, graph
from synthclone.export.build import command as build
from synthclone.export.pipeline import open_pipeline

CPU = torch.device("cpu")


def test_engines_agree_with_diffusers(pipeline):
    checkpoint = checkpoints.find(str(DIGITS_MODEL))
    for name, engine in (
        ("text_encoder", pipeline.text_encoder),
        ("unet", pipeline.unet),
        ("vae_decoder", pipeline.vae_decoder),
    ):
        inputs = engine.spec.sample({"batch": 3}, seed=5)
        with torch.inference_mode():
            expected = components.load_module(checkpoint, name)(*inputs.values())
        torch.testing.assert_close(engine(**inputs), expected, atol=2e-4, rtol=1e-3)


def test_manifests_hold_the_parity_errors(engines):
    for name in components.ENGINES:
        errors = artifact.read_manifest(engines / name)["parity"]
        assert {"minimum_vs_reference", "optimum_vs_reference", "maximum_vs_reference"} <= set(errors)
        assert max(errors.values()) < 1e-4


def test_second_build_does_nothing_and_says_so(engines, capsys):
    before = {path: path.stat().st_mtime_ns for path in engines.rglob("*") if path.parent.name in components.ENGINES}
    start_s = time.perf_counter()
    assert run_command(build, "--model", DIGITS_MODEL, "--batch", "1:4:8", "--device", "cpu", "--output", engines) == 0
    assert "up to date" in capsys.readouterr().out
    assert time.perf_counter() - start_s < 5
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_killed_build_goes_on_with_what_is_missing(engines, tmp_path, capsys):
    copy = tmp_path / "engines"
    shutil.copytree(engines, copy)
    shutil.rmtree(copy / "vae_decoder")
    (copy / ".vae_decoder.part").mkdir()
    (copy / "pipeline.json").unlink()
    assert run_command(build, "--model", DIGITS_MODEL, "--batch", "1:4:8", "--device", "cpu", "--output", copy) == 0
    assert capsys.readouterr().out.startswith("built vae_decoder in")
    assert not list(copy.glob(".*.part"))
    open_pipeline(copy, CPU)


def test_eager_backend_gives_the_same(pipeline, tmp_path):
    words = ("--model", DIGITS_MODEL, "--backend", "eager", "--batch", "1:4:8", "--device", "cpu", "--output", tmp_path)
    assert run_command(build, *words) == 0
    eager = open_pipeline(tmp_path, CPU)
    inputs = eager.unet.spec.sample({"batch": 5}, seed=0)
    torch.testing.assert_close(eager.unet(**inputs), pipeline.unet(**inputs), atol=2e-4, rtol=1e-3)


def test_program_takes_any_batch():
    """diffusers' up-sampling has a branch at batch 64, which would cap an exported program at 63."""
    checkpoint = checkpoints.find(str(DIGITS_MODEL))
    spec = components.engine_specs(checkpoint, "fp32", AxisRange.parse("1:4:8"))["unet"]
    module = components.load_module(checkpoint, "unet")
    program = graph.export_program(module, spec).module()
    for batch in (1, 2, 65):
        inputs = spec.sample({"batch": batch}, seed=0)
        with torch.inference_mode():
            torch.testing.assert_close(program(*inputs.values()), module(*inputs.values()), atol=1e-4, rtol=1e-4)


def test_graph_keeps_to_opset_20_and_names_its_axes(engines):
    import onnx

    for name in components.ENGINES:
        model = onnx.load(engines / "onnx" / f"{name}-fp32" / "model.onnx", load_external_data=False)
        assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20}
        assert all(value.type.tensor_type.shape.dim[0].dim_param == "batch" for value in model.graph.input)
        weights = [
            entry for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
        ]
        assert {entry.value for entry in weights} == {"model.onnx.data"}


def test_changed_checkpoint_is_refused(engines, tmp_path):
    model, folder = tmp_path / "model", tmp_path / "engines"
    shutil.copytree(DIGITS_MODEL, model)
    shutil.copytree(engines, folder)
    info = json.loads((folder / "pipeline.json").read_text())
    (folder / "pipeline.json").write_text(json.dumps(info | {"model_folder": str(model)}))
    open_pipeline(folder, CPU)  # copied, so newer files, but the same content
    config = json.loads((model / "unet" / "config.json").read_text())
    (model / "unet" / "config.json").write_text(json.dumps(config | {"sample_size": 9}))
    with pytest.raises(
        artifact.EngineError, match=r"unet/config.json has changed .* build them again with `synthclone build"
    ):
        open_pipeline(folder, CPU)


@pytest.mark.parametrize(
    "missing", ["unet", "vae/config.json", "text_encoder/model.safetensors", "tokenizer", "model_index.json"]
)
def test_incomplete_checkpoints_name_what_is_missing(tmp_path, capsys, missing):
    shutil.copytree(DIGITS_MODEL, tmp_path / "model")
    path = tmp_path / "model" / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run_command(build, "--model", tmp_path / "model", "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "lacks " in error and missing.split("/")[0] in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def damage_unet(folder, change):
    from safetensors.torch import load_file, save_file

    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors["conv_in.bias"].fill_(float("nan")), "tensor model.conv_in.bias|tensor conv_in.bias"),
        (lambda tensors: tensors.pop("conv_in.bias"), "lacks tensor conv_in.bias"),
        (lambda tensors: tensors.update({"conv_in.bias": torch.zeros(3, dtype=torch.float16)}), "conv_in.bias"),
    ],
)
def test_damaged_weights_name_the_tensor(tmp_path, capsys, change, message):
    import re

    shutil.copytree(DIGITS_MODEL, tmp_path / "model")
    damage_unet(tmp_path / "model", change)
    assert run_command(build, "--model", tmp_path / "model", "--backend", "eager", "--output", tmp_path / "out") == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "nowhere"), "unknown model 'nowhere'"),
        (("--model", DIGITS_MODEL, "--batch", "8:1:32"), "range 8:1:32 is out of order"),
        (("--model", DIGITS_MODEL, "--batch", "some"), "'some' is not MIN:OPT:MAX"),
        (("--model", DIGITS_MODEL, "--backend", "tensorflow"), "tensorflow"),
        (("--model", DIGITS_MODEL, "--device", "cuda:9"), "cuda:9"),
        ((), "model"),
    ],
)
def test_bad_options(tmp_path, capsys, words, message):
    assert run_command(build, *words, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_file_and_verb_are_the_same_command():
    helps = [
        subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        for words in (
            [sys.executable, "export/build.py", "--help"],
            [sys.executable, "-m", "synthclone.cli", "build", "--help"],
        )
    ]
    assert helps[0] == helps[1]
    assert "--batch" in helps[0] and "default: 1:8:32" in " ".join(helps[0].split())
