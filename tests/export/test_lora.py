"""LoRA: merged weights are W + scale * alpha / rank * up @ down in every layout, and nothing else changes."""

import pytest
import torch
from safetensors.torch import save_file
from support import DIGITS_MODEL, run_command

from synthclone.export import checkpoint as checkpoints
from synthclone.export import components, diffusion
from synthclone.export.build import command as build
from synthclone.export.lora import read_lora
from synthclone.export.pipeline import read_info

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
TEXT = "encoder.layers.1.self_attn.q_proj"
RANK = 2


def matrices(seed=0, rows=32, columns=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, RANK, generator=generator), torch.randn(RANK, columns, generator=generator)


UP, DOWN = matrices()
UP_TEXT, DOWN_TEXT = matrices(1, 64, 64)
LAYOUTS = {
    "kohya": {
        f"lora_unet_{LAYER.replace('.', '_')}.lora_up.weight": UP,
        f"lora_unet_{LAYER.replace('.', '_')}.lora_down.weight": DOWN,
        f"lora_unet_{LAYER.replace('.', '_')}.alpha": torch.tensor(1.0),
        f"lora_te_text_model_{TEXT.replace('.', '_')}.lora_up.weight": UP_TEXT,
        f"lora_te_text_model_{TEXT.replace('.', '_')}.lora_down.weight": DOWN_TEXT,
        f"lora_te_text_model_{TEXT.replace('.', '_')}.alpha": torch.tensor(1.0),
    },
    "peft": {
        f"unet.{LAYER}.lora_B.weight": UP,
        f"unet.{LAYER}.lora_A.weight": DOWN,
        f"text_encoder.text_model.{TEXT}.lora_B.weight": UP_TEXT,
        f"text_encoder.text_model.{TEXT}.lora_A.weight": DOWN_TEXT,
    },
    "diffusers": {
        f"unet.{LAYER}.lora.up.weight": UP,
        f"unet.{LAYER}.lora.down.weight": DOWN,
        f"text_encoder.{TEXT}.lora.up.weight": UP_TEXT,
        f"text_encoder.{TEXT}.lora.down.weight": DOWN_TEXT,
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_merged_weights(tmp_path, layout):
    save_file(LAYOUTS[layout], tmp_path / "l.safetensors")
    lora = read_lora(tmp_path / "l.safetensors", 0.5)
    strength = 0.5 / RANK if layout == "kohya" else 0.5  # only kohya's has an alpha here
    checkpoint = checkpoints.find(str(DIGITS_MODEL))
    for engine, name, change in (
        ("unet", f"model.{LAYER}.weight", UP @ DOWN),
        ("text_encoder", f"model.{TEXT}.weight", UP_TEXT @ DOWN_TEXT),
    ):
        before = components.load_module(checkpoint, engine).state_dict()
        after = components.load_module(checkpoint, engine, lora).state_dict()
        torch.testing.assert_close(after.pop(name), before.pop(name) + strength * change, atol=1e-6, rtol=1e-5)
        assert all(torch.equal(after[other], before[other]) for other in before)


def test_first_diffusers_layout_and_convolutions(tmp_path):
    attention = LAYER.removesuffix(".to_q")
    up, down = matrices(3)
    conv_up, conv_down = torch.randn(32, RANK, 1, 1), torch.randn(RANK, 32, 3, 3)
    tensors = {
        f"unet.{attention}.processor.to_out_lora.up.weight": up,
        f"unet.{attention}.processor.to_out_lora.down.weight": down,
        "unet.down_blocks.0.resnets.0.conv1.lora_B.weight": conv_up,
        "unet.down_blocks.0.resnets.0.conv1.lora_A.weight": conv_down,
    }
    save_file(tensors, tmp_path / "l.safetensors")
    checkpoint = checkpoints.find(str(DIGITS_MODEL))
    before = components.load_module(checkpoint, "unet").state_dict()
    after = components.load_module(checkpoint, "unet", read_lora(tmp_path / "l.safetensors", 1.0)).state_dict()
    torch.testing.assert_close(after[f"model.{OUT}.weight"], before[f"model.{OUT}.weight"] + up @ down)
    conv = "model.down_blocks.0.resnets.0.conv1.weight"
    change = torch.einsum("or,rikl->oikl", conv_up[:, :, 0, 0], conv_down)
    torch.testing.assert_close(after[conv], before[conv] + change, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"unet.nowhere.lora_A.weight": DOWN, "unet.nowhere.lora_B.weight": UP}, "unet has no layer nowhere"),
        ({f"unet.{LAYER}.lora_A.weight": DOWN}, f"unet layer {LAYER} lacks its up matrix"),
        ({f"unet.{LAYER}.hada_w1_a": DOWN}, "is of no LoRA layout known here"),
        (
            {f"unet.{LAYER}.lora_A.weight": DOWN[:, :5].contiguous(), f"unet.{LAYER}.lora_B.weight": UP},
            "do not fit the model's (32, 32)",
        ),
        ({f"unet.{LAYER}.lora_A.weight": DOWN * torch.nan, f"unet.{LAYER}.lora_B.weight": UP}, "holds NaN or Inf"),
        ({}, "holds no tensors"),
    ],
)
def test_wrong_files_are_one_line(tmp_path, capsys, tensors, message):
    save_file(tensors, tmp_path / "l.safetensors")
    words = ("--lora", tmp_path / "l.safetensors", "--backend", "eager", "--output", tmp_path / "out")
    assert run_command(build, "--model", DIGITS_MODEL, *words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_only_what_a_lora_changes_is_built_again(tmp_path, capsys):
    save_file({name: value for name, value in LAYOUTS["peft"].items() if "unet" in name}, tmp_path / "l.safetensors")
    words = ("--model", DIGITS_MODEL, "--backend", "eager", "--batch", "1:1:2", "--device", "cpu")
    assert run_command(build, *words, "--output", tmp_path / "e") == 0
    capsys.readouterr()
    lora = ("--lora", tmp_path / "l.safetensors", "--lora-scale", "0.25")
    assert run_command(build, *words, *lora, "--output", tmp_path / "e") == 0
    assert capsys.readouterr().out.startswith("built unet in")
    info = read_info(tmp_path / "e")
    assert info["lora"]["scale"] == 0.25 and "--lora-scale 0.25" in info["rebuild"]
    assert diffusion.reopen(info, tmp_path / "e").folder == DIGITS_MODEL
    assert run_command(build, *words, "--lora-scale", "2", "--output", tmp_path / "e") == 2
    assert "--lora-scale 2.0 without --lora has no effect" in capsys.readouterr().err
