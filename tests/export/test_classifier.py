"""A trained classifier as an engine: the network's own logits, its classes and normalisation beside it."""

import json

import pytest
import torch
from safetensors.torch import save_file
from support import run_command

from synthclone.engines.artifact import EngineError
from synthclone.export.build import command as build
from synthclone.export.classifier import open_classifier
from synthclone.export.resnet import make_model

CPU = torch.device("cpu")
CLASSES = [f"n{index:08d}" for index in range(5)]
HEAD = {"arch": "resnet18", "classes": CLASSES, "image_size": 64, "crop_ratio": 0.875, "config": {}, "epoch": 3}
HEAD |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}


def write(path, change=lambda tensors: None, **head):
    """A checkpoint as training writes it; returns the network."""
    network = make_model("resnet18", num_classes=5, generator=torch.Generator().manual_seed(0))
    for module in network.modules():  # statistics that are not those of a fresh network
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.weight, 0.7)
            torch.nn.init.constant_(module.running_mean, 0.1)
    tensors = {name: value.clone() for name, value in network.state_dict().items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt", "synthclone": json.dumps(HEAD | head)})
    return network.eval()


@pytest.mark.parametrize("backend", ["eager", "onnxruntime"])
def test_an_engine_gives_the_networks_logits(tmp_path, capsys, backend):
    network = write(tmp_path / "last.safetensors")
    words = ("--model", tmp_path / "last.safetensors", "--backend", backend, "--batch", "1:2:3", "--device", "cpu")
    assert run_command(build, *words, "--output", tmp_path / "c") == 0
    assert capsys.readouterr().out.startswith("built classifier in")
    engine, info = open_classifier(tmp_path / "c", CPU)
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(engine(image=images), network(images), atol=1e-4, rtol=1e-4)
    assert {name: info[name] for name in ("arch", "classes", "image_size", "mean", "std", "crop_ratio")} == {
        name: HEAD[name] for name in ("arch", "classes", "image_size", "mean", "std", "crop_ratio")
    }
    assert run_command(build, *words, "--output", tmp_path / "c") == 0
    assert "up to date: all 1 engines" in capsys.readouterr().out
    write(tmp_path / "last.safetensors", lambda tensors: tensors["fc.bias"].fill_(1))
    assert run_command(build, *words, "--output", tmp_path / "c") == 0
    assert capsys.readouterr().out.startswith("built classifier in")


@pytest.mark.parametrize(
    ("change", "head", "message"),
    [
        (lambda tensors: tensors.pop("conv1.weight"), {}, "lacks tensor conv1.weight; it is no whole resnet18"),
        (lambda tensors: tensors.update({"bn1.bias": torch.zeros(3)}), {}, "tensor bn1.bias has shape (3,)"),
        (lambda tensors: tensors["fc.bias"].fill_(torch.nan), {}, "tensor fc.bias holds NaN or Inf"),
        (lambda tensors: None, {"arch": "vgg"}, "holds a 'vgg'; architectures known here: resnet18, resnet50"),
    ],
)
def test_damaged_checkpoints_name_the_tensor(tmp_path, capsys, change, head, message):
    write(tmp_path / "last.safetensors", change, **head)
    words = ("--model", tmp_path / "last.safetensors", "--backend", "eager", "--output", tmp_path / "c")
    assert run_command(build, *words) == 2
    error = capsys.readouterr().err
    assert message in error and "last.safetensors" in error and error.count("\n") == 1


def test_what_is_no_classifier_is_refused(tmp_path, capsys):
    with pytest.raises(EngineError, match="holds no classifier"):
        open_classifier(tmp_path, CPU)
    write(tmp_path / "last.safetensors")
    words = ("--model", tmp_path / "last.safetensors", "--tokenizer", "x", "--output", tmp_path / "c")
    assert run_command(build, *words) == 2
    assert "--tokenizer is for Stable Diffusion, but " in capsys.readouterr().err
