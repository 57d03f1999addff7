"""A Stable Diffusion 1.x checkpoint: find it, name what is wrong with it, load its components.

A checkpoint is a diffusers folder, a hub id, or one `.safetensors` file (see `single_file.py`). Weights are read from
safetensors only, never from pickles.
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
from synthclone.export import single_file

COMPONENTS = ("text_encoder", "unet", "vae")
NEEDED = ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint on this machine."""

    name: str
    """As the user gave it: a path or a hub id."""
    folder: Path
    """Diffusers folder; of a single file, the folder with its configurations."""
    tokenizer: Path
    """Folder of the tokenizer."""
    file: Path | None = None
    """The weights, if they are in a single file."""

    @property
    def root(self) -> Path:
        """The folder that the names in `fingerprint` are relative to."""
        return self.file.parent if self.file else self.folder

    def config(self, component: str) -> dict[str, Any]:
        """A component's own configuration."""
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        config: dict[str, Any] = files.read_json(self.folder / component / name)
        return config

    def weight_files(self, component: str) -> list[Path]:
        """The component's safetensors; of several variants, the plain one."""
        if self.file:
            return [self.file]
        found = sorted((self.folder / component).glob("*.safetensors"))
        return [path for path in found if not re.search(r"\.(fp16|non_ema)\b", path.name)] or found


def find(model: str, *, tokenizer: str | None = None, configs: Path | None = None) -> Checkpoint:
    """The checkpoint under a path, or downloaded from the hub.

    Args:
        model: diffusers folder, `.safetensors` file in Stable Diffusion's original layout, or hub id.
        tokenizer: of a single file: folder or hub id of its tokenizer.
        configs: of a single file: folder of its configurations; None takes Stable Diffusion 1.x's.

    Raises:
        ValueError: no such folder or hub id, or a checkpoint that lacks a component; the message names it.
    """
    path = Path(model)
    single_file.refuse_pickle(path)
    if path.suffix == ".safetensors":
        return _find_single_file(path, tokenizer, configs)
    if tokenizer or configs:
        option = "--tokenizer" if tokenizer else "--configs"
        raise ValueError(f"{option} is for a model in one .safetensors file; {model} has its own, so leave it out")
    folder = path
    if not folder.is_dir():
        if not HUB_ID.fullmatch(model):
            raise ValueError(
                f"unknown model {model!r}: no such folder; give a diffusers folder, a .safetensors file or a hub id such as CompVis/stable-diffusion-v1-4"
            )
        folder = _download(model, [f"{name}/*.safetensors" for name in COMPONENTS])
    folder = folder.resolve()
    checkpoint = Checkpoint(name=model, folder=folder, tokenizer=folder / "tokenizer")
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


def _find_single_file(path: Path, tokenizer: str | None, configs: Path | None) -> Checkpoint:
    if not path.is_file():
        raise ValueError(f"unknown model {str(path)!r}: no such file")
    single_file.check_layout(path)
    folder = configs.resolve() if configs else single_file.published_configs()
    missing = [f"{name}/config.json" for name in COMPONENTS if not (folder / name / "config.json").is_file()]
    if missing:
        raise ValueError(f"--configs {folder} lacks {', '.join(missing)}; give a diffusers folder's")
    if tokenizer is None:
        raise ValueError(
            f"{path} holds no tokenizer, as no single file does; give --tokenizer with a folder that has "
            "tokenizer_config.json and vocab.json, or with a hub id such as openai/clip-vit-large-patch14"
        )
    where = Path(tokenizer)
    if not where.is_dir() and HUB_ID.fullmatch(tokenizer):
        where = _download(tokenizer, [])
    if (where / "tokenizer").is_dir():
        where = where / "tokenizer"
    if not any((where / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ValueError(
            f"--tokenizer {tokenizer} has no tokenizer.json or vocab.json; give the folder of a CLIP tokenizer"
        )
    return Checkpoint(name=str(path), folder=folder, tokenizer=where.resolve(), file=path.resolve())


def _download(hub_id: str, weights: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = ["*.json", "*.txt", *weights]
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
    paths = {} if checkpoint.file else {name: checkpoint.folder / name for name in NEEDED}
    for component in COMPONENTS:
        paths[f"{component}/config.json"] = checkpoint.folder / component / "config.json"
        paths |= {str(path.relative_to(checkpoint.root)): path for path in checkpoint.weight_files(component)}
    result = {}
    for name, path in paths.items():
        stat = path.stat()
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
    if checkpoint.file:
        return _from_single_file(checkpoint.file, component, checkpoint.config(component))
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


def _from_single_file(path: Path, component: str, config: Mapping[str, Any]) -> nn.Module:
    module = make_component(component, config)
    shapes = {name: value.shape for name, value in module.state_dict().items() if not name.endswith("position_ids")}
    module.load_state_dict(single_file.load_weights(path, component, config, shapes), strict=False)
    return module.eval().requires_grad_(False)


def make_component(component: str, config: Mapping[str, Any]) -> Any:
    """A component with random weights, from its configuration."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    if component == "text_encoder":
        return CLIPTextModel(CLIPTextConfig(**config))
    model: Any = UNet2DConditionModel if component == "unet" else AutoencoderKL
    return model.from_config(dict(config))
