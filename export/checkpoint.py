"""A Stable Diffusion 1.x checkpoint: find it, name what is wrong with it, load its components.

A checkpoint is a diffusers folder or a hub id. Weights are read from safetensors only, never from pickles.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synthclone.engines import files

COMPONENTS = ("text_encoder", "unet", "vae")
NEEDED = ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete diffusers folder on this machine."""

    name: str
    """As the user gave it: a path or a hub id."""
    folder: Path

    def config(self, component: str) -> dict[str, Any]:
        """A component's own configuration."""
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        config: dict[str, Any] = files.read_json(self.folder / component / name)
        return config

    def weight_files(self, component: str) -> list[Path]:
        """The component's safetensors; of several variants, the plain one."""
        found = sorted((self.folder / component).glob("*.safetensors"))
        return [path for path in found if not re.search(r"\.(fp16|non_ema)\b", path.name)] or found


def find(model: str) -> Checkpoint:
    """The checkpoint under a path, or downloaded from the hub.

    Raises:
        ValueError: no such folder or hub id, or a folder that lacks a component; the message names it.
    """
    folder = Path(model)
    if not folder.is_dir():
        if not HUB_ID.fullmatch(model):
            raise ValueError(
                f"unknown model {model!r}: no such folder; give a diffusers folder or a hub id such as CompVis/stable-diffusion-v1-4"
            )
        folder = _download(model)
    checkpoint = Checkpoint(name=model, folder=folder.resolve())
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    missing += [f"{name}/config.json" for name in COMPONENTS if not (folder / name / "config.json").is_file()]
    missing += [f"{name}/*.safetensors" for name in COMPONENTS if not checkpoint.weight_files(name)]
    if missing:
        raise ValueError(
            f"model {model} lacks {', '.join(missing)}; a diffusers folder with safetensors weights is needed"
        )
    kind = checkpoint.config("unet").get("_class_name")
    if kind != "UNet2DConditionModel":
        raise ValueError(
            f"model {model}: unet is a {kind}, but only Stable Diffusion 1.x (UNet2DConditionModel) is supported"
        )
    return checkpoint


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = ["*.json", "*.txt", *(f"{name}/*.safetensors" for name in COMPONENTS)]
    skipped = ["*.fp16.*", "*.non_ema.*", "safety_checker/*", "feature_extractor/*"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=skipped))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"unknown model {hub_id!r}: no such folder, and the hub did not give it ({reason})") from error


def fingerprint(checkpoint: Checkpoint, known: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Size, time and sha256 of every file that decides what the engines compute.

    Files whose size and time are those in `known` (an earlier fingerprint) are not read again.
    """
    paths = [checkpoint.folder / name for name in NEEDED]
    for component in COMPONENTS:
        paths += [checkpoint.folder / component / "config.json", *checkpoint.weight_files(component)]
    result = {}
    for path in paths:
        name, stat = str(path.relative_to(checkpoint.folder)), path.stat()
        entry = {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        old = known.get(name, {})
        same = entry == {key: old.get(key) for key in entry}
        result[name] = entry | {"sha256": old["sha256"] if same else files.sha256(path)}
    return result


def load_component(checkpoint: Checkpoint, component: str) -> nn.Module:
    """A component in fp32 on the CPU, in eval mode.

    Raises:
        ValueError: tensors are missing, have wrong shapes, or hold NaN or Inf; the message names one.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    loaders: dict[str, Any] = {"text_encoder": CLIPTextModel, "unet": UNet2DConditionModel, "vae": AutoencoderKL}
    folder = checkpoint.folder / component
    # diffusers' meta-device loading wants the package accelerate; transformers has its own and takes no such option.
    options = {} if component == "text_encoder" else {"low_cpu_mem_usage": False}
    try:
        module, report = loaders[component].from_pretrained(
            folder,
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    # `position_ids` is a buffer that older CLIP checkpoints carry and newer code computes.
    lacking = [name for name in report["missing_keys"] if not name.endswith("position_ids")]
    if lacking or report["mismatched_keys"]:
        what = (
            f"lacks tensor {lacking[0]}" if lacking else f"has a wrong shape in {next(iter(report['mismatched_keys']))}"
        )
        raise ValueError(f"{folder} {what}; its weights and its config.json do not belong together")
    for name, value in module.named_parameters():
        if not torch.isfinite(value).all():
            raise ValueError(f"{folder}: tensor {name} holds NaN or Inf; the checkpoint is damaged")
    return module.eval().requires_grad_(False)
