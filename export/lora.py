"""A LoRA, merged into the weights that it was made for: W + scale * (alpha / rank) * up @ down.

Reads the three layouts in use, all safetensors:
    kohya       lora_unet_down_blocks_0_attentions_0_..._to_q.lora_down.weight, .lora_up.weight, .alpha
    peft        unet.down_blocks.0.attentions.0....to_q.lora_A.weight, .lora_B.weight
    diffusers   unet.down_blocks.0.attentions.0....to_q.lora.down.weight, .lora.up.weight; attn1.processor.to_q_lora....

Own code because diffusers' loader wants the package peft, of which merging is all that would be used (Hu et al. 2021,
section 4.1, equation 3). A key that fits no layer is an error: a LoRA merged in part gives images that look right.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from synthclone.engines import files
from synthclone.export import single_file

PARTS = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "alpha": "alpha",
}
ROOTS = {"lora_unet_": "unet", "lora_te_": "text_encoder", "unet.": "unet", "text_encoder.": "text_encoder"}


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank changes by component and layer."""

    path: Path
    scale: float
    """Strength; 1 is as it was trained, 0 leaves the model as it is."""
    sha256: str
    layers: Mapping[str, Mapping[str, Mapping[str, torch.Tensor]]]
    """Component, then the layer's name in the file, then "down", "up" and "alpha"."""

    @property
    def identity(self) -> dict[str, object]:
        """What decides the merged weights."""
        return {"sha256": self.sha256, "scale": self.scale}

    def merge_into(self, model: nn.Module, component: str) -> int:
        """Change a model's weights in place; returns how many layers were changed.

        Raises:
            ValueError: a layer that the model does not have, or shapes that do not fit it.
        """
        modules = {_plain(name): module for name, module in model.named_modules() if hasattr(module, "weight")}
        for name, parts in self.layers.get(component, {}).items():
            module = modules.get(_plain(name))
            if module is None:
                raise ValueError(
                    f"{self.path}: {component} has no layer {name}; the LoRA is for another model, or its names are "
                    "none of kohya's, peft's or diffusers'"
                )
            self._merge_layer(module, f"{component} layer {name}", parts)
        return len(self.layers.get(component, {}))

    @torch.no_grad()
    def _merge_layer(self, module: nn.Module, what: str, parts: Mapping[str, torch.Tensor]) -> None:
        weight, down, up = module.weight, parts["down"].float(), parts["up"].float()
        assert isinstance(weight, nn.Parameter)
        rank = down.shape[0]
        fits = up.shape[1] == rank and up.flatten(1).shape[1] == rank and up.shape[0] == weight.shape[0]
        if not fits or down.flatten(1).shape[1] != weight[0].numel():
            raise ValueError(
                f"{self.path}: {what} has shapes {tuple(parts['down'].shape)} and {tuple(parts['up'].shape)}, which do "
                f"not fit the model's {tuple(weight.shape)}; the LoRA is for another model"
            )
        strength = self.scale * float(parts.get("alpha", torch.tensor(rank))) / rank
        weight.add_(strength * (up.flatten(1) @ down.flatten(1)).view_as(weight))


def read_lora(path: Path, scale: float) -> Lora:
    """Read a LoRA.

    Raises:
        ValueError: no safetensors file, a key of no known layout, half a pair, or NaN or Inf.
    """
    single_file.refuse_pickle(path)
    if not path.is_file():
        raise ValueError(f"LoRA {path} does not exist; give a .safetensors file")
    single_file.metadata(path)  # a damaged file is named here
    layers: dict[str, dict[str, dict[str, torch.Tensor]]] = {}
    with safe_open(path, framework="pt") as tensors:
        for key in sorted(tensors.keys()):
            component, layer, part = _split(path, key)
            value = tensors.get_tensor(key)
            if not torch.isfinite(value).all():
                raise ValueError(f"{path}: tensor {key} holds NaN or Inf; the LoRA is damaged")
            layers.setdefault(component, {}).setdefault(layer, {})[part] = value
    if not layers:
        raise ValueError(f"{path} holds no tensors; give a LoRA's .safetensors file")
    for component, found in layers.items():
        for layer, parts in found.items():
            for part in {"down", "up"} - set(parts):
                raise ValueError(f"{path}: {component} layer {layer} lacks its {part} matrix; the file is incomplete")
    return Lora(path=path, scale=scale, sha256=files.sha256(path), layers=layers)


def _split(path: Path, key: str) -> tuple[str, str, str]:
    """Component, layer and part of a key."""
    old = re.sub(r"\.processor\.(\w+)_lora\.", r".\1.lora.", key)  # diffusers' first layout, without to_out's ".0"
    old = re.sub(r"\.to_out\.lora\.", ".to_out.0.lora.", old)
    for root, component in ROOTS.items():
        for end, part in PARTS.items():
            if old.startswith(root) and old.endswith(f".{end}"):
                return component, old.removeprefix(root).removesuffix(f".{end}"), part
    raise ValueError(
        f"{path}: key {key} is of no LoRA layout known here (kohya's, peft's, diffusers'); LoHa, LoKr and DoRA are not supported"
    )


def _plain(name: str) -> str:
    """A layer's name as kohya writes it; `text_model` is gone from the names of transformers 5."""
    return name.replace(".", "_").removeprefix("text_model_")
