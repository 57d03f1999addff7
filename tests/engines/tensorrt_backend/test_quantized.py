"""A U-Net in 8 bits through the TensorRT backend: the graph that ONNX Runtime runs is the one that TensorRT parses."""

import shutil

import torch
from support import DIGITS_MODEL, run_command

from synthclone.engines import artifact
from synthclone.export.build import command as build
from synthclone.export.pipeline import open_pipeline

CPU = torch.device("cpu")


def test_the_quantized_graph_is_built_from_the_same_export(quantized_engines, tmp_path, capsys):
    made = quantized_engines("int8")
    shutil.copytree(made, tmp_path / "engines")
    words = [
        "--model",
        DIGITS_MODEL,
        "--backend",
        "tensorrt",
        "--batch",
        "1:4:8",
        "--device",
        "cpu",
        "--quantize",
        "int8",
    ]
    words += ["--calibration", made.parent / "PROMPTS.txt", "--output", tmp_path / "engines"]
    assert run_command(build, *words, "--options", '{"refittable": true}') == 2
    assert "does not go with the option refittable" in capsys.readouterr().err
    assert run_command(build, *words) == 0
    manifest = artifact.read_manifest(tmp_path / "engines" / "unet")
    assert (manifest["backend"], manifest["source"]["quantization"]) == ("tensorrt", "int8")
    assert manifest["source"] == artifact.read_manifest(made / "unet")["source"]
    unet, other = open_pipeline(tmp_path / "engines", CPU).unet, open_pipeline(made, CPU).unet
    values = other.spec.sample({"batch": 3}, seed=3)
    torch.testing.assert_close(unet(**values), other(**values), rtol=1e-3, atol=1e-3)
