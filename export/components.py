"""Stable Diffusion's three components as engines see them: tensors in, one tensor out, and their specs.

text_encoder   tokens (B, 77) int32                                              -> text (B, 77, D)
unet           latent (B, 4, H, W), timestep (B,) fp32, text (B, 77, D)          -> noise (B, 4, H, W)
vae_decoder    latent (B, 4, H, W), as the sampler leaves it                     -> image (B, 3, 8H, 8W) in -1..1
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from synthclone.engines.spec import AxisRange, EngineSpec, Precision, TensorSpec
from synthclone.export.checkpoint import Checkpoint, load_component

ENGINES = ("text_encoder", "unet", "vae_decoder")
CHECKPOINT_COMPONENT = {"text_encoder": "text_encoder", "unet": "unet", "vae_decoder": "vae"}


class TextEncoder(nn.Module):
    """CLIP's last hidden state, which is what Stable Diffusion conditions on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        return self.model(tokens_BL.long()).last_hidden_state


class UNet(nn.Module):
    """The U-Net's prediction; the time stays fp32 whatever the precision, for its embedding is computed in fp32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent_BCHW: torch.Tensor, timestep_B: torch.Tensor, text_BLD: torch.Tensor) -> torch.Tensor:
        return self.model(latent_BCHW, timestep_B, text_BLD, return_dict=False)[0]


class VaeDecoder(nn.Module):
    """The decoding half of the autoencoder, undoing the latents' scaling."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.decoder: nn.Module = vae.decoder
        self.post_quant_conv: nn.Module = vae.post_quant_conv
        self.scaling_factor: float = vae.config.scaling_factor

    def forward(self, latent_BCHW: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(latent_BCHW / self.scaling_factor))


WRAPPERS: dict[str, type[nn.Module]] = {"text_encoder": TextEncoder, "unet": UNet, "vae_decoder": VaeDecoder}


def load_module(checkpoint: Checkpoint, engine: str) -> nn.Module:
    """A component of a checkpoint, fp32 on the CPU, called as its spec says."""
    return WRAPPERS[engine](load_component(checkpoint, CHECKPOINT_COMPONENT[engine]))


def module_config(checkpoint: Checkpoint, engine: str) -> dict[str, Any]:
    """Plain data from which `make_module` makes the same module."""
    return {"engine": engine, "config": checkpoint.config(CHECKPOINT_COMPONENT[engine])}


def make_module(plan: Mapping[str, Any]) -> nn.Module:
    """A module without its weights, from `module_config`'s data."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    engine, config = plan["engine"], dict(plan["config"])
    if engine == "text_encoder":
        return TextEncoder(CLIPTextModel(CLIPTextConfig(**config)))
    model: Any = UNet2DConditionModel if engine == "unet" else AutoencoderKL
    return WRAPPERS[engine](model.from_config(config))


def engine_specs(checkpoint: Checkpoint, precision: Precision, batch: AxisRange) -> dict[str, EngineSpec]:
    """The three specs for a range of images per batch. Guidance calls the U-Net on twice as many rows."""
    text, unet, vae = (checkpoint.config(name) for name in ("text_encoder", "unet", "vae"))
    length, width = text["max_position_embeddings"], text["hidden_size"]
    channels, size = unet["in_channels"], unet["sample_size"]
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    doubled = AxisRange(minimum=batch.minimum, optimum=2 * batch.optimum, maximum=2 * batch.maximum)

    def tensor(name: str, *axes: int, dtype: str = precision, below: int | None = None) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, axes=("batch", *axes), below=below)

    latent, embedded = tensor("latent", channels, size, size), tensor("text", length, width)
    return {
        "text_encoder": EngineSpec(
            name="text_encoder",
            inputs=(tensor("tokens", length, dtype="int32", below=text["vocab_size"]),),
            outputs=(embedded,),
            ranges={"batch": batch},
        ),
        "unet": EngineSpec(
            name="unet",
            inputs=(latent, tensor("timestep", dtype="fp32", below=1000), embedded),
            outputs=(tensor("noise", channels, size, size),),
            ranges={"batch": doubled},
        ),
        "vae_decoder": EngineSpec(
            name="vae_decoder",
            inputs=(latent,),
            outputs=(tensor("image", 3, factor * size, factor * size),),
            ranges={"batch": batch},
        ),
    }
