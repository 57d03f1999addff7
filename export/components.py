"""Stable Diffusion's three components as engines see them: tensors in, one tensor out, and their specs.

text_encoder   tokens (B, 77) int32                                              -> text (B, 77, D)
unet           latent (B, 4, H/8, W/8), timestep (B,) fp32, text (B, 77, D)      -> noise (B, 4, H/8, W/8)
vae_decoder    latent (B, 4, H/8, W/8), as the sampler leaves it                 -> image (B, 3, H, W) in -1..1

H and W are pixels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from synthclone.engines.spec import AxisRange, EngineSpec, Precision, TensorSpec
from synthclone.export.checkpoint import Checkpoint, load_component, make_component
from synthclone.export.lora import Lora
from synthclone.export.sizes import ImageSizes

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


def load_module(checkpoint: Checkpoint, engine: str, lora: Lora | None = None) -> nn.Module:
    """A component of a checkpoint, fp32 on the CPU, called as its spec says; with a LoRA merged, if it has any part here."""
    component = CHECKPOINT_COMPONENT[engine]
    module = load_component(checkpoint, component)
    if lora is not None:
        lora.merge_into(module, component)
    return WRAPPERS[engine](module)


def module_config(checkpoint: Checkpoint, engine: str) -> dict[str, Any]:
    """Plain data from which `make_module` makes the same module."""
    return {"engine": engine, "config": checkpoint.config(CHECKPOINT_COMPONENT[engine])}


def make_module(plan: Mapping[str, Any]) -> nn.Module:
    """A module without its weights, from `module_config`'s data."""
    return WRAPPERS[plan["engine"]](make_component(CHECKPOINT_COMPONENT[plan["engine"]], plan["config"]))


def engine_specs(
    checkpoint: Checkpoint, precision: Precision, batch: AxisRange, sizes: ImageSizes | None = None
) -> dict[str, EngineSpec]:
    """The three specs for a range of images per batch. Guidance calls the U-Net on twice as many rows."""
    text, unet, vae = (checkpoint.config(name) for name in ("text_encoder", "unet", "vae"))
    length, width = text["max_position_embeddings"], text["hidden_size"]
    channels = unet["in_channels"]
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    doubled = AxisRange(minimum=batch.minimum, optimum=2 * batch.optimum, maximum=2 * batch.maximum)
    sizes = sizes or ImageSizes()
    sides = {"height": sizes.height, "width": sizes.width}
    dynamic = {name: side for name, side in sides.items() if side is not None and side.minimum < side.maximum}
    latent_HW: list[int | str] = []
    image_HW: list[int | str] = []
    for name, side in sides.items():
        pixels = factor * unet["sample_size"] if side is None else side.optimum
        latent_HW.append(f"{name}/{factor}" if name in dynamic else pixels // factor)
        image_HW.append(name if name in dynamic else pixels)

    def tensor(name: str, *axes: int | str, dtype: str = precision, below: int | None = None) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, axes=("batch", *axes), below=below)

    latent, embedded = tensor("latent", channels, *latent_HW), tensor("text", length, width)
    kept = dataclasses.replace(embedded, kept=True)  # the same in all steps
    return {
        "text_encoder": EngineSpec(
            name="text_encoder",
            inputs=(tensor("tokens", length, dtype="int32", below=text["vocab_size"]),),
            outputs=(embedded,),
            ranges={"batch": batch},
        ),
        "unet": EngineSpec(
            name="unet",
            inputs=(latent, tensor("timestep", dtype="fp32", below=1000), kept),
            outputs=(tensor("noise", channels, *latent_HW),),
            ranges={"batch": doubled} | dynamic,
        ),
        "vae_decoder": EngineSpec(
            name="vae_decoder",
            inputs=(latent,),
            outputs=(tensor("image", 3, *image_HW),),
            ranges={"batch": batch} | dynamic,
        ),
    }
