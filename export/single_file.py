"""A checkpoint in one `.safetensors` file, in the layout that Stable Diffusion was published in.

    model.diffusion_model.*            the U-Net
    first_stage_model.*                the autoencoder
    cond_stage_model.transformer.*     the text encoder

Such a file has weights only. The configurations are those of Stable Diffusion 1.x (`data/sd1/`), or of a folder that the
user names; diffusers' converters translate the names. What is missing or wrong is named as the file names it, where the
file has it. Pickles (`.ckpt`) are refused: to read one is to run it.
"""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
OTHER_MODELS = {
    "conditioner.embedders.": "Stable Diffusion XL",
    "cond_stage_model.model.": "Stable Diffusion 2.x",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "Flux",
}
PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def published_configs() -> Path:
    """The folder with Stable Diffusion 1.x's component configurations."""
    return Path(str(resources.files("synthclone.export").joinpath("data/sd1")))


def refuse_pickle(path: Path) -> None:
    """Say no to a pickle.

    Raises:
        ValueError: always for a pickle's suffix.
    """
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which can carry code and is never loaded; convert it to .safetensors where you trust it"
        )


def metadata(path: Path) -> dict[str, str]:
    """The metadata in the head of a safetensors file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as tensors:
            return tensors.metadata() or {}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); fetch it again") from error


def check_layout(path: Path) -> None:
    """Look at the names in the file.

    Raises:
        ValueError: a component is missing, or it is another kind of model.
    """
    metadata(path)
    with safe_open(path, framework="pt") as tensors:
        names = list(tensors.keys())
    for prefix, kind in OTHER_MODELS.items():
        if any(name.startswith(prefix) for name in names):
            raise ValueError(f"{path} is {kind}, but only Stable Diffusion 1.x is supported")
    missing = [prefix for prefix in PREFIXES.values() if not any(name.startswith(prefix) for name in names)]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(f'{prefix}*' for prefix in missing)}; a whole checkpoint in Stable Diffusion's "
            "original layout is needed, with U-Net, autoencoder and text encoder"
        )


def load_weights(path: Path, component: str, config: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> Any:
    """A component's weights under diffusers' names, in fp32.

    Args:
        path: the file.
        component: "unet", "vae" or "text_encoder".
        config: its configuration.
        shapes: what the module needs, by diffusers' name.

    Raises:
        ValueError: a tensor is missing, has a wrong shape, or holds NaN or Inf; the message names it.
    """
    prefix = PREFIXES[component]
    with safe_open(path, framework="pt") as tensors:
        original = {name: tensors.get_tensor(name) for name in tensors.keys() if name.startswith(prefix)}  # noqa: SIM118
    names = {value.data_ptr(): name for name, value in original.items()}  # converters pass tensors on, or views of them
    weights = _convert(original, component, config)
    for name, shape in shapes.items():
        if name not in weights:
            raise ValueError(
                f"{path}: {component} lacks the tensor that diffusers calls {name}; the file is incomplete, or of "
                "another model than its configuration"
            )
        value = weights[name]
        called = f"tensor {names.get(value.data_ptr(), name)}"
        if value.shape != shape:
            raise ValueError(
                f"{path}: {called} has shape {tuple(value.shape)}, but the configuration asks for {tuple(shape)}; "
                "give the --configs of this model"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {called} holds NaN or Inf; the checkpoint is damaged")
    return {name: weights[name].float() for name in shapes}


def _convert(original: dict[str, torch.Tensor], component: str, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    from diffusers.loaders import single_file_utils as diffusers_names

    if component == "unet":
        return diffusers_names.convert_ldm_unet_checkpoint(original, config)
    if component == "vae":
        return diffusers_names.convert_ldm_vae_checkpoint(original, config)
    # transformers 5 has dropped the "text_model." that its checkpoints had until then.
    weights = diffusers_names.convert_ldm_clip_checkpoint(original)
    return weights | {name.removeprefix("text_model."): value for name, value in weights.items()}
