"""Writes a diffusers folder as one file in Stable Diffusion's original layout: the inverse of what diffusers converts.

Own code, from the layout's definition (CompVis/stable-diffusion, `openaimodel.py` and `model.py`), so that it does not
share diffusers' mistakes.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
RESNET |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
UNET = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
UNET |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
UNET |= {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
UNET |= {"mid_block.resnets.1": "middle_block.2"}
VAE = {"conv_norm_out": "norm_out", "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2"}
VAE |= {"mid_block.attentions.0": "mid.attn_1", "conv_shortcut": "nin_shortcut", "group_norm": "norm"}
VAE |= {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def replace(name: str, table: dict[str, str]) -> str:
    """Every entry of a table that stands between dots."""
    for old, new in table.items():
        name = f".{name}.".replace(f".{old}.", f".{new}.").strip(".")
    return name


def unet_name(name: str, per_block: int) -> str:
    """A U-Net tensor's original name."""
    words = name.split(".")
    if words[0] == "down_blocks":
        block, kind, index = int(words[1]), words[2], int(words[3])
        place = 1 + block * (per_block + 1) + (per_block if kind == "downsamplers" else index)
        rest = ["op", *words[5:]] if kind == "downsamplers" else words[4:]
        words = ["input_blocks", str(place), "1" if kind == "attentions" else "0", *rest]
    elif words[0] == "up_blocks":
        block, kind, index = int(words[1]), words[2], int(words[3])
        place = block * (per_block + 1) + (per_block if kind == "upsamplers" else index)
        slot = {"resnets": "0", "attentions": "1", "upsamplers": "1" if block == 0 else "2"}[kind]
        words = ["output_blocks", str(place), slot, *words[4:]]
    attention = "transformer_blocks" in words
    return replace(".".join(words), UNET if attention else UNET | RESNET)


def vae_name(name: str, blocks: int) -> str:
    """An autoencoder tensor's original name; the decoder counts its blocks from the last."""
    words = name.split(".")
    if len(words) > 2 and words[1] in ("down_blocks", "up_blocks"):
        down = words[1] == "down_blocks"
        number = words[2] if down else str(blocks - 1 - int(words[2]))
        sampling = words[3] in ("downsamplers", "upsamplers")
        middle = [words[3][:-3] + "e"] if sampling else ["block", words[4]]
        words = [
            words[0],
            "down" if down else "up",
            number,
            *middle,
            *words[5:],
        ]  # downsamplers.0.conv: downsample.conv
    return replace(".".join(words), VAE)


def write_original(model: Path, path: Path) -> dict[str, torch.Tensor]:
    """Write the file; returns its tensors."""
    unet = json.loads((model / "unet" / "config.json").read_text())
    blocks = len(unet["block_out_channels"])
    tensors = {}
    for name, value in load_file(model / "unet" / "diffusion_pytorch_model.safetensors").items():
        tensors["model.diffusion_model." + unet_name(name, unet["layers_per_block"])] = value
    for name, value in load_file(model / "vae" / "diffusion_pytorch_model.safetensors").items():
        new = vae_name(name, blocks)
        is_matrix = ".attn_1." in new and value.ndim == 2
        tensors["first_stage_model." + new] = value[:, :, None, None].contiguous() if is_matrix else value
    for name, value in load_file(model / "text_encoder" / "model.safetensors").items():
        tensors[f"cond_stage_model.transformer.text_model.{name}"] = value
    save_file(tensors, path)
    return tensors
