"""`synthclone build --options` and `synthclone refit --lora` through the double: a LoRA goes in, and out again."""

import shutil

import pytest
import torch
from safetensors.torch import save_file
from support import DIGITS_MODEL, run_command

from synthclone.engines import artifact
from synthclone.export import checkpoint as checkpoints
from synthclone.export import components, refit
from synthclone.export.build import command as build
from synthclone.export.lora import read_lora

CPU = torch.device("cpu")
LAYER = "text_encoder.encoder.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def folder(engines, tmp_path_factory):
    """TensorRT engines of the embedded generator that can be refitted; its graphs are those of the session's engines."""
    path = tmp_path_factory.mktemp("refittable") / "engines"
    shutil.copytree(engines, path)
    words = ("--model", DIGITS_MODEL, "--backend", "tensorrt", "--batch", "1:4:8", "--device", "cpu", "--output", path)
    assert run_command(build, *words, "--options", '{"refittable": true, "optimization_level": 1}') == 0
    return path


@pytest.fixture
def lora(tmp_path):
    """A LoRA of one layer of the text encoder."""
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 64, generator=generator), torch.randn(64, 2, generator=generator)
    save_file({f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}, tmp_path / "l.safetensors")
    return tmp_path / "l.safetensors"


def test_options_are_in_the_manifest_and_the_rebuild_command(folder):
    manifest = artifact.read_manifest(folder / "unet")
    assert manifest["options"]["refittable"] is True and manifest["options"]["optimization_level"] == 1
    assert """--options '{"refittable": true, "optimization_level": 1}'""" in manifest["rebuild"]


def test_a_lora_goes_in_and_out(folder, lora, capsys):
    engine, words = folder / "text_encoder", ("--lora", lora, "--device", "cpu")
    before = artifact.read_manifest(engine)["key"]
    assert run_command(refit.command, "--engine", engine, *words, "--lora-scale", "0.5") == 0
    assert artifact.read_manifest(engine)["key"] != before
    module = components.load_module(checkpoints.find(str(DIGITS_MODEL)), "text_encoder", read_lora(lora, 0.5))
    opened = artifact.open_engine(engine, device=CPU, make_module=components.make_module)
    values = opened.spec.sample({"batch": 3}, seed=1)
    with torch.inference_mode():
        torch.testing.assert_close(opened(**values), module(*values.values()), atol=1e-4, rtol=1e-3)
    assert run_command(refit.command, "--engine", engine, *words, "--lora-scale", "0") == 0
    assert artifact.read_manifest(engine)["key"] == before
    assert not list(folder.glob(".refit*"))


def test_what_cannot_be_refitted_is_one_line(folder, lora, capsys):
    for words, message in (
        (("--engine", folder / "unet", "--lora", lora), "changes text_encoder, but nothing in unet"),
        (("--engine", folder / "unet"), "give either --weights or --lora"),
    ):
        assert run_command(refit.command, *words, "--device", "cpu") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_unknown_options_list_the_valid_ones(tmp_path, capsys):
    words = ("--model", DIGITS_MODEL, "--backend", "tensorrt", "--device", "cpu", "--output", tmp_path / "out")
    assert run_command(build, *words, "--options", '{"fast": true}') == 2
    error = capsys.readouterr().err
    assert "backend tensorrt has no option 'fast'; valid options: workspace_bytes, " in error
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()
