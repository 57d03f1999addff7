"""A checkpoint in one file: the same modules as from the folder, and one line for whatever is wrong with it."""

import json

import pytest
import torch
from original_layout import write_original
from safetensors.torch import save_file
from support import DIGITS_MODEL, run_command

from synthclone.export import checkpoint as checkpoints
from synthclone.export import components, diffusion, single_file
from synthclone.export.build import command as build
from synthclone.export.pipeline import read_info


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The embedded generator as one file, and its tensors."""
    path = tmp_path_factory.mktemp("original") / "digits.safetensors"
    return path, write_original(DIGITS_MODEL, path)


def test_the_modules_are_the_folders(original):
    folder = checkpoints.find(str(DIGITS_MODEL))
    file = checkpoints.find(str(original[0]), tokenizer=str(DIGITS_MODEL), configs=DIGITS_MODEL)
    for engine in components.ENGINES:
        ours, theirs = (components.load_module(found, engine).state_dict() for found in (file, folder))
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_it_builds_and_is_found_again(original, tmp_path, capsys):
    words = ("--model", original[0], "--tokenizer", DIGITS_MODEL / "tokenizer", "--configs", DIGITS_MODEL)
    words = (*words, "--backend", "eager", "--batch", "1:1:2", "--device", "cpu", "--output", tmp_path / "e")
    assert run_command(build, *words) == 0
    info = read_info(tmp_path / "e")
    assert info["image_size"] == 64 and f"--configs {DIGITS_MODEL}" in info["rebuild"]
    assert set(info["fingerprint"]) >= {"digits.safetensors", "unet/config.json"}
    assert diffusion.reopen(info, tmp_path / "e").file == original[0]
    assert (tmp_path / "e" / "tokenizer" / "tokenizer_config.json").is_file()
    capsys.readouterr()
    assert run_command(build, *words) == 0
    assert "up to date" in capsys.readouterr().out


def test_published_configurations_are_those_of_860_million_parameters():
    configs = {
        name: json.loads((single_file.published_configs() / name / "config.json").read_text())
        for name in checkpoints.COMPONENTS
    }
    with torch.device("meta"):
        counts = {
            name: sum(value.numel() for value in checkpoints.make_component(name, config).parameters())
            for name, config in configs.items()
        }
    assert counts == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors["model.diffusion_model.time_embed.0.bias"].fill_(torch.nan),
            "tensor model.diffusion_model.time_embed.0.bias holds NaN or Inf",
        ),
        (
            lambda tensors: tensors.update({"first_stage_model.decoder.conv_in.bias": torch.zeros(3)}),
            "tensor first_stage_model.decoder.conv_in.bias has shape (3,), but the configuration asks for (64,)",
        ),
        (
            lambda tensors: tensors.pop("model.diffusion_model.out.2.bias"),
            "unet lacks the tensor that diffusers calls conv_out.bias",
        ),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("first_stage_model")],
            "lacks first_stage_model.*; a whole checkpoint",
        ),
        (
            lambda tensors: tensors.update({"conditioner.embedders.0.weight": torch.zeros(1)}),
            "is Stable Diffusion XL, but only Stable Diffusion 1.x is supported",
        ),
    ],
)
def test_damaged_files_name_the_tensor(original, tmp_path, capsys, change, message):
    tensors = {name: value.clone() for name, value in original[1].items()}
    change(tensors)
    save_file(tensors, tmp_path / "m.safetensors")
    words = ("--tokenizer", DIGITS_MODEL, "--configs", DIGITS_MODEL, "--backend", "eager", "--output", tmp_path / "out")
    assert run_command(build, "--model", tmp_path / "m.safetensors", *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error and "m.safetensors" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "holds no tokenizer, as no single file does; give --tokenizer"),
        (("--tokenizer", "nowhere"), "--tokenizer nowhere has no tokenizer.json or vocab.json"),
        (("--tokenizer", DIGITS_MODEL, "--configs", "nowhere"), "lacks text_encoder/config.json"),
        (("--tokenizer", DIGITS_MODEL), "but the configuration asks for"),  # Stable Diffusion 1.x's
    ],
)
def test_what_a_file_lacks_is_asked_for(original, tmp_path, capsys, words, message):
    words = (*words, "--backend", "eager", "--output", tmp_path / "out")
    assert run_command(build, "--model", original[0], *words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_files_that_are_none(tmp_path, capsys):
    (tmp_path / "m.ckpt").write_bytes(b"\x80")
    (tmp_path / "m.safetensors").write_bytes(b"\x80" * 64)
    for model, message in (
        (tmp_path / "m.ckpt", "is a pickle, which can carry code and is never loaded"),
        (tmp_path / "m.safetensors", "is damaged or no safetensors file"),
        (tmp_path / "none.safetensors", "no such file"),
    ):
        assert run_command(build, "--model", model, "--output", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert run_command(build, "--model", DIGITS_MODEL, "--tokenizer", "x", "--output", tmp_path / "out") == 2
    assert "--tokenizer is for a model in one .safetensors file" in capsys.readouterr().err
