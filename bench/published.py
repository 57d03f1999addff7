"""Stable Diffusion 1.4's components at their published sizes with random weights, and smaller ones of the same shape.

Speed does not depend on the values of the weights, so that a benchmark needs no download. The configurations are those
of the `config.json` files of CompVis/stable-diffusion-v1-4.
"""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from synthclone.engines.spec import AxisRange, EngineSpec, Precision
from synthclone.export import components
from synthclone.export.checkpoint import COMPONENTS, Checkpoint, make_component

DIGITS = Path(__file__).parents[1] / "gen" / "models" / "digits"
Size = Literal["sd14", "small", "tiny"]
DOWN = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
UP = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What differs between the sizes."""

    unet_channels: tuple[int, ...]
    unet_layers: int
    unet_norm_groups: int
    latent_size: int
    """Latents are square; images are eight times as wide."""
    vae_channels: tuple[int, int, int, int]
    vae_layers: int
    text_width: int
    text_layers: int
    text_heads: int
    text_vocabulary: int


SHAPES: dict[Size, Shape] = {
    "sd14": Shape(
        unet_channels=(320, 640, 1280, 1280),
        unet_layers=2,
        unet_norm_groups=32,
        latent_size=64,
        vae_channels=(128, 256, 512, 512),
        vae_layers=2,
        text_width=768,
        text_layers=12,
        text_heads=12,
        text_vocabulary=49408,
    ),
    "small": Shape(
        unet_channels=(320, 640),
        unet_layers=1,
        unet_norm_groups=32,
        latent_size=32,
        vae_channels=(64, 128, 128, 128),
        vae_layers=1,
        text_width=768,
        text_layers=2,
        text_heads=12,
        text_vocabulary=1000,
    ),
    "tiny": Shape(
        unet_channels=(32, 64),
        unet_layers=1,
        unet_norm_groups=8,
        latent_size=8,
        vae_channels=(16, 16, 16, 16),
        vae_layers=1,
        text_width=32,
        text_layers=1,
        text_heads=4,
        text_vocabulary=100,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Published(Checkpoint):
    """A checkpoint that is only configurations."""

    shape: Shape

    def config(self, component: str) -> dict[str, Any]:
        return {"unet": _unet, "vae": _vae, "text_encoder": _text_encoder}[component](self.shape)


def published(size: Size) -> Published:
    """The configurations of one size."""
    return Published(name=size, folder=Path(), tokenizer=Path(), shape=SHAPES[size])


def _unet(shape: Shape) -> dict[str, Any]:
    levels = len(shape.unet_channels)
    return {
        "sample_size": shape.latent_size,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": shape.unet_channels,
        "layers_per_block": shape.unet_layers,
        "down_block_types": DOWN if levels == 4 else DOWN[-levels:],
        "up_block_types": UP if levels == 4 else UP[:levels],
        "cross_attention_dim": shape.text_width,
        "attention_head_dim": 8,
        "norm_num_groups": shape.unet_norm_groups,
    }


def _vae(shape: Shape) -> dict[str, Any]:
    return {
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": shape.vae_channels,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": shape.vae_layers,
        "latent_channels": 4,
        "norm_num_groups": min(32, shape.vae_channels[0] // 2),
        "sample_size": 8 * shape.latent_size,
        "scaling_factor": 0.18215,
    }


def _text_encoder(shape: Shape) -> dict[str, Any]:
    return {
        "hidden_size": shape.text_width,
        "intermediate_size": 4 * shape.text_width,
        "num_hidden_layers": shape.text_layers,
        "num_attention_heads": shape.text_heads,
        "max_position_embeddings": 77,
        "vocab_size": shape.text_vocabulary,
        "hidden_act": "quick_gelu",
    }


def make(size: Size, engine: str, *, seed: int = 0) -> nn.Module:
    """A component in fp32 on the CPU with random weights, the same in every process."""
    torch.manual_seed(seed)
    plan = components.module_config(published(size), engine)
    return components.make_module(plan).eval().requires_grad_(False)


def save_checkpoint(size: Size, folder: Path, *, seed: int = 0) -> None:
    """A diffusers folder with random weights in fp16 and the embedded generator's tokenizer, for whole pipelines."""
    from transformers import CLIPTokenizer

    shutil.copytree(DIGITS / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    shutil.copytree(
        DIGITS.parents[2] / "export" / "data" / "sd1" / "scheduler", folder / "scheduler", dirs_exist_ok=True
    )
    shutil.copyfile(DIGITS / "model_index.json", folder / "model_index.json")
    num_tokens = len(CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True))
    torch.manual_seed(seed)
    for name in COMPONENTS:
        config = published(size).config(name)
        if name == "text_encoder":
            config["vocab_size"] = max(config["vocab_size"], num_tokens)
        module: Any = make_component(name, config)
        module.half().save_pretrained(folder / name)


def spec_of(size: Size, engine: str, precision: Precision, batch: AxisRange) -> EngineSpec:
    """A component's signature; `batch` is its own batch (for the U-Net with guidance: twice the images)."""
    spec = components.engine_specs(published(size), precision, batch)[engine]
    return dataclasses.replace(spec, ranges={"batch": batch})
